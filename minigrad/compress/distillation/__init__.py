"""Students that learn from teachers: what is compared, and who teaches."""

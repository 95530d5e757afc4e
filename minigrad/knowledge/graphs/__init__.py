"""Knowledge graphs: triples, models that score them, losses, negative samples, and the ranking of answers."""

"""Units, heads, channels and layers taken out of a model, which becomes smaller."""

"""Layers whose weights are int8, for inference."""

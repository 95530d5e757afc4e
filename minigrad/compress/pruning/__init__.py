"""Weights set to 0 by masks: scores, schedules, rewinding, files and layers that profit."""

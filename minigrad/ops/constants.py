"""Constants of the array API standard."""

from math import e, inf, nan, pi

__all__ = ["e", "inf", "nan", "newaxis", "pi"]

newaxis = None  # as an index it adds an axis

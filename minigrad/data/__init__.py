"""Real data as NumPy arrays: the 8x8 digits that come with the package, and MNIST with download and cache."""

from minigrad.data.digits import Digits, load_digits
from minigrad.data.download import DataError
from minigrad.data.mnist import load_mnist

__all__ = ["DataError", "Digits", "load_digits", "load_mnist"]

"""Real data: the 8x8 digits that come with the package; MNIST and a pronouncing dictionary, with download and cache."""

from minigrad.data.cmudict import load_cmudict
from minigrad.data.digits import Digits, load_digits
from minigrad.data.download import DataError
from minigrad.data.mnist import load_mnist

__all__ = ["DataError", "Digits", "load_cmudict", "load_digits", "load_mnist"]

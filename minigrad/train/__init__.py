"""The training loop and what belongs to it."""

from minigrad.train.callbacks import Callback
from minigrad.train.metrics import Metric

__all__ = ["Callback", "Metric"]

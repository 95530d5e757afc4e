"""The training loop and what belongs to it: ``from minigrad import train``."""

from minigrad.train.accumulate import accumulate
from minigrad.train.adversaries import FGSM, PGD, VAT, Free, FreeLB
from minigrad.train.callbacks import Callback
from minigrad.train.metrics import Metric
from minigrad.train.trainer import Trainer

__all__ = ["FGSM", "PGD", "VAT", "Callback", "Free", "FreeLB", "Metric", "Trainer", "accumulate"]

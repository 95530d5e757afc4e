"""The training loop and what belongs to it: ``from minigrad import train``."""

from minigrad.train import metrics
from minigrad.train.accumulate import accumulate
from minigrad.train.adversaries import FGSM, PGD, VAT, Free, FreeLB
from minigrad.train.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LambdaCallback,
    LRSchedule,
    TerminateOnNaN,
    latest,
)
from minigrad.train.metrics import Metric
from minigrad.train.trainer import Trainer

__all__ = [
    "FGSM", "PGD", "VAT", "Callback", "Checkpoint", "EarlyStopping", "Free", "FreeLB", "LRSchedule", "LambdaCallback",
    "Metric", "TerminateOnNaN", "Trainer", "accumulate", "latest", "metrics",
]  # fmt: skip

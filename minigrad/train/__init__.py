"""The training loop and what belongs to it: ``from minigrad import train``."""

from minigrad.train import callbacks, metrics
from minigrad.train.accumulate import accumulate
from minigrad.train.adversaries import FGSM, PGD, VAT, Free, FreeLB
from minigrad.train.callbacks import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LRSchedule,
    Plot,
    ProgressBar,
    TensorBoard,
    TerminateOnNaN,
    latest,
)
from minigrad.train.graphed_step import GraphedStep
from minigrad.train.metrics import Metric
from minigrad.train.trainer import Trainer

__all__ = [
    "FGSM", "PGD", "VAT", "CSVLogger", "Callback", "Checkpoint", "EarlyStopping", "Free", "FreeLB", "GraphedStep",
    "LRSchedule", "LambdaCallback", "Metric", "Plot", "ProgressBar", "TensorBoard", "TerminateOnNaN", "Trainer",
    "accumulate", "callbacks", "latest", "metrics",
]  # fmt: skip

"""Schedules of the learning rate: ``from minigrad.optim import schedules``."""

from minigrad.optim.schedules.combined import ChainedScheduler, SequentialLR
from minigrad.optim.schedules.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts, WarmupCosineLR
from minigrad.optim.schedules.decay import (
    ConstantLR,
    ExponentialLR,
    InverseSqrtLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from minigrad.optim.schedules.names import NAMES, get
from minigrad.optim.schedules.one_cycle import OneCycleLR
from minigrad.optim.schedules.plateau import ReduceLROnPlateau
from minigrad.optim.schedules.schedule import LRScheduler

__all__ = [
    "NAMES", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR",
    "InverseSqrtLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR", "WarmupCosineLR", "get",
]  # fmt: skip

"""Optimizers, schedules of the learning rate, averages of weights: ``from minigrad import optim``."""

from minigrad.optim import schedules
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.averages import EMA, SWA, update_bn
from minigrad.optim.clip import clip_grad_norm_, clip_grad_value_, grad_norm
from minigrad.optim.gradients import unscale_
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.sam import SAM
from minigrad.optim.sgd import SGD

__all__ = [
    "EMA",
    "SAM",
    "SGD",
    "SWA",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_grad_norm_",
    "clip_grad_value_",
    "grad_norm",
    "schedules",
    "unscale_",
    "update_bn",
]

"""Optimizers and schedules of the learning rate: ``from minigrad import optim``."""

from minigrad.optim import schedules
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.gradients import unscale_
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "schedules", "unscale_"]

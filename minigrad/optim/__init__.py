"""Optimizers and schedules of the learning rate: ``from minigrad import optim``."""

from minigrad.optim import schedules
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.clip import clip_grad_norm_, clip_grad_value_, grad_norm
from minigrad.optim.gradients import unscale_
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "clip_grad_value_", "grad_norm", "schedules", "unscale_"]

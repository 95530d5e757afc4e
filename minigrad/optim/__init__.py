"""Optimizers, schedules of the learning rate, averages of weights, clipping: ``from minigrad import optim``."""

from minigrad.optim import schedules
from minigrad.optim.adafactor import Adafactor
from minigrad.optim.adagrad import Adadelta, Adagrad
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.averages import EMA, SWA, update_bn
from minigrad.optim.clip import clip_grad_norm_, clip_grad_value_, grad_norm
from minigrad.optim.gradients import unscale_
from minigrad.optim.layerwise import LAMB, LARS
from minigrad.optim.lbfgs import LBFGS
from minigrad.optim.lion import Lion
from minigrad.optim.lookup import get
from minigrad.optim.muon import Muon
from minigrad.optim.nadam import NAdam, RAdam
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.rmsprop import RMSprop
from minigrad.optim.sam import SAM
from minigrad.optim.sgd import SGD

__all__ = [
    "EMA", "LAMB", "LARS", "LBFGS", "SAM", "SGD", "SWA", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW",
    "Lion", "Muon", "NAdam", "Optimizer", "RAdam", "RMSprop", "clip_grad_norm_", "clip_grad_value_", "get",
    "grad_norm", "schedules", "unscale_", "update_bn",
]  # fmt: skip

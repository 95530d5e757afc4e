"""Terms that several rules have in common."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from minigrad.errors import describe, message
from minigrad.optim.optimizer import Array, Group, Optimizer

__all__ = ["check_betas", "descent", "is_in", "norm"]


def descent(x: Array, g: Array, penalty: float, maximize: bool) -> Array:
    """The gradient of what is minimized, ``g + penalty * x`` or ``-g + penalty * x``; `g` itself where that is it."""
    if penalty:
        out = np.multiply(x, penalty, out=np.empty_like(x))
        return (np.subtract if maximize else np.add)(out, g, out=out)
    return np.negative(g) if maximize else g


def norm(x: Array, scratch: Array | None = None) -> float:
    """The Euclidean norm of all elements, whose squares go to `scratch`; the same bits for every number of threads."""
    return math.sqrt(float(np.sum(np.multiply(x, x, out=scratch))))


def is_in(value: Any, low: float, below: float) -> bool:
    """Whether something is a number in [low, below)."""
    return not isinstance(value, bool) and isinstance(value, Real) and low <= float(value) < below


def check_betas(optimizer: Optimizer, group: Group) -> None:
    """Raise ValueError where the ``"betas"`` of a group are not two numbers in [0, 1)."""
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(is_in(b, 0.0, 1.0) for b in betas):
        raise ValueError(message(type(optimizer).__name__, "betas", describe(betas), "two numbers in [0, 1)"))

"""Schedules along a cosine: once, again and again, and after a warm-up."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import message
from minigrad.optim.schedules.checks import integer, real, steps
from minigrad.optim.schedules.schedule import LRScheduler

__all__ = ["CosineAnnealingLR", "CosineAnnealingWarmRestarts", "WarmupCosineLR"]


def half_wave(high: float, low: float, done: float) -> float:
    """From `high` to `low` along half a cosine, `done` from 0 to 1."""
    return low + (high - low) * (1.0 + math.cos(math.pi * done)) / 2.0


class CosineAnnealingLR(LRScheduler):
    """Down along half a cosine: ``lr(t) = eta_min + (base - eta_min) * (1 + cos(pi * t / T_max)) / 2``.

    Beyond `T_max` the cosine rises again. I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm
    restarts", 2017; this is one run without restarts.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    T_max : int
        Steps down.
    eta_min : float
        The rate there.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.CosineAnnealingLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), T_max=2)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Any, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = steps("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = real("CosineAnnealingLR", "eta_min", eta_min, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        # beyond a whole period the argument is reduced, which keeps the cosine exact
        return half_wave(base, self.eta_min, step % (2 * self.T_max) / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Down along half a cosine, again and again: ``lr(t) = eta_min + (base - eta_min) * (1 + cos(pi * u / T)) / 2``.

    u are the steps since the last restart; the first run has ``T = T_0`` steps, each further one `T_mult` times as
    many. I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    T_0 : int
        Steps until the first restart.
    T_mult : int
        By how much the runs grow.
    eta_min : float
        The rate before a restart.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> schedule = optim.schedules.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(4):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> [round(rate, 3) for rate in rates]
    [1.0, 0.5, 1.0, 0.854, 0.5]
    """

    def __init__(self, optimizer: Any, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_0 = steps("CosineAnnealingWarmRestarts", "T_0", T_0)
        self.T_mult = integer("CosineAnnealingWarmRestarts", "T_mult", T_mult, 1)
        self.eta_min = real("CosineAnnealingWarmRestarts", "eta_min", eta_min, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        length = self.T_0
        if self.T_mult == 1:
            step %= length
        while step >= length:  # as many rounds as there were restarts: a logarithm of the steps
            step -= length
            length *= self.T_mult
        return half_wave(base, self.eta_min, step / length)


class WarmupCosineLR(LRScheduler):
    """A line up to the rate, then half a cosine down to `eta_min`, where it stays.

    ::

        lr(t) = base * (t + 1) / (w + 1)                                                            t < w
        lr(t) = eta_min + (base - eta_min) * (1 + cos(pi * min((t - w) / (total_steps - w), 1))) / 2   else

    w is `warmup_steps`. The line is that of P. Goyal et al., "Accurate, large minibatch SGD", 2017, and the cosine that
    of I. Loshchilov and F. Hutter, "SGDR", 2017; together they train most language models.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    warmup_steps : int
        Steps up; 0 for none.
    total_steps : int
        All steps, those up included.
    eta_min : float
        The last rate.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.WarmupCosineLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), 1, 3)
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(3):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates
    [0.5, 1.0, 0.5, 0.0]
    """

    def __init__(
        self, optimizer: Any, warmup_steps: int, total_steps: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.warmup_steps = integer("WarmupCosineLR", "warmup_steps", warmup_steps, 0)
        self.total_steps = steps("WarmupCosineLR", "total_steps", total_steps)
        if self.total_steps <= self.warmup_steps:
            need = f"more than warmup_steps, {self.warmup_steps}"
            raise ValueError(message("WarmupCosineLR", "total_steps", f"{self.total_steps}", need))
        self.eta_min = real("WarmupCosineLR", "eta_min", eta_min, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        w = self.warmup_steps
        if step < w:
            return base * (step + 1) / (w + 1)
        return half_wave(base, self.eta_min, min((step - w) / (self.total_steps - w), 1.0))

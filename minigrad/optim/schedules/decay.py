"""Schedules that scale the rate by a factor: steps, lines, powers, and functions of the user's own."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minigrad.errors import message
from minigrad.optim.schedules.checks import integer, real, steps
from minigrad.optim.schedules.schedule import LRScheduler

__all__ = [
    "ConstantLR", "ExponentialLR", "InverseSqrtLR", "LambdaLR", "LinearLR", "MultiStepLR", "PolynomialLR", "StepLR",
]  # fmt: skip


class StepLR(LRScheduler):
    """Multiply the rate by `gamma` every `step_size` steps: ``lr(t) = base * gamma ** (t // step_size)``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    step_size : int
        Steps between two changes.
    gamma : float
        The factor.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.StepLR(optim.SGD([nn.Parameter([1.0])], lr=0.5), step_size=2)
    >>> for _ in range(3):
    ...     schedule.step()
    >>> schedule.get_last_lr()
    [0.05]
    """

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = steps("StepLR", "step_size", step_size)
        self.gamma = real("StepLR", "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        return base * self.gamma ** (step // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiply the rate by `gamma` at each milestone: ``lr(t) = base * gamma ** (number of milestones <= t)``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    milestones : sequence of int
        Steps; one that occurs twice counts twice.
    gamma : float
        The factor.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.MultiStepLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), milestones=[1, 2], gamma=0.5)
    >>> schedule.step()
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.25]
    """

    def __init__(self, optimizer: Any, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        given: Any = milestones
        if not isinstance(given, Iterable):
            raise TypeError(message("MultiStepLR", "milestones", given, "a sequence of ints"))
        self.milestones = sorted(integer("MultiStepLR", "a milestone", m, 0) for m in milestones)
        self.gamma = real("MultiStepLR", "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        return base * self.gamma ** bisect.bisect_right(self.milestones, step)


class ConstantLR(LRScheduler):
    """A rate scaled for the first steps: ``lr(t) = base * (factor if t < total_iters else 1)``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    factor : float
        From 0 to 1.
    total_iters : int
        Steps until the full rate.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.ConstantLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), factor=0.5, total_iters=1)
    >>> schedule.get_last_lr()
    [0.5]
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [1.0]
    """

    def __init__(self, optimizer: Any, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        self.factor = real("ConstantLR", "factor", factor, 0.0, 1.0)
        self.total_iters = integer("ConstantLR", "total_iters", total_iters, 0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        return base * self.factor if step < self.total_iters else base


class LinearLR(LRScheduler):
    """A line from one factor to another: ``lr(t) = base * (start + (end - start) * min(t / total_iters, 1))``.

    It is the usual warm-up: P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    start_factor, end_factor : float
        The factors, 0 to 1; the first above 0.
    total_iters : int
        Steps from one to the other.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.LinearLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), start_factor=0.5, total_iters=2)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.75]
    """

    def __init__(
        self,
        optimizer: Any,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = real("LinearLR", "start_factor", start_factor, 0.0, 1.0)
        if not self.start_factor:
            raise ValueError(
                message("LinearLR", "start_factor", 0.0, "a number above 0, so that the first step counts")
            )
        self.end_factor = real("LinearLR", "end_factor", end_factor, 0.0, 1.0)
        self.total_iters = steps("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        done = min(step, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class ExponentialLR(LRScheduler):
    """Multiply the rate by `gamma` in each step: ``lr(t) = base * gamma**t``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    gamma : float
        The factor.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.ExponentialLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), gamma=0.5)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Any, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = real("ExponentialLR", "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        return base * self.gamma**step


class PolynomialLR(LRScheduler):
    """Down to 0 along a power: ``lr(t) = base * (1 - min(t / total_iters, 1)) ** power``.

    L.-C. Chen et al., "DeepLab", 2016, call it the poly policy.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    total_iters : int
        Steps until 0.
    power : float
        1 for a line.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.PolynomialLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), total_iters=4, power=2.0)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5625]
    """

    def __init__(self, optimizer: Any, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = steps("PolynomialLR", "total_iters", total_iters)
        self.power = real("PolynomialLR", "power", power, 0.0)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        left: float = 1.0 - min(step, self.total_iters) / self.total_iters
        return base * math.pow(left, self.power)


class InverseSqrtLR(LRScheduler):
    """A line up to the rate, then down with the root: ``lr(t) = base * min(n / w, sqrt(w / n))``, n = t + 1.

    w is `warmup_steps`; the rate of the group is the peak, reached in step w. A. Vaswani et al., "Attention is all you
    need", 2017, whose peak is ``(features * w) ** -0.5``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    warmup_steps : int
        Steps up.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.InverseSqrtLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), warmup_steps=2)
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(7):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates[0], rates[1], rates[7]
    (0.5, 1.0, 0.5)
    """

    def __init__(self, optimizer: Any, warmup_steps: int, last_epoch: int = -1) -> None:
        self.warmup_steps = steps("InverseSqrtLR", "warmup_steps", warmup_steps)
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        n, w = step + 1, self.warmup_steps
        return base * (n / w if n < w else (w / n) ** 0.5)


class LambdaLR(LRScheduler):
    """A factor that a function gives: ``lr(t) = base * lr_lambda(t)``.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    lr_lambda : callable or sequence of callable
        Takes the number of steps; one for all groups, or one for each.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> schedule = optim.schedules.LambdaLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), lambda step: 1 / (1 + step))
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(
        self,
        optimizer: Any,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = optimizer
        self.lr_lambdas = self._listed("lr_lambda", lr_lambda)
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(message("LambdaLR", "lr_lambda", function, "a function of the number of steps"))
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        return base * real("LambdaLR", f"lr_lambda({step})", self.lr_lambdas[group](step))

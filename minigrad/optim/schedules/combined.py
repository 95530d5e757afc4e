"""Schedules made of schedules: one after the other, or all at once."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from minigrad.errors import message
from minigrad.optim.schedules.checks import integer
from minigrad.optim.schedules.schedule import LRScheduler

__all__ = ["ChainedScheduler", "SequentialLR"]


def _parts(who: str, schedulers: Any, optimizer: Any) -> list[LRScheduler]:
    parts = list(schedulers)
    if not parts:
        raise ValueError(message(who, "schedulers", "empty", "at least one schedule"))
    for i, part in enumerate(parts):
        if not isinstance(part, LRScheduler):
            raise TypeError(message(who, f"schedule {i}", part, "a schedule that is a function of the steps"))
        if part.optimizer is not optimizer:
            raise ValueError(message(who, f"the optimizer of schedule {i}", "another one", "the same for all"))
    return parts


class SequentialLR(LRScheduler):
    """One schedule after the other; each begins at its milestone with its step 0.

    ``lr(t) = schedulers[k].rate(t - milestones[k - 1])``, k being the number of milestones <= t.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    schedulers : sequence of LRScheduler
        Made for the same optimizer; only this one is stepped.
    milestones : sequence of int
        The step at which each but the first begins.

    Raises
    ------
    ValueError
        If the milestones do not increase, are too many or too few, or an optimizer is another.
    TypeError
        If one is no schedule.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> up = optim.schedules.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> down = optim.schedules.ExponentialLR(optimizer, gamma=0.5)
    >>> schedule = optim.schedules.SequentialLR(optimizer, [up, down], milestones=[2])
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(3):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates
    [0.5, 0.75, 1.0, 0.5]
    """

    def __init__(
        self, optimizer: Any, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self.schedulers = _parts("SequentialLR", schedulers, optimizer)
        self.milestones = [integer("SequentialLR", "a milestone", m, 1) for m in milestones]
        if len(self.milestones) != len(self.schedulers) - 1:
            need = f"{len(self.schedulers) - 1}, one less than schedules"
            raise ValueError(message("SequentialLR", "number of milestones", f"{len(self.milestones)}", need))
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(message("SequentialLR", "milestones", f"{self.milestones}", "steps that increase"))
        super().__init__(optimizer, last_epoch)

    def values(self, step: int, base: float, group: int) -> dict[str, Any]:
        """The hyperparameters after so many steps, those of the schedule whose turn it is."""
        k = bisect.bisect_right(self.milestones, step)
        return self.schedulers[k].values(step - self.milestones[k - 1] if k else step, base, group)


class ChainedScheduler(LRScheduler):
    """All schedules at once, each on what the one before it gives: ``lr(t) = rate_n(t, ... rate_1(t, base))``.

    The factors of schedules that scale the rate are multiplied so.

    Parameters
    ----------
    schedulers : sequence of LRScheduler
        Made for the same optimizer; only this one is stepped.
    optimizer : Optimizer, optional
        Theirs by default.

    Raises
    ------
    ValueError
        If there are none, or an optimizer is another.
    TypeError
        If one is no schedule.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> parts = [
    ...     optim.schedules.ConstantLR(optimizer, factor=0.5, total_iters=2),
    ...     optim.schedules.ExponentialLR(optimizer, gamma=0.5),
    ... ]
    >>> schedule = optim.schedules.ChainedScheduler(parts)
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(2):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates
    [0.5, 0.25, 0.25]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Any = None) -> None:
        first = next(iter(schedulers), None)
        given = getattr(first, "optimizer", None) if optimizer is None else optimizer
        self.schedulers = _parts("ChainedScheduler", schedulers, given)
        super().__init__(given)

    def values(self, step: int, base: float, group: int) -> dict[str, Any]:
        """The hyperparameters after so many steps."""
        values: dict[str, Any] = {"lr": base}
        for part in self.schedulers:
            values |= part.values(step, values["lr"], group)
        return values

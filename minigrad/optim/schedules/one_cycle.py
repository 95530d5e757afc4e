"""OneCycleLR: up, down, and far down, with the momentum the other way round."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import describe, message
from minigrad.optim.schedules.checks import real, steps
from minigrad.optim.schedules.schedule import LRScheduler, groups_of

__all__ = ["OneCycleLR"]


class OneCycleLR(LRScheduler):
    """One cycle: up to `max_lr`, and down to nearly nothing; the momentum falls while the rate rises.

    With ``initial = max_lr / div_factor`` and ``final = initial / final_div_factor`` the rate goes::

        initial -> max_lr    until step pct_start * total_steps - 1
        max_lr  -> final     until step total_steps - 1

    and with `three_phase` back to initial in as many steps as up, and then to final. Each part is half a cosine, or a
    line. The momentum goes from `max_momentum` to `base_momentum` and back. L. N. Smith, N. Topin, "Super-convergence:
    very fast training of neural networks using large learning rates", 2018.

    The rates of the groups themselves do not count. Beyond `total_steps` all stays as it is.

    Parameters
    ----------
    optimizer, last_epoch
        As for `LRScheduler`.
    max_lr : float or sequence of float
        The largest rate, for all groups or for each.
    total_steps : int, optional
        Steps of the cycle.
    epochs, steps_per_epoch : int, optional
        In place of `total_steps`, which is their product.
    pct_start : float
        The share of the steps in which the rate rises.
    anneal_strategy : str
        ``"cos"`` or ``"linear"``.
    cycle_momentum : bool
        Whether the momentum of SGD, or the first of Adam's betas, moves too.
    base_momentum, max_momentum : float or sequence of float
        Between what, for all groups or for each.
    div_factor : float
        What the first rate is smaller by than the largest.
    final_div_factor : float
        What the last rate is smaller by than the first.
    three_phase : bool
        Whether the way down is as long as the way up, with a third part behind.

    Raises
    ------
    ValueError
        If an argument is out of range, or the optimizer has no momentum to cycle.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.1, momentum=0.9)
    >>> schedule = optim.schedules.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     schedule.step()
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
    (1.0, 0.85)
    """

    def __init__(
        self,
        optimizer: Any,
        max_lr: Any,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Any = 0.85,
        max_momentum: Any = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        who = "OneCycleLR"
        if total_steps is not None:
            total = steps(who, "total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            total = steps(who, "epochs", epochs) * steps(who, "steps_per_epoch", steps_per_epoch)
        else:
            raise ValueError(message(who, "total_steps", "None", "a number, or epochs and steps_per_epoch"))
        self.total_steps = total
        share = real(who, "pct_start", pct_start, 0.0, 1.0)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(message(who, "anneal_strategy", describe(anneal_strategy), "'cos' or 'linear'"))
        self.anneal_strategy = anneal_strategy
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not real(who, name, value, 0.0):
                raise ValueError(message(who, name, describe(value), "a number above 0"))
        self.optimizer = optimizer
        self.max_lrs = [real(who, "max_lr", v, 0.0) for v in self._listed("max_lr", max_lr)]
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.base_momenta = [
            real(who, "base_momentum", v, 0.0, 1.0) for v in self._listed("base_momentum", base_momentum)
        ]
        self.max_momenta = [real(who, "max_momentum", v, 0.0, 1.0) for v in self._listed("max_momentum", max_momentum)]
        # where each part ends, and what it goes to: rate, momentum; 0 initial, 1 largest, 2 final
        peak = share * total - 1.0
        self._parts = [(peak, 0, 1), (2.0 * peak, 1, 0), (total - 1.0, 0, 2)] if three_phase else [
            (peak, 0, 1), (total - 1.0, 1, 2)
        ]  # fmt: skip
        self._momentum = ""
        if cycle_momentum:
            self._momentum = next((name for name in ("betas", "momentum") if name in groups_of(who, optimizer)[0]), "")
            if not self._momentum:
                hint = "Pass cycle_momentum=False"
                raise ValueError(message(who, "optimizer", optimizer, "one with momentum or betas", hint))
        super().__init__(optimizer, last_epoch)

    def _at(self, step: int, ends: tuple[float, float, float]) -> float:
        """The value of something that is `ends` at the start, at the peak and at the end."""
        start = 0.0
        for end, source, target in self._parts:
            if step <= end or end is self._parts[-1][0]:
                done = min((step - start) / (end - start), 1.0) if end > start else 1.0
                high, low = ends[source], ends[target]
                if self.anneal_strategy == "linear":
                    return high + (low - high) * done
                return low + (high - low) * (1.0 + math.cos(math.pi * done)) / 2.0
            start = end
        raise AssertionError("the last part takes every step")

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps."""
        largest = self.max_lrs[group]
        first = largest / self.div_factor
        return self._at(step, (first, largest, first / self.final_div_factor))

    def values(self, step: int, base: float, group: int) -> dict[str, Any]:
        """The learning rate after so many steps, and the momentum or betas."""
        values = super().values(step, base, group)
        if self._momentum:
            high, low = self.max_momenta[group], self.base_momenta[group]
            momentum: Any = self._at(step, (high, low, high))
            if self._momentum == "betas":
                momentum = (momentum, *self.optimizer.param_groups[group]["betas"][1:])
            values[self._momentum] = momentum
        return values

"""ReduceLROnPlateau: a smaller rate where a metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minigrad.errors import describe, message
from minigrad.optim.schedules.checks import compare_keys, integer, real
from minigrad.optim.schedules.schedule import groups_of

__all__ = ["ReduceLROnPlateau"]

COUNTS = ("last_epoch", "num_bad_epochs", "cooldown_counter")


class ReduceLROnPlateau:
    """Multiply the rate by `factor` when a metric has not got better for more than `patience` steps.

    ``lr = max(lr * factor, min_lr)``, if that is a change of more than `eps`. It works on the rates that the groups
    have, so it goes along with a warm-up or another schedule of the same optimizer.

    Parameters
    ----------
    optimizer : Optimizer
        Whose rates are reduced.
    mode : str
        ``"min"`` where less is better, ``"max"`` where more is.
    factor : float
        Below 1.
    patience : int
        Steps without improvement that are let pass.
    threshold : float
        The least improvement that counts.
    threshold_mode : str
        ``"rel"``: better than ``best * (1 - threshold)`` (``1 + threshold`` for ``"max"``); ``"abs"``: better than
        ``best - threshold`` (``best + threshold``).
    cooldown : int
        Steps after a reduction in which none is counted.
    min_lr : float or sequence of float
        The least rate, for all groups or for each.
    eps : float
        The least change.

    Attributes
    ----------
    best : float
        The best metric so far.
    num_bad_epochs : int
        Steps since then.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> schedule = optim.schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in [3.0, 2.0, 2.0, 2.0]:
    ...     schedule.step(loss)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(
        self,
        optimizer: Any,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: Any = 0.0,
        eps: float = 1e-8,
    ) -> None:
        who = "ReduceLROnPlateau"
        groups = groups_of(who, optimizer)
        for name, value, choices in (
            ("mode", mode, ("min", "max")),
            ("threshold_mode", threshold_mode, ("rel", "abs")),
        ):
            if value not in choices:
                raise ValueError(message(who, name, describe(value), " or ".join(map(repr, choices))))
        self.factor = real(who, "factor", factor, 0.0, 1.0)
        if self.factor == 1.0:
            raise ValueError(message(who, "factor", describe(factor), "a number below 1"))
        self.optimizer, self.mode, self.threshold_mode = optimizer, mode, threshold_mode
        self.patience = integer(who, "patience", patience, 0)
        self.threshold = real(who, "threshold", threshold, 0.0)
        self.cooldown = integer(who, "cooldown", cooldown, 0)
        least = list(min_lr) if isinstance(min_lr, (list, tuple)) else [min_lr] * len(groups)
        if len(least) != len(groups):
            raise ValueError(message(who, "number of min_lr", f"{len(least)}", f"{len(groups)}, one for each group"))
        self.min_lrs = [real(who, "min_lr", v, 0.0) for v in least]
        self.eps = real(who, "eps", eps, 0.0)
        self.best = math.inf if mode == "min" else -math.inf
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0

    def step(self, metric: Any) -> None:
        """Take in a metric, a number or a tensor of one, and reduce the rates where it is time.

        Raises
        ------
        TypeError
            If the metric is no number.
        """
        try:
            value = float(metric)
        except (TypeError, ValueError):
            raise TypeError(message("ReduceLROnPlateau.step", "metric", metric, "a number")) from None
        self.last_epoch += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "abs":
            return sign * value < sign * self.best - self.threshold
        # of an infinite best any number is better, also with a threshold of 1, of which the product would be NaN
        limit = self.best * (1.0 - sign * self.threshold) if math.isfinite(self.best) else self.best
        return sign * value < sign * limit

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of numbers; `best` is infinite before the first metric. The arguments are not in it."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"schedule": "ReduceLROnPlateau", "best": self.best, "lrs": self.get_last_lr(), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the rates of the optimizer are those of then.

        Raises
        ------
        TypeError
            If it is no mapping.
        ValueError
            If it is of another schedule or number of groups.
        """
        who = "ReduceLROnPlateau"
        compare_keys(who, state, ("schedule", "best", "lrs", *COUNTS))
        groups = self.optimizer.param_groups
        for what, given, own in (
            ("schedule", state["schedule"], who),
            ("number of lrs", len(state["lrs"]), len(groups)),
        ):
            if given != own:
                raise ValueError(message(f"{who}.load_state_dict", what, f"{given!r}", f"{own!r}"))
        for name in COUNTS:
            setattr(self, name, integer(who, name, state[name], 0))
        self.best = float(state["best"])
        for group, lr in zip(groups, state["lrs"], strict=True):
            group["lr"] = lr

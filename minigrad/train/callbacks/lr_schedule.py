"""LRSchedule: a learning rate for each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from minigrad.errors import message
from minigrad.nn.checks import number
from minigrad.optim.schedules import ReduceLROnPlateau
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.monitor import Monitor

__all__ = ["LRSchedule"]


class LRSchedule(Callback):
    """Set the learning rate at the begin of every epoch, from a function or a schedule of `optim`.

    Schedules that go by steps belong into ``Trainer(schedule=)``; there must not be both.

    Parameters
    ----------
    schedule : callable or schedule
        A function ``epoch -> lr`` or ``(epoch, lr) -> lr``, epochs from 0, whose rate all groups of parameters get; or
        a schedule of the trainer's optimizer, which moves on at the end of every epoch.
    monitor : str, optional
        What ReduceLROnPlateau sees: by default ``"val_loss"``, or ``"loss"`` without a validation.

    Raises
    ------
    TypeError
        If the function does not give a number.
    ValueError
        If the rate is negative or not finite, or the trainer has a schedule of its own.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.random.normal((8, 2)), mg.zeros((8,), dtype=mg.int64)
    >>> schedule = train.LRSchedule(lambda epoch: 0.1 / 2**epoch)
    >>> trainer = train.Trainer(nn.Dense(2), metrics=[], callbacks=[schedule])
    >>> trainer.fit((x, y), epochs=3, verbose=0)["lr"]
    [0.1, 0.05, 0.025]
    """

    def __init__(self, schedule: Callable[..., Any] | Any, monitor: str | None = None) -> None:
        moves = hasattr(schedule, "step")
        self.schedule: Any = schedule if moves else None
        self.function: Any = None if moves else schedule
        if isinstance(schedule, type) or (self.function is not None and not callable(schedule)):
            need = "a function of the epoch, or a schedule of an optimizer"
            raise TypeError(message("LRSchedule", "schedule", schedule, need))
        self.monitor = Monitor("LRSchedule", monitor, "min")
        self._both = self.function is not None and _takes_two(schedule)

    def on_train_begin(self, logs: Logs) -> None:
        if self.trainer.schedule is not None:
            raise ValueError(message("LRSchedule", "the trainer's schedule", self.trainer.schedule, "None beside it"))
        if self.schedule is not None and self.schedule.optimizer is not self.trainer.optimizer:
            need = "the trainer's"
            hint = "Make the optimizer first, and give it to both"
            raise ValueError(message("LRSchedule", "the optimizer of the schedule", "another one", need, hint))

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        if self.function is None or self.trainer.batch_index:  # a resumed epoch has its rate
            return
        groups = self.trainer.optimizer.param_groups
        found = self.function(epoch, groups[0]["lr"]) if self._both else self.function(epoch)
        lr = number("LRSchedule", "what the function gives", found)
        if not 0 <= lr < float("inf"):
            raise ValueError(message("LRSchedule", "what the function gives", f"{lr}", "a number of at least 0"))
        for group in groups:
            group["lr"] = lr

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(self.monitor.value(logs))
        elif self.schedule is not None:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": None if self.schedule is None else self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.schedule is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function needs the rate too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of those written in C do not tell
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) >= 2

"""Schedules by name."""

from __future__ import annotations

from typing import Any

from minigrad.errors import describe, message
from minigrad.optim.schedules import combined, cosine, decay, one_cycle, plateau
from minigrad.optim.schedules.schedule import LRScheduler

__all__ = ["NAMES", "get"]

NAMES: dict[str, Any] = {
    "constant": decay.ConstantLR,
    "cosine": cosine.CosineAnnealingLR,
    "cosine_restarts": cosine.CosineAnnealingWarmRestarts,
    "exponential": decay.ExponentialLR,
    "inverse_sqrt": decay.InverseSqrtLR,
    "lambda": decay.LambdaLR,
    "linear": decay.LinearLR,
    "multi_step": decay.MultiStepLR,
    "one_cycle": one_cycle.OneCycleLR,
    "plateau": plateau.ReduceLROnPlateau,
    "polynomial": decay.PolynomialLR,
    "sequential": combined.SequentialLR,
    "step": decay.StepLR,
    "warmup_cosine": cosine.WarmupCosineLR,
}


def get(schedule: Any, optimizer: Any, *args: Any, **options: Any) -> Any:
    """A schedule for an optimizer, by its name, by its class, or made already.

    Parameters
    ----------
    schedule : str, callable or schedule
        A name in `NAMES`, or of a class, such as ``"CosineAnnealingLR"``; anything that makes a schedule of an
        optimizer; or a schedule, which is handed back.
    optimizer : Optimizer
        What it is for.
    *args, **options
        Its arguments.

    Returns
    -------
    LRScheduler or ReduceLROnPlateau

    Raises
    ------
    ValueError
        If there is none of that name, or a schedule that is made already is for another optimizer or gets arguments.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> optim.schedules.get("cosine", optimizer, T_max=100).get_last_lr()
    [1.0]
    """
    if isinstance(schedule, str):
        classes = {kind.__name__: kind for kind in NAMES.values()}
        kind = NAMES.get(schedule) or classes.get(schedule)
        if kind is None:
            raise ValueError(message("schedules.get", "schedule", repr(schedule), f"one of {', '.join(NAMES)}"))
        return kind(optimizer, *args, **options)
    if isinstance(schedule, (LRScheduler, plateau.ReduceLROnPlateau)):
        if args or options:
            raise ValueError(message("schedules.get", "arguments", "given", "none for a schedule that is made already"))
        if schedule.optimizer is not optimizer:
            raise ValueError(message("schedules.get", "the optimizer of the schedule", "another one", "this one"))
        return schedule
    if not callable(schedule):
        raise TypeError(message("schedules.get", "schedule", describe(schedule), "a name, a schedule, or its class"))
    return schedule(optimizer, *args, **options)

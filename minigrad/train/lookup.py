"""From strings to losses, optimizers and schedules; objects come back as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import nn, optim
from minigrad.errors import message
from minigrad.nn.module import Module
from minigrad.optim import schedules

__all__ = ["LOSSES", "SCHEDULES", "find_loss", "find_optimizer", "find_schedule", "name_of", "optimizers"]

LOSSES: dict[str, Callable[[], Any]] = {
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "focal": nn.SoftmaxFocalLoss,
    "hinge": nn.HingeLoss,
    "huber": nn.HuberLoss,
    "kl_div": lambda: nn.KLDivLoss(reduction="batchmean"),
    "l1": nn.L1Loss,
    "mae": nn.L1Loss,
    "mse": nn.MSELoss,
    "nll": nn.NLLLoss,
    "smooth_l1": nn.SmoothL1Loss,
}

# name -> the schedule of an optimizer over so many steps
SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "cosine": lambda optimizer, steps: schedules.CosineAnnealingLR(optimizer, steps),
    "linear": lambda optimizer, steps: schedules.LinearLR(optimizer, 1.0, 0.0, steps),
    "one_cycle": lambda optimizer, steps: schedules.OneCycleLR(
        optimizer, optimizer.param_groups[0]["lr"], total_steps=steps
    ),
    "warmup_cosine": lambda optimizer, steps: schedules.WarmupCosineLR(optimizer, max(steps // 20, 1), steps),
}


def find_loss(loss: Any) -> Any:
    """The loss of a name, or a module or function of outputs and targets itself."""
    if isinstance(loss, str):
        return LOSSES[_known("loss", loss, LOSSES)]()
    if isinstance(loss, type) or not callable(loss):
        hint = "Make an object of it" if isinstance(loss, type) else ""
        raise TypeError(message("Trainer", "loss", loss, "a name, a loss, or a function of outputs and targets", hint))
    if getattr(loss, "reduction", "mean") == "none":
        need = "'mean' or 'sum'"
        raise ValueError(
            message("Trainer", f"the reduction of {name_of(loss)}", "'none'", need, "A step needs one number")
        )
    return loss


def optimizers() -> dict[str, type[optim.Optimizer]]:
    """The optimizers by their names in small letters."""
    found = [getattr(optim, name) for name in optim.__all__]
    made = [c for c in found if isinstance(c, type) and issubclass(c, optim.Optimizer) and c is not optim.Optimizer]
    return {c.__name__.lower(): c for c in made}


def find_optimizer(optimizer: Any, model: Module, lr: float | None) -> Any:
    """The optimizer of a name or of what makes one of parameters, or one itself."""
    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, str):
        by_name = optimizers()
        return by_name[_known("optimizer", optimizer.lower(), by_name)](model.named_parameters(), **options)
    if hasattr(optimizer, "param_groups"):
        if lr is not None:
            raise ValueError(message("Trainer", "lr", lr, "None where the optimizer is an object, which has its own"))
        return optimizer
    if not callable(optimizer):
        raise TypeError(message("Trainer", "optimizer", optimizer, "a name, an optimizer, or a function of parameters"))
    return optimizer(model.named_parameters(), **options)


def find_schedule(schedule: Any, optimizer: Any, steps: int | None) -> Any:
    """The schedule of a name (over so many steps) or of what makes one of an optimizer, or one itself."""
    if isinstance(schedule, str):
        make = SCHEDULES[_known("schedule", schedule, SCHEDULES)]
        if steps is None:
            need = "a number of steps, which data without a length do not tell"
            raise ValueError(message("Trainer", "schedule", repr(schedule), need, "Give fit steps_per_epoch"))
        return make(optimizer, steps)
    if hasattr(schedule, "step"):
        return schedule
    if not callable(schedule):
        raise TypeError(message("Trainer", "schedule", schedule, "a name, a schedule, or a function of the optimizer"))
    return schedule(optimizer)


def check_schedule(schedule: str) -> None:
    """Raise where there is no schedule of this name."""
    _known("schedule", schedule, SCHEDULES)


def name_of(function: Any) -> str:
    """How an error calls a loss."""
    return getattr(function, "__name__", None) or type(function).__name__


def _known(what: str, name: str, table: Any) -> str:
    if name not in table:
        raise ValueError(message("Trainer", what, repr(name), f"one of {', '.join(sorted(table))}, or an object"))
    return name

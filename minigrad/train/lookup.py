"""From strings to losses, optimizers and schedules; objects come back as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from minigrad import nn, optim
from minigrad.errors import DeviceError, describe, message
from minigrad.nn import functional
from minigrad.nn.module import Module
from minigrad.optim import schedules
from minigrad.train.metrics import BinaryAccuracy, Metric, get

__all__ = [
    "LOSSES", "SCHEDULES", "check_ema", "check_graph", "check_optimizer", "find_loss", "find_metrics", "find_optimizer",
    "find_schedule", "name_of",
]  # fmt: skip

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

TAKEN = ("loss", "lr", "grad_norm", "skipped", "epoch")  # names of other logs and of the first column of a table

# of class indices, and of a yes or no for each element
CLASSES = (nn.CrossEntropyLoss, nn.SoftmaxFocalLoss, nn.NLLLoss)
BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)

# name -> the schedule of an optimizer over so many steps
SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "cosine": lambda optimizer, steps: schedules.CosineAnnealingLR(optimizer, steps),
    "linear": lambda optimizer, steps: schedules.LinearLR(optimizer, 1.0, 0.0, steps),
    "one_cycle": lambda optimizer, steps: schedules.OneCycleLR(
        optimizer, optimizer.param_groups[0]["lr"], total_steps=steps
    ),
    "warmup_cosine": lambda optimizer, steps: schedules.WarmupCosineLR(
        optimizer, min(max(steps // 20, 1), steps - 1), steps
    ),
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


def find_metrics(metrics: Any, loss: Any) -> list[Metric]:
    """Metrics of their names, copies of metrics, or those that suit the loss; each has a name of its own."""
    if metrics is None:
        metrics = default_metrics(loss)
    given = [metrics] if isinstance(metrics, (str, Metric)) else metrics
    if not isinstance(given, Iterable):
        raise TypeError(message("Trainer", "metrics", describe(metrics), "an iterable of names and metrics"))
    found = [copy.deepcopy(get(metric)) for metric in given]
    names = [metric.name for metric in found]
    if len({*TAKEN, *names}) < len(names) + len(TAKEN) or any(name.startswith("val_") for name in names):
        need = f"a name of its own for each, and none of {', '.join(TAKEN)} and val_..."
        raise ValueError(message("Trainer", "metrics", f"named {', '.join(names)}", need))
    return found


def default_metrics(loss: Any) -> list[Metric]:
    """What to measure where nobody says it: the accuracy, if the loss is one of classes."""
    if isinstance(loss, CLASSES) or loss is functional.cross_entropy:
        return [get("accuracy")]
    if isinstance(loss, BINARY):
        return [BinaryAccuracy("accuracy", from_logits=isinstance(loss, nn.BCEWithLogitsLoss))]
    return []


def find_optimizer(optimizer: Any, model: Module, lr: float | None) -> Any:
    """The optimizer of a name or of what makes one of parameters, or one itself."""
    made = _made_optimizer(optimizer, model, lr)
    if isinstance(made, optim.LBFGS):
        need = "an optimizer that makes a step of one gradient"
        raise TypeError(message("Trainer", "optimizer", "LBFGS, which searches along a line", need))
    return made


def _made_optimizer(optimizer: Any, model: Module, lr: float | None) -> Any:
    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, str):
        return optim.get(optimizer, model.named_parameters(), **options)
    if hasattr(optimizer, "param_groups"):
        if lr is not None:
            raise ValueError(message("Trainer", "lr", lr, "None where the optimizer is an object, which has its own"))
        return optimizer
    if not callable(optimizer) or (isinstance(optimizer, type) and not issubclass(optimizer, optim.Optimizer)):
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
    if not hasattr(schedule, "step"):
        if not callable(schedule):
            need = "a name, a schedule, or a function of the optimizer"
            raise TypeError(message("Trainer", "schedule", schedule, need))
        schedule = schedule(optimizer)
    groups = getattr(getattr(schedule, "optimizer", optimizer), "param_groups", None)
    if groups is not optimizer.param_groups:  # SAM and the optimizer that it wraps share theirs
        got = f"{type(schedule).__name__} of another optimizer"
        hint = "Or a function of the optimizer, for one that is made here"
        raise ValueError(message("Trainer", "schedule", got, "one of the trainer's own optimizer", hint))
    return schedule


def check_optimizer(optimizer: Any, model: Module) -> None:
    """Raise where a training would change nothing of the model."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):  # it may hold others too, such as those of a loss
        got = f"{type(optimizer).__name__}, which holds no parameter of the model"
        raise ValueError(message("Trainer.fit", "optimizer", got, "some of the model's parameters in it"))


def check_ema(average: Any, model: Module) -> Any:
    """The average of the weights, which has to be one of this model."""
    if not (hasattr(average, "update") and hasattr(average, "average")):
        raise TypeError(message("Trainer", "ema", average, "a decay, or optim.EMA or optim.SWA of the model"))
    if getattr(average, "model", model) is not model:
        got = f"{type(average).__name__} of another model"
        raise ValueError(message("Trainer", "ema", got, "one of the model that is trained"))
    return average


def check_graph(trainer: Any) -> None:
    """Raise where passes cannot go by CUDA graphs: on the CPU, and where more is called than forward and backward."""
    device = next((p.device for p in trainer.model.parameters()), "cpu")
    if device == "cpu":
        got = "True, and the model on the CPU"
        raise DeviceError(message("Trainer", "graph", got, "a model on a GPU", "Pass device='cuda'"))
    for what, there in (
        ("an adversary", trainer.adversary is not None),
        ("SAM", isinstance(trainer.optimizer, optim.SAM)),
        ("several ranks", trainer.ranks.size > 1),
    ):
        if there:
            raise ValueError(message("Trainer", "graph", f"True beside {what}", "forward and backward passes alone"))


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

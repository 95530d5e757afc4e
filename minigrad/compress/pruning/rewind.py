"""Rewinding: weights, or the learning rate alone, back to an early step, with the masks of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.errors import message
from minigrad.nn.checks import integer
from minigrad.nn.module import Module

__all__ = ["Rewind"]


class Rewind:
    """What goes back, and to which step, whenever weights have been pruned.

    `weights` puts weights, buffers and the state of the optimizer back to what they were after step `step`; what is
    pruned stays 0 (J. Frankle, M. Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural networks",
    2019; to a step after the first: J. Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis",
    2020). `schedule` does so with the learning rate; alone it is learning rate rewinding (A. Renda, J. Frankle,
    M. Carbin, "Comparing rewinding and fine-tuning in neural network pruning", 2020).

    Parameters
    ----------
    step : int
        The step whose state is kept, counted from 1; 0: that of the start.
    weights, schedule : bool
        What goes back; one of them at least.

    Attributes
    ----------
    kept : dict or None
        The state of then, once there is one.

    Raises
    ------
    ValueError
        If the step is negative, or nothing goes back.

    Examples
    --------
    >>> from minigrad import compress, nn
    >>> layer = nn.Dense(2, in_features=1, kernel_initializer="ones")
    >>> rewind = compress.Rewind(0)
    >>> rewind.keep(layer)
    >>> layer.weight._array[...] = [[3.0, 5.0]]  # trained
    >>> _ = compress.prune(layer, 0.5)
    >>> rewind.back(layer)
    >>> layer.weight
    tensor([[0., 1.]], requires_grad=True)
    """

    def __init__(self, step: int = 0, *, weights: bool = True, schedule: bool = True) -> None:
        self.step = integer("Rewind", "step", step)
        if self.step < 0:
            raise ValueError(message("Rewind", "step", f"{step}", "at least 0"))
        if not (weights or schedule):
            raise ValueError(message("Rewind", "weights and schedule", "False", "one of them"))
        self.weights, self.schedule = bool(weights), bool(schedule)
        self.kept: dict[str, Any] | None = None

    def keep(self, model: Module, optimizer: Any = None, schedule: Any = None) -> None:
        """Take copies of what is to come back."""
        self.kept = {
            "model": model.state_dict(masks=False) if self.weights else None,
            "optimizer": optimizer.state_dict() if self.weights and optimizer is not None else None,
            "schedule": schedule.state_dict() if self.schedule and schedule is not None else None,
        }

    def back(self, model: Module, optimizer: Any = None, schedule: Any = None) -> None:
        """Put back what `keep` took; masks stay, and what they leave out is 0.

        Raises
        ------
        ValueError
            If nothing was kept.
        """
        if self.kept is None:
            raise ValueError(message("Rewind", "the state", "not kept yet", "keep(...) at the step to go back to"))
        if self.kept["model"] is not None:
            model.load_state_dict(self.kept["model"])
        if self.kept["optimizer"] is not None and optimizer is not None:
            rates = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(self.kept["optimizer"])
            if not self.schedule:
                for group, lr in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = lr
        if self.kept["schedule"] is not None and schedule is not None:
            schedule.load_state_dict(self.kept["schedule"])

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.kept = state["kept"]

    def __repr__(self) -> str:
        return f"Rewind({self.step}, weights={self.weights}, schedule={self.schedule})"

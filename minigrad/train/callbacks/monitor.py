"""Monitor: one of the logs, and when it is better than before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from minigrad.errors import message

__all__ = ["Monitor"]

MODES = ("auto", "min", "max")
LOWER = ("loss", "error", "perplexity", "mae", "mse", "rmse")  # words in names of what should be small
HIGHER = ("accuracy", "acc", "auc", "f1", "precision", "recall", "top", "r2", "pearson")


class Monitor:
    """Which of the logs to look at, and in which direction it gets better.

    Parameters
    ----------
    who : str
        The callback, for errors.
    name : str or None
        The log. None: ``"val_loss"``, or ``"loss"`` where there is no validation.
    mode : str
        ``"min"``, ``"max"``, or ``"auto"``: what the metric of this name says of itself, or else its name.

    Examples
    --------
    >>> from minigrad.train.callbacks.monitor import Monitor
    >>> monitor = Monitor("EarlyStopping", "val_accuracy", "auto")
    >>> monitor.better(0.9, 0.8, 0.05), monitor.better(0.9, 0.8, 0.2), monitor.better(0.1, None)
    (True, False, True)
    """

    def __init__(self, who: str, name: str | None, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(message(who, "mode", repr(mode), f"one of {', '.join(map(repr, MODES))}"))
        if name is not None and not isinstance(name, str):
            raise TypeError(message(who, "monitor", name, "the name of a log, such as 'val_loss'"))
        self.who, self.name, self.mode = who, name, mode

    def value(self, logs: Mapping[str, Any], metrics: Iterable[Any] = ()) -> float:
        """The number at hand.

        Raises
        ------
        ValueError
            If the logs do not have it, or nothing says which direction is better.
        """
        name = self.name or ("val_loss" if "val_loss" in logs else "loss")
        if name not in logs:
            hint = "Give fit validation=" if name.startswith("val_") else ""
            raise ValueError(message(self.who, "monitor", repr(name), f"one of {', '.join(sorted(logs))}", hint))
        try:
            value = float(logs[name])
        except (TypeError, ValueError):
            raise TypeError(message(self.who, f"the log {name!r}", logs[name], "a number")) from None
        if self.mode == "auto":
            self.mode = self._direction(name, metrics)
        return value

    def better(self, value: float, best: float | None, min_delta: float = 0.0) -> bool:
        """Whether a value is better than the best by more than so much; NaN never is, any other is better than None."""
        if math.isnan(value):
            return False
        if best is None or math.isnan(best):
            return True
        lower = self.mode == "min" if self.mode != "auto" else self._direction(self.name or "loss", ()) == "min"
        return value < best - min_delta if lower else value > best + min_delta

    def _direction(self, name: str, metrics: Iterable[Any]) -> str:
        short = name.removeprefix("val_")
        own = next((metric.mode for metric in metrics if metric.name == short), None)
        if own in ("min", "max"):
            return str(own)
        words = short.lower().split("_")
        if short == "grad_norm" or any(word in words for word in LOWER):
            return "min"
        if any(word in words for word in HIGHER):
            return "max"
        raise ValueError(message(self.who, "mode", "'auto'", f"'min' or 'max' for {name!r}, whose name says neither"))

"""Perplexity: among how many equally likely tokens a model is unsure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.nn.checks import number
from minigrad.train.metrics.arrays import Array, rows
from minigrad.train.metrics.metric import Metric, register

__all__ = ["Perplexity"]

CHUNK = 1 << 18  # scores that are turned into float64 at a time


@register("perplexity")
class Perplexity(Metric):
    """``exp(sum(w * nll) / sum(w))`` with ``nll = logsumexp(logits) - logits[target]``: over tokens, not over batches.

    Outputs are logits (..., classes), targets class indices (...). Where the loss is known already, `add_loss` takes it
    and saves the work. Without any token the result is NaN.

    Parameters
    ----------
    name : str, optional
        By default ``"perplexity"``.
    ignore_index : int, optional
        Targets of this class, such as padding, do not count. `Trainer` does so for that of its loss.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> perplexity = metrics.get("perplexity")
    >>> perplexity.update(np.zeros((2, 3, 8)), np.zeros((2, 3), int))
    >>> round(perplexity.result(), 9)
    8.0
    """

    name = "perplexity"
    mode = "min"

    def __init__(self, name: str | None = None, *, ignore_index: int | None = None) -> None:
        self.ignore_index = ignore_index
        super().__init__(name)

    def reset(self) -> None:
        self.total = self.count = 0.0

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        scores, classes, w = rows("Perplexity", outputs, targets, weight, self.ignore_index)
        if scores.ndim == 1:
            raise ShapeError(message("Perplexity", "outputs", outputs, "a logit for each class, on the last axis"))
        step = max(CHUNK // scores.shape[-1], 1)
        for start in range(0, len(scores), step):
            part = slice(start, start + step)
            self.total += float(_nll(scores[part].astype(np.float64), classes[part]) @ w[part])
        self.count += float(w.sum())

    def add_loss(self, loss: float, count: float) -> None:
        """Add a batch by its mean cross entropy, and the number of tokens that this is the mean over."""
        count = number("Perplexity.add_loss", "count", count)
        if not 0 <= count < math.inf:
            raise ValueError(message("Perplexity.add_loss", "count", f"{count}", "a number of at least 0"))
        if count:
            self.total += number("Perplexity.add_loss", "loss", loss) * count
        self.count += count

    def result(self) -> float:
        if not self.count:
            return math.nan
        mean = self.total / self.count
        return math.inf if mean > 709.78 else math.exp(mean)  # beyond it exp overflows


def _nll(scores: Array, classes: Array) -> Array:
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    shifted = scores - np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found: Array = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(classes)), classes]
    return found

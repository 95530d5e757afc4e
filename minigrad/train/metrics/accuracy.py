"""Accuracy: the share of targets that the outputs name, alone or among the first k."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.nn.checks import extent
from minigrad.train.metrics.arrays import rows
from minigrad.train.metrics.decision import DecisionMetric
from minigrad.train.metrics.metric import Metric, register, register_family

__all__ = ["Accuracy", "BinaryAccuracy", "TopKAccuracy"]


@register("accuracy")
class Accuracy(DecisionMetric):
    """The share of right classes: ``sum(w * (argmax(outputs) == target)) / sum(w)``.

    Outputs are (..., classes) scores of any scale, with targets that are class indices (...) or, as one-hot rows and
    soft labels, (..., classes). Outputs of (n,) or (n, 1) are one score for two classes, with targets 0 and 1. The
    first of several largest scores counts, and NaN never. Without any target the result is NaN.

    Parameters
    ----------
    name : str, optional
        By default ``"accuracy"``.
    ignore_index : int, optional
        Targets of this class do not count.
    threshold : float
        With one score for two classes: the probability above which it says 1.
    from_logits : bool, optional
        Whether one score for two classes is a logit. By default it is as soon as any score was outside of 0..1.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> accuracy = metrics.get("accuracy")
    >>> accuracy.update(np.array([[0.1, 0.9], [2.0, 1.0]]), np.array([1, 1]))
    >>> accuracy.update(np.array([[3.0, 0.0]]), np.array([0]))
    >>> round(accuracy.result(), 4)
    0.6667
    """

    name = "accuracy"
    mode = "max"
    elementwise = False

    def __init__(
        self,
        name: str | None = None,
        *,
        ignore_index: int | None = None,
        threshold: float = 0.5,
        from_logits: bool | None = None,
    ) -> None:
        super().__init__(name, ignore_index, threshold, from_logits)

    def reset(self) -> None:
        super().reset()
        self.hits, self.count = np.zeros(2), 0.0

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        who = type(self).__name__
        scores, classes, w = rows(who, outputs, targets, weight, self.ignore_index, elementwise=self.elementwise)
        if scores.ndim == 1:
            right = self.decide(scores) == classes
            right &= ~np.isnan(scores)
        else:
            found = scores.argmax(-1)  # of NaN where there is one
            right = (found == classes) & ~np.isnan(scores[np.arange(len(found)), found])
        self.hits += (right * w).sum(-1)
        self.count += float(w.sum())

    def result(self) -> float:
        return float(self.chosen(self.hits)) / self.count if self.count else float("nan")


@register("binary_accuracy")
class BinaryAccuracy(Accuracy):
    """The share of right answers where every element is a question of its own: ``mean((outputs > t) == target)``.

    So it is for several labels to an example, outputs and targets being of one shape. Parameters are those of
    `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> accuracy = metrics.BinaryAccuracy()
    >>> accuracy.update(np.array([[2.0, -1.0, 0.5]]), np.array([[1.0, 1.0, 1.0]]))
    >>> round(accuracy.result(), 4)
    0.6667
    """

    name = "binary_accuracy"
    elementwise = True


@register_family("top")
class TopKAccuracy(Metric):
    """The share of targets among the k largest scores; of equal ones the class with the smaller index comes first.

    ``sum(w * (rank(target) < k)) / sum(w)`` with ``rank(t) = #{c: s_c > s_t} + #{c < t: s_c = s_t}``. Without any
    target the result is NaN.

    Parameters
    ----------
    k : int
        How many classes may be named; there must be as many.
    name : str, optional
        By default ``"top_5"`` for k = 5, and `metrics.get` makes it of this name.
    ignore_index : int, optional
        Targets of this class do not count.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> top = metrics.get("top_2")
    >>> top.update(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), np.array([1, 2]))
    >>> top.result()
    0.5
    """

    mode = "max"

    def __init__(self, k: int = 5, name: str | None = None, *, ignore_index: int | None = None) -> None:
        self.k, self.ignore_index = extent("TopKAccuracy", "k", k), ignore_index
        super().__init__(name or f"top_{self.k}")

    def reset(self) -> None:
        self.hits = self.count = 0.0

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        scores, classes, w = rows(self.name, outputs, targets, weight, self.ignore_index)
        if scores.ndim == 1 or scores.shape[-1] < self.k:
            raise ShapeError(message(self.name, "outputs", outputs, f"at least {self.k} classes on the last axis"))
        own = scores[np.arange(len(classes)), classes][:, None]
        before = np.arange(scores.shape[-1]) < classes[:, None]
        rank = (~(scores <= own)).sum(-1) + ((scores == own) & before).sum(-1)  # NaN comes before all numbers
        self.hits += float(((rank < self.k) & ~np.isnan(own[:, 0])) @ w)
        self.count += float(w.sum())

    def result(self) -> float:
        return self.hits / self.count if self.count else float("nan")

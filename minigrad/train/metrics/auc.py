"""AUC: the area under the ROC curve, exact, by ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.train.metrics.arrays import Array, rows
from minigrad.train.metrics.metric import Metric, register

__all__ = ["AUC"]

AVERAGES = ("macro", "weighted", None)


@register("auc")
class AUC(Metric):
    """The chance that an example of class 1 has a higher score than one of class 0; a tie counts half.

    ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i * sum_j w_j)`` over pairs of a positive i and a
    negative j, which is the area under the ROC curve (J. Hanley and B. McNeil, "The meaning and use of the area under a
    receiver operating characteristic (ROC) curve", 1982). It is computed by ranks in O(n log n) from all scores, which
    are kept; so it is exact, and it is not worked out at every step of training.

    Outputs of (n,) or (n, 1) are scores of class 1. With (n, 2) the difference of the two counts. With more classes
    each is held against the rest. NaN where one of the classes is missing, or a score is NaN.

    Parameters
    ----------
    name : str, optional
        By default ``"auc"``.
    average : str or None
        With more than two classes: ``"macro"``, the mean over the classes that have both positives and negatives;
        ``"weighted"``, their mean weighted by how many targets each has; None, an array of one for each class.
    from_logits : bool
        With more than two classes: whether to take the softmax of the outputs, which changes their order.
    ignore_index : int, optional
        Targets of this class do not count.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> auc = metrics.get("auc")
    >>> auc.update(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    >>> auc.result()
    0.75
    """

    name = "auc"
    mode = "max"
    live = False

    def __init__(
        self,
        name: str | None = None,
        *,
        average: str | None = "macro",
        from_logits: bool = True,
        ignore_index: int | None = None,
    ) -> None:
        if average not in AVERAGES:
            raise ValueError(message("AUC", "average", repr(average), f"one of {', '.join(map(repr, AVERAGES))}"))
        self.average, self.from_logits, self.ignore_index = average, bool(from_logits), ignore_index
        super().__init__(name)

    def reset(self) -> None:
        self.scores: list[Array] = []
        self.classes: list[Array] = []
        self.weights: list[Array] = []

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        scores, classes, w = rows("AUC", outputs, targets, weight, self.ignore_index)
        if scores.ndim == 1:
            scores = scores[:, None]
        elif scores.shape[-1] == 2:
            scores = scores[:, 1:].astype(np.float64) - scores[:, :1]
        elif self.from_logits:
            powers = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf).astype(np.float64))
            scores = powers / powers.sum(-1, keepdims=True)
        if self.scores and scores.shape[1] != self.scores[0].shape[1]:
            raise ShapeError(message("AUC", "outputs", outputs, "as many classes as before"))
        for kept, part in ((self.scores, scores), (self.classes, classes), (self.weights, w)):
            kept.append(part.copy())

    def result(self) -> Any:
        if not self.scores:
            return float("nan")
        scores, classes, w = (np.concatenate(part) for part in (self.scores, self.classes, self.weights))
        if scores.shape[1] == 1:
            return _area(scores[:, 0], classes == 1, w)
        each = np.array([_area(scores[:, k], classes == k, w) for k in range(scores.shape[1])])
        if self.average is None:
            return each
        counted = ~np.isnan(each)
        if np.isnan(scores).any() or not counted.any():
            return float("nan")
        if self.average == "macro":
            return float(each[counted].mean())
        return float(np.average(each[counted], weights=np.bincount(classes, w, len(each))[counted]))

    def state_dict(self) -> dict[str, Any]:
        return {key: np.concatenate(parts) if (parts := getattr(self, key)) else None for key in self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for key in self._counts:
            found = getattr(self, key)
            setattr(self, key, [] if found is None else [found])

    def merge(self, state: Mapping[str, Any]) -> None:
        for key in self._counts:
            if state[key] is not None:
                getattr(self, key).append(state[key])


def _area(scores: Array, positive: Array, weight: Array) -> float:
    """The share of pairs in the right order."""
    if np.isnan(scores).any():
        return float("nan")
    values, place = np.unique(scores, return_inverse=True)
    above = np.bincount(place, weight * positive, len(values))
    below = np.bincount(place, weight * ~positive, len(values))
    pairs = above.sum() * below.sum()
    if not pairs:
        return float("nan")
    return float(above @ (np.cumsum(below) - below / 2.0) / pairs)

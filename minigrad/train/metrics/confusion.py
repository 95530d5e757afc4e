"""ConfusionMatrix: how often each class is taken for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.nn.checks import extent
from minigrad.train.metrics.arrays import Array, rows
from minigrad.train.metrics.decision import DecisionMetric
from minigrad.train.metrics.metric import register

__all__ = ["ConfusionMatrix"]

AXES: dict[str, Any] = {"true": 1, "pred": 0, "all": (0, 1)}  # normalize -> the axes whose sum is 1


@register("confusion_matrix")
class ConfusionMatrix(DecisionMetric):
    """The weight of the examples of class i that were taken for class j, in row i and column j.

    Outputs and targets are those of `Accuracy`. In the history there is a matrix an epoch.

    Parameters
    ----------
    num_classes : int, optional
        By default as many as the outputs have; without any batch the matrix then is of (0, 0).
    name : str, optional
        By default ``"confusion_matrix"``.
    normalize : str, optional
        ``"true"``: every row has sum 1; ``"pred"``: every column has; ``"all"``: the matrix has. What has nothing
        stays 0.
    ignore_index, threshold, from_logits
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> matrix = metrics.ConfusionMatrix()
    >>> matrix.update(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]))
    >>> matrix.result().tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """

    name = "confusion_matrix"
    live = False

    def __init__(
        self,
        num_classes: int | None = None,
        name: str | None = None,
        *,
        normalize: str | None = None,
        ignore_index: int | None = None,
        threshold: float = 0.5,
        from_logits: bool | None = None,
    ) -> None:
        if normalize is not None and normalize not in AXES:
            raise ValueError(message("ConfusionMatrix", "normalize", repr(normalize), "None, 'true', 'pred' or 'all'"))
        self.num_classes = None if num_classes is None else extent("ConfusionMatrix", "num_classes", num_classes)
        self.normalize = normalize
        super().__init__(name, ignore_index, threshold, from_logits)

    def reset(self) -> None:
        super().reset()
        n = self.num_classes or 0
        self.counts = np.zeros((2, n, n))

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        scores, classes, w = rows("ConfusionMatrix", outputs, targets, weight, self.ignore_index)
        n = 2 if scores.ndim == 1 else scores.shape[-1]
        if not self.counts.size:
            self.counts = np.zeros((2, n, n))
        if n != self.counts.shape[1]:
            raise ShapeError(message("ConfusionMatrix", "outputs", outputs, f"{self.counts.shape[1]} classes"))
        found = self.decide(scores) if scores.ndim == 1 else np.broadcast_to(scores.argmax(-1), (2, len(scores)))
        for counts, guess in zip(self.counts, found, strict=True):
            counts += np.bincount(classes * n + guess, w, n * n).reshape(n, n)

    def result(self) -> Array:
        counts: Array = self.chosen(self.counts)
        if self.normalize is None:
            return counts.copy()
        total = counts.sum(AXES[self.normalize], keepdims=True)
        return counts / np.where(total, total, 1.0)

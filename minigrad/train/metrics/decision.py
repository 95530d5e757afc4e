"""Decision: from one score for two classes to a class, whether it is a logit or a probability."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.train.metrics.arrays import Array, cuts
from minigrad.train.metrics.metric import Metric

__all__ = ["DecisionMetric"]


class DecisionMetric(Metric):
    """Base of the metrics that decide at a threshold.

    Whether scores are logits or probabilities can be told by all of them alone: a single one does not say, and what one
    batch says must not differ from what the next one does. So counts are kept for both (axis 0: logits, probabilities),
    and `result` takes those of logits as soon as one score was outside of 0..1. Then the way in which the data are cut
    into batches counts for nothing.
    """

    def __init__(self, name: str | None, ignore_index: int | None, threshold: float, from_logits: bool | None) -> None:
        self.ignore_index, self.from_logits = ignore_index, from_logits
        self._cuts = cuts(type(self).__name__, threshold)
        super().__init__(name)

    def reset(self) -> None:
        self.outside = False  # whether a score was no probability

    def decide(self, scores: Array) -> Array:
        """(2, n): the classes of (n,) scores if these are logits, and if they are probabilities."""
        self.outside = self.outside or bool((~((scores >= 0) & (scores <= 1))).any())
        return np.stack([scores > cut for cut in self._cuts]).astype(np.int64)

    def chosen(self, counts: Any) -> Any:
        """Those of two counts that hold."""
        logits = self.outside if self.from_logits is None else self.from_logits
        return counts[0 if logits else 1]

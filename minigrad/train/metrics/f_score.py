"""Precision, Recall and F1: of what is named, what is right; of what is right, what is named; and both in one."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.nn.checks import positive
from minigrad.train.metrics.arrays import Array, host, rows
from minigrad.train.metrics.decision import DecisionMetric
from minigrad.train.metrics.metric import register

__all__ = ["F1", "FBeta", "Precision", "Recall"]

AVERAGES = ("auto", "binary", "micro", "macro", "weighted", None)


class _Ratio(DecisionMetric):
    """A ratio of the counts of each class: true positives, those named (predicted) and those there are (actual)."""

    mode = "max"

    def __init__(
        self,
        average: str | None = "auto",
        name: str | None = None,
        *,
        multilabel: bool = False,
        ignore_index: int | None = None,
        threshold: float = 0.5,
        from_logits: bool | None = None,
    ) -> None:
        if average not in AVERAGES:
            need = f"one of {', '.join(map(repr, AVERAGES))}"
            raise ValueError(message(type(self).__name__, "average", repr(average), need))
        if name is None and average not in ("auto", "binary"):
            name = f"{self.name}_{average or 'per_class'}"
        self.average, self.multilabel = average, bool(multilabel)
        super().__init__(name, ignore_index, threshold, from_logits)
        self.live = average is not None

    def reset(self) -> None:
        super().reset()
        self.counts = np.zeros((2, 3, 0))  # decision, (true positives, predicted, actual), class
        self.single = False  # whether there was one score for two classes

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        who = type(self).__name__
        scores, classes, w = rows(who, outputs, targets, weight, self.ignore_index, elementwise=self.multilabel)
        if self.multilabel:
            shape = host(who, "outputs", outputs).shape
            if len(shape) < 2:
                raise ShapeError(message(who, "outputs", outputs, "the axes (..., labels), two at least"))
            labels = shape[-1]
            column = self._columns(who, outputs, targets, weight)
            counts = np.zeros((2, 3, labels))
            for part, guess in zip(counts, self.decide(scores), strict=True):
                for row, hit in zip(part, (guess & classes, guess, classes), strict=True):
                    row += np.bincount(column, w * hit, labels)
        else:
            single = scores.ndim == 1
            self.single = self.single or single
            labels = 2 if single else scores.shape[-1]
            counts = np.zeros((2, 3, labels))
            found = self.decide(scores) if single else np.broadcast_to(scores.argmax(-1), (2, len(scores)))
            for part, guess in zip(counts, found, strict=True):
                part[0] = np.bincount(classes, w * (guess == classes), labels)
                part[1] = np.bincount(guess, w, labels)
                part[2] = np.bincount(classes, w, labels)
        if not self.counts.size:
            self.counts = np.zeros_like(counts)
        if counts.shape != self.counts.shape:
            raise ShapeError(message(who, "outputs", outputs, f"{self.counts.shape[-1]} classes, as before"))
        self.counts += counts

    def _columns(self, who: str, outputs: Any, targets: Any, weight: Any) -> Array:
        """The label of each element that counts, in the order of `rows`."""
        shape = host(who, "outputs", outputs).shape
        column = np.broadcast_to(np.arange(shape[-1]), shape)
        return np.asarray(rows(who, column, targets, weight, self.ignore_index, elementwise=True).scores)

    def result(self) -> Any:
        true, predicted, actual = self.chosen(self.counts)
        average = self.average
        if average == "auto":
            average = "binary" if self.single else "macro"
        if average == "binary" and true.size and (true.size != 2 or self.multilabel):
            raise ValueError(message(type(self).__name__, "average", "'binary'", "two classes", f"Found {true.size}"))
        if not predicted.sum() + actual.sum():
            return np.full(true.shape, np.nan) if average is None else float("nan")
        if average == "micro":
            return float(self._ratio(true.sum(), predicted.sum(), actual.sum()))
        each = self._ratio(true, predicted, actual)
        if average is None:
            return each
        if average == "binary":
            return float(each[1])
        if average == "weighted":
            return float(each @ actual / actual.sum()) if actual.any() else 0.0
        seen = (predicted + actual > 0) | self.multilabel
        return float(each[seen].mean())

    def _ratio(self, true: Any, predicted: Any, actual: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: needs a method _ratio(self, true, predicted, actual)")


def _divide(a: Any, b: Any) -> Any:
    """The quotient, and 0 where it is one by 0."""
    return a / np.where(b, b, 1.0)


class Precision(_Ratio):
    """Of the examples that are taken for a class, the share that is of it: ``tp / (tp + fp)``.

    Outputs and targets are those of `Accuracy`, or with `multilabel` of one shape (..., labels). 0 / 0 is 0; without
    any target (with `multilabel`: where no label is named and none is right) the result is NaN.

    Parameters
    ----------
    average : str or None
        ``"binary"``: of class 1 of two; ``"micro"``: of the sums over all classes; ``"macro"``: the mean over the
        classes that were named or right; ``"weighted"``: their mean, weighted by how many targets each has; None: an
        array, one for each class; ``"auto"``: ``"binary"`` for one score for two classes, else ``"macro"``.
    name : str, optional
        By default ``"precision"``, with the average where one is given: ``"precision_micro"``.
    multilabel : bool
        Whether an example has any number of labels, each with a score of its own.
    ignore_index, threshold, from_logits
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> precision = metrics.Precision()
    >>> precision.update(np.array([2.0, 1.0, -1.0]), np.array([1, 0, 1]))
    >>> precision.result()
    0.5
    """

    name = "precision"

    def _ratio(self, true: Any, predicted: Any, actual: Any) -> Any:
        return _divide(true, predicted)


class Recall(_Ratio):
    """Of the examples of a class, the share that is taken for it: ``tp / (tp + fn)``. Parameters: `Precision`'s.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> recall = metrics.Recall(average=None)
    >>> recall.update(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]))
    >>> recall.result().tolist()
    [1.0, 1.0, 0.5]
    """

    name = "recall"

    def _ratio(self, true: Any, predicted: Any, actual: Any) -> Any:
        return _divide(true, actual)


class FBeta(_Ratio):
    """Precision P and recall R in one number: ``(1 + b^2) P R / (b^2 P + R)`` (C. J. van Rijsbergen, 1979).

    It is computed as ``(1 + b^2) tp / (predicted + b^2 actual)``, which is the same and has no 0 / 0 where only one of
    the two has one.

    Parameters
    ----------
    beta : float
        Recall counts so many times as much as precision.
    average, name, multilabel, ignore_index, threshold, from_logits
        As for `Precision`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> score = metrics.FBeta(2.0)
    >>> score.update(np.array([2.0, 1.0, 1.0]), np.array([1, 0, 1]))
    >>> round(score.result(), 4)
    0.9091
    """

    name = "f_beta"

    def __init__(self, beta: float, average: str | None = "auto", name: str | None = None, **options: Any) -> None:
        self.beta = positive(type(self).__name__, "beta", beta)
        super().__init__(average, name, **options)

    def _ratio(self, true: Any, predicted: Any, actual: Any) -> Any:
        square = self.beta**2
        return _divide((1.0 + square) * true, predicted + square * actual)


class F1(FBeta):
    """The harmonic mean of precision and recall, ``2 P R / (P + R)``: `FBeta` with beta 1. Parameters: `Precision`'s.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> score = metrics.get("f1_micro")
    >>> score.update(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]))
    >>> score.result()
    0.75
    """

    name = "f1"

    def __init__(self, average: str | None = "auto", name: str | None = None, **options: Any) -> None:
        super().__init__(1.0, average, name, **options)


for _kind in (Precision, Recall, F1):
    register(_kind.name)(_kind)
    for _average in ("micro", "macro", "weighted"):
        register(f"{_kind.name}_{_average}")(lambda kind=_kind, average=_average: kind(average))

"""Arrays: what a metric is given, checked and brought into rows that count."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import devices
from minigrad.dtypes import FLOATING, float32
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.nn.checks import number
from minigrad.tensor import Tensor

__all__ = ["Array", "Rows", "cuts", "elements", "host", "rows", "weights"]

Array = np.ndarray[Any, Any]
SUM = 1e-3  # how far the probabilities of a row may be from 1 in sum: those of half precision are


class Rows(NamedTuple):
    """The examples of a batch that count.

    Parameters
    ----------
    scores : numpy.ndarray
        (n, classes), or (n,) where there is one score for two classes.
    classes : numpy.ndarray
        (n,), the class of each target.
    weight : numpy.ndarray
        (n,) float64, none of it 0.
    """

    scores: Array
    classes: Array
    weight: Array


def host(who: str, name: str, value: Any) -> Array:
    """What a metric was given as an array of NumPy; a half one in float32."""
    if isinstance(value, Tensor):
        value = value.detach().to("cpu").numpy()
    elif devices.is_foreign(value):
        value = devices.move(value, "cpu", "metrics")
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype in FLOATING and array.dtype.itemsize == 2:
        array = array.astype(float32)
    if array.dtype.kind not in "biuf":
        got = value if array.dtype.kind == "O" else array
        hint = "A metric of several outputs is a class derived from train.Metric" if got is value else ""
        raise DTypeError(message(who, name, got, "an array of real numbers", hint))
    return array


def weights(who: str, weight: Any, shape: tuple[int, ...]) -> Array:
    """A weight for each target, float64: 1 where none is given, one for all of an example where it has fewer axes."""
    if weight is None:
        return np.ones(shape)
    array = host(who, "weight", weight).astype(np.float64)
    if array.shape != shape[: array.ndim]:
        need = f"of the targets' shape {shape}, or of its first axes"
        raise ShapeError(message(who, "weight", array, need))
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(message(who, "weight", "negative or not finite", "numbers of at least 0"))
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


def rows(
    who: str, outputs: Any, targets: Any, weight: Any, ignore_index: int | None = None, *, elementwise: bool = False
) -> Rows:
    """Scores, classes and weights of the targets that count.

    Parameters
    ----------
    who : str
        The metric.
    outputs : array
        (..., classes) scores; for two classes also (...) or (..., 1), one score each.
    targets : array
        Class indices (...); or, of the outputs' shape, probabilities (..., classes), of which the largest counts. For
        one score each 0 and 1, or probabilities.
    weight : array or None
        How much each target counts.
    ignore_index : int, optional
        Targets of this class do not count.
    elementwise : bool
        Whether every element is a target of its own, as with several labels.
    """
    x, y = host(who, "outputs", outputs), host(who, "targets", targets)
    many = not elementwise and x.ndim > 0 and x.shape[-1] > 1 and (x.shape[:-1] == y.shape or x.ndim > 1)
    if not many:
        return _single(who, x, y, weight, ignore_index)
    if y.shape == x.shape[:-1]:
        if y.dtype.kind == "f":
            raise DTypeError(message(who, "targets", y, "class indices of an integer dtype"))
        x, y, w = _counted(x.reshape(-1, x.shape[-1]), y.reshape(-1), _weights(who, weight, y, ignore_index))
        classes = y.astype(np.int64)
        if classes.size and not 0 <= classes.min() <= classes.max() < x.shape[-1]:
            wrong = classes[(classes < 0) | (classes >= x.shape[-1])][0]
            need = f"classes from 0 to {x.shape[-1] - 1}"
            raise ValueError(
                message(who, "targets", f"{wrong} in some place", need, "ignore_index= leaves a class out")
            )
        return Rows(x, classes, w)
    if y.shape != x.shape:
        need = f"class indices {x.shape[:-1]} or probabilities {x.shape}"
        raise ShapeError(message(who, "targets", y, f"{need} for outputs of {x.shape}"))
    w = weights(who, weight, y.shape[:-1])
    x, y, w = _counted(x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1]), w)
    if not (np.abs(y.sum(-1) - 1.0) <= SUM).all():
        hint = "For several labels there are binary_accuracy and F1(multilabel=True), for numbers mae, mse and r2"
        raise ValueError(
            message(who, "targets", "not 1 in the sum of each row", "one class each, or probabilities", hint)
        )
    return Rows(x, y.argmax(-1), w)


def _single(who: str, x: Array, y: Array, weight: Any, ignore_index: int | None) -> Rows:
    """Rows with one score each."""
    if x.shape == (*y.shape, 1):
        x = x[..., 0]
    if x.shape != y.shape:
        need = f"of the outputs' shape {x.shape}"
        if x.ndim:
            need += f", or class indices {x.shape[:-1]}"
        raise ShapeError(message(who, "targets", y, need))
    got = describe(y)
    x, y, w = _counted(x.reshape(-1), y.reshape(-1), _weights(who, weight, y, ignore_index))
    if not ((y >= 0) & (y <= 1)).all():
        hint = "More classes need a score each, on the last axis of the outputs; for numbers there are mae, mse and r2"
        raise ValueError(message(who, "targets", f"not all in 0..1 ({got})", "0, 1 or probabilities", hint))
    return Rows(x, (y > 0.5).astype(np.int64), w)


def _weights(who: str, weight: Any, y: Array, ignore_index: int | None) -> Array:
    """The weight of each target, 0 for those of a class that does not count."""
    w = weights(who, weight, y.shape)
    return w if ignore_index is None else np.where(y == ignore_index, 0.0, w)


def _counted(x: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
    """The rows whose weight is not 0; where all count nothing is copied."""
    w = w.reshape(-1)
    counted = w != 0
    return (x, y, w) if counted.all() else (x[counted], y[counted], w[counted])


def elements(who: str, outputs: Any, targets: Any, weight: Any) -> tuple[Array, Array, Array]:
    """Outputs, targets and weights of one shape, float64; nothing is broadcast."""
    x, y = host(who, "outputs", outputs), host(who, "targets", targets)
    if x.shape != y.shape:
        hint = "Take the last axis of 1 away, with outputs[:, 0]" if x.shape == (*y.shape, 1) else ""
        raise ShapeError(message(who, "targets", y, f"of the outputs' shape {x.shape}", hint))
    return x.astype(np.float64), y.astype(np.float64), weights(who, weight, y.shape)


def cuts(who: str, threshold: float) -> tuple[float, float]:
    """The logit and the probability above which the answer is yes."""
    p = number(who, "threshold", threshold)
    if not 0.0 < p < 1.0:
        raise ValueError(message(who, "threshold", f"{p}", "a probability between 0 and 1"))
    return math.log(p / (1.0 - p)), p

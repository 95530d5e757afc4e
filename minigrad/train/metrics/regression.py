"""Metrics of numbers: mean errors, and how much of the targets' variation the outputs explain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.train.metrics.arrays import Array, elements
from minigrad.train.metrics.metric import Metric, register

__all__ = ["MAE", "MSE", "R2", "RMSE", "Pearson"]


@register("mse")
class MSE(Metric):
    """The mean squared error over all elements, ``sum(w * (output - target)^2) / sum(w)``; NaN without any.

    Outputs and targets are of one shape, and nothing is broadcast. A weight counts for an element, or for all of an
    example. Sums are float64.

    Parameters
    ----------
    name : str, optional
        By default ``"mse"``.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> mse = metrics.get("mse")
    >>> mse.update(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    >>> mse.result()
    4.5
    """

    name = "mse"
    mode = "min"

    def reset(self) -> None:
        self.total = self.count = 0.0

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        x, y, w = elements(type(self).__name__, outputs, targets, weight)
        counted = w != 0
        self.total += float(self._errors(x[counted] - y[counted]) @ w[counted])
        self.count += float(w.sum())

    def _errors(self, difference: Array) -> Array:
        return difference * difference

    def result(self) -> float:
        return self.total / self.count if self.count else math.nan


@register("rmse")
class RMSE(MSE):
    """The root of the mean squared error, ``sqrt(mse)``: of all batches together, not the mean of their roots.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> rmse = metrics.get("rmse")
    >>> rmse.update(np.array([1.0, 2.0]), np.array([1.0, 6.0]))
    >>> round(rmse.result(), 6)
    2.828427
    """

    name = "rmse"

    def result(self) -> float:
        return math.sqrt(super().result())


@register("mae")
class MAE(MSE):
    """The mean absolute error, ``sum(w * |output - target|) / sum(w)``; otherwise as `MSE`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> mae = metrics.get("mae")
    >>> mae.update(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    >>> mae.result()
    1.5
    """

    name = "mae"

    def _errors(self, difference: Array) -> Array:
        return np.abs(difference)


class _Moments(Metric):
    """Means, variances and the covariance of outputs and targets, column by column.

    Batches are put together by the update of T. Chan, G. Golub and R. LeVeque ("Updating formulae and a pairwise
    algorithm for computing sample variances", 1979). The first value of each column is taken from all of it before, so
    that a column far from 0 loses no digits and a constant one has a variance of exactly 0.
    """

    mode = "max"

    def reset(self) -> None:
        self.origin = np.zeros((2, 0))  # the first output and target of each column, NaN while there is none
        self.weight = np.zeros(0)
        self.mean = np.zeros((2, 0))
        self.product = np.zeros((3, 0))  # sums of (x - mean)^2, (y - mean)^2 and (x - mean)(y - mean)
        self.residual = np.zeros(0)  # sum of (x - y)^2

    def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
        who = type(self).__name__
        x, y, w = elements(who, outputs, targets, weight)
        if not x.ndim:
            raise ShapeError(message(who, "outputs", outputs, "at least one axis, that of the examples"))
        columns = math.prod(x.shape[1:])
        x, y, w = (part.reshape(len(x), columns) for part in (x, y, w))
        if not self.weight.size:
            for key in self._counts:
                setattr(self, key, np.zeros((*getattr(self, key).shape[:-1], columns)))
            self.origin[...] = np.nan
        if columns != self.weight.size:
            raise ShapeError(message(who, "outputs", outputs, f"{self.weight.size} numbers an example, as before"))
        if not len(x):
            return
        counted = w > 0
        first, any_ = counted.argmax(0), counted.any(0)
        new = np.isnan(self.origin[0]) & any_
        for origin, part in zip(self.origin, (x, y), strict=True):
            origin[new] = part[first, np.arange(columns)][new]
        difference = np.where(counted, x - y, 0.0)
        x, y = (np.where(counted, part - origin, 0.0) for part, origin in zip((x, y), self.origin, strict=True))
        added = w.sum(0)
        mean = np.stack([(w * part).sum(0) for part in (x, y)]) / np.where(any_, added, 1.0)
        dx, dy = x - mean[0], y - mean[1]
        product = np.stack([(w * a * b).sum(0) for a, b in ((dx, dx), (dy, dy), (dx, dy))])
        share = added / np.where(any_, self.weight + added, 1.0)
        step = np.where(any_, mean - self.mean, 0.0)
        self.product += product + step[[0, 1, 0]] * step[[0, 1, 1]] * self.weight * share
        self.mean += step * share
        self.weight = self.weight + added
        self.residual = self.residual + (w * difference**2).sum(0)

    def merge(self, state: Mapping[str, Any]) -> None:
        if not self.weight.size or not state["weight"].size:
            if state["weight"].size:
                self.load_state_dict(state)
            return
        if state["weight"].shape != self.weight.shape:
            need = f"{self.weight.size} numbers an example, as before"
            raise ShapeError(message(type(self).__name__, "outputs", f"{state['weight'].size} numbers", need))
        added, none = state["weight"], np.isnan(self.origin[0])
        self.origin[:, none] = state["origin"][:, none]
        moved = np.where(added > 0, state["origin"] - self.origin, 0.0)  # means are from the first value on
        share = added / np.where(added > 0, self.weight + added, 1.0)
        step = np.where(added > 0, state["mean"] + moved - self.mean, 0.0)
        self.product += state["product"] + step[[0, 1, 0]] * step[[0, 1, 1]] * self.weight * share
        self.mean += step * share
        self.weight = self.weight + added
        self.residual = self.residual + state["residual"]


@register("r2")
class R2(_Moments):
    """The share of the targets' variance that is explained: ``1 - sum(w (y - x)^2) / sum(w (y - mean(y))^2)``.

    Outputs and targets are of one shape; the result is the mean over the columns, which are all places but the first
    axis. 1 is a perfect fit, 0 that of the mean. NaN where a column of targets is constant, or there is none.

    Parameters
    ----------
    name : str, optional
        By default ``"r2"``.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> r2 = metrics.get("r2")
    >>> r2.update(np.array([2.5, 0.0]), np.array([3.0, -0.5]))
    >>> r2.update(np.array([2.0, 8.0]), np.array([2.0, 7.0]))
    >>> round(r2.result(), 4)
    0.9486
    """

    name = "r2"

    def result(self) -> float:
        total = self.product[1]
        if not total.size or not total.all():
            return math.nan
        return float((1.0 - self.residual / total).mean())


@register("pearson")
class Pearson(_Moments):
    """The correlation of outputs and targets, ``cov(x, y) / sqrt(var(x) var(y))``, from -1 to 1.

    The result is the mean over the columns, which are all places but the first axis. NaN where a column is constant, or
    there is none.

    Parameters
    ----------
    name : str, optional
        By default ``"pearson"``.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train import metrics
    >>> pearson = metrics.get("pearson")
    >>> pearson.update(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    >>> round(pearson.result(), 9)
    1.0
    """

    name = "pearson"

    def result(self) -> float:
        xx, yy, xy = self.product
        if not xx.size or not (xx.all() and yy.all()):
            return math.nan
        return float(np.clip(xy / np.sqrt(xx) / np.sqrt(yy), -1.0, 1.0).mean())

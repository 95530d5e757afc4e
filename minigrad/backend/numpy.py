"""The NumPy backend: the array namespace that op bodies see on the CPU, and how arrays are made and copied there."""

from __future__ import annotations

import math
import operator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigrad._core import philox, special
from minigrad.backend import random

__all__ = ["NumpyBackend", "backend"]

Array = Any


def index_add(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """Zeros of `shape` with `values` added at `index`; an index that occurs twice gets both."""
    key = index if isinstance(index, tuple) else (index,)
    if all(not isinstance(part, np.ndarray) or part.dtype == np.bool_ for part in key):
        out = np.zeros(shape, values.dtype)
        out[key] = values  # slices and masks name no place twice
        return out
    if values.dtype.itemsize == 2 and values.dtype.kind in "fV":
        return index_add(shape, index, values.astype(np.float32)).astype(values.dtype)
    if values.size < 2048:
        out = np.zeros(shape, values.dtype)
        np.add.at(out, key, values)
        return out
    # add.at is several times faster with one axis, once the work outweighs finding the places
    where = _places(shape, key)
    out = np.zeros(math.prod(shape), values.dtype)
    np.add.at(out, where.reshape(-1), np.broadcast_to(values, where.shape).reshape(-1))
    return out.reshape(shape)


def _places(shape: tuple[int, ...], key: tuple[Any, ...]) -> Array:
    """The flat positions in an array of `shape` that an index reads."""
    lead = len(shape)
    if all(part is not Ellipsis for part in key):
        masks = [part.ndim for part in key if isinstance(part, np.ndarray) and part.dtype == np.bool_]
        lead = sum(masks) + sum(part is not None for part in key) - len(masks)
    rest = math.prod(shape[lead:])
    where: Any = 0
    for axis in range(lead):
        stride = math.prod(shape[axis + 1 : lead])
        count = np.arange(shape[axis]).reshape((-1,) + (1,) * (lead - axis - 1))
        where = where + np.broadcast_to(count, shape[:lead])[key] * stride
    if rest == 1 and lead == len(shape):
        return where
    return (where[..., np.newaxis] * rest + np.arange(rest)).reshape(where.shape + shape[lead:])


def index_put(x: Array, values: Array, index: Any) -> Array:
    """A copy of `x` with ``copy[index] = values``."""
    out = x.copy()
    out[index] = values
    return out


def index_extremum(x: Array, values: Array, index: Any, largest: bool) -> Array:
    """A copy of `x` that has the larger (or smaller) of itself and `values` at `index`; duplicates all count."""
    out = x.copy()
    (np.maximum if largest else np.minimum).at(out, index, values)
    return out


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); where exp overflows, the result is the right 0."""
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def keep_mask(shape: tuple[int, ...], seed: int, counter: int, rate: float, first: int = 0) -> Array:
    """Bools that are False at a probability of `rate`, each a function of (seed, counter, `first` + its index)."""
    skip = first % 4
    out = np.empty(skip + math.prod(shape), np.uint8)
    philox.fill_keep_mask(seed, counter, rate, out, first // 4)
    return out.view(np.bool_)[skip:].reshape(shape)


class NumpyBackend:
    """What the dispatcher asks of a backend; CuPy's has the same attributes."""

    name = "cpu"
    array_type = np.ndarray
    random = random

    def __init__(self) -> None:
        # NumPy itself is (almost) the array API; the rest of what op bodies call is added beside it. Its __dict__ and
        # not dir(): that would import every submodule that NumPy loads lazily.
        self.namespace = SimpleNamespace(
            **{name: value for name, value in vars(np).items() if not name.startswith("_")}
        )
        self.namespace.erf = special.erf
        self.namespace.sigmoid = sigmoid
        self.namespace.softplus = softplus
        self.namespace.keep_mask = keep_mask
        self.namespace.getitem = operator.getitem
        self.namespace.index_add = index_add
        self.namespace.index_put = index_put
        self.namespace.index_extremum = index_extremum

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Array:
        """Any array-like as an array of this backend, without a copy where it is one."""
        return np.asarray(value, dtype)

    @staticmethod
    def copy(array: Array) -> Array:
        """An own, contiguous copy."""
        return np.array(array, order="C", copy=True)

    @staticmethod
    def current(name: str) -> AbstractContextManager[Any]:
        """A block in which a device is the current one."""
        return nullcontext()

    @staticmethod
    def device(array: Array) -> str:
        """The name of the device that an array lies on."""
        return "cpu"

    @staticmethod
    def to_numpy(array: Array) -> np.ndarray[Any, Any]:
        """The array on the CPU."""
        return array  # type: ignore[no-any-return]


backend = NumpyBackend()

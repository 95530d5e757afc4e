"""RowSparse: a gradient of a table of which few rows were used, kept as these rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigrad._core.cpu import Kernel

__all__ = ["RowSparse", "backend"]

Array = np.ndarray[Any, Any]
add_rows = Kernel("embedding", "embedding_vjp")


class RowSparse:
    """An array that is 0 but in some rows.

    `backward` puts one into ``.grad`` of a table whose rows are looked up with ``sparse=True``. It takes part in sums
    of gradients, and optimizers that know it touch its rows only. Everywhere else it turns into the full array: in
    ops, in NumPy's functions, in the graph below a table that is no leaf.

    Parameters
    ----------
    shape : tuple of int
        Of the full array.
    ids : numpy.ndarray of int64
        (rows,), ascending, each once.
    values : numpy.ndarray
        (rows, *shape[1:]); nobody else holds it.
    """

    __slots__ = ("ids", "shape", "values")
    __array_ufunc__ = None  # NumPy's operators leave sums to the methods here
    flags = SimpleNamespace(writeable=False, c_contiguous=False)  # no full array to write into

    def __init__(self, shape: tuple[int, ...], ids: Array, values: Array) -> None:
        self.shape, self.ids, self.values = shape, ids, values

    @classmethod
    def gather(cls, shape: tuple[int, ...], ids: Array, values: Array) -> RowSparse:
        """Add up the rows of each id, in the order in which they come: the work depends on their number alone."""
        order = np.argsort(ids, kind="stable")
        found = ids[order].astype(np.int64, copy=False)
        first = np.ones(found.shape, np.bool_)
        np.not_equal(found[1:], found[:-1], out=first[1:])
        starts = np.flatnonzero(first)
        if starts.size == found.size:
            return cls(shape, found, values[order])
        half = values.dtype.itemsize == 2  # half types accumulate in float32
        wide = values.astype(np.float32) if half else values
        places = np.empty(found.shape, np.int64)
        places[order] = np.cumsum(first) - 1
        total = add_rows(wide, (starts.size, *shape[1:]), places, padding_idx=None)
        if total is NotImplemented:
            total = np.add.reduceat(wide[order], starts, axis=0)
        return cls(shape, found[starts], total.astype(values.dtype, copy=False))

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: Any) -> RowSparse:
        """All zeros."""
        return cls(shape, np.empty(0, np.int64), np.empty((0, *shape[1:]), dtype))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """How many axes the full array has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements the full array has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The memory of the rows."""
        return self.values.nbytes + self.ids.nbytes

    def dense(self) -> Array:
        """The full array."""
        out = np.zeros(self.shape, self.dtype)
        out[self.ids] = self.values
        return out

    def add_to(self, array: Array) -> None:
        """Add the rows to those of a full array, in place."""
        array[self.ids] += self.values

    def copy(self) -> RowSparse:
        """A copy with memory of its own."""
        return RowSparse(self.shape, self.ids, self.values.copy())

    def view(self) -> RowSparse:
        """Itself: it cannot be written to through its elements."""
        return self

    def __add__(self, other: Any) -> Any:
        if isinstance(other, RowSparse):
            ids, values = np.concatenate((self.ids, other.ids)), np.concatenate((self.values, other.values))
            return RowSparse.gather(self.shape, ids, values)
        out = np.array(other, self.dtype)
        self.add_to(out)
        return out

    __radd__ = __add__  # addition of two numbers commutes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.dense().astype(self.dtype if dtype is None else dtype, copy=False)


class RowsBackend:
    """What the engine asks of a backend, for the moment before ops see the full array."""

    name = "cpu"
    array_type = RowSparse
    namespace = SimpleNamespace(isfinite=lambda rows: np.isfinite(rows.values))

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Any:
        """The value itself: a sum of gradients."""
        return value

    @staticmethod
    def copy(rows: RowSparse) -> RowSparse:
        """An own copy."""
        return rows.copy()

    @staticmethod
    def device(rows: RowSparse) -> str:
        """The name of the device that it lies on."""
        return "cpu"

    @staticmethod
    def to_numpy(rows: RowSparse) -> Array:
        """The full array."""
        return rows.dense()


backend = RowsBackend()

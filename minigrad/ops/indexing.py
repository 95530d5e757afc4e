"""Indexing: reading places of a tensor.

Everything that NumPy takes between brackets works. Integers, slices, None and Ellipsis give views; integer arrays,
lists, tensors and boolean masks give copies. An index is no input of the graph: it is copied when the op is called, so
changing it later changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops import reduction
from minigrad.ops.arithmetic import divide, multiply, pow
from minigrad.ops.conversion import as_operand
from minigrad.ops.creation import ones
from minigrad.ops.manipulation import permute_dims
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.scatter import (
    PARTS,
    Index,
    Key,
    accumulate,
    along,
    as_key,
    fitted,
    has_arrays,
    index_add,
    index_extremum,
    index_put,
    put_along_axis,
    scatter_add,
)

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "At", "diagonal", "getitem", "index_add", "index_put", "put_along_axis", "scatter_add", "take", "take_along_axis",
]  # fmt: skip


@op(dtype=keep, view=True, needs="an index into x: " + PARTS)
def _getitem(xp: Any, x: Array, /, index: Key) -> Array:
    return xp.getitem(x, index)


_getitem.vjp(0)(lambda xp, g, x_shape, *, index: xp.index_add(x_shape, index, g))
_getitem.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0, into=True)(Kernel("embedding", "getitem_vjp"))
_getitem.samples(
    case((3,), index=(1, ...)),
    case((2, 3), index=(-1,)),
    case((4, 3), index=(slice(None, None, -2), None, slice(1, 3))),
    case((2, 3, 4), index=(..., 0)),
    case((), index=(None, ...)),
    case((), index=()),
    case((0, 3), index=(slice(None), 1)),
    case((4, 3), index=(np.array([0, 2, 0]),)),
    case((4, 3), index=(np.array([[0], [-1]]), np.array([0, 2]))),
    case((3, 2, 4), index=(np.array([0, 2, 2]), slice(None), np.array([1, 1, 1]))),
    case((3, 4), index=(slice(None), np.array([], np.int64))),
    case((2, 3), index=(np.array([[True, False, True], [False, False, True]]),)),
    case((3, 2), index=(np.array([True, False, True]), 1)),
    case((3, 2), index=(True,)),
    error(IndexError, "index 3 is out of bounds for axis 0 with size 3", (3,), index=(3,)),
    error(IndexError, "-4 is out of bounds for axis 1 with size 3", (2, 3), index=(slice(None), np.array([0, -4]))),
    error(IndexError, "too many indices", (3,), index=(0, 0)),
    error(IndexError, "boolean index did not match", (3,), index=(np.array([True, False]),)),
    error(IndexError, "integer", (3,), index=(np.array([0.5]),)),
)


def getitem(x: Tensor, index: Index, /) -> Tensor:
    """``x[index]``: read places of a tensor.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    index : int, slice, None, Ellipsis, array_like of int or bool, or a tuple of them
        What NumPy takes, tensors included.

    Returns
    -------
    Tensor
        A view for integers, slices, None and Ellipsis alone, else a copy. A place that is read twice gets both
        gradients.

    Raises
    ------
    IndexError
        For an index outside an axis, more indices than axes, a mask of another shape, and an index that is not an
        integer.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> x[:, 0]  # mg.ops.getitem(x, (slice(None), 0))
    tensor([1., 3.])
    >>> x[mg.tensor([1, 1])]
    tensor([[3., 4.],
            [3., 4.]])
    """
    return _getitem(x, as_key(index))


@op(dtype=keep, skip="indices", needs="integers that are indices along the axis of x")
def _take(xp: Any, x: Array, indices: Array, /, axis: int) -> Array:
    if indices.dtype not in dtypes.INTEGER:
        raise DTypeError(message("take", "indices", indices, "integers", "Cast with t.astype(mg.int64)"))
    return xp.take(x, indices, axis=axis)


@_take.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], indices: Array, *, axis: int) -> Array:
    return xp.index_add(x_shape, (slice(None),) * (axis % len(x_shape)) + (indices,), g)


_take.kernel("cpu", *dtypes.ALL)(Kernel("embedding", "take"))
_take.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0, into=True)(Kernel("embedding", "take_vjp"))
_take.samples(
    case((4,), np.array([1, -1, 1]), axis=0),
    case((4, 3), A((2, 2), 0, 4, kind="int"), axis=0),
    case((2, 3, 2), A((4,), 0, 3, kind="int"), axis=-2),
    case((2, 3), 1, axis=1),
    case((2, 3), A((0,), 0, 1, kind="int"), axis=1),
    error(IndexError, "index 4 is out of bounds", (4,), np.array([4]), axis=0),
    error(DTypeError, "integers", (4,), np.array([1.0]), axis=0),
    error(ShapeError, "axis", (4,), np.array([1]), axis=1),
)


def take(x: Tensor, indices: Tensor, /, axis: int | None = None) -> Tensor:
    """Pick entries along one axis, as ``x[:, indices]`` does for ``axis=1``.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    indices : Tensor of int
        Any shape; negative ones count from the end.
    axis : int, optional
        Where to pick; may be left out where `x` has one axis.

    Returns
    -------
    Tensor
        Of the shape of `x` with `axis` replaced by the shape of `indices`.

    Raises
    ------
    IndexError
        For an index outside the axis.
    DTypeError
        If `indices` are not integers.
    ShapeError
        If `x` has no such axis, or several and none is named.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.take(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1, 0, 1]), axis=0)
    tensor([[3., 4.],
            [1., 2.],
            [3., 4.]])
    """
    if axis is None:
        x = as_operand("take", "x", x)
        if x.ndim != 1:
            raise ShapeError(message("take", "axis", None, f"an axis of x with shape {x.shape}"))
        axis = 0
    return _take(x, indices, axis=axis)


@op(dtype=keep, skip="indices", needs="indices with as many axes as x, equal or 1 in extent on all but one")
def take_along_axis(xp: Any, x: Array, indices: Array, /, axis: int = -1) -> Array:
    """Pick along one axis by indices that differ from row to row; for the last: ``out[i, j] = x[i, indices[i, j]]``.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    indices : Tensor of int
        As many axes as `x`; they broadcast against it on all axes but `axis`.
    axis : int
        The axis that `indices` count along.

    Returns
    -------
    Tensor
        Of the shape of `indices`, stretched to that of `x` on the other axes.

    Raises
    ------
    IndexError
        For an index outside the axis, and for indices that are not integers.
    ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.take_along_axis(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([[1], [0]]))
    tensor([[2.],
            [3.]])
    """
    return xp.take_along_axis(x, indices, axis=axis)


@take_along_axis.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], indices: Array, *, axis: int) -> Array:
    return xp.index_add(x_shape, along(xp, indices, x_shape, axis), g)


take_along_axis.samples(
    case((4,), np.array([1, -1, 1])),
    case((2, 3), A((2, 5), 0, 3, kind="int")),
    case((4, 3), A((2, 3), 0, 4, kind="int"), axis=0),
    case((2, 3), A((1, 2), 0, 3, kind="int"), axis=1),
    case((1, 3), A((2, 2), 0, 3, kind="int"), axis=-1),
    case((2, 3), A((2, 0), 0, 3, kind="int"), axis=1),
    error(IndexError, "index 3 is out of bounds", (2, 3), np.array([[3], [0]]), axis=1),
    error(ShapeError, "as many axes as x", (2, 3), np.array([0]), axis=1),
    error(IndexError, "integer", (3,), np.array([0.5])),
)


def diagonal(x: Tensor, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The entries ``x[i, i + offset]`` of two axes, as a new last axis. `mg.linalg.diagonal` reads the last two axes.

    Parameters
    ----------
    x : Tensor
        At least two axes.
    offset : int
        How far above the main diagonal; negative is below.
    axis1, axis2 : int
        The axes of the rows and of the columns.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `x` has fewer than two axes, or the two are one.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.diagonal(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 4.])
    """
    x = as_operand("diagonal", "x", x)
    n = x.ndim
    if not (-n <= axis1 < n and -n <= axis2 < n and axis1 % n != axis2 % n):
        raise ShapeError(message("diagonal", "axes", (axis1, axis2), f"two different axes of x with shape {x.shape}"))
    rows, columns = axis1 % n, axis2 % n
    length = max(0, min(x.shape[rows] + min(offset, 0), x.shape[columns] - max(offset, 0)))
    i = np.arange(length)
    others = tuple(axis for axis in range(n) if axis not in (rows, columns))
    return getitem(permute_dims(x, (*others, rows, columns)), (..., i - min(offset, 0), i + max(offset, 0)))


class At:
    """``t.at``: the differentiable forms of in-place changes. Each method answers a new tensor and leaves `t` as it is.

    Where an index names a place twice, `add`, `subtract`, `min` and `max` apply every value, `set` the last one, and
    `multiply`, `divide` and `power` raise.

    Parameters
    ----------
    tensor : Tensor
        What is to be changed.

    Examples
    --------
    >>> import minigrad as mg
    >>> t = mg.tensor([1.0, 2.0, 3.0])
    >>> t.at[0].set(9.0)
    tensor([9., 2., 3.])
    >>> t.at[[1, 1]].add(1.0)
    tensor([1., 4., 3.])
    """

    __slots__ = ("_index", "_tensor")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._index: Index = ...

    def __getitem__(self, index: Index) -> At:
        chosen = At(self._tensor)
        chosen._index = index
        return chosen

    def get(self) -> Tensor:
        """``t[index]``."""
        return getitem(self._tensor, self._index)

    def set(self, values: Tensor | float) -> Tensor:
        """``t[index] = values``."""
        return index_put(self._tensor, values, self._index)

    def add(self, values: Tensor | float) -> Tensor:
        """``t[index] += values``."""
        return accumulate(self._tensor, values, self._index)

    def subtract(self, values: Tensor | float) -> Tensor:
        """``t[index] -= values``."""
        return accumulate(self._tensor, -fitted(self._tensor, values), self._index)

    def multiply(self, values: Tensor | float) -> Tensor:
        """``t[index] *= values``."""
        return self._once("multiply", multiply, values)

    def divide(self, values: Tensor | float) -> Tensor:
        """``t[index] /= values``."""
        return self._once("divide", divide, values)

    def power(self, values: Tensor | float) -> Tensor:
        """``t[index] **= values``."""
        return self._once("power", pow, values)

    def min(self, values: Tensor | float) -> Tensor:
        """``t[index] = minimum(t[index], values)``; ties share the gradient equally."""
        return index_extremum(self._tensor, values, self._index, largest=False)

    def max(self, values: Tensor | float) -> Tensor:
        """``t[index] = maximum(t[index], values)``; ties share the gradient equally."""
        return index_extremum(self._tensor, values, self._index, largest=True)

    def _once(self, name: str, change: Any, values: Any) -> Tensor:
        x, key = self._tensor, as_key(self._index, f"at.{name}")
        taken = getitem(x, key)
        if has_arrays(key) and x.size and reduction.max(index_add(x.shape, key, ones(taken.shape))).item() > 1:
            raise IndexError(message(f"at.{name}", "index", "one that names a place twice", "each place at most once"))
        return index_put(x, change(taken, values), key)

"""Scattering: new tensors that have values put, added or compared at some places of another, and what an index is."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.errors import AxisError, DTypeError, ShapeError, message
from minigrad.ops.conversion import as_operand, astype, check_operand, to_array
from minigrad.ops.registry import Array, DTypeRule, Op, keep, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["index_add", "index_put", "put_along_axis", "scatter_add"]

Index = Any  # what stands between brackets
Key = tuple[Any, ...]  # an index with its tensors and lists turned into arrays

_BASIC = frozenset({int, slice, type(Ellipsis)})
PARTS = "integers, slices, None, Ellipsis, integer arrays or boolean masks"


def as_key(index: Index, who: str = "getitem") -> Key:
    """An index as a tuple of Python ints, slices, None, Ellipsis and arrays that nobody else can change."""
    if type(index) is int:
        return (index, Ellipsis)
    parts = index if type(index) is tuple else (index,)
    key = tuple([part if part is None or type(part) in _BASIC else _part(part, who) for part in parts])
    # NumPy answers a scalar where every axis has an integer; the Ellipsis makes it a view
    return (*key, Ellipsis) if all(type(p) is int for p in key) else key


def _part(part: Any, who: str) -> Any:
    if isinstance(part, (bool, np.bool_)):
        return bool(part)
    if isinstance(part, tape.TensorBase):
        array = part._array.copy()
    elif hasattr(part, "dtype") and hasattr(part, "ndim"):
        array = part.copy()
    elif isinstance(part, (list, range)):
        array = to_array(part, who=who) if len(part) else np.zeros(0, dtypes.int64)
    else:
        try:
            return operator.index(part)
        except TypeError:
            raise IndexError(message(who, "index", part, PARTS, "Cast with int(i) or t.astype(mg.int64)")) from None
    if array.dtype not in dtypes.INTEGER | dtypes.BOOL:
        raise IndexError(message(who, "index", array, PARTS, "Cast it with t.astype(mg.int64)"))
    return array if array.ndim else array.item()


def has_arrays(key: Key) -> bool:
    """Whether integer arrays are among the parts of a key, so that a place may occur twice."""
    return any(hasattr(p, "dtype") and p.dtype != dtypes.bool for p in key)


@op(dtype=keep, needs="values that broadcast to the shape of zeros(shape)[index]")
def _index_add(xp: Any, values: Array, /, shape: tuple[int, ...], index: Key) -> Array:
    return xp.index_add(shape, index, values)


_index_add.vjp(0)(lambda xp, g, *, index: xp.getitem(g, index))
_index_add.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("embedding", "index_add"))
_index_add.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("embedding", "index_add_vjp"))
_index_add.samples(
    case((3,), shape=(4,), index=(np.array([3, 0, 3]),)),
    case((2, 3), shape=(4, 3), index=(slice(1, 3),)),
    case((2,), shape=(3, 2), index=(np.array([2, 2, 0]),)),
    case((), shape=(3,), index=(1, ...)),
    case((2, 2), shape=(2, 3, 3), index=(slice(None), np.array([1, 1]), np.array([0, 0]))),
    case((0, 2), shape=(3, 2), index=(np.array([], np.int64),)),
    case((2,), shape=(3,), index=(np.array([True, False, True]),)),
    error(ShapeError, "values that broadcast", (3,), shape=(4,), index=(np.array([0, 1]),)),
    error(IndexError, "out of bounds", (2,), shape=(4,), index=(np.array([0, 4]),)),
)


def index_add(shape: tuple[int, ...], index: Index, values: Tensor) -> Tensor:
    """Zeros of `shape` with `values` added at `index`, the transpose of ``x[index]``. A place named twice gets both.

    Parameters
    ----------
    shape : tuple of int
        The shape of the result.
    index : index
        As between brackets.
    values : Tensor
        They broadcast to the shape of ``x[index]``.

    Returns
    -------
    Tensor

    Raises
    ------
    IndexError
        As for `getitem`.
    ShapeError
        If `values` does not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.index_add((3,), [0, 2, 0], mg.tensor([1.0, 2.0, 3.0]))
    tensor([4., 0., 2.])
    """
    return _index_add(values, shape, as_key(index, "index_add"))


class Into(DTypeRule):
    """All inputs take the dtype of the first, as when values are assigned into an array."""

    def resolve(self, op: Op[Any], arrays: list[Any], skip: tuple[bool, ...], backend: Any) -> Any:
        x = arrays[0] if hasattr(arrays[0], "dtype") else self._constant(arrays[0], None, backend)
        self.check(op, x.dtype)
        own = arrays[1].dtype if hasattr(arrays[1], "dtype") else dtypes.promote([], [arrays[1]])
        kinds = [dtypes.BOOL, dtypes.INTEGER, dtypes.FLOATING, dtypes.COMPLEX]
        if [own in k for k in kinds].index(True) > [x.dtype in k for k in kinds].index(True):
            hint = f"Cast x first: x.astype(mg.{own})"
            raise DTypeError(message(op.name, "values", f"{own}", f"a dtype that {x.dtype} can hold", hint))
        # a number goes straight into the dtype of x: by way of its own it would be rounded twice
        return [x, self._constant(arrays[1], x.dtype, backend)], x.dtype, x.dtype


@op(dtype=Into(accumulate=False), needs="values that broadcast to the shape of x[index]")
def _index_put(xp: Any, x: Array, values: Array, /, index: Key) -> Array:
    return xp.index_put(x, values, index)


@_index_put.vjp(0)
def _(xp: Any, g: Array, *, index: Key) -> Array:
    return xp.index_put(g, xp.zeros((), dtype=g.dtype), index)


@_index_put.vjp(1)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, index: Key) -> Array:
    taken = xp.getitem(g, index)
    if not has_arrays(index):
        return taken
    # where a place occurs more than once, only the value that was written last has an influence
    turn = xp.reshape(xp.arange(taken.size), taken.shape)
    last = xp.index_put(xp.zeros(x_shape, dtype=turn.dtype), turn, index)
    return xp.where(xp.equal(xp.getitem(last, index), turn), taken, xp.zeros_like(taken))


_index_put.samples(
    case((3,), (), index=(1, ...)),
    case((3, 4), (4,), index=(slice(1, None),)),
    case((3, 4), (2, 4), index=(np.array([2, 0]),)),
    case((4,), (3,), index=(np.array([1, 3, 1]),)),
    case((2, 3), (3,), index=(np.array([[True, False, True], [False, False, True]]),)),
    case((2, 3), 1.5, index=(..., 0)),
    case((), (), index=()),
    case((0, 3), (), index=(slice(None), 1)),
    error(ShapeError, "values that broadcast", (3,), (2,), index=(slice(None),)),
    error(IndexError, "out of bounds", (3,), (), index=(5, ...)),
    error(DTypeError, "a dtype that int64 can hold", A((3,), kind="int", low=0, high=5), (), index=(0, ...)),
)


def index_put(x: Tensor, values: Tensor | float, /, index: Index) -> Tensor:
    """A copy of `x` with ``copy[index] = values``.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    values : Tensor or number
        They broadcast to the shape of ``x[index]`` and are cast to the dtype of `x`.
    index : index
        As between brackets. Where a place occurs more than once, the last value counts and gets the gradient.

    Returns
    -------
    Tensor
        Of the shape and dtype of `x`. The gradient of `x` is 0 at the places that were overwritten.

    Raises
    ------
    IndexError
        As for `getitem`.
    ShapeError
        If `values` does not fit.
    DTypeError
        If floats shall go into integers, or complex numbers into real ones.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.index_put(mg.tensor([1.0, 2.0, 3.0]), 0.0, slice(1, None))
    tensor([1., 0., 0.])
    """
    return _index_put(x, values, index=as_key(index, "index_put"))


@op(dtype=Into(accumulate=False, kinds=dtypes.ALL - dtypes.COMPLEX), needs="values that broadcast to x[index]")
def _index_extremum(xp: Any, x: Array, values: Array, /, index: Key, largest: bool) -> Array:
    return xp.index_extremum(x, values, index, largest)


@_index_extremum.vjp()
def _(
    xp: Any, g: Array, x: Array, values: Array, out: Array, x_shape: tuple[int, ...], *, index: Key, largest: bool
) -> tuple[Array, Array]:
    kept, written = xp.equal(x, out), xp.equal(values, xp.getitem(out, index))
    ties = xp.astype(kept, g.dtype) + xp.index_add(x_shape, index, xp.astype(written, g.dtype))
    share = g / ties
    nothing = xp.zeros((), dtype=g.dtype)
    return xp.where(kept, share, nothing), xp.where(written, xp.getitem(share, index), nothing)


_index_extremum.samples(
    case((3,), (2,), index=(np.array([0, 2]),), largest=True),
    case((3,), (4,), index=(np.array([0, 2, 0, 0]),), largest=False),
    case((2, 3), (3,), index=(slice(None), slice(None, None, -1)), largest=True),
    case((2, 3), (), index=(..., 0), largest=False),
    case((0, 3), (), index=(slice(None), 1), largest=True),
    error(ShapeError, "values that broadcast", (3,), (2,), index=(slice(None),), largest=True),
    error(
        DTypeError, "index_extremum: got complex128, needs one of", np.ones(3, complex), 2.0, index=(0,), largest=True
    ),
)


def index_extremum(x: Tensor, values: Tensor | float, index: Index, *, largest: bool) -> Tensor:
    """A copy of `x` with the largest (or smallest) of what was there and of all `values` for a place at `index`.

    What `At.max` and `At.min` call.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.tensor([1.0, 5.0]).at[[0, 0]].max(mg.tensor([3.0, 2.0]))
    tensor([3., 5.])
    """
    return _index_extremum(x, values, index=as_key(index, "index_extremum"), largest=largest)


def along(xp: Any, indices: Array, shape: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """The index that reads `indices` along one axis of an array of `shape`, and every other axis in place."""
    n = len(shape)
    spread = [tuple(extent if i == j else 1 for j in range(n)) for i, extent in enumerate(shape)]
    return tuple([indices if i == axis % n else xp.reshape(xp.arange(shape[i]), spread[i]) for i in range(n)])


def _checked_along(who: str, x: Tensor, indices: Any, axis: int) -> Key:
    """`along` for arguments that come from the user."""
    if not isinstance(indices, range):
        check_operand(who, "indices", indices)
    key = as_key([indices] if isinstance(indices, int) else indices, who)
    ids = key[0]
    if not hasattr(ids, "dtype") or ids.dtype == dtypes.bool or ids.ndim != x.ndim:
        raise ShapeError(message(who, "indices", ids, f"integers with {x.ndim} axes, as x has"))
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(message(who, "axis", axis, f"an axis of x with shape {x.shape}"))
    return along(np, ids, x.shape, axis)


def put_along_axis(x: Tensor, indices: Tensor, values: Tensor | float, /, axis: int = -1) -> Tensor:
    """A copy of `x` with `values` put where `indices` say along an axis; the inverse of `take_along_axis`.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    indices : Tensor of int
        As many axes as `x`; they broadcast against it on all axes but `axis`.
    values : Tensor or number
        They broadcast to the shape of `indices`.
    axis : int
        The axis that `indices` count along.

    Returns
    -------
    Tensor
        Of the shape and dtype of `x`; NumPy's function of this name changes `x` instead.

    Raises
    ------
    ShapeError
        If `indices` has another number of axes, or `values` does not fit.
    IndexError
        For an index outside the axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.put_along_axis(mg.zeros((2, 3)), mg.tensor([[1], [2]]), 9.0)
    tensor([[0., 9., 0.],
            [0., 0., 9.]])
    """
    x = as_operand("put_along_axis", "x", x)
    check_operand("put_along_axis", "values", values)
    return index_put(x, values, _checked_along("put_along_axis", x, indices, axis))


def scatter_add(x: Tensor, indices: Tensor, values: Tensor | float, /, axis: int = -1) -> Tensor:
    """A copy of `x` with `values` added where `indices` say along an axis; a place that occurs twice gets both.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    indices : Tensor of int
        As many axes as `x`; they broadcast against it on all axes but `axis`.
    values : Tensor or number
        They broadcast to the shape of `indices`, and are cast to the dtype of `x`.
    axis : int
        The axis that `indices` count along.

    Returns
    -------
    Tensor
        Of the shape and dtype of `x`.

    Raises
    ------
    ShapeError
        If `indices` has another number of axes, or `values` does not fit.
    IndexError
        For an index outside the axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.scatter_add(mg.zeros(3), mg.tensor([0, 2, 0]), mg.tensor([1.0, 2.0, 3.0]))
    tensor([4., 0., 2.])
    """
    x = as_operand("scatter_add", "x", x)
    check_operand("scatter_add", "values", values)
    return accumulate(x, values, _checked_along("scatter_add", x, indices, axis))


def accumulate(x: Tensor, values: Tensor | float, index: Index) -> Tensor:
    """A copy of `x` with `values` added at `index`, duplicates and all, in the dtype of `x`."""
    return x + index_add(x.shape, index, fitted(x, values))


def fitted(x: Tensor, values: Any) -> Tensor:
    """Values in the dtype of the tensor they are to be written into."""
    if not hasattr(values, "dtype"):
        values = to_array(values, x.dtype, who="at")
    return astype(values, x.dtype, copy=False)

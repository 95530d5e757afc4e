"""Reductions: ops that collapse axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import arrays
from minigrad.errors import ShapeError
from minigrad.ops.conversion import astype
from minigrad.ops.registry import Array, DTypeRule, Op, comparison, exact, op
from minigrad.ops.samples import A, Case, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["all", "any", "max", "min", "prod", "sum"]

Axis = int | tuple[int, ...] | None


def kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape of a reduction with ``keepdims=True``."""
    axes = collapsed(shape, axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def collapsed(shape: tuple[int, ...], axis: Axis) -> list[int]:
    """The axes, counted from the front, that a reduction collapses."""
    if axis is None:
        return list(range(len(shape)))
    n = len(shape)
    axes = (axis,) if isinstance(axis, int) else axis
    if not shape and isinstance(axis, int) and -1 <= axis <= 0:
        return []  # NumPy's reductions let these axes of a number pass
    for a in axes:
        if not -n <= a < n:
            raise np.exceptions.AxisError(a, n)
    return [a % n for a in axes]


def reduction_samples(low: float = -2.0, high: float = 2.0, form: str = "any", empty: bool = True) -> list[Case]:
    """The shapes and axes that every reduction is tried on."""
    cases = [
        case(A((3,), low, high, form=form)),
        case(A((2, 3), low, high, form=form), axis=0),
        case(A((2, 3), low, high, form=form), axis=-1, keepdims=True),
        case(A((2, 3, 2), low, high, form=form), axis=(0, 2)),
        case(A((), low, high, form=form)),
        error(ShapeError, "axis", A((2, 3), low, high), axis=2),
    ]
    return [*cases, case(A((0, 3), low, high), axis=0)] if empty else cases


def constant(*ops: Op[Any]) -> None:
    """Say of ops with boolean or integer results that no gradient passes through them."""
    for made in ops:
        made.vjp(*range(len(made.inputs)))(lambda xp, g: None)


class Accumulating(DTypeRule):
    """Sums and products of small integers and bools are 64 bits wide, so that they do not wrap."""

    def resolve(self, op: Op[Any], arrays: list[Any], skip: tuple[bool, ...], backend: Any) -> Any:
        x = arrays[0]
        if hasattr(x, "dtype") and x.dtype in dtypes.BOOL | dtypes.INTEGER:
            wide = dtypes.uint64 if x.dtype in dtypes.UNSIGNED else dtypes.int64
            return [x.astype(wide)], wide, wide
        return super().resolve(op, arrays, skip, backend)


accumulating = Accumulating(kinds=dtypes.ALL)
accumulating.plain = frozenset({dtypes.float32, dtypes.float64, dtypes.int64, dtypes.uint64}) | dtypes.COMPLEX


@op(dtype=accumulating, ref="numpy.sum", needs="an axis of x, or a tuple of different ones", amp="float32")
def _sum(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    return xp.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


@_sum.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, axis: Axis, keepdims: bool) -> Array:
    return g if keepdims or axis is None else xp.reshape(g, kept(x_shape, axis))  # the engine stretches it


_sum.samples(*reduction_samples())
_sum.kernel("cpu", dtypes.float32, dtypes.float64)(arrays.sum_small)


def sum(x: Tensor, /, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over axes, accumulated at least in float32; integers are summed in 64 bits.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to sum over; all axes by default.
    dtype : dtype, optional
        Cast to it first.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.sum(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    if dtype is None:
        return _sum(x, axis=axis, keepdims=keepdims)
    # small integers are accumulated in 64 bits
    return astype(_sum(astype(x, dtype), axis=axis, keepdims=keepdims), dtype, copy=False)


@op(dtype=accumulating, ref="numpy.prod", needs="an axis of x, or a tuple of different ones", amp="float32")
def _prod(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    return xp.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


@_prod.vjp(0)
def _(xp: Any, g: Array, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    gone = collapsed(x.shape, axis)
    stay = [i for i in range(x.ndim) if i not in gone]
    order = (*stay, *gone)
    rows = xp.permute_dims(x, order)
    rest = others(xp, xp.reshape(rows, (*rows.shape[: len(stay)], math.prod(rows.shape[len(stay) :]))))
    back = xp.permute_dims(xp.reshape(rest, rows.shape), tuple(order.index(i) for i in range(x.ndim)))
    return back * xp.reshape(g, kept(x.shape, axis))


def others(xp: Any, x: Array) -> Array:
    """For each element of the last axis the product of all the others.

    Pairs are multiplied, the pairs' others found, and each element then lacks only its partner. Nothing is divided, so
    zeros are no special case, at any order of differentiation.
    """
    n = x.shape[-1]
    if n < 2:
        return xp.ones_like(x)
    half = n // 2
    first, second, odd = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rest = others(xp, xp.concat([first * second, odd], axis=-1))
    pairs = rest[..., :half]
    return xp.concat([pairs * second, pairs * first, rest[..., half:]], axis=-1)


_prod.samples(*reduction_samples(), case(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0]]), axis=1))


def prod(x: Tensor, /, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Product over axes, accumulated at least in float32; integers are multiplied in 64 bits.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to multiply over; all axes by default.
    dtype : dtype, optional
        Cast to it first.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        The product; 1 over an empty axis. The gradient is right where elements are 0.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.prod(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([3., 8.])
    """
    if dtype is None:
        return _prod(x, axis=axis, keepdims=keepdims)
    # small integers are accumulated in 64 bits
    return astype(_prod(astype(x, dtype), axis=axis, keepdims=keepdims), dtype, copy=False)


ordered = exact.but(kinds=dtypes.ALL - dtypes.COMPLEX)


@op(dtype=ordered, ref="numpy.max", needs="an axis of x or several, none of them empty")
def max(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Largest value over axes. Equal ones share the gradient equally; NaN wins.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape.
    axis : int or tuple of int, optional
        What to search; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        Of the dtype of `x`.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or is empty there.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([2.0, 5.0, 5.0], requires_grad=True)
    >>> mg.max(x).backward()
    >>> x.grad
    tensor([0. , 0.5, 0.5])
    """
    return xp.max(x, axis=axis, keepdims=keepdims)


@op(dtype=ordered, ref="numpy.min", needs="an axis of x or several, none of them empty")
def min(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Smallest value over axes. Equal ones share the gradient equally; NaN wins.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape.
    axis : int or tuple of int, optional
        What to search; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        Of the dtype of `x`.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or is empty there.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.min(mg.tensor([[1.0, 5.0], [4.0, 2.0]]), axis=1)
    tensor([1., 2.])
    """
    return xp.min(x, axis=axis, keepdims=keepdims)


@max.vjp(0)
@min.vjp(0)
def _share(xp: Any, g: Array, x: Array, out: Array, *, axis: Axis, keepdims: bool) -> Array:
    shape = kept(x.shape, axis)
    hit = xp.equal(x, xp.reshape(out, shape))
    ties = xp.astype(xp.sum(hit, axis=axis, keepdims=True), g.dtype)
    return xp.where(hit, xp.reshape(g, shape) / ties, xp.zeros((), dtype=g.dtype))


for extremum in (max, min):
    extremum.samples(
        *reduction_samples(form="distinct", empty=False),
        case((0, 3), axis=1),
        error(ShapeError, "none of them empty", (0, 3), axis=0),
        error(ShapeError, "none of them empty", (0,)),
    )


@op(dtype=comparison, ref="numpy.any", needs="an axis of x, or a tuple of different ones")
def any(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether any value over axes is True (or not zero); False over an empty axis.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to look at; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor of bool

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.any(mg.tensor([[0, 1], [0, 0]]), axis=1)
    tensor([ True, False])
    """
    return xp.any(x, axis=axis, keepdims=keepdims)


@op(dtype=comparison, ref="numpy.all", needs="an axis of x, or a tuple of different ones")
def all(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether all values over axes are True (or not zero); True over an empty axis.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to look at; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor of bool

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.all(mg.tensor([[1, 1], [0, 1]]), axis=1)
    tensor([ True, False])
    """
    return xp.all(x, axis=axis, keepdims=keepdims)


constant(any, all)

for logical in (any, all):
    logical.samples(
        *reduction_samples(),
        case(A((2, 3), kind="bool"), axis=0),
        case(A((2, 3), 0, 2, kind="int"), axis=(0, 1), keepdims=True),
    )

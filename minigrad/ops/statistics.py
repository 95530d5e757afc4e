"""Statistics: means and spreads over axes, running sums and products, differences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad.errors import AxisError, DTypeError, ShapeError, message
from minigrad.ops.conversion import as_index, as_operand, astype
from minigrad.ops.joining import concat
from minigrad.ops.reduction import Axis, accumulating, kept, reduction_samples
from minigrad.ops.registry import Array, accumulate_float32, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["cumulative_prod", "cumulative_sum", "diff", "mean", "std", "var"]


def count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many values a reduction takes together."""
    if axis is None:
        return math.prod(shape)
    if not shape and isinstance(axis, int):
        raise np.exceptions.AxisError(axis, 0)
    return math.prod(n for n, one in zip(shape, kept(shape, axis), strict=True) if one == 1)


@op(dtype=accumulate_float32, ref="numpy.mean", needs="an axis of x, or a tuple of different ones", amp="float32")
def mean(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Mean over axes, accumulated at least in float32; integers give the default floating dtype.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to average over; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        The mean; NaN over an empty axis.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.mean(mg.tensor([[1.0, 2.0], [3.0, 6.0]]), axis=0)
    tensor([2., 4.])
    """
    return xp.sum(x, axis=axis, keepdims=keepdims) / count(x.shape, axis)


@mean.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, axis: Axis) -> Array:
    return xp.reshape(g, kept(x_shape, axis)) / count(x_shape, axis)


mean.samples(*reduction_samples(empty=False), case((3, 0), axis=0))

real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)


def squares(xp: Any, x: Array, axis: Axis, correction: float, keepdims: bool) -> Array:
    """The variance, from deviations: a difference of sums of squares would cancel."""
    n = count(x.shape, axis)
    deviation = x - xp.sum(x, axis=axis, keepdims=True) / n
    freedom = n - correction if n > correction else 0
    return xp.sum(deviation * deviation, axis=axis, keepdims=keepdims) / freedom


@op(dtype=real, needs="an axis of x, or a tuple of different ones", amp="float32")
def var(xp: Any, x: Array, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Variance over axes: ``sum((x - mean(x))**2) / (n - correction)``.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape; integers give the default floating dtype.
    axis : int or tuple of int, optional
        What to take together; all axes by default.
    correction : float
        What is subtracted from the number of values: 0 for the variance of a population, 1 for the unbiased estimate.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        The variance; NaN where there are no more values than `correction`.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.var(mg.tensor([1.0, 2.0, 3.0])), mg.var(mg.tensor([1.0, 2.0, 3.0]), correction=1)
    (tensor(0.6666667), tensor(1.))
    """
    return squares(xp, x, axis, correction, keepdims)


@var.vjp(0)
def _(xp: Any, g: Array, x: Array, *, axis: Axis, correction: float) -> Array:
    n = count(x.shape, axis)
    deviation = x - xp.sum(x, axis=axis, keepdims=True) / n
    return 2 * xp.reshape(g, kept(x.shape, axis)) * deviation / (n - correction if n > correction else 0)


var.samples(
    *reduction_samples(empty=False),
    case((4,), correction=1),
    case((4, 3), axis=0, correction=1.5),
    case((3, 0), axis=0),
)


@op(dtype=real, needs="an axis of x, or a tuple of different ones", amp="float32")
def std(xp: Any, x: Array, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Standard deviation over axes: the square root of `var`. Its derivative where all values are equal is 0.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape; integers give the default floating dtype.
    axis : int or tuple of int, optional
        What to take together; all axes by default.
    correction : float
        What is subtracted from the number of values: 0 for a population, 1 for a sample.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        The standard deviation; NaN where there are no more values than `correction`.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.std(mg.tensor([1.0, 3.0]))
    tensor(1.)
    """
    return xp.sqrt(squares(xp, x, axis, correction, keepdims))


@std.vjp(0)
def _(xp: Any, g: Array, x: Array, out: Array, *, axis: Axis, correction: float) -> Array:
    n = count(x.shape, axis)
    shape = kept(x.shape, axis)
    deviation = x - xp.sum(x, axis=axis, keepdims=True) / n
    out = xp.reshape(out, shape)
    flat = xp.equal(out, xp.zeros_like(out))
    scale = xp.reshape(g, shape) / (xp.where(flat, xp.ones_like(out), out) * (n - correction if n > correction else 0))
    return xp.where(flat, xp.zeros_like(out), scale) * deviation


std.samples(
    case(A((3,), form="distinct")),
    case(A((3, 2), form="distinct"), axis=0),
    case(A((2, 3), form="distinct"), axis=-1, keepdims=True),
    case(A((2, 3, 2), form="distinct"), axis=(0, 2)),
    case(A((4, 3), form="distinct"), axis=0, correction=1),
    case((3, 0), axis=0),
    error(ShapeError, "axis", (2, 3), axis=2),
)


@op(dtype=accumulating, needs="an axis of x; only a tensor with one axis may leave it out", amp="float32")
def _cumulative_sum(xp: Any, x: Array, /, axis: int, *, include_initial: bool = False) -> Array:
    return xp.cumulative_sum(x, axis=axis, dtype=x.dtype, include_initial=include_initial)


@_cumulative_sum.vjp(0)
def _(xp: Any, g: Array, *, axis: int, include_initial: bool) -> Array:
    if include_initial:
        g = g[along(g.ndim, axis, slice(1, None))]
    back = along(g.ndim, axis, slice(None, None, -1))
    return xp.cumulative_sum(g[back], axis=axis)[back]


def along(ndim: int, axis: int, part: slice) -> tuple[slice, ...]:
    """The index that takes `part` of one axis and all of the others."""
    return (slice(None),) * (axis % ndim) + (part,)


running = (
    case((4,), axis=0),
    case((2, 3), axis=0),
    case((2, 3), axis=-1),
    case((2, 3, 2), axis=1, include_initial=True),
    case((3,), axis=0, include_initial=True),
    case((0, 3), axis=0),
    case((2, 0), axis=0),
    error(ShapeError, "axis", (2, 3), axis=2),
)
_cumulative_sum.samples(*running)


def cumulative_sum(
    x: Tensor, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Running sum along an axis, accumulated at least in float32; integers are summed in 64 bits.

    Parameters
    ----------
    x : Tensor
        At least one axis.
    axis : int, optional
        The axis; may be left out where `x` has one.
    dtype : dtype, optional
        Cast to it first.
    include_initial : bool
        Start with 0, so that the axis is one longer.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `x` has no such axis, or several and none is named.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.cumulative_sum(mg.tensor([1.0, 2.0, 3.0]))
    tensor([1., 3., 6.])
    """
    x = as_operand("cumulative_sum", "x", x)
    axis = only_axis("cumulative_sum", x, axis)
    if dtype is None:
        return _cumulative_sum(x, axis=axis, include_initial=include_initial)
    # small integers are accumulated in 64 bits
    return astype(_cumulative_sum(astype(x, dtype), axis=axis, include_initial=include_initial), dtype, copy=False)


def only_axis(who: str, x: Tensor, axis: int | None) -> int:
    """The axis that was named, or the one that there is."""
    if x.ndim == 0 or (axis is None and x.ndim > 1):
        raise AxisError(message(who, "axis", axis, f"an axis of x with shape {x.shape}"))
    return 0 if axis is None else axis


@op(dtype=accumulating, needs="an axis of x; only a tensor with one axis may leave it out", amp="float32")
def _cumulative_prod(xp: Any, x: Array, /, axis: int, *, include_initial: bool = False) -> Array:
    return xp.cumulative_prod(x, axis=axis, dtype=x.dtype, include_initial=include_initial)


@_cumulative_prod.vjp(0)
def _(xp: Any, g: Array, x: Array, out: Array, *, axis: int, include_initial: bool) -> Array:
    n = x.shape[axis]
    if include_initial:
        before, g = out[along(x.ndim, axis, slice(n))], g[along(x.ndim, axis, slice(1, None))]
    else:
        one = xp.ones_like(x[along(x.ndim, axis, slice(1))])
        before = xp.concat([one, out[along(x.ndim, axis, slice(max(n - 1, 0)))]], axis=axis)
    # the gradient of x[k] is before[k] * s[k] with s[k] = g[k] + x[k+1] * s[k+1]. The recurrence is solved by doubling,
    # without a division, so zeros are no special case
    factor = shifted(xp, x, 1, axis)
    step = 1
    while step < n:
        g = g + factor * shifted(xp, g, step, axis)
        factor = factor * shifted(xp, factor, step, axis)
        step *= 2
    return before * g


def shifted(xp: Any, x: Array, step: int, axis: int) -> Array:
    """``x[k + step]`` at k along an axis, zeros beyond the end."""
    start = along(x.ndim, axis, slice(step))
    return xp.concat([x[along(x.ndim, axis, slice(step, None))], xp.zeros_like(x[start])], axis=axis)


_cumulative_prod.samples(*running)


def cumulative_prod(
    x: Tensor, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Running product along an axis, accumulated at least in float32; integers are multiplied in 64 bits.

    Parameters
    ----------
    x : Tensor
        At least one axis.
    axis : int, optional
        The axis; may be left out where `x` has one.
    dtype : dtype, optional
        Cast to it first.
    include_initial : bool
        Start with 1, so that the axis is one longer.

    Returns
    -------
    Tensor
        The products. The gradient is right where elements are 0.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or several and none is named.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.cumulative_prod(mg.tensor([1.0, 2.0, 3.0]))
    tensor([1., 2., 6.])
    """
    x = as_operand("cumulative_prod", "x", x)
    axis = only_axis("cumulative_prod", x, axis)
    if dtype is None:
        return _cumulative_prod(x, axis=axis, include_initial=include_initial)
    # small integers are accumulated in 64 bits
    return astype(_cumulative_prod(astype(x, dtype), axis=axis, include_initial=include_initial), dtype, copy=False)


def diff(
    x: Tensor, /, axis: int = -1, n: int = 1, *, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbors along an axis: ``x[i + 1] - x[i]``, `n` times over.

    Parameters
    ----------
    x : Tensor
        At least one axis; not boolean.
    axis : int
        The axis.
    n : int
        How often to take differences; 0 gives `x`.
    prepend, append : Tensor, optional
        What to put before and behind `x` first.

    Returns
    -------
    Tensor
        Shorter by `n` along the axis.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or `n` is negative.
    DTypeError
        For booleans.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.diff(mg.tensor([1.0, 4.0, 9.0]))
    tensor([3., 5.])
    """
    x, axis, n = as_operand("diff", "x", x), as_index("diff", "axis", axis), as_index("diff", "n", n)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(message("diff", "axis", axis, f"an axis of x with shape {x.shape}"))
    if n < 0:
        raise ShapeError(message("diff", "n", n, "a number that is not negative"))
    if x.dtype == dtypes.bool:
        raise DTypeError(message("diff", "x", x, "numbers", "Cast with x.astype(mg.int64)"))
    if n == 0:
        return x
    named = (("prepend", prepend), ("x", x), ("append", append))
    ends = [as_operand("diff", name, part) for name, part in named if part is not None]
    if len(ends) > 1:
        x = concat(ends, axis=axis)
    for _ in range(n):
        x = x[along(x.ndim, axis, slice(1, None))] - x[along(x.ndim, axis, slice(None, -1))]
    return x

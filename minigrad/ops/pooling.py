"""Pooling: windows of each channel brought down to their maximum or their mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import ShapeError, message
from minigrad.ops.conversion import asarray
from minigrad.ops.registry import Array, accumulate_float32, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.windows import Pads, Sizes, count, gather, scatter, sizes

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d",
]  # fmt: skip

Shape = tuple[int, ...]
Extents = int | tuple[int, ...]
real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)


def _check(who: str, x: Array, n: int) -> None:
    if x.ndim != n + 2:
        hint = "One example is a batch of 1: x[None]" if x.ndim == n + 1 else ""
        raise ShapeError(message(who, "x", x, f"{n + 2} axes, (batch, channels, {n} spatial)", hint))


@op(dtype=real, amp="widest")
def _max_pool(xp: Any, x: Array, /, *, window: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> Array:
    """Maxima of windows; `max_pool1d` and `max_pool2d` are the public functions.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.max_pool1d(mg.tensor([[[1.0, 3.0, 2.0, 5.0]]]), 2)
    tensor([[[3., 5.]]])
    """
    who = f"max_pool{len(window)}d"
    _check(who, x, len(window))
    counts = count(who, x.shape[2:], window, stride, padding, dilation)
    return xp.max(gather(xp, x, window, counts, stride, padding, dilation, -math.inf), axis=2)


@_max_pool.vjp(0)
def _(
    xp: Any, g: Array, x: Array, out: Array, *, window: Sizes, stride: Sizes, padding: Pads, dilation: Sizes
) -> Array:
    extents, counts = tuple(x.shape[2:]), tuple(out.shape[2:])
    columns = gather(xp, x, window, counts, stride, padding, dilation, -math.inf)
    hit = xp.equal(columns, xp.expand_dims(out, axis=2))
    if any(map(any, padding)):
        inside = gather(np, np.ones((1, 1, *extents), np.bool_), window, counts, stride, padding, dilation, False)
        hit = xp.logical_and(hit, xp.asarray(inside))
    ties = xp.astype(xp.sum(hit, axis=2, keepdims=True), g.dtype)
    shares = xp.where(hit, xp.expand_dims(g, axis=2) / ties, xp.zeros((), dtype=g.dtype))
    return scatter(xp, shares, extents, window, stride, padding, dilation)


_max_pool.samples(
    case(A((2, 2, 6), form="distinct"), window=(2,), stride=(2,), padding=((0, 0),), dilation=(1,)),
    case(A((1, 2, 7), form="distinct"), window=(3,), stride=(2,), padding=((1, 1),), dilation=(2,)),
    case(A((2, 2, 4, 5), form="distinct"), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)),
    case(A((2, 1, 4, 5), form="distinct"), window=(3, 2), stride=(1, 2), padding=((1, 1), (1, 0)), dilation=(1, 1)),
    case(A((1, 1, 2, 3, 2), form="distinct"), window=(2, 2, 1), stride=(1, 1, 1), padding=((0, 0),) * 3,
         dilation=(1, 1, 1)),
    case((0, 2, 4), window=(2,), stride=(2,), padding=((0, 0),), dilation=(1,)),
    error(ShapeError, "max_pool1d: x is float64 (2, 4), needs 3 axes", (2, 4), window=(2,), stride=(2,),
          padding=((0, 0),), dilation=(1,)),
    error(ShapeError, "max_pool1d: x is (1,) with its padding, needs at least", (2, 4, 1), window=(2,), stride=(2,),
          padding=((0, 0),), dilation=(1,)),
)  # fmt: skip


def _shares(extents: Sizes, window: Sizes, counts: Sizes, stride: Sizes, padding: Pads, include: bool) -> Any:
    """What the sum of each window is multiplied by: an array (*counts), or one number where all have as many."""
    if include or not any(map(any, padding)):
        return 1 / math.prod(window)
    inside = gather(np, np.ones((1, 1, *extents)), window, counts, stride, padding, (1,) * len(window))
    return 1 / np.maximum(inside.sum(axis=(0, 1, 2)), 1)


def _scaled(xp: Any, x: Array, shares: Any) -> Array:
    return x * shares if isinstance(shares, float) else x * xp.asarray(shares, dtype=x.dtype)


@op(dtype=real, amp="widest")
def _avg_pool(xp: Any, x: Array, /, *, window: Sizes, stride: Sizes, padding: Pads, count_include_pad: bool) -> Array:
    """Means of windows; `avg_pool1d` and `avg_pool2d` are the public functions.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.avg_pool1d(mg.tensor([[[1.0, 3.0, 2.0, 5.0]]]), 2)
    tensor([[[2. , 3.5]]])
    """
    who, extents = f"avg_pool{len(window)}d", tuple(x.shape[2:])
    _check(who, x, len(window))
    counts = count(who, extents, window, stride, padding, (1,) * len(window))
    total = xp.sum(gather(xp, x, window, counts, stride, padding, (1,) * len(window)), axis=2)
    return _scaled(xp, total, _shares(extents, window, counts, stride, padding, count_include_pad))


@_avg_pool.vjp(0)
def _(
    xp: Any, g: Array, x_shape: Shape, *, window: Sizes, stride: Sizes, padding: Pads, count_include_pad: bool
) -> Array:
    extents, counts = tuple(x_shape[2:]), tuple(g.shape[2:])
    g = _scaled(xp, g, _shares(extents, window, counts, stride, padding, count_include_pad))
    values = xp.broadcast_to(xp.expand_dims(g, axis=2), (*g.shape[:2], math.prod(window), *counts))
    return scatter(xp, values, extents, window, stride, padding, (1,) * len(window))


_avg_pool.samples(
    case((2, 2, 6), window=(2,), stride=(2,), padding=((0, 0),), count_include_pad=True),
    case((1, 2, 5), window=(3,), stride=(2,), padding=((1, 1),), count_include_pad=False),
    case((2, 2, 4, 5), window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), count_include_pad=False),
    case((2, 1, 3, 4), window=(3, 2), stride=(1, 2), padding=((1, 1), (1, 0)), count_include_pad=False),
    case((2, 1, 3, 4), window=(3, 2), stride=(1, 2), padding=((1, 1), (1, 1)), count_include_pad=True),
    case((0, 2, 4), window=(2,), stride=(2,), padding=((0, 0),), count_include_pad=True),
    error(ShapeError, "avg_pool1d: x is float64 (2, 4), needs 3 axes", (2, 4), window=(2,), stride=(2,),
          padding=((0, 0),), count_include_pad=True),
    error(ShapeError, "avg_pool1d: x is (1,) with its padding, needs at least", (2, 4, 1), window=(2,), stride=(2,),
          padding=((0, 0),), count_include_pad=True),
)  # fmt: skip


def _parts(extent: int, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where the parts of an axis that cover it evenly start and end.

    An element e is in the parts from ``_parts(size, extent)[0][e]`` up to ``_parts(size, extent)[1][e]``.
    """
    i = np.arange(size)
    return i * extent // size, -((-(i + 1) * extent) // size)


def _sums(xp: Any, x: Array, axis: int, size: int) -> Array:
    """The sum of each part of an axis, of its own elements alone: what is not finite spoils no other part."""
    starts, ends = _parts(x.shape[axis], size)
    lengths = ends - starts
    all_before: tuple[slice, ...] = (slice(None),) * axis
    if size <= lengths.max():
        sums = [xp.sum(x[(*all_before, slice(*part))], axis=axis) for part in zip(starts.tolist(), ends.tolist())]
        return xp.stack(sums, axis=axis)
    total: Any = None
    for k in range(lengths.max()):
        term = xp.take(x, xp.asarray(np.minimum(starts + k, ends - 1)), axis=axis)
        if k >= lengths.min():
            inside = np.reshape(k < lengths, (-1,) + (1,) * (x.ndim - axis - 1))
            term = xp.where(xp.asarray(inside), term, xp.zeros((), dtype=x.dtype))
        total = term if total is None else total + term
    return total


def _lengths(xp: Any, x: Array, axis: int, extent: int, size: int) -> Array:
    """How many elements each part has, along an axis of x."""
    starts, ends = _parts(extent, size)
    return xp.asarray(np.reshape(ends - starts, (-1,) + (1,) * (x.ndim - axis - 1)), dtype=x.dtype)


@op(dtype=real, amp="widest")
def _adaptive_avg_pool(xp: Any, x: Array, /, *, output: Sizes) -> Array:
    """Means of parts of each axis; `adaptive_avg_pool1d` and `adaptive_avg_pool2d` are the public functions.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.adaptive_avg_pool1d(mg.tensor([[[1.0, 3.0, 2.0, 6.0, 4.0]]]), 2)
    tensor([[[2., 4.]]])
    """
    who = f"adaptive_avg_pool{len(output)}d"
    _check(who, x, len(output))
    if not all(x.shape[2:]):
        raise ShapeError(message(who, "x", x, "an element on each spatial axis"))
    for axis, size in enumerate(output, start=2):
        extent = x.shape[axis]
        x = _sums(xp, x, axis, size) / _lengths(xp, x, axis, extent, size)
    return x


@_adaptive_avg_pool.vjp(0)
def _(xp: Any, g: Array, x_shape: Shape, *, output: Sizes) -> Array:
    for axis, size in enumerate(output, start=2):
        extent = x_shape[axis]
        g = _sums(xp, g / _lengths(xp, g, axis, extent, size), axis, extent)
    return g


_adaptive_avg_pool.samples(
    case((2, 2, 6), output=(2,)),
    case((2, 1, 5, 7), output=(2, 3)),
    case((2, 1, 2, 3), output=(3, 1)),
    case((1, 2, 11, 3), output=(3, 7)),
    case((0, 1, 2), output=(1,)),
    error(ShapeError, "adaptive_avg_pool1d: x is float64 (2, 4), needs 3 axes", (2, 4), output=(2,)),
    error(ShapeError, "adaptive_avg_pool1d: x is float64 (2, 4, 0), needs an element", (2, 4, 0), output=(2,)),
)


for _of in (_max_pool, _avg_pool):
    _of.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("pooling", _of.name))
    _of.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("pooling", f"{_of.name}_vjp"))
_adaptive_avg_pool.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("adaptive_pooling", "adaptive_avg_pool"))
_adaptive_avg_pool.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(
    Kernel("adaptive_pooling", "adaptive_avg_pool_vjp")
)


# ---- public functions ------------------------------------------------------------------------------------------------


def _windows(who: str, window: Extents, stride: Extents | None, padding: Extents) -> tuple[Sizes, Sizes, Sizes]:
    n = int(who[-2])
    size = sizes(who, "window", window, n)
    step = size if stride is None else sizes(who, "stride", stride, n)
    pads = sizes(who, "padding", padding, n, 0)
    if any(2 * p > w for p, w in zip(pads, size, strict=True)):
        raise ShapeError(message(who, "padding", f"{padding}", f"at most half the window {size}"))
    return size, step, pads


def _largest(
    who: str, x: Tensor, window: Extents, stride: Extents | None, padding: Extents, dilation: Extents, ceil_mode: bool
) -> Tensor:
    x = asarray(x)
    size, step, around = _windows(who, window, stride, padding)
    spread = sizes(who, "dilation", dilation, len(size))
    pairs = tuple((p, p) for p in around)
    if ceil_mode and x.ndim == len(size) + 2:
        pairs = tuple(
            (p, p + _overhang(e, w, s, p, d))
            for e, w, s, p, d in zip(x.shape[2:], size, step, around, spread, strict=True)
        )
    return _max_pool(x, window=size, stride=step, padding=pairs, dilation=spread)


def _overhang(extent: int, window: int, stride: int, padding: int, dilation: int) -> int:
    """How far one more window, which begins on an element or in the padding before it, sticks out of the padding."""
    left = extent + 2 * padding - dilation * (window - 1) - 1
    windows = left // stride + 1
    if left % stride == 0 or left < 0 or windows * stride >= extent + padding:
        return 0
    return windows * stride - left


def max_pool1d(
    x: Tensor,
    window: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    dilation: Extents = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The maxima of windows on one axis: `max_pool2d` with one spatial axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.max_pool1d(mg.tensor([[[1.0, 3.0, 2.0, 5.0, 4.0]]]), 2, ceil_mode=True)
    tensor([[[3., 5., 4.]]])
    """
    return _largest("max_pool1d", x, window, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Tensor,
    window: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    dilation: Extents = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The maxima of windows on two axes; equal ones in a window share the gradient equally, and NaN wins.

    Y.-L. Boureau, J. Ponce, Y. LeCun, "A theoretical analysis of feature pooling in visual recognition", 2010.

    Parameters
    ----------
    x : Tensor
        (n, channels, height, width).
    window : int or tuple of int
        Extents of a window; one number for both axes or one for each, here and below.
    stride : int or tuple of int, optional
        From one window to the next; that of the window by default.
    padding : int or tuple of int
        Elements, less than all others, before and behind each axis; at most half the window.
    dilation : int or tuple of int
        From one element of a window to the next.
    ceil_mode : bool
        Whether a last window may stick out behind the padding, if it begins before it.

    Returns
    -------
    Tensor
        (n, channels, *counts), ``count = (extent + 2 * padding - dilation * (window - 1) - 1) // stride + 1``.

    Raises
    ------
    ShapeError
        If x does not have these axes, is smaller than a window, or a number is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([[[[1.0, 1.0], [0.0, 1.0]]]], requires_grad=True)
    >>> mg.max_pool2d(x, 2).backward(mg.tensor([[[[3.0]]]]))
    >>> x.grad
    tensor([[[[1., 1.],
              [0., 1.]]]])
    """
    return _largest("max_pool2d", x, window, stride, padding, dilation, ceil_mode)


def _mean(
    who: str, x: Tensor, window: Extents, stride: Extents | None, padding: Extents, count_include_pad: bool
) -> Tensor:
    size, step, around = _windows(who, window, stride, padding)
    pairs = tuple((p, p) for p in around)
    return _avg_pool(x, window=size, stride=step, padding=pairs, count_include_pad=bool(count_include_pad))


def avg_pool1d(
    x: Tensor,
    window: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """The means of windows on one axis: `avg_pool2d` with one spatial axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.avg_pool1d(mg.tensor([[[1.0, 3.0, 2.0]]]), 2, 1)
    tensor([[[2. , 2.5]]])
    """
    return _mean("avg_pool1d", x, window, stride, padding, count_include_pad)


def avg_pool2d(
    x: Tensor,
    window: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """The means of windows on two axes.

    Parameters
    ----------
    x : Tensor
        (n, channels, height, width).
    window : int or tuple of int
        Extents of a window; one number for both axes or one for each, here and below.
    stride : int or tuple of int, optional
        From one window to the next; that of the window by default.
    padding : int or tuple of int
        Zeros before and behind each axis; at most half the window.
    count_include_pad : bool
        Whether these zeros count in the mean.

    Returns
    -------
    Tensor
        (n, channels, *counts), ``count = (extent + 2 * padding - window) // stride + 1``.

    Raises
    ------
    ShapeError
        If x does not have these axes, is smaller than a window, or a number is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.avg_pool2d(mg.tensor([[[[1.0, 3.0], [2.0, 6.0]]]]), 2)
    tensor([[[[3.]]]])
    """
    return _mean("avg_pool2d", x, window, stride, padding, count_include_pad)


def adaptive_avg_pool1d(x: Tensor, output_size: Extents) -> Tensor:
    """The means of `output_size` parts that cover one axis: `adaptive_avg_pool2d` with one spatial axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.adaptive_avg_pool1d(mg.tensor([[[1.0, 3.0, 2.0, 4.0]]]), 2)
    tensor([[[2., 3.]]])
    """
    return _adaptive_avg_pool(x, output=sizes("adaptive_avg_pool1d", "output_size", output_size, 1))


def adaptive_avg_pool2d(x: Tensor, output_size: Extents) -> Tensor:
    """The means of a number of parts that cover both axes evenly.

    Part i of m on an axis goes from ``floor(i * extent / m)`` to ``ceil((i + 1) * extent / m)``.

    Parameters
    ----------
    x : Tensor
        (n, channels, height, width).
    output_size : int or tuple of int
        How many parts; one number for both axes or one for each.

    Returns
    -------
    Tensor
        (n, channels, *output_size).

    Raises
    ------
    ShapeError
        If x does not have these axes, or a number is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.adaptive_avg_pool2d(mg.reshape(mg.arange(8.0), (1, 1, 2, 4)), (1, 2))
    tensor([[[[2.5, 4.5]]]])
    """
    return _adaptive_avg_pool(x, output=sizes("adaptive_avg_pool2d", "output_size", output_size, 2))

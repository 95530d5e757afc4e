"""Extension: padding, repeating and tiling. Gradients sum over the copies of an element."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad.errors import AxisError, DTypeError, ShapeError, message
from minigrad.ops.conversion import as_number, asarray
from minigrad.ops.registry import Array, op, promote
from minigrad.ops.samples import case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["pad", "repeat", "tile"]

Widths = tuple[tuple[int, int], ...]

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


def _sources(extent: int, width: tuple[int, int], mode: str) -> Any:
    """For each place of a padded axis, the place its element comes from."""
    return np.pad(np.arange(extent), width, mode)  # type: ignore[call-overload]


def _along(axis: int, places: Any) -> tuple[Any, ...]:
    """The index of `places` on an axis."""
    return (slice(None),) * axis + (places,)


@op(dtype=promote, needs="values of its dtype, and an element on every axis that is padded from its own", amp="widest")
def _pad(xp: Any, x: Array, /, widths: Widths, mode: str, value: complex) -> Array:
    fill = {"constant_values": value} if mode == "constant" else {}
    return xp.pad(x, widths or 0, mode, **fill)  # NumPy wants no empty widths, even without axes


@_pad.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, widths: Widths, mode: str) -> Array:
    if mode == "constant":
        return g[tuple(slice(before, before + n) for (before, _), n in zip(widths, x_shape, strict=True))]
    for axis, width in enumerate(widths):
        if width != (0, 0):
            shape = (*g.shape[:axis], x_shape[axis], *g.shape[axis + 1 :])
            g = xp.index_add(shape, _along(axis, _sources(x_shape[axis], width, mode)), g)
    return g


_pad.samples(
    case((3,), widths=((1, 2),), mode="constant", value=0.0),
    case((2, 3), widths=((0, 1), (2, 0)), mode="constant", value=1.5),
    case((0, 2), widths=((1, 0), (1, 1)), mode="constant", value=0.0),
    case((), widths=(), mode="constant", value=0.0),
    case((2,), widths=((0, 0),), mode="edge", value=0.0),
    case((2, 3), widths=((1, 2), (0, 1)), mode="edge", value=0.0),
    case((3, 2), widths=((2, 1), (0, 0)), mode="reflect", value=0.0),
    case((2, 3), widths=((1, 2), (4, 1)), mode="symmetric", value=0.0),
    case((2, 3), widths=((0, 0), (2, 5)), mode="wrap", value=0.0),
    error(ShapeError, "an element on every axis", (0, 2), widths=((1, 1), (0, 0)), mode="edge", value=0.0),
)


def pad(x: Tensor, pad_width: Any, /, mode: str = "constant", *, constant_values: complex = 0) -> Tensor:
    """Add elements before and behind the others, as `numpy.pad` does.

    Parameters
    ----------
    x : Tensor
        Any shape.
    pad_width : int or tuple
        How many elements: one number for all sides, ``(before, after)`` for all axes, or one such pair for each axis.
    mode : str
        ``"constant"``; or what the new elements repeat: ``"edge"`` the outermost one, ``"reflect"`` those inside it,
        mirrored, ``"symmetric"`` the same with the outermost one, ``"wrap"`` those of the other end.
    constant_values : number
        What ``"constant"`` pads with.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `pad_width` is negative or does not fit the axes.
    DTypeError
        If the dtype of `x` cannot hold `constant_values`.
    ValueError
        For an unknown mode.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.pad(mg.tensor([1, 2, 3]), (1, 2)), mg.pad(mg.tensor([1, 2, 3]), 2, "reflect")
    (tensor([0, 1, 2, 3, 0, 0]), tensor([3, 2, 1, 2, 3, 2, 1]))
    """
    x = asarray(x)
    if mode not in MODES:
        names = ", ".join(MODES)
        hint = "PyTorch's 'replicate' is 'edge', its 'circular' is 'wrap'"
        raise ValueError(message("pad", "mode", f"{mode!r}", f"one of {names}", hint))
    given = np.asarray(pad_width)
    if given.dtype.kind not in "iu":
        raise DTypeError(message("pad", "pad_width", pad_width, "integers"))
    try:
        pairs = np.broadcast_to(given, (x.ndim, 2)).tolist()
    except ValueError:
        need = f"a number, a pair, or a pair for each of {x.ndim} axes"
        raise ShapeError(message("pad", "pad_width", pad_width, need)) from None
    if min(map(min, pairs), default=0) < 0:
        raise ShapeError(message("pad", "pad_width", pad_width, "numbers of at least 0", "Cut with a slice"))
    value = as_number("pad", "constant_values", constant_values)
    fits = dtypes.promote([x.dtype], [value]) == x.dtype or (x.dtype == dtypes.bool and value in (0, 1))
    if mode == "constant" and not fits:
        raise DTypeError(message("pad", "constant_values", value, f"a value that {x.dtype} can hold"))
    return _pad(x, tuple(map(tuple, pairs)), mode, value)


@op(
    dtype=promote,
    ref="numpy.repeat",
    needs="counts of at least 0: one, or one for each element of the axis",
    amp="widest",
)
def _repeat(xp: Any, x: Array, /, repeats: Any, axis: int | None) -> Array:
    return xp.repeat(x, repeats, axis=axis)


@_repeat.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, repeats: Any, axis: int | None) -> Array:
    shape, place = ((math.prod(x_shape),), 0) if axis is None else (x_shape, axis)
    if isinstance(repeats, int):
        copies = xp.reshape(g, (*shape[: place + 1], repeats, *shape[place + 1 :]))
        g = xp.sum(copies, axis=place + 1)
    else:
        g = xp.index_add(shape, _along(place, np.repeat(np.arange(shape[place]), repeats)), g)
    return xp.reshape(g, x_shape)


_repeat.samples(
    case((3,), repeats=2, axis=0),
    case((2, 3), repeats=3, axis=1),
    case((2, 3), repeats=0, axis=0),
    case((0, 2), repeats=2, axis=0),
    case((2, 2), repeats=2, axis=None),
    case((2, 2), repeats=np.array([1, 0, 2, 3]), axis=None),
    case((2, 3), repeats=np.array([2, 0, 1]), axis=1),
    case((2, 2), repeats=np.array([1, 3]), axis=0),
    error(ShapeError, "one for each element", (2, 3), repeats=np.array([1, 2]), axis=1),
    error(ShapeError, "counts of at least 0", (3,), repeats=-1, axis=0),
)


def repeat(x: Tensor, repeats: Any, /, axis: int | None = None) -> Tensor:
    """Repeat each element: ``[a, b]`` gives ``[a, a, b, b]``.

    Parameters
    ----------
    x : Tensor
        Any shape.
    repeats : int or Tensor
        How many times; a vector of integers has a count for each element of the axis.
    axis : int, optional
        The axis to repeat along; None flattens `x` first.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `x` has no such axis, or the counts do not fit it.
    DTypeError
        If the counts are not integers.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.repeat(mg.tensor([1.0, 2.0]), 2), mg.repeat(mg.tensor([1.0, 2.0]), mg.tensor([0, 3]))
    (tensor([1., 1., 2., 2.]), tensor([2., 2., 2.]))
    """
    x = asarray(x)
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise AxisError(message("repeat", "axis", f"{axis} for shape {x.shape}", "an axis of x"))
    counts = np.asarray(asarray(repeats)._array)
    if (counts.size and counts.dtype not in dtypes.INTEGER) or counts.ndim > 1:
        raise DTypeError(message("repeat", "repeats", counts, "an int or a vector of integers"))
    return _repeat(x, int(counts.item()) if counts.size == 1 else counts.astype(np.int64), axis and axis % x.ndim)


@op(dtype=promote, ref="numpy.tile", needs="counts of at least 0", amp="widest")
def tile(xp: Any, x: Array, /, repetitions: tuple[int, ...]) -> Array:
    """Lay copies of `x` side by side, ``repetitions[i]`` of them along axis i.

    Parameters
    ----------
    x : Tensor
        Any shape.
    repetitions : int or tuple of int
        How many copies along each axis. The shorter of this and the shape is filled up with ones from the left.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        For a negative count.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.tile(mg.tensor([1, 2]), (2, 2))
    tensor([[1, 2, 1, 2],
            [1, 2, 1, 2]])
    """
    return xp.tile(x, repetitions)


@tile.vjp(0)
def _(xp: Any, g: Array, x_shape: tuple[int, ...], *, repetitions: int | tuple[int, ...]) -> Array:
    counts = (repetitions,) if isinstance(repetitions, int) else tuple(map(operator.index, repetitions))
    n = max(len(counts), len(x_shape))
    counts, shape = (1,) * (n - len(counts)) + counts, (1,) * (n - len(x_shape)) + x_shape
    copies = xp.reshape(g, tuple(extent for pair in zip(counts, shape, strict=True) for extent in pair))
    return xp.reshape(xp.sum(copies, axis=tuple(range(0, 2 * n, 2))), x_shape)


tile.samples(
    case((2,), repetitions=(3,)),
    case((2,), repetitions=2),
    case((2, 3), repetitions=(2, 1)),
    case((2, 3), repetitions=(2,)),
    case((3,), repetitions=(2, 2)),
    case((), repetitions=(2,)),
    case((2, 0), repetitions=(1, 2)),
    case((2,), repetitions=(0,)),
    error(ShapeError, "counts of at least 0", (2,), repetitions=(-1,)),
)

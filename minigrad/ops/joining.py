"""Joining tensors along an axis, and cutting them apart again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.errors import AxisError, DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import as_index, asarray
from minigrad.ops.registry import Array, exact, keep, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["chunk", "concat", "split", "stack", "unstack"]


def _several(who: str, arrays: Any) -> tuple[Any, ...]:
    """The arrays to join, at least one."""
    try:
        found = tuple(arrays)
    except TypeError:
        raise DTypeError(message(who, "arrays", arrays, "a sequence of tensors")) from None
    if not found:
        raise ShapeError(message(who, "arrays", "empty", "at least one tensor"))
    return found


@op(dtype=exact, ref="numpy.concatenate", needs="arrays with axis `axis` and equal extents on the others")
def _concat(xp: Any, *arrays: Array, axis: int | None = 0) -> Array:
    return xp.concat(arrays, axis=axis)


@_concat.vjp()
def _(xp: Any, g: Array, arrays_shape: tuple[tuple[int, ...], ...], *, axis: int | None) -> Sequence[Array]:
    extents = [math.prod(shape) if axis is None else shape[axis] for shape in arrays_shape]
    parts = xp.split(g, tuple(accumulate(extents[:-1])), axis=axis or 0)
    if axis is None:
        return [xp.reshape(part, shape) for part, shape in zip(parts, arrays_shape, strict=True)]
    return parts  # type: ignore[no-any-return]


_concat.samples(
    case((2,), (3,)),
    case((2, 3), (2, 1), (2, 0), axis=1),
    case((2, 3), (1, 3), axis=-2),
    case((2, 3), (), (2,), axis=None),
    case((4,)),
    case((2,), A((3,), kind="int")),
    error(ShapeError, "equal extents", (2, 3), (2, 2)),
    error(ShapeError, "axis `axis`", (2,), (3,), axis=1),
    error(ShapeError, "axis `axis`", (), ()),
)


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """Join tensors along an axis they have.

    Parameters
    ----------
    arrays : sequence of Tensor
        At least one, of equal extents on all axes but `axis`. Their dtypes promote.
    axis : int, optional
        Where to join; None flattens all of them first.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit, or there is nothing to join.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.concat([mg.tensor([1, 2]), mg.tensor([0.5])])
    tensor([1. , 2. , 0.5])
    """
    return _concat(*_several("concat", arrays), axis=axis)


@op(dtype=exact, ref="numpy.stack", needs="arrays of one shape, and an axis of the result")
def _stack(xp: Any, *arrays: Array, axis: int = 0) -> Array:
    return xp.stack(arrays, axis=axis)


@_stack.vjp()
def _(xp: Any, g: Array, *, axis: int) -> Sequence[Array]:
    return xp.unstack(g, axis=axis)  # type: ignore[no-any-return]


_stack.samples(
    case((2,), (2,)),
    case((2, 3), (2, 3), (2, 3), axis=-1),
    case((2, 3), (2, 3), axis=1),
    case((), ()),
    case((0, 2), (0, 2)),
    case((2,), A((2,), kind="int")),
    error(ShapeError, "arrays of one shape", (2,), (3,)),
    error(ShapeError, "axis", (2,), (2,), axis=2),
)


def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Tensor:
    """Join tensors along a new axis.

    Parameters
    ----------
    arrays : sequence of Tensor
        At least one, all of one shape. Their dtypes promote.
    axis : int
        Where the new axis stands in the result.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ, or there is nothing to join.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.stack([mg.tensor([1.0, 2.0]), mg.tensor([3.0, 4.0])], axis=1)
    tensor([[1., 3.],
            [2., 4.]])
    """
    return _stack(*_several("stack", arrays), axis=axis)


@op(dtype=keep, view=True, needs="an axis of x")
def _unstack(xp: Any, x: Array, /, *, axis: int = 0) -> Array:
    moved = xp.moveaxis(x, axis, 0)
    return tuple([moved[i, ...] for i in range(moved.shape[0])])


_unstack.vjp(0)(lambda xp, g, *, axis: xp.stack(g, axis=axis))
_unstack.samples(
    case((3,)),
    case((2, 3)),
    case((2, 3, 2), axis=-1),
    case((2, 0), axis=0),
    error(ShapeError, "an axis of x", (2, 3), axis=2),
    error(ShapeError, "an axis of x", ()),
)


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a tensor into its slices along an axis, which goes away: the inverse of `stack`.

    Parameters
    ----------
    x : Tensor
        With at least one axis.
    axis : int
        The axis to cut.

    Returns
    -------
    tuple of Tensor
        Views.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.unstack(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    (tensor([1., 3.]), tensor([2., 4.]))
    """
    return _unstack(x, axis=axis)  # type: ignore[return-value]


@op(dtype=keep, view=True, needs="an axis of x")
def _split(xp: Any, x: Array, /, cuts: tuple[int, ...], axis: int) -> Array:
    before = (slice(None),) * axis
    return tuple([x[(*before, slice(start, stop))] for start, stop in pairwise((0, *cuts, x.shape[axis]))])


_split.vjp(0)(lambda xp, g, *, axis: xp.concat(g, axis=axis))
_split.samples(
    case((4,), cuts=(1, 3), axis=0),
    case((2, 3), cuts=(1, 1), axis=1),
    case((2, 3), cuts=(), axis=0),
    case((0, 2), cuts=(0,), axis=0),
    error(IndexError, "an axis of x", (2, 3), cuts=(1,), axis=2),
    error(IndexError, "an axis of x", (), cuts=(), axis=0),
)


def _extent(who: str, x: Tensor, axis: int) -> tuple[int, int]:
    """An axis counted from the front, and its extent."""
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(message(who, "axis", f"{axis} for {describe(x)}", "an axis of x"))
    return axis % x.ndim, x.shape[axis]


def split(x: Tensor, indices_or_sections: Any, /, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a tensor along an axis, as `numpy.split` does.

    Parameters
    ----------
    x : Tensor
        With at least one axis.
    indices_or_sections : int or sequence of int
        How many equal parts; or the places of the cuts: ``(2, 5)`` gives ``x[:2], x[2:5], x[5:]``.
    axis : int
        The axis to cut.

    Returns
    -------
    tuple of Tensor
        Views.

    Raises
    ------
    ShapeError
        If the axis cannot be divided equally, or the cuts are not in order.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.split(mg.arange(6), 3)
    (tensor([0, 1]), tensor([2, 3]), tensor([4, 5]))
    """
    x = asarray(x)
    place, extent = _extent("split", x, axis)
    if np.ndim(indices_or_sections):
        given = [as_index("split", "indices_or_sections", cut) for cut in indices_or_sections]
        cuts = [min(max(cut + extent if cut < 0 else cut, 0), extent) for cut in given]
        if cuts != sorted(cuts):
            raise ShapeError(message("split", "indices_or_sections", f"{given}", "cuts in ascending order"))
    else:
        sections = as_index("split", "indices_or_sections", indices_or_sections)
        if sections < 1 or extent % sections:
            need = f"a divisor of axis {axis}'s extent {extent}"
            hint = "mg.chunk allows a smaller last part"
            raise ShapeError(message("split", "indices_or_sections", sections, need, hint))
        cuts = list(range(extent // sections, extent, extent // sections)) if extent else [0] * (sections - 1)
    return _split(x, tuple(cuts), place)  # type: ignore[return-value]


def chunk(x: Tensor, chunks: int, /, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a tensor into at most `chunks` parts of ``ceil(extent / chunks)``; the last one may be smaller.

    Parameters
    ----------
    x : Tensor
        With at least one axis.
    chunks : int
        The largest number of parts.
    axis : int
        The axis to cut.

    Returns
    -------
    tuple of Tensor
        Views.

    Raises
    ------
    ShapeError
        If `chunks` is not positive, or `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.chunk(mg.arange(5), 3)
    (tensor([0, 1]), tensor([2, 3]), tensor([4]))
    """
    x = asarray(x)
    place, extent = _extent("chunk", x, axis)
    parts = as_index("chunk", "chunks", chunks)
    if parts < 1:
        raise ShapeError(message("chunk", "chunks", parts, "at least 1"))
    size = max(1, -(-extent // parts))
    return _split(x, tuple(range(size, extent, size)), place)  # type: ignore[return-value]

"""Sorting: values in order, the positions that order them, and the largest few."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.reduction import constant
from minigrad.ops.registry import Array, comparison, exact, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.scatter import along

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["TopK", "argsort", "sort", "topk"]

REAL = dtypes.ALL - dtypes.COMPLEX


@op(dtype=exact.but(kinds=REAL), needs="an axis of x")
def sort(xp: Any, x: Array, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """Values in order along an axis; NaN counts as the largest.

    Parameters
    ----------
    x : Tensor
        Real numbers; at least one axis.
    axis : int
        The axis to sort along.
    descending : bool
        Largest first.
    stable : bool
        Part of the standard's signature; equal values keep their order either way.

    Returns
    -------
    Tensor
        Of the shape and dtype of `x`. Each element's gradient goes back to where the element came from.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.sort(mg.tensor([3.0, 1.0, 2.0]), descending=True)
    tensor([3., 2., 1.])
    """
    ordered = xp.sort(x, axis=axis)  # of values alone, a stable order cannot be told from another
    return xp.flip(ordered, axis=axis) if descending else ordered


@sort.vjp(0)
def _(xp: Any, g: Array, x: Array, *, axis: int, descending: bool) -> Array:
    # sorting again costs less memory than keeping the positions would
    order = xp.argsort(xp.flip(x, axis=axis) if descending else x, axis=axis, stable=True)
    ranks = xp.argsort(order, axis=axis)
    # descending order is ascending order seen from the end
    back = xp.take_along_axis(xp.flip(g, axis=axis) if descending else g, ranks, axis=axis)
    return xp.flip(back, axis=axis) if descending else back


@op(dtype=comparison.but(kinds=REAL), needs="an axis of x")
def argsort(xp: Any, x: Array, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """Positions that put values in order along an axis; NaN counts as the largest, equal values keep their order.

    Parameters
    ----------
    x : Tensor
        Real numbers; at least one axis.
    axis : int
        The axis to sort along.
    descending : bool
        Largest first.
    stable : bool
        Part of the standard's signature; the order is stable either way.

    Returns
    -------
    Tensor of int64
        Of the shape of `x`; ``take_along_axis(x, argsort(x))`` is ``sort(x)``.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.argsort(mg.tensor([3.0, 1.0, 2.0]))
    tensor([1, 2, 0])
    """
    if x.ndim == 0:
        raise ShapeError(message("argsort", "x", x, "at least one axis, to have an axis of x to sort along"))
    if not descending:
        return xp.argsort(x, axis=axis, stable=True)
    order = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True)
    return x.shape[axis] - 1 - xp.flip(order, axis=axis)


constant(argsort)

for either in (sort, argsort):
    either.samples(
        case(A((4,), form="distinct")),
        case(A((2, 3), form="distinct"), axis=0),
        case(A((2, 3), form="distinct"), axis=-1, descending=True),
        case(A((2, 4, 2), form="distinct"), axis=1, stable=False),
        case(A((5,), 0, 3, kind="int"), descending=True),
        case(A((4,), kind="bool")),
        case((0, 3), axis=0),
        case((1,)),
        error(ShapeError, "an axis of x", (2, 3), axis=2),
        error(ShapeError, "an axis of x", ()),
    )


class TopK(NamedTuple):
    """What `topk` answers: the values, and their positions along the axis."""

    values: Tensor
    indices: Tensor


@op(dtype=exact.but(kinds=REAL, same=False), needs="an axis of x with at least k values")
def _topk(xp: Any, x: Array, /, k: int, *, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    n = x.shape[axis] if -x.ndim <= axis < x.ndim else -1
    if not 0 <= k <= n:
        need = f"an axis of x with as many values, where x has shape {x.shape}"
        raise ShapeError(message("topk", "k", f"{k} along axis {axis}", need))
    last = xp.moveaxis(x, axis, -1)
    # the k largest in any order first: that spares sorting the rest
    some = xp.argpartition(last, n - k if largest else k - 1, axis=-1) if 0 < k < n else xp.argsort(last, axis=-1)
    some = xp.sort(some[..., n - k :] if largest else some[..., :k], axis=-1)
    found = xp.take_along_axis(last, some, axis=-1)
    if largest:
        order = k - 1 - xp.flip(xp.argsort(xp.flip(found, axis=-1), axis=-1, stable=True), axis=-1)
    else:
        order = xp.argsort(found, axis=-1, stable=True)
    values, indices = xp.take_along_axis(found, order, axis=-1), xp.take_along_axis(some, order, axis=-1)
    return xp.moveaxis(values, -1, axis), xp.moveaxis(indices, -1, axis)


@_topk.vjp(0)
def _(xp: Any, g: tuple[Array, Array], x_shape: tuple[int, ...], out: tuple[Array, Array], *, axis: int) -> Array:
    return xp.index_add(x_shape, along(xp, out[1], x_shape, axis), g[0])


_topk.samples(
    case(A((5,), form="distinct"), k=2),
    case(A((3, 4), form="distinct"), k=2, axis=0, largest=False),
    case(A((2, 4, 2), form="distinct"), k=3, axis=-2),
    case(A((4,), form="distinct"), k=4),
    case(A((4,), form="distinct"), k=0),
    case(A((6,), 0, 9, kind="int"), k=1),
    case((0, 3), k=2),
    case((0,), k=0),
    error(ShapeError, "topk", (3,), k=4),
    error(ShapeError, "topk", (3,), k=1, axis=1),
    error(ShapeError, "topk", (3,), k=-1),
)


def topk(x: Tensor, k: int, /, axis: int = -1, *, largest: bool = True) -> TopK:
    """The `k` largest values along an axis, largest first, and where they are.

    Parameters
    ----------
    x : Tensor
        Real numbers; at least one axis.
    k : int
        How many.
    axis : int
        Where to look.
    largest : bool
        False gives the smallest, smallest first.

    Returns
    -------
    TopK
        A named tuple ``(values, indices)``. Equal values stand in the order of their indices; which of several that
        equal the k-th are among them is not defined. NaN counts as the largest.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or fewer than `k` values along it.
    DTypeError
        If `k` is not an integer.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.topk(mg.tensor([1.0, 5.0, 3.0]), 2)
    TopK(values=tensor([5., 3.]), indices=tensor([1, 2]))
    """
    try:
        k = operator.index(k)
    except TypeError:
        raise DTypeError(message("topk", "k", k, "an integer")) from None
    return TopK(*_topk(x, k, axis=axis, largest=largest))

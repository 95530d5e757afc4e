"""Searching: choosing by a condition, and positions of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.reduction import Axis, constant
from minigrad.ops.registry import Array, comparison, exact, op
from minigrad.ops.samples import A, case, error

__all__ = ["argmax", "argmin", "count_nonzero", "nonzero", "searchsorted", "where"]

ordered = comparison.but(kinds=dtypes.ALL - dtypes.COMPLEX)


@op(dtype=exact, skip="condition", ref="numpy.where", needs="a boolean condition, and shapes that broadcast together")
def where(xp: Any, condition: Array, x1: Array, x2: Array, /) -> Array:
    """Elementwise `x1` where `condition` holds, else `x2`.

    Parameters
    ----------
    condition : Tensor of bool
        Broadcasts with the others.
    x1, x2 : Tensor or number
        Their dtypes promote.

    Returns
    -------
    Tensor
        Of the broadcast shape. The gradient goes to the chosen one alone: where `x1` was taken, `x2` gets exactly 0.
        What the rule of `x2` makes of that 0 is another matter: write ``log(where(x > 0, x, 1))`` and not
        ``where(x > 0, log(x), 0)``, for the latter computes 0/0 at x = 0.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.
    DTypeError
        If `condition` is not boolean.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.where(mg.tensor([True, False]), mg.tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """
    if condition.dtype != dtypes.bool:
        raise DTypeError(message("where", "condition", condition, "booleans", "Compare first: where(x != 0, ...)"))
    return xp.where(condition, x1, x2)


@where.vjp(1)
def _(xp: Any, g: Array, condition: Array) -> Array:
    return xp.where(condition, g, xp.zeros_like(g))


@where.vjp(2)
def _(xp: Any, g: Array, condition: Array) -> Array:
    return xp.where(condition, xp.zeros_like(g), g)


where.samples(
    case(A((3,), kind="bool"), (3,), (3,)),
    case(A((2, 1), kind="bool"), (3,), (2, 3)),
    case(A((2, 3), kind="bool"), (), (3,)),
    case(A((2, 3), kind="bool"), (2, 3), 0.0),
    case(A((), kind="bool"), (2,), ()),
    case(True, (2,), (2,)),
    case(A((0, 3), kind="bool"), (3,), (0, 1)),
    error(ShapeError, "shapes that broadcast together", A((3,), kind="bool"), (2,), (3,)),
    error(DTypeError, "booleans", (3,), (3,), (3,)),
)


def positions(largest: bool) -> tuple[Any, ...]:
    """The samples of argmax and argmin."""
    return (
        case(A((4,), form="distinct")),
        case(A((2, 3), form="distinct"), axis=0),
        case(A((2, 3), form="distinct"), axis=-1, keepdims=True),
        case(A((2, 3), 0, 2, kind="int"), axis=1),
        case(()),
        case((0, 3), axis=1),
        error(ShapeError, "axis", (2, 3), axis=2),
        error(ShapeError, f"{'largest' if largest else 'smallest'}", (0,)),
    )


@op(dtype=ordered, ref="numpy.argmax", needs="an axis of x, not empty, to have a largest value")
def argmax(xp: Any, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Position of the largest value; the first one among equals, NaN counts as the largest.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape.
    axis : int, optional
        Where to search; by default in `x` as if it had one axis.
    keepdims : bool
        Keep the axis with extent 1.

    Returns
    -------
    Tensor of int64

    Raises
    ------
    ShapeError
        If `x` has no such axis, or is empty there.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.argmax(mg.tensor([[1.0, 5.0], [4.0, 2.0]]), axis=1)
    tensor([1, 0])
    """
    return xp.argmax(x, axis=axis, keepdims=keepdims)


argmax.samples(*positions(largest=True))


@op(dtype=ordered, ref="numpy.argmin", needs="an axis of x, not empty, to have a smallest value")
def argmin(xp: Any, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Position of the smallest value; the first one among equals, NaN counts as the smallest.

    Parameters
    ----------
    x : Tensor
        Real numbers of any shape.
    axis : int, optional
        Where to search; by default in `x` as if it had one axis.
    keepdims : bool
        Keep the axis with extent 1.

    Returns
    -------
    Tensor of int64

    Raises
    ------
    ShapeError
        If `x` has no such axis, or is empty there.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.argmin(mg.tensor([[1.0, 5.0], [4.0, 2.0]]), axis=1)
    tensor([0, 1])
    """
    return xp.argmin(x, axis=axis, keepdims=keepdims)


argmin.samples(*positions(largest=False))


@op(dtype=comparison, needs="at least one axis")
def nonzero(xp: Any, x: Array, /) -> tuple[Array, ...]:
    """Positions of what is not zero (or True), in row-major order.

    Parameters
    ----------
    x : Tensor
        At least one axis.

    Returns
    -------
    tuple of Tensor of int64
        One for each axis of `x`.

    Raises
    ------
    ShapeError
        If `x` has no axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.nonzero(mg.tensor([[0, 7], [8, 0]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    if x.ndim == 0:
        raise ShapeError(message("nonzero", "x", x, "at least one axis"))
    return tuple(xp.nonzero(x))


nonzero.samples(
    case(A((4,), 0, 2, kind="int")),
    case(A((2, 3), kind="bool")),
    case((2, 3)),
    case((0, 3)),
    error(ShapeError, "at least one axis", ()),
)


@op(dtype=comparison, ref="numpy.count_nonzero", needs="an axis of x, or a tuple of different ones")
def count_nonzero(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """How many values are not zero (or True) along axes.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    axis : int or tuple of int, optional
        What to count over; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor of int64

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.count_nonzero(mg.tensor([[0, 7], [8, 9]]), axis=0)
    tensor([1, 2])
    """
    return xp.count_nonzero(x, axis=axis, keepdims=keepdims)


count_nonzero.samples(
    case(A((4,), 0, 2, kind="int")),
    case(A((2, 3), kind="bool"), axis=0),
    case(A((2, 3, 2), 0, 2, kind="int"), axis=(0, -1), keepdims=True),
    case(()),
    case((0, 3), axis=0),
    error(ShapeError, "axis", (2, 3), axis=2),
)


@op(dtype=ordered, skip="sorter", needs="x1 with one axis, and side 'left' or 'right'")
def searchsorted(xp: Any, x1: Array, x2: Array, sorter: Array | None = None, /, *, side: str = "left") -> Array:
    """Where to insert values so that a sorted tensor stays sorted.

    Parameters
    ----------
    x1 : Tensor
        One axis, ascending (in the order of `sorter` where that is given).
    x2 : Tensor
        The values, of any shape.
    sorter : Tensor of int, optional
        Indices that sort `x1`, as `argsort` gives them.
    side : str
        ``"left"`` finds i with ``x1[i-1] < v <= x1[i]``, ``"right"`` with ``x1[i-1] <= v < x1[i]``.

    Returns
    -------
    Tensor of int64
        Of the shape of `x2`.

    Raises
    ------
    ShapeError
        If `x1` has not one axis, or `side` is another word.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.searchsorted(mg.tensor([1.0, 2.0, 3.0]), mg.tensor([0.5, 2.0, 9.0]))
    tensor([0, 1, 3])
    """
    return xp.searchsorted(x1, x2, side=side, sorter=sorter)


searchsorted.samples(
    case(A((4,), form="sorted"), (3,), None),
    case(A((4,), form="sorted"), (2, 3), None, side="right"),
    case(A((3,), form="sorted"), (), None),
    case(np.array([1, 2, 2, 3]), A((5,), 0, 5, kind="int"), None, side="right"),
    case(np.array([0.5, -1.0, 0.0]), (4,), np.array([1, 2, 0])),
    case(A((0,), form="sorted"), (2,), None),
    error(ShapeError, "one axis", (2, 2), (3,), None),
    error(ShapeError, "side", (3,), (3,), None, side="middle"),
)

constant(argmax, argmin, nonzero, count_nonzero, searchsorted)

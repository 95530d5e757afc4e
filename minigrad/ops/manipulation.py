"""Shape: ops that move elements and compute nothing. Their results are views where the memory allows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.ops.conversion import asarray
from minigrad.ops.extension import pad, repeat, tile
from minigrad.ops.joining import chunk, concat, split, stack, unstack
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "broadcast_arrays", "broadcast_to", "chunk", "concat", "expand_dims", "flatten", "flip", "moveaxis", "pad",
    "permute_dims", "repeat", "reshape", "roll", "split", "squeeze", "stack", "swapaxes", "tile", "tril", "triu",
    "unstack",
]  # fmt: skip

Axes = int | tuple[int, ...] | None


@op(dtype=keep, view=True, ref="numpy.reshape", needs="a shape with as many elements")
def reshape(xp: Any, x: Array, /, shape: int | tuple[int, ...], *, copy: bool | None = None) -> Array:
    """The same elements in row-major order under another shape.

    Parameters
    ----------
    x : Tensor
        Any shape.
    shape : int or tuple of int
        The new shape; one extent may be -1 and is worked out.
    copy : bool, optional
        True always copies, False raises where a copy is needed, None copies where it must.

    Returns
    -------
    Tensor
        Of `shape`; a view where the memory allows it.

    Raises
    ------
    ShapeError
        If `shape` has another number of elements.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.reshape(mg.arange(6), (2, -1))
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    # a method, as NumPy's function takes several times as long as the view
    return x.reshape(shape) if copy is None else xp.reshape(x, shape, copy=copy)


reshape.vjp(0)(lambda xp, g, x_shape: xp.reshape(g, x_shape))
reshape.samples(
    case((2, 3), shape=(3, 2)),
    case((2, 3), shape=(-1,)),
    case((2, 3), shape=6),
    case((), shape=(1, 1)),
    case((0, 3), shape=(3, 0)),
    case((4,), shape=(2, 2), copy=True),
    error(ShapeError, "a shape with as many elements", (2, 3), shape=(4, 2)),
)


def flatten(x: Tensor, /, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """Merge a run of axes into one.

    Parameters
    ----------
    x : Tensor
        Any shape; a tensor without axes gets one.
    start_axis, end_axis : int
        The first and the last axis of the run.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `x` has no such axes, or they are out of order.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.flatten(mg.zeros((2, 3, 4)), 1).shape
    (2, 12)
    """
    x = asarray(x)
    n = max(x.ndim, 1)
    first, last = (axis + n if axis < 0 else axis for axis in (start_axis, end_axis))
    if not 0 <= first <= last < n:
        got = f"{start_axis} to {end_axis} for shape {x.shape}"
        raise ShapeError(message("flatten", "axes", got, "axes of x in order"))
    shape = x.shape
    return reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@op(dtype=keep, view=True, ref="numpy.broadcast_to", needs="a shape it broadcasts to")
def broadcast_to(xp: Any, x: Array, /, shape: tuple[int, ...]) -> Array:
    """Stretch axes of extent 1, and add leading axes, without a copy.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.broadcast_to(mg.tensor([1.0, 2.0]), (2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """
    return xp.broadcast_to(x, shape)


broadcast_to.vjp(0)(lambda xp, g: g)  # the engine sums over what was stretched
broadcast_to.samples(
    case((3,), shape=(2, 3)),
    case((2, 1), shape=(4, 2, 3)),
    case((), shape=(2,)),
    case((1,), shape=(0,)),
    case((0, 3), shape=(2, 0, 3)),
    error(ShapeError, "a shape it broadcasts to", (3,), shape=(2,)),
)


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """Stretch tensors to the one shape they broadcast to, without copies.

    Examples
    --------
    >>> import minigrad as mg
    >>> a, b = mg.broadcast_arrays(mg.zeros((2, 1)), mg.zeros(3))
    >>> a.shape, b.shape
    ((2, 3), (2, 3))
    """
    tensors = [asarray(array) for array in arrays]
    try:
        shape = np.broadcast_shapes(*(x.shape for x in tensors))
    except ValueError:
        got = " and ".join(str(x.shape) for x in tensors)
        raise ShapeError(message("broadcast_arrays", "arrays", got, "shapes that broadcast together")) from None
    return [broadcast_to(x, shape) for x in tensors]


@op(dtype=keep, view=True, ref="numpy.permute_dims", needs="axes that name each axis once")
def permute_dims(xp: Any, x: Array, /, axes: tuple[int, ...]) -> Array:
    """Reorder the axes: axis i of the result is axis ``axes[i]`` of `x`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.permute_dims(mg.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return xp.permute_dims(x, axes)


@permute_dims.vjp(0)
def _(xp: Any, g: Array, *, axes: tuple[int, ...]) -> Array:
    n = len(axes)
    inverse = [0] * n
    for i, axis in enumerate(axes):
        inverse[axis % n] = i
    return xp.permute_dims(g, tuple(inverse))


permute_dims.samples(
    case((2, 3), axes=(1, 0)),
    case((2, 3, 4), axes=(2, 0, 1)),
    case((2, 3, 4), axes=(0, -1, 1)),
    case((), axes=()),
    case((0, 3), axes=(1, 0)),
    error(ShapeError, "axes that name each axis once", (2, 3), axes=(0, 0)),
)


@op(dtype=keep, view=True, ref="numpy.moveaxis", needs="as many different axes of x in source as in destination")
def moveaxis(xp: Any, x: Array, /, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Array:
    """Move the axes `source` to the places `destination`; the others keep their order.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.moveaxis(mg.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    return xp.moveaxis(x, source, destination)


moveaxis.vjp(0)(lambda xp, g, *, source, destination: xp.moveaxis(g, destination, source))
moveaxis.samples(
    case((2, 3), source=0, destination=1),
    case((2, 3, 4), source=-1, destination=0),
    case((2, 3, 4), source=(0, 1), destination=(-1, 0)),
    case((2, 0, 3), source=1, destination=0),
    error(ShapeError, "different axes", (2, 3), source=2, destination=0),
    error(ShapeError, "different axes", (2, 3), source=(0, 1), destination=(0,)),
)


@op(dtype=keep, view=True, ref="numpy.swapaxes", needs="axes of x")
def swapaxes(xp: Any, x: Array, /, axis1: int, axis2: int) -> Array:
    """Exchange two axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.swapaxes(mg.zeros((2, 3, 4)), 0, 2).shape
    (4, 3, 2)
    """
    return x.swapaxes(axis1, axis2)


swapaxes.vjp(0)(lambda xp, g, *, axis1, axis2: xp.swapaxes(g, axis1, axis2))
swapaxes.samples(
    case((2, 3), axis1=0, axis2=1),
    case((2, 3, 4), axis1=-1, axis2=0),
    case((2, 3), axis1=1, axis2=1),
    case((0, 3), axis1=0, axis2=1),
    error(ShapeError, "axes of x", (2, 3), axis1=0, axis2=2),
)


@op(dtype=keep, view=True, ref="numpy.expand_dims", needs="places for new axes in the result")
def expand_dims(xp: Any, x: Array, /, axis: int | tuple[int, ...] = 0) -> Array:
    """Add an axis of extent 1 at place `axis` of the result; a tuple adds several.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.expand_dims(mg.zeros(3), -1).shape
    (3, 1)
    """
    return xp.expand_dims(x, axis)


expand_dims.vjp(0)(lambda xp, g, x_shape: xp.reshape(g, x_shape))
expand_dims.samples(
    case((3,)),
    case((2, 3), axis=-1),
    case((2, 3), axis=(0, 2)),
    case((), axis=0),
    case((0,), axis=1),
    error(ShapeError, "places for new axes", (2, 3), axis=3),
    error(ShapeError, "places for new axes", (2,), axis=(0, 0)),
)


@op(dtype=keep, view=True, ref="numpy.squeeze", needs="axes of x with extent 1")
def squeeze(xp: Any, x: Array, /, axis: Axes = None) -> Array:
    """Drop axes of extent 1: those named, or all of them.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.squeeze(mg.zeros((1, 3, 1)), 0).shape
    (3, 1)
    """
    return xp.squeeze(x, axis)


squeeze.vjp(0)(lambda xp, g, x_shape: xp.reshape(g, x_shape))
squeeze.samples(
    case((1, 3)),
    case((1, 3, 1), axis=-1),
    case((1, 3, 1), axis=(0, 2)),
    case((1, 0), axis=0),
    case(()),
    error(ShapeError, "extent 1", (2, 3), axis=0),
    error(ShapeError, "extent 1", (1, 3), axis=2),
)


@op(dtype=keep, view=True, ref="numpy.flip", needs="axes of x")
def flip(xp: Any, x: Array, /, axis: Axes = None) -> Array:
    """Reverse the order of the elements along the axes named, or along all of them.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.flip(mg.arange(3))
    tensor([2, 1, 0])
    """
    return xp.flip(x, axis)


flip.vjp(0)(lambda xp, g, *, axis: xp.flip(g, axis))
flip.samples(
    case((3,)),
    case((2, 3), axis=-1),
    case((2, 3, 2), axis=(0, 2)),
    case(()),
    case((0, 2), axis=1),
    error(ShapeError, "axes of x", (2, 3), axis=2),
)


@op(dtype=keep, ref="numpy.roll", needs="axes of x, and as many shifts")
def roll(xp: Any, x: Array, /, shift: int | tuple[int, ...], axis: Axes = None) -> Array:
    """Shift elements along an axis; what leaves at one end enters at the other. Without an axis, `x` rolls as if flat.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.roll(mg.arange(4), 1)
    tensor([3, 0, 1, 2])
    """
    return xp.roll(x, shift, axis)


@roll.vjp(0)
def _(xp: Any, g: Array, *, shift: int | tuple[int, ...], axis: Axes) -> Array:
    return xp.roll(g, tuple(-s for s in shift) if isinstance(shift, Sequence) else -shift, axis)


roll.samples(
    case((3,), shift=1),
    case((2, 3), shift=-4),
    case((2, 3), shift=1, axis=-1),
    case((2, 3), shift=(1, 2), axis=(0, 1)),
    case((2, 3), shift=(1, 1), axis=0),
    case((), shift=1),
    case((0, 2), shift=1, axis=0),
    error(ShapeError, "axes of x", (2, 3), shift=1, axis=2),
    error(ShapeError, "as many shifts", (2, 3, 4), shift=(1, 2, 3), axis=(0, 1)),
)


def _matrix(x: Array) -> Array:
    """`x`, if it has rows and columns; NumPy would make some."""
    if x.ndim < 2:
        raise ValueError(f"x has {x.ndim} axes")
    return x


@op(dtype=keep, ref="numpy.tril", needs="matrices on the last two axes")
def tril(xp: Any, x: Array, /, *, k: int = 0) -> Array:
    """The lower triangle of matrices: what stands above diagonal `k` becomes 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.tril(mg.ones((2, 2)))
    tensor([[1., 0.],
            [1., 1.]])
    """
    return xp.tril(_matrix(x), k=k)


@op(dtype=keep, ref="numpy.triu", needs="matrices on the last two axes")
def triu(xp: Any, x: Array, /, *, k: int = 0) -> Array:
    """The upper triangle of matrices: what stands below diagonal `k` becomes 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.triu(mg.ones((2, 2)), k=1)
    tensor([[0., 1.],
            [0., 0.]])
    """
    return xp.triu(_matrix(x), k=k)


tril.vjp(0)(lambda xp, g, *, k: xp.tril(g, k=k))
triu.vjp(0)(lambda xp, g, *, k: xp.triu(g, k=k))
for triangle in (tril, triu):
    triangle.samples(
        case((3, 3)),
        case((2, 4), k=1),
        case((2, 3, 2), k=-1),
        case((0, 2)),
        error(ShapeError, "matrices on the last two axes", (3,)),
    )

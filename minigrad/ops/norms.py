"""Norms of vectors and matrices. Public in `minigrad.linalg`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigrad.errors import ShapeError, message
from minigrad.ops.conversion import as_operand
from minigrad.ops.decompositions import require_matrix
from minigrad.ops.manipulation import moveaxis, reshape
from minigrad.ops.reduction import kept
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["matrix_norm", "norm", "vector_norm"]

Axis = int | tuple[int, ...] | None


@op(
    dtype=floating.but(same=False),
    ref="numpy.linalg.vector_norm",
    needs="an axis of x, or a tuple of different ones, and at least one element for orders that are infinite",
    name="linalg.vector_norm",
    amp="float32",
)
def vector_norm(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False, ord: float = 2) -> Array:
    """Norm of vectors, ``sum(abs(x) ** ord) ** (1 / ord)``.

    Parameters
    ----------
    x : Tensor
        Any shape.
    axis : int or tuple of int, optional
        The axes that hold a vector; all of them by default.
    keepdims : bool
        Keep the axes with extent 1.
    ord : float
        The order: ``inf`` is the largest magnitude, ``-inf`` the smallest, 0 counts what is not zero.

    Returns
    -------
    Tensor
        The gradient of a zero vector is 0, of order 2 as well. Largest and smallest magnitudes that tie share the
        gradient equally; the count has gradient 0.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.vector_norm(mg.tensor([3.0, -4.0]))
    tensor(5.)
    """
    size = xp.abs(x)
    if ord == math.inf:
        return xp.max(size, axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return xp.min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return xp.sum(size != 0, axis=axis, keepdims=keepdims, dtype=size.dtype)
    if ord == 1:
        return xp.sum(size, axis=axis, keepdims=keepdims)
    if ord == 2:
        return xp.sqrt(xp.sum(size * size, axis=axis, keepdims=keepdims))
    return xp.sum(size**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


@vector_norm.vjp(0)
def _(xp: Any, g: Array, x: Array, out: Array, *, axis: Axis, keepdims: bool, ord: float) -> Array:
    if ord == 0:
        return xp.zeros_like(x)
    if not keepdims:
        shape = kept(x.shape, axis)
        g, out = xp.reshape(g, shape), xp.reshape(out, shape)
    if ord == 1:
        return g * xp.sign(x)
    if math.isinf(ord):
        ties = xp.where(xp.abs(x) == out, xp.ones_like(x), 0.0)
        return g * xp.sign(x) * ties / xp.sum(ties, axis=axis, keepdims=True)
    safe = xp.where(out == 0, math.inf, out)
    if ord == 2:
        return g * x / safe
    # the base is masked where it is 0: a power of 0 may be infinite, here or in its derivative
    return g * xp.sign(x) * xp.where(x == 0, 1.0, xp.abs(x) / safe) ** (ord - 1)


vector_norm.samples(
    case((3,)),
    case((2, 3), axis=0),
    case((2, 3), axis=-1, keepdims=True),
    case((2, 3, 2), axis=(0, 2)),
    case(()),
    case((0, 3), axis=0),
    case(A((2, 3), avoid=(0.0,)), ord=1),
    case(A((2, 3), avoid=(0.0,)), axis=1, ord=3),
    case(A((2, 3), avoid=(0.0,)), ord=1.5, keepdims=True),
    case(A((3,), avoid=(0.0,)), ord=-2),
    case(A((2, 3), avoid=(0.0,)), ord=0),
    case(A((2, 3), 0.1, 2.0, form="distinct"), axis=1, ord=math.inf),
    case(A((2, 3), 0.1, 2.0, form="distinct"), ord=-math.inf, keepdims=True),
    error(ShapeError, "an axis of x", (2, 3), axis=2),
    error(ShapeError, "at least one element for orders that are infinite", (0,), ord=math.inf),
)


@op(
    dtype=floating.but(same=False),
    ref="numpy.linalg.matrix_norm",
    needs="matrices (..., m, n)",
    name="linalg.matrix_norm",
    amp="float32",
)
def matrix_norm(xp: Any, x: Array, /, *, keepdims: bool = False, ord: float | str = "fro") -> Array:
    """Norm of matrices.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    keepdims : bool
        Keep the last two axes with extent 1.
    ord : {"fro", "nuc", 1, -1, 2, -2, inf, -inf}
        ``"fro"``: root of the sum of squares; ``"nuc"``: sum of the singular values; 2 and -2: the largest and smallest
        singular value; 1 and -1: of the sums of magnitudes over columns; inf and -inf: over rows.

    Returns
    -------
    Tensor
        (...), and 0 where an extent of the matrices is 0. Gradients at ties and at zero are those of `vector_norm`,
        `max`, `min` and `svdvals`.

    Raises
    ------
    ShapeError
        If `x` has no two axes, the order is unknown, or it is a smallest value and there is none.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.matrix_norm(mg.tensor([[3.0, 0.0], [0.0, -4.0]]), ord="nuc")
    tensor(7.)
    """
    require_matrix("linalg.matrix_norm", x)
    if ord == "fro":
        return xp.linalg.vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord not in ("nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise ShapeError(message("linalg.matrix_norm", "ord", ord, "one of 'fro', 'nuc', 1, -1, 2, -2, inf, -inf"))
    if ord in (1, -1):
        values = xp.sum(xp.abs(x), axis=-2)
    elif ord in (math.inf, -math.inf):
        values = xp.sum(xp.abs(x), axis=-1)
    else:
        values = xp.linalg.svdvals(x)
    if ord == "nuc" or (float(ord) > 0 and not values.shape[-1]):
        out = xp.sum(values, axis=-1)  # 0 where there is nothing
    elif values.shape[-1]:
        out = (xp.max if float(ord) > 0 else xp.min)(values, axis=-1)
    else:
        what = "column" if ord == -1 else "singular value" if ord == -2 else "row"
        raise ShapeError(message("linalg.matrix_norm", "x", x, f"at least one {what} for ord {ord}"))
    return xp.reshape(out, (*x.shape[:-2], 1, 1)) if keepdims else out


matrix_norm.samples(
    case((2, 3)),
    case((2, 3, 2), keepdims=True),
    case(A((3, 2), form="regular"), ord="nuc"),
    case(A((2, 3, 2), form="regular"), ord=2),
    case(A((3, 2), form="regular"), ord=-2, keepdims=True),
    case(A((2, 3), 0.1, 2.0), ord=1),
    case(A((2, 3), -2.0, -0.1), ord=-1),
    case(A((2, 2, 3), 0.1, 2.0), ord=math.inf),
    case(A((2, 3), 0.1, 2.0), ord=-math.inf, keepdims=True),
    *(case(s, ord=order) for s in [(0, 3), (3, 0), (2, 0, 3)] for order in ("fro", "nuc", 1, 2, math.inf)),
    case((3, 0), ord=1, keepdims=True),
    case((0, 3), ord=-1),
    case((3, 0), ord=-math.inf),
    error(ShapeError, "linalg.matrix_norm: x is float64 (3,), needs matrices", (3,)),
    error(ShapeError, "linalg.matrix_norm: x is float64 (3, 0), needs at least one column", (3, 0), ord=-1),
    error(ShapeError, "linalg.matrix_norm: x is float64 (0, 3), needs at least one row", (0, 3), ord=-math.inf),
    error(ShapeError, "needs at least one singular value for ord -2", (0, 3), ord=-2),
    error(ShapeError, "linalg.matrix_norm: ord is 3, needs one of 'fro'", (3, 2), ord=3),
)


def norm(x: Tensor, /, ord: float | str | None = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Norm of a vector or of a matrix, with NumPy's signature.

    Parameters
    ----------
    x : Tensor
        Any shape; with `ord` and without `axis` it must have one or two axes.
    ord : float or str, optional
        An order of `vector_norm` or of `matrix_norm`; the root of the sum of squares by default.
    axis : int or (int, int), optional
        One axis for vectors, two for matrices; all of `x` by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the axes do not exist, or neither one nor two are meant.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.norm(mg.tensor([[3.0, 0.0], [0.0, -4.0]]), axis=1)
    tensor([3., 4.])
    """
    x = as_operand("linalg.norm", "x", x)
    if axis is None:
        if ord is None:
            return vector_norm(x, keepdims=keepdims)
        axis = tuple(range(x.ndim))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) == 1:
        order = 2 if ord is None else ord
        if isinstance(order, str):
            raise ShapeError(message("linalg.norm", "ord", order, "a number for vectors"))
        return vector_norm(x, axes, keepdims=keepdims, ord=order)
    if len(axes) != 2:
        raise ShapeError(message("linalg.norm", "axis", f"{len(axes)} axes", "one axis for vectors, two for matrices"))
    out = matrix_norm(moveaxis(x, axes, (-2, -1)), ord="fro" if ord is None else ord)
    return reshape(out, kept(x.shape, axes)) if keepdims else out

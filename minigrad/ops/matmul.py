"""Products: matmul and its relatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import AxisError, DTypeError, ShapeError, message
from minigrad.ops.einsum import einsum
from minigrad.ops.registry import Array, Op, keep, op, promote
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["einsum", "linear", "linear_relu", "matmul", "matrix_transpose", "outer", "tensordot", "vecdot"]

Shape = tuple[int, ...]
Axes = int | tuple[int | tuple[int, ...], int | tuple[int, ...]]

numeric = promote.but(kinds=dtypes.ALL - dtypes.BOOL)


def _kernels(of: Op[Any], name: str, bfloat: bool = True) -> None:
    """Register the kernels of a product: `name` for the forward, `name`_vjp0 and so on for its rules."""
    if bfloat:
        of.kernel("cpu", dtypes.bfloat16)(Kernel("bfloat", name))
        for i in range(2):
            of.kernel("cpu", dtypes.bfloat16, vjp=i)(Kernel("bfloat", f"{name}_vjp{i}"))
    of.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("matmul", name))
    for i in range(len(of.inputs)):
        rule = Kernel("matmul", f"{name}_vjp{i}")
        of.kernel("cpu", dtypes.float32, dtypes.float64, vjp=i, into=i == 1)(rule)  # the gradient of a weight


@op(dtype=keep, view=True, ref="numpy.matrix_transpose", needs="at least two axes", name="matrix_transpose")
def matrix_transpose(xp: Any, x: Array, /) -> Array:
    """Swap the last two axes: the transpose of each matrix of a stack, a view.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.matrix_transpose(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 3.],
            [2., 4.]])
    """
    return xp.matrix_transpose(x)


matrix_transpose.vjp(0)(lambda xp, g: xp.matrix_transpose(g))
matrix_transpose.samples(
    case((2, 3)),
    case((4, 2, 3)),
    case((0, 2)),
    error(ShapeError, "at least two axes", (3,)),
    error(ShapeError, "at least two axes", ()),
)


def product(xp: Any, x1: Array, x2: Array) -> Array:
    """``x1 @ x2``, where a stack `x1` becomes one matrix if `x2` is one: BLAS runs once, not once a matrix."""
    if x1.ndim > 2 and x2.ndim == 2:
        # the arrays' own method: for a few rows NumPy's function takes as long as the product
        rows = xp.matmul(x1.reshape((math.prod(x1.shape[:-1]), x1.shape[-1])), x2)
        return rows.reshape((*x1.shape[:-1], x2.shape[-1]))
    return xp.matmul(x1, x2)


def _left(xp: Any, g: Array, x1_shape: Shape, x2: Array) -> Array:
    """The cotangent of the first factor; the engine sums it over the axes that broadcasting stretched."""
    if len(x1_shape) == 1:
        if x2.ndim <= 2:
            return g * x2 if x2.ndim == 1 else xp.matmul(x2, g)
        return xp.reshape(xp.matmul(x2, xp.reshape(g, (*g.shape, 1))), x2.shape[:-1])
    if x2.ndim == 1:
        return xp.reshape(g, (*g.shape, 1)) * x2
    return product(xp, g, xp.matrix_transpose(x2))


def _right(xp: Any, g: Array, x1: Array, x2_shape: Shape) -> Array:
    """The cotangent of the second factor."""
    if x1.ndim == 1:
        if len(x2_shape) == 1:
            return g * x1
        return xp.reshape(x1, (-1, 1)) * xp.reshape(g, (*g.shape[:-1], 1, g.shape[-1]))
    if x1.ndim > 2 and len(x2_shape) <= 2:
        rows = math.prod(x1.shape[:-1])
        flat = xp.matrix_transpose(xp.reshape(x1, (rows, x1.shape[-1])))
        return xp.matmul(flat, xp.reshape(g, (rows, *x2_shape[1:])))
    return xp.matmul(xp.matrix_transpose(x1), g)


@op(
    dtype=numeric,
    ref="numpy.matmul",
    needs="x1 (..., m, k) and x2 (..., k, n) with one k and leading axes that broadcast together",
    hint="A vector is a row on the left and a column on the right; numbers are multiplied with *.",
    amp="half",
)
def matmul(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Matrix product ``x1 @ x2`` of stacks of matrices.

    Half types are multiplied and summed in float32. Where `x2` is one matrix, a stack `x1` is multiplied in one piece,
    forward and backward.

    Parameters
    ----------
    x1 : Tensor
        (..., m, k), or (k,), which stands for a row.
    x2 : Tensor
        (..., k, n), or (k,), which stands for a column.

    Returns
    -------
    Tensor
        (..., m, n), without the axis that stood for a vector; leading axes broadcast.

    Raises
    ------
    ShapeError
        If the inner extents differ, the leading axes do not broadcast, or an argument has no axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.matmul(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1.0, 10.0]))
    tensor([21., 43.])
    """
    return product(xp, x1, x2)


matmul.vjp(0)(_left)
matmul.vjp(1)(_right)
matmul.samples(
    case((2, 3), (3, 4)),
    case((3,), (3,)),
    case((3,), (3, 2)),
    case((2, 3), (3,)),
    case((3,), (2, 3, 2)),
    case((2, 2, 3), (3,)),
    case((2, 2, 3), (3, 2)),
    case((2, 3), (2, 3, 2)),
    case((2, 1, 2, 3), (3, 3, 2)),
    case((1, 2, 3), (4, 3, 2)),
    case((0, 3), (3, 2)),
    case((2, 0), (0, 3)),
    case((2, 2, 0), (0, 3)),
    case((0, 2, 3), (3, 1)),
    case(A((2, 3), kind="int", low=-3, high=3), A((3, 2), kind="int", low=-3, high=3)),
    error(ShapeError, "with one k", (2, 3), (2, 3)),
    error(ShapeError, "with one k", (5, 2, 3), (2, 3)),
    error(ShapeError, "broadcast together", (2, 2, 3), (3, 3, 2)),
    error(ShapeError, "multiplied with *", (2, 3), ()),
    error(DTypeError, "matmul", A((2, 2), kind="bool"), A((2, 2), kind="bool")),
)
_kernels(matmul, "matmul")


@op(
    dtype=numeric,
    needs="x (..., k), weight (k, n) and bias (n,)",
    hint="The weight is (in, out): y = x @ weight + bias.",
    amp="half",
)
def linear(xp: Any, x: Array, weight: Array, bias: Array | None = None, /) -> Array:
    """Affine map ``x @ weight + bias``.

    Parameters
    ----------
    x : Tensor
        (..., k).
    weight : Tensor
        (k, n).
    bias : Tensor, optional
        (n,).

    Returns
    -------
    Tensor
        (..., n).

    Raises
    ------
    ShapeError
        If the features of `x` are not the rows of `weight`, or `bias` is not one number a column.

    Examples
    --------
    >>> import minigrad as mg
    >>> weight = mg.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
    >>> mg.linear(mg.tensor([[1.0, 10.0]]), weight, mg.tensor([0.5, 0.5, 0.5]))
    tensor([[ 1.5, 10.5, 32.5]])
    """
    return _affine(xp, x, weight, bias, "linear")


def _affine(xp: Any, x: Array, weight: Array, bias: Array | None, who: str) -> Array:
    if weight.ndim != 2:
        raise ShapeError(message(who, "weight", weight, "a matrix (in, out)"))
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        need = f"{weight.shape[0]} features on its last axis, as weight {tuple(weight.shape)} is (in, out)"
        raise ShapeError(message(who, "x", x, need))
    if bias is None:
        return product(xp, x, weight)
    if bias.shape != weight.shape[1:]:
        need = f"shape ({weight.shape[1]},), as weight is {tuple(weight.shape)}"
        raise ShapeError(message(who, "bias", bias, need))
    return product(xp, x, weight) + bias


@linear.vjp(0)
def _(xp: Any, g: Array, weight: Array) -> Array:
    return product(xp, g, xp.matrix_transpose(weight))


@linear.vjp(1)
def _(xp: Any, g: Array, x: Array, weight_shape: Shape) -> Array:
    return _right(xp, g, x, weight_shape)


linear.vjp(2)(lambda xp, g: g)
linear.samples(
    case((2, 3), (3, 4), (4,)),
    case((2, 3), (3, 4)),
    case((3,), (3, 2), (2,)),
    case((2, 2, 3), (3, 2), (2,)),
    case((0, 3), (3, 2), (2,)),
    case((2, 0), (0, 2), (2,)),
    error(ShapeError, "linear: x is float64 (2, 4), needs 3 features on its last axis", (2, 4), (3, 2)),
    error(ShapeError, "linear: weight is float64 (3,), needs a matrix (in, out)", (2, 3), (3,)),
    error(ShapeError, "linear: bias is float64 (3,), needs shape (2,)", (2, 3), (3, 2), (3,)),
)
_kernels(linear, "linear")


@op(
    dtype=numeric.but(kinds=dtypes.INTEGER | dtypes.FLOATING),
    needs="x (..., k), weight (k, n) and bias (n,)",
    hint="The weight is (in, out): y = relu(x @ weight + bias).",
    amp="half",
)
def linear_relu(xp: Any, x: Array, weight: Array, bias: Array | None = None, /) -> Array:
    """``relu(x @ weight + bias)`` in one piece, which keeps the result only; see `linear` and `relu`.

    `minigrad.nn.Dense` uses it. Other activations need what they were given in backward, and so remain ops.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import ops
    >>> ops.linear_relu(mg.tensor([[1.0, 2.0]]), mg.tensor([[1.0, -1.0], [1.0, -1.0]]), mg.tensor([0.5, 0.5]))
    tensor([[3.5, 0. ]])
    """
    return xp.maximum(_affine(xp, x, weight, bias, "linear_relu"), 0)


@linear_relu.vjp(0)
def _(xp: Any, g: Array, weight: Array, out: Array) -> Array:
    return product(xp, xp.where(out > 0, g, 0.0), xp.matrix_transpose(weight))


@linear_relu.vjp(1)
def _(xp: Any, g: Array, x: Array, weight_shape: Shape, out: Array) -> Array:
    return _right(xp, xp.where(out > 0, g, 0.0), x, weight_shape)


linear_relu.vjp(2)(lambda xp, g, out: xp.where(out > 0, g, 0.0))
linear_relu.samples(
    case((2, 3), A((3, 4), 0.5, 2.0), A((4,), 12.5, 13.0)),
    case((2, 3), A((3, 4), 0.5, 2.0), A((4,), -13.0, -12.5)),
    case(A((2, 3), 0.5, 2.0), A((3, 4), 0.5, 2.0)),
    case(A((3,), 0.5, 2.0), A((3, 2), -2.0, -0.5), (2,)),
    case(A((2, 2, 3), 0.5, 2.0), A((3, 2), 0.5, 2.0), A((2,), 0.5, 2.0)),
    case((0, 3), (3, 2), (2,)),
    case((2, 0), (0, 2), A((2,), avoid=(0.0,))),
    error(ShapeError, "linear_relu: x is float64 (2, 4), needs 3 features on its last axis", (2, 4), (3, 2)),
    error(ShapeError, "linear_relu: weight is float64 (3,), needs a matrix (in, out)", (2, 3), (3,)),
    error(ShapeError, "linear_relu: bias is float64 (3,), needs shape (2,)", (2, 3), (3, 2), (3,)),
)
_kernels(linear_relu, "linear_relu", bfloat=False)


@op(
    dtype=numeric,
    ref="numpy.vecdot",
    needs="vectors of one length on the axis, and other axes that broadcast together",
    amp="half",
)
def vecdot(xp: Any, x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Dot product of vectors along an axis, ``sum(conj(x1) * x2)``; the other axes broadcast.

    Parameters
    ----------
    x1, x2 : Tensor
        Stacks of vectors.
    axis : int
        The axis of the vectors; counted from the end, unless both have as many axes.

    Returns
    -------
    Tensor
        The broadcast shape without that axis.

    Raises
    ------
    ShapeError
        If the vectors differ in length or the axis does not exist.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.vecdot(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1.0, 10.0]))
    tensor([21., 43.])
    """
    if axis >= 0 and x1.ndim != x2.ndim:
        raise ShapeError(message("vecdot", "axis", axis, "a negative axis where the numbers of axes differ"))
    return xp.vecdot(x1, x2, axis=axis)


vecdot.vjp(0)(lambda xp, g, x2, *, axis: xp.expand_dims(g, axis=axis) * x2)
vecdot.vjp(1)(lambda xp, g, x1, *, axis: xp.expand_dims(g, axis=axis) * x1)
vecdot.samples(
    case((3,), (3,)),
    case((2, 3), (3,)),
    case((2, 3), (2, 3), axis=0),
    case((2, 1, 3), (4, 3)),
    case((2, 3, 4), (3, 1), axis=-2),
    case((2, 0), (2, 0)),
    error(ShapeError, "vectors of one length", (2, 3), (2, 4)),
    error(ShapeError, "vecdot: axis is 0, needs a negative axis", (2, 3), (3,), axis=0),
    error(ShapeError, "vecdot", (2, 3), (2, 3), axis=2),
)


@op(dtype=numeric, ref="numpy.outer", needs="two vectors", amp="widest")
def outer(xp: Any, x1: Array, x2: Array, /) -> Array:
    """All products of two vectors, ``out[i, j] = x1[i] * x2[j]``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.outer(mg.tensor([1.0, 2.0]), mg.tensor([3.0, 4.0]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    if x1.ndim != 1 or x2.ndim != 1:
        raise ShapeError(message("outer", "x1" if x1.ndim != 1 else "x2", x1 if x1.ndim != 1 else x2, "a vector"))
    return xp.reshape(x1, (-1, 1)) * x2


outer.vjp(0)(lambda xp, g, x2: xp.matmul(g, x2))
outer.vjp(1)(lambda xp, g, x1: xp.matmul(x1, g))
outer.samples(
    case((2,), (3,)), case((0,), (2,)), error(ShapeError, "x1 is float64 (), needs a vector", (), (2,)),
    error(ShapeError, "x2 is float64 (2, 2), needs a vector", (2,), (2, 2)),
)  # fmt: skip


@op(dtype=numeric, ref="numpy.tensordot", needs="contracted axes of equal extents", amp="half")
def _tensordot(xp: Any, x1: Array, x2: Array, /, *, axes: Axes = 2) -> Array:
    if isinstance(axes, int):
        both = min(x1.ndim, x2.ndim)
        if not 0 <= axes <= both:
            raise ShapeError(message("tensordot", "axes", axes, f"at most the {both} axes that both have"))
        first, second = list(range(x1.ndim - axes, x1.ndim)), list(range(axes))
    else:
        first, second = (
            [a % n if -n <= a < n else _no_axis(a, n) for a in ((side,) if isinstance(side, int) else side)]
            for side, n in zip(axes, (x1.ndim, x2.ndim), strict=True)
        )
    twice = len({*first}) < len(first) or len({*second}) < len(second)
    if twice or [x1.shape[i] for i in first] != [x2.shape[j] for j in second]:
        need = f"pairs of different axes with equal extents in {tuple(x1.shape)} and {tuple(x2.shape)}"
        raise ShapeError(message("tensordot", "axes", axes, need))
    left = [i for i in range(x1.ndim) if i not in first]
    right = [j for j in range(x2.ndim) if j not in second]
    rows, inner, columns = (
        tuple(x.shape[i] for i in chosen) for x, chosen in ((x1, left), (x1, first), (x2, right))
    )  # fmt: skip
    a = xp.reshape(xp.permute_dims(x1, (*left, *first)), (math.prod(rows), math.prod(inner)))
    b = xp.reshape(xp.permute_dims(x2, (*second, *right)), (math.prod(inner), math.prod(columns)))
    return xp.reshape(xp.matmul(a, b), rows + columns)


def _no_axis(axis: int, n: int) -> int:
    raise AxisError(message("tensordot", "axes", f"{axis}", f"an axis of a tensor with {n} axes"))


_tensordot.samples(
    case((2, 3), (2, 3)),
    case((2, 3, 4), (4, 2), axes=1),
    case((2, 3), (4,), axes=0),
    case((2, 3, 4), (4, 5, 3), axes=((1, 2), (2, 0))),
    case((2, 3), (3, 2), axes=(-1, 0)),
    case((), (), axes=0),
    case((0, 3), (3, 2), axes=1),
    case((2, 0), (0, 2), axes=1),
    error(ShapeError, "axes is 1, needs pairs of different axes with equal extents in (2, 3)", (2, 3), (2, 3), axes=1),
    error(ShapeError, "axes is 3, needs at most the 2 axes", (2, 3), (2, 3), axes=3),
    error(ShapeError, "axes is 5, needs an axis of a tensor with 2 axes", (2, 3), (2, 3), axes=(5, 0)),
)


def tensordot(x1: Tensor, x2: Tensor, /, axes: Axes = 2) -> Tensor:
    """Sum of products over pairs of axes.

    Parameters
    ----------
    x1, x2 : Tensor
        Any shapes.
    axes : int or (axes of x1, axes of x2)
        How many axes, the last of `x1` with the first of `x2`; or which ones.

    Returns
    -------
    Tensor
        The axes of `x1` that are left, then those of `x2`.

    Raises
    ------
    ShapeError
        If an axis does not exist or paired extents differ.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.tensordot(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1.0, 10.0]), axes=1)
    tensor([21., 43.])
    """
    if not isinstance(axes, int):
        first, second = (side if isinstance(side, int) else tuple(side) for side in axes)
        axes = (first, second)
    return _tensordot(x1, x2, axes=axes)

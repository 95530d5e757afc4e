"""Linear algebra: the functions of the array API's `linalg` extension, and `norm`. This module is `minigrad.linalg`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad.errors import ShapeError, message
from minigrad.ops.creation import astype
from minigrad.ops.decompositions import (
    EighResult,
    QRResult,
    SVDResult,
    cholesky,
    column,
    eigh,
    eigvalsh,
    qr,
    require_matrix,
    require_square,
    row,
    svd,
    svdvals,
)
from minigrad.ops.matmul import matmul, matrix_transpose, outer, tensordot, vecdot
from minigrad.ops.norms import matrix_norm, norm, vector_norm
from minigrad.ops.reduction import accumulating
from minigrad.ops.registry import Array, floating, keep, op, promote
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "EighResult", "QRResult", "SVDResult", "SlogdetResult", "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh",
    "inv", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "norm", "outer", "pinv", "qr",
    "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip

Shape = tuple[int, ...]
REGULAR = "square matrices (..., n, n) that are not singular"


class SlogdetResult(NamedTuple):
    """What `slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


@op(dtype=keep, view=True, ref="numpy.linalg.diagonal", needs="at least two axes", name="linalg.diagonal")
def diagonal(xp: Any, x: Array, /, *, offset: int = 0) -> Array:
    """The diagonals of matrices, ``x[..., i, i + offset]``, a view.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.diagonal(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 4.])
    """
    require_matrix("linalg.diagonal", x)
    return xp.diagonal(x, offset, -2, -1)


@diagonal.vjp(0)
def _(xp: Any, g: Array, x_shape: Shape, *, offset: int) -> Array:
    # the i-th entry lies in row i for an offset upwards, in column i for one downwards
    *batch, m, n = x_shape
    missing = (m if offset >= 0 else n) - g.shape[-1]
    if missing:
        g = xp.concat((g, xp.zeros((*batch, missing), dtype=g.dtype)), axis=-1)
    g = column(xp, g) if offset >= 0 else row(xp, g)
    return xp.where(xp.eye(m, n, k=offset, dtype=dtypes.bool), g, 0.0)


diagonal.samples(
    case((3, 3)),
    case((2, 3)),
    case((2, 3, 2)),
    case((3, 4), offset=1),
    case((3, 4), offset=-1),
    case((2, 3), offset=5),
    case((0, 3)),
    error(ShapeError, "linalg.diagonal: x is float64 (3,), needs matrices", (3,)),
)


@op(dtype=accumulating, ref="numpy.linalg.trace", needs="at least two axes", name="linalg.trace")
def _trace(xp: Any, x: Array, /, *, offset: int = 0) -> Array:
    require_matrix("linalg.trace", x)
    return xp.sum(xp.linalg.diagonal(x, offset=offset), axis=-1)


_trace.samples(
    case((3, 3)),
    case((2, 3, 4), offset=1),
    case(A((2, 2), kind="int", low=-3, high=3)),
    case((0, 0)),
    error(ShapeError, "linalg.trace: x is float64 (3,), needs matrices", (3,)),
)


def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """Sum over the diagonal of matrices.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    offset : int
        Which diagonal, counted upwards from the main one.
    dtype : dtype, optional
        Cast to it first.

    Returns
    -------
    Tensor
        (...); integers are summed in 64 bits.

    Raises
    ------
    ShapeError
        If `x` has no two axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.trace(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    return _trace(x if dtype is None else astype(x, dtype), offset=offset)


@op(
    dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL),
    ref="numpy.linalg.cross",
    needs="vectors of 3 elements, and other axes that broadcast together",
    name="linalg.cross",
)
def cross(xp: Any, x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Cross product of vectors of 3 elements along an axis; the other axes broadcast.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.cross(mg.tensor([1.0, 0.0, 0.0]), mg.tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    if axis >= 0 and x1.ndim != x2.ndim:
        raise ShapeError(message("linalg.cross", "axis", axis, "a negative axis where the numbers of axes differ"))
    return xp.linalg.cross(x1, x2, axis=axis)


cross.vjp(0)(lambda xp, g, x2, *, axis: xp.linalg.cross(x2, g, axis=axis))
cross.vjp(1)(lambda xp, g, x1, *, axis: xp.linalg.cross(g, x1, axis=axis))
cross.samples(
    case((3,), (3,)),
    case((2, 3), (3,)),
    case((3, 2), (3, 2), axis=0),
    case((2, 1, 3), (4, 3)),
    error(ShapeError, "vectors of 3 elements", (2,), (2,)),
    error(ShapeError, "needs a negative axis", (3, 3), (3,), axis=0),
)


@op(dtype=floating, ref="numpy.linalg.inv", needs=REGULAR, hint="mg.linalg.pinv takes any matrix.", name="linalg.inv")
def inv(xp: Any, x: Array, /) -> Array:
    """Inverse of square matrices.

    Parameters
    ----------
    x : Tensor
        (..., n, n).

    Returns
    -------
    Tensor
        (..., n, n).

    Raises
    ------
    ShapeError
        If the matrices are not square.
    numpy.linalg.LinAlgError
        If one is singular.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.inv(mg.tensor([[2.0, 0.0], [0.0, 4.0]]))
    tensor([[0.5 , 0.  ],
            [0.  , 0.25]])
    """
    require_square("linalg.inv", x)
    return xp.linalg.inv(x)


@inv.vjp(0)
def _(xp: Any, g: Array, out: Array) -> Array:
    t = xp.matrix_transpose(out)
    return -(t @ g @ t)


inv.samples(
    case(A((3, 3), form="regular")),
    case(A((2, 3, 3), form="regular")),
    case(A((1, 1), form="regular")),
    case((0, 0)),
    error(ShapeError, "linalg.inv: x is float64 (2, 3), needs square matrices", (2, 3)),
    error(np.linalg.LinAlgError, "linalg.inv: got x float64 (2, 2), needs square matrices", A((2, 2), 0.0, 0.0)),
)


@op(dtype=floating, ref="numpy.linalg.solve", needs=f"a: {REGULAR}; b: (n,) or (..., n, k)", name="linalg.solve")
def solve(xp: Any, a: Array, b: Array, /) -> Array:
    """Solution x of the linear systems ``a @ x = b``.

    Parameters
    ----------
    a : Tensor
        (..., n, n).
    b : Tensor
        One vector (n,), or matrices (..., n, k) of right-hand sides. Leading axes broadcast.

    Returns
    -------
    Tensor
        (..., n) for a vector, else (..., n, k).

    Raises
    ------
    ShapeError
        If `a` is not square or `b` does not fit.
    numpy.linalg.LinAlgError
        If a matrix is singular.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.solve(mg.tensor([[2.0, 0.0], [0.0, 4.0]]), mg.tensor([2.0, 2.0]))
    tensor([1. , 0.5])
    """
    require_square("linalg.solve", a, "a")
    if b.ndim == 0:
        raise ShapeError(message("linalg.solve", "b", b, "a vector (n,) or matrices (..., n, k)"))
    return xp.linalg.solve(a, b)


@solve.vjp()
def _(xp: Any, g: Array, a: Array, b_shape: Shape, out: Array) -> tuple[Array, Array]:
    vector = len(b_shape) == 1
    if vector:
        g, out = column(xp, g), column(xp, out)
    gb = xp.linalg.solve(xp.matrix_transpose(a), g)
    ga = -(gb @ xp.matrix_transpose(out))
    return ga, xp.reshape(gb, gb.shape[:-1]) if vector else gb


solve.samples(
    case(A((3, 3), form="regular"), (3,)),
    case(A((3, 3), form="regular"), (3, 2)),
    case(A((2, 3, 3), form="regular"), (3,)),
    case(A((2, 3, 3), form="regular"), (3, 2)),
    case(A((3, 3), form="regular"), (2, 3, 1)),
    case(A((2, 1, 2, 2), form="regular"), (3, 2, 2)),
    error(ShapeError, "linalg.solve: a is float64 (2, 3), needs square matrices", (2, 3), (2,)),
    error(ShapeError, "b: (n,) or (..., n, k)", A((3, 3), form="regular"), (2,)),
    error(ShapeError, "b is float64 (), needs a vector", A((3, 3), form="regular"), ()),
    error(np.linalg.LinAlgError, "linalg.solve: got a float64 (2, 2)", A((2, 2), 0.0, 0.0), (2,)),
)


@op(dtype=floating, needs="square matrices (..., n, n)", name="linalg.cofactor")
def _cofactor(xp: Any, x: Array, /) -> Array:
    """The derivative of the determinant: ``det(x) * inv(x).T``, and its limit where `x` is singular.

    With ``x = U @ diag(s) @ Vh`` it is ``det(U) det(Vh) U @ diag(p) @ Vh``, where p_i is the product of all s but s_i:
    no division.
    """
    require_square("linalg.cofactor", x)
    u, s, vh = xp.linalg.svd(x)
    others = xp.prod(xp.where(xp.eye(s.shape[-1], dtype=dtypes.bool), 1.0, row(xp, s)), axis=-1)
    return (u * row(xp, others)) @ vh * _orientation(xp, u, vh)


def _orientation(xp: Any, u: Array, vh: Array) -> Array:
    """The determinant of ``u @ vh``, 1 or -1, as a stack of 1 x 1 matrices."""
    return column(xp, column(xp, xp.sign(xp.linalg.det(u) * xp.linalg.det(vh))))


@_cofactor.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    # for diagonal x the second derivatives of det are the products of all entries but two
    u, s, vh = xp.linalg.svd(x)
    t = xp.matrix_transpose
    h = t(u) @ g @ t(vh)
    one = xp.eye(s.shape[-1], dtype=dtypes.bool)
    chosen = xp.expand_dims(one, axis=1) | xp.expand_dims(one, axis=0)
    pairs = xp.prod(xp.where(chosen, 1.0, row(xp, row(xp, s))), axis=-1)
    pairs = xp.where(one, 0.0, pairs)
    core = xp.where(one, pairs @ column(xp, xp.linalg.diagonal(h)), -pairs * t(h))
    return u @ core @ vh * _orientation(xp, u, vh)


_cofactor.samples(
    case(A((3, 3), form="regular")),
    case(A((2, 2, 2), form="regular")),
    case(A((1, 1))),
    error(ShapeError, "linalg.cofactor: x is float64 (2, 3), needs square matrices", (2, 3)),
)


@op(dtype=floating, ref="numpy.linalg.det", needs="square matrices (..., n, n)", name="linalg.det")
def det(xp: Any, x: Array, /) -> Array:
    """Determinant of square matrices.

    Parameters
    ----------
    x : Tensor
        (..., n, n).

    Returns
    -------
    Tensor
        (...). Its first and second derivatives are right for singular matrices too; the third needs distinct singular
        values.

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.det(mg.tensor([[2.0, 1.0], [0.0, 4.0]]))
    tensor(8.)
    """
    require_square("linalg.det", x)
    return xp.linalg.det(x)


@det.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    # no array library has cofactors: the op serves tensors, its body arrays
    cofactor = _cofactor(x) if isinstance(x, tape.TensorBase) else _cofactor.body(xp, x)
    return column(xp, column(xp, g)) * cofactor


det.samples(
    case(A((3, 3), form="regular")),
    case((2, 3, 3)),
    case((1, 1)),
    case(A((2, 2), 0.0, 0.0)),
    case(A((3, 3), 1.0, 1.0)),
    case((0, 0)),
    error(ShapeError, "linalg.det: x is float64 (2, 3), needs square matrices", (2, 3)),
    error(ShapeError, "needs square matrices", ()),
)


@op(
    dtype=floating.but(same=False),
    ref="numpy.linalg.slogdet",
    needs="square matrices (..., n, n)",
    name="linalg.slogdet",
)
def _slogdet(xp: Any, x: Array, /) -> tuple[Array, Array]:
    require_square("linalg.slogdet", x)
    return tuple(xp.linalg.slogdet(x))


@_slogdet.vjp(0)
def _(xp: Any, g: tuple[Array, Array], x: Array) -> Array:
    return column(xp, column(xp, g[1])) * xp.matrix_transpose(xp.linalg.inv(x))


_slogdet.samples(
    case(A((3, 3), form="regular")),
    case(A((2, 3, 3), form="regular")),
    error(ShapeError, "linalg.slogdet: x is float64 (2, 3), needs square matrices", (2, 3)),
)


def slogdet(x: Tensor, /) -> SlogdetResult:
    """Sign of the determinant and logarithm of its magnitude, which neither overflow nor underflow.

    Parameters
    ----------
    x : Tensor
        (..., n, n).

    Returns
    -------
    SlogdetResult
        ``sign`` (...), whose gradient is 0, and ``logabsdet`` (...), which is ``-inf`` and has no gradient where `x` is
        singular.

    Raises
    ------
    ShapeError
        If the matrices are not square.
    numpy.linalg.LinAlgError
        In backward, where a matrix is singular.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.slogdet(mg.tensor([[0.0, 1.0], [1.0, 0.0]]))
    SlogdetResult(sign=tensor(-1.), logabsdet=tensor(0.))
    """
    return SlogdetResult(*_slogdet(x))  # type: ignore[misc]


@op(dtype=floating, ref="numpy.linalg.pinv", needs="matrices (..., m, n)", name="linalg.pinv")
def pinv(xp: Any, x: Array, /, *, rtol: float | None = None) -> Array:
    """Moore-Penrose inverse of matrices.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    rtol : float, optional
        Singular values below `rtol` times the largest count as 0; ``max(m, n)`` times the machine epsilon by default.

    Returns
    -------
    Tensor
        (..., n, m). Its derivative is that along matrices of the same rank.

    Raises
    ------
    ShapeError
        If `x` has no two axes.

    Notes
    -----
    Rule: G. H. Golub, V. Pereyra, *The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate*, 1973.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.pinv(mg.tensor([[2.0, 0.0], [0.0, 0.0]]))
    tensor([[0.5, 0. ],
            [0. , 0. ]])
    """
    require_matrix("linalg.pinv", x)
    return xp.linalg.pinv(x, rcond=_tolerance(x, rtol))


def _tolerance(x: Array, rtol: float | None) -> float:
    return max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rtol is None else rtol


@pinv.vjp(0)
def _(xp: Any, g: Array, x: Array, out: Array) -> Array:
    pt, gt = xp.matrix_transpose(out), xp.matrix_transpose(g)
    # (1 - x p) g' p p' + p' p g' (1 - p x), with the small products first
    wide, tall = gt @ out @ pt, pt @ (out @ gt)
    return wide - x @ (out @ wide) + tall - (tall @ out) @ x - pt @ g @ pt


pinv.samples(
    case(A((3, 3), form="regular")),
    case(A((4, 2), form="regular")),
    case(A((2, 4), form="regular")),
    case(A((2, 3, 2), form="regular")),
    case(A((3, 2), form="regular"), rtol=1e-3),
    error(ShapeError, "linalg.pinv: x is float64 (3,), needs matrices", (3,)),
)


@op(
    dtype=floating.but(same=False),
    ref="numpy.linalg.matrix_rank",
    needs="matrices (..., m, n)",
    name="linalg.matrix_rank",
)
def matrix_rank(xp: Any, x: Array, /, *, rtol: float | None = None) -> Array:
    """Rank of matrices: how many singular values are above a tolerance. It has no gradient.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    rtol : float, optional
        The tolerance as a fraction of the largest singular value; ``max(m, n)`` times the machine epsilon by default.

    Returns
    -------
    Tensor
        (...), int64.

    Raises
    ------
    ShapeError
        If `x` has no two axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.matrix_rank(mg.ones((3, 2)))
    tensor(1)
    """
    require_matrix("linalg.matrix_rank", x)
    s = xp.linalg.svdvals(x)
    return xp.sum(s > _tolerance(x, rtol) * xp.max(s, axis=-1, keepdims=True), axis=-1)


matrix_rank.samples(
    case(A((3, 3), form="regular")),
    case(A((2, 3, 2), form="regular")),
    case(A((2, 2), 0.0, 0.0)),
    error(ShapeError, "linalg.matrix_rank: x is float64 (3,), needs matrices", (3,)),
)


@op(
    dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL),
    ref="numpy.linalg.matrix_power",
    needs=REGULAR,
    name="linalg.matrix_power",
)
def matrix_power(xp: Any, x: Array, /, n: int) -> Array:
    """Product of a square matrix with itself, `n` times, by repeated squaring.

    Parameters
    ----------
    x : Tensor
        (..., m, m).
    n : int
        The exponent; 0 gives the identity, a negative one powers of the inverse.

    Returns
    -------
    Tensor
        (..., m, m).

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.matrix_power(mg.tensor([[1.0, 1.0], [0.0, 1.0]]), 3)
    tensor([[1., 3.],
            [0., 1.]])
    """
    require_square("linalg.matrix_power", x)
    if n == 0:
        return xp.zeros_like(x) + xp.eye(x.shape[-1], dtype=x.dtype)
    if n < 0:
        x, n = xp.linalg.inv(x), -n
    result = None
    while n:
        if n % 2:
            result = x if result is None else result @ x
        n //= 2
        x = x @ x if n else x
    return +result


matrix_power.samples(
    case(A((3, 3), form="regular"), n=1),
    case(A((3, 3), form="regular"), n=2),
    case(A((2, 2, 2), form="regular"), n=5),
    case(A((2, 2), form="regular"), n=-3),
    case(A((2, 2), kind="int", low=-3, high=3), n=3),
    error(ShapeError, "linalg.matrix_power: x is float64 (2, 3), needs square matrices", (2, 3), n=2),
)

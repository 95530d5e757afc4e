"""Linear algebra: the functions of the array API's `linalg` extension, and `norm`. This module is `minigrad.linalg`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.conversion import as_index
from minigrad.ops.creation import astype
from minigrad.ops.decompositions import QRResult, cholesky, column, qr, require_matrix, require_square, row
from minigrad.ops.determinants import SlogdetResult, det, slogdet
from minigrad.ops.inverses import REGULAR, default_tolerance, inv, pinv, solve
from minigrad.ops.matmul import matmul, matrix_transpose, outer, tensordot, vecdot
from minigrad.ops.norms import matrix_norm, norm, vector_norm
from minigrad.ops.reduction import accumulating
from minigrad.ops.registry import Array, floating, keep, op, promote
from minigrad.ops.samples import A, case, error
from minigrad.ops.spectra import EighResult, SVDResult, eigh, eigvalsh, svd, svdvals

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "EighResult", "QRResult", "SVDResult", "SlogdetResult", "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh",
    "inv", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "norm", "outer", "pinv", "qr",
    "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip

Shape = tuple[int, ...]


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
    return xp.where(xp.eye(m, n, k=offset, dtype=dtypes.bool), g, xp.zeros_like(g))


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


@op(dtype=accumulating, ref="numpy.linalg.trace", needs="at least two axes", name="linalg.trace", amp="float32")
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
        Cast to it first; the dtype of the result.

    Returns
    -------
    Tensor
        (...); integers are summed in 64 bits, and stay so without a `dtype`.

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
    if dtype is None:
        return _trace(x, offset=offset)
    # small integers are accumulated in 64 bits
    return astype(_trace(astype(x, dtype), offset=offset), dtype, copy=False)


@op(
    dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL),
    ref="numpy.linalg.cross",
    needs="vectors of 3 elements, and other axes that broadcast together",
    name="linalg.cross",
    amp="widest",
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
    case((0, 3), (3,)),
    error(ShapeError, "vectors of 3 elements", (2,), (2,)),
    error(ShapeError, "needs a negative axis", (3, 3), (3,), axis=0),
)


@op(
    dtype=floating.but(same=False),
    ref="numpy.linalg.matrix_rank",
    needs="matrices (..., m, n)",
    name="linalg.matrix_rank",
    amp="float32",
)
def matrix_rank(xp: Any, x: Array, /, *, rtol: Any = None) -> Array:
    """Rank of matrices: how many singular values are above a tolerance. It has no gradient.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    rtol : float or Tensor, optional
        The tolerance as a fraction of the largest singular value, one for all or one (...) for each matrix;
        ``max(m, n)`` times the machine epsilon by default.

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
    tolerance = default_tolerance(x, rtol)
    if getattr(tolerance, "shape", ()):
        tolerance = xp.expand_dims(xp.asarray(tolerance), axis=-1)
    return xp.sum(s > tolerance * s[..., :1], axis=-1)  # they descend; there are none where an extent is 0


matrix_rank.samples(
    case(A((3, 3), form="regular")),
    case(A((2, 3, 2), form="regular")),
    case(A((2, 2), 0.0, 0.0)),
    case((0, 3)),
    case((2, 3, 0)),
    case((0, 2, 2)),
    error(ShapeError, "linalg.matrix_rank: x is float64 (3,), needs matrices", (3,)),
)


@op(
    dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL),
    ref="numpy.linalg.matrix_power",
    needs=REGULAR,
    name="linalg.matrix_power",
    amp="float32",
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
    n = as_index("linalg.matrix_power", "n", n)
    if n == 0:
        return xp.zeros_like(x) + xp.eye(x.shape[-1], dtype=x.dtype)
    if n < 0:
        if x.dtype in dtypes.INTEGER:
            raise DTypeError(message("linalg.matrix_power", "x", x, "a floating dtype for a negative power"))
        x, n = xp.linalg.inv(x), -n
    while n % 2 == 0:
        x, n = x @ x, n // 2
    result = +x
    while n := n // 2:
        x = x @ x
        if n % 2:
            result = result @ x
    return result


matrix_power.samples(
    case(A((3, 3), form="regular"), n=1),
    case(A((3, 3), form="regular"), n=2),
    case(A((2, 2, 2), form="regular"), n=5),
    case(A((2, 2), form="regular"), n=-3),
    case(A((2, 2), kind="int", low=-3, high=3), n=3),
    case((0, 0), n=2),
    case(A((0, 2, 2), form="regular"), n=-1),
    error(ShapeError, "linalg.matrix_power: x is float64 (2, 3), needs square matrices", (2, 3), n=2),
    error(DTypeError, "linalg.matrix_power: n is inf, needs an int", (2, 2), n=float("inf")),
    error(DTypeError, "linalg.matrix_power: n is nan, needs an int", (2, 2), n=float("nan")),
    error(DTypeError, "linalg.matrix_power: n is 2.5, needs an int", (2, 2), n=2.5),
    error(DTypeError, "linalg.matrix_power: n is 0.5, needs an int", (2, 2), n=0.5),
    error(DTypeError, "needs a floating dtype for a negative power", A((2, 2), 1, 3, kind="int"), n=-1),
)

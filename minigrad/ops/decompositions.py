"""Triangular decompositions, Cholesky and QR, and what decompositions share. Public in `minigrad.linalg`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad.errors import GradError, ShapeError, message
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["QRResult", "cholesky", "qr"]


class QRResult(NamedTuple):
    """What `qr` returns."""

    Q: Tensor
    R: Tensor


def require_square(who: str, x: Array, argument: str = "x") -> None:
    """Refuse what is not a stack of square matrices."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(message(who, argument, x, "square matrices (..., n, n)"))


def require_matrix(who: str, x: Array) -> None:
    """Refuse what is not a stack of matrices."""
    if x.ndim < 2:
        raise ShapeError(message(who, "x", x, "matrices (..., m, n)"))


def row(xp: Any, v: Array) -> Array:
    """A stack of vectors as rows, to scale columns with."""
    return xp.expand_dims(v, axis=-2)


def column(xp: Any, v: Array) -> Array:
    """A stack of vectors as columns, to scale rows with."""
    return xp.expand_dims(v, axis=-1)


def symmetric_part(xp: Any, x: Array) -> Array:
    """The Hermitian part; what is symmetric already comes back bit for bit."""
    t = xp.matrix_transpose(x)
    return (x + (xp.conj(t) if x.dtype in dtypes.COMPLEX else t)) / 2


@op(
    dtype=floating,
    ref="numpy.linalg.cholesky",
    needs="symmetric positive definite matrices",
    hint="Rounding may have cost a small eigenvalue its sign: add a little to the diagonal.",
    name="linalg.cholesky",
    amp="float32",
)
def cholesky(xp: Any, x: Array, /, *, upper: bool = False) -> Array:
    """Triangular factor of symmetric positive definite matrices, ``x = L @ L.T``.

    Parameters
    ----------
    x : Tensor
        (..., n, n). Its symmetric part ``(x + x.T) / 2`` is factored, so the gradient is symmetric.
    upper : bool
        Give ``U = L.T`` instead.

    Returns
    -------
    Tensor
        (..., n, n), triangular with a positive diagonal.

    Raises
    ------
    ShapeError
        If the matrices are not square.
    numpy.linalg.LinAlgError
        If one is not positive definite.

    Notes
    -----
    Rule: I. Murray, *Differentiation of the Cholesky decomposition*, 2016 (arXiv:1602.07527).

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.cholesky(mg.tensor([[4.0, 2.0], [2.0, 5.0]]))
    tensor([[2., 0.],
            [1., 2.]])
    """
    require_square("linalg.cholesky", x)
    lower = xp.linalg.cholesky(symmetric_part(xp, x))
    if not upper:
        return lower
    lower = xp.matrix_transpose(lower)
    return xp.conj(lower) if x.dtype in dtypes.COMPLEX else lower


@cholesky.vjp(0)
def _(xp: Any, g: Array, out: Array, *, upper: bool) -> Array:
    t = xp.matrix_transpose
    lower, g = (t(out), t(g)) if upper else (out, g)
    p = t(lower) @ g
    half = (xp.tril(p) + xp.tril(p, k=-1)) / 2
    s = t(xp.linalg.solve(t(lower), t(xp.linalg.solve(t(lower), half))))
    return (s + t(s)) / 2


cholesky.samples(
    case(A((3, 3), form="spd")),
    case(A((2, 3, 3), form="spd")),
    case(A((3, 3), form="spd"), upper=True),
    case(A((1, 1), form="spd")),
    case((0, 0)),
    error(ShapeError, "linalg.cholesky: x is float64 (2, 3), needs square matrices", (2, 3)),
    error(ShapeError, "needs square matrices", (3,)),
    error(ValueError, "symmetric positive definite", A((2, 2), -2.0, -1.0)),
)


@op(
    dtype=floating.but(same=False), ref="numpy.linalg.qr", needs="matrices (..., m, n)", name="linalg.qr", amp="float32"
)
def _qr(xp: Any, x: Array, /, *, mode: str = "reduced") -> tuple[Array, Array]:
    require_matrix("linalg.qr", x)
    if mode not in ("reduced", "complete"):
        raise ShapeError(message("linalg.qr", "mode", repr(mode), "'reduced' or 'complete'"))
    return tuple(xp.linalg.qr(x, mode=mode))


@_qr.vjp(0)
def _(xp: Any, g: tuple[Array, Array], out: tuple[Array, Array]) -> Array:
    q, r = out
    gq, gr = g
    m, n = q.shape[-2], r.shape[-1]
    if q.shape[-1] > n:
        raise GradError(
            message(
                "linalg.qr",
                "mode",
                "'complete'",
                f"'reduced' for the gradient of matrices with more rows ({m}) than columns ({n})",
                "The further columns of Q are any basis of a null space and have no derivative",
            )
        )
    if m >= n:
        return _qr_vjp(xp, gq, gr, q, r)
    # x = [left, right], left = q @ r[:, :m], and r[:, m:] = q.T @ right
    left = _qr_vjp(xp, gq + q @ (r[..., m:] @ xp.matrix_transpose(gr[..., m:])), gr[..., :m], q, r[..., :m])
    return xp.concat((left, q @ gr[..., m:]), axis=-1)


def _qr_vjp(xp: Any, gq: Array, gr: Array, q: Array, r: Array) -> Array:
    t = xp.matrix_transpose
    p = r @ t(gr) - t(gq) @ q
    lower = xp.tril(p)
    return t(xp.linalg.solve(r, t(gq + q @ (lower + t(xp.tril(p, k=-1))))))


_qr.samples(
    case(A((3, 3), form="regular")),
    case(A((4, 2), form="regular")),
    case(A((2, 4), form="regular")),
    case(A((2, 3, 2), form="regular")),
    case(A((2, 3), form="regular"), mode="complete"),
    case((0, 3)),
    case((3, 0)),
    case((0, 3, 2)),
    error(ShapeError, "needs matrices (..., m, n)", (3,)),
    error(ShapeError, "linalg.qr: mode is 'full', needs 'reduced' or 'complete'", (3, 2), mode="full"),
)


def qr(x: Tensor, /, *, mode: str = "reduced") -> QRResult:
    """QR decomposition, ``x = Q @ R`` with orthonormal columns in Q and R upper triangular.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    mode : {"reduced", "complete"}
        Q with min(m, n) columns, or with m.

    Returns
    -------
    QRResult
        ``Q`` and ``R``.

    Raises
    ------
    ShapeError
        If `x` has no two axes or the mode is unknown.
    GradError
        In backward, for complete mode with m > n: the further columns of Q have no derivative.

    Notes
    -----
    Rule: S. F. Walter, L. Lehmann, *Algorithmic differentiation of linear algebra functions with application in optimum
    experimental design*, 2010 (arXiv:1001.1654). The first min(m, n) columns of `x` must be linearly independent.

    Examples
    --------
    >>> import minigrad as mg
    >>> q, r = mg.linalg.qr(mg.tensor([[3.0], [4.0]]))
    >>> mg.allclose(q @ r, mg.tensor([[3.0], [4.0]]))
    True
    """
    return QRResult(*_qr(x, mode=mode))

"""Decompositions of matrices: Cholesky, eigenvalues, QR, singular values. Public in `minigrad.linalg`.

The rules are matrix products and linear systems in the outputs, so that they differentiate once more. Signs of vectors
are arbitrary: a function that depends on them has the gradient of the choice that was made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad.errors import GradError, ShapeError, message
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["EighResult", "QRResult", "SVDResult", "cholesky", "eigh", "eigvalsh", "qr", "svd", "svdvals"]

factors = floating.but(same=False)


class EighResult(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    """What `qr` returns."""

    Q: Tensor
    R: Tensor


class SVDResult(NamedTuple):
    """What `svd` returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


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


def _symmetric(xp: Any, x: Array) -> Array:
    """The Hermitian part; what is symmetric already comes back bit for bit."""
    t = xp.matrix_transpose(x)
    return (x + (xp.conj(t) if x.dtype in dtypes.COMPLEX else t)) / 2


def _over(xp: Any, numerator: Array, gap: Array) -> Array:
    """``numerator / gap``, with 0/0 = 0 and derivative 0 there: nothing flows where nothing came in."""
    return numerator / xp.where((gap == 0) & (numerator == 0), math.inf, gap)


@op(
    dtype=floating,
    ref="numpy.linalg.cholesky",
    needs="symmetric positive definite matrices",
    hint="Rounding may have cost a small eigenvalue its sign: add a little to the diagonal.",
    name="linalg.cholesky",
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
    lower = xp.linalg.cholesky(_symmetric(xp, x))
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


@op(dtype=factors, needs="symmetric matrices", name="linalg.eigh")
def _eigh(xp: Any, x: Array, /) -> tuple[Array, Array]:
    require_square("linalg.eigh", x)
    return tuple(xp.linalg.eigh(_symmetric(xp, x)))


@_eigh.vjp(0)
def _(xp: Any, g: tuple[Array, Array], out: tuple[Array, Array]) -> Array:
    w, v = out
    gw, gv = g
    vt = xp.matrix_transpose(v)
    p = vt @ gv
    core = _over(xp, (p - xp.matrix_transpose(p)) / 2, row(xp, w) - column(xp, w))
    return (v @ core + v * row(xp, gw)) @ vt


_eigh.samples(
    case(A((3, 3), form="symmetric")),
    case(A((2, 3, 3), form="symmetric")),
    case(A((1, 1), form="symmetric")),
    case((0, 0)),
    error(ShapeError, "linalg.eigh: x is float64 (2, 3), needs square matrices", (2, 3)),
    error(ShapeError, "needs square matrices", (3,)),
)


def eigh(x: Tensor, /) -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices, ``x = V @ diag(w) @ V.T``.

    Parameters
    ----------
    x : Tensor
        (..., n, n). The symmetric part ``(x + x.T) / 2`` is decomposed, so the gradient is symmetric.

    Returns
    -------
    EighResult
        ``eigenvalues`` (..., n), ascending, and ``eigenvectors`` (..., n, n), in columns.

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Notes
    -----
    Rule: M. Giles, *Collected matrix derivative results for forward and reverse mode algorithmic differentiation*, 2008;
    S. F. Walter and L. Lehmann for higher orders. Eigenvectors have arbitrary signs. Where an eigenvalue is repeated its
    eigenvectors have no derivative: the gradient is infinite or NaN if it is asked for, and 0 if it is not.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.eigh(mg.tensor([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    tensor([1., 2.])
    """
    return EighResult(*_eigh(x))  # type: ignore[misc]


@op(dtype=factors, ref="numpy.linalg.eigvalsh", needs="symmetric matrices", name="linalg.eigvalsh")
def eigvalsh(xp: Any, x: Array, /) -> Array:
    """Eigenvalues of symmetric matrices, ascending; see `eigh`.

    Parameters
    ----------
    x : Tensor
        (..., n, n). The symmetric part is decomposed.

    Returns
    -------
    Tensor
        (..., n).

    Raises
    ------
    ShapeError
        If the matrices are not square.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.eigvalsh(mg.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([1., 2.])
    """
    require_square("linalg.eigvalsh", x)
    return xp.linalg.eigvalsh(_symmetric(xp, x))


@eigvalsh.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    _, v = xp.linalg.eigh((x + xp.matrix_transpose(x)) / 2)
    return (v * row(xp, g)) @ xp.matrix_transpose(v)


eigvalsh.samples(
    case(A((3, 3), form="symmetric")),
    case(A((2, 3, 3), form="symmetric")),
    case((0, 0)),
    error(ShapeError, "linalg.eigvalsh: x is float64 (2, 3), needs square matrices", (2, 3)),
)


@op(dtype=factors, ref="numpy.linalg.qr", needs="matrices (..., m, n)", name="linalg.qr")
def _qr(xp: Any, x: Array, /, *, mode: str = "reduced") -> tuple[Array, Array]:
    require_matrix("linalg.qr", x)
    if mode not in ("reduced", "complete"):
        raise ShapeError(message("linalg.qr", "mode", mode, "'reduced' or 'complete'"))
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
    return QRResult(*_qr(x, mode=mode))  # type: ignore[misc]


@op(dtype=factors, ref="numpy.linalg.svd", needs="matrices (..., m, n)", name="linalg.svd")
def _svd(xp: Any, x: Array, /, *, full_matrices: bool = True) -> tuple[Array, Array, Array]:
    require_matrix("linalg.svd", x)
    return tuple(xp.linalg.svd(x, full_matrices=full_matrices))


@_svd.vjp(0)
def _(xp: Any, g: tuple[Array, Array, Array], out: tuple[Array, Array, Array]) -> Array:
    u, s, vh = out
    gu, gs, gvh = g
    t = xp.matrix_transpose
    v, gv, (m, k, n) = t(vh), t(gvh), (u.shape[-2], s.shape[-1], vh.shape[-1])
    if u.shape[-1] > k or vh.shape[-2] > k:
        raise GradError(
            message(
                "linalg.svd",
                "full_matrices",
                "True",
                f"False for the gradient of matrices that are not square ({m} x {n})",
                "The further singular vectors are any basis of a null space and have no derivative",
            )
        )
    p, q = t(u) @ gu, vh @ gv
    across, down = row(xp, s), column(xp, s)
    gap = (across - down) * (across + down)
    left = u @ (_over(xp, p - t(p), gap) * across + down * _over(xp, q - t(q), gap)) + u * row(xp, gs)
    if m > k:
        left = left + _over(xp, gu - u @ p, across)
    out_x = left @ vh
    return out_x + u @ t(_over(xp, gv - v @ q, across)) if n > k else out_x


_svd.samples(
    case(A((3, 3), form="regular")),
    case(A((4, 2), form="regular"), full_matrices=False),
    case(A((2, 4), form="regular"), full_matrices=False),
    case(A((2, 3, 2), form="regular"), full_matrices=False),
    error(ShapeError, "linalg.svd: x is float64 (3,), needs matrices", (3,)),
)


def svd(x: Tensor, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition, ``x = U @ diag(S) @ Vh``.

    Parameters
    ----------
    x : Tensor
        (..., m, n).
    full_matrices : bool
        Square U and Vh; else as many columns of U and rows of Vh as there are singular values.

    Returns
    -------
    SVDResult
        ``U``, ``S`` (descending) and ``Vh``.

    Raises
    ------
    ShapeError
        If `x` has no two axes.
    GradError
        In backward, for full matrices where m and n differ: the further vectors have no derivative.

    Notes
    -----
    Rule: J. Townsend, *Differentiating the singular value decomposition*, 2016. A pair of singular vectors may change its
    sign together. Where a singular value is repeated (or, for m != n, zero) its vectors have no derivative: the gradient
    is infinite or NaN if it is asked for, and 0 if it is not.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.svd(mg.tensor([[0.0, 2.0], [1.0, 0.0]])).S
    tensor([2., 1.])
    """
    return SVDResult(*_svd(x, full_matrices=full_matrices))  # type: ignore[misc]


@op(dtype=factors, ref="numpy.linalg.svdvals", needs="matrices (..., m, n)", name="linalg.svdvals")
def svdvals(xp: Any, x: Array, /) -> Array:
    """Singular values, descending; see `svd`.

    Parameters
    ----------
    x : Tensor
        (..., m, n).

    Returns
    -------
    Tensor
        (..., min(m, n)). The gradient at a singular value of 0 is a subgradient, the outer product of its vectors.

    Raises
    ------
    ShapeError
        If `x` has no two axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.svdvals(mg.tensor([[0.0, 2.0], [1.0, 0.0]]))
    tensor([2., 1.])
    """
    require_matrix("linalg.svdvals", x)
    return xp.linalg.svd(x, compute_uv=False)


@svdvals.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    u, _, vh = xp.linalg.svd(x, full_matrices=False)
    return (u * row(xp, g)) @ vh


svdvals.samples(
    case(A((3, 3), form="regular")),
    case(A((4, 2), form="regular")),
    case(A((2, 2, 3), form="regular")),
    error(ShapeError, "linalg.svdvals: x is float64 (3,), needs matrices", (3,)),
)

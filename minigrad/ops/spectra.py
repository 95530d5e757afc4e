"""Spectral decompositions: eigenvalues of symmetric matrices and singular values. Public in `minigrad.linalg`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad.errors import GradError, ShapeError, message
from minigrad.ops.decompositions import column, require_matrix, require_square, row, symmetric_part
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["EighResult", "SVDResult", "eigh", "eigvalsh", "svd", "svdvals"]

factors = floating.but(same=False)


class EighResult(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class SVDResult(NamedTuple):
    """What `svd` returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _over(xp: Any, numerator: Array, gap: Array) -> Array:
    """``numerator / gap``, with 0/0 = 0 and derivative 0 there: nothing flows where nothing came in."""
    return numerator / xp.where((gap == 0) & (numerator == 0), math.inf, gap)


@op(dtype=factors, needs="symmetric matrices", name="linalg.eigh", amp="float32")
def _eigh(xp: Any, x: Array, /) -> tuple[Array, Array]:
    require_square("linalg.eigh", x)
    return tuple(xp.linalg.eigh(symmetric_part(xp, x)))


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
    Rule: M. Giles, *Collected matrix derivative results for forward and reverse mode algorithmic differentiation*,
    2008; also S. F. Walter, L. Lehmann (see `qr`). Eigenvectors have arbitrary signs. Where an eigenvalue is repeated,
    its vectors have no derivative: the gradient is infinite or NaN if it is asked for, and 0 if it is not.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.eigh(mg.tensor([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    tensor([1., 2.])
    """
    return EighResult(*_eigh(x))


@op(dtype=factors, ref="numpy.linalg.eigvalsh", needs="symmetric matrices", name="linalg.eigvalsh", amp="float32")
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
    return xp.linalg.eigvalsh(symmetric_part(xp, x))


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


@op(dtype=factors, ref="numpy.linalg.svd", needs="matrices (..., m, n)", name="linalg.svd", amp="float32")
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
    case((0, 3), full_matrices=False),
    case((3, 0), full_matrices=False),
    case((0, 2, 3), full_matrices=False),
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
    Rule: J. Townsend, *Differentiating the singular value decomposition*, 2016. A pair of singular vectors may change
    its sign together. Where a singular value is repeated (or, for m != n, zero) its vectors have no derivative: the
    gradient is infinite or NaN if it is asked for, and 0 if it is not.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linalg.svd(mg.tensor([[0.0, 2.0], [1.0, 0.0]])).S
    tensor([2., 1.])
    """
    return SVDResult(*_svd(x, full_matrices=full_matrices))


@op(dtype=factors, ref="numpy.linalg.svdvals", needs="matrices (..., m, n)", name="linalg.svdvals", amp="float32")
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
    case((0, 3)),
    case((3, 0)),
    case((0, 2, 3)),
    error(ShapeError, "linalg.svdvals: x is float64 (3,), needs matrices", (3,)),
)

"""Inverses of matrices and solutions of linear systems. Public in `minigrad.linalg`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.ops.decompositions import column, require_matrix, require_square
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

__all__ = ["inv", "pinv", "solve"]

REGULAR = "square matrices (..., n, n) that are not singular"


@op(
    dtype=floating,
    ref="numpy.linalg.inv",
    needs=REGULAR,
    hint="mg.linalg.pinv takes any matrix.",
    name="linalg.inv",
    amp="float32",
)
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


@op(
    dtype=floating,
    ref="numpy.linalg.solve",
    needs=f"a: {REGULAR}; b: (n,) or (..., n, k)",
    name="linalg.solve",
    amp="float32",
)
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
def _(xp: Any, g: Array, a: Array, b_shape: tuple[int, ...], out: Array) -> tuple[Array, Array]:
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
    case((0, 0), (0,)),
    case((0, 0), (0, 2)),
    case(A((2, 2), form="regular"), (2, 0)),
    case((0, 2, 2), (2, 3)),
    error(ShapeError, "b is float64 (), needs a vector", A((3, 3), form="regular"), ()),
    error(np.linalg.LinAlgError, "linalg.solve: got a float64 (2, 2)", A((2, 2), 0.0, 0.0), (2,)),
)


def default_tolerance(x: Array, rtol: Any) -> Any:
    """Below which fraction of the largest singular value the others count as 0: one number, or one for each matrix."""
    return max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rtol is None else rtol


@op(dtype=floating, ref="numpy.linalg.pinv", needs="matrices (..., m, n)", name="linalg.pinv", amp="float32")
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
    return xp.linalg.pinv(x, rcond=default_tolerance(x, rtol))


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
    case((0, 3)),
    case((2, 0)),
    case((0, 2, 3)),
    error(ShapeError, "linalg.pinv: x is float64 (3,), needs matrices", (3,)),
)

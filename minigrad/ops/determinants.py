"""Determinants. Public in `minigrad.linalg`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad._core import tape
from minigrad.errors import ShapeError
from minigrad.ops.decompositions import column, require_square, row
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["SlogdetResult", "det", "slogdet"]


class SlogdetResult(NamedTuple):
    """What `slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


@op(dtype=floating, needs="square matrices (..., n, n)", name="linalg.cofactor", amp="float32")
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
    case((0, 0)),
    case((0, 2, 2)),
    error(ShapeError, "linalg.cofactor: x is float64 (2, 3), needs square matrices", (2, 3)),
)


@op(dtype=floating, ref="numpy.linalg.det", needs="square matrices (..., n, n)", name="linalg.det", amp="float32")
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
    case((0, 2, 2)),
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
    amp="float32",
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
    case((0, 0)),
    case((0, 2, 2)),
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
    return SlogdetResult(*_slogdet(x))

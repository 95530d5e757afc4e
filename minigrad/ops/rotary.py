"""Rotary embedding: positions told to attention by turning pairs of features."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import ShapeError, describe, message
from minigrad.ops.registry import Array, DTypeRule, op
from minigrad.ops.samples import A, case, error

__all__ = ["rotary_embedding"]


class First(DTypeRule):
    """Computed in the widest dtype and answered in that of the first input: tables may be wider than what they turn."""

    def resolve(self, op: Any, arrays: list[Any], skip: tuple[bool, ...], backend: Any) -> Any:
        cast, compute, result = super().resolve(op, arrays, skip, backend)
        own = getattr(arrays[0], "dtype", None)
        return cast, compute, own if own in dtypes.FLOATING else result


def halves(x: Array, pairs: int, interleaved: bool) -> tuple[Array, Array]:
    """The first and the second members of the pairs."""
    if interleaved:
        return x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    return x[..., :pairs], x[..., pairs : 2 * pairs]


def turned(xp: Any, x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Every pair turned by its angle, the features behind the pairs as they are."""
    pairs = cos.shape[-1]
    first, second = halves(x, pairs, interleaved)
    parts = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        parts = [xp.reshape(xp.stack(parts, axis=-1), (*x.shape[:-1], 2 * pairs))]
    if x.shape[-1] > 2 * pairs:
        parts.append(x[..., 2 * pairs :])
    return xp.concat(parts, axis=-1)


@op(dtype=First(floats=True, kinds=dtypes.ALL - dtypes.COMPLEX), amp="widest")
def rotary_embedding(xp: Any, x: Array, cos: Array, sin: Array, /, *, interleaved: bool = False) -> Array:
    """Turn pairs of features by angles: ``(a, b)`` becomes ``(a * cos - b * sin, b * cos + a * sin)``.

    With angles that grow linearly with the position, the product of a turned query and a turned key depends on the
    distance between their positions, not on the positions. J. Su et al., "RoFormer: enhanced transformer with rotary
    position embedding", 2021.

    Parameters
    ----------
    x : Tensor
        (..., length, features).
    cos, sin : Tensor
        Of the angles, one a pair: they broadcast to (..., length, pairs), ``2 * pairs <= features``. Features behind
        the pairs pass unchanged.
    interleaved : bool
        The pairs are the neighbours (0, 1), (2, 3), ..., as in the paper; by default feature i of the first half and
        feature i of the second one, as in GPT-NeoX and Llama.

    Returns
    -------
    Tensor
        Of the shape and dtype of `x`.

    Raises
    ------
    ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> x = mg.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    >>> cos, sin = mg.tensor([[0.0, 1.0]]), mg.tensor([[1.0, 0.0]])
    >>> F.rotary_embedding(x, cos, sin), F.rotary_embedding(x, cos, sin, interleaved=True)
    (tensor([[-3.,  2.,  1.,  4.,  5.]]), tensor([[-2.,  1.,  3.,  4.,  5.]]))
    """
    check(x, cos, sin)
    return turned(xp, x, cos, sin, interleaved)


@rotary_embedding.vjp(0)
def _(xp: Any, g: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    return turned(xp, g, cos, -sin, interleaved)


@rotary_embedding.vjp(1)
def _(xp: Any, g: Array, x: Array, cos_shape: tuple[int, ...], *, interleaved: bool) -> Array:
    (g_first, g_second), (first, second) = (halves(a, cos_shape[-1], interleaved) for a in (g, x))
    return g_first * first + g_second * second


@rotary_embedding.vjp(2)
def _(xp: Any, g: Array, x: Array, sin_shape: tuple[int, ...], *, interleaved: bool) -> Array:
    (g_first, g_second), (first, second) = (halves(a, sin_shape[-1], interleaved) for a in (g, x))
    return g_second * first - g_first * second


def check(x: Array, cos: Array, sin: Array) -> None:
    """Refuse tables that do not fit."""
    if x.ndim < 2:
        raise ShapeError(message("rotary_embedding", "x", x, "at least two axes, (..., length, features)"))
    if cos.ndim < 1 or 2 * cos.shape[-1] > x.shape[-1]:
        need = f"at most {x.shape[-1] // 2} angles on its last axis, one for two features of x {describe(x)}"
        raise ShapeError(message("rotary_embedding", "cos", cos, need))
    if sin.shape != cos.shape:
        raise ShapeError(message("rotary_embedding", "sin", sin, f"the shape of cos {describe(cos)}"))
    lead, own = x.shape[:-1][::-1], cos.shape[:-1][::-1]
    if len(own) > len(lead) or any(n not in (1, m) for n, m in zip(own, lead)):
        whole = (*x.shape[:-1], cos.shape[-1])
        raise ShapeError(message("rotary_embedding", "cos", cos, f"a shape that broadcasts to {whole}, as x is given"))


rotary_embedding.samples(
    case((3, 4), (3, 2), (3, 2)),
    case((3, 4), (3, 2), (3, 2), interleaved=True),
    case((2, 2, 3, 5), (3, 2), (3, 2)),
    case((2, 2, 3, 5), (2, 1, 3, 2), (2, 1, 3, 2), interleaved=True),
    case((3, 4), (1,), (1,)),
    case((3, 6), (1, 2), (1, 2), interleaved=True),
    case((3, 2), (3, 0), (3, 0)),
    case((0, 2), (0, 1), (0, 1)),
    case((2, 0, 3, 4), (3, 2), (3, 2)),
    case([[1.0, 2.0]], [[0.0]], [[1.0]]),
    error(ShapeError, "x is float64 (4,), needs at least two axes", (4,), (2,), (2,)),
    error(ShapeError, "cos is float64 (3, 2), needs at most 1 angles", (3, 3), (3, 2), (3, 2)),
    error(ShapeError, "sin is float64 (1, 2), needs the shape of cos float64 (3, 2)", (3, 4), (3, 2), (1, 2)),
    error(ShapeError, "cos is float64 (2, 2), needs a shape that broadcasts to (3, 2)", (3, 4), (2, 2), (2, 2)),
    error(ShapeError, "needs a shape that broadcasts to (3, 2)", (3, 4), (1, 3, 2), (1, 3, 2)),
    error(TypeError, "rotary_embedding: got complex128", A((2, 2), kind="complex"), (2, 1), (2, 1)),
)
rotary_embedding.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("rotary", "rotary"))
rotary_embedding.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("rotary", "rotary_vjp"))

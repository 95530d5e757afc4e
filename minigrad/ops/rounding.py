"""Rounding, signs, and bounds: floor and its kin, sign, minimum, maximum, clip."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad.errors import DTypeError
from minigrad.ops.registry import Array, DTypeRule, floating, op, promote
from minigrad.ops.samples import A, binary, case, error, unary

__all__ = [
    "ceil", "clip", "copysign", "floor", "maximum", "minimum", "nextafter", "round", "sign", "signbit", "trunc",
]  # fmt: skip

real = promote.but(kinds=dtypes.INTEGER | dtypes.FLOATING)
real_floating: DTypeRule = floating.but(kinds=dtypes.ALL - dtypes.COMPLEX)
steps = (-1.0, 0.0, 1.0)
whole = case(A((2, 3), -5, 5, kind="int"))


def integral(x: Array) -> bool:
    """Whether there is nothing to round; NumPy 2.0 would make floats of integers."""
    return bool(x.dtype.kind in "iu")


@op(dtype=real, ref="numpy.ceil", amp="widest")
def ceil(xp: Any, x: Array, /) -> Array:
    """Elementwise least integer not below `x`, in the dtype of `x`; its derivative is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.ceil(mg.tensor([-1.5, 1.5]))
    tensor([-1.,  2.])
    """
    return x.copy() if integral(x) else xp.ceil(x)


ceil.vjp(0)(lambda xp, g: xp.zeros_like(g))
ceil.samples(*unary(avoid=steps), whole)


@op(dtype=real, ref="numpy.floor", amp="widest")
def floor(xp: Any, x: Array, /) -> Array:
    """Elementwise greatest integer not above `x`, in the dtype of `x`; its derivative is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.floor(mg.tensor([-1.5, 1.5]))
    tensor([-2.,  1.])
    """
    return x.copy() if integral(x) else xp.floor(x)


floor.vjp(0)(lambda xp, g: xp.zeros_like(g))
floor.samples(*unary(avoid=steps), whole, error(DTypeError, "floor", A((2,), kind="bool")))


@op(dtype=real, ref="numpy.trunc", amp="widest")
def trunc(xp: Any, x: Array, /) -> Array:
    """Elementwise rounding towards 0, in the dtype of `x`; its derivative is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.trunc(mg.tensor([-1.5, 1.5]))
    tensor([-1.,  1.])
    """
    return x.copy() if integral(x) else xp.trunc(x)


trunc.vjp(0)(lambda xp, g: xp.zeros_like(g))
trunc.samples(*unary(avoid=steps), whole)


@op(dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL), ref="numpy.round", amp="widest")
def round(xp: Any, x: Array, /, decimals: int = 0) -> Array:
    """Elementwise rounding to so many decimals, halves to the even neighbor; its derivative is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.tensor([0.5, 1.5, 2.25])), mg.round(mg.tensor([2.26]), 1)
    (tensor([0., 2., 2.]), tensor([2.3]))
    """
    return xp.round(x, decimals)


round.vjp(0)(lambda xp, g: xp.zeros_like(g))
round.samples(*unary(avoid=(-1.5, -0.5, 0.5, 1.5)), whole, case(A((3,), 1.21, 1.24), decimals=1))


@op(dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL), ref="numpy.sign", amp="widest")
def sign(xp: Any, x: Array, /) -> Array:
    """Elementwise sign: -1, 0 or 1, for complex numbers ``x / abs(x)``; its derivative is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.sign(mg.tensor([-1.5, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """
    return xp.sign(x)


sign.vjp(0)(lambda xp, g: xp.zeros_like(g))
sign.samples(*unary(avoid=(0.0,)), whole, error(DTypeError, "sign", A((2,), kind="bool")))


@op(dtype=real_floating.but(same=False), ref="numpy.signbit", amp="widest")
def signbit(xp: Any, x: Array, /) -> Array:
    """Elementwise, whether the sign bit is set, as in -1.0 and -0.0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.signbit(mg.tensor([-0.0, 0.0]))
    tensor([ True, False])
    """
    return xp.signbit(x)


signbit.vjp(0)(lambda xp, g: xp.zeros_like(g))
signbit.samples(*unary())


@op(dtype=real_floating, ref="numpy.copysign", amp="widest")
def copysign(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise magnitude of `x1` with the sign of `x2`; the derivative by `x1` at 0 is 0, the one by `x2` is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.copysign(mg.tensor([1.0, -2.0]), mg.tensor([-0.0, 3.0]))
    tensor([-1.,  2.])
    """
    return xp.copysign(x1, x2)


copysign.vjp(0)(lambda xp, g, x1, x2: g * xp.sign(x1) * xp.copysign(1.0, x2))
copysign.vjp(1)(lambda xp, g: xp.zeros_like(g))
copysign.samples(*binary(avoid=(0.0,)), error(ValueError, "shapes that broadcast together", (2,), (3,)))


@op(dtype=real_floating.but(accumulate=False), ref="numpy.nextafter")
def nextafter(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise next number after `x1` towards `x2`; the derivative by `x1` is 1, the one by `x2` is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.nextafter(mg.tensor([1.0]), 2.0) - 1
    tensor([1.1920929e-07])
    """
    return xp.nextafter(x1, x2)


nextafter.vjp(0)(lambda xp, g: g)
nextafter.vjp(1)(lambda xp, g: xp.zeros_like(g))
nextafter.samples(*binary((-1.0, 1.0), (2.0, 3.0)), error(ValueError, "shapes that broadcast together", (2,), (3,)))


bounded = promote.but(kinds=dtypes.ALL - dtypes.COMPLEX)
bounds = (case(A((4,), 0, 3, kind="int"), A((4,), 0, 3, kind="int")), case(A((3,), -2.0, -0.1), 0.0))
misfit = error(ValueError, "shapes that broadcast together", (2,), (3,))


def winner(xp: Any, g: Array, won: Array, tied: Array) -> Array:
    """The cotangent where this side won, half of it where both are equal."""
    return xp.where(won, g, xp.where(tied, 0.5 * g, 0.0))


@op(dtype=bounded, ref="numpy.maximum", amp="widest")
def maximum(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise larger value; NaN where either is NaN. Equal values share the gradient.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.maximum(mg.tensor([1.0, 3.0]), 2.0)
    tensor([2., 3.])
    """
    return xp.maximum(x1, x2)


maximum.vjp(0)(lambda xp, g, x1, x2: winner(xp, g, x1 > x2, x1 == x2))
maximum.vjp(1)(lambda xp, g, x1, x2: winner(xp, g, x2 > x1, x1 == x2))
maximum.samples(*binary((-2.0, -0.1), (0.0, 2.0)), *binary((0.1, 2.0), (-2.0, 0.0)), *bounds, misfit)


@op(dtype=bounded, ref="numpy.minimum", amp="widest")
def minimum(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise smaller value; NaN where either is NaN. Equal values share the gradient.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.minimum(mg.tensor([1.0, 3.0]), 2.0)
    tensor([1., 2.])
    """
    return xp.minimum(x1, x2)


minimum.vjp(0)(lambda xp, g, x1, x2: winner(xp, g, x1 < x2, x1 == x2))
minimum.vjp(1)(lambda xp, g, x1, x2: winner(xp, g, x2 < x1, x1 == x2))
minimum.samples(*binary((-2.0, -0.1), (0.0, 2.0)), *binary((0.1, 2.0), (-2.0, 0.0)), *bounds, misfit)


@op(dtype=real, amp="widest")
def clip(xp: Any, x: Array, min: Array | None = None, max: Array | None = None, /) -> Array:
    """Elementwise ``minimum(maximum(x, min), max)``: where the bounds cross, `max` wins.

    Parameters
    ----------
    x : Tensor
        Any shape, real.
    min, max : Tensor or number, optional
        The bounds; shapes broadcast. None leaves a side open.

    Returns
    -------
    Tensor
        The gradient goes to `x` inside and at the bounds, else to the bound that was taken.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast together.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.clip(mg.tensor([-1.0, 0.5, 2.0]), 0.0, 1.0)
    tensor([0. , 0.5, 1. ])
    """
    if min is None and max is None:
        return x.copy()
    if min is not None:
        x = xp.maximum(x, min)
    return x if max is None else xp.minimum(x, max)


@clip.vjp(0)
def _(xp: Any, g: Array, x: Array, min: Array | None, max: Array | None) -> Array:
    if min is not None:
        g = xp.where(x >= min, g, 0.0)
    return g if max is None else xp.where(x <= max, g, 0.0)


@clip.vjp(1)
def _(xp: Any, g: Array, x: Array, min: Array, max: Array | None) -> Array:
    g = xp.where(x < min, g, 0.0)
    return g if max is None else xp.where(min <= max, g, 0.0)


@clip.vjp(2)
def _(xp: Any, g: Array, x: Array, min: Array | None, max: Array) -> Array:
    return xp.where((x if min is None else xp.maximum(x, min)) > max, g, 0.0)


clip.samples(
    *(case(A(s, -2.0, 2.0, avoid=(-1.0, 1.0)), -1.0, 1.0) for s in [(), (3,), (2, 3), (0, 2)]),
    case(A((2, 3), -2.0, 2.0, avoid=(0.0,)), 0.0),
    case(A((2, 3), -2.0, 2.0, avoid=(0.0,)), None, 0.0),
    case((2, 3)),
    case(A((2, 3), -0.5, 0.5), A((3,), -2.0, -0.6), A((2, 1), 0.6, 2.0)),
    case(A((2, 3), -3.0, -2.1), A((3,), -2.0, -0.6), A((2, 1), 0.6, 2.0)),
    case(A((2, 3), -0.5, 0.5), A((3,), 1.5, 2.0), A((2, 1), 0.6, 1.4)),
    case(A((4,), -5, 5, kind="int"), -2, 2),
    error(ValueError, "shapes that broadcast together", (2,), A((3,), -1.0, 0.0), 1.0),
    error(DTypeError, "clip", A((2,), kind="bool"), False, True),
)

"""Trigonometric and hyperbolic functions and their inverses, in radians. Outside the domain lies NaN."""

from __future__ import annotations

import math
from typing import Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, binary, case, error, unary

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "sin", "sinh", "tan", "tanh",
]  # fmt: skip


@op(dtype=floating, ref="numpy.sin", amp="widest")
def sin(xp: Any, x: Array, /) -> Array:
    """Elementwise sine.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.sin(mg.tensor([0.0, 1.5])), 4)
    tensor([0.    , 0.9975])
    """
    return xp.sin(x)


sin.vjp(0)(lambda xp, g, x: g * xp.cos(x))
sin.samples(*unary())


@op(dtype=floating, ref="numpy.cos", amp="widest")
def cos(xp: Any, x: Array, /) -> Array:
    """Elementwise cosine.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.cos(mg.tensor([0.0, 1.5])), 4)
    tensor([1.    , 0.0707])
    """
    return xp.cos(x)


cos.vjp(0)(lambda xp, g, x: -g * xp.sin(x))
cos.samples(*unary())


@op(dtype=floating, ref="numpy.tan", amp="float32")
def tan(xp: Any, x: Array, /) -> Array:
    """Elementwise tangent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.tan(mg.tensor([0.0, 1.5])), 4)
    tensor([ 0.    , 14.1014])
    """
    return xp.tan(x)


tan.vjp(0)(lambda xp, g, out: g * (1 + out * out))
tan.samples(*unary(-1.2, 1.2))


@op(dtype=floating, ref="numpy.asin", amp="float32")
def asin(xp: Any, x: Array, /) -> Array:
    """Elementwise arc sine, between -pi/2 and pi/2; its derivative at -1 and 1 is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.asin(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 1.5708])
    """
    return xp.asin(x)


asin.vjp(0)(lambda xp, g, x: g / xp.sqrt((1 - x) * (1 + x)))
asin.samples(*unary(-0.8, 0.8))


@op(dtype=floating, ref="numpy.acos", amp="float32")
def acos(xp: Any, x: Array, /) -> Array:
    """Elementwise arc cosine, between 0 and pi; its derivative at -1 and 1 is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.acos(mg.tensor([0.0, 1.0])), 4)
    tensor([1.5708, 0.    ])
    """
    return xp.acos(x)


acos.vjp(0)(lambda xp, g, x: -g / xp.sqrt((1 - x) * (1 + x)))
acos.samples(*unary(-0.8, 0.8))


@op(dtype=floating, ref="numpy.atan", amp="widest")
def atan(xp: Any, x: Array, /) -> Array:
    """Elementwise arc tangent, between -pi/2 and pi/2.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.atan(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 0.7854])
    """
    return xp.atan(x)


atan.vjp(0)(lambda xp, g, x: g / (1 + x * x))
atan.samples(*unary())


@op(dtype=floating, ref="numpy.sinh", amp="float32")
def sinh(xp: Any, x: Array, /) -> Array:
    """Elementwise hyperbolic sine.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.sinh(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 1.1752])
    """
    return xp.sinh(x)


sinh.vjp(0)(lambda xp, g, x: g * xp.cosh(x))
sinh.samples(*unary())


@op(dtype=floating, ref="numpy.cosh", amp="float32")
def cosh(xp: Any, x: Array, /) -> Array:
    """Elementwise hyperbolic cosine.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.cosh(mg.tensor([0.0, 1.0])), 4)
    tensor([1.    , 1.5431])
    """
    return xp.cosh(x)


cosh.vjp(0)(lambda xp, g, x: g * xp.sinh(x))
cosh.samples(*unary())


@op(dtype=floating, ref="numpy.tanh", amp="widest")
def tanh(xp: Any, x: Array, /) -> Array:
    """Elementwise hyperbolic tangent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.tanh(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 0.7616])
    """
    return xp.tanh(x)


tanh.vjp(0)(lambda xp, g, out: g * (1 - out * out))
tanh.samples(*unary())


@op(dtype=floating, ref="numpy.asinh", amp="widest")
def asinh(xp: Any, x: Array, /) -> Array:
    """Elementwise inverse hyperbolic sine.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.asinh(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 0.8814])
    """
    return xp.asinh(x)


asinh.vjp(0)(lambda xp, g, x: g / xp.sqrt(x * x + 1))
asinh.samples(*unary())


@op(dtype=floating, ref="numpy.acosh", amp="float32")
def acosh(xp: Any, x: Array, /) -> Array:
    """Elementwise inverse hyperbolic cosine; its derivative at 1 is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.acosh(mg.tensor([1.0, 2.0])), 4)
    tensor([0.   , 1.317])
    """
    return xp.acosh(x)


acosh.vjp(0)(lambda xp, g, x: g / xp.sqrt((x - 1) * (x + 1)))
acosh.samples(*unary(1.3, 3.0))


@op(dtype=floating, ref="numpy.atanh", amp="float32")
def atanh(xp: Any, x: Array, /) -> Array:
    """Elementwise inverse hyperbolic tangent; it is infinite at -1 and 1.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.atanh(mg.tensor([0.0, 0.5])), 4)
    tensor([0.    , 0.5493])
    """
    return xp.atanh(x)


atanh.vjp(0)(lambda xp, g, x: g / (1 - x * x))
atanh.samples(*unary(-0.7, 0.7))


@op(dtype=floating.but(kinds=dtypes.ALL - dtypes.COMPLEX), ref="numpy.atan2", amp="widest")
def atan2(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise angle of the point (x2, x1), between -pi and pi; its derivatives at (0, 0) are 0, of order 2 as well.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.atan2(mg.tensor([1.0, -1.0]), mg.tensor([1.0, -1.0])), 4)
    tensor([ 0.7854, -2.3562])
    """
    return xp.atan2(x1, x2)


def slope(xp: Any, x1: Array, x2: Array) -> Array:
    """``x1 / (x1**2 + x2**2)``, divided twice by the radius, since its square may overflow."""
    radius = xp.hypot(x1, x2)
    radius = xp.where(radius == 0, math.inf, radius)
    return x1 / radius / radius


atan2.vjp(0)(lambda xp, g, x1, x2: g * slope(xp, x2, x1))
atan2.vjp(1)(lambda xp, g, x1, x2: -g * slope(xp, x1, x2))
atan2.samples(
    *binary((0.3, 2.0), (-2.0, 2.0)),
    case(A((3,), -2.0, -0.3), A((3,), -2.0, 2.0)),
    error(ValueError, "shapes that broadcast together", (2,), (3,)),
)

tanh.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("elementwise", "tanh"))
tanh.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("elementwise", "tanh_vjp"))

"""Exponentials, logarithms and roots. Integers give the default floating dtype; outside the domain lies NaN."""

from __future__ import annotations

import math
from typing import Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import A, binary, case, error, unary

__all__ = [
    "exp", "exp2", "expm1", "hypot", "log", "log1p", "log2", "log10", "logaddexp", "rsqrt", "sqrt",
]  # fmt: skip

real = floating.but(kinds=dtypes.ALL - dtypes.COMPLEX)


@op(dtype=floating, ref="numpy.exp", amp="float32")
def exp(xp: Any, x: Array, /) -> Array:
    """Elementwise ``e**x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.exp(mg.tensor([0.0, 1.0])), 4)
    tensor([1.    , 2.7183])
    """
    return xp.exp(x)


exp.vjp(0)(lambda xp, g, out: g * out)
exp.samples(*unary())


@op(dtype=real, ref="numpy.exp2", amp="float32")
def exp2(xp: Any, x: Array, /) -> Array:
    """Elementwise ``2**x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.exp2(mg.tensor([-1.0, 3.0]))
    tensor([0.5, 8. ])
    """
    return xp.exp2(x)


exp2.vjp(0)(lambda xp, g, out: math.log(2) * g * out)
exp2.samples(*unary())


@op(dtype=floating, ref="numpy.expm1", amp="float32")
def expm1(xp: Any, x: Array, /) -> Array:
    """Elementwise ``e**x - 1``, exact near 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.expm1(mg.tensor([0.0, 1e-10]))
    tensor([0.e+00, 1.e-10])
    """
    return xp.expm1(x)


expm1.vjp(0)(lambda xp, g, out: g * (out + 1))
expm1.samples(*unary())


@op(dtype=floating, ref="numpy.log", amp="float32")
def log(xp: Any, x: Array, /) -> Array:
    """Elementwise natural logarithm; ``log(0)`` is -inf.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.log(mg.tensor([1.0, 0.0]))
    tensor([  0., -inf])
    """
    return xp.log(x)


log.vjp(0)(lambda xp, g, x: g / x)
log.samples(*unary(0.3, 3.0))


@op(dtype=floating, ref="numpy.log1p", amp="float32")
def log1p(xp: Any, x: Array, /) -> Array:
    """Elementwise ``log(1 + x)``, exact near 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.log1p(mg.tensor([0.0, 1e-10]))
    tensor([0.e+00, 1.e-10])
    """
    return xp.log1p(x)


log1p.vjp(0)(lambda xp, g, x: g / (1 + x))
log1p.samples(*unary(-0.6, 3.0))


@op(dtype=floating, ref="numpy.log2", amp="float32")
def log2(xp: Any, x: Array, /) -> Array:
    """Elementwise logarithm to base 2.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.log2(mg.tensor([1.0, 8.0])), 4)
    tensor([0., 3.])
    """
    return xp.log2(x)


log2.vjp(0)(lambda xp, g, x: g / (math.log(2) * x))
log2.samples(*unary(0.3, 3.0))


@op(dtype=floating, ref="numpy.log10", amp="float32")
def log10(xp: Any, x: Array, /) -> Array:
    """Elementwise logarithm to base 10.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.log10(mg.tensor([1.0, 100.0])), 4)
    tensor([0., 2.])
    """
    return xp.log10(x)


log10.vjp(0)(lambda xp, g, x: g / (math.log(10) * x))
log10.samples(*unary(0.3, 3.0))


@op(dtype=real, ref="numpy.logaddexp", amp="float32")
def logaddexp(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``log(exp(x1) + exp(x2))`` without overflow.

    The derivatives are sigmoid(x1 - x2) and sigmoid(x2 - x1). Where both inputs are inf they are 1/2 each; where both
    are -inf, and so is the result, they are 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.logaddexp(mg.tensor([0.0, 100.0]), 0.0), 4)
    tensor([  0.6931, 100.    ])
    """
    return xp.logaddexp(x1, x2)


def share(xp: Any, own: Array, other: Array) -> Array:
    """``exp(own) / (exp(own) + exp(other))``, exact where the sum is far larger than their difference."""
    level = xp.isinf(own) & (own == other)  # inf - inf would be NaN
    return xp.sigmoid(xp.where(level, xp.where(own > 0, 0.0, own), own - other))


logaddexp.vjp(0)(lambda xp, g, x1, x2: g * share(xp, x1, x2))
logaddexp.vjp(1)(lambda xp, g, x1, x2: g * share(xp, x2, x1))
logaddexp.samples(
    *binary(),
    case([1000.0, -1000.0, 0.0], [1000.5, -1000.25, 100.0]),
    case([1e20, math.inf, -math.inf, math.inf, math.nan], [1e20, 1.0, -math.inf, math.inf, 1.0]),
    error(ValueError, "shapes that broadcast together", (2,), (3,)),
)


@op(dtype=floating, ref="numpy.sqrt", amp="widest")
def sqrt(xp: Any, x: Array, /) -> Array:
    """Elementwise square root; its derivative at 0 is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.sqrt(mg.tensor([4.0, 9.0]))
    tensor([2., 3.])
    """
    return xp.sqrt(x)


sqrt.vjp(0)(lambda xp, g, out: 0.5 * g / out)
sqrt.samples(*unary(0.3, 3.0))


@op(dtype=floating, amp="float32")
def rsqrt(xp: Any, x: Array, /) -> Array:
    """Elementwise ``1 / sqrt(x)``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.rsqrt(mg.tensor([4.0, 16.0]))
    tensor([0.5 , 0.25])
    """
    return 1 / xp.sqrt(x)


rsqrt.vjp(0)(lambda xp, g, out: -0.5 * g * out * out * out)
rsqrt.samples(*unary(0.3, 3.0))


@op(dtype=real, ref="numpy.hypot", amp="widest")
def hypot(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``sqrt(x1**2 + x2**2)`` without overflow; its derivatives at (0, 0) are 0, of order 2 as well.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.hypot(mg.tensor([3.0, 6.0]), mg.tensor([4.0, 8.0]))
    tensor([ 5., 10.])
    """
    return xp.hypot(x1, x2)


hypot.vjp(0)(lambda xp, g, x1, out: g * (x1 / xp.where(out == 0, math.inf, out)))
hypot.vjp(1)(lambda xp, g, x2, out: g * (x2 / xp.where(out == 0, math.inf, out)))
hypot.samples(
    *binary(avoid=(0.0,)),
    error(ValueError, "shapes that broadcast together", (2,), (3,)),
    error(DTypeError, "hypot", A((2,)), 1j),
)

exp.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("elementwise", "exp"))
exp.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("elementwise", "exp_vjp"))
log.kernel("cpu", dtypes.float32)(Kernel("elementwise", "log"))  # in float64 NumPy's is the faster one
log.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("elementwise", "log_vjp"))

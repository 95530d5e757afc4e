"""Arithmetic: the ops behind ``+ - * / ** // %`` and their kin. Shapes broadcast; dtypes promote."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad.errors import DTypeError, message
from minigrad.ops.registry import Array, floating, op, promote
from minigrad.ops.samples import A, binary, case, error, unary

__all__ = [
    "abs", "add", "divide", "floor_divide", "multiply", "negative", "positive", "pow", "reciprocal", "remainder",
    "square", "subtract",
]  # fmt: skip

numeric = promote.but(kinds=dtypes.ALL - dtypes.BOOL)


@op(ref="numpy.add", code="add", amp="widest")
def add(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise sum ``x1 + x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.add(mg.tensor([1.0, 2.0]), 0.5)
    tensor([1.5, 2.5])
    """
    return x1 + x2


add.vjp(0, 1)(lambda xp, g: g)
add.samples(*binary(), error(ValueError, "shapes that broadcast together", (2, 3), (2,)))


@op(dtype=numeric, ref="numpy.subtract", code="subtract", amp="widest")
def subtract(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise difference ``x1 - x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.subtract(mg.tensor([1.0, 2.0]), mg.tensor([0.5, 0.5]))
    tensor([0.5, 1.5])
    """
    return x1 - x2


subtract.vjp(0)(lambda xp, g: g)
subtract.vjp(1)(lambda xp, g: -g)
subtract.samples(
    *binary(),
    error(ValueError, "shapes that broadcast together", (3, 2), (3,)),
    error(DTypeError, "subtract: got bool, needs one of", A((2,), kind="bool"), True),
)


@op(ref="numpy.multiply", code="multiply", amp="widest")
def multiply(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise product ``x1 * x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.multiply(mg.tensor([1.0, 2.0]), mg.tensor([3.0, 4.0]))
    tensor([3., 8.])
    """
    return x1 * x2


multiply.vjp(0)(lambda xp, g, x2: g * x2)
multiply.vjp(1)(lambda xp, g, x1: g * x1)
multiply.samples(*binary(), error(ValueError, "x1 float64 (2, 3)", (2, 3), (2,)))


@op(dtype=floating, ref="numpy.divide", code="divide", amp="widest")
def divide(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise quotient ``x1 / x2``; integers give the default floating dtype. 0/0 is NaN, x/0 is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.divide(mg.tensor([1, 2]), 4)
    tensor([0.25, 0.5 ])
    """
    return x1 / x2


divide.vjp(0)(lambda xp, g, x2: g / x2)
divide.vjp(1)(lambda xp, g, x1, x2: -g * x1 / (x2 * x2))
divide.samples(*binary(second=(0.5, 2.0)), error(ValueError, "shapes that broadcast together", (2,), (3,)))


@op(dtype=numeric, ref="numpy.negative", code="negative", amp="widest")
def negative(xp: Any, x: Array, /) -> Array:
    """Elementwise ``-x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.negative(mg.tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """
    return -x


negative.vjp(0)(lambda xp, g: -g)
negative.samples(*unary(), error(DTypeError, "negative", A((2,), kind="bool")))


@op(dtype=numeric, ref="numpy.positive", amp="widest")
def positive(xp: Any, x: Array, /) -> Array:
    """Elementwise ``+x``, a copy.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.positive(mg.tensor([1.0, -2.0]))
    tensor([ 1., -2.])
    """
    return xp.positive(x)


positive.vjp(0)(lambda xp, g: g)
positive.samples(*unary(), error(DTypeError, "positive: got bool, needs one of", A((2,), kind="bool")))


@op(dtype=numeric.but(same=False), ref="numpy.abs", amp="widest")
def abs(xp: Any, x: Array, /) -> Array:
    """Elementwise absolute value; its derivative at 0 is 0. Complex numbers give their magnitude.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.abs(mg.tensor([-1.5, 2.0]))
    tensor([1.5, 2. ])
    """
    return xp.abs(x)


abs.vjp(0)(lambda xp, g, x: g * xp.sign(x))
abs.samples(*unary(avoid=(0.0,)), error(DTypeError, "abs", A((2,), kind="bool")))


@op(
    dtype=numeric,
    ref="numpy.power",
    amp="float32",
)
def pow(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise power ``x1 ** x2``.

    The derivative by the base is 0 where the exponent is 0. The derivative by the exponent at a base of 0 is -inf for
    negative exponents and else 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.pow(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 4., 9.])
    """
    if x1.dtype in dtypes.INTEGER and xp.any(x2 < 0):
        need = "floats where an exponent is negative"
        raise ValueError(message("pow", "x2", "a negative exponent of integers", need, "Cast: x1.astype(mg.float32)"))
    return x1**x2


@pow.vjp(0)
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    # 0 * 0**-1 would be NaN at an exponent of 0
    return g * x2 * x1 ** xp.where(x2 == 0, 1.0, x2 - 1)


@pow.vjp(1)
def _(xp: Any, g: Array, x1: Array, x2: Array, out: Array) -> Array:
    return g * out * xp.log(xp.where((x1 == 0) & (x2 >= 0), 1.0, x1))


pow.samples(
    *binary(first=(0.3, 2.0), second=(-2.0, 2.0)),
    case(A((3,), -2.0, 2.0), 3.0),
    case(A((3,), -2.0, 2.0), 2),
    case(2.0, A((3,))),
    case([0.0, 0.0, 0.0], [2.0, 0.0, -1.0]),
    case(A((2,), 0, 3, kind="int"), A((2,), 0, 3, kind="int")),
    error(ValueError, "pow: x2 is a negative exponent of integers, needs floats", A((2,), 1, 3, kind="int"), -1),
    error(DTypeError, "pow: got bool, needs one of", A((2,), kind="bool"), True),
    error(ValueError, "shapes that broadcast together", (2,), (3,)),
)


@op(dtype=numeric, ref="numpy.square", amp="float32")
def square(xp: Any, x: Array, /) -> Array:
    """Elementwise ``x * x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.square(mg.tensor([1.0, -3.0]))
    tensor([1., 9.])
    """
    return xp.square(x)


square.vjp(0)(lambda xp, g, x: 2 * g * x)
square.samples(*unary(), error(DTypeError, "square: got bool, needs one of", A((2,), kind="bool")))


@op(dtype=floating, ref="numpy.reciprocal", amp="float32")
def reciprocal(xp: Any, x: Array, /) -> Array:
    """Elementwise ``1 / x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.reciprocal(mg.tensor([2.0, -4.0]))
    tensor([ 0.5 , -0.25])
    """
    return 1 / x


reciprocal.vjp(0)(lambda xp, g, out: -g * out * out)
reciprocal.samples(*unary(0.5, 2.0))


real = dtypes.INTEGER | dtypes.FLOATING


@op(dtype=promote.but(kinds=real), ref="numpy.floor_divide", amp="widest")
def floor_divide(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``floor(x1 / x2)``, as ``//``; its derivative is 0. Division of integers by zero gives 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.floor_divide(mg.tensor([7, -7]), 2)
    tensor([ 3, -4])
    """
    return x1 // x2


floor_divide.vjp(0, 1)(lambda xp, g: xp.zeros_like(g))
floor_divide.samples(
    case(A((3,), 0.1, 0.9), A((3,), 1.0, 2.0)),
    case(A((2, 3), 4.1, 4.9), A((3,), 2.0, 2.02)),
    case((0, 3), A((3,), 1.0, 2.0)),
    error(DTypeError, "floor_divide", A((2,), kind="bool"), A((2,), kind="bool")),
)


@op(dtype=promote.but(kinds=real), ref="numpy.remainder", amp="widest")
def remainder(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise remainder with the sign of the divisor, as ``%``: ``x1 - floor(x1 / x2) * x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.remainder(mg.tensor([5.0, -5.0]), 3)
    tensor([2., 1.])
    """
    return xp.remainder(x1, x2)


remainder.vjp(0)(lambda xp, g: g)
# not floor(x1 / x2): the quotient may round up to the next integer, as 1 / 0.1 does
remainder.vjp(1)(lambda xp, g, x1, x2: -g * xp.floor_divide(x1, x2))
remainder.samples(
    case(A((3,), 0.1, 0.9), A((3,), 1.0, 2.0)),
    case(A((2, 3), 4.1, 4.9), A((3,), 2.0, 2.02)),
    case([1.0, -1.0], [0.1, 0.1]),
    case((0, 3), A((3,), 1.0, 2.0)),
    error(DTypeError, "remainder", A((2,), kind="bool"), A((2,), kind="bool")),
)

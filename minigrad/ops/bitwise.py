"""Bitwise ops on integers and bools."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad.errors import DTypeError
from minigrad.ops.registry import Array, op, promote
from minigrad.ops.samples import A, Case, case, error

__all__ = [
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
]  # fmt: skip

bits = promote.but(kinds=dtypes.BOOL | dtypes.INTEGER)
integers = promote.but(kinds=dtypes.INTEGER)


def pairs(name: str, *, bools: bool = True, high: int = 100) -> list[Case]:
    """The inputs that the ops of two arguments are tried on."""
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ()), ((3,), (3,)), ((2, 1), (1, 3)), ((0, 2), (2,))]
    cases = [case(A(a, 0, 100, kind="int"), A(b, 0, high, kind="int")) for a, b in shapes]
    if bools:
        cases.append(case(A((2, 3), kind="bool"), A((3,), kind="bool")))
    return [*cases, error(DTypeError, name, A((2,)), A((2,), 0, 3, kind="int"))]


@op(dtype=bits, ref="numpy.bitwise_and")
def bitwise_and(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 & x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_and(mg.tensor([6, 5]), 3)
    tensor([2, 1])
    """
    return x1 & x2


bitwise_and.samples(*pairs("bitwise_and"))


@op(dtype=bits, ref="numpy.bitwise_or")
def bitwise_or(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 | x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_or(mg.tensor([6, 5]), 3)
    tensor([7, 7])
    """
    return x1 | x2


bitwise_or.samples(*pairs("bitwise_or"))


@op(dtype=bits, ref="numpy.bitwise_xor")
def bitwise_xor(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 ^ x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_xor(mg.tensor([6, 5]), 3)
    tensor([5, 6])
    """
    return x1 ^ x2


bitwise_xor.samples(*pairs("bitwise_xor"))


@op(dtype=bits, ref="numpy.invert")
def bitwise_invert(xp: Any, x: Array, /) -> Array:
    """Elementwise ``~x``; for bools, not.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_invert(mg.tensor([0, 5]))
    tensor([-1, -6])
    """
    return ~x


bitwise_invert.samples(
    case(A((), 0, 9, kind="int")),
    case(A((2, 3), 0, 9, kind="int")),
    case(A((3,), kind="bool")),
    case(A((0, 3), 0, 9, kind="int")),
    error(DTypeError, "bitwise_invert", A((2,))),
)


@op(dtype=integers, ref="numpy.left_shift")
def bitwise_left_shift(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 << x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_left_shift(mg.tensor([1, 5]), 3)
    tensor([ 8, 40])
    """
    return x1 << x2


bitwise_left_shift.samples(*pairs("bitwise_left_shift", bools=False, high=8))


@op(dtype=integers, ref="numpy.right_shift")
def bitwise_right_shift(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 >> x2``, with the sign bit moving in.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.bitwise_right_shift(mg.tensor([40, -8]), 2)
    tensor([10, -2])
    """
    return x1 >> x2


bitwise_right_shift.samples(*pairs("bitwise_right_shift", bools=False, high=8))

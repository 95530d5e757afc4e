"""Comparison and logic. The results are bool tensors without a gradient; `allclose` and `array_equal` answer a bool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad.errors import DTypeError
from minigrad.ops.creation import asarray
from minigrad.ops.registry import Array, Op, comparison, keep, op
from minigrad.ops.samples import A, binary, case, error

__all__ = [
    "allclose", "array_equal", "equal", "greater", "greater_equal", "isclose", "isfinite", "isinf", "isnan", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "not_equal",
]  # fmt: skip

ordered = comparison.but(kinds=dtypes.ALL - dtypes.COMPLEX)
truth = keep.but(same=False)


def predicate(**record: Any) -> Callable[[Callable[..., Any]], Op[Any]]:
    """Make an op with a bool result: a step function, so its derivative is 0."""

    def make(body: Callable[..., Any]) -> Op[Any]:
        made: Op[Any] = op(**record)(body)
        made.vjp(*range(len(made.inputs)))(lambda xp, g: xp.zeros_like(g))
        return made

    return make


integers = (
    case(A((4,), 0, 3, kind="int"), A((4,), 0, 3, kind="int")),
    case(A((2, 3), kind="bool"), A((3,), kind="bool")),
)
special = (
    case(()),
    case((0, 2)),
    case(np.array([[1.0, np.inf], [np.nan, -np.inf]])),
    case(A((3,), 0, 5, kind="int")),
    error(DTypeError, "x is text, needs a tensor, an array or a number", "text"),
)
misfit = error(ValueError, "shapes that broadcast together", (2,), (3,))


@predicate(dtype=comparison, ref="numpy.equal")
def equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 == x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.equal(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([False,  True, False])
    """
    return x1 == x2


equal.samples(*binary(), *integers, misfit)


@predicate(dtype=comparison, ref="numpy.not_equal")
def not_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 != x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.not_equal(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([ True, False,  True])
    """
    return x1 != x2


not_equal.samples(*binary(), *integers, misfit)


@predicate(dtype=ordered, ref="numpy.less")
def less(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 < x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.less(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([ True, False, False])
    """
    return x1 < x2


less.samples(*binary(), *integers, misfit, error(DTypeError, "less", A((2,)), 1j))


@predicate(dtype=ordered, ref="numpy.less_equal")
def less_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 <= x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.less_equal(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([ True,  True, False])
    """
    return x1 <= x2


less_equal.samples(*binary(), *integers, misfit)


@predicate(dtype=ordered, ref="numpy.greater")
def greater(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 > x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.greater(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([False, False,  True])
    """
    return x1 > x2


greater.samples(*binary(), *integers, misfit)


@predicate(dtype=ordered, ref="numpy.greater_equal")
def greater_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise ``x1 >= x2``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.greater_equal(mg.tensor([1.0, 2.0, 3.0]), 2)
    tensor([False,  True,  True])
    """
    return x1 >= x2


greater_equal.samples(*binary(), *integers, misfit)


@predicate(dtype=comparison, ref="numpy.isnan")
def isnan(xp: Any, x: Array, /) -> Array:
    """Elementwise, whether it is NaN.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.isnan(mg.tensor([1.0, float("nan"), float("inf")]))
    tensor([False,  True, False])
    """
    return xp.isnan(x)


isnan.samples(*special)


@predicate(dtype=comparison, ref="numpy.isinf")
def isinf(xp: Any, x: Array, /) -> Array:
    """Elementwise, whether it is infinite.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.isinf(mg.tensor([1.0, float("nan"), float("-inf")]))
    tensor([False, False,  True])
    """
    return xp.isinf(x)


isinf.samples(*special)


@predicate(dtype=comparison, ref="numpy.isfinite")
def isfinite(xp: Any, x: Array, /) -> Array:
    """Elementwise, whether it is neither infinite nor NaN.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.isfinite(mg.tensor([1.0, float("nan"), float("inf")]))
    tensor([ True, False, False])
    """
    return xp.isfinite(x)


isfinite.samples(*special)


@predicate(dtype=truth, ref="numpy.logical_and")
def logical_and(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise, whether both are true (different from 0).

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.logical_and(mg.tensor([True, True, False, False]), mg.tensor([True, False, True, False]))
    tensor([ True, False, False, False])
    """
    return xp.logical_and(x1, x2)


logical_and.samples(*binary(), *integers, misfit)


@predicate(dtype=truth, ref="numpy.logical_or")
def logical_or(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise, whether at least one is true (different from 0).

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.logical_or(mg.tensor([True, True, False, False]), mg.tensor([True, False, True, False]))
    tensor([ True,  True,  True, False])
    """
    return xp.logical_or(x1, x2)


logical_or.samples(*binary(), *integers, misfit)


@predicate(dtype=truth, ref="numpy.logical_xor")
def logical_xor(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Elementwise, whether just one is true (different from 0).

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.logical_xor(mg.tensor([True, True, False, False]), mg.tensor([True, False, True, False]))
    tensor([False,  True,  True, False])
    """
    return xp.logical_xor(x1, x2)


logical_xor.samples(*binary(), *integers, misfit)


@predicate(dtype=truth, ref="numpy.logical_not")
def logical_not(xp: Any, x: Array, /) -> Array:
    """Elementwise, whether it is false (equal to 0).

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.logical_not(mg.tensor([True, False]))
    tensor([False,  True])
    """
    return xp.logical_not(x)


logical_not.samples(*special, case(A((), kind="bool")), case(A((2, 3), kind="bool")))


@predicate(dtype=comparison.but(accumulate=True), ref="numpy.isclose", amp="widest")
def isclose(xp: Any, x1: Array, x2: Array, /, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Array:
    """Elementwise ``abs(x1 - x2) <= atol + rtol * abs(x2)``.

    Parameters
    ----------
    x1, x2 : Tensor
        Of shapes that broadcast together.
    rtol, atol : float
        Relative and absolute tolerance.
    equal_nan : bool
        Whether NaN is close to NaN.

    Returns
    -------
    Tensor
        Of bools.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.isclose(mg.tensor([1.0, 2.0]), mg.tensor([1.000001, 2.1]))
    tensor([ True, False])
    """
    return xp.isclose(x1, x2, rtol=rtol, atol=atol, equal_nan=equal_nan)


isclose.samples(
    *binary(rtol=0.3),
    case(np.array([1.0, np.nan, np.inf]), np.array([1.0 + 1e-9, np.nan, np.inf]), equal_nan=True),
    misfit,
)


def allclose(x1: Any, x2: Any, /, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close to each other, as `isclose` says.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.allclose(mg.tensor([1.0, 2.0]), mg.tensor([1.000001, 2.0]))
    True
    """
    close: Any = isclose(x1, x2, rtol, atol, equal_nan)
    return bool(close._array.all())


def array_equal(x1: Any, x2: Any, /, equal_nan: bool = False) -> bool:
    """Whether two tensors have one shape and equal elements.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.array_equal(mg.tensor([1, 2]), mg.tensor([1.0, 2.0])), mg.array_equal(mg.tensor([1, 1]), mg.tensor([1]))
    (True, False)
    """
    first, second = (x if isinstance(x, tape.TensorBase) else asarray(x) for x in (x1, x2))
    if first.shape != second.shape:
        return False
    same: Any = equal(first, second)._array
    if equal_nan:
        same = same | (isnan(first)._array & isnan(second)._array)
    return bool(same.all())

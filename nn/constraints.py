"""Constraints: what optimizers do to parameters after each step, so that they stay within a set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.errors import describe, message
from minigrad.nn.checks import number

__all__ = ["Constraint", "MaxNorm", "MinMaxNorm", "NonNegative", "UnitNorm", "get"]

Array = Any


class Constraint:
    """Base of the constraints on a parameter: set one as ``parameter.constraint``, or through an argument of its layer.

    An optimizer's `step` calls it with the array of the parameter, which it changes in place (docs/training_step.md).
    Of a table with row-sparse gradients it sees the rows that were used, if it is `by_row`, else the whole table, which
    takes as long as the table is large.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn, optim
    >>> class Clip(nn.Constraint):
    ...     by_row = True
    ...     def __call__(self, x):
    ...         np.clip(x, -1.0, 1.0, out=x)
    >>> w = nn.Parameter([3.0, 0.5])
    >>> w.constraint = Clip()
    >>> (w * 0).sum().backward()
    >>> optim.SGD([w]).step()
    >>> w
    tensor([1. , 0.5], requires_grad=True)
    """

    by_row: bool = False  # whether what becomes of a row (the first axis) depends on that row alone

    def __call__(self, x: Array) -> None:
        """Change an array in place; it may have no elements."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method __call__(self, x)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class _Norm(Constraint):
    """What the constraints on norms share: vectors along some axes are scaled, zero ones stay."""

    axis: int | tuple[int, ...]

    @property
    def by_row(self) -> bool:  # type: ignore[override]
        """Whether no vector runs along the first axis, as far as that is known without the number of axes."""
        return all(axis > 0 for axis in _tuple(self.axis))

    def __call__(self, x: Array) -> None:
        """Scale the vectors of an array in place."""
        axes = _tuple(self.axis)
        if any(not -x.ndim <= axis < x.ndim for axis in axes):
            raise ValueError(message(type(self).__name__, "axis", f"{self.axis}", f"axes of {x.ndim}"))
        if not x.size:
            return
        # no square leaves the range: the largest element of a vector becomes 1
        top = np.max(np.abs(x), axis=axes, keepdims=True)
        top = np.where((top > 0) & np.isfinite(top), top, x.dtype.type(1))
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite becomes NaN
            norm = top * np.sqrt(np.sum(np.square(x / top), axis=axes, keepdims=True))
            x *= np.where(norm > 0, self.wanted(norm) / np.where(norm > 0, norm, 1), 1)

    def wanted(self, norm: Array) -> Array:
        """The norms that vectors of these norms get."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method wanted(self, norm)")


class MaxNorm(_Norm):
    """Scale vectors whose norm is above `max_value` down to it; others stay as they are.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.

    Parameters
    ----------
    max_value : float
        The largest norm.
    axis : int or sequence of int
        Along which the vectors run. 0 is the input axis of `Dense`, so that each unit has its own; the vectors of an
        `Embedding` run along 1, the kernels of `Conv2D` along (1, 2, 3).

    Raises
    ------
    ValueError
        If the norm is negative or not finite, or when called with an array that has no such axis.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn
    >>> x = np.array([[3.0, 0.3], [4.0, 0.4]])
    >>> nn.MaxNorm(1.0)(x)
    >>> x
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """

    def __init__(self, max_value: float = 2.0, axis: int | Sequence[int] = 0) -> None:
        self.max_value, self.axis = _bound(self, "max_value", max_value), _axes(self, axis)

    def wanted(self, norm: Array) -> Array:
        """At most `max_value`."""
        return np.minimum(norm, self.max_value)


class UnitNorm(_Norm):
    """Scale vectors to norm 1; those of zeros stay.

    Parameters
    ----------
    axis : int or sequence of int
        As for `MaxNorm`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn
    >>> x = np.array([[3.0, 0.0], [4.0, 0.0]])
    >>> nn.UnitNorm()(x)
    >>> x
    array([[0.6, 0. ],
           [0.8, 0. ]])
    """

    def __init__(self, axis: int | Sequence[int] = 0) -> None:
        self.axis = _axes(self, axis)

    def wanted(self, norm: Array) -> Array:
        """1."""
        return np.ones_like(norm)


class MinMaxNorm(_Norm):
    """Move the norms of vectors into [min_value, max_value]; those of zeros, which have no direction, stay.

    The norm becomes ``rate * clip(norm, min_value, max_value) + (1 - rate) * norm``.

    Parameters
    ----------
    min_value, max_value : float
        The bounds.
    rate : float
        How much of the way to go in a step; 1 enforces the bounds.
    axis : int or sequence of int
        As for `MaxNorm`.

    Raises
    ------
    ValueError
        If a bound is negative or not finite, they are the wrong way round, or `rate` is not in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn
    >>> x = np.array([[6.0, 0.3], [8.0, 0.4]])
    >>> nn.MinMaxNorm(1.0, 5.0, rate=0.5)(x)
    >>> x
    array([[4.5 , 0.45],
           [6.  , 0.6 ]])
    """

    def __init__(
        self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: int | Sequence[int] = 0
    ) -> None:
        who = type(self).__name__
        self.min_value, self.max_value = _bound(self, "min_value", min_value), _bound(self, "max_value", max_value)
        if self.min_value > self.max_value:
            raise ValueError(message(who, "min_value", f"{min_value}", f"at most max_value, {max_value}"))
        self.rate = number(who, "rate", rate)
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(message(who, "rate", f"{rate}", "a share, 0 <= rate <= 1"))
        self.axis = _axes(self, axis)

    def wanted(self, norm: Array) -> Array:
        """Inside of the bounds, or so much nearer to them."""
        return self.rate * np.clip(norm, self.min_value, self.max_value) + (1.0 - self.rate) * norm


class NonNegative(Constraint):
    """Set negative elements to 0.

    Examples
    --------
    >>> from minigrad import nn
    >>> layer = nn.Dense(3, in_features=2, kernel_constraint=nn.NonNegative())
    >>> layer.weight.constraint
    NonNegative()
    """

    by_row = True

    def __call__(self, x: Array) -> None:
        """``max(x, 0)``, in place."""
        np.maximum(x, 0, out=x)


_BY_NAME: dict[str, Callable[[], Constraint]] = {
    "max_norm": MaxNorm,
    "min_max_norm": MinMaxNorm,
    "non_negative": NonNegative,
    "unit_norm": UnitNorm,
}


def get(constraint: str | Callable[[Array], Any] | None) -> Callable[[Array], Any] | None:
    """A constraint by its name; a function that changes an array in place is given back as it is.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from minigrad.nn import constraints
    >>> constraints.get("unit_norm")
    UnitNorm(axis=0)
    """
    if isinstance(constraint, str) and constraint in _BY_NAME:
        return _BY_NAME[constraint]()
    if constraint is not None and (not callable(constraint) or isinstance(constraint, type)):
        got = repr(constraint) if isinstance(constraint, str) else constraint
        need = f"None, an nn.Constraint such as nn.MaxNorm(2.0), or one of {', '.join(_BY_NAME)}"
        raise ValueError(message("constraints.get", "constraint", got, need))
    return constraint


def _bound(constraint: Constraint, name: str, value: Any) -> float:
    who = type(constraint).__name__
    found = number(who, name, value)
    if not 0.0 <= found < math.inf:
        raise ValueError(message(who, name, f"{found}", "a finite number of at least 0"))
    return found


def _axes(constraint: Constraint, axis: Any) -> int | tuple[int, ...]:
    found: Any = tuple(axis) if isinstance(axis, Sequence) and not isinstance(axis, str) else axis
    axes = found if isinstance(found, tuple) else (found,)
    if not axes or not all(type(a) is int for a in axes):
        raise ValueError(message(type(constraint).__name__, "axis", describe(axis), "an int or several"))
    return found  # type: ignore[no-any-return]


def _tuple(axis: Any) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else (axis,)

"""PyTorch's elementwise functions, reductions and creation, with PyTorch's signatures, by minigrad's functions alone.

A function raises `NotComparable` for a sample that asks for what minigrad does not have, and gives `ValuesOnly` where
the values must agree but there is no derivative to compare. Both carry their reason, and the reasons are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg


class NotComparable(Exception):
    """The sample uses a feature that minigrad does not have; the text names it."""


class ValuesOnly(NamedTuple):
    """A result whose derivatives are not compared."""

    result: Any
    reason: str


def lacks(condition: Any, feature: str) -> None:
    """Give a sample up for a reason."""
    if condition:
        raise NotComparable(feature)


# --- PyTorch's habits ------------------------------------------------------------------------------------------------


def number(x: Any) -> Any:
    """A Python number from a 0-d tensor that stands for one."""
    return x.item() if isinstance(x, mg.Tensor) else x


def axis_of(x: Any, dim: Any, *, empty_is_all: bool = True) -> Any:
    """`axis` for `dim`: PyTorch lets 0-d tensors have an axis, and means all axes by an empty tuple."""
    if dim is None or (empty_is_all and not isinstance(dim, int) and len(dim) == 0):
        return None
    if x.ndim == 0:
        return ()
    return dim if isinstance(dim, int) else tuple(dim)


def lifted(x: Any) -> Any:
    """A 0-d tensor as a vector, for what PyTorch does along an axis that such a tensor does not have."""
    return mg.reshape(x, (1,)) if x.ndim == 0 else x


def along(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` along an axis of a tensor that may be 0-d."""

    def inner(x: Any, *args: Any, **kwargs: Any) -> Any:
        out = f(lifted(x), *args, **kwargs)
        if x.ndim:
            return out
        return tuple(mg.reshape(o, ()) for o in out) if isinstance(out, tuple) else mg.reshape(out, ())

    return inner


def at(x: Any, dim: int, part: Any) -> tuple[Any, ...]:
    """The index that takes `part` of one axis."""
    return (slice(None),) * (dim % x.ndim) + (part,)


def cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else mg.astype(x, dtype)


def to(dtype: Any) -> Callable[..., Any]:
    return lambda x, **memory: mg.astype(x, dtype)


def to_complex(dtype: Any) -> Callable[..., Any]:
    return lambda x, **memory: ValuesOnly(mg.astype(x.detach(), dtype), "complex tensors have no gradients")


def reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return f(cast(x, dtype), axis=axis_of(x, dim), keepdims=keepdim)

    return inner


def position(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        return f(x, axis=None if x.ndim == 0 else dim, keepdims=keepdim)

    return inner


def extremum(value: Callable[..., Any], place: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return value(x)
        if isinstance(dim, mg.Tensor):
            return (mg.maximum if value is mg.max else mg.minimum)(x, dim)
        axis = axis_of(x, dim)
        return value(x, axis=axis, keepdims=keepdim), place(x, axis=None if x.ndim == 0 else dim, keepdims=keepdim)

    return inner


def spread(f: Callable[..., Any], *more: Callable[..., Any]) -> Callable[..., Any]:
    """`var` and `std`, and pairs of one with the mean."""

    def inner(
        x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        axis = axis_of(x, dim)
        free = unbiased if correction is None else correction
        out = f(x, axis=axis, correction=float(free), keepdims=keepdim)
        return (out, *(g(x, axis=axis, keepdims=keepdim) for g in more)) if more else out

    return inner


def softmax(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: int, *, dtype: Any = None) -> Any:
        return along(f)(cast(x, dtype), axis=dim)

    return inner


def scaled(f: Callable[..., Any]) -> Callable[..., Any]:
    """Addition and subtraction with PyTorch's factor `alpha`."""
    return lambda x, y, *, alpha=1: f(x, y if alpha == 1 else y * alpha)


def reversed_subtract(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return mg.subtract(y, x if alpha == 1 else x * alpha)


def divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return mg.floor_divide(x, y)
    out = mg.divide(x, y)
    return mg.trunc(out) if rounding_mode == "trunc" else out


def float_power(x: Any, y: Any) -> Any:
    """Everything in float64."""

    def wide(v: Any) -> Any:
        return mg.astype(v, mg.float64) if isinstance(v, mg.Tensor) else mg.tensor(v, dtype=mg.float64)

    return mg.pow(wide(x), wide(y))


def running(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim, *, dtype=None: along(f)(cast(x, dtype), axis=dim)


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return mg.diff(x, dim, n, prepend=prepend, append=append)


# --- creation --------------------------------------------------------------------------------------------------------


def made(f: Callable[..., Any]) -> Callable[..., Any]:
    """A creation function; a layout means nothing to minigrad."""

    def inner(
        *args: Any, layout: Any = None, memory_format: Any = None, pin_memory: bool = False, **kwargs: Any
    ) -> Any:
        return f(*args, **kwargs)

    return inner


def arange(start: Any, end: Any = None, step: Any = 1, **kwargs: Any) -> Any:
    return mg.arange(start, end, step, **kwargs)


def linspace(start: Any, stop: Any, num: int, **kwargs: Any) -> Any:
    return mg.linspace(number(start), number(stop), num, **kwargs)


def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    return mg.meshgrid(*(tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors), indexing=indexing)


def to_any(x: Any, *args: Any, **kwargs: Any) -> Any:
    dtypes = [v for v in (*args, *kwargs.values()) if isinstance(v, np.dtype)]
    like = [v.dtype for v in args if isinstance(v, mg.Tensor)]
    return mg.astype(x, (dtypes + like + [x.dtype])[0])


def eye(n: int, m: int | None = None, **kwargs: Any) -> Any:
    return mg.eye(n, m, **kwargs)

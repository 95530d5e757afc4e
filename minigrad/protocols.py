"""NumPy's protocols: ``np.sin(t)`` and ``np.concatenate([t, a])`` call minigrad's ops and keep the graph.

A NumPy function that minigrad does not have works on tensors that do not require grad, through their arrays; on one
that does it raises, since its result would have no history.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad._core import tape
from minigrad.errors import GradError

__all__ = ["function", "namespace", "ufunc"]

VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12")

# NumPy's name -> minigrad's, where they differ
RENAMED = {
    "absolute": "abs",
    "power": "pow",
    "true_divide": "divide",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "conjugate": "conj",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "mod": "remainder",
    "rint": "round",
    "concatenate": "concat",
    "amax": "max",
    "amin": "min",
}

# functions that write into their first argument
WRITERS = {"copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask"}

REDUCTIONS = {
    "add": "sum",
    "multiply": "prod",
    "maximum": "max",
    "minimum": "min",
    "logical_and": "all",
    "logical_or": "any",
}


def _transpose(a: Any, axes: Any = None) -> Any:
    return ops.permute_dims(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


def _variance(name: str) -> Callable[..., Any]:
    def call(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        *,
        ddof: float = 0,
        correction: float | None = None,
        keepdims: bool = False,
    ) -> Any:
        a = a if dtype is None else ops.astype(a, dtype)
        return getattr(ops, name)(a, axis, correction=ddof if correction is None else correction, keepdims=keepdims)

    return call


def _mean(a: Any, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> Any:
    return ops.mean(a if dtype is None else ops.astype(a, dtype), axis, keepdims=keepdims)


def _reduction(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> Any:
        return getattr(ops, name)(a, axis, dtype=dtype, keepdims=keepdims)

    return call


def _cumulative(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: int | None = None, dtype: Any = None) -> Any:
        flat = axis is None
        return getattr(ops, name)(ops.reshape(a, -1) if flat else a, axis=0 if flat else axis, dtype=dtype)

    return call


def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return ops.positive(a)


def _ravel(a: Any, order: str = "C") -> Any:
    if order != "C":
        raise TypeError(f"numpy.ravel: got order={order!r}, minigrad tensors know only 'C'")
    return ops.reshape(a, -1)


def _squeeze(a: Any, axis: Any = None) -> Any:
    return a.squeeze(axis)


def _take(a: Any, indices: Any, axis: int | None = None) -> Any:
    return ops.take(ops.reshape(a, -1) if axis is None else a, ops.asarray(indices), axis=axis or 0)


def _dot(a: Any, b: Any) -> Any:
    a, b = ops.asarray(a), ops.asarray(b)
    if not a.ndim or not b.ndim:
        return ops.multiply(a, b)
    return ops.matmul(a, b) if b.ndim <= 2 else ops.tensordot(a, b, axes=((-1,), (-2,)))


def _trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Any:
    return ops.linalg.trace(ops.moveaxis(a, (axis1, axis2), (-2, -1)), offset=offset, dtype=dtype)


def _sort(a: Any, axis: int = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return ops.sort(a, axis=axis)


def _argsort(a: Any, axis: int = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return ops.argsort(a, axis=axis)


# functions whose NumPy signature is another one than minigrad's
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "transpose": _transpose,
    "var": _variance("var"),
    "std": _variance("std"),
    "mean": _mean,
    "sum": _reduction("sum"),
    "prod": _reduction("prod"),
    "cumsum": _cumulative("cumulative_sum"),
    "cumprod": _cumulative("cumulative_prod"),
    "copy": _copy,
    "ravel": _ravel,
    "squeeze": _squeeze,
    "take": _take,
    "sort": _sort,
    "argsort": _argsort,
    "vstack": lambda tup: ops.concat(
        [t if t.ndim > 1 else ops.reshape(t, (1, -1)) for t in map(ops.asarray, tup)], axis=0
    ),
    "hstack": lambda tup: ops.concat(list(tup), axis=0 if ops.asarray(tup[0]).ndim <= 1 else 1),
    "shape": lambda a: a.shape,
    "ndim": lambda a: a.ndim,
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "dot": _dot,
    "trace": _trace,
    "round": lambda a, decimals=0: ops.round(a) if decimals == 0 else ops.round(a * 10.0**decimals) / 10.0**decimals,
    "clip": lambda a, a_min=None, a_max=None, **kw: ops.clip(a, kw.get("min", a_min), kw.get("max", a_max)),
}


def ufunc(called: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``Tensor.__array_ufunc__``: a ufunc met a tensor."""
    out = kwargs.pop("out", None)
    if out is None and not kwargs and method == "__call__":
        found = getattr(ops, RENAMED.get(called.__name__, called.__name__), None)
        if found is not None:
            return found(*inputs)
    if out is None and method == "reduce" and called.__name__ in REDUCTIONS:
        axis = kwargs.pop("axis", 0)
        return getattr(ops, REDUCTIONS[called.__name__])(inputs[0], axis, **kwargs)
    if out is not None:
        kwargs["out"] = tuple(_array(o, f"numpy.{called.__name__}: out") for o in out)
    plain = [_array(x, f"numpy.{called.__name__}") for x in inputs]
    result = getattr(called, method)(*plain, **kwargs)
    for changed in (*(out or ()), *(inputs[:1] if method == "at" else ())):
        if isinstance(changed, tape.TensorBase):
            tape.mark_changed(changed)
    return (out[0] if len(out) == 1 else out) if out is not None else _wrapped(result, ())


def function(called: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
    """``Tensor.__array_function__``: any other NumPy function met a tensor."""
    name = called.__name__
    space = ops.linalg if getattr(called, "__module__", "") == "numpy.linalg" else ops
    found = FUNCTIONS.get(name) if space is ops else None
    renamed = RENAMED.get(name, name)
    found = found or getattr(space, renamed, None) or getattr(ops.linalg, renamed, None)
    if found is not None and kwargs.get("out") is None:
        kwargs.pop("out", None)
        return found(*args, **kwargs)
    who = f"{getattr(called, '__module__', 'numpy')}.{name}"
    lent: list[Any] = []
    result = called(*_unwrap(args, who, lent), **_unwrap(kwargs, who, lent))
    if name in WRITERS and args and isinstance(args[0], tape.TensorBase):
        tape.mark_changed(args[0])
    return _wrapped(result, lent)


def namespace(api_version: str | None) -> Any:
    """``Tensor.__array_namespace__``: the package, which is an array API namespace."""
    if api_version is not None and api_version not in VERSIONS:
        raise ValueError(f"__array_namespace__: api_version is {api_version!r}, needs one of {', '.join(VERSIONS)}")
    return sys.modules["minigrad"]


def _array(value: Any, who: str) -> Any:
    """The array behind a tensor that does not require grad."""
    if not isinstance(value, tape.TensorBase):
        return value
    if value.requires_grad and tape.is_recording():
        raise GradError(
            f"{who}: minigrad has no derivative for this NumPy function, and a tensor that requires grad would lose "
            "its graph. Call t.detach(), or write it with minigrad's ops"
        )
    return value._array


def _unwrap(value: Any, who: str, lent: list[Any]) -> Any:
    """Arrays in the place of tensors, inside the containers that NumPy functions take; `lent` collects the arrays."""
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(v, who, lent) for v in value)
    if isinstance(value, dict):
        return {k: _unwrap(v, who, lent) for k, v in value.items()}
    array = _array(value, who)
    if array is not value:
        lent.append(array)
    return array


def _wrapped(value: Any, lent: Sequence[Any]) -> Any:
    """Tensors in the place of the arrays that a NumPy function gave; a view of a tensor's memory becomes a copy."""
    if isinstance(value, (list, tuple)):
        parts = [_wrapped(v, lent) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    return ops.asarray(value, copy=any(np.may_share_memory(value, array) for array in lent) or None)

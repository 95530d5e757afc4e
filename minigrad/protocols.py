"""NumPy's protocols: ``np.sin(t)`` and ``np.concatenate([t, a])`` call minigrad's ops and keep the graph.

A NumPy function that minigrad does not have works on tensors that do not require grad, through their arrays; on one
that does it raises, since its result would have no history.
"""

from __future__ import annotations

import math
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
    "around": "round",
    "concatenate": "concat",
    "amax": "max",
    "amin": "min",
}

# functions that write into their first argument
WRITERS = {"copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask"}
TARGETS = ("dst", "arr", "a")  # what they call it

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


def _cast(a: Any, dtype: Any) -> Any:
    return a if dtype is None else ops.astype(a, dtype)


def _variance(name: str) -> Callable[..., Any]:
    def call(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: None = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        correction: float | None = None,
    ) -> Any:
        spread = ddof if correction is None else correction
        return _unless(out, getattr(ops, name), _cast(a, dtype), axis, correction=spread, keepdims=keepdims)

    return call


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False) -> Any:
    return _unless(out, ops.mean, _cast(a, dtype), axis, keepdims=keepdims)


def _sum(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False) -> Any:
        return _unless(out, getattr(ops, name), a, axis, dtype=dtype, keepdims=keepdims)

    return call


def _reduction(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        return _unless(out, getattr(ops, name), a, axis, keepdims=keepdims)

    return call


def _cumulative(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Any:
        flat = axis is None
        return _unless(
            out, getattr(ops, name), ops.reshape(a, -1) if flat else a, axis=0 if flat else axis, dtype=dtype
        )

    return call


def _like(name: str) -> Callable[..., Any]:
    def call(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Any:
        return getattr(ops, name)(a.shape if shape is None else shape, dtype=dtype or a.dtype)

    return call


def _unless(out: Any, found: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The call, unless the result is wanted in memory that exists already."""
    return found(*args, **kwargs) if out is None else NotImplemented


def _full_like(a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True) -> Any:
    return ops.full_like(a, fill_value, dtype=dtype)


def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return ops.copy(a)


def _reshape(a: Any, shape: Any, order: str = "C", *, copy: bool | None = None) -> Any:
    return ops.reshape(a, shape, copy=copy) if order == "C" else NotImplemented


def _ravel(a: Any, order: str = "C") -> Any:
    return _reshape(a, -1, order)


def _squeeze(a: Any, axis: Any = None) -> Any:
    return a.squeeze(axis)


def _take(a: Any, indices: Any, axis: int | None = None) -> Any:
    return ops.take(ops.reshape(a, -1) if axis is None else a, ops.asarray(indices), axis=axis or 0)


def _concat(arrays: Any, axis: int | None = 0) -> Any:
    return ops.concat(arrays, axis=axis)


def _stack(arrays: Any, axis: int = 0) -> Any:
    return ops.stack(arrays, axis=axis)


def _vstack(tup: Any) -> Any:
    return ops.concat([t if t.ndim > 1 else ops.reshape(t, (1, -1)) for t in map(ops.asarray, tup)], axis=0)


def _hstack(tup: Any) -> Any:
    tensors = [t if t.ndim else ops.reshape(t, -1) for t in map(ops.asarray, tup)]
    return ops.concat(tensors, axis=0 if tensors[0].ndim == 1 else 1)


def _dot(a: Any, b: Any) -> Any:
    a, b = ops.asarray(a), ops.asarray(b)
    if not a.ndim or not b.ndim:
        return ops.multiply(a, b)
    return ops.matmul(a, b) if b.ndim <= 2 else ops.tensordot(a, b, axes=((-1,), (-2,)))


def _outer(a: Any, b: Any) -> Any:
    return ops.outer(ops.reshape(ops.asarray(a), -1), ops.reshape(ops.asarray(b), -1))


def _einsum(subscripts: Any, *operands: Any, optimize: Any = False) -> Any:
    return ops.einsum(subscripts, *operands)


def _trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Any:
    return ops.linalg.trace(ops.moveaxis(a, (axis1, axis2), (-2, -1)), offset=offset, dtype=dtype)


def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    a = ops.asarray(a)

    def end(value: Any) -> Any:
        value = None if value is None else ops.asarray(value)
        if value is None or value.ndim:
            return value
        extents = list(a.shape)
        extents[axis] = 1
        return ops.broadcast_to(value, tuple(extents))

    return ops.diff(a, axis, n, prepend=end(prepend), append=end(append))


def _order(name: str) -> Callable[..., Any]:
    def call(a: Any, axis: int | None = -1, kind: Any = None, *, stable: Any = None) -> Any:
        return getattr(ops, name)(ops.reshape(a, -1) if axis is None else a, axis=-1 if axis is None else axis)

    return call


def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    return ops.searchsorted(ops.asarray(a), ops.asarray(v), sorter, side=side)


def _where(condition: Any, *choices: Any) -> Any:
    return ops.where(condition, *choices) if choices else ops.nonzero(condition)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: None = None, *, min: Any = None, max: Any = None) -> Any:
    return _unless(out, ops.clip, a, a_min if min is None else min, a_max if max is None else max)


def _size(a: Any, axis: Any = None) -> int:
    if axis is None:
        return int(a.size)
    return math.prod(a.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    return ops.linalg.svd(a, full_matrices=full_matrices) if compute_uv else ops.linalg.svdvals(a)


def _pinv(a: Any, rcond: Any = None, *, rtol: Any = None) -> Any:
    return ops.linalg.pinv(a, rtol=rcond if rtol is None else rtol)


# functions whose NumPy signature is another one than minigrad's; where one answers NotImplemented, NumPy computes
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "transpose": _transpose,
    "var": _variance("var"),
    "std": _variance("std"),
    "mean": _mean,
    "sum": _sum("sum"),
    "prod": _sum("prod"),
    "max": _reduction("max"),
    "min": _reduction("min"),
    "any": _reduction("any"),
    "all": _reduction("all"),
    "argmax": _reduction("argmax"),
    "argmin": _reduction("argmin"),
    "cumsum": _cumulative("cumulative_sum"),
    "cumprod": _cumulative("cumulative_prod"),
    "zeros_like": _like("zeros"),
    "ones_like": _like("ones"),
    "empty_like": _like("empty"),
    "full_like": _full_like,
    "copy": _copy,
    "reshape": _reshape,
    "ravel": _ravel,
    "squeeze": _squeeze,
    "take": _take,
    "concat": _concat,
    "stack": _stack,
    "vstack": _vstack,
    "hstack": _hstack,
    "dot": _dot,
    "outer": _outer,
    "einsum": _einsum,
    "trace": _trace,
    "tril": lambda m, k=0: ops.tril(m, k=k),
    "triu": lambda m, k=0: ops.triu(m, k=k),
    "diff": _diff,
    "sort": _order("sort"),
    "argsort": _order("argsort"),
    "searchsorted": _searchsorted,
    "where": _where,
    "clip": _clip,
    "shape": lambda a: a.shape,
    "ndim": lambda a: a.ndim,
    "size": _size,
    "linspace": lambda *args, **kwargs: NotImplemented,  # NumPy's takes arrays as ends, and their dtype
}

LINALG: dict[str, Callable[..., Any]] = {"svd": _svd, "pinv": _pinv}


def ufunc(called: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``Tensor.__array_ufunc__``: a ufunc met a tensor."""
    out = kwargs.pop("out", None)
    who, found = f"numpy.{called.__name__}", None
    if method == "__call__":
        found = getattr(ops, RENAMED.get(called.__name__, called.__name__), None)
    elif method == "reduce" and called.__name__ in REDUCTIONS:
        found = FUNCTIONS[REDUCTIONS[called.__name__]]
        kwargs.setdefault("axis", 0 if getattr(inputs[0], "ndim", 1) else None)
    if found is not None and out is None:
        result = _attempt(found, inputs, kwargs)
        if result is not NotImplemented:
            return result
    refusal = _refusal(who, found, kwargs)
    lent: list[Any] = []
    plain, options = _unwrap(inputs, refusal, lent), _unwrap(kwargs, refusal, lent)
    if out is not None:
        options["out"] = tuple(_array(o, f"{who}: out is a tensor that requires grad") for o in out)
    elif "where" in options:
        options["out"] = None  # on purpose: NumPy warns of unset elements where it is left out
    result = getattr(called, method)(*plain, **options)
    for changed in (*(out or ()), *(inputs[:1] if method == "at" else ())):
        if isinstance(changed, tape.TensorBase):
            tape.mark_changed(changed)
    return (out[0] if len(out) == 1 else out) if out is not None else _wrapped(result, lent)


def function(called: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
    """``Tensor.__array_function__``: any other NumPy function met a tensor."""
    module, name = getattr(called, "__module__", "numpy"), called.__name__
    renamed = RENAMED.get(name, name)
    space, own = (ops.linalg, LINALG) if module == "numpy.linalg" else (ops, FUNCTIONS)
    found = own.get(renamed) or getattr(space, renamed, None) or getattr(ops.linalg, renamed, None)
    if name in WRITERS:
        found = None
    out = kwargs.get("out")
    if found is not None and out is None:
        kwargs.pop("out", None)
        result = _attempt(found, args, kwargs)
        if result is not NotImplemented:
            return result
    refusal = _refusal(f"{module}.{name}", found, kwargs)
    lent: list[Any] = []
    result = called(*_unwrap(args, refusal, lent), **_unwrap(kwargs, refusal, lent))
    changed = out if name not in WRITERS else args[0] if args else next(kwargs[k] for k in TARGETS if k in kwargs)
    if isinstance(changed, tape.TensorBase):
        tape.mark_changed(changed)
    return out if out is not None else _wrapped(result, lent)


def _attempt(found: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What minigrad's function answers; NotImplemented where it has no such arguments."""
    try:
        return found(*args, **kwargs)
    except TypeError:
        import inspect  # slow to import, and needed here alone

        try:
            inspect.signature(found).bind(*args, **kwargs)
        except TypeError:
            return NotImplemented
        raise


def _refusal(who: str, found: Callable[..., Any] | None, kwargs: dict[str, Any]) -> str:
    """Why the array of a tensor that requires grad is not handed to a NumPy function."""
    if found is None:
        return f"{who}: minigrad has no derivative for this NumPy function"
    import inspect

    known = inspect.signature(found).parameters
    named = [f"{key}=" for key in kwargs if key not in known] or [f"{key}=" for key in kwargs] or ["these arguments"]
    return f"{who}: minigrad has no derivative for this NumPy function with {', '.join(named)}"


def namespace(api_version: str | None) -> Any:
    """``Tensor.__array_namespace__``: the package, which is an array API namespace."""
    if api_version is not None and api_version not in VERSIONS:
        raise ValueError(f"__array_namespace__: api_version is {api_version!r}, needs one of {', '.join(VERSIONS)}")
    return sys.modules["minigrad"]


def _array(value: Any, refusal: str) -> Any:
    """The array behind a tensor that does not require grad."""
    if not isinstance(value, tape.TensorBase):
        return value
    if value.requires_grad and tape.is_recording():
        raise GradError(
            f"{refusal}, and a tensor that requires grad would lose its graph. Call t.detach(), or write it with "
            "minigrad's ops"
        )
    return value._array


def _unwrap(value: Any, refusal: str, lent: list[Any]) -> Any:
    """Arrays in the place of tensors, inside the containers that NumPy functions take; `lent` collects the arrays."""
    if isinstance(value, (list, tuple)):
        parts = [_unwrap(v, refusal, lent) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {k: _unwrap(v, refusal, lent) for k, v in value.items()}
    array = _array(value, refusal)
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

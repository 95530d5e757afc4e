"""softmax, log_softmax and logsumexp on the GPU: one kernel each, forward and backward, for half types too.

Rows along the last axis are read once where a block can hold them in registers (8192 elements), else a second time.
Another axis is moved to the end before, and back after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.rows import FLOATS, NULL, fits, in_order, launch, with_last
from minigrad.ops.softmax import log_softmax, logsumexp, softmax

__all__ = ["backward", "forward", "reduce", "reduce_vjp"]

Array = Any
FEW, LONG = 32, 2**16  # so few rows that are so long are left to the generic body: a block works on one


def axes_of(x: Array, axis: Any) -> tuple[int, ...] | None:
    """The axes that are reduced, ascending; None where they are left to the generic body."""
    axes = range(x.ndim) if axis is None else (axis,) if type(axis) is int else axis
    if not isinstance(axes, (tuple, range)) or not all(type(a) is int and -x.ndim <= a < x.ndim for a in axes):
        return None
    found = tuple(sorted({a % x.ndim for a in axes}))
    n = int(np.prod([x.shape[a] for a in found]))
    few = n > LONG and x.size < FEW * n
    return None if not found or len(found) < len(axes) or x.size == 0 or few else found


def back(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Undo `with_last`: an array of `shape`."""
    order = tuple(i for i in range(len(shape)) if i not in axes) + axes
    return x.reshape([shape[i] for i in order]).transpose(np.argsort(order).tolist())


def forward(name: str) -> Callable[..., Any]:
    """The kernel of softmax or log_softmax."""

    def run(x: Array, *, axis: int) -> Any:
        axes = axes_of(x, axis)
        if axes is None:
            return NotImplemented
        rows = with_last(x, axes)
        n = rows.shape[-1]
        out = cupy.empty(rows.shape, x.dtype)
        factor = (NULL,) if name == "softmax" else ()
        numbers = np.int64(x.size // n), np.int64(n)
        launch("softmax", f"{name}_{x.dtype.name}", n, x.size // n, rows, *factor, out, *numbers)
        return back(out, axes, x.shape)

    return run


def backward(name: str) -> Callable[..., Any]:
    """The kernel of its rule."""

    def run(g: Array, out: Array, *, axis: int) -> Any:
        axes = axes_of(out, axis)
        if axes is None or g.shape != out.shape or not fits(g.dtype, out):
            return NotImplemented
        given, made = with_last(g, axes), with_last(out, axes)
        n = made.shape[-1]
        dx = cupy.empty(made.shape, out.dtype)
        numbers = np.int64(out.size // n), np.int64(n)
        launch("softmax", f"{name}_vjp_{out.dtype.name}", n, out.size // n, given, made, dx, *numbers)
        return back(dx, axes, out.shape)

    return run


def reduce(x: Array, *, axis: Any, keepdims: bool) -> Any:
    """The kernel of logsumexp."""
    axes = axes_of(x, axis)
    if axes is None:
        return NotImplemented
    rows = with_last(x, axes)
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keepdims or i not in axes]
    out = cupy.empty(shape, x.dtype)
    n = x.size // out.size
    launch("softmax", f"logsumexp_{x.dtype.name}", n, out.size, rows, out, np.int64(out.size), np.int64(n))
    return out


def reduce_vjp(g: Array, x: Array, *, axis: Any, keepdims: bool) -> Any:
    """The kernel of its rule: the softmax of each row, times its cotangent."""
    axes = axes_of(x, axis)
    if axes is None or not fits(g.dtype, x):
        return NotImplemented
    rows = with_last(x, axes)
    n = x.size // g.size
    dx = cupy.empty(rows.shape, x.dtype)
    numbers = np.int64(g.size), np.int64(n)
    launch("softmax", f"softmax_{x.dtype.name}", n, g.size, rows, in_order(g), dx, *numbers)
    return back(dx, axes, x.shape)


for _op in (softmax, log_softmax):
    _op.kernel("cuda", *FLOATS)(forward(_op.name))
    _op.kernel("cuda", *FLOATS, vjp=0)(backward(_op.name))
logsumexp.kernel("cuda", *FLOATS)(reduce)
logsumexp.kernel("cuda", *FLOATS, vjp=0)(reduce_vjp)

"""softmax, log_softmax and logsumexp on the GPU: one kernel each, forward and backward, for half types too.

Rows along the last axis are read once where a block can hold them in registers (8192 elements), else a second time.
Along another axis neighbouring columns are taken together; where there are too few of them, the axis is moved to the
end before, and back after.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.rows import FLOATS, NULL, fits, in_order, launch, with_last
from minigrad.ops.softmax import log_softmax, logsumexp, softmax

__all__ = ["backward", "forward", "reduce", "reduce_vjp"]

Array = Any
FEW, LONG = 32, 2**16  # so few rows that are so long are left to the generic body: a block works on one
WIDTH, BLOCKS, SHORT = 16, 128, 1024  # neighbours that columns have at least; blocks, or how long they are at most


def axes_of(x: Array, axis: Any) -> tuple[int, ...] | None:
    """The axes that are reduced, ascending; None where they are left to the generic body."""
    axes = range(x.ndim) if axis is None else (axis,) if type(axis) is int else axis
    if not isinstance(axes, (tuple, range)) or not all(type(a) is int and -x.ndim <= a < x.ndim for a in axes):
        return None
    found = tuple(sorted({a % x.ndim for a in axes}))
    n = math.prod(x.shape[a] for a in found)
    few = n > LONG and x.size < FEW * n
    return None if not found or len(found) < len(axes) or x.size == 0 or few else found


def columns_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """The shape (outer, n, inner) that makes columns of the axes, where these are worth it."""
    first, last = axes[0], axes[-1] + 1
    outer, n, inner = (math.prod(part) for part in (shape[:first], shape[first:last], shape[last:]))
    many = n <= SHORT or outer * -(-inner // 32) >= BLOCKS
    return (outer, n, inner) if last - first == len(axes) and inner >= WIDTH and many else None


def back(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Undo `with_last`: an array of `shape`."""
    order = tuple(i for i in range(len(shape)) if i not in axes) + axes
    return x.reshape([shape[i] for i in order]).transpose(np.argsort(order).tolist())


def run(name: str, axes: tuple[int, ...], *arrays: Array, factor: Any = None, out: Array | None = None) -> Array:
    """The result of a kernel along axes: written to `out`, one number a row, or of the shape of the arrays.

    `factor` is an array with a number for each row, or the null pointer.
    """
    shape, dtype = arrays[0].shape, arrays[0].dtype
    factors = () if factor is None else (factor,)
    columns = columns_of(shape, axes)
    if columns is None:
        given = [with_last(a, axes) for a in arrays]
        n = math.prod(shape[a] for a in axes)
        rows = arrays[0].size // n
        made = cupy.empty(given[0].shape, dtype) if out is None else out
        launch("softmax", f"{name}_{dtype.name}", n, rows, *given, *factors, made, np.int64(rows), np.int64(n))
        return back(made, axes, shape) if out is None else out
    outer, n, inner = columns
    made = cupy.empty(shape, dtype) if out is None else out
    grid, block = (outer * -(-inner // 32),), (32, 8 if n <= 64 else 32)
    arguments = *map(in_order, arrays), *factors, made, np.int64(n), np.int64(inner)
    kernel("softmax_columns", f"{name}_{dtype.name}")(grid, block, arguments, shared_mem=8 * 32 * block[1])
    return made


def forward(name: str) -> Callable[..., Any]:
    """The kernel of softmax or log_softmax."""

    def call(x: Array, *, axis: int) -> Any:
        axes = axes_of(x, axis)
        return NotImplemented if axes is None else run(name, axes, x, factor=NULL if name == "softmax" else None)

    return call


def backward(name: str) -> Callable[..., Any]:
    """The kernel of its rule."""

    def call(g: Array, out: Array, *, axis: int) -> Any:
        axes = axes_of(out, axis)
        if axes is None or g.shape != out.shape or not fits(g.dtype, out):
            return NotImplemented
        return run(f"{name}_vjp", axes, g, out)

    return call


def reduce(x: Array, *, axis: Any, keepdims: bool) -> Any:
    """The kernel of logsumexp."""
    axes = axes_of(x, axis)
    if axes is None:
        return NotImplemented
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keepdims or i not in axes]
    return run("logsumexp", axes, x, out=cupy.empty(shape, x.dtype))


def reduce_vjp(g: Array, x: Array, *, axis: Any, keepdims: bool) -> Any:
    """The kernel of its rule: the softmax of each row, times its cotangent."""
    axes = axes_of(x, axis)
    if axes is None or not fits(g.dtype, x):
        return NotImplemented
    return run("softmax", axes, x, factor=in_order(g))


for _op in (softmax, log_softmax):
    _op.kernel("cuda", *FLOATS)(forward(_op.name))
    _op.kernel("cuda", *FLOATS, vjp=0)(backward(_op.name))
logsumexp.kernel("cuda", *FLOATS)(reduce)
logsumexp.kernel("cuda", *FLOATS, vjp=0)(reduce_vjp)

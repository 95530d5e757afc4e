"""layer_norm and rms_norm on the GPU: one kernel forward; one backward, and one that folds what its blocks added up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.rows import FLOATS, NULL, THREADS, fits, in_order, launch, shaped, threads_for, wide
from minigrad.ops.normalization import layer_norm, rms_norm

__all__ = ["backward", "forward"]

Array = Any
EACH = 8  # rows that a group of threads takes at least: the sums it leaves behind cost as much as half a row
GROUPS = 264 * THREADS  # threads that are worth starting: two blocks on each of 132 multiprocessors


def size_of(x: Array, axis: Any, *scales: Array | None) -> int | None:
    """How many elements are normalized together; None where the arguments are left to the generic body."""
    axes = (axis,) if type(axis) is int else axis
    if not isinstance(axes, tuple) or not all(type(a) is int for a in axes) or not 0 < len(axes) <= x.ndim:
        return None
    if sorted(a + x.ndim if a < 0 else a for a in axes) != list(range(x.ndim - len(axes), x.ndim)) or x.size == 0:
        return None
    features = x.shape[x.ndim - len(axes) :]
    if not fits(x.dtype, *scales) or any(s is not None and s.shape != features for s in scales):
        return None
    return int(np.prod(features))


def forward(name: str) -> Callable[..., Any]:
    """The kernel of one of the ops."""

    def run(x: Array, *scales: Array | None, eps: float, axis: Any) -> Any:
        n = size_of(x, axis, *scales)
        if n is None:
            return NotImplemented
        out = cupy.empty(x.shape, x.dtype)
        arrays = *map(in_order, (x, *scales)), out
        numbers = np.int64(x.size // n), np.int64(n), wide(x.dtype).type(eps)
        launch("normalization", f"{name}_{x.dtype.name}", n, x.size // n, *arrays, *numbers)
        return out

    return run


def backward(name: str) -> Callable[..., Any]:
    """The kernel of its rule. The gradient of the bias comes with it: the sum over the rows of the cotangent.

    That of x is added to the first of `into`, where there is one: what came along the path around a block.
    """

    def run(
        g: Array, x: Array, weight: Array | None, *, eps: float, axis: Any, into: list[Array | None] | None = None
    ) -> Any:
        n = size_of(x, axis, weight)
        if n is None or g.shape != x.shape or not fits(g.dtype, x):
            return NotImplemented
        rows, dtype = x.size // n, wide(x.dtype)
        slots = max(min(-(-rows // EACH), GROUPS // threads_for(n)), 1)
        wanted = (weight is not None, True) if name == "layer_norm" else (weight is not None,)
        parts = [cupy.empty((slots, n), dtype) if needed else NULL for needed in wanted]
        room = into[0] if into else None
        adds = room is not None and fits(x.dtype, room) and room.shape == x.shape and room.flags.c_contiguous
        dx = room if adds else cupy.empty(x.shape, x.dtype)
        numbers = np.int64(rows), np.int64(n), np.int64(slots), dtype.type(eps), np.bool_(adds)
        arrays = in_order(g), in_order(x), in_order(weight), dx, *parts
        launch("normalization", f"{name}_vjp_{x.dtype.name}", n, slots, *arrays, *numbers)
        features = x.shape[x.ndim - (1 if type(axis) is int else len(axis)) :]
        return dx, *(shaped(columns(part, x.dtype), features) if part is not NULL else None for part in parts)

    return run


def columns(parts: Array, dtype: Any) -> Array:
    """The sum over the first axis."""
    rows, n = parts.shape
    out = cupy.empty(n, dtype)
    grid, block, shared = (-(-n // 32),), (32, min(rows, 32)), 32 * min(rows, 32) * parts.dtype.itemsize
    kernel("normalization", f"add_columns_{dtype.name}")(
        grid, block, (parts, out, np.int64(rows), np.int64(n)), shared_mem=shared
    )
    return out


for _op in (layer_norm, rms_norm):
    _op.kernel("cuda", *FLOATS)(forward(_op.name))
    _op.kernel("cuda", *FLOATS, vjp=-1, into=True)(backward(_op.name))

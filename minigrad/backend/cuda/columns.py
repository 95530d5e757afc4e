"""Sums of columns: the gradients of the biases of linear and linear_relu."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.chunks import FLOATS, THREADS, in_order
from minigrad.backend.cuda.modules import kernel
from minigrad.ops.matmul import linear, linear_relu

__all__ = ["column_sums"]

Array = Any

BLOCKS = 1024  # that a sum of columns is cut into, as far as there are rows
LEAST_ROWS = 64  # of a part
PARTS = 2**15  # at most: a grid has no more than 65535 blocks across


def are_aligned(*arrays: Array) -> bool:
    """Whether arrays begin at multiples of 16 bytes."""
    return all(x.data.ptr % 16 == 0 for x in arrays)


def column_sums(g: Array, y: Array | None = None) -> Array:
    """The sums over all axes but the last, of what relu lets through where `y` is its result.

    The parts that are summed first depend on the shape alone, and so do the bits of the result. Half types are summed
    in float32.
    """
    n = g.shape[-1]
    rows = g.size // max(1, n)
    if not g.size:
        return cupy.zeros(n, g.dtype)
    given = [in_order(g)] if y is None else [in_order(g), in_order(y)]
    wide = (n * g.itemsize) % 16 == 0 and are_aligned(*given)
    tiles = ((n * g.itemsize // 16 if wide else n) + 31) // 32
    parts = min(max(1, BLOCKS * 128 // n), (rows + LEAST_ROWS - 1) // LEAST_ROWS, PARTS)
    each = (rows + parts - 1) // parts
    parts = (rows + each - 1) // each
    sums = cupy.empty((parts, n), np.float64 if g.dtype == np.float64 else np.float32)
    pair = (*given, np.intp(0))[:2]
    numbers = np.int64(rows), np.int64(n), np.int64(each), np.bool_(wide)
    kernel("columns", f"sums_{g.dtype}")((tiles, parts), (THREADS,), (*pair, sums, *numbers))
    out = cupy.empty(n, g.dtype)
    grid = ((n + 31) // 32,)
    kernel("columns", f"total_{g.dtype}")(grid, (THREADS,), (sums, out, np.int64(parts), np.int64(n)))
    return out


linear.kernel("cuda", *FLOATS, vjp=2)(column_sums)
linear_relu.kernel("cuda", *FLOATS, vjp=2)(column_sums)

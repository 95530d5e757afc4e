"""What stands beside the products of linear and linear_relu: relu, its mask, and the sums of columns."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel

__all__ = ["column_sums", "gated", "rectify"]

Array = Any

THREADS = 256
BLOCKS = 1024  # that a sum of columns is cut into, as far as there are rows
LEAST_ROWS = 64  # of a part


def whole(x: Array) -> Array:
    """`x` in C order."""
    return x if x.flags.c_contiguous else cupy.ascontiguousarray(x)


def are_aligned(*arrays: Array) -> bool:
    """Whether arrays begin at multiples of 16 bytes."""
    return all(x.data.ptr % 16 == 0 for x in arrays)


def launch(name: str, arrays: tuple[Array, ...]) -> None:
    """Call an elementwise kernel, a thread for 16 bytes."""
    x = arrays[0]
    each = THREADS * (16 // x.itemsize)
    if x.size:
        grid, tail = (x.size + each - 1) // each, (np.int64(x.size), np.bool_(are_aligned(*arrays)))
        kernel("affine", f"{name}_{x.dtype}")((grid,), (THREADS,), (*arrays, *tail))


def rectify(x: Array) -> None:
    """``x = relu(x)``, in place, for an array in C order."""
    launch("rectify", (x,))


def gated(g: Array, y: Array) -> Array:
    """The cotangent of relu's argument: `g` where its result `y` is above 0, else 0."""
    out = cupy.empty(g.shape, g.dtype)
    launch("gate", (whole(g), whole(y), out))
    return out


def column_sums(g: Array, y: Array | None = None) -> Array:
    """The sums over all axes but the last, of what relu lets through where `y` is its result.

    The parts that are summed first depend on the shape alone, and so do the bits of the result. Half types are summed
    in float32.
    """
    n = g.shape[-1]
    rows = g.size // max(1, n)
    if not g.size:
        return cupy.zeros(n, g.dtype)
    given = [whole(g)] if y is None else [whole(g), whole(y)]
    wide = (n * g.itemsize) % 16 == 0 and are_aligned(*given)
    tiles = ((n * g.itemsize // 16 if wide else n) + 31) // 32
    parts = min(max(1, BLOCKS * 128 // n), (rows + LEAST_ROWS - 1) // LEAST_ROWS)
    each = (rows + parts - 1) // parts
    parts = (rows + each - 1) // each
    sums = cupy.empty((parts, n), np.float64 if g.dtype == np.float64 else np.float32)
    pair = (*given, np.intp(0))[:2]
    numbers = np.int64(rows), np.int64(n), np.int64(each), np.bool_(wide)
    kernel("affine", f"sums_{g.dtype}")((tiles, parts), (THREADS,), (*pair, sums, *numbers))
    out = cupy.empty(n, g.dtype)
    grid = ((n + 31) // 32,)
    kernel("affine", f"total_{g.dtype}")(grid, (THREADS,), (sums, out, np.int64(parts), np.int64(n)))
    return out

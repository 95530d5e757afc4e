"""Launches of kernels that work on the rows of a matrix, as packs.cuh has them: a row has the threads that it needs."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.modules import kernel

__all__ = [
    "FLOATS", "NULL", "SCRATCH", "fits", "in_order", "launch", "run", "shaped", "threads_for", "wide", "with_last",
]  # fmt: skip

Array = Any

FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)
NULL = np.uint64(0)  # the pointer of an array that is not given
HELD, THREADS = 8, 1024  # those of packs.cuh
BLOCK = 128  # threads of a block that has a warp for each of its rows
SCRATCH = 32 * 8  # bytes of shared memory that sums over a block take


def threads_for(n: int) -> int:
    """How many threads share a row of n elements."""
    return min(max(1 << ((n - 1) // HELD).bit_length(), 32), THREADS)


def launch(source: str, name: str, n: int, groups: int, *arguments: Any) -> None:
    """Run a kernel on rows of n elements, by so many groups of threads as are asked for: one a row, as a rule.

    Rows that are too long for the registers have a kernel of their own.
    """
    run(source, name + ("_long" if n > HELD * THREADS else ""), n, groups, *arguments)


def run(source: str, name: str, n: int, groups: int, *arguments: Any) -> None:
    """The same of one kernel for rows of any length."""
    threads = threads_for(n)
    together = BLOCK // 32 if threads == 32 else 1
    kernel(source, name)((-(-groups // together),), (threads, together), arguments, shared_mem=SCRATCH)


def wide(dtype: Any) -> Any:
    """What numbers of a dtype are summed in."""
    return dtypes.float64 if dtype == dtypes.float64 else dtypes.float32


def fits(dtype: Any, *arrays: Array | None) -> bool:
    """Whether all that are given have the dtype."""
    return all(a is None or (isinstance(a, cupy.ndarray) and a.dtype == dtype) for a in arrays)


def shaped(x: Array, shape: tuple[int, ...]) -> Array:
    """`x` in another shape; itself where it has that: a view is not kept as a gradient, but copied."""
    return x if x.shape == shape else x.reshape(shape)


def in_order(x: Array | None) -> Array:
    """`x` in C order, for a kernel; the null pointer for None."""
    return NULL if x is None else cupy.ascontiguousarray(x)


def with_last(x: Array, axes: tuple[int, ...]) -> Array:
    """`x` with some axes moved to the end, in C order."""
    others = tuple(i for i in range(x.ndim) if i not in axes)
    return cupy.ascontiguousarray(x.transpose(others + axes))

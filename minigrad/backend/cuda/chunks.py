"""How launchers of chunks.cuh share arrays among threads: 16 bytes of an array in one piece a thread."""

from __future__ import annotations

from typing import Any

import cupy

from minigrad import dtypes
from minigrad.backend.cuda.modules import kernel

__all__ = ["FLOATS", "THREADS", "in_order", "launch", "teams"]

Array = Any
FLOATS = (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64)
THREADS = 256


def in_order(x: Array) -> Array:
    """The array, or a copy in C order."""
    return x if x.flags.c_contiguous else cupy.ascontiguousarray(x)


def launch(source: str, name: str, n: int, per_thread: int, *arguments: Any) -> None:
    """Run a kernel on `n` elements, of which a thread takes so many in a row; on none it is not run."""
    if n:
        blocks = -(-n // (per_thread * THREADS))
        kernel(source, name)((blocks,), (THREADS,), arguments)


def teams(units: int) -> int:
    """How many threads share a row of so many units."""
    return min(THREADS, 1 << (units - 1).bit_length())

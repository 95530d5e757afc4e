"""Tables of arrays in the memory of a GPU, so that one launch works on many of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad.backend.cuda import capture

__all__ = ["Table", "is_capturing", "table", "uploaded"]

Array = Any
CHUNK, THREADS = 4096, 256  # those of tables.cuh


class Table(NamedTuple):
    """What a kernel is told of many arrays."""

    array: Array  # where the chunks of each row end, then the rows
    rows: int
    chunks: int  # one block works on each
    ends: Array  # the first of the two alone, on the CPU


def table(rows: Sequence[Sequence[int]], sizes: Iterable[int]) -> Table:
    """Rows of numbers of 8 bytes, such as addresses, for arrays of so many elements."""
    ends = np.cumsum([(n + CHUNK - 1) // CHUNK for n in sizes], dtype=np.int64)
    values = np.concatenate([ends, np.array(rows, np.int64).reshape(-1)])
    return Table(uploaded(values), len(rows), int(ends[-1]) if len(ends) else 0, ends)


def is_capturing() -> bool:
    """Whether launches are recorded into a graph instead of run."""
    return capture.offset() is not None


def uploaded(values: np.ndarray[Any, Any]) -> Array:
    """A copy of int64 or float64 numbers on the GPU, for reading: the one that this stream made before, if it did."""
    if is_capturing():
        return capture.constant(values)
    place = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr
    return _kept(values.tobytes(), values.dtype, place)


@lru_cache(maxsize=512)
def _kept(data: bytes, dtype: Any, place: tuple[int, int]) -> Array:
    return cupy.asarray(np.frombuffer(data, dtype))

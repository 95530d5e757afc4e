"""Random numbers on the GPU: those of `minigrad._core.philox`, bit for bit, with the functions of `backend.random`."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda import capture
from minigrad.backend.cuda.chunks import launch

__all__ = ["below", "hits", "keep_mask", "offset", "reals", "threshold"]

Array = Any
Key = tuple[int, int]
Shape = tuple[int, ...]
WORD = 1 << 64


def offset() -> Any:
    """What kernels add to a counter: a number on the device while a step is captured, else none."""
    found = capture.offset()
    return np.uint64(0) if found is None else found


def threshold(rate: float) -> Any:
    """The share of 2**32 that a probability is; 1 gives 2**32, which is beyond every word."""
    return np.uint64(int(rate * 2.0**32 + 0.5))


def drawn(name: str, out: Array, per_thread: int, key: Key, *arguments: Any) -> Array:
    """Let a kernel of philox.cu fill an array."""
    seed, counter = key
    launch(
        "philox",
        name,
        out.size,
        per_thread,
        np.uint64(seed),
        np.uint64(counter),
        offset(),
        *arguments,
        np.int64(out.size),
        out,
    )
    return out


def keep_mask(shape: Shape, seed: int, counter: int, rate: float, first: int = 0) -> Array:
    """Bools that are False at a probability of `rate`, each a function of (seed, counter, `first` + its index)."""
    n = math.prod(shape)
    out = cupy.empty(shape, np.bool_)
    # a thread makes a block of four words, of which those before `first` are left over
    numbers = np.uint64(seed), np.uint64(counter), offset(), np.uint64(first), threshold(rate), np.int64(n), out
    launch("philox", "keep_mask", n and n + first % 4, 4, *numbers)
    return out


def reals(
    name: str, shape: Shape, dtype: dtypes.DType, key: Key, scale: float, shift: float = 0.0, limit: float = math.inf
) -> Array:
    """As `backend.random.reals`."""
    out = cupy.empty(shape, dtype)
    numbers = np.float64(scale), np.float64(shift), np.float64(limit)
    return drawn(f"fill_{name}_{dtype.name}", out, 16 // dtype.itemsize, key, *numbers)


def below(shape: Shape, key: Key, low: int, span: int) -> Array:
    """As `backend.random.below`."""
    small = span < 2**32
    numbers = np.uint64(low % WORD), np.uint64(span % WORD)
    out = drawn("fill_below_32" if small else "fill_below_64", cupy.empty(shape, np.uint64), 1 + small, key, *numbers)
    return out.view(np.int64)


def hits(shape: Shape, key: Key, chance: np.ndarray[Any, Any]) -> Array:
    """As `backend.random.hits`."""
    if chance.ndim == 0:
        return ~keep_mask(shape, *key, float(chance))
    words = drawn("fill_bits", cupy.empty(shape, np.uint32), 4, key)
    return words < cupy.asarray(np.floor(chance * 2.0**32 + 0.5))

"""Random numbers on the GPU: those of `minigrad._core.philox`, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel

__all__ = ["keep_mask"]

THREADS = 256


def keep_mask(shape: tuple[int, ...], seed: int, counter: int, rate: float, first: int = 0) -> Any:
    """Bools that are False at a probability of `rate`, each a function of (seed, counter, `first` + its index)."""
    n = math.prod(shape)
    out = cupy.empty(n, np.bool_)
    threshold = int(rate * 2.0**32 + 0.5)  # 2**32 drops all: it is beyond every word
    if n:
        blocks = (n + first % 4 + 3) // 4  # of four words, one a thread
        grid = (blocks + THREADS - 1) // THREADS
        numbers = (np.uint64(seed), np.uint64(counter), np.uint64(first), np.uint64(threshold), np.int64(n))
        kernel("philox", "keep_mask")((grid,), (THREADS,), (*numbers, out))
    return out.reshape(shape)

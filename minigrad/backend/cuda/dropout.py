"""Dropout on the GPU: one kernel forward and backward, and the masks of the CPU, bit for bit."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.chunks import FLOATS, in_order, launch
from minigrad.backend.cuda.philox import offset, threshold
from minigrad.ops import noise

__all__ = ["dropout"]

Array = Any


def dropout(x: Array, *, rate: float, key: noise.Key) -> Array:
    """Zeros at a probability of `rate`, and what is kept scaled so that the mean stays: the op and its rule."""
    seed, counter, first = (*key, 0)[:3]
    x = in_order(x)
    out = cupy.empty(x.shape, x.dtype)
    scale = np.float64(1 / (1 - rate) if rate < 1 else 0.0)
    name, per_thread = f"dropout_{x.dtype.name}", max(4, 16 // x.dtype.itemsize)
    words = threshold(rate), np.uint64(seed), np.uint64(counter), offset(), np.uint64(first)
    launch("dropout", name, x.size, per_thread, x, out, np.int64(x.size), scale, *words)
    return out


noise._dropout.kernel("cuda", *FLOATS)(dropout)
noise._dropout.kernel("cuda", *FLOATS, vjp=0)(dropout)

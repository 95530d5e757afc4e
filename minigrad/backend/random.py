"""Random numbers of the CPU as arrays: what a key, a seed and a counter, draws. Other backends draw the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core import philox

__all__ = ["affine", "below", "fill", "hits", "reals"]

Array = np.ndarray[Any, Any]
Key = tuple[int, int]
Shape = tuple[int, ...]
WORD = 1 << 64


def fill(name: str, shape: Shape, dtype: Any, key: Key, *arguments: float) -> Array:
    """An array from a function of `minigrad._core.philox`, which fills flat memory."""
    out = np.empty(math.prod(shape), dtype)
    getattr(philox, f"fill_{name}")(*key, *arguments, out)
    return out.reshape(shape)


def reals(
    name: str, shape: Shape, dtype: dtypes.DType, key: Key, scale: float, shift: float = 0.0, limit: float = math.inf
) -> Array:
    """``"uniform"``, ``"normal"`` or ``"exponential"`` numbers times `scale` plus `shift`, at most `limit`.

    Each step is rounded: half types are computed in float32, and cut off at `limit` once they are rounded to theirs.
    """
    x = fill(name, shape, dtypes.float32 if dtype in dtypes.HALF else dtype, key)
    x = affine(x, scale, shift, dtype)
    return x if limit == math.inf else np.minimum(x, dtype.type(limit), out=x)


def affine(x: Array, scale: float, shift: float, dtype: dtypes.DType) -> Array:
    """``x * scale + shift`` in its own memory, then in another dtype."""
    if scale != 1.0:
        x *= scale
    if shift != 0.0:
        x += shift
    return x.astype(dtype, copy=False)


def below(shape: Shape, key: Key, low: int, span: int) -> Array:
    """Integers of [low, low + span), span <= 2**64, as int64, modulo 2**64."""
    x = fill("below", shape, np.uint64, key, span % WORD)
    x += np.uint64(low % WORD)
    return x.view(np.int64)


def hits(shape: Shape, key: Key, chance: Array) -> Array:
    """Bools that are True at a probability, or at one for each element, in float64; rounded to multiples of 2**-32."""
    words = fill("bits", shape, np.uint32, key)
    limit = np.floor(chance * 2.0**32 + 0.5)
    return np.asarray(words < (int(limit) if limit.ndim == 0 else limit))

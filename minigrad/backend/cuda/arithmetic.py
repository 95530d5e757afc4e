"""Arithmetic of half types on the GPU: arrays of one shape go through one kernel, without arrays of float32 between."""

from __future__ import annotations

from functools import partial
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import in_order, launch
from minigrad.ops import arithmetic

__all__ = ["combine"]

Array = Any


def combine(name: str, x1: Array, x2: Array) -> Array:
    """``"add"``, ``"subtract"``, ``"multiply"`` or ``"divide"``; shapes that broadcast are left alone."""
    if x1.shape != x2.shape or x1.dtype != x2.dtype:
        return NotImplemented
    out = cupy.empty(x1.shape, x1.dtype)
    launch("arithmetic", f"{name}_{x1.dtype.name}", out.size, 8, in_order(x1), in_order(x2), out, np.int64(out.size))
    return out


for _op in (arithmetic.add, arithmetic.subtract, arithmetic.multiply, arithmetic.divide):
    _op.kernel("cuda", *dtypes.HALF)(partial(combine, _op.name))
for _i in (0, 1):
    # the engine sums what was broadcast in float32
    arithmetic.add.kernel("cuda", *dtypes.HALF, vjp=_i)(lambda g: g)
    arithmetic.multiply.kernel("cuda", *dtypes.HALF, vjp=_i)(partial(combine, "multiply"))
arithmetic.subtract.kernel("cuda", *dtypes.HALF, vjp=0)(lambda g: g)

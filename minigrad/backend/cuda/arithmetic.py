"""Arithmetic of half types on the GPU: arrays of one shape go through one kernel, without arrays of float32 between.

So do one of a half type and one of float32, as where a block of a network under autocast is added to its input.
"""

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
    if not isinstance(x1, cupy.ndarray) or not isinstance(x2, cupy.ndarray) or x1.shape != x2.shape:
        return NotImplemented
    kinds = x1.dtype, x2.dtype
    if x1.dtype != x2.dtype and dtypes.float32 not in kinds:
        return NotImplemented
    if not all(dtype == dtypes.float32 or dtype in dtypes.HALF for dtype in kinds):
        return NotImplemented
    out = cupy.empty(x1.shape, x1.dtype if x1.dtype == x2.dtype else dtypes.float32)
    kernel = f"{name}_{x1.dtype.name}_{x2.dtype.name}"
    launch("arithmetic", kernel, out.size, 8, in_order(x1), in_order(x2), out, np.int64(out.size))
    return out


for _op in (arithmetic.add, arithmetic.subtract, arithmetic.multiply, arithmetic.divide):
    _op.mixed = True
    _op.kernel("cuda", *dtypes.HALF)(partial(combine, _op.name))
for _i in (0, 1):
    # the engine sums what was broadcast in float32
    arithmetic.add.kernel("cuda", *dtypes.HALF, vjp=_i)(lambda g: g)
    arithmetic.multiply.kernel("cuda", *dtypes.HALF, vjp=_i)(partial(combine, "multiply"))
arithmetic.subtract.kernel("cuda", *dtypes.HALF, vjp=0)(lambda g: g)

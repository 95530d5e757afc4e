"""Casts between float32 and the half types on the GPU."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import launch
from minigrad.ops.conversion import _astype

__all__ = ["cast"]

Array = Any


def cast(x: Array, dtype: Any) -> Array:
    """``x.astype(dtype)`` from float32 to a half type or back, of an array in C order; NotImplemented for others."""
    half, wide = (x.dtype, dtype) if dtype == dtypes.float32 else (dtype, x.dtype)
    if wide != dtypes.float32 or half not in dtypes.HALF or not x.flags.c_contiguous:
        return NotImplemented
    out = cupy.empty(x.shape, dtype)
    launch("casts", f"cast_{x.dtype.name}_{np.dtype(dtype).name}", x.size, 8, x, out, np.int64(x.size))
    return out


def astype(x: Array, *, dtype: Any, copy: bool) -> Array:
    """The op."""
    return cast(x, dtype)


_astype.kernel("cuda", dtypes.float32, *dtypes.HALF)(astype)
_astype.kernel("cuda", dtypes.float32, *dtypes.HALF, vjp=0)(cast)

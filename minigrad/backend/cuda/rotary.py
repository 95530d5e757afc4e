"""Rotary embedding on the GPU: one pass over queries or keys, whose order in memory the result keeps."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import FLOATS, launch, teams
from minigrad.ops.rotary import rotary_embedding

__all__ = ["turned"]

Array = Any
AXES = 4  # of queries and keys: batch, heads, length, features


def steps(a: Array, x: Array) -> tuple[Any, ...] | None:
    """The strides in elements of an array that broadcasts to the rows of `x`; None where it does not."""
    if a.ndim > x.ndim or (a.shape[-1] > 1 and a.strides[-1] != a.itemsize):
        return None
    found = []
    for axis in range(AXES - 1):
        own, given = axis - AXES + a.ndim, axis - AXES + x.ndim
        if own < 0 or a.shape[own] == 1:
            found.append(0)
        elif a.shape[own] != x.shape[given]:
            return None
        else:
            found.append(a.strides[own] // a.itemsize)
    return tuple(map(np.int64, found))


def alike(x: Array) -> Array:
    """Memory for a result of the shape of `x`, whose leading axes lie in the order of those of `x`."""
    order = [*sorted(range(x.ndim - 1), key=lambda axis: -x.strides[axis]), x.ndim - 1]
    return cupy.empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order).tolist())


def turned(x: Array, cos: Array, sin: Array, *, interleaved: bool, back: bool = False) -> Array:
    """The op, or, `back`, its rule for x."""
    if not all(isinstance(a, cupy.ndarray) for a in (x, cos, sin)) or cos.shape != sin.shape or cos.dtype != sin.dtype:
        return NotImplemented
    if cos.dtype != x.dtype and not (cos.dtype == dtypes.float32 and x.dtype in dtypes.HALF):
        return NotImplemented
    if not 2 <= x.ndim <= AXES or not x.size or not cos.ndim or 2 * cos.shape[-1] > x.shape[-1]:
        return NotImplemented
    pairs, features = cos.shape[-1], x.shape[-1]
    out = alike(x)
    places = [steps(a, x) for a in (x, out, cos, sin)]
    if None in places:
        return NotImplemented
    lanes = teams(features - pairs)
    rows, heads = x.size // features, x.shape[-3] if x.ndim > 2 else 1
    numbers = np.int64(rows), np.int64(heads), np.int64(x.shape[-2])
    flags = np.int32(features), np.int32(pairs), np.int32(lanes), np.int32(interleaved), np.int32(back)
    strides = (step for place in places if place is not None for step in place)
    launch(
        "rotary",
        f"rotary_{x.dtype.name}_{cos.dtype.name}",
        rows * lanes,
        1,
        x,
        cos,
        sin,
        out,
        *strides,
        *numbers,
        *flags,
    )
    return out


def turned_back(g: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    """The rule for x."""
    return turned(g, cos, sin, interleaved=interleaved, back=True)


rotary_embedding.mixed = True  # half queries and keys are turned by tables of float32
rotary_embedding.kernel("cuda", *FLOATS)(turned)
rotary_embedding.kernel("cuda", *FLOATS, vjp=0)(turned_back)

"""Values added at an index on the GPU: in a fixed order, whatever places it names twice."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import FLOATS
from minigrad.backend.cuda.embedding import as_ids, scatter

__all__ = ["index_add", "placed"]

Array = Any
Shape = tuple[int, ...]


def placed(index: Any) -> Any:
    """An index whose arrays lie on the GPU."""
    if isinstance(index, tuple):
        return tuple(map(placed, index))
    return cupy.asarray(index) if isinstance(index, np.ndarray) else index


def index_add(shape: Shape, index: Any, values: Array) -> Array:
    """Zeros of `shape` with `values` added at `index`; an index that occurs twice gets both.

    Floats are summed in the order of the index where slices come before its integer arrays, and nothing but whole axes
    behind them. Of other indices that have both, the order may change from run to run.
    """
    key = placed(index if isinstance(index, tuple) else (index,))
    if not any(isinstance(part, cupy.ndarray) for part in key):
        out = cupy.zeros(shape, values.dtype)
        out[key] = values  # slices name no place twice
        return out
    if values.dtype in dtypes.COMPLEX:
        pairs = cupy.stack([values.real, values.imag], axis=-1)
        return cupy.ascontiguousarray(index_add((*shape, 2), key, pairs)).view(values.dtype)[..., 0]
    made = in_order(shape, key, values) if values.dtype in FLOATS else NotImplemented
    if made is not NotImplemented:
        return made
    wide = values.dtype
    if wide.itemsize < 4:  # what has atomic sums
        wide = np.dtype(np.float32 if wide in dtypes.HALF else np.int32)
    out = cupy.zeros(shape, wide)
    cupy.add.at(out, key, values.astype(wide, copy=False))
    return out.astype(values.dtype, copy=False)


def in_order(shape: Shape, key: tuple[Any, ...], values: Array) -> Array:
    """The same by a sort of the places; NotImplemented for an index that is none of these."""
    while key and (key[-1] is Ellipsis or (type(key[-1]) is slice and key[-1] == slice(None))):
        key = key[:-1]
    slices = next((i for i, part in enumerate(key) if type(part) is not slice), len(key))
    arrays = [part for part in key[slices:] if isinstance(part, cupy.ndarray)]
    kinds = [
        part.dtype in dtypes.INTEGER if isinstance(part, cupy.ndarray) else type(part) is int for part in key[slices:]
    ]
    if not arrays or not all(kinds):
        return NotImplemented
    if len(key) == 1:
        ids, named = as_ids(arrays[0]), arrays[0].shape
        return scatter(shape, ids, in_shape(values, (*named, *shape[1:])), wrap=True)
    common = np.broadcast_shapes(*(part.shape for part in arrays))
    where: Any = 0
    extents: list[int] = []
    for axis, (part, extent) in enumerate(zip(key, shape, strict=False)):
        if type(part) is slice:
            step = cupy.arange(*part.indices(extent))
            extents.append(step.size)
            part = step.reshape(step.shape + (1,) * (slices - axis - 1 + len(common)))
        elif type(part) is int:
            part = part % extent
        else:
            part = as_ids(part)
            part = cupy.where(part < 0, part + extent, part)
        where = where * extent + part
    rest = shape[len(key) :]
    named = (*extents, *common)
    rows = in_shape(values, (*named, *rest))
    made = scatter((math.prod(shape[: len(key)]), *rest), cupy.broadcast_to(where, named), rows)
    return made if made is NotImplemented else made.reshape(shape)


def in_shape(values: Array, shape: Shape) -> Array:
    """Values that fill what an index names."""
    return values if values.shape == shape else cupy.broadcast_to(values, shape)

"""Values added, put or compared at an index on the GPU: the same in every run, whatever places it names twice."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import FLOATS
from minigrad.backend.cuda.embedding import as_ids, scatter

__all__ = ["index_add", "index_extremum", "index_put", "placed", "set_item"]

Array = Any
Shape = tuple[int, ...]

# CuPy's atomic operations take 32 and 64 bits: what others become, exactly
WIDER = {
    **dict.fromkeys((dtypes.bool, dtypes.int8, dtypes.int16), dtypes.int32),
    **dict.fromkeys((dtypes.uint8, dtypes.uint16), dtypes.uint32),
    **dict.fromkeys(dtypes.HALF, dtypes.float32),
}
SIGN = np.uint64(1 << 63)


def placed(index: Any) -> Any:
    """An index whose arrays lie on the GPU."""
    if isinstance(index, tuple):
        return tuple(map(placed, index))
    return cupy.asarray(index) if isinstance(index, np.ndarray) else index


def as_key(index: Any) -> tuple[Any, ...]:
    """An index as a tuple, its arrays on the GPU."""
    return placed(index if isinstance(index, tuple) else (index,))  # type: ignore[no-any-return]


def has_arrays(key: tuple[Any, ...]) -> bool:
    """Whether integer arrays are among the parts, so that a place may be named twice."""
    return any(isinstance(part, cupy.ndarray) and part.dtype != np.bool_ for part in key)


class Places(NamedTuple):
    """What an index with integer arrays names: numbers of rows, where the first axes of an array are taken as one."""

    where: Array  # int64; negative ones are of no row if `wrap`, else they count from the end
    wrap: bool
    rows: Shape  # the axes that were taken as one
    rest: Shape  # those of a row

    @classmethod
    def of(cls, shape: Shape, key: tuple[Any, ...]) -> Places | None:
        """Those of an index whose slices come first, and which has nothing but whole axes behind its arrays."""
        while key and (key[-1] is Ellipsis or (type(key[-1]) is slice and key[-1] == slice(None))):
            key = key[:-1]
        slices = next((i for i, part in enumerate(key) if type(part) is not slice), len(key))
        behind = key[slices:]
        if not all(type(part) is int or getattr(part, "dtype", None) in dtypes.INTEGER for part in behind):
            return None
        arrays = [part for part in behind if isinstance(part, cupy.ndarray)]
        if not arrays:
            return None
        if len(key) == 1:
            return cls(as_ids(arrays[0]), True, shape[:1], shape[1:])
        common = np.broadcast_shapes(*(part.shape for part in arrays))
        where: Any = 0
        extents: list[int] = []
        for axis, (part, extent) in enumerate(zip(key, shape, strict=False)):
            if type(part) is slice:
                step = cupy.arange(*part.indices(extent))
                extents.append(step.size)
                at = step.reshape(step.shape + (1,) * (slices - axis - 1 + len(common)))
            elif type(part) is int:
                at = part % extent
            else:
                at = as_ids(part)
                at = cupy.where(at < 0, at + extent, at)
            where = where * extent + at
        return cls(cupy.broadcast_to(where, (*extents, *common)), False, shape[: len(key)], shape[len(key) :])

    def values(self, values: Array) -> Array:
        """Values that fill what is named."""
        shape = (*self.where.shape, *self.rest)
        return values if values.shape == shape else cupy.broadcast_to(values, shape)


def index_add(shape: Shape, index: Any, values: Array) -> Array:
    """Zeros of `shape` with `values` added at `index`; an index that occurs twice gets both.

    Floats are summed in the order of the index if `Places` knows it, else by atomic sums, in whatever order they come.
    """
    key = as_key(index)
    if not any(isinstance(part, cupy.ndarray) for part in key):
        out = cupy.zeros(shape, values.dtype)
        out[key] = values  # slices name no place twice
        return out
    if values.dtype in dtypes.COMPLEX:
        parts = [index_add(shape, key, part) for part in (values.real, values.imag)]
        return cupy.stack(parts, axis=-1).view(values.dtype)[..., 0]
    places = Places.of(shape, key) if values.dtype in FLOATS else None
    if places is not None:
        table = (math.prod(places.rows), *places.rest)
        made = scatter(table, places.where, places.values(values), wrap=places.wrap)
        if made is not NotImplemented:
            return made.reshape(shape)
    wide = values.astype(WIDER.get(values.dtype, values.dtype), copy=False)
    out = cupy.zeros(shape, wide.dtype)
    if wide.dtype == np.int64:  # a sum modulo 2**64 is the same
        cupy.add.at(out.view(np.uint64), key, wide.view(np.uint64))
    else:
        cupy.add.at(out, key, wide)
    return out.astype(values.dtype, copy=False)


def index_put(x: Array, values: Array, index: Any) -> Array:
    """A copy of `x` with ``copy[index] = values``; of values for one place the last counts."""
    key = as_key(index)
    places = Places.of(x.shape, key) if has_arrays(key) and values.ndim else None
    if places is None or not places.where.size or not x.size:
        out = x.copy()
        out[key] = values
        return out
    where = places.where.reshape(-1)
    rows, count = math.prod(places.rows), where.size
    turns = cupy.zeros(rows, np.uint32)  # 0 where nothing is put
    cupy.maximum.at(turns, where, cupy.arange(1, count + 1, dtype=np.uint32))
    chosen = places.values(values).reshape(count, *places.rest)[cupy.maximum(turns.astype(np.int64) - 1, 0)]
    put = (turns > 0).reshape(rows, *(1,) * len(places.rest))
    out = cupy.where(put, chosen, x.reshape(rows, *places.rest)).reshape(x.shape)
    return out.astype(x.dtype, copy=False)  # of bfloat16 CuPy makes float32


def set_item(x: Array, index: Any, values: Any) -> None:
    """``x[index] = values``; of values for one place the last counts."""
    key = as_key(index)
    if has_arrays(key) and hasattr(values, "ndim") and values.ndim:
        x[...] = index_put(x, cupy.asarray(values), key)
    else:
        x[key] = values


def index_extremum(x: Array, values: Array, index: Any, largest: bool) -> Array:
    """A copy of `x` that has the larger (or smaller) of itself and `values` at `index`; duplicates all count."""
    wide = WIDER.get(x.dtype, x.dtype)
    out, given = x.astype(wide), values.astype(wide)
    extremum = (cupy.maximum if largest else cupy.minimum).at
    if wide == np.int64:  # with the sign turned, the order of signed numbers is that of unsigned ones
        numbers = out.view(np.uint64) ^ SIGN
        extremum(numbers, as_key(index), cupy.ascontiguousarray(given).view(np.uint64).reshape(given.shape) ^ SIGN)
        return (numbers ^ SIGN).view(np.int64)
    extremum(out, as_key(index), given)
    return out.astype(x.dtype, copy=False)

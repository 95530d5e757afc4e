"""Embedding on the GPU: rows gathered by ids, and their gradients added up in a fixed order."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import FLOATS, in_order, launch, teams
from minigrad.backend.cuda.modules import kernel
from minigrad.ops.embedding import _embedding, _sparse_embedding

__all__ = ["embedding", "embedding_vjp", "gather", "scatter"]

Array = Any
Shape = tuple[int, ...]

# those of embedding.cu
TILE = 2048
DIGITS = 256
PIECE = 32


def gather(table: Array, ids: Array) -> Array:
    """``table[ids]`` of floats and int64 ids; an id that has no row, negative ones too, gives NaN."""
    out = cupy.empty((*ids.shape, *table.shape[1:]), table.dtype)
    if out.size:
        row = math.prod(table.shape[1:]) * table.dtype.itemsize
        unit = 16 if row % 16 == 0 and table.data.ptr % 16 == 0 else table.dtype.itemsize
        lanes = teams(row // unit)
        numbers = np.int64(ids.size), np.int64(table.shape[0]), np.int64(row // unit), np.int32(lanes)
        launch("embedding", f"gather_{unit}", ids.size * lanes, 1, table, in_order(ids), out, *numbers)
    return out


def scatter(shape: Shape, ids: Array, values: Array, skipped: int | None = None, wrap: bool = False) -> Array:
    """Row i of `values` added to row ids[i] of zeros of `shape`; half types are summed in float32.

    Parameters
    ----------
    shape : tuple of int
        (rows, ...).
    ids : cupy.ndarray of int64
        Any shape. What is in no row, or is `skipped`, adds nothing.
    values : cupy.ndarray
        Floats of shape (*ids.shape, *shape[1:]).
    skipped : int, optional
        An id.
    wrap : bool
        Negative ids count from the end.
    """
    out = cupy.zeros(shape, values.dtype)
    count, rows, width = ids.size, shape[0], math.prod(shape[1:])
    if not (count and out.size):
        return out
    if count >= 2**31 or rows >= 2**32 - 1:
        return NotImplemented
    keys = cupy.empty(count, np.uint32)
    numbers = np.int64(count), np.int64(rows)
    options = np.int64(-1 if skipped is None else skipped), np.int32(wrap)
    launch("embedding", "number_rows", count, 1, in_order(ids), keys, *numbers, *options)
    keys, order = sort(keys, rows)
    pieces = -(-count // PIECE)
    parts = cupy.empty((2 * pieces, width), dtypes.float64 if values.dtype == dtypes.float64 else dtypes.float32)
    lanes = teams(-(-width // (16 // values.dtype.itemsize)))
    name = values.dtype.name
    launch(
        "embedding", f"add_pieces_{name}", pieces * lanes, 1,
        in_order(values), keys, order, out, parts, *numbers, np.int64(width), np.int32(lanes),
    )  # fmt: skip
    if pieces > 1:
        lanes = teams(width)
        launch(
            "embedding",
            f"fold_pieces_{name}",
            pieces * lanes,
            1,
            keys,
            parts,
            out,
            *numbers,
            np.int64(width),
            np.int32(lanes),
        )
    return out


def sort(keys: Array, largest: int) -> tuple[Array, Array]:
    """Keys of uint32 in ascending order, and the places that they come from; equal keys stay in their order."""
    count = keys.size
    tiles = -(-count // TILE)
    counts = cupy.empty(DIGITS * tiles, np.uint32)
    order: Array = np.uint64(0)
    for shift in range(0, max(1, largest.bit_length()), 8):
        sorted_keys, sorted_order = cupy.empty(count, np.uint32), cupy.empty(count, np.uint32)
        numbers = np.int64(count), np.int32(shift)
        kernel("embedding", "count_digits")((tiles,), (DIGITS,), (keys, counts, *numbers))
        kernel("embedding", "sum_before")((1,), (1024,), (counts, np.int64(counts.size)))
        kernel("embedding", "move_keys")(
            (tiles,), (DIGITS,), (keys, order, counts, sorted_keys, sorted_order, *numbers)
        )
        keys, order = sorted_keys, sorted_order
    return keys, order


def as_ids(ids: Array) -> Array:
    """Integers of any kind as int64, in C order."""
    return in_order(ids if ids.dtype == np.int64 else ids.astype(np.int64))


def embedding(weight: Array, ids: Array, *, padding_idx: Any) -> Array:
    """The op: a row for each id. To check the ids would be to wait for the GPU: a wrong one gives a row of NaN."""
    if weight.ndim != 2 or ids.dtype not in dtypes.INTEGER or not weight.flags.c_contiguous:
        return NotImplemented
    if padding_idx is not None and not (type(padding_idx) is int and 0 <= padding_idx < weight.shape[0]):
        return NotImplemented
    return gather(weight, as_ids(ids))


def embedding_vjp(g: Array, weight_shape: Shape, ids: Array, *, padding_idx: int | None) -> Array:
    """Its rule for the weight; wrong ids add nothing."""
    return scatter(weight_shape, as_ids(ids), g, padding_idx)


for _op in (_embedding, _sparse_embedding):
    _op.kernel("cuda", *FLOATS)(embedding)
    _op.kernel("cuda", *FLOATS, vjp=0)(embedding_vjp)

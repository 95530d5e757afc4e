"""Batch and group normalization on the GPU: statistics of channels in parts, these folded, one pass that applies them.

An array is (outer, channels, inner). Backward makes the statistics again, together with the sums of the cotangent, so
that x and the cotangent are read twice, and the gradient is written once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.normalization import columns
from minigrad.backend.cuda.rows import FLOATS, NULL, fits, in_order, run, wide
from minigrad.ops.group_norm import _group_norm
from minigrad.ops.normalization import _batch_norm_training, batch_norm

__all__ = ["given", "given_vjp", "group", "group_vjp", "training", "training_vjp"]

Array = Any
SOURCE = "batch_norm"
STATISTICS, LINE = 5, 4  # numbers in the records of the same names in batch_norm.cu
BLOCKS = 1056  # that are worth starting: eight on each of 132 multiprocessors
LEAST = 2048  # elements of a channel in a part, at least
THREADS = 256


class Shape(NamedTuple):
    """What the axes of an array are to the kernels."""

    outer: int
    channels: int
    inner: int


def shape_of(x: Array, axis: Any, *vectors: Array | None) -> Shape | None:
    """That of an array whose channels lie on an axis; None where the arguments are left to the generic body."""
    if type(axis) is not int or not -x.ndim <= axis < x.ndim or x.size == 0 or not fits(x.dtype, *vectors):
        return None
    axis %= x.ndim
    shape = Shape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    return shape if all(v is None or v.shape == (shape.channels,) for v in vectors) else None


def gather(x: Array, g: Array | None, shape: Shape, about: Array | None = None) -> tuple[Array, int]:
    """The statistics of the channels in parts, and how many parts a channel has: the same on every GPU.

    `about` takes the place of the means.
    """
    outer, channels, inner = shape
    last = inner == 1 and outer > 1
    tiles, least = (-(-channels // 32), 64) if last else (channels, -(-LEAST // inner))
    part = max(-(-outer // max(BLOCKS // tiles, 1)), least)
    count = -(-outer // part)
    parts = cupy.empty((channels, count, STATISTICS), wide(x.dtype))
    name, block, numbers, records = "gather_last", (32, 8), [outer, channels, part], 256
    if not last:
        threads = min(max(1 << (min(outer, part) * inner - 1).bit_length(), 32), THREADS)
        name, block, numbers, records = "gather", (threads, 1), [outer, channels, inner, part], threads // 32
    arguments = in_order(x), in_order(g), in_order(about), parts, *map(np.int64, numbers)
    shared = records * STATISTICS * parts.dtype.itemsize
    kernel(SOURCE, f"{name}_{x.dtype.name}")((tiles, count), block, arguments, shared_mem=shared)
    return parts, count


def each_channel(name: str, x: Array, channels: int, *arguments: Any, eps: float) -> Array:
    """The lines of the channels, by a kernel that has a warp for each of them; `arguments` has None for their place."""
    lines = cupy.empty((channels, LINE), wide(x.dtype))
    filled = [lines if a is None else a for a in arguments]
    run(SOURCE, f"{name}_{x.dtype.name}", 1, channels, *filled, wide(x.dtype).type(eps))
    return lines


def follow(x: Array | None, g: Array | None, lines: Array, shape: Shape) -> Array:
    """The lines applied."""
    like: Array = g if x is None else x
    outer, channels, inner = shape
    last = inner == 1
    rows, n, suffix = (outer, channels, "_last") if last else (outer * channels, inner, "")
    out = cupy.empty(like.shape, like.dtype)
    arrays = in_order(x), in_order(g), lines, out
    run(SOURCE, f"follow{suffix}_{like.dtype.name}", n, rows, *arrays, np.int64(rows), np.int64(n), np.int64(channels))
    return out


def training(x: Array, weight: Array | None, bias: Array | None, *, eps: float, axis: int) -> Any:
    """Kernel of batch_norm_training."""
    shape = shape_of(x, axis, weight, bias)
    if shape is None:
        return NotImplemented
    x = in_order(x)
    parts, count = gather(x, None, shape)
    mean, var = (cupy.empty(shape.channels, x.dtype) for _ in range(2))
    arrays = parts, in_order(weight), in_order(bias), None, mean, var
    lines = each_channel("lines", x, shape.channels, *arrays, np.int64(shape.channels), np.int64(count), eps=eps)
    return follow(x, None, lines, shape), mean, var


def training_vjp(g: tuple[Array | None, ...], x: Array, weight: Array | None, *, eps: float, axis: int) -> Any:
    """Kernel of its rule."""
    shape = shape_of(x, axis, weight, g[1], g[2])
    if shape is None or g[0] is None or g[0].shape != x.shape or not fits(x.dtype, g[0]):
        return NotImplemented
    x, cotangent = in_order(x), in_order(g[0])
    parts, count = gather(x, cotangent, shape)
    dweight, dbias = (cupy.empty(shape.channels, x.dtype) for _ in range(2))
    arrays = parts, in_order(weight), in_order(g[1]), in_order(g[2]), None, dweight, dbias
    lines = each_channel("lines_vjp", x, shape.channels, *arrays, np.int64(shape.channels), np.int64(count), eps=eps)
    return follow(x, cotangent, lines, shape), None if weight is None else dweight, dbias


def given(x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, *, eps: float, axis: int) -> Any:
    """Kernel of batch_norm, whose mean and variance are given."""
    shape = shape_of(x, axis, mean, var, weight, bias)
    if shape is None:
        return NotImplemented
    lines = cupy.empty((shape.channels, LINE), wide(x.dtype))
    numbers = np.int64(shape.channels), wide(x.dtype).type(eps)
    arrays = *map(in_order, (mean, var, weight, bias)), lines
    kernel(SOURCE, f"given_lines_{x.dtype.name}")((-(-shape.channels // THREADS),), (THREADS,), (*arrays, *numbers))
    return follow(x, None, lines, shape)


def given_vjp(g: Array, x: Array, mean: Array, var: Array, weight: Array | None, *, eps: float, axis: int) -> Any:
    """Kernel of its rule."""
    shape = shape_of(x, axis, mean, var, weight)
    if shape is None or g.shape != x.shape or not fits(x.dtype, g):
        return NotImplemented
    g = in_order(g)
    parts, count = gather(x, g, shape, mean)
    made = [cupy.empty(shape.channels, x.dtype) for _ in range(4)]
    arrays = parts, *map(in_order, (mean, var, weight)), None, *made
    numbers = np.int64(shape.channels), np.int64(count)
    lines = each_channel("given_lines_vjp", x, shape.channels, *arrays, *numbers, eps=eps)
    dmean, dvar, dweight, dbias = made
    return follow(None, g, lines, shape), dmean, dvar, None if weight is None else dweight, dbias


def groups_of(x: Array, num_groups: Any, *vectors: Array | None) -> Shape | None:
    """The shape with a channel of each sample for itself; None where the arguments are left to the generic body."""
    if x.ndim < 2 or type(num_groups) is not int or num_groups < 1 or x.shape[1] % num_groups:
        return None
    if shape_of(x, 1, *vectors) is None:
        return None
    channels = x.shape[0] * x.shape[1]
    return Shape(1, channels, x.size // channels)


def group_lines(
    x: Array,
    g: Array | None,
    weight: Array | None,
    bias: Array | None,
    sums: Array | None,
    shape: Shape,
    groups: int,
    eps: float,
) -> Array:
    """The lines of the channels of each sample; with `sums` also what goes into the gradients of weight and bias."""
    parts, count = gather(x, g, shape)
    lines = cupy.empty((shape.channels, LINE), parts.dtype)
    together = x.shape[1] // groups
    slopes = (NULL, NULL) if sums is None else (sums[0], sums[1])
    arrays = parts, in_order(weight), in_order(bias), np.bool_(sums is not None), lines, *slopes
    numbers = *map(np.int64, (shape.channels, x.shape[1], together, count)), parts.dtype.type(eps)
    run(SOURCE, f"group_lines_{x.dtype.name}", 1, shape.channels // together, *arrays, *numbers)
    return lines


def group(x: Array, weight: Array | None, bias: Array | None, *, num_groups: int, eps: float) -> Any:
    """Kernel of group_norm."""
    shape = groups_of(x, num_groups, weight, bias)
    if shape is None:
        return NotImplemented
    x = in_order(x)
    return follow(x, None, group_lines(x, None, weight, bias, None, shape, num_groups, eps), shape)


def group_vjp(g: Array, x: Array, weight: Array | None, *, num_groups: int, eps: float) -> Any:
    """Kernel of its rule."""
    shape = groups_of(x, num_groups, weight)
    if shape is None or g.shape != x.shape or not fits(x.dtype, g):
        return NotImplemented
    x, g = in_order(x), in_order(g)
    sums = cupy.empty((2, *x.shape[:2]), wide(x.dtype))
    dx = follow(x, g, group_lines(x, g, weight, None, sums, shape, num_groups, eps), shape)
    return dx, None if weight is None else columns(sums[0], x.dtype), columns(sums[1], x.dtype)


_batch_norm_training.kernel("cuda", *FLOATS)(training)
_batch_norm_training.kernel("cuda", *FLOATS, vjp=-1)(training_vjp)
batch_norm.kernel("cuda", *FLOATS)(given)
batch_norm.kernel("cuda", *FLOATS, vjp=-1)(given_vjp)
_group_norm.kernel("cuda", *FLOATS)(group)
_group_norm.kernel("cuda", *FLOATS, vjp=-1)(group_vjp)

"""Sliding windows of convolution and pooling: where they lie, their elements gathered, and handed back."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from typing import Any

from minigrad.errors import ShapeError, message
from minigrad.ops.registry import Array

__all__ = ["Pads", "Sizes", "count", "crop", "gather", "pads", "places", "scatter", "sizes"]

LARGEST = 2**31 - 1  # of which products of two still fit the integers of kernels
Sizes = tuple[int, ...]  # a number for each spatial axis
Pads = tuple[tuple[int, int], ...]  # how many elements are added before and behind each


def sizes(who: str, name: str, value: Any, n: int, least: int = 1) -> Sizes:
    """A number of at least `least` for each of `n` spatial axes, from one for all of them or one for each."""
    need = "an int" if n == 1 else f"an int or {n} ints"
    try:
        found = tuple(operator.index(v) for v in (value if isinstance(value, (tuple, list)) else (value,) * n))
    except TypeError:
        raise TypeError(message(who, name, value, need)) from None
    if len(found) != n or min(found) < least:
        raise ShapeError(message(who, name, f"{value}", f"{need} of at least {least}"))
    if max(found) > LARGEST:
        raise ShapeError(message(who, name, f"{value}", f"{need} of at most {LARGEST}"))
    return found


def pads(who: str, value: Any, extents: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """The padding of each axis; ``"same"`` makes ``ceil(extent / stride)`` windows, and adds the odd element behind."""
    if not isinstance(value, str):
        return tuple((p, p) for p in sizes(who, "padding", value, len(kernel), 0))
    if value not in ("same", "valid"):
        raise ValueError(message(who, "padding", repr(value), "an int, an int an axis, 'same' or 'valid'"))
    if value == "valid":
        return ((0, 0),) * len(kernel)
    total = [
        max(0, ((e - 1) // s) * s + d * (k - 1) + 1 - e)
        for e, k, s, d in zip(extents, kernel, stride, dilation, strict=True)
    ]
    return tuple((t // 2, t - t // 2) for t in total)


def count(who: str, extents: Sizes, kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> Sizes:
    """How many windows fit on each axis, ``(extent + padding - dilation * (kernel - 1) - 1) // stride + 1``."""
    found = tuple(
        (e + before + after - d * (k - 1) - 1) // s + 1
        for e, k, s, (before, after), d in zip(extents, kernel, stride, padding, dilation, strict=True)
    )
    if min(found) < 1:
        window = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        padded = tuple(e + sum(p) for e, p in zip(extents, padding, strict=True))
        raise ShapeError(message(who, "x", f"{padded} with its padding", f"at least the window's extents {window}"))
    return found


def places(kernel: Sizes, counts: Sizes, stride: Sizes, dilation: Sizes) -> Iterator[tuple[slice, ...]]:
    """For each element of the kernel an index: what it meets in all windows of a padded stack of channels."""
    for offset in itertools.product(*map(range, kernel)):
        starts = [o * d for o, d in zip(offset, dilation, strict=True)]
        ends = [o + s * (n - 1) + 1 for o, n, s in zip(starts, counts, stride, strict=True)]
        yield (slice(None), slice(None), *map(slice, starts, ends, stride))


def padded(xp: Any, x: Array, padding: Pads, value: float = 0.0) -> Array:
    """A stack of channels with elements added around it."""
    return xp.pad(x, ((0, 0), (0, 0), *padding), constant_values=value) if any(map(any, padding)) else x


def gather(
    xp: Any, x: Array, kernel: Sizes, counts: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, value: float = 0.0
) -> Array:
    """The windows of x (n, c, *extents), as (n, c, elements of a window, *counts)."""
    x = padded(xp, x, padding, value)
    return xp.stack([x[place] for place in places(kernel, counts, stride, dilation)], axis=2)


def scatter(
    xp: Any, values: Array, extents: Sizes, kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes
) -> Array:
    """The transpose of `gather`: each element of (n, c, *extents) is the sum of what its windows have for it."""
    shape = (*values.shape[:2], *(e + sum(p) for e, p in zip(extents, padding, strict=True)))
    total: Array = 0.0
    for k, place in enumerate(places(kernel, values.shape[3:], stride, dilation)):
        total = total + xp.index_add(shape, place, values[:, :, k])
    return crop(total, extents, padding)


def crop(x: Array, extents: Sizes, padding: Pads) -> Array:
    """What `padded` was given."""
    inside = tuple(slice(before, before + e) for e, (before, _) in zip(extents, padding, strict=True))
    return x[(slice(None), slice(None), *inside)]

"""Batches: what of one are inputs and what targets, and how many examples it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minigrad import ops
from minigrad.data.shards import part
from minigrad.errors import ShapeError, message
from minigrad.tensor import Tensor

__all__ = ["Inputs", "StandIn", "call", "converted", "leaves", "length", "map_leaves", "part_of", "split"]

Inputs = tuple[Any, ...] | dict[str, Any]
TARGETS = "targets"


class StandIn(NamedTuple):
    """A batch of a rank that has no part of what the others have: it is computed, and counts nothing."""

    batch: Any


def split(batch: Any) -> tuple[Inputs, Any, int]:
    """Inputs (a tuple, or a dict of keyword arguments), targets, and the number of examples."""
    inputs: Inputs
    if isinstance(batch, Mapping):
        if TARGETS not in batch:
            got = f"a dict with {', '.join(map(repr, batch))}"
            raise ValueError(message("Trainer", "batch", got, f"the key {TARGETS!r} too; the others are the inputs"))
        inputs, targets = {key: value for key, value in batch.items() if key != TARGETS}, batch[TARGETS]
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        inputs, targets = tuple(batch[:-1]), batch[-1]
    else:
        got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else batch
        need = f"a tuple (inputs, ..., targets) or a dict with the key {TARGETS!r}"
        hint = "Arrays go in as a tuple: fit((x, y))" if hasattr(batch, "shape") else ""
        raise ValueError(message("Trainer", "batch", got, need, hint))
    return inputs, targets, length(targets)


def inputs_of(batch: Any) -> Inputs:
    """The inputs alone: what stands alone is one, and targets are left out."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != TARGETS}
    if isinstance(batch, (tuple, list)):
        return tuple(batch[:-1]) if len(batch) > 1 else tuple(batch)
    return (batch,)


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """The model's output."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def leaves(nest: Any) -> Iterator[Any]:
    """What a nest of tuples, lists and dicts holds, in order."""
    if isinstance(nest, Mapping):
        for value in nest.values():
            yield from leaves(value)
    elif isinstance(nest, (tuple, list)):
        for value in nest:
            yield from leaves(value)
    else:
        yield nest


def map_leaves(function: Callable[[Any], Any], nest: Any) -> Any:
    """The same nest with another thing in each place."""
    if isinstance(nest, Tensor):  # the usual case first
        return function(nest)
    if isinstance(nest, Mapping):
        return {key: map_leaves(function, value) for key, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(map_leaves(function, value) for value in nest))
    if isinstance(nest, (tuple, list)):
        return type(nest)(map_leaves(function, value) for value in nest)
    return function(nest)


def length(nest: Any) -> int:
    """The extent of axis 0, which all leaves have in common."""
    for leaf in leaves(nest):
        shape = getattr(leaf, "shape", None)
        if shape:
            return int(shape[0])
        if shape is not None:
            raise ShapeError(message("Trainer", "batch", leaf, "at least one axis, that of the examples"))
    return 1


def part_of(batch: Any, rank: int, size: int) -> Any:
    """A rank's part of the examples of a batch: of all arrays that have as many rows as the targets."""
    examples = split(batch)[2]
    low, high = part(examples, rank, size)
    rows = slice(low, max(high, low + 1))

    def one(leaf: Any) -> Any:
        return leaf[rows] if tuple(getattr(leaf, "shape", ()))[:1] == (examples,) else leaf

    cut = map_leaves(one, batch)
    return StandIn(cut) if low == high else cut


def converted(batch: Any, device: str | None) -> Any:
    """A batch with tensors for its leaves, on the device."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            if not isinstance(leaf, (np.ndarray, np.generic, int, float, bool)) and not hasattr(leaf, "__array__"):
                return leaf  # a string or None is the model's own affair
            leaf = ops.asarray(leaf)
        return leaf if device is None else leaf.to(device=device)

    return map_leaves(one, batch)

"""Collate: items become a batch. Leaves are stacked, or padded first; tuples, lists and dicts keep their structure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import new
from minigrad.tensor import Tensor

__all__ = ["PadCollate", "default_collate", "map_leaves", "pad_collate", "to_array", "to_tensor"]

Array = np.ndarray[Any, Any]


def default_collate(items: Sequence[Any]) -> Any:
    """Stack items into a batch.

    Arrays, tensors and NumPy scalars keep their dtype; Python's floats become float32, ints int64. Strings and bytes
    stay a list.

    Parameters
    ----------
    items : sequence
        At least one; arrays, numbers, strings, or tuples, lists and dicts of these, all of one structure.

    Returns
    -------
    array, tuple, list or dict
        As the items are, with arrays of one more axis, the first.

    Raises
    ------
    ShapeError, DTypeError
        Two items differ in structure, shape or dtype; the text names them by their place in the batch.

    Examples
    --------
    >>> from minigrad.data import default_collate
    >>> default_collate([{"x": 1.5, "name": "a"}, {"x": 2.5, "name": "b"}])
    {'x': array([1.5, 2.5], dtype=float32), 'name': ['a', 'b']}
    """
    return combine(items, stack)


def combine(items: Sequence[Any], leaf: Callable[[Sequence[Any]], Any]) -> Any:
    """Walk down items of one structure, and put together what is at each leaf."""
    first = items[0]
    if isinstance(first, (str, bytes)):
        return list(items)
    if isinstance(first, Mapping):
        for place, item in enumerate(items):
            if not isinstance(item, Mapping) or item.keys() != first.keys():
                raise ShapeError(differ("structure", items, place, structure))
        return {key: combine([item[key] for item in items], leaf) for key in first}
    if isinstance(first, (tuple, list)):
        for place, item in enumerate(items):
            if type(item) is not type(first) or len(item) != len(first):
                raise ShapeError(differ("structure", items, place, structure))
        return rebuild(first, [combine(parts, leaf) for parts in zip(*items)])
    return leaf(items)


def stack(items: Sequence[Any]) -> Array:
    """Arrays of one shape and dtype, along a new first axis."""
    arrays = [to_array(item) for item in items]
    first = arrays[0]
    for place, array in enumerate(arrays):
        if array.dtype != first.dtype:
            raise DTypeError(differ("dtype", arrays, place, describe))
        if array.shape != first.shape:
            hint = "data.pad_collate() pads sequences" if array.ndim == first.ndim else ""
            raise ShapeError(differ("shape", arrays, place, describe, hint))
    return np.stack(arrays)


class PadCollate:
    """What `pad_collate` returns; a class, so that it can be sent to a worker."""

    draws_globally = False

    def __init__(self, padding: float = 0, multiple: int = 1) -> None:
        self.padding, self.multiple = padding, multiple

    def __call__(self, items: Sequence[Any]) -> Any:
        return combine(items, self.pad)

    def pad(self, items: Sequence[Any]) -> Any:
        arrays = [to_array(item) for item in items]
        first = arrays[0]
        if first.ndim == 0:
            return stack(arrays)
        for place, array in enumerate(arrays):
            if array.dtype != first.dtype:
                raise DTypeError(differ("dtype", arrays, place, describe))
            if array.shape[1:] != first.shape[1:] or array.ndim == 0:
                raise ShapeError(differ("shape behind the first axis", arrays, place, describe))
        lengths = np.array([len(array) for array in arrays])
        longest = -(-int(lengths.max()) // self.multiple) * self.multiple
        padded = np.full((len(arrays), longest, *first.shape[1:]), self.padding, first.dtype)
        for row, array in zip(padded, arrays):
            row[: len(array)] = array
        return padded, lengths


def pad_collate(padding: float = 0, *, multiple: SupportsIndex = 1) -> PadCollate:
    """A collate that pads sequences to the longest of the batch and tells their lengths.

    Every leaf that has an axis is a sequence along its first one, and becomes a pair (padded, lengths); numbers are
    stacked as always. So items (tokens, label) become ((padded, lengths), labels), whatever their lengths are.

    Parameters
    ----------
    padding : number
        What is put behind the sequences.
    multiple : int
        Round the padded length up to a multiple of it.

    Returns
    -------
    callable
        From items to a batch: arrays (batch, length, ...) and int64 lengths (batch,), which attention takes as
        ``key_lengths``.

    Examples
    --------
    >>> from minigrad import data
    >>> items = [[1, 2, 3], [4]]
    >>> import numpy as np
    >>> tokens, lengths = data.pad_collate(padding=-1)([np.array(item) for item in items])
    >>> tokens.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, -1, -1]], [3, 1])
    """
    if operator.index(multiple) < 1:
        raise ValueError(message("pad_collate", "multiple", operator.index(multiple), "at least 1"))
    return PadCollate(padding, operator.index(multiple))


def to_array(item: Any) -> Array:
    """A leaf as an array."""
    if isinstance(item, np.ndarray):
        return item
    if isinstance(item, Tensor):
        return item.detach().to("cpu").numpy()
    if isinstance(item, float):  # NumPy's float64 is one too, and keeps its dtype
        return np.asarray(item, None if isinstance(item, np.generic) else np.float32)
    if isinstance(item, (int, np.generic)) or hasattr(item, "__array__"):
        return np.asarray(item)
    need = "an array, a number, a string, or a tuple, list or dict of these"
    raise DTypeError(message("collate", "item", describe(item), need, "Another collate= can take it"))


def to_tensor(array: Array) -> Any:
    """A tensor in the memory of an array; an array of a dtype that tensors do not have stays what it is."""
    return new(array) if array.dtype in dtypes.ALL else array


def map_leaves(function: Callable[[Any], Any], batch: Any, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """Change the leaves of a type, or of some; what is no tuple, list or dict is a leaf."""
    if isinstance(batch, kind):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_leaves(function, value, kind) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return rebuild(batch, [map_leaves(function, value, kind) for value in batch])
    return batch


def rebuild(like: Any, values: list[Any]) -> Any:
    """A list, tuple or named tuple of new values."""
    if isinstance(like, list):
        return values
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def structure(item: Any) -> str:
    """What an item is, one level deep."""
    if isinstance(item, Mapping):
        return f"a dict with {sorted(map(str, item))}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return describe(item)


def differ(what: str, items: Sequence[Any], place: int, say: Callable[[Any], str], hint: str = "") -> str:
    """The text about two items that do not go together."""
    return message(
        "collate", what, f"{say(items[place])} in item {place} of the batch", f"{say(items[0])}, as in item 0", hint
    )

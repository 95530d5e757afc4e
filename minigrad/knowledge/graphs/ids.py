"""Ids of entities, relations and rows, as callers give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import DTypeError, message
from minigrad.tensor import Tensor

__all__ = ["as_ids", "check_range"]

Array = np.ndarray[Any, Any]


def as_ids(who: str, name: str, given: Any) -> Array:
    """Integers of any width as int64; what is rounded or a bool is none, and an empty list has no dtype to speak of."""
    found = np.asarray(given.detach().to("cpu").numpy() if isinstance(given, Tensor) else given)
    if found.size and found.dtype.kind not in "iu":
        raise DTypeError(message(who, name, found, "integers"))
    return found.astype(np.int64, copy=False)


def check_range(who: str, name: str, ids: Array, count: int, what: str = "an id") -> None:
    """Raise where an id is not one of so many."""
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        wrong = ids[(ids < 0) | (ids >= count)]
        raise IndexError(message(who, name, f"{int(wrong[0])}", f"{what} in [0, {count})"))

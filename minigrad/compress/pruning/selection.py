"""Selection: which weights go, by number, by threshold or by pattern, of scores alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.errors import message

__all__ = ["count_of", "lowest", "pattern_gone"]

Array = np.ndarray[Any, Any]


def lowest(scores: Array, count: int) -> Array:
    """Which elements are the `count` lowest, as bools; of equal ones the first in memory go, so it is always as many.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.compress.pruning.selection import lowest
    >>> lowest(np.array([3.0, 1.0, 2.0, 1.0]), 1).tolist()
    [False, True, False, False]
    """
    flat = scores.reshape(-1)
    if count <= 0:
        return np.zeros(scores.shape, np.bool_)
    if count >= flat.size:
        return np.ones(scores.shape, np.bool_)
    edge = np.partition(flat, count - 1)[count - 1]
    gone = flat < edge
    ties = np.flatnonzero(flat == edge)
    gone[ties[: count - int(gone.sum())]] = True
    made: Array = gone.reshape(scores.shape)
    return made


def pattern_gone(scores: Array, pattern: tuple[int, int], axis: int, name: str) -> Array:
    """Which elements go so that of each m in a row along an axis the n of the highest scores are left.

    Raises
    ------
    ValueError
        If m does not divide the axis.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.compress.pruning.selection import pattern_gone
    >>> pattern_gone(np.array([[4.0, 1.0, 3.0, 2.0]]), (2, 4), 1, "w").tolist()
    [[False, True, False, True]]
    """
    n, m = pattern
    extent = scores.shape[axis]
    if extent % m:
        got = f"{extent} of {name}"
        raise ValueError(message("prune", "the input axis", got, f"a multiple of {m}", "Leave it out with exclude="))
    moved = np.moveaxis(scores, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], extent // m, m)
    order = np.argsort(groups, axis=-1, kind="stable")  # of equal ones the first go
    gone = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(gone, order[..., : m - n], True, axis=-1)
    return np.moveaxis(gone.reshape(moved.shape), -1, axis)


def count_of(who: str, amount: Any, size: int | None = None) -> int:
    """How many weights of so many an amount is: a share as a float, or a number as an int; without a size a check."""
    if isinstance(amount, (bool, np.bool_)) or not isinstance(amount, (int, float, np.integer, np.floating)):
        raise TypeError(message(who, "amount", repr(amount), "a share from 0 to 1, or a number of weights"))
    if isinstance(amount, (int, np.integer)):
        if amount < 0 or (size is not None and amount > size):
            need = "at least 0" if size is None else f"from 0 to the {size} weights there are"
            raise ValueError(message(who, "amount", f"{amount}", need))
        return int(amount)
    if not (math.isfinite(amount) and 0.0 <= amount <= 1.0):
        raise ValueError(message(who, "amount", f"{amount}", "a share from 0 to 1"))
    return round(float(amount) * (size or 0))

"""Whether the sides did the same work: fingerprints of their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Fingerprint = list[tuple[float, float]]  # of each array its norm, and its product with a fixed direction

BLOCK = 1 << 14  # elements at a time: a large temporary would change how the allocator serves what is timed


def fingerprint(result: Any, compare: Callable[[Any], Any] | None = None) -> Fingerprint:
    """The fingerprint of a result: an array of any library, several in a list or tuple, or None."""
    if result is None:
        return []
    results = result if isinstance(result, (list, tuple)) else [result]
    return [of_array(plain(part) if compare is None else compare(plain(part))) for part in results]


def plain(array: Any) -> Any:
    """A tensor as a NumPy array, without a copy."""
    return np.asarray(array.detach() if hasattr(array, "detach") else array)


def of_array(array: Any) -> tuple[float, float]:
    """The norm of an array, and its inner product with a direction: one wave in every block, at different heights."""
    wave = np.cos(np.arange(BLOCK))
    flat = np.asarray(array).reshape(-1)
    square = product = 0.0
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        square += float(block @ block)
        product += float(block @ wave[: block.size]) * math.cos(start)
    return square**0.5, product


def agree(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], tolerance: float) -> bool:
    """Whether two fingerprints are the same up to a share of the norm; never where a number is NaN."""
    return len(first) == len(second) and all(
        abs(norm - other_norm) <= tolerance * norm and abs(product - other_product) <= tolerance * norm
        for (norm, product), (other_norm, other_product) in zip(first, second, strict=True)
    )

"""Distances: of the rows of one matrix to all rows of another."""

from __future__ import annotations

from collections.abc import Callable

from minigrad import ops
from minigrad.function import checkpoint
from minigrad.tensor import Tensor

__all__ = ["manhattan", "moduli", "root", "squares"]

BLOCK = 2**22  # differences that are held at a time
FLOOR = 1e-20  # of a squared distance: below what rounding leaves of it, and its root has derivatives


def root(x: Tensor) -> Tensor:
    """The root of squared distances, with the derivative 0 where they are 0, or by rounding a little less."""
    # FLOOR is 0 in float16, and the derivative of a root of 0 has no value
    return ops.sqrt(ops.maximum(x, max(FLOOR, ops.finfo(x.dtype).smallest_normal)))


def squares(q: Tensor, table: Tensor) -> Tensor:
    """Squared Euclidean distances (n, N) of rows (n, d) and (N, d): ``|q|**2 - 2 * q @ table.T + |table|**2``.

    One product of matrices. Two rows that nearly agree lose digits by it, as a rounding error of the size of the
    squares stays.
    """
    return ops.sum(q * q, axis=-1, keepdims=True) - 2.0 * (q @ table.mT) + ops.sum(table * table, axis=-1)


def manhattan(q: Tensor, table: Tensor) -> Tensor:
    """Sums of absolute differences (n, N) of rows (n, d) and (N, d), of so many rows of the table at a time."""
    return _blocked(_manhattan, q, table)


def moduli(q: Tensor, table: Tensor) -> Tensor:
    """Sums of the moduli of differences (n, N) of complex rows, whose halves are real and imaginary parts."""
    return _blocked(_moduli, q, table)


def _manhattan(q: Tensor, rows: Tensor) -> Tensor:
    return ops.sum(ops.abs(ops.expand_dims(q, axis=1) - rows), axis=-1)


def _moduli(q: Tensor, rows: Tensor) -> Tensor:
    difference = ops.expand_dims(q, axis=1) - rows
    k = difference.shape[-1] // 2
    return ops.sum(ops.hypot(difference[..., :k], difference[..., k:]), axis=-1)


def _blocked(distances: Callable[[Tensor, Tensor], Tensor], q: Tensor, table: Tensor) -> Tensor:
    """The distances a block of the table at a time; backward makes the differences of each again."""
    size = max(1, BLOCK // max(1, q.size))
    if size >= table.shape[0]:
        return distances(q, table)
    parts = [checkpoint(distances, q, table[at : at + size]) for at in range(0, table.shape[0], size)]
    return ops.concat(parts, axis=1)

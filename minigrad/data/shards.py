"""Shards: an epoch as the batches of one rank, of which every rank has the same number.

Batch t of all ranks together is one *round*: what a single process would take as its batch t with ``world_size`` times
the batch size. A rank takes its part of each round, so the ranks' batches put one after the other are the round.

`Parts` are those of batches that are there already, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.errors import message

__all__ = ["Parts", "Shard", "count_batches", "cut", "deal", "part"]

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Shard(Sequence[Indices]):
    """The batches of one rank. `ends` are those of the rounds in `order`; the parts are views."""

    def __init__(self, order: Indices, ends: Indices, rank: int, world_size: int) -> None:
        self.order, self.ends, self.rank, self.world_size = order, ends, rank, world_size

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, step: Any) -> Any:
        start, size = int(self.ends[step]), int(self.ends[step + 1] - self.ends[step])
        low, high = (start + size * k // self.world_size for k in (self.rank, self.rank + 1))
        return self.order[low:high]


class Parts(Sequence[Indices]):
    """The part of a rank of each of some batches; one that has none of a batch takes an item to stand in."""

    def __init__(self, batches: Sequence[Indices], rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: Any) -> Any:
        batch = self.batches[step]
        low, high = part(len(batch), self.rank, self.world_size)
        return batch[low : max(high, low + 1)]

    def stands_in(self, step: int) -> bool:
        """Whether the rank has no part of a batch."""
        low, high = part(len(self.batches[step]), self.rank, self.world_size)
        return low == high


def part(n: int, rank: int, world_size: int) -> tuple[int, int]:
    """From where to where the part of a rank goes, of n items.

    Examples
    --------
    >>> from minigrad.data.shards import part
    >>> [part(7, rank, 3) for rank in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return n * rank // world_size, n * (rank + 1) // world_size


def rounds(n: int, batch_size: int, world_size: int, drop_last: bool) -> tuple[int, list[int]]:
    """The number of whole rounds, and the sizes of those after them, at most two.

    The last round is smaller, and divided as evenly as can be. It must have an item for each rank, so where there are
    fewer it takes some from the round before; where batches are of one item, some are taken twice.
    """
    whole = batch_size * world_size
    count, rest = divmod(n, whole)
    if drop_last or rest == 0:
        return count, []
    if rest >= world_size:
        return count, [rest]
    if count and batch_size > 1:
        both = whole + rest
        return count - 1, [both - both // 2, both // 2]
    return count, [world_size]


def count_batches(n: int, batch_size: int, drop_last: bool, world_size: int) -> int:
    """The number of batches that `cut` makes for each rank.

    Examples
    --------
    >>> from minigrad.data.shards import count_batches
    >>> count_batches(10, 2, drop_last=False, world_size=2), count_batches(10, 2, drop_last=True, world_size=2)
    (3, 2)
    """
    count, sizes = rounds(n, batch_size, world_size, drop_last)
    return count + len(sizes)


def cut(order: Indices, batch_size: int, drop_last: bool, rank: int, world_size: int) -> Shard:
    """Cut an order of items into the batches of one rank.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data.shards import cut
    >>> [[batch.tolist() for batch in cut(np.arange(7), 2, False, rank, 2)] for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3], [5, 6]]]
    """
    n = len(order)
    if world_size > 1 and 0 < n < world_size and not drop_last:
        need = f"at least {world_size}, one for each rank"
        raise ValueError(message("DataLoader", "dataset", f"of {n} items", need))
    count, sizes = rounds(n, batch_size, world_size, drop_last)
    whole = batch_size * world_size
    ends = np.concatenate([np.arange(count + 1) * whole, count * whole + np.cumsum(sizes, dtype=np.int64)])
    if ends[-1] > n:
        order = np.concatenate([order, order[: ends[-1] - n]])
    return Shard(order, ends, rank, world_size)


def deal(batches: Sequence[Indices], rank: int, world_size: int) -> list[Indices]:
    """Deal out ready batches: each round is one batch for every rank.

    In the last round there may be fewer than ranks: the largest are halved until there are enough. Where they have too
    few items the first batches are taken again.
    """
    whole = len(batches) // world_size * world_size
    mine = list(batches[rank:whole:world_size])
    left = list(batches[whole:])
    if not left:
        return mine
    again = 0
    while len(left) < world_size:
        largest = max(range(len(left)), key=lambda k: len(left[k]))
        if len(left[largest]) > 1:
            half = -(-len(left[largest]) // 2)
            left[largest : largest + 1] = [left[largest][:half], left[largest][half:]]
        else:
            left.append(batches[again % len(batches)])
            again += 1
    return [*mine, left[rank]]

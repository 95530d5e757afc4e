"""DataLoader.shard: the batches of one loader, cut into the parts of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import data


def loader(n: int, batch_size: int, shuffle: bool, drop_last: bool, buckets: bool, workers: int = 0) -> data.DataLoader:
    """A loader of numbers; or one whose batches a sampler makes."""
    if buckets:
        lengths = np.random.default_rng(n).integers(1, 9, n)
        sampler = data.BucketSampler(lengths, batch_size, drop_last=drop_last)
        return data.DataLoader(np.arange(n), batch_sampler=sampler, seed=3)
    return data.DataLoader(np.arange(n), batch_size, shuffle, drop_last=drop_last, seed=3, num_workers=workers)


def lists(batches: Any) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(st.integers(1, 30), st.integers(1, 9), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 4))
def test_parts_put_together_are_the_batches(
    n: int, batch_size: int, shuffle: bool, drop_last: bool, buckets: bool, size: int
) -> None:
    whole = loader(n, batch_size, shuffle, drop_last, buckets)
    shards = [loader(n, batch_size, shuffle, drop_last, buckets).shard(rank, size) for rank in range(size)]
    for _ in range(2):
        batches = lists(whole)
        assert [len(shard) for shard in shards] == [len(batches)] * size
        parts = []
        for shard in shards:
            iterator = iter(shard)
            parts.append([(batch.tolist(), iterator.stands_in) for batch in iterator])
        for step, batch in enumerate(batches):
            found = [part[step] for part in parts]
            assert [item for items, stands_in in found if not stands_in for item in items] == batch
            assert all(len(items) == 1 and items[0] in batch for items, stands_in in found if stands_in)
            assert max(len(items) for items, _ in found) - min(len(items) for items, _ in found) <= 1


@given(st.integers(4, 30), st.integers(1, 5), st.booleans(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_a_place_is_the_same_for_every_number_of_ranks(
    n: int, batch_size: int, buckets: bool, before: int, after: int, taken: int
) -> None:
    whole, first = (loader(n, batch_size, not buckets, False, buckets) for _ in range(2))
    shard = first.shard(before - 1, before)
    batches, some = iter(whole), iter(shard)
    for _ in range(min(taken, len(whole))):
        next(batches), next(some)
    assert shard.state_dict() == whole.state_dict()
    others = [loader(n, batch_size, not buckets, False, buckets).shard(rank, after) for rank in range(after)]
    left = lists(batches)
    for rank, other in enumerate(others):
        other.load_state_dict(shard.state_dict())
        ends = [(len(batch) * rank // after, len(batch) * (rank + 1) // after) for batch in left]
        assert lists(other) == [batch[low : max(high, low + 1)] for batch, (low, high) in zip(left, ends, strict=True)]


def test_workers_make_the_same_parts() -> None:
    whole = loader(23, 4, True, False, False)
    busy = loader(23, 4, True, False, False, workers=1).shard(1, 3)
    assert lists(busy) == lists(whole.shard(1, 3))
    busy.close()
    assert whole.epoch == 0  # a shard goes its own way


def test_what_cannot_be_cut_is_refused() -> None:
    class Stream(data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(3))

    with pytest.raises(ValueError, match="what comes has no number to cut it by"):
        data.DataLoader(Stream()).shard(0, 2)
    with pytest.raises(ValueError, match="the loader is that of one of several ranks"):
        data.DataLoader(range(8), rank=0, world_size=2, seed=0).shard(0, 2)
    with pytest.raises(ValueError, match="the loader is that of one of several ranks"):
        data.DataLoader(range(8)).shard(0, 2).shard(0, 2)
    with pytest.raises(ValueError, match="rank is 2, needs less than world_size, 2"):
        data.DataLoader(range(8)).shard(2, 2)

"""Samplers and shards: orders are permutations that seed and epoch determine, and ranks share each epoch fairly."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import data
from minigrad.data.shards import count_batches, cut, deal
from minigrad.data.streams import derive, permutation, stream
from minigrad.errors import DTypeError, ShapeError

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**63 - 1)


# --- streams ---------------------------------------------------------------------------------------------------------


@given(seeds, st.lists(st.integers(0, 2**63), min_size=1, max_size=4))
def test_keys_are_functions_of_their_path(seed: int, path: list[int]) -> None:
    assert derive(seed, *path) == derive(seed, *path) == derive(derive(seed, *path[:-1]), path[-1])
    assert derive(seed, *path) not in (derive(seed, *path[:-1], path[-1] + 1), derive(seed, *path, 0))
    assert stream(seed, *path).random() == stream(seed, *path).random()


def test_keys_do_not_meet() -> None:
    keys = {
        derive(seed, purpose, epoch, k)
        for seed in range(4)
        for purpose in range(4)
        for epoch in range(4)
        for k in range(99)
    }
    assert len(keys) == 4 * 4 * 4 * 99


def test_permutations_are_uniform() -> None:
    """Each number is as often at each place: chi squared of 99 x 5 cells."""
    counts = np.zeros((5, 5))
    for k in range(2000):
        counts[np.arange(5), permutation(5, 3, k)] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 40  # 16 degrees of freedom: p = 0.0008


# --- samplers --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 200), seeds, epochs)
def test_random_sampler_permutes(n: int, seed: int, epoch: int) -> None:
    sampler = data.RandomSampler(n)
    order = sampler.order(seed, epoch)
    assert len(sampler) == n
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, sampler.order(seed, epoch))
    if n > 20:
        assert (order != sampler.order(seed, epoch + 1)).any()
        assert (order != sampler.order((seed + 1) % 2**64, epoch)).any()
        own = data.RandomSampler(n, seed=5)
        np.testing.assert_array_equal(own.order(seed, epoch), own.order(0, epoch))


def test_weights_are_probabilities() -> None:
    weights = [0.0, 1.0, 3.0]
    counts = np.bincount(data.WeightedRandomSampler(weights, 40_000).order(1, 0), minlength=3)
    assert counts[0] == 0
    assert abs(counts[2] / 40_000 - 0.75) < 0.01


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20).filter(any), seeds, epochs)
def test_weighted_without_replacement_takes_each_once(weights: list[float], seed: int, epoch: int) -> None:
    positive = np.flatnonzero(weights)
    sampler = data.WeightedRandomSampler(weights, len(positive), replacement=False)
    assert sorted(sampler.order(seed, epoch).tolist()) == positive.tolist()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: data.WeightedRandomSampler([0.0, 0.0]), ValueError, "needs finite weights of at least 0"),
        (lambda: data.WeightedRandomSampler([1.0, 0.0], replacement=False), ValueError, "2 draws"),
        (lambda: data.WeightedRandomSampler([[1.0]]), ShapeError, "weights is float64 (1, 1), needs one axis"),
        (lambda: data.BucketSampler([1, 2], 0), ValueError, "BucketSampler: batch_size is 0, needs at least 1"),
        (lambda: data.BucketSampler([1, 2], 1.5), DTypeError, "batch_size is 1.5, needs an int"),
        (lambda: data.BucketSampler(3, 1), ShapeError, "BucketSampler: lengths is int64 (), needs one axis"),
    ],
)
def test_samplers_say_what_they_need(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


lengths = st.lists(st.integers(0, 30), min_size=0, max_size=80)


@given(lengths, st.integers(1, 9), st.booleans(), st.integers(1, 4), st.booleans(), seeds, epochs)
def test_buckets(
    lengths: list[int], size: int, shuffle: bool, pool: int, drop_last: bool, seed: int, epoch: int
) -> None:
    sampler = data.BucketSampler(lengths, size, shuffle=shuffle, pool=pool, drop_last=drop_last)
    batches = sampler.batches(seed, epoch)
    assert len(batches) == len(sampler)
    taken = np.concatenate(batches).tolist() if batches else []
    assert len(set(taken)) == len(taken)
    assert len(taken) == (len(lengths) // size * size if drop_last else len(lengths))
    assert sum(len(batch) != size for batch in batches) <= (0 if drop_last else 1)
    again = sampler.batches(seed, epoch)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]


@given(st.lists(st.integers(0, 1000), min_size=30, max_size=80), seeds)
def test_buckets_pad_less(lengths: list[int], seed: int) -> None:
    def padding(batches: Any) -> int:
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) - sum(lengths)

    batches = data.BucketSampler(lengths, 5).batches(seed, 0)
    shuffled = data.RandomSampler(len(lengths)).order(seed, 0)
    assert padding(batches) <= padding([shuffled[k : k + 5] for k in range(0, len(lengths), 5)])


# --- shards ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 120), st.integers(1, 9), st.integers(1, 6), seeds)
def test_ranks_cover_the_set_and_have_as_many_batches(n: int, size: int, world: int, seed: int) -> None:
    if 0 < n < world:
        with pytest.raises(ValueError, match=f"dataset is of {n} items, needs at least {world}"):
            cut(np.arange(n), size, False, 0, world)
        return
    order = permutation(n, seed, 0)
    shards = [cut(order, size, False, rank, world) for rank in range(world)]
    steps = count_batches(n, size, False, world)
    assert [len(shard) for shard in shards] == [steps] * world
    assert steps == -(-n // (size * world))
    taken = np.concatenate([batch for shard in shards for batch in shard]) if steps else np.empty(0)
    assert set(taken.tolist()) == set(range(n))
    if size > 1 or n % world == 0:
        assert len(taken) == n  # and none twice
    else:
        assert len(taken) == -(-n // world) * world
    for step in range(steps):
        sizes = [len(shard[step]) for shard in shards]
        assert 1 <= min(sizes) <= max(sizes) <= min(size, min(sizes) + 1)
    # all ranks' batches one after the other are the order: what a single process would see
    rounds = [np.concatenate([shard[step] for shard in shards]) for step in range(steps)]
    if len(taken) == n and n:
        np.testing.assert_array_equal(np.concatenate(rounds), order)
    whole = cut(order, size * world, False, 0, 1)
    for step in range(n // (size * world) - 1):
        np.testing.assert_array_equal(rounds[step], whole[step])


@given(st.integers(0, 120), st.integers(1, 9), st.integers(1, 6))
def test_dropping_the_last_round_keeps_batches_whole(n: int, size: int, world: int) -> None:
    shards = [cut(np.arange(n), size, True, rank, world) for rank in range(world)]
    assert (
        [len(shard) for shard in shards]
        == [n // (size * world)] * world
        == [count_batches(n, size, True, world)] * world
    )
    assert {len(batch) for shard in shards for batch in shard} <= {size}
    taken = [index for shard in shards for batch in shard for index in batch.tolist()]
    assert len(set(taken)) == len(taken) == n // (size * world) * size * world


@given(st.lists(st.integers(1, 7), max_size=20), st.integers(1, 5))
def test_batches_are_dealt_out(sizes: list[int], world: int) -> None:
    ends = np.cumsum([0, *sizes])
    batches = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    dealt = [deal(batches, rank, world) for rank in range(world)]
    assert {len(mine) for mine in dealt} == {-(-len(sizes) // world)}
    taken = [index for mine in dealt for batch in mine for index in batch.tolist()]
    assert set(taken) == set(range(sum(sizes)))
    assert all(len(batch) for mine in dealt for batch in mine)
    last = len(sizes) // world * world
    if sum(sizes[last:]) >= world or last == len(sizes):
        assert len(taken) == sum(sizes)
    for step in range(len(sizes) // world):
        assert [mine[step].tolist() for mine in dealt] == [
            b.tolist() for b in batches[step * world : (step + 1) * world]
        ]

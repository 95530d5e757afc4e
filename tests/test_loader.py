"""Datasets, collate and the loader in one process: orders, resuming, ranks, streams, and what it says of mistakes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import data
from minigrad.errors import DTypeError, ShapeError

seeds = st.integers(0, 2**64 - 1)


def numbers(n: int) -> data.TensorDataset:
    return data.TensorDataset(np.arange(n))


def plain(batch: Any) -> Any:
    """A batch as nested lists, to compare."""
    if isinstance(batch, mg.Tensor):
        return batch.tolist()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return type(batch)(map(plain, batch)) if isinstance(batch, (tuple, list)) else batch


class Pair(NamedTuple):
    """An item with names."""

    x: int
    y: list[Any]


class Draws(data.Dataset):
    """Draws from every generator that there is."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "item": data.item_rng().random(),
            "numpy": np.random.rand(),  # noqa: NPY002
            "python": random.random(),
            "minigrad": mg.random.uniform().item(),
        }


class Stream(data.IterableDataset):
    """A stream that draws."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        for index in range(self.n):
            yield index, data.item_rng().random(), random.random()


# --- datasets --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_batches_of_a_dataset_are_its_items(n: int, places: list[int]) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 2)).astype(np.float16), rng.integers(0, 9, n)
    whole = data.TensorDataset(x, y)
    parts = data.ConcatDataset([data.TensorDataset(x[:1], y[:1]), data.TensorDataset(x[1:], y[1:])]) if n > 1 else whole
    mirrored = data.Subset(data.Subset(parts, np.arange(n)[::-1]), np.arange(n)[::-1])
    indices = np.array(places, np.int64) % n
    for dataset in (whole, parts, mirrored):
        assert len(dataset) == n
        made = dataset.batch(indices)
        np.testing.assert_array_equal(made[0], x[indices], strict=True)
        np.testing.assert_array_equal(made[1], y[indices], strict=True)
        assert not any(np.shares_memory(array, source) for array, source in zip(made, (x, y)))
        for index in indices.tolist():
            item = dataset[index]
            np.testing.assert_array_equal(item[0], x[index])
            assert item[1] == y[index]


def test_datasets_of_other_kinds_are_fetched_item_by_item() -> None:
    both = data.ConcatDataset([["a", "b"], data.Subset(["c", "d"], [1])])
    assert [batch for batch in data.DataLoader(both, 2)] == [["a", "b"], ["d"]]  # noqa: C416
    assert both[-1] == "d"
    with pytest.raises(IndexError, match="ConcatDataset: index is 3, needs 0 to 2"):
        both[3]


def test_parts_that_do_not_fit_are_named() -> None:
    both = data.ConcatDataset([data.TensorDataset(np.zeros((2, 3))), data.TensorDataset(np.zeros((2, 4)))])
    with pytest.raises(
        ShapeError, match=r"collate: shape is float64 \(4,\) in item 1 of the batch, needs float64 \(3,\)"
    ):
        list(data.DataLoader(both, 2, sampler=[1, 2]))


@given(st.integers(0, 60), st.integers(1, 4), seeds)
def test_random_split_divides(n: int, parts: int, seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(parts)).tolist()
    split = data.random_split(range(n), shares, seed=seed)
    assert sorted(index for part in split for index in part) == list(range(n))
    assert all(abs(len(part) - share * n) < 1 + 1e-6 for part, share in zip(split, shares))
    again = data.random_split(range(n), [len(part) for part in split], seed=seed)
    assert [list(part) for part in again] == [list(part) for part in split]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: data.TensorDataset(), ValueError, "arrays is nothing, needs at least one array"),
        (lambda: data.TensorDataset(np.zeros(3), np.zeros(4)), ShapeError, "float64 (4,), needs 3 rows, as the first"),
        (lambda: data.TensorDataset(np.float64(3)), ShapeError, "float64 (), needs at least one axis"),
        (lambda: data.Subset(range(3), [0, 3]), IndexError, "indices is 0 to 3, needs 0 to 2"),
        (lambda: data.Subset(range(3), [[0]]), ShapeError, "indices is int64 (1, 1), needs one axis"),
        (lambda: data.ConcatDataset([]), ValueError, "datasets is empty"),
        (lambda: data.random_split(range(3), [1, 1]), ValueError, "lengths is [1, 1], 2 together, needs 3 together"),
        (lambda: data.random_split(range(3), [0.5, 0.4]), ValueError, "shares of at least 0 that sum to 1"),
        (lambda: len(data.Dataset()), NotImplementedError, "Dataset: needs a method __len__"),
        (lambda: data.Dataset()[0], NotImplementedError, "Dataset: needs a method __getitem__"),
        (lambda: iter(data.IterableDataset()), NotImplementedError, "IterableDataset: needs a method __iter__"),
    ],
)
def test_datasets_say_what_they_need(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


# --- collate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.float64, mg.uint8, mg.int32, mg.bool])
def test_dtypes_are_kept(dtype: Any) -> None:
    x = np.arange(6).reshape(3, 2).astype(dtype)
    for batch in (data.default_collate(list(x)), data.default_collate(list(mg.asarray(x)))):
        np.testing.assert_array_equal(batch, x, strict=True)
    (loaded,) = next(iter(data.DataLoader(data.TensorDataset(mg.asarray(x)), 3)))
    assert loaded.dtype == dtype


def test_structures_and_scalars() -> None:
    items = [{"a": Pair(k, [k / 2, True]), "name": f"n{k}"} for k in range(2)]
    made = data.default_collate(items)
    assert type(made["a"]) is Pair
    assert made["a"].x.dtype == np.int64
    assert made["a"].y[0].dtype == np.float32
    assert made["a"].y[1].dtype == np.bool_
    assert made["name"] == ["n0", "n1"]
    batch = next(iter(data.DataLoader(items, 2)))
    assert isinstance(batch["a"].x, mg.Tensor)
    assert batch["name"] == ["n0", "n1"]
    assert data.default_collate([np.float64(1.0)]).dtype == np.float64


@pytest.mark.parametrize(
    ("items", "error", "text"),
    [
        (
            [np.zeros(3), np.zeros(4)],
            ShapeError,
            "shape is float64 (4,) in item 1 of the batch, needs float64 (3,), as in item 0",
        ),
        ([np.zeros(3), np.zeros(3, np.int8)], DTypeError, "dtype is int8 (3,) in item 1"),
        ([1, 2.5], DTypeError, "dtype is float32 () in item 1 of the batch, needs int64 ()"),
        ([(1, 2), (1,)], ShapeError, "structure is a tuple of 1 in item 1 of the batch, needs a tuple of 2"),
        ([{"a": 1}, {"b": 1}], ShapeError, "structure is a dict with ['b'] in item 1"),
        ([None, None], DTypeError, "collate: item is None, needs an array, a number"),
    ],
)
def test_items_that_do_not_fit_are_named(items: list[Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        data.default_collate(items)
    assert text in str(raised.value)
    with pytest.raises(error, match="the batch was made of items 0, 1"):
        list(data.DataLoader(items, 2))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 4), st.sampled_from([np.int64, np.float16]))
def test_padding(lengths: list[int], multiple: int, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    items = [(rng.integers(1, 9, (length, 2)).astype(dtype), k) for k, length in enumerate(lengths)]
    (padded, found), labels = data.pad_collate(-1, multiple=multiple)(items)
    assert found.tolist() == lengths
    assert labels.tolist() == list(range(len(items)))
    assert padded.dtype == dtype
    assert padded.shape[1] % multiple == 0
    assert max(lengths) <= padded.shape[1] < max(lengths) + multiple
    for row, (sequence, _) in zip(padded, items):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert (row[len(sequence) :] == -1).all()


def test_padding_says_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"shape behind the first axis is float64 \(2, 4\) in item 1 of the batch"):
        data.pad_collate()([np.zeros((1, 3)), np.zeros((2, 4))])
    with pytest.raises(ValueError, match="multiple is 0"):
        data.pad_collate(multiple=0)


# --- the loader ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 9), st.booleans(), st.booleans(), seeds)
def test_an_epoch_is_the_set(n: int, size: int, shuffle: bool, drop_last: bool, seed: int) -> None:
    loader = data.DataLoader(numbers(n), size, shuffle, drop_last=drop_last, seed=seed)
    epochs = [[batch.tolist() for (batch,) in loader] for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(loader)
        taken = [index for batch in epoch for index in batch]
        assert all(len(batch) == size for batch in epoch[: len(loader) - (not drop_last)])
        assert len(set(taken)) == len(taken) == (n // size * size if drop_last else n)
        assert shuffle or taken == sorted(taken)
    if shuffle and n > 25 and not drop_last:
        assert epochs[0] != epochs[1]
    assert loader.epoch == 2
    loader.epoch = 0
    assert [[batch.tolist() for (batch,) in loader] for _ in range(2)] == epochs


def make_loader(kind: str, n: int, size: int, seed: int, rank: int = 0, world: int = 1) -> data.DataLoader:
    """Loaders of all kinds, with randomness wherever there may be."""
    options: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world}
    if kind == "stream":
        return data.DataLoader(Stream(n), size, **options)
    if kind == "bucket":
        batches = data.BucketSampler(np.arange(n) % 7, size, pool=2)
        return data.DataLoader(Draws(n), batch_sampler=batches, **options)
    if kind == "weighted":
        return data.DataLoader(Draws(n), size, sampler=data.WeightedRandomSampler(np.arange(n) + 1.0), **options)
    return data.DataLoader(Draws(n), size, kind == "shuffle", **options)


KINDS = ["plain", "shuffle", "bucket", "weighted", "stream"]


@pytest.mark.parametrize("kind", KINDS)
@given(n=st.integers(2, 30), size=st.integers(1, 6), seed=seeds, at=st.integers(0, 40), data_=st.data())
def test_resumed_in_the_middle(kind: str, n: int, size: int, seed: int, at: int, data_: st.DataObject) -> None:
    """The state taken between two batches leads to the batches that were left, and to the epochs after them."""
    world = data_.draw(st.integers(1, 2))
    rank = data_.draw(st.integers(0, world - 1))
    loader = make_loader(kind, n, size, seed, rank, world)
    want = [[plain(batch) for batch in loader] for _ in range(3)]
    loader.epoch = 1
    batches = iter(loader)
    at = min(at, len(want[1]))
    for k in range(at):
        assert plain(next(batches)) == want[1][k]
    state = json.loads(json.dumps(loader.state_dict()))
    assert [plain(batch) for batch in batches] == want[1][at:]
    other = make_loader(kind, n, size, (seed + 1) % 2**64, rank, world)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert [plain(batch) for batch in other] == want[1][at:]
    assert [plain(batch) for batch in other] == want[2]


@pytest.mark.parametrize("kind", KINDS)
@given(n=st.integers(3, 40), size=st.integers(1, 6), world=st.integers(1, 3), seed=seeds)
def test_ranks_share_an_epoch(kind: str, n: int, size: int, world: int, seed: int) -> None:
    loaders = [make_loader(kind, n, size, seed, rank, world) for rank in range(world)]
    epochs = [[plain(batch) for batch in loader] for loader in loaders]
    assert len({len(epoch) for epoch in epochs}) == 1
    if kind != "stream":
        assert {len(loader) for loader in loaders} == {len(epochs[0])}
    key = 0 if kind == "stream" else "index"
    taken = sorted(index for epoch in epochs for batch in epoch for index in batch[key])
    if kind in ("plain", "shuffle", "bucket"):
        assert set(taken) == set(range(n))
    if kind == "stream":
        lost = n % (size * world)
        assert taken == list(range(n - (lost if lost <= size * (world - 1) else 0)))


def test_the_length_of_a_stream_with_a_length() -> None:
    class Counted(Stream):
        def __len__(self) -> int:
            return self.n

    for n in (0, 1, 5, 6, 7, 12):
        for size in (1, 3):
            for world in (1, 2, 3):
                for drop_last in (False, True):
                    options = {"drop_last": drop_last, "rank": world - 1, "world_size": world}
                    loader = data.DataLoader(Counted(n), size, **options)
                    assert len(loader) == len(list(loader)), (n, size, options)
    with pytest.raises(TypeError, match="dataset is a Stream, needs __len__"):
        len(data.DataLoader(Stream(3)))


def test_global_generators_go_on_as_if_nothing_were_loaded() -> None:
    for loader in (data.DataLoader(Draws(6), 2, seed=1), data.DataLoader(Stream(6), 2, seed=1)):
        mg.random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        list(loader)
        got = mg.random.uniform().item(), np.random.rand(), random.random()  # noqa: NPY002
        mg.random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        assert got == (mg.random.uniform().item(), np.random.rand(), random.random())  # noqa: NPY002


def test_an_item_draws_the_same_wherever_it_is() -> None:
    """`item_rng` is a function of seed, epoch and index; two draws of an item differ."""
    loaders = data.DataLoader(Draws(9), 2, seed=4), data.DataLoader(Draws(9), 5, True, seed=4)
    rows = [dict(pair for b in loader for pair in zip(b["index"].tolist(), b["item"].tolist())) for loader in loaders]
    assert rows[0] == rows[1]
    assert len(set(rows[0].values())) == 9

    class Twice(Draws):
        def __getitem__(self, index: int) -> Any:
            return data.item_rng().random(), data.item_rng().random()

    first, second = next(iter(data.DataLoader(Twice(1))))
    assert first.item() != second.item()
    assert data.item_rng().random() != data.item_rng().random()  # outside of a loader


class Scale:
    """A transform that records where it was asked."""

    def __call__(self, batch: Any, rng: np.random.Generator) -> Any:
        return batch[0] * rng.random(), rng.integers(0, 2**40)


def test_transforms_get_a_generator_of_the_batch() -> None:
    def run(rank: int = 0, world: int = 1) -> list[int]:
        loader = data.DataLoader(numbers(12), 2, seed=2, transform=Scale(), rank=rank, world_size=world)
        return [int(number) for _ in range(2) for _, number in loader]

    alone = run()
    assert len(set(alone)) == 12
    assert alone == run()
    shared = [run(rank, 2) for rank in (0, 1)]
    assert [number for pair in zip(*shared) for number in pair] == alone


def test_a_loop_that_is_left_early_ends_its_epoch() -> None:
    loader = data.DataLoader(numbers(50), 10, True, seed=1)
    want = [[batch.tolist() for (batch,) in loader] for _ in range(3)]
    loader.epoch = 0
    for (batch,) in loader:
        assert batch.tolist() == want[0][0]
        break
    assert loader.epoch == 0
    assert [batch.tolist() for (batch,) in loader] == want[1]
    assert loader.epoch == 2


def test_setting_the_epoch_keeps_the_place_of_a_loaded_state() -> None:
    loader = data.DataLoader(numbers(50), 10, True, seed=1)
    want = [[batch.tolist() for (batch,) in loader] for _ in range(2)]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 2})
    loader.epoch = 1
    assert [batch.tolist() for (batch,) in loader] == want[1][2:]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 2})
    loader.epoch = 0
    assert [batch.tolist() for (batch,) in loader] == want[0]


def test_two_iterators_at_once_are_two_epochs() -> None:
    loader = data.DataLoader(numbers(50), 10, True, seed=1)
    want = [[batch.tolist() for (batch,) in loader] for _ in range(2)]
    loader.epoch = 0
    pairs = [(a.tolist(), b.tolist()) for (a,), (b,) in zip(loader, loader)]
    assert pairs == list(zip(*want))


def test_seeds_come_from_the_default_generator() -> None:
    def order() -> list[int]:
        return [batch.item() for (batch,) in data.DataLoader(numbers(30), shuffle=True)]

    mg.random.seed(3)
    first, second = order(), order()
    mg.random.seed(3)
    assert [order(), order()] == [first, second]
    assert first != second


def test_any_iterable_with_a_length_is_an_order() -> None:
    loader = data.DataLoader(numbers(5), 2, sampler=[4, 0, 0])
    assert [batch.tolist() for (batch,) in loader] == [[4, 0], [0]]
    loader = data.DataLoader(numbers(5), batch_sampler=[[1], [2, 3]])
    assert [batch.tolist() for (batch,) in loader] == [[1], [2, 3]] == [batch.tolist() for (batch,) in loader]
    assert len(loader) == 2


def test_errors_of_a_dataset_name_the_item() -> None:
    class Broken(Draws):
        def __getitem__(self, index: int) -> Any:
            if index > 2:
                raise (StopIteration if index == 4 else KeyError)("lost")
            return index

    loader = data.DataLoader(Broken(5), 1)
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(KeyError, match="raised by item 3 of the Broken"):
        list(batches)
    assert list(batches) == []  # it has ended
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(data.DataLoader(Broken(5), sampler=[4]))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: data.DataLoader(3), TypeError, "dataset is 3, needs a dataset with __len__ and __getitem__, or with"),
        (lambda: data.DataLoader(numbers(3), 0), ValueError, "batch_size is 0, needs at least 1"),
        (lambda: data.DataLoader(numbers(3), 1.5), DTypeError, "batch_size is 1.5, needs an int of at least 1"),
        (lambda: data.DataLoader(numbers(3), num_workers=-1), ValueError, "num_workers is -1, needs at least 0"),
        (lambda: data.DataLoader(numbers(3), prefetch=0), ValueError, "prefetch is 0, needs at least 1"),
        (
            lambda: data.DataLoader(numbers(3), rank=2, world_size=2),
            ValueError,
            "rank is 2, needs less than world_size",
        ),
        (lambda: data.DataLoader(numbers(3), collate=1), TypeError, "collate is 1, needs a callable"),
        (lambda: data.DataLoader(numbers(3), seed=2**64), ValueError, "needs less than 2**64"),
        (lambda: data.DataLoader(numbers(3), 1, True, sampler=[0]), ValueError, "shuffle is True, needs False beside"),
        (lambda: data.DataLoader(numbers(3), sampler=5), DTypeError, "sampler is 5, needs a Sampler, or an iterable"),
        (
            lambda: data.DataLoader(numbers(3), 2, batch_sampler=[[0]]),
            ValueError,
            "batch_size is given, needs to be left",
        ),
        (lambda: data.DataLoader(Stream(3), 1, True), ValueError, "no shuffle, sampler or batch_sampler"),
        (
            lambda: data.DataLoader(numbers(3), 1, True, world_size=2),
            ValueError,
            "seed is None, needs an int, the same",
        ),
        (lambda: list(data.DataLoader(numbers(3), sampler=[3])), IndexError, "Given.order: got indices from 3 to 3"),
        (lambda: list(data.DataLoader(numbers(3), sampler=[0.5])), DTypeError, "needs integers along one axis"),
        (
            lambda: list(data.DataLoader(numbers(3), batch_sampler=[[]])),
            ValueError,
            "a batch is empty, needs an item at least",
        ),
        (lambda: list(data.DataLoader(numbers(3), world_size=4)), ValueError, "of 3 items, needs at least 4"),
    ],
)
def test_loaders_say_what_they_need(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


def test_the_import_is_light() -> None:
    """A worker imports this at its start."""
    script = "import minigrad.data, sys; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "minigrad.data.transforms.affine" in loaded
    assert not loaded & {"scipy", "PIL", "matplotlib", "multiprocessing", "numpy.random", "zipfile", "minigrad.nn"}


def test_states_of_other_loaders_are_refused() -> None:
    state = data.DataLoader(numbers(10), 2).state_dict()
    for other, text in (
        (data.DataLoader(numbers(11), 2), "items is 10, needs 11. The batches would be others"),
        (data.DataLoader(numbers(10), 3), "batch_size is 2, needs 3"),
        (data.DataLoader(numbers(10), 2, world_size=2), "world_size is 1, needs 2"),
    ):
        with pytest.raises(ValueError, match=text):
            other.load_state_dict(state)
    with pytest.raises(DTypeError, match="epoch is None, needs an int"):
        data.DataLoader(numbers(10), 2).load_state_dict({"seed": 1})


@pytest.mark.parametrize("indices", [np.array([True, False, True]), [True, False, True], [0.0, 1.7], [[0], [1, 2]]])
def test_a_subset_of_what_are_no_indices_is_refused(indices):
    """As ints a mask would be the items 0 and 1."""
    with pytest.raises(DTypeError, match=r"Subset: indices is .* needs ints"):
        data.Subset(range(3), indices)
    assert list(data.Subset(range(3), np.array([], np.float64))) == []
    assert list(data.Subset(range(3), np.array([2, 0], np.uint8))) == [2, 0]


@pytest.mark.parametrize("state", [None, 5, [("seed", 1)]])
def test_a_state_that_is_no_mapping_is_refused(state):
    with pytest.raises(TypeError, match=r"DataLoader\.load_state_dict: state is .* needs what state_dict gives"):
        data.DataLoader(range(3)).load_state_dict(state)


def test_an_iterator_has_one_epoch() -> None:
    loader = data.DataLoader((i for i in range(3)), batch_size=2)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2]]
    with pytest.raises(ValueError, match=r"DataLoader: dataset is .*generator.*, needs something whose __iter__"):
        iter(loader)

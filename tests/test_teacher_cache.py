"""TeacherCache: what is read is what the teacher says, bit for bit, or an error says why not."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import compress, data, nn, train
from minigrad.compress.distillation import teacher_cache
from minigrad.data import DataError

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package
functions = importlib.import_module("distill_functions")
net, examples = functions.net, functions.examples


def make(seed: int = 1, **options: Any) -> compress.Distiller:
    """A student, and a teacher that counts the examples it is asked about."""
    teacher = net(8, 3, seed=seed, dropout=0.5)
    distiller = compress.Distiller(net(5, 3), teacher, 2.0, terms=[compress.Hint("0")], **options)
    distiller.asked = []
    teacher.register_forward_hook(lambda module, args, output: distiller.asked.append(len(args[0])))
    return distiller


def dataset(count: int = 24) -> data.TensorDataset:
    return data.TensorDataset(*examples(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_and_asks_the_teacher_once(workers: int, tmp_path: Path) -> None:
    """With batches that are those of the teacher, as the last bits of a product hang on the size of a batch."""

    def fit(cached: bool) -> tuple[compress.Distiller, list[float]]:
        mg.random.seed(7)
        distiller, own = make(), dataset()
        indexed = distiller.cache(tmp_path / "cache", own, batch_size=8) if cached else own
        loader = data.DataLoader(indexed, 8, seed=3, num_workers=workers * cached)
        trainer = train.Trainer(distiller, distiller.loss, "adam", ["accuracy"], lr=0.05)
        return distiller, trainer.fit(loader, epochs=4, verbose=0)["loss"]

    (first, wanted), (second, found) = fit(False), fit(True)
    assert found == wanted
    assert sum(first.asked) == 24 * 4
    assert sum(second.asked) == 24
    third, again = fit(True)
    assert again == wanted
    assert not third.asked


@given(
    count=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 100),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
)
def test_any_rows_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch_size: int, seed: int, dtype: str
) -> None:
    path = tmp_path_factory.mktemp("cache") / "teacher"
    rng = np.random.default_rng(seed)
    arrays = {
        "": np.asarray(mg.asarray(rng.normal(size=(count, 3))).astype(getattr(mg, dtype)).numpy()),
        "layer:0": rng.normal(size=(count, 2, 2)),
        "none": np.zeros((count, 0), np.float32),
        "number": rng.integers(0, 9, count),
    }
    inputs = mg.asarray(rng.normal(size=(count, 2)))
    sums = teacher_cache.example_sums(((inputs,), {}), count)
    parts = [slice(i, i + batch_size) for i in range(0, count, batch_size)]
    batches = [(1, {**{name: a[part] for name, a in arrays.items()}, teacher_cache.SEEN: sums[part]}) for part in parts]
    teacher_cache.write(path, "key", count, batches)
    cache = teacher_cache.TeacherCache.open(path)
    assert (cache.count, cache.key, cache.positional) == (count, "key", 1)
    chosen = rng.integers(0, count, 7)
    found = cache.read(mg.asarray(chosen), (inputs[mg.asarray(chosen)],), {})
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        got = found[name].numpy()
        assert got.dtype == array.dtype
        assert got.tobytes() == array[chosen].tobytes()
        assert not np.shares_memory(got, cache.arrays[name]) or not got.size


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_damaged_byte_is_found(tmp_path_factory: pytest.TempPathFactory, place: float, flip: int) -> None:
    path = tmp_path_factory.mktemp("cache") / "teacher"
    batch = {"": np.arange(12.0).reshape(4, 3), teacher_cache.SEEN: np.arange(4, dtype=np.uint32)}
    teacher_cache.write(path, "key", 4, [(1, batch)])
    whole = bytearray(path.read_bytes())
    entry = [{"shape": [4, 3], "dtype": "float64"}, {"shape": [4], "dtype": "uint32"}]
    with open(path, "rb") as file:
        _, start = teacher_cache.read_header(file, path)
    first, second = teacher_cache.places(entry, start)
    unused = {*range(start, first), *range(first + 96, second)}  # nothing reads what lies between the arrays
    at = int(place * len(whole))
    whole[at] ^= flip
    path.write_bytes(whole)
    if at in unused:
        teacher_cache.TeacherCache.open(path)
        return
    with pytest.raises(DataError, match=r"teacher is .*needs what Distiller.cache has written"):
        teacher_cache.TeacherCache.open(path)


def test_files_that_are_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with pytest.raises(DataError, match="needs a file that is there"):
        teacher_cache.TeacherCache.open(path)
    make().cache(path, dataset())
    whole = path.read_bytes()
    for text in (b"", b"hello", whole[:10], whole[:-1], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(text)
        with pytest.raises(DataError, match="Delete it, or pass refresh=True"):
            make().cache(path, dataset())
    made = make()
    made.cache(path, dataset(), refresh=True)
    assert sum(made.asked) == 24
    assert path.read_bytes() == whole


HEADERS: list[Any] = [
    [],
    "[" * 100_000,
    {"count": "x"},
    {"count": 0},
    {"count": True},
    {"positional": None},
    {"arrays": {}},
    {"arrays": []},
    *(
        {"arrays": [entry, {"name": teacher_cache.SEEN, "shape": [4], "dtype": "uint32"}]}
        for entry in (
            {"name": "", "shape": [-4, -3], "dtype": "float32"},
            {"name": "", "shape": [4, 0, 2**70], "dtype": "float32"},
            {"name": "", "shape": [4, 3.0], "dtype": "float32"},
            {"name": "", "shape": [4] + [1] * 99, "dtype": "float32"},
            {"name": "", "shape": [5, 3], "dtype": "float32"},
            {"name": "", "shape": [], "dtype": "float32"},
            {"name": [], "shape": [4, 3], "dtype": "float32"},
            {"name": teacher_cache.SEEN, "shape": [4], "dtype": "uint32"},
            {"name": "", "shape": [4, 3], "dtype": "object"},
        )
    ),
    {"arrays": [{"name": "", "shape": [4, 3], "dtype": "float32"}]},
    {"arrays": [{"name": teacher_cache.SEEN, "shape": [4], "dtype": "float32"}]},
]


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_headers_that_say_what_cannot_be_are_one_clear_error(number: int, tmp_path: Path) -> None:
    """All sums of the file are right."""
    path, header = tmp_path / "teacher", HEADERS[number]
    if isinstance(header, dict):
        seen = [{"name": teacher_cache.SEEN, "shape": [4], "dtype": "uint32"}]
        header = {"count": 4, "key": "key", "positional": 1, "arrays": seen, **header}
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    whole = teacher_cache.MAGIC + teacher_cache.LENGTH.pack(len(text)) + text + struct.pack("<I", zlib.crc32(text))
    entries = header["arrays"] if isinstance(header, dict) else []
    with contextlib.suppress(TypeError, ValueError):  # what has no size has no bytes either
        sums = []
        for entry, place in zip(entries, teacher_cache.places(entries, len(whole)), strict=True):
            whole = whole.ljust(place, b"\0") + bytes(min(max(teacher_cache.size_of(entry), 0), 1000))
            sums.append(zlib.crc32(whole[place:]))
        whole += struct.pack(f"<{len(sums)}I", *sums)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"malformed .*needs what Distiller.cache has written"):
        teacher_cache.TeacherCache.open(path)


def test_a_folder_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a file that is there"):
        make().cache(tmp_path, dataset())


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (np.ones((4, 6), np.float32), r"index is float32 \(4, 6\), needs a number, an int, for each example"),
        (np.zeros((4, 1), np.int64), r"index is int64 \(4, 1\), needs a number"),
        (np.ones(4, np.bool_), r"index is bool \(4,\), needs a number"),
        (np.int64(3), r"index is int64 \(\), needs a number"),
        (np.array([0, -1, 2, 3]), "index is from -1 to 3, needs numbers from 0 to 23"),
        (np.array([0, 1, 2, 24]), "index is from 0 to 24, needs numbers from 0 to 23"),
    ],
)
def test_what_is_no_number_of_an_example_is_refused(index: Any, text: str, tmp_path: Path) -> None:
    distiller = make()
    distiller.cache(tmp_path / "cache", dataset())
    with pytest.raises(ValueError, match=text):
        distiller(mg.asarray(index), mg.asarray(examples()[0][:4]))


def test_another_function_of_the_output_is_another_teacher(tmp_path: Path) -> None:
    def cache(output: Any) -> Any:
        made = compress.Distiller(net(5, 3), net(8, 3, seed=1), output=output)
        made.cache(tmp_path / "cache", dataset())
        return made

    def times(factor: float) -> Any:
        return lambda y: y * factor

    cache(times(2.0))
    cache(times(2.0))
    for other in (times(3.0), lambda y: y, lambda y, factor=2.0: y * factor, lambda y: y / 2.0, mg.relu):
        with pytest.raises(DataError, match="of another teacher, needs one of this teacher"):
            cache(other)


def test_another_function_inside_of_the_teacher_is_another_teacher(tmp_path: Path) -> None:
    def cache(function: Any) -> None:
        teacher = nn.Sequential([net(8, 3, seed=1), nn.Lambda(function)])
        compress.Distiller(net(5, 3), teacher).cache(tmp_path / "cache", dataset())

    for _ in range(2):
        cache(lambda y: y * 2.0)
    with pytest.raises(DataError, match="of another teacher, needs one of this teacher"):
        cache(lambda y: y * 3.0)


@pytest.mark.parametrize("change", ["weights", "layers", "term", "count"])
def test_another_teacher_or_other_examples_are_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    make().cache(path, dataset())
    distiller, own = make(), dataset()
    if change == "weights":
        with mg.no_grad():
            distiller.teacher[0].weight[0, 0] += 1e-6
    elif change == "layers":
        distiller = compress.Distiller(net(5, 3), net(8, 3, seed=1), terms=[compress.Hint("0")])
    elif change == "term":
        distiller = compress.Distiller(net(5, 3), net(8, 3, seed=1, dropout=0.5))
    else:
        own = dataset(23)
    with pytest.raises(DataError, match=f"of {'other examples' if change == 'count' else 'another teacher'}"):
        distiller.cache(path, own)


def test_an_augmented_image_is_refused(tmp_path: Path) -> None:
    distiller = make()
    indexed = distiller.cache(tmp_path / "cache", dataset())
    trainer = train.Trainer(distiller, distiller.loss)

    def noisy(batch: Any, rng: np.random.Generator) -> Any:
        index, x, y = batch
        return index, x + 1e-3, y

    augmented = data.DataLoader(indexed, 8, seed=0, transform=noisy)
    with pytest.raises(ValueError, match=r"another one for example \d+ than the teacher has seen.*augmented"):
        trainer.fit(augmented, verbose=0)
    other = data.DataLoader(compress.Indexed(data.TensorDataset(*examples(seed=9))), 8, seed=0)
    with pytest.raises(ValueError, match="than the teacher has seen"):
        trainer.fit(other, verbose=0)


def test_training_without_numbers_is_refused_and_evaluation_asks_the_teacher(tmp_path: Path) -> None:
    distiller, own = make(), dataset()
    indexed = distiller.cache(tmp_path / "cache", own)
    trainer = train.Trainer(distiller, distiller.loss, "adam")
    with pytest.raises(ValueError, match=r"index is missing, needs batches of the dataset that cache\(\) gave"):
        trainer.fit(own, verbose=0)
    distiller.asked.clear()
    by_teacher = trainer.evaluate(own)
    assert sum(distiller.asked) == 24
    by_cache = trainer.evaluate(indexed)
    assert sum(distiller.asked) == 24
    np.testing.assert_allclose(by_cache["loss"], by_teacher["loss"], rtol=1e-6)
    assert trainer.predict(mg.asarray(examples()[0])).shape == (24, 3)
    with pytest.raises(ValueError, match="index is from 99 to 99"):
        distiller(mg.tensor([99]), mg.asarray(examples()[0][:1]))


class Named(data.Dataset):
    """Items that are dicts, one of several lengths."""

    def __init__(self, ragged: bool = False) -> None:
        self.x, self.y = examples()
        self.ragged = ragged

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        size = index % 3 + 2 if self.ragged else 6
        return {"x": self.x[index][:size], "targets": self.y[index]}


class Reader(nn.Module):
    """A model with a named argument."""

    def __init__(self, *units: int, seed: int = 0) -> None:
        self.inner = net(*units, seed=seed)

    def forward(self, *, x: mg.Tensor) -> mg.Tensor:
        return self.inner(x)


def test_items_that_are_dicts(tmp_path: Path) -> None:
    distiller = compress.Distiller(Reader(5, 3), Reader(8, 3, seed=1))
    indexed = distiller.cache(tmp_path / "cache", Named())
    assert list(indexed[3]) == ["index", "x", "targets"]
    history = train.Trainer(distiller, distiller.loss, "adam", lr=0.05).fit(indexed, epochs=3, verbose=0)
    assert history["loss"][-1] < history["loss"][0]


class Echo(nn.Module):
    """A teacher whose output is as long as its input."""

    def __init__(self) -> None:
        self.scale = nn.Parameter([2.0])

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x * self.scale


def test_examples_of_several_lengths_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    class Ragged(Named):
        def __getitem__(self, index: Any) -> Any:
            return tuple(super().__getitem__(index).values())

    distiller = compress.Distiller(Echo(), Echo(), alpha=1.0, loss=None, kind="regression")
    with pytest.raises(ValueError, match=r"needs examples of one shape\. Pad all of them to one length"):
        distiller.cache(tmp_path / "cache", Ragged(ragged=True), batch_size=1)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="dataset is empty"):
        distiller.cache(tmp_path / "cache", data.TensorDataset(np.ones((0, 2)), np.ones(0)))
    assert not os.listdir(tmp_path)


def test_a_teacher_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    make().cache(path, dataset())
    whole = path.read_bytes()
    distiller = make()

    def die(module: nn.Module, args: Any, output: Any) -> None:
        if len(distiller.asked) > 1:
            raise KeyboardInterrupt

    distiller.teacher.register_forward_hook(die)
    with pytest.raises(KeyboardInterrupt):
        distiller.cache(path, dataset(), batch_size=8, refresh=True)
    assert os.listdir(tmp_path) == ["cache"]
    assert path.read_bytes() == whole


def test_a_teacher_that_follows_cannot_be_cached(tmp_path: Path) -> None:
    student = net(5, 3)
    distiller = compress.Distiller(student, compress.EMATeacher(student))
    with pytest.raises(ValueError, match="an EMATeacher, which changes"):
        distiller.cache(tmp_path / "cache", dataset())


def test_what_cannot_be_numbered() -> None:
    with pytest.raises(TypeError, match="needs a dataset whose items have numbers"):
        compress.Indexed(iter([1]))
    with pytest.raises(TypeError, match="needs tuples or dicts"):
        compress.Indexed([1, 2])[0]
    with pytest.raises(ValueError, match="dicts with an index"):
        compress.Indexed([{"index": 1}])[0]

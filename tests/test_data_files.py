"""Files of data: CSV, .npy and .npz, texts and their tokens."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import data
from minigrad.data import DataError
from minigrad.errors import DTypeError, ShapeError
from minigrad.models import ByteTokenizer, CharacterTokenizer

TEST_DATA = pathlib.Path(os.environ.get("MINIGRAD_TEST_DATA") or pathlib.Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("files")


# --- CSV -------------------------------------------------------------------------------------------------------------

tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.floats(-1e30, 1e30))


@given(tables, st.booleans(), st.sampled_from([",", ";", "\t"]), st.booleans(), st.data())
def test_tables_round_trip(
    folder: pathlib.Path, table: Any, header: bool, delimiter: str, words: bool, data_: st.DataObject
) -> None:
    path, (rows, columns) = folder / "round.csv", table.shape
    target = data_.draw(st.integers(-columns, columns - 1)) % columns
    labels = data_.draw(st.lists(st.sampled_from(['a "b"', "c, d", "e\nf", "7"]), min_size=rows, max_size=rows))
    names = [f"name {k}" for k in range(columns)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if header:
            writer.writerow(names)
        for row, label in zip(table.tolist(), labels):
            if words:
                row[target] = label
            writer.writerow(row)
    options: dict[str, Any] = {"delimiter": delimiter, "header": header, "dtype": np.float64}
    key = data_.draw(st.sampled_from([target, target - columns, *([names[target]] if header else [])]))
    found = data.load_csv(path, target=key, **options)
    kept = [k for k in range(columns) if k != target]
    np.testing.assert_array_equal(found.features, table[:, kept], strict=True)
    assert found.names == ([names[k] for k in kept] if header else [str(k) for k in kept])
    assert found.targets is not None
    if words and set(labels) != {"7"}:
        assert [found.classes[k] for k in found.targets] == labels
        assert found.classes == sorted(set(labels))
        assert found.targets.dtype == np.int64
    else:
        np.testing.assert_array_equal(found.targets, [7] * rows if words else table[:, target])
        assert found.classes == []
    if not words:
        everything = data.load_csv(path, **options)
        np.testing.assert_array_equal(everything.features, table, strict=True)
        assert everything.targets is None


def test_types_and_missing_values(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\ufeffa,b,y\n1, 2.5,3\n\n,4,-5\n", encoding="utf-8")
    table = data.load_csv(path, target="y", missing=float("nan"))
    assert table.features.dtype == np.float32
    np.testing.assert_array_equal(table.features, [[1, 2.5], [np.nan, 4]])
    assert table.targets is not None
    assert (table.targets.tolist(), table.targets.dtype) == ([3, -5], np.int64)
    path.write_text("1,2\n3,4.5\n")
    table = data.load_csv(path, target=-1, header=False, dtype=np.int16)
    assert table.features.dtype == np.int16
    assert table.targets is not None
    assert (table.targets.tolist(), table.targets.dtype) == ([2.0, 4.5], np.float64)
    half = data.load_csv(path, header=False, dtype=mg.bfloat16).features
    assert (half.tolist(), half.dtype) == ([[1, 2], [3, 4.5]], mg.bfloat16)
    assert data.load_csv(path, target=1, header=False, dtype="f8").targets.tolist() == [2.0, 4.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "options", "error", "wanted"),
    [
        ("a,b\n1,2\n3,x\n", {}, DataError, "line 3, column 'b': is 'x', needs a number of float32"),
        (
            "a,b\n1,2\n\n3,\n",
            {},
            DataError,
            "line 4, column 'b': is an empty field, needs a number of float32; missing=",
        ),
        ("a,b\n1,2.5\n", {"dtype": np.int8}, DataError, "line 2, column 'b': is '2.5', needs a number of int8"),
        ("a,b\n1,300\n", {"dtype": np.int8}, DataError, "line 2, column 'b': is '300', needs a number of int8"),
        ("a,b\n1,1e99\n", {}, DataError, "line 2, column 'b': is '1e99', needs a number of float32"),
        ("a,b\n1\n", {}, DataError, "line 2: has 1 fields, needs 2"),
        ("a,y\n1,\n", {"target": "y"}, DataError, "line 2, column 'y': is an empty field, needs a target"),
        ('a,b\n1,"2\n', {}, DataError, "line 2: unexpected end of data"),
        ("a,b\n", {}, DataError, "has no rows"),
        ("", {}, DataError, "has no rows"),
        ("a,b\n1,2\n", {"target": "c"}, ValueError, "target is 'c', needs the name or index of one of the columns"),
        ("a,a\n1,2\n", {"target": "a"}, ValueError, "target is 'a', needs"),
        ("a,b\n1,2\n", {"target": 2}, ValueError, "target is 2, needs"),
    ],
)
def test_tables_say_what_is_wrong(
    text: str, options: dict[str, Any], error: type[Exception], wanted: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(error) as raised:
        data.load_csv(path, **options)
    assert wanted in str(raised.value)
    assert str(path) in str(raised.value)


def test_missing_and_binary_files(tmp_path: pathlib.Path) -> None:
    for read in (data.load_csv, data.load_arrays, lambda path: data.TextDataset(path, 3)):
        with pytest.raises(DataError, match=r"no\.csv: No such file or directory"):
            read(tmp_path / "no.csv")
    (tmp_path / "x").write_bytes(b"\xff\xfe,1\n")
    with pytest.raises(DataError, match="x: 'utf-8' codec can't decode"):
        data.load_csv(tmp_path / "x")
    with pytest.raises(DataError, match="x: 'utf-8' codec can't decode"):
        data.TextDataset(tmp_path / "x", 1)
    with pytest.raises(DataError, match="x: "):
        data.load_arrays(tmp_path / "x")


# --- .npy and .npz ---------------------------------------------------------------------------------------------------

arrays = hnp.arrays(
    st.sampled_from(["<f4", ">i8", "u1", "?", "U3"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=5)
)


@given(st.lists(arrays, max_size=3), st.booleans(), st.booleans(), st.booleans())
def test_arrays_round_trip(folder: pathlib.Path, given: list[Any], compressed: bool, fortran: bool, mmap: bool) -> None:
    path = folder / "x.npz"
    given = [np.asfortranarray(x) if fortran else x for x in given]
    (np.savez_compressed if compressed else np.savez)(path, *given)
    found = data.load_arrays(path, mmap=mmap)
    assert list(found) == [f"arr_{k}" for k in range(len(given))]
    for x, y in zip(given, found.values()):
        np.testing.assert_array_equal(y, x, strict=True)
        if mmap and not compressed and x.size:
            assert isinstance(y, np.memmap)
            assert not y.flags.writeable
    for x in given:
        np.save(folder / "x.npy", x)
        np.testing.assert_array_equal(data.load_arrays(folder / "x.npy", mmap=mmap), x, strict=True)


def test_nothing_is_unpickled(tmp_path: pathlib.Path) -> None:
    secret = np.array([{"a": 1}], object)
    np.save(tmp_path / "x.npy", secret, allow_pickle=True)
    np.savez(tmp_path / "x.npz", secret)
    for name, mmap in itertools.product(("x.npy", "x.npz"), (True, False)):
        with pytest.raises(DataError, match=f"{name}: .*(object|Object)"):
            data.load_arrays(tmp_path / name, mmap=mmap)


def test_damaged_archives(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, np.arange(100))
    whole = path.read_bytes()
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            data.load_arrays(path)
    path.write_bytes(whole.replace(b"(100,)", b"(900,)"))
    with pytest.raises(DataError, match=r"x\.npz: arr_0\.npy: is truncated"):
        data.load_arrays(path)


# --- texts -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 9), st.booleans())
def test_windows_are_the_text_and_its_future(n: int, block: int, stride: int, spaced: bool) -> None:
    tokens = np.arange(n, dtype=np.uint16)
    options = {"stride": stride} if spaced else {}
    if n <= block:
        with pytest.raises(ValueError, match=f"a text of {n} tokens, needs more than block, {block}"):
            data.TextDataset(tokens, block, **options)
        return
    dataset = data.TextDataset(tokens, block, **options)
    step = stride if spaced else block
    starts = [start for start in range(0, n, step) if start + block + 1 <= n]
    assert len(dataset) == len(starts)
    for index, start in enumerate(starts):
        inputs, targets = dataset[index]
        assert inputs.tolist() == list(range(start, start + block))
        assert targets.tolist() == list(range(start + 1, start + block + 1))
    made = dataset.batch(np.arange(len(starts))[::-1])
    for array, column in zip(made, zip(*[dataset[k] for k in range(len(starts))][::-1])):
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, np.stack(column))
    with pytest.raises(IndexError):
        dataset[len(starts)]


def test_sources_of_text(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "blü blü im Abendrot"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)
    for source in (text, "a.txt", tmp_path / "a.txt", "a.txt.gz"):
        assert data.TextDataset(source, 4).tokens.tobytes() == text.encode()
    tokenizer = CharacterTokenizer(sorted(set(text)))
    inputs, _ = data.TextDataset(text, 5, tokenizer=tokenizer)[1]
    assert tokenizer.decode(inputs) == "lü im"
    with pytest.raises(ValueError, match=r"of 5 tokens, needs more than block, 9. There is no file 'b.txt' either"):
        data.TextDataset("b.txt", 9)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(DataError, match=r"cut\.gz: Compressed file ended"):
        data.TextDataset("cut.gz", 2)
    np.save("tokens.npy", np.arange(50, dtype=np.uint16))
    mapped = data.load_arrays("tokens.npy")
    assert data.TextDataset(mapped, 8).tokens is mapped
    with pytest.raises(DTypeError, match="source is float64"):
        data.TextDataset(np.zeros(9), 2)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=8))
def test_tokens_of_texts(texts: list[str]) -> None:
    ids = data.tokenize(texts, ByteTokenizer())
    assert [ByteTokenizer().decode(sequence) for sequence in ids] == texts
    dataset = data.RaggedDataset(ids, np.arange(len(texts)))
    assert dataset.lengths.tolist() == [len(text.encode()) for text in texts]
    for k, sequence in enumerate(ids):
        assert dataset[k][0].tolist() == sequence.tolist()
        assert dataset[k][1] == k
    assert dataset[-1][1] == len(texts) - 1


def test_tokenizers_of_others() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    assert [ids.tolist() for ids in data.tokenize(["to be", "be or"], words)] == [[0, 1], [1, 2]]


def test_sequences_of_features_and_mistakes() -> None:
    rng = np.random.default_rng(0)
    dataset = data.RaggedDataset([rng.random((k, 3), np.float32) for k in (2, 0, 4)])
    batch = next(iter(data.DataLoader(dataset, 3, collate=data.pad_collate())))
    assert batch[0].shape == (3, 4, 3)
    assert batch[0].dtype == mg.float32
    assert batch[1].tolist() == [2, 0, 4]
    for make, error, text in (
        (lambda: data.RaggedDataset([]), ValueError, "sequences is empty"),
        (
            lambda: data.RaggedDataset([[1], [1.5]]),
            ShapeError,
            r"sequence 1 is float64 \(1,\), needs int64 of shape \(length,\)",
        ),
        (lambda: data.RaggedDataset([[1]], [1, 2]), ShapeError, r"arrays is int64 \(2,\), needs 1 rows"),
        (lambda: data.tokenize(["a"], 3), DTypeError, "tokenizer is 3, needs a callable"),
        (lambda: data.tokenize(["a"], lambda text: [0.5]), DTypeError, "result is float64"),
    ):
        with pytest.raises(error, match=text):
            make()


def test_a_language_model_s_batches_of_a_real_text() -> None:
    path = TEST_DATA / "text" / "tinyshakespeare.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    dataset = data.TextDataset(path, 64)
    loader = data.DataLoader(dataset, 16, True, seed=0)
    inputs, targets = next(iter(loader))
    assert inputs.shape == targets.shape == (16, 64)
    text = gzip.decompress(path.read_bytes())
    for row, following in zip(inputs.tolist(), targets.tolist()):
        assert row[1:] == following[:-1]
        assert bytes([*row, following[-1]]) in text
    assert len(dataset) == (len(text) - 1) // 64

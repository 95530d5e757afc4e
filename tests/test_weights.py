"""Weights on disk and name maps: what is written comes back bit for bit, and what is malformed says so."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dtypes, nn
from minigrad.data import DataError
from minigrad.errors import DTypeError
from minigrad.io import NameMap, Rename, load_weights, read_metadata, save_weights
from minigrad.io.weights import DTYPES

Array = np.ndarray[Any, Any]


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("safetensors.numpy")


def bits(value: Any) -> tuple[Any, tuple[int, ...], bytes]:
    array = np.asarray(value.numpy() if isinstance(value, mg.Tensor) else value)
    return array.dtype, array.shape, np.ascontiguousarray(array).tobytes()


def equal(first: Any, second: Any) -> bool:
    return list(first) == list(second) and all(bits(first[name]) == bits(second[name]) for name in first)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES.values(), key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_comes_back(library: Any, dtype: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    array = (raw % 2).view(np.bool_).reshape(shape) if dtype == dtypes.bool else raw.view(dtype).reshape(shape)
    save_weights(tmp_path / "x.safetensors", {"a": array, "b.c": mg.asarray(array)})
    found = load_weights(tmp_path / "x.safetensors")
    assert equal(found, {"a": array, "b.c": array})
    assert all(isinstance(t, mg.Tensor) for t in found.values())


def test_any_layout_is_written_as_it_reads(library: Any, tmp_path: Path) -> None:
    """safetensors takes the memory as it lies, so arrays are made contiguous before."""
    x = np.arange(24.0).reshape(2, 3, 4)
    given = {"transposed": x.T, "strided": x[:, ::2], "reversed": x[::-1], "fortran": np.asfortranarray(x)}
    save_weights(tmp_path / "x.safetensors", given)
    assert equal(load_weights(tmp_path / "x.safetensors"), dict(sorted(given.items())))


def test_others_read_what_is_written(library: Any, tmp_path: Path) -> None:
    given = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_weights(tmp_path / "x.safetensors", given, metadata={"format": "pt"})
    assert equal(library.load_file(tmp_path / "x.safetensors"), given)
    assert read_metadata(tmp_path / "x.safetensors") == {"format": "pt"}
    library.save_file(given, tmp_path / "y.safetensors")
    assert equal(load_weights(tmp_path / "y.safetensors"), given)
    assert read_metadata(tmp_path / "y.safetensors") == {}


@pytest.mark.parametrize(
    ("limit", "files"), [(1, 4), (8, 4), (12, 3), (24, 2), (10_000, 1), (None, 1)], ids=lambda value: str(value)
)
def test_shards(library: Any, limit: int | None, files: int, tmp_path: Path) -> None:
    given = {name: np.full(n, n, np.float32) for name, n in (("a", 1), ("b", 2), ("c", 5), ("d", 1))}
    save_weights(tmp_path / "model", given, shard_bytes=limit, metadata={"k": "v"})
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == files
    assert equal(load_weights(tmp_path / "model"), given)
    assert read_metadata(tmp_path / "model") == {"k": "v"}
    if files > 1:
        index = tmp_path / "model" / "model.safetensors.index.json"
        assert json.loads(index.read_text())["metadata"] == {"total_size": 36}
        assert equal(load_weights(index), given)


def test_a_folder_holds_the_last_model_written(library: Any, tmp_path: Path) -> None:
    first, second = {"a": np.ones(4), "b": np.ones(4)}, {"c": np.zeros(2)}
    for state in (first, second, first):
        save_weights(tmp_path, state, shard_bytes=32)
        assert equal(load_weights(tmp_path), state)


@given(limits=st.lists(st.sampled_from([None, 8, 16, 24, 40]), min_size=1, max_size=4), data=st.data())
def test_a_folder_holds_the_last_model_alone(limits: list[int | None], data: st.DataObject) -> None:
    """Whatever number of shards was there before: fewer, more, as many, or one file."""
    pytest.importorskip("safetensors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, limit in enumerate(limits):
            state = {f"{number}.{i}": np.full(1, i + number) for i in range(data.draw(st.integers(1, 6)))}
            save_weights(folder, state, shard_bytes=limit)
            assert equal(load_weights(folder), state)
            assert {file.name for file in folder.iterdir()} == written(folder)


class Crash(BaseException):
    """The machine stops: no later change reaches the disk."""


class Disk:
    """Renames and deletions of files, until the machine stops before one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left = sys.maxsize
        for name in ("replace", "unlink", "remove"):
            patch.setattr(os, name, self.counted(getattr(os, name)))
        patch.setattr(os, "fsync", lambda number: None)  # slow, and there is no machine that stops

    def counted(self, function: Any) -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Crash
            return function(*args, **kwargs)

        return inner


@pytest.mark.parametrize("after", [None, 8, 16])
@pytest.mark.parametrize("before", [None, 8, 16])
def test_a_crash_leaves_the_old_model_or_the_new_one(
    library: Any, before: int | None, after: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {name: np.zeros(1) for name in "abc"}
    new = {name: np.ones(1) for name in "bcd"}
    seen = set()
    disk = Disk(monkeypatch)
    for steps in range(40):
        folder = tmp_path / str(steps)
        disk.left = sys.maxsize
        save_weights(folder, old, shard_bytes=before)
        disk.left = steps
        try:
            save_weights(folder, new, shard_bytes=after)
            break
        except Crash:
            found = load_weights(folder)
            assert equal(found, old) or equal(found, new)
            seen.add("a" in found)
        disk.left = sys.maxsize
        save_weights(folder, new, shard_bytes=after)  # what the crash left does not matter
        assert equal(load_weights(folder), new)
        assert not [f for f in folder.glob("model*") if f.name not in written(folder)]
    assert True in seen
    assert steps < 39


def written(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {"model.safetensors"}
    return {index.name, *json.loads(index.read_text())["weight_map"].values()}


def test_a_failed_shard_takes_the_others_with_it(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path, {name: np.zeros(1) for name in "abc"}, shard_bytes=8)
    before = sorted(tmp_path.iterdir())
    whole = library.save_file

    def fails(tensors: Any, file: str, metadata: Any) -> None:
        if "c" in tensors:
            raise OSError("no space left")
        whole(tensors, file, metadata)

    monkeypatch.setattr(library, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save_weights(tmp_path, {name: np.ones(1) for name in "abc"}, shard_bytes=8)
    assert sorted(tmp_path.iterdir()) == before
    assert equal(load_weights(tmp_path), {name: np.zeros(1) for name in "abc"})


def test_an_index_may_name_the_single_file(library: Any, tmp_path: Path) -> None:
    """Then it is a shard like others, and the next model is written beside it."""
    save_weights(tmp_path, {"a": np.zeros(1)})
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    save_weights(tmp_path, {"b": np.ones(1)})
    assert equal(load_weights(tmp_path), {"b": np.ones(1)})
    assert not (tmp_path / "model.safetensors").exists()


def test_a_failed_write_leaves_the_old_file(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.safetensors"
    save_weights(target, {"a": np.ones(2)})

    def fails(tensors: Any, file: str, metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(library, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save_weights(target, {"a": np.zeros(3)})
    assert equal(load_weights(target), {"a": np.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


HEADER = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "malformed"),
        (b"PK\x03\x04 a zip", "malformed"),
        (b"\xff" * 64, "malformed"),
        (struct.pack("<Q", 9) + b"not JSON!", "malformed"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "malformed"),
        (struct.pack("<Q", len(HEADER)) + HEADER + b"\0", "malformed"),  # a byte is missing
        (struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0", "a in .* is F8_E4M3, needs one of BOOL"),
    ],
)
def test_malformed_files(library: Any, content: bytes, text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=text):
        load_weights(file)


@given(data=st.data())
def test_a_damaged_header_never_does_harm(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    library = pytest.importorskip("safetensors.numpy")
    whole = bytearray(library.save({"a": np.arange(3.0), "b": np.ones((2, 2), np.int32)}))
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    whole[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1]))])
    try:
        load_weights(file)  # a changed name is no damage
    except DataError as error:
        assert str(file) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ("no JSON", "malformed"),
        ("[]", "malformed"),
        ("{}", "malformed"),
        ('{"weight_map": 3}', "malformed"),
        ('{"weight_map": {"a": 3}}', "malformed"),
        ('{"weight_map": {}}', "without a weight"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "naming '../x.safetensors', needs safetensors files beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "needs safetensors files beside it"),
        ('{"weight_map": {"a": ".."}}', "needs safetensors files beside it"),
        ('{"weight_map": {"a": "y.safetensors"}}', "missing"),
        ('{"weight_map": {"a": ["x.safetensors"]}}', "malformed"),
        ('{"weight_map": {"a": null}}', "malformed"),
        ('{"weight_map": {"a": ""}}', "needs safetensors files beside it"),
        ('{"weight_map": {"a": "x\\u0000.safetensors"}}', "missing"),
        ('{"weight_map": {"a": "\\ud800.safetensors"}}', "malformed|missing"),
        ('{"weight_map": ["a"]}', "malformed"),
        ("[" * 200_000, "malformed .*Recursion"),
        ('{"weight_map": ' * 200_000, "malformed .*Recursion"),
        ('{"weight_map": {"a": ' + "9" * 5000 + "}}", "malformed"),
        ('{"weight_map": {"a": "x.safetensors", "z": "x.safetensors"}}', "without z, needs what its index says"),
    ],
)
def test_malformed_indices(library: Any, index: str, text: str, tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"a": np.ones(2)})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match=text):
        load_weights(tmp_path)


def test_only_what_the_index_names_is_read(library: Any, tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"a": np.ones(2), "b": np.ones(2)})
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    assert list(load_weights(tmp_path)) == ["a"]


def test_other_errors(library: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs a safetensors file, an index, or a folder with model\.safetensors"):
        load_weights(tmp_path / "missing")
    with pytest.raises(DataError, match="needs a safetensors file"):
        load_weights(tmp_path)
    with pytest.raises(DTypeError, match="save_weights: a is complex128, needs one of bool"):
        save_weights(tmp_path / "x.safetensors", {"a": np.ones(2, complex)})
    with pytest.raises(DTypeError, match="save_weights: a is object"):
        save_weights(tmp_path / "x.safetensors", {"a": np.array([None])})
    with pytest.raises(ValueError, match=r"shard_bytes is 3, needs None.* Pass a folder"):
        save_weights(tmp_path / "x.safetensors", {"a": np.ones(2)}, shard_bytes=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("weights", "options", "error", "text"),
    [
        ({"__metadata__": np.ones(2)}, {}, ValueError, "a name of weights is '__metadata__', needs another name"),
        ([np.ones(2)], {}, TypeError, "weights is .*, needs a mapping of names to tensors"),
        (nn.Identity(), {}, TypeError, r"weights is a Identity, needs .*\. Pass model\.state_dict\(\)"),
        ({3: np.ones(2)}, {}, TypeError, "a name of weights is 3, needs a str"),
        ({"\ud800": np.ones(2)}, {}, ValueError, "a name of weights is .* without lone surrogates"),
        ({"a": [[1.0], [1.0, 2.0]]}, {}, TypeError, "a is .*, needs a tensor"),
        ({"a": np.ones(2)}, {"metadata": "text"}, TypeError, "metadata is 'text', needs a mapping of str to str"),
        ({"a": np.ones(2)}, {"metadata": {"step": 3}}, TypeError, r"metadata\['step'\] is 3, needs a str"),
        ({"a": np.ones(2)}, {"metadata": {3: "step"}}, TypeError, "a name of metadata is 3, needs a str"),
        ({"a": np.ones(2)}, {"metadata": {"x": "\udfff"}}, ValueError, ".* without lone surrogates"),
        ({"a": np.ones(2)}, {"shard_bytes": 0}, ValueError, "shard_bytes is 0, needs at least 1"),
        ({"a": np.ones(2)}, {"shard_bytes": -5}, ValueError, "shard_bytes is -5, needs at least 1"),
        ({"a": np.ones(2)}, {"shard_bytes": 1e9}, TypeError, r"shard_bytes is 1000000000\.0, needs an int, or None"),
        ({"a": np.ones(2)}, {"shard_bytes": "1GB"}, TypeError, "shard_bytes is '1GB', needs an int"),
        ({"a": np.ones(2)}, {"shard_bytes": True}, TypeError, "shard_bytes is True, needs an int"),
    ],
)
def test_what_cannot_be_written(
    library: Any, weights: Any, options: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"save_weights: {text}"):
        save_weights(tmp_path / "model", weights, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_file(library: Any, tmp_path: Path) -> None:
    """Nothing hangs, and every error is a DataError."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.safetensors").mkdir()
    paths = [os.devnull, tmp_path / "pipe", tmp_path / "pipe" / "below", "\0", "x" * 5000, tmp_path]
    (tmp_path / "other" / "model.safetensors.index.json").mkdir(parents=True)
    for path in [*paths, tmp_path / "other"]:
        for read in (load_weights, read_metadata):
            with pytest.raises(DataError, match="load_weights"):
                read(path)
    for path in (None, 3):
        with pytest.raises(TypeError, match=r"load_weights: path is .*, needs a str or a path"):
            load_weights(path)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"save_weights: path is .*, needs a str or a path"):
            save_weights(path, {"a": np.ones(2)})  # type: ignore[arg-type]


def test_what_may_not_be_read(library: Any, tmp_path: Path) -> None:
    save_weights(tmp_path / "model", {name: np.ones(2) for name in "ab"}, shard_bytes=16)
    file = tmp_path / "model" / "model-00001-of-00002.safetensors"
    with unprivileged():
        for closed in (file, tmp_path / "model"):
            closed.chmod(0)
            for path in (tmp_path / "model", file):
                with pytest.raises(DataError, match=r"unreadable .*Permission denied"):
                    load_weights(path)
            closed.chmod(0o700)
        assert list(load_weights(tmp_path / "model")) == ["a", "b"]


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid():
        yield
        return
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "capget"):
        pytest.skip("a system without capabilities")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    if library.capget(header, before):
        pytest.skip("the capabilities of the process are not to be had")
    lowered = (ctypes.c_uint32 * 6)(*before)
    lowered[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert not library.capset(header, lowered)
    try:
        yield
    finally:
        assert not library.capset(header, before)


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'minigrad\[train\]'"):
        load_weights(tmp_path / "x.safetensors")
    with pytest.raises(ImportError, match=r"pip install 'minigrad\[train\]'"):
        save_weights(tmp_path / "y.safetensors", {"a": np.ones(2)})


# --- name maps --------------------------------------------------------------------------------------------------------

MAP = NameMap(
    [
        Rename("h.{i}.qkv.{p}", ("layers.{i}.q.{p}", "layers.{i}.k.{p}", "layers.{i}.v.{p}"), sizes=(4, 2, 2)),
        Rename(("h.{i}.gate.weight", "h.{i}.up.weight"), "layers.{i}.both.weight", transpose=True),
        Rename("out.{p}", "head.{p}", transpose=True),
        Rename("pair.{i}.{i}.x", "same.{i}.x"),
        Rename("h.{i}.mask", None),
    ],
    prefix="model.",
)


def source(layers: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    made = {"model.out.weight": rng.normal(size=(9, 3)), "model.out.bias": rng.normal(size=9)}
    for i in range(layers):
        made |= {f"model.h.{i}.qkv.weight": rng.normal(size=(3, 8)), f"model.h.{i}.qkv.bias": rng.normal(size=8)}
        made |= {f"model.h.{i}.{name}.weight": rng.normal(size=(5, 3)) for name in ("gate", "up")}
    return made


def test_rules() -> None:
    given = source(2)
    found = MAP.translate(given)
    assert found[1:] == ([], [], [])
    weights, qkv = found.weights, given["model.h.1.qkv.weight"]
    assert weights["layers.1.k.weight"].tolist() == qkv[:, 4:6].tolist()
    assert weights["layers.0.v.bias"].tolist() == given["model.h.0.qkv.bias"][6:].tolist()
    both = np.concatenate([given["model.h.1.gate.weight"].T, given["model.h.1.up.weight"].T], axis=1)
    assert weights["layers.1.both.weight"].tolist() == both.tolist()
    assert weights["head.weight"].tolist() == given["model.out.weight"].T.tolist()
    assert weights["head.bias"].tolist() == given["model.out.bias"].tolist()


@given(layers=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_there_and_back(layers: int, seed: int) -> None:
    given = source(layers, seed)
    back = MAP.back(MAP.translate(given).weights)
    assert {name: a.tolist() for name, a in back.items()} == {name: a.tolist() for name, a in given.items()}


def test_prefix_masks_and_places() -> None:
    bare = {name.removeprefix("model."): a for name, a in source(1).items()}
    found = MAP.translate(
        bare | {"h.0.mask": 1, "pair.a.a.x": 2, "pair.a.b.x": 3, "h.0.1.mask": 4, "modelxout.bias": 5}
    )
    assert found.unexpected == ["pair.a.b.x", "h.0.1.mask", "modelxout.bias"]
    assert "same.a.x" in found.weights
    assert set(found.weights) - {"same.a.x"} == set(MAP.translate(source(1)).weights)


class Net(nn.Module):
    again: nn.Module

    def __init__(self) -> None:
        self.head = nn.Dense(9, in_features=3)
        self.layers = [nn.ModuleDict({name: nn.Dense(n, in_features=3) for name, n in (("q", 4), ("k", 2), ("v", 2))})]


def test_load_copies_or_tells_all() -> None:
    given = {name: a for name, a in source(1).items() if "gate" not in name and "up" not in name}
    net = Net()
    assert MAP.load(net, given) == ([], [])
    assert net.layers[0]["k"].weight.tolist() == given["model.h.0.qkv.weight"][:, 4:6].astype("f4").tolist()
    before = net.state_dict()
    wrong = dict(given, odd=np.ones(1), **{"model.h.0.gate.weight": np.ones((5, 3)), "model.out.bias": np.ones(8)})
    del wrong["model.h.0.qkv.bias"], wrong["model.out.weight"]
    wrong["model.h.0.qkv.weight"] = np.ones((3, 7))
    with pytest.raises(ValueError, match="NameMap: the weights do not fit Net:") as caught:
        MAP.load(net, wrong)
    missing, unexpected, misshaped = str(caught.value).split("\n    ")[1:]
    assert missing.startswith("missing: model.h.0.up.weight, head.weight (from model.out.weight), ")
    assert "layers.0.q.bias (from model.h.0.qkv.bias)" in missing
    assert unexpected == "unexpected: odd"
    assert "model.h.0.qkv.weight is (3, 7): axis -1 needs 8, the sum of (4, 2, 2)" in misshaped
    assert misshaped.endswith("head.bias (from model.out.bias) is (8,), needs (9,)")
    with pytest.raises(ValueError, match="mis-shaped"):
        MAP.load(net, wrong, strict=False)
    assert equal(before, net.state_dict())


def test_load_by_another_name_of_a_tied_parameter() -> None:
    net = Net()
    net.again = net.head
    names = NameMap([Rename("out.{p}", "again.{p}", transpose=True), Rename("{i}.{l}.{p}", "layers.{i}.{l}.{p}")])
    rest = {name.removeprefix("layers."): t for name, t in net.state_dict().items() if "layers" in name}
    given = rest | {"out.weight": np.full((9, 3), 2.0), "out.bias": np.ones(9)}
    assert names.load(net, given) == ([], [])
    assert net.head.weight.tolist() == np.full((3, 9), 2.0).tolist()
    with pytest.raises(ValueError, match=r"mis-shaped: again\.weight \(from out\.weight\) is \(3, 8\), needs \(3, 9\)"):
        names.load(net, given | {"out.weight": np.ones((8, 3))})


def test_sources_without_the_prefix() -> None:
    names = NameMap([Rename("a", "b"), Rename("c", "d", prefixed=False)], prefix="model.")
    assert sorted(names.back({"b": 1, "d": 2})) == ["c", "model.a"]
    for found in (["model.a", "c"], ["a", "model.c"]):
        assert sorted(names.translate(dict.fromkeys(found, 1)).weights) == ["b", "d"]


def test_load_not_strictly() -> None:
    net = Net()
    report = MAP.load(net, {"model.out.weight": np.ones((9, 3)), "odd": 1, "h.7.qkv.bias": np.ones(8)}, strict=False)
    assert report.missing[0] == "head.bias"
    assert len(report.missing) == 7
    assert report.unexpected[:2] == ["odd", "layers.7.q.bias (from model.h.7.qkv.bias)"]
    assert net.head.weight.tolist() == np.ones((3, 9)).tolist()


def test_back_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="weights is 'odd', needs names that a rule speaks of"):
        MAP.back({"odd": np.ones(2)})
    with pytest.raises(ValueError, match=r"without layers\.0\.k\.bias, layers\.0\.v\.bias, needs all parts of a join"):
        MAP.back({"layers.0.q.bias": np.ones(4)})

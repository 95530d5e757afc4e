"""Checkpoints: what is saved comes back to the bit, and whatever else is in a file is refused by name."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataError
from minigrad.errors import DTypeError
from minigrad.io import CheckpointError, checkpoint, load_checkpoint, load_weights, save_checkpoint, state_tree
from minigrad.io.state_tree import DEEPEST, dump, encode

ROOT = Path(__file__).resolve().parent.parent
DTYPES = sorted(mg.dtypes.ALL, key=str)


def tool() -> Any:
    """The script that mutates checkpoints."""
    path = ROOT / "tools" / "mutate_checkpoints.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutate = tool()
identical = mutate.identical


def there_and_back(state: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.ckpt")
        save_checkpoint(file, state)
        assert os.listdir(folder) == ["x.ckpt"]
        return load_checkpoint(file)


# --- there and back ---------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Any bits of any dtype, 0-d, empty, in any layout."""
    dtype, shape = draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (math.prod(shape), dtype.itemsize), np.uint8)
    array = (raw % 2).view(np.bool_) if dtype == mg.bool else raw.view(dtype)
    array = array.reshape(shape)
    layout = draw(st.sampled_from(["C", "F", "transposed", "strided", "reversed", "broadcast"]))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "transposed":
        array = array.T
    elif shape and layout == "strided":
        array = array[::2]
    elif shape and layout == "reversed":
        array = array[..., ::-1]
    elif layout == "broadcast":
        array = np.broadcast_to(array, (2, *shape))
    kind = draw(st.sampled_from(["tensor", "array", "scalar"]))
    if kind == "scalar" and array.size:
        return array.reshape(-1)[0]
    return mg.asarray(array) if kind == "tensor" else array


NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63]),
    st.floats(), st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e22, 1.7976931348623157e308]),
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, arrays())
KEYS = st.one_of(TEXT, st.sampled_from(["dict", "tuple", "tensor", "__metadata__", "a/b", "~1", "", "0"]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=25,
)


@given(state=TREES)
def test_what_is_saved_comes_back(state: Any) -> None:
    assert identical(there_and_back(state), state)


@given(state=TREES)
def test_the_same_state_makes_the_same_file(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "a"), Path(folder, "b")
        save_checkpoint(first, state)
        save_checkpoint(second, load_checkpoint(first))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_every_dtype(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    state = {"array": array, "tensor": mg.tensor(array), "scalar": np.ones((), dtype)[()]}
    found = there_and_back(state)
    assert identical(found, state)
    assert type(found["scalar"]) is type(state["scalar"])


def test_the_comparison_sees_differences() -> None:
    pairs: list[tuple[Any, Any]] = [
        (1, 1.0), (1, True), (0.0, -0.0), ((), []), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1], [1, 2]),
        (np.float32(1), 1.0), (np.ones(1), np.ones((1, 1))), (np.ones(1), np.ones(1, np.float32)), (math.nan, 1.0),
        (np.zeros(1), -np.zeros(1)), (np.ones(1), mg.ones((1,), dtype=mg.float64)), ("a", "b"), (None, 0),
    ]  # fmt: skip
    for a, b in pairs:
        assert identical(a, a)
        assert not identical(a, b)
        assert not identical([a], [b])


def test_numbers_of_any_size() -> None:
    """Python itself refuses to read more than 4300 decimal digits."""
    numbers = [sign * (10**n + 1) for n in (15, 16, 17, 308, 4300, 50_000) for sign in (1, -1)]
    assert there_and_back(numbers) == numbers


def test_the_order_of_keys_is_kept() -> None:
    state = {"z": 1, "a": {"y": 1, "b": 2}}
    assert list(there_and_back(state)) == ["z", "a"]
    assert list(there_and_back(state)["a"]) == ["y", "b"]


def test_shared_memory_is_written_once_and_shared_again(tmp_path: Path) -> None:
    weight = mg.asarray(np.arange(1000.0))
    state = {
        "model": weight, "again": [weight], "view": weight.detach(), "array": weight.numpy(),
        "part": weight[:500], "transposed": weight.numpy().reshape(10, 100).T, "copy": weight.numpy().copy(),
    }  # fmt: skip
    save_checkpoint(tmp_path / "x", state)
    assert 8000 * 3.5 < (tmp_path / "x").stat().st_size < 8000 * 3.5 + 2000
    found = load_checkpoint(tmp_path / "x")
    assert found["model"] is found["again"][0] is found["view"]
    assert np.shares_memory(found["model"].numpy(), found["array"])
    for name in ("part", "transposed", "copy"):
        assert not np.shares_memory(found["array"], np.asarray(found[name]))
    found["array"][0] = 7.0
    assert found["model"][0].item() == 7.0
    assert identical(found["copy"], state["copy"])


def test_empty_tensors_are_shared_where_they_are_the_same() -> None:
    first, second = mg.zeros((0, 3)), mg.zeros((0, 3))
    found = there_and_back([first, second, first])
    assert found[0] is found[2]
    assert found[0] is not found[1]


def test_tensors_come_back_as_plain_ones() -> None:
    parameter = nn.Parameter([1.0, 2.0])
    (found,) = there_and_back([parameter])
    assert type(found) is mg.Tensor
    assert not found.requires_grad
    assert found.tolist() == [1.0, 2.0]
    found[0] = 3.0  # its memory is its own, and may be written


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, optim.Optimizer]:
        model = nn.Sequential([nn.Dense(5, "tanh", in_features=3), nn.Dropout(0.5), nn.Dense(2, in_features=5)])
        return model, optim.Adam(model.named_parameters(), lr=0.05)

    def train(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(mg.random.normal((4, 3))) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    mg.random.seed(0)
    model, optimizer = made()
    before = train(model, optimizer, 5)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": mg.random.get_state()}
    save_checkpoint(tmp_path / "last.ckpt", {**state, "losses": before})
    expected = train(model, optimizer, 5)
    mg.random.seed(1)
    model, optimizer = made()
    found = load_checkpoint(tmp_path / "last.ckpt")
    assert found["losses"] == before
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    mg.random.set_state(found["random"])
    assert train(model, optimizer, 5) == expected


def test_others_read_the_tensors(tmp_path: Path) -> None:
    """A checkpoint is a file of safetensors; names are JSON pointers."""
    library = pytest.importorskip("safetensors.numpy")
    z = np.array([1 + 2j, 3 - 4j])
    save_checkpoint(tmp_path / "x.safetensors", {"model": {"a/b": mg.ones((2,))}, "~": [z], "": np.arange(3)})
    found = library.load_file(tmp_path / "x.safetensors")
    assert sorted(found) == ["/", "/model/a~1b", "/~0/0"]
    assert found["/~0/0"].tolist() == [[1.0, 2.0], [3.0, -4.0]]  # complex128 as pairs
    assert load_weights(tmp_path / "x.safetensors")["/model/a~1b"].tolist() == [1.0, 1.0]


WHOLE = (
    b'\x10\x01\x00\x00\x00\x00\x00\x00{"__metadata__":{"format":"minigrad.checkpoint","version":"1","crc32":"8c8616ff",'
    b'"tensors":"[[\\"float32\\",\\"c3872656\\"]]",'
    b'"tree":"{\\"dict\\":{\\"step\\":3,\\"w\\":{\\"tensor\\":0},\\"t\\":{\\"tuple\\":[{\\"float\\":\\"nan\\"}]}}}"},'
    b'"/w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} \x00\x00\x80?\x00\x00\x00\xc0'
)


def test_version_1_stays_as_it_is(tmp_path: Path) -> None:
    """These bytes were written by the first version, and every later one reads them."""
    state = {"step": 3, "w": mg.tensor([1.0, -2.0]), "t": (math.nan,)}
    save_checkpoint(tmp_path / "x", state)
    assert (tmp_path / "x").read_bytes() == WHOLE
    (tmp_path / "y").write_bytes(WHOLE)
    assert identical(load_checkpoint(tmp_path / "y"), state)


# --- what cannot be saved ---------------------------------------------------------------------------------------------


class Odd:
    pass


CYCLE: list[Any] = [1]
CYCLE.append({"a": (CYCLE,)})


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ({"a": b"bytes"}, TypeError, "state/a is a bytes, needs None, bool, int, float, str, list, tuple, dict, or a"),
        ([{1, 2}], TypeError, "state/0 is a set, needs None"),
        ({"a": [Odd()]}, TypeError, "state/a/0 is a Odd, needs"),
        (OrderedDict(a=1), TypeError, "state is a OrderedDict, needs"),
        (1j, TypeError, "state is "),
        (nn.Dense(2), TypeError, r"state is a Dense, needs .*\. Pass its state_dict\(\)"),
        ({"w": nn.Dense(2).weight}, TypeError, "state/w is a parameter without a shape, needs one that is initialized"),
        ({"a": {3: 1}}, TypeError, "a key at state/a is 3, needs a str"),
        ({None: 1}, TypeError, "a key at state is None, needs a str"),
        ({"a/b": {"~": "\ud800"}}, ValueError, r"state at state/a~1b/~0 is '\\ud800', needs Unicode"),
        ({"\udfff": 1}, ValueError, "a key at state is .*, needs Unicode"),
        (np.array([None]), DTypeError, "state is of dtype dtype"),
        ({"a": np.array(["x"])}, DTypeError, "state/a is of dtype dtype"),
        (np.ones(2, ">f4"), DTypeError, "state is of dtype dtype.*>f4.*, needs one of bfloat16, bool"),
        (np.longdouble(1), DTypeError, "state is of dtype"),
        (np.zeros(2, [("x", "f4")]), DTypeError, "state is of dtype"),
        (np.ma.masked_array([1.0], [True]), TypeError, "state is .*, needs None"),
        (CYCLE, ValueError, "state/1/a/0 is a container of itself, needs a tree"),
    ],
    ids=lambda value: None if isinstance(value, type) else str(type(value)),
)
def test_what_cannot_be_saved(state: Any, error: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=f"save_checkpoint: {text}"):
        save_checkpoint(tmp_path / "x", state)
    assert not list(tmp_path.iterdir())


def nested(levels: int, kind: str) -> Any:
    state: Any = 1
    for _ in range(levels):
        state = {"list": [state], "tuple": (state,), "dict": {"a": state}}[kind]
    return state


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_depth(kind: str, tmp_path: Path) -> None:
    state = nested(DEEPEST, kind)
    assert identical(there_and_back(state), state)
    for levels in (DEEPEST + 1, 100_000):
        with pytest.raises(ValueError, match="is nested deeper, needs at most 100 containers in one another"):
            save_checkpoint(tmp_path / "x", nested(levels, kind))


def test_a_header_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LONGEST", 4000)
    with pytest.raises(ValueError, match=r"state is \d+ bytes beside its tensors, needs at most 4000. Make arrays"):
        save_checkpoint(tmp_path / "x", list(range(2000)))
    save_checkpoint(tmp_path / "x", np.arange(2000))


# --- files that are whole or not there --------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "below" / "x.ckpt"
    save_checkpoint(file, {"step": 1})
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *args: (_ for _ in ()).throw(OSError("no space left")))
            with pytest.raises(OSError, match="no space left"):
                save_checkpoint(file, {"step": 2, "w": mg.ones((3,))})
        assert load_checkpoint(file) == {"step": 1}
        assert os.listdir(file.parent) == ["x.ckpt"]


def test_the_file_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contents before the name, and the folder after it."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        path = os.readlink(f"/proc/self/fd/{number}")
        events.append("folder" if path == str(tmp_path) else "file")
        fsync(number)

    def renamed(source: Any, target: Any) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save_checkpoint(tmp_path / "x", [1])
    assert events == ["file", "rename", "folder"]


KILLED = """
import sys, numpy as np
from minigrad.io import save_checkpoint
for step in range(10**6):
    save_checkpoint(sys.argv[1], {"step": step, "w": np.full(200_000, float(step))})
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    save_checkpoint(file, {"step": -1, "w": np.full(200_000, -1.0)})
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], cwd=tmp_path)
    try:
        began = time.monotonic()
        while load_checkpoint(file)["step"] < 2:  # reads while it is written, too
            assert time.monotonic() - began < 60
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = load_checkpoint(file)
    assert state["step"] >= 2
    assert (state["w"] == state["step"]).all()


# --- files that are refused -------------------------------------------------------------------------------------------


def sealed(metadata: Any, entries: Any = (), data: bytes = b"") -> bytes:
    """A file whose checksum of the header is right."""
    start = {"format": "minigrad.checkpoint", "version": "1", "crc32": "00000000"}
    text = dump({"__metadata__": start | metadata, **dict(entries)})
    return mutate.sealed(text.encode(), data)  # type: ignore[no-any-return]


def plain(tree: str) -> bytes:
    return sealed({"tensors": "[]", "tree": tree})


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ROW = '[["float32","c3872656"]]'
BOOLS = '[["bool","b6cc4292"]]'
DATA = b"\x00\x00\x80?\x00\x00\x00\xc0"


def test_the_files_below_are_refused_for_their_faults_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(plain("[1]"))
    assert load_checkpoint(tmp_path / "x") == [1]
    (tmp_path / "x").write_bytes(sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY)], DATA))
    assert load_checkpoint(tmp_path / "x").tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file ends within the header"),
        (b"\x08\0\0", "the file ends within the header"),
        (b"\xff" * 64, "a header of 18446744073709551615 bytes in a file of 64"),
        ((100).to_bytes(8, "little") + b"{}", "a header of 100 bytes in a file of 10"),
        ((2).to_bytes(8, "little") + b"{}", "the header is not that of a checkpoint"),
        (b"PK\x03\x04 a zip, or what torch.save writes", "a header of"),
        (plain("[1]") + b"\0", "its tensors are not as large as the rest of the file"),
        (plain("[1]").replace(b"[1]", b"[2]"), "the header's checksum is [0-9a-f]{8}, and it says [0-9a-f]{8}"),
        (plain("[1"), "Expecting"),
        (plain(""), "Expecting value"),
        (plain("[1] "), "its tree is not|$"),
        (plain('{"a":1}'), "an object 'a' in the tree that stands for nothing"),
        (plain("{}"), "an object with 0 keys in the tree"),
        (plain('{"dict":{"a":1,"a":2}}'), "the key 'a' twice in an object"),
        (plain("NaN"), "the number NaN"),
        (plain("1e999"), "the number 1e999"),
        (plain("9" * 5000), "a number of 5000 digits"),
        (plain("1." + "9" * 5000), "a number of 5002 digits"),
        (plain(str(2**60)), "its tree is not as it would be written"),
        (plain('{"int":"0x5"}'), "its tree is not as it would be written"),
        (plain('{"int":"x"}'), "invalid literal"),
        (plain('"\\ud800"'), "Unicode, without lone surrogates"),
        (plain("[" * 150 + "]" * 150), "nested deeper"),
        (plain("[" * 1000 + "]" * 1000), "JSON nested too deeply"),
        (plain("[" * 3_000_000), "JSON nested too deeply"),
        (plain('{"tensor":0}'), "stands for nothing"),
        (sealed({"tensors": "{}", "tree": "1"}), "the table of tensors does not have 0 rows"),
        (sealed({"tree": "1"}), "the header lacks the tree"),
        (sealed({"tensors": [], "tree": "1"}), "the header lacks the tree"),
        (sealed({"tensors": "[]", "tree": "1", "more": "x"}), "its texts are not as they would be written"),
        (sealed({"tensors": ROW, "tree": "1"}, [("/w", ENTRY)], DATA), "its tree is not as it would be written"),
        (sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("/w", ENTRY)], DATA), "not where the tree has them"),
        (sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY)], DATA[:4]), "not as large as the rest"),
        (sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY)], DATA[::-1]), "the checksum of  is"),
        (sealed({"tensors": BOOLS, "tree": '{"tensor":0}'}, [("", ENTRY)], b"\1\2"), "bools that are neither"),
        *(
            (sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY | change)], DATA), text)
            for change, text in (
                ({"data_offsets": [0, 2**62]}, "not where the tree has them"),
                ({"data_offsets": [-8, 0]}, "not where the tree has them"),
                ({"shape": [2**40]}, "not as large as the rest"),
                ({"shape": [0, 2**64]}, "a shape that no array has"),
                ({"shape": [0] * 65}, "a shape that no array has"),
                ({"shape": [-1, -2]}, "has no shape"),
                ({"shape": [2.0]}, "has no shape"),
                ({"shape": [True, 2]}, "has no shape"),
                ({"shape": "2"}, "has no shape"),
                ({"dtype": "I32"}, "not where the tree has them"),
            )
        ),
    ],
)  # fmt: skip
def test_malformed_files(content: bytes, text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(content)
    if text.endswith("|$"):
        assert load_checkpoint(file) == [1]  # white space says nothing
        return
    with pytest.raises(CheckpointError, match=f"load_checkpoint: {file} is malformed .*{text}"):
        load_checkpoint(file)


def test_overlapping_tensors(tmp_path: Path) -> None:
    """Each has all of the file; together they would be twice as large."""
    rows = dump([["float32", "c3872656"]] * 2)
    content = sealed({"tensors": rows, "tree": '[{"tensor":0},{"tensor":1}]'}, [("/0", ENTRY), ("/1", ENTRY)], DATA)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="its tensors are not as large as the rest of the file"):
        load_checkpoint(tmp_path / "x")


def test_a_later_version_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(sealed({"version": "7", "whatever": [{"is": "new"}]}))
    with pytest.raises(CheckpointError, match=r"x is of format version 7, needs at most 1, .*\. Update minigrad"):
        load_checkpoint(tmp_path / "x")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    paths: list[Any] = [tmp_path, tmp_path / "pipe", os.devnull]
    cases = [(path, "a folder, a pipe or a device") for path in paths]
    cases += [("x" * 5000, "unreadable"), (tmp_path / "pipe" / "x", "unreadable"), (tmp_path / "none", "missing")]
    for path, text in [*cases, ("\0", "malformed")]:
        with pytest.raises(CheckpointError, match=text):
            load_checkpoint(path)
    assert issubclass(CheckpointError, DataError)
    for call in (load_checkpoint, lambda path: save_checkpoint(path, 1)):
        with pytest.raises(TypeError, match=r"_checkpoint: path is None, needs a str or a path"):
            call(None)  # type: ignore[arg-type]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "x").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x")
    for module in (checkpoint, state_tree):
        assert "pickle" not in Path(str(module.__file__)).read_text().replace("unpickled", "")


# --- mutations --------------------------------------------------------------------------------------------------------

STATES = mutate.states()


@pytest.mark.parametrize("mutation", mutate.DAMAGES + mutate.EDITS, ids=lambda m: m.__name__)
def test_mutated_files(mutation: Any, tmp_path: Path) -> None:
    """Some of the thousands that tools/mutate_checkpoints.py makes."""
    rng = random.Random(mutation.__name__)
    results = set()
    for state in STATES:
        save_checkpoint(tmp_path / "whole", state)
        raw = (tmp_path / "whole").read_bytes()
        results |= {mutate.check(mutation, rng, state, raw, tmp_path) for _ in range(8)}
    assert "refused" in results


def test_the_script_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["mutate_checkpoints.py", "--count", "56", "--seed", "1"])
    mutate.main()
    tracemalloc.stop()
    assert "no fault in 56 files" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["no checksums", "an error of another kind"])
def test_the_mutations_find_faults(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that does not check is found out."""
    if fault == "no checksums":
        monkeypatch.setattr(checkpoint.zlib, "crc32", lambda data, value=0: 0)
    else:
        monkeypatch.setattr(checkpoint, "TreeError", KeyError)
    save_checkpoint(tmp_path / "whole", STATES[0])
    raw = (tmp_path / "whole").read_bytes()
    rng, faults = random.Random(0), 0
    for mutation in mutate.DAMAGES * 40:
        try:
            mutate.check(mutation, rng, STATES[0], raw, tmp_path)
        except mutate.Fault:
            faults += 1
    assert faults


def test_the_script_finds_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Any) -> Any:
        claimed = np.empty(2**22, np.uint8)
        raise CheckpointError(f"{path} {len(claimed)}")

    monkeypatch.setattr(mutate, "load_checkpoint", load)
    monkeypatch.setattr(sys, "argv", ["mutate_checkpoints.py", "--count", "14"])
    with pytest.raises(mutate.Fault, match=r"\d+ bytes of memory for a file of \d+"):
        mutate.main()
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        (10**8).to_bytes(8, "little") + b"{" * 1000,
        sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY | {"shape": [2**33]})], DATA),
        sealed({"tensors": ROW, "tree": '{"tensor":0}'}, [("", ENTRY | {"data_offsets": [0, 2**40]})], DATA),
        plain('{"dict":{"' + "k" * 20_000 + '":[' + ",".join(['{"tensor":0}'] * 1000) + "]}}"),
    ],
    ids=["header", "shape", "offsets", "names"],
)
def test_claims_cost_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 40 * len(content) + 2**20
    finally:
        tracemalloc.stop()


def test_names_of_many_tensors_below_a_long_key_cost_no_memory(tmp_path: Path) -> None:
    """The file would have them all, so one that has not is refused before they are made."""
    count, key = 2000, "k" * 50_000
    tree = dump({"dict": {key: [{"tensor": i} for i in range(count)]}})
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    entries = [(f"/{i}", empty) for i in range(count)]
    content = sealed({"tensors": dump([["float32", "00000000"]] * count), "tree": tree}, entries)
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="names longer than the header"):
            load_checkpoint(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 30 * len(content)
    finally:
        tracemalloc.stop()
    with pytest.raises(state_tree.TreeError, match="names longer"):
        encode({key: [np.ones(1) for _ in range(3)]}, limit=2 * len(key))
    assert json.loads(dump(encode({key: [np.ones(1) for _ in range(3)]}, limit=4 * len(key))[0]))

"""Checkpoints: what is saved comes back to the bit, and what cannot be saved is refused by its place."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import DTypeError
from minigrad.io import checkpoint, load_checkpoint, load_weights, save_checkpoint
from minigrad.io.state_tree import DEEPEST

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


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="says which file a number is")
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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_folders_that_cannot_be_flushed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems cannot; but a fault of the disk is told."""
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            save_checkpoint(tmp_path / "x", [1])
    else:
        save_checkpoint(tmp_path / "x", [1])
    assert load_checkpoint(tmp_path / "x") == [1]


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

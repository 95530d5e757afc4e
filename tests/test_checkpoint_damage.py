"""Files that are no checkpoints, damaged ones, and ones made to do harm: each is refused, by name, at no cost."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.data import DataError
from minigrad.io import CheckpointError, checkpoint, load_checkpoint, save_checkpoint, state_tree
from minigrad.io.state_tree import dump, encode

ROOT = Path(__file__).resolve().parent.parent


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
        (plain('"' + '\\"' * 500_000), "Unterminated string"),  # hours, if it is searched for brackets naively
        (plain('"' + "\\" * 500_001), "Unterminated string"),
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


MARKS = st.text(st.sampled_from('[]{}",:\\ a'), max_size=6)
JSON = st.recursive(MARKS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(MARKS, inner)))


def height(node: Any) -> int:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    return 0 if inner is None else 1 + max(map(height, inner), default=0)


@given(value=JSON, rest=MARKS)
def test_brackets_are_counted_as_the_parser_meets_them(value: Any, rest: str) -> None:
    """Those in strings do not count, whatever follows."""
    text = json.dumps(value)
    assert state_tree._depth(text.encode()) == height(value)
    assert state_tree._depth(f"{text}{rest}".encode()) >= height(value)
    assert json.loads(text) == state_tree.parse(text.encode()) == value


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

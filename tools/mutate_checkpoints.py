"""Damage checkpoints in many ways, and see that loading one is an error of its own kind or gives what was saved.

    python tools/mutate_checkpoints.py                    10,000 files: some seconds a thousand
    python tools/mutate_checkpoints.py --count 500 --seed 3

A file is damaged where it lies (bits, lengths, pieces), or its header is edited and its checksums are made to fit, as
someone who wants to do harm would. The former must raise CheckpointError or give the state that was saved. The latter
must raise CheckpointError, or give a state that is saved and loaded again as it is. Nothing else may be raised, and the
memory for a file is bounded by a multiple of its size.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import random
import re
import resource
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.io import CheckpointError, load_checkpoint, save_checkpoint

SUM = re.compile(rb'"crc32":"([0-9a-f]{8})"')
MOST = 100  # times the bytes of a file: Python's objects are larger than their text
SLACK = 1 << 20  # what any load may take


def states() -> list[Any]:
    """What is saved: every kind of value, every dtype, nothing at all."""
    rng = np.random.default_rng(0)
    weight = mg.asarray(rng.normal(size=(3, 5)).astype(np.float32))
    tensors = [mg.asarray(rng.integers(0, 2, (2, 3)), dtype=dtype) for dtype in sorted(mg.dtypes.ALL, key=str)]
    tree: dict[str, Any] = {"step": 3, "rate": 1e-3, "history": [1.5, -0.0, math.inf, math.nan], "none": None}
    tree |= {"big": 7**99, "names": ("a", "é~/", ""), "flags": [True, False], "empty": [(), [], {}]}
    model = {"layers.0.weight": weight, "layers.0.bias": mg.zeros((5,), dtype=mg.bfloat16), "tied": weight}
    return [
        {"model": model, "optimizer": {"0": {"step": 3, "exp_avg": weight * 2}}, **tree},
        tensors,
        {"array": np.arange(4.0), "scalar": np.float32(2.5), "axes": mg.ones((0, 3)), "point": mg.tensor(1.0)},
        tree,
        weight,
        None,
    ]


def identical(a: Any, b: Any) -> bool:
    """Whether two states have the same types, values to the bit, and order of keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, (mg.Tensor, np.ndarray, np.generic)):
        x, y = (np.asarray(v.numpy() if isinstance(v, mg.Tensor) else v) for v in (a, b))
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(a, float):
        return math.isnan(a) and math.isnan(b) if a != a else a.hex() == b.hex()
    return bool(a == b)


# --- damage to the bytes ----------------------------------------------------------------------------------------------


def place(rng: random.Random, raw: bytes) -> int:
    """Somewhere in a file, most often in its header."""
    header = 8 + int.from_bytes(raw[:8], "little")
    return rng.randrange(rng.choice([8, header, header, len(raw)]))


def flip(rng: random.Random, raw: bytes) -> bytes:
    """Other bits."""
    made = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        made[place(rng, raw)] ^= 1 << rng.randrange(8)
    return bytes(made)


def truncate(rng: random.Random, raw: bytes) -> bytes:
    """An end too early."""
    return raw[: place(rng, raw)]


def insert(rng: random.Random, raw: bytes) -> bytes:
    """More bytes, in between or behind."""
    at = rng.choice([place(rng, raw), len(raw)])
    return raw[:at] + rng.randbytes(rng.choice([1, 1, 4, 100])) + raw[at:]


def delete(rng: random.Random, raw: bytes) -> bytes:
    """Fewer bytes."""
    at = place(rng, raw)
    return raw[:at] + raw[at + rng.choice([1, 1, 4, 100]) :]


def repeat(rng: random.Random, raw: bytes) -> bytes:
    """A piece twice, or in the place of another."""
    a, b, n = place(rng, raw), place(rng, raw), rng.choice([1, 8, 64])
    return raw[:b] + raw[a : a + n] + raw[b + rng.choice([0, n]) :]


def length(rng: random.Random, raw: bytes) -> bytes:
    """Another length of the header."""
    own = int.from_bytes(raw[:8], "little")
    chosen = rng.choice([0, 1, own - 8, own - 1, own + 1, own + 8, len(raw), 10**8, 2**31, 2**63, 2**64 - 1])
    return (chosen % 2**64).to_bytes(8, "little") + raw[8:]


def noise(rng: random.Random, raw: bytes) -> bytes:
    """Nothing of a file, or its first bytes alone."""
    return raw[: rng.choice([0, 8, 70])] + rng.randbytes(rng.choice([0, 1, 8, 500]))


# --- edits of the header whose checksums fit --------------------------------------------------------------------------


def sealed(text: bytes, data: bytes) -> bytes:
    """A file of a header and data, whose checksum of the header is right."""
    text += b" " * (-len(text) % 8)
    found = SUM.search(text)
    if found is not None:
        blank = text[: found.start(1)] + b"0" * 8 + text[found.end(1) :]
        text = text[: found.start(1)] + b"%08x" % zlib.crc32(blank) + text[found.end(1) :]
    return len(text).to_bytes(8, "little") + text + data


def parts(raw: bytes) -> tuple[bytes, bytes]:
    """Header and data."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return raw[8:end], raw[end:]


def dump(value: Any) -> str:
    """JSON as it is written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def text(rng: random.Random, raw: bytes) -> bytes:
    """Other characters in the header."""
    header, data = parts(raw)
    made = bytearray(header)
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(made))
        piece = rng.choice(
            [b"0", b"9", b"-", b"e", b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b" ", b"\xff", b""]
        )
        made[at : at + rng.choice([0, 1, 1])] = piece
    return sealed(bytes(made), data)


def tree(rng: random.Random, raw: bytes) -> bytes:
    """Another tree: a node of it replaced by one that is odd."""
    header, data = parts(raw)
    found = json.loads(header)
    root = [json.loads(found["__metadata__"]["tree"])]
    holder, key = rng.choice(list(places(root)))
    odd: list[Any] = [
        None, 1, -1, 2**53, 2**60, 1.0, "x", [], {}, [[]], {"dict": []}, {"dict": {"a": 1}, "tuple": []},
        {"tuple": {}}, {"tensor": -1}, {"tensor": 0}, {"tensor": True}, {"tensor": 10**6}, {"tensor": "0"},
        {"tensor": 0.0}, {"array": 0}, {"array": 1}, {"scalar": 0}, {"int": "0x5"}, {"int": "5"},
        {"int": "0x" + "f" * 99}, {"int": "-0x_f"}, {"int": 5}, {"float": "nan"}, {"float": "1.0"}, {"float": 1.0},
        {"object": {}}, {"": 0},
        {"dict": {"__metadata__": 1}}, {"tuple": [{"tuple": [{"tuple": []}]}]},
    ]  # fmt: skip
    holder[key] = rng.choice(odd)
    found["__metadata__"]["tree"] = dump(root[0])
    return sealed(dump(found).encode(), data)


def places(node: Any) -> Any:
    """All places in a tree of JSON, as containers and keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from places(node[key])


def entries(rng: random.Random, raw: bytes) -> bytes:
    """Another place, shape or dtype of a tensor: huge, negative, overlapping, of another kind."""
    header, data = parts(raw)
    found = json.loads(header)
    names = [name for name in found if name != "__metadata__"] or ["__metadata__"]
    name = rng.choice(names)
    entry = found[name]
    huge = rng.choice([2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1, -(2**63)])
    change = rng.randrange(10)
    if change == 0:
        entry["shape"] = rng.choice([[huge], [huge, 0], [0, huge], [huge] * 3, [2] * 70, [1] * 65, [1.0], [True], 3])
    elif change == 1:
        entry["data_offsets"] = rng.choice([[0, huge], [huge, huge], [0, 1], [-4, 4], [1, 0], [], None, ["0", "4"]])
    elif change == 2:
        entry["dtype"] = rng.choice(["F32", "F64", "U8", "BOOL", "BF16", "F4", "object", "", None, []])
    elif change == 3:
        found[name] = rng.choice([None, 3, "x", [], {}, {"shape": [1]}])
    elif change == 4:
        del found[name]
    elif change == 5:
        found[rng.choice(["", "/", "/x", "x", "/model"])] = dict(entry)
    elif change == 6:
        other = found[rng.choice(names)]
        found[name], other["data_offsets"] = other, entry.get("data_offsets")
    elif change == 7:
        found = {name: found[name] for name in rng.sample(list(found), len(found))}
    elif change == 8:
        entry["more"] = 1
    else:
        entry["shape"] = list(reversed(entry.get("shape", [1])))
    return sealed(dump(found).encode(), data)


def table(rng: random.Random, raw: bytes) -> bytes:
    """Another text among those of the header: dtypes, checksums, version."""
    header, data = parts(raw)
    found = json.loads(header)
    texts = found["__metadata__"]
    rows = json.loads(texts["tensors"])
    if rows and rng.random() < 0.7:
        row = rng.choice(rows)
        row[rng.randrange(2)] = rng.choice(
            ["float64", "bool", "complex128", "bfloat16", "object", "00000000", "", 3, None]
        )
        texts["tensors"] = dump(rng.choice([rows, rows[:-1], [*rows, row], {"0": row}, row]))
    else:
        texts[rng.choice(list(texts))] = rng.choice(["", "1", "2", "999", "01", "-1", "[]", "{}", "null", 3, None, []])
    return sealed(dump(found).encode(), data)


def deep(rng: random.Random, raw: bytes) -> bytes:
    """Brackets in brackets, in the tree or around everything."""
    header, data = parts(raw)
    many = rng.choice([95, 101, 105, 210, 1000, 50_000])
    opened, closed = rng.choice([("[", "]"), ('{"tuple":[', "]}"), ('{"dict":{"a":', "}}"), ('{"a":', "}")])
    inner = opened * many + "1" * (opened[-1] == ":") + (closed * many if rng.random() < 0.8 else "")
    if rng.random() < 0.2:
        return sealed(header.rstrip()[:-1] + b',"/x":' + inner.encode() + b"}", data)
    found = json.loads(header)
    found["__metadata__"][rng.choice(["tree", "tree", "tensors"])] = inner
    return sealed(dump(found).encode(), data)


def twice(rng: random.Random, raw: bytes) -> bytes:
    """A key twice in an object of the header or of the tree, and numbers that take long to read."""
    header, data = parts(raw)
    found = json.loads(header)
    odd = rng.choice([
        '{"dict":{"a":1,"a":2}}', '{"dict":{"a":1,"a":1}}', '{"tuple":[],"tuple":[]}', '{"int":"0x1","int":"0x2"}',
        "1" * 5000, "0." + "1" * 5000, "1e999", "-1e999", "1E5", "NaN", "Infinity", "-0",
        '"\\ud800"', '{"dict":{"\\ud800":1}}', " [ 1 ] ", "01", "1.", "[1,]", '"' + '\\"' * 20_000,
        '{"int":"0x' + "f" * 5000 + '"}', '{"int":"' + "9" * 5000 + '"}',
    ])  # fmt: skip
    if rng.random() < 0.3:
        name = rng.choice(list(found))
        again = f",{dump(name)}:{dump(found[name])}}}".encode()
        return sealed(header.rstrip()[:-1] + again, data)
    found["__metadata__"]["tree"] = odd
    return sealed(dump(found).encode(), data)


def values(rng: random.Random, raw: bytes) -> bytes:
    """Other bytes of the tensors, with checksums that fit; bools that are neither 0 nor 1 among them."""
    header, data = parts(raw)
    found = json.loads(header)
    rows = json.loads(found["__metadata__"]["tensors"])
    data = rng.randbytes(len(data)) if rng.random() < 0.5 else bytes(b & 1 for b in data)
    spans = [entry["data_offsets"] for name, entry in found.items() if name != "__metadata__"]
    for row, (start, end) in zip(rows, spans, strict=True):
        row[1] = f"{zlib.crc32(data[start:end]):08x}"
    found["__metadata__"]["tensors"] = dump(rows)
    return sealed(dump(found).encode(), data)


Mutation = Callable[[random.Random, bytes], bytes]
DAMAGES: list[Mutation] = [flip, truncate, insert, delete, repeat, length, noise]
EDITS: list[Mutation] = [text, tree, entries, table, deep, twice, values]


class Fault(AssertionError):
    """A file did what none may do."""


def check(mutation: Mutation, rng: random.Random, state: Any, raw: bytes, folder: Path) -> str:
    """Load a mutated file; says in a word what came of it.

    Raises
    ------
    Fault
        If it is neither CheckpointError nor the right state.
    """
    file = folder / "mutated"
    file.write_bytes(mutation(rng, raw))
    try:
        found = load_checkpoint(file)
    except CheckpointError as error:
        if str(file) not in str(error):
            raise Fault(f"{mutation.__name__}: the error does not name the file: {error}") from error
        return "refused"
    except BaseException as error:
        raise Fault(f"{mutation.__name__}: {error!r}") from error
    if identical(found, state):
        return "identical"
    if mutation in DAMAGES:
        raise Fault(f"{mutation.__name__}: another state")
    again = folder / "again"
    save_checkpoint(again, found)
    if not identical(load_checkpoint(again), found):
        raise Fault(f"{mutation.__name__}: a state that is not saved as it is")
    return "another state"


def main() -> None:
    """Mutate, load, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, made, counts = random.Random(given.seed), states(), collections.Counter[tuple[str, str]]()
    worst, slowest, began = 0.0, 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder, originals = Path(name), []
        for state in made:
            save_checkpoint(folder / "whole", state)
            originals.append((folder / "whole").read_bytes())
        tracemalloc.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(given.count):
            mutation = (DAMAGES + EDITS)[number % (len(DAMAGES) + len(EDITS))]
            chosen = rng.randrange(len(made))
            tracemalloc.reset_peak()
            held, start = tracemalloc.get_traced_memory()[0], time.process_time()
            counts[mutation.__name__, check(mutation, rng, made[chosen], originals[chosen], folder)] += 1
            slowest = max(slowest, time.process_time() - start)
            size = (folder / "mutated").stat().st_size
            peak = tracemalloc.get_traced_memory()[1] - held
            worst = max(worst, peak / size) if size > 10_000 else worst
            if peak > MOST * size + SLACK:
                raise Fault(f"{mutation.__name__}: {peak} bytes of memory for a file of {size}")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results = sorted({result for _, result in counts})
    print("".join(f"{head:>15}" for head in ("", *results)))
    for kind in (m.__name__ for m in DAMAGES + EDITS):
        print(f"{kind:>15}" + "".join(f"{counts[kind, result]:15}" for result in results))
    totals = [sum(n for (_, r), n in counts.items() if r == result) for result in results]
    print(f"{'all':>15}" + "".join(f"{n:15}" for n in totals))
    seconds = time.perf_counter() - began
    print(f"no fault in {given.count} files, {seconds:.0f} s; the slowest took {slowest * 1e3:.0f} ms of CPU time")
    print(f"memory: at most {worst:.0f} times a file's size (above 10 kB); the process grew by {grown} KiB")


if __name__ == "__main__":
    main()

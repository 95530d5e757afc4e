"""Checkpoints: nested state in one file, exact, with checksums, never unpickled; docs/checkpoints.md has the format."""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.data.download import DataError
from minigrad.errors import message
from minigrad.io.files import FilePath, as_path, replacing
from minigrad.io.state_tree import Record, TreeError, decode, dump, encode, parse
from minigrad.io.weights import DTYPES

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

Array = np.ndarray[Any, Any]

FORMAT, VERSION = "minigrad.checkpoint", 1
# how a header of any version begins
START = re.compile(rb'\{"__metadata__":\{"format":"minigrad\.checkpoint","version":"(\d{1,9})","crc32":"([0-9a-f]{8})"')
NO_SUM = "00000000"  # what the header's own checksum counts in its place
LONGEST = 100_000_000  # bytes of a header: the limit of safetensors
ALIGNMENT = 8
CHUNK = 1 << 20
CODES = {dtype: code for code, dtype in DTYPES.items()}  # the names of dtypes in safetensors
NAMES = {str(dtype): dtype for dtype in dtypes.ALL}


class CheckpointError(DataError):
    """A checkpoint is missing, damaged, malformed, or of a later format."""


def save_checkpoint(path: FilePath, state: Any) -> None:
    """Write nested state to one file, which appears whole or not at all; see docs/checkpoints.md.

    Parameters
    ----------
    path : path
        The file to make or replace; its folder is made if it is missing.
    state : object
        Dicts with keys that are str, lists and tuples of one another, and in them None, bool, int of any size, float,
        str, tensors, and NumPy's arrays and scalars of the dtypes that tensors have. Tensors over the same memory are
        written once.

    Raises
    ------
    TypeError
        If the state has something else: bytes, sets, objects, or a key that is no str.
    DTypeError
        If an array is of another dtype.
    ValueError
        If the state contains itself, is nested more than 100 deep, has text with lone surrogates, or more than 100 MB
        beside its tensors.
    OSError
        If the file cannot be written; the one before it is as it was.

    Examples
    --------
    >>> import os, tempfile
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.io import load_checkpoint, save_checkpoint
    >>> model = nn.Dense(2, in_features=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "last.ckpt")
    ...     save_checkpoint(file, {"model": model.state_dict(), "step": 7, "best": (float("inf"), None)})
    ...     state = load_checkpoint(file)
    >>> state["step"], state["best"], model.load_state_dict(state["model"])
    (7, (inf, None), LoadReport(missing=[], unexpected=[]))
    """
    target = as_path("save_checkpoint", path)
    node, records = encode(state)
    tree, sums = dump(node), [NO_SUM] * len(records)
    header = _header(tree, records, sums)
    if len(header) > LONGEST:
        got = f"{len(header)} bytes beside its tensors"
        raise ValueError(message("save_checkpoint", "state", got, f"at most {LONGEST}", "Make arrays of long lists"))
    with replacing(target) as temporary, open(temporary, "xb") as file:
        file.write(len(header).to_bytes(8, "little") + bytes(len(header)))
        for number, record in enumerate(records):
            value = 0
            for part in _chunks(np.ascontiguousarray(record.array)):
                chunk = bytes(part)  # the sum is of what is written, whatever another thread does to the tensor
                value = zlib.crc32(chunk, value)
                file.write(chunk)
            sums[number] = f"{value:08x}"
        file.seek(8)
        file.write(_header(tree, records, sums))


def load_checkpoint(path: FilePath) -> Any:
    """Read what `save_checkpoint` wrote, and nothing else.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    object
        The state: types, values and the order of keys are as they were. Tensors are on the CPU and require no grad;
        those that were over the same memory are again.

    Raises
    ------
    CheckpointError
        If the file is missing, no checkpoint, damaged, of a later format, or not what `save_checkpoint` writes. No
        memory is taken for tensors before the file is known to have their bytes.
    """
    file = as_path("load_checkpoint", path)
    try:
        # what is no file is not opened: a pipe would wait for a writer
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise TreeError("a folder, a pipe or a device")
        with open(file, "rb") as opened:
            return _read(opened, os.fstat(opened.fileno()).st_size)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(message("load_checkpoint", str(file), "missing", "a checkpoint")) from None
    except OSError as error:
        got = f"unreadable ({error.strerror or error})"
        raise CheckpointError(message("load_checkpoint", str(file), got, "a file that may be read")) from error
    except RecursionError as error:
        raise CheckpointError(message("load_checkpoint", str(file), "nested too deeply", "a checkpoint")) from error
    except ValueError as error:
        need = "a checkpoint as save_checkpoint writes it"
        raise CheckpointError(message("load_checkpoint", str(file), f"malformed ({error})", need)) from error


def _read(file: BufferedReader, size: int) -> Any:
    """The state in an open file of so many bytes; whatever is wrong raises a ValueError."""
    length = int.from_bytes(_exactly(file, 8), "little")
    if length > min(size - 8, LONGEST):
        raise TreeError(f"a header of {length} bytes in a file of {size}")
    header = _exactly(file, length)
    start = START.match(header)
    if start is None:
        raise TreeError("the header is not that of a checkpoint")
    if int(start[1]) > VERSION:
        need = f"at most {VERSION}, which this minigrad reads"
        got = f"of format version {int(start[1])}"
        raise CheckpointError(message("load_checkpoint", str(file.name), got, need, "Update minigrad"))
    found = _sum(header, start)
    if found != start[2]:
        raise TreeError(f"the header's checksum is {found.decode()}, and it says {start[2].decode()}")
    entries = parse(header)
    metadata = entries.pop("__metadata__")
    tree, sums, specs = _claims(entries, metadata)
    if sum(dtype.itemsize * math.prod(shape) for dtype, shape in specs) != size - 8 - length:
        raise TreeError("its tensors are not as large as the rest of the file")
    arrays = [_tensor(file, *spec, name, value) for spec, name, value in zip(specs, entries, sums, strict=True)]
    state = decode(tree, arrays)
    # whatever was not looked at until here must be as it would be written
    node, records = encode(state, limit=length)
    if node != tree or len(records) != len(arrays):
        raise TreeError("its tree is not as it would be written")
    if metadata != _texts(metadata["tree"], records, sums) | {"crc32": metadata["crc32"]}:
        raise TreeError("its texts are not as they would be written")
    if _entries(records) != entries or [record.name for record in records] != list(entries):
        raise TreeError("its tensors are not where the tree has them")
    return state


def _claims(entries: Any, metadata: Any) -> tuple[Any, list[str], list[tuple[np.dtype[Any], tuple[int, ...]]]]:
    """The tree, and of every tensor what the header says: the checksum, dtype and shape."""
    table, tree = metadata.get("tensors"), metadata.get("tree")
    if not isinstance(table, str) or not isinstance(tree, str):
        raise TreeError("the header lacks the tree or the table of tensors")
    rows = parse(table.encode())
    if not isinstance(rows, list) or len(rows) != len(entries):
        raise TreeError(f"the table of tensors does not have {len(entries)} rows")
    sums, specs = [], []
    for (name, entry), row in zip(entries.items(), rows, strict=True):
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(s, str) for s in row) and row[0] in NAMES):
            raise TreeError(f"{name} has no dtype and checksum")
        dtype = NAMES[row[0]]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise TreeError(f"{name} has no shape")
        if dtype == dtypes.complex128:
            shape = shape[:-1]
        if len(shape) > 64 or dtype.itemsize * math.prod(n for n in shape if n) >= 2**63:
            raise TreeError(f"{name} has a shape that no array has")
        sums.append(row[1])
        specs.append((dtype, tuple(shape)))
    return parse(tree.encode()), sums, specs


def _tensor(file: BufferedReader, dtype: np.dtype[Any], shape: tuple[int, ...], name: str, said: str) -> Array:
    """The next tensor of a file, if it has the checksum that the header says."""
    array = np.empty(shape, dtype)
    value = 0
    for part in _chunks(array):
        if file.readinto(part) != len(part):
            raise TreeError(f"the file ends within {name}")
        value = zlib.crc32(part, value)
        if dtype == dtypes.bool and part.max() > 1:
            raise TreeError(f"{name} has bools that are neither 0 nor 1")
    if f"{value:08x}" != said:
        raise TreeError(f"the checksum of {name} is {value:08x}, and the header says {said}")
    return array


def _chunks(array: Array) -> Iterator[Any]:
    """The bytes of a contiguous array, piece by piece."""
    raw = array.reshape(-1).view(np.uint8)
    return (raw[start : start + CHUNK] for start in range(0, len(raw), CHUNK))


def _exactly(file: BufferedReader, count: int) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise TreeError("the file ends within the header")
    return found


def _header(tree: str, records: list[Record], sums: list[str]) -> bytes:
    """The header of a file: what safetensors needs, and the tree among its texts."""
    text = dump({"__metadata__": _texts(tree, records, sums), **_entries(records)}).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = START.match(text)
    assert start is not None
    return text[: start.start(2)] + _sum(text, start) + text[start.end(2) :]


def _sum(header: bytes, start: re.Match[bytes]) -> bytes:
    """The checksum of a header, in which it does not count itself."""
    return b"%08x" % zlib.crc32(header[: start.start(2)] + NO_SUM.encode() + header[start.end(2) :])


def _texts(tree: str, records: list[Record], sums: list[str]) -> dict[str, str]:
    """What the header says beside the tensors' places."""
    table = dump([[str(record.array.dtype), value] for record, value in zip(records, sums, strict=True)])
    return {"format": FORMAT, "version": str(VERSION), "crc32": NO_SUM, "tensors": table, "tree": tree}


def _entries(records: list[Record]) -> dict[str, Any]:
    """The tensors' places, one behind the other."""
    entries: dict[str, Any] = {}
    end = 0
    for name, array in records:
        pairs = array.dtype == dtypes.complex128  # which safetensors lacks
        start, end = end, end + array.nbytes
        entries[name] = {
            "dtype": CODES[dtypes.float64 if pairs else array.dtype],
            "shape": [*array.shape, 2] if pairs else list(array.shape),
            "data_offsets": [start, end],
        }
    return entries

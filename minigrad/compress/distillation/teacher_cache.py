"""TeacherCache: what a teacher makes of every example of a dataset, in a file that is mapped into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from minigrad import dtypes, ops
from minigrad.data import DataLoader, Dataset
from minigrad.data.download import DataError
from minigrad.errors import describe, message
from minigrad.io.files import FilePath, as_path, replacing
from minigrad.nn.checks import extent
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.batch import converted, leaves, split

__all__ = ["Indexed", "TeacherCache", "checksum", "code_of"]

Array = np.ndarray[Any, Any]

# magic, length of the header, header (JSON), arrays at multiples of ALIGN, and for the header and each array a CRC-32
MAGIC = b"mgteach1"
LENGTH = struct.Struct("<Q")
ALIGN = 64  # bytes
CHUNK = 1 << 24  # bytes that are read at once to check a sum
ANEW = "Delete it, or pass refresh=True"
SEEN = "inputs"  # the array with the sums of each example's inputs


class Indexed(Dataset):
    """A dataset whose items begin with their number, or have it under ``"index"`` where they are dicts.

    Parameters
    ----------
    dataset : Dataset
        Any object with ``__len__`` and ``__getitem__``, whose items are tuples, lists or dicts.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import data
    >>> from minigrad.compress import Indexed
    >>> Indexed(data.TensorDataset(np.array([5, 7]), np.array([0, 1])))[1]
    (1, np.int64(7), np.int64(1))
    """

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            need = "a dataset whose items have numbers"
            raise TypeError(message("Indexed", "dataset", describe(dataset), need, "Of arrays: TensorDataset(x, y)"))
        self.dataset = dataset

    @property
    def draws_globally(self) -> bool:  # type: ignore[override]
        """As the dataset's."""
        return getattr(self.dataset, "draws_globally", True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._joined(int(index), self.dataset[index])

    def batch(self, indices: Array) -> Any:
        made = getattr(self.dataset, "batch", None)
        items = NotImplemented if made is None else made(indices)
        return items if items is NotImplemented else self._joined(np.array(indices, np.int64), items)

    def _joined(self, index: Any, item: Any) -> Any:
        if isinstance(item, dict):
            if "index" in item:
                raise ValueError(message("Indexed", "items", "dicts with an index", "dicts without one"))
            return {"index": index, **item}
        if isinstance(item, (tuple, list)):
            return (index, *item)
        raise TypeError(message("Indexed", "items", describe(item), "tuples or dicts"))


class TeacherCache:
    """The arrays of such a file; `Distiller.cache` makes it."""

    def __init__(self, path: Path, header: dict[str, Any], start: int) -> None:
        self.path, self.count, self.key = path, int(header["count"]), str(header["key"])
        self.positional = int(header["positional"])  # how many arguments without a name the teacher was called with
        self.arrays: dict[str, Array] = {}
        for entry, place in zip(header["arrays"], places(header["arrays"], start)):
            shape, dtype = tuple(entry["shape"]), dtypes.as_dtype(entry["dtype"])
            mapped = (
                np.memmap(path, np.uint8, "r", place, (size_of(entry),)) if size_of(entry) else np.empty(0, np.uint8)
            )
            self.arrays[entry["name"]] = mapped.view(dtype).reshape(shape)

    @classmethod
    def make(
        cls,
        path: FilePath,
        indexed: Indexed,
        key: str,
        run: Callable[..., dict[str, Tensor]],
        *,
        batch_size: int = 64,
        collate: Any = None,
        refresh: bool = False,
    ) -> Self:
        """Open the file, or write it if there is none."""
        target = as_path("Distiller.cache", path)
        extent("Distiller.cache", "batch_size", batch_size)
        if refresh or not target.exists():
            write(target, key, len(indexed), filled(indexed, run, batch_size, collate))
        found = cls.open(target)
        for got, need, other, own in (
            (found.key, key, "another teacher", "this teacher"),
            (found.count, len(indexed), "other examples", "these examples"),
        ):
            if got != need:
                raise DataError(message("Distiller.cache", str(path), f"of {other}", f"one of {own}", ANEW))
        return found

    @classmethod
    def open(cls, path: FilePath) -> Self:
        """Open a file, all of whose bytes are checked.

        Raises
        ------
        DataError
            If it is missing or damaged.
        """
        target = as_path("TeacherCache", path)
        try:
            with open(target, "rb") as file:
                header, start = read_header(file, target)
                check_header(header)
                entries = header["arrays"]
                offsets = list(places(entries, start))
                end = offsets[-1] + size_of(entries[-1])
                sums = struct.Struct(f"<{len(entries)}I")
                if os.fstat(file.fileno()).st_size != end + sums.size:
                    raise _damaged(target, "of another length than its header says")
                file.seek(end)
                wanted = sums.unpack(file.read(sums.size))
                for entry, place, need in zip(entries, offsets, wanted):
                    if sum_of(file, place, size_of(entry)) != need:
                        raise _damaged(target, f"with other bytes in {entry['name']!r} than were written")
            return cls(target, header, start)
        except (FileNotFoundError, IsADirectoryError):
            raise DataError(message("TeacherCache", "path", str(target), "a file that is there")) from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise _damaged(target, f"malformed ({error!r})") from error

    def read(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """What the teacher made of examples, by their numbers; their inputs must be those that it has seen.

        Raises
        ------
        ValueError
            If they are not.
        """
        numbers = index.to("cpu").numpy()
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ValueError(message("Distiller", "index", index, "a number, an int, for each example"))
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.count):
            got = f"from {numbers.min()} to {numbers.max()}"
            raise ValueError(message("Distiller", "index", got, f"numbers from 0 to {self.count - 1}"))
        given = example_sums((args, sorted(kwargs.items())), len(numbers))
        odd = np.flatnonzero(given != self.arrays[SEEN][numbers])
        if odd.size:
            got = f"another one for example {numbers[odd[0]]} than the teacher has seen"
            hint = "What is augmented, or padded by the batch, cannot be cached"
            raise ValueError(message("Distiller", "inputs", got, "the same inputs whenever the example comes", hint))
        found = {name: np.array(array[numbers]) for name, array in self.arrays.items() if name != SEEN}
        return {name: ops.asarray(array, device=index.device) for name, array in found.items()}


def checksum(teacher: Module, extra: Iterable[str]) -> str:
    """A sum of all that decides what a teacher says: its layers, functions and weights, and what is taken of it."""
    total = hashlib.sha256()
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(teacher))
    total.update(json.dumps([shown, list(extra)]).encode())
    for path, module in teacher.named_modules():
        own = {name: code_of(value) for name, value in vars(module).items() if hasattr(value, "__code__")}
        total.update(json.dumps([path, own]).encode())
    for name, t in [*teacher.named_parameters(), *teacher.named_buffers()]:
        array = np.ascontiguousarray(t.detach().to("cpu").numpy())
        total.update(json.dumps([name, list(array.shape), str(array.dtype)]).encode())
        total.update(array.tobytes())
    return total.hexdigest()


def code_of(function: Any) -> str:
    """What tells a function from others: its instructions, and the plain values that it holds."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__qualname__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [*code.co_consts, *(function.__defaults__ or ()), *cells]
    plain = [value for value in held if isinstance(value, (str, float, int, type(None)))]
    return f"{code.co_code.hex()} {code.co_names} {plain}"


def example_sums(inputs: Any, count: int) -> Array:
    """The CRC-32 of the inputs of each example."""
    sums = [0] * count
    for leaf in leaves(inputs):
        if not isinstance(leaf, Tensor):
            continue
        if not leaf.ndim or leaf.shape[0] != count:
            raise ValueError(message("Distiller", "inputs", leaf, f"{count} examples, as there are numbers"))
        array = leaf.detach().to("cpu").numpy()
        begin = zlib.crc32(f"{array.dtype} {array.shape[1:]}".encode())
        raw: Any = np.ascontiguousarray(array).view(np.uint8).reshape(count, -1) if count else ()
        sums = [zlib.crc32(row, so_far ^ begin) for row, so_far in zip(raw, sums, strict=True)]
    return np.array(sums, np.uint32)


def filled(
    indexed: Indexed, run: Callable[..., dict[str, Tensor]], batch_size: int, collate: Any
) -> Iterator[tuple[int, dict[str, Array]]]:
    """What the teacher makes of batches, in the order of the dataset, and how many arguments without a name it took."""
    # with a seed it draws none from `minigrad.random`, which training is to find as it was
    for batch in DataLoader(indexed, batch_size, collate=collate, seed=0):
        inputs, _, _ = split(converted(batch, None))
        if isinstance(inputs, dict):
            args: tuple[Any, ...] = ()
            kwargs = {name: value for name, value in inputs.items() if name != "index"}
            count = len(inputs["index"])
        else:
            args, kwargs, count = inputs[1:], {}, len(inputs[0])
        found = {name: t.detach().to("cpu").numpy() for name, t in run(args, kwargs).items()}
        for name, array in found.items():
            if not array.ndim or len(array) != count:
                got = f"of shape {array.shape} in {name!r}"
                raise ValueError(message("Distiller.cache", "what the teacher gives", got, f"{count} examples first"))
        yield len(args), {**found, SEEN: example_sums((args, sorted(kwargs.items())), count)}


def write(target: Path, key: str, count: int, batches: Iterable[tuple[int, dict[str, Array]]]) -> None:
    """Write such a file from the arrays of batches; it appears whole or not at all."""
    if not count:
        raise ValueError(message("Distiller.cache", "dataset", "empty", "at least one example"))
    with replacing(target) as temporary:
        entries: list[dict[str, Any]] = []
        mapped: dict[str, np.memmap[Any, Any]] = {}
        done, start = 0, 0
        for positional, batch in batches:
            if not entries:
                entries = [
                    {"name": name, "shape": [count, *array.shape[1:]], "dtype": str(array.dtype)}
                    for name, array in batch.items()
                ]
                start = write_header(
                    temporary, {"count": count, "key": key, "positional": positional, "arrays": entries}
                )
                ends = [place + size_of(entry) for entry, place in zip(entries, places(entries, start))]
                os.truncate(temporary, ends[-1])
                mapped = {
                    entry["name"]: np.memmap(temporary, np.uint8, "r+", place, (count, size_of(entry) // count))
                    for entry, place in zip(entries, places(entries, start))
                    if size_of(entry)
                }
            for entry in entries:
                array = batch[entry["name"]]
                if list(array.shape[1:]) != entry["shape"][1:] or str(array.dtype) != entry["dtype"]:
                    got = f"{describe(array)} after {entry['dtype']} {tuple(entry['shape'][1:])} an example"
                    need = "examples of one shape"
                    hint = "Pad all of them to one length, in the dataset or with collate="
                    raise ValueError(message("Distiller.cache", "what the teacher gives", got, need, hint))
                if entry["name"] in mapped:
                    raw: Any = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
                    mapped[entry["name"]][done : done + len(array)] = raw
            done += len(batch[SEEN])
        if done != count:
            raise ValueError(message("Distiller.cache", "dataset", f"{done} examples", f"{count}, as its length says"))
        while mapped:  # closed too: some systems rename no file that is mapped
            mapped.popitem()[1].flush()
        with open(temporary, "rb+") as file:
            sums = [sum_of(file, at, size_of(entry)) for entry, at in zip(entries, places(entries, start))]
            file.seek(0, os.SEEK_END)
            file.write(struct.pack(f"<{len(sums)}I", *sums))


def write_header(file: Path, header: dict[str, Any]) -> int:
    """Write the header with its sum; returns where it ends."""
    text = json.dumps(header).encode()
    head = MAGIC + LENGTH.pack(len(text)) + text + struct.pack("<I", zlib.crc32(text))
    file.write_bytes(head)
    return len(head)


def read_header(file: Any, path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    begin = file.read(len(MAGIC) + LENGTH.size)
    if not begin.startswith(MAGIC) or len(begin) < len(MAGIC) + LENGTH.size:
        raise _damaged(path, "no such file")
    length = LENGTH.unpack(begin[len(MAGIC) :])[0]
    if length > os.fstat(file.fileno()).st_size:
        raise _damaged(path, "cut off in its header")
    text, found = file.read(length), file.read(4)
    if len(found) < 4 or struct.unpack("<I", found)[0] != zlib.crc32(text):
        raise _damaged(path, "with other bytes in its header than were written")
    return json.loads(text), len(begin) + length + 4


def check_header(header: Any) -> None:
    """Raise where a header does not describe arrays of so many examples, of which one has the sums of their inputs."""
    count, entries = header["count"], header["arrays"]
    if type(count) is not int or count < 1 or type(header["positional"]) is not int or not isinstance(entries, list):
        raise ValueError("numbers or arrays")
    found: dict[str, Any] = {}
    for entry in entries:
        shape = entry["shape"]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or shape[:1] != [count]:
            raise ValueError("shape")
        if not isinstance(entry["name"], str) or entry["name"] in found:
            raise ValueError("name")
        found[entry["name"]] = (shape, entry["dtype"])
    if found.get(SEEN) != ([count], "uint32"):
        raise ValueError(SEEN)


def places(entries: list[dict[str, Any]], start: int) -> Iterator[int]:
    """Where the arrays begin."""
    at = start
    for entry in entries:
        at = -(-at // ALIGN) * ALIGN
        yield at
        at += size_of(entry)


def size_of(entry: dict[str, Any]) -> int:
    """The bytes of an array."""
    return int(math.prod(entry["shape"]) * dtypes.as_dtype(entry["dtype"]).itemsize)


def sum_of(file: Any, place: int, size: int) -> int:
    """The CRC-32 of some bytes of a file."""
    file.seek(place)
    total = 0
    while size > 0:
        part = file.read(min(size, CHUNK))
        if not part:
            break
        total, size = zlib.crc32(part, total), size - len(part)
    return total


def _damaged(path: Path, how: str) -> DataError:
    return DataError(message("TeacherCache", str(path), how, "what Distiller.cache has written", ANEW))

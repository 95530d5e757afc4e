"""Weights on disk: tensors by name in safetensors files, whole or in shards. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.data.download import DataError
from minigrad.errors import DTypeError, describe, message
from minigrad.io.files import FilePath, as_path, replacing, sync_folder
from minigrad.tensor import Tensor

__all__ = ["load_weights", "read_metadata", "save_weights"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model(-\d+)?-\d{5,}-of-\d{5,}\.safetensors")  # what `save_weights` may call one
RESERVED = "__metadata__"
# the format's names of the dtypes that both sides know
DTYPES = {
    "BOOL": dtypes.bool, "U8": dtypes.uint8, "I8": dtypes.int8, "U16": dtypes.uint16, "I16": dtypes.int16,
    "U32": dtypes.uint32, "I32": dtypes.int32, "U64": dtypes.uint64, "I64": dtypes.int64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64, "C64": dtypes.complex64,
}  # fmt: skip


def load_weights(path: FilePath) -> dict[str, Tensor]:
    """Read tensors by name from safetensors, with their dtypes.

    Parameters
    ----------
    path : path
        A file; the index of a sharded model (``model.safetensors.index.json``); or a folder with one or the other.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    DataError
        If a file is missing, malformed or not to be read, an index does not fit its shards, or a dtype is unknown.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import minigrad as mg
    >>> from minigrad.io import load_weights, save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(folder, {"a": mg.ones((2,), dtype=mg.bfloat16)})
    ...     load_weights(folder)
    {'a': tensor([1, 1], dtype=bfloat16)}
    """
    found: dict[str, Tensor] = {}
    for file, names in _located(path).items():
        with _opened(file) as opened:
            held = set(opened.keys())
            absent = sorted((names or held) - held)
            if absent:
                raise DataError(
                    message("load_weights", str(file), f"without {', '.join(absent)}", "what its index says")
                )
            for name in sorted(names or held):
                kind = opened.get_slice(name).get_dtype()
                if kind not in DTYPES:
                    raise DataError(message("load_weights", f"{name} in {file}", kind, f"one of {', '.join(DTYPES)}"))
                found[name] = ops.asarray(opened.get_tensor(name))
    return found


def read_metadata(path: FilePath) -> dict[str, str]:
    """The texts that a safetensors file keeps beside its tensors; those of the first shard of a sharded model.

    Raises
    ------
    DataError
        If the file is missing or malformed.
    """
    with _opened(next(iter(_located(path)))) as opened:
        return dict(opened.metadata() or {})


def save_weights(
    path: FilePath,
    weights: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write tensors by name to safetensors: each file appears whole or not at all, and so does the model.

    A folder holds one model. The files of another that `save_weights` put there are deleted once the new one is
    complete; until then it is what `load_weights` reads, whenever the program ends.

    Parameters
    ----------
    path : path
        A file that ends in ``.safetensors``, or a folder, which is made: there it is ``model.safetensors``, or shards
        and their index.
    weights : mapping of str to array_like
        Such as ``model.state_dict()``.
    metadata : mapping of str to str, optional
        Texts to keep beside them.
    shard_bytes : int, optional
        The most that a file in a folder shall hold; a tensor is never divided.

    Raises
    ------
    TypeError
        If `weights` is no mapping, a name or a text of `metadata` no str, or `shard_bytes` no int.
    DTypeError
        If the format has no such dtype.
    ValueError
        If a name is ``"__metadata__"``, which the format keeps for texts, if `shard_bytes` is less than 1, or if shards
        are asked for and `path` is no folder.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import minigrad as mg
    >>> from minigrad.io import save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(folder, {"a": mg.ones((2,)), "b": mg.ones((3,))}, shard_bytes=12)
    ...     sorted(os.listdir(folder))
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json']
    """
    target = as_path("save_weights", path)
    arrays, given = _arrays(weights), _texts(metadata)
    most = _limit(shard_bytes)
    if target.suffix == ".safetensors":
        if most is not None:
            need = "None, as the path is that of one file"
            raise ValueError(message("save_weights", "shard_bytes", most, need, "Pass a folder"))
        _save(target, arrays, given)
        return
    shards = _shards(arrays, most)
    if len(shards) == 1 and SINGLE not in _named(target / INDEX):
        _save(target / SINGLE, arrays, given)
        _remove(target, {SINGLE})  # the index first: from then on the new file is the model
    else:
        _save_shards(target, shards, given)


def _save_shards(folder: Path, shards: list[dict[str, Any]], metadata: dict[str, str] | None) -> None:
    """Write shards beside those of the model that is there, then the index: it makes them the model, all at once."""
    taken = _named(folder / INDEX)
    names = [""]
    for part in itertools.chain([""], map("-{}".format, itertools.count(2))):
        names = [f"model{part}-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
        if not taken & set(names):
            break
    try:
        for name, shard in zip(names, shards, strict=True):
            _save(folder / name, shard, metadata)
        size = sum(a.nbytes for shard in shards for a in shard.values())
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        with replacing(folder / INDEX) as file:
            text = json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2)
            file.write_text(text, encoding="utf-8")
    except BaseException:
        for name in set(names) - _named(folder / INDEX):
            (folder / name).unlink(missing_ok=True)
        raise
    _remove(folder, {INDEX, *names})


def _remove(folder: Path, kept: set[str]) -> None:
    """Delete what is left of other models: their shards last, when no index names them."""
    for name in {INDEX, SINGLE} - kept:
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    for file in list(folder.iterdir()):
        if SHARD.fullmatch(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)


def _named(index: Path) -> set[str]:
    """The shards of an index, none where there is no such model."""
    try:
        return {file.name for file in _indexed(index)}
    except DataError:
        return set()


def _arrays(weights: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors by name as arrays, if they are such."""
    if not isinstance(weights, Mapping):
        hint = "Pass model.state_dict()" if hasattr(weights, "state_dict") else ""
        raise TypeError(message("save_weights", "weights", describe(weights), "a mapping of names to tensors", hint))
    for name in weights:
        if _text("a name of weights", name) == RESERVED:
            need = "another name, as the format keeps this one for texts"
            raise ValueError(message("save_weights", "a name of weights", repr(name), need, "See metadata="))
    return {name: _array(name, value) for name, value in weights.items()}


def _texts(metadata: Any) -> dict[str, str] | None:
    """The texts beside the tensors, if they are such."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise TypeError(message("save_weights", "metadata", describe(metadata), "a mapping of str to str"))
    return {_text("a name of metadata", k): _text(f"metadata[{k!r}]", v) for k, v in metadata.items()}


def _text(what: str, value: Any) -> str:
    """A str that UTF-8 can write."""
    if not isinstance(value, str):
        raise TypeError(message("save_weights", what, describe(value), "a str"))
    try:
        value.encode()
    except UnicodeEncodeError:
        need = "text that UTF-8 can write, without lone surrogates"
        raise ValueError(message("save_weights", what, repr(value), need)) from None
    return value


def _limit(shard_bytes: Any) -> int | None:
    """How many bytes a shard may have."""
    if shard_bytes is None:
        return None
    if isinstance(shard_bytes, bool) or not hasattr(shard_bytes, "__index__"):
        raise TypeError(message("save_weights", "shard_bytes", describe(shard_bytes), "an int, or None"))
    found = operator.index(shard_bytes)
    if found < 1:
        raise ValueError(message("save_weights", "shard_bytes", f"{found}", "at least 1"))
    return found


def _array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """A contiguous array of a dtype that the format has: safetensors reads the memory as it lies."""
    try:
        array = np.asarray(value.detach().to("cpu").numpy() if isinstance(value, Tensor) else value, order="C")
    except ValueError:  # rows of several lengths
        raise TypeError(message("save_weights", name, describe(value), "a tensor")) from None
    if array.dtype not in DTYPES.values():
        raise DTypeError(
            message("save_weights", name, str(array.dtype), f"one of {', '.join(map(str, DTYPES.values()))}")
        )
    return array


def _shards(arrays: Mapping[str, Any], most: int | None) -> list[dict[str, Any]]:
    """Tensors in their order, in groups of at most so many bytes; one that is larger is alone."""
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, array in arrays.items():
        if most is not None and shards[-1] and size + array.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    return shards


def _save(target: Path, arrays: Mapping[str, Any], metadata: dict[str, str] | None) -> None:
    library = _library()
    with replacing(target) as file:
        library.numpy.save_file(dict(arrays), str(file), metadata)


def _located(path: FilePath) -> dict[Path, set[str]]:
    """The files of a model, each with the names to read from it, none for all."""
    given = as_path("load_weights", path)
    need = f"a safetensors file, an index, or a folder with {SINGLE} or {INDEX}"
    with _reading(given):
        if given.is_dir():
            file = given / (INDEX if (given / INDEX).exists() else SINGLE)
        else:
            file = given
        if not file.exists():
            raise DataError(message("load_weights", "path", str(given), need))
    return {file: set()} if file.suffix != ".json" else _indexed(file)


def _indexed(index: Path) -> dict[Path, set[str]]:
    """What an index says: its shards, each with the names in it."""
    try:
        with _reading(index):
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        entries = [(str(name), Path(file)) for name, file in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        need = '{"weight_map": {name: file}} in JSON'
        raise DataError(message("load_weights", str(index), f"malformed ({error!r})", need)) from error
    shards: dict[Path, set[str]] = {}
    for name, file in entries:
        if (
            file.name != str(file) or file.suffix != ".safetensors"
        ):  # an index may come from anywhere, and shall not reach out of its folder
            raise DataError(message("load_weights", str(index), f"naming {str(file)!r}", "safetensors files beside it"))
        shards.setdefault(index.parent / file, set()).add(name)
    if not shards:
        raise DataError(message("load_weights", str(index), "without a weight", "at least one"))
    return shards


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into a DataError; a pipe or a device is no file."""
    try:
        if file.exists() and not file.is_dir() and not file.is_file():
            raise DataError(message("load_weights", str(file), "a pipe or a device", "a file"))
        yield
    except DataError:
        raise
    except OSError as error:
        text = error.strerror or str(error)
        raise DataError(
            message("load_weights", str(file), f"unreadable ({text})", "a file that may be read")
        ) from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, open."""
    library = _library()
    try:
        with _reading(file):
            if not file.exists():
                raise DataError(message("load_weights", str(file), "missing", "the shard that the index names"))
            file.open("rb").close()  # says why it cannot be read, where the library says that it is missing
            with library.safe_open(str(file), framework="numpy") as opened:
                yield opened
    except (library.SafetensorError, ValueError, OverflowError) as error:
        raise DataError(message("load_weights", str(file), f"malformed ({error})", "a safetensors file")) from error


def _library() -> Any:
    """The package safetensors, imported where it is used: it is optional."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        hint = "pip install 'minigrad[train]'"
        raise ImportError(f"weights: safetensors is not installed; {hint}", name="safetensors") from error
    return safetensors

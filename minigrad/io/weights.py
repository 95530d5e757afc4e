"""Weights on disk: tensors by name in safetensors files, whole or in shards. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.data.download import DataError
from minigrad.errors import DTypeError, message
from minigrad.tensor import Tensor

__all__ = ["load_weights", "read_metadata", "save_weights"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# the format's names of the dtypes that both sides know
DTYPES = {
    "BOOL": dtypes.bool, "U8": dtypes.uint8, "I8": dtypes.int8, "U16": dtypes.uint16, "I16": dtypes.int16,
    "U32": dtypes.uint32, "I32": dtypes.int32, "U64": dtypes.uint64, "I64": dtypes.int64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64, "C64": dtypes.complex64,
}  # fmt: skip

FilePath = str | os.PathLike[str]


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
        If a file is missing or malformed, an index does not fit its shards, or a dtype is unknown.
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
    """Write tensors by name to safetensors; each file appears whole or not at all, and the index last.

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
    DTypeError
        If the format has no such dtype.
    ValueError
        If shards are asked for and `path` is no folder.
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
    target = Path(path)
    arrays = {name: _array(name, value) for name, value in weights.items()}
    given = None if metadata is None else dict(metadata)
    if target.suffix == ".safetensors":
        if shard_bytes is not None:
            need = "None, as the path is that of one file"
            raise ValueError(message("save_weights", "shard_bytes", shard_bytes, need, "Pass a folder"))
        _save(target, arrays, given)
        return
    shards = _shards(arrays, shard_bytes)
    if len(shards) == 1:
        _save(target / SINGLE, arrays, given)
        (target / INDEX).unlink(missing_ok=True)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _save(target / name, shard, given)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": weight_map}
    _replace(target / INDEX, lambda file: file.write_text(json.dumps(index, indent=2), encoding="utf-8"))
    (target / SINGLE).unlink(missing_ok=True)  # a reader would take it for the model


def _array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """A contiguous array of a dtype that the format has: safetensors reads the memory as it lies."""
    array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value, order="C")
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
    _replace(target, lambda file: library.numpy.save_file(dict(arrays), str(file), metadata))


def _replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside the target, and rename it once it is on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _located(path: FilePath) -> dict[Path, set[str]]:
    """The files of a model, each with the names to read from it, none for all."""
    given = Path(path)
    if given.is_dir():
        file = given / (INDEX if (given / INDEX).exists() else SINGLE)
    else:
        file = given
    if not file.exists():
        need = f"a safetensors file, an index, or a folder with {SINGLE} or {INDEX}"
        raise DataError(message("load_weights", "path", str(given), need))
    return {file: set()} if file.suffix != ".json" else _indexed(file)


def _indexed(index: Path) -> dict[Path, set[str]]:
    """What an index says: its shards, each with the names in it."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        entries = [(str(name), Path(file)) for name, file in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, open."""
    library = _library()
    try:
        with library.safe_open(str(file), framework="numpy") as opened:
            yield opened
    except library.SafetensorError as error:
        raise DataError(message("load_weights", str(file), f"malformed ({error})", "a safetensors file")) from error
    except FileNotFoundError as error:
        raise DataError(message("load_weights", str(file), "missing", "the shard that the index names")) from error


def _library() -> Any:
    """The package safetensors, imported where it is used: it is optional."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        hint = "pip install 'minigrad[train]'"
        raise ImportError(f"weights: safetensors is not installed; {hint}", name="safetensors") from error
    return safetensors

"""Export: pruned models in one safetensors file that is as small as what is left of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad.compress.pruning.forms import FORMS, FormError, decoded, encoded, pattern_of
from minigrad.data.download import DataError
from minigrad.errors import ShapeError, describe, message
from minigrad.io.files import FilePath
from minigrad.io.weights import load_weights, read_metadata, save_weights
from minigrad.nn.masks import SUFFIX, pack, read_masks
from minigrad.nn.module import Module
from minigrad.ops import asarray
from minigrad.tensor import Tensor

__all__ = ["load_sparse", "save_sparse"]

Array = np.ndarray[Any, Any]
FORMAT, VERSION = "minigrad.sparse", "1"
LARGEST = 2**48  # elements of a tensor: what a malformed file may claim
KEPT, OWN = "is where values are", "is stored"  # how the file has a mask


def save_sparse(path: FilePath, model: Module | Mapping[str, Any]) -> None:
    """Write a model, each tensor in the form that takes the fewest bytes; see docs/pruning.md.

    ``csr`` has the values with their columns, row by row; ``bits`` the values and a bit for each element; ``dense``
    all elements. A mask costs nothing beside one of the first two, as it says where the values are.

    Parameters
    ----------
    path : path
        A file that ends in ``.safetensors``; it appears whole or not at all.
    model : Module or mapping of str to array_like
        The model, or its state dict.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If the path has another ending.
    ShapeError
        If a mask of a state dict does not fit its tensor.

    Examples
    --------
    >>> import os, tempfile
    >>> from minigrad import compress, nn
    >>> model = nn.Dense(256, in_features=256)
    >>> _ = compress.prune(model, 0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "small.safetensors")
    ...     compress.save_sparse(file, model)
    ...     size = os.path.getsize(file)
    ...     other = nn.Dense(256)
    ...     other.load_state_dict(compress.load_sparse(file))
    LoadReport(missing=[], unexpected=[])
    >>> size < 256 * 256 * 4 / 7, bool((other.weight == model.weight).all())
    (True, True)
    """
    given: Any = model.state_dict() if isinstance(model, Module) else model
    if not isinstance(given, Mapping):
        raise TypeError(message("save_sparse", "model", describe(given), "a module or its state dict"))
    if not str(path).endswith(".safetensors"):
        raise ValueError(message("save_sparse", "path", repr(str(path)), "a file that ends in .safetensors"))
    state = {name: _array(name, value) for name, value in given.items()}
    bits = {name.removesuffix(SUFFIX): x for name, x in state.items() if name.endswith(SUFFIX)}
    shapes = {name: x.shape for name, x in state.items()}
    keeps, unfit = read_masks({name: x for name, x in bits.items() if name in state}, shapes)
    if unfit:
        raise ShapeError(message("save_sparse", "model", f"a state in which {', '.join(unfit)}", "masks that fit"))
    tensors: dict[str, Array] = {}
    table: dict[str, Any] = {}
    for name, x in state.items():
        if name.removesuffix(SUFFIX) in keeps and name.endswith(SUFFIX):
            continue  # with its parameter
        keep = keeps.get(name)
        entry: dict[str, Any] = {"shape": list(x.shape)}
        pattern = pattern_of(x)
        if keep is not None:
            fits = not (pattern & ~keep).any()
            pattern = keep if fits else pattern
            entry["mask"] = KEPT if fits else OWN
        entry["form"], parts = encoded(x, pattern)
        if keep is not None and (entry["form"] == "dense" or entry["mask"] == OWN):
            entry["mask"], parts["mask"] = OWN, pack(keep)
        table[name] = entry
        tensors |= {f"{name}:{part}": array for part, array in parts.items()}
    save_weights(path, tensors, metadata={"format": FORMAT, "version": VERSION, "tensors": json.dumps(table)})


def load_sparse(path: FilePath) -> dict[str, Tensor]:
    """Read what `save_sparse` wrote, bit for bit, masks included: ``model.load_state_dict(load_sparse(path))``.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict of str to Tensor
        The state dict, dense.

    Raises
    ------
    DataError
        If the file is missing, or is not what `save_sparse` writes.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        got = f"of format {metadata.get('format')} {metadata.get('version')}"
        raise DataError(message("load_sparse", str(path), got, f"{FORMAT} {VERSION}", "See io.load_weights"))
    tensors = {name: np.asarray(t._array) for name, t in load_weights(path).items()}
    try:
        return _state(json.loads(metadata["tensors"]), tensors)
    except (FormError, KeyError, TypeError, AttributeError, ValueError, MemoryError, RecursionError) as error:
        got = f"malformed ({error})" if isinstance(error, FormError) else f"malformed ({error!r})"
        raise DataError(message("load_sparse", str(path), got, "a file as save_sparse writes it")) from error


def _state(table: Any, tensors: dict[str, Array]) -> dict[str, Tensor]:
    """The tensors of a table, of the parts that a file has; all of them have to be used."""
    state: dict[str, Tensor] = {}
    for name, entry in table.items():
        form, shape, mask = entry["form"], entry["shape"], entry.get("mask")
        if form not in FORMS or mask not in (None, KEPT, OWN) or set(entry) - {"form", "shape", "mask"}:
            raise FormError(f"{name} is in no known form")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 64:
            raise FormError(f"{name} has no shape")
        if math.prod(n for n in shape if n) > LARGEST:
            raise FormError(f"{name} is too large")
        parts = {part: tensors.pop(f"{name}:{part}") for part in FORMS[form]}
        try:
            array, pattern = decoded(form, parts, tuple(shape))
        except FormError as error:
            raise FormError(f"{name} has {error}") from None
        state[name] = asarray(array)
        if mask == KEPT:
            state[name + SUFFIX] = asarray(pack(pattern))
        elif mask == OWN:
            bits = tensors.pop(f"{name}:mask")
            if bits.dtype != np.uint8 or bits.shape != (-(-array.size // 8),):
                raise FormError(f"{name} has a mask of {bits.dtype} {bits.shape}")
            state[name + SUFFIX] = asarray(bits)
    if tensors:
        raise FormError(f"{', '.join(sorted(tensors))} belongs to nothing")
    return state


def _array(name: Any, value: Any) -> Array:
    if not isinstance(name, str):
        raise TypeError(message("save_sparse", "a name", describe(name), "a str"))
    return np.asarray(value.detach().to("cpu").numpy() if isinstance(value, Tensor) else value)

"""Forms in which a tensor with zeros takes less room: compressed sparse rows, and a bit for each element."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad.nn.masks import pack, unpack

__all__ = ["FORMS", "decoded", "encoded", "pattern_of", "smallest"]

Array = np.ndarray[Any, Any]
FORMS = {"csr": ("indptr", "indices", "values"), "bits": ("bits", "values"), "dense": ("values",)}
INDEX = (np.uint8, np.uint16, np.uint32)  # what counts columns, and elements
MOST = 2**12  # elements for each byte of rows: what a small file may claim to hold is bounded


class FormError(ValueError):
    """The parts of a form do not belong together."""


def pattern_of(x: Array) -> Array:
    """Where an array has anything but +0: a -0 and a NaN are values, so that nothing is lost."""
    word = min(x.dtype.itemsize, 8)  # complex128 has two
    words = np.ascontiguousarray(x).reshape(-1).view(f"u{word}").reshape(x.size, x.dtype.itemsize // word)
    found: Array = (words != 0).any(axis=1).reshape(x.shape)
    return found


def _unsigned(most: int) -> Any:
    return next(kind for kind in INDEX if most <= np.iinfo(kind).max)


def smallest(shape: tuple[int, ...], itemsize: int, count: int) -> tuple[str, int]:
    """The form that takes the fewest bytes for so many values, and these.

    Examples
    --------
    >>> from minigrad.compress.pruning.forms import smallest
    >>> [smallest((512, 512), 4, count) for count in (262144, 131072, 2622)]
    [('dense', 1048576), ('bits', 557056), ('csr', 16758)]
    """
    size = math.prod(shape)
    sizes = {"dense": size * itemsize, "bits": -(-size // 8) + count * itemsize}
    if len(shape) >= 2 and size and size < 2**32:
        rows, columns = shape[0], size // shape[0]
        pointer, index = np.dtype(_unsigned(count)).itemsize, np.dtype(_unsigned(columns - 1)).itemsize
        needed = (rows + 1) * pointer + count * (index + itemsize)
        if size <= MOST * needed:
            sizes["csr"] = needed
    form = min(sizes, key=lambda name: (sizes[name], name != "dense"))
    return form, sizes[form]


def encoded(x: Array, pattern: Array) -> tuple[str, dict[str, Array]]:
    """The smallest form of an array, and its parts; `pattern` has True wherever there is anything but +0."""
    count = int(np.count_nonzero(pattern))
    form, _ = smallest(x.shape, x.dtype.itemsize, count)
    if form == "dense":
        return form, {"values": np.asarray(x, order="C")}
    values = x[pattern]
    if form == "bits":
        return form, {"bits": pack(pattern), "values": values}
    table = pattern.reshape(x.shape[0], -1)
    ends = np.concatenate([[0], np.cumsum(np.count_nonzero(table, axis=1))])
    columns = np.nonzero(table)[1].astype(_unsigned(table.shape[1] - 1))
    return form, {"indptr": ends.astype(_unsigned(count)), "indices": columns, "values": values}


def decoded(form: str, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The array that a form holds, and where it has values.

    Raises
    ------
    FormError
        If the parts do not belong together.
    """
    values = parts["values"]
    size = math.prod(shape)
    if form == "dense":
        _need(values.shape == shape, f"values of shape {values.shape}, not {shape}")
        return values, np.ones(shape, np.bool_)
    _need(values.ndim == 1 and len(values) <= size, f"{values.shape} values for {size} elements")
    pattern = _bits(parts, shape) if form == "bits" else _rows(parts, shape, len(values))
    found = np.count_nonzero(pattern)
    _need(found == len(values), f"{len(values)} values for {found} places")
    made = np.zeros(shape, values.dtype)
    made[pattern] = values
    return made, pattern


def _bits(parts: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    bits, size = parts["bits"], math.prod(shape)
    _need(
        bits.dtype == np.uint8 and bits.shape == (-(-size // 8),), f"bits {bits.dtype} {bits.shape} for {size} elements"
    )
    _need(not size % 8 or not int(bits[-1]) >> (size % 8), "bits beyond the last element")
    found: Array = unpack(bits, shape)
    return found


def _rows(parts: Mapping[str, Array], shape: tuple[int, ...], count: int) -> Array:
    ends, columns = parts["indptr"], parts["indices"]
    _need(len(shape) >= 2 and math.prod(shape) > 0, f"rows of the shape {shape}")
    width = math.prod(shape[1:])
    kinds = [part.dtype in map(np.dtype, INDEX) and part.ndim == 1 for part in (ends, columns)]
    _need(all(kinds) and len(ends) == shape[0] + 1 and len(columns) == count, "indptr or indices of another size")
    stored = sum(parts[part].nbytes for part in FORMS["csr"])
    _need(math.prod(shape) <= MOST * stored, f"{stored} bytes for {math.prod(shape)} elements")
    ends, columns = ends.astype(np.int64), columns.astype(np.int64)
    steps = np.diff(ends)
    _need(
        ends[0] == 0 and ends[-1] == count and bool((steps >= 0).all()), "indptr that does not rise from 0 to the end"
    )
    _need(not count or int(columns.max()) < width, f"a column beyond {width}")
    flat = np.repeat(np.arange(shape[0]), steps) * width + columns
    _need(bool((np.diff(flat) > 0).all()), "columns that do not rise within a row")
    pattern = np.zeros(shape, np.bool_)
    pattern.reshape(-1)[flat] = True
    return pattern


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise FormError(what)

"""Masks of parameters: which weights are there at all, and what a state dict holds of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.backend import devices
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import write
from minigrad.nn.shared_parameters import by_first_name, first_names
from minigrad.tensor import Tensor

__all__ = [
    "SUFFIX",
    "mask_beside",
    "mask_of",
    "pack",
    "packed_mask",
    "read_masks",
    "split_masks",
    "unpack",
    "write_masked",
]

Array = Any
SUFFIX = ".mask"  # what a state dict appends to a parameter's name; no member of a module is called so


def mask_of(p: Tensor, where: str | Callable[[], str]) -> Array | None:
    """The mask as NumPy's bools of the parameter's shape; `where` says for an error who asks, a text or what makes it.

    Raises
    ------
    TypeError
        If it is neither bools nor numbers.
    ShapeError
        If it does not stretch to the parameter's shape.
    """
    mask = getattr(p, "mask", None)
    return None if mask is None else _stretched(mask, p.shape, "cpu", where)


def mask_beside(p: Tensor, where: str | Callable[[], str]) -> Array | None:
    """The mask as `mask_of` gives it, on the device of the parameter: a copy, unless it lies there as bools.

    A mask of NumPy's is copied in every step to a parameter on a GPU; one that is a tensor there is not.
    """
    mask = getattr(p, "mask", None)
    return None if mask is None else _stretched(mask, p.shape, p.device, where)


def _stretched(mask: Any, shape: tuple[int, ...], device: str, where: str | Callable[[], str]) -> Array:
    """A mask as bools of a shape, on a device."""
    keep = mask._array if isinstance(mask, Tensor) else mask
    if not devices.is_foreign(keep):
        keep = np.asarray(keep)
    elif device == "cpu":
        keep = devices.move(keep, device, "mask")
    if keep.dtype != np.bool_:
        if keep.dtype not in dtypes.ALL:
            raise TypeError(message(_text(where), "mask", describe(mask), "bools or numbers"))
        keep = keep != 0
    if keep.shape != shape:
        try:
            keep = np.broadcast_to(keep, shape)
        except ValueError:
            need = f"{shape}, or what stretches to it"
            raise ShapeError(message(_text(where), "mask", f"{keep.shape}", need)) from None
    return keep if device == "cpu" else devices.move(keep, device, "mask")


def _text(where: str | Callable[[], str]) -> str:
    return where if isinstance(where, str) else where()


def pack(keep: Array) -> Array:
    """Bools as bits, the first of each eight lowest: uint8 of (ceil(size / 8),), a 32nd of float32 weights.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.nn.masks import pack, unpack
    >>> bits = pack(np.array([[True, False], [False, True]]))
    >>> bits, unpack(bits, (2, 2)).tolist()
    (array([9], dtype=uint8), [[True, False], [False, True]])
    """
    return np.packbits(np.asarray(keep), bitorder="little")


def unpack(bits: Array, shape: tuple[int, ...]) -> Array:
    """What `pack` was given."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.unpackbits(np.asarray(bits), count=size, bitorder="little").view(np.bool_).reshape(shape)


def split_masks(
    module: Any, own: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Take the masks out of a state.

    Returns
    -------
    given : dict
        The state without masks.
    masks : dict of str to tensor or array
        Masks by the first name of their parameter.
    contradictory : list of str
        Where names of one parameter have different masks.
    """
    stems = {name.removesuffix(SUFFIX): name for name in given if name.endswith(SUFFIX) and name not in own}
    tied = first_names(module, own, stems)
    known = {stem: given[name] for stem, name in stems.items() if stem in own or stem in tied}
    rest = {name: value for name, value in given.items() if name.removesuffix(SUFFIX) not in known or name in known}
    masks, contradictory = by_first_name(known, tied)
    return rest, masks, [f"masks of {text}" for text in contradictory]


def packed_mask(name: str, p: Tensor) -> dict[str, Tensor]:
    """The entry of a state dict for the mask of a parameter, none where it has none."""
    keep = mask_of(p, f"state_dict: {name}")
    return {} if keep is None else {name + SUFFIX: ops.asarray(pack(keep))}


def read_masks(masks: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Array], list[str]]:
    """The masks of a state as bools of their parameters' shapes, and in words those that do not fit."""
    found, unfit = {}, []
    for name, value in masks.items():
        array = np.asarray(value.to(device="cpu").numpy() if isinstance(value, Tensor) else value)
        shape = tuple(shapes[name])
        count = -(-int(np.prod(shape, dtype=np.int64)) // 8)
        if array.dtype == np.bool_ and array.shape == shape:
            found[name] = array.copy()
        elif array.dtype == np.uint8 and array.shape == (count,):
            found[name] = unpack(array, shape)
        else:
            unfit.append(f"{name}{SUFFIX} is {array.dtype} of {array.shape}, needs uint8 of ({count},)")
    return found, unfit


def write_masked(own: Mapping[str, Tensor], values: Mapping[str, Tensor], keeps: Mapping[str, Array]) -> None:
    """Write values and masks into the tensors of a module: 0 where the mask is False, that of the state or its own."""
    found = {name: keeps.get(name, mask_of(own[name], "load_state_dict")) for name in values}
    for name, value in values.items():
        if found[name] is not None:
            np.copyto(value._array, 0, where=devices.move(~found[name], value.device, "mask"))
        write(own[name], value)
    for name, keep in keeps.items():
        p: Any = own[name]
        p.mask = keep
        if name not in values:
            np.copyto(p._array, 0, where=devices.move(~keep, p.device, "mask"))
            tape.mark_changed(p)

"""What collectives take: arrays on the CPU or a GPU, checked, flat, as bytes, and the header of one that is sent."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core import shared
from minigrad.backend import devices
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.tensor import Tensor

__all__ = ["BYTES", "HOST", "NCCL", "STAGED", "bytes_of", "checked", "empty", "empty_by", "form", "header", "is_here",
    "kind_of", "reducible", "result_for"]  # fmt: skip

Array = Any
OPS = ("sum", "mean", "max")
SENT = 40  # int64 that go before an array that is sent: its dtype, its axes, its extents, in the last how it comes
BYTES = SENT * 8  # of them
CODES = [np.dtype(t) for t in (*"?bhilBHILefdFD",)] + [dtypes.bfloat16]
HOST, NCCL, STAGED = range(3)  # how an array is sent: from CPU to CPU, from GPU to GPU, or there through the CPUs


def is_here(array: Array) -> bool:
    """Whether an array lies on the CPU."""
    return isinstance(array, np.ndarray)


def checked(who: str, x: Any) -> Array:
    """What was given as an array of numbers, of the backend that it is of."""
    array = x._array if isinstance(x, Tensor) else x
    if is_here(array) or not devices.is_foreign(array):
        array = np.asarray(array)
    else:
        devices.check_current(who, array)
    if array.dtype not in CODES:
        raise DTypeError(message(who, "x", array, "numbers or bools, of the machine's byte order"))
    return array


def reducible(who: str, array: Array, op: str) -> tuple[int, Array]:
    """What the elements are to the kernel, and the array as a flat one of such elements."""
    if op not in OPS:
        raise ValueError(message(who, "op", repr(op), "'sum', 'mean' or 'max'"))
    flat = devices.of_array(array).namespace.ascontiguousarray(array).reshape(-1)
    letter = array.dtype.kind
    if letter == "c":
        if op == "max":
            raise DTypeError(message(who, "x", array, "real numbers for a maximum"))
        flat = flat.view(np.float32 if array.dtype.itemsize == 8 else np.float64)
    elif letter == "b":
        if op != "max":
            raise DTypeError(message(who, "x", array, f"numbers for a {op}", "The maximum of bools is `any`"))
        flat = flat.view(np.uint8)
    elif letter in "iu":
        if op == "mean":
            raise DTypeError(message(who, "x", array, "floating numbers for a mean"))
        if op == "sum":  # it wraps
            flat = flat.view(f"u{array.dtype.itemsize}")
    kind, size = flat.dtype.kind, 8 * flat.dtype.itemsize
    name = f"{'int' if kind == 'i' else 'uint'}{size}" if kind in "iu" else flat.dtype.name
    return shared.kinds[name], flat


def result_for(who: str, array: Array, out: Array | None) -> Array:
    """Where the result of an array goes: a new one, or what was given, if it fits."""
    if out is None:
        return empty(array, array.shape, array.dtype)
    if type(out) is not type(array) and not (is_here(out) and is_here(array)):
        need = "a numpy.ndarray" if is_here(array) else f"a {type(array).__name__} on the GPU, as x"
        raise TypeError(message(who, "out", f"a {type(out).__name__}", need))
    if out.shape != array.shape or out.dtype != array.dtype:
        raise ShapeError(message(who, "out", out, f"{describe(array)}, as x"))
    if not (out.flags.c_contiguous and devices.writeable(out)):
        raise ValueError(message(who, "out", "read-only or not in C order", "memory to write to, in C order"))
    return out


def empty(like: Array, shape: Any, dtype: Any) -> Array:
    """Memory where an array lies."""
    return devices.of_array(like).namespace.empty(shape, dtype)


def bytes_of(array: Array) -> Array:
    """An array in C order as bytes."""
    return devices.of_array(array).namespace.ascontiguousarray(array).reshape(-1).view(np.uint8)


def form(*numbers: int) -> int:
    """A number of 40 bits that stands for some, on all ranks the same."""
    return hash(numbers) & 0xFFFFFFFFFF


def kind_of(array: Array) -> int:
    """A number for a dtype."""
    return ord(array.dtype.kind) << 8 | int(array.dtype.itemsize)


def header(array: Array, way: int) -> np.ndarray[Any, Any]:
    """What tells the receiver what comes, and how."""
    head = np.zeros(SENT, np.int64)
    head[:2] = CODES.index(array.dtype), array.ndim
    head[2 : 2 + array.ndim] = array.shape
    head[-1] = way
    return head


def empty_by(head: np.ndarray[Any, Any]) -> Array:
    """Memory for what a header tells of, where it is to lie."""
    shape, dtype = tuple(head[2 : 2 + head[1]].tolist()), CODES[head[0]]
    if head[-1] == HOST:
        return np.empty(shape, dtype)
    return devices.backend_of("cuda", "recv")[0].namespace.empty(shape, dtype)

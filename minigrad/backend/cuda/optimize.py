"""The update rules of optimizers on the GPU: one launch for the parameters of a group, whatever their number."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda import capture
from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.tables import THREADS, is_capturing, table, uploaded
from minigrad.backend.numbers import DeviceNumber
from minigrad.errors import GradError, message

__all__ = ["Item", "dense", "fits", "placed", "update"]

Array = Any
KINDS = {dtypes.float16: 1, dtypes.bfloat16: 2}
RULES = {  # the numbers of optimize.cu, and which kernel it is
    "sgd": (0, "sgd"),
    "adam": (1, "adam"),
    "nadam": (2, "adaptive"),
    "radam": (3, "adaptive"),
    "rmsprop": (4, "adaptive"),
    "adagrad": (5, "adaptive"),
    "lion": (6, "lion"),
}


class Item(NamedTuple):
    """A parameter, what belongs to it, and what is done to it."""

    x: Array  # the parameter, or its master weights
    g: Array
    states: Sequence[Array | None]  # three
    half: Array | None = None
    keep: Array | None = None
    step: DeviceNumber | None = None
    product: DeviceNumber | None = None
    l1: float = 0.0
    l2: float = 0.0
    prox: float = 0.0


def fits(array: Array, shape: tuple[int, ...], dtype: Any, device: Any) -> bool:
    """Whether an array lies on a GPU in C order, and is of a shape and dtype."""
    return (
        type(array) is cupy.ndarray
        and array.dtype == dtype
        and array.shape == shape
        and array.device.id == device.id
        and array.flags.c_contiguous
    )


def dense(array: Array | None) -> Array | None:
    """An array in C order."""
    return None if array is None else cupy.ascontiguousarray(array)


def update(
    rule: str,
    items: Sequence[Item],
    numbers: Callable[[], np.ndarray[Any, Any]],
    flags: int,
    finite: Array | None,
) -> None:
    """Update parameters of one dtype on the current GPU.

    Moves 28 bytes for a float32 weight of Adam, 20 with SGD's momentum, and 8 more with one more array of the state.

    Parameters
    ----------
    rule : str
        One of `RULES`.
    items : sequence of Item
        The parameters.
    numbers : callable
        Gives `Numbers` of optimize.cu, float64; anew for each replay of a captured step.
    flags : int
        What else the rule has to know: Nesterov's momentum, centered.
    finite : array or None
        A bool on the GPU. Where it is False, nothing is written.
    """
    items = [item for item in items if item.x.size or item.step is not None]
    if not items:
        return
    made = table([_row(item) for item in items], [item.x.size for item in items])
    values = capture.scalars(numbers) if is_capturing() else uploaded(numbers())
    factors = cupy.empty((len(items), 3), np.float64)
    flag = np.intp(0) if finite is None else finite
    number, name = RULES[rule]
    grid = ((len(items) + THREADS - 1) // THREADS,)
    arguments = (made.array, np.int32(made.rows), np.int32(number), values, flag, factors)
    kernel("optimize", "count_steps")(grid, (THREADS,), arguments)
    if made.chunks:
        arguments = (made.array, np.int32(made.rows), values, factors, flag, np.int32(flags))
        kernel("optimize", f"{name}_{items[0].x.dtype}")((made.chunks,), (THREADS,), arguments)


def _row(item: Item) -> list[int]:
    """The fields of `Row` of optimize.cu."""
    arrays = [item.x, item.g, *item.states, item.half, item.keep]
    kinds = KINDS.get(item.g.dtype, 0) | (0 if item.half is None else KINDS[item.half.dtype] << 32)
    factors = struct.unpack("3q", struct.pack("3d", item.l1, item.l2, item.prox))
    counts = [0 if n is None else n.ptr for n in (item.step, item.product)]
    return [*(0 if a is None else a.data.ptr for a in arrays), *counts, item.x.size, kinds, *factors]


def placed(values: Sequence[float], dtype: Any) -> list[DeviceNumber]:
    """Numbers on the current GPU, for kernels to count on."""
    if is_capturing():
        hint = "Take a step before the one that is captured"
        raise GradError(message("step", "the count of steps", "not on the GPU yet", "it there before a capture", hint))
    array = cupy.asarray(np.array(values, dtype))
    return [DeviceNumber(array, i) for i in range(len(values))]

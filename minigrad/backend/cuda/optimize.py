"""The update rules of optimizers on the GPU: one launch for the parameters of a group, whatever their number."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

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


class Item:
    """A parameter, as the kernels are told of it: `Row` of optimize.cu.

    Parameters
    ----------
    x : array
        The parameter, or the float32 master weights of a half one.
    states : sequence of array or None
        Three of its state.
    half : array or None
        The half parameter.
    """

    __slots__ = ("arrays", "counts", "fields", "held")

    def __init__(self, x: Array, states: Sequence[Array | None], half: Array | None) -> None:
        self.arrays = [x, *states, half]  # they must not go while their addresses are known
        self.counts: tuple[DeviceNumber | None, DeviceNumber | None] = None, None
        self.held: Any = None
        first = [pointer(a) for a in (x, None, *states, half, None)]
        self.fields = [*first, 0, 0, x.size, 0 if half is None else KINDS[half.dtype] << 32, 0, 0, 0]

    def take(self, g: Array, keep: Array | None, factors: Sequence[float]) -> None:
        """Note what each step may change: the gradient, the mask, and the factors of L1, L2 and the threshold."""
        fields = self.fields
        self.held = g, keep
        fields[1], fields[6] = g.data.ptr, pointer(keep)
        fields[10] = fields[10] >> 32 << 32 | KINDS.get(g.dtype, 0)
        fields[11:] = struct.unpack("3q", struct.pack("3d", *factors)) if any(factors) else (0, 0, 0)

    def __reduce__(self) -> Any:  # a copy of an optimizer makes its own: addresses do not follow
        return type(None), ()

    def count(self, step: DeviceNumber | None, product: DeviceNumber | None) -> None:
        """Note where its steps are counted, and the product of NAdam's momenta is."""
        self.counts = step, product
        self.fields[7:9] = (0 if number is None else number.ptr for number in self.counts)


def pointer(array: Array | None) -> int:
    """The address of an array, 0 where there is none."""
    return 0 if array is None else array.data.ptr


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
    made = table([item.fields for item in items], [item.fields[9] for item in items])
    values = capture.scalars(numbers) if is_capturing() else uploaded(numbers())
    factors = cupy.empty((len(items), 3), np.float64)
    flag = np.intp(0) if finite is None else finite
    number, name = RULES[rule]
    grid = ((len(items) + THREADS - 1) // THREADS,)
    arguments = (made.array, np.int32(made.rows), np.int32(number), values, flag, factors)
    kernel("optimize", "count_steps")(grid, (THREADS,), arguments)
    if made.chunks:
        arguments = (made.array, np.int32(made.rows), values, factors, flag, np.int32(flags))
        kernel("optimize", f"{name}_{items[0].arrays[0].dtype}")((made.chunks,), (THREADS,), arguments)


def placed(values: Sequence[float], dtype: Any) -> list[DeviceNumber]:
    """Numbers on the current GPU, for kernels to count on."""
    if is_capturing():
        hint = "Take a step before the one that is captured"
        raise GradError(message("step", "the count of steps", "not on the GPU yet", "it there before a capture", hint))
    array = cupy.asarray(np.array(values, dtype))
    return [DeviceNumber(array, i) for i in range(len(values))]

"""Transfers: copies from the CPU to a GPU, on a stream of their own, while the work that was launched goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import cupy
import cupyx
import numpy as np

__all__ = ["Sent", "Transfers", "transfers"]

Array = Any
DEPTH = 8  # transfers whose pinned memory is kept: the host waits for the first of more


class Sent:
    """Arrays that are on their way to the GPU."""

    def __init__(self, arrays: list[Array], pinned: list[Any], copied: Any, device: Any) -> None:
        self.arrays, self.pinned, self.copied, self.device = arrays, pinned, copied, device

    def arrive(self) -> list[Array]:
        """The arrays on the GPU: what is launched on its current stream from now on sees them whole."""
        with self.device:  # whichever is the current one
            cupy.cuda.get_current_stream().wait_event(self.copied)
        found, self.arrays = self.arrays, []
        return found


class Transfers:
    """The copies to one GPU.

    The memory that is copied to comes from the current stream, so that it goes back there, in its order; the copy waits
    for what that stream had to do when the copy was asked for, as it may use the same memory. Both kinds of memory are
    held until they may be used again.
    """

    def __init__(self, device: int) -> None:
        self.device = cupy.cuda.Device(device)
        with self.device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
        self.flying: deque[Sent] = deque()

    def send(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Sent:
        """Begin to copy arrays; ask for what comes next before the work is launched that it shall run beside."""
        while self.flying and (len(self.flying) >= DEPTH or self.flying[0].copied.done):
            self.flying[0].copied.synchronize()
            self.flying.popleft()  # and not before: its memory is free from here on
        with self.device:
            made = [cupy.empty(array.shape, array.dtype) for array in arrays]
            pinned = [cupyx.empty_pinned(array.shape, array.dtype) if array.size else array for array in arrays]
            for place, array in zip(pinned, arrays, strict=True):
                if array.size:
                    place[...] = array
            self.stream.wait_event(cupy.cuda.get_current_stream().record())
            with self.stream:
                for out, place in zip(made, pinned, strict=True):
                    if place.size:
                        out.set(place)
            sent = Sent(made, pinned, self.stream.record(), self.device)
        self.flying.append(sent)
        return sent


@cache
def transfers(device: int) -> Transfers:
    """Those to a GPU by its number."""
    return Transfers(device)

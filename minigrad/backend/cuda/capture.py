"""What changes from step to step, for kernels whose arguments are frozen while a CUDA graph is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import cupy
import cupyx
import numpy as np

from minigrad.errors import GradError, message

__all__ = ["Recording", "asked", "before_replay", "constant", "offset", "scalars"]

Array = Any
ALIGN = 16  # bytes, as the widest load of a kernel
BLOCK = 4096  # bytes of a block that values are copied to the GPU in, unless one needs more
DEPTH = 4  # replays that the host may be ahead of the GPU


def offset() -> Array | None:
    """What random kernels add to their counter: one uint64 on the GPU while a step is captured, else None."""
    recording = _current.get()
    return None if recording is None else recording.offset


def scalars(compute: Callable[[], Any]) -> Array:
    """The array of NumPy's that `compute` returns, on the GPU; of a captured step, anew before each replay.

    While a step is captured `compute` is called once, to see what it gives, and whoever captures takes back what it has
    counted: nothing has run. Then it is called once before each replay.
    """
    recording = _current.get()
    return cupy.asarray(compute()) if recording is None else recording.scalars(compute)


def constant(values: Any) -> Array:
    """An array of NumPy's on the GPU, such as a table of addresses; of a captured step, before the first replay."""
    recording = _current.get()
    return cupy.asarray(values) if recording is None else recording.constant(values)


def before_replay(function: Callable[[], object]) -> None:
    """Call it before each replay, where a step is captured."""
    recording = _current.get()
    if recording is not None:
        recording.work.append(function)


def asked() -> int:
    """How much work of the host was asked for while this step is captured."""
    recording = _current.get()
    return 0 if recording is None else len(recording.work)


class Block:
    """Memory on the GPU that is filled by one copy before each replay, and the memory it is copied from.

    The host writes while the GPU may still copy what an earlier replay needs; so there are several places, in turn.
    """

    def __init__(self, size: int, depth: int) -> None:
        self.device, self.used, self.turn = cupy.empty(size, np.uint8), 0, 0
        self.host = [cupyx.empty_pinned(size, np.uint8) for _ in range(depth)]
        self.copied: list[Any] = [None] * depth  # events

    def place(self, size: int) -> slice | None:
        """Room for so many bytes; None where there is none left."""
        start = -(-self.used // ALIGN) * ALIGN
        if start + size > len(self.device):
            return None
        self.used = start + size
        return slice(start, self.used)

    def begin(self) -> Array:
        """The bytes to write, once the copy from them that was last has been done."""
        if self.copied[self.turn] is not None:
            self.copied[self.turn].synchronize()
        return self.host[self.turn]

    def send(self) -> None:
        """Copy what was written to the GPU, on the current stream."""
        self.device[: self.used].set(self.host[self.turn][: self.used])
        event = self.copied[self.turn] = self.copied[self.turn] or cupy.cuda.Event(disable_timing=True)
        event.record()
        self.turn = (self.turn + 1) % len(self.host)

    def __del__(self) -> None:
        """The pool of pinned memory gives it to whoever asks next, so no copy may need it any more."""
        with suppress(Exception):  # at the end of the program the driver may have gone
            for event in self.copied:
                if event is not None:
                    event.synchronize()


class Recording:
    """What a captured step asks of the host before each replay.

    Make it before the capture begins, under the allocator of the graph: its memory lives as long.
    """

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []
        self.blocks = [Block(BLOCK, DEPTH)]
        self.fixed: list[Block] = []  # of constants
        self.sent = False  # whether those are there
        self.shift = 0  # what `offset` has in the next replay
        self.offset = self._add(np.zeros(1, np.uint64), lambda: np.array([self.shift], np.uint64))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the functions of this module record in the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def scalars(self, compute: Callable[[], Any]) -> Array:
        """See the function of this name."""
        return self._add(np.asarray(compute()), compute)

    def constant(self, values: Array) -> Array:
        """See the function of this name."""
        values = np.asarray(values)
        block, place = _room(self.fixed, values.nbytes, 1)
        block.host[0][place] = np.frombuffer(values.tobytes(), np.uint8)
        return block.device[place].view(values.dtype).reshape(values.shape)

    def _add(self, first: Array, compute: Callable[[], Any]) -> Array:
        block, place = _room(self.blocks, first.nbytes, DEPTH)
        shape, dtype = first.shape, first.dtype

        def write() -> None:
            values = np.asarray(compute())
            if values.shape != shape or values.dtype != dtype:
                got, need = f"{values.dtype} {values.shape}", f"{dtype} {shape}, as when the step was captured"
                raise GradError(message("capture.scalars", "what it is to compute", got, need))
            block.host[block.turn][place] = np.frombuffer(values.tobytes(), np.uint8)

        self.work.append(write)
        return block.device[place].view(dtype).reshape(shape)

    def send(self, shift: int) -> None:
        """Do the work on the host, and copy what it gives to the GPU, on the current stream."""
        self.shift = shift
        for block in self.blocks:
            block.begin()
        for function in self.work:
            function()
        for block in self.blocks if self.sent else [*self.blocks, *self.fixed]:
            block.send()
        self.sent = True


def _room(blocks: list[Block], size: int, depth: int) -> tuple[Block, slice]:
    """Where so many bytes go: into the last block, or a new one."""
    place = blocks[-1].place(size) if blocks else None
    if place is None:
        blocks.append(Block(max(BLOCK, size), depth))
        place = blocks[-1].place(size)
        assert place is not None
    return blocks[-1], place


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)

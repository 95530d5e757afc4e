"""NCCL through CuPy: what the GPUs of several processes send each other, where the current stream has come to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np
from cupy.cuda import nccl

from minigrad import dtypes

__all__ = ["Error", "Link", "Side", "bus_id", "is_capturing", "is_installed", "unique_id"]

Array = Any
Error = getattr(nccl, "NcclError", RuntimeError)
NAMES = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
ID = 128  # bytes of a unique id


def is_installed() -> bool:
    """Whether CuPy finds the library."""
    return bool(nccl.available)


def unique_id() -> bytes:
    """What the ranks of a new `Link` must share."""
    return bytes(nccl.get_unique_id())


def bus_id() -> str:
    """Which GPU of its machine the current one is, whatever its number in this process."""
    return str(cupy.cuda.Device(cupy.cuda.runtime.getDevice()).pci_bus_id)


class Link:
    """The GPUs of `size` processes, of which this is one, the current GPU. To make it is a collective.

    Every method tells the current stream what to do and comes back. Arrays are flat and contiguous, and must live until
    the stream has come to them; sums are made as NCCL likes.
    """

    def __init__(self, size: int, unique: bytes, rank: int) -> None:
        self.comm = nccl.NcclCommunicator(size, unique, rank)
        self.kinds = {np.dtype(name): int(getattr(nccl, f"NCCL_{name.upper()}")) for name in NAMES}
        self.kinds[dtypes.bfloat16] = nccl.NCCL_BFLOAT16
        self.ops = {"sum": nccl.NCCL_SUM, "max": nccl.NCCL_MAX}

    def all_reduce(self, x: Array, out: Array, op: str) -> None:
        """Combine; `x` may be `out`."""
        self.comm.allReduce(x.data.ptr, out.data.ptr, x.size, self.kinds[x.dtype], self.ops[op], stream())

    def reduce_parts(self, x: Array, out: Array, ends: Sequence[int], op: str) -> None:
        """Combine, and leave rank r the elements from ``ends[r]`` to ``ends[r + 1]``."""
        kind, combine, at = self.kinds[x.dtype], self.ops[op], stream()
        if is_even(ends):
            self.comm.reduceScatter(x.data.ptr, out.data.ptr, out.size, kind, combine, at)
            return
        nccl.groupStart()
        for root, (a, b) in enumerate(itertools.pairwise(ends)):
            if b > a:
                self.comm.reduce(x[a:].data.ptr, out.data.ptr, b - a, kind, combine, root, at)
        nccl.groupEnd()

    def gather_parts(self, x: Array, out: Array, ends: Sequence[int]) -> None:
        """Fill `out` with the bytes of all; those of rank r go from ``ends[r]`` to ``ends[r + 1]``."""
        kind, at = self.kinds[x.dtype], stream()
        if is_even(ends):
            self.comm.allGather(x.data.ptr, out.data.ptr, x.size, kind, at)
            return
        nccl.groupStart()
        for root, (a, b) in enumerate(itertools.pairwise(ends)):
            if b > a:
                self.comm.broadcast(x.data.ptr, out[a:].data.ptr, b - a, kind, root, at)
        nccl.groupEnd()

    def broadcast(self, x: Array, root: int) -> None:
        """Fill `x` with the bytes of one rank."""
        self.comm.broadcast(x.data.ptr, x.data.ptr, x.size, self.kinds[x.dtype], root, stream())

    def trade(self, sends: Sequence[tuple[Array, int]], receives: Sequence[tuple[Array, int]]) -> None:
        """Send arrays to ranks and fill others with what ranks send, all at once."""
        at = stream()
        nccl.groupStart()
        for x, peer in sends:
            self.comm.send(x.data.ptr, x.size, self.kinds[x.dtype], peer, at)
        for x, peer in receives:
            self.comm.recv(x.data.ptr, x.size, self.kinds[x.dtype], peer, at)
        nccl.groupEnd()

    def mark(self) -> Any:
        """An event that is ``done`` when the stream has come here."""
        event = cupy.cuda.Event(disable_timing=True)
        event.record(cupy.cuda.get_current_stream())
        return event

    def check(self) -> None:
        """Raise what has gone wrong on the way since."""
        self.comm.check_async_error()

    def abort(self) -> None:
        """End what is under way; nothing can be called afterwards."""
        self.comm.abort()


class Side:
    """A stream beside the current one; what is told in its block comes after what the current one was told before."""

    def __init__(self) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def __enter__(self) -> None:
        self.stream.wait_event(cupy.cuda.get_current_stream().record())
        self.stream.__enter__()

    def __exit__(self, *error: object) -> None:
        self.stream.__exit__(*error)

    def join(self) -> None:
        """Let the current stream wait for this one."""
        cupy.cuda.get_current_stream().wait_event(self.stream.record())


def is_capturing() -> bool:
    """Whether the current stream notes what it is told, for a CUDA graph."""
    return bool(cupy.cuda.get_current_stream().is_capturing())


def stream() -> int:
    """The current stream, for C."""
    return int(cupy.cuda.get_current_stream().ptr)


def is_even(ends: Sequence[int]) -> bool:
    """Whether all parts are of one size."""
    return len({b - a for a, b in itertools.pairwise(ends)}) == 1

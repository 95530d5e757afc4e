"""The engine for arrays on GPUs, one a rank, by NCCL; the engine of the CPU brings the ranks together."""

from __future__ import annotations

import queue
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.backend import devices
from minigrad.errors import DeviceError, message
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.errors import ParallelError
from minigrad.parallel.single import SingleCommunicator

__all__ = ["Gpus", "Lane", "connect", "watch"]

Array = Any
TICK = 0.02  # seconds between two looks at what is under way
NAME = 192  # bytes that a rank names its GPU in
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Gpus:
    """What `Communicator` hands arrays on a GPU to: its methods with an underscore, by NCCL.

    float32, float64 and integers of 8, 32 and 64 bits are summed by NCCL. Half types are sent as they are, and added
    here, in the order of the ranks, in float32; so are 16-bit integers, and maxima of floats, where NCCL drops NaN.

    Nothing waits for the GPU. A thread looks at what is under way: where NCCL reports an error, or `timeout` has gone
    by, it ends all ranks.
    """

    def __init__(self, communicator: Communicator, link: Any, library: Any) -> None:
        self.size, self.rank, self.link, self.library = communicator.size, communicator.rank, link, library
        self.timeout, self.broken = communicator.timeout, False
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = ender(weakref.ref(communicator))
        threading.Thread(target=watch, args=(self._jobs, link, end), name="minigrad-nccl", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def _call(self, name: str, function: Callable[..., None], *args: Any) -> None:
        if self.broken:
            raise ParallelError(f"{name}: an earlier call did not come to its end, so the ranks are out of step")
        if self.library.is_capturing():
            got, need = "a CUDA graph that is being captured", "no graph: call the step itself"
            raise DeviceError(message(name, None, got, need))
        try:
            function(*args)
            event = self.link.mark()
        except self.library.Error as error:
            self.broken = True
            self.link.abort()
            raise ParallelError(f"{name}: rank {self.rank} is told by NCCL: {error}") from None
        self._jobs.put((name, event, time.monotonic() + self.timeout, self.timeout))

    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        if not x.size:
            return
        if is_native(x.dtype, op):
            self._call("allreduce", self.link.all_reduce, x, out, "max" if op == "max" else "sum")
            if op == "mean":
                out /= out.dtype.type(self.size)
            return
        ends = x.size * np.arange(self.size + 1, dtype=np.int64) // self.size
        own = self._combine("allreduce", x, ends, op)
        whole, part = out.view(np.uint8), own.view(np.uint8)
        self._call("allreduce", self.link.gather_parts, part, whole, (ends * x.dtype.itemsize).tolist())

    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        if not x.size:
            return
        if is_native(x.dtype, op):
            parts = ends.tolist()
            self._call("reduce_scatter", self.link.reduce_parts, x, out, parts, "max" if op == "max" else "sum")
            if op == "mean":
                out /= out.dtype.type(self.size)
        else:
            out[...] = self._combine("reduce_scatter", x, ends, op)

    def _combine(self, name: str, x: Array, ends: Array, op: str) -> Array:
        """Send each rank its part of x; this rank's, combined."""
        xp = devices.of_array(x).namespace
        others = [k for k in range(self.size) if k != self.rank]
        own = x[int(ends[self.rank]) : int(ends[self.rank + 1])]
        parts = {k: xp.empty(own.size, x.dtype) for k in others} | {self.rank: own}
        sends = [(x[int(ends[k]) : int(ends[k + 1])].view(np.uint8), k) for k in others]
        self._trade(name, sends, [(parts[k].view(np.uint8), k) for k in others])
        total = parts[0].astype(np.float32 if x.dtype in dtypes.HALF else x.dtype)  # a copy
        for k in range(1, self.size):
            part = parts[k].astype(total.dtype, copy=False)
            total = xp.maximum(total, part) if op == "max" else total + part
        if op == "mean":
            total /= total.dtype.type(self.size)
        return total.astype(x.dtype, copy=False)

    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        if out.size:
            self._call("all_gather", self.link.gather_parts, x, out, ends.tolist())

    def _broadcast(self, x: Array, root: int) -> None:
        if x.size:
            self._call("broadcast", self.link.broadcast, x, root)

    def _push(self, x: Array, to: int) -> None:
        self._trade("send", [(x, to)], [])

    def _pull(self, x: Array, source: int) -> None:
        self._trade("recv", [], [(x, source)])

    def _trade(self, name: str, sends: Sequence[tuple[Array, int]], receives: Sequence[tuple[Array, int]]) -> None:
        """Send to some ranks and take from others, none waiting for another; arrays without elements stay away."""
        given, taken = ([(x, peer) for x, peer in pairs if x.size] for pairs in (sends, receives))
        if given or taken:
            self._call(name, self.link.trade, given, taken)


class Lane:
    """A stream that averages buckets of gradients on the GPU beside backward; `Worker` is its twin on the CPU."""

    def __init__(self) -> None:
        self._side: Any = None

    def add(self, job: Callable[[], None]) -> None:
        """Do it after what the current stream was told, and after the others."""
        if self._side is None:
            from minigrad.backend.cuda import nccl

            self._side = nccl.Side()
        with self._side:
            job()

    def wait(self) -> None:
        """Let what the current stream is told from here on come after all of it; the CPU does not wait."""
        if self._side is not None:
            self._side.join()


def connect(communicator: Communicator) -> Any:
    """What moves arrays between the current GPUs of the ranks; a collective.

    Raises
    ------
    DeviceError
        If NCCL is missing, or ranks share a GPU.
    """
    from minigrad.backend.cuda import nccl

    if communicator.size == 1:
        return SingleCommunicator()
    if not nccl.is_installed():
        got, hint = "missing", "Install it with: pip install nvidia-nccl-cu12"
        raise DeviceError(message("parallel", "NCCL", got, "it, for arrays on the GPUs of several ranks", hint))
    name = f"{nccl.bus_id()} of {machine()}"
    own = np.frombuffer(name.encode().ljust(NAME)[:NAME], np.uint8)
    names = [row.tobytes() for row in communicator.all_gather(own[None])]
    for rank, other in enumerate(names):
        first = names.index(other)
        if first < rank:
            got = f"{other.decode().partition(' ')[0]}, on both of ranks {first} and {rank}"
            hint = (
                'Start no more ranks than GPUs, and let each say device="cuda", without a number, after parallel.init()'
            )
            raise DeviceError(message("parallel", "the GPU", got, "one of its own for each rank", hint))
    unique = np.zeros(nccl.ID, np.uint8)
    if communicator.rank == 0:
        unique[:] = np.frombuffer(nccl.unique_id(), np.uint8)
    unique = communicator.broadcast(unique)
    try:
        link = nccl.Link(communicator.size, unique.tobytes(), communicator.rank)
    except nccl.Error as error:
        raise ParallelError(f"parallel: rank {communicator.rank} is told by NCCL: {error}") from None
    return Gpus(communicator, link, nccl)


def is_native(dtype: Any, op: str) -> bool:
    """Whether NCCL combines as `Communicator` promises."""
    return dtype.itemsize != 2 and not (dtype.kind == "f" and op == "max")


def machine() -> str:
    """What tells this machine from others."""
    return BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()


def ender(communicator: weakref.ref[Communicator]) -> Callable[[str], None]:
    """What ends all ranks of a communicator, for a reason."""

    def end(reason: str) -> None:
        found = communicator()
        if found is not None:
            found.abort(reason)

    return end


def watch(jobs: queue.SimpleQueue[Any], link: Any, end: Callable[[str], None]) -> None:
    """The thread's program: wait until what was told to the GPU is done, one after the other.

    Where NCCL reports an error, or one is late, what is under way is given up, so that nothing waits for it any more.
    """
    while (job := jobs.get()) is not None:
        name, event, late, timeout = job
        try:
            while not event.done:
                link.check()
                if time.monotonic() >= late:
                    raise TimeoutError(f"waited for the GPUs of the other ranks {timeout:.1f} s")
                time.sleep(TICK)
        except Exception as error:
            link.abort()
            end(f"{name}: {error}")
            return
        del job, event

"""The engine for processes of one machine, which share a block of memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from typing import Any, NoReturn

import numpy as np

from minigrad._core import shared
from minigrad.data.memory import create, reserve
from minigrad.errors import message
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.errors import ParallelError, WorldEnded

__all__ = ["Block", "ProcessCommunicator"]

Array = np.ndarray[Any, Any]

MOST = 1024  # ranks
TIMEOUT = 1800.0  # seconds that a rank waits for the others
LONGEST = 1e9  # of them: it is counted in nanoseconds
SPIN = 50e-6  # seconds that it spins before it sleeps, where each has a processor of its own
CALLS = ("barrier", "allreduce", "reduce_scatter", "all_gather", "broadcast")
SIGNS = 10_000  # numbers for a collective, what is combined and how
OPS, KINDS = list(shared.ops), list(shared.kinds)


class Block:
    """The memory of a world of processes: a file without a name, which the kernel frees with the last of them.

    It grows as groups are made, gives back what those used that no rank has any more, and is passed on as a descriptor.

    Parameters
    ----------
    size : int
        How many ranks there are.
    fd : int, optional
        That of a block that another process has made; it is kept open.
    parent : int
        The process whose end ends the world, 0 for none.
    """

    def __init__(self, size: int, fd: int | None = None, parent: int = 0) -> None:
        if not 1 <= size <= MOST:
            raise ValueError(message("parallel", "the number of ranks", f"{size}", f"1 to {MOST}"))
        first = round_up(shared.world_bytes(size))
        self.size, self.fd = size, create() if fd is None else fd
        if fd is None:
            reserve(self.fd, first)
        self.world = shared.World(self.map(0, first), size, parent)
        if fd is None:
            self.world.take(first)
            self.allocate(size)

    def map(self, start: int, size: int) -> Array:
        """A part of the block; it stays mapped as long as the array lives."""
        return np.frombuffer(mmap.mmap(self.fd, size, offset=start), np.uint8)

    def allocate(self, *sizes: int) -> list[int]:
        """Make the regions of groups, given by their sizes; where each begins."""
        starts = []
        for size in sizes:
            needed, end = shared.region_bytes(size)
            start = self.world.take(round_up(end))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.fd, start, needed)
                os.posix_fallocate(self.fd, start + end - 1, 1)
            elif os.fstat(self.fd).st_size < start + end:
                os.ftruncate(self.fd, start + end)
            starts.append(start)
        return starts

    def communicator(self, rank: int, timeout: float | None = None) -> ProcessCommunicator:
        """That of the whole world, for one of its ranks."""
        start = round_up(shared.world_bytes(self.size))
        alone = self.size <= len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else False
        spin = SPIN if alone else 0.0
        made = ProcessCommunicator(self, start, list(range(self.size)), rank, limit(timeout), spin)
        made.local_rank = rank
        return made


class ProcessCommunicator(Communicator):
    """A group of processes of a world. `ranks`: theirs in the world; `start`: of the region in the block."""

    engine = "processes"

    def __init__(self, block: Block, start: int, ranks: list[int], rank: int, timeout: float, spin: float) -> None:
        self.block, self.ranks, self.size, self.rank = block, ranks, len(ranks), rank
        self.timeout, self.spin = timeout, spin
        region: Any = block.map(start, shared.region_bytes(self.size)[1])
        self._channel = shared.Channel(block.world, region, np.array(ranks, np.int32), rank, timeout, spin)
        weakref.finalize(self, release, os.getpid(), self._channel, region.base.obj).atexit = False

    def _call(self, name: str, *args: Any, peer: int | None = None) -> None:
        try:
            getattr(self._channel, name)(*args)
        except shared.Failure as failure:
            raise self._error(name, peer, args[-1], *failure.args) from None

    def _error(self, name: str, peer: int | None, own: Any, reason: str, *details: Any) -> ParallelError:
        """What to say of a failure; `own`: the sign of this rank, in a collective."""
        who = {"push": "send", "pull": "recv", "exchange": "sendrecv"}.get(name, name)
        whom = "the other ranks" if peer is None else f"rank {peer}"
        if reason == "ended":
            return WorldEnded(f"{who}: another rank has failed")
        if reason == "left":
            gone = "one of the other ranks" if peer is None else whom
            return ParallelError(f"{who}: {gone} has ended, and this rank waits for it")
        if reason == "late":
            hint = "They are busy or wait elsewhere; parallel.init(timeout=) allows more"
            return ParallelError(f"{who}: rank {self.rank} has waited for {whom} {details[0]:.1f} s. {hint}")
        if reason == "unlike":
            rank, sign = details
            other = f"rank {rank} came to {describe_sign(*sign)}"
            if sign[0] != own and sign[0] % SIGNS == own % SIGNS:
                other += " of another dtype or shape" + (" or with other rows" if name == "reduce_scatter" else "")
            return ParallelError(f"{who}: {other}. All ranks call the same collectives in the same order")
        return ParallelError(f"{who}: an earlier call did not come to its end, so the ranks are out of step")

    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        what = sign("allreduce", kind, op, self._form)
        self._call("allreduce", x, out, x.itemsize, kind, shared.ops[op], what)

    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        what = sign("reduce_scatter", kind, op, self._form)
        self._call("reduce_scatter", x, out, ends, x.itemsize, kind, shared.ops[op], what)

    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        self._call("all_gather", x, out, ends, sign("all_gather"))

    def _broadcast(self, x: Array, root: int) -> None:
        self._call("broadcast", x, root, sign("broadcast", form=self._form))

    def _barrier(self) -> None:
        self._call("barrier", sign("barrier"))

    def _push(self, x: Array, to: int) -> None:
        self._call("push", x, to, peer=to)

    def _pull(self, x: Array, source: int) -> None:
        self._call("pull", x, source, peer=source)

    def _exchange(self, x: Array, to: int, out: Array, source: int) -> None:
        self._call("exchange", x, to, out, source, peer=source)

    def _split(self, groups: list[list[int]], spin: float | None = None) -> Communicator | None:
        starts = np.zeros(len(groups), np.int64)
        if self.rank == 0:
            starts[:] = self.block.allocate(*map(len, groups))
        self._form = 0
        self._broadcast(starts.view(np.uint8), 0)
        for start, group in zip(starts.tolist(), groups):
            if self.rank in group:
                ranks = [self.ranks[rank] for rank in group]
                wait = self.spin if spin is None else spin
                return ProcessCommunicator(self.block, start, ranks, group.index(self.rank), self.timeout, wait)
        return None

    def duplicate(self) -> Communicator:
        # a thread that spins takes the processor from the one that computes
        made = self._split([list(range(self.size))], spin=0.0)
        assert made is not None
        return made

    def _abort(self, reason: str) -> NoReturn:
        me = self.ranks[self.rank]
        if self.block.world.claim(me):
            print(f"minigrad: rank {me} ends all{': ' if reason else ''}{reason}", file=sys.stderr, flush=True)
        self.block.world.stop(me + 1)
        raise SystemExit(1)


def release(owner: int, channel: shared.Channel, memory: Any) -> None:
    """Give back the memory of a group that no rank has any more; its place in the block stays empty."""
    if os.getpid() == owner and channel.leave() and hasattr(mmap, "MADV_REMOVE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_REMOVE)


def limit(timeout: float | None) -> float:
    """How long a rank waits for the others, in seconds."""
    given: Any = (os.environ.get("MINIGRAD_TIMEOUT") or TIMEOUT) if timeout is None else timeout
    try:
        wait = float(given)
    except (TypeError, ValueError):
        wait = 0.0
    if not wait > 0:
        name = "MINIGRAD_TIMEOUT" if timeout is None else "timeout"
        raise ValueError(message("parallel.init", name, f"{given}", "seconds, more than 0"))
    return min(wait, LONGEST)


def round_up(size: int) -> int:
    """To what a mapping may begin at."""
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def sign(name: str, kind: int = 0, op: str = "sum", form: int = 0) -> int:
    """A collective as a number that the ranks compare."""
    return form * SIGNS + (CALLS.index(name) * 100 + kind) * 10 + shared.ops[op]


def describe_sign(what: int, size: int, root: int) -> str:
    """The words for it."""
    what %= SIGNS
    name, kind, op = CALLS[what // 1000], KINDS[what // 10 % 100], OPS[what % 10]
    if name == "barrier":
        return "barrier"
    if name == "broadcast":
        return f"broadcast of {size} bytes from rank {root}"
    if name == "all_gather":
        return f"all_gather of {size} bytes in all"
    return f"{name} of {size} numbers ({kind}, {op})"

"""The engine for MPI, over one machine or many, by mpi4py."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import os
import sys
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from minigrad import threads
from minigrad._core import shared
from minigrad.errors import message
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.errors import ParallelError, RankLost
from minigrad.parallel.processes import limit
from minigrad.parallel.start import replace

__all__ = ["MPICommunicator", "start"]

Array = np.ndarray[Any, Any]

CHUNK = 1 << 24  # bytes of a rank's part of what is combined at a time, and of a message
MOST = 1 << 30  # bytes of all parts, as MPI counts in int32
TAG = 77
GRACE = 5  # seconds in which MPI is to end this process once it was asked to
HEARD = 0.2  # seconds in which mpiexec passes on what was printed: MPICH's drops the rest with the ranks


class MPICommunicator(Communicator):
    """A group of ranks of MPI.

    What is to be combined goes to the rank that owns the part, which combines the sources in the order of their ranks:
    MPI's own reductions promise no order, and so no equal bits from one machine to the next.

    Every call begins a non-blocking one and looks at it until it is done, so that a peer that never comes ends in an
    error. The looking is compiled: see `shared.poll`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    timeout : float
        Seconds that one waits for the others.
    family : set of MPICommunicator, optional
        Those made of one another. When one finds a rank gone, all are revoked, wherever the others wait.
    """

    engine = "mpi"

    def __init__(self, comm: Any, timeout: float, family: Family | None = None) -> None:
        from mpi4py import MPI

        self.comm, self.size, self.rank = comm, comm.Get_size(), comm.Get_rank()
        self.byte, self.exception = MPI.BYTE, MPI.Exception
        self.part = min(CHUNK, MOST // self.size // 64 * 64)
        self.overlaps = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.timeout = timeout
        self.test = ctypes.cast(ctypes.CDLL(MPI.__file__).MPI_Test, ctypes.c_void_p).value or 0
        self.address = MPI._addressof
        self.stuck: Any = None  # the requests that did not end: MPI may still write to their memory
        self.family: Family = weakref.WeakSet() if family is None else family
        self.family.add(self)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _call(self, name: str, begin: Callable[..., Any], *args: Any, peer: int | None = None) -> None:
        """Begin what gives a request or some, and wait until they are done."""
        if self.stuck is not None:
            raise ParallelError(f"{name}: an earlier call did not come to its end, so the ranks are out of step")
        try:
            requests = self.stuck = begin(*args)
            for request in requests if isinstance(requests, list) else (requests,):
                status = shared.poll(self.test, self.address(request), self.timeout)
                if status < 0:
                    whom = "the other ranks" if peer is None else f"rank {peer}"
                    hint = "They are busy, wait elsewhere or are cut off; parallel.init(timeout=) allows more"
                    raise ParallelError(f"{name}: rank {self.rank} has waited for {whom} {self.timeout:.1f} s. {hint}")
                if status > 0:
                    raise self.exception(status)
        except self.exception as error:
            raise self._error(name, error) from None
        self.stuck = None

    def _error(self, name: str, error: Any) -> ParallelError:
        """What to say of an error of MPI."""
        from mpi4py import MPI

        if error.Get_error_class() not in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED):
            return ParallelError(f"{name}: rank {self.rank} is told by MPI: {error.Get_error_string()}")
        self.stuck = None
        for one in list(self.family):
            with contextlib.suppress(MPI.Exception):
                one.comm.Revoke()
        return RankLost(f"{name}: another rank is gone. Those that are left may go on: see DataParallel.recover")

    # --- what they do -----------------------------------------------------------------------------------------------

    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        step = self.part // x.itemsize * self.size
        for at in range(0, x.size, step):
            part = x[at : at + step]
            ends = part.size * np.arange(self.size + 1, dtype=np.int64) // self.size
            own = self._combine("allreduce", part, ends, kind, op)
            self._gather("allreduce", own.view(np.uint8), out[at : at + step].view(np.uint8), ends * x.itemsize)

    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        sizes = np.diff(ends)
        step = self.part // x.itemsize
        for at in range(0, int(sizes.max(initial=0)), step):
            low = ends[:-1] + np.minimum(at, sizes)
            high = ends[:-1] + np.minimum(at + step, sizes)
            part = np.concatenate([x[a:b] for a, b in zip(low.tolist(), high.tolist())])
            ends_here = np.concatenate([[0], np.cumsum(high - low)])
            out[at : at + step] = self._combine("reduce_scatter", part, ends_here, kind, op)

    def _combine(self, name: str, x: Array, ends: Array, kind: int, op: str) -> Array:
        """Send each rank its part of x; this rank's, combined."""
        counts = np.diff(ends) * x.itemsize
        mine = int(counts[self.rank])
        parts = np.empty((self.size, mine // x.itemsize), x.dtype)
        come = [mine] * self.size, [mine * k for k in range(self.size)]
        go = counts.tolist(), (ends[:-1] * x.itemsize).tolist()
        sent, got = [x.view(np.uint8), go, self.byte], [parts.reshape(-1).view(np.uint8), come, self.byte]
        self._call(name, self.comm.Ialltoallv, sent, got)
        shared.combine(list(parts), parts[0], x.itemsize, kind, shared.ops[op])
        own: Array = parts[0]
        return own

    def _gather(self, name: str, x: Array, out: Array, ends: Array) -> None:
        places = np.diff(ends).tolist(), ends[:-1].tolist()
        self._call(name, self.comm.Iallgatherv, [x, self.byte], [out, places, self.byte])

    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        if int(ends[-1]) <= MOST:
            self._gather("all_gather", x, out, ends)
            return
        for rank in range(self.size):
            part = out[int(ends[rank]) : int(ends[rank + 1])]
            if rank == self.rank:
                part[...] = x
            self._broadcast(part, rank)

    def _broadcast(self, x: Array, root: int) -> None:
        for at in range(0, x.size, CHUNK):
            self._call("broadcast", self.comm.Ibcast, [x[at : at + CHUNK], self.byte], root)

    def _barrier(self) -> None:
        self._call("barrier", self.comm.Ibarrier)

    def _push(self, x: Array, to: int) -> None:
        for at in range(0, x.size, CHUNK):
            self._call("send", self.comm.Isend, [x[at : at + CHUNK], self.byte], to, TAG, peer=to)

    def _pull(self, x: Array, source: int) -> None:
        for at in range(0, x.size, CHUNK):
            self._call("recv", self.comm.Irecv, [x[at : at + CHUNK], self.byte], source, TAG, peer=source)

    def _exchange(self, x: Array, to: int, out: Array, source: int) -> None:
        def begin() -> list[Any]:
            come = [self.comm.Irecv([out[k : k + CHUNK], self.byte], source, TAG) for k in range(0, out.size, CHUNK)]
            go = [self.comm.Isend([x[k : k + CHUNK], self.byte], to, TAG) for k in range(0, x.size, CHUNK)]
            return come + go

        self._call("sendrecv", begin, peer=source)

    def _split(self, groups: list[list[int]]) -> Communicator | None:
        from mpi4py import MPI

        color, key = MPI.UNDEFINED, 0
        for number, group in enumerate(groups):
            if self.rank in group:
                color, key = number, group.index(self.rank)
        try:
            made = self.comm.Split(color, key)
        except MPI.Exception as error:
            raise self._error("split", error) from None
        return None if made == MPI.COMM_NULL else MPICommunicator(made, self.timeout, self.family)

    def _shrink(self) -> Communicator:
        made = MPICommunicator(self.comm.Shrink(), self.timeout)
        replace(self, made)
        return made

    def _abort(self, reason: str) -> NoReturn:
        if reason:
            print(f"minigrad: rank {self.rank} ends all: {reason}", file=sys.stderr, flush=True)
        end_world()


Family = weakref.WeakSet[MPICommunicator]


def end_world() -> NoReturn:
    """End the ranks, and at the latest soon this one: MPI may wait for what cannot be reached any more."""
    from mpi4py import MPI

    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(HEARD)
    # a thread that needs no GIL, where Abort keeps it and does not come back
    faulthandler.dump_traceback_later(GRACE, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    MPI.COMM_WORLD.Abort(1)
    os._exit(1)  # MPICH's comes back, and MPI_Finalize would wait for the others


def share(world: Any) -> tuple[int, int]:
    """The cores for this rank, and its number on this machine. Launchers may bind each rank to some, then its own."""
    from mpi4py import MPI

    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    sharing = sum(not usable.isdisjoint(other) for other in here.allgather(usable))
    number = here.Get_rank()
    here.Free()
    return max(1, threads.cores() // sharing), number


def start(timeout: float | None = None) -> MPICommunicator:
    """Begin: the communicator of all ranks; an exception that nobody catches ends them all."""
    wait = limit(timeout)
    try:
        from mpi4py import MPI
    except ImportError as error:
        need = "mpi4py, built for the MPI whose mpiexec started this program"
        raise RuntimeError(
            message("parallel.init", "mpi4py", f"missing ({error})", need, "pip install mpi4py")
        ) from None
    world = MPI.COMM_WORLD
    cores, number = share(world)
    if not (os.environ.get("MINIGRAD_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")):
        threads.set_num_threads(cores)
    made = MPICommunicator(world, wait)
    made.local_rank = number
    before = sys.excepthook

    def end_all(kind: type[BaseException], error: BaseException, found: TracebackType | None) -> None:
        print(f"minigrad: rank {world.Get_rank()} failed", file=sys.stderr)
        before(kind, error, found)
        end_world()

    def leave() -> None:
        # with a call that did not end MPI_Finalize would wait forever
        if any(one.stuck is not None for one in made.family):
            end_world()

    if made.size > 1:
        sys.excepthook = end_all
        atexit.register(leave)
    return made

"""The engine for MPI, over one machine or many, by mpi4py."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from minigrad import threads
from minigrad._core import shared
from minigrad.errors import message
from minigrad.parallel.communicator import Communicator

__all__ = ["MPICommunicator", "start"]

Array = np.ndarray[Any, Any]

CHUNK = 1 << 24  # bytes of a rank's part of what is combined at a time, and of a message
MOST = 1 << 30  # bytes of all parts, as MPI counts in int32
TAG = 77


class MPICommunicator(Communicator):
    """A group of ranks of MPI.

    What is to be combined goes to the rank that owns the part, which combines the sources in the order of their ranks:
    MPI's own reductions promise no order, and so no equal bits from one machine to the next.
    """

    engine = "mpi"

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self.comm, self.size, self.rank = comm, comm.Get_size(), comm.Get_rank()
        self.byte = MPI.BYTE
        self.part = min(CHUNK, MOST // self.size // 64 * 64)
        self.overlaps = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        step = self.part // x.itemsize * self.size
        for at in range(0, x.size, step):
            part = x[at : at + step]
            ends = part.size * np.arange(self.size + 1, dtype=np.int64) // self.size
            own = self._combine(part, ends, kind, op)
            self._gather(own.view(np.uint8), out[at : at + step].view(np.uint8), ends * x.itemsize)

    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        sizes = np.diff(ends)
        step = self.part // x.itemsize
        for at in range(0, int(sizes.max(initial=0)), step):
            low = ends[:-1] + np.minimum(at, sizes)
            high = ends[:-1] + np.minimum(at + step, sizes)
            part = np.concatenate([x[a:b] for a, b in zip(low.tolist(), high.tolist())])
            own = self._combine(part, np.concatenate([[0], np.cumsum(high - low)]), kind, op)
            out[at : at + step] = own

    def _combine(self, x: Array, ends: Array, kind: int, op: str) -> Array:
        """Send each rank its part of x; this rank's, combined."""
        counts = np.diff(ends) * x.itemsize
        mine = int(counts[self.rank])
        parts = np.empty((self.size, mine // x.itemsize), x.dtype)
        come = [mine] * self.size, [mine * k for k in range(self.size)]
        go = counts.tolist(), (ends[:-1] * x.itemsize).tolist()
        self.comm.Alltoallv([x.view(np.uint8), go, self.byte], [parts.reshape(-1).view(np.uint8), come, self.byte])
        shared.combine(list(parts), parts[0], x.itemsize, kind, shared.ops[op])
        own: Array = parts[0]
        return own

    def _gather(self, x: Array, out: Array, ends: Array) -> None:
        places = np.diff(ends).tolist(), ends[:-1].tolist()
        self.comm.Allgatherv([x, self.byte], [out, places, self.byte])

    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        if int(ends[-1]) <= MOST:
            self._gather(x, out, ends)
            return
        for rank in range(self.size):
            part = out[int(ends[rank]) : int(ends[rank + 1])]
            if rank == self.rank:
                part[...] = x
            self._broadcast(part, rank)

    def _broadcast(self, x: Array, root: int) -> None:
        for at in range(0, x.size, CHUNK):
            self.comm.Bcast([x[at : at + CHUNK], self.byte], root)

    def _barrier(self) -> None:
        self.comm.Barrier()

    def _push(self, x: Array, to: int) -> None:
        for at in range(0, x.size, CHUNK):
            self.comm.Send([x[at : at + CHUNK], self.byte], to, TAG)

    def _pull(self, x: Array, source: int) -> None:
        for at in range(0, x.size, CHUNK):
            self.comm.Recv([x[at : at + CHUNK], self.byte], source, TAG)

    def _exchange(self, x: Array, to: int, out: Array, source: int) -> None:
        requests = [self.comm.Irecv([out[at : at + CHUNK], self.byte], source, TAG) for at in range(0, out.size, CHUNK)]
        requests += [self.comm.Isend([x[at : at + CHUNK], self.byte], to, TAG) for at in range(0, x.size, CHUNK)]
        for request in requests:
            request.Wait()

    def _split(self, groups: list[list[int]]) -> Communicator | None:
        from mpi4py import MPI

        color, key = MPI.UNDEFINED, 0
        for number, group in enumerate(groups):
            if self.rank in group:
                color, key = number, group.index(self.rank)
        made = self.comm.Split(color, key)
        return None if made == MPI.COMM_NULL else MPICommunicator(made)

    def _abort(self, reason: str) -> NoReturn:
        if reason:
            print(f"minigrad: rank {self.rank} ends all: {reason}", file=sys.stderr, flush=True)
        self.comm.Abort(1)
        raise SystemExit(1)


def start() -> MPICommunicator:
    """Begin: the communicator of all ranks; an exception that nobody catches ends them all."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        need = "mpi4py, built for the MPI whose mpiexec started this program"
        raise RuntimeError(
            message("parallel.init", "mpi4py", f"missing ({error})", need, "pip install mpi4py")
        ) from None
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    if not (os.environ.get("MINIGRAD_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")):
        threads.set_num_threads(max(1, threads.cores() // here.Get_size()))
    here.Free()
    before = sys.excepthook

    def end_all(kind: type[BaseException], error: BaseException, found: TracebackType | None) -> None:
        print(f"minigrad: rank {world.Get_rank()} failed", file=sys.stderr)
        before(kind, error, found)
        sys.stdout.flush()
        sys.stderr.flush()
        world.Abort(1)

    if world.Get_size() > 1:
        sys.excepthook = end_all
    return MPICommunicator(world)

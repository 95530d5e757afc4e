"""Group: processes that call functions together, for tests and notebooks."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Self

from minigrad import threads
from minigrad._core import shared
from minigrad.data.memory import Memory
from minigrad.data.pool import RemoteTraceback
from minigrad.data.worker import report, restore
from minigrad.parallel import start
from minigrad.parallel.errors import ParallelError, WorldEnded
from minigrad.parallel.processes import Block
from minigrad.parallel.supervisor import describe

__all__ = ["Group"]

GRACE = 0.3  # seconds in which a rank leaves by itself


class Group:
    """Ranks that wait for functions to call, in each of which `init` gives the group's communicator.

    A program is better started by ``python -m minigrad.launch``. Here functions and their arguments are sent by pickle,
    so a function stands at the top of a module.

    Parameters
    ----------
    size : int
        How many ranks, each a process of its own.
    threads_each : int, optional
        Threads of each; by default the cores are shared evenly.
    timeout : float, optional
        As for `init`.

    Examples
    --------
    ::

        with parallel.Group(4) as group:
            losses = group.run(train, "config.json")  # train("config.json") on each rank; what each returned
    """

    def __init__(self, size: int, *, threads_each: int | None = None, timeout: float | None = None) -> None:
        self.block = Block(size)
        self.broken = False
        self.processes: list[SpawnProcess] = []
        self.pipes: list[Connection] = []
        self.close = weakref.finalize(self, shut, os.getpid(), self.processes, self.pipes)
        share = threads_each if threads_each is not None else max(1, threads.cores() // size)
        context = multiprocessing.get_context("spawn")
        for rank in range(size):
            ours, theirs = context.Pipe()
            self.pipes.append(ours)
            memory = Memory(os.dup(self.block.fd))
            arguments = (theirs, memory, size, rank, os.getpid(), share, timeout)
            process = context.Process(target=serve, args=arguments, name=f"minigrad-rank-{rank}", daemon=True)
            process.start()
            self.processes.append(process)
            theirs.close()

    def __len__(self) -> int:
        return len(self.processes)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call a function on every rank; what each returned, in their order.

        Raises
        ------
        ParallelError
            If a rank died, or the group has ended. What a rank raised is raised here.
        """
        if self.broken or not self.close.alive:
            raise ParallelError("Group.run: the group has ended; make another one")
        job = ForkingPickler.dumps((function, args))
        results: list[Any] = [None] * len(self)
        waiting = dict(zip(self.pipes, range(len(self))))
        self.broken = True
        with contextlib.suppress(OSError):  # it died, which is found out below
            for pipe in self.pipes:
                pipe.send_bytes(job)
        del job  # a view of a BytesIO that an error's traceback kept crashes the collector of Python 3.12.1
        failure: tuple[int, Any] | None = None
        while waiting:
            sentinels = {self.processes[rank].sentinel: rank for rank in waiting.values()}
            some = multiprocessing.connection.wait([*waiting, *sentinels], None if failure is None else GRACE)
            if not some:  # busy with something else, or stuck
                break
            for ready in some:
                rank = waiting[ready] if isinstance(ready, Connection) else sentinels[ready]  # type: ignore[index]
                pipe = self.pipes[rank]
                if pipe not in waiting:
                    continue
                try:
                    done, value = pipe.recv()
                except (EOFError, OSError):
                    done, value = False, None
                del waiting[pipe]
                results[rank] = value
                if not done:
                    ended = value is not None and isinstance(restore(value)[0], WorldEnded)
                    if failure is None or (ended is False and failure[1] is None):
                        failure = (rank, None if ended else value or self._death(rank))
                    self.block.world.stop(-1)
        if failure is not None:
            self.close()
            self._raise(*failure)
        self.broken = False
        return results

    def _death(self, rank: int) -> str:
        self.processes[rank].join(GRACE)
        return describe(self.processes[rank].exitcode or 0)

    def _raise(self, rank: int, value: Any) -> None:
        if value is None or isinstance(value, str):
            raise ParallelError(f"Group.run: rank {rank} {value or 'gave up'}")
        error, text = restore(value)
        if error is None:
            raise ParallelError(f"Group.run: rank {rank} failed\n{text}")
        error.add_note(f"Group.run: on rank {rank}")
        raise error from RemoteTraceback(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, found: TracebackType | None
    ) -> None:
        self.close()


def serve(
    pipe: Connection, memory: Memory, size: int, rank: int, parent: int, share: int, timeout: float | None
) -> None:
    """The program of a rank: call what comes until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one decides
    if not shared.die_with_parent(parent):
        return
    threads.set_num_threads(share)
    block = Block(size, memory.fd, parent)
    start.give(block, rank)
    start.init(timeout=timeout)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, args = pipe.recv()
            try:
                reply = ForkingPickler.dumps((True, function(*args)))
            except Exception as error:
                block.world.stop(rank + 1)
                reply = ForkingPickler.dumps((False, report(error)))
            pipe.send_bytes(reply)


def shut(owner: int, processes: list[SpawnProcess], pipes: list[Connection]) -> None:
    """End the ranks."""
    if os.getpid() != owner:
        return
    for pipe in pipes:
        pipe.close()
    end = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        if process.exitcode is None:
            process.kill()
    for process in processes:
        process.join()
        process.close()
    processes.clear()

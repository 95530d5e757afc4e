"""Pool: the worker processes of a loader, seen from the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import time
import weakref
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np

from minigrad.data import worker
from minigrad.data.errors import WorkerError
from minigrad.data.fetcher import END, Job
from minigrad.data.memory import Memory, dump, load
from minigrad.data.worker import REPLY, TASK, Status
from minigrad.errors import message

__all__ = ["Pool", "pack"]

Indices = np.ndarray[Any, np.dtype[np.int64]]

NAME = "minigrad-data"
UNGUARDED = 77  # the status of a worker whose script starts workers while it is imported
GUARD = (
    'A worker imports the script anew, so what starts workers must stand behind `if __name__ == "__main__":`, or in a '
    "function that is called there"
)
ELSEWHERE = (
    "Workers find what is defined at the top of a module or script, but not at a prompt, in a notebook, or behind "
    '`if __name__ == "__main__":`'
)
GRACE = 0.5  # seconds in which an idle worker leaves by itself


class RemoteTraceback(Exception):
    """The traceback of a worker as text: the cause of an exception that it raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack(job: Job) -> tuple[Memory, int]:
    """What workers need, once for all of them; its arrays they map from there."""
    memory = Memory()
    try:
        return memory, dump(job, memory, maps=True)
    except Exception as error:
        need = "a dataset, collate and transform that pickle can send to a process"
        hint = (
            "Define functions and classes at the top of a module; a lambda or a function inside a function has no name"
        )
        raise TypeError(message("DataLoader", "num_workers", f"more than 0 ({error})", need, hint)) from error


class Pool:
    """Workers, each with a pipe and a ring of slots in shared memory.

    The next task of a worker goes to its next slot; there may be as many tasks as slots. Results come in the order of
    the tasks.
    """

    def __init__(self, job: tuple[Memory, int], num_workers: int, prefetch: int) -> None:
        check_process()
        self.control = Memory()
        self.generation = self.control.bytes(8).view(np.int64)
        self.slots = [[Memory() for _ in range(prefetch)] for _ in range(num_workers)]
        self.prefetch = prefetch
        self.broken = False  # whether a task or a reply is lost, or a worker
        self.ready = [False] * num_workers
        self.sent, self.received = [0] * num_workers, [0] * num_workers
        self.processes: list[SpawnProcess] = []
        self.pipes: list[Connection] = []
        self.close = weakref.finalize(self, shut, os.getpid(), self.processes, self.pipes)
        context = multiprocessing.get_context("spawn")
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the workers start with it
        try:
            for number, slots in enumerate(self.slots):
                ours, theirs = context.Pipe()
                self.pipes.append(ours)
                arguments = (theirs, self.control, slots, *job)
                process = context.Process(target=worker.main, args=arguments, name=f"{NAME}-{number}", daemon=True)
                process.start()
                self.processes.append(process)
                theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def __len__(self) -> int:
        return len(self.slots)

    def submit(self, number: int, seed: int, epoch: int, step: int, indices: Indices | None) -> None:
        """Give a worker its next task."""
        slot = self.sent[number] % self.prefetch
        count = -1 if indices is None else len(indices)
        if indices is not None:
            self.slots[number][slot].bytes(8 * count)[:] = indices.view(np.uint8)
        self.broken = True  # for as long as Ctrl-C would leave the task half told
        self.sent[number] += 1
        with contextlib.suppress(OSError):  # it died, which `receive` says better
            self.pipes[number].send_bytes(TASK.pack(seed, int(self.generation[0]), epoch, step, slot, count))
        self.broken = False

    def receive(self, number: int) -> Any:
        """The result of a worker's oldest task: a batch or `END`. What it raised is raised here."""
        status, slot, size = self._reply(number)
        if status is Status.BATCH:
            return load(self.slots[number][slot].bytes(size), copy=True)
        if status is Status.END:
            return END
        error, text = worker.restore(load(self.slots[number][slot].bytes(size), copy=True))
        where = f"DataLoader: in worker {number}"
        if error is None:
            raise WorkerError(f"{where}\n{text}")
        error.add_note(where)
        raise error from RemoteTraceback(text)

    def cancel(self) -> None:
        """Let the workers pass over the tasks that are not begun."""
        self.generation[0] += 1

    def drain(self) -> None:
        """Wait until no task is open; afterwards every slot is free."""
        for number in range(len(self)):
            while self.received[number] < self.sent[number]:
                self._reply(number)

    def _reply(self, number: int) -> tuple[Status, int, int]:
        while True:
            _, code, slot, size = REPLY.unpack(self._read(number))
            status = Status(code)
            if status is Status.READY:
                self.ready[number] = True
                continue
            if status is Status.FAILED:
                self.broken = True
                _, text = worker.restore(load(self.slots[number][0].bytes(size), copy=True))
                raise WorkerError(f"DataLoader: worker {number} could not read the dataset. {ELSEWHERE}\n{text}")
            self.received[number] += 1
            return status, slot, size

    def _read(self, number: int) -> bytes:
        pipe, process = self.pipes[number], self.processes[number]
        self.broken = True
        try:
            if pipe not in multiprocessing.connection.wait([pipe, process.sentinel]):
                raise EOFError  # it died, and said nothing before
            reply = pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerError(self._death(number)) from None
        self.broken = False
        return reply

    def _death(self, number: int) -> str:
        """What to say of a worker that is no more."""
        process = self.processes[number]
        process.join(GRACE)  # the sentinel may fire before the status is there
        status = process.exitcode
        who = f"DataLoader: worker {number}"
        if status is not None and status < 0:
            reason = "; the system does that when memory runs out" if status == -signal.SIGKILL else ""
            return f"{who} was killed by {signal.Signals(-status).name}{reason}"
        if not self.ready[number]:
            if status == UNGUARDED:
                return f"{who} found that the script starts workers while it is imported. {GUARD}"
            return f"{who} ended with status {status} before it was ready; it printed why. {GUARD}"
        return f"{who} ended with status {status} before its batches were made"


def check_process() -> None:
    """Raise where this process may not start workers, or would do so without end as it imports another one's script."""
    process = multiprocessing.process.current_process()
    if getattr(process, "_inheriting", False):
        if process.name.startswith(NAME):
            raise SystemExit(UNGUARDED)  # without a word: who started this worker says it
        raise RuntimeError(f"DataLoader: started workers while the script is imported. {GUARD}")
    if process.daemon:  # a loader's worker for instance
        raise RuntimeError(message("DataLoader", "num_workers", "more than 0", "0 in a daemonic process"))


def shut(owner: int, processes: list[SpawnProcess], pipes: list[Connection]) -> None:
    """End the workers: an idle one leaves when its pipe is closed, another one is ended."""
    if os.getpid() != owner:
        return  # a fork has them in its lists, not as children
    for pipe in pipes:
        pipe.close()
    end = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        if process.exitcode is None:
            process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()

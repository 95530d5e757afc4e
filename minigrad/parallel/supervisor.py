"""Supervisor: start the ranks of a world, watch them, and end them all when one fails."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from minigrad.parallel.processes import Block

__all__ = ["Supervisor"]

SOON = 0.15  # seconds in which the others of a failed rank leave by themselves; so much again after SIGTERM
LAST = 2.0  # seconds in which the one that failed does, whose status counts
TICK = 0.05  # seconds between two looks where nothing tells of an end
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """The ranks as processes, each with a fresh interpreter and a process group of its own.

    Parameters
    ----------
    command : list of str
        What `minigrad.parallel.worker` is to run: ``["script", path, *arguments]`` or ``["module", name, ...]``.
    size : int
        How many ranks.
    environment : mapping
        Theirs.
    grace : float
        Seconds that the ranks have to end once this process got a signal, which they get too; a second one ends them
        at once.

    Examples
    --------
    ``Supervisor(["script", "train.py"], 4, os.environ).run()`` gives the status of the job.
    """

    def __init__(self, command: list[str], size: int, environment: Mapping[str, str], grace: float = 10.0) -> None:
        self.block = Block(size)
        self.command, self.size, self.environment, self.grace = command, size, dict(environment), grace
        self.processes: list[subprocess.Popen[bytes]] = []
        self.handles: dict[int, int] = {}  # rank -> what is readable once its process has ended
        self.signal: int | None = None  # what this process got
        self.deadline: float | None = None  # when the next, harder way to end the ranks is due
        self.harder = [signal.SIGKILL]

    def run(self) -> int:
        """Start the ranks and wait for all; 0, or the status of the first that failed."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        if before[signal.SIGHUP] == signal.SIG_IGN:  # nohup
            del before[signal.SIGHUP]
        for number in before:
            signal.signal(number, self._on_signal)
        try:
            # Ctrl-C while a rank imports this package waits until it runs the script
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                for rank in range(self.size):
                    self._start(rank)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return self._watch()
        finally:
            self._end(signal.SIGKILL)
            for process in self.processes:
                process.wait()
            for handle in self.handles.values():
                os.close(handle)
            os.close(self.block.fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, rank: int) -> None:
        fd = self.block.fd
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        words = [fd, self.size, rank, os.getpid(), *self.command]
        process = subprocess.Popen(
            [sys.executable, *flags, "-m", "minigrad.parallel.worker", *map(str, words)],
            env=self.environment,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        self.processes.append(process)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.handles[rank] = os.pidfd_open(process.pid)

    def _watch(self) -> int:
        """Wait until all have ended."""
        running = set(range(self.size))
        statuses: dict[int, int] = {}  # of those that failed
        spared = 0.0  # until when the first of them is
        if self.signal is not None:  # it came while they were started
            self._forward(self.signal)
        while running:
            for rank in self._ended(running):
                running.remove(rank)
                code = self._settle(rank, first=not statuses)
                if code:
                    statuses[rank] = code
            # one that has failed may not end: a thread of its own may hold it
            if self.deadline is None and (statuses or self.block.world.stopped()):
                self.harder = [signal.SIGKILL, signal.SIGTERM]
                self.deadline = time.monotonic() + SOON
                spared = self.deadline + LAST
            if self.deadline is not None and running and time.monotonic() >= self.deadline:
                kept = {self.block.world.stopped() - 1} if time.monotonic() < spared else set()
                self._end(self.harder.pop() if self.harder else signal.SIGKILL, running - kept)
                self.deadline = time.monotonic() + SOON
        if statuses and self.signal is not None:
            return 128 + self.signal
        culprit = self.block.world.stopped() - 1
        return statuses.get(culprit, next(iter(statuses.values()), 0))

    def _ended(self, running: set[int]) -> list[int]:
        """The ranks that have ended, in a moment."""
        if all(rank in self.handles for rank in running):
            handles = {self.handles[rank]: rank for rank in running}
            late = 1.0 if self.deadline is None else max(0.0, min(1.0, self.deadline - time.monotonic()))
            return [handles[handle] for handle in select.select(list(handles), [], [], late)[0]]
        time.sleep(TICK)
        return [rank for rank in running if self.processes[rank].poll() is not None]

    def _settle(self, rank: int, first: bool) -> int:
        """Say why a rank has ended, if that is a failure and nobody has said it; its status."""
        process, world = self.processes[rank], self.block.world
        told = world.claimed() >= 0
        if rank in self.handles:  # it is not waited for yet, so its number still means its group
            status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if status is not None and (status.si_status or status.si_code != os.CLD_EXITED):
                self._kill(rank, signal.SIGKILL)  # what it has started itself
        code = process.wait()
        if code == 0:
            world.leave(rank)
            return 0
        first = first and not told and world.stopped() == 0
        world.claim(rank)
        world.stop(-1)
        world.leave(rank)
        if first and self.signal is None:
            print(f"minigrad.launch: rank {rank} {describe(code)}", file=sys.stderr, flush=True)
        return code if code > 0 else 128 - code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._end(signal.SIGKILL)
            return
        self.signal = number
        if len(self.processes) == self.size:
            self._forward(number)

    def _forward(self, number: int) -> None:
        self.harder, self.deadline = [signal.SIGKILL], time.monotonic() + self.grace
        self._end(signal.Signals(number))

    def _end(self, number: signal.Signals, ranks: Any = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            self._kill(rank, number)

    def _kill(self, rank: int, number: signal.Signals) -> None:
        process = self.processes[rank]
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)


def describe(code: int) -> str:
    """What became of a process, by its status."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + ("; the system does that when memory runs out" if name == "SIGKILL" else "")

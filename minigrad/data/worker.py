"""Worker: the program of a process that makes batches for a loader, and what it says to the one that started it.

Messages are a few numbers. All else lies in shared memory: a slot holds the indices of a task, then the batch that was
made of them, or an error. So a message never fills a pipe, and neither side can wait for the other one to read.
"""

from __future__ import annotations

import enum
import pickle
import signal
import struct
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from minigrad.data.fetcher import END, Fetcher
from minigrad.data.memory import Memory, dump, load
from minigrad.threads import set_num_threads

__all__ = ["REPLY", "TASK", "Status", "main"]

TASK = struct.Struct("<Q5q")  # seed; generation, epoch, step, slot, number of indices or -1 for a stream
REPLY = struct.Struct("<4q")  # generation, status, slot, bytes


class Status(enum.IntEnum):
    """What a reply says."""

    READY = 0
    BATCH = 1
    END = 2
    ERROR = 3
    SKIPPED = 4
    FAILED = 5


def main(pipe: Connection, control: Memory, slots: list[Memory], job: Memory, size: int) -> None:
    """Serve until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one decides
    set_num_threads(1)
    try:
        try:
            fetcher = Fetcher(load(job.private(size), copy=False))
        except Exception as error:
            pipe.send_bytes(REPLY.pack(0, Status.FAILED, 0, dump(report(error), slots[0])))
            return
        pipe.send_bytes(REPLY.pack(0, Status.READY, 0, 0))
        serve(pipe, control, slots, fetcher)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody waits for batches any more


def serve(pipe: Connection, control: Memory, slots: list[Memory], fetcher: Fetcher) -> None:
    """Do the tasks in their order. Those of a generation that is over are only answered."""
    current = control.bytes(8).view(np.int64)
    while True:
        seed, generation, epoch, step, slot, count = TASK.unpack(pipe.recv_bytes())
        size = 0
        if current[0] != generation:
            status = Status.SKIPPED
        else:
            memory = slots[slot]
            indices = None if count < 0 else memory.bytes(8 * count).view(np.int64).copy()
            try:
                made = fetcher.batch(seed, epoch, step, indices)
                status = Status.END if made is END else Status.BATCH
                if status is Status.BATCH:
                    size = dump(made, memory)
                del made
            except Exception as error:
                status, size = Status.ERROR, dump(report(error), memory)
        pipe.send_bytes(REPLY.pack(generation, status, slot, size))


def report(error: Exception) -> tuple[bytes | None, str]:
    """An exception as bytes, None where it cannot be sent, and as text."""
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None, text
    return data, text


def restore(reported: tuple[bytes | None, str]) -> tuple[Any, str]:
    """The exception again, or None, and the text."""
    data, text = reported
    return None if data is None else pickle.loads(data), text

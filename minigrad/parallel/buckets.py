"""Buckets: gradients side by side in memory, which are averaged together as soon as backward has made the last one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.backend.rows import RowSparse
from minigrad.optim.gradients import cast
from minigrad.parallel.communicator import Communicator
from minigrad.tensor import Tensor

__all__ = ["Bucket", "Table", "Worker", "fill"]

Array = np.ndarray[Any, Any]


class Bucket:
    """The gradients of some parameters of one dtype, views of one array.

    Parameters
    ----------
    parameters : list of Tensor
        In the order in which backward is likely to reach them.
    compression : dtype, optional
        Send this half type instead; sums are float32 all the same.
    """

    def __init__(self, parameters: list[Tensor], compression: Any = None) -> None:
        self.parameters = parameters
        self.flat = np.empty(sum(p.size for p in parameters), parameters[0].dtype)
        ends = np.cumsum([0, *(p.size for p in parameters)]).tolist()
        self.views = [self.flat[a:b].reshape(p.shape) for a, b, p in zip(ends[:-1], ends[1:], parameters)]
        self.compression = compression if self.flat.itemsize > 2 else None
        self.used = [False] * len(parameters)  # whether there is a gradient
        self.waiting = set(range(len(parameters)))

    def take(self, place: int) -> None:
        """Copy the gradient of a parameter to its place, unless it lies there; zeros where there is none."""
        grad, view = self.parameters[place]._grad, self.views[place]
        self.used[place] = grad is not None
        if grad is None:
            view[...] = 0
        elif not (isinstance(grad._array, np.ndarray) and np.may_share_memory(grad._array, view)):
            np.copyto(view, np.asarray(grad._array))
        self.waiting.discard(place)

    def reduce(self, communicator: Communicator) -> None:
        """Average over the ranks."""
        if self.compression is None:
            communicator.allreduce(self.flat, "mean", out=self.flat)
            return
        small = cast(self.flat, self.compression)
        communicator.allreduce(small, "mean", out=small)
        self.flat[...] = cast(small, self.flat.dtype)

    def give(self, used: list[bool]) -> None:
        """Let the gradients be those of all ranks; None stays where no rank has one."""
        changed = []
        for p, view, anywhere in zip(self.parameters, self.views, used):
            if not anywhere:
                p._grad = None
            elif p._grad is None or p._grad._array is not view:
                p._grad = tape.new_tensor(view)
            else:
                changed.append(p._grad)
        tape.mark_updated(changed, "the average of gradients over the ranks")
        self.waiting = set(range(len(self.parameters)))


class Table:
    """A bucket of one parameter whose gradients may be row-sparse: the rows of all ranks are gathered and added."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameters = [parameter]
        self.grad: Any = None
        self.used = [False]
        self.waiting = {0}

    def take(self, place: int) -> None:
        grad = self.parameters[0]._grad
        self.grad = None if grad is None else grad._array
        self.used = [grad is not None]
        self.waiting.clear()

    def reduce(self, communicator: Communicator) -> None:
        p, grad = self.parameters[0], self.grad
        full = communicator.allreduce(np.int64(grad is not None and type(grad) is not RowSparse), "max")
        if full:
            mine = np.zeros(p.shape, p.dtype) if grad is None else np.asarray(grad)
            self.grad = communicator.allreduce(mine, "mean")
            return
        rows = RowSparse.empty(p.shape, p.dtype) if grad is None else grad
        ids, values = communicator.all_gather(rows.ids), communicator.all_gather(rows.values)
        total = RowSparse.gather(p.shape, ids, values)
        total.values = (total.values / total.dtype.type(communicator.size)).astype(total.dtype, copy=False)
        self.grad = total

    def give(self, used: list[bool]) -> None:
        self.parameters[0]._grad = tape.new_tensor(self.grad) if used[0] else None
        self.grad, self.waiting = None, {0}


def fill(parameters: list[Tensor], tables: set[int], size: int, compression: Any) -> list[Bucket | Table]:
    """Cut parameters, the last first, into buckets of at most `size` bytes; `tables`: the ids of those of rows."""
    buckets: list[Bucket | Table] = []
    open_ones: dict[Any, list[Tensor]] = {}
    for p in reversed(parameters):
        if id(p) in tables:
            buckets.append(Table(p))
            continue
        group = open_ones.setdefault(p.dtype, [])
        if group and sum(q.nbytes for q in group) + p.nbytes > size:
            buckets.append(Bucket(group, compression))
            group = open_ones[p.dtype] = []
        group.append(p)
    buckets += [Bucket(group, compression) for group in open_ones.values() if group]
    return buckets


class Worker:
    """A thread that does one thing after the other, and keeps the first error until it is asked.

    It ends with the object.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._errors: list[BaseException] = []
        threading.Thread(target=work, args=(self._jobs, self._errors), name="minigrad-reduce", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def add(self, job: Callable[[], None]) -> None:
        """Do it when the others are done."""
        self._jobs.put(job)

    def wait(self) -> None:
        """Until all is done; raises what was raised."""
        self.join()
        if self._errors:
            raise self._errors.pop()

    def join(self) -> None:
        """Until all is done or given up."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait()


def work(jobs: queue.SimpleQueue[Callable[[], None] | None], errors: list[BaseException]) -> None:
    """The thread's program. After an error nothing more is done, as the ranks are out of step."""
    broken = False
    while (job := jobs.get()) is not None:
        try:
            if not broken or getattr(job, "__name__", "") == "set":
                job()
        except BaseException as error:
            errors.append(error)
            broken = True
        del job

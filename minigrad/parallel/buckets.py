"""Buckets: gradients side by side in memory, which are averaged together as soon as backward has made the last one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.backend import devices
from minigrad.backend.rows import RowSparse
from minigrad.errors import DeviceError, message
from minigrad.optim.gradients import cast
from minigrad.parallel.arrays import empty, is_here
from minigrad.parallel.communicator import Communicator
from minigrad.tensor import Tensor

__all__ = ["Bucket", "Table", "Worker", "dense", "fill"]

Array = Any


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
        self.flat: Any = None
        self.compression = compression if parameters[0].dtype.itemsize > 2 else None
        self.used = [False] * len(parameters)  # whether there is a gradient
        self.waiting = set(range(len(parameters)))
        self.settle()

    @property
    def on_gpu(self) -> bool:
        """Whether the parameters lie on a GPU."""
        return not is_here(self.parameters[0]._array)

    def settle(self) -> None:
        """Lay the memory where the parameters lie, if that is elsewhere now."""
        first = self.parameters[0]._array
        if not all(type(p._array) is type(first) for p in self.parameters):
            got = "some on the CPU and some on a GPU"
            raise DeviceError(message("DataParallel", "parameters of a bucket", got, "all on one device"))
        if type(self.flat) is not type(first):
            self.lay()

    def lay(self) -> None:
        """Make the memory."""
        parameters = self.parameters
        self.flat = empty(parameters[0]._array, sum(p.size for p in parameters), parameters[0].dtype)
        ends = np.cumsum([0, *(p.size for p in parameters)]).tolist()
        self.views = [self.flat[a:b].reshape(p.shape) for a, b, p in zip(ends[:-1], ends[1:], parameters)]

    def take(self, place: int) -> None:
        """Copy the gradient of a parameter to its place, unless it lies there; zeros where there is none."""
        grad, view = self.parameters[place]._grad, self.views[place]
        self.used[place] = grad is not None
        if grad is None:
            view[...] = 0
        elif grad._array is not view and not overlap(grad._array, view):
            view[...] = dense(grad._array)
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

    @property
    def on_gpu(self) -> bool:
        """Whether the parameter lies on a GPU."""
        return not is_here(self.parameters[0]._array)

    def settle(self) -> None:
        """Nothing: a table has no memory of its own."""

    def take(self, place: int) -> None:
        p, grad = self.parameters[0], self.parameters[0]._grad
        self.grad = None if grad is None else grad._array
        if self.on_gpu:  # a full array, which is to be there until another stream is done with it
            self.grad = empty(p._array, p.shape, p.dtype)
            self.grad[...] = 0 if grad is None else dense(grad._array)
        self.used = [grad is not None]
        self.waiting.clear()

    def reduce(self, communicator: Communicator) -> None:
        p, grad = self.parameters[0], self.grad
        if self.on_gpu:
            communicator.allreduce(grad, "mean", out=grad)
            return
        if communicator.allreduce(np.int64(grad is not None and type(grad) is not RowSparse), "max"):
            self.grad = communicator.allreduce(np.zeros(p.shape, p.dtype) if grad is None else dense(grad), "mean")
            return
        rows = RowSparse.empty(p.shape, p.dtype) if grad is None else grad
        ids, values = communicator.all_gather(rows.ids), communicator.all_gather(rows.values)
        total = RowSparse.gather(p.shape, ids, values)
        total.values = (total.values / total.dtype.type(communicator.size)).astype(total.dtype, copy=False)
        self.grad = total

    def give(self, used: list[bool]) -> None:
        self.parameters[0]._grad = tape.new_tensor(self.grad) if used[0] else None
        self.grad, self.waiting = None, {0}


def dense(grad: Array) -> Array:
    """A gradient as a full array."""
    return grad.dense() if type(grad) is RowSparse else grad


def overlap(grad: Array, view: Array) -> bool:
    """Whether a gradient lies in the memory of a bucket."""
    return type(grad) is type(view) and bool(devices.of_array(view).namespace.may_share_memory(grad, view))


def fill(parameters: list[Tensor], tables: set[int], size: int, compression: Any) -> list[Bucket | Table]:
    """Cut parameters, the last first, into buckets of at most `size` bytes; `tables`: the ids of those of rows."""
    buckets: list[Bucket | Table] = []
    open_ones: dict[Any, list[Tensor]] = {}
    for p in reversed(parameters):
        if id(p) in tables:
            buckets.append(Table(p))
            continue
        kind = p.dtype, type(p._array)
        group = open_ones.setdefault(kind, [])
        if group and sum(q.nbytes for q in group) + p.nbytes > size:
            buckets.append(Bucket(group, compression))
            group = open_ones[kind] = []
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

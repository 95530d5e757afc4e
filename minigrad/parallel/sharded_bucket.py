"""Buckets of gradients of which each rank keeps those of its own parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.errors import GradError, message
from minigrad.optim.gradients import cast
from minigrad.parallel.arrays import empty
from minigrad.parallel.buckets import Bucket, Table, dense, overlap
from minigrad.parallel.communicator import Communicator
from minigrad.tensor import Tensor

__all__ = ["ShardedBucket", "ShardedTable"]

Array = Any


class ShardedBucket(Bucket):
    """A bucket whose memory is there from its first gradient until it is averaged.

    Parameters
    ----------
    parameters : list of Tensor
        As for `Bucket`.
    owners : list of int
        Which rank keeps the gradient of each.
    rank : int
        This one.
    compression : dtype, optional
        As for `Bucket`.
    """

    def __init__(self, parameters: list[Tensor], owners: list[int], rank: int, compression: Any = None) -> None:
        self.parameters, self.owners, self.rank = parameters, owners, rank
        self.dtype, self.compression = parameters[0].dtype, compression
        self.order = sorted(range(len(parameters)), key=owners.__getitem__)  # in memory: by ranks
        self.kept: Array | None = None  # the averages of this rank's parameters, side by side
        self.flat: Any = None
        self.used = [False] * len(parameters)
        self.waiting = set(range(len(parameters)))

    def settle(self) -> None:
        """Nothing: memory is made for each backward."""

    def take(self, place: int) -> None:
        """Copy the gradient of a parameter, and drop it."""
        if self.flat is None:
            first = self.parameters[0]._array
            self.flat = empty(first, sum(p.size for p in self.parameters), self.dtype)
            ends = np.cumsum([0, *(self.parameters[i].size for i in self.order)]).tolist()
            self.starts = dict(zip(self.order, ends))
        p, start = self.parameters[place], self.starts[place]
        grad, view = p._grad, self.flat[start : start + p.size].reshape(p.shape)
        self.used[place] = grad is not None
        if grad is None:
            view[...] = 0
        else:
            array = grad._array
            if self.kept is not None and overlap(array, self.kept):
                got = "an average already, of which this rank alone holds its share"
                hint = "To accumulate, run all but the last backward in model.no_sync()"
                need = "optimizer.zero_grad() before the next backward"
                raise GradError(message("ShardedOptimizer", "a gradient", got, need, hint))
            view[...] = dense(array)
            p._grad = None
        self.waiting.discard(place)

    def reduce(self, communicator: Communicator) -> None:
        """Average over the ranks, and keep the share of this one."""
        rows = np.zeros(communicator.size, np.int64)
        np.add.at(rows, self.owners, [p.size for p in self.parameters])
        if self.compression is None:
            self.kept = communicator.reduce_scatter(self.flat, "mean", rows=rows)
        else:
            small = cast(self.flat, self.compression)
            self.kept = cast(communicator.reduce_scatter(small, "mean", rows=rows), self.dtype)

    def give(self, used: list[bool]) -> None:
        """Let the gradients of this rank's parameters be the averages; the others have none."""
        assert self.kept is not None
        self.flat = None  # not before: a GPU may have been reading it
        start = 0
        for i in self.order:
            p = self.parameters[i]
            if self.owners[i] == self.rank:
                view = self.kept[start : start + p.size].reshape(p.shape)
                p._grad = tape.new_tensor(view) if used[i] else None
                start += p.size
        self.waiting = set(range(len(self.parameters)))


class ShardedTable(Table):
    """A table of rows, whose gradient one rank keeps."""

    def __init__(self, parameter: Tensor, kept: bool) -> None:
        super().__init__(parameter)
        self.kept = kept
        self.last: Any = None  # what was given

    def take(self, place: int) -> None:
        """Take the gradient, and drop it."""
        grad = self.parameters[0]._grad
        if grad is not None and grad is self.last:
            need = "optimizer.zero_grad() before the next backward"
            raise GradError(message("ShardedOptimizer", "a gradient", "an average already", need))
        super().take(place)
        self.parameters[0]._grad = None

    def give(self, used: list[bool]) -> None:
        """Keep the average where the parameter is this rank's."""
        super().give([used[0] and self.kept])
        self.last = self.parameters[0]._grad

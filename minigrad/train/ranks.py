"""Ranks: what goes between the ranks that train one model; nothing where a trainer is alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import random
from minigrad.errors import message
from minigrad.io.state_tree import decode, encode
from minigrad.nn.module import Module
from minigrad.train.accumulate import shares
from minigrad.train.metrics import Metric

if TYPE_CHECKING:
    from minigrad.parallel import Communicator

__all__ = ["Ranks"]

LENGTH = 8  # bytes of a number before what a rank sends


class Ranks:
    """The ranks of a `Trainer`, each of which computes on its part of every batch.

    Where there is one, no method costs anything. Otherwise they are collectives, but `apart`.

    Parameters
    ----------
    model : Module
        The model, or `parallel.DataParallel` around it.
    parallel : bool or Communicator or None
        Whether there are others: those of `parallel.init`, or of a communicator.

    Attributes
    ----------
    model : Module
        The model itself.
    called : Module
        What a step of training calls.
    size, rank : int
        How many there are, and which one this is.

    Raises
    ------
    TypeError
        If `parallel` is something else.
    ValueError
        If the model has another communicator.
    """

    def __init__(self, model: Module, parallel: Any = None) -> None:
        self.model = model
        self.called: Any = model
        self.size, self.rank = 1, 0
        none = parallel is None or parallel is False
        if none and not hasattr(model, "communicator"):
            return
        from minigrad.parallel import Communicator, DataParallel, init

        wrapped = isinstance(model, DataParallel)
        if isinstance(model, DataParallel):
            if isinstance(parallel, Communicator) and parallel is not model.communicator:
                need = "that of the DataParallel that is the model, or True"
                raise ValueError(message("Trainer", "parallel", parallel, need))
            self.model, parallel = model.module, model.communicator
        elif none:
            return
        elif parallel is True:
            parallel = init()
        elif not isinstance(parallel, Communicator):
            raise TypeError(message("Trainer", "parallel", parallel, "True, a communicator, or None"))
        self._ranks: Communicator = parallel
        self.size, self.rank = parallel.size, parallel.rank
        if self.size == 1:
            self.called = self.model
            return
        random.set_state(self.gather(random.get_state())[0])  # dropout and orders of data are those of one process
        self.called = model if wrapped else DataParallel(model, parallel)

    # --- a step -----------------------------------------------------------------------------------------------------

    def shares(self, counts: Sequence[float | None], examples: Sequence[int]) -> list[float]:
        """What to multiply the loss of each part of a step by, so that gradients are those of all parts of all ranks.

        Parameters
        ----------
        counts : sequence of float or None
            What the mean of each part divides by; None where it is a sum.
        examples : sequence of int
            How many each part has; one without any stands in for a part that the rank has not.
        """
        if self.size == 1:
            return shares(counts)
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return [float(self.size) if n else 0.0 for n in examples]
        total = self.total(sum(known))[0]
        return [count * self.size / total if total else 0.0 for count in known]

    def synced(self, last: bool) -> AbstractContextManager[None]:
        """What to call ``backward`` in: all but the last of a step add to this rank's gradients alone."""
        if last or self.size == 1:
            return nullcontext()
        made: AbstractContextManager[None] = self.called.no_sync()
        return made

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let this rank run the model without the others, backward too."""
        layers: list[Any] = [m for m in self.model.modules() if getattr(m, "statistics", None) is not None]
        shared = [m.statistics for m in layers]
        try:
            for layer in layers:
                layer.statistics = None
            with self.synced(last=False):
                yield
        finally:
            for layer, statistics in zip(layers, shared, strict=True):
                layer.statistics = statistics

    def share_buffers(self) -> None:
        """Let the buffers, such as running statistics, be those of rank 0."""
        if self.size > 1:
            self.called.share_buffers()

    # --- what all have to know --------------------------------------------------------------------------------------

    def total(self, *numbers: float) -> list[float]:
        """The sums over the ranks."""
        if self.size == 1:
            return list(numbers)
        return [float(x) for x in self._ranks.allreduce(np.array(numbers, np.float64))]

    def largest(self, *numbers: int) -> list[int]:
        """The largest of the ranks."""
        if self.size == 1:
            return list(numbers)
        return [int(x) for x in self._ranks.allreduce(np.array(numbers, np.int64), "max")]

    def gather(self, own: Any) -> list[Any]:
        """What each rank has: dicts, lists, numbers, texts and arrays, as a checkpoint holds them."""
        if self.size == 1:
            return [own]
        node, records = encode(own)
        arrays = [np.ascontiguousarray(record.array) for record in records]
        kinds = [(array.dtype.name, record.array.shape) for array, record in zip(arrays, records, strict=True)]
        head = json.dumps([node, kinds]).encode()
        parts = [len(head).to_bytes(LENGTH, "little"), head, *(array.tobytes() for array in arrays)]
        body = self._ranks.all_gather(np.frombuffer(b"".join(parts), np.uint8))
        found, end = [], 0
        for _ in range(self.size):
            start = end + LENGTH
            end = start + int.from_bytes(body[end:start].tobytes(), "little")
            node, kinds = json.loads(body[start:end].tobytes())
            arrays = []
            for name, shape in kinds:
                start, dtype = end, np.dtype(name)
                end = start + dtype.itemsize * math.prod(shape)
                arrays.append(body[start:end].copy().view(dtype).reshape(shape))
            found.append(decode(node, arrays))
        return found

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            self._ranks.barrier()

    # --- metrics ----------------------------------------------------------------------------------------------------

    def parts(self, metrics: Iterable[Metric]) -> list[Metric]:
        """The metrics that see what this rank computes; alone, the metrics themselves."""
        if self.size == 1:
            return list(metrics)
        return [metric.empty() for metric in metrics]

    def merge(self, metrics: Sequence[Metric], parts: Sequence[Metric]) -> None:
        """Add what the parts of all ranks have seen to the metrics, in the order of the ranks."""
        if self.size == 1 or not metrics:
            return
        for states in self.gather([part.state_dict() for part in parts]):
            for metric, state in zip(metrics, states, strict=True):
                metric.merge(state)

"""Fetcher: makes the batches of a loader, in its own process or in a worker's, the same in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from minigrad.data.collate import default_collate, map_leaves
from minigrad.data.dataset import IterableDataset
from minigrad.data.streams import BATCH, GLOBALS, STREAM, Item, derive, loading, seeded, stream
from minigrad.tensor import Tensor

__all__ = ["END", "Fetcher", "Job"]

Indices = np.ndarray[Any, np.dtype[np.int64]]


class _End:
    """What comes after the last batch of a stream."""


END = _End()


class Job(NamedTuple):
    """What a loader was told, as far as making batches goes."""

    dataset: Any
    collate: Callable[[Any], Any] | None
    transform: Callable[..., Any] | None
    batch_size: int
    drop_last: bool
    rank: int
    world_size: int

    @property
    def streams(self) -> bool:
        """Whether the dataset has no numbers for its items."""
        return isinstance(self.dataset, IterableDataset) or not hasattr(self.dataset, "__getitem__")


class Fetcher:
    """Makes the batch of a step of an epoch; with a stream, steps must come in order."""

    def __init__(self, job: Job) -> None:
        self.job = job
        parts = (job.dataset, job.collate or PURE, job.transform or PURE)
        self.everywhere = any(getattr(part, "draws_globally", True) for part in parts)
        self.source: Source | None = None

    def batch(self, seed: int, epoch: int, step: int, indices: Indices | None) -> Any:
        """The batch as arrays; `END` where a stream has no more. Indices are None for a stream."""
        job = self.job
        number = step * job.world_size + job.rank  # ranks draw other numbers
        with seeded(derive(seed, GLOBALS, epoch, number)) if self.everywhere else nullcontext():
            if indices is None:
                items = self._from_stream(seed, epoch, step)
                made = END if items is None else self._collate(items, f"batch {number} of the stream")
            else:
                made = self._from_items(seed, epoch, indices)
            if made is END:
                return END
            if job.transform is not None:
                made = job.transform(made, stream(seed, BATCH, epoch, number))
            return map_leaves(lambda tensor: tensor.detach().numpy(), made, Tensor)

    def _from_items(self, seed: int, epoch: int, indices: Indices) -> Any:
        dataset = self.job.dataset
        if self.job.collate is None and hasattr(dataset, "batch"):
            made = dataset.batch(indices)
            if made is not NotImplemented:
                return made
        items = []
        with loading() as begin:
            for index in indices.tolist():
                begin(Item(seed, epoch, index))
                try:
                    items.append(dataset[index])
                except Exception as error:
                    error.add_note(f"DataLoader: raised by item {index} of the {type(dataset).__name__}")
                    raise
        names = ", ".join(map(str, indices[:20].tolist()))
        return self._collate(items, f"items {names}, ..." if len(indices) > 20 else f"items {names}")

    def _collate(self, items: list[Any], names: str) -> Any:
        try:
            return (self.job.collate or default_collate)(items)
        except Exception as error:
            error.add_note(f"DataLoader: the batch was made of {names}")
            raise

    def _from_stream(self, seed: int, epoch: int, step: int) -> list[Any] | None:
        if self.source is None or (self.source.seed, self.source.epoch) != (seed, epoch) or self.source.step > step:
            self.source = Source(self.job, seed, epoch, self.everywhere)
        source, self.source = self.source, None  # one that raises is done
        items = source.read(step)
        self.source = source
        return items


class Source:
    """A stream in one epoch. Each batch is read under seeds of its own, those of others that are passed over too."""

    def __init__(self, job: Job, seed: int, epoch: int, everywhere: bool) -> None:
        self.job, self.seed, self.epoch, self.everywhere = job, seed, epoch, everywhere
        self.step = 0
        self.items: Iterator[Any] | None = None
        self.place = 0

    def read(self, step: int) -> list[Any] | None:
        """The items of the rank's batch of a step; None after the last.

        Ranks get the same number of batches: a round that does not suffice for all is left out.
        """
        while True:
            found = [self._read(self.step * self.job.world_size + k) for k in range(self.job.world_size)]
            self.step += 1
            mine, last = found[self.job.rank], found[-1]
            if not last or (self.job.drop_last and len(last) < self.job.batch_size):
                return None
            if self.step > step:
                return mine

    def _read(self, number: int) -> list[Any]:
        found: list[Any] = []
        seeds = seeded(derive(self.seed, STREAM, self.epoch, number)) if self.everywhere else nullcontext()
        with seeds, loading() as begin:
            if self.items is None:
                self.items = iter(self.job.dataset)
            while len(found) < self.job.batch_size:
                begin(Item(self.seed, self.epoch, self.place))
                try:
                    found.append(next(self.items))
                except StopIteration:
                    break
                except Exception as error:
                    error.add_note(f"DataLoader: raised by item {self.place} of the {type(self.job.dataset).__name__}")
                    raise
                self.place += 1
        return found


class _Pure:
    """Stands where nothing was given: it draws no numbers."""

    draws_globally = False


PURE = _Pure()

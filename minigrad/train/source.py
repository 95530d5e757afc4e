"""Source: the batches of an epoch, from a place that a checkpoint can name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minigrad.data import DataLoader, Dataset, IterableDataset, TensorDataset
from minigrad.errors import message
from minigrad.tensor import Tensor
from minigrad.train.batch import StandIn, length, part_of
from minigrad.train.ranks import Ranks

__all__ = ["Source", "make_source"]


class Source:
    """The batches of anything that gives some when it is iterated, pass after pass.

    A place is the state of the loader where it has one; otherwise it is the number of batches of this pass, and to go
    there is to take so many and leave them.

    With `part`, a rank and the number of ranks, it gives the rank's part of each batch.
    """

    def __init__(self, batches: Iterable[Any], name: str, part: tuple[int, int] | None = None) -> None:
        if not hasattr(batches, "__iter__"):
            need = "arrays (x, y), a Dataset, a DataLoader or another iterable of batches"
            raise TypeError(message("Trainer", name, batches, need))
        self.batches, self.name, self.part = batches, name, part
        self.whole: Any = None  # the loader of which `batches` is a shard
        self.taken = 0  # in this pass
        self.ended = False  # the pass is over and the next one not begun
        self._passes = 0
        self._iterator: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    @property
    def steps(self) -> int | None:
        """How many batches there are, if that is known."""
        try:
            return len(self)
        except TypeError:
            return None

    def take(self, count: int) -> list[Any]:
        """The next batches of this pass, so many while there are; none once at its end, then the next pass begins."""
        if self.ended:
            self.ended, self.taken = False, 0
            return []
        if self._iterator is None:
            self._iterator = self._begin()
        found = [self._own(batch) for batch in itertools.islice(self._iterator, count)]
        if not found and not self.taken:
            self._refuse()
        self.taken += len(found)
        if len(found) < count:
            self._iterator = None
            self._passes += 1
            self.ended = bool(found)
            if not found:
                self.taken = 0
        return found

    def _own(self, batch: Any) -> Any:
        """What is this rank's of a batch that was given last."""
        if self.part is not None:
            return part_of(batch, *self.part)
        return StandIn(batch) if getattr(self._iterator, "stands_in", False) else batch

    def _begin(self) -> Iterator[Any]:
        iterator = iter(self.batches)
        if self.taken and not self._resumes:
            left = sum(1 for _ in itertools.islice(iterator, self.taken))
            if left < self.taken:
                got = f"{left} batches"
                raise ValueError(message("Trainer", self.name, got, f"at least the {self.taken} of the run so far"))
        return iterator

    def _refuse(self) -> None:
        if self._passes and iter(self.batches) is self.batches:
            hint = "Give a list, a Dataset or a DataLoader, or as many batches as all epochs need and steps_per_epoch"
            got = "an iterator that the first pass has used up"
            raise ValueError(message("Trainer", self.name, got, "what can be iterated in every epoch", hint))
        raise ValueError(message("Trainer", self.name, "empty", "at least one batch"))

    def rewind(self) -> None:
        """Leave the rest of this pass; a one-shot iterator goes on where it is."""
        self.taken, self.ended, self._iterator = 0, False, None

    def settle(self) -> None:
        """Let the loader that was given go on after the epochs that its shard has begun."""
        if self.whole is not None:
            place = self.batches.state_dict()  # type: ignore[attr-defined]
            self.whole.epoch = place["epoch"] + (place["batch"] > 0)

    @property
    def _resumes(self) -> bool:
        return hasattr(self.batches, "state_dict") and hasattr(self.batches, "load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        """The place, and the state of the loader where it has one."""
        loader = self.batches.state_dict() if self._resumes else None  # type: ignore[attr-defined]
        return {"taken": self.taken, "ended": self.ended, "loader": loader}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place."""
        self.taken, self.ended, self._iterator = int(state["taken"]), bool(state["ended"]), None
        if state["loader"] is not None and self._resumes:
            self.batches.load_state_dict(state["loader"])  # type: ignore[attr-defined]


def make_source(
    data: Any,
    name: str,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int | None = 0,
    dtype: Any = None,
    device: str | None = None,
    ranks: Ranks,
) -> Source:
    """Batches of arrays (x, y), of a dataset, or of what gives batches already.

    With seed None the loader draws one from `minigrad.random`, which evaluation must not touch. NumPy's float64, which
    is what comes out of most files, is cast to the dtype of the model. A loader that is made here gives batches on
    `device`. Several ranks have the same batches, of each of which one gets its part.
    """
    if isinstance(data, tuple) and data and all(hasattr(part, "shape") for part in data):
        lengths = {length(part) for part in data}
        if len(lengths) > 1:
            got = f"of {', '.join(str(length(part)) for part in data)} examples"
            raise ValueError(message("Trainer", name, got, "arrays of as many examples each"))
        data = TensorDataset(*(plain(part, dtype) for part in data))
    elif isinstance(data, Mapping):
        got = f"a dict with {', '.join(map(repr, data))}"
        need = "arrays (x, y), a Dataset (its items may be dicts), or an iterable of batches"
        raise TypeError(message("Trainer", name, got, need))
    elif isinstance(data, tuple) and any(hasattr(part, "shape") for part in data):
        got = f"a tuple of {', '.join(type(part).__name__ for part in data[:4])}"
        raise TypeError(message("Trainer", name, got, "a tuple of arrays (x, y)", "np.asarray makes one of a list"))
    if is_dataset(data):
        shuffle = shuffle and not isinstance(data, IterableDataset)
        data = DataLoader(data, batch_size, shuffle, seed=seed, device=device)
    if ranks.size == 1 or getattr(data, "world_size", 1) == ranks.size:  # it gives this rank's part already
        return Source(data, name)
    if isinstance(data, DataLoader):
        first = ranks.gather(data.seed)[0]
        if not data.streams:
            source = Source(data.shard(ranks.rank, ranks.size), name)
            source.whole, source.batches.seed = data, first  # type: ignore[attr-defined]
            return source
        data.seed = first  # what comes has no numbers, so each rank reads all of it
    return Source(data, name, (ranks.rank, ranks.size))


def is_dataset(data: Any) -> bool:
    """Whether it has items, not batches: a dataset, or what looks like one and cannot be iterated otherwise."""
    counted = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__")
    return counted or isinstance(data, (Dataset, IterableDataset))


def plain(array: Any, dtype: Any) -> Any:
    """An array with NumPy's float64 cast to the dtype of the model."""
    if isinstance(array, Tensor) or dtype is None or getattr(array, "dtype", None) != np.float64:
        return array
    return np.asarray(array).astype(dtype)

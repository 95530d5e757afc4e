"""DataLoader: batches of a dataset, in an order that seed and epoch determine, made here or by worker processes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import numpy as np

from minigrad import random
from minigrad.backend import devices
from minigrad.data.ahead import Ahead
from minigrad.data.collate import map_leaves, to_tensor
from minigrad.data.fetcher import END, Fetcher, Job
from minigrad.data.samplers import (
    BatchSampler,
    Given,
    GivenBatches,
    RandomSampler,
    Sampler,
    SequentialSampler,
    as_indices,
    as_sampler,
    positive,
)
from minigrad.data.shards import Parts, count_batches, cut, deal
from minigrad.data.streams import LOADER, derive
from minigrad.errors import describe, message

if TYPE_CHECKING:
    from minigrad.data.memory import Memory
    from minigrad.data.pool import Pool

__all__ = ["DataLoader"]

Indices = np.ndarray[Any, np.dtype[np.int64]]
Plan = Sequence[Indices] | None  # the batches of an epoch; None for a stream
WORD = 1 << 64


class DataLoader:
    """Batches of a dataset; every loop over the loader is an epoch, with an order of its own.

    Batches, order and every random number are functions of (seed, epoch, place): neither the number of workers nor an
    interruption changes them.

    Parameters
    ----------
    dataset : Dataset or IterableDataset
        What has ``__len__`` and ``__getitem__``, or else is a stream with ``__iter__``.
    batch_size : int
        Items of a batch, for each rank.
    shuffle : bool
        Take the items in random order.
    sampler : Sampler or iterable of int, optional
        The order of the items instead; an iterable is read anew in every epoch.
    batch_sampler : BatchSampler or iterable of sequences of int, optional
        The batches instead of `batch_size`, `shuffle`, `sampler` and `drop_last`.
    drop_last : bool
        Leave out a last batch that is smaller.
    collate : callable, optional
        From a list of items to a batch; by default arrays are stacked, see `default_collate`.
    num_workers : int
        Processes that make the batches, started by `spawn` at the first epoch and kept; 0 makes them in this one.
    prefetch : int
        Batches that each worker makes ahead: so many places in shared memory it has.
    seed : int, optional
        0 <= seed < 2**64. Without one it is drawn from `mg.random`.
    rank, world_size : int
        Which part of every round of ``world_size`` batches this loader gives. All ranks have the same number of
        batches: the last round is divided evenly where it is smaller. All must have the same seed.
    transform : callable, optional
        ``transform(batch, rng)`` is given the collated arrays and a `numpy.random.Generator` of the batch; see
        `data.transforms`.
    device : str, optional
        Where the tensors of a batch lie; the CPU by default. To a GPU each batch is copied from pinned memory while the
        step before it runs: it is made one batch ahead, in workers or here.

    Attributes
    ----------
    epoch : int
        The epoch that is running, or else comes next: a loop that is left early ends its epoch when the next one
        begins. Setting it goes to the beginning of that epoch; to the epoch of a state that was loaded, to its place.
    seed : int
        The seed.

    Raises
    ------
    ValueError, DTypeError
        An argument is out of range, or two exclude each other.
    DeviceError
        There is no such device.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import data
    >>> dataset = data.TensorDataset(np.arange(5.0, dtype=np.float32), np.arange(5))
    >>> loader = data.DataLoader(dataset, batch_size=2)
    >>> len(loader), [labels.tolist() for _, labels in loader]
    (3, [[0, 1], [2, 3], [4]])
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: SupportsIndex = 1,
        shuffle: bool = False,
        *,
        sampler: Any = None,
        batch_sampler: Any = None,
        drop_last: bool = False,
        collate: Callable[[Any], Any] | None = None,
        num_workers: SupportsIndex = 0,
        prefetch: SupportsIndex = 2,
        seed: SupportsIndex | None = None,
        rank: SupportsIndex = 0,
        world_size: SupportsIndex = 1,
        transform: Callable[..., Any] | None = None,
        device: str | None = None,
    ) -> None:
        who = "DataLoader"
        self.dataset = dataset
        self.device = None if device is None or device == "cpu" else devices.backend_of(device, who)[1]
        self.batch_size = positive(who, "batch_size", batch_size)
        self.num_workers = positive(who, "num_workers", num_workers, least=0)
        self.prefetch = positive(who, "prefetch", prefetch)
        self.world_size = positive(who, "world_size", world_size)
        self.rank = positive(who, "rank", rank, least=0)
        self.drop_last = bool(drop_last)
        if self.rank >= self.world_size:
            raise ValueError(message(who, "rank", self.rank, f"less than world_size, {self.world_size}"))
        for name, function in (("collate", collate), ("transform", transform)):
            if function is not None and not callable(function):
                raise TypeError(message(who, name, describe(function), "a callable"))
        self._job = Job(dataset, collate, transform, self.batch_size, self.drop_last, self.rank, self.world_size)
        self.sampler, self.batch_sampler = self._samplers(bool(shuffle), sampler, batch_sampler)
        self.seed = self._seed(seed, shuffle or sampler is not None or batch_sampler is not None)
        self._epoch = self._step = 0  # the batches of the epoch that were given
        self._running: object = None  # the token of the iterator that has begun the epoch
        self._spent = False  # an epoch of a dataset that has but one has begun
        self._part: tuple[int, int] | None = None  # the rank and the number of ranks, of a shard
        self._idle: Pool | None = None
        self._sent: tuple[Memory, int] | None = None

    def _samplers(self, shuffle: bool, sampler: Any, batch_sampler: Any) -> tuple[Any, Any]:
        who, stream = "DataLoader", self._job.streams
        given = {"shuffle": shuffle, "sampler": sampler is not None, "drop_last": self.drop_last}
        if stream:
            if not hasattr(self.dataset, "__iter__"):
                need = "a dataset with __len__ and __getitem__, or with __iter__"
                raise TypeError(message(who, "dataset", describe(self.dataset), need))
            if shuffle or sampler is not None or batch_sampler is not None:
                need = "no shuffle, sampler or batch_sampler: a stream has one order"
                raise ValueError(message(who, "dataset", describe(self.dataset), need))
            return None, None
        if batch_sampler is not None:
            for name, there in {**given, "batch_size": self.batch_size != 1}.items():
                if there:
                    need = "to be left out beside batch_sampler, which decides it"
                    raise ValueError(message(who, name, "given", need))
            return None, as_sampler(batch_sampler, "batch_sampler", BatchSampler, GivenBatches)
        if sampler is not None:
            if shuffle:
                raise ValueError(message(who, "shuffle", "True", "False beside a sampler, which decides the order"))
            return as_sampler(sampler, "sampler", Sampler, Given), None
        try:
            n = len(self.dataset)
        except TypeError:
            need = "a dataset with __len__ and __getitem__, or with __iter__"
            raise TypeError(message(who, "dataset", describe(self.dataset), need)) from None
        return (RandomSampler(n) if shuffle else SequentialSampler(n)), None

    def _seed(self, seed: SupportsIndex | None, draws: bool) -> int:
        if seed is not None:
            number = positive("DataLoader", "seed", seed, least=0)
            if number >= WORD:
                raise ValueError(message("DataLoader", "seed", number, "less than 2**64"))
            return number
        if self.world_size > 1 and draws:
            need = "an int, the same on every rank: their batches are parts of one order"
            raise ValueError(message("DataLoader", "seed", "None", need))
        return derive(*random.draw_key(), LOADER)

    @property
    def epoch(self) -> int:
        """The epoch that is running, or else comes next."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: SupportsIndex) -> None:
        number = positive("DataLoader", "epoch", epoch, least=0)
        if number != self._epoch or self._running is not None:
            self._epoch, self._step, self._running = number, 0, None

    @property
    def streams(self) -> bool:
        """Whether the dataset has no numbers for its items."""
        return self._job.streams

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        if self._job.streams:
            if not hasattr(self.dataset, "__len__"):
                raise TypeError(message("DataLoader", "dataset", describe(self.dataset), "__len__, to count batches"))
            n, whole = len(self.dataset), self.batch_size * self.world_size
            if self.drop_last or self.world_size == 1:
                return n // whole if self.drop_last else -(-n // whole)
            return (n + self.batch_size - 1) // whole  # the last rank needs an item of the last round
        if self.batch_sampler is not None:
            return -(-len(self.batch_sampler) // self.world_size)
        return count_batches(len(self.sampler), self.batch_size, self.drop_last, self.world_size)

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch, or go on with the one of a state that was loaded."""
        if self._spent:
            need = "something whose __iter__ starts anew: this iterator has no items for a second epoch"
            raise ValueError(message("DataLoader", "dataset", describe(self.dataset), need))
        self._spent = isinstance(self.dataset, Iterator)
        if self._running is not None:  # the one before was left in the middle
            self.epoch += 1
        batches = Batches(self, self._epoch, self._step)
        self._running = batches.token
        return batches

    def state_dict(self) -> dict[str, int]:
        """Where the loader is: plain data. The batches after those that were given are what it leads back to.

        Examples
        --------
        >>> from minigrad import data
        >>> loader = data.DataLoader(range(6), batch_size=2, shuffle=True, seed=1)
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> state = loader.state_dict()
        >>> other = data.DataLoader(range(6), batch_size=2, shuffle=True)
        >>> other.load_state_dict(state)
        >>> [batch.tolist() for batch in other] == [batch.tolist() for batch in batches]
        True
        """
        state = {"seed": self.seed, "epoch": self.epoch, "batch": self._step}
        return state | self._sizes()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next loop gives what was left of its epoch.

        Raises
        ------
        ValueError
            The state is that of a loader over other items, or with other sizes of batches.
        """
        given: Any = state
        if not isinstance(given, Mapping):
            raise TypeError(message("DataLoader.load_state_dict", "state", describe(given), "what state_dict gives"))
        for name in ("seed", "epoch", "batch"):
            positive("DataLoader.load_state_dict", name, state.get(name), least=0)
        for name, size in self._sizes().items():
            if state.get(name) != size:
                got, hint = describe(state.get(name)), "The batches would be others"
                raise ValueError(message("DataLoader.load_state_dict", name, got, f"{size}", hint))
        self.seed, self._epoch, self._step = (operator.index(state[name]) for name in ("seed", "epoch", "batch"))
        self._running = None

    def _sizes(self) -> dict[str, int]:
        """What must be the same for a state to fit."""
        sizes = {"batch_size": self.batch_size, "world_size": self.world_size, "drop_last": int(self.drop_last)}
        if self._job.streams:
            return sizes
        items = len(self.sampler) if self.batch_sampler is None else len(self.batch_sampler)
        return {"items": len(self.dataset), "drawn": items, **sizes}

    def shard(self, rank: int, world_size: int) -> DataLoader:
        """The same batches, of each of which a rank takes its part, from item ``n * rank // world_size`` of n on.

        Other than with `rank` and `world_size` of a loader that is made, `batch_size` is that of all ranks, and the
        state that of this loader: it leads to the same place for any number of ranks. A rank without a part of a batch,
        of fewer items than ranks, gets one of its items, and the iterator's `stands_in` is True.

        Raises
        ------
        ValueError
            For a stream, or a loader that is one of several ranks already.

        Examples
        --------
        >>> from minigrad import data
        >>> loader = data.DataLoader(range(7), batch_size=5)
        >>> [[batch.tolist() for batch in loader.shard(rank, 2)] for rank in (0, 1)]
        [[[0, 1], [5]], [[2, 3, 4], [6]]]
        """
        who = "DataLoader.shard"
        number = positive(who, "world_size", world_size)
        if positive(who, "rank", rank, least=0) >= number:
            raise ValueError(message(who, "rank", f"{rank}", f"less than world_size, {number}"))
        if self._job.streams:
            need = "DataLoader(stream, batch_size, rank=, world_size=): what comes has no number to cut it by"
            raise ValueError(message(who, "dataset", describe(self.dataset), need))
        if self.world_size > 1 or self._part is not None:
            raise ValueError(message(who, "the loader", "that of one of several ranks", "one of whole batches"))
        made = copy.copy(self)
        made._job = self._job._replace(rank=rank, world_size=number)  # other random numbers than the other ranks
        made._part = (rank, number)
        return made

    @property
    def worker_pids(self) -> list[int]:
        """The processes of the workers that wait for the next epoch."""
        return [] if self._idle is None else [process.pid for process in self._idle.processes if process.pid]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: it goes on where the loader stands, with workers of its own."""
        return vars(self) | {"_idle": None, "_sent": None, "_running": None}

    def close(self) -> None:
        """End the workers that wait for the next epoch. Garbage collection and the end of the program do that too."""
        if self._idle is not None:
            self._idle.close()
        self._idle = self._sent = None

    # --- what an iterator asks for ---------------------------------------------------------------------------------

    def _plan(self, epoch: int) -> Plan:
        """The batches of an epoch."""
        if self._job.streams:
            return None
        n = len(self.dataset)
        if self.batch_sampler is None:
            found = self.sampler.order(self.seed, epoch)
            order = as_indices(found, n, f"{type(self.sampler).__name__}.order")
            return self._own(cut(order, self.batch_size, self.drop_last, self.rank, self.world_size))
        who = f"{type(self.batch_sampler).__name__}.batches"
        batches = [as_indices(batch, n, who) for batch in self.batch_sampler.batches(self.seed, epoch)]
        if not all(map(len, batches)):
            raise ValueError(message(who, "a batch", "empty", "an item at least"))
        return self._own(deal(batches, self.rank, self.world_size))

    def _own(self, batches: Sequence[Indices]) -> Sequence[Indices]:
        """The batches, or the parts of them that a shard gives."""
        return batches if self._part is None else Parts(batches, *self._part)

    def _take_pool(self) -> Pool:
        """The workers that wait, or new ones: two iterators at once have workers of their own."""
        from minigrad.data.pool import Pool, pack

        pool, self._idle = self._idle, None
        if pool is None:
            self._sent = self._sent or pack(self._job)
            return Pool(self._sent, self.num_workers, self.prefetch)
        return pool

    def _give_back(self, pool: Pool) -> None:
        if self._idle is None:
            self._idle = pool
        else:
            pool.close()


class Batches(Iterator[Any]):
    """One epoch, from a step on."""

    def __init__(self, loader: DataLoader, epoch: int, step: int) -> None:
        self.token = object()  # the loader knows it by this, and holds no iterator
        self.loader, self.epoch, self.step = loader, epoch, step
        self.seed = loader.seed
        self.plan = loader._plan(epoch)
        self.fetcher = Fetcher(loader._job)
        self.pool: Pool | None = None  # does what the fetcher does where there are workers
        self.ahead = step  # the first step that no worker has
        self.transfers = None if loader.device is None else Ahead(loader.device)
        self.done = False
        self.stands_in = False  # whether the rank has no part of the batch that was given last; see `DataLoader.shard`
        if loader.num_workers and (self.plan is None or step < len(self.plan)):
            self.pool = loader._take_pool()
            try:
                self.pool.drain()
                for _ in range(len(self.pool) * loader.prefetch):
                    self._submit()
            except BaseException:
                self._finish()
                raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self.done:
            raise StopIteration
        try:
            batch = self._make(self.step) if self.transfers is None else self.transfers.take(self.step, self._make)
        except StopIteration as error:  # of the dataset, and not the end of the epoch
            self._finish()
            raise RuntimeError("DataLoader: the dataset, collate or transform raised StopIteration") from error
        except BaseException:
            self._finish()
            raise
        loader = self.loader
        if batch is END:
            self._finish()
            if loader._running is self.token:
                loader.epoch = self.epoch + 1
            raise StopIteration
        self.stands_in = isinstance(self.plan, Parts) and self.plan.stands_in(self.step)
        self.step += 1
        if loader._running is self.token:
            loader._step = self.step
        return map_leaves(to_tensor, batch, np.ndarray)

    def _make(self, step: int) -> Any:
        """The batch of a step; END after the last."""
        if self.plan is not None and step >= len(self.plan):
            return END
        if self.pool is None:
            indices = None if self.plan is None else self.plan[step]
            return self.fetcher.batch(self.seed, self.epoch, step, indices)
        batch = self.pool.receive(step % len(self.pool))
        if batch is not END:
            self._submit()
        return batch

    def _submit(self) -> None:
        """Give the next step to the worker whose turn it is."""
        assert self.pool is not None
        if self.plan is None or self.ahead < len(self.plan):
            indices = None if self.plan is None else self.plan[self.ahead]
            self.pool.submit(self.ahead % len(self.pool), self.seed, self.epoch, self.ahead, indices)
            self.ahead += 1

    def _finish(self) -> None:
        """Give the workers back, which pass over what they have not begun; end them where one of them cannot go on."""
        self.done, self.transfers = True, None
        pool, self.pool = self.pool, None
        if pool is None:
            return
        if pool.broken:
            pool.close()
        else:
            pool.cancel()
            self.loader._give_back(pool)

    def __del__(self) -> None:
        if not getattr(self, "done", True):
            self._finish()

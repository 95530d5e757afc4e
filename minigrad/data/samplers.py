"""Samplers: the order in which a loader takes the items of a dataset, a function of seed and epoch."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.streams import ORDER, derive, permutation
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.random import Generator

__all__ = [
    "BatchSampler", "BucketSampler", "RandomSampler", "Sampler", "SequentialSampler", "WeightedRandomSampler",
    "as_indices", "as_sampler", "positive",
]  # fmt: skip

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Sampler:
    """Base of the samplers: a subclass has ``__len__`` and `order`.

    Parameters
    ----------
    seed : int, optional
        A seed of its own; the loader's without one.

    Examples
    --------
    >>> from minigrad import data
    >>> class Backward(data.Sampler):
    ...     def __len__(self):
    ...         return 3
    ...     def order(self, seed, epoch):
    ...         return [2, 1, 0]
    >>> list(data.DataLoader(["a", "b", "c"], sampler=Backward()))
    [['c'], ['b'], ['a']]
    """

    seed: int | None = None

    def __init__(self, seed: SupportsIndex | None = None) -> None:
        self.seed = None if seed is None else positive(type(self).__name__, "seed", seed, least=0)

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __len__(self)")

    def order(self, seed: int, epoch: int) -> Any:
        """The indices of an epoch, as an array or a sequence."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method order(self, seed, epoch)")

    def _key(self, seed: int, epoch: int) -> int:
        return derive(seed if self.seed is None else self.seed, ORDER, epoch)


class SequentialSampler(Sampler):
    """The items in their order.

    Parameters
    ----------
    n : int
        How many.
    """

    def __init__(self, n: SupportsIndex) -> None:
        super().__init__()
        self.n = positive("SequentialSampler", "n", n, least=0)

    def __len__(self) -> int:
        return self.n

    def order(self, seed: int, epoch: int) -> Indices:
        return np.arange(self.n)


class RandomSampler(Sampler):
    """The items shuffled, every epoch anew; every order is as likely as the others.

    Parameters
    ----------
    n : int
        How many.
    seed : int, optional
        A seed of its own.

    Examples
    --------
    >>> from minigrad import data
    >>> sampler = data.RandomSampler(60_000)
    >>> bool((sampler.order(0, epoch=1) != sampler.order(0, epoch=2)).any())
    True
    """

    def __init__(self, n: SupportsIndex, *, seed: SupportsIndex | None = None) -> None:
        super().__init__(seed)
        self.n = positive("RandomSampler", "n", n, least=0)

    def __len__(self) -> int:
        return self.n

    def order(self, seed: int, epoch: int) -> Indices:
        return permutation(self.n, self._key(seed, epoch))


class WeightedRandomSampler(Sampler):
    """Items drawn in proportion to weights.

    Parameters
    ----------
    weights : array
        A weight of at least 0 for each item, not all of them 0; their sum does not matter.
    num_samples : int, optional
        How many to draw in an epoch; as many as there are weights by default.
    replacement : bool
        Whether an item may be drawn more than once in an epoch. Without, the draw is one by one from what is left, and
        takes items of positive weight alone.
    seed : int, optional
        A seed of its own.

    Examples
    --------
    >>> from minigrad import data
    >>> data.WeightedRandomSampler([0.0, 1.0, 0.0], 4).order(seed=0, epoch=0).tolist()
    [1, 1, 1, 1]
    """

    def __init__(
        self,
        weights: Any,
        num_samples: SupportsIndex | None = None,
        *,
        replacement: bool = True,
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(seed)
        try:
            self.weights = np.array(weights, np.float64)
        except (TypeError, ValueError):
            raise DTypeError(message("WeightedRandomSampler", "weights", describe(weights), "numbers")) from None
        self.replacement = replacement
        if self.weights.ndim != 1:
            raise ShapeError(message("WeightedRandomSampler", "weights", self.weights, "one axis, a weight an item"))
        count = len(self.weights) if num_samples is None else num_samples
        self.num_samples = positive("WeightedRandomSampler", "num_samples", count, least=0)
        self.order(0, 0)  # raises where these are no weights, or too few

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> Indices:
        draw = Generator(self._key(seed, epoch)).choice
        size = (self.num_samples,)
        return draw(len(self.weights), size, replace=self.replacement, p=self.weights).numpy()


class BatchSampler:
    """Base of the samplers that make batches themselves: a subclass has ``__len__`` and `batches`.

    The number of batches is the same in every epoch.

    Parameters
    ----------
    seed : int, optional
        A seed of its own; the loader's without one.
    """

    seed: int | None = None

    def __init__(self, seed: SupportsIndex | None = None) -> None:
        self.seed = None if seed is None else positive(type(self).__name__, "seed", seed, least=0)

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __len__(self)")

    def batches(self, seed: int, epoch: int) -> Sequence[Any]:
        """The batches of an epoch: for each the indices of its items."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method batches(self, seed, epoch)")


class BucketSampler(BatchSampler):
    """Batches of items of about equal length, so that little is padded.

    The shuffled items are cut into pools of ``pool`` batches, each pool is sorted by length and cut into batches, and
    the batches are shuffled. Only the last batch of the last pool may be smaller.

    Parameters
    ----------
    lengths : array of int
        The length of each item.
    batch_size : int
        Items of a batch.
    shuffle : bool
        Without it all items are one pool, and the batches come from short to long.
    pool : int
        Batches of a pool: more of them pad less, fewer mix better.
    drop_last : bool
        Leave the smaller batch out, which in the next epoch are other items.
    seed : int, optional
        A seed of its own.

    Examples
    --------
    >>> from minigrad import data
    >>> sampler = data.BucketSampler([5, 1, 4, 2], batch_size=2, shuffle=False)
    >>> [batch.tolist() for batch in sampler.batches(seed=0, epoch=0)]
    [[1, 3], [2, 0]]
    """

    def __init__(
        self,
        lengths: Any,
        batch_size: SupportsIndex,
        *,
        shuffle: bool = True,
        pool: SupportsIndex = 100,
        drop_last: bool = False,
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(seed)
        self.lengths = np.array(lengths)
        if self.lengths.ndim != 1:
            raise ShapeError(message("BucketSampler", "lengths", self.lengths, "one axis, a length an item"))
        self.batch_size = positive("BucketSampler", "batch_size", batch_size)
        self.pool = positive("BucketSampler", "pool", pool)
        self.shuffle, self.drop_last = shuffle, drop_last

    def __len__(self) -> int:
        n = len(self.lengths)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def batches(self, seed: int, epoch: int) -> list[Indices]:
        n, size = len(self.lengths), self.batch_size
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            return [order[at : at + size] for at in range(0, len(self) * size, size)]
        key = derive(seed if self.seed is None else self.seed, ORDER, epoch)
        order, found = permutation(n, key, 0), []
        if self.drop_last:
            order = order[: len(self) * size]
        for start in range(0, len(order), self.pool * size):
            pool = order[start : start + self.pool * size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            found += [pool[at : at + size] for at in range(0, len(pool), size)]
        return [found[k] for k in permutation(len(found), key, 1).tolist()]


class Given(Sampler):
    """An order that is the same in every epoch, or an iterable that is read anew for each."""

    def __init__(self, indices: Iterable[Any]) -> None:
        super().__init__()
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]

    def order(self, seed: int, epoch: int) -> Any:
        return list(self.indices)


class GivenBatches(BatchSampler):
    """Batches that are the same in every epoch, or an iterable that is read anew for each."""

    def __init__(self, batches: Iterable[Any]) -> None:
        super().__init__()
        self.given = batches

    def __len__(self) -> int:
        return len(self.given)  # type: ignore[arg-type]

    def batches(self, seed: int, epoch: int) -> Sequence[Any]:
        return list(self.given)


def as_sampler(sampler: Any, arg: str, kind: type[Any], given: type[Any]) -> Any:
    """A sampler as it is, or one of a sized iterable."""
    if isinstance(sampler, kind):
        return sampler
    if not (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
        need = f"a {kind.__name__}, or an iterable with a length"
        raise DTypeError(message("DataLoader", arg, describe(sampler), need))
    return given(sampler)


def as_indices(found: Any, n: int, who: str) -> Indices:
    """Indices as int64, each of them that of an item."""
    indices = np.asarray(found)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise DTypeError(message(who, None, indices, "integers along one axis, the indices of items"))
    if indices.size and not (indices.min() >= 0 and indices.max() < n):
        got = f"indices from {indices.min()} to {indices.max()}"
        raise IndexError(message(who, None, got, f"0 to {n - 1}, the items of the dataset"))
    return indices.astype(np.int64)


def positive(who: str, arg: str, value: Any, least: int = 1) -> int:
    """An int of at least 1, or of another number."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DTypeError(message(who, arg, describe(value), f"an int of at least {least}")) from None
    if number < least:
        raise ValueError(message(who, arg, number, f"at least {least}"))
    return number

"""Random numbers of data: functions of a seed, an epoch and a place, whoever draws them, in whichever process."""

from __future__ import annotations

import contextlib
import random as standard
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

from minigrad import random
from minigrad._core import philox

__all__ = ["ORDER", "Rng", "as_rng", "derive", "item_rng", "permutation", "seeded", "stream"]

Rng: TypeAlias = "np.random.Generator"

# What a key is for. The keys of two purposes have nothing in common, nor have they with the draws of mg.random.
ORDER, ITEM, BATCH, GLOBALS, STREAM, SPLIT, LOADER = range(1, 8)

_item: ContextVar[Item | None] = ContextVar("minigrad_item", default=None)


class Item:
    """The item that is being loaded; its generator is made when it is first asked for."""

    __slots__ = ("epoch", "index", "rng", "seed")

    def __init__(self, seed: int, epoch: int, index: int) -> None:
        self.seed, self.epoch, self.index = seed, epoch, index
        self.rng: Rng | None = None


def derive(seed: int, *path: int) -> int:
    """Key of a stream: Philox of the seed and the first number is the seed for the second, and so on.

    Examples
    --------
    >>> from minigrad.data.streams import derive
    >>> derive(0, 1, 2) == derive(0, 1, 2) != derive(0, 2, 1)
    True
    """
    bits = np.empty(1, np.uint64)
    for step in path:
        philox.fill_bits(seed, step, bits)
        seed = int(bits[0])
    return seed


def stream(seed: int, *path: int) -> Rng:
    """NumPy's generator on Philox, with a key of its own for each path.

    Examples
    --------
    >>> from minigrad.data.streams import stream
    >>> float(stream(0, 1, 2).random()) == float(stream(0, 1, 2).random())
    True
    """
    return np.random.Generator(np.random.Philox(key=derive(seed, *path)))


def permutation(n: int, seed: int, *path: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers 0 ... n - 1 in random order.

    Examples
    --------
    >>> from minigrad.data.streams import permutation
    >>> sorted(permutation(4, 0, 1).tolist())
    [0, 1, 2, 3]
    """
    out = np.empty(n, np.int64)
    philox.fill_permutation(derive(seed, *path), 0, out)
    return out


def as_rng(rng: Rng | SupportsIndex | None) -> Rng:
    """The generator itself; of an int the stream of that seed; without one a new stream, drawn from `mg.random`."""
    if rng is None:
        return stream(*random.draw_key())
    return np.random.default_rng(int(rng)) if hasattr(rng, "__index__") else rng


def item_rng() -> Rng:
    """Generator of the item that is being loaded: a function of the loader's seed, the epoch and the item's index.

    For the ``__getitem__`` of a dataset that draws. In an iterable dataset the index is the place in the stream.
    Outside of a loader it is a new stream, drawn from `mg.random`.

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    >>> from minigrad import data
    >>> class Noise(data.Dataset):
    ...     def __len__(self):
    ...         return 6
    ...     def __getitem__(self, index):
    ...         return data.item_rng().normal(size=2)
    >>> one, other = (data.DataLoader(Noise(), batch_size=size, seed=1) for size in (3, 2))
    >>> bool((next(iter(one))[:2] == next(iter(other))).all())
    True
    """
    item = _item.get()
    if item is None:
        return as_rng(None)
    if item.rng is None:
        item.rng = stream(item.seed, ITEM, item.epoch, item.index)
    return item.rng


@contextlib.contextmanager
def loading() -> Iterator[Callable[[Item], object]]:
    """A function that says which item is being loaded; afterwards it is none."""
    token = _item.set(None)
    try:
        yield _item.set
    finally:
        _item.reset(token)


@contextlib.contextmanager
def seeded(key: int) -> Iterator[None]:
    """Let the global generators of minigrad, NumPy and Python draw from streams of their own, and go on afterwards.

    It takes about a tenth of a millisecond, and is not meant for threads: others would draw from these streams too.
    """
    states = random.get_state(), np.random.get_state(), standard.getstate()  # noqa: NPY002 - a user may draw there
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    standard.seed(key)
    try:
        yield
    finally:
        random.set_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        standard.setstate(states[2])

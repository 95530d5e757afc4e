"""Dataset: items that are counted, or a stream of them; arrays, parts and sums of datasets."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.streams import SPLIT, permutation
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.tensor import Tensor

__all__ = ["ConcatDataset", "Dataset", "IterableDataset", "Subset", "TensorDataset", "random_split"]

Array = np.ndarray[Any, Any]


class Dataset:
    """Base of the datasets whose items have a number.

    A subclass has ``__len__`` and ``__getitem__(index)``, which returns an array, a number, a string, or a tuple, list
    or dict of these. Where many items can be had at once it also has `batch`. A loader takes any object with the two
    methods, a list or an array for instance.

    Attributes
    ----------
    draws_globally : bool
        Whether items may draw from the global generators, `mg.random`, NumPy's or Python's: a loader then seeds these
        before every batch, so that the numbers do not depend on who loads it, and restores them. False saves that time,
        about a tenth of a millisecond; `item_rng` needs none of it.

    Examples
    --------
    >>> from minigrad import data
    >>> class Squares(data.Dataset):
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, index):
    ...         return index, index**2
    >>> [tuple(part.tolist() for part in batch) for batch in data.DataLoader(Squares(), batch_size=3)]
    [([0, 1, 2], [0, 1, 4]), ([3, 4], [9, 16])]
    """

    draws_globally: bool = True

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __len__(self)")

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __getitem__(self, index)")

    def batch(self, indices: Array) -> Any:
        """The items of int64 indices as one batch, in new arrays; NotImplemented to have them fetched one by one."""
        return NotImplemented


class IterableDataset:
    """Base of the datasets that are a stream: a subclass has ``__iter__``, and ``__len__`` if it knows.

    A loader's batch k is made of the items k * batch_size and following, however many workers there are: each of them
    reads the whole stream and makes its share of the batches. What is costly belongs into `collate` or `transform`, or
    into a dataset whose items have numbers.

    Examples
    --------
    >>> from minigrad import data
    >>> class Lines(data.IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(5))
    >>> [batch.tolist() for batch in data.DataLoader(Lines(), batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    draws_globally: bool = True

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __iter__(self)")


class TensorDataset(Dataset):
    """Arrays side by side: item i is the tuple of their rows i.

    Workers of a loader map the arrays from one block of shared memory; a `numpy.memmap` they map from its file.

    Parameters
    ----------
    *arrays : array or Tensor
        At least one, with equal extents of the first axis. They are not copied.

    Raises
    ------
    ShapeError
        The first extents differ, or there is no first axis.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import data
    >>> dataset = data.TensorDataset(np.arange(6.0).reshape(3, 2), np.array([7, 8, 9]))
    >>> dataset[1]
    (array([2., 3.]), np.int64(8))
    """

    draws_globally = False

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError(message("TensorDataset", "arrays", "nothing", "at least one array"))
        self.arrays: tuple[Array, ...] = tuple(
            array.detach().numpy() if isinstance(array, Tensor) else np.asanyarray(array) for array in arrays
        )
        for array in self.arrays:
            if array.ndim == 0 or len(array) != len(self.arrays[0]):
                need = "at least one axis" if self.arrays[0].ndim == 0 else f"{len(self.arrays[0])} rows, as the first"
                raise ShapeError(message("TensorDataset", "arrays", array, need))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple([array[index] for array in self.arrays])

    def batch(self, indices: Array) -> Any:
        return tuple([rows(array, indices) for array in self.arrays])


def rows(array: Array, indices: Array) -> Array:
    """Rows of an array, copied."""
    n = len(indices)
    if n and indices[-1] - indices[0] == n - 1 and (n < 3 or (np.diff(indices) == 1).all()):
        return np.array(array[indices[0] : indices[0] + n])  # neighbors: one copy
    return np.asarray(array).take(indices, axis=0)


class Subset(Dataset):
    """Some items of a dataset.

    Parameters
    ----------
    dataset : Dataset
        Any object with ``__len__`` and ``__getitem__``.
    indices : sequence of int
        Which items, in which order; an index may be there more than once.

    Examples
    --------
    >>> from minigrad import data
    >>> part = data.Subset(["a", "b", "c"], [2, 0])
    >>> len(part), part[0]
    (2, 'c')
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | Array) -> None:
        self.dataset = dataset
        n = _length("Subset", "dataset", dataset)
        try:
            found = np.array(indices)
        except ValueError:  # lists of several lengths
            found = np.array(None)
        if found.size and found.dtype.kind not in "iu":  # a mask would read the items 0 and 1, and floats be cut off
            hint = "Of a mask: numpy.flatnonzero(mask)" if found.dtype.kind == "b" else ""
            raise DTypeError(message("Subset", "indices", describe(indices), "ints", hint))
        self.indices = found.astype(np.int64)
        if self.indices.ndim != 1:
            raise ShapeError(message("Subset", "indices", self.indices, "one axis"))
        if self.indices.size and not (self.indices.min() >= 0 and self.indices.max() < n):
            got = f"{self.indices.min()} to {self.indices.max()}"
            raise IndexError(message("Subset", "indices", got, f"0 to {n - 1}, the items of the dataset"))

    @property
    def draws_globally(self) -> bool:  # type: ignore[override]
        """As the dataset's."""
        return getattr(self.dataset, "draws_globally", True)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[int(self.indices[index])]

    def batch(self, indices: Array) -> Any:
        made = getattr(self.dataset, "batch", None)
        return NotImplemented if made is None else made(self.indices[indices])


class ConcatDataset(Dataset):
    """Datasets one after the other.

    Parameters
    ----------
    datasets : iterable of Dataset
        At least one.

    Examples
    --------
    >>> from minigrad import data
    >>> both = data.ConcatDataset([["a", "b"], ["c"]])
    >>> len(both), both[2], both[-3]
    (3, 'c', 'a')
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        given: Any = datasets
        if not isinstance(given, Iterable):
            raise TypeError(message("ConcatDataset", "datasets", given, "an iterable of datasets"))
        self.datasets = list(given)
        if not self.datasets:
            raise ValueError(message("ConcatDataset", "datasets", "empty", "at least one dataset"))
        self.ends = np.cumsum([_length("ConcatDataset", "datasets", dataset) for dataset in self.datasets])

    @property
    def draws_globally(self) -> bool:  # type: ignore[override]
        """Whether one of the datasets does."""
        return any(getattr(dataset, "draws_globally", True) for dataset in self.datasets)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Any) -> Any:
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(message("ConcatDataset", "index", operator.index(index), f"0 to {len(self) - 1}"))
        which = int(np.searchsorted(self.ends, place, side="right"))
        return self.datasets[which][place - int(self.ends[which]) + len(self.datasets[which])]

    def batch(self, indices: Array) -> Any:
        which = np.searchsorted(self.ends, indices, side="right")
        parts, places = [], []
        for k in np.unique(which).tolist():
            here = np.flatnonzero(which == k)
            made = getattr(self.datasets[k], "batch", None)
            part = NotImplemented if made is None else made(indices[here] - (self.ends[k] - len(self.datasets[k])))
            if type(part) is not tuple or not all(isinstance(array, np.ndarray) for array in part):
                return NotImplemented
            parts.append(part)
            places.append(here)
        layouts = {tuple((array.dtype, array.shape[1:]) for array in part) for part in parts}
        if len(layouts) != 1:  # item by item the error names the two that do not fit
            return NotImplemented
        back = np.argsort(np.concatenate(places))
        return tuple([np.concatenate(arrays).take(back, axis=0) for arrays in zip(*parts)])


def random_split(
    dataset: Any, lengths: Sequence[SupportsIndex] | Sequence[float], *, seed: SupportsIndex = 0
) -> list[Subset]:
    """Split a dataset at random into parts that have no item in common.

    Parameters
    ----------
    dataset : Dataset
        What to split.
    lengths : sequence of int or of float
        The number of items of each part, all items together; or shares that sum to 1: their numbers are rounded down,
        and what is left goes to the parts that lost most.
    seed : int, optional
        Equal seeds split alike.

    Returns
    -------
    list of Subset

    Raises
    ------
    ValueError
        The lengths do not sum to the dataset's, or the shares not to 1.

    Examples
    --------
    >>> from minigrad import data
    >>> train, test = data.random_split(range(10), [0.8, 0.2])
    >>> len(train), len(test), sorted([*train, *test]) == list(range(10))
    (8, 2, True)
    """
    n, counts = len(dataset), list(lengths)
    if any(isinstance(count, float) for count in counts):
        shares = [float(count) for count in counts]  # type: ignore[arg-type]
        if not (min(shares) >= 0 and math.isclose(sum(shares), 1.0, abs_tol=1e-9)):
            raise ValueError(message("random_split", "lengths", describe(counts), "shares of at least 0 that sum to 1"))
        whole = [math.floor(share * n + 1e-9) for share in shares]
        lost = np.argsort([count - share * n for count, share in zip(whole, shares)], kind="stable")
        for k in lost[: n - sum(whole)].tolist():
            whole[k] += 1
    else:
        whole = [operator.index(count) for count in counts]  # type: ignore[arg-type]
        if not whole or min(whole) < 0 or sum(whole) != n:
            got = f"{counts}, {sum(whole)} together"
            raise ValueError(message("random_split", "lengths", got, f"{n} together, the items of the dataset"))
    order = permutation(n, operator.index(seed), SPLIT)
    ends = np.cumsum([0, *whole])
    return [Subset(dataset, order[a:b]) for a, b in itertools.pairwise(ends.tolist())]


def _length(who: str, arg: str, dataset: Any) -> int:
    """How many items a dataset has."""
    try:
        return len(dataset)
    except TypeError:
        raise TypeError(message(who, arg, describe(dataset), "a dataset with __len__ and __getitem__")) from None

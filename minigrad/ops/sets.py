"""Sets: the distinct values of a tensor. They carry no gradient, as which of equal elements is kept is arbitrary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigrad._core import tape
from minigrad.errors import DTypeError
from minigrad.ops.conversion import asarray
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["unique_all", "unique_counts", "unique_inverse", "unique_values"]


class UniqueAll(NamedTuple):
    """What `unique_all` answers."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` answers."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` answers."""

    values: Tensor
    inverse_indices: Tensor


@op(dtype=keep.but(same=False))
def _unique(xp: Any, x: Array, /, index: bool, inverse: bool, counts: bool) -> Array:
    return xp.unique(x, return_index=index, return_inverse=inverse, return_counts=counts, equal_nan=False)


_unique.samples(
    case(A((5,), 0, 3, kind="int"), index=True, inverse=True, counts=True),
    case(A((2, 3), 0, 3, kind="int"), index=False, inverse=True, counts=False),
    case(A((4,), kind="bool"), index=False, inverse=False, counts=True),
    case(np.zeros(0, np.int64), index=False, inverse=False, counts=False),
    case(np.array(7), index=True, inverse=True, counts=True),
    error(DTypeError, "x is text, needs a tensor, an array or a number", "text", index=True, inverse=True, counts=True),
)


def _of(x: Tensor, index: bool = False, inverse: bool = False, counts: bool = False) -> Any:
    """The op on `x` off the tape."""
    return _unique(tape.new_tensor(asarray(x)._array), index, inverse, counts)


def unique_values(x: Tensor, /) -> Tensor:
    """The distinct values, sorted and without a gradient; each NaN counts as one of its own.

    Parameters
    ----------
    x : Tensor
        Any shape.

    Returns
    -------
    Tensor
        With one axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.unique_values(mg.tensor([3, 1, 3]))
    tensor([1, 3])
    """
    return _of(x)  # type: ignore[no-any-return]


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """The distinct values, sorted, and how often each occurs.

    Parameters
    ----------
    x : Tensor
        Any shape.

    Returns
    -------
    tuple of Tensor
        Named ``values`` and ``counts``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.unique_counts(mg.tensor([3, 1, 3])).counts
    tensor([1, 2])
    """
    return UniqueCounts(*_of(x, counts=True))


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """The distinct values, sorted, and the place of each element's value: ``values[inverse_indices]`` is `x`.

    Parameters
    ----------
    x : Tensor
        Any shape.

    Returns
    -------
    tuple of Tensor
        Named ``values`` and ``inverse_indices``; the latter has the shape of `x`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.unique_inverse(mg.tensor([3, 1, 3])).inverse_indices
    tensor([1, 0, 1])
    """
    return UniqueInverse(*_of(x, inverse=True))


def unique_all(x: Tensor, /) -> UniqueAll:
    """The distinct values, sorted, with their first places in flattened `x`, the places back, and the counts.

    Parameters
    ----------
    x : Tensor
        Any shape.

    Returns
    -------
    tuple of Tensor
        Named ``values``, ``indices``, ``inverse_indices`` and ``counts``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.unique_all(mg.tensor([3, 1, 3])).indices
    tensor([1, 0])
    """
    return UniqueAll(*_of(x, index=True, inverse=True, counts=True))

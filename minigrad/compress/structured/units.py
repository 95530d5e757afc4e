"""Units: what the neurons, channels or heads of a layer have of its tensors, and how some of them are taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.backend.rows import RowSparse
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.deferred import check_initialized
from minigrad.nn.masks import mask_of
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["Array", "Kept", "Share", "Units", "is_count", "keep_all", "kept_ids", "sorted_ids", "take"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Share:
    """Where the units lie on an axis of a tensor: ``repeats`` times all of them, each with as many neighbours.

    Parameters
    ----------
    name : str
        The path of the tensor, for errors.
    tensor : Tensor
        A parameter or buffer.
    axis : int
        The axis of the units.
    repeats : int
        More than 1 where a `Flatten` has put several positions one after the other.
    is_read : bool
        Whether it is the weight that reads the units: the one whose zeros take a unit out of what is computed.
    """

    name: str
    tensor: Tensor
    axis: int
    repeats: int = 1
    is_read: bool = False

    def view(self, values: Any, count: int) -> Array:
        """An array of the tensor's shape as (repeats, count, neighbours, others)."""
        moved: Array = np.moveaxis(np.asarray(values), self.axis, 0)
        each = moved.shape[0] // (self.repeats * count)
        return moved.reshape(self.repeats, count, each, -1)

    def places(self, kept: Array, count: int) -> Array:
        """The indices on the axis that belong to some units."""
        places = np.arange(self.tensor.shape[self.axis]).reshape(self.repeats, count, -1)
        return places[:, kept].reshape(-1)


@dataclass(eq=False)
class Units:
    """The units of one layer.

    Parameters
    ----------
    name : str
        The path of the layer that makes them.
    count : int
        How many there are.
    shares : list of Share
        The tensors that have a part for each.
    readers : list of (Module, int)
        The layers that take them, and the axis of the units in what those are called with.
    settle : list of callable
        Called with the number of units that are left, to change what layers say of their sizes.
    groups : int
        From each of so many runs of neighbours as many units must be kept.
    """

    name: str
    count: int
    shares: list[Share] = field(default_factory=list)
    readers: list[tuple[Module, int]] = field(default_factory=list)
    settle: list[Callable[[int], None]] = field(default_factory=list)
    groups: int = 1

    def add(self, name: str, tensor: Tensor | None, axis: int, repeats: int = 1, is_read: bool = False) -> None:
        """Add a share, where there is the tensor."""
        if tensor is not None:
            self.shares.append(Share(name, tensor, axis, repeats, is_read))

    def check(self, who: str) -> None:
        """Raise where a tensor waits for its shape, or the units do not divide its axis."""
        for share in self.shares:
            check_initialized(who, share.name, share.tensor)
            mask_of(share.tensor, f"{who}: {share.name}")
            if share.tensor.shape[share.axis] % (share.repeats * self.count):
                need = (
                    f"a multiple of {share.repeats * self.count} on axis {share.axis}, for the units of {self.name!r}"
                )
                raise ShapeError(message(who, share.name, f"of shape {share.tensor.shape}", need))

    def keep(self, kept: Array) -> None:
        """Take out all units but some, in place."""
        for share in self.shares:
            take(share.tensor, share.places(kept, self.count), share.axis)
        self.count = len(kept)
        for function in self.settle:
            function(self.count)


Kept = list[tuple[Units, Array]]


def keep_all(who: str, plan: Kept) -> dict[str, list[int]]:
    """Carry out a plan: the units that are kept of each layer. It is checked as a whole before anything is changed."""
    taken: dict[tuple[int, int], str] = {}
    for units, _ in plan:
        units.check(who)
        for share in units.shares:
            other = taken.setdefault((id(share.tensor), share.axis), units.name)
            if other != units.name:
                got = f"of the units of both {other!r} and {units.name!r}"
                raise ValueError(message(who, share.name, got, "units of one layer", "Exclude the layers"))
    kept = {units.name: ids.tolist() for units, ids in plan}
    for units, ids in plan:
        if len(ids) < units.count:
            units.keep(ids)
    return kept


def take(t: Tensor, places: Array, axis: int) -> None:
    """Keep some places on an axis of a tensor, in place; its mask and its gradient are cut with it.

    The tensor stays the same object, so what shares it shares the smaller one. A gradient by rows is dropped.
    """
    if isinstance(t, Parameter) and t.mask is not None:
        t.mask = np.take(np.asarray(mask_of(t, "mask")), places, axis=axis)
    grad = t._grad
    t._array = t._array.take(places, axis=axis)
    tape.mark_changed(t)  # a graph that saved the old values raises in backward
    if grad is not None:
        t._grad = None if isinstance(grad._array, RowSparse) else tape.new_tensor(grad._array.take(places, axis=axis))


def kept_ids(who: str, name: str, given: Any, count: int, *, minimum: int = 1) -> Array:
    """The units that are left when some are taken out: sorted, and at least so many."""
    gone = sorted_ids(who, name, given, count)
    left: Array = np.setdiff1d(np.arange(count), gone)
    if len(left) < minimum:
        need = f"at most {count - minimum}, so that {minimum} of {count} are left"
        raise ValueError(message(who, name, f"{len(gone)} units", need))
    return left


def is_count(value: Any) -> bool:
    """Whether it is an int of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def sorted_ids(who: str, name: str, given: Any, count: int) -> Array:
    """Ids of units, sorted, each once; negative ones count from the end."""
    if isinstance(given, Tensor):
        given = given.to("cpu").numpy()
    found = np.asarray(list(given) if isinstance(given, Iterable) and not isinstance(given, np.ndarray) else given)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(message(who, name, describe(given), "a sequence of ints"))
    found = found.astype(np.int64)
    wrong = found[(found < -count) | (found >= count)]
    if wrong.size:
        raise IndexError(message(who, name, f"{int(wrong[0])}", f"one of {count} units"))
    found = found % count
    if len(np.unique(found)) != len(found):
        raise ValueError(message(who, name, describe(given if isinstance(given, Sequence) else found), "each once"))
    return np.sort(found)

"""Which units stay: by given ids, or by scores and an amount."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.compress.structured.unit_scores import unit_scores
from minigrad.compress.structured.units import Array, Kept, Units, is_count, kept_ids
from minigrad.errors import describe, message
from minigrad.nn.module import Module

__all__ = ["check_amount", "plan"]


def check_amount(who: str, amount: Any) -> float:
    """A share of the units, 0 <= amount < 1."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float, np.floating)) or not 0 <= amount < 1:
        raise ValueError(message(who, "amount", describe(amount), "a share of the units, 0 <= amount < 1"))
    return float(amount)


def plan(
    who: str,
    model: Module,
    found: Sequence[Units],
    amount: Any,
    indices: Any,
    *,
    scores: Any,
    data: Any,
    scope: str,
    minimum: int,
) -> Kept:
    """The units to keep of each layer; the arguments are those of `remove_neurons`."""
    if (amount is None) == (indices is None):
        got = "neither" if amount is None else "both"
        raise ValueError(message(who, "amount, indices", got, "one of them"))
    if not is_count(minimum):
        raise ValueError(message(who, "minimum", describe(minimum), "an int of at least 1"))
    if scope not in ("layer", "global"):
        raise ValueError(message(who, "scope", describe(scope), "'layer' or 'global'"))
    if indices is not None:
        return _by_ids(who, found, indices, minimum)
    share = check_amount(who, amount)
    values = unit_scores(who, model, found, scores, data)
    for units in found:
        if scope == "global" and units.groups > 1:
            raise ValueError(message(who, "scope", "'global'", "'layer', as groups of heads lose equally many"))
    if scope == "layer":
        return [(units, _best(units, own, share, minimum)) for units, own in zip(found, values, strict=True)]
    return _best_of_all(found, values, share, minimum)


def _by_ids(who: str, found: Sequence[Units], indices: Any, minimum: int) -> Kept:
    if not isinstance(indices, Mapping):
        if len(found) != 1 or not isinstance(indices, Iterable):
            names = ", ".join(repr(units.name) for units in found)
            raise TypeError(message(who, "indices", describe(indices), f"a mapping, as there are {names}"))
        indices = {found[0].name: indices}
    known = {units.name: units for units in found}
    result: Kept = []
    for name, gone in indices.items():
        if name not in known:
            need = f"one of {', '.join(map(repr, known))}"
            raise ValueError(message(who, "a layer in indices", repr(name), need))
        units = known[name]
        kept = kept_ids(who, f"indices of {name!r}", gone, units.count, minimum=minimum * units.groups)
        left = np.bincount(kept // (units.count // units.groups), minlength=units.groups)
        if (left != left[0]).any():
            need = f"equally many left in each of {units.groups} groups of {units.count // units.groups}"
            raise ValueError(message(who, f"indices of {name!r}", f"leaving {left.tolist()}", need))
        result.append((units, kept))
    return result


def _best(units: Units, scores: Array, share: float, minimum: int) -> Array:
    """Those of the highest scores, in each group; of equal ones the first stay."""
    size = units.count // units.groups
    number = max(size - round(share * size), min(minimum, size))
    order = np.argsort(-scores.reshape(units.groups, size), axis=1, kind="stable")
    kept: Array = np.sort(order[:, :number] + np.arange(units.groups)[:, None] * size, axis=None)
    return kept


def _best_of_all(found: Sequence[Units], values: Sequence[Array], share: float, minimum: int) -> Kept:
    """Those of the highest scores in all layers, of which none loses its last."""
    owner = np.repeat(np.arange(len(found)), [units.count for units in found])
    place = np.concatenate([np.arange(units.count) for units in found] or [np.arange(0)])
    left = [units.count for units in found]
    gone: list[list[int]] = [[] for _ in found]
    due = round(share * len(owner))
    scores = np.concatenate([*values, np.zeros(0)])
    for j in np.lexsort((-np.arange(len(owner)), scores)):  # of equal ones the last goes first
        layer = int(owner[j])
        if due and left[layer] > minimum:
            gone[layer].append(int(place[j]))
            left[layer] -= 1
            due -= 1
    return [(units, np.setdiff1d(np.arange(units.count), out)) for units, out in zip(found, gone, strict=True)]

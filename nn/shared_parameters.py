"""Shared parameters: one tensor that a model calls by several names, of which a state dict has the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minigrad.tensor import Tensor

__all__ = ["by_first_name", "first_names"]


def first_names(module: Any, own: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, str]:
    """The names among `names` that are further ones of tensors of a state, each with the first.

    Parameters
    ----------
    module : Module
        The root of the tree.
    own : mapping of str to Tensor
        Its state by first names.
    names : iterable of str
        Any names.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.nn.shared_parameters import first_names
    >>> layer = nn.Dense(2, in_features=2)
    >>> model = nn.ModuleDict({"a": layer, "b": nn.Residual(layer)})
    >>> first_names(model, dict(model.named_parameters()), ["b.module.weight", "a.weight", "c.weight"])
    {'b.module.weight': 'a.weight'}
    """
    first = {id(t): name for name, t in own.items()}
    found = {name: first.get(id(_member(module, name))) for name in names if name not in own}
    return {name: other for name, other in found.items() if other is not None}


def _member(module: Any, name: str) -> Tensor | None:
    """What a path leads to; a walk over all paths would not end where modules share modules many times over."""
    places = [(module, name)]
    while places:
        holder, rest = places.pop()
        for own, member in holder._members():
            if isinstance(member, Tensor):
                if own == rest:
                    return member
            elif rest.startswith(f"{own}."):
                places.append((member, rest[len(own) + 1 :]))
    return None


def by_first_name(given: Mapping[str, Any], tied: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values of a state by first names, and the pairs of names whose values contradict each other.

    Parameters
    ----------
    given : mapping of str to Tensor or numpy.ndarray
        The state.
    tied : mapping of str to str
        What `first_names` gives.
    """
    found = {name: value for name, value in given.items() if name not in tied}
    names = {name: name for name in found}
    contradictory = []
    for name, first in tied.items():
        if first not in found:
            found[first], names[first] = given[name], name
        elif not _agree(found[first], given[name]):
            contradictory.append(f"{names[first]} and {name}, which are one tensor")
    return found, contradictory


def _agree(first: Any, second: Any) -> bool:
    """Whether two values are equal, NaN being equal to NaN."""
    a, b = (v.to(device="cpu").numpy() if isinstance(v, Tensor) else v for v in (first, second))
    return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))

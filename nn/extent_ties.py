"""Ties: extents of a layer's tensors that belong together, while the tensors wait for the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.nn.module import Module

__all__ = ["Tie", "contradictions"]

# (tensor or None, axis, parts): the extents are so many parts of one size each, which all of them share
Tie = list[tuple[Tensor | None, int, int]]


def contradictions(module: Module, names: Mapping[int, str], shapes: Mapping[str, Any]) -> list[str]:
    """What does not fit together in the tensors of a tree, in words.

    Parameters
    ----------
    module : Module
        The tree.
    names : mapping of int to str
        The name of each tensor, by its id.
    shapes : mapping of str to tuple of int
        The shapes they would have; one that is not known yet fits everything.
    """
    found = []
    for tie in (tie for each in module.modules() for tie in each._ties()):
        first = size = None
        for tensor, axis, parts in tie:
            name = names.get(id(tensor))
            if name is None or name not in shapes:
                continue
            own, rest = divmod(shapes[name][axis], parts)
            if rest:
                found.append(f"{name} is {shapes[name]}, needs a multiple of {parts} on axis {axis}")
            elif first is None:
                first, size = name, own
            elif own != size:
                found.append(f"{name} is {shapes[name]} where {first} is {shapes[first]}")
    return found

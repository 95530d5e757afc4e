"""Masks of a model: read, write, apply and drop them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.backend.devices import set_item, writeable
from minigrad.errors import describe, message
from minigrad.nn.masks import mask_beside, mask_of
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter

__all__ = ["apply_masks", "masks", "need_memory", "remove_masks", "set_mask"]

Array = np.ndarray[Any, Any]


def masks(model: Module) -> dict[str, Array]:
    """The masks of a model by the names of their parameters, a shared one once; True where a weight is kept.

    Examples
    --------
    >>> from minigrad import compress, nn
    >>> model = nn.Sequential([nn.Dense(2, in_features=2, kernel_initializer="identity")])
    >>> report = compress.prune(model, 0.5)
    >>> compress.masks(model)["0.weight"].tolist()
    [[True, False], [False, True]]
    """
    found = {name: mask_of(p, f"masks: {name}") for name, p in _parameters("masks", model)}
    return {name: np.array(keep) for name, keep in found.items() if keep is not None}


def set_mask(p: Parameter, keep: Array, where: str = "set_mask") -> None:
    """Give a parameter its mask, and set what it leaves out to 0.

    Raises
    ------
    ValueError
        If the parameter lies in memory that is read-only.
    """
    need_memory(p, where)
    p.mask = keep
    set_item(p._array, ~keep, 0)
    tape.mark_changed(p)


def need_memory(p: Parameter, where: str) -> None:
    """Raise where a parameter cannot be written to."""
    if not writeable(p._array):
        raise ValueError(message(where, "a parameter", "read-only", "memory to write to"))


def apply_masks(model: Module) -> None:
    """Set every weight that a mask leaves out to 0, as each step of an optimizer does: after writing to the weights."""
    _apply("apply_masks", model)


def remove_masks(model: Module) -> None:
    """Drop the masks: the weights stay as they are, zeros included, and further training moves all of them."""
    _apply("remove_masks", model)
    for _, p in model.named_parameters():
        p.mask = None


def _apply(who: str, model: Module) -> None:
    for name, p in _parameters(who, model):
        keep = mask_beside(p, f"{who}: {name}")
        if keep is not None:
            need_memory(p, f"{who}: {name}")
            set_item(p._array, ~keep, 0)
            tape.mark_changed(p)


def _parameters(who: str, model: Any) -> list[tuple[str, Parameter]]:
    if not isinstance(model, Module):
        raise TypeError(message(who, "model", describe(model), "a module"))
    return model.named_parameters()

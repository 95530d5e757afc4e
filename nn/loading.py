"""Loading: whether the values of a state fit the tensors of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad.errors import describe, message
from minigrad.nn.deferred import Deferred, shape_text
from minigrad.nn.extent_ties import contradictions
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.nn.module import Module

__all__ = ["misfits", "values_of"]

_KINDS = (dtypes.FLOATING, dtypes.INTEGER | dtypes.BOOL, dtypes.COMPLEX)  # a state is cast within a kind only


def misfits(module: Module, own: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What is wrong with values, by kind and in words; `own` has the tensors that they are for."""
    misshaped, mistyped = [], []
    for name, t in own.items():
        if name not in given:
            continue
        value = given[name]
        if not (t.accepts(value.shape) if isinstance(t, Deferred) else value.shape == t.shape):
            misshaped.append(f"{name} is {tuple(value.shape)}, needs {shape_text(t)}")
        elif not any(value.dtype in kind and t.dtype in kind for kind in _KINDS):
            mistyped.append(f"{name} is {value.dtype}, needs {t.dtype}")
    found = [("mis-shaped", misshaped), ("of another kind", mistyped)]
    waiting = {name for name, t in own.items() if isinstance(t, Deferred) and not t.is_initialized}
    if waiting and not misshaped:
        shapes = {name: given.get(name, t).shape for name, t in own.items() if name in given or name not in waiting}
        found.append(("contradictory", contradictions(module, {id(t): name for name, t in own.items()}, shapes)))
    return found


def values_of(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a state as tensors without a graph, or arrays."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(message("load_state_dict", "a name in the state", describe(name), "a str"))
        try:
            found[name] = value.detach() if isinstance(value, Tensor) else np.asarray(value)
        except ValueError:
            need = "a tensor, an array, or lists of equal lengths"
            raise ValueError(message("load_state_dict", repr(name), describe(value), need)) from None
    return found

"""Scores of units: how much a model would miss each neuron, channel or head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.autograd import no_grad
from minigrad.backend.devices import to_numpy
from minigrad.backend.rows import RowSparse
from minigrad.compress.structured.units import Array, Units
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["NAMES", "unit_scores"]

NAMES = ("l1", "l2", "taylor", "activation")


def unit_scores(who: str, model: Module, found: Sequence[Units], scores: Any, data: Any) -> list[Array]:
    """The scores of the units of each layer.

    Parameters
    ----------
    who : str
        The function that asks, for errors.
    model : Module
        What ``"activation"`` calls.
    found : sequence of Units
        The layers.
    scores : str or mapping
        ``"l2"``, ``"l1"``, ``"taylor"`` or ``"activation"``, or an array for each layer by its path.
    data : iterable, optional
        Batches for ``"activation"``: what the model is called with, a tuple for several arguments.
    """
    if isinstance(scores, Mapping):
        return [_given(who, units, scores) for units in found]
    if scores not in NAMES:
        raise ValueError(message(who, "scores", describe(scores), f"one of {', '.join(NAMES)}, or a mapping"))
    if (scores == "activation") != (data is not None):
        need = "batches, for scores='activation'" if data is None else "none without scores='activation'"
        raise ValueError(message(who, "data", describe(data), need))
    if scores == "activation":
        if not isinstance(data, Iterable):
            raise TypeError(message(who, "data", describe(data), "a list of batches, or a loader"))
        made = _activations(who, model, found, data)
    else:
        measure = {"l1": _l1, "l2": _l2, "taylor": _taylor}[scores]
        made = [measure(who, units) for units in found]
    for units, own in zip(found, made, strict=True):
        if np.isnan(own).any():
            hint = "Are its weights, and what it computes, finite?"
            raise ValueError(message(who, f"scores of {units.name!r}", "NaN", "numbers", hint))
    return made


def _given(who: str, units: Units, scores: Mapping[str, Any]) -> Array:
    if units.name not in scores:
        raise ValueError(message(who, "scores", f"without {units.name!r}", "an array for each layer", "Or exclude it"))
    values = scores[units.name]
    found = np.asarray(values.to("cpu").numpy() if isinstance(values, Tensor) else values, np.float64)
    if found.shape != (units.count,) or np.isnan(found).any():
        need = f"{units.count} numbers, one for each unit"
        raise ShapeError(message(who, f"scores of {units.name!r}", describe(found), need))
    return found


def _mean(units: Units, function: Callable[[Array], Array]) -> Array:
    """The mean of a function of the weights of each unit, those that make it and those that read it."""
    total, number = np.zeros(units.count), 0
    for share in units.shares:
        if isinstance(share.tensor, Parameter) and share.tensor.ndim > 1:
            view = share.view(function(to_numpy(share.tensor._array).astype(np.float64)), units.count)
            total += view.sum(axis=(0, 2, 3))
            number += view.size // units.count
    return total / number


def _l1(who: str, units: Units) -> Array:
    return _mean(units, np.abs)


def _l2(who: str, units: Units) -> Array:
    root: Array = np.sqrt(_mean(units, np.square))
    return root


def _taylor(who: str, units: Units) -> Array:
    """By how much the loss changes, to first order, when what reads a unit reads 0: ``|sum(w * g)|``."""
    total = np.zeros(units.count)
    for share in units.shares:
        if not share.is_read:
            continue
        grad = share.tensor._grad
        if grad is None or isinstance(grad._array, RowSparse):
            hint = "Call the model on a batch, and backward on its loss, before"
            raise ValueError(message(who, share.name, "without a gradient", "one for scores='taylor'", hint))
        products = to_numpy(share.tensor._array).astype(np.float64) * to_numpy(grad._array).astype(np.float64)
        total += share.view(products, units.count).sum(axis=(0, 2, 3))
    found: Array = np.abs(total)
    return found


def _activations(who: str, model: Module, found: Sequence[Units], data: Iterable[Any]) -> list[Array]:
    """The mean absolute value of what is read of each unit."""
    totals = [np.zeros(units.count) for units in found]
    numbers = [0] * len(found)
    removes = []
    for i, units in enumerate(found):
        share = next(share for share in units.shares if share.is_read)
        for reader, axis in units.readers:
            # bound by default arguments, as the loop goes on
            def note(
                module: Module, args: tuple[Any, ...], i: int = i, repeats: int = share.repeats, axis: int = axis
            ) -> None:
                values = np.moveaxis(np.abs(to_numpy(args[0]._array).astype(np.float64)), axis, 0)
                values = values.reshape(repeats, found[i].count, -1)
                totals[i] += values.sum(axis=(0, 2))
                numbers[i] += values.shape[0] * values.shape[2]

            removes.append(reader.register_forward_pre_hook(note))
    modes = [(m, m.__dict__.get("training", True)) for m in model.modules()]
    try:
        model.eval()
        with no_grad():
            for batch in data:
                model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        for remove in removes:
            remove()
        for m, mode in modes:
            m.training = mode
    for units, number in zip(found, numbers, strict=True):
        if not number:
            raise ValueError(message(who, "data", f"without a call of {units.name!r}", "batches that reach it"))
    return [total / number for total, number in zip(totals, numbers, strict=True)]

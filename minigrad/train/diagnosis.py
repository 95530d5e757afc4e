"""Diagnosis: where a NaN or an infinity comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad import autograd, random
from minigrad.errors import GradError, describe
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.batch import leaves

__all__ = ["UNKNOWN", "NonFinite", "find_nonfinite", "is_finite", "origin"]


UNKNOWN = "no layer and no op made it when the batch was run again"


class NonFinite(FloatingPointError):
    """A loss, or the norm of a gradient, is NaN or infinite."""


def origin(texts: list[str]) -> str:
    """Of what several ranks have found the one that is nearest to the source: what a batch brought reaches all."""
    return min(texts, key=lambda text: (UNKNOWN in text, "the buffer" in text, "of the batch hold" not in text))


def is_finite(nest: Any) -> bool:
    """Whether all floating numbers of a nest are finite."""
    for leaf in leaves(nest):
        array = leaf._array if isinstance(leaf, Tensor) else leaf
        if getattr(array, "dtype", None) is not None and array.dtype.kind not in "iubUSO":
            kind = array if array.dtype.kind in "fc" else array.astype(np.float32)  # bfloat16 is of kind V
            if not np.isfinite(kind).all():
                return False
    return True


def find_nonfinite(model: Module, inputs: Any, targets: Any, compute: Callable[[], Tensor], state: Any) -> str:
    """Say what made the first NaN or infinity when the model is run again, with the same random numbers.

    Parameters
    ----------
    model : Module
        Whose layers are watched.
    inputs, targets : nest
        Of the batch.
    compute : callable
        Gives the loss, and calls the model.
    state : dict
        The random state before.

    Returns
    -------
    str
        A layer and an op, or the input or parameter that was not finite from the start.
    """
    for what, nest in (("the inputs of the batch", inputs), ("the targets of the batch", targets)):
        if not is_finite(nest):
            return f"{what} hold a NaN or inf: {', '.join(describe(leaf) for leaf in leaves(nest))}"
    for name, p in model.named_parameters():
        if p.is_initialized and not is_finite(p):
            return f"the parameter {name!r} holds a NaN or inf already, from an earlier step"
    for name, b in model.named_buffers():
        if not is_finite(b):
            return f"the buffer {name!r} holds a NaN or inf"
    layer = op = ""
    with _undone(model, state), _watched(model) as found:
        with autograd.no_grad():
            compute()
        layer = found[0] if found else ""
    with _undone(model, state):
        try:
            with autograd.detect_anomaly():
                compute().backward()
        except GradError as error:
            op = str(error).removeprefix("detect_anomaly: ")
    parts = [f"the first layer whose output is not finite is {layer}"] if layer else []
    if op:
        parts.append(op)
    return "; ".join(parts) or UNKNOWN


@contextmanager
def _watched(model: Module) -> Iterator[list[str]]:
    """The layers, in the order in which they ended, whose output is not finite."""
    found: list[str] = []
    removes = []
    for path, module in model.named_modules():

        def look(module: Module, args: Any, output: Any, path: str = path) -> None:
            if not found and not is_finite(output):
                found.append(f"{path or 'the model'} ({type(module).__name__})")

        removes.append(module.register_forward_hook(look))
    try:
        yield found
    finally:
        for remove in removes:
            remove()


@contextmanager
def _undone(model: Module, state: Any) -> Iterator[None]:
    """Run with a given random state; random state, buffers and gradients are as before afterwards."""
    now = random.get_state()
    buffers = [
        (module, name, b, None if b is None else b._array.copy())
        for module in model.modules()
        for name in module._buffers
        for b in [getattr(module, name)]
    ]
    gradients = [(p, p._grad) for p in model.parameters()]
    for p, _ in gradients:
        p._grad = None
    random.set_state(state)
    try:
        yield
    finally:
        random.set_state(now)
        for module, name, b, array in buffers:
            if b is not None and array is not None and b._array.shape == array.shape:
                b._array[...] = array
            setattr(module, name, b)  # the layer may have put another tensor there
        for p, grad in gradients:
            p._grad = grad

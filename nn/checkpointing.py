"""Activation checkpointing by layer: forward keeps nothing of what is inside, backward computes it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from minigrad._core import tape
from minigrad.errors import message
from minigrad.function import checkpoint
from minigrad.nn.checks import kept_buffers

if TYPE_CHECKING:
    from minigrad.nn.module import Module

__all__ = ["checkpointed", "run_checkpointed"]

M = TypeVar("M", bound="Module")


def checkpointed(module: M, *layers: type[Module], enabled: bool = True) -> M:
    """Switch a module to activation checkpointing, or with types of layers all of those inside it.

    While training, a checkpointed layer keeps its inputs alone, and computes what is inside once more in backward:
    `minigrad.checkpoint` around its forward. Results and gradients are the same bit for bit, dropout draws the same
    masks, and running statistics count each batch once. The module stays the same object, with the same names in its
    state dict. T. Chen et al., "Training deep nets with sublinear memory cost", 2016.

    A stack of n layers that are checkpointed one by one holds n inputs, and the inside of a single layer at a time, for
    about a third more time.

    Parameters
    ----------
    module : Module
        A layer, or a model.
    *layers : type
        Which layers inside the model, such as `TransformerEncoderLayer`; without any, the module itself as a whole.
    enabled : bool
        False switches it off.

    Returns
    -------
    Module
        The module.

    Raises
    ------
    TypeError
        If the module is none.
    ValueError
        If there are no such layers inside.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> block = nn.checkpointed(nn.Sequential([nn.Dense(64, activation="gelu"), nn.Dropout(0.1), nn.Dense(8)]))
    >>> block(mg.ones((4, 8))).shape
    (4, 8)
    >>> encoder = nn.checkpointed(nn.TransformerEncoder(6, 4, 32), nn.TransformerEncoderLayer)
    >>> [layer.is_checkpointed for layer in encoder.layers].count(True)
    6
    """
    find: Any = getattr(module, "modules", None)
    given: Any = module
    if find is None or isinstance(given, type):
        raise TypeError(message("checkpointed", "module", module, "a layer or a model"))
    chosen = [m for m in find() if isinstance(m, layers)] if layers else [module]
    if not chosen:
        names = ", ".join(kind.__name__ for kind in layers)
        raise ValueError(message("checkpointed", "layers", names, f"types of layers that {type(module).__name__} has"))
    for m in chosen:
        m.is_checkpointed = bool(enabled)
    return module


def run_checkpointed(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the forward of a module, checkpointed where something is recorded."""
    if not tape.is_recording():
        return module.forward(*args, **kwargs)
    again = False

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal again
        if not again:
            again = True
            return module.forward(*args, **kwargs)
        with kept_buffers(module.buffers()):
            return module.forward(*args, **kwargs)

    return checkpoint(forward, *args, **kwargs)

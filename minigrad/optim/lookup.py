"""Optimizers by their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from minigrad.errors import message
from minigrad.optim.adafactor import Adafactor
from minigrad.optim.adagrad import Adadelta, Adagrad
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.layerwise import LAMB, LARS
from minigrad.optim.lbfgs import LBFGS
from minigrad.optim.lion import Lion
from minigrad.optim.muon import Muon
from minigrad.optim.nadam import NAdam, RAdam
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.rmsprop import RMSprop
from minigrad.optim.sgd import SGD

__all__ = ["get"]

_BY_NAME: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adafactor),
        *(Lion, LAMB, LARS, Muon, LBFGS),
    )
}  # fmt: skip


def get(name: str | type[Optimizer], params: Iterable[Any], **options: Any) -> Optimizer:
    """Make an optimizer of a name, such as "adamw": that of a class of this package, in letters of any size.

    Parameters
    ----------
    name : str or type
        A name, or a class, which is called as it is.
    params : iterable
        See `Optimizer`.
    **options
        Hyperparameters.

    Raises
    ------
    ValueError
        If there is none of that name.
    TypeError
        If it is neither a name nor a class of optimizers.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> optim.get("adam", [nn.Parameter([1.0])], lr=0.1).param_groups[0]["lr"]
    0.1
    """
    if isinstance(name, type) and issubclass(name, Optimizer):
        return name(params, **options)
    if not isinstance(name, str):
        raise TypeError(message("optim.get", "name", name, "the name or the class of an optimizer"))
    if name.lower() not in _BY_NAME:
        near = difflib.get_close_matches(name.lower(), _BY_NAME, 1)
        hint = f"Is it {near[0]!r}?" if near else ""
        raise ValueError(message("optim.get", "name", repr(name), f"one of {', '.join(_BY_NAME)}", hint))
    kind: Any = _BY_NAME[name.lower()]
    made: Optimizer = kind(params, **options)
    return made

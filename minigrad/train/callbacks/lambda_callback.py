"""LambdaCallback: functions in place of the methods of a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.errors import message
from minigrad.train.callbacks.callback import Callback

__all__ = ["LambdaCallback"]


class LambdaCallback(Callback):
    """A callback made of functions, each called in place of the method of its name, with the same arguments.

    Parameters
    ----------
    last : bool
        Whether it is called after the others.
    rank_0 : bool
        Whether of several ranks the first one alone calls it.
    **functions : callable
        ``on_epoch_end=lambda epoch, logs: ...`` and so on, for any method of `Callback`.

    Raises
    ------
    TypeError
        For a name that `Callback` does not have, or what is no function.

    Examples
    --------
    >>> from minigrad.train import LambdaCallback
    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> callback.on_epoch_end(2, {"loss": 0.5})
    2 0.5
    """

    def __init__(self, *, last: bool = False, rank_0: bool = False, **functions: Callable[..., Any]) -> None:
        known = [name for name in vars(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in known:
                raise TypeError(message("LambdaCallback", "argument", repr(name), f"one of {', '.join(known)}"))
            if not callable(function):
                raise TypeError(message("LambdaCallback", name, function, "a function"))
            setattr(self, name, function)
        self.last, self.rank_0 = last, rank_0

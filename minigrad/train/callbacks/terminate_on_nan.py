"""TerminateOnNaN: end the training at a loss that is not finite, and say where it came from."""

from __future__ import annotations

import warnings

from minigrad.errors import message
from minigrad.train.callbacks.callback import Callback, Logs

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Callback):
    """End `fit` without an error where the loss, or the norm of the gradient, is NaN or infinite.

    By itself a `Trainer` stops such a run with FloatingPointError. With this callback `fit` warns instead and returns
    the history of the epochs that are done, and `on_train_end` of all callbacks is called, so files are closed and the
    best weights restored. In either case the weights have not taken the step, and the text names the layer and the op
    that made the first NaN or infinity. The trainer has to have ``nan="raise"``, as it does by default.

    Raises
    ------
    ValueError
        At the begin of a run whose trainer goes on at a NaN.

    Attributes
    ----------
    reason : str
        What was found, or ``""``.

    Examples
    --------
    >>> import warnings
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.full((4, 2), float("nan")), mg.zeros((4,), dtype=mg.int64)
    >>> stopping = train.TerminateOnNaN()
    >>> trainer = train.Trainer(nn.Dense(2), metrics=[], callbacks=[stopping])
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     history = trainer.fit((x, y), epochs=3, verbose=0)
    >>> history, "the inputs of the batch hold a NaN" in stopping.reason
    ({}, True)
    """

    def __init__(self) -> None:
        self.reason = ""

    def on_train_begin(self, logs: Logs) -> None:
        self.reason = ""
        if self.trainer.nan != "raise":
            hint = "Otherwise the step is taken, and nothing can be found out"
            raise ValueError(message("TerminateOnNaN", "the trainer's nan", repr(self.trainer.nan), "'raise'", hint))

    def on_nonfinite(self, error: FloatingPointError, logs: Logs) -> None:
        self.reason = str(error)
        self.trainer.stop_training = True
        warnings.warn(f"TerminateOnNaN ends the training. {error}", RuntimeWarning, stacklevel=2)

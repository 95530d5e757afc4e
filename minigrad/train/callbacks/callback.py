"""Callback: the base of what a `Trainer` calls while it trains; CallbackList calls several."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from minigrad.errors import describe, message

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["Callback", "CallbackList", "Logs"]

Logs = dict[str, Any]  # the trainer's own dict, so what a callback writes into it the next one reads


class Callback:
    """Base of the callbacks: Keras's methods, all of them empty.

    A "batch" is one step of the optimizer, counted from 0 in every epoch; with `accumulate` it is made of several
    batches of the loader. A resumed run calls `on_train_begin`, and in the midst of an epoch `on_epoch_begin`, before
    it gives the callback its state back.

    Attributes
    ----------
    trainer : Trainer
        Who calls; `set_trainer` sets it.
    last : bool
        Whether it is called after all others that do not say so, as what saves the run must be.

    Examples
    --------
    >>> from minigrad.train.callbacks import Callback
    >>> class Threshold(Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         if logs["loss"] < 0.1:
    ...             self.trainer.stop_training = True
    """

    trainer: Trainer
    last: bool = False

    def set_trainer(self, trainer: Trainer) -> None:
        """Take note of who calls."""
        self.trainer = trainer

    def on_train_begin(self, logs: Logs) -> None:
        """`Trainer.fit` begins."""

    def on_train_end(self, logs: Logs) -> None:
        """`Trainer.fit` is through, its epochs done or `stop_training` set."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """An epoch begins; epochs are counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """An epoch is done, validation included; the history has it."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """A step of the optimizer begins."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """A step of the optimizer is done; the logs have the means of the epoch so far."""

    def on_before_update(self, logs: Logs) -> None:
        """The gradients of a step are there, unscaled and clipped, and the optimizer is about to use them."""

    def on_test_begin(self, logs: Logs) -> None:
        """An evaluation begins."""

    def on_test_end(self, logs: Logs) -> None:
        """An evaluation is done."""

    def on_interrupt(self, logs: Logs) -> None:
        """Ctrl-C or SIGTERM ends the run: the step at hand is done, and KeyboardInterrupt follows."""

    def on_nonfinite(self, error: FloatingPointError, logs: Logs) -> None:
        """The step at hand is given up for a NaN or infinity; `fit` raises the error unless `stop_training` is set."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know: dicts, lists, numbers, strings, arrays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class CallbackList(Callback):
    """Several callbacks as one, called in their order, those marked `last` after the others."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.callbacks: list[Callback] = []
        given: Any = [callbacks] if isinstance(callbacks, Callback) else callbacks
        if not isinstance(given, Iterable):
            raise TypeError(message("Trainer", "callbacks", describe(callbacks), "an iterable of callbacks"))
        for callback in given:
            self.append(callback)

    def append(self, callback: Any) -> None:
        """Add one more."""
        if not isinstance(callback, Callback):
            hint = "Make an object of it" if isinstance(callback, type) and issubclass(callback, Callback) else ""
            raise TypeError(message("Trainer", "callbacks", callback, "objects derived from train.Callback", hint))
        unknown = [name for name in dir(callback) if name.startswith("on_") and not hasattr(Callback, name)]
        if unknown:  # such as on_batch_end: another library's, or a slip of the pen
            known = [name for name in vars(Callback) if name.startswith("on_")]
            got = f"{', '.join(unknown)}, which nobody calls"
            warnings.warn(message(type(callback).__name__, "methods", got, ", ".join(known)), stacklevel=2)
        self.callbacks.append(callback)
        self.callbacks.sort(key=lambda c: c.last)  # stable
        if hasattr(self, "trainer"):  # one that comes later than the trainer
            callback.set_trainer(self.trainer)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def __len__(self) -> int:
        return len(self.callbacks)

    def set_trainer(self, trainer: Trainer) -> None:
        self.trainer = trainer
        for callback in self.callbacks:
            callback.set_trainer(trainer)

    def on_train_begin(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_train_end(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_before_update(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_before_update(logs)

    def on_test_begin(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_test_begin(logs)

    def on_test_end(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_test_end(logs)

    def on_interrupt(self, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_interrupt(logs)

    def on_nonfinite(self, error: FloatingPointError, logs: Logs) -> None:
        for callback in self.callbacks:
            callback.on_nonfinite(error, logs)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, each with the name of its class."""
        return {"callbacks": [{"class": type(c).__name__, "state": c.state_dict()} for c in self.callbacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each callback its state, by class and order; one that is new keeps its own."""
        given = list(state["callbacks"])
        for callback in self.callbacks:
            found = next((entry for entry in given if entry["class"] == type(callback).__name__), None)
            if found is not None:
                given.remove(found)
                callback.load_state_dict(found["state"])

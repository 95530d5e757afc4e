"""EarlyStopping: end the training where it no longer helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.errors import message
from minigrad.nn.checks import number
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.checks import count
from minigrad.train.callbacks.monitor import Monitor

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Stop when a log has not become better for some epochs, and go back to the best weights; Keras's arguments.

    After each epoch the value is compared with the best so far. It is better where it is so by more than `min_delta`;
    NaN never is. After `patience` epochs in a row that are no better (0 acts as 1) the training ends (L. Prechelt,
    "Early stopping - but when?", 1998). The best weights are in the state too, so a resumed run goes on as if nothing
    had been.

    Parameters
    ----------
    monitor : str
        The log to look at.
    min_delta : float
        What counts as better, at least 0.
    patience : int
        How many epochs to wait.
    mode : str
        ``"min"``, ``"max"``, or ``"auto"``: what the metric of this name says.
    baseline : float, optional
        A value that has to be reached: an epoch that does not is waited for, even if it is the best so far.
    restore_best_weights : bool
        Whether `fit` ends with the weights of the best epoch, with buffers and the average that the trainer keeps. So
        it does too where it ends for another reason.
    start_from_epoch : int
        The first epoch to look at, from 0.

    Attributes
    ----------
    best, best_epoch : float or None, int
        The best value, and its epoch.
    stopped_epoch : int or None
        The epoch after which training was stopped.

    Raises
    ------
    ValueError
        After an epoch whose logs do not have the value.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.zeros((8, 2)), mg.zeros((8,), dtype=mg.int64)
    >>> stopping = train.EarlyStopping("loss", patience=2)
    >>> trainer = train.Trainer(nn.Dense(2), optimizer="sgd", lr=0.0, metrics=[], callbacks=[stopping])
    >>> len(trainer.fit((x, y), epochs=10, verbose=0)["loss"]), stopping.best_epoch
    (3, 0)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        *,
        baseline: float | None = None,
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
    ) -> None:
        who = "EarlyStopping"
        self.monitor = Monitor(who, monitor, mode)
        self.min_delta = number(who, "min_delta", min_delta)
        if not self.min_delta >= 0:
            raise ValueError(message(who, "min_delta", f"{min_delta}", "at least 0"))
        self.patience = count(who, "patience", patience)
        self.baseline = None if baseline is None else number(who, "baseline", baseline)
        self.restore_best_weights = bool(restore_best_weights)
        self.start_from_epoch = count(who, "start_from_epoch", start_from_epoch)
        self._forget()

    def _forget(self) -> None:
        self.wait, self.best, self.best_epoch = 0, None, 0
        self.stopped_epoch: int | None = None
        self.weights: dict[str, Any] | None = None

    best: float | None

    def on_train_begin(self, logs: Logs) -> None:
        self._forget()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if epoch < self.start_from_epoch:
            return
        value = self.monitor.value(logs, self.trainer.metrics)
        self.wait += 1
        if self.monitor.better(value, self.best, self.min_delta):
            self.best, self.best_epoch = value, epoch
            if self.baseline is None or self.monitor.better(value, self.baseline, self.min_delta):
                self.wait = 0
            if self.restore_best_weights:
                self._keep()
        elif self.weights is None and self.restore_best_weights:
            self._keep()  # a value that is NaN from the start
        if self.wait and self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        if self.restore_best_weights and self.weights is not None:
            self.trainer.model.load_state_dict(self.weights["model"])
            if self.weights["ema"] is not None:
                self.trainer.ema.load_state_dict(self.weights["ema"])

    def _keep(self) -> None:
        ema = self.trainer.ema
        self.weights = {
            "model": self.trainer.model.state_dict(),
            "ema": None if ema is None else ema.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "weights": self.weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.wait, self.best_epoch = int(state["wait"]), int(state["best_epoch"])
        self.best, self.stopped_epoch, self.weights = state["best"], state["stopped_epoch"], state["weights"]

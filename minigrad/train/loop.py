"""Loop: the epochs of one call of `Trainer.fit`."""

from __future__ import annotations

import math
import signal
from typing import TYPE_CHECKING

from minigrad import optim
from minigrad.train import evaluation
from minigrad.train.callbacks import CallbackList
from minigrad.train.diagnosis import NonFinite
from minigrad.train.interrupt import Interrupt, Interrupted
from minigrad.train.source import Source
from minigrad.train.sums import Sums

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["Loop"]


class Loop:
    """Epochs of steps, each with its validation, from where the trainer is to its last epoch.

    Parameters
    ----------
    trainer : Trainer
        Whose `epoch`, `batch_index`, `logs` and `history` it moves on.
    source, held_out : Source
        The data, and those of the validation or None.
    steps, validation_steps : int or None
        How many make an epoch and a validation, where it is not the data that say so.
    callbacks : CallbackList
        Whom to tell.
    interrupt : Interrupt
        The signals that came.
    """

    def __init__(
        self,
        trainer: Trainer,
        source: Source,
        held_out: Source | None,
        steps: int | None,
        validation_steps: int | None,
        callbacks: CallbackList,
        interrupt: Interrupt,
    ) -> None:
        self.trainer, self.source, self.held_out = trainer, source, held_out
        self.steps, self.validation_steps = steps, validation_steps
        self.callbacks, self.interrupt = callbacks, interrupt

    def run(self) -> None:
        """All epochs; KeyboardInterrupt and FloatingPointError as `Trainer.fit` says."""
        t = self.trainer
        try:
            self.agree()
            while t.epoch < t.epochs and not t.stop_training:
                self._epoch()
        except Interrupted:  # between two steps, so that what is saved now is whole
            self.callbacks.on_interrupt(t.logs)
            t.ranks.barrier()  # the end of one rank ends the others, which may be saving
            raise KeyboardInterrupt(self.interrupt.received) from None
        except NonFinite as error:
            self.callbacks.on_nonfinite(error, t.logs)
            self.agree()
            if not t.stop_training:
                raise

    def agree(self) -> None:
        """Let all ranks know of a signal that one got, and of training that one wants to end."""
        t, received = self.trainer, self.interrupt.received
        number = signal.Signals[received].value if received else 0
        stop, number = t.ranks.largest(t.stop_training, number)
        t.stop_training = bool(stop)
        if number:
            self.interrupt.received = signal.Signals(number).name

    def _check(self) -> None:
        """Between two steps, whose ranks have to go the same way."""
        self.agree()
        if self.interrupt.received:
            raise Interrupted

    def _epoch(self) -> None:
        """One epoch, or what is left of it."""
        t, callbacks = self.trainer, self.callbacks
        if not t.batch_index:
            for metric in t.metrics:
                metric.reset()
            t.sums = Sums()
            t.logs = {}
            callbacks.on_epoch_begin(t.epoch, t.logs)
            self.agree()
        limit = math.inf if self.steps is None else self.steps  # a run that was resumed with fewer may be past them
        while not (t.epoch_trained or t.stop_training or t.batch_index >= limit):
            batches = self.source.take(t.accumulate)
            if not batches:
                if self.steps is None:
                    break
                continue
            callbacks.on_train_batch_begin(t.batch_index, t.logs)
            lr = t.optimizer.param_groups[0]["lr"]
            t.pipeline.run(batches)
            self._log(lr)
            t.batch_index += 1
            callbacks.on_train_batch_end(t.batch_index - 1, t.logs)
            self._check()
        t.epoch_trained = True
        t.ranks.share_buffers()
        if self.held_out is not None:
            self._validate(self.held_out)
        self._end_epoch()
        self._check()

    def _validate(self, held_out: Source) -> None:
        """Put the validation into the logs; one that is interrupted leaves no trace."""
        t, place = self.trainer, held_out.state_dict()
        self.callbacks.on_test_begin(t.logs)
        try:
            found = evaluation.evaluate(t, held_out, self._check, self.validation_steps)
        except Interrupted:
            held_out.load_state_dict(place)
            raise
        t.logs.update({f"val_{name}": value for name, value in found.items()})
        self.callbacks.on_test_end(t.logs)

    def _end_epoch(self) -> None:
        """Close the logs, note them down, and tell the callbacks."""
        t = self.trainer
        if not t.batch_index:  # stopped before its first step: the columns of the history stay as long as each other
            t.logs = {"loss": math.nan, "lr": t.optimizer.param_groups[0]["lr"]} | t.logs
        t.logs.update({metric.name: metric.result() for metric in t.metrics})
        if t.schedule is not None and t.schedule_per == "epoch":
            plateau = isinstance(t.schedule, optim.schedules.ReduceLROnPlateau)
            t.schedule.step(*([t.logs.get("val_loss", t.logs["loss"])] if plateau else []))
        for name, value in t.logs.items():
            t.history.setdefault(name, []).append(value)
        t.epoch_ended = True
        try:
            self.callbacks.on_epoch_end(t.epoch, t.logs)
        finally:
            t.epoch, t.batch_index, t.epoch_trained, t.epoch_ended = t.epoch + 1, 0, False, False

    def _log(self, lr: float) -> None:
        """Bring the logs up to date after a step."""
        t = self.trainer
        t.logs.update(t.sums.means(), lr=lr)
        for metric in t.metrics:
            value = metric.result() if metric.live else None
            if isinstance(value, (float, int)):
                t.logs[metric.name] = value
        if t.scaler is not None:
            t.logs["skipped"] = t.skipped

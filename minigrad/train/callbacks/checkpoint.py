"""Checkpoint: save the run, the last states of it and the best one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigrad import io
from minigrad.errors import message
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.checks import count, writable
from minigrad.train.callbacks.monitor import Monitor

__all__ = ["Checkpoint", "latest"]

NAME = re.compile(r"step-(\d+)\.ckpt")
LEFT_OVER = re.compile(r"\.(step-\d+|best)\.ckpt\.[0-9a-f]{16}")  # what a killed run was writing
BEST = "best.ckpt"


class Checkpoint(Callback):
    """Save the whole run in a folder as it goes on, also on Ctrl-C and SIGTERM, and at its end.

    The folder has ``step-00001200.ckpt``, the last `keep` of them, and ``best.ckpt``. Each is written beside its place
    and renamed when it is on the disk, and old ones are removed after that: whenever the process is killed, a whole one
    is there. ``fit(..., resume=folder)`` goes on bit for bit, and begins a new run where there is none. It is called
    after all other callbacks, whose states are saved with the run.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    monitor : str, optional
        The log that says what is best. By default ``"val_loss"``, or ``"loss"`` without a validation.
    mode : str
        ``"min"``, ``"max"``, or ``"auto"``: what the metric of this name says.
    save_best : bool
        Whether there is a ``best.ckpt``, of the best epoch so far.
    keep : int
        How many of the last ones to keep.
    every : int
        After how many epochs or steps to save. The end of the run is always saved.
    per : str
        ``"epoch"`` or ``"step"``.

    Raises
    ------
    ValueError
        If an argument is out of range; if a new run begins in a folder that has another one.
    OSError
        At the begin of `fit`, if the folder cannot be written to.

    Examples
    --------
    >>> import os, tempfile
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.random.normal((8, 2)), mg.zeros((8,), dtype=mg.int64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer = train.Trainer(nn.Dense(2), metrics=[], callbacks=[train.Checkpoint(folder, keep=2)])
    ...     _ = trainer.fit((x, y), epochs=3, batch_size=4, verbose=0)
    ...     sorted(os.listdir(folder)), train.latest(folder).name
    (['best.ckpt', 'step-00000004.ckpt', 'step-00000006.ckpt'], 'step-00000006.ckpt')
    """

    last = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        monitor: str | None = None,
        *,
        mode: str = "auto",
        save_best: bool = True,
        keep: int = 3,
        every: int = 1,
        per: str = "epoch",
    ) -> None:
        who = "Checkpoint"
        try:
            self.folder = Path(folder)
        except TypeError:
            raise TypeError(message(who, "folder", folder, "a str or a path")) from None
        if per not in ("epoch", "step"):
            raise ValueError(message(who, "per", repr(per), "'epoch' or 'step'"))
        self.monitor, self.save_best, self.per = Monitor(who, monitor, mode), bool(save_best), per
        self.keep, self.every = count(who, "keep", keep, 1), count(who, "every", every, 1)
        self.best: float | None = None
        self._begun = False

    def on_train_begin(self, logs: Logs) -> None:
        if self.trainer.ranks.rank:  # all ranks put the state together, and the first one writes it
            return
        if self.folder.is_dir():
            # what was resumed may be a run of another folder, whose files have other numbers
            other = bool(_files(self.folder)) or (self.folder / BEST).exists()
            if other and not self._begun and self.trainer.resumed is None:
                got = f"{str(self.folder)!r}, which has checkpoints of another run"
                hint = "Go on with fit(..., resume=folder), or remove them"
                if latest(self.folder) is None:
                    got = f"{str(self.folder)!r}, whose checkpoints are all damaged"
                    hint = "Move them away, or take another folder"
                raise ValueError(message("Checkpoint", "folder", got, "an empty folder for a new run", hint))
            for file in self.folder.iterdir():
                if LEFT_OVER.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        writable("Checkpoint", "folder", self.folder)
        self._begun = True

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if self.per == "step" and self.trainer.step % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best:
            value = self.monitor.value(logs, self.trainer.metrics)
            if self.monitor.better(value, self.best):
                self.best = value
                # before the other: who resumes from that one knows a best that is there
                self.trainer.save(self.folder / BEST)
        ends = self.trainer.stop_training or epoch + 1 == self.trainer.epochs
        if ends or (self.per == "epoch" and (epoch + 1) % self.every == 0):
            self._save()

    def on_interrupt(self, logs: Logs) -> None:
        self._save()

    def _save(self) -> None:
        step = self.trainer.step
        self.trainer.save(self.folder / f"step-{step:08d}.ckpt")
        if self.trainer.ranks.rank:
            return
        # later steps are of a run that was given up when this one was resumed from before them
        files = _files(self.folder)
        kept = [file for number, file in files if number <= step][-self.keep :]
        for _, file in files:
            if file not in kept:
                file.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest whole checkpoint in a folder of `Checkpoint`, or None where there is none.

    A file that is damaged is passed over, for the one before it. Where no other is whole, it is the best one.

    Parameters
    ----------
    folder : path
        It may be missing.

    Examples
    --------
    >>> from minigrad import train
    >>> train.latest("no such folder") is None
    True
    """
    place = Path(folder)
    if not place.is_dir():
        return None
    for file in [*(file for _, file in reversed(_files(place))), place / BEST]:
        try:
            io.load_checkpoint(file)
        except io.CheckpointError:
            continue
        return file
    return None


def _files(folder: Path) -> list[tuple[int, Path]]:
    """The files that are numbered by their steps, in order."""
    found = [(NAME.fullmatch(file.name), file) for file in folder.iterdir()]
    return sorted((int(name[1]), file) for name, file in found if name)

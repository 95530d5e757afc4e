"""Report: what `Trainer.fit` prints, a line an epoch, and a progress bar in a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from minigrad.errors import message
from minigrad.train.callbacks import Callback

__all__ = ["Report", "make_report"]

EVERY = 0.1  # seconds between two changes of the bar


class Report(Callback):
    """Prints a line after every epoch; with `bar` also a progress bar on stderr, where tqdm is installed."""

    def __init__(self, bar: bool) -> None:
        self.bar = bar
        self._shown: Any = None
        self._begin = self._changed = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any]) -> None:
        self._begin = time.perf_counter()
        if not self.bar:
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        t = self.trainer
        what = f"epoch {epoch + 1}/{t.epochs}"
        self._shown = tqdm(total=t.steps_per_epoch, initial=t.batch_index, desc=what, leave=False, mininterval=EVERY)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if self._shown is None:
            return
        self._shown.update()
        now = time.perf_counter()
        if now - self._changed >= EVERY:
            self._changed = now
            self._shown.set_postfix_str(f"loss {logs['loss']:.4g}", refresh=False)

    def on_test_begin(self, logs: dict[str, Any]) -> None:
        self._close()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._close()
        parts = [f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, (int, float))]
        seconds = time.perf_counter() - self._begin
        print(f"epoch {epoch + 1}/{self.trainer.epochs}   {'   '.join(parts)}   {seconds:.1f} s", flush=True)

    def on_interrupt(self, logs: dict[str, Any]) -> None:
        self._close()

    def on_train_end(self, logs: dict[str, Any]) -> None:
        self._close()

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None


def make_report(verbose: str | int) -> Report | None:
    """What prints: nothing (0), a bar and lines (1), lines (2), or by what stderr is (``"auto"``)."""
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(message("Trainer.fit", "verbose", f"{verbose!r}", "0, 1, 2 or 'auto'"))
    if not verbose:
        return None
    return Report(bar=verbose == 1 or (verbose == "auto" and sys.stderr.isatty()))

"""ProgressBar: how far the training is, in a terminal or in a log."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping
from typing import Any

from minigrad.errors import message
from minigrad.train.callbacks.callback import Callback, Logs

__all__ = ["ProgressBar"]

STYLES = ("auto", "bar", "lines")
PAUSE = 0.1  # seconds between two refreshments of the bar


class ProgressBar(Callback):
    """Show the epoch as a bar of tqdm while it runs, and a line with the logs when it is done.

    Where the output is no terminal (a file, a pipe, a batch system), and where tqdm is not installed, there are the
    lines alone, so that a log does not fill with bars. Everything goes to the standard error, as with tqdm itself.

    Parameters
    ----------
    style : str
        ``"bar"``, ``"lines"``, or ``"auto"``: a bar in a terminal, else lines.
    file : file, optional
        Where to write, by default ``sys.stderr``.

    Raises
    ------
    ImportError
        With ``"bar"``, if tqdm is missing.

    Examples
    --------
    >>> import sys
    >>> from minigrad.train import ProgressBar
    >>> from minigrad.train.callbacks.progress_bar import text
    >>> bar = ProgressBar("lines", file=sys.stdout)
    >>> text({"loss": 0.51234567, "lr": 1e-05, "val_accuracy": 1.0})
    'loss 0.5123  lr 1e-05  val_accuracy 1'
    """

    rank_0 = True

    def __init__(self, style: str = "auto", file: Any = None) -> None:
        if style not in STYLES:
            raise ValueError(message("ProgressBar", "style", repr(style), f"one of {', '.join(map(repr, STYLES))}"))
        self.style, self.file = style, file
        if style == "bar":
            _tqdm()
        self._bar: Any = None
        self._start = self._shown = 0.0

    def _output(self) -> Any:
        return sys.stderr if self.file is None else self.file  # who replaces sys.stderr later is heeded

    def _has_bar(self) -> bool:
        if self.style == "auto":
            terminal = getattr(self._output(), "isatty", None)
            return bool(terminal and terminal()) and importlib.util.find_spec("tqdm") is not None
        return self.style == "bar"

    def on_train_begin(self, logs: Logs) -> None:
        self._close()

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._start, self._shown = time.monotonic(), 0.0
        self._close()
        if self._has_bar():
            t = self.trainer
            self._bar = _tqdm()(
                total=t.steps_per_epoch,
                initial=t.batch_index,  # of a resumed epoch
                desc=self._title(epoch),
                file=self._output(),
                leave=False,
                dynamic_ncols=True,
                unit="step",
                mininterval=0,  # `on_train_batch_end` sees to that
                miniters=1,
            )

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        bar = self._bar
        if bar is None:
            return
        now, done = time.monotonic(), batch + 1
        if now - self._shown >= PAUSE or done == bar.total:
            self._shown = now
            bar.set_postfix_str(text(logs), refresh=False)
            bar.update(done - bar.n)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._close()
        seconds = time.monotonic() - self._start
        print(f"{self._title(epoch)}  {_duration(seconds)}  {text(logs)}", file=self._output(), flush=True)

    def on_train_end(self, logs: Logs) -> None:
        self._close()

    def on_interrupt(self, logs: Logs) -> None:
        self._close()

    def on_nonfinite(self, error: FloatingPointError, logs: Logs) -> None:
        self._close()

    def _title(self, epoch: int) -> str:
        last = str(self.trainer.epochs)
        return f"epoch {epoch + 1:>{len(last)}}/{last}"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def text(logs: Mapping[str, Any]) -> str:
    """The numbers of the logs in a line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, (int, float)))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("ProgressBar needs tqdm: pip install 'minigrad[train]'") from error
    return tqdm

"""Interrupt: Ctrl-C and SIGTERM, kept until the step at hand is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupt", "Interrupted"]


class Interrupted(Exception):
    """A signal came, and the step at hand is done; it never leaves `Trainer.fit`."""


class Interrupt:
    """Take note of SIGINT and SIGTERM in place of what they do otherwise: a context manager.

    The first signal sets `received`; from then on, and after the block, the handlers are again what they were, so a
    second one acts at once. Outside the main thread, where Python allows no handlers, nothing is changed.

    Attributes
    ----------
    received : str
        The name of the signal that came, or ``""``.

    Examples
    --------
    >>> import os, signal
    >>> from minigrad.train.interrupt import Interrupt
    >>> with Interrupt() as interrupt:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     print(interrupt.received)
    SIGTERM
    """

    def __init__(self) -> None:
        self.received = ""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is None or before is signal.SIG_IGN:
                    continue  # not Python's own, or the parent wants it ignored (as nohup does)
                self._handlers[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

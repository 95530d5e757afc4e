"""Draws: the keys of the random numbers that a function drew, so that a second run draws the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from minigrad.errors import GradError, message

__all__ = ["Draws", "captured", "current", "keys_alone", "unseen"]

Key = tuple[int, int]  # seed and counter


class Draws:
    """The keys that one thread draws in a block, of all generators, in their order.

    To put back the state of a generator would not do: other threads draw from it too, the function may have generators
    of its own, and a first batch draws weights that later ones have.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.draws import Draws
    >>> draws = Draws()
    >>> with draws.record():
    ...     x = mg.random.normal(3)
    >>> with draws.replay():
    ...     bool((mg.random.normal(3) == x).all())
    True
    """

    __slots__ = ("_above", "_keys", "_left")

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._left: Iterator[Key] | None = None  # in a second run, what it has not drawn yet
        self._above: Draws | None = None  # where a block in a block gets its keys from

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note what is drawn in the block."""
        self._above = current.get()
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)
            self._above = None

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Give the same keys again; no generator moves.

        Raises
        ------
        GradError
            If the block draws more, or fewer.
        """
        second = Draws()
        second._left = iter(self._keys)
        token = current.set(second)
        try:
            yield
        finally:
            current.reset(token)
        if next(second._left, None) is not None:
            raise GradError(_unequal("fewer"))

    @property
    def keys(self) -> list[Key]:
        """Those that were drawn."""
        return list(self._keys)

    @property
    def is_replay(self) -> bool:
        """Whether the keys are those of a first run."""
        return self._left is not None or (self._above is not None and self._above.is_replay)

    def take(self, draw: Callable[[], Key]) -> Key:
        """The key of the next draw, which `draw` would make."""
        if self._left is not None:
            key = next(self._left, None)
            if key is None:
                raise GradError(_unequal("more"))
            return key
        key = draw() if self._above is None else self._above.take(draw)
        self._keys.append(key)
        return key


def _unequal(how: str) -> str:
    got = f"random numbers drawn {how} times in its second run than in the first"
    hint = "Between forward and backward modes must stay, and what f keeps must not change"
    return message("checkpoint", "f", got, "as many: it must compute the same when called twice", hint)


@contextmanager
def unseen() -> Iterator[None]:
    """Draw without a note: what happens in a first run alone, such as the initializing of weights."""
    token = current.set(None)
    try:
        yield
    finally:
        current.reset(token)


@contextmanager
def keys_alone() -> Iterator[None]:
    """Refuse in the block to draw on the host: where a GPU's work is captured, it would be the same for ever."""
    token = captured.set(True)
    try:
        yield
    finally:
        captured.reset(token)


current: ContextVar[Draws | None] = ContextVar("draws", default=None)
captured: ContextVar[bool] = ContextVar("captured", default=False)

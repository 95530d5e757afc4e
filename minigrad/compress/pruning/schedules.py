"""Schedules of pruning: how much is gone after how many steps."""

from __future__ import annotations

from typing import Any

from minigrad.errors import message
from minigrad.nn.checks import integer, number

__all__ = ["CubicSchedule", "GeometricSchedule", "OneShot", "PruningSchedule"]


class PruningSchedule:
    """Base of the schedules: at every `every`-th step from `begin` to `end`, `amount` of the weights are gone.

    Parameters
    ----------
    final : float
        The share at the end.
    begin, end : int
        The first and the last step that prunes; steps are counted from 1, as they are done.
    every : int
        How many steps lie between.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(self, final: float, begin: int, end: int, every: int) -> None:
        self.final = self._share("final", final)
        self.begin, self.end = integer(self._who, "begin", begin), integer(self._who, "end", end)
        self.every = integer(self._who, "every", every)
        if not 0 <= self.begin <= self.end or not self.end:
            need = "0 <= begin <= end, and an end of at least 1, the first step"
            raise ValueError(message(self._who, "begin and end", f"{begin} and {end}", need))
        if self.every < 1:
            raise ValueError(message(self._who, "every", f"{every}", "at least 1"))

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _share(self, name: str, value: Any) -> float:
        found = number(self._who, name, value)
        if not 0.0 <= found <= 1.0:
            raise ValueError(message(self._who, name, f"{found}", "a share from 0 to 1"))
        return found

    def is_due(self, step: int) -> bool:
        """Whether this step prunes; the last one always does."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def amount(self, step: int) -> float:
        """The share that is gone after a step."""
        raise NotImplementedError(f"{self._who}: needs a method amount(self, step)")

    def __repr__(self) -> str:
        return f"{self._who}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class OneShot(PruningSchedule):
    """All at once, after one step.

    Parameters
    ----------
    final : float
        The share that goes.
    step : int
        When.
    """

    def __init__(self, final: float, step: int) -> None:
        super().__init__(final, step, step, 1)

    def amount(self, step: int) -> float:
        return self.final if step >= self.begin else 0.0


class CubicSchedule(PruningSchedule):
    """Gradual pruning: fast while there is much to spare, slow at the end.

    ::

        amount = final + (initial - final) * (1 - (step - begin) / (end - begin))**3

    M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.

    Parameters
    ----------
    final : float
        The share at the end.
    begin, end : int
        The first and the last step that prunes.
    every : int
        How many steps lie between.
    initial : float
        The share at `begin`.

    Examples
    --------
    >>> from minigrad import compress
    >>> schedule = compress.CubicSchedule(0.8, begin=0, end=100, every=50)
    >>> [round(schedule.amount(step), 3) for step in (0, 50, 100)]
    [0.0, 0.7, 0.8]
    """

    def __init__(self, final: float, *, begin: int = 0, end: int, every: int = 1, initial: float = 0.0) -> None:
        super().__init__(final, begin, end, every)
        self.initial = self._share("initial", initial)
        if self.initial > self.final:
            raise ValueError(message(self._who, "initial", f"{self.initial}", f"at most the final {self.final}"))

    def amount(self, step: int) -> float:
        if step >= self.end:
            return self.final
        if step < self.begin:
            return 0.0
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3


class GeometricSchedule(PruningSchedule):
    """Iterative pruning: each round takes the same share of what is left.

    ::

        amount after round k = 1 - (1 - final)**(k / rounds)

    J. Frankle, M. Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural networks", 2019.

    Parameters
    ----------
    final : float
        The share after the last round, below 1.
    rounds : int
        How many.
    every : int
        Steps of training before each round, the first included.

    Examples
    --------
    >>> from minigrad import compress
    >>> schedule = compress.GeometricSchedule(0.875, rounds=3, every=10)
    >>> [schedule.amount(step) for step in (10, 20, 30)]
    [0.5, 0.75, 0.875]
    """

    def __init__(self, final: float, *, rounds: int, every: int) -> None:
        self.rounds = integer(self._who, "rounds", rounds)
        if self.rounds < 1:
            raise ValueError(message(self._who, "rounds", f"{rounds}", "at least 1"))
        super().__init__(final, integer(self._who, "every", every), self.rounds * every, every)
        if self.final == 1.0:
            raise ValueError(message(self._who, "final", "1", "less: a share of what is left never takes all"))

    def amount(self, step: int) -> float:
        done = min(max(step // self.every, 0), self.rounds)
        return self.final if done == self.rounds else 1.0 - float((1.0 - self.final) ** (done / self.rounds))

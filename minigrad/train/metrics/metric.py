"""Metric: the base of what is measured over batches; `get` finds one by its name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.tensor import Tensor
from minigrad.train.batch import length

__all__ = ["FunctionMetric", "Metric", "get", "known", "register", "register_family"]

Array = Any
MADE: dict[str, Callable[[], Metric]] = {}  # name -> what makes the metric
FAMILIES: dict[str, Callable[[int], Metric]] = {}  # name before a number, as in top_5 -> what makes the metric of it


class Metric:
    """Base of the metrics: counts that batches add to, and a result from the counts.

    A subclass sets its counts in `reset`, adds to them in `update`, and divides in `result`, so that a last, smaller
    batch weighs what it holds. What `reset` sets is the state that a resumed run gets back.

    Parameters
    ----------
    name : str, optional
        Under which the result is logged; by default the class attribute `name`.

    Attributes
    ----------
    mode : str or None
        ``"max"`` or ``"min"``: which results are better. None: the metric does not say.
    live : bool
        Whether the logs have its result after every step, and not at the end of an epoch alone.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.train.metrics import Metric
    >>> class Positive(Metric):
    ...     name = "positive"
    ...     def reset(self):
    ...         self.hits, self.count = 0.0, 0.0
    ...     def update(self, outputs, targets, weight=None):
    ...         self.hits += float((outputs > 0).sum())
    ...         self.count += outputs.size
    ...     def result(self):
    ...         return self.hits / max(self.count, 1.0)
    >>> metric = Positive()
    >>> metric.update(np.array([1.0, -1.0]), None)
    >>> metric.update(np.array([2.0]), None)
    >>> round(metric.result(), 4)
    0.6667
    """

    name: str = ""
    mode: str | None = None
    live: bool = True

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name
        elif not self.name:
            self.name = type(self).__name__.lower()
        own = set(vars(self))
        self.reset()
        self._counts = tuple(key for key in vars(self) if key not in own)

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method reset(self)")

    def update(self, outputs: Array, targets: Array, weight: Array | None = None) -> None:
        """Add one batch: arrays, and how much each target counts (None: each counts 1)."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method update(self, outputs, targets, weight=None)")

    def result(self) -> Any:
        """What the batches so far give, a float (or an array)."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method result(self)")

    def state_dict(self) -> dict[str, Any]:
        """A copy of the counts: all that `reset` sets."""
        return {key: copy.deepcopy(getattr(self, key)) for key in self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if sorted(state) != sorted(self._counts):
            got, need = ", ".join(sorted(state)), ", ".join(sorted(self._counts))
            raise ValueError(message(f"metric {self.name}", "the state", f"a dict of {got}", f"{need}"))
        for key, value in state.items():
            setattr(self, key, np.array(value.detach()) if isinstance(value, Tensor) else copy.deepcopy(value))

    def empty(self) -> Metric:
        """Another one of its kind that has seen no batch."""
        made = copy.copy(self)
        for key in self._counts:  # `reset` makes them anew, and does not write into those of this one
            delattr(made, key)
        made.reset()
        return made

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the batches that another one of its kind has seen, such as that of another rank, given by its state.

        Numbers and arrays are added, arrays without elements being nothing yet; of bools any counts; lists are put one
        after the other. A metric whose counts are something else has a `merge` of its own.

        Examples
        --------
        >>> import numpy as np
        >>> from minigrad.train import metrics
        >>> both, other = metrics.get("mse"), metrics.get("mse")
        >>> both.update(np.array([1.0]), np.array([0.0]))
        >>> other.update(np.array([3.0]), np.array([0.0]))
        >>> both.merge(other.state_dict())
        >>> both.result()
        5.0
        """
        for key in self._counts:
            setattr(self, key, _added(f"metric {self.name}", key, getattr(self, key), state[key]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _added(who: str, key: str, own: Any, other: Any) -> Any:
    """Two counts as one."""
    if isinstance(own, (bool, np.bool_)):
        return bool(own or other)
    if isinstance(own, list):
        return own + other
    if isinstance(own, np.ndarray):
        if not own.size or not other.size:
            return (other if other.size else own).copy()
        if own.shape != other.shape:
            raise ShapeError(message(who, key, other, f"of the shape {own.shape}, as before"))
        return own | other if own.dtype == bool else own + other
    if isinstance(own, (int, float, complex, np.number)):
        return own + other
    raise TypeError(message(who, key, own, "a number, bool, array or list", "Or give it a method merge(self, state)"))


class FunctionMetric(Metric):
    """The mean over examples of a function of outputs and targets, itself a mean over one batch."""

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None) -> None:
        self.function = function
        super().__init__(name or getattr(function, "__name__", "") or type(function).__name__)

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: Array, targets: Array, weight: Array | None = None) -> None:
        examples = length(outputs if targets is None else targets)  # of a nest, what its arrays have in common
        self.total += float(self.function(outputs, targets)) * examples
        self.count += examples

    def result(self) -> float:
        return self.total / self.count if self.count else math.nan


def register(*names: str) -> Callable[[Any], Any]:
    """Make a metric known to `get` by one or more names: a decorator of a class or of a function that makes one."""

    def entered(make: Any) -> Any:
        for name in names:
            MADE[name] = make
        return make

    return entered


def register_family(name: str) -> Callable[[Any], Any]:
    """Make metrics of a number known to `get`, ``"top"`` as ``"top_1"``, ``"top_2"`` and so on: a decorator."""

    def entered(make: Any) -> Any:
        FAMILIES[name] = make
        return make

    return entered


def known() -> list[str]:
    """The names that `get` knows."""
    return sorted([*MADE, *(f"{name}_<k>" for name in FAMILIES)])


def get(metric: str | Metric | type[Metric] | Callable[[Any, Any], Any]) -> Metric:
    """The metric of a name, of a class, or of a function of outputs and targets; a metric comes back as it is.

    Raises
    ------
    ValueError
        For an unknown name; it lists those known.
    """
    if isinstance(metric, str):
        family, _, k = metric.rpartition("_")
        if family in FAMILIES and k.isdecimal() and int(k):
            return FAMILIES[family](int(k))
        if metric not in MADE:
            raise ValueError(message("metrics.get", "metric", repr(metric), f"one of {', '.join(known())}"))
        return MADE[metric]()
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not callable(metric):
        raise TypeError(message("metrics.get", "metric", metric, "a name, a Metric or a function of two arrays"))
    return FunctionMetric(metric)

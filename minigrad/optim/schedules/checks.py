"""Checks of the arguments of schedules."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

from minigrad.errors import describe, message

__all__ = ["compare_keys", "integer", "real", "steps"]


def real(who: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        need = "a finite number"
        if high < math.inf:
            need = f"a number from {low:g} to {high:g}"
        elif low > -math.inf:
            need = f"a finite number of at least {low:g}"
        raise ValueError(message(who, name, describe(value), need))
    return float(value)


def integer(who: str, name: str, value: Any, low: int) -> int:
    """An int of at least `low`."""
    try:
        found = operator.index(value)
    except TypeError:
        found = low - 1
    if isinstance(value, bool) or found < low:
        raise ValueError(message(who, name, describe(value), f"an int of at least {low}"))
    return found


def steps(who: str, name: str, value: Any) -> int:
    """A number of steps, at least 1."""
    return integer(who, name, value, 1)


def compare_keys(who: str, state: Any, wanted: Any) -> None:
    """Raise where a state is no mapping with these keys."""
    if not isinstance(state, Mapping):
        raise TypeError(message(f"{who}.load_state_dict", "state", state, "what state_dict gives"))
    found, need = sorted(map(str, state)), sorted(wanted)
    if found != need:
        raise ValueError(message(f"{who}.load_state_dict", "keys of the state", f"{found}", f"{need}"))

"""Workload: one thing to measure, defined once for every library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import FAMILIES


@dataclass(frozen=True)
class Task:
    """What a process times: `run`, and what makes its argument anew before every call, off the clock."""

    run: Callable[..., Any]
    before: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Goal:
    """The most that minigrad may take: as a share of PyTorch's time, in seconds, or both."""

    ratio: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Workload:
    """A name, what builds the task on each library, and a goal.

    `run` returns something with `tolist`, whose sum must be the same on every library: the sides do the same work.
    `per` is the number of operations in one call; the figures are for one. A task that is run `once` a process
    (an import) is timed without a warm-up.
    """

    name: str
    sides: Mapping[str, Callable[[], Task]]
    goal: Goal = Goal()
    per: int = 1
    once: bool = False


def workloads(family: str) -> list[Workload]:
    """The workloads of a family."""
    if family not in FAMILIES:
        raise ValueError(f"family: got {family!r}, needs one of {', '.join(FAMILIES)}")
    found: list[Workload] = importlib.import_module(f"benchmarks.{family}").WORKLOADS
    return found

"""Workload: one thing to measure, defined once for every library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import FAMILIES

SCOPES = {"rows": "WORKLOADS", "sweep": "SWEEP", "quick": "QUICK"}  # the lists of a family


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


NO_GOAL = Goal()


@dataclass(frozen=True)
class Point:
    """The place of a workload in a sweep: which line it belongs to, and how large it is in which unit."""

    series: str
    size: float
    unit: str


@dataclass(frozen=True)
class Workload:
    """A name, what builds the task on each library, and a goal.

    `run` returns one array or several that must be the same on every library, up to `tolerance` of their norm: the
    sides do the same work. Where they cannot (random numbers), `compare` makes of an array what must agree.
    `flops` and `moved` are the floating-point operations and the bytes to and from memory that one operation needs at
    the least. `per` is the number of operations in one call; the figures are for one. A task that is run `once` a
    process (an import) is timed without a warm-up.
    """

    name: str
    sides: Mapping[str, Callable[[], Task]]
    goal: Goal = NO_GOAL
    flops: float | None = None
    moved: float | None = None
    point: Point | None = None
    per: int = 1
    once: bool = False
    compare: Callable[[Any], Any] | None = None
    tolerance: float = 1e-3


def workloads(family: str, scope: str = "rows") -> list[Workload]:
    """The workloads of a family: its rows in the table, its sweep of sizes, or small ones that show that it works."""
    if family not in FAMILIES:
        raise ValueError(f"family: got {family!r}, needs one of {', '.join(FAMILIES)}")
    found: list[Workload] = getattr(importlib.import_module(f"benchmarks.{family}"), SCOPES[scope])
    return found

"""Timing of one task in this process."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.workload import Task


@dataclass(frozen=True)
class Effort:
    """Seconds of warm-up, the least seconds that a sample takes, and the number of samples."""

    warmup: float
    sample: float
    samples: int


FULL = Effort(warmup=0.2, sample=0.02, samples=25)
QUICK = Effort(warmup=0.0, sample=0.0005, samples=3)


def measure(task: Task, effort: Effort) -> float:
    """Seconds of one call: the median of samples of several calls each.

    The garbage collector stays on, as it does for users.
    """
    number = calls_per_sample(task, effort)
    gc.collect()
    return statistics.median(repeat(task, number) / number for _ in range(effort.samples))


def calls_per_sample(task: Task, effort: Effort) -> int:
    """The number of calls that takes as long as a sample should; finding it warms the task up."""
    number = 1
    end = time.perf_counter() + effort.warmup
    while (seconds := repeat(task, number)) < effort.sample or time.perf_counter() < end:
        if seconds < effort.sample:
            number *= 2
    return number


def repeat(task: Task, number: int) -> float:
    """Seconds of a number of calls."""
    run, before, clock = task.run, task.before, time.perf_counter
    if before is None:
        start = clock()
        for _ in range(number):
            run()
        return clock() - start
    total = 0.0
    for _ in range(number):
        argument = before()
        start = clock()
        run(argument)
        total += clock() - start
    return total


def first_call(task: Task) -> tuple[float, Any]:
    """Seconds of the first call, and its result."""
    arguments = () if task.before is None else (task.before(),)
    start = time.perf_counter()
    result = task.run(*arguments)
    return time.perf_counter() - start, result

"""Timing of one task in this process."""

from __future__ import annotations

import gc
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.workload import Task


@dataclass(frozen=True)
class Effort:
    """Seconds of warm-up, the least seconds that a sample takes, the number of samples, and the seconds after which no
    further one is begun."""

    warmup: float
    sample: float
    samples: int
    budget: float


FULL = Effort(warmup=0.1, sample=0.02, samples=15, budget=0.75)
QUICK = Effort(warmup=0.0, sample=0.0005, samples=2, budget=0.0)
EFFORTS = {"full": FULL, "quick": QUICK}


def measure(task: Task, effort: Effort, seconds: float) -> float:
    """Seconds of one call of a task whose last call took `seconds`: the median of samples of several calls each.

    The garbage collector stays on, as it does for users.
    """
    number = calls_per_sample(task, effort, seconds)
    gc.collect()
    samples: list[float] = []
    end = time.perf_counter() + effort.budget
    while not samples or (len(samples) < effort.samples and time.perf_counter() < end):
        samples.append(repeat(task, number) / number)
    return statistics.median(samples)


def calls_per_sample(task: Task, effort: Effort, seconds: float) -> int:
    """The number of calls that takes as long as a sample should; finding it warms the task up."""
    number = 1
    end = time.perf_counter() + effort.warmup - seconds
    while seconds < effort.sample or time.perf_counter() < end:
        if seconds < effort.sample:
            number = max(2 * number, math.ceil(0.5 * number * effort.sample / seconds))
        seconds = repeat(task, number)
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


def call(task: Task) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    arguments = () if task.before is None else (task.before(),)
    start = time.perf_counter()
    result = task.run(*arguments)
    return time.perf_counter() - start, result

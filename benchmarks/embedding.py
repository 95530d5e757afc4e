"""Embedding: the gather of rows, and the gradient of the whole table."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload


def minigrad_function() -> Function:
    from minigrad.nn import functional as F

    return lambda weight, ids: F.embedding(ids, weight)


def torch_function() -> Function:
    from torch.nn import functional as F

    return lambda weight, ids: F.embedding(ids, weight)


def jax_function() -> Function:
    return lambda weight, ids: weight[ids]


def inputs(rows: int, features: int, count: int) -> Inputs:
    ids = np.random.default_rng(1).integers(0, rows, count)
    return Inputs([normal(rows, features)], [ids], normal(count, features, seed=2))


def workload(rows: int, features: int, count: int, goal: Goal = NO_GOAL) -> Workload:
    return Workload(
        f"embedding {rows}x{features}, {count} ids, forward and backward",
        sides(
            {"minigrad": minigrad_function, "torch": torch_function, "jax": jax_function},
            partial(inputs, rows, features, count),
        ),
        goal,
        moved=4 * features * (3 * count + rows),  # rows are read and written, their cotangents read, the table written
        point=Point(f"{rows}x{features}", count, "ids"),
    )


WORKLOADS = [workload(50000, 256, 8192, Goal(ratio=0.5))]
SWEEP = [
    *(workload(65, 128, count) for count in (1, 64, 768, 4096, 65536)),
    *(workload(50000, 256, count) for count in (1, 64, 1024, 8192, 65536)),
]
QUICK = [workload(50, 8, 32)]

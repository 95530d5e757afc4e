"""Dropout, forward and backward, in training. The time includes the random numbers."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.passes import Array, Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload

RATE = 0.1


def minigrad_function() -> Function:
    from minigrad.nn import functional as F

    return lambda x, seed: F.dropout(x, RATE)


def torch_function() -> Function:
    from torch.nn import functional as F

    return lambda x, seed: F.dropout(x, RATE)


def jax_function() -> Function:
    import jax
    from jax import numpy as jnp

    def dropout(x: jax.Array, seed: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(jax.random.key(seed), 1 - RATE, x.shape), x / (1 - RATE), 0)

    return dropout


def inputs(rows: int, columns: int) -> Inputs:
    """A seed beside the array: JAX's random numbers are a function of it."""
    return Inputs([normal(rows, columns)], [np.array(0)], np.ones((rows, columns), np.float32))


def moments(gradient: Array) -> Array:
    """What the gradients agree in, although their zeros lie elsewhere: mean and largest value."""
    return np.array([gradient.mean(dtype=np.float64), gradient.max()])


def workload(rows: int, columns: int, goal: Goal = NO_GOAL) -> Workload:
    return Workload(
        f"dropout {rows}x{columns}, forward and backward",
        sides(
            {"minigrad": minigrad_function, "torch": torch_function, "jax": jax_function},
            partial(inputs, rows, columns),
        ),
        goal,
        moved=4 * 4 * rows * columns,  # each pass reads one array and writes one
        point=Point("dropout", rows * columns, "elements"),
        compare=moments,
        tolerance=5 * (RATE / (1 - RATE) / (rows * columns)) ** 0.5,  # five standard deviations of the mean
    )


SIZES = [(1, 64), (8, 64), (64, 64), (128, 256), (512, 512), (1024, 1024), (4096, 1536), (8192, 1024)]

WORKLOADS = [workload(512, 512, Goal(ratio=0.15)), workload(4096, 1536, Goal(ratio=0.15))]
SWEEP = [workload(*size) for size in SIZES]
QUICK = [workload(64, 64)]

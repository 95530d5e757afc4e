"""Cross-entropy on logits, forward and backward."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload


def minigrad_function() -> Function:
    from minigrad.nn import functional as F

    function: Function = F.cross_entropy
    return function


def torch_function() -> Function:
    from torch.nn import functional as F

    function: Function = F.cross_entropy
    return function


def jax_function() -> Function:
    import jax
    from jax import numpy as jnp

    def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1).mean()

    return cross_entropy


def inputs(rows: int, classes: int) -> Inputs:
    return Inputs([normal(rows, classes)], [np.random.default_rng(1).integers(0, classes, rows)])


def workload(rows: int, classes: int, goal: Goal = NO_GOAL) -> Workload:
    return Workload(
        f"cross-entropy {rows}x{classes}, forward and backward",
        sides(
            {"minigrad": minigrad_function, "torch": torch_function, "jax": jax_function},
            partial(inputs, rows, classes),
        ),
        goal,
        moved=3 * 4 * rows * classes,  # the logits are read twice, their gradient is written
        point=Point("cross-entropy", rows * classes, "logits"),
    )


SIZES = [(32, 10), (128, 10), (64, 100), (256, 100), (256, 1000), (1024, 4096), (2048, 8192), (512, 50257)]

WORKLOADS = [workload(1024, 4096, Goal(ratio=0.6)), workload(2048, 8192, Goal(ratio=0.2))]
SWEEP = [workload(*size) for size in SIZES]
QUICK = [workload(16, 10)]

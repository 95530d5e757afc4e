"""A long chain of small operations, forward and backward."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import NO_GOAL, Goal, Point, Task, Workload

START = [0.5, -1.0, 1.5, 2.0]
FACTOR = [1.001, 0.999, 1.0005, 0.9995]


def data(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the chain starts from, and what every link multiplies by."""
    return np.resize(np.array(START, np.float32), size), np.resize(np.array(FACTOR, np.float32), size)


def chain_minigrad(length: int, size: int) -> Task:
    import minigrad as mg

    start, factors = data(size)
    x, factor = mg.tensor(start, requires_grad=True), mg.tensor(factors)

    def run() -> mg.Tensor | None:
        x.grad = None
        y = x
        for _ in range(length):
            y = y * factor
        y.sum().backward()
        return x.grad

    return Task(run)


def chain_torch(length: int, size: int) -> Task:
    import torch

    start, factors = data(size)
    x, factor = torch.tensor(start, requires_grad=True), torch.tensor(factors)

    def run() -> torch.Tensor | None:
        x.grad = None
        y = x
        for _ in range(length):
            y = y * factor
        y.sum().backward()
        return x.grad

    return Task(run)


def chain_jax(length: int, size: int) -> Task:
    import jax
    from jax import numpy as jnp

    x, factor = map(jnp.array, data(size))

    def total(x: jax.Array, factor: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, length, lambda _, y: y * factor, x).sum()

    step = jax.jit(jax.grad(total))
    return Task(lambda: jax.block_until_ready(step(x, factor)))


def workload(length: int, size: int = 4, goal: Goal = NO_GOAL, series: str = "") -> Workload:
    builders = {"minigrad": chain_minigrad, "torch": chain_torch, "jax": chain_jax}
    return Workload(
        f"chain of {length} multiplications, {size} elements, forward and backward",
        {side: partial(build, length, size) for side, build in builders.items()},
        goal,
        point=Point(series, length * size, "elements x length"),
    )


WORKLOADS = [workload(1000, goal=Goal(ratio=0.25))]
SWEEP = [
    *(workload(length, series="4 elements") for length in (1, 10, 100, 1000, 10000)),
    *(workload(20, 4**n, series="length 20") for n in range(1, 12)),
]
QUICK = [workload(100)]

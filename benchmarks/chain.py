"""A long chain of small operations, forward and backward."""

from __future__ import annotations

from benchmarks.workload import Goal, Task, Workload

LENGTH = 1000
START = [0.5, -1.0, 1.5, 2.0]
FACTOR = [1.001, 0.999, 1.0005, 0.9995]


def chain_minigrad() -> Task:
    import minigrad as mg

    x, factor = mg.tensor(START, requires_grad=True), mg.tensor(FACTOR)

    def run() -> mg.Tensor | None:
        x.grad = None
        y = x
        for _ in range(LENGTH):
            y = y * factor
        y.sum().backward()
        return x.grad

    return Task(run)


def chain_torch() -> Task:
    import torch

    x, factor = torch.tensor(START, requires_grad=True), torch.tensor(FACTOR)

    def run() -> torch.Tensor | None:
        x.grad = None
        y = x
        for _ in range(LENGTH):
            y = y * factor
        y.sum().backward()
        return x.grad

    return Task(run)


def chain_jax() -> Task:
    import jax
    from jax import numpy as jnp

    x, factor = jnp.array(START), jnp.array(FACTOR)

    def total(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, LENGTH, lambda _, y: y * factor, x).sum()

    step = jax.jit(jax.grad(total))
    return Task(lambda: jax.block_until_ready(step(x)))


WORKLOADS = [
    Workload(
        f"chain of {LENGTH} multiplications, 4 elements, forward and backward",
        {"minigrad": chain_minigrad, "torch": chain_torch, "jax": chain_jax},
        Goal(ratio=0.25),
    )
]

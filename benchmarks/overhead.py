"""What an operation costs beside its arithmetic: four elements."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import NO_GOAL, Goal, Point, Task, Workload

A = [0.5, -1.0, 1.5, 2.0]
B = [1.0, 2.0, -0.5, 3.0]
FACTOR = [1.001, 0.999, 1.0005, 0.9995]  # near 1: a hundred of them stay in range
OPS = 100  # in one call, so that the call itself does not count


def data(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two operands, four numbers over and over."""
    return np.resize(np.array(A, np.float32), size), np.resize(np.array(B, np.float32), size)


def expression_minigrad(size: int) -> Task:
    import minigrad as mg

    a, b = (mg.tensor(array, requires_grad=True) for array in data(size))

    def run() -> list[mg.Tensor | None]:
        a.grad = b.grad = None
        total = (a * b + a).sum()
        total.backward()
        return [total, a.grad, b.grad]

    return Task(run)


def expression_torch(size: int) -> Task:
    import torch

    a, b = (torch.tensor(array, requires_grad=True) for array in data(size))

    def run() -> list[torch.Tensor | None]:
        a.grad = b.grad = None
        total = (a * b + a).sum()
        total.backward()
        return [total, a.grad, b.grad]

    return Task(run)


def expression_jax(size: int) -> Task:
    import jax
    from jax import numpy as jnp

    a, b = (jnp.array(array) for array in data(size))
    step = jax.jit(jax.value_and_grad(lambda a, b: (a * b + a).sum(), argnums=(0, 1)))

    def run() -> list[jax.Array]:
        total, gradients = jax.block_until_ready(step(a, b))
        return [total, *gradients]

    return Task(run)


def forward_minigrad() -> Task:
    import minigrad as mg

    a, b = mg.tensor(A, requires_grad=True), mg.tensor(B, requires_grad=True)

    def run() -> mg.Tensor:
        for _ in range(OPS):
            c = a * b
        return c

    return Task(run)


def forward_torch() -> Task:
    import torch

    a, b = torch.tensor(A, requires_grad=True), torch.tensor(B, requires_grad=True)

    def run() -> torch.Tensor:
        for _ in range(OPS):
            c = a * b
        return c

    return Task(run)


def backward_minigrad() -> Task:
    import minigrad as mg

    a, b, ones = mg.tensor(A, requires_grad=True), mg.tensor(FACTOR), mg.ones(4)

    def before() -> mg.Tensor:
        y = a
        for _ in range(OPS):
            y = y * b
        a.grad = None
        return y

    def run(y: mg.Tensor) -> mg.Tensor | None:
        y.backward(ones)
        return a.grad

    return Task(run, before)


def backward_torch() -> Task:
    import torch

    a, b, ones = torch.tensor(A, requires_grad=True), torch.tensor(FACTOR), torch.ones(4)

    def before() -> torch.Tensor:
        y = a
        for _ in range(OPS):
            y = y * b
        a.grad = None
        return y

    def run(y: torch.Tensor) -> torch.Tensor | None:
        y.backward(ones)
        return a.grad

    return Task(run, before)


def expression(size: int, goal: Goal = NO_GOAL) -> Workload:
    """Two operations, a sum and the backward pass."""
    builders = {"minigrad": expression_minigrad, "torch": expression_torch, "jax": expression_jax}
    return Workload(
        f"(a*b + a).sum().backward(), {size} elements",
        {side: partial(build, size) for side, build in builders.items()},
        goal,
        point=Point("(a*b + a).sum().backward()", size, "elements"),
    )


WORKLOADS = [
    expression(4, Goal(ratio=0.2, seconds=4e-6)),
    Workload(
        "forward of a recorded a*b, 4 elements",
        {"minigrad": forward_minigrad, "torch": forward_torch},
        Goal(seconds=0.4e-6),
        per=OPS,
    ),
    Workload(
        "backward of an a*b, 4 elements",
        {"minigrad": backward_minigrad, "torch": backward_torch},
        Goal(seconds=0.8e-6),
        per=OPS,
    ),
]
SWEEP = [expression(4**n) for n in range(1, 11)]
QUICK = WORKLOADS

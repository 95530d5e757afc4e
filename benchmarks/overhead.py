"""What an operation costs beside its arithmetic: four elements, and the import."""

from __future__ import annotations

from benchmarks.workload import Goal, Task, Workload

A = [0.5, -1.0, 1.5, 2.0]
B = [1.0, 2.0, -0.5, 3.0]
FACTOR = [1.001, 0.999, 1.0005, 0.9995]  # near 1: a hundred of them stay in range
OPS = 100  # in one call, so that the call itself does not count


def expression_minigrad() -> Task:
    import minigrad as mg

    a, b = mg.tensor(A, requires_grad=True), mg.tensor(B, requires_grad=True)

    def run() -> mg.Tensor:
        total = (a * b + a).sum()
        total.backward()
        return total

    return Task(run)


def expression_torch() -> Task:
    import torch

    a, b = torch.tensor(A, requires_grad=True), torch.tensor(B, requires_grad=True)

    def run() -> torch.Tensor:
        total = (a * b + a).sum()
        total.backward()
        return total

    return Task(run)


def expression_jax() -> Task:
    import jax
    from jax import numpy as jnp

    a, b = jnp.array(A), jnp.array(B)
    step = jax.jit(jax.value_and_grad(lambda a, b: (a * b + a).sum(), argnums=(0, 1)))
    return Task(lambda: jax.block_until_ready(step(a, b))[0])


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


def import_minigrad() -> Task:
    def run() -> None:
        import minigrad  # noqa: F401

    return Task(run)


def import_torch() -> Task:
    def run() -> None:
        import torch  # noqa: F401

    return Task(run)


def import_jax() -> Task:
    def run() -> None:
        import jax  # noqa: F401

    return Task(run)


WORKLOADS = [
    Workload(
        "(a*b + a).sum().backward(), 4 elements",
        {"minigrad": expression_minigrad, "torch": expression_torch, "jax": expression_jax},
        Goal(ratio=0.2, seconds=4e-6),
    ),
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
    Workload(
        "import beyond NumPy",
        {"minigrad": import_minigrad, "torch": import_torch, "jax": import_jax},
        Goal(ratio=0.02, seconds=0.03),
        once=True,
    ),
]

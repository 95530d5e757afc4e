"""Steps of AdamW and of other rules alone, with the gradients at hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import adam_jax
from benchmarks.passes import normal
from benchmarks.workload import NO_GOAL, Goal, Point, Task, Workload

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8
DECAY = 1e-2
# Arrays that a step reads and writes, and what makes PyTorch's fastest.
RULES: dict[str, tuple[int, dict[str, Any]]] = {
    "Adagrad": (5, {"fused": True}),
    "NAdam": (7, {"foreach": True}),
    "RAdam": (7, {"foreach": True}),
    "RMSprop": (5, {"foreach": True}),
    "Lion": (5, {}),
}


def data(tensors: int, size: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Parameters and gradients. The parameters start from zero: after a step they show nothing but the step."""
    return [(np.zeros(size, np.float32), normal(size, seed=seed)) for seed in range(tensors)]


def adamw_minigrad(tensors: int, size: int) -> Task:
    import minigrad as mg
    from minigrad import nn, optim

    parameters = []
    for start, gradient in data(tensors, size):
        parameter = nn.Parameter(start)
        parameter.grad = mg.asarray(gradient)
        parameters.append(parameter)
    adamw = optim.AdamW(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)

    def run() -> list[nn.Parameter]:
        adamw.step()
        return parameters

    return Task(run)


def adamw_torch(tensors: int, size: int) -> Task:
    import torch

    parameters = []
    for start, gradient in data(tensors, size):
        parameter = torch.nn.Parameter(torch.from_numpy(start))
        parameter.grad = torch.from_numpy(gradient)
        parameters.append(parameter)
    adamw = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, fused=True)

    def run() -> list[torch.nn.Parameter]:
        adamw.step()
        return parameters

    return Task(run)


def adamw_jax(tensors: int, size: int) -> Task:
    import jax
    from jax import numpy as jnp

    starts, gradients = map(list, zip(*data(tensors, size), strict=True))
    gradients = [jnp.asarray(gradient) for gradient in gradients]
    state = adam_jax.start([jnp.asarray(start) for start in starts])

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, gradients: list[jax.Array]) -> Any:
        return adam_jax.step(state, gradients, LEARNING_RATE, BETAS, EPSILON, DECAY)

    def run() -> list[jax.Array]:
        nonlocal state
        state = jax.block_until_ready(step(state, gradients))
        parameters: list[jax.Array] = state[0]
        return parameters

    return Task(run)


def rule_minigrad(rule: str, tensors: int, size: int) -> Task:
    import minigrad as mg
    from minigrad import nn, optim

    parameters = []
    for start, gradient in data(tensors, size):
        parameter = nn.Parameter(start)
        parameter.grad = mg.asarray(gradient)
        parameters.append(parameter)
    optimizer = optim.get(rule, parameters, lr=LEARNING_RATE)

    def run() -> list[nn.Parameter]:
        optimizer.step()
        return parameters

    return Task(run)


def rule_torch(rule: str, tensors: int, size: int) -> Task:
    import torch

    parameters = []
    for start, gradient in data(tensors, size):
        parameter = torch.nn.Parameter(torch.from_numpy(start))
        parameter.grad = torch.from_numpy(gradient)
        parameters.append(parameter)
    optimizer = getattr(torch.optim, rule)(parameters, lr=LEARNING_RATE, **RULES[rule][1])

    def run() -> list[torch.nn.Parameter]:
        optimizer.step()
        return parameters

    return Task(run)


def rule_workload(rule: str, size: int, tensors: int = 1) -> Workload:
    builders = {"minigrad": rule_minigrad} | ({"torch": rule_torch} if rule != "Lion" else {})  # which PyTorch lacks
    many = f"{rule}, {tensors} tensor{'s' if tensors > 1 else ''}"
    return Workload(
        f"{many} of {size:,} parameters",
        {side: partial(build, rule, tensors, size) for side, build in builders.items()},
        moved=RULES[rule][0] * 4 * tensors * size,
        point=Point(many, tensors * size, "parameters"),
    )


def workload(size: int, tensors: int = 1, goal: Goal = NO_GOAL) -> Workload:
    builders = {"minigrad": adamw_minigrad, "torch": adamw_torch, "jax": adamw_jax}
    many = f"{tensors} tensor{'s' if tensors > 1 else ''}"
    return Workload(
        f"AdamW, {many} of {size:,} parameters",
        {side: partial(build, tensors, size) for side, build in builders.items()},
        goal,
        moved=7 * 4 * tensors * size,  # four arrays are read and three written
        point=Point(many, tensors * size, "parameters"),
    )


WORKLOADS = [workload(10_000_000, goal=Goal(ratio=0.9))]
SWEEP = [
    *(workload(10**n) for n in range(2, 8)),
    *(workload(10**n, tensors=100) for n in range(1, 6)),
    *(rule_workload(rule, 10**n) for rule in RULES for n in (4, 7)),
    *(rule_workload(rule, 1000, tensors=100) for rule in RULES),
]
QUICK = [workload(1000), workload(10, tensors=3), *(rule_workload(rule, 1000) for rule in RULES)]

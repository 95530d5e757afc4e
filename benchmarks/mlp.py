"""A full training step of multilayer perceptrons: zero_grad, forward, cross-entropy, backward, Adam."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import adam_jax
from benchmarks.workload import NO_GOAL, Goal, Point, Task, Workload

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8

Sizes = tuple[int, ...]


def data(sizes: Sizes, batch: int) -> tuple[NDArray[np.float32], NDArray[np.int64], list[NDArray[np.float32]]]:
    """Inputs, targets, and the weights (in, out) that every library starts from; the biases start from 0."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, sizes[0]), dtype=np.float32)
    targets = random.integers(0, sizes[-1], batch)
    weights = [random.standard_normal((m, n), dtype=np.float32) / np.float32(m) ** 0.5 for m, n in pairwise(sizes)]
    return x, targets, weights


def mlp_minigrad(sizes: Sizes, batch: int) -> Task:
    import minigrad as mg
    from minigrad import nn, optim
    from minigrad.nn import functional as F

    inputs, labels, weights = data(sizes, batch)
    x, targets = mg.asarray(inputs), mg.asarray(labels)
    layers = [nn.Dense(n, activation="relu", in_features=m) for m, n in pairwise(sizes[:-1])]
    model = nn.Sequential([*layers, nn.Dense(sizes[-1], in_features=sizes[-2])])
    model.load_state_dict(model.state_dict() | {f"{i}.weight": weight for i, weight in enumerate(weights)})
    adam = optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)

    def run() -> mg.Tensor:
        adam.zero_grad()
        loss = F.cross_entropy(model(x), targets)
        loss.backward()
        adam.step()
        return loss

    return Task(run)


def mlp_torch(sizes: Sizes, batch: int) -> Task:
    import torch
    from torch import nn
    from torch.nn import functional as F

    inputs, labels, weights = data(sizes, batch)
    x, targets = torch.from_numpy(inputs), torch.from_numpy(labels)
    model = nn.Sequential()
    for weight in weights:
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.zero_()
        model.extend([layer, nn.ReLU()])
    model = model[:-1]
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)

    def run() -> torch.Tensor:
        adam.zero_grad()
        loss = F.cross_entropy(model(x), targets)
        loss.backward()
        adam.step()
        return loss

    return Task(run)


def mlp_jax(sizes: Sizes, batch: int) -> Task:
    import jax
    from jax import numpy as jnp

    inputs, labels, weights = data(sizes, batch)
    x, targets = jnp.asarray(inputs), jnp.asarray(labels)
    parameters = [(jnp.asarray(weight), jnp.zeros(weight.shape[1])) for weight in weights]

    def objective(parameters: list[tuple[jax.Array, jax.Array]], x: jax.Array, targets: jax.Array) -> jax.Array:
        hidden = x
        for weight, bias in parameters[:-1]:
            hidden = jax.nn.relu(hidden @ weight + bias)
        weight, bias = parameters[-1]
        return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ weight + bias), targets[:, None], axis=1).mean()

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, x: jax.Array, targets: jax.Array) -> tuple[Any, jax.Array]:
        loss, gradients = jax.value_and_grad(objective)(state[0], x, targets)
        return adam_jax.step(state, gradients, LEARNING_RATE, BETAS, EPSILON), loss

    state = adam_jax.start(parameters)

    def run() -> jax.Array:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, x, targets))
        return loss

    return Task(run)


def workload(sizes: Sizes, batch: int, goal: Goal = NO_GOAL, series: str = "") -> Workload:
    """The step of one network on every library."""
    sides = {"minigrad": mlp_minigrad, "torch": mlp_torch, "jax": mlp_jax}
    products = [2 * batch * m * n for m, n in pairwise(sizes)]
    return Workload(
        f"MLP {'-'.join(map(str, sizes))}, batch {batch}, Adam step",
        {side: partial(build, sizes, batch) for side, build in sides.items()},
        goal,
        flops=3 * sum(products) - products[0],  # the inputs need no gradient
        point=Point(series, sum(products), "FLOP of the forward pass"),
    )


SMALL = (64, 128, 128, 10)
LARGE = (784, 512, 512, 10)

WORKLOADS = [workload(SMALL, 32, Goal(ratio=0.4)), workload(LARGE, 128, Goal(ratio=0.6))]
SWEEP = [
    *(workload(SMALL, batch, series="64-128-128-10 by batch") for batch in (1, 8, 32, 128, 512)),
    *(workload(LARGE, batch, series="784-512-512-10 by batch") for batch in (1, 8, 32, 128, 512)),
    *(workload((64, width, width, 10), 32, series="64-n-n-10, batch 32") for width in (8, 32, 512, 2048)),
]
QUICK = [workload((8, 16, 4), 8)]

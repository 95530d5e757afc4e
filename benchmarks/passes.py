"""Forward and backward of one function: the task that most families consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import Task

Array = NDArray[Any]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Inputs:
    """Arrays that get a gradient, arrays that do not, and the cotangent: None where the result is one number."""

    leaves: Sequence[Array]
    constants: Sequence[Array] = ()
    cotangent: Array | None = None


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers, the same in every process."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def sides(
    functions: Mapping[str, Callable[[], Function]], inputs: Callable[[], Inputs]
) -> dict[str, Callable[[], Task]]:
    """Tasks that compute a function of leaves and constants, and the gradients of the leaves.

    `functions` gives for each library what imports it and returns the function.
    """
    return {side: partial(TASKS[side], function, inputs) for side, function in functions.items()}


def minigrad_task(function: Callable[[], Function], inputs: Callable[[], Inputs]) -> Task:
    import minigrad as mg

    given = inputs()
    leaves = [mg.asarray(leaf) for leaf in given.leaves]
    cotangent = None if given.cotangent is None else mg.asarray(given.cotangent)
    return eager_task(function(), leaves, [mg.asarray(constant) for constant in given.constants], cotangent)


def torch_task(function: Callable[[], Function], inputs: Callable[[], Inputs]) -> Task:
    import torch

    given = inputs()
    leaves = [torch.from_numpy(leaf) for leaf in given.leaves]
    cotangent = None if given.cotangent is None else torch.from_numpy(given.cotangent)
    return eager_task(function(), leaves, [torch.from_numpy(constant) for constant in given.constants], cotangent)


def eager_task(function: Function, leaves: Sequence[Any], constants: Sequence[Any], cotangent: Any) -> Task:
    """The task on a library that records what it computes."""
    for leaf in leaves:
        leaf.requires_grad = True

    def run() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves, *constants).backward(cotangent)
        return [leaf.grad for leaf in leaves]

    return Task(run)


def jax_task(function: Callable[[], Function], inputs: Callable[[], Inputs]) -> Task:
    import jax
    from jax import numpy as jnp

    given, computes = inputs(), function()
    leaves = [jnp.asarray(leaf) for leaf in given.leaves]
    constants = [jnp.asarray(constant) for constant in given.constants]
    cotangent = jnp.asarray(1.0 if given.cotangent is None else given.cotangent)

    @jax.jit
    def step(leaves: list[jax.Array], constants: list[jax.Array], cotangent: jax.Array) -> tuple[jax.Array, Any]:
        out, vjp = jax.vjp(lambda *leaves: computes(*leaves, *constants), *leaves)
        return out, vjp(cotangent)  # with `out`, so that the forward pass is not optimized away

    return Task(lambda: jax.block_until_ready(step(leaves, constants, cotangent))[1])


TASKS = {"minigrad": minigrad_task, "torch": torch_task, "jax": jax_task}

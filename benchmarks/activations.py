"""Activations, softmax and normalization, forward and backward: what memory bounds once it leaves the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload

PARAMETERS = {"layer_norm": 2, "rms_norm": 1}  # how many vectors of weights a function takes


def minigrad_function(name: str) -> Function:
    from minigrad.nn import functional as F

    function: Function = getattr(F, name)
    return function


def torch_function(name: str) -> Function:
    import torch
    from torch.nn import functional as F

    functions: dict[str, Function] = {
        "softmax": partial(torch.softmax, dim=-1),
        "log_softmax": partial(torch.log_softmax, dim=-1),
        "layer_norm": lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias),
        "rms_norm": lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-5),
    }
    return functions.get(name) or getattr(F, name)


def jax_function(name: str) -> Function:
    import jax
    from jax import numpy as jnp

    def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt((centered * centered).mean(-1, keepdims=True) + 1e-5) * weight + bias

    functions: dict[str, Function] = {
        "gelu": partial(jax.nn.gelu, approximate=False),
        "tanh": jnp.tanh,
        "layer_norm": layer_norm,
        "rms_norm": lambda x, weight: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight,
    }
    return functions.get(name) or getattr(jax.nn, name)


FUNCTIONS: dict[str, Callable[[str], Function]] = {
    "minigrad": minigrad_function,
    "torch": torch_function,
    "jax": jax_function,
}


def inputs(name: str, rows: int, columns: int) -> Inputs:
    vectors = [normal(columns, seed=2 + i) for i in range(PARAMETERS.get(name, 0))]
    return Inputs([normal(rows, columns), *vectors], cotangent=normal(rows, columns, seed=1))


def workload(name: str, rows: int, columns: int, goal: Goal = NO_GOAL) -> Workload:
    return Workload(
        f"{name} {rows}x{columns}, forward and backward",
        sides({side: partial(make, name) for side, make in FUNCTIONS.items()}, partial(inputs, name, rows, columns)),
        goal,
        moved=5 * 4 * rows * columns,  # forward reads and writes, backward reads two arrays and writes one
        point=Point(name, rows * columns, "elements"),
    )


GOALS = {(512, 512): 0.8, (4096, 1536): 0.85, (8192, 1024): 0.3}
SIZES = [(1, 64), (8, 64), (64, 64), (128, 256), (512, 512), (1024, 1024), (4096, 1536), (8192, 1024)]
SWEPT = ["softmax", "log_softmax", "layer_norm", "rms_norm", "gelu", "silu", "sigmoid", "tanh", "relu"]

WORKLOADS = [
    workload(name, *size, Goal(ratio=ratio))
    for name in ("softmax", "gelu", "layer_norm")
    for size, ratio in GOALS.items()
]
SWEEP = [workload(name, *size) for name in SWEPT for size in SIZES]
QUICK = [workload(name, 16, 32) for name in SWEPT]

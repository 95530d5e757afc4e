"""Fused attention, forward and backward, full and causal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload

HEADS = 8
FEATURES = 64


def minigrad_function(causal: bool) -> Function:
    from minigrad.nn import functional as F

    return partial(F.scaled_dot_product_attention, is_causal=causal)


def torch_function(causal: bool) -> Function:
    from torch.nn import functional as F

    return partial(F.scaled_dot_product_attention, is_causal=causal)


def jax_function(causal: bool) -> Function:
    import jax

    def attention(*heads_first: jax.Array) -> jax.Array:
        query, key, value = (array.swapaxes(1, 2) for array in heads_first)
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal).swapaxes(1, 2)

    return attention


FUNCTIONS = {"minigrad": minigrad_function, "torch": torch_function, "jax": jax_function}


def inputs(batch: int, length: int) -> Inputs:
    query, key, value, cotangent = (normal(batch, HEADS, length, FEATURES, seed=seed) for seed in range(4))
    return Inputs([query, key, value], cotangent=cotangent)


def workload(
    length: int,
    causal: bool,
    goal: Goal = NO_GOAL,
    batch: int = 2,
    libraries: Sequence[str] = tuple(FUNCTIONS),
) -> Workload:
    functions = {side: partial(FUNCTIONS[side], causal) for side in libraries}
    # Two products forward; five backward, as the scores are computed again. Half of them where the mask is causal.
    flops = 7 * 2 * batch * HEADS * length**2 * FEATURES / (2 if causal else 1)
    kind = "causal" if causal else "full"
    return Workload(
        f"attention B{batch} H{HEADS} D{FEATURES} N={length} {kind}, forward and backward",
        sides(functions, partial(inputs, batch, length)),
        goal,
        flops=flops,
        point=Point(kind, length, "length N"),
    )


WORKLOADS = [
    workload(1024, False, Goal(ratio=0.43)),
    workload(1024, True, Goal(ratio=0.35)),
    workload(2048, False, Goal(ratio=0.43)),
    workload(2048, True, Goal(ratio=0.38)),
]
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
SWEEP = [
    *(workload(length, causal) for length in LENGTHS for causal in (False, True)),
    workload(16384, False, batch=1, libraries=["minigrad"]),
    workload(16384, True, batch=1, libraries=["minigrad"]),
]
QUICK = [workload(32, False), workload(32, True)]

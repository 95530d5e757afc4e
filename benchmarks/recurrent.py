"""Recurrent layers: one layer in one direction over a batch of sequences, and all gradients."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def minigrad_function(kind: str) -> Function:
    from minigrad.nn import functional as F

    layer = getattr(F, kind)
    return lambda x, wi, wh, bi, bh: layer(x, wi, wh, bi, bh)[0]


def torch_function(kind: str) -> Function:
    import torch
    from torch import _VF  # what torch.nn.LSTM and its relatives call

    run = getattr(_VF, f"{kind}_tanh" if kind == "rnn" else kind)

    def layer(x: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
        zeros = torch.zeros(1, x.shape[0], wh.shape[0])
        state = (zeros, zeros) if kind == "lstm" else zeros
        # biases, one layer, no dropout, in training, one direction, batch first
        return run(x, state, [wi.T.contiguous(), wh.T.contiguous(), bi, bh], True, 1, 0.0, True, False, True)[0]

    return layer


def inputs(kind: str, batch: int, length: int, features: int, units: int) -> Inputs:
    width = GATES[kind] * units
    wi, wh = (normal(n, width, seed=n) / math.sqrt(n) for n in (features, units))
    leaves = [normal(batch, length, features), wi, wh, normal(width, seed=1), normal(width, seed=2)]
    return Inputs(leaves, cotangent=normal(batch, length, units, seed=3))


def workload(kind: str, batch: int, length: int, features: int, units: int, goal: Goal = NO_GOAL) -> Workload:
    return Workload(
        f"{kind} {features} to {units}, {batch} sequences of {length} steps, forward and backward",
        sides(
            {"minigrad": partial(minigrad_function, kind), "torch": partial(torch_function, kind)},
            partial(inputs, kind, batch, length, features, units),
        ),
        goal,
        flops=3 * 2 * batch * length * (features + units) * GATES[kind] * units,
        point=Point(f"{kind} {features} to {units}, {batch} sequences", length, "steps"),
    )


WORKLOADS = [workload(kind, 32, 100, 128, 256) for kind in GATES]
SWEEP = [workload("lstm", batch, length, 128, 256) for batch in (1, 32, 128) for length in (1, 10, 100)]
QUICK = [workload(kind, 2, 3, 4, 5) for kind in GATES]

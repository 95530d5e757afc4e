"""Matrix products, forward and backward."""

from __future__ import annotations

import math
import operator
from functools import partial

from benchmarks.passes import Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload

Shape = tuple[int, ...]


def inputs(left: Shape, right: Shape) -> Inputs:
    out = (*left[:-1], right[-1])
    return Inputs([normal(*left), normal(*right, seed=1)], cotangent=normal(*out, seed=2))


def workload(left: Shape, right: Shape, goal: Goal = NO_GOAL, series: str = "") -> Workload:
    flops = 3 * 2 * math.prod(left) * right[-1]  # the product, and one for the gradient of each operand
    return Workload(
        f"matmul {'x'.join(map(str, left))} @ {'x'.join(map(str, right))}, forward and backward",
        sides(dict.fromkeys(("minigrad", "torch", "jax"), lambda: operator.matmul), partial(inputs, left, right)),
        goal,
        flops=flops,
        point=Point(series, flops, "FLOP"),
    )


WORKLOADS = [
    workload((64, 64), (64, 64), Goal(ratio=0.4)),
    workload((256, 512), (512, 512), Goal(ratio=0.45)),
    workload((2048, 1024), (1024, 1024), Goal(ratio=0.47)),
]
SWEEP = [
    *(workload((n, n), (n, n), series="n x n @ n x n") for n in (16, 32, 64, 128, 256, 512, 1024, 2048)),
    *(workload((8, n, 128), (128, 128), series="8 x n x 128 @ 128 x 128") for n in (4, 16, 64, 256, 1024)),
    *(workload((64, n, 64), (64, 64, n), series="64 x n x 64 @ 64 x 64 x n") for n in (4, 16, 64, 128, 256)),
]
QUICK = [workload((8, 16), (16, 4)), workload((2, 3, 4), (4, 5)), workload((2, 3, 4), (2, 4, 5))]

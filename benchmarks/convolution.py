"""Convolution over two axes with a bias, and all gradients."""

from __future__ import annotations

import math
from functools import partial

from benchmarks.passes import Function, Inputs, normal, sides
from benchmarks.workload import NO_GOAL, Goal, Point, Workload


def minigrad_function(padding: int, stride: int, groups: int) -> Function:
    from minigrad.nn import functional as F

    return partial(F.conv2d, padding=padding, stride=stride, groups=groups)


def torch_function(padding: int, stride: int, groups: int) -> Function:
    from torch.nn import functional as F

    return partial(F.conv2d, padding=padding, stride=stride, groups=groups)


def jax_function(padding: int, stride: int, groups: int) -> Function:
    import jax

    def convolve(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        around = [(padding, padding)] * 2
        y = jax.lax.conv_general_dilated(x, weight, (stride, stride), around, feature_group_count=groups)
        return y + bias[:, None, None]

    return convolve


def workload(
    batch: int,
    channels: int,
    filters: int,
    side: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    goal: Goal = NO_GOAL,
) -> Workload:
    padding = kernel // 2
    out = (side + 2 * padding - kernel) // stride + 1
    given = {"padding": padding, "stride": stride, "groups": groups}

    def inputs() -> Inputs:
        weight = normal(filters, channels // groups, kernel, kernel, seed=1) / math.sqrt(channels * kernel**2)
        leaves = [normal(batch, channels, side, side), weight, normal(filters, seed=2)]
        return Inputs(leaves, cotangent=normal(batch, filters, out, out, seed=3))

    more = (f", stride {stride}" if stride > 1 else "") + (f", {groups} groups" if groups > 1 else "")
    name = f"conv2d {channels} to {filters}, {kernel}x{kernel}{more}"
    return Workload(
        f"{name}, {batch} images {side}x{side}, forward and backward",
        sides(
            {
                "minigrad": partial(minigrad_function, **given),
                "torch": partial(torch_function, **given),
                "jax": partial(jax_function, **given),
            },
            inputs,
        ),
        goal,
        flops=3 * 2 * batch * out**2 * filters * channels // groups * kernel**2,
        point=Point(f"{name}, {batch} images", side, "pixels a side"),
    )


WORKLOADS = [
    workload(64, 1, 32, 28),  # those of examples/mnist_conv.py
    workload(64, 32, 32, 28),
    workload(64, 32, 64, 14),
    workload(64, 64, 64, 14),
    workload(16, 64, 128, 56, stride=2),
    workload(16, 128, 128, 28, groups=128),
    workload(16, 256, 64, 28, kernel=1),
    workload(8, 3, 64, 112, kernel=7, stride=2),
]
SWEEP = [workload(32, channels, channels, side) for channels in (8, 32, 128) for side in (7, 14, 28, 56)]
QUICK = [workload(2, 2, 4, 5), workload(2, 4, 4, 6, stride=2, groups=2)]

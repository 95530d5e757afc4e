"""A pruned layer in inference: `compress.SparseDense` beside PyTorch's dense layer with the same zeros.

A row of the table has the batch, the size of the weight and its zeros. The sweep goes over the zeros, so that one sees
from which share on the sparse layer is faster; the family `matmul` has the dense product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.passes import normal
from benchmarks.workload import Point, Task, Workload


def weight(features: int, units: int, zeros: float) -> NDArray[np.float32]:
    """A weight (in, out) of which a share is 0."""
    made = normal(features, units)
    made[np.random.default_rng(1).random(made.shape) < zeros] = 0
    return made


def minigrad_task(batch: int, features: int, units: int, zeros: float) -> Task:
    import minigrad as mg
    from minigrad import compress, nn

    dense = nn.Dense(units, in_features=features)
    with mg.no_grad():
        dense.weight[...] = weight(features, units, zeros)
    layer, x = compress.SparseDense(dense).eval(), mg.asarray(normal(batch, features, seed=2))

    def run() -> Any:
        with mg.no_grad():
            return layer(x).numpy()

    return Task(run)


def torch_task(batch: int, features: int, units: int, zeros: float) -> Task:
    import torch

    layer = torch.nn.Linear(features, units)
    layer.weight.data = torch.from_numpy(weight(features, units, zeros).T.copy())
    layer.bias.data.zero_()
    x = torch.from_numpy(normal(batch, features, seed=2))

    def run() -> Any:
        with torch.inference_mode():
            return layer(x)

    return Task(run)


def workload(batch: int, features: int, units: int, zeros: float) -> Workload:
    tasks = {"minigrad": minigrad_task, "torch": torch_task}
    return Workload(
        f"SparseDense {batch}x{features}x{units}, {zeros:.0%} zeros, forward",
        {side: partial(task, batch, features, units, zeros) for side, task in tasks.items()},
        flops=2 * batch * features * units * (1.0 - zeros),
        point=Point(f"batch {batch}", zeros, "share of zeros"),
    )


WORKLOADS = [workload(32, 1024, 1024, 0.9), workload(128, 1024, 1024, 0.9)]
SWEEP = [workload(batch, 1024, 1024, zeros) for batch in (1, 32, 128) for zeros in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)]
QUICK = [workload(4, 16, 8, 0.5)]

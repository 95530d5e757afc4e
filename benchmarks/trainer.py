"""What the loop costs: steps of an MLP by the Trainer, and the same written by hand, with loss and accuracy logged."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks.mlp import BETAS, EPSILON, LARGE, LEARNING_RATE, SMALL, Sizes, data
from benchmarks.workload import NO_GOAL, Goal, Task, Workload

BATCHES = 16  # of one call


def parts(sizes: Sizes, batch: int) -> tuple[Any, Any]:
    """minigrad's model and its optimizer."""
    from minigrad import nn, optim

    weights = data(sizes, batch)[2]
    layers = [nn.Dense(n, activation="relu", in_features=m) for m, n in pairwise(sizes[:-1])]
    model = nn.Sequential([*layers, nn.Dense(sizes[-1], in_features=sizes[-2])])
    model.load_state_dict(model.state_dict() | {f"{i}.weight": weight for i, weight in enumerate(weights)})
    return model, optim.Adam(model.named_parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)


def batches(sizes: Sizes, batch: int) -> list[tuple[Any, Any]]:
    """The same batch many times."""
    import minigrad as mg

    inputs, labels, _ = data(sizes, batch)
    return [(mg.asarray(inputs), mg.asarray(labels))] * BATCHES


def trainer_minigrad(sizes: Sizes, batch: int) -> Task:
    from minigrad.train import Trainer

    model, adam = parts(sizes, batch)
    trainer, steps = Trainer(model, "cross_entropy", adam, ["accuracy"]), batches(sizes, batch)

    def run() -> list[float]:
        history = trainer.fit(steps, verbose=0)
        return [history["loss"][-1], history["accuracy"][-1]]

    return Task(run)


def loop_minigrad(sizes: Sizes, batch: int) -> Task:
    from minigrad.nn import functional as F

    model, adam = parts(sizes, batch)
    steps = batches(sizes, batch)

    def run() -> list[float]:
        summed, right, seen = 0.0, 0, 0
        for x, targets in steps:
            adam.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            adam.step()
            summed, seen = summed + loss.item() * len(targets), seen + len(targets)
            right += int((logits.detach().argmax(axis=-1) == targets).sum().item())
        return [summed / seen, right / seen]

    return Task(run)


def loop_torch(sizes: Sizes, batch: int) -> Task:
    import torch
    from torch import nn
    from torch.nn import functional as F

    inputs, labels, weights = data(sizes, batch)
    steps = [(torch.from_numpy(inputs), torch.from_numpy(labels))] * BATCHES
    model = nn.Sequential()
    for weight in weights:
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.zero_()
        model.extend([layer, nn.ReLU()])
    model = model[:-1]
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)

    def run() -> list[float]:
        summed, right, seen = 0.0, 0, 0
        for x, targets in steps:
            adam.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            adam.step()
            summed, seen = summed + loss.item() * len(targets), seen + len(targets)
            right += int((logits.detach().argmax(dim=-1) == targets).sum().item())
        return [summed / seen, right / seen]

    return Task(run)


def workload(sizes: Sizes, batch: int, by: str, goal: Goal = NO_GOAL) -> Workload:
    """The steps of one network, by the Trainer or by hand; PyTorch's are by hand."""
    ours = {"the Trainer": trainer_minigrad, "hand": loop_minigrad}[by]
    sides = {"minigrad": partial(ours, sizes, batch), "torch": partial(loop_torch, sizes, batch)}
    return Workload(f"step by {by}, MLP {'-'.join(map(str, sizes))}, batch {batch}", sides, goal, per=BATCHES)


WORKLOADS = [
    workload(sizes, batch, by) for sizes, batch in ((SMALL, 32), (LARGE, 128)) for by in ("hand", "the Trainer")
]
SWEEP: list[Workload] = []
QUICK = [workload((8, 16, 4), 8, "the Trainer")]

"""Whole training steps: GPT-2 in bfloat16, a small multilayer perceptron, AdamW alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import gpt, mlp
from benchmarks.gpu.work import Work

Run = Callable[[], Any]
CHECKED = 6  # losses; the last ones are those of the captured graph
# 50,304: GPT-2's vocabulary of 50,257, as trainers pad it
GPT2 = gpt.Config(layers=12, features=768, heads=12, length=1024, batch=16, vocabulary=50304, tied=True)
SMALL_GPT = gpt.Config(layers=1, features=16, heads=2, length=8, batch=2, vocabulary=67, tied=True)


def training(
    compute: Callable[..., Any],
    optimizer: Any,
    inputs: Iterable[Any],
    region: Callable[[], AbstractContextManager[Any]],
) -> Callable[..., Any]:
    """A step of a batch: zero, the loss in a region of autocast, backward, update."""

    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        with region():
            loss = compute(*batch)
        loss.backward()
        optimizer.step()
        return loss

    return step


def graphed(step: Callable[..., Any], parameters: Iterable[Any], optimizer: Any) -> Callable[..., Any]:
    """minigrad's step as a CUDA graph."""
    from minigrad import nn, train

    class Model(nn.Module):
        def __init__(self) -> None:
            for i, p in enumerate(parameters):
                setattr(self, f"p{i}", p)

    made: Callable[..., Any] = train.GraphedStep(step, Model(), optimizer)
    return made


def gpt_minigrad(config: gpt.Config, library: Any, graph: bool = False) -> Run:
    from minigrad import amp, nn, optim

    F = gpt.words_minigrad()
    p = {name: nn.Parameter(array, device="cuda") for name, array in gpt.parameters(config).items()}
    adamw = optim.AdamW(p.values(), lr=gpt.LEARNING_RATE, betas=gpt.BETAS, eps=gpt.EPSILON, weight_decay=gpt.DECAY)
    inputs = [library.put(array) for array in gpt.batch(config)]
    region = partial(amp.autocast, library.mg.bfloat16)
    step = training(lambda *batch: gpt.loss(F, config, p, *batch), adamw, inputs, region)
    return partial(graphed(step, p.values(), adamw) if graph else step, *inputs)


def gpt_torch(config: gpt.Config, library: Any, compiled: bool = False) -> Run:
    torch, F = library.torch, gpt.words_torch()
    p = {name: torch.nn.Parameter(t.detach().to(library.device)) for name, t in gpt.parameters_torch(config).items()}
    adamw = torch.optim.AdamW(
        p.values(), lr=gpt.LEARNING_RATE, betas=gpt.BETAS, eps=gpt.EPSILON, weight_decay=gpt.DECAY, fused=True
    )
    inputs = [library.put(array) for array in gpt.batch(config)]

    def loss(*batch: Any) -> Any:
        return gpt.loss(F, config, p, *batch)

    region = partial(torch.autocast, library.device, torch.bfloat16)
    step = training(library.compile(loss) if compiled else loss, adamw, inputs, region)
    return partial(step, *inputs)


def gpt_work(config: gpt.Config) -> Work:
    """The step of one GPT."""
    return Work(
        f"GPT {config.layers} layers d{config.features} T{config.length} batch {config.batch} bfloat16, AdamW step",
        {
            "minigrad": partial(gpt_minigrad, config),
            "minigrad graph": partial(gpt_minigrad, config, graph=True),
            "torch": partial(gpt_torch, config),
            "torch compile": partial(gpt_torch, config, compiled=True),
        },
        flops=config.flops,
        items=(config.batch * config.length, "tokens"),
        tolerance=2e-2,
        checked=CHECKED,
    )


def mlp_minigrad(sizes: mlp.Sizes, batch: int, library: Any, graph: bool = False) -> Run:
    from minigrad import nn, optim
    from minigrad.nn import functional as F

    x, targets, weights = mlp.data(sizes, batch)
    layers = [nn.Dense(n, activation="relu", in_features=m) for m, n in pairwise(sizes[:-1])]
    model = nn.Sequential([*layers, nn.Dense(sizes[-1], in_features=sizes[-2])])
    model.load_state_dict(model.state_dict() | {f"{i}.weight": weight for i, weight in enumerate(weights)})
    model.to("cuda")
    adam = optim.Adam(model.parameters(), lr=mlp.LEARNING_RATE, betas=mlp.BETAS, eps=mlp.EPSILON)
    inputs = [library.put(x), library.put(targets)]
    off = partial(library.mg.amp.autocast, enabled=False)
    step = training(lambda x, targets: F.cross_entropy(model(x), targets), adam, inputs, off)
    return partial(graphed(step, model.parameters(), adam) if graph else step, *inputs)


def mlp_torch(sizes: mlp.Sizes, batch: int, library: Any, compiled: bool = False) -> Run:
    torch = library.torch
    x, targets, weights = mlp.data(sizes, batch)
    model = torch.nn.Sequential()
    for weight in weights:
        layer = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.zero_()
        model.extend([layer, torch.nn.ReLU()])
    model = model[:-1].to(library.device)
    adam = torch.optim.Adam(model.parameters(), lr=mlp.LEARNING_RATE, betas=mlp.BETAS, eps=mlp.EPSILON, fused=True)
    inputs = [library.put(x), library.put(targets)]

    def loss(x: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), targets)

    compute = library.compile(loss, mode="reduce-overhead") if compiled else loss  # by CUDA graphs as well
    step = training(compute, adam, inputs, partial(torch.autocast, library.device, enabled=False))

    def run() -> Any:
        return step(*inputs).clone() if compiled else step(*inputs)  # a graph's memory is written over

    return run


def mlp_work(sizes: mlp.Sizes, batch: int) -> Work:
    """The step of one multilayer perceptron: what costs is the launches."""
    products = [2 * batch * m * n for m, n in pairwise(sizes)]
    return Work(
        f"MLP {'-'.join(map(str, sizes))} batch {batch} float32, Adam step",
        {
            "minigrad": partial(mlp_minigrad, sizes, batch),
            "minigrad graph": partial(mlp_minigrad, sizes, batch, graph=True),
            "torch": partial(mlp_torch, sizes, batch),
            "torch compile": partial(mlp_torch, sizes, batch, compiled=True),
        },
        flops=3 * sum(products) - products[0],
        items=(1, "steps"),
        checked=CHECKED,
    )


def adamw_arrays(count: int, size: int) -> tuple[list[Any], list[Any]]:
    """Parameters and gradients."""
    rng = np.random.default_rng(2)
    return [[rng.standard_normal(size, dtype=np.float32) for _ in range(count)] for _ in range(2)]  # type: ignore[return-value]


def adamw_minigrad(count: int, size: int, library: Any) -> Run:
    from minigrad import nn, optim

    values, gradients = adamw_arrays(count, size)
    parameters = [nn.Parameter(array, device="cuda") for array in values]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = library.put(g)
    return adamw_run(optim.AdamW(parameters, lr=1e-3), parameters)


def adamw_torch(count: int, size: int, library: Any) -> Run:
    torch = library.torch
    values, gradients = adamw_arrays(count, size)
    parameters = [torch.nn.Parameter(library.put(array)) for array in values]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = library.put(g)
    return adamw_run(torch.optim.AdamW(parameters, lr=1e-3, fused=True), parameters)


def adamw_run(optimizer: Any, parameters: list[Any]) -> Run:
    """A step of the optimizer; what it makes of the first parameter."""

    def run() -> Any:
        optimizer.step()
        return parameters[0]

    return run


def adamw_work(count: int, size: int) -> Work:
    """Steps alone: read weight, gradient and two moments, write all but the gradient."""
    return Work(
        f"AdamW over {count} float32 tensors of {size:,}",
        {"minigrad": partial(adamw_minigrad, count, size), "torch": partial(adamw_torch, count, size)},
        moved=7 * 4 * count * size,
    )


FULL = [gpt_work(GPT2), mlp_work(mlp.SMALL, 32), adamw_work(100, 1_000_000)]
QUICK = [gpt_work(SMALL_GPT), mlp_work((8, 16, 4), 8), adamw_work(3, 100)]

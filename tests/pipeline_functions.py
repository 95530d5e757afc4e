"""What the ranks of the tests of pipelines and meshes call."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import rank_functions as functions

import minigrad as mg
from minigrad import amp, nn, optim, parallel
from minigrad.nn.functional import mse_loss


def model_of(kind: str = "dense", width: int = 6) -> nn.Sequential:
    """Layers of unequal sizes, in float64, the same on all ranks."""
    mg.random.seed(2)
    given: dict[str, Any] = {"dtype": mg.float64}
    if kind == "attention":
        layers = [nn.TransformerEncoderLayer(4, 12, features=8, **given) for _ in range(3)]
        return nn.Sequential([nn.Embedding(9, 8, **given), *layers, nn.Dense(2, in_features=8, **given)])
    norm = nn.BatchNorm1D(width, **given) if kind == "batch" else nn.LayerNorm(width, **given)
    return nn.Sequential(
        [
            nn.Dense(width, "tanh", in_features=4, **given), norm,
            nn.Dense(2 * width, "gelu", in_features=width, **given),
            nn.Dense(width, "tanh", in_features=2 * width, **given),
            nn.Dense(2, in_features=width, **given),
        ]
    )  # fmt: skip


def batch(kind: str, step: int, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng([7, step])
    if kind == "attention":
        return mg.asarray(rng.integers(0, 9, (n, 5))), mg.asarray(rng.normal(size=(n, 5, 2)))
    return mg.asarray(rng.normal(size=(n, 4))), mg.asarray(rng.normal(size=(n, 2)))


def plain(kind: str, n: int, parts: int, steps: tuple[int, int] = (0, 3), loaded: Any = None, **options: Any) -> Any:
    """One process, whose micro-batches are those of the pipeline: losses, norms, weights, the optimizer's state."""
    model = model_of(kind, options.get("width", 6))
    optimizer = optim.AdamW(model.named_parameters(), lr=0.01, eps=1e-5)
    if loaded is not None:
        model.load_state_dict(loaded[0])
        optimizer.load_state_dict(loaded[1])
    losses, norms = [], []
    for step in range(*steps):
        x, y = batch(kind, step, n)
        optimizer.zero_grad()
        ends = [n * k // parts for k in range(parts + 1)]
        total = 0.0
        for a, b in itertools.pairwise(ends):
            loss = mse_loss(model(x[a:b]), y[a:b]) * ((b - a) / n)
            loss.backward()
            total += loss.item()
        losses.append(total)
        norms.append(optim.clip_grad_norm_(model.parameters(), 0.1))
        optimizer.step()
    weights = {name: t.numpy() for name, t in model.state_dict().items()}
    return losses, norms, weights, optimizer.state_dict(), sum(p.nbytes for p in model.parameters())


def train(size: int, kind: str, n: int, parts: int, plan: dict[str, Any]) -> Any:
    """The same on some ranks; also the output for a batch, the most micro-batches held, the bytes of weights."""
    world = functions.team(size)
    if world is None:
        return None
    mesh = parallel.Mesh(**plan.get("mesh", {"data": 1, "pipeline": size}), communicator=world)
    model = model_of(kind, plan.get("width", 6))
    for p in model.parameters():  # those of the first stage count
        p._array[...] += mesh.pipeline.rank
    if mesh.tensor.size > 1:
        parallel.tensor_parallel(model, mesh.tensor)
    data = mesh.data if mesh.data.size > 1 else None
    pipeline = parallel.Pipeline(
        model, mesh.pipeline, micro_batches=parts, checkpoint=plan.get("checkpoint", False), stages=plan.get("stages"),
        data=data,
    )  # fmt: skip
    del model
    if plan.get("sharded"):
        stage: Any = pipeline.stage
        named = pipeline.named_parameters()
        optimizer: Any = parallel.ShardedOptimizer(optim.AdamW, named, model=stage, lr=0.01, eps=1e-5)
    else:
        optimizer = optim.AdamW(pipeline.named_parameters(), lr=0.01, eps=1e-5)
    if "loaded" in plan:
        pipeline.load_gathered_state_dict(plan["loaded"][0])
        optimizer.load_state_dict(parallel.own_optimizer_state(optimizer, plan["loaded"][1]))
    scaler = amp.GradScaler(init_scale=1024.0) if plan.get("scaled") else None
    parallel.agree_on_overflow(optimizer, mesh.pipeline)
    held: list[int] = []
    pipeline.stage.register_forward_hook(lambda *_: held.append(len(pipeline._held) + 1))
    losses, norms, done = [], [], []
    for step in range(*plan.get("steps", (0, 3))):
        x, y = batch(kind, step, n)
        if data is not None:
            x, y = (t[n * data.rank // data.size : n * (data.rank + 1) // data.size] for t in (x, y))
        optimizer.zero_grad()
        losses.append(pipeline.train_step(x, y, mse_loss, scaler=scaler))
        if plan.get("overflow") == (step, world.rank):
            grad = next(p.grad for p in pipeline.parameters() if p.grad is not None)
            grad._array.flat[0] = np.inf
        if scaler is not None:
            scaler.unscale_(optimizer)
        if not plan.get("sharded"):  # of whose gradients a stage has a part
            norms.append(pipeline.clip_grad_norm_(0.1))
        if scaler is None:
            optimizer.step()
        else:
            done.append(scaler.step(optimizer))
            scaler.update()
    most = max(held)
    out = functions.host(pipeline.eval()(batch(kind, 50, n)[0]))
    weights = {name: functions.host(t) for name, t in pipeline.gather_state_dict().items()}
    state = None if mesh.tensor.size > 1 else parallel.gather_optimizer_state(optimizer, mesh.pipeline)
    kept = sum(p.nbytes for p in pipeline.parameters())
    return losses, norms, weights, state, kept, most, out, done


def crowd(size: int) -> Any:
    """Messages that do not fit into what the ranks share."""
    world = functions.team(size)
    if world is None:
        return None
    layers = [nn.Dense(600, "tanh", in_features=4), *(nn.Dense(600, "tanh", in_features=600) for _ in range(size - 1))]
    pipeline = parallel.Pipeline(layers, world, micro_batches=5)
    x = mg.asarray(np.random.default_rng(0).normal(size=(5 * 400, 4)).astype(np.float32))  # 960,000 bytes each
    return pipeline.train_step(x, x, lambda out, y: (out[:, :4] - y).mean())


def whole_numbers_between_stages() -> float:
    """A stage that hands on ids, which have no gradient."""
    layers = nn.Sequential([nn.Flatten(), nn.Embedding(5, 3), nn.Dense(3, in_features=3)])
    pipeline = parallel.Pipeline(layers, micro_batches=2, stages=[1, 2])
    loss = pipeline.train_step(mg.tensor([[1], [2], [3], [4]]), mg.ones((4, 1, 3)), nn.functional.mse_loss)
    assert all(p.grad is not None for p in pipeline.parameters())
    return loss


def axes() -> Any:
    """The ranks of each axis of a mesh."""
    world = parallel.init()
    found = []
    for sizes in ({"data": 2, "pipeline": 2}, {"tensor": 2}, {"tensor": 2, "pipeline": 2}, {"pipeline": 4}):
        mesh = parallel.Mesh(**sizes)
        own = np.array([world.rank])
        found.append([c.all_gather(own).tolist() for c in (mesh.data, mesh.tensor, mesh.pipeline)])
    return found

"""What the ranks of the tests of sharded optimizers call."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import rank_functions as functions

import minigrad as mg
from minigrad import amp, nn, optim, parallel


def made(plan: dict[str, Any], world: Any) -> tuple[Any, Any]:
    """A model and its optimizer; stage 0 is the plain one."""
    mg.random.seed(plan["seed"])
    dtype = getattr(mg, plan.get("dtype", "float64"))
    plain = functions.Model(dtype, "layer", plan.get("sparse", False), plan.get("rate", 0.0))
    if plan.get("regular"):
        nn.regularize(plain, nn.L2(1e-2))
        plain.last.weight.mask = np.arange(6)[:, None] != 2
    model = parallel.DataParallel(
        plain, world, bucket_size=plan.get("bucket_size", 200), compression=plan.get("compression")
    )
    make, options = getattr(optim, plan["optimizer"]), plan.get("options", {"lr": 0.05})
    named = model.named_parameters()
    if plan.get("groups"):
        params: Any = [{"params": named[:3], "lr": 0.01}, {"params": named[3:]}]
    else:
        params = named
    if plan["stage"] == 0:
        return model, make(params, **options)
    shares = {"model": model} if plan["stage"] == 2 else {}
    return model, parallel.ShardedOptimizer(make, params, world, **shares, **options)


def train(size: int, plan: dict[str, Any]) -> Any:
    """A few steps on this rank's part of each batch: weights, state of the optimizer, norms, bytes that are held."""
    world = functions.team(size)
    if world is None:
        return None
    model, optimizer = made(plan, world)
    if "loaded" in plan:
        model.load_state_dict(plan["loaded"][0])
        optimizer.load_state_dict(plan["loaded"][1])
    scaler = amp.GradScaler(init_scale=1024.0, enabled=plan.get("scaled", False))
    first, steps = plan.get("steps", (0, 3))
    norms, held, done = [], 0, []
    parts, count = plan.get("parts", 1), 24
    for step in range(first, steps):
        ids, x, y = functions.batch(plan["seed"], step, count, plan.get("dtype", "float64"))
        optimizer.zero_grad()
        for number in range(parts):
            low, high = (count * k // parts for k in (number, number + 1))
            a, b = (low + (high - low) * (world.rank + k) // world.size for k in (0, 1))
            with model.no_sync() if number < parts - 1 else contextlib.nullcontext():
                loss = model.weighted(
                    ((model(mg.asarray(ids[a:b]), mg.asarray(x[a:b])) - mg.asarray(y[a:b])) ** 2).mean(), b - a
                )
                loss = loss * ((high - low) / count)
                if plan.get("overflow") == (step, world.rank):
                    loss = loss * float("inf")
                scaler.scale(loss).backward()
        held = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        if plan.get("clip"):
            scaler.unscale_(optimizer)
            own = getattr(optimizer, "clip_grad_norm_", None)
            norms.append(own(0.5) if own else optim.clip_grad_norm_(model.parameters(), 0.5))
        done.append(scaler.step(optimizer))
        scaler.update()
    weights = {name: functions.host(t).copy() for name, t in model.state_dict().items()}
    kept = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if hasattr(v, "nbytes"))
    return weights, plainly(optimizer.state_dict()), norms, (kept, held), (done, scaler.get_scale())


def plainly(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with arrays in the place of tensors, for pipes."""
    arrays = {
        k: {n: functions.host(v) if hasattr(v, "numpy") else v for n, v in s.items()} for k, s in state["state"].items()
    }
    return {**state, "state": arrays}


def twice() -> Any:
    """A second backward onto averages of which a rank has its share alone."""
    model = parallel.DataParallel(nn.Dense(3, in_features=2))
    parallel.ShardedOptimizer(optim.SGD, model.parameters(), model=model, lr=0.1)
    for _ in range(2):
        model(mg.ones((1, 2))).sum().backward()


def scattered(rows: list[int]) -> Any:
    """A reduce-scatter in unequal parts."""
    world = parallel.init()
    x = np.random.default_rng(world.rank).normal(size=(sum(rows), 3))
    total = world.allreduce(x)
    start = sum(rows[: world.rank])
    return functions.same(world.reduce_scatter(x, rows=rows), total[start : start + rows[world.rank]])

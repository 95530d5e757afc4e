"""What the ranks of the tests of pruning call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rank_functions as functions

import minigrad as mg
from minigrad import compress, nn, optim, parallel


def build(plan: dict[str, Any]) -> nn.Sequential:
    """A table of rows, and two layers."""
    table = nn.Embedding(8, 6, sparse=plan["sparse"])
    return nn.Sequential([table, nn.Dense(10, "tanh", in_features=6), nn.Dense(3, in_features=10)])


def train(size: int, plan: dict[str, Any]) -> Any:
    """Steps on this rank's part of each batch, pruned by a `Pruner`: weights and masks by name."""
    world = functions.team(size)
    if world is None:
        return None
    mg.random.seed(plan["seed"])
    plain = build(plan)
    if plan["first"]:  # rank 0 comes with masks, and its weights and masks are those of all
        if world.rank == 0:
            compress.prune(plain, 0.2, scores="random")
        mg.random.seed(world.rank)  # what the ranks draw differs
    model = parallel.DataParallel(plain, world)
    options = {"lr": 0.05} | plan["options"]
    if plan["stage"] == 0:
        optimizer: Any = getattr(optim, plan["optimizer"])(model.named_parameters(), **options)
    else:
        shares = {"model": model} if plan["stage"] == 2 else {}
        make = getattr(optim, plan["optimizer"])
        optimizer = parallel.ShardedOptimizer(make, model.named_parameters(), world, **shares, **options)
    schedule = compress.CubicSchedule(0.6, begin=1, end=3)
    pruner = compress.Pruner(schedule, scores=plan["scores"], model=model)
    found = []
    for step in range(4):
        rng = np.random.default_rng([plan["seed"], step])
        ids, y = rng.integers(0, 8, 12), rng.normal(size=(12, 3)).astype(np.float32)
        a, b = (12 * (world.rank + k) // world.size for k in (0, 1))
        optimizer.zero_grad()
        ((model(mg.asarray(ids[a:b])) - mg.asarray(y[a:b])) ** 2).mean().backward()
        pruner.before_update()
        optimizer.step()
        pruner.step()
        weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        found.append((weights, compress.masks(model)))
    return found


def wrapped_masks(size: int) -> Any:
    """The masks after wrapping, of models that come with masks of their own on each rank, or with none."""
    world = functions.team(size)
    if world is None:
        return None
    mg.random.seed(world.rank)
    made = []
    for masked in (0, 1):  # the rank that comes with masks
        model = build({"sparse": False})
        if world.rank == masked:
            compress.prune(model, 0.5, scores="random")
        before = compress.masks(model)
        parallel.DataParallel(model, world)
        made.append((before, compress.masks(model)))
    return made


def split_state(size: int) -> Any:
    """The state of a pruned model that is split, gathered; and the masks that a rank has of a state that it loads."""
    world = functions.team(size)
    if world is None:
        return None
    mg.random.seed(1)
    plain = nn.FeedForward(12, features=8)
    compress.prune(plain, 0.5)
    state = plain.state_dict()
    model = parallel.tensor_parallel(plain, world)
    gathered = parallel.gather_state_dict(model)
    own = compress.masks(model)
    with pytest.raises(ValueError, match="prune: model is split over ranks"):
        compress.prune(model, 0.9)
    fresh = parallel.tensor_parallel(nn.FeedForward(12, features=8), world)
    parallel.load_gathered_state_dict(fresh, state)
    arrays = ({name: t.numpy() for name, t in each.items()} for each in (state, gathered))
    return (*arrays, own, compress.masks(fresh))

"""States of which each rank has a part, put together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.errors import message
from minigrad.optim.optimizer import Optimizer
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.start import init
from minigrad.tensor import Tensor

__all__ = ["agree_on_overflow", "gather_optimizer_state", "gather_states", "own_optimizer_state"]

State = dict[str, dict[str, Any]]


def gather_states(communicator: Communicator, own: State) -> list[State]:
    """The dicts of tensors and numbers of all ranks, each by its rank, on the CPU; a collective."""
    heads = gather_plain(communicator, {key: {n: _head(v) for n, v in s.items()} for key, s in own.items()})
    found: list[State] = []
    for rank, given in enumerate(heads):
        found.append({})
        for key, entries in given.items():
            mine = own[key] if rank == communicator.rank else {}
            found[-1][key] = {n: _taken(communicator, head, mine.get(n), rank) for n, head in entries.items()}
    return found


def gather_plain(communicator: Communicator, own: Any) -> list[Any]:
    """What all ranks have, of what JSON holds."""
    text = np.frombuffer(json.dumps(own).encode() + b"\n", np.uint8)
    return [json.loads(line) for line in communicator.all_gather(text).tobytes().splitlines()]


def _head(value: Any) -> Any:
    """What JSON holds of a value of a state: a number, or dtype and shape of a tensor."""
    return {"dtype": value.dtype.name, "shape": value.shape} if isinstance(value, Tensor) else value


def _taken(communicator: Communicator, head: Any, value: Any, rank: int) -> Any:
    if not isinstance(head, dict):
        return head
    if rank != communicator.rank:
        value = tape.new_tensor(np.empty(head["shape"], head["dtype"]))
    return communicator.broadcast(value.to("cpu"), rank)


def gather_optimizer_state(optimizer: Optimizer, communicator: Communicator | None = None) -> dict[str, Any]:
    """The state of the optimizer of a whole model, of those that ranks have for other parameters, as in a `Pipeline`.

    A collective. The parameters must have been given with names, those that they have in the whole model.

    Parameters
    ----------
    optimizer : Optimizer
        That of this rank, of the same class and with as many groups as those of the others.
    communicator : Communicator, optional
        The ranks; by default those of `init`.

    Examples
    --------
    >>> from minigrad import nn, optim, parallel
    >>> optimizer = optim.SGD([("w", nn.Parameter([1.0]))], lr=0.1)
    >>> parallel.gather_optimizer_state(optimizer)["param_groups"][0]["params"]
    ['w']
    """
    communicator = init() if communicator is None else communicator
    made = optimizer.state_dict()
    keys = gather_plain(communicator, [group["params"] for group in made["param_groups"]])
    groups = [
        {**group, "params": [key for own in keys for key in own[i]]} for i, group in enumerate(made["param_groups"])
    ]
    names = [key for group in groups for key in group["params"]]
    if len(set(names)) != len(names):
        need = "those of model.named_parameters(), each on one rank"
        raise ValueError(message("gather_optimizer_state", "names", "not all different", need))
    state = {key: s for own in gather_states(communicator, made["state"]) for key, s in own.items()}
    return {**made, "param_groups": groups, "state": state}


def own_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of what `gather_optimizer_state` gave that an optimizer loads.

    Examples
    --------
    >>> from minigrad import nn, optim, parallel
    >>> optimizer = optim.SGD([("w", nn.Parameter([1.0]))], lr=0.1)
    >>> optimizer.load_state_dict(parallel.own_optimizer_state(optimizer, parallel.gather_optimizer_state(optimizer)))
    """
    own = [set(keys) for keys in optimizer._keys()]
    groups = [
        {**group, "params": [key for key in group["params"] if key in keys]}
        for group, keys in zip(state["param_groups"], own, strict=True)
    ]
    known = set().union(*own)
    return {**state, "param_groups": groups, "state": {k: s for k, s in state["state"].items() if k in known}}


def agree_on_overflow(optimizer: Optimizer, communicator: Communicator | None = None) -> None:
    """Let `amp.GradScaler` skip a step on all ranks where the gradients of one, of other parameters, overflow.

    For models that are split (`tensor_parallel`, `Pipeline`); `DataParallel` and `ShardedOptimizer` do without.

    Examples
    --------
    >>> from minigrad import nn, optim, parallel
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.1)
    >>> parallel.agree_on_overflow(optimizer)
    """
    ranks = init() if communicator is None else communicator
    before = getattr(optimizer, "agree", None)

    def agree(finite: bool) -> bool:
        own = finite if before is None else before(finite)
        return not ranks.allreduce(np.array(not own), "max")

    optimizer.agree = agree  # type: ignore[attr-defined]

"""ShardedOptimizer: every rank keeps the state of the optimizer for its share of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.autograd import enable_grad
from minigrad.errors import describe, message
from minigrad.optim.clip import clip_by, grad_norm
from minigrad.optim.optimizer import Group, Optimizer, State
from minigrad.parallel.buckets import Bucket
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.data_parallel import DataParallel
from minigrad.parallel.gather import gather_states
from minigrad.parallel.sharded_bucket import ShardedBucket, ShardedTable
from minigrad.parallel.start import init
from minigrad.tensor import Tensor

__all__ = ["ShardedOptimizer"]

Array = np.ndarray[Any, Any]
CHUNK = 4 << 20  # bytes of weights that are sent together


class ShardedOptimizer(Optimizer):
    """An optimizer whose state is shared out: each rank updates some of the parameters, and sends the others these.

    A parameter belongs to one rank as a whole, so every rule does what it does without ranks, bit for bit, those that
    take norms too. The ranks' shares are about equal, as far as no single parameter is larger than one. S. Rajbhandari
    et al., "ZeRO: memory optimizations toward training trillion parameter models", 2020: stage 1, and with `model`
    stage 2, where a rank keeps the gradients of its share alone.

    Parameters
    ----------
    make : callable
        A class of `minigrad.optim`, or a function: ``make(params, **options)`` gives the optimizer.
    params : iterable
        As for `Optimizer`; the same on all ranks.
    communicator : Communicator, optional
        The ranks; by default those of `model`, or those of `init`.
    model : DataParallel, optional
        The model whose gradients are shared out: each bucket is averaged by a reduce-scatter, and a rank's
        parameters alone have a `.grad` afterwards.
    **options
        For `make`.

    Attributes
    ----------
    optimizer : Optimizer
        What `make` gave. Its `state` holds this rank's share.

    Raises
    ------
    TypeError
        If `make` gives no optimizer, or one that has a step of its own (`LBFGS`), which needs all parameters, or if
        `model` is no `DataParallel`.
    ValueError
        If `model` waits for its first batch.

    Notes
    -----
    Without `model` gradients must be the same on all ranks before `step`, as `DataParallel` makes them. With it
    several micro-batches are accumulated in ``model.no_sync()``, where each rank holds its own gradients of all
    parameters, and `zero_grad` comes before the next backward.

    Norms are those of all ranks only by this class's `clip_grad_norm_`; `GradScaler` skips a step on all ranks.
    `step`, `clip_grad_norm_` and `state_dict` are collectives.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim, parallel
    >>> model = parallel.DataParallel(nn.Dense(1, in_features=2))
    >>> optimizer = parallel.ShardedOptimizer(optim.AdamW, model.parameters(), lr=1e-2)
    >>> model(mg.ones((4, 2))).mean().backward()
    >>> norm = optimizer.clip_grad_norm_(1.0)
    >>> optimizer.step()
    """

    def __init__(
        self,
        make: Callable[..., Optimizer],
        params: Iterable[Any],
        communicator: Communicator | None = None,
        *,
        model: DataParallel | None = None,
        **options: Any,
    ) -> None:
        made: Any = make(params, **options)
        if not isinstance(made, Optimizer) or type(made).step is not Optimizer.step:
            need = "an optimizer that updates one parameter after the other"
            raise TypeError(message("ShardedOptimizer", "make", describe(type(made).__name__), need))
        self.optimizer: Optimizer = made
        self.defaults, self.param_groups, self.state = made.defaults, made.param_groups, made.state
        if model is not None and not isinstance(model, DataParallel):
            raise TypeError(message("ShardedOptimizer", "model", model, "a DataParallel"))
        if communicator is None:
            communicator = init() if model is None else model.communicator
        self.communicator = communicator
        self._owner: dict[int, int] = {}  # id of a parameter -> the rank that updates it
        self._load = [0] * self.communicator.size
        self._model = model
        if model is not None:
            model.share_gradients(self._shared)

    # --- who updates what -------------------------------------------------------------------------------------------

    def owner(self, p: Tensor) -> int:
        """The rank that updates a parameter: the largest ones are given out first, each to the one with the least."""
        if id(p) not in self._owner:
            new = [q for q in self._params() if id(q) not in self._owner]
            for q in sorted(new, key=lambda q: -q.size):
                self._owner[id(q)] = rank = self._load.index(min(self._load))
                self._load[rank] += max(q.size, 1)
        return self._owner[id(p)]

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _shared(self, bucket: Any) -> Any:
        """A bucket of the model with the same parameters, which leaves each rank its share."""
        known = {id(p) for p in self._params()}
        if not all(id(p) in known for p in bucket.parameters):
            need = "those of this optimizer's parameters alone to require grad"
            raise ValueError(message("ShardedOptimizer", "model", "parameters that params lacks", need))
        owners = [self.owner(p) for p in bucket.parameters]
        if isinstance(bucket, Bucket):
            return ShardedBucket(bucket.parameters, owners, self.communicator.rank, bucket.compression)
        return ShardedTable(bucket.parameters[0], owners[0] == self.communicator.rank)

    # --- what a training loop calls ---------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update this rank's parameters, and take the values of the others from their ranks; see `Optimizer.step`."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        own = self.communicator.rank
        hidden = [(p, p._grad) for p in self._params() if p._grad is not None and self.owner(p) != own]
        try:
            for p, _ in hidden:
                p._grad = None
            self.optimizer.step()
        finally:
            for p, grad in hidden:
                p._grad = grad
        if self.communicator.size > 1:
            self._send()
        return loss

    def _send(self) -> None:
        """Broadcast the values of each rank's parameters, some of them together."""
        runs: dict[tuple[int, Any, type], list[list[Tensor]]] = {}
        for p in self._params():
            found = runs.setdefault((self.owner(p), p.dtype, type(p._array)), [[]])
            if sum(q.nbytes for q in found[-1]) + p.nbytes > CHUNK:
                found.append([])
            found[-1].append(p)
        for (owner, *_), found in runs.items():
            for params in filter(None, found):
                self._broadcast(params, owner)
        others = [p for p in self._params() if self.owner(p) != self.communicator.rank]
        tape.mark_updated(others, "ShardedOptimizer.step")

    def _broadcast(self, params: list[Tensor], owner: int) -> None:
        if len(params) == 1 and params[0]._array.flags.c_contiguous:
            flat = params[0]._array.reshape(-1)
            self.communicator.broadcast(flat, owner, out=flat)
            return
        flat = np.concatenate([np.ravel(p._array) for p in params])
        self.communicator.broadcast(flat, owner, out=flat)
        start = 0
        for p in params:
            if owner != self.communicator.rank:
                p._array[...] = flat[start : start + p.size].reshape(p.shape)
            start += p.size

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros; those that are shared out are dropped."""
        super().zero_grad(set_to_none or self._model is not None)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> float:
        """Scale the gradients so that their norm, over the parameters of all ranks, is at most `max_norm`.

        Returns
        -------
        float
            The norm before, the same on all ranks; see `minigrad.optim.clip_grad_norm_`.
        """
        own = [p for p in self._params() if self.owner(p) == self.communicator.rank]
        norms = self.communicator.all_gather(np.float64(float(grad_norm(own, norm_type))))
        return clip_by(self._params(), norms, max_norm, norm_type)

    def agree(self, finite: bool) -> bool:
        """Whether the gradients of all ranks are finite."""
        return not self.communicator.allreduce(np.array(not finite), "max")

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group, as `Optimizer` does."""
        if self._model is not None:
            raise ValueError(message("ShardedOptimizer", "group", "new", "all groups at the start, with model="))
        self.optimizer.add_param_group(group)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of all ranks, as the optimizer without ranks gives it: it loads there, and for any number of ranks.

        A collective; each rank gets all of it, in memory of its own.
        """
        if self.communicator.size == 1:
            return self.optimizer.state_dict()
        made = self.optimizer.state_dict()
        ranks = gather_states(self.communicator, made["state"])
        state: dict[str, State] = {}
        for group, keys in zip(self.param_groups, self.optimizer._keys(), strict=True):
            for key, p in zip(keys, group["params"], strict=True):
                if key in ranks[self.owner(p)]:
                    state[key] = ranks[self.owner(p)][key]
        return {**made, "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this rank's share of what `state_dict` gave, here or for another number of ranks, or without any."""
        if isinstance(state.get("state"), Mapping):
            keys = {
                key
                for group, own in zip(self.param_groups, self.optimizer._keys(), strict=True)
                for key, p in zip(own, group["params"], strict=True)
                if self.owner(p) != self.communicator.rank
            }
            state = {**state, "state": {key: s for key, s in state["state"].items() if key not in keys}}
        self.optimizer.load_state_dict(state)
        self.state = self.optimizer.state

    # --- what is the optimizer's ------------------------------------------------------------------------------------

    def init(self, x: Any, group: Group) -> State:
        """That of the optimizer."""
        return self.optimizer.init(x, group)

    def update(self, x: Any, g: Any, state: State, group: Group) -> None:
        """That of the optimizer."""
        self.optimizer.update(x, g, state, group)

    def check(self, group: Group) -> None:
        """That of the optimizer."""
        self.optimizer.check(group)

    def __repr__(self) -> str:
        return f"Sharded{self.optimizer!r}"

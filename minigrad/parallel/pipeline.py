"""Pipeline: each rank has some of the layers of a model, and micro-batches go through all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Self

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.amp.scaler import GradScaler
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.function import checkpoint
from minigrad.nn.checks import extent
from minigrad.nn.containers import ModuleDict
from minigrad.nn.deferred import check_initialized
from minigrad.nn.module import Module
from minigrad.nn.sequential import Sequential
from minigrad.optim.clip import clip_by
from minigrad.parallel.communicator import Communicator, bounds
from minigrad.parallel.data_parallel import Box, DataParallel
from minigrad.parallel.gather import gather_states
from minigrad.parallel.split_model import gather_state_dict, load_gathered_state_dict, split_norms
from minigrad.parallel.start import init
from minigrad.tensor import Tensor

__all__ = ["Pipeline", "cut_layers"]


class Stage(ModuleDict):
    """Some layers of a `Sequential`, by the names that they have there."""

    def forward(self, x: Any) -> Any:
        """Apply them, one after the other."""
        for name in self:
            x = self[name](x)
        return x


class Pipeline(Module):
    """A `Sequential` whose layers are on several ranks, which a batch goes through in micro-batches.

    Each rank is a stage: it has some of the layers, their gradients and the optimizer of these. While the first stage
    computes a micro-batch the second has the one before. A stage alternates between a forward and the backward of an
    earlier micro-batch (1F1B), so stage s of S holds the activations of at most S - s of them, however many there are.
    D. Narayanan et al., "PipeDream", 2019, and "Efficient large-scale language model training on GPU clusters", 2021.

    Names of parameters and state dicts are those that the layers have in the `Sequential`.

    Parameters
    ----------
    layers : Sequential or iterable of Module
        The whole model, the same on all ranks; the values of the first stage count. Drop it afterwards: each rank
        keeps its stage alone.
    communicator : Communicator, optional
        The ranks, a stage each; by default those of `init`.
    micro_batches : int
        Into how many parts `train_step` cuts a batch. S stages are idle for (S - 1) / (micro_batches + S - 1) of the
        time.
    stages : sequence of int, optional
        How many layers each stage has; by default the largest stage has as few parameters as can be.
    checkpoint : bool
        Keep the inputs of a stage alone, and compute it again in backward: less memory for a third more time.
    data : Communicator, optional
        Ranks that hold the same stage, ``Mesh.data``: gradients are averaged over them, as by `DataParallel`.

    Attributes
    ----------
    stage : Module
        The layers of this rank; with `data` a `DataParallel` of them.

    Raises
    ------
    ShapeError
        If there are fewer layers than ranks, or `stages` do not add up.
    ValueError
        If stages share a parameter.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim, parallel
    >>> model = nn.Sequential([nn.Dense(8, "tanh", in_features=4), nn.Dense(1, in_features=8)])
    >>> pipeline = parallel.Pipeline(model, micro_batches=4)
    >>> optimizer = optim.SGD(pipeline.named_parameters(), lr=0.1)
    >>> x = mg.ones((8, 4))
    >>> loss = pipeline.train_step(x, x[:, :1], nn.functional.mse_loss)
    >>> norm = pipeline.clip_grad_norm_(1.0)
    >>> optimizer.step()
    >>> pipeline(x).shape
    (8, 1)
    """

    def __init__(
        self,
        layers: Sequential | Iterable[Module],
        communicator: Communicator | None = None,
        *,
        micro_batches: int,
        stages: Sequence[int] | None = None,
        checkpoint: bool = False,
        data: Communicator | None = None,
    ) -> None:
        self.communicator = init() if communicator is None else communicator
        self.micro_batches = extent("Pipeline", "micro_batches", micro_batches)
        self.checkpoint, self._data = checkpoint, data
        whole = layers if isinstance(layers, Sequential) else Sequential(list(layers))
        for name, p in whole.named_parameters():
            check_initialized("Pipeline", name, p)
        named = whole.named_children()
        ends = np.cumsum([0, *self._stages(stages, [layer for _, layer in named])]).tolist()
        shares = [dict(named[a:b]) for a, b in itertools.pairwise(ends)]
        places: dict[int, set[int]] = {}
        for place, share in enumerate(shares):
            for layer in share.values():
                for p in layer.parameters():
                    places.setdefault(id(p), set()).add(place)
        if any(len(found) > 1 for found in places.values()):
            hint = "Give the last stage a weight of its own (tied=False)"
            raise ValueError(message("Pipeline", "layers", "stages that share a parameter", "none", hint))
        for t in [*whole.parameters(), *whole.buffers()]:
            t._array[...] = self.communicator.broadcast(t._array)
        stage: Module = Stage(shares[self.communicator.rank])
        self._box = Box(stage if data is None else DataParallel(stage, data))
        self._held: dict[int, tuple[Any, Tensor]] = {}  # micro-batch -> what came in, what went out

    def _stages(self, given: Sequence[int] | None, layers: list[Module]) -> list[int]:
        size = self.communicator.size
        if given is None:
            if len(layers) < size:
                need = f"{size}, one for each rank"
                raise ShapeError(message("Pipeline", "layers", f"{len(layers)}", need))
            return cut_layers([1 + sum(p.size for p in layer.parameters()) for layer in layers], size)
        if len(given) != size or sum(given) != len(layers) or min(given) < 1:
            need = f"{size} numbers of at least 1 whose sum is {len(layers)}"
            raise ShapeError(message("Pipeline", "stages", list(given), need))
        return list(given)

    # --- the tree is the stage's ------------------------------------------------------------------------------------

    @property
    def stage(self) -> Module:
        """The layers of this rank."""
        return self._box.module

    @property
    def training(self) -> bool:
        """That of the stage."""
        return self.stage.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.stage.training = mode

    def named_modules(self) -> list[tuple[str, Module]]:
        """Those of the stage."""
        return self.stage.named_modules()

    def named_children(self) -> list[tuple[str, Module]]:
        """Those of the stage."""
        return self.stage.named_children()

    def train(self, mode: bool = True) -> Self:
        self.stage.train(mode)
        return self

    # --- a step -----------------------------------------------------------------------------------------------------

    def train_step(
        self, x: Any, targets: Any, loss: Callable[[Any, Any], Tensor], *, scaler: GradScaler | None = None
    ) -> float:
        """Forward and backward of a batch: gradients are added to those of each stage's parameters.

        Parameters
        ----------
        x, targets : Tensor
            (n, ...), the batch, of which the first stage reads x and the last one the targets.
        loss : callable
            ``loss(output, targets)`` is the mean loss of a micro-batch.
        scaler : GradScaler, optional
            Scales the loss. Call `agree_on_overflow` for the optimizer.

        Returns
        -------
        float
            The mean loss of the batch, over the ranks of `data` too, the same on all ranks.

        Raises
        ------
        ShapeError
            If the batch has fewer items than there are micro-batches.
        """
        n, parts = len(x), self.micro_batches
        if n < parts or len(targets) != n:
            need = f"at least {parts} items, as many as micro_batches, and a target for each"
            raise ShapeError(message("Pipeline.train_step", "x", f"{n} items and {len(targets)} targets", need))
        ends = bounds(n, parts).tolist()
        rank, size = self.communicator.rank, self.communicator.size
        total = 0.0

        def forward(number: int, given: Any) -> Tensor:
            """One micro-batch through this stage; at the last one, its share of the loss."""
            nonlocal total
            a, b = ends[number : number + 2]
            own = ops.asarray(x[a:b]) if rank == 0 else given
            with self._unsynced(number > 0):
                out = checkpoint(self.stage, own) if self.checkpoint else self.stage(own)
            if rank == size - 1:
                out = loss(out, targets[a:b]) * ((b - a) / n)
                total += out.item()
            self._held[number] = own, out
            return out  # type: ignore[no-any-return]

        def backward(number: int, cotangent: Any) -> Any:
            """Its way back; the gradient of what came in."""
            own, out = self._held.pop(number)
            with self._unsynced(number < parts - 1):
                if rank == size - 1:
                    (out if scaler is None else scaler.scale(out)).backward()
                elif out.requires_grad:  # else all up to here is frozen
                    out.backward(cotangent)
            if rank == 0:
                return None
            return ops.zeros_like(own.detach()) if own.grad is None else own.grad

        if scaler is not None and rank < size - 1:
            scaler.scale(ops.asarray(np.float32(0)))  # so that it knows that this batch is scaled
        self._held.clear()
        self._alternate(forward, backward)
        total = float(self.communicator.broadcast(np.float64(total), size - 1))
        return total if self._data is None else float(self._data.allreduce(np.float64(total), "mean"))

    def _alternate(self, forward: Callable[[int, Any], Tensor], backward: Callable[[int, Any], Any]) -> None:
        """1F1B. A stage and the next one exchange in pairs: what one sends in a moment the other takes in the same."""
        rank, last, parts = self.communicator.rank, self.communicator.size - 1, self.micro_batches
        ahead = min(last - rank, parts)  # how many forwards come before the first backward
        for number in range(ahead):
            self._send(forward(number, self._take(rank - 1)), rank + 1)
        given = self._take(rank - 1) if ahead < parts else None
        for number in range(parts - ahead):
            out = forward(ahead + number, given)
            grad = backward(number, self._trade(out, rank + 1))
            if ahead + number < parts - 1:
                given = self._trade(grad, rank - 1)
            else:
                self._send(grad, rank - 1)
        for number in range(parts - ahead, parts):
            self._send(backward(number, self._take(rank + 1)), rank - 1)

    def _take(self, rank: int) -> Any:
        """What a neighbour sends; None where there is none."""
        if not 0 <= rank < self.communicator.size:
            return None
        return self._leaf(self.communicator.recv(rank), rank)

    def _send(self, x: Tensor, rank: int) -> None:
        if 0 <= rank < self.communicator.size:
            self.communicator.send(x._array, rank)

    def _trade(self, x: Tensor, rank: int) -> Any:
        """Send and take at once."""
        if not 0 <= rank < self.communicator.size:
            return None
        return self._leaf(self.communicator.sendrecv(x._array, rank, rank), rank)

    def _leaf(self, array: Any, source: int) -> Tensor:
        made: Tensor = tape.new_tensor(array)
        if source < self.communicator.rank and made.dtype in dtypes.FLOATING:
            made.requires_grad = True
        return made

    def _unsynced(self, later: bool) -> Any:
        """With `data`, gradients are averaged in the backward of the last micro-batch."""
        return self.stage.no_sync() if later and isinstance(self.stage, DataParallel) else nullcontext()

    def forward(self, x: Any) -> Tensor:
        """The output of the last stage for a batch, on every rank; to evaluate, as no gradients flow."""
        rank, last = self.communicator.rank, self.communicator.size - 1
        with no_grad():
            given = ops.asarray(x) if rank == 0 else tape.new_tensor(self.communicator.recv(rank - 1))
            out: Tensor = self.stage(given)
            if rank < last:
                self._send(out, rank + 1)
                return self._leaf(self.communicator.recv(last), last)
            for other in range(last):
                self._send(out, other)
            return out

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> float:
        """Scale the gradients so that their norm, over all stages, is at most `max_norm`; the norm before."""
        own = np.array(split_norms(self.stage, norm_type))
        return clip_by(self.parameters(), self.communicator.all_gather(own), max_norm, norm_type)

    # --- state ------------------------------------------------------------------------------------------------------

    def gather_state_dict(self) -> dict[str, Tensor]:
        """The state of the whole `Sequential`, on every rank; a collective."""
        own = {name: {"": t} for name, t in gather_state_dict(self.stage).items()}
        return {name: entry[""] for given in gather_states(self.communicator, own) for name, entry in given.items()}

    def load_gathered_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of the whole `Sequential`, of which each rank takes its stage."""
        names = {name for name, _, _ in self._tensors()}
        load_gathered_state_dict(self.stage, {name: value for name, value in state.items() if name in names})

    def extra_repr(self) -> str:
        """The ranks, and the micro-batches."""
        return f"{self.communicator!r}, micro_batches={self.micro_batches}"


def cut_layers(weights: Sequence[int], size: int) -> list[int]:
    """How many layers each of `size` stages has, so that the heaviest is as light as can be.

    Examples
    --------
    >>> from minigrad.parallel.pipeline import cut_layers
    >>> cut_layers([5, 1, 1, 1, 4], 3)
    [1, 3, 1]
    """
    n = len(weights)
    # the best of what follows from layer i on: the weight of its heaviest stage, and the counts; first with one stage
    tails: list[tuple[int, tuple[int, ...]]] = [(sum(weights[i:]), (n - i,)) for i in range(n)]
    for stages in range(2, size + 1):
        longer = []
        for i in range(n - stages + 1):
            counts = range(1, n - i - stages + 2)
            found = [(max(sum(weights[i : i + k]), tails[i + k][0]), (k, *tails[i + k][1])) for k in counts]
            longer.append(min(found))
        tails = longer
    return list(tails[0][1])

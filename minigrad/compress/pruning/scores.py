"""Scores: how much each weight matters. The lowest are pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigrad import dtypes, random
from minigrad._core import tape
from minigrad.backend.devices import to_numpy
from minigrad.backend.rows import RowSparse
from minigrad.compress.pruning.targets import Target
from minigrad.errors import GradError, ShapeError, describe, message
from minigrad.nn.checks import number
from minigrad.tensor import Tensor

__all__ = ["Magnitude", "Movement", "Random", "Score", "Taylor", "find_score"]

Array = np.ndarray[Any, Any]


class Score:
    """Base of the scores: a number for each weight, of which the lowest go first.

    A subclass writes `of`. One that needs gradients is told of each step by `update`.
    """

    def update(self, targets: Sequence[Target]) -> None:
        """Take in the weights and gradients of a step, after backward and before the optimizer has used them."""

    def of(self, target: Target) -> Array:
        """The scores of one parameter, an array of its shape."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method of(self, target)")

    def total(self, targets: Sequence[Target], communicator: Any = None) -> list[Array]:
        """The scores of several parameters; with ranks, which may see different gradients, the mean over them."""
        return [self.of(target) for target in targets]

    def state_dict(self) -> dict[str, Any]:
        """What `update` has gathered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class Magnitude(Score):
    """``|w|``: small weights go.

    S. Han et al., "Learning both weights and connections for efficient neural networks", 2015.
    """

    def of(self, target: Target) -> Array:
        return np.abs(_wide(to_numpy(target.parameter._array)))


class Random(Score):
    """Uniform draws of `minigrad.random`: what a score has to beat."""

    def of(self, target: Target) -> Array:
        return random.uniform(target.parameter.shape).to("cpu").numpy()


class _Gathered(Score):
    """Scores that are sums over steps.

    Parameters
    ----------
    decay : float
        What a sum is multiplied by before a step is added to it, from 0 to 1; 1 sums all steps alike.

    Raises
    ------
    ValueError
        If the decay is no share.
    """

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = number(type(self).__name__, "decay", decay)
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(message(type(self).__name__, "decay", f"{self.decay}", "a number from 0 to 1"))
        self.sums: dict[str, Array] = {}

    def term(self, w: Array, g: Array) -> Array:
        """What a step adds, of weights and gradients."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method term(self, w, g)")

    def update(self, targets: Sequence[Target]) -> None:
        """Add a step; one with a gradient that is not finite counts for nothing, as the optimizer skips it."""
        grads = [target.parameter._grad for target in targets]
        found = [None if g is None else g._array if type(g._array) is RowSparse else to_numpy(g._array) for g in grads]
        values = [g.values if isinstance(g, RowSparse) else g for g in found]
        if not all(np.isfinite(v).all() for v in values if v is not None):
            return
        for target, g, v in zip(targets, found, values, strict=True):
            total = self.sums.get(target.name)
            if total is not None and self.decay != 1.0:
                total *= self.decay
            if g is None or v is None:
                continue
            w = to_numpy(target.parameter._array)
            if total is None:
                total = self.sums[target.name] = np.zeros(w.shape, _wide(w[:0]).dtype)
            if total.shape != w.shape:
                got, hint = f"of shape {total.shape}", "Make the score anew, as the parameter has another shape now"
                raise ShapeError(message(type(self).__name__, f"the sum of {target.name}", got, f"{w.shape}", hint))
            if isinstance(g, RowSparse):
                total[g.ids] += self.term(_wide(w[g.ids]), _wide(v))
            else:
                total += self.term(_wide(w), _wide(v))

    def of(self, target: Target) -> Array:
        """The sum so far; where there was no `update`, what the gradient at hand gives."""
        if target.name not in self.sums:
            grad = target.parameter._grad
            if grad is None:
                hint = "Call backward first, or update(...) in each step, and exclude what is frozen"
                raise GradError(message(type(self).__name__, f"the gradient of {target.name}", "None", "one", hint))
            return self.term(_wide(to_numpy(target.parameter._array)), _wide(to_numpy(grad._array)))
        return self.sums[target.name].copy()

    def total(self, targets: Sequence[Target], communicator: Any = None) -> list[Array]:
        if communicator is None or communicator.size == 1:
            return super().total(targets)
        here = np.array([t.name in self.sums or t.parameter._grad is not None for t in targets])
        counts = communicator.allreduce(here.astype(np.int64))
        made = []
        for target, own, count in zip(targets, here.tolist(), counts.tolist(), strict=True):
            if not count:
                self.of(target)  # says what is missing
            values = self.of(target) if own else np.zeros(target.parameter.shape, _wide(target.parameter._array).dtype)
            made.append(communicator.allreduce(values) / count)
        return made

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: tape.new_tensor(total.copy()) for name, total in self.sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums = {
            name: np.array(value.to("cpu").numpy() if isinstance(value, Tensor) else value)
            for name, value in state["sums"].items()
        }


class Movement(_Gathered):
    """Movement: ``-sum(w * g)`` over the steps; weights that training moves towards 0 go.

    V. Sanh, T. Wolf, A. M. Rush, "Movement pruning: adaptive sparsity by fine-tuning", 2020. For fine-tuning, where the
    magnitudes are those of the pretraining.

    Parameters
    ----------
    decay : float
        What a sum is multiplied by before a step is added to it; 1 sums all steps alike.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> layer = nn.Dense(2, in_features=1, kernel_initializer="ones")
    >>> (layer(mg.ones((1, 1))) * mg.tensor([1.0, -1.0])).sum().backward()
    >>> _ = compress.prune(layer, 0.5, scores=compress.Movement())  # the first weight falls, the second grows
    >>> layer.weight
    tensor([[0., 1.]], requires_grad=True)
    """

    def term(self, w: Array, g: Array) -> Array:
        return -(w * g)


class Taylor(_Gathered):
    """The first-order Taylor term: ``sum((w * g)**2)`` over the steps, how much the loss changes without a weight.

    P. Molchanov et al., "Importance estimation for neural network pruning", 2019.

    Parameters
    ----------
    decay : float
        What a sum is multiplied by before a step is added to it; 1 sums all steps alike.
    """

    def term(self, w: Array, g: Array) -> Array:
        return (w * g) ** 2


KINDS: dict[str, type[Score]] = {"magnitude": Magnitude, "movement": Movement, "random": Random, "taylor": Taylor}


def find_score(who: str, scores: Any) -> Score:
    """A score by its name, or the one that is given."""
    if isinstance(scores, Score):
        return scores
    if isinstance(scores, str) and scores in KINDS:
        return KINDS[scores]()
    got = repr(scores) if isinstance(scores, str) else describe(scores)
    raise ValueError(message(who, "scores", got, f"{', '.join(map(repr, KINDS))}, or a compress.Score"))


def _wide(x: Any) -> Array:
    made: Array = x.astype(np.float32) if x.dtype in dtypes.HALF else x
    return made

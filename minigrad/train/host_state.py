"""HostState: what of models and optimizers lies on the host, which a captured step does not move by itself."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from operator import attrgetter, is_
from typing import Any

from minigrad import random
from minigrad._core import tape
from minigrad.amp import GradScaler
from minigrad.backend.rows import RowSparse
from minigrad.errors import GradError, message
from minigrad.nn.mode import is_evaluation
from minigrad.nn.module import Module
from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor

__all__ = ["HostState", "Stale"]

AGAIN = "Call reset(), and the next calls capture anew"
ARRAY, LEAF, MASK = map(attrgetter, ("_array", "_leaf", "mask"))


class Stale(GradError):
    """Something that a graph has frozen is not as it was; nothing has run."""


class HostState:
    """A note of gradients, states, counts, flags and random numbers, and of where all memory lies.

    While a graph is captured nothing runs, so what the host has counted is put back afterwards; and what the graph has
    frozen must be the same in every replay.

    Parameters
    ----------
    who : str
        Whom errors name.
    models : sequence of Module
        Their parameters and buffers.
    optimizers : sequence of Optimizer
        Their parameters, states and hyperparameters.
    scaler : GradScaler, optional
        Its factors, and where its scale lies.
    """

    def __init__(
        self, who: str, models: Sequence[Module], optimizers: Sequence[Optimizer], scaler: GradScaler | None = None
    ) -> None:
        self.who, self.models, self.optimizers, self.scaler = who, models, optimizers, scaler
        named = {id(t): (name, t) for model in models for name, t, _ in model._tensors()}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    named.setdefault(id(p), (optimizer._name(group, p), p))
        self.names = [name for name, _ in named.values()]
        self.tensors: list[Tensor] = [t for _, t in named.values()]
        self.arrays = list(map(ARRAY, self.tensors))
        self.leaves = list(map(LEAF, self.tensors))
        self.grads = [t._grad for t in self.tensors]
        self.grad_arrays = [None if grad is None else grad._array for grad in self.grads]
        self.masked = [t for t in self.tensors if hasattr(t, "mask")]
        self.masks = list(map(MASK, self.masked))
        self.modules = [vars(module) for model in models for module in model.modules()]
        self.training = _training(self.modules)
        self.states = [(o.state, {p: dict(state) for p, state in o.state.items()}) for o in optimizers]
        self.groups = [[_hyper(o, group) for group in o.param_groups] for o in optimizers]
        self.scaling = {} if scaler is None else {name: _copied(value) for name, value in vars(scaler).items()}
        self.random = random.get_state()
        self.modes = _modes()

    # --- before the capture -----------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Raise where a step of these parameters cannot be captured."""
        for name, grad in zip(self.names, self.grad_arrays, strict=True):
            if type(grad) is RowSparse:
                got, need = "row-sparse, of other rows in each step", "a full one, which keeps its memory"
                hint = "Make the table with sparse=False"
                raise GradError(message(self.who, f"the gradient of {name!r}", got, need, hint))

    # --- after it, where nothing has run ----------------------------------------------------------------------------

    def changed(self) -> list[tuple[dict[str, Any], str, Any]]:
        """The numbers in states of optimizers that are others now: the state, the name, the value noted.

        Raises
        ------
        GradError
            If something was made or replaced, which a replay would make anew, or a hyperparameter was changed.
        """
        for name, t, array in zip(self.names, self.tensors, self.arrays, strict=True):
            if t._array is not array:
                need = "what is written into the memory that is there"
                raise GradError(message(self.who, repr(name), "replaced by another array in the step", need))
        found = []
        for optimizer, (now, noted), groups in zip(self.optimizers, self.states, self.groups, strict=True):
            who = type(optimizer).__name__
            if [_hyper(optimizer, group) for group in optimizer.param_groups] != groups:
                need = "the same for as long as the graph lives"
                hint = "Let schedules move on outside of the step"
                raise GradError(message(self.who, f"a hyperparameter of {who}", "changed in the step", need, hint))
            for p, state in now.items():
                for name, value in state.items():
                    before = noted.get(p, {}).get(name)
                    if value is before:
                        continue
                    if not (isinstance(value, Number) and isinstance(before, Number)):
                        need = "one that is written in place; it was captured as new"
                        hint = "It may take another kind of step now than while the step was warmed up: raise warmup"
                        where = f"the state {name!r} of {who}"
                        raise GradError(message(self.who, where, "made by the step", need, hint))
                    if value != before:
                        found.append((state, name, before))
        return found

    def put_back(self) -> None:
        """Let the host forget what has not run."""
        for t, array, grad in zip(self.tensors, self.arrays, self.grads, strict=True):
            t._array, t._grad = array, grad
        for optimizer, (now, noted) in zip(self.optimizers, self.states, strict=True):
            optimizer.state = now
            for p in [p for p in now if p not in noted]:
                del now[p]
            for p, state in noted.items():
                now[p].clear()
                now[p].update(state)
        for optimizer, groups in zip(self.optimizers, self.groups, strict=True):
            for group, values in zip(optimizer.param_groups, groups, strict=True):
                group.update(values)
        if self.scaler is not None:
            vars(self.scaler).update({name: _copied(value) for name, value in self.scaling.items()})
        random.set_state(self.random)

    def forget_gradients(self) -> None:
        """Let go of the gradients from before, which nobody needs any more."""
        self.grads, self.grad_arrays = [], []

    # --- before a replay --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise where something that the graph has frozen is not as it was noted."""
        same = (
            all(map(is_, map(ARRAY, self.tensors), self.arrays))
            and all(map(is_, map(LEAF, self.tensors), self.leaves))
            and all(map(is_, map(MASK, self.masked), self.masks))
            and _training(self.modules) == self.training
            and all(o.state is state for o, (state, _) in zip(self.optimizers, self.states, strict=True))
            and self.modes == _modes()
            and (self.scaler is None or self._scales())
        )
        if not same:
            raise Stale(message(self.who, "the step", self._difference(), "what it was captured with", AGAIN))

    def _scales(self) -> bool:
        """Whether the scaler is between two steps as it was then."""
        now, noted = vars(self.scaler), self.scaling
        return now.keys() == noted.keys() and all(
            now[name] is value or (not hasattr(value, "dtype") and now[name] == value) for name, value in noted.items()
        )

    def _difference(self) -> str:
        """What is not as it was noted, in words."""
        for name, t, array, leaf in zip(self.names, self.tensors, self.arrays, self.leaves, strict=True):
            if t._array is not array:
                return f"one whose {name!r} lies in other memory"
            if t._leaf is not leaf:
                return f"one whose {name!r} has requires_grad={t._leaf}"
        if not all(map(is_, map(MASK, self.masked), self.masks)):
            return "one with another mask of a parameter"
        if _training(self.modules) != self.training:
            return "one whose model has changed between train() and eval()"
        if self.modes != _modes():
            return "called under another autocast, no_grad or evaluation"
        if self.scaler is not None and not self._scales():
            return "one whose scaler is not between two steps, or has another scale, as load_state_dict makes it"
        return "one whose optimizer has another state, as load_state_dict makes it"


def _hyper(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in optimizer.defaults}


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, set)) else value


def _training(modules: Sequence[dict[str, Any]]) -> list[Any]:
    return [attributes.get("training", True) for attributes in modules]


def _modes() -> tuple[Any, ...]:
    return tape.is_recording(), tape.autocast_dtype(), is_evaluation()

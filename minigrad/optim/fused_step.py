"""FusedStep: the parameters of a group that one kernel on a GPU takes from their gradients to their new values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigrad import dtypes
from minigrad.backend.devices import kernels_of
from minigrad.backend.numbers import DeviceNumber
from minigrad.errors import GradError, message
from minigrad.nn.masks import mask_beside
from minigrad.nn.parameter import Parameter
from minigrad.nn.regularizers import L1, L1L2, L2, ProximalL1
from minigrad.optim.stages import MASTER, wide
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.optim.optimizer import Optimizer

__all__ = ["FusedRule", "FusedStep", "Numbers"]

Array = Any
State = dict[str, Any]
COUNTS = {"step": np.int64, "mu_product": np.float64}


class Numbers(NamedTuple):
    """The hyperparameters of a group as the kernel knows them, in its order."""

    lr: float = 0.0
    beta1: float = 0.0
    fresh1: float = 0.0
    beta2: float = 1.0
    fresh2: float = 1.0
    eps: float = 0.0
    shrink: float = 1.0
    penalty: float = 0.0
    rate: float = 1.0
    momentum: float = 0.0
    fresh: float = 1.0
    decay: float = 0.0
    sign: float = 1.0


class FusedRule(NamedTuple):
    """An optimizer's rule as the kernel knows it."""

    name: str
    names: tuple[str | None, str | None, str | None]  # of the arrays of a state
    numbers: Callable[[], Numbers]  # anew for each replay of a captured step
    flags: int = 0  # Nesterov's momentum; centered


class FusedStep:
    """What is updated together, and how.

    The kernel does stages 7 to 14 of docs/training_step.md but for constraints. It counts the steps itself, so that
    one that is skipped counts nothing though nobody here knows of it: ``state["step"]`` is a `DeviceNumber` from the
    first step on, a number again in a state dict and in a copy.

    Parameters
    ----------
    optimizer : Optimizer
        Whose step it is.
    group : dict
        A group.
    rule : FusedRule
        The rule.
    kernels : module
        ``minigrad.backend.cuda.optimize``.
    """

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], rule: FusedRule, kernels: Any) -> None:
        self.optimizer, self.group, self.rule, self.kernels = optimizer, group, rule, kernels
        self.device = group["params"][0]._array.device
        self.params: list[Tensor] = []
        self._items: list[Any] = []
        self._states: list[State] = []

    @classmethod
    def of(cls, optimizer: Optimizer, group: dict[str, Any]) -> FusedStep | None:
        """One for a group on a GPU whose rule has a kernel, None for others."""
        rule, kernels = optimizer.fused_rule(group), kernels_of(group["params"][0]._array, "optimize")
        return None if rule is None or kernels is None else cls(optimizer, group, rule, kernels)

    @property
    def counts(self) -> bool:
        """Whether the kernel counts the steps."""
        return all("step" in state for state in self._states)

    def takes(self, p: Tensor, g: Array, state: State) -> bool:
        """Take a parameter in, unless it needs something that the kernel does not have."""
        x, around = p._array, self._around(p)
        half = x if x.dtype in dtypes.HALF else None
        working = x.dtype if half is None else dtypes.float32
        if around is None or type(g) is not type(x) or g.dtype not in (working, x.dtype) or g.shape != x.shape:
            return False
        if half is None:
            state.pop(MASTER, None)
        else:
            if MASTER not in state:
                with self.device:
                    state[MASTER] = wide(half)
            x = state[MASTER]
        self.optimizer.fit_state(x, state, self.group)
        states = [None if name is None else state[name] for name in self.rule.names]
        item = self._item(p, x, states, half)
        if item is None:
            return False
        keep, *factors = around
        keep = None if keep is None else self.kernels.dense(keep)
        item.take(g if g.flags.c_contiguous else self.kernels.dense(g), keep, factors)
        self._items.append(item)
        self._states.append(state)
        self.params.append(p)
        return True

    def _item(self, p: Tensor, x: Array, states: list[Array | None], half: Array | None) -> Any:
        """A parameter and its state for a kernel, looked at when they change; None where they are not for it."""
        known, arrays = self.optimizer._items.get(p), [x, *states, half]
        if known is not None and all(a is b for a, b in zip(arrays, known.arrays, strict=True)):
            return known
        fits, shape = self.kernels.fits, p.shape
        if half is not None and not fits(half, shape, half.dtype, self.device):
            return None
        if not all(a is None or fits(a, shape, x.dtype, self.device) for a in (x, *states)):
            return None
        item = self.optimizer._items[p] = self.kernels.Item(x, states, half)
        return item

    def _around(self, p: Tensor) -> tuple[Array | None, float, float, float] | None:
        """The mask of a parameter, the factors of L1 and L2, and that of the threshold; None where there is more."""
        if not isinstance(p, Parameter):
            return None, 0.0, 0.0, 0.0
        penalty: Any = p.regularizer
        if p.constraint is not None or type(penalty) not in (type(None), L1, L2, L1L2, ProximalL1):
            return None
        who = type(self.optimizer).__name__
        keep = mask_beside(p, lambda: f"{who}.step: {self.optimizer._name(self.group, p)}")
        if penalty is None:
            return keep, 0.0, 0.0, 0.0
        if type(penalty) is ProximalL1:
            return keep, 0.0, 0.0, float(penalty.l1)
        return keep, float(penalty.l1), float(penalty.l2), 0.0

    def launch(self, finite: Array | None) -> None:
        """Update them, unless the bool `finite`, which lies on the GPU, is False there."""
        if not self.params:
            return
        with self.device:
            self._place()
            both: dict[Any, list[Any]] = {}
            for item in self._items:
                both.setdefault(item.arrays[0].dtype, []).append(item)
            for items in both.values():
                self.kernels.update(self.rule.name, items, self._numbers, self.rule.flags, finite)
            for item in self._items:
                item.held = None  # gradients go when their owners drop them

    def _numbers(self) -> np.ndarray[Any, Any]:
        now = self.optimizer.fused_rule(self.group)
        if now is None or (now.names, now.flags) != (self.rule.names, self.rule.flags):
            who = f"{type(self.optimizer).__name__}.step"
            got, need = "other terms than the captured one", "hyperparameters that turn none on or off"
            raise GradError(message(who, "the rule", got, need, "Capture it anew"))
        return np.array(self.rule.numbers(), np.float64)

    def _place(self) -> None:
        """Let the kernel count what the states have as plain numbers: at first, and after a step that it did not do."""
        found = [
            (item, state)
            for item, state in zip(self._items, self._states, strict=True)
            if state.get("step") is not item.counts[0] or state.get("mu_product") is not item.counts[1]
        ]
        for name, dtype in COUNTS.items():
            plain = [state for _, state in found if name in state and not self._counts(state[name])]
            if plain:
                for state, number in zip(plain, self.kernels.placed([s[name] for s in plain], dtype), strict=True):
                    state[name] = number
        for item, state in found:
            item.count(state.get("step"), state.get("mu_product"))

    def _counts(self, value: Any) -> bool:
        return isinstance(value, DeviceNumber) and value.array.device.id == self.device.id

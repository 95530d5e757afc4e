"""Stages: what a step does before and after the update rule, for parameters that need more than the rule."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad.backend.devices import is_foreign
from minigrad.backend.rows import RowSparse
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.masks import mask_beside
from minigrad.optim.gradients import cast, values_of
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.optim.optimizer import Optimizer

__all__ = ["MASTER", "Stages", "wide"]

Array = Any
State = dict[str, Any]
MASTER = "master"  # the key of the master weights in the state of a half parameter


class Stages:
    """The stages around the rule for one parameter; docs/training_step.md has all of them in their order.

    Made before anything has changed, it raises what there is to refuse and holds what the rule is to see: `x`, `g` and
    `state`, of the rows used alone where the gradient is row-sparse. `finish` takes it from there.

    Parameters
    ----------
    optimizer : Optimizer
        Whose step it is.
    group : dict
        The hyperparameters.
    p : Tensor
        A parameter of the group; it has a gradient.
    state : dict
        Its state.
    """

    __slots__ = (
        "constraint", "g", "half", "keep", "lr", "p", "regularizer", "rows", "state", "whole", "whole_state", "x",
    )  # fmt: skip

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], p: Tensor, state: State) -> None:
        grad = p._grad
        assert grad is not None
        self.p, self.whole_state, self.half = p, state, p.dtype in dtypes.HALF
        self.rows = grad._array.ids if type(grad._array) is RowSparse else None
        self.regularizer = getattr(p, "regularizer", None)  # a tensor that is no Parameter has none of the three
        self.constraint = getattr(p, "constraint", None)
        self._check(optimizer, group)
        self.keep = mask_beside(p, lambda: _where(optimizer, group, p))
        self.lr = _learning_rate(optimizer, group, p)
        self.whole = self._whole()
        self.g = values_of(grad._array)
        if self.rows is None:
            self.x, self.state = self.whole, state
        else:
            optimizer.conform(self.whole, state)
            self.x = self.whole[self.rows]
            self.state = {
                name: value[self.rows] if getattr(value, "shape", None) == p.shape else value
                for name, value in state.items()
                if name != MASTER
            }
        if self.half:
            _follow(self.x, p._array if self.rows is None else p._array[self.rows])
        self._penalize(bool(group.get("maximize")))

    def _check(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        """Raise where an attribute is nothing that a step can call."""
        for name, value, known, need in (
            ("regularizer", self.regularizer, hasattr(self.regularizer, "gradient"), "nn.L2(1e-4), for example"),
            ("constraint", self.constraint, callable(self.constraint), "nn.MaxNorm(2.0), for example, or a function"),
        ):
            if value is not None and not known:
                raise TypeError(message(_where(optimizer, group, self.p), name, describe(value), need))

    def _constrain(self, x: Array) -> None:
        """Apply the constraint; a function may give new values instead of writing them."""
        constraint: Any = self.constraint
        found = constraint(x)
        if found is None or found is x:
            return
        given = found._array if isinstance(found, Tensor) else found
        values = given if is_foreign(given) else np.asarray(given)
        if values.shape != x.shape:
            need = f"None, or new values of shape {x.shape}"
            raise ShapeError(message("step", "the result of a constraint", describe(found), need))
        x[...] = values

    def _whole(self) -> Array:
        """The parameter's array, or its master weights, which are made where it is half, and dropped where not."""
        if not self.half:
            self.whole_state.pop(MASTER, None)
            return self.p._array
        if MASTER not in self.whole_state:
            self.whole_state[MASTER] = wide(self.p._array)
        return self.whole_state[MASTER]

    def _penalize(self, ascends: bool) -> None:
        """Add the penalty to the gradient, and set what the mask leaves out to 0."""
        if self.regularizer is not None:
            slope = self.regularizer.gradient(self.x)
            # a rule that ascends turns the sign of all that it sees
            g = self.g - slope if ascends else self.g + slope
            self.g = g.astype(self.x.dtype, copy=False)
        if self.keep is not None:
            self.g = np.where(self._keep_rows(), self.g, 0)

    def _keep_rows(self) -> Array:
        assert self.keep is not None
        return self.keep if self.rows is None else self.keep[self.rows]

    def finish(self) -> None:
        """After the rule: threshold, constraint, mask on the weight, rows to their table, master weights to half."""
        x, p, whole = self.x, self.p, self.whole
        by_row = self.rows is None or getattr(self.constraint, "by_row", False)
        prox = getattr(self.regularizer, "prox", None)
        if prox is not None:
            prox(x, self.lr)
        if self.constraint is not None and by_row:
            self._constrain(x)
        if self.keep is not None:
            np.copyto(x, 0, where=~self._keep_rows())
        if self.rows is None:
            if self.half:
                p._array[...] = cast(x, p.dtype)
            return
        whole[self.rows] = x
        self._return_state()
        if self.constraint is not None and not by_row:
            self._constrain(whole)
            if self.keep is not None:
                np.copyto(whole, 0, where=~self.keep)
            if self.half:
                p._array[...] = cast(whole, p.dtype)
        elif self.half:
            p._array[self.rows] = cast(x, p.dtype)

    def _return_state(self) -> None:
        """Write the state of the rows into that of the table."""
        state, rows = self.whole_state, self.rows
        for name in [name for name in state if name != MASTER and name not in self.state]:
            del state[name]  # what belonged to something that was switched off
        for name, value in self.state.items():
            if name in state and getattr(state[name], "shape", None) == self.p.shape:
                state[name][rows] = value
            elif hasattr(value, "dtype"):  # made by this step, such as a momentum that was switched on
                state[name] = np.zeros_like(self.whole)
                state[name][rows] = value
            else:
                state[name] = value


def wide(x: Array) -> Array:
    """What a rule works on: the array of a parameter, in float32 where it is half."""
    return cast(x, dtypes.float32) if x.dtype in dtypes.HALF else x


def _follow(master: Array, x: Array) -> None:
    """Where a half weight is no longer its master weight rounded, somebody has written to it: take its value."""
    other = cast(master, x.dtype).view(np.uint16) != x.view(np.uint16)
    if type(x) is not np.ndarray or other.any():  # to ask a GPU would be to wait for it
        np.copyto(master, cast(x, dtypes.float32), where=other)


def _learning_rate(optimizer: Optimizer, group: dict[str, Any], p: Tensor) -> float:
    """What `prox` is called with."""
    lr = group.get("lr")
    if getattr(getattr(p, "regularizer", None), "prox", None) is None:
        return 0.0
    if not isinstance(lr, Real):
        need = "a number, as the threshold of the regularizer depends on it"
        raise ValueError(message(_where(optimizer, group, p), "lr", describe(lr), need))
    return float(lr)


def _where(optimizer: Optimizer, group: dict[str, Any], p: Tensor) -> str:
    return f"{type(optimizer).__name__}.step: {optimizer._name(group, p)}"

"""Adaptive: the base of rules that divide the gradient, or its running mean, by the root of a second moment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minigrad._core.cpu import Kernel
from minigrad.optim.fused_step import FusedRule, Numbers
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import descent

__all__ = ["Adaptive", "Factors", "Plan"]

fused = Kernel("adaptive", "adaptive")

Factors = tuple[float, float, float] | None  # of the gradient, of its mean, of the root; None: the rule does without it


class Plan(NamedTuple):
    """The numbers of a group; the kernel takes them in this order."""

    names: tuple[str | None, str, str | None]  # of the mean of the gradient, the second moment, the momentum
    beta1: float = 0.0
    fresh1: float = 0.0
    beta2: float = 1.0
    fresh2: float = 1.0
    eps: float = 0.0
    shrink: float = 1.0
    penalty: float = 0.0
    rate: float = 1.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False


class Adaptive(Optimizer):
    """Base of `NAdam`, `RAdam`, `RMSprop` and `Adagrad`.

    ::

        g = gradient + penalty * x
        m = beta1 * m + fresh1 * g                      where the plan names a mean
        v = beta2 * v + fresh2 * g**2
        u = (scale * g + mean_scale * m) / (root_scale * sqrt(v  or, centered,  v - m**2) + eps)
        b = momentum * b + u                            where it names a momentum, else b = u
        x = shrink * x - rate * b

    A subclass says in `plan` what a group's numbers are, and in `advance` what the three scales of a parameter's step
    are. One kernel computes all of them.
    """

    by_row = True

    def plan(self, group: Group) -> Plan:
        """The numbers of a group."""
        raise NotImplementedError(f"{self._who}: needs a method plan(self, group)")

    def advance(self, x: Array, state: State, group: Group) -> Factors:
        """Count the step of a parameter, and give its factors of the gradient, of its mean, and of the root."""
        state["step"] += 1
        return 1.0, 0.0, 1.0

    def numbered(self, name: str, group: Group, decay: str = "") -> FusedRule:
        """The rule for a GPU's kernel; `decay` names a hyperparameter of `advance`, which the kernel does itself."""

        def numbers() -> Numbers:
            plan = self.plan(group)
            own = {field: getattr(plan, field) for field in plan._fields if field in Numbers._fields}
            sign = -1.0 if plan.maximize else 1.0
            return Numbers(**own, lr=group["lr"], decay=group[decay] if decay else 0.0, sign=sign)

        plan = self.plan(group)
        return FusedRule(name, plan.names, numbers, plan.centered)

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        Adaptive.update_all(self, [x], [g], [state], group)

    def update_all(self, xs: list[Array], gs: list[Array], states: list[State], group: Group) -> None:
        """Write the new values of parameters into `xs`."""
        plan = self.plan(group)
        factors = [self.advance(x, state, group) for x, state in zip(xs, states, strict=True)]
        for i in fused(xs, gs, states, factors, *plan):
            self._update_generic(xs[i], gs[i], states[i], group, plan, factors[i])

    def plain(self, x: Array, m: Array, state: State, group: Group) -> None:
        """The end of a step that does without the second moment."""
        raise NotImplementedError(f"{self._who}: needs a method plain(self, x, m, state, group)")

    def _update_generic(self, x: Array, g: Array, state: State, group: Group, plan: Plan, factors: Factors) -> None:
        self.conform(x, state)
        first, second, third = plan.names
        g = descent(x, g, plan.penalty, plan.maximize)
        if plan.shrink != 1.0:
            x *= plan.shrink
        v = state[second]
        scratch = np.multiply(g, plan.fresh2, out=np.empty_like(x))
        scratch *= g
        v *= plan.beta2
        v += scratch
        m = g
        if first is not None:
            m = state[first]
            m *= plan.beta1
            m += np.multiply(g, plan.fresh1, out=scratch)
        if factors is None:
            return self.plain(x, m, state, group)
        scale, mean_scale, root_scale = factors
        if plan.centered:
            np.multiply(m, m, out=scratch)
            np.subtract(v, scratch, out=scratch)
            np.maximum(scratch, 0.0, out=scratch)  # which rounding may have made negative
            np.sqrt(scratch, out=scratch)
        else:
            np.sqrt(v, out=scratch)
        scratch *= root_scale
        scratch += plan.eps
        if mean_scale and scale:
            mean = np.multiply(m, mean_scale, out=np.empty_like(x))
            mean += np.multiply(g, scale)
            np.divide(mean, scratch, out=scratch)
        else:
            np.divide(m if mean_scale else g, scratch, out=scratch)
            scratch *= mean_scale or scale
        if third is not None:
            b = state[third]
            b *= plan.momentum
            b += scratch
            np.multiply(b, plan.rate, out=scratch)
        else:
            scratch *= plan.rate
        x -= scratch

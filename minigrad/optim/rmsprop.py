"""RMSprop: the gradient over the root of a running mean of its square."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.optim.adaptive import Adaptive, Factors, Plan
from minigrad.optim.fused_step import FusedRule
from minigrad.optim.optimizer import Array, Group, State

__all__ = ["RMSprop"]


class RMSprop(Adaptive):
    """RMSprop, centered or not, with momentum or without.

    ::

        g = gradient + weight_decay * x
        v = alpha * v + (1 - alpha) * g**2
        a = alpha * a + (1 - alpha) * g                         if centered, else a = 0
        b = momentum * b + g / (sqrt(v - a**2) + eps)
        x = x - lr * b

    Tieleman and Hinton, "Lecture 6.5: RMSProp", Coursera, 2012; centered: Graves, "Generating sequences with recurrent
    neural networks", 2013. Where rounding makes ``v - a**2`` negative, it counts as 0.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    alpha : float
        Decay of the running means.
    eps : float
        Added to the root.
    weight_decay : float
        An L2 penalty, added to the gradient.
    momentum : float
        The share of the last steps.
    centered : bool
        Divide by the deviation of the gradient from its mean.
    maximize : bool
        Ascend instead.

    Notes
    -----
    From a row-sparse gradient the rows used learn; the others, their means and their momentum rest.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.RMSprop([w], lr=0.05)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> abs(w.item()) < 0.1
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "eps", "weight_decay", "momentum"):
            self.require(group, name)
        self.require(group, "alpha", below=1.0)

    def init(self, x: Array, group: Group) -> State:
        """The running means, and the momentum buffer."""
        state = {"step": 0, "square_avg": np.zeros_like(x)}
        return state | {name: np.zeros_like(x) for name in self._optional(group)}

    def plan(self, group: Group) -> Plan:
        """The decay of the means; which of them there are."""
        alpha, centered, momentum = group["alpha"], bool(group["centered"]), group["momentum"]
        return Plan(
            ("grad_avg" if centered else None, "square_avg", "momentum_buffer" if momentum else None),
            beta1=alpha,
            fresh1=1.0 - alpha,
            beta2=alpha,
            fresh2=1.0 - alpha,
            eps=group["eps"],
            penalty=group["weight_decay"],
            rate=group["lr"],
            momentum=momentum,
            centered=centered,
            maximize=group["maximize"],
        )

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""
        return self.numbered("rmsprop", group)

    def fit_state(self, x: Array, state: State, group: Group) -> None:
        """Make the state what momentum and centered say."""
        optional = self._optional(group)
        for name in ("grad_avg", "momentum_buffer"):  # they may be switched on and off between steps
            if name not in optional:
                state.pop(name, None)
            elif name not in state:
                state[name] = np.zeros_like(x)

    def advance(self, x: Array, state: State, group: Group) -> Factors:
        """Count the step."""
        self.fit_state(x, state, group)
        state["step"] += 1
        return 1.0, 0.0, 1.0

    @staticmethod
    def _optional(group: Group) -> list[str]:
        return ["grad_avg"] * bool(group["centered"]) + ["momentum_buffer"] * bool(group["momentum"])

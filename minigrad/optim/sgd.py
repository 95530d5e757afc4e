"""SGD: stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad._core.cpu import Kernel
from minigrad.errors import message
from minigrad.optim.fused_step import FusedRule, Numbers
from minigrad.optim.optimizer import Array, Group, Optimizer, State

__all__ = ["SGD"]

fused = Kernel("optimize", "sgd")


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's momentum.

    ::

        g = gradient + weight_decay * x
        b = momentum * b + (1 - dampening) * g          (b = g in the first step)
        x = x - lr * (g + momentum * b   if nesterov else   b)

    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Sutskever et al., "On the
    importance of initialization and momentum in deep learning", 2013. As in PyTorch the learning rate is outside the
    momentum.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    momentum, dampening : float
        The share of the last steps, and how much less than 1 the gradient counts in it.
    weight_decay : float
        An L2 penalty, added to the gradient.
    nesterov : bool
        Nesterov's momentum; it needs `momentum` and no `dampening`.
    maximize : bool
        Ascend instead.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([2.4], requires_grad=True)
    """

    by_row = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges, and that Nesterov's momentum has one."""
        for name in ("lr", "momentum", "weight_decay"):
            self.require(group, name)
        self.require(group, "dampening", low=-float("inf"))
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(message("SGD", "nesterov", "True", "momentum above 0 and dampening 0"))

    def init(self, x: Array, group: Group) -> State:
        """The momentum buffer; it takes the first gradient whole."""
        return {"step": 0, "momentum_buffer": np.zeros_like(x)} if group["momentum"] else {"step": 0}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        SGD.update_all(self, [x], [g], [state], group)

    def update_all(self, xs: list[Array], gs: list[Array], states: list[State], group: Group) -> None:
        """Write the new values of parameters into `xs`."""
        lr, momentum, dampening = group["lr"], group["momentum"], group["dampening"]
        weight_decay, nesterov, maximize = group["weight_decay"], group["nesterov"], group["maximize"]
        if not momentum:  # a buffer from before it was switched off is no part of the state any more
            for state in states:
                state.pop("momentum_buffer", None)
        for i in fused(xs, gs, states, lr, momentum, dampening, weight_decay, nesterov, maximize):
            self._update_generic(xs[i], gs[i], states[i], group)

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""

        def numbers() -> Numbers:
            return Numbers(
                lr=group["lr"],
                penalty=group["weight_decay"],
                momentum=group["momentum"],
                fresh=1.0 - group["dampening"],
                sign=-1.0 if group["maximize"] else 1.0,
            )

        names = ("momentum_buffer" if group["momentum"] else None, None, None)
        return FusedRule("sgd", names, numbers, bool(group["nesterov"]))

    def fit_state(self, x: Array, state: State, group: Group) -> None:
        """Make the state what momentum says; one that was switched on begins with the next step."""
        if not group["momentum"]:
            state.pop("momentum_buffer", None)
        elif "momentum_buffer" not in state:
            state.update(step=0, momentum_buffer=np.zeros_like(x))

    def _update_generic(self, x: Array, g: Array, state: State, group: Group) -> None:
        self.conform(x, state)
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        if group["maximize"]:
            g = -g
        if weight_decay:
            g = g + weight_decay * x
        if momentum:
            self.fit_state(x, state, group)
            buffer = state["momentum_buffer"]
            buffer *= momentum
            buffer += (1.0 - group["dampening"] if state["step"] else 1.0) * g
            g = g + momentum * buffer if group["nesterov"] else buffer
        state["step"] += 1
        x -= lr * g

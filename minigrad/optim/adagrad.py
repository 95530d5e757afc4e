"""Adagrad and Adadelta: the gradient over the root of the sum of its squares, and of a running mean of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.optim.adaptive import Adaptive, Factors, Plan
from minigrad.optim.fused_step import FusedRule
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import descent

__all__ = ["Adadelta", "Adagrad"]


class Adagrad(Adaptive):
    """Adagrad.

    ::

        g = gradient + weight_decay * x
        s = s + g**2                                                   from s = initial_accumulator_value
        x = x - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)    in step t = 1, 2, ...

    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    lr_decay : float
        How fast the learning rate falls besides.
    weight_decay : float
        An L2 penalty, added to the gradient.
    initial_accumulator_value : float
        Where the sum of squares starts.
    eps : float
        Added to the root.
    maximize : bool
        Ascend instead.

    Notes
    -----
    A step with a row-sparse gradient is that with the full one, as rows whose gradient is 0 rest; with a weight decay,
    the rows used alone shrink.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.Adagrad([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([2.5], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            self.require(group, name)

    def init(self, x: Array, group: Group) -> State:
        """The sum of squares."""
        return {"step": 0, "sum": np.full_like(x, group["initial_accumulator_value"])}

    def plan(self, group: Group) -> Plan:
        """A sum that forgets nothing."""
        return Plan((None, "sum", None), eps=group["eps"], penalty=group["weight_decay"], maximize=group["maximize"])

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""
        return self.numbered("adagrad", group, "lr_decay")

    def advance(self, x: Array, state: State, group: Group) -> Factors:
        """Count the step, and give its learning rate."""
        state["step"] += 1
        return group["lr"] / (1.0 + (state["step"] - 1) * group["lr_decay"]), 0.0, 1.0


class Adadelta(Optimizer):
    """Adadelta.

    ::

        g = gradient + weight_decay * x
        v = rho * v + (1 - rho) * g**2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        x = x - lr * d

    Zeiler, "Adadelta: an adaptive learning rate method", 2012, with `lr` 1.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Factor of the step.
    rho : float
        Decay of the running means of the squares of gradients and steps.
    eps : float
        Added under the roots; its root sets the size of the first steps.
    weight_decay : float
        An L2 penalty, added to the gradient.
    maximize : bool
        Ascend instead.

    Notes
    -----
    From a row-sparse gradient the rows used learn; the others and their means rest.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.Adadelta([w], eps=1e-2)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> abs(w.item()) < 0.1
    True
    """

    by_row = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "eps", "weight_decay"):
            self.require(group, name)
        self.require(group, "rho", below=1.0)

    def init(self, x: Array, group: Group) -> State:
        """The running means of the squares of gradients and steps."""
        return {"square_avg": np.zeros_like(x), "acc_delta": np.zeros_like(x)}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        self.conform(x, state)
        v, u, rho, eps = state["square_avg"], state["acc_delta"], group["rho"], group["eps"]
        g = descent(x, g, group["weight_decay"], group["maximize"])
        scratch, d = np.multiply(g, 1.0 - rho, out=np.empty_like(x)), np.empty_like(x)
        scratch *= g
        v *= rho
        v += scratch
        np.add(u, eps, out=d)
        np.add(v, eps, out=scratch)
        np.divide(d, scratch, out=d)
        np.sqrt(d, out=d)
        d *= g
        np.multiply(d, 1.0 - rho, out=scratch)
        scratch *= d
        u *= rho
        u += scratch
        d *= group["lr"]
        x -= d

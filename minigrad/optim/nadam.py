"""NAdam and RAdam: Adam with Nesterov's momentum, and with a rectified second moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.optim.adaptive import Adaptive, Factors, Plan
from minigrad.optim.fused_step import FusedRule
from minigrad.optim.optimizer import Array, Group, State
from minigrad.optim.terms import check_betas

__all__ = ["NAdam", "RAdam"]


class _Moments(Adaptive):
    """What both have in common: two moments, and a decay of either kind."""

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "eps", "weight_decay"):
            self.require(group, name)
        check_betas(self, group)

    def init(self, x: Array, group: Group) -> State:
        """The moments."""
        return {"step": 0, "exp_avg": np.zeros_like(x), "exp_avg_sq": np.zeros_like(x)}

    def plan(self, group: Group) -> Plan:
        """The decay of the moments, and of the weights."""
        (beta1, beta2), decay, decoupled = group["betas"], group["weight_decay"], group["decoupled_weight_decay"]
        return Plan(
            ("exp_avg", "exp_avg_sq", None),
            beta1=beta1,
            fresh1=1.0 - beta1,
            beta2=beta2,
            fresh2=1.0 - beta2,
            eps=group["eps"],
            shrink=1.0 - group["lr"] * decay if decoupled else 1.0,
            penalty=0.0 if decoupled else decay,
            maximize=group["maximize"],
        )


class NAdam(_Moments):
    """Adam with Nesterov's momentum.

    ::

        g = gradient + weight_decay * x
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)                       in step t = 1, 2, ...
        step = (1 - mu(t)) / (1 - mu(1)...mu(t)) * g  +  mu(t + 1) / (1 - mu(1)...mu(t + 1)) * m
        x = x - lr * step / (sqrt(v / (1 - beta2**t)) + eps)

    Dozat, "Incorporating Nesterov momentum into Adam", 2016.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    betas : pair of float
        Decay of the running mean of the gradient and of its square.
    eps : float
        Added to the root.
    weight_decay : float
        An L2 penalty, added to the gradient.
    momentum_decay : float
        How fast the momentum comes near `beta1`, from half of it.
    decoupled_weight_decay : bool
        Shrink the weights by ``1 - lr * weight_decay`` instead, as `AdamW` does.
    maximize : bool
        Ascend instead.

    Notes
    -----
    From a row-sparse gradient the rows used learn, by the number of steps of the table; the others and their moments
    rest.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.NAdam([w], lr=0.1)
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
        lr: float = 2e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if hasattr(betas, "__iter__") else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        super().check(group)
        self.require(group, "momentum_decay")

    def init(self, x: Array, group: Group) -> State:
        """The moments, and the product of all momenta so far."""
        return {**super().init(x, group), "mu_product": 1.0}

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""
        return self.numbered("nadam", group, "momentum_decay")

    def advance(self, x: Array, state: State, group: Group) -> Factors:
        """Count the step and multiply by its momentum."""
        step = state["step"] = state["step"] + 1
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["momentum_decay"]
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * decay))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * decay))
        product = state["mu_product"] = float(state["mu_product"] * mu)
        return (
            lr * (1.0 - mu) / (1.0 - product),
            lr * mu_next / (1.0 - product * mu_next),
            1.0 / math.sqrt(1.0 - beta2**step),
        )


class RAdam(_Moments):
    """Adam that first waits until its second moment can be trusted.

    ::

        g = gradient + weight_decay * x
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        R = 2 / (1 - beta2) - 1
        r = R - 2 * t * beta2**t / (1 - beta2**t)                                  in step t = 1, 2, ...
        rect = sqrt((r - 4) * (r - 2) * R / ((R - 4) * (R - 2) * r))
        x = x - lr * m / (1 - beta1**t) * rect * sqrt(1 - beta2**t) / (sqrt(v) + eps)      if r > 5   else
            x - lr * m / (1 - beta1**t)

    Liu et al., "On the variance of the adaptive learning rate and beyond", 2020. As in PyTorch the first steps are
    those of momentum where r <= 5; the paper says 4.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    betas : pair of float
        Decay of the running mean of the gradient and of its square.
    eps : float
        Added to the root.
    weight_decay : float
        An L2 penalty, added to the gradient.
    decoupled_weight_decay : bool
        Shrink the weights by ``1 - lr * weight_decay`` instead, as `AdamW` does.
    maximize : bool
        Ascend instead.

    Notes
    -----
    From a row-sparse gradient the rows used learn, by the number of steps of the table; the others and their moments
    rest.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.RAdam([w], lr=0.1)
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
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if hasattr(betas, "__iter__") else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""
        return self.numbered("radam", group)

    def advance(self, x: Array, state: State, group: Group) -> Factors:
        """Count the step; None while the second moment is not used."""
        step = state["step"] = state["step"] + 1
        beta1, beta2 = group["betas"]
        power, longest = beta2**step, 2.0 / (1.0 - beta2) - 1.0
        length = longest - 2.0 * step * power / (1.0 - power)
        if length <= 5.0:
            return None
        rect = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
        return 0.0, group["lr"] / (1.0 - beta1**step) * math.sqrt(rect * (1.0 - power)), 1.0

    def plain(self, x: Array, m: Array, state: State, group: Group) -> None:
        """A step of momentum."""
        x -= m * (group["lr"] / (1.0 - group["betas"][0] ** state["step"]))

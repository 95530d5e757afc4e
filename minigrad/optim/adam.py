"""Adam and AdamW: steps scaled by running moments of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad._core.cpu import Kernel
from minigrad.optim.fused_step import FusedRule, Numbers
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import check_betas

__all__ = ["Adam", "AdamW"]

fused = Kernel("optimize", "adam")


class Adam(Optimizer):
    """Adam: adaptive moment estimation.

    ::

        g = gradient + weight_decay * x
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        x = x - lr * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)        in step t = 1, 2, ...

    Kingma and Ba, "Adam: a method for stochastic optimization", 2015. With `amsgrad` the largest v so far stands in the
    square root: Reddi, Kale and Kumar, "On the convergence of Adam and beyond", 2018.

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
        An L2 penalty, added to the gradient, so that the moments see it; `AdamW` decays the weights instead.
    amsgrad : bool
        Use the largest second moment so far.
    maximize : bool
        Ascend instead.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.Adam([w], lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> abs(w.item()) < 0.1
    True
    """

    by_row = True
    decoupled = False  # whether weight_decay shrinks the weights themselves

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if hasattr(betas, "__iter__") else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "eps", "weight_decay"):
            self.require(group, name)
        check_betas(self, group)

    def init(self, x: Array, group: Group) -> State:
        """The moments."""
        state = {"step": 0, "exp_avg": np.zeros_like(x), "exp_avg_sq": np.zeros_like(x)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = np.zeros_like(x)
        return state

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        Adam.update_all(self, [x], [g], [state], group)

    def update_all(self, xs: list[Array], gs: list[Array], states: list[State], group: Group) -> None:
        """Write the new values of parameters into `xs`."""
        (beta1, beta2), lr, eps, weight_decay = group["betas"], group["lr"], group["eps"], group["weight_decay"]
        for x, state in zip(xs, states, strict=True):  # it may be switched on and off between steps
            if group["amsgrad"] is not ("max_exp_avg_sq" in state):
                self.fit_state(x, state, group)
        for i in fused(xs, gs, states, lr, beta1, beta2, eps, weight_decay, self.decoupled, group["maximize"]):
            self._update_generic(xs[i], gs[i], states[i], group)

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""

        def numbers() -> Numbers:
            (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
            shrink, penalty = (1.0 - lr * decay, 0.0) if self.decoupled else (1.0, decay)
            sign = -1.0 if group["maximize"] else 1.0
            return Numbers(
                lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2, group["eps"], shrink=shrink, penalty=penalty, sign=sign
            )

        return FusedRule("adam", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None), numbers)

    def fit_state(self, x: Array, state: State, group: Group) -> None:
        """Make the state what amsgrad says."""
        if group["amsgrad"]:
            state.setdefault("max_exp_avg_sq", np.zeros_like(x))
        else:
            state.pop("max_exp_avg_sq", None)

    def _update_generic(self, x: Array, g: Array, state: State, group: Group) -> None:
        self.conform(x, state)
        step = state["step"] = state["step"] + 1
        m, v, v_max = state["exp_avg"], state["exp_avg_sq"], state.get("max_exp_avg_sq")
        (beta1, beta2), lr, eps, weight_decay = group["betas"], group["lr"], group["eps"], group["weight_decay"]
        if group["maximize"]:
            g = -g
        if weight_decay and self.decoupled:
            x *= 1.0 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * x
        scratch = np.multiply(g, 1.0 - beta1, out=np.empty_like(x))
        m *= beta1
        m += scratch
        np.multiply(g, 1.0 - beta2, out=scratch)
        scratch *= g
        v *= beta2
        v += scratch
        if v_max is not None:
            np.maximum(v_max, v, out=v_max)
        np.sqrt(v if v_max is None else v_max, out=scratch)
        scratch *= 1.0 / math.sqrt(1.0 - beta2**step)
        scratch += eps
        np.divide(m, scratch, out=scratch)
        scratch *= lr / (1.0 - beta1**step)
        x -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay.

    Before the step of `Adam`, which then has no penalty, ``x = x * (1 - lr * weight_decay)``: the decay is not divided
    by the root of the second moment. Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, maximize
        As for `Adam`.
    weight_decay : float
        How much of each weight a step of learning rate 1 takes away.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([1.0])
    >>> optimizer = optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * 0).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.95], requires_grad=True)
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

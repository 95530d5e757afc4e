"""Lion: steps of one size, the signs of a momentum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad._core.cpu import Kernel
from minigrad.optim.fused_step import FusedRule, Numbers
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import check_betas, descent

__all__ = ["Lion"]

fused = Kernel("adaptive", "lion")


class Lion(Optimizer):
    """Lion: evolved sign momentum.

    ::

        c = beta1 * m + (1 - beta1) * gradient
        m = beta2 * m + (1 - beta2) * gradient
        x = x - lr * (sign(c) + weight_decay * x)

    Chen et al., "Symbolic discovery of optimization algorithms", 2023. Its authors advise a learning rate 3 to 10 times
    smaller than AdamW's, and a weight decay as many times larger. The sign of 0 is 0.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate: how far each element moves in a step.
    betas : pair of float
        Decay of the momentum in the step's sign, and from step to step.
    weight_decay : float
        How much of each weight a step of learning rate 1 takes away.
    maximize : bool
        Ascend instead.

    Notes
    -----
    From a row-sparse gradient the rows used learn; the others and their momentum rest.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0, -0.5])
    >>> optimizer = optim.Lion([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 2.75, -0.25], requires_grad=True)
    """

    by_row = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        betas = tuple(betas) if hasattr(betas, "__iter__") else betas
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "weight_decay"):
            self.require(group, name)
        check_betas(self, group)

    def init(self, x: Array, group: Group) -> State:
        """The momentum."""
        return {"exp_avg": np.zeros_like(x)}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        Lion.update_all(self, [x], [g], [state], group)

    def update_all(self, xs: list[Array], gs: list[Array], states: list[State], group: Group) -> None:
        """Write the new values of parameters into `xs`."""
        beta1, beta2 = group["betas"]
        for i in fused(xs, gs, states, group["lr"], beta1, beta2, group["weight_decay"], group["maximize"]):
            self._update_generic(xs[i], gs[i], states[i], group)

    def fused_rule(self, group: Group) -> FusedRule:
        """The rule for a GPU's kernel."""

        def numbers() -> Numbers:
            (beta1, beta2), lr = group["betas"], group["lr"]
            shrink, sign = 1.0 - lr * group["weight_decay"], -1.0 if group["maximize"] else 1.0
            return Numbers(lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2, shrink=shrink, rate=lr, sign=sign)

        return FusedRule("lion", ("exp_avg", None, None), numbers)

    def _update_generic(self, x: Array, g: Array, state: State, group: Group) -> None:
        self.conform(x, state)
        (beta1, beta2), lr, m = group["betas"], group["lr"], state["exp_avg"]
        g = descent(x, g, 0.0, group["maximize"])
        scratch = np.multiply(g, 1.0 - beta1, out=np.empty_like(x))
        c = np.multiply(m, beta1, out=np.empty_like(x))
        c += scratch
        np.multiply(g, 1.0 - beta2, out=scratch)
        m *= beta2
        m += scratch
        if group["weight_decay"]:
            x *= 1.0 - lr * group["weight_decay"]
        np.sign(c, out=c)
        c *= lr
        x -= c

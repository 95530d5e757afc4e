"""LAMB and LARS: steps in proportion to the norm of the weights that they change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import check_betas, descent, norm

__all__ = ["LAMB", "LARS"]


def _ratio(x: Array, u: Array, scratch: Array, trust: float = 1.0, eps: float = 0.0) -> float:
    """The norm of `x` over that of `u`, times the trust; 1 where one of the norms is 0."""
    of_x, of_u = norm(x, scratch), norm(u, scratch)
    return trust * of_x / (of_u + eps) if of_x and of_u else 1.0


class LAMB(Optimizer):
    """LAMB: Adam for large batches.

    ::

        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * x     in step t = 1, 2, ...
        x = x - lr * |x| / |u| * u

    with the norms of the whole parameter; the ratio is 1 where one of them is 0. You et al., "Large batch optimization
    for deep learning: training BERT in 76 minutes", 2020, with the identity for the scaling function.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate: the part of its norm that a parameter moves by.
    betas : pair of float
        Decay of the running mean of the gradient and of its square.
    eps : float
        Added to the root.
    weight_decay : float
        How much of the weights is added to the step, before its norm is taken.
    adapt : bool
        Whether to scale by the ratio of the norms; False in a group of biases and gains, which do without as a rule.
    maximize : bool
        Ascend instead.

    Notes
    -----
    It needs the full gradient, as norms do.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0, 4.0])
    >>> optimizer = optim.LAMB([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> [round(value, 4) for value in w.tolist()]  # both by 0.1 * 5 / sqrt(2)
    [2.6464, 3.6464]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if hasattr(betas, "__iter__") else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapt": adapt,
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
        return {"step": 0, "exp_avg": np.zeros_like(x), "exp_avg_sq": np.zeros_like(x)}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        self.conform(x, state)
        step = state["step"] = state["step"] + 1
        m, v, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        g = descent(x, g, 0.0, group["maximize"])
        u = np.multiply(g, 1.0 - beta1, out=np.empty_like(x))
        m *= beta1
        m += u
        np.multiply(g, 1.0 - beta2, out=u)
        u *= g
        v *= beta2
        v += u
        np.sqrt(v, out=u)
        u *= 1.0 / math.sqrt(1.0 - beta2**step)
        u += group["eps"]
        np.divide(m, u, out=u)
        u *= 1.0 / (1.0 - beta1**step)
        scratch = np.empty_like(x)
        if group["weight_decay"]:
            u += np.multiply(x, group["weight_decay"], out=scratch)
        u *= group["lr"] * (_ratio(x, u, scratch) if group["adapt"] else 1.0)
        x -= u


class LARS(Optimizer):
    """LARS: SGD for large batches.

    ::

        u = gradient + weight_decay * x
        b = momentum * b + lr * trust_coefficient * |x| / (|u| + eps) * u
        x = x - (lr * ... * u + momentum * b   if nesterov else   b)

    with the norms of the whole parameter; the factor before u is `lr` where one of them is 0. You, Gitman and Ginsburg,
    "Large batch training of convolutional networks", 2017; the paper divides by ``|gradient| + weight_decay * |x|``,
    and optax, as here, by the norm of the sum. The learning rate is inside the momentum, as in the paper and unlike
    `SGD`.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    momentum : float
        The share of the last steps.
    weight_decay : float
        An L2 penalty, added to the gradient.
    trust_coefficient : float
        The part of its norm that a parameter moves by at learning rate 1.
    eps : float
        Added to the norm of the step.
    nesterov : bool
        Nesterov's momentum.
    adapt : bool
        Whether to scale by the ratio of the norms and the coefficient; False in a group of biases and gains.
    maximize : bool
        Ascend instead.

    Notes
    -----
    It needs the full gradient, as norms do.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0, 4.0])
    >>> optimizer = optim.LARS([w], lr=1.0, trust_coefficient=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([1.5, 2. ], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        nesterov: bool = False,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "adapt": adapt,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "momentum", "weight_decay", "trust_coefficient", "eps"):
            self.require(group, name)

    def init(self, x: Array, group: Group) -> State:
        """The momentum buffer."""
        return {"momentum_buffer": np.zeros_like(x)}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        self.conform(x, state)
        b, momentum = state["momentum_buffer"], group["momentum"]
        u, scratch = descent(x, g, group["weight_decay"], group["maximize"]), np.empty_like(x)
        rate = group["lr"]
        if group["adapt"]:
            rate *= _ratio(x, u, scratch, group["trust_coefficient"], group["eps"])
        np.multiply(u, rate, out=scratch)
        b *= momentum
        b += scratch
        if not group["nesterov"]:
            x -= b
            return
        x -= scratch
        x -= np.multiply(b, momentum, out=scratch)

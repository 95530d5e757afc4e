"""Muon: momentum whose matrix is made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, describe, message
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import descent, is_in, norm

__all__ = ["Muon"]

ADJUSTMENTS = (None, "original", "match_rms_adamw")
MOST_STEPS = 100


class Muon(Optimizer):
    """Muon: momentum, orthogonalized by iterations of Newton and Schulz; for matrices alone.

    ::

        b = momentum * b + (1 - momentum) * gradient
        O = (1 - momentum) * gradient + momentum * b   if nesterov else   b
        O = O / max(|O|, eps),  then `ns_steps` times  A = O @ O.T,  O = c0 * O + (c1 * A + c2 * A @ A) @ O
        x = x * (1 - lr * weight_decay) - lr * scale * O

    with (c0, c1, c2) the `ns_coefficients`; where there are more rows than columns, O is transposed for the iterations.
    The scale is ``sqrt(max(1, outputs / inputs))``, that of "original", or ``0.2 * sqrt(max(inputs, outputs))``, that
    of "match_rms_adamw", with which AdamW's learning rate and decay will do. Jordan et al., "Muon: an optimizer for
    hidden layers in neural networks", 2024; Liu et al., "Muon is scalable for LLM training", 2025.

    A weight here is (inputs, outputs), PyTorch's (outputs, inputs): a step is that of PyTorch with the transposed
    weight. The iterations run in the dtype of the parameter, where PyTorch rounds to bfloat16.

    Parameters
    ----------
    params : iterable
        See `Optimizer`. Matrices: give embeddings, biases and gains to another optimizer.
    lr : float
        Learning rate.
    weight_decay : float
        How much of each weight a step of learning rate 1 takes away.
    momentum : float
        Decay of the running mean of the gradient.
    nesterov : bool
        Nesterov's momentum.
    ns_coefficients : three floats
        Of the iterations. These do not converge; they bring all singular values to between 0.7 and 1.2 soon.
    eps : float
        The least norm that the momentum is divided by.
    ns_steps : int
        Number of iterations, below 100.
    adjust_lr_fn : str, optional
        The scale: "original", as None, or "match_rms_adamw".
    maximize : bool
        Ascend instead.

    Raises
    ------
    ShapeError
        If a parameter is no matrix.

    Notes
    -----
    It needs the full gradient.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter(mg.zeros((2, 2)))
    >>> optimizer = optim.Muon([w], lr=1.0)
    >>> (w * mg.tensor([[5.0, 0.0], [0.0, 0.5]])).sum().backward()
    >>> optimizer.step()
    >>> abs(w.detach().numpy()).round(1)  # both singular values near 1
    array([[0.7, 0. ],
           [0. , 0.7]], dtype=float32)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": tuple(ns_coefficients) if hasattr(ns_coefficients, "__iter__") else ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "weight_decay", "eps"):
            self.require(group, name)
        self.require(group, "momentum", below=1.0)
        steps, factors, adjust = group["ns_steps"], group["ns_coefficients"], group["adjust_lr_fn"]
        if not isinstance(steps, int) or not is_in(steps, 0, MOST_STEPS):
            raise ValueError(message(self._who, "ns_steps", describe(steps), f"an int in [0, {MOST_STEPS})"))
        three = isinstance(factors, (tuple, list)) and len(factors) == 3
        if not three or not all(is_in(c, -math.inf, math.inf) and math.isfinite(c) for c in factors):
            raise ValueError(message(self._who, "ns_coefficients", describe(factors), "three finite numbers"))
        if adjust not in ADJUSTMENTS:
            raise ValueError(message(self._who, "adjust_lr_fn", describe(adjust), "'original' or 'match_rms_adamw'"))

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of matrices: a dict with ``"params"`` and the hyperparameters that differ from the defaults."""
        super().add_param_group(group)
        made = self.param_groups[-1]
        for p in made["params"]:
            if p.ndim != 2:
                hint = "Give biases, gains, embeddings and convolutions to another optimizer, such as optim.AdamW"
                text = message(self._who, self._name(made, p), f"of shape {p.shape}", "a matrix", hint)
                self.param_groups.pop()
                raise ShapeError(text)

    def init(self, x: Array, group: Group) -> State:
        """The running mean of the gradient."""
        return {"momentum_buffer": np.zeros_like(x)}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        self.conform(x, state)
        if not x.size:
            return
        b, lr, momentum = state["momentum_buffer"], group["lr"], group["momentum"]
        g = descent(x, g, 0.0, group["maximize"])
        step = np.multiply(g, 1.0 - momentum, out=np.empty_like(x))
        b *= momentum
        b += step
        if group["nesterov"]:
            step += momentum * b
        else:
            step[...] = b
        step = _orthogonal(step, group["ns_coefficients"], group["ns_steps"], group["eps"])
        inputs, outputs = x.shape
        matched = group["adjust_lr_fn"] == "match_rms_adamw"
        scale = 0.2 * math.sqrt(max(inputs, outputs)) if matched else math.sqrt(max(1.0, outputs / inputs))
        if group["weight_decay"]:
            x *= 1.0 - lr * group["weight_decay"]
        step *= lr * scale
        x -= step


def _orthogonal(o: Array, coefficients: Sequence[float], steps: int, eps: float) -> Array:
    """A matrix of nearly the same singular vectors, with singular values near 1; `o` is overwritten."""
    c0, c1, c2 = coefficients
    tall = o.shape[0] > o.shape[1]
    o = o.T if tall else o
    o /= max(norm(o), eps)
    for _ in range(steps):
        a = o @ o.T
        polynomial = a @ a
        polynomial *= c2
        a *= c1
        polynomial += a
        made = polynomial @ o
        o *= c0
        o += made
    return o.T if tall else o

"""Adafactor: second moments of a matrix kept as one number a row and one a column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.errors import describe, message
from minigrad.optim.optimizer import Array, Group, Optimizer, State
from minigrad.optim.terms import descent, is_in, norm

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Adafactor.

    ::

        beta = 1 - t**beta2_decay                                                  in step t = 1, 2, ...
        alpha = min(lr, 1 / sqrt(t)) * max(eps[1], rms(x))
        x = x * (1 - lr * weight_decay)
        R = beta * R + (1 - beta) * mean(gradient**2, axis=-1)
        C = beta * C + (1 - beta) * mean(gradient**2, axis=-2)
        V = outer(R, C) / max(mean(R), eps[0])
        U = gradient / max(sqrt(V), eps[0])
        x = x - alpha * U / max(1, rms(U) / d)

    with rms(a) the root of the mean of a**2. Parameters of one axis or none keep V itself, as a running mean of
    gradient**2; those of more than two are stacks of matrices. Shazeer and Stern, "Adafactor: adaptive learning rates
    with sublinear memory cost", 2018. Arguments and the place of ``eps[0]`` are PyTorch's (the paper adds it to
    gradient**2); `beta1`, `relative_step` and `scale_parameter` choose among the variants of the paper and of
    transformers.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        The largest relative step, and the factor of the weight decay.
    beta2_decay : float
        Power of the step number that says how fast the second moment forgets; at most 0.
    eps : pair of float
        The least root of the second moment (None: the dtype's epsilon), and the least scale of a parameter.
    d : float
        The root mean square that a step is clipped to.
    weight_decay : float
        How much of each weight a step of learning rate 1 takes away.
    beta1 : float, optional
        Decay of a running mean of the steps, which is taken in place of the last one; it costs memory of the size of
        the parameter.
    relative_step : bool
        False: alpha has `lr` in place of ``min(lr, 1 / sqrt(t))``.
    scale_parameter : bool
        False: alpha has no factor ``max(eps[1], rms(x))``.
    maximize : bool
        Ascend instead.

    Notes
    -----
    It needs the full gradient, as means do.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([[3.0, 4.0], [-3.0, 4.0]])
    >>> optimizer = optim.Adafactor([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.detach().numpy().round(4)  # all by 0.1 * rms(w)
    array([[ 2.6464,  3.6464],
           [-2.6464,  3.6464]], dtype=float32)
    >>> [optimizer.state[w][name].shape for name in ("row_var", "col_var")]
    [(2, 1), (1, 2)]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: Sequence[float | None] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        beta1: float | None = None,
        relative_step: bool = True,
        scale_parameter: bool = True,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": tuple(eps) if hasattr(eps, "__iter__") else eps,
            "d": d,
            "weight_decay": weight_decay,
            "beta1": beta1,
            "relative_step": relative_step,
            "scale_parameter": scale_parameter,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "weight_decay"):
            self.require(group, name)
        self.require(group, "d", low=1.0)
        if group["beta1"] is not None:
            self.require(group, "beta1", below=1.0)
        decay, eps = group["beta2_decay"], group["eps"]
        if not is_in(decay, -math.inf, math.inf) or not -math.inf < decay <= 0.0:
            raise ValueError(message(self._who, "beta2_decay", describe(decay), "a finite number of at most 0"))
        if (
            not isinstance(eps, (tuple, list))
            or len(eps) != 2
            or not (eps[0] is None or is_in(eps[0], 0.0, math.inf))
            or not is_in(eps[1], 0.0, math.inf)
        ):
            raise ValueError(
                message(self._who, "eps", describe(eps), "two finite numbers of at least 0, or None and one")
            )

    def init(self, x: Array, group: Group) -> State:
        """The means over rows and columns, or the second moment of a vector."""
        state: State = {"step": 0}
        if x.ndim > 1:
            rows, columns = x.shape[-2:]
            state["row_var"] = np.zeros_like(x, shape=(*x.shape[:-2], rows, 1))
            state["col_var"] = np.zeros_like(x, shape=(*x.shape[:-2], 1, columns))
        else:
            state["variance"] = np.zeros_like(x)
        if group["beta1"] is not None:
            state["exp_avg"] = np.zeros_like(x)
        return state

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`."""
        self.conform(x, state)
        step = state["step"] = state["step"] + 1
        if not x.size:
            return
        lr, (least, least_scale), beta1 = group["lr"], group["eps"], group["beta1"]
        least = float(np.finfo(x.dtype).eps) if least is None else least
        scratch, size = np.empty_like(x), math.sqrt(x.size)
        rate = min(lr, 1.0 / math.sqrt(step)) if group["relative_step"] else lr
        if group["scale_parameter"]:
            rate *= max(least_scale, norm(x, scratch) / size)
        if group["weight_decay"]:
            x *= 1.0 - lr * group["weight_decay"]
        g = descent(x, g, 0.0, group["maximize"])
        u = self._second_moment(g, state, step ** group["beta2_decay"], least, scratch)
        np.maximum(u, least * least, out=u)
        np.sqrt(u, out=u)
        np.divide(g, u, out=u)
        rate /= max(1.0, norm(u) / (size * group["d"]))
        u *= rate
        if beta1 is None:
            state.pop("exp_avg", None)  # it may be switched on and off between steps
        else:
            if "exp_avg" not in state:
                state["exp_avg"] = np.zeros_like(x)
            mean = state["exp_avg"]
            mean *= beta1
            u *= 1.0 - beta1
            mean += u
            u = mean
        x -= u

    @staticmethod
    def _second_moment(g: Array, state: State, fresh: float, least: float, scratch: Array) -> Array:
        """Take a gradient into the running means; what they say of the second moment, in `scratch`."""
        np.multiply(g, g, out=scratch)
        if "variance" in state:
            variance = state["variance"]
            scratch -= variance
            scratch *= fresh
            variance += scratch
            scratch[...] = variance
            return scratch
        row, column = state["row_var"], state["col_var"]
        row += fresh * (np.mean(scratch, axis=-1, keepdims=True) - row)
        column += fresh * (np.mean(scratch, axis=-2, keepdims=True) - column)
        total = np.maximum(np.mean(row, axis=-2, keepdims=True), least)
        return np.multiply(row / total, column, out=scratch)

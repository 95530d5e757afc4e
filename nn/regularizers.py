"""Regularizers: penalties on parameters, which optimizers add to the gradients, and `penalty` and `regularize`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import message
from minigrad.nn import constraints
from minigrad.nn.checks import number
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["L1", "L1L2", "L2", "ProximalL1", "Regularizer", "attach", "get", "penalty", "regularize"]

Array = Any


class Regularizer:
    """Base of the penalties on a parameter: set one as ``parameter.regularizer``, or through an argument of its layer.

    An optimizer's `step` adds `gradient` to the gradient of the loss, after unscaling and clipping
    (docs/training_step.md); so the loss itself goes without. It passes the arrays of the parameters in float32 or
    float64. Of a table with row-sparse gradients it passes the rows that were used, and only these.

    A subclass writes `penalty` and `gradient`. Where it has a method ``prox(x, lr)``, as `ProximalL1` has, `step` calls
    it after the rule, with the new values, which it changes in place, and the learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn, optim
    >>> class Huber(nn.Regularizer):
    ...     def penalty(self, w):
    ...         return nn.functional.huber_loss(w, 0 * w, reduction="sum")
    ...     def gradient(self, x):
    ...         return np.clip(x, -1.0, 1.0)
    >>> w = nn.Parameter([3.0, 0.5])
    >>> w.regularizer = Huber()
    >>> (w * 0).sum().backward()
    >>> optim.SGD([w], lr=0.1).step()
    >>> w
    tensor([2.9 , 0.45], requires_grad=True)
    """

    def penalty(self, w: Tensor) -> Tensor:
        """The penalty on a tensor, a scalar."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method penalty(self, w)")

    def gradient(self, x: Array) -> Array:
        """The derivative of the penalty at an array, of its shape and dtype; `x` must stay as it is."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method gradient(self, x)")


class L1L2(Regularizer):
    """Elastic net, ``l1 * sum(|w|) + l2 * sum(w**2)``.

    The factors are Keras's: the derivative of the second term is ``2 * l2 * w``, so that `l2` is half of the
    `weight_decay` of `SGD` and `Adam`. At 0 the derivative of ``|w|`` is 0. Zou and Hastie, "Regularization and
    variable selection via the elastic net", 2005.

    Parameters
    ----------
    l1, l2 : float
        The weights of both terms.

    Raises
    ------
    ValueError
        If one is negative or not finite.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.L1L2(l1=0.5, l2=0.25).penalty(mg.tensor([2.0, -4.0]))
    tensor(8.)
    """

    def __init__(self, l1: float = 0.01, l2: float = 0.01) -> None:
        self.l1, self.l2 = _factor(self, "l1", l1), _factor(self, "l2", l2)

    def penalty(self, w: Tensor) -> Tensor:
        """``l1 * sum(|w|) + l2 * sum(w**2)``, in float32 where w is half."""
        w = w.astype(dtypes.float32) if w.dtype in dtypes.HALF else w
        if not self.l2:
            return self.l1 * ops.sum(ops.abs(w))
        squares = self.l2 * ops.sum(ops.square(w))
        return self.l1 * ops.sum(ops.abs(w)) + squares if self.l1 else squares

    def gradient(self, x: Array) -> Array:
        """``l1 * sign(x) + 2 * l2 * x``."""
        if not self.l1:
            return (2.0 * self.l2) * x
        g = self.l1 * np.sign(x)
        if self.l2:
            g += (2.0 * self.l2) * x
        return g

    def __repr__(self) -> str:
        return f"{type(self).__name__}(l1={self.l1}, l2={self.l2})"


class L1(L1L2):
    """The sum of absolute values, ``l1 * sum(|w|)``.

    Tibshirani, "Regression shrinkage and selection via the lasso", 1996. Its gradient pulls weights towards 0 with a
    constant force, and past it by up to one step: they come near 0 and seldom rest there. `ProximalL1` gives exact
    zeros.

    Parameters
    ----------
    l1 : float
        The weight of the penalty.

    Examples
    --------
    >>> from minigrad import nn
    >>> layer = nn.Dense(3, in_features=2, kernel_regularizer=nn.L1(1e-4))
    >>> layer.weight.regularizer
    L1(0.0001)
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1, 0.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.l1})"


class L2(L1L2):
    """The sum of squares, ``l2 * sum(w**2)``.

    Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal problems", 1970. With `Adam` its gradient
    is divided by the root of the second moment as that of the loss is; `AdamW` decays weights without that.

    Parameters
    ----------
    l2 : float
        The weight of the penalty.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.L2(0.5).penalty(mg.tensor([1.0, 2.0]))
    tensor(2.5)
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(0.0, l2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.l2})"


class ProximalL1(L1):
    """``l1 * sum(|w|)`` by a soft threshold after each step, which sets small weights to exactly 0.

    ::

        x = sign(x) * max(|x| - lr * l1, 0)        after the rule, which has seen the gradient of the loss alone

    This is the proximal map of ``lr * l1 * sum(|x|)``, the point that minimizes it plus half the squared distance to
    x. With `SGD` without momentum it is ISTA: Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm",
    2009; Parikh and Boyd, "Proximal algorithms", 2014. With rules that scale their steps, such as `Adam`, the
    threshold keeps to the learning rate: it is decoupled from the moments as the decay of `AdamW` is.

    Parameters
    ----------
    l1 : float
        The weight of the penalty.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0, 0.25])
    >>> w.regularizer = nn.ProximalL1(1.0)
    >>> (w * 0).sum().backward()
    >>> optim.SGD([w], lr=0.5).step()
    >>> w
    tensor([2.5, 0. ], requires_grad=True)
    """

    def gradient(self, x: Array) -> Array:
        """Zeros: the threshold does it."""
        return np.zeros_like(x)

    def prox(self, x: Array, lr: float) -> None:
        """The soft threshold at ``lr * l1``, in place."""
        threshold = lr * self.l1
        x -= np.clip(x, -threshold, threshold)


def penalty(model: Module) -> Tensor:
    """The sum of the penalties on the parameters of a model, a shared one counted once, for a report.

    Optimizers apply the penalties by themselves: do not add this to the loss as well.

    Parameters
    ----------
    model : Module
        Any module; parameters that wait for their first batch count as 0.

    Returns
    -------
    Tensor
        A scalar; 0 without regularizers.

    Examples
    --------
    >>> from minigrad import nn
    >>> layer = nn.Dense(2, in_features=2, kernel_initializer="ones", kernel_regularizer=nn.L2(0.5))
    >>> nn.penalty(layer).item()
    2.0
    """
    known = [p for p in model.parameters() if p.is_initialized]
    found = [p.regularizer.penalty(p) for p in known if p.regularizer is not None]
    return sum(found[1:], found[0]) if found else ops.zeros((), device=known[0].device if known else None)


def regularize(model: Module, regularizer: str | Regularizer) -> Module:
    """Set a regularizer for the weights of a model: parameters of two or more axes without one of their own.

    Biases, scales and shifts, which have one axis, go without.

    Parameters
    ----------
    model : Module
        Any module.
    regularizer : Regularizer or str
        Or the name of one, as for `get`.

    Returns
    -------
    Module
        The model.

    Examples
    --------
    >>> from minigrad import nn
    >>> model = nn.regularize(nn.Sequential([nn.Dense(8), nn.Dense(3, kernel_regularizer="l1")]), nn.L2(1e-4))
    >>> [(name, p.regularizer) for name, p in model.named_parameters()]
    [('0.weight', L2(0.0001)), ('0.bias', None), ('1.weight', L1(0.01)), ('1.bias', None)]
    """
    found = get(regularizer)
    for p in model.parameters():
        if p.ndim >= 2 and p.regularizer is None:
            p.regularizer = found
    return model


_BY_NAME: dict[str, Callable[[], Regularizer]] = {"l1": L1, "l2": L2, "l1_l2": L1L2, "proximal_l1": ProximalL1}


def get(regularizer: str | Regularizer | None) -> Regularizer | None:
    """A regularizer by its name, with factors of 0.01; any other object with its methods is given back as it is.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from minigrad.nn import regularizers
    >>> regularizers.get("l2")
    L2(0.01)
    """
    if isinstance(regularizer, str) and regularizer in _BY_NAME:
        return _BY_NAME[regularizer]()
    usable = callable(getattr(regularizer, "gradient", None)) and not isinstance(regularizer, type)
    if regularizer is not None and not usable:
        got = repr(regularizer) if isinstance(regularizer, str) else regularizer
        need = f"None, an nn.Regularizer such as nn.L2(0.01), or one of {', '.join(_BY_NAME)}"
        raise ValueError(message("regularizers.get", "regularizer", got, need))
    return regularizer  # type: ignore[return-value]


def attach(p: Parameter, regularizer: Any, constraint: Any) -> None:
    """Set what a layer was given for a parameter, by name or as it is."""
    if regularizer is not None:
        p.regularizer = get(regularizer)
    if constraint is not None:
        p.constraint = constraints.get(constraint)


def _factor(regularizer: Regularizer, name: str, value: Any) -> float:
    who = type(regularizer).__name__
    found = number(who, name, value)
    if not 0.0 <= found < math.inf:
        raise ValueError(message(who, name, f"{found}", "a finite number of at least 0"))
    return found

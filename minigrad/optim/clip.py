"""Clipping of gradients by their norm and by value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.errors import GradError, describe, message
from minigrad.optim.gradients import kernels_for, scale, values_of, with_gradient, writable
from minigrad.tensor import Tensor

__all__ = ["clip_by", "clip_grad_norm_", "clip_grad_value_", "grad_norm"]

Array = Any
CHUNK = (
    8192  # elements at a time in float64; a BLAS takes so few with one thread, so the sum does not depend on threads
)
SMALL, EPSILON = 1e-280, 1e-6


def grad_norm(parameters: Tensor | Iterable[Any], norm_type: float = 2.0) -> float | Tensor:
    """The norm of all gradients as one vector, ``(sum |g|**p)**(1/p)``, or the largest ``|g|`` for p = inf.

    Sums are float64 and of any scale: squares neither overflow nor vanish.

    Parameters
    ----------
    parameters : Tensor, or iterable of Tensor or of (str, Tensor)
        Those without a gradient count as 0; one that is there twice counts once.
    norm_type : float
        p, above 0, or ``math.inf``.

    Returns
    -------
    float or Tensor
        Infinite or NaN where a gradient is. A tensor, float64 without axes, where gradients lie on a GPU: to read it is
        to wait for the GPU.

    Raises
    ------
    TypeError
        If `parameters` are no tensors.
    ValueError
        If `norm_type` is not a number above 0.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([1.0, 1.0])
    >>> w.grad = 0 * w.detach() + 3.0
    >>> optim.grad_norm([w], norm_type=1)
    6.0
    """
    found, power = with_gradient("grad_norm", parameters), _power("grad_norm", norm_type)
    kernels = kernels_for(found)
    return _total(found, power) if kernels is None else _total_there(kernels, found, power)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Any], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> float | Tensor:
    """Scale all gradients so that their norm as one vector is at most `max_norm`, in place.

    ::

        g = g * min(1, max_norm / (norm + 1e-6))        for every gradient, with the norm of `grad_norm`

    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013, with PyTorch's constant.
    It comes after unscaling (`unscale_`) and before an optimizer's `step`, which adds penalties: see
    docs/training_step.md. Gradients of half parameters become float32, as with `unscale_`; row-sparse ones stay so.

    Parameters
    ----------
    parameters : Tensor, or iterable of Tensor or of (str, Tensor)
        As for `grad_norm`.
    max_norm : float
        The largest norm.
    norm_type : float
        As for `grad_norm`.
    error_if_nonfinite : bool
        Raise where the norm is infinite or NaN, and change nothing. By default gradients become 0 or NaN then, as in
        PyTorch, and no step must follow.

    Returns
    -------
    float or Tensor
        The norm before; a tensor on a GPU, as for `grad_norm`.

    Raises
    ------
    TypeError
        If `parameters` are no tensors.
    ValueError
        If `max_norm` is negative or no number, or `norm_type` is not a number above 0.
    GradError
        If the norm is not finite and `error_if_nonfinite` is set.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([1.0, 1.0])
    >>> w.grad = mg.tensor([3.0, 4.0])
    >>> optim.clip_grad_norm_([w], max_norm=1.0)
    5.0
    >>> optim.grad_norm([w]) <= 1.0
    True
    """
    who = "clip_grad_norm_"
    limit = _limit(who, "max_norm", max_norm)
    found, power = with_gradient(who, parameters), _power(who, norm_type)
    kernels = kernels_for(found)
    total: Any = _total(found, power) if kernels is None else _total_there(kernels, found, power)
    if error_if_nonfinite and not math.isfinite(total):
        hint = "Skip the step, or lower the learning rate; mg.detect_anomaly() finds where it comes from"
        raise GradError(message(who, "the norm of the gradients", f"{float(total)}", "a finite number", hint))
    if kernels is not None:
        kernels.clip(writable(found), total._array, limit)
        return total  # type: ignore[no-any-return]
    return clip_by(found, np.array([total]), max_norm, norm_type)


def clip_by(parameters: Iterable[Tensor], norms: Array, max_norm: float, norm_type: float = 2.0) -> float:
    """Scale gradients by a norm that is made of those of their parts, which may lie elsewhere; it is returned.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    norms : numpy.ndarray
        (parts,) float64.
    max_norm, norm_type : float
        As for `clip_grad_norm_`.
    """
    limit = _limit("clip_grad_norm_", "max_norm", max_norm)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = float(norms[0]) if len(norms) == 1 else _norm(norms, float(norm_type))
    factor = limit / (total + EPSILON)
    if not factor >= 1.0:  # NaN too
        scale([p for p in parameters if p._grad is not None], factor)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Any], clip_value: float) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value], in place.

    Gradients of half parameters become float32, as with `unscale_`. A NaN stays.

    Parameters
    ----------
    parameters : Tensor, or iterable of Tensor or of (str, Tensor)
        Those without a gradient are passed over.
    clip_value : float
        The largest absolute value.

    Raises
    ------
    TypeError
        If `parameters` are no tensors.
    ValueError
        If `clip_value` is negative or no number.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([1.0, 1.0])
    >>> w.grad = mg.tensor([3.0, -0.5])
    >>> optim.clip_grad_value_([w], 1.0)
    >>> w.grad
    tensor([ 1. , -0.5])
    """
    limit = _limit("clip_grad_value_", "clip_value", clip_value)
    for g in writable(with_gradient("clip_grad_value_", parameters)):
        np.clip(g, -limit, limit, out=g)


def _limit(who: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) >= 0.0:
        raise ValueError(message(who, name, describe(value), "a number of at least 0"))
    return float(value)


def _power(who: str, norm_type: Any) -> float:
    if isinstance(norm_type, bool) or not isinstance(norm_type, Real) or not float(norm_type) > 0.0:
        raise ValueError(message(who, "norm_type", describe(norm_type), "a number above 0, or math.inf"))
    return float(norm_type)


def _total_there(kernels: Any, parameters: list[Tensor], power: float) -> Tensor:
    """The norm of gradients on a GPU."""
    return tape.new_tensor(kernels.norm([p._grad._array for p in parameters if p._grad is not None], power))  # type: ignore[no-any-return]


def _total(parameters: list[Tensor], power: float) -> float:
    """The norm of all gradients: that of the norms of their chunks."""
    norms = []
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for p in parameters:
            assert p._grad is not None
            flat = values_of(p._grad._array).reshape(-1)
            for start in range(0, flat.size, CHUNK):
                norms.append(_norm(flat[start : start + CHUNK].astype(np.float64, copy=False), power))
        return _norm(np.array(norms), power) if norms else 0.0


def _norm(x: Array, power: float) -> float:
    """The norm of a float64 vector that has elements."""
    if power == 2.0:
        squares = float(np.dot(x, x))
        if SMALL < squares < math.inf:
            return math.sqrt(squares)
    top = float(np.max(np.abs(x)))
    if power == math.inf or not 0.0 < top < math.inf:
        return top
    return top * math.pow(float(np.sum((np.abs(x) / top) ** power)), 1.0 / power)

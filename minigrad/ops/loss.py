"""Losses. A target has the shape of the prediction, or an error says so: nothing is broadcast silently."""

from __future__ import annotations

import math
from typing import Any

from minigrad import dtypes
from minigrad.errors import ShapeError, describe, message
from minigrad.ops.conversion import as_index
from minigrad.ops.registry import Array, accumulate_float32, op
from minigrad.ops.samples import A, Case, case, error

__all__ = [
    "binary_cross_entropy_with_logits", "huber_loss", "kl_div", "l1_loss", "mse_loss", "smooth_l1_loss",
]  # fmt: skip

real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)


def check_reduction(who: str, reduction: str, *more: str) -> None:
    """Refuse a word that is no reduction."""
    words = ("mean", "sum", "none", *more)
    if reduction not in words:
        raise ValueError(message(who, "reduction", repr(reduction), f"one of {', '.join(words)}"))


def check_index(who: str, ignore_index: Any) -> None:
    """Refuse a target that does not count and is no int."""
    if ignore_index is not None:
        as_index(who, "ignore_index", ignore_index)


def check_pair(who: str, prediction: Array, target: Array, reduction: str) -> None:
    """Refuse a target of another shape than the prediction."""
    check_reduction(who, reduction)
    if prediction.shape != target.shape:
        found, need = describe(target), f"the shape of prediction {describe(prediction)}"
        raise ShapeError(message(who, "target", found, need, "Losses do not broadcast; reshape one of them"))


def reduce(xp: Any, losses: Array, reduction: str) -> Array:
    """The mean or the sum of the losses, or the losses themselves; the mean of nothing is 0, as in cross entropy."""
    if reduction == "none":
        return losses
    total = xp.sum(losses)
    return total / max(losses.size, 1) if reduction == "mean" else total


def spread(g: Array, shape: tuple[int, ...], reduction: str) -> Array:
    """The cotangent of each loss, where `g` is that of the reduced one."""
    return g / max(math.prod(shape), 1) if reduction == "mean" else g


def pairs(**params: Any) -> list[Case]:
    """Predictions and targets whose difference keeps away from 0 and 2."""
    low, high = A((2, 3), -1.0, 0.0), A((2, 3), 0.1, 0.9)
    cases = [case(low, high, reduction=r, **params) for r in ("mean", "sum", "none")]
    return [
        *cases,
        case(A((2, 3), 2.0, 3.0), A((2, 3), -0.9, -0.1), **params),
        case(A((), 0.1, 0.9), A((), -0.8, 0.0), **params),
        *(case((0, 3), (0, 3), reduction=r, **params) for r in ("mean", "sum")),
    ]


def refusals(name: str) -> list[Case]:
    """What every loss of a prediction and a target refuses."""
    return [
        error(ShapeError, "the shape of prediction float64 (3,)", (3,), (3, 1)),
        error(ShapeError, "Losses do not broadcast", (3,), 0.0),
        error(ValueError, f"{name}: reduction is 'avg', needs one of mean, sum, none", (3,), (3,), reduction="avg"),
    ]


@op(dtype=real, needs="a prediction and a target of one shape", amp="float32")
def mse_loss(xp: Any, prediction: Array, target: Array, /, *, reduction: str = "mean") -> Array:
    """Squared error ``(prediction - target)**2``.

    Parameters
    ----------
    prediction, target : Tensor
        Of one shape.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each element.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.mse_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(2.)
    """
    check_pair("mse_loss", prediction, target, reduction)
    return reduce(xp, xp.square(prediction - target), reduction)


@mse_loss.vjp()
def _(xp: Any, g: Array, prediction: Array, target: Array, *, reduction: str) -> tuple[Array, Array]:
    slope = spread(g, prediction.shape, reduction) * 2 * (prediction - target)
    return slope, -slope


mse_loss.samples(*pairs(), *refusals("mse_loss"))


@op(dtype=real, needs="a prediction and a target of one shape", amp="float32")
def l1_loss(xp: Any, prediction: Array, target: Array, /, *, reduction: str = "mean") -> Array:
    """Absolute error ``abs(prediction - target)``; its derivative at 0 is 0.

    Parameters
    ----------
    prediction, target : Tensor
        Of one shape.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each element.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.l1_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(1.)
    """
    check_pair("l1_loss", prediction, target, reduction)
    return reduce(xp, xp.abs(prediction - target), reduction)


@l1_loss.vjp()
def _(xp: Any, g: Array, prediction: Array, target: Array, *, reduction: str) -> tuple[Array, Array]:
    slope = spread(g, prediction.shape, reduction) * xp.sign(prediction - target)
    return slope, -slope


l1_loss.samples(*pairs(), *refusals("l1_loss"))


@op(dtype=real, needs="a prediction and a target of one shape", amp="float32")
def huber_loss(xp: Any, prediction: Array, target: Array, /, *, delta: float = 1.0, reduction: str = "mean") -> Array:
    """Squared error near 0, absolute error beyond: ``d**2 / 2`` where ``d <= delta``, else ``delta * (d - delta / 2)``.

    Here ``d = abs(prediction - target)``. P. J. Huber, "Robust estimation of a location parameter", 1964.

    Parameters
    ----------
    prediction, target : Tensor
        Of one shape.
    delta : float
        Where the parabola ends, positive.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each element.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction, or a `delta` that is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.huber_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(0.75)
    """
    check_pair("huber_loss", prediction, target, reduction)
    if not delta > 0:
        raise ValueError(message("huber_loss", "delta", delta, "a positive number"))
    d = xp.abs(prediction - target)
    return reduce(xp, xp.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta)), reduction)


@huber_loss.vjp()
def _(xp: Any, g: Array, prediction: Array, target: Array, *, delta: float, reduction: str) -> tuple[Array, Array]:
    slope = spread(g, prediction.shape, reduction) * xp.clip(prediction - target, -delta, delta)
    return slope, -slope


huber_loss.samples(
    *pairs(delta=2.0),
    *(error(ValueError, f"delta is {d}, needs a positive number", (3,), (3,), delta=d) for d in (0.0, math.nan)),
    *refusals("huber_loss"),
)


@op(dtype=real, needs="a prediction and a target of one shape", amp="float32")
def smooth_l1_loss(
    xp: Any, prediction: Array, target: Array, /, *, beta: float = 1.0, reduction: str = "mean"
) -> Array:
    """Absolute error, rounded off near 0: ``d**2 / (2 * beta)`` where ``d < beta``, else ``d - beta / 2``.

    Here ``d = abs(prediction - target)``. It is `huber_loss` over `beta`. R. Girshick, "Fast R-CNN", 2015.

    Parameters
    ----------
    prediction, target : Tensor
        Of one shape.
    beta : float
        Where the parabola ends, positive.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each element.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction, or a `beta` that is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.smooth_l1_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(0.75)
    """
    check_pair("smooth_l1_loss", prediction, target, reduction)
    if not beta > 0:
        raise ValueError(message("smooth_l1_loss", "beta", beta, "a positive number", "At 0 it is l1_loss"))
    d = xp.abs(prediction - target)
    return reduce(xp, xp.where(d < beta, 0.5 / beta * d * d, d - 0.5 * beta), reduction)


@smooth_l1_loss.vjp()
def _(xp: Any, g: Array, prediction: Array, target: Array, *, beta: float, reduction: str) -> tuple[Array, Array]:
    slope = spread(g, prediction.shape, reduction) * xp.clip((prediction - target) / beta, -1.0, 1.0)
    return slope, -slope


smooth_l1_loss.samples(
    *pairs(beta=2.0),
    *(error(ValueError, f"beta is {b}, needs a positive number", (3,), (3,), beta=b) for b in (0.0, math.nan)),
    *refusals("smooth_l1_loss"),
)


@op(dtype=real, needs="logits and targets of one shape", amp="float32")
def binary_cross_entropy_with_logits(
    xp: Any,
    logits: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    /,
    *,
    reduction: str = "mean",
) -> Array:
    """Cross entropy of yes-or-no questions: ``-target * log(p) - (1 - target) * log(1 - p)``, p = sigmoid(logits).

    Parameters
    ----------
    logits, target : Tensor
        Of one shape; a target is the probability of yes.
    weight : Tensor, optional
        A factor for each loss; it broadcasts.
    pos_weight : Tensor, optional
        A factor for the part of yes; it broadcasts.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each element.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.binary_cross_entropy_with_logits(mg.tensor([0.0, 2.0]), mg.tensor([1.0, 1.0])), 4)
    tensor(0.41)
    """
    check_pair("binary_cross_entropy_with_logits", logits, target, reduction)
    if pos_weight is None:
        losses = xp.softplus(logits) - logits * target
    else:
        losses = (1 - target) * logits + (1 + (pos_weight - 1) * target) * xp.softplus(-logits)
    shape = losses.shape
    if weight is not None:
        losses = losses * weight
    if losses.shape != logits.shape or shape != logits.shape:
        found = ", ".join(describe(w) for w in (weight, pos_weight) if w is not None)
        need = f"shapes that broadcast to logits {describe(logits)}"
        raise ShapeError(message("binary_cross_entropy_with_logits", "weight or pos_weight", found, need))
    return reduce(xp, losses, reduction)


binary_cross_entropy_with_logits.samples(
    *(case((2, 3), A((2, 3), 0.1, 0.9), reduction=r) for r in ("mean", "sum", "none")),
    case((2, 3), A((2, 3), 0.1, 0.9), A((3,), 0.5, 2.0)),
    case((2, 3), A((2, 3), 0.1, 0.9), None, A((3,), 0.5, 2.0)),
    case((2, 3), A((2, 3), 0.1, 0.9), A((2, 1), 0.5, 2.0), A((3,), 0.5, 2.0), reduction="sum"),
    case([-1e30, -100.0, 100.0, 1e30], [1.0, 0.0, 0.0, 1.0], reduction="none"),
    *(case((0, 3), (0, 3), A((3,), 0.5, 2.0), reduction=r) for r in ("mean", "sum")),
    error(ShapeError, "weight or pos_weight is float64 (2, 1), needs shapes that broadcast", (3,), (3,), (2, 1)),
    *refusals("binary_cross_entropy_with_logits"),
)


@op(dtype=real, needs="log-probabilities and a target of one shape", amp="float32")
def kl_div(xp: Any, prediction: Array, target: Array, /, *, log_target: bool = False, reduction: str = "mean") -> Array:
    """Kullback-Leibler divergence ``target * (log(target) - prediction)`` of log-probabilities from probabilities.

    Parameters
    ----------
    prediction : Tensor
        Log-probabilities.
    target : Tensor
        Probabilities of the same shape; where one is 0 the term is 0.
    log_target : bool
        `target` holds log-probabilities too.
    reduction : str
        ``"batchmean"``: the sum over the extent of axis 0, which is the divergence itself for rows of probabilities;
        ``"mean"`` over all elements, ``"sum"``, or ``"none"``.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.kl_div(mg.log(mg.tensor([[0.5, 0.5]])), mg.tensor([[1.0, 0.0]]), reduction="batchmean"), 4)
    tensor(0.6931)
    """
    check_reduction("kl_div", reduction, "batchmean")
    check_pair("kl_div", prediction, target, "none")
    if log_target:
        losses = xp.exp(target) * (target - prediction)
    else:
        empty = target == 0
        losses = target * (xp.log(xp.where(empty, 1.0, target)) - xp.where(empty, 0.0, prediction))
    if reduction == "batchmean":
        return xp.sum(losses) / (max(losses.shape[0], 1) if losses.ndim else 1)
    return reduce(xp, losses, reduction)


kl_div.samples(
    *(case(A((2, 3), -2.0, -0.1), A((2, 3), 0.1, 0.9), reduction=r) for r in ("mean", "sum", "none", "batchmean")),
    case(A((2, 3), -2.0, -0.1), A((2, 3), -2.0, -0.1), log_target=True, reduction="batchmean"),
    case([-1.0, -float("inf")], [0.5, 0.0], reduction="sum"),
    *(case((0, 3), (0, 3), reduction=r) for r in ("mean", "sum", "batchmean")),
    *refusals("kl_div")[:2],
    error(ValueError, "needs one of mean, sum, none, batchmean", (3,), (3,), reduction="avg"),
)

"""Losses with a margin: what is right by more than the margin costs nothing. At the margin the derivative is 0."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import ShapeError, describe, message
from minigrad.ops.conversion import as_finite
from minigrad.ops.loss import check_pair, check_reduction, real, reduce
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error

__all__ = ["cosine_embedding_loss", "hinge_loss", "margin_ranking_loss", "triplet_margin_loss"]

TINY = 1e-12  # added to squared lengths, as in PyTorch


def ramp(xp: Any, x: Array) -> Array:
    """What is above 0 of x; NaN stays NaN."""
    return xp.where(x <= 0, 0.0, x)


def check_signs(who: str, target: Array) -> None:
    """Refuse targets that are neither 1 nor -1."""
    if ((target != 1) & (target != -1)).any():
        hint = "Targets of 0 and 1 become these by 2 * target - 1"
        raise ValueError(message(who, "target", "something else", "1 and -1 only", hint))


@op(dtype=real, skip="target", needs="predictions and targets of one shape", amp="float32")
def hinge_loss(xp: Any, prediction: Array, target: Array, /, *, margin: float = 1.0, reduction: str = "mean") -> Array:
    """Hinge loss ``max(0, margin - target * prediction)`` of a support vector machine.

    C. Cortes, V. Vapnik, "Support-vector networks", 1995.

    Parameters
    ----------
    prediction : Tensor
        Scores.
    target : Tensor
        1 or -1, of the same shape; it has no gradient.
    margin : float
        The score from which on nothing is lost.
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
        For a target other than 1 and -1, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.hinge_loss(mg.tensor([2.0, 0.5, 0.5]), mg.tensor([1, 1, -1]), reduction="none")
    tensor([0. , 0.5, 1.5])
    """
    check_pair("hinge_loss", prediction, target, reduction)
    check_signs("hinge_loss", target)
    margin = as_finite("hinge_loss", "margin", margin)
    return reduce(xp, ramp(xp, margin - target.astype(prediction.dtype) * prediction), reduction)


SIGNS = [1, -1, -1, 1]
FOUR = A((4,), -2.0, 2.0, avoid=(-1.0, 1.0))
hinge_loss.samples(
    *(case(FOUR, SIGNS, reduction=r) for r in ("mean", "sum", "none")),
    case(A((2, 2), -2.0, 2.0, avoid=(-0.5, 0.5)), [[1, 1], [-1, 1]], margin=0.5),
    case(A((), -0.9, 0.9), 1),
    *(case((0, 2), A((0, 2), 0, 1, kind="int"), reduction=r) for r in ("mean", "sum")),
    error(ValueError, "target is something else, needs 1 and -1 only. Targets of 0 and 1", (2,), [0, 1]),
    error(ShapeError, "the shape of prediction float64 (4,)", (4,), [[1, -1, 1, 1]]),
    error(ValueError, "hinge_loss: margin is nan, needs a finite number", (4,), SIGNS, margin=math.nan),
    error(ValueError, "hinge_loss: reduction is 'avg', needs one of", (4,), SIGNS, reduction="avg"),
)


@op(dtype=real, skip="target", needs="two scores and a target of one shape", amp="float32")
def margin_ranking_loss(
    xp: Any, x1: Array, x2: Array, target: Array, /, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    """Loss of an order, ``max(0, margin - target * (x1 - x2))``: target 1 asks for the first to be larger.

    Parameters
    ----------
    x1, x2 : Tensor
        Scores of one shape.
    target : Tensor
        1 or -1, of the same shape; it has no gradient.
    margin : float
        By how much one must be larger.
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
        For a target other than 1 and -1, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> x1, x2 = mg.tensor([1.0, 1.0]), mg.tensor([0.0, 3.0])
    >>> mg.margin_ranking_loss(x1, x2, mg.tensor([1, 1]), margin=0.5, reduction="none")
    tensor([0. , 2.5])
    """
    who = "margin_ranking_loss"
    check_reduction(who, reduction)
    for name, given in (("x2", x2), ("target", target)):
        if given.shape != x1.shape:
            hint = "Losses do not broadcast; reshape one of them"
            raise ShapeError(message(who, name, given, f"the shape of x1 {describe(x1)}", hint))
    check_signs(who, target)
    margin = as_finite(who, "margin", margin)
    return reduce(xp, ramp(xp, margin - target.astype(x1.dtype) * (x1 - x2)), reduction)


LOW, HIGH = A((4,), -1.0, -0.2), A((4,), 0.2, 1.0)
margin_ranking_loss.samples(
    *(case(LOW, HIGH, SIGNS, reduction=r) for r in ("mean", "sum", "none")),
    case(LOW, HIGH, SIGNS, margin=3.0),
    case(A((), -1.0, -0.2), A((), 0.2, 1.0), 1),
    *(case((0, 2), (0, 2), A((0, 2), 0, 1, kind="int"), reduction=r) for r in ("mean", "sum")),
    error(ShapeError, "x2 is float64 (4, 1), needs the shape of x1 float64 (4,). Losses do", (4,), (4, 1), SIGNS),
    error(ShapeError, "target is int64 (2,), needs the shape of x1", (4,), (4,), [1, 1]),
    error(ValueError, "margin_ranking_loss: margin is inf, needs a finite", (4,), (4,), SIGNS, margin=math.inf),
    error(ValueError, "target is something else, needs 1 and -1 only", (2,), (2,), [0, 1]),
    error(ValueError, "margin_ranking_loss: reduction is 'avg'", (4,), (4,), SIGNS, reduction="avg"),
)


@op(dtype=real, skip="target", needs="two vectors (..., features) and a target (...)", amp="float32")
def cosine_embedding_loss(
    xp: Any, x1: Array, x2: Array, target: Array, /, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    """Loss of an angle: ``1 - cos(x1, x2)`` where the target is 1, ``max(0, cos(x1, x2) - margin)`` where it is -1.

    Lengths are square roots of sums of squares and 1e-12, so that a vector of zeros has a gradient.

    Parameters
    ----------
    x1, x2 : Tensor
        Vectors of one shape, ``(..., features)``.
    target : Tensor
        1 or -1, ``(...)``; it has no gradient.
    margin : float
        The cosine below which different vectors cost nothing, -1 to 1.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each pair.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    ValueError
        For a target other than 1 and -1, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> x1, x2 = mg.tensor([[1.0, 0.0], [1.0, 0.0]]), mg.tensor([[0.0, 2.0], [3.0, 0.0]])
    >>> mg.cosine_embedding_loss(x1, x2, mg.tensor([1, -1]), reduction="none")
    tensor([1., 1.])
    """
    who = "cosine_embedding_loss"
    check_reduction(who, reduction)
    if x1.ndim == 0 or x2.shape != x1.shape:
        raise ShapeError(message(who, "x2", x2, f"the shape (..., features) of x1 {describe(x1)}"))
    if target.shape != x1.shape[:-1]:
        raise ShapeError(message(who, "target", target, f"shape {x1.shape[:-1]}, one for each pair of vectors"))
    check_signs(who, target)
    margin = as_finite(who, "margin", margin)
    squares = (xp.sum(x1 * x1, axis=-1) + TINY) * (xp.sum(x2 * x2, axis=-1) + TINY)
    cosine = xp.sum(x1 * x2, axis=-1) / xp.sqrt(squares)
    return reduce(xp, xp.where(target > 0, 1 - cosine, ramp(xp, cosine - margin)), reduction)


NEAR, SAME, OTHER = A((4, 3), 0.5, 2.0), A((4,), 1, 2, kind="int"), A((4,), -1, 0, kind="int")
cosine_embedding_loss.samples(
    *(case(NEAR, NEAR, SAME, reduction=r) for r in ("mean", "sum", "none")),
    case(NEAR, NEAR, OTHER),
    case(NEAR, A((4, 3), -2.0, -0.5), OTHER),
    case(NEAR, NEAR, OTHER, margin=0.2, reduction="none"),
    case(A((3,), 0.5, 2.0), A((3,), 0.5, 2.0), -1),
    *(case((0, 2), (0, 2), A((0,), 0, 1, kind="int"), reduction=r) for r in ("mean", "sum")),
    error(ShapeError, "x2 is float64 (4, 1), needs the shape (..., features) of x1", (4, 3), (4, 1), SIGNS),
    error(ShapeError, "x2 is float64 (), needs the shape (..., features) of x1", (), (), 1),
    error(ValueError, "cosine_embedding_loss: margin is nan, needs", (4, 3), (4, 3), SIGNS, margin=math.nan),
    error(ShapeError, "target is int64 (4, 1), needs shape (4,), one for each pair", (4, 3), (4, 3), [[1]] * 4),
    error(ValueError, "target is something else, needs 1 and -1 only", (2, 3), (2, 3), [0, 1]),
    error(ValueError, "cosine_embedding_loss: reduction is 'avg'", (4, 3), (4, 3), SIGNS, reduction="avg"),
)


def distance(xp: Any, x1: Array, x2: Array, p: float, eps: float) -> Array:
    """The p-norm of ``x1 - x2 + eps`` along the last axis; at 0 its derivative is 0."""
    d = xp.abs(x1 - x2 + eps)
    if p == math.inf:
        return xp.max(d, axis=-1)
    if p == 1:
        return xp.sum(d, axis=-1)
    total = xp.sum(d * d if p == 2 else d**p, axis=-1)
    root = xp.where(total == 0, 1.0, total)
    return xp.where(total == 0, 0.0, xp.sqrt(root) if p == 2 else root ** (1 / p))


@op(dtype=real, needs="three vectors of one shape (..., features)", amp="float32")
def triplet_margin_loss(
    xp: Any,
    anchor: Array,
    positive: Array,
    negative: Array,
    /,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """Loss of two distances, ``max(0, d(anchor, positive) - d(anchor, negative) + margin)``.

    d is the p-norm of the difference plus `eps`. F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: a unified embedding
    for face recognition and clustering", 2015; `swap` after V. Balntas et al., "Learning local feature descriptors with
    triplets and shallow convolutional neural networks", 2016.

    Parameters
    ----------
    anchor, positive, negative : Tensor
        Vectors of one shape, ``(..., features)``.
    margin : float
        By how much the negative must be farther away, positive.
    p : float
        Of the norm, at least 1; `math.inf` for the largest element.
    eps : float
        Keeps the norm away from its kink at 0.
    swap : bool
        Take d(positive, negative) in place of d(anchor, negative) where it is smaller.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each triplet.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        For a margin that is not positive, a `p` below 1, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> anchor, near, far = mg.tensor([[0.0, 0.0]]), mg.tensor([[3.0, 4.0]]), mg.tensor([[0.0, 5.5]])
    >>> mg.round(mg.triplet_margin_loss(anchor, near, far), 3)
    tensor(0.5)
    """
    who = "triplet_margin_loss"
    check_reduction(who, reduction)
    for name, given in (("positive", positive), ("negative", negative)):
        if anchor.ndim == 0 or given.shape != anchor.shape:
            raise ShapeError(message(who, name, given, f"the shape (..., features) of anchor {describe(anchor)}"))
    margin, eps = as_finite(who, "margin", margin), as_finite(who, "eps", eps)
    if not margin > 0:
        raise ValueError(message(who, "margin", margin, "a positive number"))
    if not p >= 1:
        raise ValueError(message(who, "p", p, "a number of at least 1, or math.inf"))
    far = distance(xp, anchor, negative, p, eps)
    if swap:
        far = xp.minimum(far, distance(xp, positive, negative, p, eps))
    return reduce(xp, ramp(xp, distance(xp, anchor, positive, p, eps) - far + margin), reduction)


THREE = [A((4, 3), -2.0, -1.5), A((4, 3), -1.0, -0.5), A((4, 3), 0.5, 1.0)]
triplet_margin_loss.samples(
    *(case(*THREE, margin=9.0, reduction=r) for r in ("mean", "sum", "none")),
    case(*THREE, margin=0.1),
    case(*THREE, margin=9.0, p=1.0),
    case(*THREE, margin=9.0, p=3.0, swap=True),
    case(*(A((4, 1), low, low + 0.5) for low in (-2.0, -1.0, 0.5)), margin=9.0, p=math.inf),
    *(case((0, 2), (0, 2), (0, 2), reduction=r) for r in ("mean", "sum")),
    error(ShapeError, "positive is float64 (4, 1), needs the shape (..., features) of anchor", (4, 3), (4, 1), (4, 3)),
    error(ShapeError, "negative is float64 (3,), needs the shape (..., features) of anchor", (4, 3), (4, 3), (3,)),
    error(ValueError, "margin is 0.0, needs a positive number", *THREE, margin=0.0),
    error(ValueError, "p is 0.5, needs a number of at least 1", *THREE, p=0.5),
    error(ValueError, "margin is nan, needs a finite number", *THREE, margin=math.nan),
    error(ValueError, "triplet_margin_loss: eps is nan, needs a finite number", *THREE, eps=math.nan),
    error(ValueError, "triplet_margin_loss: reduction is 'avg'", *THREE, reduction="avg"),
)

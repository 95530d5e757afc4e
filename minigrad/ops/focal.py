"""Focal losses: cross entropy with less weight on what is already right, for classes of very different frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.conversion import as_number, as_operand
from minigrad.ops.cross_entropy import cross_entropy
from minigrad.ops.loss import check_index, check_pair, check_reduction, pairs, real, reduce, refusals
from minigrad.ops.reduction import sum as total
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.searching import where

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["sigmoid_focal_loss", "softmax_focal_loss"]


def power(xp: Any, wrong: Array, gamma: float) -> Array:
    """``wrong ** gamma``, with the derivative 0 at 0."""
    if gamma == 0:
        return xp.ones_like(wrong)
    return xp.where(wrong > 0, xp.where(wrong > 0, wrong, 1.0) ** gamma, 0.0)


def check_gamma(who: str, gamma: float) -> None:
    """Refuse an exponent below 0."""
    if not as_number(who, "gamma", gamma, (int, float)) >= 0:
        raise ValueError(message(who, "gamma", gamma, "a number of at least 0", "At 0 it is cross entropy"))


@op(dtype=real, needs="logits and targets of one shape", amp="float32")
def sigmoid_focal_loss(
    xp: Any,
    logits: Array,
    target: Array,
    /,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Array:
    """Cross entropy of yes-or-no questions times ``(1 - q)**gamma``, q the probability of the right answer.

    With ``p = sigmoid(logits)``, ``1 - q = p * (1 - target) + (1 - p) * target``. T.-Y. Lin, P. Goyal, R. Girshick,
    K. He, P. Dollar, "Focal loss for dense object detection", 2017; they found ``alpha=0.25, gamma=2`` best there.

    Parameters
    ----------
    logits, target : Tensor
        Of one shape; a target is the probability of yes.
    alpha : float, optional
        A factor for the losses of yes, and 1 - alpha for those of no; none by default.
    gamma : float
        How much less an easy question counts; 0 is cross entropy.
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
        For a `gamma` below 0, an `alpha` that is not between 0 and 1, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.sigmoid_focal_loss(mg.tensor([3.0, -3.0]), mg.tensor([1.0, 1.0]), reduction="none"), 4)
    tensor([1.0000e-04, 2.7663e+00])
    """
    who = "sigmoid_focal_loss"
    check_pair(who, logits, target, reduction)
    check_gamma(who, gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(message(who, "alpha", alpha, "a number from 0 to 1"))
    wrong = xp.sigmoid(logits) * (1 - target) + xp.sigmoid(-logits) * target
    losses = (xp.softplus(logits) - logits * target) * power(xp, wrong, gamma)
    if alpha is not None:
        losses = losses * (alpha * target + (1 - alpha) * (1 - target))
    return reduce(xp, losses, reduction)


sigmoid_focal_loss.samples(
    *pairs(),
    *pairs(alpha=0.25, gamma=1.5),
    case((2, 3), A((2, 3), 0.1, 0.9), gamma=0.0),
    case([-1e30, -100.0, 100.0, 1e30], [1.0, 0.0, 1.0, 1.0], gamma=0.5, reduction="none"),
    error(ValueError, "gamma is -1.0, needs a number of at least 0. At 0 it is", (3,), (3,), gamma=-1.0),
    error(ValueError, "alpha is 1.5, needs a number from 0 to 1", (3,), (3,), alpha=1.5),
    *refusals("sigmoid_focal_loss"),
)


@op(dtype=real, needs="losses", amp="float32")
def _focal(xp: Any, losses: Array, /, *, gamma: float = 2.0) -> Array:
    """Cross entropies times ``(1 - exp(-losses)) ** gamma``."""
    return losses * power(xp, -xp.expm1(-losses), gamma)


_focal.samples(
    *(case(A((4,), 0.1, 3.0), gamma=g) for g in (2.0, 0.5, 0.0)),
    case([0.0, 1e-30, 100.0]),
    case(A((), 0.1, 3.0)),
    case((0, 3)),
)


def softmax_focal_loss(
    logits: Tensor,
    targets: Any,
    *,
    weight: Any = None,
    gamma: float = 2.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy times ``(1 - p)**gamma``, p the probability of the target's class by softmax.

    T.-Y. Lin et al., "Focal loss for dense object detection", 2017.

    Parameters
    ----------
    logits : Tensor
        ``(..., classes)``.
    targets : Tensor
        Class indices ``(...)``.
    weight : Tensor, optional
        A factor for each class, the paper's alpha. Unlike in `cross_entropy`, the mean does not divide by it.
    gamma : float
        How much less an easy row counts; 0 is cross entropy.
    ignore_index : int, optional
        Targets of this index do not count, in the mean neither. Where none counts, the mean is 0.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each row.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If targets are not integers.
    IndexError
        For a class index that is negative or too large.
    ValueError
        For a `gamma` below 0, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> logits = mg.tensor([[3.0, 0.0], [3.0, 0.0]])
    >>> mg.round(mg.softmax_focal_loss(logits, mg.tensor([0, 1]), reduction="none"), 4)
    tensor([1.0000e-04, 2.7663e+00])
    """
    who = "softmax_focal_loss"
    check_reduction(who, reduction)
    check_index(who, ignore_index)
    check_gamma(who, gamma)
    index = as_operand(who, "targets", targets)
    if index.dtype in dtypes.FLOATING:
        raise DTypeError(message(who, "targets", index, "class indices of an integer dtype"))
    losses = _focal(cross_entropy(logits, index, ignore_index=ignore_index, reduction="none"), gamma=float(gamma))
    counted = None if ignore_index is None else index != ignore_index
    if weight is not None:
        factors = as_operand(who, "weight", weight)
        classes = as_operand(who, "logits", logits).shape[-1:]
        if factors.shape != classes:
            raise ShapeError(message(who, "weight", factors, f"a number for each of the {classes[0]} classes"))
        losses = losses * factors[index if counted is None else where(counted, index, 0)]
    if reduction == "none":
        return losses
    loss = total(losses)
    if reduction == "sum":
        return loss
    count = index.size if counted is None else counted.sum().item()
    return loss / max(count, 1)

"""Cross entropy of probabilities that some other layer has already made of its logits."""

from __future__ import annotations

from typing import Any

from minigrad.errors import ShapeError, describe, message
from minigrad.ops.loss import check_pair, real, reduce, refusals, spread
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error

__all__ = ["binary_cross_entropy"]

LOWEST = -100.0  # of a logarithm, as in PyTorch: a wrong certainty costs much, not infinitely much
LEAST = 1e-12  # of what the gradient is divided by


@op(dtype=real, needs="probabilities and targets of one shape", amp="float32")
def binary_cross_entropy(
    xp: Any, probabilities: Array, target: Array, weight: Array | None = None, /, *, reduction: str = "mean"
) -> Array:
    """Cross entropy of yes-or-no questions: ``-target * log(p) - (1 - target) * log(1 - p)``.

    Logarithms are at least -100, and the gradient's divisor ``p * (1 - p)`` is at least 1e-12, as in PyTorch. Where
    there are logits, `binary_cross_entropy_with_logits` is exact for all of them.

    Parameters
    ----------
    probabilities, target : Tensor
        Of one shape; a target is the probability of yes.
    weight : Tensor, optional
        A factor for each loss; it broadcasts.
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
        For a number that is no probability, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.binary_cross_entropy(mg.tensor([0.5, 0.9]), mg.tensor([1.0, 1.0])), 4)
    tensor(0.3993)
    """
    check_pair("binary_cross_entropy", probabilities, target, reduction)
    if ((probabilities < 0) | (probabilities > 1)).any():
        need = "probabilities, 0 to 1"
        hint = "Logits go to binary_cross_entropy_with_logits"
        raise ValueError(message("binary_cross_entropy", "probabilities", "outside", need, hint))
    yes, no = logarithms(xp, probabilities)
    losses = -(target * yes + (1 - target) * no)
    if weight is not None:
        losses = losses * weight
        if losses.shape != target.shape:
            need = f"a shape that broadcasts to probabilities {describe(probabilities)}"
            raise ShapeError(message("binary_cross_entropy", "weight", weight, need))
    return reduce(xp, losses, reduction)


def logarithms(xp: Any, p: Array) -> tuple[Array, Array]:
    """Of p and of 1 - p, cut off below; a 0 does not meet the logarithm."""
    yes = xp.log(xp.where(p > 0, p, 1.0))
    no = xp.log1p(-xp.where(p < 1, p, 0.0))
    return (
        xp.where(p > 0, xp.where(yes < LOWEST, LOWEST, yes), LOWEST),
        xp.where(p < 1, xp.where(no < LOWEST, LOWEST, no), LOWEST),
    )


@binary_cross_entropy.vjp()
def _(
    xp: Any, g: Array, probabilities: Array, target: Array, weight: Array | None, *, reduction: str
) -> tuple[Array | None, ...]:
    g = spread(g, probabilities.shape, reduction)
    yes, no = logarithms(xp, probabilities)
    d_weight = None if weight is None else -g * (target * yes + (1 - target) * no)
    g = g if weight is None else g * weight
    divisor = probabilities * (1 - probabilities)
    slope = (probabilities - target) / xp.where(divisor < LEAST, LEAST, divisor)
    return g * slope, g * (no - yes), d_weight


P, T = A((2, 3), 0.1, 0.9), A((2, 3), 0.1, 0.9)
binary_cross_entropy.samples(
    *(case(P, T, reduction=r) for r in ("mean", "sum", "none")),
    case(P, T, A((2, 3), 0.5, 2.0)),
    case(P, T, A((3,), 0.5, 2.0), reduction="sum"),
    case(A((), 0.2, 0.8), A((), 0.2, 0.8)),
    case([0.0, 1.0, 0.5, 0.25], [0.0, 1.0, 1.0, 0.0], reduction="none"),
    case((0, 3), (0, 3), reduction="sum"),
    error(ValueError, "probabilities is outside, needs probabilities, 0 to 1. Logits go to", [0.5, 1.5], [0.0, 1.0]),
    error(ShapeError, "weight is float64 (2, 1), needs a shape that", A((3,), 0.2, 0.8), (3,), (2, 1)),
    *refusals("binary_cross_entropy"),
)

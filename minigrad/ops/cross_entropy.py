"""Cross entropy of logits and of log-probabilities, for targets that are class indices or probabilities.

The classes are on the last axis. The ops below take rows, the public functions any number of axes before the classes.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import as_operand, astype, new, to_array
from minigrad.ops.loss import check_index, check_reduction, real
from minigrad.ops.manipulation import reshape
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.softmax import log_softmax

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["cross_entropy", "nll_loss"]


def rows(xp: Any, targets: Array, ignore_index: int | None) -> tuple[Array, Array]:
    """Which rows count, and the class of each, 0 for those that do not."""
    if ignore_index is None:
        return xp.ones_like(targets, dtype=dtypes.bool), targets
    counted = targets != ignore_index
    return counted, xp.where(counted, targets, 0)


def check_classes(xp: Any, index: Array, classes: int) -> None:
    """Refuse a class that is none."""
    wrong = index[(index < 0) | (index >= classes)]
    if wrong.size:
        raise IndexError(f"targets holds the class {int(wrong[0])}, and there are {classes}")


def row_weights(xp: Any, counted: Array, index: Array, weight: Array | None, dtype: Any) -> Array:
    """The weight of each row, 0 where it does not count."""
    return counted.astype(dtype) if weight is None else xp.where(counted, xp.take(weight, index, axis=0), 0.0)


def total_weight(xp: Any, weights: Array) -> Array:
    """What a mean divides by; 1 where nothing counts, so that the mean of nothing is 0."""
    total = xp.sum(weights)
    return xp.where(total == 0, 1.0, total)


def each(xp: Any, losses: Array) -> Array:
    """The rows of a matrix as one number each."""
    return xp.squeeze(losses, axis=-1)


def column(xp: Any, values: Array) -> Array:
    """One number a row as a matrix."""
    return xp.expand_dims(values, axis=-1)


def picked(xp: Any, matrix: Array, index: Array) -> Array:
    """The element of each row that `index` names."""
    return each(xp, xp.take_along_axis(matrix, column(xp, index), axis=-1))


def scattered(xp: Any, shape: tuple[int, ...], index: Array, values: Array) -> Array:
    """Zeros with one value in each row, at the place that `index` names."""
    return xp.index_add(shape, (xp.arange(shape[0]), index), values)


def log_probabilities(xp: Any, logits: Array, counted: Array, ignore_index: int | None) -> Array:
    """Log-softmax; a row that does not count may hold anything, NaN too."""
    if ignore_index is not None:
        logits = xp.where(column(xp, counted), logits, 0.0)
    return log_softmax.body(xp, logits)


CLASS_NEEDS = "logits (rows, classes), a class index for each row and a weight for each class"


@op(
    dtype=real.but(rounded=False),
    skip="targets",
    needs=CLASS_NEEDS,
    hint="Rows that shall not count have the index ignore_index",
    amp="float32",
)
def _cross_entropy(
    xp: Any,
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    /,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    classes = logits.shape[1]
    counted, index = rows(xp, targets, ignore_index)
    check_classes(xp, index, classes)
    logp = log_probabilities(xp, logits, counted, ignore_index)
    weights = row_weights(xp, counted, index, weight, logits.dtype)
    losses = (label_smoothing - 1) * weights * picked(xp, logp, index)
    if label_smoothing:
        share = xp.sum(logp if weight is None else logp * weight, axis=-1) * (-label_smoothing / classes)
        losses = losses + xp.where(counted, share, 0.0)
    if reduction == "none":
        return losses
    loss = xp.sum(losses)
    return loss / total_weight(xp, weights) if reduction == "mean" else loss


@_cross_entropy.vjp(0)
def _(
    xp: Any,
    g: Array,
    logits: Array,
    targets: Array,
    weight: Array | None,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
) -> Array:
    classes = logits.shape[1]
    counted, index = rows(xp, targets, ignore_index)
    logp = log_probabilities(xp, logits, counted, ignore_index)
    weights = row_weights(xp, counted, index, weight, logits.dtype)
    if reduction == "mean":
        g = g / total_weight(xp, weights)
    hit = (1 - label_smoothing) * g * weights
    if not label_smoothing:
        return xp.exp(logp) * column(xp, hit) - scattered(xp, logits.shape, index, hit)
    share = label_smoothing / classes * xp.where(counted, g, 0.0)
    mass = hit + share * (classes if weight is None else xp.sum(weight))
    smooth = column(xp, share) if weight is None else column(xp, share) * weight
    return xp.exp(logp) * column(xp, mass) - smooth - scattered(xp, logits.shape, index, hit)


@_cross_entropy.vjp(2)
def _(
    xp: Any,
    g: Array,
    logits: Array,
    targets: Array,
    weight: Array,
    out: Array,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
) -> Array:
    counted, index = rows(xp, targets, ignore_index)
    logp = log_probabilities(xp, logits, counted, ignore_index)
    slope = (label_smoothing - 1) * picked(xp, logp, index)
    if reduction == "mean":
        g = g / total_weight(xp, row_weights(xp, counted, index, weight, logits.dtype))
        slope = slope - out
    hit = xp.where(counted, g * slope, 0.0)
    share = label_smoothing / logits.shape[1] * xp.where(counted, g, 0.0)
    return xp.index_add(weight.shape, index, hit) - xp.sum(column(xp, share) * logp, axis=0)


CLASSES = A((4,), 0, 3, kind="int")
_cross_entropy.samples(
    *(case((4, 3), CLASSES, reduction=r) for r in ("mean", "sum", "none")),
    *(case((4, 3), CLASSES, A((3,), 0.5, 2.0), reduction=r) for r in ("mean", "sum", "none")),
    *(case((4, 3), CLASSES, label_smoothing=0.2, reduction=r) for r in ("mean", "sum", "none")),
    case((4, 3), CLASSES, A((3,), 0.5, 2.0), label_smoothing=0.2),
    case((4, 3), CLASSES, A((3,), 0.5, 2.0), label_smoothing=0.2, reduction="none"),
    case((4, 3), [0, -100, 2, 1], ignore_index=-100),
    case((4, 3), [0, 1, 2, 1], A((3,), 0.5, 2.0), ignore_index=1, label_smoothing=0.2),
    case((2, 3), [7, 7], ignore_index=7),
    case((0, 3), A((0,), 0, 3, kind="int")),
    error(IndexError, "targets holds the class 3, and there are 3", (2, 3), [0, 3]),
    error(IndexError, "targets holds the class -1, and there are 3", (2, 3), [0, -1]),
)


def check_smoothing(who: str, label_smoothing: Any) -> None:
    """Raise ValueError where it is no share."""
    if not isinstance(label_smoothing, Real) or not 0 <= float(label_smoothing) <= 1:
        raise ValueError(message(who, "label_smoothing", describe(label_smoothing), "a number from 0 to 1"))


def smoothed(targets: Array, label_smoothing: float) -> Array:
    """Probabilities mixed with the uniform distribution."""
    if not label_smoothing:
        return targets
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def soft_terms(xp: Any, logits: Array, targets: Array) -> Array:
    """``-targets * log_softmax(logits)``, 0 where a probability is 0 and its logit -inf."""
    logp = log_softmax.body(xp, logits)
    return -targets * xp.where(xp.logical_and(targets == 0, xp.isinf(logp)), 0.0, logp)


def per_row(xp: Any, g: Array, n: int, reduction: str) -> Array:
    """The cotangent of each of n rows, broadcasting along the classes."""
    if reduction == "none":
        return column(xp, g)
    return g / max(n, 1) if reduction == "mean" else g


@op(
    dtype=real, needs="logits and probabilities (rows, classes) of one shape and a weight for each class", amp="float32"
)
def _soft_cross_entropy(
    xp: Any,
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    /,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    terms = soft_terms(xp, logits, smoothed(targets, label_smoothing))
    losses = xp.sum(terms if weight is None else terms * weight, axis=-1)
    if reduction == "none":
        return losses
    loss = xp.sum(losses)
    return loss / max(logits.shape[0], 1) if reduction == "mean" else loss


@_soft_cross_entropy.vjp(0)
def _(
    xp: Any, g: Array, logits: Array, targets: Array, weight: Array | None, *, label_smoothing: float, reduction: str
) -> Array:
    targets = smoothed(targets, label_smoothing)
    if weight is not None:
        targets = targets * weight
    g = per_row(xp, g, logits.shape[0], reduction)
    return g * (xp.exp(log_softmax.body(xp, logits)) * xp.sum(targets, axis=-1, keepdims=True) - targets)


@_soft_cross_entropy.vjp(1)
def _(xp: Any, g: Array, logits: Array, weight: Array | None, *, label_smoothing: float, reduction: str) -> Array:
    slope = (label_smoothing - 1) * log_softmax.body(xp, logits)
    if weight is not None:
        slope = slope * weight
    return per_row(xp, g, logits.shape[0], reduction) * slope


@_soft_cross_entropy.vjp(2)
def _(xp: Any, g: Array, logits: Array, targets: Array, *, label_smoothing: float, reduction: str) -> Array:
    targets = smoothed(targets, label_smoothing)
    return per_row(xp, g, logits.shape[0], reduction) * soft_terms(xp, logits, targets)


PROBABILITIES = A((4, 3), 0.1, 0.9)
_soft_cross_entropy.samples(
    *(case((4, 3), PROBABILITIES, reduction=r) for r in ("mean", "sum", "none")),
    case((4, 3), PROBABILITIES, A((3,), 0.5, 2.0), label_smoothing=0.2),
    case((4, 3), PROBABILITIES, A((3,), 0.5, 2.0), label_smoothing=0.2, reduction="none"),
    case([[0.0, -float("inf")]], [[1.0, 0.0]]),
    case((0, 3), (0, 3)),
    error(ShapeError, "logits and probabilities (rows, classes) of one shape", (2, 3), (2, 2)),
    error(ShapeError, "a weight for each class", (2, 3), (2, 3), (2,)),
)


def cross_entropy(
    logits: Tensor,
    targets: Any,
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy between targets and the softmax of logits, with the classes on the last axis.

    For a class index t the loss is ``-weight[t] * log_softmax(logits)[t]``, and the mean is over the weights of the
    targets that count. For probabilities q it is ``-sum(weight * q * log_softmax(logits))``, and the mean is over the
    rows. Label smoothing mixes so much of the uniform distribution into the target (C. Szegedy et al., "Rethinking the
    Inception architecture for computer vision", 2016).

    Parameters
    ----------
    logits : Tensor
        ``(..., classes)``, unnormalized log-probabilities.
    targets : Tensor
        Class indices ``(...)`` of any integer dtype, or probabilities of the shape of `logits`.
    weight : Tensor, optional
        A factor for each class.
    ignore_index : int, optional
        Targets of this index do not count. Where none counts, the mean is 0.
    label_smoothing : float
        Between 0 and 1.
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` for the losses ``(...)``.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit, as when the classes are on axis 1.
    DTypeError
        If targets are bools.
    IndexError
        For a class index that is negative or too large. On a GPU the loss is NaN instead.
    ValueError
        For another reduction, or a label smoothing that is not between 0 and 1.

    Examples
    --------
    >>> import minigrad as mg
    >>> logits = mg.tensor([[0.0, 0.0], [0.0, 100.0]])
    >>> mg.round(mg.cross_entropy(logits, mg.tensor([0, 1])), 4)
    tensor(0.3466)
    >>> mg.round(mg.cross_entropy(logits, mg.tensor([[0.5, 0.5], [0.0, 1.0]]), reduction="none"), 4)
    tensor([0.6931, 0.    ])
    """
    check_reduction("cross_entropy", reduction)
    check_index("cross_entropy", ignore_index)
    check_smoothing("cross_entropy", label_smoothing)
    logits, targets = prepare("cross_entropy", "logits", logits, targets, weight, soft=True)
    matrix = (math.prod(logits.shape[:-1]), logits.shape[-1])
    flat = shaped(logits, matrix)
    if targets.dtype in dtypes.INTEGER:
        options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        losses = _cross_entropy(flat, shaped(targets, matrix[:1]), weight, reduction=reduction, **options)
        if flat.dtype in dtypes.HALF and tape.autocast_dtype() is None:
            kinds = [] if weight is None else [as_operand("cross_entropy", "weight", weight).dtype]
            losses = astype(losses, dtypes.promote([flat.dtype, *kinds]), copy=False)
    elif ignore_index is not None:
        need = "None where targets are probabilities"
        raise ValueError(message("cross_entropy", "ignore_index", ignore_index, need, "Give those rows zeros"))
    else:
        options = {"label_smoothing": label_smoothing, "reduction": reduction}
        losses = _soft_cross_entropy(flat, shaped(targets, matrix), weight, **options)
    return shaped(losses, logits.shape[:-1]) if reduction == "none" else losses


@op(
    dtype=real,
    skip="targets",
    needs=CLASS_NEEDS,
    hint="Rows that shall not count have the index ignore_index",
    amp="float32",
)
def _nll_loss(
    xp: Any,
    log_probabilities: Array,
    targets: Array,
    weight: Array | None = None,
    /,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array:
    counted, index = rows(xp, targets, ignore_index)
    check_classes(xp, index, log_probabilities.shape[1])
    weights = row_weights(xp, counted, index, weight, log_probabilities.dtype)
    losses = -weights * xp.where(counted, picked(xp, log_probabilities, index), 0.0)
    if reduction == "none":
        return losses
    loss = xp.sum(losses)
    return loss / total_weight(xp, weights) if reduction == "mean" else loss


_nll_loss.samples(
    *(case((4, 3), CLASSES, reduction=r) for r in ("mean", "sum", "none")),
    *(case((4, 3), CLASSES, A((3,), 0.5, 2.0), reduction=r) for r in ("mean", "sum", "none")),
    case((4, 3), [0, 1, 2, 1], A((3,), 0.5, 2.0), ignore_index=1),
    case((0, 3), A((0,), 0, 3, kind="int")),
    error(IndexError, "targets holds the class 3, and there are 3", (2, 3), [0, 3]),
)


def nll_loss(
    log_probabilities: Tensor,
    targets: Any,
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood ``-weight[t] * log_probabilities[t]`` of class indices t, the classes on the last axis.

    Parameters
    ----------
    log_probabilities : Tensor
        ``(..., classes)``, as from `log_softmax`.
    targets : Tensor
        Class indices ``(...)`` of any integer dtype.
    weight, ignore_index, reduction : optional
        As for `cross_entropy`.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, DTypeError, IndexError, ValueError
        As for `cross_entropy`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.nll_loss(mg.log(mg.tensor([[0.25, 0.75]])), mg.tensor([1])), 4)
    tensor(0.2877)
    """
    check_reduction("nll_loss", reduction)
    check_index("nll_loss", ignore_index)
    source, targets = prepare("nll_loss", "log_probabilities", log_probabilities, targets, weight, soft=False)
    n = math.prod(source.shape[:-1])
    flat = shaped(source, (n, source.shape[-1]))
    losses = _nll_loss(flat, shaped(targets, (n,)), weight, ignore_index=ignore_index, reduction=reduction)
    return shaped(losses, source.shape[:-1]) if reduction == "none" else losses


def shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`x` itself where it has the shape: a view of a leaf would cost a copy of its gradient."""
    return x if x.shape == shape else reshape(x, shape)


def prepare(who: str, name: str, source: Any, targets: Any, weight: Any, *, soft: bool) -> tuple[Any, Any]:
    """Both as tensors, after a check that their shapes and dtypes fit."""
    source, targets = (x if isinstance(x, tape.TensorBase) else new(to_array(x, who=who)) for x in (source, targets))
    if source.ndim == 0:
        raise ShapeError(message(who, name, source, "at least one axis, that of the classes"))
    if soft and targets.dtype in dtypes.FLOATING:
        need = source.shape
    elif targets.dtype in dtypes.INTEGER:
        need = source.shape[:-1]
    else:
        kinds = "class indices of an integer dtype" + (" or probabilities" if soft else "")
        raise DTypeError(message(who, "targets", targets, kinds, "Cast it with t.astype(mg.int64)"))
    if targets.shape != need:
        hint = ""
        if source.ndim > 1 and targets.shape == source.shape[:1] + source.shape[2:] and targets.dtype in dtypes.INTEGER:
            hint = f"The classes are on the last axis here, not on axis 1: mg.moveaxis({name}, 1, -1)"
        elif targets.shape == source.shape and soft:
            hint = "If they are one-hot, cast them to floats: they are probabilities"
        raise ShapeError(message(who, "targets", targets, f"shape {need} for {name} {describe(source)}", hint))
    if weight is not None and (weight.shape if hasattr(weight, "shape") else np.shape(weight)) != source.shape[-1:]:
        raise ShapeError(message(who, "weight", weight, f"a number for each of the {source.shape[-1]} classes"))
    return source, targets


_cross_entropy.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("cross_entropy", "cross_entropy"))
_cross_entropy.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("cross_entropy", "cross_entropy_vjp"))

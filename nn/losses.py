"""Losses as modules: a loss is made once with its options, and called with a prediction and a target.

What each computes stands in the function of the same name (`minigrad.cross_entropy` and so on). None of them broadcasts
a target against a prediction.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import message
from minigrad.nn.checks import integer, number
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CrossEntropyLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "NLLLoss", "SigmoidFocalLoss", "SmoothL1Loss", "SoftmaxFocalLoss",
]  # fmt: skip


class Loss(Module):
    """Base of the losses: keeps the reduction, ``"mean"``, ``"sum"`` or ``"none"``."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, reduction: str) -> None:
        given: Any = reduction
        if not isinstance(given, str) or given not in self.reductions:
            need = f"one of {', '.join(self.reductions)}"
            raise ValueError(message(type(self).__name__, "reduction", repr(reduction), need))
        self.reduction = reduction

    def denominator(self, target: Any) -> float | None:
        """What the mean divides by, so that losses of parts of a batch can be put together; None for a sum.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad import nn
        >>> nn.CrossEntropyLoss(ignore_index=0).denominator(mg.tensor([0, 2, 1]))
        2.0
        """
        return None if self.reduction == "sum" else self.count(ops.asarray(target))

    def count(self, target: Tensor) -> float:
        """How many targets count, each by its weight; subclasses say where that is not one an element."""
        return float(target.size)

    def extra_repr(self) -> str:
        """The reduction, where it is not the mean."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class CrossEntropyLoss(Loss):
    """Cross entropy of logits against class indices or probabilities; see `minigrad.cross_entropy`.

    Parameters
    ----------
    weight : Tensor, optional
        A factor for each class; kept as a buffer.
    ignore_index : int, optional
        Targets of this index do not count.
    label_smoothing : float
        How much of the uniform distribution is mixed into the target.
    reduction : str
        ``"mean"``, ``"sum"`` or ``"none"``.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    >>> mg.round(loss(mg.tensor([[0.0, 0.0]]), mg.tensor([1])), 4)
    tensor(0.6931)
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing)
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(message("CrossEntropyLoss", "label_smoothing", label_smoothing, "a number from 0 to 1"))
        self.register_buffer("weight", weight)
        self.ignore_index = _read_index(type(self).__name__, ignore_index)

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        """The loss of logits (..., classes)."""
        return ops.cross_entropy(
            logits,
            targets,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )

    def count(self, target: Tensor) -> float:
        if target.dtype in dtypes.FLOATING:
            return float(math.prod(target.shape[:-1]))
        return _count_classes(target, self.ignore_index, self.weight)


class NLLLoss(Loss):
    """Negative log-likelihood of log-probabilities against class indices; see `minigrad.nll_loss`."""

    weight: Tensor | None

    def __init__(self, *, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = _read_index(type(self).__name__, ignore_index)

    def forward(self, log_probabilities: Tensor, targets: Any) -> Tensor:
        """The loss of log-probabilities (..., classes)."""
        options = {"ignore_index": self.ignore_index, "reduction": self.reduction}
        return ops.nll_loss(log_probabilities, targets, weight=self.weight, **options)  # type: ignore[arg-type]

    def count(self, target: Tensor) -> float:
        return _count_classes(target, self.ignore_index, self.weight)


class BCEWithLogitsLoss(Loss):
    """Cross entropy of yes-or-no questions, from logits; see `minigrad.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    weight, pos_weight : Tensor, optional
        Factors for each loss and for its part of yes; kept as buffers.
    reduction : str
        ``"mean"``, ``"sum"`` or ``"none"``.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        """The loss of logits of any shape and a target of the same."""
        weights = self.weight, self.pos_weight
        return ops.binary_cross_entropy_with_logits(logits, target, *weights, reduction=self.reduction)


class BCELoss(Loss):
    """Cross entropy of yes-or-no questions, from probabilities; see `minigrad.binary_cross_entropy`.

    Parameters
    ----------
    weight : Tensor, optional
        A factor for each loss; kept as a buffer.
    reduction : str
        ``"mean"``, ``"sum"`` or ``"none"``.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)

    def forward(self, probabilities: Tensor, target: Any) -> Tensor:
        """The loss of probabilities of any shape and a target of the same."""
        return ops.binary_cross_entropy(probabilities, target, self.weight, reduction=self.reduction)


class SigmoidFocalLoss(Loss):
    """Focal loss of yes-or-no questions, from logits; see `minigrad.sigmoid_focal_loss`."""

    def __init__(self, *, alpha: float | None = None, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.alpha = None if alpha is None else number("SigmoidFocalLoss", "alpha", alpha)
        if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
            raise ValueError(message("SigmoidFocalLoss", "alpha", alpha, "a number from 0 to 1"))
        self.gamma = _read_gamma("SigmoidFocalLoss", gamma)

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        """The loss of logits of any shape and a target of the same."""
        options: dict[str, Any] = {"alpha": self.alpha, "gamma": self.gamma, "reduction": self.reduction}
        return ops.sigmoid_focal_loss(logits, target, **options)


class SoftmaxFocalLoss(Loss):
    """Focal loss of logits against class indices; see `minigrad.softmax_focal_loss`.

    Parameters
    ----------
    weight : Tensor, optional
        A factor for each class, the alpha of the paper; kept as a buffer.
    gamma : float
        How much less an easy row counts; 0 is cross entropy.
    ignore_index : int, optional
        Targets of this index do not count.
    reduction : str
        ``"mean"``, ``"sum"`` or ``"none"``.
    """

    weight: Tensor | None

    def __init__(
        self, *, weight: Any = None, gamma: float = 2.0, ignore_index: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.gamma = _read_gamma("SoftmaxFocalLoss", gamma)
        self.ignore_index = _read_index("SoftmaxFocalLoss", ignore_index)

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        """The loss of logits (..., classes)."""
        options: dict[str, Any] = {"ignore_index": self.ignore_index, "reduction": self.reduction}
        return ops.softmax_focal_loss(logits, targets, weight=self.weight, gamma=self.gamma, **options)

    def count(self, target: Tensor) -> float:
        return _count_classes(target, self.ignore_index, None)


class CTCLoss(Loss):
    """Connectionist temporal classification; see `minigrad.ctc_loss`.

    Parameters
    ----------
    blank : int
        The class of the blank.
    zero_infinity : bool
        A loss of 0 in place of infinity where there are too few predictions for the labels.
    reduction : str
        ``"mean"``, ``"sum"`` or ``"none"``.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> scores = mg.log_softmax(mg.zeros((1, 3, 2)))
    >>> mg.round(nn.CTCLoss()(scores, mg.tensor([[1]])), 4)
    tensor(0.2877)
    """

    def __init__(self, *, blank: int = 0, zero_infinity: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.blank, self.zero_infinity = integer("CTCLoss", "blank", blank), zero_infinity

    def forward(
        self, log_probabilities: Tensor, targets: Any, input_lengths: Any = None, target_lengths: Any = None
    ) -> Tensor:
        """The loss of log-probabilities (batch, length, classes) and labels (batch, labels)."""
        options: dict[str, Any] = {"blank": self.blank, "zero_infinity": self.zero_infinity}
        lengths = input_lengths, target_lengths
        return ops.ctc_loss(log_probabilities, targets, *lengths, **options, reduction=self.reduction)

    def count(self, target: Tensor) -> float:
        return float(len(target))


class MSELoss(Loss):
    """Squared error; see `minigrad.mse_loss`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.MSELoss()(mg.tensor([1.0, 3.0]), mg.tensor([0.0, 0.0]))
    tensor(5.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.mse_loss(prediction, target, reduction=self.reduction)


class L1Loss(Loss):
    """Absolute error; see `minigrad.l1_loss`."""

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.l1_loss(prediction, target, reduction=self.reduction)


class HuberLoss(Loss):
    """Squared error near 0, absolute error beyond `delta`; see `minigrad.huber_loss`."""

    def __init__(self, *, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.delta = number("HuberLoss", "delta", delta)
        if not self.delta > 0.0:
            raise ValueError(message("HuberLoss", "delta", delta, "a positive number"))

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.huber_loss(prediction, target, delta=self.delta, reduction=self.reduction)


class SmoothL1Loss(Loss):
    """Absolute error, rounded off below `beta`; see `minigrad.smooth_l1_loss`."""

    def __init__(self, *, beta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.beta = number("SmoothL1Loss", "beta", beta)
        if not self.beta > 0.0:
            raise ValueError(message("SmoothL1Loss", "beta", beta, "a positive number", "At 0 it is L1Loss"))

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.smooth_l1_loss(prediction, target, beta=self.beta, reduction=self.reduction)


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of log-probabilities from probabilities; see `minigrad.kl_div`.

    ``reduction="batchmean"`` is the divergence itself, averaged over axis 0.
    """

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, *, log_target: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.kl_div(prediction, target, log_target=self.log_target, reduction=self.reduction)

    def count(self, target: Tensor) -> float:
        return float(len(target) if self.reduction == "batchmean" and target.ndim else target.size)


def _count_classes(target: Tensor, ignore_index: int | None, weight: Tensor | None) -> float:
    """The weights of the class indices that count, summed."""
    if ignore_index is None and weight is None:
        return float(target.size)
    index = target._array
    if ignore_index is not None:
        index = index[index != ignore_index]
    return float(index.size if weight is None else weight._array[index].sum(dtype=np.float64))


def _read_index(who: str, ignore_index: Any) -> int | None:
    """The target that does not count, or None."""
    return None if ignore_index is None else integer(who, "ignore_index", ignore_index)


def _read_gamma(who: str, gamma: Any) -> float:
    """An exponent of at least 0."""
    found = number(who, "gamma", gamma)
    if not found >= 0.0:
        raise ValueError(message(who, "gamma", gamma, "a number of at least 0", "At 0 it is cross entropy"))
    return found

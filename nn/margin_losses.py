"""Losses with a margin as modules: of scores, orders, angles and distances."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import message
from minigrad.nn.checks import finite, number, positive
from minigrad.nn.losses import Loss
from minigrad.tensor import Tensor

__all__ = ["CosineEmbeddingLoss", "HingeLoss", "MarginRankingLoss", "TripletMarginLoss"]


class HingeLoss(Loss):
    """Hinge loss of scores against 1 and -1; see `minigrad.hinge_loss`."""

    def __init__(self, *, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = finite("HingeLoss", "margin", margin)

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        """The loss of a prediction and a target of one shape."""
        return ops.hinge_loss(prediction, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(Loss):
    """Loss of the order of two scores; see `minigrad.margin_ranking_loss`."""

    def __init__(self, *, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = finite("MarginRankingLoss", "margin", margin)

    def forward(self, x1: Tensor, x2: Tensor, target: Any) -> Tensor:
        """The loss of two scores and a target of one shape."""
        return ops.margin_ranking_loss(x1, x2, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(Loss):
    """Loss of the angle between vectors; see `minigrad.cosine_embedding_loss`."""

    def __init__(self, *, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = number("CosineEmbeddingLoss", "margin", margin)
        if not -1.0 <= self.margin <= 1.0:
            raise ValueError(message("CosineEmbeddingLoss", "margin", margin, "a cosine, -1 to 1"))

    def forward(self, x1: Tensor, x2: Tensor, target: Any) -> Tensor:
        """The loss of vectors (..., features) and a target (...)."""
        return ops.cosine_embedding_loss(x1, x2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(Loss):
    """Loss of the distances to a near and a far vector; see `minigrad.triplet_margin_loss`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> anchor, near, far = mg.tensor([[0.0]]), mg.tensor([[1.0]]), mg.tensor([[1.5]])
    >>> mg.round(nn.TripletMarginLoss(margin=0.75)(anchor, near, far), 4)
    tensor(0.25)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        who = "TripletMarginLoss"
        self.margin, self.p = positive(who, "margin", margin), number(who, "p", p)
        if not 1.0 <= self.p <= math.inf:
            raise ValueError(message(who, "p", p, "a number of at least 1, or math.inf"))
        self.eps, self.swap = finite(who, "eps", eps), bool(swap)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of three vectors (..., features)."""
        options: dict[str, Any] = {"margin": self.margin, "p": self.p, "eps": self.eps, "swap": self.swap}
        return ops.triplet_margin_loss(anchor, positive, negative, **options, reduction=self.reduction)

    def count(self, target: Tensor) -> float:
        return float(math.prod(target.shape[:-1]))

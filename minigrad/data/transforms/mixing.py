"""Mixing: each image with another one of its batch, and their targets in the same proportion."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from minigrad import dtypes
from minigrad.data.collate import rebuild, to_array
from minigrad.data.samplers import positive
from minigrad.data.streams import Rng, as_rng
from minigrad.data.transforms.erasing import boxes
from minigrad.data.transforms.transform import Array, Transform, check, number, restore, working
from minigrad.errors import DTypeError, ShapeError, describe, message

__all__ = ["CutMix", "MixUp"]


class Mixing(Transform):
    """Base of both: draws the partners and the weights, and mixes the targets.

    Parameters
    ----------
    alpha : float
        The weight of an image is drawn from Beta(alpha, alpha), for each image; 0 mixes nothing.
    num_classes : int, optional
        Needed where targets are integers.
    """

    def __init__(self, alpha: float, num_classes: SupportsIndex | None = None) -> None:
        who = type(self).__name__
        self.alpha = number(who, "alpha", alpha)
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(message(who, "alpha", f"{alpha}", "a finite number of at least 0"))
        self.num_classes = None if num_classes is None else positive(who, "num_classes", num_classes)

    def __call__(self, batch: Any, rng: Rng | SupportsIndex | None = None) -> Any:
        who = type(self).__name__
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ShapeError(message(who, "batch", describe(batch), "a pair of images and targets"))
        images, stream = check(who, batch[0]), as_rng(rng)
        targets = self._soft(to_array(batch[1]) if hasattr(batch[1], "dtype") else np.asarray(batch[1]), len(images))
        n = len(images)
        weights = stream.beta(self.alpha, self.alpha, n) if self.alpha else np.ones(n)
        partners = stream.permutation(n)
        mixed, kept = self.mix(images, partners, weights, stream)
        share = kept.astype(targets.dtype)[:, None]
        return rebuild(batch, [mixed, share * targets + (1 - share) * targets[partners]])

    def mix(self, images: Array, partners: Array, weights: Array, rng: Rng) -> tuple[Array, Array]:
        """The mixed images, and the weight that each kept of its own."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method mix(self, images, partners, weights, rng)")

    def _soft(self, targets: Array, n: int) -> Array:
        """Targets as weights of the classes, (batch, classes)."""
        who = type(self).__name__
        if len(targets.shape) == 2 and targets.dtype in dtypes.FLOATING and len(targets) == n:
            return targets
        if targets.shape != (n,) or targets.dtype not in dtypes.INTEGER:
            need = f"integers of shape ({n},), or floating weights ({n}, classes)"
            raise DTypeError(message(who, "targets", targets, need))
        if self.num_classes is None:
            raise ValueError(message(who, "num_classes", "None", "the number of classes, as targets are integers"))
        if n and not (targets.min() >= 0 and targets.max() < self.num_classes):
            got = f"{targets.min()} to {targets.max()}"
            raise ValueError(message(who, "targets", got, f"0 to {self.num_classes - 1}"))
        soft = np.zeros((n, self.num_classes), np.float32)
        soft[np.arange(n), targets] = 1
        return soft


class MixUp(Mixing):
    """``w * x + (1 - w) * x'`` of an image and another one, and of their targets (Zhang et al., 2018).

    Parameters
    ----------
    alpha : float
        The weight w is drawn from Beta(alpha, alpha), for each image; 0 mixes nothing.
    num_classes : int, optional
        Needed where targets are integers.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> images, targets = transforms.MixUp(0.4, num_classes=3)((np.ones((4, 5, 5)), np.array([0, 1, 2, 2])), rng=0)
    >>> images.shape, targets.shape, bool(np.allclose(targets.sum(axis=1), 1))
    ((4, 5, 5), (4, 3), True)
    """

    def __init__(self, alpha: float = 0.2, num_classes: SupportsIndex | None = None) -> None:
        super().__init__(alpha, num_classes)

    def mix(self, images: Array, partners: Array, weights: Array, rng: Rng) -> tuple[Array, Array]:
        x = working(images)
        rest = (1 - weights).astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        return restore(x + rest * (x[partners] - x), images.dtype), weights


class CutMix(Mixing):
    """Paste a rectangle of another image; the target's weight is the share of pixels that stayed (Yun et al., 2019).

    Parameters
    ----------
    alpha : float
        The share that stays is drawn from Beta(alpha, alpha), for each image, before the rectangle, whose center is
        anywhere, is cut at the border; 0 mixes nothing.
    num_classes : int, optional
        Needed where targets are integers.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> batch = np.arange(2.0).repeat(36).reshape(2, 6, 6), np.eye(2)
    >>> images, targets = transforms.CutMix()(batch, rng=3)
    >>> bool(np.allclose(images.mean(axis=(1, 2)), targets[:, 1]))
    True
    """

    def __init__(self, alpha: float = 1.0, num_classes: SupportsIndex | None = None) -> None:
        super().__init__(alpha, num_classes)

    def mix(self, images: Array, partners: Array, weights: Array, rng: Rng) -> tuple[Array, Array]:
        side = np.sqrt(1 - weights)
        sizes = [np.rint(side * extent).astype(np.int64) for extent in images.shape[-2:]]
        places = [rng.integers(0, e, len(images)) - size // 2 for e, size in zip(images.shape[-2:], sizes)]
        where = boxes(images, *places, *sizes)
        pasted = np.where(where if images.ndim == 3 else where[:, None], images[partners], images)
        return pasted, 1 - where.mean(axis=(1, 2))

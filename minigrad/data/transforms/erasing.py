"""Erasing: a rectangle of each image is painted over."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.samplers import positive
from minigrad.data.streams import Rng
from minigrad.data.transforms.transform import Array, Transform, number, pair, probability
from minigrad.errors import message

__all__ = ["Cutout", "RandomErasing", "boxes"]


class Cutout(Transform):
    """Paint a square over each image (DeVries and Taylor, 2017).

    The center is anywhere in the image, so a part of the square may lie outside.

    Parameters
    ----------
    size : int
        Side of the square; 0 leaves the images as they are.
    fill : number
        Its value.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> int(transforms.Cutout(1)(np.ones((3, 4, 4), np.uint8)).sum())
    45
    """

    def __init__(self, size: SupportsIndex, *, fill: float = 0) -> None:
        self.size, self.fill = positive("Cutout", "size", size, least=0), number("Cutout", "fill", fill)

    def apply(self, images: Array, rng: Rng) -> Array:
        if not images.size:
            return images.copy()
        top, left = (rng.integers(0, extent, len(images)) - self.size // 2 for extent in images.shape[-2:])
        return paint(images, boxes(images, top, left, self.size, self.size), self.fill)


class RandomErasing(Transform):
    """Paint a rectangle over an image with a probability (Zhong, Zheng, Kang, Li and Yang, 2017).

    Parameters
    ----------
    p : float
        The probability for each image.
    scale : (float, float)
        Range of the rectangle's area, in shares of the image's.
    ratio : (float, float)
        Range of its height to its width, of which the logarithm is drawn. A side longer than the image is cut.
    fill : number
        Its value.
    """

    def __init__(self, p: float = 0.5, *, scale: Any = (0.02, 0.33), ratio: Any = (0.3, 3.3), fill: float = 0) -> None:
        self.p = probability("RandomErasing", "p", p)
        self.scale, self.ratio = pair("RandomErasing", "scale", scale), pair("RandomErasing", "ratio", ratio)
        if not 0 <= self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(message("RandomErasing", "scale", f"{self.scale}", "shares, 0 to 1"))
        if self.ratio[0] <= 0:
            raise ValueError(message("RandomErasing", "ratio", f"{self.ratio}", "numbers above 0"))
        self.fill = number("RandomErasing", "fill", fill)

    def apply(self, images: Array, rng: Rng) -> Array:
        n, (height, width) = len(images), images.shape[-2:]
        chosen = rng.random(n) < self.p
        area = rng.uniform(*self.scale, n) * height * width
        low, high = np.log(self.ratio)
        ratio = np.exp(rng.uniform(low, high, n))
        rows = np.clip(np.rint(np.sqrt(area * ratio)), 0, height).astype(np.int64)
        columns = np.clip(np.rint(np.sqrt(area / ratio)), 0, width).astype(np.int64)
        top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        return paint(images, boxes(images, top, left, rows * chosen, columns), self.fill)


def boxes(images: Array, top: Array, left: Array, height: Any, width: Any) -> Array:
    """The pixels of a rectangle in each image, (batch, height, width); what lies outside is cut."""
    rows, columns = (np.arange(extent)[None] for extent in images.shape[-2:])
    top, left, height, width = (np.reshape(value, (-1, 1)) for value in (top, left, height, width))
    inside = (rows >= top) & (rows < top + height)
    across = (columns >= left) & (columns < left + width)
    return np.asarray(inside[:, :, None] & across[:, None, :])


def paint(images: Array, where: Array, fill: float) -> Array:
    """The images with a value where it is said."""
    out = images.copy()
    np.copyto(out, np.asarray(fill, images.dtype), where=where if images.ndim == 3 else where[:, None])
    return out

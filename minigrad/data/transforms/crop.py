"""Crops and flips: pixels move, and none is computed."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.samplers import positive
from minigrad.data.streams import Rng
from minigrad.data.transforms.transform import Array, Transform, number, probability
from minigrad.errors import ShapeError, describe, message

__all__ = ["RandomCrop", "RandomHorizontalFlip", "RandomVerticalFlip"]

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


class RandomCrop(Transform):
    """Cut a window out of each image, at a random place of the padded image.

    Parameters
    ----------
    size : int or (int, int), optional
        Height and width of the window; those of the image without one.
    padding : int
        Pixels put on all four sides first.
    fill : number
        Their value.
    mode : str
        ``"constant"``, or where the pixels come from, as in `numpy.pad`: ``"edge"``, ``"reflect"``, ``"symmetric"``,
        ``"wrap"``.

    Raises
    ------
    ShapeError
        The window is larger than the padded image.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.RandomCrop(3)(np.zeros((2, 5, 6)), rng=0).shape
    (2, 3, 3)
    """

    def __init__(
        self, size: Any = None, *, padding: SupportsIndex = 0, fill: float = 0, mode: str = "constant"
    ) -> None:
        self.size = None if size is None else extents("RandomCrop", size)
        self.padding = positive("RandomCrop", "padding", padding, least=0)
        if mode not in MODES:
            raise ValueError(message("RandomCrop", "mode", repr(mode), f"one of {', '.join(map(repr, MODES))}"))
        self.fill, self.mode = number("RandomCrop", "fill", fill), mode

    def apply(self, images: Array, rng: Rng) -> Array:
        height, width = self.size or images.shape[-2:]
        if self.padding:
            sides = [(0, 0)] * (images.ndim - 2) + [(self.padding, self.padding)] * 2
            options: dict[str, Any] = {"constant_values": self.fill} if self.mode == "constant" else {}
            images = np.pad(images, sides, self.mode, **options)  # type: ignore[call-overload]
        places = [have - want + 1 for have, want in zip(images.shape[-2:], (height, width))]
        if min(places) < 1:
            got, need = f"({height}, {width})", f"at most {images.shape[-2:]}, the padded image"
            raise ShapeError(message("RandomCrop", "size", got, need))
        top, left = (rng.integers(0, most, len(images)) for most in places)
        windows = np.lib.stride_tricks.sliding_window_view(images, (height, width), axis=(-2, -1))
        each = np.arange(len(images))
        return np.array(windows[each, top, left] if images.ndim == 3 else windows[each, :, top, left])


class RandomHorizontalFlip(Transform):
    """Mirror an image, left to right, with a probability.

    Parameters
    ----------
    p : float
        The probability for each image.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.RandomHorizontalFlip(p=1.0)(np.array([[[1, 2, 3]]])).tolist()
    [[[3, 2, 1]]]
    """

    axis = -1

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(type(self).__name__, "p", p)

    def apply(self, images: Array, rng: Rng) -> Array:
        chosen = rng.random(len(images)) < self.p
        out = images.copy()
        out[chosen] = np.flip(images[chosen], self.axis)
        return out


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror an image, top to bottom, with a probability.

    Parameters
    ----------
    p : float
        The probability for each image.
    """

    axis = -2


def extents(who: str, size: Any) -> tuple[int, int]:
    """Height and width."""
    both = (size, size) if hasattr(size, "__index__") else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(both) != 2:
        raise ShapeError(message(who, "size", describe(size), "an int, or height and width"))
    return positive(who, "size", both[0]), positive(who, "size", both[1])

"""ColorJitter: brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.data.streams import Rng
from minigrad.data.transforms.transform import Array, Transform, number, pair, restore, working
from minigrad.errors import ShapeError, describe, message

__all__ = ["ColorJitter"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue at random, in this order.

    With the gray value y of a pixel, 0.299 r + 0.587 g + 0.114 b (ITU-R BT.601), and its mean m over the image:
    ``b * x``, then ``m + c * (x - m)``, then ``y + s * (x - y)``, then the hue turned; after each the values are cut to
    0 ... 1, or to 0 ... the largest of an integer dtype.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
        Range of the factors b, c, s; a number means 1 - value (at least 0) to 1 + value.
    hue : float or (float, float)
        Range of the turn in shares of the full circle, within -0.5 and 0.5; a number means -value to value.

    Raises
    ------
    ValueError
        Floating images are not within 0 and 1: normalize afterwards.
    ShapeError
        Saturation or hue is asked for, and the images have not 3 channels.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.ColorJitter(brightness=(0.5, 0.5))(np.full((1, 3, 1, 1), 0.5)).ravel().tolist()
    [0.25, 0.25, 0.25]
    """

    def __init__(self, brightness: Any = 0.0, contrast: Any = 0.0, saturation: Any = 0.0, hue: Any = 0.0) -> None:
        self.brightness = factor("brightness", brightness)
        self.contrast = factor("contrast", contrast)
        self.saturation = factor("saturation", saturation)
        self.hue = pair("ColorJitter", "hue", hue, symmetric=True)
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise ValueError(message("ColorJitter", "hue", f"{self.hue}", "shares of the circle within -0.5 and 0.5"))

    def apply(self, images: Array, rng: Rng) -> Array:
        colored = images.ndim == 4 and images.shape[1] == 3
        if not colored and (self.saturation != (1.0, 1.0) or self.hue != (0.0, 0.0)):
            raise ShapeError(message("ColorJitter", "images", images, "3 channels for saturation and hue"))
        top = float(np.iinfo(images.dtype).max) if images.dtype in dtypes.INTEGER else 1.0
        x = working(images)
        if x.size and not (x.min() >= 0 and x.max() <= top):
            got = describe(f"from {x.min()} to {x.max()}")
            raise ValueError(message("ColorJitter", "images", got, f"values from 0 to {top:g}", "Normalize after it"))
        shape = (-1,) + (1,) * (x.ndim - 1)
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        b, c, s, h = (rng.uniform(*bounds, len(x)).astype(x.dtype).reshape(shape) for bounds in ranges)
        if self.brightness != (1.0, 1.0):
            x = np.clip(b * x, 0, top)
        if self.contrast != (1.0, 1.0):
            mean = (gray(x) if colored else x).mean(axis=tuple(range(1, x.ndim)), keepdims=True)
            x = np.clip(mean + c * (x - mean), 0, top)
        if self.saturation != (1.0, 1.0):
            y = gray(x)
            x = np.clip(y + s * (x - y), 0, top)
        if self.hue != (0.0, 0.0):
            x = np.clip(turn_hue(x, h), 0, top)
        return images.copy() if x is images else restore(x, images.dtype)


def factor(arg: str, value: Any) -> tuple[float, float]:
    """The range of a factor."""
    if np.ndim(value) == 0:
        around = number("ColorJitter", arg, value)
        value = (max(0.0, 1.0 - around), 1.0 + around)
    low, high = pair("ColorJitter", arg, value)
    if low < 0:
        raise ValueError(message("ColorJitter", arg, f"({low}, {high})", "factors of at least 0"))
    return low, high


def gray(x: Array) -> Array:
    """The gray value of each pixel, (batch, 1, height, width)."""
    return np.asarray(np.einsum("nchw,c->nhw", x, np.array(LUMA, x.dtype))[:, None])


def turn_hue(x: Array, turn: Array) -> Array:
    """Turn the hue by shares of the circle, with the hue and value of Smith, "Color gamut transform pairs", 1978."""
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    value = x.max(axis=1, keepdims=True)
    chroma = value - x.min(axis=1, keepdims=True)
    safe = np.where(chroma > 0, chroma, 1)
    sector = np.where(
        value == red, (green - blue) / safe, np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    k = (np.array([5, 3, 1], x.dtype).reshape(1, 3, 1, 1) + sector + 6 * turn) % 6
    return np.asarray(value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))

"""Resize: another number of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.data.streams import Rng
from minigrad.data.transforms.crop import extents
from minigrad.data.transforms.transform import Array, Transform, need_package, restore
from minigrad.errors import message

__all__ = ["Resize"]

FILTERS = ("nearest", "bilinear", "bicubic", "box", "lanczos")


class Resize(Transform):
    """Change the height and width of images, by Pillow (extra ``data``).

    Where an image becomes smaller the filter is widened, so that nothing is skipped. Pillow computes in float32.

    Parameters
    ----------
    size : int or (int, int)
        The new height and width.
    interpolation : str
        ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"box"`` or ``"lanczos"``.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.Resize(2, interpolation="box")(np.arange(16.0).reshape(1, 4, 4)).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """

    def __init__(self, size: Any, *, interpolation: str = "bilinear") -> None:
        self.size = extents("Resize", size)
        if interpolation not in FILTERS:
            need = f"one of {', '.join(map(repr, FILTERS))}"
            raise ValueError(message("Resize", "interpolation", repr(interpolation), need))
        self.interpolation = interpolation

    def apply(self, images: Array, rng: Rng) -> Array:
        if images.shape[-2:] == self.size:
            return images.copy()
        module = need_package("Resize", "PIL.Image", "Pillow")
        resample = module.Resampling[self.interpolation.upper()]
        # as integers Pillow would round twice, once for each axis
        planes = images.reshape(-1, *images.shape[-2:]).astype(np.float32, copy=False)
        out = np.empty((len(planes), *self.size), np.float32)
        for plane, result in zip(planes, out):
            result[...] = module.fromarray(plane).resize(self.size[::-1], resample)
        return restore(out.reshape(*images.shape[:-2], *self.size), images.dtype)

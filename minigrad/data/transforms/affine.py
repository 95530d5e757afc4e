"""Rotation, scale, shear and shift: one affine map for each image, and one interpolation."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.samplers import positive
from minigrad.data.streams import Rng
from minigrad.data.transforms.transform import Array, Transform, need_package, number, numbers, pair, restore, working
from minigrad.errors import message

__all__ = ["RandomAffine", "RandomRotation", "RandomScale", "inverse_matrices", "warp"]

# how the surroundings of an image are made up, by scipy's names
MODES = {"constant": "grid-constant", "nearest": "nearest", "reflect": "reflect", "wrap": "grid-wrap"}


class RandomAffine(Transform):
    """Scale an image, shear it, rotate it about its center, and shift it; interpolation by scipy (extra ``data``).

    A pixel at p from the center moves to ``R(angle) @ [[1, 0], [tan(shear), 1]] @ (scale * p) + shift`` in rows and
    columns. Rotation by multiples of 90 degrees moves the pixels of square images exactly.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle, counterclockwise; a number means -degrees to degrees.
    translate : float or (float, float)
        The largest shifts, down and to the right, in shares of height and width; one number for both.
    scale : (float, float)
        Range of the factor, above 0; below 1 the image becomes smaller.
    shear : float or (float, float)
        Range of the angle by which columns lean, in degrees, within -90 and 90.
    order : int
        Of the interpolating spline: 0 takes the nearest pixel, 1 is linear, 3 cubic, up to 5.
    mode : str
        What surrounds the image: ``"constant"`` (fill), ``"nearest"``, ``"reflect"``, ``"wrap"``.
    fill : float
        The value of the surroundings.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> image = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> transforms.RandomAffine(degrees=(90, 90))(image).tolist()
    [[[2.0, 4.0], [1.0, 3.0]]]
    """

    def __init__(
        self,
        degrees: Any = 0.0,
        *,
        translate: Any = 0.0,
        scale: Any = (1.0, 1.0),
        shear: Any = 0.0,
        order: SupportsIndex = 1,
        mode: Any = "constant",
        fill: float = 0.0,
    ) -> None:
        who = type(self).__name__
        self.degrees = pair(who, "degrees", degrees, symmetric=True)
        self.scale = pair(who, "scale", scale)
        self.shear = pair(who, "shear", shear, symmetric=True)
        shifts = (
            np.broadcast_to(numbers(who, "translate", translate), 2).tolist()
            if np.size(translate) in (1, 2)
            else [-1.0]
        )
        if not min(shifts) >= 0:
            raise ValueError(message(who, "translate", f"{translate}", "one or two shares of at least 0"))
        if self.scale[0] <= 0:
            raise ValueError(message(who, "scale", f"{self.scale}", "numbers above 0"))
        if not -90 < self.shear[0] <= self.shear[1] < 90:
            raise ValueError(message(who, "shear", f"{self.shear}", "angles within -90 and 90 degrees"))
        self.order = positive(who, "order", order, least=0)
        if self.order > 5:
            raise ValueError(message(who, "order", self.order, "0 to 5"))
        if not isinstance(mode, str) or mode not in MODES:
            raise ValueError(message(who, "mode", repr(mode), f"one of {', '.join(map(repr, MODES))}"))
        self.translate, self.mode, self.fill = shifts, mode, number(who, "fill", fill)

    def apply(self, images: Array, rng: Rng) -> Array:
        n = len(images)
        angle, scale, shear = (rng.uniform(*bounds, n) for bounds in (self.degrees, self.scale, self.shear))
        most = np.array(self.translate) * images.shape[-2:]
        shift = rng.uniform(-most, most, (n, 2))
        matrices = inverse_matrices(angle, scale, shear)
        center = (np.array(images.shape[-2:]) - 1) / 2
        # the pixel at p comes from M (p - center - shift) + center
        offsets = center - np.einsum("nij,nj->ni", matrices, center + shift)
        return warp(type(self).__name__, images, matrices, offsets, self.order, self.mode, self.fill)


class RandomRotation(RandomAffine):
    """Rotate an image about its center by a random angle; see `RandomAffine`.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle, counterclockwise; a number means -degrees to degrees.
    order, mode, fill : optional
        As in `RandomAffine`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> images = np.arange(18.0).reshape(2, 3, 3)
    >>> turned = transforms.RandomRotation((180, 180))(images)
    >>> bool((turned == np.rot90(images, 2, axes=(1, 2))).all())
    True
    """

    def __init__(self, degrees: Any, *, order: SupportsIndex = 1, mode: str = "constant", fill: float = 0.0) -> None:
        super().__init__(degrees, order=order, mode=mode, fill=fill)


class RandomScale(RandomAffine):
    """Enlarge or shrink what an image shows, about its center; its size stays. See `RandomAffine`.

    Parameters
    ----------
    scale : (float, float)
        Range of the factor.
    order, mode, fill : optional
        As in `RandomAffine`.
    """

    def __init__(self, scale: Any, *, order: SupportsIndex = 1, mode: str = "constant", fill: float = 0.0) -> None:
        super().__init__(scale=scale, order=order, mode=mode, fill=fill)


def inverse_matrices(angle: Array, scale: Array, shear: Array) -> Array:
    """From where a pixel comes: (n, 2, 2) on rows and columns, the inverse of R(angle) @ shear @ scale.

    Angles are in degrees. Multiples of 90 give whole numbers.
    """
    quarters = np.round(np.asarray(angle) / 90)
    rest = np.deg2rad(angle - 90 * quarters)
    c, s = np.cos(rest), np.sin(rest)
    turned = quarters.astype(np.int64) % 4
    cos, sin = np.choose(turned, [c, -s, -c, s]), np.choose(turned, [s, c, -s, -c])
    lean = np.tan(np.deg2rad(shear))
    rows = [cos, sin, -sin - lean * cos, cos - lean * sin]
    return np.asarray(np.stack(rows, axis=-1).reshape(-1, 2, 2) / np.reshape(scale, (-1, 1, 1)))


def warp(who: str, images: Array, matrices: Array, offsets: Array, order: int, mode: str, fill: float) -> Array:
    """Take the value at ``matrix @ p + offset`` for each pixel p of each image."""
    if not images.size:
        return images.copy()
    transform = need_package(who, "scipy.ndimage", "scipy").affine_transform
    x = working(images)
    planes = x.reshape(len(x), -1, *x.shape[-2:])
    out = np.empty_like(planes)
    identity = np.eye(2)
    for image, result, matrix, offset in zip(planes, out, matrices, offsets):
        if not offset.any() and (matrix == identity).all():
            result[...] = image
            continue
        for plane, target in zip(image, result):
            transform(plane, matrix, offset, output=target, order=order, mode=MODES[mode], cval=fill)
    return restore(out.reshape(images.shape), images.dtype)

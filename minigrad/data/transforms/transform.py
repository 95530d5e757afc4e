"""Transform: the base, a chain of them, and the two that are not random."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np

from minigrad import dtypes
from minigrad.data.collate import rebuild, to_array
from minigrad.data.streams import Rng, as_rng
from minigrad.errors import DTypeError, ShapeError, describe, message

__all__ = ["Compose", "Normalize", "ToFloat", "Transform", "need_package", "pair", "probability", "restore", "working"]

Array = np.ndarray[Any, Any]


class Transform:
    """Base of the transforms: a subclass has `apply`.

    A transform is called with a batch and a generator. The batch is an array of images, (batch, height, width) or
    (batch, channels, height, width), or a tuple or list that begins with one; the rest of that stays as it is. The
    images keep their dtype, and the batch that was given is not changed. Integers are computed with in float32 and
    rounded.

    A loader's ``transform=`` gives each batch a generator of its own. By hand it may be a `numpy.random.Generator`, a
    seed, or left out: then it is drawn from `mg.random`.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> class Noise(transforms.Transform):
    ...     def apply(self, images, rng):
    ...         return images + rng.normal(0.0, 0.1, images.shape).astype(images.dtype)
    >>> images, labels = np.zeros((2, 4, 4), np.float32), np.arange(2)
    >>> noisy, same = Noise()((images, labels), rng=0)
    >>> noisy.dtype, same is labels
    (dtype('float32'), True)
    """

    draws_globally = False

    def __call__(self, batch: Any, rng: Rng | SupportsIndex | None = None) -> Any:
        if isinstance(batch, (tuple, list)) and batch:
            return rebuild(batch, [self._images(batch[0], as_rng(rng)), *batch[1:]])
        return self._images(batch, as_rng(rng))

    def apply(self, images: Array, rng: Rng) -> Array:
        """Return the new images."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method apply(self, images, rng)")

    def _images(self, images: Any, rng: Rng) -> Array:
        return self.apply(check(type(self).__name__, images), rng)


class Compose(Transform):
    """Transforms one after the other, with one generator.

    Parameters
    ----------
    transforms : iterable of Transform
        Any callables that take a batch and a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> augment = transforms.Compose([transforms.RandomCrop(padding=2), transforms.ToFloat()])
    >>> augment(np.full((5, 1, 8, 8), 255, np.uint8), rng=1).shape
    (5, 1, 8, 8)
    """

    def __init__(self, transforms: Iterable[Any]) -> None:
        given: Any = transforms
        if not isinstance(given, Iterable):
            raise DTypeError(message("Compose", "transforms", describe(given), "an iterable of transforms"))
        self.transforms = list(given)

    @property
    def draws_globally(self) -> bool:  # type: ignore[override]
        """Whether one of them may."""
        return any(getattr(transform, "draws_globally", True) for transform in self.transforms)

    def __call__(self, batch: Any, rng: Rng | SupportsIndex | None = None) -> Any:
        stream = as_rng(rng)
        for transform in self.transforms:
            batch = transform(batch, stream)
        return batch


class ToFloat(Transform):
    """Integers divided by their largest: float32 from 0 to 1 of unsigned ones. Floating images stay as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.ToFloat()(np.array([[[0, 51, 255]]], np.uint8)).tolist() == [[[0.0, np.float32(0.2), 1.0]]]
    True
    """

    def apply(self, images: Array, rng: Rng) -> Array:
        if images.dtype in dtypes.FLOATING:
            return images
        return np.divide(images, np.float32(np.iinfo(images.dtype).max), dtype=np.float32)


class Normalize(Transform):
    """(x - mean) / std, for each channel.

    Parameters
    ----------
    mean, std : float or array
        One number, or one for each channel; ``std > 0``.

    Raises
    ------
    DTypeError
        The images are integers: `ToFloat` comes first.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data import transforms
    >>> transforms.Normalize([0.5, 0.0], [0.5, 2.0])(np.ones((1, 2, 1, 1))).ravel().tolist()
    [1.0, 0.5]
    """

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = numbers("Normalize", "mean", mean), numbers("Normalize", "std", std)
        if self.mean.ndim > 1 or self.std.ndim > 1:
            raise ShapeError(
                message("Normalize", "mean, std", f"of {self.mean.ndim} axes", "numbers, or one a channel")
            )
        if not (np.isfinite(self.std) & (self.std > 0)).all():
            raise ValueError(message("Normalize", "std", f"{self.std}", "finite numbers above 0"))

    def apply(self, images: Array, rng: Rng) -> Array:
        if images.dtype not in dtypes.FLOATING:
            raise DTypeError(message("Normalize", "images", images, "a floating dtype", "Put ToFloat() before it"))
        channels = images.shape[1] if images.ndim == 4 else 1
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value.size not in (1, channels):
                raise ShapeError(message("Normalize", name, f"{value.size} numbers", f"1 or {channels}, the channels"))
        x = working(images)
        mean, std = (v.astype(x.dtype).reshape((-1, 1, 1) if images.ndim == 4 else ()) for v in (self.mean, self.std))
        return np.asarray((x - mean) / std, images.dtype)


def check(who: str, images: Any) -> Array:
    """A batch of images as an array."""
    array = to_array(images) if not isinstance(images, dict) else None
    if array is None or array.ndim not in (3, 4):
        need = "images (batch, height, width) or (batch, channels, height, width), or a tuple that begins with them"
        raise ShapeError(message(who, "batch", describe(images if array is None else array), need))
    if array.dtype not in dtypes.FLOATING | dtypes.INTEGER:
        raise DTypeError(message(who, "images", array, "an integer or floating dtype"))
    return array


def working(images: Array) -> Array:
    """Images in the dtype to compute in: float64 as it is, else float32."""
    return images if images.dtype == np.float64 else images.astype(np.float32, copy=False)


def restore(x: Array, dtype: Any) -> Array:
    """What was computed, in the dtype of the images; integers are rounded, and stay within their range."""
    if dtype in dtypes.INTEGER:
        limits = np.iinfo(dtype)
        # the largest int32 and int64 are no float32: what rounds up to one more is cut below it
        top = np.nextafter(x.dtype.type(limits.max), x.dtype.type(0)) if limits.bits > 16 else limits.max
        x = np.clip(np.rint(x), limits.min, top)
    return np.asarray(x, dtype)


def pair(who: str, arg: str, value: Any, symmetric: bool = False) -> tuple[float, float]:
    """A range (low, high); with `symmetric` one number is the range from -value to value."""
    try:
        low, high = (-float(value), float(value)) if symmetric and np.ndim(value) == 0 else map(float, value)
    except (TypeError, ValueError):
        need = "a number or a pair (low, high)" if symmetric else "a pair (low, high)"
        raise DTypeError(message(who, arg, describe(value), need)) from None
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ValueError(message(who, arg, f"({low}, {high})", "finite numbers, low <= high"))
    return low, high


def number(who: str, arg: str, value: Any) -> float:
    """A number; no text that would read as one."""
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise DTypeError(message(who, arg, describe(value), "a number"))


def numbers(who: str, arg: str, value: Any) -> Array:
    """Numbers in float64, a copy."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError):
        raise DTypeError(message(who, arg, describe(value), "numbers")) from None


def probability(who: str, arg: str, value: Any) -> float:
    """A number of [0, 1]."""
    found = number(who, arg, value)
    if not 0 <= found <= 1:
        raise ValueError(message(who, arg, f"{value}", "a probability, 0 to 1"))
    return found


def need_package(who: str, module: str, package: str) -> Any:
    """Import what the extra `data` brings."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who}: needs {package}, which is not installed: pip install 'minigrad[data]'") from error

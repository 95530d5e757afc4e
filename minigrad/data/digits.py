"""The 8x8 handwritten digits that come with the package.

The 1797 images are the test part of *Optical Recognition of Handwritten Digits* by E. Alpaydin and C. Kaynak (1998),
UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, used under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). README.md beside this file says how ``digits.npz`` was made.
"""

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Digits", "from_pixels", "load_digits"]

_FILE = os.path.join(os.path.dirname(__file__), "digits.npz")


class Digits(NamedTuple):
    """Images of handwritten digits with their labels, split into a training and a test part.

    Parameters
    ----------
    train_images, test_images : numpy.ndarray
        float32 of shape (n, height, width), from 0 (paper) to 1 (ink). A dense net takes
        ``images.reshape(len(images), -1)``, a convolutional one ``images[:, None]`` or ``images[..., None]``.
    train_labels, test_labels : numpy.ndarray
        int64 of shape (n,), the digits 0 to 9.
    """

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


def from_pixels(
    train_images: npt.NDArray[np.uint8],
    train_labels: npt.NDArray[np.uint8],
    test_images: npt.NDArray[np.uint8],
    test_labels: npt.NDArray[np.uint8],
    *,
    white: int,
) -> Digits:
    """Scale integer pixels to [0, 1] and widen the labels.

    Parameters
    ----------
    train_images, train_labels, test_images, test_labels : numpy.ndarray
        uint8 images of shape (n, height, width) and labels of shape (n,).
    white : int
        The pixel that becomes 1.

    Returns
    -------
    Digits
        Arrays of their own, never views of the arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data.digits import from_pixels
    >>> pixels, labels = np.array([[[0, 128], [255, 51]]], np.uint8), np.array([7], np.uint8)
    >>> digits = from_pixels(pixels, labels, pixels, labels, white=255)
    >>> float(digits.train_images.max()), digits.train_labels
    (1.0, array([7]))
    """

    def scaled(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        # divided, not multiplied by 1/white: the brightest pixel is exactly 1
        return np.divide(pixels, np.float32(white), dtype=np.float32)

    return Digits(
        scaled(train_images), train_labels.astype(np.int64), scaled(test_images), test_labels.astype(np.int64)
    )


def load_digits() -> Digits:
    """Load the 8x8 handwritten digits that come with the package.

    1797 images of 8x8 pixels by 13 writers: each pixel counts the ink in a 4x4 block of a 32x32 bitmap, 0 to 16, here
    divided by 16. The split is fixed and stored with the data: 36 images of each digit (360, a fifth), drawn with
    seed 0, are the test part, the other 1437 the training part, both in the order of the source. The parts share their
    writers, so test accuracy says how well a model knows these hands, not how well it reads a stranger's.

    Returns
    -------
    Digits
        ``train_images`` (1437, 8, 8) and ``test_images`` (360, 8, 8) in float32, from 0 to 1; ``train_labels`` and
        ``test_labels`` in int64. Each call returns arrays of its own.

    References
    ----------
    E. Alpaydin, C. Kaynak (1998), *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49 (CC BY 4.0).

    Examples
    --------
    >>> from minigrad.data import load_digits
    >>> digits = load_digits()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1437, 8, 8), (360, 8, 8))
    >>> digits.train_labels[:10]
    array([0, 1, 2, 4, 5, 6, 8, 9, 0, 1])
    """
    with np.load(_FILE, allow_pickle=False) as archive:
        images, labels, test = archive["images"], archive["labels"], archive["test"]
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[test] = True
    return from_pixels(images[~held_out], labels[~held_out], images[held_out], labels[held_out], white=16)

"""Layers that change the shape only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn.checks import integer
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["Flatten", "Reshape"]


class Flatten(Module):
    """Merge a run of axes into one; by default all but the first, that of the batch.

    Parameters
    ----------
    start_axis, end_axis : int
        The first and the last axis of the run. An input that has no axis 1, one number for each sample, gets one of
        extent 1.

    Raises
    ------
    ShapeError
        If the input has no such axes, or they are out of order.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Flatten()(mg.ones((8, 1, 28, 28))).shape
    (8, 784)
    """

    def __init__(self, start_axis: int = 1, end_axis: int = -1) -> None:
        self.start_axis = integer("Flatten", "start_axis", start_axis)
        self.end_axis = integer("Flatten", "end_axis", end_axis)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of any shape."""
        if (self.start_axis, self.end_axis) == (1, -1):
            x = ops.asarray(x)
            if x.ndim == 1:
                return ops.reshape(x, (x.shape[0], 1))
        return ops.flatten(x, self.start_axis, self.end_axis)

    def extra_repr(self) -> str:
        """The axes, where they are not the default."""
        return "" if (self.start_axis, self.end_axis) == (1, -1) else f"{self.start_axis}, {self.end_axis}"


class Reshape(Module):
    """Give every sample a shape; the first axis, that of the batch, stays.

    Parameters
    ----------
    shape : int or sequence of int
        Of a sample; one extent may be -1, and is then what is left.

    Raises
    ------
    ShapeError
        If more than one extent is unknown, or the elements of a sample do not fill the shape.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Reshape((1, 28, -1))(mg.ones((8, 784))).shape
    (8, 1, 28, 28)
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        given: Any = shape
        extents = given if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) else (given,)
        self.shape = tuple(integer("Reshape", "shape", n) for n in extents)
        if sum(n < 0 for n in self.shape) > 1 or min(self.shape, default=0) < -1:
            raise ShapeError(message("Reshape", "shape", f"{self.shape}", "extents of at least 0, and -1 at most once"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (batch, ...)."""
        x = ops.asarray(x)
        if not x.ndim:
            raise ShapeError(message("Reshape", "x", x, "a batch, samples along the first axis"))
        # the batch may be empty, so that NumPy could not tell what -1 is
        size, known = math.prod(x.shape[1:]), math.prod(n for n in self.shape if n >= 0)
        shape = tuple(size // max(known, 1) if n < 0 else n for n in self.shape)
        if math.prod(shape) != size:
            need = f"samples that fill the shape {self.shape}"
            raise ShapeError(message("Reshape", "x", f"{x.dtype} {x.shape}, {size} elements a sample", need))
        return ops.reshape(x, (x.shape[0], *shape))

    def extra_repr(self) -> str:
        """The shape of a sample."""
        return f"{self.shape}"

"""Pooling layers: windows, parts or the whole of each channel brought down to one number."""

from __future__ import annotations

from typing import Any, ClassVar

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn.checks import as_tensor
from minigrad.nn.module import Module
from minigrad.ops.windows import sizes
from minigrad.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AvgPool1D", "AvgPool2D", "GlobalAvgPool1D", "GlobalAvgPool2D",
    "MaxPool1D", "MaxPool2D",
]  # fmt: skip

Extents = int | tuple[int, ...]


class _Pool(Module):
    """What the layers with windows share."""

    axes: ClassVar[int]

    def __init__(self, window: Extents, stride: Extents | None = None, padding: Extents = 0) -> None:
        who, n = type(self).__name__, self.axes
        self.window = sizes(who, "window", window, n)
        self.stride = self.window if stride is None else sizes(who, "stride", stride, n)
        self.padding = sizes(who, "padding", padding, n, 0)
        if any(2 * p > w for p, w in zip(self.padding, self.window, strict=True)):
            raise ShapeError(message(who, "padding", f"{padding}", f"at most half the window {self.window}"))

    def extra_repr(self) -> str:
        """The window, and what is not the default."""
        text, n = f"{self.window}", self.axes
        for name, default in (
            ("stride", self.window), ("padding", (0,) * n), ("dilation", (1,) * n), ("ceil_mode", False),
            ("count_include_pad", True),
        ):  # fmt: skip
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value}"
        return text


class _MaxPool(_Pool):
    def __init__(
        self,
        window: Extents,
        stride: Extents | None = None,
        padding: Extents = 0,
        dilation: Extents = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(window, stride, padding)
        self.dilation, self.ceil_mode = sizes(type(self).__name__, "dilation", dilation, self.axes), bool(ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (n, channels, *extents)."""
        pool = ops.max_pool1d if self.axes == 1 else ops.max_pool2d
        return pool(x, self.window, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool1D(_MaxPool):
    """The maxima of windows on one axis; see `minigrad.max_pool2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.MaxPool1D(2)(mg.tensor([[[1.0, 3.0, 2.0, 5.0]]]))
    tensor([[[3., 5.]]])
    """

    axes = 1


class MaxPool2D(_MaxPool):
    """The maxima of windows on two axes; see `minigrad.max_pool2d`, whose arguments it takes.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.MaxPool2D(3, stride=2, padding=1)(mg.ones((8, 16, 28, 28))).shape
    (8, 16, 14, 14)
    """

    axes = 2


class _AvgPool(_Pool):
    def __init__(
        self, window: Extents, stride: Extents | None = None, padding: Extents = 0, count_include_pad: bool = True
    ) -> None:
        super().__init__(window, stride, padding)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (n, channels, *extents)."""
        pool = ops.avg_pool1d if self.axes == 1 else ops.avg_pool2d
        return pool(x, self.window, self.stride, self.padding, self.count_include_pad)


class AvgPool1D(_AvgPool):
    """The means of windows on one axis; see `minigrad.avg_pool2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.AvgPool1D(2)(mg.tensor([[[1.0, 3.0, 2.0, 5.0]]]))
    tensor([[[2. , 3.5]]])
    """

    axes = 1


class AvgPool2D(_AvgPool):
    """The means of windows on two axes; see `minigrad.avg_pool2d`, whose arguments it takes.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.AvgPool2D(2)(mg.ones((8, 16, 28, 28))).shape
    (8, 16, 14, 14)
    """

    axes = 2


class _AdaptiveAvgPool(Module):
    axes: ClassVar[int]

    def __init__(self, output_size: Extents) -> None:
        self.output_size = sizes(type(self).__name__, "output_size", output_size, self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (n, channels, *extents)."""
        pool = ops.adaptive_avg_pool1d if self.axes == 1 else ops.adaptive_avg_pool2d
        return pool(x, self.output_size)

    def extra_repr(self) -> str:
        """The extents of the output."""
        return f"{self.output_size}"


class AdaptiveAvgPool1D(_AdaptiveAvgPool):
    """The means of a number of parts of one axis; see `minigrad.adaptive_avg_pool2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.AdaptiveAvgPool1D(2)(mg.tensor([[[1.0, 3.0, 2.0, 4.0]]]))
    tensor([[[2., 3.]]])
    """

    axes = 1


class AdaptiveAvgPool2D(_AdaptiveAvgPool):
    """The means of a number of parts of both axes, whatever their extents; see `minigrad.adaptive_avg_pool2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.AdaptiveAvgPool2D((2, 3))(mg.ones((8, 16, 7, 7))).shape
    (8, 16, 2, 3)
    """

    axes = 2


class _GlobalAvgPool(Module):
    axes: ClassVar[int]

    def forward(self, x: Tensor) -> Any:
        """Give (n, channels) of x of shape (n, channels, *extents)."""
        x = as_tensor(x)
        if x.ndim != self.axes + 2:
            need = f"{self.axes + 2} axes, (batch, channels, {self.axes} spatial)"
            raise ShapeError(message(type(self).__name__, "x", x, need))
        return ops.mean(x, axis=tuple(range(2, x.ndim)))


class GlobalAvgPool1D(_GlobalAvgPool):
    """The mean of each channel: (n, channels, extent) becomes (n, channels).

    M. Lin, Q. Chen, S. Yan, "Network in network", 2013.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.GlobalAvgPool1D()(mg.tensor([[[1.0, 3.0], [2.0, 5.0]]]))
    tensor([[2. , 3.5]])
    """

    axes = 1


class GlobalAvgPool2D(_GlobalAvgPool):
    """The mean of each channel: (n, channels, height, width) becomes (n, channels).

    M. Lin, Q. Chen, S. Yan, "Network in network", 2013.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.GlobalAvgPool2D()(mg.ones((8, 16, 7, 7))).shape
    (8, 16)
    """

    axes = 2

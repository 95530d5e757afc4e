"""Convolutional layers, and their transposes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.nn import activations, init
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.nn.regularizers import Regularizer, attach
from minigrad.ops.windows import sizes
from minigrad.tensor import Tensor

__all__ = ["Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose"]

Extents = int | tuple[int, ...]


def _fill(initializer: Callable[..., Any], transposed: bool, weight: Tensor) -> None:
    """Initialize a weight (out, in, *kernel), or (in, out, *kernel), as (*kernel, in, out), which `init` counts on."""
    axes = tuple(range(2, weight.ndim))
    order = (*axes, 0, 1) if transposed else (*axes, 1, 0)
    values = ops.empty(tuple(weight.shape[axis] for axis in order), dtype=weight.dtype, device=weight.device)
    initializer(values)
    back = tuple(order.index(axis) for axis in range(weight.ndim))
    with no_grad():
        weight[...] = ops.permute_dims(values, back)


class _Convolution(Module):
    """What the four layers share."""

    axes: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        filters: int,
        kernel_size: Extents,
        stride: Extents,
        padding: Extents | str,
        dilation: Extents,
        groups: int,
        activation: str | Callable[[Tensor], Any] | None,
        bias: bool,
        in_channels: int | None,
        kernel_initializer: str | Callable[..., Any],
        bias_initializer: str | Callable[..., Any],
        dtype: Any,
        kernel_rules: tuple[Any, Any],
        bias_rules: tuple[Any, Any],
    ) -> None:
        who, n = type(self).__name__, self.axes
        self.filters, self.groups = sizes(who, "filters", filters, 1)[0], sizes(who, "groups", groups, 1)[0]
        self.kernel_size = sizes(who, "kernel_size", kernel_size, n)
        self.stride, self.dilation = sizes(who, "stride", stride, n), sizes(who, "dilation", dilation, n)
        self.padding = padding if isinstance(padding, str) else sizes(who, "padding", padding, n, 0)
        if isinstance(padding, str) and (self.transposed or padding not in ("same", "valid")):
            need = "an int or an int an axis" if self.transposed else "an int, an int an axis, 'same' or 'valid'"
            raise ValueError(message(who, "padding", repr(padding), need))
        if self.filters % self.groups:
            raise ShapeError(message(who, "groups", f"{groups}", f"a divisor of the {filters} filters"))
        self.activation = activations.get(activation)
        fill = functools.partial(_fill, init.get(kernel_initializer), self.transposed)
        self.weight = Parameter.deferred(self._weight_shape(None), fill, dtype=dtype)
        attach(self.weight, *kernel_rules)
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter.deferred((self.filters,), init.get(bias_initializer), dtype=dtype)
            self.bias.initialize((self.filters,))
            attach(self.bias, *bias_rules)
        if in_channels is not None:
            self._initialize(sizes(who, "in_channels", in_channels, 1)[0])

    def _weight_shape(self, channels: int | None) -> tuple[int | None, ...]:
        if self.transposed:
            return (channels, self.filters // self.groups, *self.kernel_size)
        return (self.filters, None if channels is None else channels // self.groups, *self.kernel_size)

    def _initialize(self, channels: int) -> None:
        if channels % self.groups:
            need = f"a multiple of the {self.groups} groups"
            raise ShapeError(message(type(self).__name__, "in_channels", f"{channels}", need))
        shape = tuple(extent or 0 for extent in self._weight_shape(channels))
        self.weight.initialize(shape)

    @property
    def in_channels(self) -> int | None:
        """Channels of the input, None until they are known."""
        if not self.weight.is_initialized:
            return None
        return self.weight.shape[0] if self.transposed else self.weight.shape[1] * self.groups

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The op of the layer."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method _apply(self, x, weight)")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (n, in_channels, *extents)."""
        if not self.weight.is_initialized:
            x = ops.asarray(x)
            if x.ndim != self.axes + 2 or not x.shape[1]:
                need = f"{self.axes + 2} axes, (batch, channels, {self.axes} spatial), as in_channels is read from it"
                raise ShapeError(message(type(self).__name__, "x", x, need))
            if x.shape[1] % self.groups == 0:  # refuse, before anything is fixed, what the real one would
                shape = tuple(extent or 0 for extent in self._weight_shape(x.shape[1]))
                self._apply(x[:0].detach(), ops.zeros(shape, dtype=self.weight.dtype, device=self.weight.device))
            self._initialize(x.shape[1])
        y = self._apply(x, self.weight)
        return y if self.activation is None else self.activation(y)

    def extra_repr(self) -> str:
        """Channels in and out, the kernel, and what is not the default."""
        text = f"{self.in_channels or '?'} -> {self.filters}, kernel_size={self.kernel_size}"
        one, none = (1,) * self.axes, (0,) * self.axes
        for name, default in (
            ("stride", one), ("padding", none), ("output_padding", none), ("dilation", one), ("groups", 1),
        ):  # fmt: skip
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value!r}"
        if self.activation is not None and not isinstance(self.activation, Module):
            text += f", activation={getattr(self.activation, '__name__', 'a function')}"
        return text if self.bias is not None else f"{text}, bias=False"


class _Forward(_Convolution):
    def __init__(
        self,
        filters: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Extents | str = 0,
        dilation: Extents = 1,
        groups: int = 1,
        activation: str | Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        *,
        in_channels: int | None = None,
        kernel_initializer: str | Callable[..., Any] = "glorot_uniform",
        bias_initializer: str | Callable[..., Any] = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        kernel_constraint: str | Callable[[Any], Any] | None = None,
        bias_constraint: str | Callable[[Any], Any] | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            filters, kernel_size, stride, padding, dilation, groups, activation, bias, in_channels,
            kernel_initializer, bias_initializer, dtype,
            (kernel_regularizer, kernel_constraint), (bias_regularizer, bias_constraint),
        )  # fmt: skip

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        convolve = ops.conv1d if self.axes == 1 else ops.conv2d
        return convolve(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _Transposed(_Convolution):
    transposed = True

    def __init__(
        self,
        filters: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Extents = 0,
        output_padding: Extents = 0,
        dilation: Extents = 1,
        groups: int = 1,
        activation: str | Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        *,
        in_channels: int | None = None,
        kernel_initializer: str | Callable[..., Any] = "glorot_uniform",
        bias_initializer: str | Callable[..., Any] = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        kernel_constraint: str | Callable[[Any], Any] | None = None,
        bias_constraint: str | Callable[[Any], Any] | None = None,
        dtype: Any = None,
    ) -> None:
        self.output_padding = sizes(type(self).__name__, "output_padding", output_padding, self.axes, 0)
        super().__init__(
            filters, kernel_size, stride, padding, dilation, groups, activation, bias, in_channels,
            kernel_initializer, bias_initializer, dtype,
            (kernel_regularizer, kernel_constraint), (bias_regularizer, bias_constraint),
        )  # fmt: skip

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        assert not isinstance(self.padding, str)
        convolve = ops.conv_transpose1d if self.axes == 1 else ops.conv_transpose2d
        return convolve(
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class Conv1D(_Forward):
    """Convolution over one axis; the arguments are those of `Conv2D`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.Conv1D(8, 3, padding="same")
    >>> layer(mg.ones((2, 4, 10))).shape
    (2, 8, 10)
    """

    axes = 1


class Conv2D(_Forward):
    """Convolution over two axes, ``y = activation(conv2d(x, weight) + bias)``; see `minigrad.conv2d`.

    The weight starts from the Glorot uniform distribution and the bias from zeros.

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size : int or tuple of int
        Extents of a window; one number for both axes or one for each, here and below.
    stride : int or tuple of int
        From one window to the next.
    padding : int, tuple of int or str
        Zeros before and behind each axis, ``"valid"`` for none, or ``"same"`` for ``ceil(extent / stride)`` windows.
    dilation : int or tuple of int
        From one element of a window to the next.
    groups : int
        The channels are cut into so many groups; each sees its own only.
    activation : str or callable, optional
        A name that `minigrad.nn.activations.get` knows, a function, or a module.
    bias : bool
        Whether there is a bias.
    in_channels : int, optional
        Channels of the input. Left out, they are read from the first batch, as `Dense` reads its features.
    kernel_initializer, bias_initializer : str or callable
        What fills the weight and the bias: a function of `minigrad.nn.init`, or its name. It sees the weight as
        (*kernel, in / groups, out), on which the fans are counted.
    kernel_regularizer, bias_regularizer : Regularizer or str, optional
        Penalties that optimizers add, such as ``nn.L2(1e-4)`` or ``"l1"``; see `minigrad.nn.regularizers`.
    kernel_constraint, bias_constraint : callable or str, optional
        What optimizers hold the parameters to, such as ``nn.MaxNorm(2.0)``; see `minigrad.nn.constraints`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight : Parameter
        (out, in / groups, *kernel_size).
    bias : Parameter or None
        (out,).

    Raises
    ------
    ShapeError
        If a number is out of range, `groups` divides not both numbers of channels, or a batch does not fit.
    TypeError
        If a number is no int, or `activation` no function.
    ValueError
        For an unknown word as the padding.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.Conv2D(16, 3, padding=1, activation="relu")
    >>> layer
    Conv2D(? -> 16, kernel_size=(3, 3), padding=(1, 1), activation=relu)
    >>> layer(mg.ones((8, 3, 32, 32))).shape
    (8, 16, 32, 32)
    >>> layer.weight.shape
    (16, 3, 3, 3)
    """

    axes = 2


class Conv1DTranspose(_Transposed):
    """The transpose of a convolution over one axis; the arguments are those of `Conv2DTranspose`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Conv1DTranspose(8, 4, stride=2, padding=1)(mg.ones((2, 4, 10))).shape
    (2, 8, 20)
    """

    axes = 1


class Conv2DTranspose(_Transposed):
    """The transpose of a convolution over two axes, which enlarges an image; see `minigrad.conv_transpose2d`.

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size, stride, padding, dilation, groups, activation, bias
        As for `Conv2D`, but the padding in numbers: those of the convolution that leads back.
    output_padding : int or tuple of int
        Rows added behind each axis, less than its stride.
    in_channels, dtype, and initializers, regularizers and constraints of kernel and bias
        As for `Conv2D`.

    Attributes
    ----------
    weight : Parameter
        (in, out / groups, *kernel_size).
    bias : Parameter or None
        (out,).

    Raises
    ------
    ShapeError
        If a number is out of range, `groups` divides not both numbers of channels, or a batch does not fit.
    TypeError
        If a number is no int, or `activation` no function.
    ValueError
        If the padding is a word.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Conv2DTranspose(3, 4, stride=2, padding=1)(mg.ones((8, 16, 14, 14))).shape
    (8, 3, 28, 28)
    """

    axes = 2

"""Convolution over one axis, two, or more, its transpose, and the product that is the gradient of its weight.

The three ops behind the public functions are the three ways to contract one trilinear form, and the rules of each call
the other two: derivatives of any order are these same products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.errors import ShapeError, message
from minigrad.ops.conversion import asarray
from minigrad.ops.registry import Array, Op, accumulate_float32, op
from minigrad.ops.samples import case, error
from minigrad.ops.windows import Pads, Sizes, count, gather, pads, scatter, sizes

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

Shape = tuple[int, ...]
Extents = int | tuple[int, ...]
real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)


class Geometry(NamedTuple):
    """Where windows lie, and how many groups of channels do not see each other."""

    stride: Sizes
    padding: Pads
    dilation: Sizes
    groups: int

    def fit(self, who: str, extents: Sizes, kernel: Sizes) -> Sizes:
        """How many windows there are on each axis."""
        return count(who, extents, kernel, self.stride, self.padding, self.dilation)

    def columns(self, xp: Any, x: Array, kernel: Sizes, counts: Sizes) -> Array:
        """The windows of x as matrices (n, groups, elements of a window, windows)."""
        found = gather(xp, x, kernel, counts, self.stride, self.padding, self.dilation)
        inner = x.shape[1] // self.groups * math.prod(kernel)
        return xp.reshape(found, (x.shape[0], self.groups, inner, math.prod(counts)))


def _apply(of: Op[Any], xp: Any, x: Array, y: Array, **params: Any) -> Array:
    """An op inside a rule: its body on bare arrays; on tensors the op itself, which is one node and has a kernel."""
    return of(x, y, **params) if isinstance(x, tape.TensorBase) else of.body(xp, x, y, **params)


def _check(who: str, x: Array, weight: Array, bias: Array | None, groups: int, channels: int, units: int) -> None:
    """Refuse what does not fit a weight whose extents, of channels in and out, are axes of it."""
    n = weight.ndim - 2
    if n < 1:
        raise ShapeError(message(who, "weight", weight, "two axes of channels, then the spatial ones"))
    if x.ndim != n + 2:
        hint = "One example is a batch of 1: x[None]" if x.ndim == n + 1 else ""
        raise ShapeError(message(who, "x", x, f"{n + 2} axes, (batch, channels, {n} spatial)", hint))
    if groups < 1 or weight.shape[0] % groups:
        raise ShapeError(message(who, "groups", f"{groups}", f"a divisor of the {weight.shape[0]} rows of weight"))
    if x.shape[1] != channels:
        need = f"{channels} channels, as weight is {tuple(weight.shape)} and groups {groups}"
        raise ShapeError(message(who, "x", x, need))
    if bias is not None and tuple(bias.shape) != (units,):
        raise ShapeError(message(who, "bias", bias, f"shape ({units},), as weight is {tuple(weight.shape)}"))


def _shift(xp: Any, y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + xp.reshape(bias, (-1,) + (1,) * (y.ndim - 2))


# ---- convolution -----------------------------------------------------------------------------------------------------


@op(dtype=real, amp="half")
def _conv(xp: Any, x: Array, weight: Array, bias: Array | None = None, /, *, geometry: Geometry) -> Array:
    """Convolution; `conv1d` and `conv2d` are the public functions.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.conv1d(mg.tensor([[[1.0, 2.0, 4.0]]]), mg.tensor([[[1.0, 10.0]]]))
    tensor([[[21., 42.]]])
    """
    who, groups, kernel = f"conv{weight.ndim - 2}d", geometry.groups, weight.shape[2:]
    _check(who, x, weight, bias, groups, math.prod(weight.shape[1:2]) * groups, weight.shape[0] if weight.ndim else 0)
    counts = geometry.fit(who, x.shape[2:], kernel)
    matrices = xp.reshape(weight, (groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    y = xp.matmul(matrices, geometry.columns(xp, x, kernel, counts))
    return _shift(xp, xp.reshape(y, (x.shape[0], weight.shape[0], *counts)), bias)


@_conv.vjp(0)
def _(xp: Any, g: Array, x_shape: Shape, weight: Array, *, geometry: Geometry) -> Array:
    return _apply(_conv_transpose, xp, g, weight, extents=tuple(x_shape[2:]), geometry=geometry)


@_conv.vjp(1)
def _(xp: Any, g: Array, x: Array, weight_shape: Shape, *, geometry: Geometry) -> Array:
    return _apply(_conv_kernel, xp, x, g, kernel=tuple(weight_shape[2:]), geometry=geometry)


# ---- its transpose ---------------------------------------------------------------------------------------------------


@op(dtype=real, amp="half")
def _conv_transpose(
    xp: Any, x: Array, weight: Array, bias: Array | None = None, /, *, extents: Sizes, geometry: Geometry
) -> Array:
    """The transpose of a convolution of something of these extents; see `conv_transpose1d` and `conv_transpose2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.conv_transpose1d(mg.tensor([[[1.0, 2.0]]]), mg.tensor([[[1.0, 10.0]]]))
    tensor([[[ 1., 12., 20.]]])
    """
    who, groups, kernel = f"conv_transpose{weight.ndim - 2}d", geometry.groups, weight.shape[2:]
    units = math.prod(weight.shape[1:2]) * groups
    _check(who, x, weight, bias, groups, weight.shape[0] if weight.ndim else 0, units)
    counts = geometry.fit(who, extents, kernel)
    if counts != tuple(x.shape[2:]):
        raise ShapeError(message(who, "x", x, f"spatial extents {counts}, of which a result of {extents} is made"))
    each, inner = weight.shape[0] // groups, math.prod(weight.shape[1:])
    matrices = xp.matrix_transpose(xp.reshape(weight, (groups, each, inner)))
    columns = xp.matmul(matrices, xp.reshape(x, (x.shape[0], groups, each, math.prod(counts))))
    columns = xp.reshape(columns, (x.shape[0], units, math.prod(kernel), *counts))
    y = scatter(xp, columns, extents, kernel, geometry.stride, geometry.padding, geometry.dilation)
    return _shift(xp, y, bias)


@_conv_transpose.vjp(0)
def _(xp: Any, g: Array, weight: Array, *, geometry: Geometry) -> Array:
    return _apply(_conv, xp, g, weight, geometry=geometry)


@_conv_transpose.vjp(1)
def _(xp: Any, g: Array, x: Array, weight_shape: Shape, *, geometry: Geometry) -> Array:
    return _apply(_conv_kernel, xp, g, x, kernel=tuple(weight_shape[2:]), geometry=geometry)


@_conv.vjp(2)
@_conv_transpose.vjp(2)
def _sum_channels(xp: Any, g: Array) -> Array:
    return xp.sum(g, axis=(0, *range(2, g.ndim)))


# ---- the gradient of the weight --------------------------------------------------------------------------------------


@op(dtype=real, amp="half")
def _conv_kernel(xp: Any, x: Array, y: Array, /, *, kernel: Sizes, geometry: Geometry) -> Array:
    """The gradient of a convolution's weight: the sum over the batch and all windows of y times the window of x.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.ops.convolution import Geometry, _conv_kernel
    >>> x, y = mg.tensor([[[1.0, 2.0, 3.0]]]), mg.tensor([[[1.0, 10.0]]])
    >>> _conv_kernel(x, y, kernel=(2,), geometry=Geometry((1,), ((0, 0),), (1,), 1))
    tensor([[[21., 32.]]])
    """
    counts, groups = geometry.fit("conv_kernel", x.shape[2:], kernel), geometry.groups
    if counts != tuple(y.shape[2:]) or x.shape[0] != y.shape[0] or y.shape[1] % groups:
        need = f"shape ({x.shape[0]}, channels, {', '.join(map(str, counts))}), as x is {tuple(x.shape)}"
        raise ShapeError(message("conv_kernel", "y", y, need))
    columns = xp.matrix_transpose(geometry.columns(xp, x, kernel, counts))
    rows = xp.reshape(y, (y.shape[0], groups, y.shape[1] // groups, math.prod(counts)))
    return xp.reshape(xp.sum(xp.matmul(rows, columns), axis=0), (y.shape[1], x.shape[1] // groups, *kernel))


@_conv_kernel.vjp(0)
def _(xp: Any, g: Array, x_shape: Shape, y: Array, *, geometry: Geometry) -> Array:
    return _apply(_conv_transpose, xp, y, g, extents=tuple(x_shape[2:]), geometry=geometry)


@_conv_kernel.vjp(1)
def _(xp: Any, g: Array, x: Array, *, geometry: Geometry) -> Array:
    return _apply(_conv, xp, x, g, geometry=geometry)


# ---- samples ---------------------------------------------------------------------------------------------------------

_LINE = Geometry((1,), ((0, 0),), (1,), 1)
_UNEVEN = Geometry((2,), ((2, 1),), (3,), 1)
_PLANE = Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
_STRIDED = Geometry((2, 3), ((1, 0), (1, 2)), (1, 2), 1)
_GROUPED = Geometry((1, 2), ((1, 1), (0, 0)), (1, 1), 2)
_SPACE = Geometry((1, 2, 1), ((0, 0), (1, 1), (0, 0)), (1, 1, 2), 1)

_conv.samples(
    case((2, 3, 5), (4, 3, 2), (4,), geometry=_LINE),
    case((1, 2, 6), (2, 2, 2), geometry=_UNEVEN),
    case((2, 2, 4, 3), (3, 2, 2, 2), (3,), geometry=_PLANE),
    case((2, 1, 4, 5), (2, 1, 2, 2), (2,), geometry=_STRIDED),
    case((2, 4, 3, 3), (2, 2, 2, 1), (2,), geometry=_GROUPED),
    case((2, 2, 3, 4), (3, 2, 1, 1), geometry=_PLANE),
    case((1, 2, 2, 3, 4), (2, 2, 2, 2, 2), (2,), geometry=_SPACE),
    case((0, 2, 3), (3, 2, 2), (3,), geometry=_LINE),
    case((2, 0, 3), (3, 0, 2), (3,), geometry=_LINE),
    error(ShapeError, "conv1d: x is float64 (3, 5), needs 3 axes, (batch, channels, 1 spatial)", (3, 5), (4, 3, 2),
          geometry=_LINE),
    error(ShapeError, "conv1d: x is float64 (2, 3, 5), needs 2 channels", (2, 3, 5), (4, 2, 2), geometry=_LINE),
    error(ShapeError, "conv1d: bias is float64 (3,), needs shape (4,)", (2, 3, 5), (4, 3, 2), (3,), geometry=_LINE),
    error(ShapeError, "conv1d: x is (1,) with its padding, needs at least the window's extents (2,)", (2, 3, 1),
          (4, 3, 2), geometry=_LINE),
    error(ShapeError, "conv2d: groups is 2, needs a divisor of the 3 rows", (2, 4, 3, 3), (3, 2, 1, 1),
          geometry=_GROUPED),
    error(ShapeError, "weight is float64 (3, 2), needs two axes of channels", (2, 2), (3, 2), geometry=_LINE),
)  # fmt: skip
_conv_transpose.samples(
    case((2, 3, 4), (3, 2, 2), (2,), extents=(5,), geometry=_LINE),
    case((1, 2, 3), (2, 2, 2), extents=(6,), geometry=_UNEVEN),
    case((2, 2, 3, 2), (2, 3, 2, 2), (3,), extents=(4, 3), geometry=_PLANE),
    case((2, 2, 2, 2), (2, 1, 2, 2), (1,), extents=(4, 5), geometry=_STRIDED),
    case((2, 2, 4, 2), (2, 2, 2, 1), (4,), extents=(3, 3), geometry=_GROUPED),
    case((1, 2, 1, 2, 2), (2, 1, 2, 2, 2), extents=(2, 3, 4), geometry=_SPACE),
    case((0, 3, 2), (3, 2, 2), (2,), extents=(3,), geometry=_LINE),
    error(ShapeError, "conv_transpose1d: x is float64 (2, 2, 4), needs 3 channels", (2, 2, 4), (3, 2, 2), extents=(5,),
          geometry=_LINE),
    error(ShapeError, "conv_transpose1d: bias is float64 (3,), needs shape (2,)", (2, 3, 4), (3, 2, 2), (3,),
          extents=(5,), geometry=_LINE),
    error(ShapeError, "conv_transpose1d: x is float64 (2, 3, 4), needs spatial extents (6,)", (2, 3, 4), (3, 2, 2),
          extents=(7,), geometry=_LINE),
)  # fmt: skip
_conv_kernel.samples(
    case((2, 3, 5), (2, 4, 4), kernel=(2,), geometry=_LINE),
    case((2, 1, 4, 5), (2, 2, 2, 2), kernel=(2, 2), geometry=_STRIDED),
    case((2, 4, 3, 3), (2, 2, 4, 2), kernel=(2, 1), geometry=_GROUPED),
    case((0, 2, 3), (0, 3, 2), kernel=(2,), geometry=_LINE),
    error(ShapeError, "conv_kernel: y is float64 (2, 4, 3), needs shape (2, channels, 4)", (2, 3, 5), (2, 4, 3),
          kernel=(2,), geometry=_LINE),
)  # fmt: skip


for _of in (_conv, _conv_transpose, _conv_kernel):
    _of.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("convolution", _of.name))
    for _i in range(2):
        _rule = Kernel("convolution", f"{_of.name}_vjp{_i}")
        _of.kernel("cpu", dtypes.float32, dtypes.float64, vjp=_i)(_rule)


# ---- public functions ------------------------------------------------------------------------------------------------


def _convolve(who: str, x: Tensor, weight: Tensor, bias: Tensor | None, *given: Any, groups: int) -> Tensor:
    x, weight = asarray(x), asarray(weight)
    n = int(who[-2])
    if weight.ndim != n + 2:
        raise ShapeError(message(who, "weight", weight, f"{n + 2} axes, (out, in / groups, {n} of the kernel)"))
    stride, dilation = sizes(who, "stride", given[0], n), sizes(who, "dilation", given[2], n)
    extents = x.shape[2:] if x.ndim == n + 2 else (1,) * n  # of another x the op says what is wrong
    padding = pads(who, given[1], extents, weight.shape[2:], stride, dilation)
    return _conv(x, weight, bias, geometry=Geometry(stride, padding, dilation, groups))


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over one axis, in fact a correlation: `conv2d` with one spatial axis.

    Parameters
    ----------
    x : Tensor
        (n, in, extent).
    weight : Tensor
        (out, in / groups, kernel).
    bias : Tensor, optional
        (out,).
    stride, padding, dilation, groups
        As for `conv2d`.

    Returns
    -------
    Tensor
        (n, out, count).

    Raises
    ------
    ShapeError
        As `conv2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> x, weight = mg.tensor([[[1.0, 2.0, 4.0]]]), mg.tensor([[[1.0, 10.0]]])
    >>> mg.conv1d(x, weight), mg.conv1d(x, weight, padding="same")
    (tensor([[[21., 42.]]]), tensor([[[21., 42.,  4.]]]))
    """
    return _convolve("conv1d", x, weight, bias, stride, padding, dilation, groups=groups)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over two axes, as networks have it: the kernel is not flipped.

    ``y[b, o, i, j] = bias[o] + sum over c, k, l of weight[o, c, k, l] * x[b, c, i * stride + k * dilation - padding,
    j * stride + l * dilation - padding]``, where x is 0 outside of its extents.

    Y. LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989; V. Dumoulin, F. Visin, "A
    guide to convolution arithmetic for deep learning", 2016.

    Parameters
    ----------
    x : Tensor
        (n, in, height, width).
    weight : Tensor
        (out, in / groups, *kernel).
    bias : Tensor, optional
        (out,).
    stride : int or tuple of int
        From one window to the next; one number for both axes or one for each, here and below.
    padding : int, tuple of int or str
        Zeros before and behind each axis; ``"valid"`` adds none, and ``"same"`` as many as make
        ``ceil(extent / stride)`` windows, the odd one behind.
    dilation : int or tuple of int
        From one element of a window to the next.
    groups : int
        The channels are cut into so many groups; each sees its own only.

    Returns
    -------
    Tensor
        (n, out, *counts), ``count = (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1``.

    Raises
    ------
    ShapeError
        If shapes do not fit each other, the padded x is smaller than a window, or a number is out of range.
    ValueError
        For an unknown word as the padding.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.reshape(mg.arange(9.0), (1, 1, 3, 3))
    >>> mg.conv2d(x, mg.ones((1, 1, 2, 2)))
    tensor([[[[ 8., 12.],
              [20., 24.]]]])
    """
    return _convolve("conv2d", x, weight, bias, stride, padding, dilation, groups=groups)


def _convolve_transposed(who: str, x: Tensor, weight: Tensor, bias: Tensor | None, *given: Any, groups: int) -> Tensor:
    x, weight = asarray(x), asarray(weight)
    n = int(who[-2])
    if weight.ndim != n + 2:
        raise ShapeError(message(who, "weight", weight, f"{n + 2} axes, (in, out / groups, {n} of the kernel)"))
    stride, dilation = sizes(who, "stride", given[0], n), sizes(who, "dilation", given[3], n)
    padding, extra = sizes(who, "padding", given[1], n, 0), sizes(who, "output_padding", given[2], n, 0)
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        raise ShapeError(message(who, "output_padding", f"{given[2]}", f"less than the stride {stride}"))
    extents = tuple(
        (m - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for m, s, p, d, k, e in zip(
            x.shape[2:] if x.ndim == n + 2 else (1,) * n, stride, padding, dilation, weight.shape[2:], extra,
            strict=True,
        )
    )  # fmt: skip
    if min(extents) < 1:
        raise ShapeError(message(who, "padding", f"{given[1]}", f"less, as the result would have extents {extents}"))
    pairs = tuple((p, p) for p in padding)
    return _conv_transpose(x, weight, bias, extents=extents, geometry=Geometry(stride, pairs, dilation, groups))


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """The transpose of `conv1d`: `conv_transpose2d` with one spatial axis.

    Parameters
    ----------
    x : Tensor
        (n, in, count).
    weight : Tensor
        (in, out / groups, kernel).
    bias : Tensor, optional
        (out,).
    stride, padding, output_padding, groups, dilation
        As for `conv_transpose2d`.

    Returns
    -------
    Tensor
        (n, out, extent).

    Raises
    ------
    ShapeError
        As `conv_transpose2d`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.conv_transpose1d(mg.tensor([[[1.0, 2.0]]]), mg.tensor([[[1.0, 10.0]]]), stride=2)
    tensor([[[ 1., 10.,  2., 20.]]])
    """
    return _convolve_transposed(
        "conv_transpose1d", x, weight, bias, stride, padding, output_padding, dilation, groups=groups
    )


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """The transpose of `conv2d`: what its gradient does to a cotangent. Each element of x adds a kernel to the result.

    M. D. Zeiler, D. Krishnan, G. W. Taylor, R. Fergus, "Deconvolutional networks", 2010.

    Parameters
    ----------
    x : Tensor
        (n, in, *counts).
    weight : Tensor
        (in, out / groups, *kernel), the weight of the convolution that leads from the result to `x`.
    bias : Tensor, optional
        (out,).
    stride, padding, groups, dilation
        Those of that convolution; padding in numbers.
    output_padding : int or tuple of int
        Rows added behind each axis, less than its stride: of the extents that would give `x`, the smallest is made.

    Returns
    -------
    Tensor
        (n, out, *extents), ``extent = (count - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 +
        output_padding``.

    Raises
    ------
    ShapeError
        If shapes do not fit each other, nothing is left of the result, or a number is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.conv_transpose2d(mg.tensor([[[[1.0, 2.0]]]]), mg.ones((1, 1, 2, 2)), stride=2)
    tensor([[[[1., 1., 2., 2.],
              [1., 1., 2., 2.]]]])
    """
    return _convolve_transposed(
        "conv_transpose2d", x, weight, bias, stride, padding, output_padding, dilation, groups=groups
    )

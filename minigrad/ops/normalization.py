"""Normalization: inputs brought to mean 0 and variance 1, then scaled and shifted by weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import AxisError, ShapeError, describe, message
from minigrad.ops.registry import Array, accumulate_float32, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["BatchNormResult", "batch_norm", "batch_norm_training", "layer_norm", "rms_norm"]

real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)
Axes = int | tuple[int, ...]


def trailing(who: str, x: Array, axis: Axes, *scales: tuple[str, Array | None]) -> tuple[tuple[int, ...], int]:
    """The axes to normalize and their number of elements; checks that they are the last and the weights fit."""
    axes = tuple(sorted(a + x.ndim if a < 0 else a for a in ((axis,) if isinstance(axis, int) else axis)))
    if not 0 < len(axes) <= x.ndim or axes != tuple(range(x.ndim - len(axes), x.ndim)):
        need = f"the last axis or axes of x {describe(x)}"
        raise ShapeError(message(who, "axis", f"{axis}", need, "Move the axis with mg.moveaxis"))
    features = tuple(x.shape[axes[0] :])
    for name, scale in scales:
        if scale is not None and tuple(scale.shape) != features:
            found = f"of shape {tuple(scale.shape)}"
            raise ShapeError(message(who, name, found, f"shape {features}, the normalized axes of x {describe(x)}"))
    return axes, math.prod(features)


def standardize(xp: Any, x: Array, axes: tuple[int, ...], n: int, eps: float) -> tuple[Array, Array]:
    """``(x - mean) / deviation`` and ``1 / deviation``."""
    centered = x - xp.sum(x, axis=axes, keepdims=True) / n
    scale = 1 / xp.sqrt(xp.sum(centered * centered, axis=axes, keepdims=True) / n + eps)
    return centered * scale, scale


@op(dtype=real, amp="float32")
def layer_norm(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, eps: float = 1e-5, *, axis: Axes = -1
) -> Array:
    """Layer normalization ``(x - mean) / sqrt(var + eps) * weight + bias``, mean and variance taken over the last axes.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.

    Parameters
    ----------
    x : Tensor
        Any shape with the features last.
    weight, bias : Tensor, optional
        Of the shape of the normalized axes.
    eps : float
        Added to the variance.
    axis : int or tuple of int
        The last axis, or the last few.

    Returns
    -------
    Tensor
        Of the shape of `x`.

    Raises
    ------
    ShapeError
        If `weight` or `bias` does not fit, or the axes are not the last ones.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.layer_norm(mg.tensor([[1.0, 2.0, 3.0]]), eps=0.0), 4)
    tensor([[-1.2247,  0.    ,  1.2247]])
    """
    axes, n = trailing("layer_norm", x, axis, ("weight", weight), ("bias", bias))
    out, _ = standardize(xp, x, axes, n, eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


@layer_norm.vjp()
def _(xp: Any, g: Array, x: Array, weight: Array | None, *, eps: float, axis: Axes) -> tuple[Array | None, ...]:
    axes, n = trailing("layer_norm", x, axis)
    normal, scale = standardize(xp, x, axes, n, eps)
    inner = g if weight is None else g * weight
    mean = xp.sum(inner, axis=axes, keepdims=True) / n
    slope = xp.sum(inner * normal, axis=axes, keepdims=True) / n
    return scale * (inner - mean - normal * slope), None if weight is None else g * normal, g


layer_norm.samples(
    case((2, 3)),
    case((3,), (3,)),
    case((2, 3), None, (3,)),
    case((2, 2, 3), (3,), (3,)),
    case((2, 2, 3), (2, 3), (2, 3), axis=(-2, -1)),
    case((2, 4), (4,), eps=0.1),
    case((0, 3), (3,), (3,)),
    error(ShapeError, "weight is of shape (4,), needs shape (3,)", (2, 3), (4,)),
    error(ShapeError, "bias is of shape (1, 3), needs shape (3,)", (2, 3), (3,), (1, 3)),
    error(ShapeError, "the last axis or axes", (2, 3), axis=0),
    error(ShapeError, "the last axis or axes", ()),
)
layer_norm.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("normalization", "layer_norm"))
layer_norm.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(Kernel("normalization", "layer_norm_vjp"))


@op(dtype=real, amp="float32")
def rms_norm(xp: Any, x: Array, weight: Array | None = None, /, eps: float = 1e-6, *, axis: Axes = -1) -> Array:
    """Root mean square normalization ``x / sqrt(mean(x**2) + eps) * weight``, the mean taken over the last axes.

    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.

    Parameters
    ----------
    x : Tensor
        Any shape with the features last.
    weight : Tensor, optional
        Of the shape of the normalized axes.
    eps : float
        Added to the mean square.
    axis : int or tuple of int
        The last axis, or the last few.

    Returns
    -------
    Tensor
        Of the shape of `x`.

    Raises
    ------
    ShapeError
        If `weight` does not fit, or the axes are not the last ones.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.rms_norm(mg.tensor([3.0, 4.0]), mg.tensor([5.0, 5.0])), 4)
    tensor([4.2426, 5.6569])
    """
    axes, n = trailing("rms_norm", x, axis, ("weight", weight))
    out = x / xp.sqrt(xp.sum(x * x, axis=axes, keepdims=True) / n + eps)
    return out if weight is None else out * weight


@rms_norm.vjp()
def _(xp: Any, g: Array, x: Array, weight: Array | None, *, eps: float, axis: Axes) -> tuple[Array | None, ...]:
    axes, n = trailing("rms_norm", x, axis)
    scale = 1 / xp.sqrt(xp.sum(x * x, axis=axes, keepdims=True) / n + eps)
    normal = x * scale
    inner = g if weight is None else g * weight
    slope = xp.sum(inner * normal, axis=axes, keepdims=True) / n
    return scale * (inner - normal * slope), None if weight is None else g * normal


rms_norm.samples(
    case((2, 3)),
    case((3,), (3,)),
    case((2, 2, 3), (3,)),
    case((2, 2, 3), (2, 3), axis=(-2, -1)),
    case((2, 4), (4,), eps=0.1),
    case((0, 3), (3,)),
    error(ShapeError, "weight is of shape (4,), needs shape (3,)", (2, 3), (4,)),
    error(ShapeError, "the last axis or axes", (2, 3), axis=0),
)
rms_norm.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("normalization", "rms_norm"))
rms_norm.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(Kernel("normalization", "rms_norm_vjp"))


class BatchNormResult(NamedTuple):
    """What `batch_norm_training` returns."""

    out: Tensor
    mean: Tensor
    var: Tensor


def channelwise(who: str, x: Array, axis: int, **vectors: Array | None) -> tuple[int, ...]:
    """The shape with which a vector of one number for each channel broadcasts; checks that the vectors fit."""
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(message(who, "axis", f"{axis}", f"an axis of x {describe(x)}"))
    channels = x.shape[axis]
    for name, vector in vectors.items():
        if vector is not None and tuple(vector.shape) != (channels,):
            found = f"of shape {tuple(vector.shape)}"
            raise ShapeError(message(who, name, found, f"shape ({channels},), axis {axis} of x {describe(x)}"))
    return tuple(channels if i == axis % x.ndim else 1 for i in range(x.ndim))


def normalized(xp: Any, x: Array, aligned: tuple[int, ...], eps: float) -> tuple[Array, Array, Array, Array]:
    """``(x - mean) / deviation``, ``1 / deviation``, mean and variance, taken over the axes that `aligned` shrinks."""
    others = tuple(i for i in range(x.ndim) if aligned[i] == 1)
    n = math.prod(x.shape[i] for i in others)
    if n == 0:
        raise ShapeError(message("batch_norm_training", "x", describe(x), "a batch of at least one element"))
    mean = xp.sum(x, axis=others, keepdims=True) / n
    centered = x - mean
    var = xp.sum(centered * centered, axis=others, keepdims=True) / n
    scale = 1 / xp.sqrt(var + eps)
    return centered * scale, scale, mean, var


@op(dtype=real, amp="float32")
def batch_norm(
    xp: Any,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    eps: float = 1e-5,
    *,
    axis: int = 1,
) -> Array:
    """Batch normalization with given statistics: ``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel.

    For training there is `batch_norm_training`, which takes mean and variance of the batch.

    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Parameters
    ----------
    x : Tensor
        Any shape.
    mean, var : Tensor
        One number for each channel.
    weight, bias : Tensor, optional
        One number for each channel.
    eps : float
        Added to the variance.
    axis : int
        The axis of the channels.

    Returns
    -------
    Tensor
        Of the shape of `x`.

    Raises
    ------
    ShapeError
        If one of the others does not have one number for each channel.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> mg.batch_norm(x, mg.mean(x, axis=0), mg.var(x, axis=0), eps=0.0)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    aligned = channelwise("batch_norm", x, axis, mean=mean, var=var, weight=weight, bias=bias)
    scale = 1 / xp.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    out = (x - xp.reshape(mean, aligned)) * xp.reshape(scale, aligned)
    return out if bias is None else out + xp.reshape(bias, aligned)


@batch_norm.vjp()
def _(
    xp: Any, g: Array, x: Array, mean: Array, var: Array, weight: Array | None, *, eps: float, axis: int
) -> tuple[Array | None, ...]:
    aligned = channelwise("batch_norm", x, axis)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    scale = 1 / xp.sqrt(var + eps)
    slope = xp.sum(g * (x - xp.reshape(mean, aligned)), axis=others) * scale
    shift = xp.sum(g, axis=others)
    factor = scale if weight is None else scale * weight
    spread = factor * scale * slope * -0.5
    return g * xp.reshape(factor, aligned), -factor * shift, spread, None if weight is None else slope, shift


batch_norm.samples(
    case((4, 3), (3,), A((3,), 0.5, 2.0)),
    case((2, 3, 2), (3,), A((3,), 0.5, 2.0), (3,), (3,)),
    case((2, 2, 3), (3,), A((3,), 0.5, 2.0), (3,), axis=-1, eps=0.1),
    case((4, 3), (3,), A((3,), 0.5, 2.0), None, (3,)),
    case((3,), (3,), A((3,), 0.5, 2.0), (3,), axis=0),
    case((0, 3), (3,), A((3,), 0.5, 2.0)),
    error(ShapeError, "mean is of shape (2,), needs shape (3,)", (4, 3), (2,), A((2,), 0.5, 2.0)),
    error(ShapeError, "axis is 1, needs an axis of x", (4,), (4,), A((4,), 0.5, 2.0)),
)
batch_norm.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("batch_norm", "batch_norm"))
batch_norm.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(Kernel("batch_norm", "batch_norm_vjp"))


@op(dtype=real, amp="float32")
def _batch_norm_training(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, *, eps: float, axis: int
) -> tuple[Array, Array, Array]:
    """``batch_norm`` with the statistics of the batch, and these; `batch_norm_training` is the public function.

    Examples
    --------
    >>> import minigrad as mg
    >>> out, mean, var = mg.batch_norm_training(mg.tensor([[1.0], [3.0]]))
    >>> mean, var
    (tensor([2.]), tensor([1.]))
    """
    aligned = channelwise("batch_norm_training", x, axis, weight=weight, bias=bias)
    normal, _, mean, var = normalized(xp, x, aligned, eps)
    if weight is not None:
        normal = normal * xp.reshape(weight, aligned)
    out = normal if bias is None else normal + xp.reshape(bias, aligned)
    return out, xp.reshape(mean, (x.shape[axis],)), xp.reshape(var, (x.shape[axis],))


@_batch_norm_training.vjp()
def _(
    xp: Any, g: tuple[Array, Array, Array], x: Array, weight: Array | None, *, eps: float, axis: int
) -> tuple[Array | None, ...]:
    aligned = channelwise("batch_norm_training", x, axis)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    n = math.prod(x.shape[i] for i in others)
    normal, scale, mean, _ = normalized(xp, x, aligned, eps)
    slope = xp.sum(g[0] * normal, axis=others)
    shift = xp.sum(g[0], axis=others)
    factor = scale if weight is None else scale * xp.reshape(weight, aligned)
    inner = g[0] - (xp.reshape(shift, aligned) + normal * xp.reshape(slope, aligned)) / n
    moments = (xp.reshape(g[1], aligned) + 2 * xp.reshape(g[2], aligned) * (x - mean)) / n
    return factor * inner + moments, None if weight is None else slope, shift


_batch_norm_training.samples(
    case((4, 3), eps=1e-5, axis=1),
    case((4, 3, 2), (3,), (3,), eps=1e-5, axis=1),
    case((2, 2, 3), (3,), eps=0.1, axis=-1),
    case((5, 2), None, (2,), eps=0.1, axis=1),
    case((3, 5), (3,), (3,), eps=0.1, axis=0),
    error(ShapeError, "weight is of shape (4,), needs shape (3,)", (2, 3), (4,), eps=1e-5, axis=1),
    error(ShapeError, "bias is of shape (1, 3), needs shape (3,)", (2, 3), (3,), (1, 3), eps=1e-5, axis=1),
    error(ShapeError, "needs a batch of at least one element", (0, 3), eps=1e-5, axis=1),
    error(AxisError, "axis is 1, needs an axis of x", (4,), eps=1e-5, axis=1),
)
_batch_norm_training.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("batch_norm", "batch_norm_training"))
_batch_norm_training.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(
    Kernel("batch_norm", "batch_norm_training_vjp")
)


def batch_norm_training(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *, axis: int = 1
) -> BatchNormResult:
    """Batch normalization with the mean and variance of the batch, which come back beside the result.

    ``out = (x - mean) / sqrt(var + eps) * weight + bias``, mean and variance taken over all axes but that of the
    channels. The gradient flows through both, and through what is made of the `mean` and `var` that are returned. For
    inference keep running averages of them and call `batch_norm`.

    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Parameters
    ----------
    x : Tensor
        Any shape.
    weight, bias : Tensor, optional
        One number for each channel.
    eps : float
        Added to the variance.
    axis : int
        The axis of the channels.

    Returns
    -------
    BatchNormResult
        `out` of the shape of `x`, and `mean` and `var` with one number for each channel. The variance is that of a
        population; multiply it by ``n / (n - 1)`` for the unbiased estimate that PyTorch keeps.

    Raises
    ------
    AxisError
        If `x` has no such axis.
    ShapeError
        If `weight` or `bias` does not have one number for each channel, or the batch is empty.

    Examples
    --------
    >>> import minigrad as mg
    >>> out, mean, var = mg.batch_norm_training(mg.tensor([[1.0, 2.0], [3.0, 6.0]]), eps=0.0)
    >>> out
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> mean, var
    (tensor([2., 4.]), tensor([1., 4.]))
    """
    return BatchNormResult(*_batch_norm_training(x, weight, bias, eps=eps, axis=axis))

"""Group normalization: layer normalization over groups of channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import ShapeError, describe, message
from minigrad.ops.normalization import channelwise, real, standardize
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["group_norm"]


def layout(x: Array, num_groups: Any, **vectors: Array | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape (batch, groups, elements), and that with which a number for each channel broadcasts to x."""
    if x.ndim < 2:
        raise ShapeError(message("group_norm", "x", x, "a batch and channels, (N, C, ...)"))
    aligned = channelwise("group_norm", x, 1, **vectors)
    channels = x.shape[1]
    if isinstance(num_groups, bool) or not isinstance(num_groups, int) or num_groups < 1 or channels % num_groups:
        need = f"a divisor of the {channels} channels of x {describe(x)}"
        raise ShapeError(message("group_norm", "num_groups", num_groups, need))
    return (x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups), aligned


@op(dtype=real, amp="float32")
def _group_norm(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, *, num_groups: int, eps: float
) -> Array:
    shape, aligned = layout(x, num_groups, weight=weight, bias=bias)
    out = xp.reshape(standardize(xp, xp.reshape(x, shape), (2,), max(shape[2], 1), eps)[0], x.shape)
    if weight is not None:
        out = out * xp.reshape(weight, aligned)
    return out if bias is None else out + xp.reshape(bias, aligned)


@_group_norm.vjp()
def _(xp: Any, g: Array, x: Array, weight: Array | None, *, num_groups: int, eps: float) -> tuple[Array | None, ...]:
    shape, aligned = layout(x, num_groups)
    others = (0, *range(2, x.ndim))
    n = max(shape[2], 1)
    normal, scale = standardize(xp, xp.reshape(x, shape), (2,), n, eps)
    inner = xp.reshape(g if weight is None else g * xp.reshape(weight, aligned), shape)
    mean = xp.sum(inner, axis=2, keepdims=True) / n
    slope = xp.sum(inner * normal, axis=2, keepdims=True) / n
    dx = xp.reshape(scale * (inner - mean - normal * slope), x.shape)
    dw = None if weight is None else xp.sum(g * xp.reshape(normal, x.shape), axis=others)
    return dx, dw, xp.sum(g, axis=others)


_group_norm.samples(
    case((2, 4), num_groups=2, eps=0.1),
    case((2, 4, 3), (4,), (4,), num_groups=2, eps=1e-5),
    case((2, 6, 2, 3), (6,), None, num_groups=3, eps=1e-5),
    case((3, 2, 5), None, (2,), num_groups=1, eps=1e-5),
    case((2, 3, 5), (3,), (3,), num_groups=3, eps=0.1),
    case((0, 4, 3), (4,), (4,), num_groups=2, eps=1e-5),
    case((2, 4, 0), (4,), (4,), num_groups=2, eps=1e-5),
    error(ShapeError, "group_norm: num_groups is 3, needs a divisor of the 4 channels", (2, 4), num_groups=3, eps=0.1),
    error(ShapeError, "num_groups is 0, needs a divisor", (2, 4), num_groups=0, eps=0.1),
    error(ShapeError, "num_groups is 2.0, needs a divisor", (2, 4), num_groups=2.0, eps=0.1),
    error(ShapeError, "weight is of shape (3,), needs shape (4,)", (2, 4), (3,), num_groups=2, eps=0.1),
    error(ShapeError, "bias is of shape (4, 1), needs shape (4,)", (2, 4), (4,), (4, 1), num_groups=2, eps=0.1),
    error(ShapeError, "x is float64 (4,), needs a batch and channels", A((4,)), num_groups=2, eps=0.1),
)

_group_norm.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("batch_norm", "group_norm"))
_group_norm.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(Kernel("batch_norm", "group_norm_vjp"))


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Group normalization ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Mean and variance are those of a group of channels of one sample, so that they do not depend on the batch. One group
    is layer normalization over all but the batch; as many groups as channels are instance normalization.

    Y. Wu, K. He, "Group normalization", 2018.

    Parameters
    ----------
    x : Tensor
        (batch, channels, ...).
    num_groups : int
        Into how many groups of neighbours the channels are divided.
    weight, bias : Tensor, optional
        One number for each channel.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor
        Of the shape of `x`.

    Raises
    ------
    ShapeError
        If the groups do not divide the channels, or `weight` or `bias` does not have one number for each channel.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.group_norm(mg.tensor([[1.0, 3.0, 2.0, 6.0]]), 2, eps=0.0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    return _group_norm(x, weight, bias, num_groups=num_groups, eps=eps)

"""Softmax and its kin along an axis. -inf is a logit of probability 0; a row of nothing else has no distribution."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import ShapeError
from minigrad.ops.reduction import Axis, kept
from minigrad.ops.registry import Array, accumulate_float32, op
from minigrad.ops.samples import A, case, error

__all__ = ["log_softmax", "logsumexp", "softmax"]

real = accumulate_float32.but(kinds=dtypes.ALL - dtypes.COMPLEX)
ALONG = (
    case((3,)),
    case((2, 3)),
    case((2, 3), axis=0),
    case((2, 3, 2), axis=-2),
    case((0, 3)),
    case((3, 0)),
    case(()),
    case(A((3,), 900.0, 1000.0)),
)


def finite_max(xp: Any, x: Array, axis: Axis) -> Array:
    """The maximum, which is to be subtracted before exp; 0 where it is infinite, since inf - inf is NaN."""
    top = xp.max(x, axis=axis, keepdims=True)
    return xp.where(xp.isfinite(top), top, 0.0)


def normalized_exp(xp: Any, x: Array, axis: Axis) -> Array:
    """The softmax of any array, over one axis or several; zeros where a row is all -inf."""
    if x.size == 0:
        return xp.zeros_like(x)
    e = xp.exp(x - finite_max(xp, x, axis))
    total = xp.sum(e, axis=axis, keepdims=True)
    return e / xp.where(total == 0, 1.0, total)


@op(dtype=real, ref="scipy.special.softmax", needs="an axis of x", amp="float32")
def softmax(xp: Any, x: Array, /, axis: int = -1) -> Array:
    """Exponentials that sum to 1 along an axis: ``exp(x) / sum(exp(x))``.

    Parameters
    ----------
    x : Tensor
        Logits of any shape.
    axis : int
        The axis to normalize.

    Returns
    -------
    Tensor
        Of the shape of `x`. A row of -inf gives zeros and has zero gradients.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.softmax(mg.tensor([0.0, 0.0, -float("inf")]))
    tensor([0.5, 0.5, 0. ])
    """
    return normalized_exp(xp, x, axis)


@softmax.vjp(0)
def _(xp: Any, g: Array, out: Array, *, axis: int) -> Array:
    return out * (g - xp.sum(g * out, axis=axis, keepdims=True))


softmax.samples(*ALONG, error(ShapeError, "needs an axis of x", (2, 3), axis=2))
softmax.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("softmax", "softmax"))
softmax.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("softmax", "softmax_vjp"))


@op(dtype=real, ref="scipy.special.log_softmax", needs="an axis of x", amp="float32")
def log_softmax(xp: Any, x: Array, /, axis: int = -1) -> Array:
    """Logarithm of `softmax` without underflow: ``x - logsumexp(x)``.

    Parameters
    ----------
    x : Tensor
        Logits of any shape.
    axis : int
        The axis to normalize.

    Returns
    -------
    Tensor
        Of the shape of `x`. A row of -inf stays one.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.log_softmax(mg.tensor([0.0, 1000.0]))
    tensor([-1000.,     0.])
    """
    if x.size == 0:
        return xp.zeros_like(x)
    x = x - finite_max(xp, x, axis)
    total = xp.sum(xp.exp(x), axis=axis, keepdims=True)
    return x - xp.log(xp.where(total == 0, 1.0, total))


@log_softmax.vjp(0)
def _(xp: Any, g: Array, out: Array, *, axis: int) -> Array:
    return g - xp.exp(out) * xp.sum(g, axis=axis, keepdims=True)


log_softmax.samples(*ALONG, error(ShapeError, "needs an axis of x", (2, 3), axis=2))
log_softmax.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("softmax", "log_softmax"))
log_softmax.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("softmax", "log_softmax_vjp"))


@op(dtype=real, ref="scipy.special.logsumexp", needs="an axis of x, or a tuple of different ones", amp="float32")
def logsumexp(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """``log(sum(exp(x)))`` over axes, without overflow.

    Parameters
    ----------
    x : Tensor
        Any shape.
    axis : int or tuple of int, optional
        What to sum over; all axes by default.
    keepdims : bool
        Keep the axes with extent 1.

    Returns
    -------
    Tensor
        -inf, with zero gradients, where all elements are -inf or there are none.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.logsumexp(mg.tensor([[0.0, 0.0], [100.0, 0.0]]), axis=1), 4)
    tensor([  0.6931, 100.    ])
    """
    if x.size == 0:
        return xp.log(xp.sum(x, axis=axis, keepdims=keepdims))
    top = finite_max(xp, x, axis)
    total = xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=keepdims))
    return total + (top if keepdims else xp.reshape(top, total.shape))


@logsumexp.vjp(0)
def _(xp: Any, g: Array, x: Array, *, axis: Axis, keepdims: bool) -> Array:
    # exp(x - out) would be cheaper, and wrong by the rounding of a large out
    return xp.reshape(g, kept(x.shape, axis)) * normalized_exp(xp, x, axis)


logsumexp.samples(
    case((3,)),
    case((2, 3)),
    case((2, 3), axis=0),
    case((2, 3), axis=-1, keepdims=True),
    case((2, 3, 2), axis=(0, 2)),
    case((0, 3), axis=0),
    case(()),
    case(A((3,), 900.0, 1000.0)),
    error(ShapeError, "needs an axis of x", (2, 3), axis=2),
)
logsumexp.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("softmax", "logsumexp"))
logsumexp.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("softmax", "logsumexp_vjp"))

"""Where tensors enter and leave the part of a model that is split over ranks; each way back is another one of these."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.backend import devices
from minigrad.errors import AxisError, ShapeError, describe, message
from minigrad.function import Function
from minigrad.parallel.arrays import is_here
from minigrad.parallel.communicator import Communicator, bounds
from minigrad.tensor import Tensor

__all__ = ["copy_in", "gather_out", "slice_in", "sum_out", "vocabulary_cross_entropy"]


class _CopyIn(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator) -> Any:
        ctx.communicator = communicator
        return x.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _SumOut.apply(g, ctx.communicator), None


class _SumOut(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator) -> Any:
        ctx.communicator = communicator
        return communicator.allreduce(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _CopyIn.apply(g, ctx.communicator), None


class _SliceIn(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator, axis: int) -> Any:
        ctx.communicator, ctx.axis = communicator, axis
        return tape.new_tensor(part(x._array, communicator, axis).copy())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _GatherOut.apply(g, ctx.communicator, ctx.axis), None, None


class _GatherOut(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator, axis: int) -> Any:
        ctx.communicator, ctx.axis = communicator, axis
        return tape.new_tensor(whole(x._array, communicator, axis))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _SliceIn.apply(g, ctx.communicator, ctx.axis), None, None


def along(who: str, x: Tensor, axis: int) -> int:
    """An axis that x has."""
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(message(who, "axis", f"{axis}", f"an axis of x {describe(x)}"))
    return axis


def part(array: Any, communicator: Communicator, axis: int) -> Any:
    """The part of an array that this rank has along an axis, a view: ``n * r // size`` to ``n * (r + 1) // size``."""
    ends = bounds(array.shape[axis], communicator.size)
    index = [slice(None)] * array.ndim
    index[axis] = slice(int(ends[communicator.rank]), int(ends[communicator.rank + 1]))
    return array[tuple(index)]


def whole(array: Any, communicator: Communicator, axis: int) -> Any:
    """The parts of all ranks along an axis."""
    xp = devices.of_array(array).namespace
    return xp.ascontiguousarray(xp.moveaxis(communicator.all_gather(xp.moveaxis(array, axis, 0)), 0, axis))


def copy_in(x: Tensor, communicator: Communicator) -> Tensor:
    """Let a tensor that all ranks have enter the split part: itself; its gradient is the sum of those of all ranks.

    Parameters
    ----------
    x : Tensor
        The same on all ranks.
    communicator : Communicator
        The ranks.

    Returns
    -------
    Tensor

    Notes
    -----
    M. Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model parallelism", 2019,
    call it f and `sum_out` g: each is the other's derivative, so there are derivatives of any order. Ranks must
    differentiate the same things in the same order.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.copy_in(mg.ones(2), parallel.init())
    tensor([1., 1.])
    """
    made: Tensor = _CopyIn.apply(x, communicator)
    return made


def sum_out(x: Tensor, communicator: Communicator) -> Tensor:
    """Let a tensor leave the split part: the sum over all ranks, on each; its gradient is that of the sum.

    For a result that every rank uses in the same way, while `all_sum` is for losses that differ.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.sum_out(mg.ones(2), parallel.init())
    tensor([1., 1.])
    """
    made: Tensor = _SumOut.apply(x, communicator)
    return made


def slice_in(x: Tensor, communicator: Communicator, axis: int = -1) -> Tensor:
    """Let this rank's part, along an axis, of a tensor that all ranks have enter the split part.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.slice_in(mg.ones(2), parallel.init())
    tensor([1., 1.])
    """
    made: Tensor = _SliceIn.apply(x, communicator, along("slice_in", x, axis))
    return made


def gather_out(x: Tensor, communicator: Communicator, axis: int = -1) -> Tensor:
    """Let a tensor leave the split part: the parts of all ranks along an axis, on all.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.gather_out(mg.ones(2), parallel.init())
    tensor([1., 1.])
    """
    made: Tensor = _GatherOut.apply(x, communicator, along("gather_out", x, axis))
    return made


def vocabulary_cross_entropy(
    logits: Tensor, targets: Tensor, communicator: Communicator, *, ignore_index: int | None = None
) -> Tensor:
    """The mean cross-entropy of logits whose classes are split over ranks; no rank sees all of a row.

    ::

        log(sum(exp(logits))) - logits[target],     the sum over the classes of all ranks

    Parameters
    ----------
    logits : Tensor
        (..., classes of this rank), those of rank 0 first.
    targets : Tensor
        (...) integers, the same on all ranks.
    communicator : Communicator
        The ranks.
    ignore_index : int, optional
        A target that does not count.

    Returns
    -------
    Tensor
        (), the same on all ranks; half logits give float32.

    Raises
    ------
    ShapeError
        If the targets have another shape.
    IndexError
        If a target is no class; on a GPU, which would have to be waited for, the loss is NaN then.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.vocabulary_cross_entropy(mg.zeros((2, 4)), mg.tensor([0, 3]), parallel.init())
    tensor(1.3862944)
    """
    who = "vocabulary_cross_entropy"
    targets = ops.asarray(targets)
    if targets.shape != logits.shape[:-1]:
        raise ShapeError(message(who, "targets", targets, f"shape {logits.shape[:-1]}, a class for each row"))
    widths = communicator.all_gather(np.int64(logits.shape[-1]))
    counted = ops.ones_like(targets, dtype=dtypes.bool) if ignore_index is None else targets != ignore_index
    targets = ops.astype(targets, dtypes.int64) if targets.dtype in dtypes.INTEGER else targets
    known = (targets >= 0) & (targets < int(widths.sum()))
    if is_here(targets._array):
        wrong = targets._array[(counted & ~known)._array]
        if wrong.size:
            raise IndexError(f"{who}: targets holds the class {int(wrong[0])}, and there are {widths.sum()}")
    own = targets - int(widths[: communicator.rank].sum())
    inside = counted & (own >= 0) & (own < logits.shape[-1])
    if logits.dtype in dtypes.HALF:
        logits = ops.astype(logits, dtypes.float32)
    logits = ops.where(counted[..., None], logits, 0.0)
    top = communicator.allreduce(ops.max(logits.detach(), axis=-1, keepdims=True), "max")
    shifted = logits - top
    total = sum_out(ops.sum(ops.exp(shifted), axis=-1), communicator)
    column = ops.where(inside, own, 0)[..., None]
    found = ops.where(inside, ops.take_along_axis(shifted, column, axis=-1)[..., 0], 0.0)
    losses = ops.log(total) - sum_out(found, communicator)
    losses = ops.where(known, losses, math.nan)  # on a GPU nobody has looked yet
    return ops.sum(ops.where(counted, losses, 0.0)) / ops.maximum(ops.sum(ops.astype(counted, losses.dtype)), 1.0)

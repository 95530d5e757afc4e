"""Collectives that gradients flow through."""

from __future__ import annotations

from typing import Any

from minigrad.function import Function
from minigrad.parallel.communicator import Communicator
from minigrad.tensor import Tensor

__all__ = ["all_sum"]


class _AllSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, communicator: Communicator) -> Any:
        ctx.communicator = communicator
        return communicator.allreduce(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _AllSum.apply(g, ctx.communicator), None


def all_sum(x: Tensor, communicator: Communicator) -> Tensor:
    """The sum of the tensors of all ranks, for a loss that is the sum (or the mean) of those of all ranks.

    Every rank has the sum, and so every rank's loss may depend on it: the gradient of `x` is the sum of their
    cotangents. All ranks must call ``backward``.

    Parameters
    ----------
    x : Tensor
        Of one shape on all ranks.
    communicator : Communicator
        The ranks.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.all_sum(mg.ones(2), parallel.init())
    tensor([1., 1.])
    """
    made: Tensor = _AllSum.apply(x, communicator)
    return made

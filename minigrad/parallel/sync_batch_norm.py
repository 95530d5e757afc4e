"""Batch normalization by the statistics of the batch of all ranks."""

from __future__ import annotations

import numpy as np

from minigrad import dtypes, ops
from minigrad.nn.batch_norm import BatchNorm
from minigrad.nn.module import Module
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.functions import all_sum
from minigrad.tensor import Tensor

__all__ = ["AllStatistics", "synchronize"]


class AllStatistics:
    """What `BatchNorm` calls while training, in the place of ``ops.batch_norm_training``."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator

    def count(self, n: int) -> int:
        """The elements of a channel on all ranks."""
        return int(self.communicator.allreduce(np.int64(n)))

    def normalize(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axis: int, n: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and mean and variance over all ranks; moments of half types are float32."""
        kind = x.dtype
        wide = ops.astype(x, dtypes.float32) if kind in dtypes.HALF else x
        axes = tuple(k for k in range(x.ndim) if k != axis)
        shape = tuple(-1 if k == axis else 1 for k in range(x.ndim))
        mean = all_sum(ops.sum(wide, axis=axes), self.communicator) / n
        centered = wide - ops.reshape(mean, shape)
        var = all_sum(ops.sum(centered * centered, axis=axes), self.communicator) / n
        out = centered / ops.reshape(ops.sqrt(var + eps), shape)
        if weight is not None:
            out = out * ops.reshape(ops.astype(weight, wide.dtype), shape)
        if bias is not None:
            out = out + ops.reshape(ops.astype(bias, wide.dtype), shape)
        return ops.astype(out, kind), mean, var


def synchronize(module: Module, communicator: Communicator) -> None:
    """Let the layers of batch normalization in a model use the statistics of all ranks, while it is in training mode.

    Gradients are those of the mean (or the sum) of the ranks' losses, as `DataParallel` takes it.

    Examples
    --------
    >>> from minigrad import nn, parallel
    >>> model = nn.Sequential([nn.Dense(3), nn.BatchNorm1D()])
    >>> parallel.synchronize(model, parallel.init())
    """
    for layer in module.modules():
        if isinstance(layer, BatchNorm):
            layer.statistics = AllStatistics(communicator)

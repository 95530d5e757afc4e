"""Normalization layers."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.nn import init
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["LayerNorm", "RMSNorm"]


class LayerNorm(Module):
    """Layer normalization over the last axis; see `minigrad.layer_norm`."""

    def __init__(self, features: int | None = None, eps: float = 1e-5, *, dtype: Any = None) -> None:
        self.eps = eps
        self.weight = Parameter.deferred((features,), init.ones, dtype=dtype)
        self.bias = Parameter.deferred((features,), init.zeros, dtype=dtype)
        if features is not None:
            self.weight.initialize((features,))
            self.bias.initialize((features,))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., features)."""
        if not self.weight.is_initialized:
            self.weight.initialize((x.shape[-1],))
            self.bias.initialize((x.shape[-1],))
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Root mean square normalization over the last axis; see `minigrad.rms_norm`."""

    def __init__(self, features: int | None = None, eps: float = 1e-6, *, dtype: Any = None) -> None:
        self.eps = eps
        self.weight = Parameter.deferred((features,), init.ones, dtype=dtype)
        if features is not None:
            self.weight.initialize((features,))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., features)."""
        if not self.weight.is_initialized:
            self.weight.initialize((x.shape[-1],))
        return ops.rms_norm(x, self.weight, self.eps)

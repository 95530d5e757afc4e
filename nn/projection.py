"""Projection: a linear map whose features, in and out, may both wait for the first batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import message
from minigrad.nn import init
from minigrad.nn.extent_ties import Tie
from minigrad.nn.module import Module
from minigrad.nn.normalization import Normalization
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["Projection", "are_complete", "known_extent", "made_norm", "weight_of"]


class Projection(Module):
    """``y = activation(x @ weight + bias)``, a `Dense` inside layers that say its features before they call it.

    Parameters
    ----------
    in_features, out_features : int, optional
        None where `complete` is to say them.
    bias : bool
        Whether there is a bias.
    activation : callable, optional
        Applied to the result.
    kernel_initializer : str or callable
        What fills the weight; the bias starts from zeros.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight : Parameter
        (in, out).
    bias : Parameter or None
        (out,).
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        bias: bool = True,
        *,
        activation: Callable[[Tensor], Any] | None = None,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
    ) -> None:
        self.activation = activation
        self.weight = Parameter.deferred((in_features, out_features), init.get(kernel_initializer), dtype=dtype)
        self.bias = Parameter.deferred((out_features,), init.zeros, dtype=dtype) if bias else None
        if in_features and out_features:
            self.complete(in_features, out_features)

    @property
    def in_features(self) -> int | None:
        """Features of the input, None until they are known."""
        return self.weight.shape[0] or None

    @property
    def out_features(self) -> int | None:
        """Features of the output, None until they are known."""
        return self.weight.shape[1] or (None if self.bias is None else self.bias.shape[0]) or None

    def _ties(self) -> list[Tie]:
        """The bias is as long as the weight is wide."""
        return [[(self.weight, 1, 1), (self.bias, 0, 1)]]

    def complete(self, in_features: int, out_features: int) -> None:
        """Give the parameters that wait for it their shape."""
        self.weight.initialize((in_features, out_features))
        if self.bias is not None:
            self.bias.initialize((out_features,))

    def forward(self, x: Tensor) -> Any:
        """Apply the layer to x of shape (..., in_features)."""
        if self.activation is ops.relu:
            return ops.linear_relu(x, self.weight, self.bias)
        y = ops.linear(x, self.weight, self.bias)
        return y if self.activation is None else self.activation(y)

    def extra_repr(self) -> str:
        """Features in and out."""
        text = f"{self.in_features or '?'} -> {self.out_features or '?'}"
        if self.activation is not None and not isinstance(self.activation, Module):
            text += f", activation={getattr(self.activation, '__name__', 'a function')}"
        return text if self.bias is not None else f"{text}, bias=False"


def are_complete(*parts: Module | None) -> bool:
    """Whether none of the projections among the parts of a layer waits for its shape."""
    for part in parts:  # in every call of these layers, so at the least cost
        if isinstance(part, Projection):
            own = part.__dict__
            if getattr(own["weight"], "_fill", None) is not None or getattr(own["bias"], "_fill", None) is not None:
                return False
    return True


def known_extent(*extents: int | None) -> int | None:
    """The first that is known."""
    return next((extent for extent in extents if extent), None)


def weight_of(part: Module | None) -> Tensor | None:
    """The weight of a part of a layer; None where there is none, or another layer was put in its place."""
    return part.weight if isinstance(part, (Normalization, Projection)) else None


def made_norm(norm_layer: Callable[[int | None], Module], features: int | None, dtype: Any) -> Module:
    """A normalization of some features, cast where there is a dtype."""
    norm = norm_layer(features)
    if not isinstance(norm, Module):
        raise TypeError(message("norm_layer", "the result", norm, "a normalization, which is a module"))
    return norm if dtype is None else norm.to(dtype=dtype)

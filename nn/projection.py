"""Projection: a linear map whose features, in and out, may both wait for the first batch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn import init
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["Projection", "extent", "rate"]


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
        return self.weight.shape[1] or None

    @property
    def is_complete(self) -> bool:
        """Whether the parameters have their shape; plain tensors in their place have theirs."""
        return not isinstance(self.weight, Parameter) or self.weight.is_initialized

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


def extent(who: str, name: str, value: Any) -> int:
    """A positive int."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(message(who, name, value, "an int")) from None
    if found < 1:
        raise ShapeError(message(who, name, f"{found}", "at least 1"))
    return found


def rate(who: str, name: str, value: Any) -> float:
    """A float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(message(who, name, value, "a number")) from None

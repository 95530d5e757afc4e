"""Activation functions as modules, and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import message
from minigrad.nn.checks import finite, integer
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = [
    "ELU", "GELU", "SELU", "Identity", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "ReLU", "SiLU", "Sigmoid",
    "Softmax", "Softplus", "Tanh", "get",
]  # fmt: skip


class Identity(Module):
    """Gives its input: a place to fill later, or a layer taken out."""

    def forward(self, x: Any) -> Any:
        """Give x."""
        return x


class ReLU(Module):
    """``max(x, 0)``; see `minigrad.relu`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.ReLU()(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.relu(x)


class LeakyReLU(Module):
    """``x`` where positive, else ``negative_slope * x``; see `minigrad.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = finite("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """The slope."""
        return f"{self.negative_slope}"


class ELU(Module):
    """``x`` where positive, else ``alpha * (exp(x) - 1)``; see `minigrad.elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = finite("ELU", "alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.elu(x, self.alpha)

    def extra_repr(self) -> str:
        """Alpha."""
        return f"{self.alpha}"


class SELU(Module):
    """The self-normalizing ELU; see `minigrad.selu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.selu(x)


class GELU(Module):
    """``x * Phi(x)``, Phi the normal distribution function; see `minigrad.gelu`.

    ``approximate="tanh"`` is the form that GPT-2 uses.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(message("GELU", "approximate", repr(approximate), "'none' or 'tanh'"))
        self.approximate = approximate

    def forward(self, x: Tensor) -> Any:
        """Apply it to x of any shape."""
        return ops.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        """The approximation, if any."""
        return "" if self.approximate == "none" else f"approximate={self.approximate!r}"


class SiLU(Module):
    """``x * sigmoid(x)``, also called swish; see `minigrad.silu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.silu(x)


class Mish(Module):
    """``x * tanh(softplus(x))``; see `minigrad.mish`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.mish(x)


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``; see `minigrad.sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.sigmoid(x)


class LogSigmoid(Module):
    """``log(sigmoid(x))`` without underflow; see `minigrad.log_sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.log_sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent; see `minigrad.tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.tanh(x)


class Softplus(Module):
    """``log(1 + exp(x))``; see `minigrad.softplus`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.softplus(x)


class Softmax(Module):
    """Exponentials that sum to 1 along an axis; see `minigrad.softmax`."""

    def __init__(self, axis: int | None = -1) -> None:
        self.axis: Any = axis if axis is None else integer(type(self).__name__, "axis", axis)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.softmax(x, self.axis)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


class LogSoftmax(Module):
    """The logarithm of softmax along an axis; see `minigrad.log_softmax`."""

    def __init__(self, axis: int | None = -1) -> None:
        self.axis: Any = axis if axis is None else integer(type(self).__name__, "axis", axis)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of any shape."""
        return ops.log_softmax(x, self.axis)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


_BY_NAME: dict[str, Callable[[Tensor], Any] | None] = {
    "elu": ops.elu,
    "gelu": ops.gelu,
    "leaky_relu": ops.leaky_relu,
    "linear": None,
    "log_sigmoid": ops.log_sigmoid,
    "log_softmax": ops.log_softmax,
    "mish": ops.mish,
    "relu": ops.relu,
    "selu": ops.selu,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "softmax": ops.softmax,
    "softplus": ops.softplus,
    "swish": ops.silu,
    "tanh": ops.tanh,
}


def get(activation: str | Callable[[Tensor], Any] | None) -> Callable[[Tensor], Any] | None:
    """An activation function by its name; a function, a module and None are given back as they are.

    Raises
    ------
    ValueError
        If there is none of that name, or it is a class.
    TypeError
        If it is no function.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.activations.get("relu") is mg.relu
    True
    """
    if isinstance(activation, str):
        if activation not in _BY_NAME:
            raise ValueError(message("activation", "name", repr(activation), f"one of {', '.join(_BY_NAME)}"))
        return _BY_NAME[activation]
    if isinstance(activation, type):
        got, hint = f"the class {activation.__name__}", f"Make a layer of it: {activation.__name__}()"
        raise ValueError(message("activation", "value", got, "a function or a module", hint))
    if activation is not None and not callable(activation):
        raise TypeError(message("activation", "value", activation, "a name, a function, a module or None"))
    return activation

"""Dense: the fully connected layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn import activations, init
from minigrad.nn.checks import extent
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.nn.regularizers import Regularizer, attach
from minigrad.tensor import Tensor

__all__ = ["Dense"]


class Dense(Module):
    """Fully connected layer, ``y = activation(x @ weight + bias)``.

    The weight starts from the Glorot uniform distribution and the bias from zeros.

    Parameters
    ----------
    units : int
        Features of the output.
    activation : str or callable, optional
        A name that `minigrad.nn.activations.get` knows, a function, or a module.
    bias : bool
        Whether there is a bias.
    in_features : int, optional
        Features of the input. Left out, it is read from the first batch. Until then the weight has no elements,
        `state_dict` and an optimizer's `step` raise, and `load_state_dict` gives the weight its shape.
    kernel_initializer, bias_initializer : str or callable
        What fills the weight and the bias: a function of `minigrad.nn.init`, or its name.
    kernel_regularizer, bias_regularizer : Regularizer or str, optional
        Penalties that optimizers add, such as ``nn.L2(1e-4)`` or ``"l1"``; see `minigrad.nn.regularizers`.
    kernel_constraint, bias_constraint : callable or str, optional
        What optimizers hold the parameters to, such as ``nn.MaxNorm(2.0)``; see `minigrad.nn.constraints`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight : Parameter
        (in, out).
    bias : Parameter or None
        (out,).

    Raises
    ------
    ShapeError
        If `units` or `in_features` is not positive, or a batch has another number of features.
    TypeError
        If `units` or `in_features` is no int, or `activation` no function.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.Dense(3, activation="relu")
    >>> layer
    Dense(? -> 3, activation=relu)
    >>> layer(mg.ones((8, 2))).shape
    (8, 3)
    >>> layer
    Dense(2 -> 3, activation=relu)
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        *,
        in_features: int | None = None,
        kernel_initializer: str | Callable[..., Any] = "glorot_uniform",
        bias_initializer: str | Callable[..., Any] = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        kernel_constraint: str | Callable[[Any], Any] | None = None,
        bias_constraint: str | Callable[[Any], Any] | None = None,
        dtype: Any = None,
    ) -> None:
        self.units = extent("Dense", "units", units)
        try:
            self.activation = activations.get(activation)
        except TypeError:
            hint = "Dense(units) takes the number of outputs; in_features= is a keyword"
            raise TypeError(
                message("Dense", "activation", activation, "a name, a function or a module", hint)
            ) from None
        self.weight = Parameter.deferred((None, self.units), init.get(kernel_initializer), dtype=dtype)
        attach(self.weight, kernel_regularizer, kernel_constraint)
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter.deferred((self.units,), init.get(bias_initializer), dtype=dtype)
            self.bias.initialize((self.units,))
            attach(self.bias, bias_regularizer, bias_constraint)
        if in_features is not None:
            self.weight.initialize((extent("Dense", "in_features", in_features), self.units))

    @property
    def in_features(self) -> int | None:
        """Features of the input, None until they are known."""
        return self.weight.shape[0] or None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        if not self.weight.is_initialized:
            x = ops.asarray(x)
            if not x.ndim or not x.shape[-1]:
                raise ShapeError(message("Dense", "x", x, "features on its last axis, as in_features is read from it"))
            ops.linear(x[..., :0], self.weight, self.bias)  # refuses, before anything is fixed, what the real one would
            self.weight.initialize((x.shape[-1], self.units))
        if self.activation is ops.relu:
            return ops.linear_relu(x, self.weight, self.bias)
        y = ops.linear(x, self.weight, self.bias)
        return y if self.activation is None else self.activation(y)

    def extra_repr(self) -> str:
        """Features in and out, and what is not the default."""
        text = f"{self.in_features or '?'} -> {self.units}"
        if self.activation is not None and not isinstance(self.activation, Module):
            text += f", activation={getattr(self.activation, '__name__', 'a function')}"
        return text if self.bias is not None else f"{text}, bias=False"

"""FeedForward: the part of a Transformer's layer that works on each token by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn import activations
from minigrad.nn.checks import as_tensor, extent
from minigrad.nn.dropout import Dropout
from minigrad.nn.extent_ties import Tie
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection, are_complete, known_extent, weight_of
from minigrad.tensor import Tensor

__all__ = ["FeedForward"]

NAME = "FeedForward"
GATED: dict[str, Callable[[Tensor], Any]] = {
    "geglu": ops.gelu,
    "geglu_tanh": functools.partial(ops.gelu, approximate="tanh"),
    "glu": ops.sigmoid,
    "reglu": ops.relu,
    "swiglu": ops.silu,
}


class FeedForward(Module):
    """Two linear maps with an activation between them, ``output(activation(hidden(x)))``, or three with a gate.

    Gated, it is ``output(activation(gate(x)) * hidden(x))``: N. Shazeer, "GLU variants improve Transformer", 2020.

    Parameters
    ----------
    hidden_features : int, optional
        Features in between. By default four times those of the input; gated, 8 / 3 times, up to a multiple of 8, which
        has as many weights.
    activation : str or callable
        A name that `minigrad.nn.activations.get` knows, or ``"glu"``, ``"reglu"``, ``"geglu"``, ``"swiglu"``, which
        are gated by sigmoid, ReLU, GELU and SiLU (``"geglu_tanh"`` by GELU's approximation); or a function.
    gated : bool
        Whether a function is that of a gate.
    features : int, optional
        Features of the input and of the output. Left out, they are read from the first batch.
    dropout : float
        The probability that a feature in between is dropped while training.
    bias : bool
        Whether the linear maps have a bias.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    hidden, output, gate : Module
        The linear maps, each with a `weight` (in, out) and a `bias`; `gate` is None where there is none.

    Raises
    ------
    ShapeError
        If a number of features is not positive, or a batch has another one.
    ValueError
        If there is no activation of that name.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.FeedForward(32, "swiglu", features=8)
    >>> layer(mg.ones((2, 5, 8))).shape
    (2, 5, 8)
    >>> [name for name, p in nn.FeedForward(features=8, bias=False).named_parameters()]
    ['hidden.weight', 'output.weight']
    """

    def __init__(
        self,
        hidden_features: int | None = None,
        activation: str | Callable[[Tensor], Any] | None = "gelu",
        *,
        gated: bool = False,
        features: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
    ) -> None:
        gate = GATED.get(activation) if isinstance(activation, str) else None
        function = gate or activations.get(activation)
        gated = gated or gate is not None
        between = None if hidden_features is None else extent(NAME, "hidden_features", hidden_features)
        given: dict[str, Any] = {"kernel_initializer": kernel_initializer, "dtype": dtype}
        if features is not None:
            features = extent(NAME, "features", features)
            between = between or self._between(features, gated)
        self.gate: Module | None = None
        if gated:
            self.gate = Projection(features, between, bias, activation=function, **given)
        self.hidden: Module = Projection(features, between, bias, activation=None if gated else function, **given)
        self.output: Module = Projection(between, features, bias, **given)
        self.dropout = Dropout(dropout)

    @staticmethod
    def _between(features: int, gated: bool) -> int:
        return -(-8 * features // 24) * 8 if gated else 4 * features

    def _ties(self) -> list[Tie]:
        """Features outside, and features in between."""
        hidden, gate, output = map(weight_of, (self.hidden, self.gate, self.output))
        return [[(hidden, 0, 1), (gate, 0, 1), (output, 1, 1)], [(hidden, 1, 1), (gate, 1, 1), (output, 0, 1)]]

    @property
    def hidden_features(self) -> int | None:
        """Features in between, None until they are known."""
        made = (getattr(part, "out_features", None) for part in (self.hidden, self.gate))
        return known_extent(getattr(self.output, "in_features", None), *made)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., features)."""
        x = as_tensor(x)
        known = getattr(self.hidden, "in_features", None)  # a layer put in the place of a projection may not say
        waits = not are_complete(self.hidden, self.output, self.gate)
        if waits:
            known = known_extent(
                known, getattr(self.gate, "in_features", None), getattr(self.output, "out_features", None)
            )
        if not x.ndim or not x.shape[-1] or (known and x.shape[-1] != known):
            raise ShapeError(message(NAME, "x", x, f"shape (..., {known or 'features'})"))
        if waits:
            features = x.shape[-1]
            if isinstance(self.hidden, Projection) and not self.hidden.weight.shape[0]:
                ops.linear(x[..., :0], self.hidden.weight)  # refuses, before anything is fixed, what the real one would
            between = self.hidden_features or self._between(features, self.gate is not None)
            for layer, given, made in (
                (self.gate, features, between), (self.hidden, features, between), (self.output, between, features),
            ):  # fmt: skip
                if isinstance(layer, Projection):
                    layer.complete(given, made)
        y = self.hidden(x)
        if self.gate is not None:
            y = self.gate(x) * y
        return self.output(self.dropout(y))  # type: ignore[no-any-return]

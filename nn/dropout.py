"""Dropout: the layer that sets random elements to zero while training."""

from __future__ import annotations

from minigrad import ops
from minigrad.errors import message
from minigrad.nn.checks import number
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["Dropout"]


class Dropout(Module):
    """Set each element to 0 with a probability while training, and scale the others by ``1 / (1 - rate)``.

    In evaluation mode the input passes unchanged. Srivastava et al., "Dropout: a simple way to prevent neural networks
    from overfitting", 2014.

    Parameters
    ----------
    rate : float
        The probability, 0 <= rate <= 1.

    Raises
    ------
    TypeError
        If the rate is no number.
    ValueError
        If the rate is no probability.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.Dropout(0.5)
    >>> sorted(set(layer(mg.ones((100,))).tolist()))
    [0.0, 2.0]
    >>> layer.eval()(mg.ones((3,)))
    tensor([1., 1., 1.])
    """

    def __init__(self, rate: float) -> None:
        self.rate = number("Dropout", "rate", rate)
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(message("Dropout", "rate", rate, "a probability, 0 <= rate <= 1"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of any shape."""
        return ops.dropout(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        """The rate."""
        return f"{self.rate}"

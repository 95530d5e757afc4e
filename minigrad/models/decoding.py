"""Decoding: what `generate` asks of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from minigrad.tensor import Tensor

__all__ = ["Decoding", "Generative"]


@runtime_checkable
class Decoding(Protocol):
    """Sequences that a model has begun to read, side by side, with what it remembers of them (a cache).

    Attributes
    ----------
    max_length : int or None
        The most tokens that a sequence may have, None for no bound.
    """

    max_length: int | None

    def advance(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read the tokens that follow; gives the logits of the one after the last of each.

        Parameters
        ----------
        ids : Tensor
            (batch, new tokens).
        lengths : Tensor, optional
            (batch,), how many of them count, at least one each; those behind are padding. All by default.

        Returns
        -------
        Tensor
            (batch, vocabulary).
        """
        ...

    def reorder(self, index: Any) -> None:
        """Make sequence ``index[b]`` the sequence b; the batch may become smaller or larger."""
        ...


@runtime_checkable
class Generative(Protocol):
    """A model that `generate` can use."""

    @property
    def decoding(self) -> Callable[..., Decoding]:
        """A method that begins sequences, which are empty so far.

        It takes ``capacity=``, the tokens to have memory for at first, or None. An encoder-decoder takes its source
        too, and encodes it: what `generate` is given as ``inputs=`` arrives as keywords.
        """
        ...

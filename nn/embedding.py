"""Embedding: a table of vectors, one for each id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn import init
from minigrad.nn.checks import extent
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.nn.regularizers import Regularizer, attach
from minigrad.tensor import Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """A table of vectors, one for each id: ``y[..., :] = weight[ids[...], :]``.

    Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, "A neural probabilistic language model", 2003.

    Parameters
    ----------
    num_embeddings : int
        How many ids there are: 0 to ``num_embeddings - 1``.
    features : int
        The length of a vector.
    padding_idx : int, optional
        The id whose vector starts from 0, gets no gradient, and so stays as it is.
    embeddings_initializer : str or callable
        What fills the table: a function of `minigrad.nn.init`, or its name. By default the standard normal
        distribution.
    embeddings_regularizer : Regularizer or str, optional
        A penalty that optimizers add, such as ``nn.L2(1e-4)`` or ``"l1"``; with `sparse`, on the rows used alone.
    embeddings_constraint : callable or str, optional
        What optimizers hold the table to, such as ``nn.MaxNorm(2.0, axis=1)``.
    dtype : dtype, optional
        Of the table; float32 by default.
    sparse : bool
        Whether the gradient keeps the rows that were used alone, and the optimizer touches no others: the cost of a
        step no longer grows with the table. SGD, Adam and AdamW take it; rows that are not used keep their values and
        their state (momentum, moments, decay). See `minigrad.nn.functional.embedding`.

    Attributes
    ----------
    weight : Parameter
        (num_embeddings, features).

    Raises
    ------
    ShapeError
        If a size is not positive.
    TypeError
        If a size is no int.
    ValueError
        If `padding_idx` is no id.
    IndexError
        When called with an id that is negative or has no row.
    DTypeError
        When called with ids that are not integers.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.Embedding(10, 3, padding_idx=0)
    >>> layer(mg.tensor([[4, 0], [1, 4]])).shape
    (2, 2, 3)
    >>> layer(mg.tensor([0])).tolist()
    [[0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        padding_idx: int | None = None,
        embeddings_initializer: str | Callable[..., Any] = "normal",
        embeddings_regularizer: str | Regularizer | None = None,
        embeddings_constraint: str | Callable[[Any], Any] | None = None,
        dtype: Any = None,
        sparse: bool = False,
    ) -> None:
        shape = extent("Embedding", "num_embeddings", num_embeddings), extent("Embedding", "features", features)
        self.padding_idx = _checked_padding(padding_idx, shape[0])
        self.sparse = sparse
        self.weight = Parameter.deferred(shape, init.get(embeddings_initializer), dtype=dtype)
        self.weight.initialize(shape)
        attach(self.weight, embeddings_regularizer, embeddings_constraint)
        if padding_idx is not None:
            self.weight.detach()[padding_idx] = 0.0

    @classmethod
    def from_pretrained(
        cls, weight: Any, *, freeze: bool = True, padding_idx: int | None = None, sparse: bool = False
    ) -> Self:
        """Make a layer of a table of vectors, which is copied.

        Parameters
        ----------
        weight : array_like
            (num_embeddings, features); its dtype is kept.
        freeze : bool
            Whether the table is left as it is by training.
        padding_idx : int, optional
            The id whose vector gets no gradient; its values are kept.
        sparse : bool
            As for the class.

        Returns
        -------
        Embedding

        Raises
        ------
        ShapeError
            If the table has not two axes.
        ValueError
            If `padding_idx` is no id.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad import nn
        >>> layer = nn.Embedding.from_pretrained([[0.0, 1.0], [2.0, 3.0]])
        >>> layer(mg.tensor([1])), layer
        (tensor([[2., 3.]]), Embedding(2 -> 2, frozen))
        """
        table = Parameter(weight, requires_grad=not freeze)
        if table.ndim != 2 or not table.size:
            raise ShapeError(message("Embedding", "weight", table, "2 axes, a row of features for each id"))
        made = cls.__new__(cls)
        made.padding_idx = _checked_padding(padding_idx, table.shape[0])
        made.sparse = sparse
        made.weight = table
        return made

    @property
    def num_embeddings(self) -> int:
        """How many ids there are."""
        return self.weight.shape[0]

    @property
    def features(self) -> int:
        """The length of a vector."""
        return self.weight.shape[1]

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of ids of any shape, along a last axis more."""
        return ops.embedding(ids, self.weight, padding_idx=self.padding_idx, sparse=self.sparse)

    def extra_repr(self) -> str:
        """The sizes, and what is not the default."""
        text = f"{self.num_embeddings} -> {self.features}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.sparse:
            text += ", sparse=True"
        return text if self.weight.requires_grad else f"{text}, frozen"


def _checked_padding(padding_idx: Any, rows: int) -> int | None:
    if padding_idx is not None and not (
        isinstance(padding_idx, int) and not isinstance(padding_idx, bool) and 0 <= padding_idx < rows
    ):
        raise ValueError(message("Embedding", "padding_idx", padding_idx, f"None or an int in [0, {rows})"))
    return padding_idx

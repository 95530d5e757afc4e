"""TripleAttention: tokens that read from retrieved triples."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.checks import as_tensor, extent
from minigrad.nn.dropout import Dropout
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.projection import made_norm
from minigrad.tensor import Tensor

__all__ = ["TripleAttention"]

NAME = "TripleAttention"


class TripleAttention(Module):
    """Cross-attention over triples, with a residual connection: ``x + attention(norm(x), [head; relation; tail])``.

    Keys and values are linear maps of the three vectors of a triple side by side. Nothing tells the order of the
    triples, so that it does not count; a token reads what its own example retrieved, whatever the other tokens are. The
    output has no bias, so an example without any triple leaves the layer exactly as it came. Reading facts by attention
    to their keys: A. Miller et al., "Key-value memory networks for directly reading documents", 2016.

    Parameters
    ----------
    num_heads : int
        The heads of attention.
    features : int
        Features of the tokens.
    triple_features : int, optional
        Features of each of head, relation and tail; `features` by default.
    norm_layer : callable
        Makes the normalization of the tokens.
    dropout : float
        While training: of what is added, and of the attention weights.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    attention, norm : Module
        The parts.

    Raises
    ------
    ShapeError
        If a size is not positive, or what comes does not fit.
    DTypeError
        If the mask has other values than bools.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.knowledge import TripleAttention
    >>> layer = TripleAttention(2, 8, 4)
    >>> x, triples = mg.random.normal((2, 5, 8)), mg.random.normal((3, 2, 6, 4))
    >>> there = mg.tensor([[True] * 6, [False] * 6])
    >>> y = layer(x, *triples, mask=there)
    >>> bool((y[1] == x[1]).all()), bool((y[0] == x[0]).any())
    (True, False)
    """

    def __init__(
        self,
        num_heads: int,
        features: int,
        triple_features: int | None = None,
        *,
        norm_layer: Any = LayerNorm,
        dropout: float = 0.0,
        dtype: Any = None,
    ) -> None:
        self.features = extent(NAME, "features", features)
        given = self.features if triple_features is None else triple_features
        self.triple_features = extent(NAME, "triple_features", given)
        self.norm = made_norm(norm_layer, self.features, dtype)
        self.attention = MultiHeadAttention(
            num_heads,
            self.features,
            key_features=3 * self.triple_features,
            dropout=dropout,
            output_bias=False,
            dtype=dtype,
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, heads: Tensor, relations: Tensor, tails: Tensor, *, mask: Any = None) -> Tensor:
        """Read.

        Parameters
        ----------
        x : Tensor
            (batch, length, features).
        heads, relations, tails : Tensor
            (batch, triples, triple_features) each; there may be none.
        mask : Tensor, optional
            (batch, triples) bools, False where there is no triple; all are there by default.

        Returns
        -------
        Tensor
            (batch, length, features).
        """
        x = as_tensor(x)
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ShapeError(message(NAME, "x", x, f"shape (batch, length, {self.features})"))
        parts = [as_tensor(part) for part in (heads, relations, tails)]
        count = parts[0].shape[1] if parts[0].ndim == 3 else 0
        for name, part in zip(("heads", "relations", "tails"), parts):
            if part.ndim != 3 or part.shape != (x.shape[0], count, self.triple_features):
                number = "triples" if name == "heads" else f"{count}"
                raise ShapeError(message(NAME, name, part, f"shape ({x.shape[0]}, {number}, {self.triple_features})"))
        seen = None if mask is None else as_tensor(mask)
        if seen is not None:
            if seen.shape != (x.shape[0], count):
                raise ShapeError(message(NAME, "mask", seen, f"shape ({x.shape[0]}, {count}), a bool for each triple"))
            if seen.dtype != ops.bool:
                raise DTypeError(message(NAME, "mask", seen, "bools, True where there is a triple"))
            # a weight of 0 times NaN is NaN
            parts = [ops.where(seen[..., None], part, 0.0) for part in parts]
            seen = seen[:, None, None, :]
        found = self.attention(self.norm(x), ops.concat(parts, axis=-1), mask=seen)
        return x + self.dropout(found)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.features}, triples of 3 x {self.triple_features}"

"""FusionLayer: tokens and the entities that they name, side by side, which mix in every layer."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.nn import activations
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.checks import as_tensor, extent
from minigrad.nn.dropout import Dropout
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.projection import Projection
from minigrad.tensor import Tensor

__all__ = ["FusionEncoder", "FusionLayer"]

NAME = "FusionLayer"


class FusionLayer(Module):
    """ERNIE's layer of two streams: each attends to itself, and a token meets the entity that it names.

    With the normalizations of BERT,

        w = norm(x + attention(x)),  e = norm(entities + attention(entities))
        h = activation(w @ W_w + e @ W_e + b)        without an entity: activation(w @ W_w + b)
        x = norm(w + h @ U_w + c_w),  entities = norm(e + h @ U_e + c_e)

    The entity of a token has its place; where a token names none, the second stream is 0, is not attended, and adds
    nothing, so that tokens without any entity pass a post-norm `TransformerEncoderLayer`. Z. Zhang et al., "ERNIE:
    enhanced language representation with informative entities", 2019.

    Parameters
    ----------
    num_heads, entity_heads : int
        The heads of attention of the tokens, and of the entities.
    hidden_features : int
        Features of h, where they meet.
    features, entity_features : int
        Features of the tokens, and of the entities.
    activation : str or callable
        That of h.
    dropout : float
        While training: of what is added, of h, and of the attention weights.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    attention, entity_attention, hidden, entity_hidden, output, entity_output : Module
        The attention of each stream, and the linear maps to h and from it.
    attention_norm, entity_attention_norm, norm, entity_norm : LayerNorm
        What follows them.

    Raises
    ------
    ShapeError
        If sizes do not fit.
    DTypeError
        If the mask has other values than bools.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.knowledge import FusionLayer
    >>> layer = FusionLayer(2, 1, 16, features=8, entity_features=4)
    >>> x, entities = mg.random.normal((1, 3, 8)), mg.random.normal((1, 3, 4))
    >>> tokens, found = layer(x, entities, mg.tensor([[False, True, False]]))
    >>> tokens.shape, found[0, 0].tolist()
    ((1, 3, 8), [0.0, 0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        num_heads: int,
        entity_heads: int,
        hidden_features: int,
        *,
        features: int,
        entity_features: int,
        activation: Any = "gelu",
        dropout: float = 0.0,
        dtype: Any = None,
    ) -> None:
        self.features = extent(NAME, "features", features)
        self.entity_features = extent(NAME, "entity_features", entity_features)
        inner = extent(NAME, "hidden_features", hidden_features)
        own, other = self.features, self.entity_features
        self.attention = MultiHeadAttention(num_heads, own, dropout=dropout, dtype=dtype)
        self.attention_norm = LayerNorm(own, dtype=dtype)
        self.entity_attention = MultiHeadAttention(entity_heads, other, dropout=dropout, dtype=dtype)
        self.entity_attention_norm = LayerNorm(other, dtype=dtype)
        self.hidden = Projection(own, inner, dtype=dtype)
        self.entity_hidden = Projection(other, inner, False, dtype=dtype)
        self.activation = activations.get(activation)
        self.output = Projection(inner, own, dtype=dtype)
        self.norm = LayerNorm(own, dtype=dtype)
        self.entity_output = Projection(inner, other, dtype=dtype)
        self.entity_norm = LayerNorm(other, dtype=dtype)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, entities: Tensor, there: Tensor, *, key_lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the layer.

        Parameters
        ----------
        x : Tensor
            (batch, length, features), the tokens.
        entities : Tensor
            (batch, length, entity_features), the entity that each token names.
        there : Tensor
            (batch, length) bools, False where it names none; what `entities` has there does not count.
        key_lengths : Tensor, optional
            (batch,), how many tokens count.

        Returns
        -------
        tuple of Tensor
            Tokens and entities of the same shapes, for the next layer; an entity that is not there is 0.
        """
        x, entities, there = as_tensor(x), as_tensor(entities), as_tensor(there)
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ShapeError(message(NAME, "x", x, f"shape (batch, length, {self.features})"))
        if entities.shape != (*x.shape[:2], self.entity_features):
            raise ShapeError(message(NAME, "entities", entities, f"shape {(*x.shape[:2], self.entity_features)}"))
        if there.shape != x.shape[:2]:
            raise ShapeError(message(NAME, "there", there, f"shape {x.shape[:2]}, a bool for each token"))
        if there.dtype != ops.bool:
            raise DTypeError(message(NAME, "there", there, "bools, True where a token names an entity"))
        one, seen = there[..., None], there[:, None, None, :]
        entities = ops.where(one, entities, 0.0)
        x = self.attention_norm(x + self.dropout(self.attention(x, key_lengths=key_lengths)))
        read = self.entity_attention(entities, mask=seen, key_lengths=key_lengths)
        entities = self.entity_attention_norm(entities + self.dropout(read))
        met = self.hidden(x) + ops.where(one, self.entity_hidden(entities), 0.0)
        h = self.dropout(met if self.activation is None else self.activation(met))
        tokens = self.norm(x + self.dropout(self.output(h)))
        found = self.entity_norm(entities + self.dropout(self.entity_output(h)))
        return tokens, ops.where(one, found, 0.0)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.features}, entities {self.entity_features}"


class FusionEncoder(Module):
    """Fusion layers one after the other: the part of ERNIE in which tokens and entities meet.

    Parameters
    ----------
    num_layers : int
        The layers.
    num_heads, entity_heads, hidden_features, **options
        As for `FusionLayer`.

    Attributes
    ----------
    layers : list of FusionLayer
        The layers.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.knowledge import FusionEncoder
    >>> text = nn.TransformerEncoder(2, 2, 16, features=8, norm="post")
    >>> both = FusionEncoder(2, 2, 1, 16, features=8, entity_features=4)
    >>> x, entities, there = mg.ones((1, 3, 8)), mg.ones((1, 3, 4)), mg.tensor([[False, True, False]])
    >>> [part.shape for part in both(text(x), entities, there)]
    [(1, 3, 8), (1, 3, 4)]
    """

    def __init__(
        self, num_layers: int, num_heads: int, entity_heads: int, hidden_features: int, **options: Any
    ) -> None:
        count = extent("FusionEncoder", "num_layers", num_layers)
        self.layers = [FusionLayer(num_heads, entity_heads, hidden_features, **options) for _ in range(count)]

    def forward(
        self, x: Tensor, entities: Tensor, there: Tensor, *, key_lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the layers; the arguments and the result are those of `FusionLayer`."""
        for layer in self.layers:
            x, entities = layer(x, entities, there, key_lengths=key_lengths)
        return x, entities

"""The layers of Transformers: attention and a feed-forward network, with a residual connection around each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.errors import describe, message
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.checks import as_tensor, check_options
from minigrad.nn.dropout import Dropout
from minigrad.nn.extent_ties import Tie
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.kv_cache import LayerCache
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.projection import are_complete, made_norm, weight_of
from minigrad.tensor import Tensor

__all__ = ["TransformerDecoderLayer", "TransformerEncoderLayer"]

# the options of self-attention that cross-attention takes over
SHARED = ("num_kv_heads", "head_dim", "value_dim", "output_bias", "softcap", "scale", "qk_norm")


class TransformerEncoderLayer(Module):
    """Self-attention, then a feed-forward network, with a residual connection around each.

    With ``norm="pre"`` the layer is ``x = x + attention(norm(x)); x = x + feed_forward(norm(x))``, with ``norm="post"``
    it is ``x = norm(x + attention(x)); x = norm(x + feed_forward(x))``. A. Vaswani et al., "Attention is all you need",
    2017, has the latter; why the former trains without a warm-up: R. Xiong et al., 2020.

    Parameters
    ----------
    num_heads : int
        The heads of attention.
    hidden_features : int, optional
        Features inside the feed-forward network; see `FeedForward` for the default.
    features : int, optional
        Features of the tokens. Left out, they are read from the first batch.
    norm : str
        ``"pre"`` or ``"post"``.
    norm_layer : callable
        Makes a normalization from a number of features: `LayerNorm`, `RMSNorm`, or one with arguments bound by
        `functools.partial`.
    activation : str or callable
        That of the feed-forward network; ``"swiglu"`` and its kin are gated.
    dropout : float
        While training: of what is added to the residual stream, and inside the feed-forward network.
    attention_dropout : float, optional
        That of the attention weights; `dropout` by default.
    bias : bool
        Whether the linear maps have a bias.
    kernel_initializer : str or callable
        What fills their weights.
    dtype : dtype, optional
        Of the parameters; float32 by default.
    **attention
        Options of `MultiHeadAttention`: num_kv_heads, head_dim, window, softcap, scale, alibi, rotary, qk_norm, ...

    Attributes
    ----------
    self_attention, self_attention_norm, feed_forward, feed_forward_norm : Module
        The parts.

    Raises
    ------
    ValueError
        If `norm` or another option is not one of those.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.TransformerEncoderLayer(4, 32, norm_layer=nn.RMSNorm, activation="swiglu", rotary=True, bias=False)
    >>> layer(mg.random.normal((2, 5, 16))).shape
    (2, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        hidden_features: int | None = None,
        *,
        features: int | None = None,
        norm: str = "pre",
        norm_layer: Callable[..., Module] = LayerNorm,
        activation: str | Callable[[Tensor], Any] | None = "gelu",
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
        **attention: Any,
    ) -> None:
        self.norm_first = norm_first(type(self).__name__, norm)
        check_norm_layer(type(self).__name__, norm_layer)
        given: dict[str, Any] = {
            "features": features, "bias": bias, "kernel_initializer": kernel_initializer, "dtype": dtype
        }  # fmt: skip
        check_options(type(self).__name__, attention, MultiHeadAttention, ("num_heads", "dropout", *given))
        rate = dropout if attention_dropout is None else attention_dropout
        self.self_attention = MultiHeadAttention(num_heads, dropout=rate, **given, **attention)
        self.self_attention_norm = made_norm(norm_layer, features, dtype)
        self.feed_forward = FeedForward(hidden_features, activation, dropout=dropout, **given)
        self.feed_forward_norm = made_norm(norm_layer, features, dtype)
        self.dropout = Dropout(dropout)

    def _ties(self) -> list[Tie]:
        """The features of the residual stream."""
        return [[(weight, 0, 1) for weight in self.entrances()]]

    def entrances(self) -> list[Tensor | None]:
        """The weights that the residual stream meets."""
        attention, network = self.self_attention, self.feed_forward
        parts = (attention.query, network.hidden, self.self_attention_norm, self.feed_forward_norm)
        return [weight_of(part) for part in parts]

    def begin(self, x: Tensor) -> None:
        """Refuse features that the heads do not divide before the normalization takes them for its own."""
        part: Module = self.self_attention  # another layer may be put in its place
        if isinstance(part, MultiHeadAttention) and not are_complete(part.query) and x.ndim and x.shape[-1]:
            part.divided(x.shape[-1])

    def around(self, x: Tensor, norm: Module, part: Callable[[Tensor], Any]) -> Tensor:
        """A part of the layer with its normalization and its residual connection."""
        if self.norm_first:
            return x + self.dropout(part(norm(x)))  # type: ignore[no-any-return]
        return norm(x + self.dropout(part(x)))  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        is_causal: bool = False,
        key_lengths: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer to x of shape (batch, length, features); the others are those of `MultiHeadAttention`."""
        options: dict[str, Any] = {"mask": mask, "bias": bias, "is_causal": is_causal, "key_lengths": key_lengths}
        x = as_tensor(x)
        self.begin(x)
        x = self.around(x, self.self_attention_norm, lambda y: self.self_attention(y, **options))
        return self.around(x, self.feed_forward_norm, self.feed_forward)

    def extra_repr(self) -> str:
        """Where the normalization stands."""
        return f"norm={'pre' if self.norm_first else 'post'!r}"


class TransformerDecoderLayer(TransformerEncoderLayer):
    """Causal self-attention, attention to what an encoder gave, a feed-forward network; residuals around each.

    Parameters
    ----------
    num_heads, hidden_features, **options
        As for `TransformerEncoderLayer`.
    cross_attention : bool
        Whether it attends to the output of an encoder; a language model has none.
    memory_features : int, optional
        Features of that output; by default `features`, or read from the first batch.

    Attributes
    ----------
    cross_attention, cross_attention_norm : Module or None
        The parts that an encoder's layer has not.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.TransformerDecoderLayer(4, 32)
    >>> layer(mg.random.normal((2, 5, 16)), mg.random.normal((2, 9, 16))).shape
    (2, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        hidden_features: int | None = None,
        *,
        cross_attention: bool = True,
        memory_features: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_heads, hidden_features, **options)
        self.cross_attention: MultiHeadAttention | None = None
        self.cross_attention_norm: Module | None = None
        if cross_attention:
            names = (*SHARED, "features", "bias", "kernel_initializer", "dtype")
            self.cross_attention = MultiHeadAttention(
                num_heads,
                key_features=memory_features,
                dropout=self.self_attention.dropout,
                **{name: options[name] for name in names if name in options},
            )
            norm_layer = options.get("norm_layer", LayerNorm)
            self.cross_attention_norm = made_norm(norm_layer, options.get("features"), options.get("dtype"))

    def entrances(self) -> list[Tensor | None]:
        """The weights that the residual stream meets."""
        cross = None if self.cross_attention is None else self.cross_attention.query
        return [*super().entrances(), weight_of(cross), weight_of(self.cross_attention_norm)]

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        is_causal: bool = True,
        key_lengths: Tensor | None = None,
        memory_mask: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x : Tensor
            (batch, length, features); with a cache, the tokens that follow those in it.
        memory : Tensor
            The output of an encoder, (batch, memory length, memory features). Once a cache is filled, its keys and
            values are used in place of it.
        mask, bias, is_causal, key_lengths
            For self-attention, as in `MultiHeadAttention`.
        memory_mask, memory_lengths
            `mask` and `key_lengths` of cross-attention.
        cache : LayerCache, optional
            Grows by x.

        Returns
        -------
        Tensor
            (batch, length, features).

        Raises
        ------
        ValueError
            If there is cross-attention and no memory, or the other way round.
        """
        if (memory is None) != (self.cross_attention is None):
            need = "none, as there is no cross-attention" if self.cross_attention is None else "the encoder's output"
            raise ValueError(message(type(self).__name__, "memory", memory, need, "See cross_attention="))
        x = as_tensor(x)
        self.begin(x)
        own, other = (None, None) if cache is None else cache
        options: dict[str, Any] = {"mask": mask, "bias": bias, "is_causal": is_causal, "key_lengths": key_lengths}
        x = self.around(x, self.self_attention_norm, lambda y: self.self_attention(y, cache=own, **options))
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            cross = self.cross_attention
            options = {"mask": memory_mask, "key_lengths": memory_lengths, "cache": other}
            x = self.around(x, self.cross_attention_norm, lambda y: cross(y, memory, **options))
        return self.around(x, self.feed_forward_norm, self.feed_forward)


def norm_first(who: str, norm: str) -> bool:
    """Whether the normalization comes before a part of a layer."""
    if norm not in ("pre", "post"):
        raise ValueError(message(who, "norm", repr(norm), "'pre' or 'post'"))
    return norm == "pre"


def check_norm_layer(who: str, norm_layer: Any) -> None:
    """Raise where it can make no normalization."""
    if not callable(norm_layer) or (isinstance(norm_layer, type) and not issubclass(norm_layer, Module)):
        need = "a function that makes a normalization of a number of features, such as nn.LayerNorm"
        raise TypeError(message(who, "norm_layer", describe(norm_layer), need))

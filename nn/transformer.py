"""Transformers: encoders, decoders, and both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.errors import ShapeError, message
from minigrad.nn.checks import extent
from minigrad.nn.extent_ties import Tie
from minigrad.nn.kv_cache import DecoderCache
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.projection import made_norm, weight_of
from minigrad.nn.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from minigrad.tensor import Tensor

__all__ = ["Transformer", "TransformerDecoder", "TransformerEncoder"]


class TransformerEncoder(Module):
    """Encoder layers one after the other, and with ``norm="pre"`` a last normalization.

    Parameters
    ----------
    num_layers : int
        The layers.
    num_heads, hidden_features, **options
        As for `TransformerEncoderLayer`. The first two and `num_kv_heads` may be sequences of one for each layer.
    final_norm : bool, optional
        Whether a normalization follows the last layer; by default with ``norm="pre"``.

    Attributes
    ----------
    layers : list of TransformerEncoderLayer
        The layers.
    norm : Module or None
        The last normalization.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> encoder = nn.TransformerEncoder(2, 4, 32, dropout=0.1)
    >>> encoder(mg.random.normal((2, 5, 16)), key_lengths=mg.tensor([5, 3])).shape
    (2, 5, 16)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int | Sequence[int],
        hidden_features: int | Sequence[int] | None = None,
        *,
        final_norm: bool | None = None,
        **options: Any,
    ) -> None:
        count = extent("TransformerEncoder", "num_layers", num_layers)
        sizes = {"num_heads": num_heads, "hidden_features": hidden_features}
        each = of_each_layer("TransformerEncoder", count, options | sizes)
        self.layers = [TransformerEncoderLayer(**own) for own in each]
        self.norm = last_norm(final_norm, options)

    def _ties(self) -> list[Tie]:
        """The features of the residual stream."""
        return stream_ties(self.layers, self.norm)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        is_causal: bool = False,
        key_lengths: Tensor | None = None,
    ) -> Any:
        """Apply the layers to x of shape (batch, length, features); each gets the other arguments."""
        for layer in self.layers:
            x = layer(x, mask=mask, bias=bias, is_causal=is_causal, key_lengths=key_lengths)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """Decoder layers one after the other, and with ``norm="pre"`` a last normalization.

    Without cross-attention it is the body of a language model such as GPT.

    Parameters
    ----------
    num_layers : int
        The layers.
    num_heads, hidden_features, **options
        As for `TransformerDecoderLayer`. The first two and `num_kv_heads` may be sequences of one for each layer.
    final_norm : bool, optional
        Whether a normalization follows the last layer; by default with ``norm="pre"``.

    Attributes
    ----------
    layers : list of TransformerDecoderLayer
        The layers.
    norm : Module or None
        The last normalization.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> decoder = nn.TransformerDecoder(2, 4, 32, cross_attention=False, rotary=True).eval()
    >>> cache = decoder.make_cache()
    >>> with mg.no_grad():
    ...     start = decoder(mg.random.normal((2, 5, 16)), cache=cache)
    ...     following = decoder(mg.random.normal((2, 1, 16)), cache=cache)
    >>> following.shape, cache.lengths.tolist()
    ((2, 1, 16), [6, 6])
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int | Sequence[int],
        hidden_features: int | Sequence[int] | None = None,
        *,
        final_norm: bool | None = None,
        **options: Any,
    ) -> None:
        count = extent("TransformerDecoder", "num_layers", num_layers)
        sizes = {"num_heads": num_heads, "hidden_features": hidden_features}
        each = of_each_layer("TransformerDecoder", count, options | sizes)
        self.layers = [TransformerDecoderLayer(**own) for own in each]
        self.norm = last_norm(final_norm, options)

    def _ties(self) -> list[Tie]:
        """The features of the residual stream."""
        return stream_ties(self.layers, self.norm)

    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        """An empty cache for decoding, with memory for so many tokens at first."""
        return DecoderCache(len(self.layers), capacity)

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
        cache: DecoderCache | None = None,
    ) -> Any:
        """Apply the layers; each gets the arguments of `TransformerDecoderLayer`.

        Raises
        ------
        ShapeError
            If the cache was made for another number of layers.
        """
        if cache is not None and not isinstance(cache, DecoderCache):
            raise TypeError(message("TransformerDecoder", "cache", cache, "an nn.DecoderCache"))
        if cache is not None and len(cache.layers) != len(self.layers):
            need = f"{len(self.layers)}, as the decoder has"
            raise ShapeError(message("TransformerDecoder", "layers of the cache", f"{len(cache.layers)}", need))
        for i, layer in enumerate(self.layers):
            x = layer(
                x,
                memory,
                mask=mask,
                bias=bias,
                is_causal=is_causal,
                key_lengths=key_lengths,
                memory_mask=memory_mask,
                memory_lengths=memory_lengths,
                cache=None if cache is None else cache.layers[i],
            )
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """An encoder and a decoder that attends to its output, for sequence to sequence.

    It takes and gives features: embeddings, positions and the logits are the caller's.

    Parameters
    ----------
    num_heads : int
        The heads of attention.
    num_encoder_layers, num_decoder_layers : int
        The layers of each.
    hidden_features, **options
        As for `TransformerEncoderLayer`.

    Attributes
    ----------
    encoder, decoder : Module
        A `TransformerEncoder` and a `TransformerDecoder`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> model = nn.Transformer(4, 2, 2, 32)
    >>> source, target = mg.random.normal((2, 9, 16)), mg.random.normal((2, 5, 16))
    >>> model(source, target, source_lengths=mg.tensor([9, 4])).shape
    (2, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        hidden_features: int | None = None,
        **options: Any,
    ) -> None:
        self.encoder = TransformerEncoder(num_encoder_layers, num_heads, hidden_features, **options)
        self.decoder = TransformerDecoder(num_decoder_layers, num_heads, hidden_features, **options)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
    ) -> Any:
        """Encode the source and decode the target, (batch, length, features) each; the decoder is causal.

        Lengths (batch,) count the tokens of a sequence, those behind are padding. To decode step by step, call
        `encoder` once and then `decoder` with a cache.
        """
        memory = self.encoder(source, key_lengths=source_lengths)
        return self.decoder(target, memory, key_lengths=target_lengths, memory_lengths=source_lengths)


def stream_ties(layers: Sequence[TransformerEncoderLayer], norm: Module | None) -> list[Tie]:
    """The features that enter each layer and the last normalization."""
    weights = [weight_of(norm), *(weight for layer in layers for weight in layer.entrances())]
    return [[(weight, 0, 1) for weight in weights]]


def of_each_layer(who: str, count: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each layer; sizes may be sequences of one for each."""
    found = [dict(options) for _ in range(count)]
    for name in ("num_heads", "hidden_features", "num_kv_heads"):
        sizes = options.get(name)
        if isinstance(sizes, (list, tuple)):
            if len(sizes) != count:
                raise ShapeError(message(who, name, f"{len(sizes)} numbers", f"{count}, one for each layer"))
            for own, size in zip(found, sizes, strict=True):
                own[name] = size
    return found


def last_norm(final_norm: bool | None, options: dict[str, Any]) -> Module | None:
    """The normalization after the last layer, or None."""
    if not (options.get("norm", "pre") == "pre" if final_norm is None else final_norm):
        return None
    return made_norm(options.get("norm_layer", LayerNorm), options.get("features"), options.get("dtype"))

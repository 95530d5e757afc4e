"""KnowledgeDecoder: a Transformer's decoder that reads from retrieved triples too."""

from __future__ import annotations

from typing import Any

from minigrad.errors import ShapeError, describe, message
from minigrad.knowledge.language.retrieval import TripleAttention
from minigrad.nn.kv_cache import DecoderCache
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.transformer import TransformerDecoder
from minigrad.tensor import Tensor

__all__ = ["KnowledgeDecoder"]


class KnowledgeDecoder(TransformerDecoder):
    """Decoder layers, each followed by a `TripleAttention`, and with ``norm="pre"`` a last normalization.

    Without triples it computes what the decoder without knowledge does.

    Parameters
    ----------
    num_layers, num_heads, hidden_features, **options
        As for `TransformerDecoder`; `features` is needed.
    triple_features : int, optional
        Features of each of head, relation and tail; `features` by default.

    Attributes
    ----------
    layers : list of TransformerDecoderLayer
        The layers.
    knowledge : list of TripleAttention
        What follows each.
    norm : Module or None
        The last normalization.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.knowledge import KnowledgeDecoder
    >>> decoder = KnowledgeDecoder(2, 2, 16, features=8, triple_features=4)
    >>> x, memory, triples = mg.ones((1, 5, 8)), mg.ones((1, 3, 8)), tuple(mg.ones((3, 1, 6, 4)))
    >>> decoder(x, memory, triples=triples).shape
    (1, 5, 8)
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        hidden_features: int | None = None,
        *,
        features: int,
        triple_features: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_layers, num_heads, hidden_features, features=features, **options)
        names = ("norm_layer", "dropout", "dtype")
        shared = {"norm_layer": LayerNorm} | {name: options[name] for name in names if name in options}
        self.knowledge = [TripleAttention(num_heads, features, triple_features, **shared) for _ in self.layers]

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        triples: tuple[Tensor, Tensor, Tensor] | None = None,
        triple_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        **options: Any,
    ) -> Any:
        """Apply the layers.

        Parameters
        ----------
        x, memory, cache, **options
            As for `TransformerDecoder`.
        triples : tuple of Tensor, optional
            Heads, relations and tails, (batch, triples, triple_features) each.
        triple_mask : Tensor, optional
            (batch, triples) bools, False where there is no triple.

        Returns
        -------
        Tensor
            (batch, length, features).
        """
        if cache is not None and not isinstance(cache, DecoderCache):
            raise TypeError(message("KnowledgeDecoder", "cache", describe(cache), "an nn.DecoderCache"))
        if cache is not None and len(cache.layers) != len(self.layers):
            need = f"{len(self.layers)}, as the decoder has"
            raise ShapeError(message("KnowledgeDecoder", "layers of the cache", f"{len(cache.layers)}", need))
        if triples is None and triple_mask is not None:
            raise ValueError(message("KnowledgeDecoder", "triple_mask", triple_mask, "none, as there are no triples"))
        reads: Module
        for i, (layer, reads) in enumerate(zip(self.layers, self.knowledge, strict=True)):
            x = layer(x, memory, cache=None if cache is None else cache.layers[i], **options)
            if triples is not None:
                x = reads(x, *triples, mask=triple_mask)
        return x if self.norm is None else self.norm(x)

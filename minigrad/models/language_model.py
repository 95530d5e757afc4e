"""LanguageModel: what decoder-only language models have in common."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.io.files import FilePath
from minigrad.io.name_map import NameMap
from minigrad.io.weights import load_weights
from minigrad.models.generation import generate
from minigrad.models.pretrained import read_config, save_pretrained
from minigrad.models.rows import Prompts
from minigrad.nn.dense import Dense
from minigrad.nn.embedding import Embedding
from minigrad.nn.kv_cache import DecoderCache
from minigrad.nn.module import Module
from minigrad.nn.transformer import TransformerDecoder
from minigrad.ops.linear_cross_entropy import CHUNK
from minigrad.tensor import Tensor

__all__ = ["LanguageModel", "read_config"]

IGNORED = -100  # a target that does not count


class LanguageModel(Module):
    """Base of `GPT` and `Llama`: tokens, a causal decoder, and the logits of the token that follows each.

    A subclass sets the attributes, and writes `embed` if there is more to it than a table, `names`, and its config's
    `from_hf` and `to_hf`.

    Attributes
    ----------
    tokens : Embedding
        (vocabulary, features).
    decoder : TransformerDecoder
        The layers, and the last normalization.
    head : Dense or None
        The weight of the logits; None where it is that of the tokens.
    config : object
        Sizes and options.
    """

    config_class: ClassVar[Any]
    tokens: Embedding
    decoder: TransformerDecoder
    head: Dense | None
    config: Any
    split_head: Any = None  # makes logits and loss where ranks share the vocabulary: see minigrad.parallel

    def __init__(self, config: Any, *, dtype: Any = None) -> None:
        raise NotImplementedError(f"{type(self).__name__}: needs a method __init__(self, config, *, dtype=None)")

    def names(self) -> NameMap:
        """From Hugging Face's names to ours."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method names(self)")

    @property
    def max_length(self) -> int | None:
        """The most tokens of a sequence, None for no bound."""
        return None

    def embed(self, ids: Tensor, offset: Any) -> Tensor:
        """The features of tokens (batch, length), the first of which has the position `offset`."""
        return self.tokens(ids)  # type: ignore[no-any-return]

    def hidden(self, ids: Tensor, *, key_lengths: Tensor | None = None, cache: DecoderCache | None = None) -> Tensor:
        """What the decoder makes of tokens: (batch, length, features)."""
        ids = ops.asarray(ids)
        if ids.ndim != 2 or not ids.shape[1]:
            need = "at least one token in each sequence" if ids.ndim == 2 else "shape (batch, length)"
            raise ShapeError(message(type(self).__name__, "ids", ids, need))
        offset: Any = 0
        if cache is not None and len(cache.offsets):
            offset = cache.offsets
            offset = int(offset[0]) if (offset == offset[0]).all() else offset
        x = self.embed(ids, offset)
        return self.decoder(x, key_lengths=key_lengths, cache=cache)  # type: ignore[no-any-return]

    def output_weight(self) -> Tensor:
        """The weight of the logits, (features, vocabulary)."""
        return self.tokens.weight.mT if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of features (..., features)."""
        if self.split_head is not None:
            return self.split_head.logits(hidden, self.output_weight())  # type: ignore[no-any-return]
        head: Any = self.tokens if self.head is None else self.head
        if hasattr(head, "project"):  # by compress.quantize or sparsify: its weight would be made anew in every call
            return head.project(hidden)  # type: ignore[no-any-return]
        return ops.linear(hidden, self.output_weight())

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        key_lengths: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """The logits of the token that follows each, or the loss.

        Parameters
        ----------
        ids : Tensor
            (batch, length) integers; with a cache, the tokens that follow those in it.
        targets : Tensor, optional
            (batch, length), the token that follows each: the ids, moved by one. -100 does not count.
        key_lengths : Tensor, optional
            (batch,), how many tokens of a sequence count; those behind are padding, and their targets do not count.
        cache : DecoderCache, optional
            Grows by the tokens; see `make_cache`. Decode under ``mg.no_grad()``.

        Returns
        -------
        Tensor
            (batch, length, vocabulary); with targets the mean cross-entropy, ().

        Raises
        ------
        ShapeError
            If `ids` has not two axes, `targets` has another shape, or a sequence is too long.
        """
        hidden = self.hidden(ids, key_lengths=key_lengths, cache=cache)
        if targets is None:
            return self.logits(hidden)
        targets = ops.asarray(targets)
        if targets.shape != hidden.shape[:2]:
            raise ShapeError(message(type(self).__name__, "targets", targets, f"shape {hidden.shape[:2]}, that of ids"))
        if key_lengths is not None:
            behind = ops.arange(targets.shape[1], device=targets.device) >= ops.asarray(key_lengths)[:, None]
            targets = ops.where(behind, IGNORED, targets)
        weight = self.output_weight()
        if self.split_head is not None:
            return self.split_head.loss(hidden, weight, targets)  # type: ignore[no-any-return]
        if math.prod(targets.shape) * weight.shape[1] > CHUNK:  # below, all logits at once cost less than twice
            return ops.linear_cross_entropy(hidden, weight, targets, ignore_index=IGNORED)
        return ops.cross_entropy(ops.linear(hidden, weight), targets, ignore_index=IGNORED)

    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        """An empty cache for decoding, with memory for so many tokens at first."""
        return self.decoder.make_cache(capacity)

    def decoding(self, *, capacity: int | None = None) -> CausalDecoding:
        """Begin to decode: for `generate`."""
        return CausalDecoding(self, capacity)

    def generate(self, prompts: Prompts, **options: Any) -> Any:
        """Continue sequences of tokens; see `minigrad.models.generate`."""
        return generate(self, prompts, **options)

    @classmethod
    def from_pretrained(cls, folder: FilePath, *, dtype: Any = None) -> Self:
        """Load a model that Hugging Face's libraries, or `save_pretrained`, wrote.

        Parameters
        ----------
        folder : path
            With ``config.json`` and the weights in safetensors, whole or in shards.
        dtype : dtype, optional
            Of the parameters; float32 by default.

        Returns
        -------
        LanguageModel
            In evaluation mode.

        Raises
        ------
        DataError
            If a file is missing or malformed.
        ValueError
            If the model is of another kind, or its weights do not fit.
        """
        config, weights = cls.config_class.from_hf(read_config(folder)), load_weights(folder)
        model = cls(config, dtype=dtype)  # last: it may be large
        model.names().load(model, weights)
        return model.eval()

    def save_pretrained(self, folder: FilePath, *, shard_bytes: int | None = None) -> None:
        """Write ``config.json`` and the weights, by the names and in the layout that Hugging Face's libraries read."""
        save_pretrained(folder, self.config.to_hf(), self.names().back(self.state_dict(masks=False)), shard_bytes)


class CausalDecoding:
    """Sequences that a `LanguageModel` has begun to read; see `minigrad.models.decoding.Decoding`."""

    def __init__(self, model: LanguageModel, capacity: int | None) -> None:
        self.model, self.max_length = model, model.max_length
        self.cache = model.make_cache(capacity)

    def advance(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read the tokens that follow; gives the logits of the one after the last of each."""
        hidden = self.model.hidden(ids, key_lengths=lengths, cache=self.cache)
        if lengths is None:
            return self.model.logits(hidden[:, -1])
        return self.model.logits(hidden[ops.arange(hidden.shape[0], device=hidden.device), lengths - 1])

    def reorder(self, index: Any) -> None:
        """Make sequence ``index[b]`` the sequence b."""
        self.cache.reorder(index)

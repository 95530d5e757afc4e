"""Seq2Seq: an encoder-decoder Transformer from tokens to tokens."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.models.pretrained import check_config
from minigrad.models.relative_positions import RelativePositionBias
from minigrad.nn import init
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.kv_cache import DecoderCache
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm, RMSNorm
from minigrad.nn.positions import LearnedPositions, SinusoidalPositions
from minigrad.nn.transformer import TransformerDecoder, TransformerEncoder
from minigrad.tensor import Tensor

__all__ = ["Seq2Seq", "Seq2SeqConfig", "Seq2SeqDecoding"]

NAME = "Seq2Seq"
IGNORED = -100


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The sizes and options of a `Seq2Seq`.

    Parameters
    ----------
    vocab_size : int
        Tokens of the source.
    target_vocab_size : int, optional
        Tokens of the target, with embeddings of their own; left out, source and target share vocabulary and embeddings.
    features, num_encoder_layers, num_decoder_layers, num_heads, head_dim, hidden_features : int
        Of the Transformer; the last two may be left to the layers.
    positions : str
        ``"sinusoidal"``, ``"learned"``, or ``"relative"``: a bias on the scores, see `RelativePositionBias`.
    max_length : int
        How many positions are learned.
    num_buckets, max_distance : int
        Of relative positions.
    norm : str
        ``"layer"`` or ``"rms"``; it stands before each part.
    norm_eps : float, optional
        The layer's own by default.
    activation : str
        Of the feed-forward networks, gated ones too.
    bias : bool
        Whether linear maps have a bias.
    attention_scale : float, optional
        By default ``1 / sqrt(head_dim)``; T5 has 1.
    tied_output : bool
        Whether the weight of the logits is that of the target's embeddings.
    scaled_input, scaled_output : bool
        Multiply embeddings with ``sqrt(features)`` where they enter; divide by it what the logits are made of. The
        embeddings start with deviation 1, with `scaled_input` with its inverse.
    dropout : float
        While training.
    start_id, end_id, padding_id : int
        The tokens that start a target, end it, and fill it up.
    """

    vocab_size: int
    target_vocab_size: int | None = None
    features: int = 256
    num_encoder_layers: int = 3
    num_decoder_layers: int = 3
    num_heads: int = 4
    head_dim: int | None = None
    hidden_features: int | None = None
    positions: str = "sinusoidal"
    max_length: int = 512
    num_buckets: int = 32
    max_distance: int = 128
    norm: str = "layer"
    norm_eps: float | None = None
    activation: str = "gelu"
    bias: bool = True
    attention_scale: float | None = None
    tied_output: bool = True
    scaled_input: bool = True
    scaled_output: bool = False
    dropout: float = 0.1
    start_id: int = 1
    end_id: int = 2
    padding_id: int = 0

    def __post_init__(self) -> None:
        for name, known in (("positions", ("sinusoidal", "learned", "relative")), ("norm", ("layer", "rms"))):
            if getattr(self, name) not in known:
                need = f"one of {', '.join(map(repr, known))}"
                raise ValueError(message("Seq2SeqConfig", name, repr(getattr(self, name)), need))


class Seq2SeqDecoding:
    """Targets that a `Seq2Seq` has begun to write, side by side, for `minigrad.models.generate`.

    Parameters
    ----------
    model : Seq2Seq
        The model.
    memory : Tensor
        (batch, source length, features), what the encoder gave.
    memory_lengths : Tensor, optional
        (batch,), how many tokens of each source count.
    capacity : int, optional
        Tokens to have memory for at first.

    Attributes
    ----------
    cache : DecoderCache
        Keys and values of the tokens, and of the memory.
    max_length : int or None
        The most tokens of a target: as many as there are learned positions.
    """

    def __init__(
        self, model: Seq2Seq, memory: Tensor, memory_lengths: Tensor | None = None, capacity: int | None = None
    ) -> None:
        self.model = model
        self.memory = memory
        self.memory_lengths = None if memory_lengths is None else ops.asarray(memory_lengths)
        self.cache = model.decoder.make_cache(capacity)
        self.max_length = model.config.max_length if model.config.positions == "learned" else None

    def advance(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read tokens (batch, new) that follow; gives the logits (batch, vocabulary) after the last that counts."""
        given: dict[str, Any] = {"target_lengths": lengths, "memory_lengths": self.memory_lengths, "cache": self.cache}
        with no_grad():
            hidden = self.model.hidden(ids, self.memory, **given)
            if lengths is None:
                last = hidden[:, -1]
            else:
                last = hidden[ops.arange(hidden.shape[0], device=hidden.device), ops.asarray(lengths) - 1]
            return self.model.logits(last)

    def reorder(self, index: Any) -> None:
        """Make sequence ``index[b]`` the sequence b, source and target; the batch may become smaller or larger."""
        self.cache.reorder(index)
        chosen = ops.asarray(index, device=self.memory.device)
        with no_grad():
            self.memory = ops.take(self.memory, chosen, axis=0)
            if self.memory_lengths is not None:
                self.memory_lengths = ops.take(self.memory_lengths, chosen, axis=0)


class Seq2Seq(Module):
    """An encoder-decoder Transformer: `forward` gives logits of each next token of a target, given a source.

    A. Vaswani et al., "Attention is all you need", 2017, with the normalization before each part. With relative
    positions, `RMSNorm` and no scale in attention it is T5, see `minigrad.models.t5`.

    Parameters
    ----------
    config : Seq2SeqConfig
        Sizes and options.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    embedding, target_embedding, encoder, decoder, output : Module
        The parts; `target_embedding` is None where it is shared, `output` where it is tied.
    positions, target_positions, relative, target_relative : Module or None
        What tells the order of tokens.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig
    >>> model = Seq2Seq(Seq2SeqConfig(10, features=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=2)).eval()
    >>> source, lengths = mg.tensor([[3, 4, 5, 2], [6, 2, 0, 0]]), mg.tensor([4, 2])
    >>> target = mg.tensor([[5, 4, 2], [7, 2, 0]])
    >>> model(source, model.shifted(target), source_lengths=lengths).shape
    (2, 3, 10)
    >>> decoding = model.decoding(source=source, source_lengths=lengths)
    >>> steps = [decoding.advance(model.shifted(target)[:, i : i + 1]) for i in range(3)]
    >>> whole = model(source, model.shifted(target), source_lengths=lengths)
    >>> bool((abs(mg.stack(steps, axis=1) - whole) < 1e-5).all())
    True
    """

    def __init__(self, config: Seq2SeqConfig, *, dtype: Any = None) -> None:
        check_config(type(self).__name__, config, Seq2SeqConfig)
        self.config = config
        size, heads = config.features, config.num_heads
        deviation = size**-0.5 if config.scaled_input else 1.0
        table: dict[str, Any] = {
            "embeddings_initializer": functools.partial(init.normal, std=deviation), "dtype": dtype
        }  # fmt: skip
        self.embedding = Embedding(config.vocab_size, size, **table)
        own = config.target_vocab_size
        self.target_embedding = None if own is None else Embedding(own, size, **table)
        self.positions: Module | None = None
        self.target_positions: Module | None = None
        self.relative: RelativePositionBias | None = None
        self.target_relative: RelativePositionBias | None = None
        if config.positions == "sinusoidal":
            self.positions = self.target_positions = SinusoidalPositions()
        elif config.positions == "learned":
            self.positions = LearnedPositions(config.max_length, size, dtype=dtype)
            self.target_positions = LearnedPositions(config.max_length, size, dtype=dtype)
        else:
            reach = (heads, config.num_buckets, config.max_distance)
            self.relative = RelativePositionBias(*reach, dtype=dtype)
            self.target_relative = RelativePositionBias(*reach, bidirectional=False, dtype=dtype)
        norm: Any = LayerNorm if config.norm == "layer" else RMSNorm
        options: dict[str, Any] = {
            "features": size,
            "head_dim": config.head_dim,
            "scale": config.attention_scale,
            "norm_layer": norm if config.norm_eps is None else functools.partial(norm, eps=config.norm_eps),
            "activation": config.activation,
            "dropout": config.dropout,
            "bias": config.bias,
            "dtype": dtype,
        }
        hidden = config.hidden_features
        self.encoder = TransformerEncoder(config.num_encoder_layers, heads, hidden, **options)
        self.decoder = TransformerDecoder(config.num_decoder_layers, heads, hidden, **options)
        self.dropout = Dropout(config.dropout)
        self.output: Dense | None = None
        if not config.tied_output:
            self.output = Dense(own or config.vocab_size, bias=False, in_features=size, dtype=dtype)
        if config.attention_scale is not None:
            self._shrink_queries(config.attention_scale)

    def _shrink_queries(self, scale: float) -> None:
        """Start from scores as large as those of attention with its usual scale."""
        with no_grad():
            for layer in (*self.encoder.layers, *self.decoder.layers):
                for part in (layer.self_attention, getattr(layer, "cross_attention", None)):
                    if part is not None and part.head_dim is not None:
                        query: Any = part.query
                        query.weight[...] = query.weight * (part.head_dim**-0.5 / scale)

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode tokens (batch, length), of which `lengths` (batch,) count, to (batch, length, features)."""
        source = self._ids("source", source)
        x = self._embedded(self.embedding, self.positions, source, 0)
        bias = None if self.relative is None else self.relative(source.shape[1], source.shape[1])
        return self.encoder(x, bias=bias, key_lengths=lengths)  # type: ignore[no-any-return]

    def hidden(
        self,
        target: Tensor,
        memory: Tensor,
        *,
        target_lengths: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        cache: DecoderCache | None = None,
        **more: Any,
    ) -> Tensor:
        """Features of each token of a target, of which `logits` makes those of the next one.

        Parameters
        ----------
        target : Tensor
            (batch, length) integers; with a cache, the tokens that follow those in it.
        memory : Tensor
            (batch, source length, features), what `encode` gave.
        target_lengths, memory_lengths : Tensor, optional
            (batch,), how many tokens of each sequence count.
        cache : DecoderCache, optional
            Grows by the tokens.
        **more
            What a decoder that was put in the place of `decoder` takes beside these.

        Returns
        -------
        Tensor
            (batch, length, features).
        """
        target = self._ids("target", target)
        if target.shape[0] != memory.shape[0]:
            need = f"{memory.shape[0]} sequences, as the source has"
            raise ShapeError(message(NAME, "target", target, need))
        started = cache is not None and bool(len(cache.lengths))
        start: Any = cache.offsets if cache is not None and started else 0
        if started and (start == start[0]).all():
            start = int(start[0])
        x = self._embedded(self.target_embedding or self.embedding, self.target_positions, target, start)
        bias = None
        if self.target_relative is not None:
            new: Any = target.shape[1]
            if cache is not None and target_lengths is not None:
                new = ops.asarray(target_lengths).to("cpu").numpy()
            bias = self.target_relative(target.shape[1], int(np.max(start + new)), start)
        lengths = {"key_lengths": target_lengths, "memory_lengths": memory_lengths}
        return self.decoder(x, memory, bias=bias, cache=cache, **lengths, **more)  # type: ignore[no-any-return]

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, target length, vocabulary); the target starts with the start token, see `shifted`."""
        memory = self.encode(source, source_lengths)
        hidden = self.hidden(target, memory, target_lengths=target_lengths, memory_lengths=source_lengths)
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the decoder's features."""
        if self.config.scaled_output:
            hidden = hidden * self.config.features**-0.5
        if self.output is not None:
            return self.output(hidden)  # type: ignore[no-any-return]
        table: Any = self.target_embedding or self.embedding
        if hasattr(table, "int8_weight"):  # by compress.quantize: its weight would be made anew in every call
            return table.project(hidden)  # type: ignore[no-any-return]
        return ops.linear(hidden, table.weight.mT)

    def loss(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The mean cross-entropy of a target's tokens, each given the source and those before it.

        Parameters
        ----------
        target : Tensor
            (batch, length), without the start token and with the end token.
        source_lengths, target_lengths : Tensor, optional
            (batch,), how many tokens count, the end token among them.
        """
        target = self._ids("target", target)
        logits = self(source, self.shifted(target), source_lengths=source_lengths)
        if target_lengths is not None:
            behind = ops.arange(target.shape[1], device=target.device) >= ops.asarray(target_lengths)[:, None]
            target = ops.where(behind, IGNORED, target)
        return ops.cross_entropy(logits, target, ignore_index=IGNORED, label_smoothing=label_smoothing)

    def shifted(self, target: Tensor) -> Tensor:
        """What the decoder reads to predict a target: the start token, and all tokens but the last."""
        target = self._ids("target", target)
        start = ops.full((target.shape[0], 1), self.config.start_id, dtype=target.dtype, device=target.device)
        return ops.concat([start, target[:, :-1]], axis=1)

    def decoding(
        self, *, capacity: int | None = None, source: Tensor, source_lengths: Tensor | None = None
    ) -> Seq2SeqDecoding:
        """Encode a source, and begin to write targets.

        Parameters
        ----------
        capacity : int, optional
            Tokens to have memory for at first.
        source : Tensor
            (batch, length) integers.
        source_lengths : Tensor, optional
            (batch,), how many of them count.
        """
        with no_grad():
            return Seq2SeqDecoding(self, self.encode(source, source_lengths), source_lengths, capacity)

    def cross_attention(self, source: Tensor, target: Tensor, *, source_lengths: Tensor | None = None) -> list[Tensor]:
        """Where the decoder looks: for each of its layers the weights (batch, heads, target length, source length)."""
        inputs: list[tuple[Module, tuple[Any, ...]]] = []
        parts = [layer.cross_attention for layer in self.decoder.layers if layer.cross_attention is not None]
        removers = [part.register_forward_pre_hook(lambda m, given: inputs.append((m, given))) for part in parts]
        try:
            self(source, target, source_lengths=source_lengths)
        finally:
            for remove in removers:
                remove()
        return [part(*given, key_lengths=source_lengths, need_weights=True)[1] for part, given in inputs]

    def _embedded(self, embedding: Embedding, positions: Module | None, ids: Tensor, offset: Any) -> Tensor:
        x = embedding(ids)
        if self.config.scaled_input:
            x = x * math.sqrt(self.config.features)
        if positions is not None:
            x = positions(x, offset)
        return self.dropout(x)  # type: ignore[no-any-return]

    @staticmethod
    def _ids(name: str, ids: Any) -> Tensor:
        ids = ops.asarray(ids)
        if ids.ndim != 2 or not ids.shape[1]:
            need = "at least one token in each sequence" if ids.ndim == 2 else "shape (batch, length)"
            raise ShapeError(message(NAME, name, ids, need))
        return ids  # type: ignore[no-any-return]

"""DialogueModel: an encoder-decoder Transformer that answers what was said, and may read facts while it does."""

from __future__ import annotations

import functools
import math
from typing import Any

from minigrad import dtypes, ops
from minigrad.autograd import no_grad
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.knowledge.language.decoder import KnowledgeDecoder
from minigrad.models.seq2seq import IGNORED, Seq2Seq, Seq2SeqConfig, Seq2SeqDecoding
from minigrad.nn import init
from minigrad.nn.checks import extent
from minigrad.nn.embedding import Embedding
from minigrad.nn.normalization import LayerNorm, RMSNorm
from minigrad.tensor import Tensor

__all__ = ["DialogueDecoding", "DialogueModel"]

NAME = "DialogueModel"


class DialogueDecoding(Seq2SeqDecoding):
    """Answers that a `DialogueModel` has begun to write, for `minigrad.models.generate`.

    Parameters
    ----------
    model, memory, memory_lengths, capacity
        As for `Seq2SeqDecoding`.
    facts : Tensor, optional
        (3, batch, triples, features), what the model's `read` gave.
    fact_mask : Tensor, optional
        (batch, triples) bools.
    """

    def __init__(
        self,
        model: DialogueModel,
        memory: Tensor,
        memory_lengths: Tensor | None = None,
        capacity: int | None = None,
        *,
        facts: Tensor | None = None,
        fact_mask: Tensor | None = None,
    ) -> None:
        super().__init__(model, memory, memory_lengths, capacity)
        self.facts, self.fact_mask = facts, fact_mask

    def advance(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read tokens (batch, new) that follow; gives the logits (batch, vocabulary) after the last that counts."""
        given: dict[str, Any] = {"target_lengths": lengths, "memory_lengths": self.memory_lengths, "cache": self.cache}
        if self.facts is not None:
            given |= {"triples": tuple(self.facts), "triple_mask": self.fact_mask}
        with no_grad():
            hidden = self.model.hidden(ids, self.memory, **given)
            if lengths is None:
                return self.model.logits(hidden[:, -1])
            rows = ops.arange(hidden.shape[0], device=hidden.device)
            return self.model.logits(hidden[rows, ops.asarray(lengths) - 1])

    def reorder(self, index: Any) -> None:
        """Make sequence ``index[b]`` the sequence b, with its history and its facts."""
        super().reorder(index)
        chosen = ops.asarray(index, device=self.memory.device)
        with no_grad():
            if self.facts is not None:
                self.facts = ops.take(self.facts, chosen, axis=1)
            if self.fact_mask is not None:
                self.fact_mask = ops.take(self.fact_mask, chosen, axis=0)


class DialogueModel(Seq2Seq):
    """A `Seq2Seq` from the history of a dialogue to the next answer, with facts for the decoder to read.

    Every token of the history has an embedding of its turn and of its speaker beside its own and that of its position.
    After each of its layers the decoder attends to triples (`KnowledgeDecoder`). A fact is three texts; the vector of
    each is the sum of its tokens' embeddings over the square root of their number. Without facts, or with none for
    an example, it computes what the model without knowledge does.

    Parameters
    ----------
    config : Seq2SeqConfig
        Sizes and options; history and answer share the vocabulary.
    turns, speakers : int
        How many turns of a history, and how many who speak, have an embedding.
    knowledge : bool
        Whether the decoder reads facts.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    turn_embedding, speaker_embedding : Embedding
        Beside the parts of `Seq2Seq`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.knowledge.language.dialogue import DialogueModel
    >>> from minigrad.models import Seq2SeqConfig
    >>> model = DialogueModel(Seq2SeqConfig(20, features=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=2))
    >>> history = {"source": mg.tensor([[5, 6, 7, 8]]), "turns": mg.tensor([[1, 1, 0, 0]])}
    >>> history |= {"speakers": mg.tensor([[0, 0, 1, 1]])}
    >>> facts = {"facts": mg.tensor([[[5, 0], [9, 3], [4, 4]]]), "chosen": mg.tensor([[0, -1]])}
    >>> model.loss(**history, target=mg.tensor([[9, 3, 2]]), **facts).shape
    ()
    """

    def __init__(
        self,
        config: Seq2SeqConfig,
        *,
        turns: int = 4,
        speakers: int = 2,
        knowledge: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(config, dtype=dtype)
        if config.target_vocab_size is not None:
            raise ValueError(message(NAME, "target_vocab_size", config.target_vocab_size, "None: one vocabulary"))
        size = config.features
        table: dict[str, Any] = {
            "embeddings_initializer": functools.partial(init.normal, std=size**-0.5 if config.scaled_input else 1.0),
            "dtype": dtype,
        }
        self.turn_embedding = Embedding(extent(NAME, "turns", turns), size, **table)
        self.speaker_embedding = Embedding(extent(NAME, "speakers", speakers), size, **table)
        if knowledge:
            norm: Any = LayerNorm if config.norm == "layer" else RMSNorm
            self.decoder = KnowledgeDecoder(
                config.num_decoder_layers,
                config.num_heads,
                config.hidden_features,
                features=size,
                head_dim=config.head_dim,
                scale=config.attention_scale,
                norm_layer=norm if config.norm_eps is None else functools.partial(norm, eps=config.norm_eps),
                activation=config.activation,
                dropout=config.dropout,
                bias=config.bias,
                dtype=dtype,
            )

    @property
    def has_knowledge(self) -> bool:
        """Whether the decoder reads facts."""
        return isinstance(self.decoder, KnowledgeDecoder)

    def encode(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        *,
        turns: Tensor | None = None,
        speakers: Tensor | None = None,
    ) -> Tensor:
        """Encode a history.

        Parameters
        ----------
        source : Tensor
            (batch, length) integers, the tokens of all turns one after the other.
        lengths : Tensor, optional
            (batch,), how many of them count.
        turns, speakers : Tensor, optional
            (batch, length) integers, the turn and the speaker of each token; all 0 by default.

        Returns
        -------
        Tensor
            (batch, length, features).
        """
        source = self._ids("source", source)
        x = self.embedding(source)
        for name, given, table in (
            ("turns", turns, self.turn_embedding),
            ("speakers", speakers, self.speaker_embedding),
        ):
            ids = ops.zeros_like(source) if given is None else ops.asarray(given)
            if ids.shape != source.shape:
                raise ShapeError(message(NAME, name, ids, f"shape {source.shape}, one for each token of source"))
            x = x + table(ids)
        if self.config.scaled_input:
            x = x * math.sqrt(self.config.features)
        if self.positions is not None:
            x = self.positions(x, 0)
        bias = None if self.relative is None else self.relative(source.shape[1], source.shape[1])
        return self.encoder(self.dropout(x), bias=bias, key_lengths=lengths)  # type: ignore[no-any-return]

    def read(self, facts: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the facts that were looked up.

        Parameters
        ----------
        facts : Tensor
            (facts, 3, length) integers: the tokens of head, relation and tail, filled up with the padding token.
        chosen : Tensor
            (batch, triples) integers: the facts of each example, -1 for none.

        Returns
        -------
        tuple of Tensor
            (3, batch, triples, features), and the mask (batch, triples).
        """
        facts, chosen = ops.asarray(facts), ops.asarray(chosen)
        if facts.ndim != 3 or facts.shape[1] != 3:
            raise ShapeError(message(NAME, "facts", facts, "shape (facts, 3, length): tokens of head, relation, tail"))
        if chosen.ndim != 2:
            raise ShapeError(message(NAME, "chosen", chosen, "shape (batch, triples)"))
        if chosen.dtype not in dtypes.INTEGER:
            raise DTypeError(message(NAME, "chosen", chosen, "integers: facts, or -1 for none"))
        chosen = ops.astype(chosen, dtypes.int64, copy=False)
        places = chosen.to("cpu").numpy()
        if places.size and not -1 <= places.min() <= places.max() < facts.shape[0]:
            need = f"-1 for none, or facts in [0, {facts.shape[0]})"
            raise IndexError(message(NAME, "chosen", f"from {places.min()} to {places.max()}", need))
        there = chosen >= 0
        counts = facts != self.config.padding_id
        tokens = ops.where(counts[..., None], self.embedding(facts), 0.0)
        number = ops.maximum(ops.sum(ops.astype(counts, tokens.dtype), axis=2), 1.0)
        # a mean of n vectors would be about sqrt(n) times shorter than one of them
        vectors = ops.sum(tokens, axis=2) / ops.sqrt(number)[..., None]
        if self.config.scaled_input:
            vectors = vectors * math.sqrt(self.config.features)
        if not facts.shape[0]:
            return ops.zeros((3, *chosen.shape, vectors.shape[-1]), dtype=vectors.dtype, device=vectors.device), there
        picked = ops.take(vectors, ops.reshape(ops.where(there, chosen, 0), (-1,)), axis=0)
        picked = ops.reshape(picked, (*chosen.shape, 3, vectors.shape[-1]))
        return ops.permute_dims(picked, (2, 0, 1, 3)), there

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        turns: Tensor | None = None,
        speakers: Tensor | None = None,
        facts: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, target length, vocabulary); the arguments are those of `encode`, `read` and `Seq2Seq`."""
        memory = self.encode(source, source_lengths, turns=turns, speakers=speakers)
        more: dict[str, Any] = {}
        if self._reads(facts, chosen):
            read, there = self.read(facts, chosen)  # type: ignore[arg-type]
            more = {"triples": tuple(read), "triple_mask": there}
        hidden = self.hidden(target, memory, target_lengths=target_lengths, memory_lengths=source_lengths, **more)
        return self.logits(hidden)

    def loss(
        self,
        source: Tensor,
        target: Tensor,
        *,
        target_lengths: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        **history: Any,
    ) -> Tensor:
        """The cross-entropy of an answer's tokens, each given the history, the facts, and the tokens before it.

        Parameters
        ----------
        source, **history
            As for `forward`.
        target : Tensor
            (batch, length), without the start token and with the end token.
        target_lengths : Tensor, optional
            (batch,), how many tokens count, the end token among them.
        label_smoothing, reduction
            As for `minigrad.nn.functional.cross_entropy`.

        Returns
        -------
        Tensor
            A number, or with ``reduction="none"`` (batch, length), 0 where a token does not count.
        """
        target = self._ids("target", target)
        logits = self(source, self.shifted(target), **history)
        if target_lengths is not None:
            behind = ops.arange(target.shape[1], device=target.device) >= ops.asarray(target_lengths)[:, None]
            target = ops.where(behind, IGNORED, target)
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": reduction}
        return ops.cross_entropy(logits, target, ignore_index=IGNORED, **options)

    def decoding(
        self,
        *,
        capacity: int | None = None,
        source: Tensor,
        source_lengths: Tensor | None = None,
        turns: Tensor | None = None,
        speakers: Tensor | None = None,
        facts: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> DialogueDecoding:
        """Encode a history, read its facts, and begin to write answers; see `forward`."""
        with no_grad():
            memory = self.encode(source, source_lengths, turns=turns, speakers=speakers)
            more: dict[str, Any] = {}
            if self._reads(facts, chosen):
                more["facts"], more["fact_mask"] = self.read(facts, chosen)  # type: ignore[arg-type]
            return DialogueDecoding(self, memory, source_lengths, capacity, **more)

    def _reads(self, facts: Any, chosen: Any) -> bool:
        """Whether there are facts to read."""
        if (facts is None) != (chosen is None):
            raise ValueError(message(NAME, "facts and chosen", "one of them", "both or neither"))
        if facts is not None and not self.has_knowledge:
            raise ValueError(message(NAME, "facts", facts, "none, as the model was made with knowledge=False"))
        return facts is not None

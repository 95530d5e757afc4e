"""BERT: an encoder that sees a text in both directions, its masked language model, and embeddings of sentences."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from minigrad import dtypes, ops
from minigrad.errors import ShapeError, message
from minigrad.io import NameMap, Rename, load_weights
from minigrad.models.pretrained import check_config, read_config, read_fields, save_pretrained
from minigrad.nn import init
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.parameter import Parameter
from minigrad.nn.positions import LearnedPositions
from minigrad.nn.transformer import TransformerEncoder
from minigrad.tensor import Tensor

__all__ = ["NAMES", "Bert", "BertConfig", "BertForMaskedLM", "mean_pool"]

IGNORED = -100  # the target of a token that was not masked, as Hugging Face's collators write it


@dataclass(frozen=True)
class BertConfig:
    """The sizes and options of a BERT; the defaults are those of bert-base-uncased.

    Parameters
    ----------
    vocab_size, type_vocab_size, max_length : int
        Tokens, kinds of segments, and positions that there are.
    features, num_layers : int
        Of the encoder.
    num_heads, hidden_features : int or tuple of int
        Of all its layers, or of each.
    activation : str
        Of the feed-forward networks, and of the head: a name of `minigrad.nn.activations.get`, or ``"gelu_tanh"``.
    dropout, attention_dropout : float
        While training.
    norm_eps : float
        Added to the variances.
    padding_idx : int or None
        The token of padding, whose embedding stays as it is.
    initializer_range : float
        The standard deviation of weights that are not loaded.
    head_dim : int, optional
        Features of a head; ``features / num_heads`` by default, as BERT has.
    """

    vocab_size: int = 30522
    features: int = 768
    num_layers: int = 12
    num_heads: int | tuple[int, ...] = 12
    hidden_features: int | tuple[int, ...] = 3072
    max_length: int = 512
    type_vocab_size: int = 2
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_eps: float = 1e-12
    padding_idx: int | None = 0
    initializer_range: float = 0.02
    head_dim: int | None = None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what Hugging Face writes to ``config.json``.

        Raises
        ------
        ValueError
            If it asks for something that this BERT has not (relative positions, a decoder, another activation), or is
            malformed.

        Examples
        --------
        >>> from minigrad.models.bert import BertConfig
        >>> BertConfig.from_hf({"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6}).features
        384
        """
        unsupported = {
            "model_type": ("bert",),
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False, None),
            "add_cross_attention": (False, None),
            "hidden_act": tuple(ACTIVATIONS),
        }
        for key, known in unsupported.items():
            if key in config and config[key] not in known:
                raise ValueError(message("BertConfig", key, repr(config[key]), f"one of {', '.join(map(str, known))}"))
        found = read_fields(cls, config, KEYS)
        if "activation" in found:
            found["activation"] = ACTIVATIONS[found["activation"]]
        return cls(**found)

    def to_hf(self) -> dict[str, Any]:
        """What Hugging Face writes to ``config.json``, but for the name of the class.

        Raises
        ------
        ValueError
            If Hugging Face has no such activation.
        """
        names = {own: theirs for theirs, own in reversed(ACTIVATIONS.items())}
        if self.activation not in names:
            raise ValueError(message("BertConfig", "activation", repr(self.activation), f"one of {', '.join(names)}"))
        found = {theirs: getattr(self, own) for theirs, own in KEYS.items()}
        if self.head_dim is None:
            del found["head_dim"]  # which BERT has not
        return found | {"model_type": "bert", "hidden_act": names[self.activation]}


KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "features",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "hidden_features",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "type_vocab_size",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "pad_token_id": "padding_idx",
    "initializer_range": "initializer_range",
    "head_dim": "head_dim",
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def linear(source: str, target: str, prefixed: bool = True) -> list[Rename]:
    """The rules of a linear layer."""
    return [
        Rename(f"{source}.weight", f"{target}.weight", transpose=True, prefixed=prefixed),
        Rename(f"{source}.bias", f"{target}.bias", prefixed=prefixed),
    ]


def norm(source: str, target: str, prefixed: bool = True) -> list[Rename]:
    """The rules of a normalization, whose weights are gamma and beta in files from before 2020."""
    pairs = (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias"))
    return [Rename(f"{source}.{theirs}", f"{target}.{ours}", prefixed=prefixed) for theirs, ours in pairs]


LAYER, OURS = "encoder.layer.{i}", "encoder.layers.{i}"
# from the names of Hugging Face's BertModel to those of `Bert`; what is None is tied, or made by the program
NAMES = NameMap(
    [
        Rename("embeddings.word_embeddings.weight", "token_embedding.weight"),
        Rename("embeddings.position_embeddings.weight", "position_embedding.weight"),
        Rename("embeddings.token_type_embeddings.weight", "type_embedding.weight"),
        Rename("embeddings.position_ids", None),
        *norm("embeddings.LayerNorm", "norm"),
        *(
            rule
            for part in ("query", "key", "value")
            for rule in linear(f"{LAYER}.attention.self.{part}", f"{OURS}.self_attention.{part}")
        ),
        *linear(f"{LAYER}.attention.output.dense", f"{OURS}.self_attention.output"),
        *norm(f"{LAYER}.attention.output.LayerNorm", f"{OURS}.self_attention_norm"),
        *linear(f"{LAYER}.intermediate.dense", f"{OURS}.feed_forward.hidden"),
        *linear(f"{LAYER}.output.dense", f"{OURS}.feed_forward.output"),
        *norm(f"{LAYER}.output.LayerNorm", f"{OURS}.feed_forward_norm"),
        *linear("pooler.dense", "pooler"),
        Rename("cls.predictions.bias", "head.bias", prefixed=False),
        *linear("cls.predictions.transform.dense", "head.transform", prefixed=False),
        *norm("cls.predictions.transform.LayerNorm", "head.norm", prefixed=False),
        Rename("cls.predictions.decoder.{p}", None),
        Rename("cls.seq_relationship.{p}", None),
    ],
    prefix="bert.",
)


class Bert(Module):
    """Encode a text, every token in the light of all others: the encoder of BERT.

    The embeddings of token, position and segment are added and normalized; encoder layers follow, normalized after each
    part. J. Devlin et al., "BERT: pre-training of deep bidirectional transformers for language understanding", 2019.

    Parameters
    ----------
    config : BertConfig
        Sizes and options.
    pooler : bool
        Whether there is the layer that pre-training put on the first token.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    token_embedding, position_embedding, type_embedding, norm, encoder, pooler : Module
        The parts; `pooler` may be None.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models.bert import Bert, BertConfig
    >>> sizes = {"vocab_size": 20, "features": 8, "num_layers": 2, "num_heads": 2, "hidden_features": 16}
    >>> model = Bert(BertConfig(**sizes)).eval()
    >>> ids, lengths = mg.tensor([[2, 7, 3, 9], [2, 3, 0, 0]]), mg.tensor([4, 2])
    >>> model(ids, lengths=lengths).shape, model.embed(ids, lengths=lengths).shape
    ((2, 4, 8), (2, 8))
    """

    def __init__(self, config: BertConfig, *, pooler: bool = True, dtype: Any = None) -> None:
        check_config(type(self).__name__, config, BertConfig)
        self.config = config
        fill = functools.partial(init.normal, std=config.initializer_range)
        table: dict[str, Any] = {"embeddings_initializer": fill, "dtype": dtype}
        size = config.features
        self.token_embedding = Embedding(config.vocab_size, size, padding_idx=config.padding_idx, **table)
        self.position_embedding = LearnedPositions(config.max_length, size, initializer=fill, dtype=dtype)
        self.type_embedding = Embedding(config.type_vocab_size, size, **table)
        self.norm = LayerNorm(size, config.norm_eps, dtype=dtype)
        self.dropout = Dropout(config.dropout)
        self.encoder = TransformerEncoder(
            config.num_layers,
            config.num_heads,
            config.hidden_features,
            head_dim=config.head_dim,
            features=size,
            norm="post",
            norm_layer=functools.partial(LayerNorm, eps=config.norm_eps),
            activation=function(config.activation),
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            kernel_initializer=fill,
            dtype=dtype,
        )
        for layer in self.encoder.layers:
            layer.feed_forward.dropout = Dropout(0.0)  # BERT drops what a part adds, and nothing inside of it
        self.pooler: Dense | None = None
        if pooler:
            self.pooler = Dense(size, "tanh", in_features=size, kernel_initializer=fill, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, dtype: Any = None) -> Self:
        """Load a model that Hugging Face's transformers saved; a head is left away.

        Parameters
        ----------
        path : path
            The folder, with ``config.json`` and safetensors.
        dtype : dtype, optional
            Of the parameters; float32 by default.

        Raises
        ------
        DataError
            If a file is missing or malformed.
        ValueError
            If the configuration asks for something else, or the weights do not fit.
        """
        weights = NAMES.translate(load_weights(path)).weights
        own = {name: value for name, value in weights.items() if not name.startswith("head.")}
        config = BertConfig.from_hf(read_config(path))
        model = cls(config, pooler="pooler.weight" in own, dtype=dtype)
        model.load_state_dict(own)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], *, shard_bytes: int | None = None) -> None:
        """Write ``config.json`` and the weights, by the names and in the layout that Hugging Face's BertModel reads."""
        weights = {
            name.removeprefix(NAMES.prefix): array for name, array in NAMES.back(self.state_dict(masks=False)).items()
        }
        save_pretrained(folder, self.config.to_hf() | {"architectures": ["BertModel"]}, weights, shard_bytes)

    def forward(self, ids: Tensor, *, token_types: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Parameters
        ----------
        ids : Tensor
            (batch, length) integers.
        token_types : Tensor, optional
            (batch, length), the segment of each token; all 0 by default.
        lengths : Tensor, optional
            (batch,), how many tokens of a text count; those behind are padding, which no token sees.

        Returns
        -------
        Tensor
            (batch, length, features).

        Raises
        ------
        ShapeError
            If `ids` has not two axes, or a text is longer than the positions.
        """
        ids = ops.asarray(ids)
        if ids.ndim != 2:
            raise ShapeError(message("Bert", "ids", ids, "shape (batch, length)"))
        kinds = self.type_embedding.weight[0] if token_types is None else self.type_embedding(token_types)
        x = self.position_embedding(self.token_embedding(ids) + kinds)
        return self.encoder(self.dropout(self.norm(x)), key_lengths=lengths)  # type: ignore[no-any-return]

    def pool(self, hidden: Tensor) -> Tensor:
        """What the pooler makes of the first token's features: (batch, length, features) to (batch, features)."""
        if self.pooler is None:
            raise ValueError(message("Bert", "pooler", None, "a layer", "Make the model with pooler=True"))
        return self.pooler(hidden[:, 0])  # type: ignore[no-any-return]

    def embed(
        self,
        ids: Tensor,
        *,
        token_types: Tensor | None = None,
        lengths: Tensor | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """A vector for each text: the mean over its tokens, by default of length 1.

        The dot product of two is then their cosine similarity. N. Reimers, I. Gurevych, "Sentence-BERT", 2019.

        Returns
        -------
        Tensor
            (batch, features).
        """
        mean = mean_pool(self(ids, token_types=token_types, lengths=lengths), lengths)
        if not normalize:
            return mean
        norms = ops.linalg.vector_norm(mean, axis=-1, keepdims=True)
        return mean / ops.maximum(norms, 1e-12)


def mean_pool(hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The mean of features over the tokens that count.

    Parameters
    ----------
    hidden : Tensor
        (batch, length, features).
    lengths : Tensor, optional
        (batch,), each at least 1; all tokens count by default.

    Returns
    -------
    Tensor
        (batch, features).

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models.bert import mean_pool
    >>> mean_pool(mg.tensor([[[1.0], [3.0], [100.0]]]), mg.tensor([2]))
    tensor([[2.]])
    """
    if lengths is None:
        return ops.mean(hidden, axis=1)
    lengths = ops.asarray(lengths)
    counted = ops.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    total = ops.sum(ops.where(counted[..., None], hidden, 0.0), axis=1)
    return total / ops.astype(lengths, hidden.dtype)[:, None]


class MaskedLMHead(Module):
    """From features to logits: a layer, and the table of embeddings, which the caller gives."""

    def __init__(self, config: BertConfig, *, dtype: Any = None) -> None:
        fill = functools.partial(init.normal, std=config.initializer_range)
        size, activation = config.features, function(config.activation)
        self.transform = Dense(size, activation, in_features=size, kernel_initializer=fill, dtype=dtype)
        self.norm = LayerNorm(size, config.norm_eps, dtype=dtype)
        self.bias = Parameter(ops.zeros((config.vocab_size,), dtype=dtype or dtypes.default_float))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Logits (..., vocabulary) of features (..., features), with a table (vocabulary, features)."""
        return ops.linear(self.norm(self.transform(hidden)), table.mT, self.bias)


class BertForMaskedLM(Module):
    """BERT with the head that names masked tokens, whose weight is the table of the embeddings.

    Parameters
    ----------
    config : BertConfig
        Sizes and options.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    bert, head : Module
        The encoder, and what follows it.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models.bert import BertConfig, BertForMaskedLM
    >>> sizes = {"vocab_size": 20, "features": 8, "num_layers": 2, "num_heads": 2, "hidden_features": 16}
    >>> model = BertForMaskedLM(BertConfig(**sizes))
    >>> model(mg.tensor([[2, 4, 3]])).shape
    (1, 3, 20)
    >>> model.loss(mg.tensor([[2, 4, 3]]), mg.tensor([[-100, 7, -100]])).shape
    ()
    """

    def __init__(self, config: BertConfig, *, dtype: Any = None) -> None:
        check_config(type(self).__name__, config, BertConfig)
        self.config = config
        self.bert = Bert(config, pooler=False, dtype=dtype)
        self.head = MaskedLMHead(config, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, dtype: Any = None) -> Self:
        """Load a model that Hugging Face's transformers saved, with its head; see `Bert.from_pretrained`."""
        model = cls(BertConfig.from_hf(read_config(path)), dtype=dtype)
        weights = NAMES.translate(load_weights(path)).weights
        kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
        model.load_state_dict({f"{'' if name.startswith('head.') else 'bert.'}{name}": v for name, v in kept.items()})
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], *, shard_bytes: int | None = None) -> None:
        """Write ``config.json`` and the weights, in the layout that Hugging Face's BertForMaskedLM reads."""
        weights = NAMES.back({name.removeprefix("bert."): t for name, t in self.state_dict(masks=False).items()})
        save_pretrained(folder, self.config.to_hf() | {"architectures": ["BertForMaskedLM"]}, weights, shard_bytes)

    def forward(self, ids: Tensor, *, token_types: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Logits (batch, length, vocabulary); the arguments are those of `Bert`."""
        hidden = self.bert(ids, token_types=token_types, lengths=lengths)
        return self.head(hidden, self.bert.token_embedding.weight)  # type: ignore[no-any-return]

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        *,
        token_types: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The mean cross-entropy of the masked tokens.

        Parameters
        ----------
        ids, token_types, lengths
            As for `Bert`.
        targets : Tensor
            (batch, length): the token that was masked, and -100 elsewhere. Logits are computed of those that count.

        Raises
        ------
        ShapeError
            If the targets have not the shape of the ids.
        """
        targets = ops.asarray(targets)
        if targets.shape != tuple(ops.asarray(ids).shape):
            raise ShapeError(message("BertForMaskedLM", "targets", targets, "the shape of ids"))
        hidden = self.bert(ids, token_types=token_types, lengths=lengths)
        chosen = targets != IGNORED
        return ops.cross_entropy(self.head(hidden[chosen], self.bert.token_embedding.weight), targets[chosen])


def function(name: str) -> Any:
    """An activation by its name; ``"gelu_tanh"`` is the approximation."""
    return functools.partial(ops.gelu, approximate="tanh") if name == "gelu_tanh" else name

"""GPT: a decoder with learned positions, in the layout of GPT-2."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from minigrad import ops
from minigrad.errors import message
from minigrad.io.name_map import NameMap, Rename
from minigrad.models.language_model import LanguageModel
from minigrad.models.pretrained import check_config, read_fields
from minigrad.nn import init
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.normalization import LayerNorm
from minigrad.nn.positions import LearnedPositions
from minigrad.nn.transformer import TransformerDecoder
from minigrad.tensor import Tensor

__all__ = ["GPT", "GPTConfig"]

# Hugging Face's keys, and ours
KEYS = {
    "vocab_size": "vocab_size",
    "n_positions": "max_length",
    "n_embd": "features",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_inner": "hidden_features",
    "head_dim": "head_dim",
    "activation_function": "activation",
    "resid_pdrop": "dropout",
    "attn_pdrop": "attention_dropout",
    "embd_pdrop": "embedding_dropout",
    "layer_norm_epsilon": "norm_eps",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tied",
}
# what a GPT-2 may say that this one does not do
FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


@dataclass(frozen=True)
class GPTConfig:
    """The sizes and options of a `GPT`; the defaults are those of GPT-2 with 124 million parameters.

    Parameters
    ----------
    vocab_size, max_length : int
        Tokens, and positions, that there are.
    features, num_layers : int
        Of the decoder.
    num_heads : int or tuple of int
        Of all layers, or of each.
    hidden_features : int or tuple of int, optional
        Inside the feed-forward networks, of all layers or of each; four times `features` by default.
    activation : str
        Of the feed-forward networks: ``"gelu_tanh"``, ``"gelu"``, ``"relu"`` or ``"silu"``.
    dropout, attention_dropout, embedding_dropout : float
        While training: of what each part adds, of attention's weights, of the embeddings.
    norm_eps : float
        Added to the variances.
    bias : bool
        Whether linear maps have a bias.
    initializer_range : float
        The standard deviation of weights at the start.
    tied : bool
        Whether the weight of the logits is that of the tokens.
    head_dim : int, optional
        Features of a head; ``features / num_heads`` by default, as GPT-2 has.
    """

    vocab_size: int = 50257
    max_length: int = 1024
    features: int = 768
    num_layers: int = 12
    num_heads: int | tuple[int, ...] = 12
    hidden_features: int | tuple[int, ...] | None = None
    activation: str = "gelu_tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    norm_eps: float = 1e-5
    bias: bool = True
    initializer_range: float = 0.02
    tied: bool = True
    head_dim: int | None = None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what Hugging Face writes to ``config.json``.

        Raises
        ------
        ValueError
            If it is no GPT-2, asks for something that this GPT has not, or is malformed.

        Examples
        --------
        >>> from minigrad.models import GPTConfig
        >>> GPTConfig.from_hf({"model_type": "gpt2", "n_embd": 32}).features
        32
        """
        for key, value in FIXED.items():
            if config.get(key, value) != value:
                raise ValueError(message("GPTConfig", key, repr(config[key]), repr(value)))
        found = read_fields(cls, config, KEYS)
        if "activation" in found:
            if found["activation"] not in ACTIVATIONS:
                need = f"one of {', '.join(ACTIVATIONS)}"
                raise ValueError(message("GPTConfig", "activation_function", repr(found["activation"]), need))
            found["activation"] = ACTIVATIONS[found["activation"]]
        return cls(**found)

    def to_hf(self) -> dict[str, Any]:
        """What Hugging Face writes to ``config.json``.

        Raises
        ------
        ValueError
            If there are no biases: GPT-2 has them.
        """
        if not self.bias:
            raise ValueError(message("GPTConfig", "bias", False, "True, as GPT-2 has biases"))
        found = {theirs: getattr(self, own) for theirs, own in KEYS.items()}
        if self.head_dim is None:
            del found["head_dim"]  # which GPT-2 has not
        names = {own: theirs for theirs, own in reversed(ACTIVATIONS.items())}
        return found | FIXED | {"activation_function": names[self.activation], "architectures": ["GPT2LMHeadModel"]}


class GPT(LanguageModel):
    """A language model: learned positions, and normalization before each part.

    A. Radford et al., "Language models are unsupervised multitask learners" (GPT-2), 2019. Weights start from a normal
    distribution, those that write into the residual stream narrower by ``sqrt(2 * num_layers)``.

    Parameters
    ----------
    config : GPTConfig
        Sizes and options.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    tokens, positions, decoder, head : Module
        The parts; `head` is None where the weight of the logits is that of the tokens.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, max_length=16, features=8, num_layers=2, num_heads=2))
    >>> ids = mg.tensor([[1, 2, 3, 4]])
    >>> model(ids).shape, model(ids[:, :-1], ids[:, 1:]).shape
    ((1, 4, 9), ())
    """

    config_class: ClassVar[Any] = GPTConfig

    def __init__(self, config: GPTConfig, *, dtype: Any = None) -> None:
        check_config(type(self).__name__, config, GPTConfig)
        self.config = config
        if config.activation not in ACTIVATIONS.values():
            need = f"one of {', '.join(dict.fromkeys(ACTIVATIONS.values()))}"
            raise ValueError(message("GPT", "activation", repr(config.activation), need))
        size, deviation = config.features, config.initializer_range
        fill = functools.partial(init.normal, std=deviation)
        tanh = functools.partial(ops.gelu, approximate="tanh")
        self.tokens = Embedding(config.vocab_size, size, embeddings_initializer=fill, dtype=dtype)
        self.positions = LearnedPositions(config.max_length, size, initializer=fill, dtype=dtype)
        self.dropout = Dropout(config.embedding_dropout)
        self.decoder = TransformerDecoder(
            config.num_layers,
            config.num_heads,
            config.hidden_features,
            head_dim=config.head_dim,
            features=size,
            cross_attention=False,
            norm_layer=functools.partial(LayerNorm, eps=config.norm_eps, bias=config.bias),
            activation=tanh if config.activation == "gelu_tanh" else config.activation,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            bias=config.bias,
            kernel_initializer=fill,
            dtype=dtype,
        )
        self.head: Dense | None = None
        if not config.tied:
            self.head = Dense(config.vocab_size, bias=False, in_features=size, kernel_initializer=fill, dtype=dtype)
        for layer in self.decoder.layers:
            layer.feed_forward.dropout = Dropout(0.0)  # GPT-2 drops what a part adds, and nothing inside of it
            last: Any
            for last in (layer.self_attention.output, layer.feed_forward.output):
                init.normal(last.weight.detach(), std=deviation / math.sqrt(2 * config.num_layers))

    @property
    def max_length(self) -> int:
        """The positions that there are."""
        return self.positions.max_length

    def embed(self, ids: Tensor, offset: Any) -> Tensor:
        """The features of tokens and of their positions."""
        return self.dropout(self.positions(self.tokens(ids), offset))  # type: ignore[no-any-return]

    def names(self) -> NameMap:
        """From the names of Hugging Face's GPT-2 to ours."""
        layer = "decoder.layers.{i}."
        attention, network = f"{layer}self_attention.", f"{layer}feed_forward."
        projections = tuple(f"{attention}{name}.{{p}}" for name in ("query", "key", "value"))
        return NameMap(
            [
                Rename("wte.weight", "tokens.weight"),
                Rename("wpe.weight", "positions.weight"),
                Rename("h.{i}.ln_1.{p}", f"{layer}self_attention_norm.{{p}}"),
                Rename("h.{i}.attn.c_attn.{p}", projections),
                Rename("h.{i}.attn.c_proj.{p}", f"{attention}output.{{p}}"),
                Rename("h.{i}.ln_2.{p}", f"{layer}feed_forward_norm.{{p}}"),
                Rename("h.{i}.mlp.c_fc.{p}", f"{network}hidden.{{p}}"),
                Rename("h.{i}.mlp.c_proj.{p}", f"{network}output.{{p}}"),
                Rename("ln_f.{p}", "decoder.norm.{p}"),
                Rename("h.{i}.attn.{mask}", None),  # old files keep the causal mask
                Rename("lm_head.weight", None if self.head is None else "head.weight", transpose=True, prefixed=False),
            ],
            prefix="transformer.",
        )

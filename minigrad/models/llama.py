"""Llama: a decoder with rotary positions, grouped heads and gated networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from minigrad.errors import describe, message
from minigrad.io.name_map import NameMap, Rename
from minigrad.models.language_model import LanguageModel
from minigrad.models.pretrained import check_config, read_fields, read_positive
from minigrad.nn import init
from minigrad.nn.dense import Dense
from minigrad.nn.embedding import Embedding
from minigrad.nn.normalization import RMSNorm
from minigrad.nn.positions import RotaryPositions
from minigrad.nn.transformer import TransformerDecoder

__all__ = ["Llama", "LlamaConfig", "RotaryScaling"]

# Hugging Face's keys, and ours
KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "features",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "hidden_features",
    "rms_norm_eps": "norm_eps",
    "attention_dropout": "attention_dropout",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tied",
    "attention_bias": "bias",
    "sliding_window": "window",
}
KINDS = ("llama", "mistral")


@dataclass(frozen=True)
class RotaryScaling:
    """How the positions of a model are stretched beyond those that it was trained with.

    Parameters
    ----------
    factor : float
        By how much slow turns are slowed down. Without `original_length` all are: S. Chen et al., "Extending context
        window of large language models via positional interpolation", 2023.
    original_length : int, optional
        The length that the model was trained with. Waves that fit into it ``high`` times stay, those that fit less than
        ``low`` times are slowed down, and between them it is a mixture, as in Llama 3.
    low, high : float
        How often a wave fits.
    """

    factor: float
    original_length: int | None = None
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, base: float, features: int) -> list[float]:
        """The angles of position 1 for the pairs of a head of so many features.

        Examples
        --------
        >>> from minigrad.models.llama import RotaryScaling
        >>> RotaryScaling(8.0, 64).frequencies(10_000.0, 4), RotaryScaling(2.0).frequencies(10_000.0, 4)
        ([1.0, 0.00125], [0.5, 0.005])
        """
        found = []
        for i in range(0, features, 2):
            frequency = base ** (-i / features)
            kept = 0.0  # the share that is not slowed down
            if self.original_length is not None:
                fits = self.original_length * frequency / (2 * math.pi)
                kept = min(max((fits - self.low) / (self.high - self.low), 0.0), 1.0)
            found.append(kept * frequency + (1 - kept) * frequency / self.factor)
        return found


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes and options of a `Llama`; the defaults are those of Llama 2 with 7 billion parameters.

    Parameters
    ----------
    vocab_size : int
        Tokens that there are.
    features, num_layers, num_heads, num_kv_heads, head_dim, hidden_features : int
        Of the decoder; `num_kv_heads` and `head_dim` follow from the others by default. Numbers of heads and
        `hidden_features` may be tuples of one for each layer.
    rope_base : float
        Of the rotary positions.
    rope_scaling : RotaryScaling, optional
        How they are stretched.
    norm_eps : float
        Added to the mean squares.
    attention_dropout : float
        While training.
    bias : bool
        Whether linear maps have a bias.
    window : int, optional
        How many tokens a token attends to, itself among them, as in Mistral; all by default.
    initializer_range : float
        The standard deviation of weights at the start.
    tied : bool
        Whether the weight of the logits is that of the tokens.
    """

    vocab_size: int = 32000
    features: int = 4096
    num_layers: int = 32
    num_heads: int | tuple[int, ...] = 32
    num_kv_heads: int | tuple[int, ...] | None = None
    head_dim: int | None = None
    hidden_features: int | tuple[int, ...] = 11008
    rope_base: float = 10_000.0
    rope_scaling: RotaryScaling | None = None
    norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    bias: bool = False
    window: int | None = None
    initializer_range: float = 0.02
    tied: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(message("LlamaConfig", "window", f"{self.window}", "at least 1, or None for no window"))

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what Hugging Face writes to ``config.json``: a Llama's, or a Mistral's.

        Raises
        ------
        ValueError
            If it is another model, asks for something that this Llama has not, or is malformed.

        Examples
        --------
        >>> from minigrad.models import LlamaConfig
        >>> LlamaConfig.from_hf({"model_type": "llama", "hidden_size": 64, "rope_theta": 500000.0}).rope_base
        500000.0
        """
        if config.get("model_type", "llama") not in KINDS:
            raise ValueError(message("LlamaConfig", "model_type", repr(config["model_type"]), f"one of {KINDS}"))
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise ValueError(message("LlamaConfig", "hidden_act", repr(config["hidden_act"]), "'silu'"))
        if config.get("mlp_bias", config.get("attention_bias", False)) != config.get("attention_bias", False):
            need = "as attention_bias: all linear maps have a bias, or none has"
            raise ValueError(message("LlamaConfig", "mlp_bias", config["mlp_bias"], need))
        found = read_fields(cls, config, KEYS)
        window = found.get("window")
        if window is not None and window < 1:
            raise ValueError(message("LlamaConfig", "sliding_window", f"{window}", "at least 1, or null for no window"))
        # versions of the library differ in where they keep the rotary positions
        key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
        rope = config.get(key) or {}
        if not isinstance(rope, Mapping):
            raise ValueError(message("LlamaConfig", key, describe(rope), "an object in JSON, or null"))
        base = rope.get("rope_theta", config.get("rope_theta"))
        if base is not None:
            found["rope_base"] = read_positive("LlamaConfig", "rope_theta", base)
        return cls(**found, rope_scaling=_scaling(rope))

    def to_hf(self) -> dict[str, Any]:
        """What Hugging Face writes to ``config.json``."""
        found = {theirs: getattr(self, own) for theirs, own in KEYS.items() if getattr(self, own) is not None}
        found |= {"mlp_bias": self.bias, "rope_theta": self.rope_base, "hidden_act": "silu"}
        found |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        if self.window is not None:
            if self.bias:
                raise ValueError(message("LlamaConfig", "bias", True, "False with a window, as Mistral has no biases"))
            found |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        scaling = self.rope_scaling
        if scaling is not None and scaling.original_length is None:
            found["rope_scaling"] = {"rope_type": "linear", "factor": scaling.factor}
        elif scaling is not None:
            found["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
            }
        return found


def _scaling(rope: Mapping[str, Any]) -> RotaryScaling | None:
    """The scaling that Hugging Face's words describe."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise ValueError(message("LlamaConfig", "rope_type", repr(kind), "'default', 'linear' or 'llama3'"))
    words = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    factor, *more = (
        read_positive("LlamaConfig", name, rope.get(name)) for name in words[: 1 if kind == "linear" else 4]
    )
    if not more:
        return RotaryScaling(factor)
    length, low, high = more
    if not low < high:
        need = f"more than low_freq_factor, {low}"
        raise ValueError(message("LlamaConfig", "high_freq_factor", f"{high}", need))
    return RotaryScaling(factor, int(length), low, high)


class Llama(LanguageModel):
    """A language model: rotary positions, RMS normalization, heads that share keys and values, gated networks.

    H. Touvron et al., "Llama 2: open foundation and fine-tuned chat models", 2023. With a window it is Mistral: A. Q.
    Jiang et al., "Mistral 7B", 2023.

    Parameters
    ----------
    config : LlamaConfig
        Sizes and options.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    tokens, decoder, head : Module
        The parts; `head` is None where the weight of the logits is that of the tokens.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models import Llama, LlamaConfig
    >>> sizes = {"features": 8, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_features": 12}
    >>> model = Llama(LlamaConfig(vocab_size=9, **sizes))
    >>> model(mg.tensor([[1, 2, 3, 4]])).shape
    (1, 4, 9)
    """

    config_class: ClassVar[Any] = LlamaConfig

    def __init__(self, config: LlamaConfig, *, dtype: Any = None) -> None:
        check_config(type(self).__name__, config, LlamaConfig)
        self.config = config
        size = config.features
        fill = functools.partial(init.normal, std=config.initializer_range)
        frequencies = None
        if config.rope_scaling is not None:
            heads = config.num_heads if isinstance(config.num_heads, int) else config.num_heads[0]
            head_dim = config.head_dim or size // heads
            frequencies = config.rope_scaling.frequencies(config.rope_base, head_dim)
        self.tokens = Embedding(config.vocab_size, size, embeddings_initializer=fill, dtype=dtype)
        self.decoder = TransformerDecoder(
            config.num_layers,
            config.num_heads,
            config.hidden_features,
            features=size,
            cross_attention=False,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=None if config.window is None else (config.window - 1, None),
            rotary=RotaryPositions(base=config.rope_base, frequencies=frequencies),
            norm_layer=functools.partial(RMSNorm, eps=config.norm_eps),
            activation="swiglu",
            attention_dropout=config.attention_dropout,
            bias=config.bias,
            kernel_initializer=fill,
            dtype=dtype,
        )
        self.head: Dense | None = None
        if not config.tied:
            self.head = Dense(config.vocab_size, bias=False, in_features=size, kernel_initializer=fill, dtype=dtype)

    def names(self) -> NameMap:
        """From the names of Hugging Face's Llama to ours."""
        layer = "decoder.layers.{i}."
        moved = {
            "self_attn.q_proj": "self_attention.query",
            "self_attn.k_proj": "self_attention.key",
            "self_attn.v_proj": "self_attention.value",
            "self_attn.o_proj": "self_attention.output",
            "mlp.gate_proj": "feed_forward.gate",
            "mlp.up_proj": "feed_forward.hidden",
            "mlp.down_proj": "feed_forward.output",
        }
        linear = [
            Rename(f"model.layers.{{i}}.{theirs}.{{p}}", f"{layer}{own}.{{p}}", transpose=True)
            for theirs, own in moved.items()
        ]
        return NameMap(
            [
                *linear,
                Rename("model.embed_tokens.weight", "tokens.weight"),
                Rename("model.layers.{i}.input_layernorm.weight", f"{layer}self_attention_norm.weight"),
                Rename("model.layers.{i}.post_attention_layernorm.weight", f"{layer}feed_forward_norm.weight"),
                Rename("model.norm.weight", "decoder.norm.weight"),
                Rename("model.layers.{i}.self_attn.rotary_emb.inv_freq", None),
                Rename("lm_head.weight", None if self.head is None else "head.weight", transpose=True),
            ]
        )

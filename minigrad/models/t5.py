"""T5: the layout of a `Seq2Seq` that Hugging Face's transformers saves under that name, and its weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Self

from minigrad.errors import message
from minigrad.io import NameMap, Rename, load_weights
from minigrad.models.pretrained import read_config, read_fields, save_pretrained
from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig

__all__ = ["NAMES", "T5", "hf_config", "load_t5", "t5_config"]

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "gated-gelu": "geglu_tanh",  # transformers takes the approximation here
    "gated-relu": "reglu",
    "gated-silu": "swiglu",
    "silu": "silu",
}
KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "features",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "hidden_features",
    "relative_attention_num_buckets": "num_buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "norm_eps",
    "dropout_rate": "dropout",
    "decoder_start_token_id": "start_id",
    "eos_token_id": "end_id",
    "pad_token_id": "padding_id",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "tie_word_embeddings": "tied_output",
    "scale_decoder_outputs": "scaled_output",
}
# what makes an encoder-decoder a T5
LAYOUT: dict[str, Any] = {
    "positions": "relative",
    "norm": "rms",
    "bias": False,
    "attention_scale": 1.0,
    "scaled_input": False,
}
# of t5-small, where a configuration leaves them out
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "num_heads": 8,
    "d_kv": 64,
    "d_ff": 2048,
    "layer_norm_epsilon": 1e-6,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "num_layers": 6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}


def t5_config(config: Mapping[str, Any]) -> Seq2SeqConfig:
    """Read what Hugging Face writes to ``config.json``: relative positions, RMSNorm, no biases, no scale in attention.

    C. Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020.

    Raises
    ------
    ValueError
        If it is not of a T5, asks for another activation, or is malformed.

    Examples
    --------
    >>> from minigrad.models.t5 import t5_config
    >>> config = t5_config({"d_model": 768, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False})
    >>> config.features, config.activation, config.attention_scale, config.tied_output
    (768, 'geglu_tanh', 1.0, False)
    """
    given = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    for key, known in (("model_type", ("t5",)), ("feed_forward_proj", tuple(ACTIVATIONS))):
        if key in given and given[key] not in known:
            raise ValueError(message("t5_config", key, repr(given[key]), f"one of {', '.join(known)}"))
    # files from before 2026 say it by the tie: T5 1.1 has neither
    given = {"num_decoder_layers": given["num_layers"], "scale_decoder_outputs": given["tie_word_embeddings"]} | given
    found = read_fields(Seq2SeqConfig, given, KEYS)
    return Seq2SeqConfig(**found, **LAYOUT, activation=ACTIVATIONS[given["feed_forward_proj"]])


def hf_config(config: Seq2SeqConfig) -> dict[str, Any]:
    """What Hugging Face writes to ``config.json``, the reverse of `t5_config`.

    Raises
    ------
    ValueError
        If it is another encoder-decoder than T5.
    """
    activations = {own: theirs for theirs, own in reversed(ACTIVATIONS.items())}
    for name, needed in (LAYOUT | {"target_vocab_size": None}).items():
        if getattr(config, name) != needed:
            raise ValueError(message("T5", name, repr(getattr(config, name)), repr(needed)))
    if config.activation not in activations:
        need = f"one of {', '.join(activations)}"
        raise ValueError(message("T5", "activation", repr(config.activation), need))
    found = {theirs: getattr(config, own) for theirs, own in KEYS.items()}
    found |= {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    return found | {"feed_forward_proj": activations[config.activation]}


def attention(source: str, target: str) -> list[Rename]:
    """The rules of an attention layer."""
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return [Rename(f"{source}.{a}.weight", f"{target}.{b}.weight", transpose=True) for a, b in parts.items()]


def stack(name: str, parts: Mapping[str, str], relative: str, gated: bool) -> list[Rename]:
    """The rules of an encoder or a decoder, whose layers have these parts, a feed-forward network last.

    Files of gated networks call `wi_1` what is `wi` in others; the first of them is what is written.
    """
    theirs, ours = f"{name}.block.{{i}}.layer", f"{name}.layers.{{i}}"
    rules = [
        Rename(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{relative}.embedding.weight"),
        Rename(f"{name}.embed_tokens.weight", None),
        Rename(f"{name}.final_layer_norm.weight", f"{name}.norm.weight"),
    ]
    for number, (part, own) in enumerate(parts.items()):
        rules += attention(f"{theirs}.{number}.{part}", f"{ours}.{own}")
        rules.append(Rename(f"{theirs}.{number}.layer_norm.weight", f"{ours}.{own}_norm.weight"))
    last = f"{theirs}.{len(parts)}"
    rules.append(Rename(f"{last}.layer_norm.weight", f"{ours}.feed_forward_norm.weight"))
    hidden = ("wi_1", "wi") if gated else ("wi", "wi_1")
    for part, own in {**dict.fromkeys(hidden, "hidden"), "wi_0": "gate", "wo": "output"}.items():
        source = f"{last}.DenseReluDense.{part}.weight"
        rules.append(Rename(source, f"{ours}.feed_forward.{own}.weight", transpose=True))
    return rules


def names(gated: bool) -> NameMap:
    """From the names of Hugging Face's T5ForConditionalGeneration to those of `Seq2Seq`; tables of a stack are tied."""
    decoder = {"SelfAttention": "self_attention", "EncDecAttention": "cross_attention"}
    return NameMap(
        [
            Rename("shared.weight", "embedding.weight"),
            *stack("encoder", {"SelfAttention": "self_attention"}, "relative", gated),
            *stack("decoder", decoder, "target_relative", gated),
            Rename("lm_head.weight", "output.weight", transpose=True),
        ]
    )


NAMES = names(gated=False)  # to read files of both kinds, and to write those without gates


class T5(Seq2Seq):
    """A `Seq2Seq` in the layout of T5, which Hugging Face's transformers load and save.

    Parameters
    ----------
    config : Seq2SeqConfig
        Such as `t5_config` gives.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Raises
    ------
    ValueError
        If the configuration is of another layout.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models.t5 import T5, t5_config
    >>> sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    >>> model = T5(t5_config(sizes)).eval()
    >>> model(mg.tensor([[3, 4, 1]]), model.shifted(mg.tensor([[5, 1]]))).shape
    (1, 2, 9)
    """

    def __init__(self, config: Seq2SeqConfig, *, dtype: Any = None) -> None:
        hf_config(config)
        super().__init__(config, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, dtype: Any = None) -> Self:
        """Load a T5 that Hugging Face's transformers, or `save_pretrained`, wrote.

        Parameters
        ----------
        path : path
            The folder, with ``config.json`` and safetensors.
        dtype : dtype, optional
            Of the parameters; float32 by default.

        Returns
        -------
        T5
            In evaluation mode.

        Raises
        ------
        DataError
            If a file is missing or malformed.
        ValueError
            If the configuration asks for something else, or the weights do not fit.
        """
        config, weights = t5_config(read_config(path)), load_weights(path)
        head, table = weights.get("lm_head.weight"), weights.get("shared.weight")
        # the weights say it, whatever the configuration does: of some files it says tied where they are not
        same = table is not None and head is not None and head.shape == table.shape and bool((head == table).all())
        tied = head is None or same
        if tied:
            weights.pop("lm_head.weight", None)
        model = cls(dataclasses.replace(config, tied_output=tied), dtype=dtype)
        NAMES.load(model, weights)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], *, shard_bytes: int | None = None) -> None:
        """Write ``config.json`` and the weights, by the names and in the layout that Hugging Face's libraries read."""
        layer: Any = self.encoder.layers[0]
        norm: Any = layer.self_attention_norm
        sizes = {"head_dim": layer.self_attention.head_dim, "hidden_features": layer.feed_forward.hidden_features}
        config = dataclasses.replace(self.config, **sizes, norm_eps=norm.eps)  # what was left to the layers
        weights = names(layer.feed_forward.gate is not None).back(self.state_dict(masks=False))
        save_pretrained(folder, hf_config(config), weights, shard_bytes)


def load_t5(path: str | os.PathLike[str], *, dtype: Any = None) -> T5:
    """Load a T5 that Hugging Face's transformers saved; see `T5.from_pretrained`."""
    return T5.from_pretrained(path, dtype=dtype)

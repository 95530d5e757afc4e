"""T5: the layout of a `Seq2Seq` that Hugging Face's transformers saves under that name, and its weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from minigrad.errors import message
from minigrad.io import NameMap, Rename, load_weights
from minigrad.models.language_model import read_config
from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig

__all__ = ["NAMES", "load_t5", "t5_config"]

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
        If it is not of a T5, or asks for another activation.

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
    layers = given["num_layers"]
    return Seq2SeqConfig(
        num_encoder_layers=layers,
        num_decoder_layers=given.get("num_decoder_layers", layers),
        positions="relative",
        norm="rms",
        activation=ACTIVATIONS[given["feed_forward_proj"]],
        bias=False,
        attention_scale=1.0,
        tied_output=bool(given["tie_word_embeddings"]),
        scaled_input=False,
        # files from before 2026 say it by the tie: T5 1.1 has neither
        scaled_output=bool(given.get("scale_decoder_outputs", given["tie_word_embeddings"])),
        **{own: given[theirs] for theirs, own in KEYS.items() if theirs in given},
    )


def attention(source: str, target: str) -> list[Rename]:
    """The rules of an attention layer."""
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return [Rename(f"{source}.{a}.weight", f"{target}.{b}.weight", transpose=True) for a, b in parts.items()]


def stack(name: str, parts: Mapping[str, str], relative: str) -> list[Rename]:
    """The rules of an encoder or a decoder, whose layers have these parts, a feed-forward network last."""
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
    for part, own in {"wi": "hidden", "wi_0": "gate", "wi_1": "hidden", "wo": "output"}.items():
        source = f"{last}.DenseReluDense.{part}.weight"
        rules.append(Rename(source, f"{ours}.feed_forward.{own}.weight", transpose=True))
    return rules


# from the names of Hugging Face's T5ForConditionalGeneration to those of `Seq2Seq`; the tables of a stack are tied
NAMES = NameMap(
    [
        Rename("shared.weight", "embedding.weight"),
        *stack("encoder", {"SelfAttention": "self_attention"}, "relative"),
        *stack("decoder", {"SelfAttention": "self_attention", "EncDecAttention": "cross_attention"}, "target_relative"),
        Rename("lm_head.weight", "output.weight", transpose=True),
    ]
)


def load_t5(path: str | os.PathLike[str], *, dtype: Any = None) -> Seq2Seq:
    """Load a T5 that Hugging Face's transformers saved.

    Parameters
    ----------
    path : path
        The folder, with ``config.json`` and safetensors.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Returns
    -------
    Seq2Seq
        In evaluation mode.

    Raises
    ------
    DataError
        If a file is missing or malformed.
    ValueError
        If the configuration asks for something else, or the weights do not fit.
    """
    config, weights = t5_config(read_config(path)), load_weights(path)
    head = weights.get("lm_head.weight")
    # the weights say it, whatever the configuration does: of some files it says tied where they are not
    tied = head is None or bool((head == weights["shared.weight"]).all())
    if tied:
        weights.pop("lm_head.weight", None)
    model = Seq2Seq(dataclasses.replace(config, tied_output=tied), dtype=dtype)
    NAMES.load(model, weights)
    return model.eval()

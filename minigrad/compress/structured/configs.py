"""Configurations that follow: what a GPT, Llama or BERT says of its sizes after a part of it is gone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from minigrad.errors import message
from minigrad.models.bert import Bert, BertForMaskedLM
from minigrad.models.gpt import GPT
from minigrad.models.llama import Llama
from minigrad.models.seq2seq import Seq2Seq
from minigrad.nn.module import Module

__all__ = ["check_configs", "update_configs"]

KNOWN = (Bert, BertForMaskedLM, GPT, Llama)


def check_configs(who: str, model: Module) -> None:
    """Raise where a model has a configuration that could not say its new sizes."""
    for path, m in model.named_modules():
        if isinstance(m, Seq2Seq):
            need = "a model whose config has sizes for each layer"
            hint = "Pass its encoder or decoder, and build the smaller model with options of your own"
            raise ValueError(message(who, f"layer {path!r}" if path else "model", f"a {type(m).__name__}", need, hint))


def update_configs(model: Module) -> None:
    """Have the configurations of all models in a tree say the sizes that their layers have."""
    for m in model.modules():
        if isinstance(m, KNOWN):
            m.config = updated(m)


def updated(m: Any) -> Any:
    """The configuration of a model, with the sizes of its layers; where all are as it says, the same object."""
    config = m.config
    if isinstance(m, BertForMaskedLM):
        return updated(m.bert)
    table = m.token_embedding.weight if isinstance(m, Bert) else m.tokens.weight
    layers = (m.encoder if isinstance(m, Bert) else m.decoder).layers
    attention = [layer.self_attention for layer in layers]
    found: dict[str, Any] = {
        "vocab_size": table.shape[0],
        "features": table.shape[1],
        "num_layers": len(layers),
        "num_heads": one([a.num_heads for a in attention]),
        "hidden_features": one([layer.feed_forward.hidden_features for layer in layers]),
    }
    usual: dict[str, Any] = {"hidden_features": 4 * table.shape[1]}
    if isinstance(m, Bert):
        found["padding_idx"] = m.token_embedding.padding_idx
    if isinstance(m, Llama):
        found["num_kv_heads"] = one([a.num_kv_heads for a in attention])
        usual["num_kv_heads"] = found["num_heads"]
    size = attention[0].head_dim
    if isinstance(found["num_heads"], tuple) or found["num_heads"] * size != table.shape[1]:
        found["head_dim"] = size
    changes = {
        name: value
        for name, value in found.items()
        if value != (usual.get(name) if getattr(config, name) is None else getattr(config, name))
    }
    return dataclasses.replace(config, **changes) if changes else config


def one(sizes: Sequence[Any]) -> Any:
    """The size that all layers have, or the tuple of them."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)

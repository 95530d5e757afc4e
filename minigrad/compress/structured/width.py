"""remove_features: a narrower residual stream, where what that computes is well defined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from minigrad._core import tape
from minigrad.compress.structured.configs import update_configs
from minigrad.compress.structured.structure import Tree, Unknown, is_linear, is_plain
from minigrad.compress.structured.units import Units, keep_all, kept_ids
from minigrad.errors import describe, message
from minigrad.models.llama import Llama
from minigrad.nn.module import Module
from minigrad.nn.normalization import RMSNorm
from minigrad.nn.transformer_layers import TransformerDecoderLayer

__all__ = ["remove_features"]


def remove_features(model: Module, indices: Iterable[int]) -> list[int]:
    """Take features out of the residual stream of a Llama, in place: its width.

    The smaller model computes what the model computes where nothing writes into these features: the embeddings and the
    outputs of attention and networks have zeros there.

    Parameters
    ----------
    model : Llama
        Is changed; see `remove_neurons`, also for optimizers. The configuration follows.
    indices : iterable of int
        The features to remove.

    Returns
    -------
    list of int
        The features that are kept.

    Raises
    ------
    ValueError
        For another model. `LayerNorm` takes the mean over all features away, so that it fills those that are zeros:
        a model with it and fewer features is another one, not this one with a part at 0.
    IndexError
        If there is no such feature.

    Notes
    -----
    With zeros in n - m features, ``x / sqrt(sum(x**2) / n + eps) * w`` is
    ``x / sqrt(sum(x**2) / m + eps * n / m) * (w * sqrt(n / m))``: so every RMSNorm gets ``eps * n / m`` and
    ``w * sqrt(n / m)``, with respect to which the gradient is that of w times ``sqrt(m / n)``.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress
    >>> from minigrad.models import Llama, LlamaConfig
    >>> model = Llama(LlamaConfig(vocab_size=9, features=8, num_layers=1, num_heads=2, hidden_features=12))
    >>> compress.remove_features(model, [0, 3])
    [1, 2, 4, 5, 6, 7]
    >>> model(mg.tensor([[1, 2, 3]])).shape, model.config.features, model.config.head_dim
    ((1, 3, 9), 6, 4)
    """
    who = "remove_features"
    tree = Tree(who, model)
    given: Any = model
    if not isinstance(given, Llama) or not is_plain(given, Llama, "embed", "hidden", "logits", "output_weight"):
        hint = "LayerNorm fills features that are 0 by taking the mean away: the narrower model would be another one"
        raise ValueError(message(who, "model", describe(model), "a Llama, which has RMSNorm alone", hint))
    old = given.config.features
    try:
        units, norms = _stream(given)
    except Unknown as unknown:
        raise tree.refuse(unknown.name, unknown) from None
    kept = kept_ids(who, "indices", indices, units.count)
    keep_all(who, [(units, kept)])
    if len(kept) < old:
        for norm in norms:
            _stretch(norm, old / len(kept))
        update_configs(model)
        given.config = dataclasses.replace(given.config, norm_eps=norms[0].eps)
    found: list[int] = kept.tolist()
    return found


def _stream(model: Any) -> tuple[Units, list[Any]]:
    """All that reads from the residual stream or writes into it, and its normalizations."""
    units = Units("tokens", model.config.features)
    units.add("tokens.weight", model.tokens.weight, 1)
    norms = [("decoder.norm", model.decoder.norm)]
    for i, layer in enumerate(model.decoder.layers):
        name = f"decoder.layers.{i}"
        if not is_plain(layer, TransformerDecoderLayer, "around") or layer.cross_attention is not None:
            raise Unknown(name, f"a {type(layer).__name__}, whose forward is not known")
        attention, network = layer.self_attention, layer.feed_forward
        for part, own in (("self_attention", attention), ("feed_forward", network)):
            for word in ("query", "key", "value", "gate", "hidden", "output"):
                linear = getattr(own, word, None)
                if linear is None:
                    continue
                if not is_linear(linear):
                    raise Unknown(f"{name}.{part}.{word}", f"a {type(linear).__name__} in the place of a linear map")
                units.add(f"{name}.{part}.{word}.weight", linear.weight, 1 if word == "output" else 0)
                if word == "output":
                    units.add(f"{name}.{part}.output.bias", linear.bias, 0)
            norms.append((f"{name}.{part}_norm", getattr(layer, f"{part}_norm")))
    for name, norm in norms:
        if not is_plain(norm, RMSNorm) or norm.weight is None:
            raise Unknown(name, f"a {type(norm).__name__}, no RMSNorm with a weight")
        units.add(f"{name}.weight", norm.weight, 0)
    if model.head is not None:
        if not is_linear(model.head):
            raise Unknown("head", f"a {type(model.head).__name__} in the place of a linear map")
        units.add("head.weight", model.head.weight, 0)
    return units, [norm for _, norm in norms]


def _stretch(norm: Any, ratio: float) -> None:
    """A normalization over features of which others were 0."""
    norm.eps *= ratio
    norm._given = None if norm._given is None else tuple(norm.weight.shape)
    weight = norm.weight
    weight._array = (weight._array * weight.dtype.type(math.sqrt(ratio))).astype(weight.dtype)
    if weight._grad is not None:
        weight._grad = tape.new_tensor(weight._grad._array / weight.dtype.type(math.sqrt(ratio)))
    tape.mark_changed(weight)

"""remove_layers: models with fewer layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad.compress.structured.choice import check_amount
from minigrad.compress.structured.configs import check_configs, update_configs
from minigrad.compress.structured.neurons import chosen
from minigrad.compress.structured.structure import Tree, Unknown, is_linear, is_plain, is_sequential, join
from minigrad.compress.structured.unit_scores import unit_scores
from minigrad.compress.structured.units import Array, Units, is_count, kept_ids
from minigrad.errors import describe, message
from minigrad.nn.containers import Residual
from minigrad.nn.module import Module
from minigrad.nn.transformer import TransformerDecoder, TransformerEncoder

__all__ = ["remove_layers"]


def remove_layers(
    model: Module,
    amount: float | None = None,
    *,
    indices: Mapping[str, Iterable[int]] | Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    scores: str | Mapping[str, Any] = "l2",
    minimum: int = 1,
) -> dict[str, list[int]]:
    """Take whole layers out of every `TransformerEncoder` and `TransformerDecoder` of a model, in place.

    The smaller model computes what the model computes with these layers left out. With the normalization before each
    part that is as if the weights and biases that write into the residual stream were 0. From a `Sequential` a
    `Residual` without a shortcut can be taken out by `indices`, which is then as if its module gave 0.

    Parameters
    ----------
    model : Module
        Is changed; see `remove_neurons`, also for optimizers and configurations.
    amount : float, optional
        The share of layers to remove from each stack, rounded.
    indices : mapping of str to ints, or ints, optional
        In place of an amount: the places of those to remove, by the path of the encoder or decoder; the ints alone
        where there is one.
    layers, exclude
        Paths of encoders and decoders, as for `remove_neurons`.
    scores : str or mapping
        The lowest go. ``"l2"``, ``"l1"``: the root mean square, or mean absolute value, of the weights that write into
        the residual stream. ``"taylor"``: how much the loss would change to first order if they wrote nothing, with
        the gradients that the parameters have. Or an array for each stack, by its path.
    minimum : int
        How many layers each stack keeps.

    Returns
    -------
    dict of str to list of int
        The layers that are kept of each stack.

    Raises
    ------
    ValueError
        If there is no stack, or its forward is not known.
    IndexError
        If there is no such layer.

    Notes
    -----
    H. Sajjad et al., "On the effect of dropping layers of pre-trained Transformer models", 2023: dropping the last
    layers is hard to beat.

    Examples
    --------
    >>> from minigrad import compress
    >>> from minigrad.models import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, max_length=16, features=8, num_layers=4, num_heads=2))
    >>> compress.remove_layers(model, indices=[1, -1])
    {'decoder': [0, 2]}
    >>> model.config.num_layers
    2
    """
    who = "remove_layers"
    tree = Tree(who, model)
    check_configs(who, model)
    if (amount is None) == (indices is None):
        got = "neither" if amount is None else "both"
        raise ValueError(message(who, "amount, indices", got, "one of them"))
    if not is_count(minimum):
        raise ValueError(message(who, "minimum", describe(minimum), "an int of at least 1"))
    found = chosen(tree, {path: m for path, m in tree if _is_stack(m)}, layers, exclude)
    if indices is not None and isinstance(indices, Mapping):
        found |= {path: m for path, m in tree if path in indices and is_sequential(m)}
    elif indices is not None and not found and is_sequential(model):
        found = {"": model}
    if not found:
        need = "a TransformerEncoder or TransformerDecoder, or indices in a Sequential"
        raise ValueError(message(who, "model", describe(model), need))
    for path, m in found.items():
        if not is_sequential(m) and not any(is_plain(m, kind) for kind in (TransformerEncoder, TransformerDecoder)):
            raise tree.refuse(path, Unknown(path, f"a {type(m).__name__}, whose forward is not known"))
    if indices is not None:
        kept = _by_ids(tree, found, indices, minimum)
    else:
        kept = _by_scores(tree, found, check_amount(who, amount), scores, minimum)
    for path, places in kept.items():
        m = found[path]
        if is_sequential(m):
            m._set([m[i] for i in places])
        else:
            m.layers = [m.layers[i] for i in places]
    update_configs(model)
    return {path: places.tolist() for path, places in kept.items()}


def _is_stack(m: Module) -> bool:
    return isinstance(m, (TransformerDecoder, TransformerEncoder))


def _members(m: Any) -> list[Module]:
    return list(m) if is_sequential(m) else list(m.layers)


def _by_ids(tree: Tree, found: Mapping[str, Any], indices: Any, minimum: int) -> dict[str, Array]:
    if not isinstance(indices, Mapping):
        if len(found) != 1:
            names = ", ".join(map(repr, found))
            raise TypeError(message(tree.who, "indices", describe(indices), f"a mapping, as there are {names}"))
        indices = {next(iter(found)): indices}
    kept = {}
    for path, gone in indices.items():
        if path not in found:
            need = f"one of {', '.join(map(repr, found))}"
            raise ValueError(message(tree.who, "a stack in indices", repr(path), need))
        members = _members(found[path])
        kept[path] = kept_ids(tree.who, f"indices of {path!r}", gone, len(members), minimum=minimum)
        if is_sequential(found[path]):
            for i in np.setdiff1d(np.arange(len(members)), kept[path]):
                layer: Any = members[i]
                if not is_plain(layer, Residual) or layer.shortcut is not None:
                    why = f"a {type(layer).__name__}: only a Residual without a shortcut is an identity when it gives 0"
                    name = join(path, f"{i}")
                    raise ValueError(message(tree.who, f"layer {name!r}", why, "a Residual without a shortcut"))
    return kept


def _by_scores(tree: Tree, found: Mapping[str, Any], share: float, scores: Any, minimum: int) -> dict[str, Array]:
    if scores not in ("l1", "l2", "taylor") and not isinstance(scores, Mapping):
        need = "'l1', 'l2', 'taylor', or a mapping"
        raise ValueError(message(tree.who, "scores", describe(scores), need))
    kept = {}
    for path, m in found.items():
        count = len(m.layers)
        if isinstance(scores, Mapping):
            values = unit_scores(tree.who, m, [Units(path, count)], scores, None)[0]
        else:
            try:
                each = [_writes(join(path, f"layers.{i}"), layer) for i, layer in enumerate(m.layers)]
            except Unknown as unknown:
                raise tree.refuse(path, unknown) from None
            values = np.concatenate(unit_scores(tree.who, m, each, scores, None))
        number = max(count - round(share * count), min(minimum, count))
        kept[path] = np.sort(np.argsort(-values, kind="stable")[:number])
    return kept


def _writes(name: str, layer: Any) -> Units:
    """What a layer writes into the residual stream, as one unit."""
    units = Units(name, 1)
    for part in ("self_attention", "cross_attention", "feed_forward"):
        output = getattr(getattr(layer, part, None), "output", None)
        if output is not None:
            if not is_linear(output):
                why = f"a {type(output).__name__} in the place of a linear map, whose weights have no scores"
                raise Unknown(f"{name}.{part}.output", why)
            units.add(f"{name}.{part}.output.weight", output.weight, 0, is_read=True)
            units.add(f"{name}.{part}.output.bias", output.bias, 0, is_read=True)
    return units

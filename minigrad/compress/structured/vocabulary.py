"""shrink_embedding: a smaller vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.compress.structured.configs import update_configs
from minigrad.compress.structured.structure import Tree, Unknown, is_plain
from minigrad.compress.structured.units import Array, Units, keep_all, sorted_ids
from minigrad.errors import describe, message
from minigrad.models.bert import Bert, BertForMaskedLM
from minigrad.models.language_model import LanguageModel
from minigrad.nn.dense import Dense
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module

__all__ = ["shrink_embedding"]


def shrink_embedding(model: Module, keep: Iterable[int]) -> Array:
    """Keep some tokens of a vocabulary, in place: rows of the embeddings, and the logits of the same tokens.

    The smaller model, called with new ids, computes what the model computes with the old ones; of the logits it gives
    those of the tokens that are kept. Weights of logits that are those of the embeddings stay so.

    Parameters
    ----------
    model : Module
        An `Embedding`, a GPT, Llama, or BERT with or without its masked-LM head. It is changed; see `remove_neurons`,
        also for optimizers. The configuration, and the id of padding, follow.
    keep : iterable of int
        The old ids to keep; the new ids are in the order of the old ones.

    Returns
    -------
    numpy.ndarray of int64
        The new id of each old one, -1 for those that are gone: ``new = ids[old]``.

    Raises
    ------
    ValueError
        If the id of padding is not kept, an id is there twice, or the model is another one.
    IndexError
        If there is no such id.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> layer = nn.Embedding(6, 3, padding_idx=2)
    >>> old = layer(mg.tensor([2, 5]))
    >>> ids = compress.shrink_embedding(layer, [5, 2, 4])
    >>> ids, layer
    (array([-1, -1,  0, -1,  1,  2]), Embedding(3 -> 3, padding_idx=0))
    >>> bool((layer(mg.tensor(ids[[2, 5]])) == old).all())
    True
    """
    who = "shrink_embedding"
    tree = Tree(who, model)
    units, embedding = _rows(tree, model)
    kept = sorted_ids(who, "keep", keep, units.count)
    if not kept.size:
        raise ValueError(message(who, "keep", "empty", "at least one id"))
    padding = embedding.padding_idx
    if padding is not None and padding not in kept:
        raise ValueError(message(who, "keep", f"without {padding}", "the id of padding, padding_idx"))
    ids = np.full(units.count, -1, np.int64)
    ids[kept] = np.arange(len(kept))
    keep_all(who, [(units, kept)])
    if padding is not None:
        embedding.padding_idx = int(ids[padding])
    update_configs(model)
    return ids


def _rows(tree: Tree, model: Any) -> tuple[Units, Embedding]:
    """What a model has for each token, and its table."""
    if is_plain(model, Embedding):
        units = Units("", model.num_embeddings)
        units.add("weight", model.weight, 0)
        return units, model
    if is_plain(model, LanguageModel, "hidden", "logits", "output_weight") and model.split_head is None:
        name, table = "tokens", model.tokens
    elif is_plain(model, BertForMaskedLM) and is_plain(model.bert, Bert):
        name, table = "bert.token_embedding", model.bert.token_embedding
    elif is_plain(model, Bert):
        name, table = "token_embedding", model.token_embedding
    else:
        need = "an Embedding, GPT, Llama, Bert or BertForMaskedLM"
        hint = "Pass the Embedding alone, if nothing else has a size for each id"
        raise ValueError(message(tree.who, "model", describe(model), need, hint))
    if not is_plain(table, Embedding):
        raise tree.refuse(name, Unknown(name, f"a {type(table).__name__} in the place of an Embedding"))
    units = Units(name, table.num_embeddings)
    units.add(f"{name}.weight", table.weight, 0)
    if isinstance(model, LanguageModel) and model.head is not None:
        if not is_plain(model.head, Dense):
            raise tree.refuse("head", Unknown("head", f"a {type(model.head).__name__} in the place of a linear map"))
        units.add("head.weight", model.head.weight, 1)
        units.add("head.bias", model.head.bias, 0)
        units.settle.append(lambda count: setattr(model.head, "units", count))
    if isinstance(model, BertForMaskedLM):
        units.add("head.bias", model.head.bias, 0)
    return units, table

"""remove_heads: attention with fewer heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad.compress.structured.choice import plan
from minigrad.compress.structured.configs import check_configs, update_configs
from minigrad.compress.structured.neurons import Indices, chosen
from minigrad.compress.structured.structure import Tree, Unknown, is_linear, is_plain, join, resize
from minigrad.compress.structured.units import Units, keep_all
from minigrad.errors import describe, message
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.dense import Dense
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm, RMSNorm

__all__ = ["remove_heads"]


def remove_heads(
    model: Module,
    amount: float | None = None,
    *,
    indices: Indices | None = None,
    of: str = "key",
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    scores: str | Mapping[str, Any] = "l2",
    data: Iterable[Any] | None = None,
    scope: str = "layer",
    minimum: int = 1,
) -> dict[str, list[int]]:
    """Take heads out of every `MultiHeadAttention` of a model, in place.

    The smaller model computes, and differentiates, what the model computes where the output's projection reads 0 of a
    head. P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", 2019.

    Parameters
    ----------
    model, amount, indices, layers, exclude, scores, data, scope
        As for `remove_neurons`; the layers are those of attention. What is said there of optimizers holds here too.
    of : str
        What a head is where queries share keys and values: ``"key"``, a head of keys and values with the queries that
        read it, or ``"query"``, a head of queries alone. Of the latter each head of keys keeps equally many; with one
        head of keys (multi-query attention) only these can be removed.
    minimum : int
        How many each layer keeps; with ``"query"``, each head of keys.

    Returns
    -------
    dict of str to list of int
        The heads that are kept of each layer.

    Raises
    ------
    ValueError, ShapeError, IndexError
        As for `remove_neurons`.

    Notes
    -----
    Masks and biases that the caller passes with an axis of heads must be cut by the caller. The slopes of ALiBi stay
    those of the heads that are kept; so they become a part of the state dict.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> layer = nn.MultiHeadAttention(8, 32, num_kv_heads=4)
    >>> compress.remove_heads(layer, indices=[1])
    {'': [0, 2, 3]}
    >>> layer.num_heads, layer.num_kv_heads, layer.query.weight.shape, layer.key.weight.shape
    (6, 3, (32, 24), (32, 12))
    >>> compress.remove_heads(layer, indices=[0, 3, 4], of="query")
    {'': [1, 2, 5]}
    """
    who = "remove_heads"
    if of not in ("key", "query"):
        raise ValueError(message(who, "of", describe(of), "'key' or 'query'"))
    tree = Tree(who, model)
    check_configs(who, model)
    found = {path: m for path, m in tree if isinstance(m, MultiHeadAttention)}
    named = chosen(tree, found, layers, exclude)
    if not named:
        raise ValueError(message(who, "model", describe(model), "a MultiHeadAttention"))
    units = [_heads(tree, path, m, of) for path, m in named.items()]
    kept = keep_all(
        who, plan(who, model, units, amount, indices, scores=scores, data=data, scope=scope, minimum=minimum)
    )
    update_configs(model)
    return kept


def _heads(tree: Tree, path: str, m: Any, of: str) -> Units:
    """The heads of attention: of keys with their queries, or of queries."""
    try:
        if not is_plain(m, MultiHeadAttention, "_heads"):
            raise Unknown(path, f"a {type(m).__name__}, whose forward is not that of MultiHeadAttention")
        for name in ("query", "key", "value", "output"):
            part = getattr(m, name)
            if not is_linear(part):
                raise Unknown(join(path, name), f"a {type(part).__name__} in the place of a linear map")
            if name != "output" and part.activation is not None:
                raise Unknown(join(path, name), "a linear map with an activation")
        for name in ("query_norm", "key_norm"):  # they see the heads on an axis of their own
            norm = getattr(m, name)
            if norm is not None and not any(is_plain(norm, kind) for kind in (LayerNorm, RMSNorm)):
                raise Unknown(join(path, name), f"a {type(norm).__name__}, which may treat heads differently")
        by_key = of == "key"
        units = Units(path, m.num_kv_heads if by_key else m.num_heads, groups=1 if by_key else m.num_kv_heads)
        for name in ("query", "key", "value")[: 3 if by_key else 1]:
            part = getattr(m, name)
            units.add(join(path, f"{name}.weight"), part.weight, 1)
            units.add(join(path, f"{name}.bias"), part.bias, 0)
            if isinstance(part, Dense):
                resize(units, part, "units", part.units // units.count)
        units.add(join(path, "output.weight"), m.output.weight, 0, is_read=True)
        units.add(join(path, "slopes"), m.slopes, 0)
        units.readers.append((m.output, -1))
        tree.need_own(units)
        units.settle.append(_settle(m, m.num_heads // units.count, by_key, tuple(m.output.weight.shape)))
    except Unknown as unknown:
        raise tree.refuse(path, unknown) from None
    return units


def _settle(m: Any, each: int, by_key: bool, shape: tuple[int, ...]) -> Any:
    head_dim, value_dim = m.head_dim, shape[0] // m.num_heads

    def settle(count: int) -> None:
        m._head_dim, m._value_dim = head_dim, value_dim  # which the features no longer say
        m.num_heads = count * each
        if by_key:
            m.num_kv_heads = count
        if m.slopes is not None:
            m._buffers = {**m._buffers, "slopes": True}

    return settle

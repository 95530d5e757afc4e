"""remove_channels: smaller convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad.compress.structured.choice import plan
from minigrad.compress.structured.follow import is_convolution
from minigrad.compress.structured.neurons import Indices, chosen, in_chains
from minigrad.compress.structured.structure import Tree, Unknown
from minigrad.compress.structured.units import keep_all
from minigrad.errors import describe, message
from minigrad.nn.module import Module

__all__ = ["remove_channels"]


def remove_channels(
    model: Module,
    amount: float | None = None,
    *,
    indices: Indices | None = None,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    scores: str | Mapping[str, Any] = "l2",
    data: Iterable[Any] | None = None,
    scope: str = "layer",
    minimum: int = 1,
) -> dict[str, list[int]]:
    """Take channels out of the convolutions of every `Sequential`, in place.

    The smaller model computes, and differentiates, what the model computes where the layer that reads a channel, a
    convolution or a `Dense`, reads 0 of it. Between both may lie activations, `Dropout`, `BatchNorm`, `InstanceNorm`,
    `GroupNorm` with a group for each channel, pooling, depthwise convolutions and `Flatten`. Channels that nothing in
    the model reads stay.

    Parameters
    ----------
    model, amount, indices, layers, exclude, scores, data, scope, minimum
        As for `remove_neurons`; what is said there of optimizers holds here too.

    Returns
    -------
    dict of str to list of int
        The channels that are kept of each layer.

    Raises
    ------
    ValueError, ShapeError, IndexError
        As for `remove_neurons`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> last = nn.Dense(2, in_features=36)
    >>> model = nn.Sequential([nn.Conv2D(4, 3, in_channels=1), nn.BatchNorm2D(4), nn.ReLU(), nn.Flatten(), last])
    >>> kept = compress.remove_channels(model, 0.5)
    >>> model[0], model[1], model[-1]
    (Conv2D(1 -> 2, kernel_size=(3, 3)), BatchNorm2D(2), Dense(18 -> 2))
    >>> model(mg.ones((8, 1, 5, 5))).shape
    (8, 2)
    """
    who = "remove_channels"
    tree = Tree(who, model)
    inside = {id(m) for chain in tree.chains() for _, m in chain}
    # a depthwise convolution has the channels of the layer before it
    units = in_chains(tree, lambda m: is_convolution(m) and not _is_depthwise(m), layers, exclude)
    for path, m in tree:
        if is_convolution(m) and id(m) not in inside and chosen(tree, {path: m}, layers, exclude):
            holder = tree.parents.get(id(m))
            why = f"held by a {type(holder).__name__}, whose forward is not known" if holder else "alone"
            raise tree.refuse(path, Unknown(path, why))
    if not units:
        raise ValueError(message(who, "model", describe(model), "channels that a layer reads, of which there are none"))
    return keep_all(
        who, plan(who, model, units, amount, indices, scores=scores, data=data, scope=scope, minimum=minimum)
    )


def _is_depthwise(m: Any) -> bool:
    return bool(m.groups > 1 and m.groups == m.in_channels)

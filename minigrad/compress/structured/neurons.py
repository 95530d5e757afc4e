"""remove_neurons and remove_units: smaller Dense layers and feed-forward networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad.compress.structured.choice import plan
from minigrad.compress.structured.configs import check_configs, update_configs
from minigrad.compress.structured.follow import follow, is_convolution, make_units, read_units, scale_units
from minigrad.compress.structured.structure import Tree, Unknown, is_linear, is_plain, join, need_elementwise
from minigrad.compress.structured.units import Units, keep_all, sorted_ids
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.containers import ModuleDict, ModuleList
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.module import Module
from minigrad.nn.normalization import LayerNorm, Normalization, RMSNorm

__all__ = ["chosen", "in_chains", "remove_neurons", "remove_units"]

Indices = Mapping[str, Iterable[int]] | Iterable[int]


def remove_neurons(
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
    """Take neurons out of a model, in place: hidden units of `Dense` in a `Sequential`, and of every `FeedForward`.

    The smaller model computes, and differentiates, what the model computes where the layer that reads a neuron reads 0
    of it; activations that keep 0 at 0 (ReLU, GELU, SiLU, tanh) make that the same as zero weights and bias of the
    neuron. Between both may lie activations, `Dropout`, `BatchNorm` and `Flatten`. Gated networks lose the same columns
    of gate and hidden. Units that nothing in the model reads, its outputs, stay.

    Parameters
    ----------
    model : Module
        Is changed; ``copy.deepcopy(model)`` keeps the old one. Parameters stay the same objects, with their masks,
        gradients, regularizers, constraints and hooks, so tied ones stay tied. An optimizer with state must be made
        anew: its next step raises, as the shapes differ. The configuration of GPT, Llama and BERT follows.
    amount : float, optional
        The share of neurons to remove, 0 <= amount < 1, rounded to whole ones.
    indices : mapping of str to ints, optional
        In place of an amount: those to remove of each layer, by its path. The ints alone where there is one layer.
    layers : sequence of str, optional
        Paths to choose from; one names all layers below it too. By default all.
    exclude : sequence of str
        Paths to leave out, with all below them.
    scores : str or mapping
        The lowest go. ``"l2"``: the root mean square of a neuron's weights, those that make it and those that read it.
        ``"l1"``: the mean absolute value. ``"taylor"``: how much the loss would change to first order,
        ``abs(sum(w * g))`` over the weights that read it, with the gradients that the parameters have.
        ``"activation"``: the mean absolute value of the neuron over `data`. Or an array for each layer, by its path.
    data : iterable, optional
        Batches for ``"activation"``; a tuple is several arguments.
    scope : str
        ``"layer"``: the same share of each. ``"global"``: the lowest of all.
    minimum : int
        How many each layer keeps.

    Returns
    -------
    dict of str to list of int
        The neurons that are kept of each layer.

    Raises
    ------
    ValueError
        If a layer cannot be followed: a normalization over all neurons, an activation that mixes them, a module or a
        tensor that is used elsewhere too, a forward that is not known. The error names the layer; nothing is changed.
    ShapeError
        If a parameter waits for its first batch.
    IndexError
        If there is no such neuron.

    Notes
    -----
    H. Li et al., "Pruning filters for efficient ConvNets", 2017 (magnitudes); P. Molchanov et al., "Importance
    estimation for neural network pruning", 2019 (first order). Here both are means, so that layers compare.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> model = nn.Sequential([nn.Dense(4, "relu", in_features=3), nn.Dense(2, in_features=4)])
    >>> compress.remove_neurons(model, indices={"0": [1, 3]})
    {'0': [0, 2]}
    >>> model
    Sequential(
      (0): Dense(3 -> 2, activation=relu)
      (1): Dense(2 -> 2)
    )
    """
    who = "remove_neurons"
    tree = Tree(who, model)
    check_configs(who, model)
    found = {}
    for path, m in tree:
        if isinstance(m, FeedForward):
            found[path] = m
    named = chosen(tree, found, layers, exclude)
    units = [_network(tree, path, m) for path, m in named.items()]
    units += in_chains(tree, lambda m: is_plain(m, Dense), layers, exclude)
    _refuse_strangers(tree, layers, exclude)
    order = {path: i for i, (path, _) in enumerate(tree)}
    units.sort(key=lambda u: order[u.name])
    if not units:
        raise ValueError(message(who, "model", describe(model), "hidden units, of which there are none here"))
    kept = keep_all(
        who, plan(who, model, units, amount, indices, scores=scores, data=data, scope=scope, minimum=minimum)
    )
    update_configs(model)
    return kept


def chosen(
    tree: Tree, found: Mapping[str, Any], layers: Sequence[str] | None, exclude: Sequence[str]
) -> dict[str, Any]:
    """Those among the layers found that are asked for."""
    paths = [path for path, _ in tree]
    for argument, names in (("layers", layers or ()), ("exclude", exclude)):
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(message(tree.who, argument, repr(names), "a sequence of paths"))
        for name in names:
            if name not in paths:
                raise ValueError(message(tree.who, argument, repr(name), "the path of a layer"))
    result = {path: m for path, m in found.items() if _is_asked(path, layers, exclude)}
    return result


def _is_asked(path: str, layers: Sequence[str] | None, exclude: Sequence[str]) -> bool:
    def below(names: Sequence[str]) -> bool:
        return any(path == name or not name or path.startswith(f"{name}.") for name in names)

    return (layers is None or below(layers)) and not below(exclude)


def in_chains(tree: Tree, is_maker: Any, layers: Sequence[str] | None, exclude: Sequence[str]) -> list[Units]:
    """The units that layers of a kind make in chains, of those that are asked for."""
    units = []
    for chain in tree.chains():
        for i, (path, m) in enumerate(chain):
            if not is_maker(m) or not chosen(tree, {path: m}, layers, exclude):
                continue
            try:
                found = follow(tree, chain, i)
            except Unknown as unknown:
                raise tree.refuse(path, unknown) from None
            if found is not None:
                units.append(found)
            elif layers is not None and path in layers:
                raise tree.refuse(path, Unknown(path, "the last of its Sequential, whose units are outputs"))
    return units


def _network(tree: Tree, path: str, m: Any) -> Units:
    """The hidden units of a feed-forward network."""
    try:
        if not is_plain(m, FeedForward):
            raise Unknown(path, f"a {type(m).__name__}, whose forward is not that of FeedForward")
        parts = {name: getattr(m, name) for name in ("hidden", "gate", "output") if getattr(m, name) is not None}
        for name, part in parts.items():
            if not is_linear(part):
                raise Unknown(join(path, name), f"a {type(part).__name__} in the place of a linear map")
        units = make_units(path, m.hidden)
        units.shares.clear()
        for name in ("hidden", "gate"):
            if name in parts:
                part = parts[name]
                units.add(join(path, f"{name}.weight"), part.weight, 1)
                units.add(join(path, f"{name}.bias"), part.bias, 0)
                need_elementwise(join(path, name), part.activation, units.count, 0, part.weight.dtype)
        if "gate" in parts and isinstance(m.gate, Dense):
            units.settle.append(lambda count: setattr(m.gate, "units", count))
        if not is_plain(m.dropout, Dropout):
            need_elementwise(join(path, "dropout"), m.dropout, units.count, 0, m.hidden.weight.dtype)
        read_units(units, join(path, "output"), m.output)
        tree.need_own(units)
    except Unknown as unknown:
        raise tree.refuse(path, unknown) from None
    return units


def _refuse_strangers(tree: Tree, layers: Sequence[str] | None, exclude: Sequence[str]) -> None:
    """Raise where a Dense is held by a module that is not the library's, which may call it in any order."""
    for path, m in tree:
        if not is_plain(m, Dense) or not chosen(tree, {path: m}, layers, exclude):
            continue
        parent = tree.parents.get(id(m))
        while isinstance(parent, (ModuleDict, ModuleList)) and id(parent) in tree.parents:
            parent = tree.parents[id(parent)]
        if parent is not None and (
            isinstance(parent, (ModuleDict, ModuleList)) or not type(parent).__module__.startswith("minigrad.")
        ):
            why = f"held by a {type(parent).__name__}, whose forward is not known"
            raise tree.refuse(path, Unknown(path, why))


def remove_units(
    producer: Module | Sequence[Module],
    consumers: Module | Sequence[Module],
    keep: Iterable[int],
    *,
    between: Sequence[Module] = (),
) -> None:
    """Keep some units of a layer in place, where the model's forward is your own: say who makes and who reads them.

    Parameters
    ----------
    producer : Module or sequence of Module
        A `Dense` or a convolution that makes the units; several where their results are added or multiplied.
    consumers : Module or sequence of Module
        All layers that read them, `Dense` or convolutions. Behind a `Flatten` of channels a `Dense` reads a block of
        each; behind one of the last axis, the units again and again.
    keep : iterable of int
        The units to keep.
    between : sequence of Module
        Normalizations on the way, with a weight for each unit.

    Raises
    ------
    ValueError
        If a layer is of another kind, mixes units, or has another number of them. Nothing is changed.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         self.a, self.b = nn.Dense(8, in_features=3), nn.Dense(2, in_features=8)
    ...     def forward(self, x):
    ...         return self.b(mg.sin(self.a(x)))
    >>> net = Net()
    >>> compress.remove_units(net.a, net.b, keep=[0, 5, 6])
    >>> net(mg.ones((4, 3))).shape, net.a
    ((4, 2), Dense(3 -> 3))
    """
    who = "remove_units"
    makers = [producer] if isinstance(producer, Module) else list(producer)
    readers = [consumers] if isinstance(consumers, Module) else list(consumers)
    if not makers or not readers:
        raise ValueError(message(who, "producer, consumers", "empty", "at least one layer each"))
    try:
        made = [make_units(f"producer {i}", m) for i, m in enumerate(makers)]
        units = made[0]
        for other in made[1:]:
            if other.count != units.count:
                raise Unknown(other.name, f"a layer of {other.count} units, while producer 0 has {units.count}")
            units.shares += other.shares
            units.settle += other.settle
        for i, m in enumerate(between):
            if not isinstance(m, Normalization) or isinstance(m, (LayerNorm, RMSNorm)):
                raise Unknown(f"between {i}", f"a {type(m).__name__}, which has not a weight for each unit by itself")
            groups = getattr(m, "num_groups", units.count)
            if groups % units.count:
                raise Unknown(f"between {i}", "a GroupNorm, whose statistics are those of several units")
            scale_units(units, f"between {i}", m)
        for i, m in enumerate(readers):
            reader: Any = m
            repeats = 1
            if is_linear(reader) and not is_convolution(makers[0]):
                repeats = reader.weight.shape[0] // units.count
            read_units(units, f"consumer {i}", reader, repeats=max(repeats, 1))
    except Unknown as unknown:
        raise ValueError(message(who, unknown.name, unknown.why, "a layer whose units are known")) from None
    twice = {(id(s.tensor), s.axis) for s in units.shares}
    if len(twice) != len(units.shares):
        raise ShapeError(message(who, "layers", "one of them twice", "each once"))
    kept = sorted_ids(who, "keep", keep, units.count)
    if not kept.size:
        raise ValueError(message(who, "keep", "empty", "at least one unit"))
    keep_all(who, [(units, kept)])

"""The graph of a model: its ops, each in the layer that called it, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import autograd, random
from minigrad._core import tape
from minigrad.dtypes import FLOATING
from minigrad.nn.checks import kept_buffers
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.batch import call, leaves, map_leaves

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["GraphNode", "trace"]


class GraphNode(NamedTuple):
    """An op, a parameter or an input.

    Parameters
    ----------
    name : str
        The path of the layer, with slashes, and the op.
    op : str
        The op, ``"Parameter"`` or ``"Input"``.
    inputs : list of str
        The names of what it takes; constants are not among them.
    shape : tuple of int
        Of its result.
    """

    name: str
    op: str
    inputs: list[str]
    shape: tuple[int, ...]


def trace(trainer: Trainer) -> list[GraphNode]:
    """The graph of the trainer's model on the batch at hand, inputs first.

    It runs the model once more, in evaluation mode; modes, buffers and random numbers are as before afterwards.
    """
    model = trainer.model
    inputs, _, _ = trainer.pipeline.prepare(trainer.batch)
    given: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in FLOATING:
            return value
        made = value.detach().clone()
        made.requires_grad = True
        given.append(made)
        return made

    modes = [(module, module.training) for module in model.modules()]
    state = random.get_state()
    model.eval()
    try:
        with kept_buffers(b for _, b in model.named_buffers()), _owners(model) as owners, autograd.enable_grad():
            with trainer.pipeline.autocast():
                outputs = call(model, map_leaves(leaf, inputs))
            return _nodes(model, [t for t in leaves(outputs) if isinstance(t, Tensor)], given, owners)
    finally:
        random.set_state(state)
        for module, mode in modes:
            module.training = mode


@contextmanager
def _owners(model: Module) -> Iterator[dict[int, str]]:
    """The path of the innermost layer in which each node was made, by the node's number."""
    owners: dict[int, str] = {}
    begun: list[int] = []
    removes = []
    for path, module in model.named_modules():

        def begin(module: Module, args: Any) -> None:
            begun.append(tape.clock())

        def end(module: Module, args: Any, output: Any, path: str = path) -> None:
            for number in range(begun.pop() + 1, tape.clock() + 1):
                owners.setdefault(number, path)  # layers inside have ended before

        removes += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield owners
    finally:
        for remove in removes:
            remove()


def _nodes(model: Module, outputs: list[Tensor], given: list[Tensor], owners: dict[int, str]) -> list[GraphNode]:
    root = type(model).__name__
    parameters = {id(p): name for name, p in model.named_parameters()}
    found: dict[int, Any] = {}
    waiting = [tape.edge(t) for t in outputs]
    while waiting:  # no recursion: graphs are deep
        item = waiting.pop()
        if item is not None and id(item) not in found:
            found[id(item)] = item
            if isinstance(item, tape.Node):
                waiting.extend(item.parents)
    ordered = sorted(found.values(), key=lambda item: item.seq if isinstance(item, tape.Node) else 0)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for item in ordered:
        if isinstance(item, tape.Node):
            path, kind = owners.get(item.seq, ""), item.name
        elif id(item) in parameters:
            path, _, kind = parameters[id(item)].rpartition(".")
        else:
            path, kind = "", "input"
        scope = f"{root}/{path.replace('.', '/')}/" if path else f"{root}/"
        name, number = scope + kind, 1
        while name in taken:
            number += 1
            name = f"{scope}{kind}_{number}"
        taken.add(name)
        names[id(item)] = name
    return [_node(item, names, parameters) for item in ordered]


def _node(item: Any, names: dict[int, str], parameters: dict[int, str]) -> GraphNode:
    name, shape = names[id(item)], tuple(item.shape or ())
    if isinstance(item, tape.Node):
        return GraphNode(name, item.name, [names[id(p)] for p in item.parents if p is not None], shape)
    return GraphNode(name, "Parameter" if id(item) in parameters else "Input", [], shape)

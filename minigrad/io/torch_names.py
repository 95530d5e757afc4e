"""Weights that PyTorch saved: how its layers name and lay out what ours have, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minigrad.errors import message
from minigrad.io.name_map import NameMap, Rename
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.dense import Dense
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.module import LoadReport, Module
from minigrad.nn.projection import Projection
from minigrad.nn.recurrent import Recurrent
from minigrad.nn.recurrent_cells import Cell
from minigrad.nn.transformer_layers import TransformerEncoderLayer
from minigrad.tensor import Tensor

__all__ = ["from_torch", "torch_names"]

TRANSPOSED = ("weight", "weight_ih", "weight_hh")  # of linear maps: (out, in) there, (in, out) here


def from_torch(
    model: Module,
    tensors: Mapping[str, Any],
    *,
    paths: Mapping[str, str] | None = None,
    prefix: str = "",
    strict: bool = True,
) -> LoadReport:
    """Copy the weights of a PyTorch model into one of the same layers; all of them fit, or nothing is changed.

    Linear maps are transposed; recurrent, attention and Transformer layers get the names that they have there.
    Convolutions, embeddings and normalizations are as they are, and so is what a module of one's own holds itself.
    Biases, running statistics and parameters that wait for their shape are taken over too.

    Parameters
    ----------
    model : Module
        Where to.
    tensors : mapping of str to array_like
        PyTorch's state dict: what ``load_weights(file)`` gives after ``safetensors.torch.save_file(state, file)``.
    paths : mapping of str to str, optional
        Modules that have another name there, by ours: ``{"layers.1": "layers.2"}``. What is below them follows.
    prefix : str
        What the names there may begin with, such as ``"module."``.
    strict : bool
        Raise where names are missing or unexpected too; otherwise they are reported and left alone.

    Returns
    -------
    LoadReport
        Our missing names, and PyTorch's unexpected ones.

    Raises
    ------
    ValueError
        One error that lists all that is missing, unexpected and mis-shaped, by both names; or if `paths` speaks of a
        module that there is not.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import nn
    >>> from minigrad.io import from_torch
    >>> model = nn.Sequential([nn.Dense(3, activation="relu"), nn.LSTM(4)])
    >>> shapes = {"0.weight": (3, 2), "0.bias": (3,), "2.weight_ih_l0": (16, 3), "2.weight_hh_l0": (16, 4)}
    >>> shapes |= {"2.bias_ih_l0": (16,), "2.bias_hh_l0": (16,)}
    >>> tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    >>> from_torch(model, tensors, paths={"1": "2"})  # PyTorch's activation is a layer
    LoadReport(missing=[], unexpected=[])
    >>> model[0].weight.shape
    (2, 3)
    """
    return torch_names(model, paths=paths, prefix=prefix).load(model, tensors, strict=strict)


def torch_names(model: Module, *, paths: Mapping[str, str] | None = None, prefix: str = "") -> NameMap:
    """From PyTorch's names of a model's weights to ours, and with ``torch_names(model).back(model.state_dict())`` back.

    Parameters
    ----------
    model : Module
        The model; not its weights but its layers count.
    paths, prefix
        As for `from_torch`.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.io import torch_names
    >>> layer = nn.MultiHeadAttention(2, 4)
    >>> theirs = torch_names(layer).back(layer.state_dict())
    >>> {name: array.shape for name, array in theirs.items()}
    {'in_proj_weight': (12, 4), 'in_proj_bias': (12,), 'out_proj.weight': (4, 4), 'out_proj.bias': (4,)}
    """
    walk = _Walk(dict(paths or {}))
    rules = list(walk.rules(model, "", ""))
    unused = [name for name in walk.paths if name not in walk.seen]
    if unused:
        raise ValueError(
            message("torch_names", "paths", f"with {', '.join(map(repr, unused))}", "modules of the model")
        )
    return NameMap(rules, prefix=prefix)


class _Walk:
    """The rules of all modules of a tree, a shared one under each of its names."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths
        self.seen: set[str] = set()
        self.above: list[Module] = []

    def rules(self, module: Module, ours: str, theirs: str, parent: Module | None = None) -> Iterator[Rename]:
        """Those of a module and of what is below it."""
        if any(module is each for each in self.above):
            return
        self.seen.add(ours)
        theirs = self.paths.get(ours, theirs)
        self.above.append(module)
        if isinstance(module, Recurrent):
            yield from _recurrent(module, ours, theirs)
        elif isinstance(module, MultiHeadAttention):
            yield from _attention(module, ours, theirs)
        linear = isinstance(module, (Dense, Projection, Cell))
        names = _renamed(module, parent)
        for name, member in module._members():
            if isinstance(member, Module):
                yield from self.rules(member, _join(ours, name), _join(theirs, names.get(name, name)), module)
            elif isinstance(member, Tensor):
                yield Rename(_join(theirs, name), _join(ours, name), transpose=linear and name in TRANSPOSED)
        self.above.pop()


def _renamed(module: Module, parent: Module | None) -> dict[str, str]:
    """What PyTorch calls the modules right below one."""
    if isinstance(module, MultiHeadAttention):
        return {"output": "out_proj"}
    if isinstance(module, FeedForward) and isinstance(parent, TransformerEncoderLayer):
        return {"hidden": "linear1", "output": "linear2"}
    if not isinstance(module, TransformerEncoderLayer):
        return {}
    crossed = getattr(module, "cross_attention", None) is not None
    names = {"self_attention": "self_attn", "cross_attention": "multihead_attn", "feed_forward": ""}
    norms = ["self_attention_norm", *["cross_attention_norm"] * crossed, "feed_forward_norm"]
    return names | {norm: f"norm{i}" for i, norm in enumerate(norms, 1)}


def _recurrent(module: Recurrent, ours: str, theirs: str) -> Iterator[Rename]:
    """The weights of all layers and directions stand side by side."""
    for cells, suffix in (("cells", ""), ("reverse_cells", "_reverse")):
        for number, cell in enumerate(getattr(module, cells)):
            for name, p in cell._members():
                source, target = f"{name}_l{number}{suffix}", f"{cells}.{number}.{name}"
                yield Rename(_join(theirs, source), _join(ours, target), transpose=p.ndim == 2)


def _attention(module: MultiHeadAttention, ours: str, theirs: str) -> Iterator[Rename]:
    """Queries, keys and values are one matrix; they are three where their inputs have different widths."""
    parts = ("query", "key", "value")

    def targets(kind: str) -> tuple[str, ...]:
        return tuple(_join(ours, f"{part}.{kind}") for part in parts)

    joined = [Rename(_join(theirs, "in_proj_weight"), targets("weight"), transpose=True)]
    alone = [Rename(_join(theirs, f"{t[0]}_proj_weight"), _join(ours, f"{t}.weight"), transpose=True) for t in parts]
    widths = {getattr(getattr(module, part), "in_features", None) for part in parts}
    yield from [*alone, *joined] if len(widths) > 1 else [*joined, *alone]  # what is written is the first
    yield Rename(_join(theirs, "in_proj_bias"), targets("bias"))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name

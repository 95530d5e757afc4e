"""Targets: the parameters of a model that are pruned, and what is left out by name, module or type."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from minigrad.errors import describe, message
from minigrad.nn.convolution import Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose
from minigrad.nn.deferred import check_initialized
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter

__all__ = ["Target", "find_targets", "ranks_of"]


class Target(NamedTuple):
    """A parameter to prune.

    Attributes
    ----------
    name : str
        The first of its names in the model.
    parameter : Parameter
        The tensor.
    axis : int
        Its input axis, along which the weights of one output lie: 0 in a weight (in, out), 1 in one of a convolution,
        (out, in, *kernel), and of an embedding's table (rows, features), of which one that is shared with the output
        layer is the transposed weight.
    """

    name: str
    parameter: Parameter
    axis: int


def find_targets(who: str, model: Any, exclude: Any = ()) -> list[Target]:
    """The weights of two or more axes of a model, a shared one once, without what is excluded.

    Parameters
    ----------
    who : str
        Who asks, for errors.
    model : Module
        The model.
    exclude : str, Module, type, Parameter, or iterable of them
        What is left out: the name of a parameter or of a module (with all below it), in which ``*``, ``?`` and
        ``[...]`` stand for what they do in a shell; a module; a class of modules; a parameter. One that is shared is
        out if any of its names or layers is.

    Raises
    ------
    TypeError
        If the model is none, or an entry of `exclude` nothing of these.
    ValueError
        If an entry of `exclude` fits nothing in the model, nothing is left, or the model is split over ranks.
    ShapeError
        If a weight waits for its first batch.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.compress.pruning.targets import find_targets
    >>> model = nn.Sequential([nn.Dense(4, in_features=2), nn.Dense(3, in_features=4)])
    >>> [target.name for target in find_targets("prune", model, exclude="1.*")]
    ['0.weight']
    """
    if not isinstance(model, Module):
        raise TypeError(message(who, "model", describe(model), "a module"))
    if any(getattr(module, "splits", None) for module in model.modules()):
        hint = "Prune it before parallel.tensor_parallel, which splits the masks too"
        raise ValueError(message(who, "model", "split over ranks, of which each would choose alone", "whole", hint))
    owners: dict[int, list[tuple[str, Module]]] = {}
    first: dict[int, tuple[str, Parameter]] = {id(p): (name, p) for name, p in model.named_parameters()}
    for path, module in model.named_modules():
        for name, member in module._members():
            if isinstance(member, Parameter):
                owners.setdefault(id(member), []).append((f"{path}.{name}" if path else name, module))
    entries = [exclude] if isinstance(exclude, (str, Module, type, Parameter)) else exclude
    if not isinstance(entries, Iterable):
        raise TypeError(message(who, "exclude", describe(exclude), "names, modules, classes of modules or parameters"))
    out: set[int] = set()
    for entry in entries:
        found = {key for key, places in owners.items() if _fits(who, entry, first[key][1], places)}
        if not found:
            hint = f"Its parameters are {', '.join(name for name, _ in first.values())}"
            raise ValueError(message(who, "exclude", repr(entry), "what is in the model", hint))
        out |= found
    made = []
    for key, (name, p) in first.items():
        check_initialized(who, name, p)
        if p.ndim >= 2 and key not in out:
            made.append(Target(name, p, _input_axis(owners[key][0][1])))
    if not made:
        raise ValueError(message(who, "model", "without a weight to prune", "one of two or more axes"))
    return made


def ranks_of(model: Module) -> Any:
    """The communicator of the ranks that train a model together, None where there are none."""
    communicator = getattr(model, "communicator", None)
    if communicator is None:
        return None
    from minigrad.parallel.data_parallel import DataParallel  # loaded already where this is one

    return communicator if isinstance(model, DataParallel) else None


def _fits(who: str, entry: Any, p: Parameter, places: list[tuple[str, Module]]) -> bool:
    """Whether an entry of `exclude` means a parameter, which stands at these places."""
    if isinstance(entry, str):
        names = [name for name, _ in places]
        return any(fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*") for name in names)
    if isinstance(entry, Parameter):
        return entry is p
    if isinstance(entry, Module):
        return any(q is p for q in entry.parameters())
    if isinstance(entry, type) and issubclass(entry, Module):
        return any(isinstance(module, entry) for _, module in places)
    need = "a name, a module, a class of modules or a parameter"
    raise TypeError(message(who, "an entry of exclude", describe(entry), need))


def _input_axis(module: Module) -> int:
    if isinstance(module, (Conv1DTranspose, Conv2DTranspose)):
        return 0
    return int(isinstance(module, (Conv1D, Conv2D, Embedding)))

"""Structure: which layers of a model make units, which layers read them, and what lies between.

No forward is traced. What is known: the layers of `minigrad.nn` by their types, a `Sequential` by its order, and
attention and feed-forward networks by their parts. What is not known is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.compress.structured.units import Units
from minigrad.errors import describe, message
from minigrad.nn.deferred import check_initialized
from minigrad.nn.dense import Dense
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection
from minigrad.nn.sequential import Sequential
from minigrad.tensor import Tensor

__all__ = ["Chain", "Tree", "Unknown", "is_linear", "is_plain", "is_sequential", "join", "need_elementwise", "resize"]

Chain = list[tuple[str, Module]]
ANSWER = "Exclude it, or name what reads its units: compress.remove_units"


class Unknown(Exception):
    """Why the units of a layer cannot be followed: the layer that stops it, and what is wrong there."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why


class Tree:
    """A model seen as a whole: the path of each module, and how often modules and tensors are held.

    Parameters
    ----------
    who : str
        The function that asks, for errors.
    model : Module
        The model.
    """

    def __init__(self, who: str, model: Module) -> None:
        given: Any = model
        if not isinstance(given, Module):
            raise TypeError(message(who, "model", given, "a Module"))
        self.who, self.model = who, model
        self.modules = {id(model): ("", model)}  # in the order of the walk, by id
        self.places: Counter[int] = Counter()  # of modules and tensors: by how many names they are held
        self.parents: dict[int, Module] = {}
        self._refuse("", model)
        for path, module in model.named_modules():
            self.modules[id(module)] = path, module
            self._refuse(path, module)
            for name, member in module._members():
                self.places[id(member)] += 1
                if isinstance(member, Tensor):
                    check_initialized(who, join(path, name), member)
                if isinstance(member, Module):
                    self.parents.setdefault(id(member), module)

    def _refuse(self, path: str, module: Module) -> None:
        from minigrad.parallel.data_parallel import DataParallel  # which imports a lot

        if isinstance(module, DataParallel):
            got = "wrapped in DataParallel, whose buckets have the old shapes"
            hint = "Make the model smaller before it is wrapped"
            raise ValueError(message(self.who, f"layer {path!r}" if path else "model", got, "a plain model", hint))

    def __iter__(self) -> Iterator[tuple[str, Module]]:
        return iter(self.modules.values())

    def refuse(self, name: str, unknown: Unknown) -> ValueError:
        """The error that says why a layer is refused."""
        where = f"stopped by {unknown.name!r}: {unknown.why}" if unknown.name != name else unknown.why
        return ValueError(message(self.who, f"layer {name!r}", where, "units that can be followed", ANSWER))

    def need_own(self, units: Units) -> None:
        """Raise Unknown where a tensor of the units is held by several names, so that another layer uses it too."""
        for share in units.shares:
            if self.places[id(share.tensor)] > 1:
                raise Unknown(share.name, "a tensor that several layers share")

    def chains(self) -> list[Chain]:
        """Runs of layers, each called with what the one before it gave: a Sequential, with those inside of it."""
        return [self._flat(path, m) for path, m in self if is_sequential(m) and not self._is_inside(m)]

    def _is_inside(self, m: Module) -> bool:
        """Whether a Sequential is a part of another, and of nothing else."""
        parent = self.parents.get(id(m))
        return parent is not None and is_sequential(parent) and self.places[id(m)] == 1

    def _flat(self, path: str, m: Any) -> Chain:
        found: Chain = []
        for i, layer in enumerate(m):
            name = join(path, f"{i}")
            found += self._flat(name, layer) if is_sequential(layer) and self._is_inside(layer) else [(name, layer)]
        return found


def join(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path else name


def is_plain(module: Any, kind: type, *methods: str) -> bool:
    """Whether a module is of a class, and computes as it does: a subclass may have a forward of its own."""
    names = ("forward", *methods)
    return isinstance(module, kind) and all(
        getattr(type(module), name) is getattr(kind, name) and name not in vars(module) for name in names
    )


def is_sequential(module: Any) -> bool:
    """Whether a module calls its layers in turn."""
    return is_plain(module, Sequential)


def is_linear(module: Any) -> bool:
    """Whether a module is a `Dense` or one of the projections inside attention and feed-forward networks."""
    return is_plain(module, Dense) or is_plain(module, Projection)


def resize(units: Units, owner: Any, name: str, each: int = 1) -> None:
    """Have an attribute of a layer follow the number of units."""
    units.settle.append(lambda count: setattr(owner, name, count * each))


def need_elementwise(name: str, function: Any, count: int, axes: int = 0, dtype: Any = None) -> None:
    """Raise Unknown where a function mixes units, or treats one otherwise than another.

    It is tried: of some units alone it must give what it gives of them among all.

    Parameters
    ----------
    name : str
        The path of the layer.
    function : callable or None
        An activation, or a layer without parameters.
    count : int
        The units.
    axes : int
        Axes behind that of the units: positions.
    dtype : dtype
        That of the layer.
    """
    if function is None:
        return
    if isinstance(function, Module) and any(True for _ in function._members()):
        raise Unknown(name, f"a {type(function).__name__}, which has parameters or layers of its own")
    draw = np.random.default_rng(0)
    x = ops.asarray(draw.standard_normal((3, count, *[4] * axes)).astype(dtype))
    call = function.forward if isinstance(function, Module) else function
    what = f"a {type(function).__name__}" if isinstance(function, Module) else f"the activation {describe(function)}"
    wrong = Unknown(name, f"{what}, which is not known to work on each unit by itself")
    with no_grad():
        try:
            whole = np.asarray(call(x).to("cpu").numpy(), np.float64)
            for some in (np.arange(1, count), np.flatnonzero(draw.random(count) < 0.5)):
                if not some.size:
                    continue
                part = np.asarray(call(ops.take(x, ops.asarray(some), axis=1)).to("cpu").numpy(), np.float64)
                bound = 8 * float(np.finfo(np.float32 if x.dtype.itemsize < 8 else np.float64).eps)
                bound = 0.01 if x.dtype.itemsize == 2 else bound
                if part.shape != (3, len(some), *[4] * axes) or not np.allclose(part, whole[:, some], bound, bound):
                    raise wrong
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise wrong from None
    if whole.shape != x.shape:
        raise wrong

"""Containers: modules that hold modules, in a list, in a dict, or beside a shortcut; and a function as a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, NoReturn, overload

from minigrad.errors import ShapeError, describe, message
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["Lambda", "ModuleDict", "ModuleList", "Residual"]


class _Holder(Module):
    """Base of the containers that are not called: their modules bear its name in errors, ``layers.0``."""

    _held: Any  # the list or dict
    _own_name: str = ""

    @property
    def _name(self) -> str:
        return self._own_name

    @_name.setter
    def _name(self, name: str) -> None:
        object.__setattr__(self, "_own_name", name)
        self._rename()

    def _rename(self) -> None:
        """Tell the modules what they are called, seen from the module that holds this one."""
        prefix = f"{self._own_name}." if self._own_name else ""
        for name, member in self._members():
            if isinstance(member, Module):
                member._name = prefix + name

    def _members(self) -> Iterator[tuple[str, Any]]:
        for name, member in super()._members():
            yield name.removeprefix("_held."), member

    def _take(self, held: Any) -> None:
        self._held = held
        self._rename()

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise: there is no order to call the modules in."""
        who = type(self).__name__
        raise NotImplementedError(f"{who}: cannot be called. Call its modules in a forward, or use nn.Sequential")


def _check_module(who: str, where: str, layer: Any) -> Module:
    if isinstance(layer, Module):
        return layer
    got, hint = layer, ""
    if isinstance(layer, type):
        got, hint = f"the class {layer.__name__}", f"Make a layer of it: {layer.__name__}(...)"
    raise TypeError(message(who, where, got, "a module", hint))


class ModuleList(_Holder, MutableSequence[Module]):
    """A list of modules. Plain lists are part of the tree too; this one checks, and is a module itself.

    Parameters
    ----------
    modules : iterable of Module
        The first modules. They are named by their places.

    Raises
    ------
    TypeError
        If one of them is no module.

    Examples
    --------
    >>> from minigrad import nn
    >>> class Tower(nn.Module):
    ...     def __init__(self):
    ...         self.layers = nn.ModuleList(nn.Dense(3, in_features=3) for _ in range(2))
    ...     def forward(self, x):
    ...         for layer in self.layers:
    ...             x = layer(x)
    ...         return x
    >>> [name for name, _ in Tower().named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        given: Any = modules
        if not isinstance(given, Iterable):
            raise TypeError(message("ModuleList", "modules", given, "an iterable of modules"))
        self._set(list(given))

    def _set(self, modules: list[Any]) -> None:
        self._take([_check_module("ModuleList", f"module {i}", m) for i, m in enumerate(modules)])

    def insert(self, index: int, value: Any) -> None:
        """Insert a module before a place."""
        modules = list(self._held)
        modules.insert(index, value)
        self._set(modules)

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> list[Module]: ...

    def __getitem__(self, index: int | slice) -> Module | list[Module]:
        return self._held[index]  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        modules = list(self._held)
        modules[index] = value
        self._set(modules)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self._held)
        del modules[index]
        self._set(modules)


class ModuleDict(_Holder, MutableMapping[str, Module]):
    """A dict of modules. Plain dicts are part of the tree too; this one checks, and is a module itself.

    Parameters
    ----------
    modules : mapping of str to Module
        The first modules.

    Raises
    ------
    TypeError
        If a key is no str, or a value no module.
    ValueError
        If a key is empty or has a dot, which separates the names in a path.

    Examples
    --------
    >>> from minigrad import nn
    >>> heads = nn.ModuleDict({"mean": nn.Dense(1), "scale": nn.Dense(1, activation="softplus")})
    >>> heads
    ModuleDict(
      (mean): Dense(? -> 1)
      (scale): Dense(? -> 1, activation=softplus)
    )
    >>> "mean" in heads, len(heads)
    (True, 2)
    """

    # a module is itself and no other, as all of them are; Mapping would compare the contents
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        try:
            found = dict(modules)
        except (TypeError, ValueError):
            need = "a mapping of names to modules, or pairs of them"
            raise TypeError(message("ModuleDict", "modules", describe(modules), need)) from None
        self._set(found)

    def _set(self, modules: dict[Any, Any]) -> None:
        for key, module in modules.items():
            if not isinstance(key, str):
                raise TypeError(message("ModuleDict", "a key", key, "a str"))
            if not key or "." in key:
                raise ValueError(message("ModuleDict", "a key", repr(key), "a name without dots"))
            _check_module("ModuleDict", f"module {key!r}", module)
        self._take(modules)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __getitem__(self, key: str) -> Module:
        return self._held[key]  # type: ignore[no-any-return]

    def __setitem__(self, key: str, module: Any) -> None:
        self._set({**self._held, key: module})

    def __delitem__(self, key: str) -> None:
        modules = dict(self._held)
        del modules[key]
        self._set(modules)


class Residual(Module):
    """A module and a shortcut around it, ``y = shortcut(x) + module(x)``.

    Where the module changes the shape, the shortcut has to change it too: a projection. He et al., "Deep residual
    learning for image recognition", 2016.

    Parameters
    ----------
    module : Module
        The long way. What the layer is called with beside x, such as a mask, goes here.
    shortcut : Module, optional
        What is done to x on the short way; nothing by default.

    Raises
    ------
    TypeError
        If one of them is no module.
    ShapeError
        If the two results differ in shape; they are not broadcast.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Residual(nn.ReLU())(mg.tensor([-1.0, 2.0]))
    tensor([-1.,  4.])
    >>> nn.Residual(nn.Dense(3), shortcut=nn.Dense(3, bias=False))(mg.ones((8, 2))).shape
    (8, 3)
    """

    def __init__(self, module: Module, shortcut: Module | None = None) -> None:
        self.module = _check_module("Residual", "module", module)
        self.shortcut = None if shortcut is None else _check_module("Residual", "shortcut", shortcut)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer to x of any shape; the other arguments are the module's."""
        short = x if self.shortcut is None else self.shortcut(x)
        long = self.module(x, *args, **kwargs)
        if long.shape != tuple(short.shape):
            what, hint = ("x", "Pass shortcut=, a projection of x to that shape")
            if self.shortcut is not None:
                what, hint = "what the shortcut gives", ""
            got = f"of shape {long.shape}"
            raise ShapeError(
                message("Residual", "what the module gives", got, f"the shape of {what}, {tuple(short.shape)}", hint)
            )
        return short + long  # type: ignore[no-any-return]


class Lambda(Module):
    """A function as a layer.

    Parameters
    ----------
    function : callable
        What is called with the input. A module with parameters should be a layer itself, and a function that uses one
        hides it. A named function can be pickled, a lambda cannot.
    name : str, optional
        How it is shown; by default as it is called.

    Raises
    ------
    TypeError
        If it cannot be called.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.Sequential([nn.Lambda(lambda x: x * 2, name="double"), nn.Lambda(mg.sqrt)])
    Sequential(
      (0): Lambda(double)
      (1): Lambda(sqrt)
    )
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        if isinstance(function, type) or not callable(function):
            raise TypeError(message("Lambda", "function", function, "a function"))
        self.function = function
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        """What the function is called."""
        return self.name or str(getattr(self.function, "__name__", type(self.function).__name__))

"""Sequential: modules one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self, overload

from minigrad.errors import message
from minigrad.nn.module import Module

__all__ = ["Sequential"]


class Sequential(Module):
    """Modules one after the other: each takes what the one before it gives.

    Parameters
    ----------
    *layers : Module, or one iterable of Module
        The modules, named ``"0"``, ``"1"``, ...

    Raises
    ------
    TypeError
        If one of them is no module.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> model = nn.Sequential([nn.Dense(16, activation="relu"), nn.Dropout(0.5)])
    >>> model.add(nn.Dense(10))
    Sequential(
      (0): Dense(? -> 16, activation=relu)
      (1): Dropout(0.5)
      (2): Dense(? -> 10)
    )
    >>> model(mg.ones((4, 8))).shape, len(model), model[-1]
    ((4, 10), 3, Dense(16 -> 10))
    """

    def __init__(self, *layers: Module | Iterable[Module]) -> None:
        first = layers[0] if len(layers) == 1 else None
        given = first if isinstance(first, Iterable) and not isinstance(first, Module) else layers
        self._set(list(given))

    def add(self, layer: Any) -> Self:
        """Append a module; returns the model, so that calls can be chained."""
        self._set([*self._layers, layer])
        return self

    def _set(self, layers: list[Any]) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                got, hint = layer, ""
                if isinstance(layer, type):
                    got, hint = f"the class {layer.__name__}", f"Make a layer of it: {layer.__name__}(...)"
                raise TypeError(message("Sequential", f"layer {i}", got, "a module", hint))
        self._layers: list[Module] = layers
        for i, layer in enumerate(layers):
            layer._name = str(i)

    def forward(self, x: Any) -> Any:
        """Apply the layers in turn."""
        for layer in self._layers:
            x = layer(x)
        return x

    def _members(self) -> Iterator[tuple[str, Any]]:
        for name, member in super()._members():
            yield name.removeprefix("_layers."), member

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | slice) -> Module:
        if not isinstance(index, slice):
            return self._layers[index]
        part = Sequential()
        object.__setattr__(part, "_layers", self._layers[index])  # an error still names a layer as the whole model does
        return part

    def __setitem__(self, index: int, layer: Module) -> None:
        layers: list[Any] = list(self._layers)
        layers[index] = layer
        self._set(layers)

"""Follow: from a Dense or a convolution in a Sequential to the layer that reads its units."""

from __future__ import annotations

from typing import Any

from minigrad.compress.structured.structure import (
    Chain,
    Tree,
    Unknown,
    is_linear,
    is_plain,
    is_sequential,
    join,
    need_elementwise,
    resize,
)
from minigrad.compress.structured.units import Units
from minigrad.nn.batch_norm import BatchNorm
from minigrad.nn.containers import Lambda
from minigrad.nn.convolution import Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.module import Module
from minigrad.nn.normalization import GroupNorm, InstanceNorm, LayerNorm, Normalization, RMSNorm
from minigrad.nn.pooling import (
    AdaptiveAvgPool1D,
    AdaptiveAvgPool2D,
    AvgPool1D,
    AvgPool2D,
    GlobalAvgPool1D,
    GlobalAvgPool2D,
    MaxPool1D,
    MaxPool2D,
)
from minigrad.nn.shape import Flatten

__all__ = ["follow", "is_convolution", "make_units", "read_units", "scale_units"]

POOLS = (AdaptiveAvgPool1D, AdaptiveAvgPool2D, AvgPool1D, AvgPool2D, MaxPool1D, MaxPool2D)
GLOBAL = (GlobalAvgPool1D, GlobalAvgPool2D)


def is_convolution(module: Any) -> bool:
    """Whether a module is one of the four convolutions."""
    return any(is_plain(module, kind, "_apply") for kind in (Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose))


def make_units(name: str, layer: Any) -> Units:
    """The units that a Dense, a projection or a convolution makes: its own tensors only.

    Raises
    ------
    Unknown
        If it is another layer, or its activation mixes units.
    """
    conv = is_convolution(layer)
    if not conv and not is_linear(layer):
        raise Unknown(name, f"a {type(layer).__name__}, which is no plain Dense or convolution")
    if conv and layer.groups > 1:
        raise Unknown(name, f"a convolution in {layer.groups} groups")
    axis = (1 if layer.transposed else 0) if conv else 1
    units = Units(name, layer.weight.shape[axis])
    units.add(join(name, "weight"), layer.weight, axis)
    units.add(join(name, "bias"), layer.bias, 0)
    _resize(units, layer)
    need_elementwise(name, layer.activation, units.count, layer.axes if conv else 0, layer.weight.dtype)
    return units


def _resize(units: Units, layer: Any) -> None:
    if is_convolution(layer):
        resize(units, layer, "filters")
    elif isinstance(layer, Dense):
        resize(units, layer, "units")


def read_units(units: Units, name: str, layer: Any, *, repeats: int = 1) -> None:
    """Have a Dense, a projection or a convolution read the units."""
    if is_convolution(layer):
        if layer.groups > 1:
            raise Unknown(name, f"a convolution in {layer.groups} groups")
        units.add(join(name, "weight"), layer.weight, 0 if layer.transposed else 1, is_read=True)
        units.readers.append((layer, 1))
    elif is_linear(layer):
        units.add(join(name, "weight"), layer.weight, 0, repeats, is_read=True)
        units.readers.append((layer, -1))
    else:
        raise Unknown(name, f"a {type(layer).__name__}, which is no plain Dense or convolution")


def scale_units(units: Units, name: str, norm: Any, *, repeats: int = 1) -> None:
    """Have a normalization that treats each unit by itself follow them."""
    for own in norm._vectors:
        units.add(join(name, own), getattr(norm, own), 0, repeats)
    if norm._given is not None:
        each = norm._given[0] // units.count
        units.settle.append(lambda count: setattr(norm, "_given", (count * each,)))
    if isinstance(norm, GroupNorm):
        resize(units, norm, "num_groups", norm.num_groups // units.count)


def follow(tree: Tree, chain: Chain, start: int) -> Units | None:
    """The units of a layer of a chain with all that belongs to them; None where the chain ends before they are read.

    Raises
    ------
    Unknown
        If a layer behind it mixes them, or is not known.
    """
    name, layer = chain[start]
    state = _Walk(make_units(name, layer), layer)
    units = state.units
    if tree.places[id(layer)] > 1:
        raise Unknown(name, "held in several places")
    for path, m in chain[start + 1 :]:
        if tree.places[id(m)] > 1 and any(True for _ in m._members()):
            raise Unknown(path, "held in several places")
        if state.step(path, m):
            tree.need_own(units)
            return units
    return None


class _Walk:
    """The units as they lie in what goes from layer to layer.

    `places` says where: ``"last"`` for the last axis, ``"channels"`` for axis 1 with positions behind it, ``"flat"``
    for the last axis after a Flatten. There `outside` says whether positions lie around the units or within each.
    """

    def __init__(self, units: Units, layer: Any) -> None:
        self.units, self.dtype = units, layer.weight.dtype
        self.axes = layer.axes if is_convolution(layer) else 0
        self.places = "channels" if self.axes else "last"
        self.outside = False
        self.width = 1  # elements of a unit on its axis, but for positions

    def step(self, name: str, m: Any) -> bool:
        """Go through one layer; True where it reads the units."""
        if is_convolution(m):
            return self._convolution(name, m)
        if is_plain(m, Dense):
            if self.places == "channels":
                raise Unknown(name, "a Dense, which works on the last axis, while channels are on axis 1")
            read_units(self.units, name, m, repeats=self._fit(name, m.weight.shape[0]))
            return True
        if isinstance(m, Normalization):
            self._normalization(name, m)
        elif any(is_plain(m, kind) for kind in (*POOLS, *GLOBAL)):
            if self.places != "channels":
                raise Unknown(name, f"a {type(m).__name__}, which takes channels on axis 1")
            if isinstance(m, GLOBAL):
                self.places = "last"
        elif is_plain(m, Flatten):
            self._flatten(name, m)
        elif not is_plain(m, Dropout):
            self._function(name, m)
        return False

    def _function(self, name: str, m: Module) -> None:
        """A layer without parameters, such as an activation."""
        if is_sequential(m):
            raise Unknown(name, "a Sequential that is held in several places")
        function = m.function if is_plain(m, Lambda) else m  # type: ignore[attr-defined]
        need_elementwise(name, function, self.units.count * self.width, self._axes_behind(), self.dtype)

    def _axes_behind(self) -> int:
        return self.axes if self.places == "channels" else 0

    def _fit(self, name: str, features: int) -> int:
        """How often the units occur, one set after the other, among so many features."""
        own = self.units.count * self.width
        if features % own or (self.places == "last" and features != own):
            raise Unknown(name, f"a layer of {features} features, while {own} come")
        return features // own if self.outside else 1

    def _convolution(self, name: str, m: Any) -> bool:
        if self.places != "channels" or m.axes != self.axes:
            raise Unknown(name, f"a {type(m).__name__}, which takes channels on axis 1 of {self.axes + 2} or more")
        self._fit_channels(name, m.in_channels)
        if m.groups == 1:
            read_units(self.units, name, m)
            return True
        if m.groups != m.in_channels or m.transposed:
            raise Unknown(name, f"a convolution in {m.groups} groups")
        # each channel by itself: they are carried on, and may become several
        own = m.groups // self.units.count
        self.units.add(join(name, "weight"), m.weight, 0)
        self.units.add(join(name, "bias"), m.bias, 0)
        self.width = m.filters // self.units.count
        resize(self.units, m, "filters", self.width)
        resize(self.units, m, "groups", own)
        need_elementwise(name, m.activation, m.filters, self.axes, self.dtype)
        return False

    def _fit_channels(self, name: str, channels: int | None) -> None:
        if channels != self.units.count * self.width:
            raise Unknown(name, f"a layer of {channels} channels, while {self.units.count * self.width} come")

    def _normalization(self, name: str, m: Any) -> None:
        for kind in (LayerNorm, RMSNorm):
            if isinstance(m, kind):
                raise Unknown(name, f"a {kind.__name__}, whose statistics are those of all units")
        if not any(is_plain(m, kind) for kind in (BatchNorm, GroupNorm, InstanceNorm)):
            raise Unknown(name, f"a {type(m).__name__}, which is not known")
        if isinstance(m, BatchNorm):
            if m.axis not in ((1,) if self.places == "channels" else (1, -1)):
                raise Unknown(name, f"a {type(m).__name__} of axis {m.axis}, on which the units are not")
        elif self.places != "channels":
            raise Unknown(name, f"a {type(m).__name__}, which takes channels on axis 1")
        if isinstance(m, GroupNorm) and m.num_groups != self.units.count * self.width:
            raise Unknown(name, "a GroupNorm, whose statistics are those of several units")
        known = m._known()
        if known is None:  # neither weights nor statistics, so nothing to cut
            if isinstance(m, GroupNorm):
                resize(self.units, m, "num_groups", self.width)
            return
        if self.places == "channels":
            self._fit_channels(name, known[0])
        scale_units(self.units, name, m, repeats=self._fit(name, known[0]))

    def _flatten(self, name: str, m: Any) -> None:
        if (m.start_axis, m.end_axis) != (1, -1):
            raise Unknown(name, "a Flatten of other axes than all but the first")
        if self.places != "flat":
            self.outside = self.places == "last"
            self.places = "flat"

"""NameMap: how weights that others saved become ours, name by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minigrad.errors import message
from minigrad.nn.deferred import Deferred, shape_text
from minigrad.nn.module import LoadReport, Module
from minigrad.nn.shared_parameters import first_names
from minigrad.tensor import Tensor

__all__ = ["NameMap", "Rename", "Renamed"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rename:
    """One rule of a `NameMap`: what the tensors of some names become.

    Names are templates: ``{layer}`` stands for one part between dots, and for the same in all of them. The sources,
    each transposed if it says so, are joined along an axis, and what that gives is divided into the targets.

    Parameters
    ----------
    source, target : str or tuple of str
        Templates of the names there and here. Target None leaves the tensor away.
    transpose : bool
        Exchange the last two axes of the sources, as for the weights (out, in) of PyTorch's linear layers.
    axis : int
        Where several are joined or divided, counted in the targets.
    sizes : tuple of int, optional
        The extents of the parts along the axis; equal ones by default.
    prefixed : bool
        Whether the prefix of the map stands before the sources where they are written; it may where they are read.
    """

    source: str | tuple[str, ...]
    target: str | tuple[str, ...] | None
    transpose: bool = False
    axis: int = -1
    sizes: tuple[int, ...] | None = None
    prefixed: bool = True

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The templates of the names there."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The templates of the names here."""
        return (self.target,) if isinstance(self.target, str) else self.target or ()

    @cached_property
    def source_patterns(self) -> tuple[re.Pattern[str], ...]:
        """What finds the names there."""
        return tuple(map(_pattern, self.sources))

    @cached_property
    def target_patterns(self) -> tuple[re.Pattern[str], ...]:
        """What finds the names here."""
        return tuple(map(_pattern, self.targets))

    def forward(self, arrays: list[Array]) -> list[Array]:
        """The targets of all sources."""
        return _divided(_joined([self._turned(a) for a in arrays], self.axis), len(self.targets), self.axis, self.sizes)

    def backward(self, arrays: list[Array]) -> list[Array]:
        """The sources of all targets."""
        parts = _divided(_joined(arrays, self.axis), len(self.sources), self.axis, self.sizes)
        return [self._turned(a) for a in parts]

    def _turned(self, a: Array) -> Array:
        return a.swapaxes(-1, -2) if self.transpose and a.ndim > 1 else a


class Renamed(NamedTuple):
    """What `NameMap.translate` gives.

    Parameters
    ----------
    weights : dict of str to numpy.ndarray
        By our names.
    missing, unexpected, misshaped : list of str
        Names of the source: what is needed to complete a join, what no rule speaks of, and what cannot be divided.
    """

    weights: dict[str, Array]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]


class NameMap:
    """A list of rules that turn the names and layouts of one program's weights into another's.

    Parameters
    ----------
    rules : iterable of Rename
        The first that fits a name counts.
    prefix : str
        What the names there may begin with.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.io import NameMap, Rename
    >>> qkv = Rename("h.{i}.qkv.{p}", ("layers.{i}.query.{p}", "layers.{i}.key.{p}", "layers.{i}.value.{p}"))
    >>> names = NameMap([qkv, Rename("out.weight", "head.weight", transpose=True)], prefix="model.")
    >>> found = names.translate({"model.h.3.qkv.weight": np.ones((4, 12)), "out.weight": np.ones((9, 4)), "odd": 0})
    >>> {name: array.shape for name, array in found.weights.items()}
    {'layers.3.query.weight': (4, 4), 'layers.3.key.weight': (4, 4), 'layers.3.value.weight': (4, 4),
     'head.weight': (4, 9)}
    >>> found.unexpected, sorted(names.back(found.weights))
    (['odd'], ['model.h.3.qkv.weight', 'model.out.weight'])
    """

    def __init__(self, rules: Iterable[Rename], *, prefix: str = "") -> None:
        self.rules = list(rules)
        self.prefix = prefix

    def translate(self, weights: Mapping[str, Any]) -> Renamed:
        """Weights by our names; what does not fit is listed.

        Parameters
        ----------
        weights : mapping of str to array_like
            As `minigrad.io.load_weights` gives them.
        """
        result = Renamed({}, [], [], [])
        groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, str]] = {}
        for name in weights:
            found = self._find(name.removeprefix(self.prefix), "source_patterns")
            if found is None:
                result.unexpected.append(name)
            elif self.rules[found[0]].targets:
                number, place, fields = found
                groups.setdefault((number, fields), {})[place] = name
        for (number, fields), members in groups.items():
            rule, values = self.rules[number], dict(fields)
            absent = [name for i, name in enumerate(self._sources(rule, values)) if i not in members]
            if absent:
                result.missing.extend(absent)
                continue
            names = [members[i] for i in range(len(rule.sources))]
            arrays = [_array(weights[name]) for name in names]
            try:
                made = rule.forward(arrays)
            except ValueError as error:
                shapes = ", ".join(f"{name} is {array.shape}" for name, array in zip(names, arrays))
                result.misshaped.append(f"{shapes}: {error}")
                continue
            result.weights.update(zip((t.format(**values) for t in rule.targets), made, strict=True))
        return result

    def back(self, weights: Mapping[str, Any]) -> dict[str, Array]:
        """The same in reverse: weights by our names become theirs.

        Raises
        ------
        ValueError
            If no rule speaks of a name, or a join lacks one.
        """
        groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, Array]] = {}
        for name, value in weights.items():
            found = self._find(name, "target_patterns")
            if found is None:
                raise ValueError(message("NameMap", "weights", repr(name), "names that a rule speaks of"))
            number, place, fields = found
            groups.setdefault((number, fields), {})[place] = _array(value)
        made: dict[str, Array] = {}
        for (number, fields), members in groups.items():
            rule, values = self.rules[number], dict(fields)
            absent = [t.format(**values) for i, t in enumerate(rule.targets) if i not in members]
            if absent:
                raise ValueError(message("NameMap", "weights", f"without {', '.join(absent)}", "all parts of a join"))
            arrays = rule.backward([members[i] for i in range(len(rule.targets))])
            made.update(zip(self._sources(rule, values), arrays, strict=True))
        return made

    def load(self, module: Module, weights: Mapping[str, Any], *, strict: bool = True) -> LoadReport:
        """Copy weights into a module; all of them fit, or nothing is changed.

        Parameters
        ----------
        module : Module
            Where to.
        weights : mapping of str to array_like
            By the names of the source.
        strict : bool
            Raise where names are missing or unexpected too; otherwise they are reported and left alone.

        Returns
        -------
        LoadReport
            Our missing names, and the source's unexpected ones.

        Raises
        ------
        ValueError
            One error that lists all that is missing, unexpected and mis-shaped, by both names.
        """
        found = self.translate(weights)
        own = {name: t for name, t, persistent in module._tensors() if persistent}
        tied = first_names(module, own, found.weights)
        missing = [name for name in own if name not in found.weights and name not in tied.values()]
        strange = [name for name in found.weights if name not in own and name not in tied]
        unexpected = [*found.unexpected, *map(self._both, strange)]
        misshaped = list(found.misshaped)
        for name, array in found.weights.items():
            t = own.get(tied.get(name, name))
            if t is not None and not (t.accepts(array.shape) if isinstance(t, Deferred) else t.shape == array.shape):
                misshaped.append(f"{self._both(name)} is {array.shape}, needs {shape_text(t)}")
        lists = [("mis-shaped", misshaped)]
        if strict:
            absent = [*found.missing, *map(self._both, missing)]
            lists = [("missing", absent), ("unexpected", unexpected), *lists]
        if any(names for _, names in lists):
            text = "".join(f"\n    {what}: {', '.join(names)}" for what, names in lists if names)
            raise ValueError(f"NameMap: the weights do not fit {type(module).__name__}:{text}")
        module.load_state_dict({name: a for name, a in found.weights.items() if name not in strange}, strict=False)
        return LoadReport(missing, unexpected)

    def _find(self, name: str, patterns: str) -> tuple[int, int, tuple[tuple[str, str], ...]] | None:
        """The rule that a name fits, which of its names it is, and what the places stand for."""
        for number, rule in enumerate(self.rules):
            for place, pattern in enumerate(getattr(rule, patterns)):
                found = pattern.fullmatch(name)
                if found:
                    return number, place, tuple(sorted(found.groupdict().items()))
        return None

    def _both(self, target: str) -> str:
        """Our name, and where it comes from."""
        found = self._find(target, "target_patterns")
        if found is None:
            return target
        number, _, fields = found
        return f"{target} (from {' and '.join(self._sources(self.rules[number], dict(fields)))})"

    def _sources(self, rule: Rename, values: Mapping[str, str]) -> list[str]:
        """The names there that a rule speaks of."""
        return [(self.prefix if rule.prefixed else "") + source.format(**values) for source in rule.sources]


def _pattern(template: str) -> re.Pattern[str]:
    """What fits a template."""
    parts: list[str] = []
    seen: set[str] = set()
    for i, part in enumerate(re.split(r"\{(\w+)\}", template)):
        if i % 2 == 0:
            parts.append(re.escape(part))
        else:
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>[^.]+)")
            seen.add(part)
    return re.compile("".join(parts))


def _array(value: Any) -> Array:
    return value.detach().to("cpu").numpy() if isinstance(value, Tensor) else np.asarray(value)


def _joined(arrays: list[Array], axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)


def _divided(array: Array, parts: int, axis: int, sizes: tuple[int, ...] | None) -> list[Array]:
    if parts == 1:
        return [array]
    if sizes is None:
        return np.split(array, parts, axis)
    if sum(sizes) != array.shape[axis]:
        raise ValueError(f"axis {axis} needs {sum(sizes)}, the sum of {sizes}")
    return np.split(array, np.cumsum(sizes)[:-1], axis)

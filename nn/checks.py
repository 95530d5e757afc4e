"""Checks and writes that modules share."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from minigrad import ops
from minigrad._core import tape
from minigrad.backend.devices import writeable
from minigrad.backend.rows import RowSparse
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.deferred import Deferred
from minigrad.tensor import Tensor

__all__ = [
    "as_tensor", "check_hook", "check_name", "check_names", "check_options", "clear_gradients", "extent",
    "finite", "integer", "kept_buffers", "number", "positive", "write",
]  # fmt: skip


def integer(who: str, name: str, value: Any) -> int:
    """An int, of any sign."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(message(who, name, describe(value), "an int")) from None


def extent(who: str, name: str, value: Any) -> int:
    """A positive extent; `who` is the layer and `name` its argument."""
    found = integer(who, name, value)
    if found < 1:
        raise ShapeError(message(who, name, f"{found}", "at least 1"))
    return found


def number(who: str, name: str, value: Any) -> float:
    """A float."""
    try:
        if not isinstance(value, (str, bytes)):  # which float would read
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(message(who, name, describe(value), "a number"))


def finite(who: str, name: str, value: Any) -> float:
    """A finite number."""
    found = number(who, name, value)
    if not math.isfinite(found):
        raise ValueError(message(who, name, f"{found}", "a finite number"))
    return found


def positive(who: str, name: str, value: Any) -> float:
    """A finite number above 0."""
    found = number(who, name, value)
    if not 0 < found < math.inf:
        raise ValueError(message(who, name, f"{found}", "a positive number"))
    return found


def check_options(who: str, options: Iterable[str], part: type, taken: Iterable[str]) -> None:
    """Raise where an option is no argument of the class that takes it, or one that the layer says itself."""
    known: dict[str, None] = {}
    for kind in part.__mro__:
        if "__init__" in vars(kind) and kind is not object:
            known |= dict.fromkeys(list(inspect.signature(kind.__init__).parameters)[1:])  # type: ignore[misc]
    for name in (*taken, "options"):
        known.pop(name, None)
    for name in options:
        if name not in known:
            raise TypeError(message(who, None, f"an argument {name}", f"one of its own or of {', '.join(known)}"))


def as_tensor(x: Any) -> Tensor:
    """What a layer is called with, as a tensor; `ops.asarray` costs microseconds where it is one."""
    return x if isinstance(x, Tensor) else ops.asarray(x)


def check_hook(hook: Any, who: str) -> Any:
    """The hook, if it can be called."""
    if not callable(hook):
        raise TypeError(message(who, "hook", hook, "a function"))
    return hook


def check_name(who: str, name: Any) -> None:
    """Raise where an attribute's name would not be found again in a path."""
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(message(who, "name", repr(name), "a name without dots"))


def check_names(who: str, found: Iterable[tuple[str, Any]]) -> None:
    """Raise where two members of the tree go by one name, as with the keys 1 and "1" of a dict."""
    names: dict[str, Any] = {}
    for name, member in found:
        other = names.setdefault(name, member)
        if other is not member:
            got = f"the name of two members, {describe(other)} and {describe(member)}"
            hint = "Give the keys of dicts other names, without dots"
            raise ValueError(message(who, repr(name), got, "one member a name", hint))


def write(t: Tensor, value: Tensor) -> None:
    """Copy values of the same dtype and device into a tensor's memory."""
    if isinstance(t, Deferred) and not t.is_initialized:
        t.complete(value)
    else:
        t._array[...] = value._array
    tape.mark_changed(t)


@contextmanager
def kept_buffers(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Put buffers back after a block that may change them, as `BatchNorm` does; those left alone are not written to."""
    kept = [(t, t._array.copy()) for t in buffers]
    try:
        yield
    finally:
        for t, values in kept:
            # one whose shape the block completed keeps its first values
            if t._array.shape == values.shape and t._array.tobytes() != values.tobytes():
                t._array[...] = values
                tape.mark_changed(t)


def clear_gradients(parameters: list[Any], set_to_none: bool) -> None:
    """Drop gradients, or fill them with zeros."""
    for p in parameters:
        if set_to_none or p._grad is None:
            p._grad = None
        elif isinstance(p._grad._array, RowSparse):
            p._grad = tape.new_tensor(RowSparse.empty(p.shape, p.dtype))
        elif p._grad.requires_grad or not writeable(p._grad._array):
            p._grad = ops.zeros_like(p._grad.detach())
        else:  # in its memory, which a captured step adds to
            p._grad._array[...] = 0
            tape.mark_updated([p._grad], "zero_grad")

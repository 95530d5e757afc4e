"""Samples: plain data that says on which inputs an op is tried, and which inputs it must refuse."""

from __future__ import annotations

from functools import cache
from typing import Any

from minigrad.errors import DTypeError

__all__ = ["A", "Case", "binary", "case", "error", "unary"]


class A:
    """One array input, described and not yet drawn.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    low, high : float
        Its values lie between them (integers: ``low <= value < high``).
    avoid : tuple of float
        Points that values keep a distance of 0.1 from: kinks and poles.
    kind : str
        ``"float"``, ``"int"``, ``"bool"``; only floats are differentiated.
    form : str
        ``"any"``; ``"distinct"``: all values at least 0.1 apart; ``"spd"``: symmetric positive definite matrices;
        ``"symmetric"``; ``"regular"``: matrices with singular values between 0.5 and 2, well apart; ``"sorted"``.
    """

    # a plain class: dataclasses import inspect, which every `import minigrad` would pay for
    __slots__ = ("avoid", "form", "high", "kind", "low", "shape")

    def __init__(
        self,
        shape: tuple[int, ...],
        low: float = -2.0,
        high: float = 2.0,
        avoid: tuple[float, ...] = (),
        kind: str = "float",
        form: str = "any",
    ) -> None:
        self.shape, self.low, self.high, self.avoid, self.kind, self.form = shape, low, high, avoid, kind, form

    def __repr__(self) -> str:
        return f"A({self.shape}, {self.low}, {self.high}, avoid={self.avoid}, kind={self.kind!r}, form={self.form!r})"


class Case:
    """One call of an op: array inputs (shapes, descriptions, or values taken as they are), parameters, what happens."""

    # every import makes all cases and only the tests read them: so inputs are described on demand, and `unary` and
    # `binary` make once what many ops share
    __slots__ = ("given", "params", "raises", "text")

    def __init__(
        self, given: tuple[Any, ...], params: dict[str, Any], raises: type[Exception] | None = None, text: str = ""
    ) -> None:
        self.given, self.params, self.raises, self.text = given, params, raises, text

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The inputs, every shape among them turned into a description."""
        return tuple(A(i) if isinstance(i, tuple) else i for i in self.given)

    def __repr__(self) -> str:
        return f"Case({self.inputs}, {self.params}, raises={self.raises})"


def case(*inputs: Any, **params: Any) -> Case:
    """A call that works; a tuple of ints stands for an array of that shape."""
    return Case(inputs, params)


def error(raises: type[Exception], text: str, *inputs: Any, **params: Any) -> Case:
    """A call that must raise `raises` with `text` in its message."""
    return Case(inputs, params, raises, text)


@cache
def unary(low: float = -2.0, high: float = 2.0, avoid: tuple[float, ...] = (), **params: Any) -> tuple[Case, ...]:
    """The shapes that every elementwise op of one argument is tried on, and what none takes."""
    shapes: list[tuple[int, ...]] = [(), (3,), (2, 3), (0, 2), (2, 1, 3)]
    tried = tuple(Case((A(shape, low, high, avoid),), params) for shape in shapes)
    return (*tried, error(DTypeError, "x is text, needs a tensor, an array or a number", "text", **params))


@cache
def binary(
    first: tuple[float, float] = (-2.0, 2.0),
    second: tuple[float, float] | None = None,
    avoid: tuple[float, ...] = (),
    **params: Any,
) -> tuple[Case, ...]:
    """The shapes, broadcasting among them, that every elementwise op of two arguments is tried on."""
    second = second or first
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 2)), ((2, 3), ()), ((0, 3), (1, 3)),
    ]  # fmt: skip
    return tuple(Case((A(a, *first, avoid), A(b, *second, avoid)), params) for a, b in shapes)

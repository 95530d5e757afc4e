"""Work: one thing to measure on the GPU, defined once for both libraries, in a few variants of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SIDES = ("minigrad", "minigrad graph", "torch", "torch compile")  # the first word is the library


@dataclass(frozen=True)
class Work:
    """A name, and what builds for each side the function that is timed.

    A builder gets the library; what the function returns, tensors, must be the same on all sides up to `tolerance` of
    their norm, as `compare` sees them. `flops`, `moved`: operations, and bytes to and from memory, that a call needs
    at the least; `items` of a kind are counted a second. So many results are compared as `checked` says.
    """

    name: str
    sides: Mapping[str, Callable[[Any], Callable[[], Any]]]
    flops: float | None = None
    moved: float | None = None
    items: tuple[float, str] | None = None
    tolerance: float = 1e-3
    checked: int = 2  # the second shows an optimizer's step
    compare: Callable[[Any], Any] = np.asarray


def passes(
    function: Callable[[Any], Callable[..., Any]], inputs: Callable[[], list[Any]], dtype: str, constants: int = 0
) -> dict[str, Callable[[Any], Callable[[], Any]]]:
    """Forward and backward of a function of tensors; the last `constants` of the inputs get no gradient.

    `function` gives, for a library, the function. The first input has the shape of its result, or the result has none.
    """

    def build(library: Any, compiled: bool) -> Callable[[], Any]:
        arrays = inputs()
        count = len(arrays) - constants
        leaves = [library.put(array, dtype, grad=True) for array in arrays[:count]]
        given = [library.put(array) for array in arrays[count:]]
        computes = library.compile(function(library)) if compiled else function(library)
        rng = np.random.default_rng(9)
        cotangent = None

        def run() -> Any:
            nonlocal cotangent
            out = computes(*leaves, *given)
            if cotangent is None:
                shape = tuple(out.shape)
                cotangent = library.put(
                    rng.standard_normal(shape).astype(np.float32) if shape else np.float32(1), dtype
                )
                cotangent = cotangent.to(out.dtype) if cotangent.dtype != out.dtype else cotangent
            for leaf in leaves:
                leaf.grad = None
            out.backward(cotangent)
            return [out, *(leaf.grad for leaf in leaves)]

        return run

    return {
        "minigrad": lambda library: build(library, False),
        "torch": lambda library: build(library, False),
        "torch compile": lambda library: build(library, True),
    }

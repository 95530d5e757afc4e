"""Elementwise functions on the GPU: each one kernel forward and one backward, for half types too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.chunks import FLOATS, in_order, launch
from minigrad.ops import activation, exponential, trigonometric

__all__ = ["backward", "forward"]

Array = Any

SELU = activation.SELU_SCALE, activation.SELU_SCALE * activation.SELU_ALPHA


def forward(name: str, x: Array, a: float = 0.0, b: float = 0.0) -> Array:
    """The values of a function of functions.cuh with its parameters."""
    x = in_order(x)
    out = cupy.empty(x.shape, x.dtype)
    size = x.dtype.itemsize
    launch(
        "elementwise",
        f"{name}_{x.dtype.name}",
        x.size,
        16 // size,
        x,
        out,
        np.int64(x.size),
        np.float64(a),
        np.float64(b),
    )
    return out


def backward(name: str, g: Array, x: Array, a: float = 0.0, b: float = 0.0) -> Array:
    """The cotangent times the derivative; `x` is what the function was given or, where that is saved, its result."""
    if g.dtype != x.dtype or g.shape != x.shape:
        return NotImplemented
    # one number for all elements, as the rule of a sum makes it, is read where it is
    one = all(step == 0 or extent == 1 for step, extent in zip(g.strides, g.shape, strict=True))
    x = in_order(x)
    out = cupy.empty(x.shape, x.dtype)
    numbers = np.int64(x.size), np.int32(one), np.float64(a), np.float64(b)
    given = g if one else in_order(g)
    launch("elementwise", f"{name}_vjp_{x.dtype.name}", x.size, 16 // x.dtype.itemsize, given, x, out, *numbers)
    return out


def register(op: Any, function: str, constants: Callable[..., tuple[float, ...]]) -> None:
    """Let a function stand in for an op and its rule, with the constants that the op's parameters make."""

    def run(x: Array, **params: Any) -> Array:
        if not all(isinstance(value, (int, float)) for value in params.values()):
            return NotImplemented
        return forward(function, x, *constants(**params))

    def pull(g: Array, x: Array, **params: Any) -> Array:
        if not all(isinstance(value, (int, float)) for value in params.values()):
            return NotImplemented
        return backward(function, g, x, *constants(**params))

    op.kernel("cuda", *FLOATS)(run)
    op.kernel("cuda", *FLOATS, vjp=0)(pull)


for _op in (
    activation.erf, activation._gelu, activation._gelu_tanh, activation.hardswish, activation.log_sigmoid,
    activation.mish, activation.relu, activation.sigmoid, activation.silu, activation.softplus, exponential.exp,
    exponential.log, trigonometric.tanh,
):  # fmt: skip
    register(_op, _op.name, tuple)
register(activation.leaky_relu, "leaky_relu", lambda negative_slope: (negative_slope,))
register(activation.elu, "elu", lambda alpha: (1.0, alpha))
register(activation.selu, "elu", lambda: SELU)

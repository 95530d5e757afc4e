"""Bias and activation of linear layers on the GPU, and the gradient of the bias."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.chunks import FLOATS, THREADS, in_order, launch
from minigrad.backend.cuda.modules import kernel
from minigrad.ops.matmul import linear, linear_relu

__all__ = ["ACTIVATIONS", "add_bias", "bias_gradient"]

Array = Any

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")  # their places are those of bias.cu
LANES, TEAMS = 32, 8  # of a block: chunks of columns, and the rows that it reads at a time
BLOCKS = 1024  # about as many as keep every GPU busy
LEAST = 64  # rows a piece


def add_bias(out: Array, bias: Array, activation: str | None = None) -> Array:
    """``activation(out + bias)`` in place; returns `out`.

    Parameters
    ----------
    out : cupy.ndarray
        (..., n), in C order.
    bias : cupy.ndarray
        (n,), of the dtype of `out`.
    activation : str, optional
        One of `ACTIVATIONS`.
    """
    numbers = np.int64(out.size), np.int64(out.shape[-1]), np.int32(ACTIVATIONS.index(activation))
    launch("bias", f"add_bias_{out.dtype.name}", out.size, 16 // out.dtype.itemsize, out, in_order(bias), *numbers)
    return out


def bias_gradient(g: Array, kept: Array | None = None) -> Array:
    """The sums of the columns of g, (..., n), in a fixed order; half types are summed in float32.

    Where `kept` is there, the result of a relu in the shape of g, only what lies where it is positive counts.
    """
    n = g.shape[-1]
    rows = math.prod(g.shape[:-1])
    if not rows or not n:
        return cupy.zeros(n, g.dtype)
    g, name = in_order(g), g.dtype.name
    mask = np.uint64(0) if kept is None else in_order(kept)
    out = cupy.empty(n, g.dtype)
    tiles = -(-n // (LANES * (16 // g.dtype.itemsize)))
    pieces = max(
        1, min(-(-rows // LEAST), BLOCKS // tiles)
    )  # by the shape alone, so that the sums are the same anywhere
    if pieces == 1:
        kernel("bias", f"column_sums_{name}")(
            (tiles, 1), (THREADS,), (g, mask, out, np.int64(rows), np.int64(n), np.int64(rows))
        )
        return out
    piece = -(-rows // pieces)
    pieces = -(-rows // piece)
    parts = cupy.empty((pieces, n), dtypes.float64 if g.dtype == dtypes.float64 else dtypes.float32)
    numbers = np.int64(rows), np.int64(n), np.int64(piece)
    kernel("bias", f"column_parts_{name}")((tiles, pieces), (THREADS,), (g, mask, parts, *numbers))
    kernel("bias", f"column_fold_{name}")((-(-n // LANES), 1), (THREADS,), (parts, out, np.int64(pieces), np.int64(n)))
    return out


linear.kernel("cuda", *FLOATS, vjp=2)(bias_gradient)
linear_relu.kernel("cuda", *FLOATS, vjp=2)(bias_gradient)

"""Cross entropy of a linear layer's outputs on the GPU: chunks of logits, their losses and gradients by our kernels.

Half types are multiplied on tensor cores; their logits, losses and sums are float32.
"""

from __future__ import annotations

from typing import Any

import cupy

from minigrad.backend.cuda.blas import Matrix, multiply
from minigrad.backend.cuda.cross_entropy import aligned_rows, gradient, losses
from minigrad.backend.cuda.matmul import read, readable
from minigrad.backend.cuda.rows import FLOATS, fits, wide
from minigrad.ops.linear_cross_entropy import _linear_cross_entropy, chunks, divisor
from minigrad.ops.linear_cross_entropy import fits as multiplies

__all__ = ["backward", "forward"]

Array = Any
CHUNK = 2**27  # logits at a time, unless the caller says how many rows: 512 MiB


def product(x: Array, y: Array, out: Array, adds: bool = False) -> Array:
    """``x @ y``, of half types in float32, written or added to `out`."""
    a, b = readable(x), readable(y)
    left, right = Matrix(a.data.ptr, *read(a)), Matrix(b.data.ptr, *read(b))
    (m, k), n = x.shape, y.shape[1]
    to = Matrix(out.data.ptr, False, max(out.strides[0] // out.itemsize, n))
    multiply(a.dtype, out.dtype, m, n, k, left, right, to, adds, 1)
    return out


def affine(x: Array, weight: Array, bias: Array | None) -> Array:
    """The logits of some rows."""
    logits = product(x, weight, aligned_rows(x.shape[0], weight.shape[1], wide(x.dtype)))
    if bias is not None:
        logits += bias
    return logits


def parts(n: int, classes: int, chunk: int | None) -> list[slice]:
    """The rows that are computed at a time: more than on the CPU, which has them in its cache."""
    return chunks(n, classes, chunk or max(CHUNK // classes // 128, 1) * 128)


def takes(x: Array, weight: Array, targets: Array, bias: Array | None, class_weight: Array | None) -> bool:
    """Whether the chunks fit the kernels."""
    if not multiplies(x, weight, targets, bias) or not fits(x.dtype, weight, bias):
        return False
    if not fits(wide(x.dtype), class_weight):
        return False
    return x.size > 0 and weight.size > 0 and (class_weight is None or class_weight.shape == weight.shape[1:])


def forward(
    x: Array,
    weight: Array,
    targets: Array,
    bias: Array | None,
    class_weight: Array | None,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    chunk: int | None,
) -> Any:
    """Kernel of the op: the logits of one chunk after another."""
    if not takes(x, weight, targets, bias, class_weight):
        return NotImplemented
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": "none"}
    dtype = wide(x.dtype)
    out = cupy.empty(x.shape[0], dtype)
    for at in parts(x.shape[0], weight.shape[1], chunk):
        found = losses(affine(x[at], weight, bias), targets[at], class_weight, **options)
        if found is NotImplemented:
            return NotImplemented
        out[at] = found
    if reduction != "none":
        out = cupy.sum(out)
    if reduction == "mean":
        out = out / divisor(cupy, targets, class_weight, ignore_index, dtype)
    return out


def backward(
    g: Array,
    x: Array,
    weight: Array,
    targets: Array,
    bias: Array | None,
    class_weight: Array | None,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    chunk: int | None,
) -> Any:
    """Kernel of its rule: the logits again, and their gradient, a chunk at a time.

    What all rows have in common of the cotangent comes last: its share of one row may be too small for a half type.
    """
    if not takes(x, weight, targets, bias, class_weight):
        return NotImplemented
    each = reduction == "none"
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": "none" if each else "sum",
    }
    dtype = wide(x.dtype)
    g = g.astype(dtype, copy=False)
    factor = cupy.ones((), dtype) if each else g
    if reduction == "mean":
        factor = g / divisor(cupy, targets, class_weight, ignore_index, dtype)
    cotangent = g if each else cupy.ones((), dtype)
    dx, dweight = cupy.empty(x.shape, x.dtype), cupy.zeros(weight.shape, dtype)
    dbias = None if bias is None else cupy.zeros(bias.shape, dtype)
    for at in parts(x.shape[0], weight.shape[1], chunk):
        given = cotangent[at] if each else cotangent
        logits = affine(x[at], weight, bias)
        found = gradient(given, logits, targets[at], class_weight, dtype=x.dtype, **options)
        if found is NotImplemented:
            return NotImplemented
        if dbias is not None:
            product(cupy.ones((1, found.shape[0]), x.dtype), found, dbias[None], adds=True)
        dx[at] = product(found, weight.T, cupy.empty(x[at].shape, dtype)) * factor
        product(x[at].T, found, dweight, adds=True)
    dweight, dbias = ((None if a is None else (a * factor).astype(x.dtype, copy=False)) for a in (dweight, dbias))
    return dx, dweight, None, dbias, None


_linear_cross_entropy.kernel("cuda", *FLOATS)(forward)
_linear_cross_entropy.kernel("cuda", *FLOATS, vjp=-1)(backward)

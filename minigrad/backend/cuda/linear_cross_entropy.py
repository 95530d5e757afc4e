"""Cross entropy of a linear layer's outputs on the GPU: chunks of logits, their losses and gradients by our kernels.

Half types are multiplied on tensor cores; their logits, losses and sums are float32.
"""

from __future__ import annotations

from typing import Any

import cupy

from minigrad.backend.cuda.cross_entropy import gradient, losses
from minigrad.backend.cuda.matmul import Product, readable
from minigrad.backend.cuda.rows import FLOATS, fits, wide
from minigrad.ops.linear_cross_entropy import _linear_cross_entropy, chunks, divisor
from minigrad.ops.linear_cross_entropy import fits as multiply

__all__ = ["backward", "forward"]

Array = Any


def product(x: Array, y: Array, out: Array | None = None) -> Array:
    """``x @ y``, of half types in float32; added to `out` where there is one."""
    made = cupy.empty((x.shape[0], y.shape[1]), wide(x.dtype)) if out is None else out
    Product(readable(x), readable(y), made.shape).compute(made, out is not None)
    return made


def affine(x: Array, weight: Array, bias: Array | None) -> Array:
    """The logits of some rows."""
    logits = product(x, weight)
    if bias is not None:
        logits += bias
    return logits


def takes(x: Array, weight: Array, targets: Array, bias: Array | None, class_weight: Array | None) -> bool:
    """Whether the chunks fit the kernels."""
    if not multiply(x, weight, targets, bias) or not fits(x.dtype, weight, bias, class_weight):
        return False
    return x.size > 0 and weight.size > 0 and (class_weight is None or class_weight.shape == weight.shape[1:])


def widened(x: Array | None, dtype: Any) -> Array | None:
    """`x` in the dtype of the logits."""
    return None if x is None else x.astype(dtype, copy=False)


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
    class_weight, out = widened(class_weight, dtype), cupy.empty(x.shape[0], dtype)
    for at in chunks(x.shape[0], weight.shape[1], chunk):
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
    class_weight, g = widened(class_weight, dtype), g.astype(dtype, copy=False)
    factor = cupy.ones((), dtype) if each else g
    if reduction == "mean":
        factor = g / divisor(cupy, targets, class_weight, ignore_index, dtype)
    cotangent = g if each else cupy.ones((), dtype)
    dx, dweight = cupy.empty(x.shape, x.dtype), cupy.zeros(weight.shape, dtype)
    dbias = None if bias is None else cupy.zeros(bias.shape, dtype)
    for at in chunks(x.shape[0], weight.shape[1], chunk):
        given = cotangent[at] if each else cotangent
        found = gradient(given, affine(x[at], weight, bias), targets[at], class_weight, **options)
        if found is NotImplemented:
            return NotImplemented
        if dbias is not None:
            dbias += cupy.sum(found, axis=0)
        found = found.astype(x.dtype, copy=False)
        dx[at] = product(found, weight.T) * factor
        product(x[at].T, found, dweight)
    dweight, dbias = ((None if a is None else (a * factor).astype(x.dtype, copy=False)) for a in (dweight, dbias))
    return dx, dweight, None, dbias, None


_linear_cross_entropy.kernel("cuda", *FLOATS)(forward)
_linear_cross_entropy.kernel("cuda", *FLOATS, vjp=-1)(backward)

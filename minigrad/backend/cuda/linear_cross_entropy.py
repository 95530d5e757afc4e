"""Cross entropy of a linear layer's outputs on the GPU: chunks of logits, their losses and gradients by our kernels."""

from __future__ import annotations

from typing import Any

import cupy

from minigrad import dtypes
from minigrad.backend.cuda.cross_entropy import gradient, losses
from minigrad.backend.cuda.rows import fits
from minigrad.ops.linear_cross_entropy import _linear_cross_entropy, chunks, divisor
from minigrad.ops.linear_cross_entropy import fits as multiply
from minigrad.ops.matmul import matmul

__all__ = ["backward", "forward"]

Array = Any


def product(x: Array, y: Array) -> Array:
    """``x @ y``, by the kernel of matmul where it takes the arrays."""
    kernel = matmul.kernels.get(("cuda", x.dtype))
    out = NotImplemented if kernel is None else kernel(x, y)
    return cupy.matmul(x, y) if out is NotImplemented else out


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
    out = cupy.empty(x.shape[0], x.dtype)
    for at in chunks(x.shape[0], weight.shape[1], chunk):
        found = losses(affine(x[at], weight, bias), targets[at], class_weight, **options)
        if found is NotImplemented:
            return NotImplemented
        out[at] = found
    if reduction == "none":
        return out
    loss = cupy.sum(out)
    return loss / divisor(cupy, targets, class_weight, ignore_index, x.dtype) if reduction == "mean" else loss


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
    """Kernel of its rule: the logits again, and their gradient, a chunk at a time."""
    if not takes(x, weight, targets, bias, class_weight):
        return NotImplemented
    each = reduction == "none"
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": "none" if each else "sum",
    }
    if reduction == "mean":
        g = g / divisor(cupy, targets, class_weight, ignore_index, x.dtype)
    dx, dweight = cupy.empty(x.shape, x.dtype), cupy.zeros(weight.shape, x.dtype)
    dbias = None if bias is None else cupy.zeros(bias.shape, x.dtype)
    for at in chunks(x.shape[0], weight.shape[1], chunk):
        found = gradient(g[at] if each else g, affine(x[at], weight, bias), targets[at], class_weight, **options)
        if found is NotImplemented:
            return NotImplemented
        dx[at] = product(found, weight.T)
        dweight += product(x[at].T, found)
        if dbias is not None:
            dbias += cupy.sum(found, axis=0)
    return dx, dweight, None, dbias, None


_linear_cross_entropy.kernel("cuda", dtypes.float32, dtypes.float64)(forward)
_linear_cross_entropy.kernel("cuda", dtypes.float32, dtypes.float64, vjp=-1)(backward)

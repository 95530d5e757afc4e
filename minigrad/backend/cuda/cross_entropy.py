"""Cross entropy with class indices on the GPU: one pass over the logits forward, and one backward.

The generic body looks for classes that are none, and says which; that would make the host wait for the GPU at each
step. Here the loss and the gradient of such a row are NaN.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.rows import FLOATS, NULL, SCRATCH, THREADS, fits, in_order, launch, wide
from minigrad.ops.cross_entropy import _cross_entropy

__all__ = ["aligned_rows", "gradient", "losses"]

Array = Any
ALIGNED = 8  # elements between the beginnings of aligned rows: 16 bytes of a half type
PART, PARTS = 4096, 256  # numbers that one block adds up at least, and into how many parts they are cut at most


def task(
    logits: Array, targets: Array, weight: Array | None, ignore_index: int | None, label_smoothing: float
) -> tuple[Any, ...] | None:
    """What the kernels are given of logits in rows and the rest; None where they do not take them."""
    ignored = 0 if ignore_index is None else ignore_index
    if logits.ndim != 2 or logits.size == 0 or targets.shape != logits.shape[:1] or targets.dtype not in dtypes.INTEGER:
        return None
    if not fits(logits.dtype, weight) or (weight is not None and weight.shape != logits.shape[1:]):
        return None
    if type(ignored) is not int or not -(2**63) <= ignored < 2**63:
        return None
    numbers = (
        *map(np.int64, (*logits.shape, step_of(logits))),
        np.bool_(ignore_index is not None),
        np.int64(ignored),
    )
    arrays = logits, cupy.ascontiguousarray(targets, np.int64), in_order(weight)
    return (*arrays, *numbers, wide(logits.dtype).type(label_smoothing))


def step_of(logits: Array) -> int:
    """How many elements behind another a row begins."""
    return int(logits.strides[0] // logits.itemsize if logits.shape[0] > 1 else logits.shape[1])


def in_rows(logits: Array) -> Array:
    """The logits as the kernels take them: elements of a row side by side, and few or none between rows."""
    classes, step = logits.shape[1], step_of(logits)
    near = classes == 1 or logits.strides[1] == logits.itemsize
    return logits if near and classes <= step < classes + ALIGNED else cupy.ascontiguousarray(logits)


def aligned_rows(n: int, classes: int, dtype: Any) -> Array:
    """New rows for `in_rows`, each of which begins at a multiple of 16 bytes, as packs and cuBLAS like them."""
    return cupy.empty((n, -(-classes // ALIGNED) * ALIGNED), dtype)[:, :classes]


def parts_of(n: int) -> tuple[int, int]:
    """Into how many parts n numbers are cut to be added up, and how long one is: the same on every GPU."""
    part = max(PART, -(-n // PARTS))
    return -(-n // part), part


def add(name: str, blocks: int, *arguments: Any) -> None:
    """Run a kernel of sums."""
    kernel("cross_entropy", name)((blocks,), (THREADS,), arguments, shared_mem=SCRATCH)


def losses(
    logits: Array,
    targets: Array,
    weight: Array | None,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
) -> Any:
    """Kernel of the op: the loss of each row; then, for the mean or the sum, what they add up to; of half types too."""
    logits = in_rows(logits) if logits.ndim == 2 else logits
    given = task(logits, targets, weight, ignore_index, label_smoothing)
    if given is None:
        return NotImplemented
    (n, classes), name, summed = logits.shape, logits.dtype.name, reduction != "none"
    found = cupy.empty((1 + summed, n), wide(logits.dtype))
    launch("cross_entropy", f"cross_entropy_{name}", classes, n, *given, found[0], found[1] if summed else NULL)
    if not summed:
        return found[0]
    out, (count, part) = cupy.empty((), found.dtype), parts_of(n)
    if count > 1:
        parts = cupy.empty((2, count), found.dtype)
        add(f"add_{found.dtype.name}", count, found[0], found[1], np.int64(n), np.int64(part), parts)
        found, n = parts, count
    divisors = found[1] if reduction == "mean" else NULL
    add(f"reduce_{found.dtype.name}", 1, found[0], divisors, np.int64(n), out)
    return out


def total_weight(given: tuple[Any, ...], name: str, n: int, dtype: Any) -> Array:
    """The weights of the rows that count, added up, on the GPU."""
    count, part = parts_of(n)
    total = cupy.empty(count, dtype)
    add(f"add_weights_{name}", count, *given, np.int64(part), total)
    if count == 1:
        return total
    whole = cupy.empty(1, dtype)
    add(f"add_{dtype.name}", 1, total, NULL, np.int64(count), np.int64(count), whole)
    return whole


def gradient(
    g: Array,
    logits: Array,
    targets: Array,
    weight: Array | None,
    *,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    dtype: Any = None,
) -> Any:
    """Kernel of its rule for the logits, in their dtype or, as a half type of those in float32, in another one."""
    logits = in_rows(logits) if logits.ndim == 2 else logits
    given = task(logits, targets, weight, ignore_index, label_smoothing)
    each = reduction == "none"
    if given is None or g.dtype != wide(logits.dtype) or g.shape != (logits.shape[:1] if each else ()):
        return NotImplemented
    (n, classes), name = logits.shape, logits.dtype.name
    divisor = total_weight(given, name, n, wide(logits.dtype)) if reduction == "mean" else NULL
    out = cupy.empty((n, step_of(logits)), dtype or logits.dtype)[:, :classes]
    own = name if out.dtype == logits.dtype else f"{name}_{out.dtype.name}"
    launch("cross_entropy", f"cross_entropy_vjp_{own}", classes, n, *given, in_order(g), np.bool_(each), divisor, out)
    return out


_cross_entropy.kernel("cuda", *FLOATS)(losses)
_cross_entropy.kernel("cuda", *FLOATS, vjp=0)(gradient)

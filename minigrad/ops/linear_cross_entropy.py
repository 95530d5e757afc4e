"""Cross entropy of a linear layer's outputs, which exist for a few rows at a time only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.conversion import astype, new, to_array
from minigrad.ops.cross_entropy import (
    _cross_entropy,
    check_smoothing,
    cross_entropy,
    row_weights,
    rows,
    shaped,
    total_weight,
)
from minigrad.ops.loss import check_index, check_reduction, real
from minigrad.ops.matmul import linear
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["linear_cross_entropy"]

CHUNK = 2**23  # logits at a time, unless the caller says how many rows
losses_cpu, gradient_cpu = Kernel("cross_entropy", "cross_entropy"), Kernel("cross_entropy", "cross_entropy_vjp")


def chunks(n: int, classes: int, chunk: int | None) -> list[slice]:
    """The rows that are computed at a time; one empty chunk where there are none."""
    size = chunk or max(CHUNK // max(classes, 1), 128)
    return [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]


def affine(xp: Any, x: Array, weight: Array, bias: Array | None) -> Array:
    """The logits of some rows."""
    logits = xp.matmul(x, weight)
    return logits if bias is None else logits + bias


def divisor(xp: Any, targets: Array, class_weight: Array | None, ignore_index: int | None, dtype: Any) -> Array:
    """What the mean divides the sum of the losses by."""
    counted, index = rows(xp, targets, ignore_index)
    return total_weight(xp, row_weights(xp, counted, index, class_weight, dtype))


@op(
    dtype=real.but(rounded=False),
    skip="targets class_weight",
    needs="x (rows, in), weight (in, classes), a class index for each row, bias (classes,)",
    amp="half",  # for the products; what is made of the logits is float32
)
def _linear_cross_entropy(
    xp: Any,
    x: Array,
    weight: Array,
    targets: Array,
    bias: Array | None = None,
    class_weight: Array | None = None,
    /,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    chunk: int | None = None,
) -> Array:
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    parts = [
        _cross_entropy.body(xp, affine(xp, x[at], weight, bias), targets[at], class_weight, reduction="none", **options)
        for at in chunks(x.shape[0], weight.shape[1], chunk)
    ]
    losses = xp.concat(parts)
    if reduction == "none":
        return losses
    loss = xp.sum(losses)
    return loss / divisor(xp, targets, class_weight, ignore_index, x.dtype) if reduction == "mean" else loss


@_linear_cross_entropy.vjp()
def _(
    xp: Any,
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
) -> tuple[Array | None, ...]:
    each_row = reduction == "none"
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if reduction == "mean":
        g = g / divisor(xp, targets, class_weight, ignore_index, x.dtype)
    parts: list[Array] = []
    dweight: Array = 0.0
    dbias: Array = 0.0
    for at in chunks(x.shape[0], weight.shape[1], chunk):
        logits = affine(xp, x[at], weight, bias)
        given = g[at] if each_row else g
        dlogits = _cross_entropy.vjps[0].rule(
            xp, given, logits, targets[at], class_weight, reduction="none" if each_row else "sum", **options
        )
        parts.append(xp.matmul(dlogits, xp.matrix_transpose(weight)))
        dweight = dweight + xp.matmul(xp.matrix_transpose(x[at]), dlogits)
        if bias is not None:
            dbias = dbias + xp.sum(dlogits, axis=0)
    return xp.concat(parts), dweight, None, None if bias is None else dbias, None


def fits(x: Array, weight: Array, targets: Array, bias: Array | None) -> bool:
    """Whether the kernels below can multiply."""
    return x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[0] and targets.shape == x.shape[:1] and (
        bias is None or bias.shape == weight.shape[1:]
    )  # fmt: skip


linear_cpu, add_weight = Kernel("matmul", "linear"), Kernel("matmul", "linear_vjp1")


def product(x: Array, weight: Array, bias: Array | None) -> Array:
    """``x @ weight + bias`` by a kernel, or by NumPy where it does not take the arrays."""
    out = linear_cpu(x, weight, bias)
    if out is NotImplemented:
        out = np.matmul(x, weight)
        return out if bias is None else out + bias
    return out


def forward_cpu(
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
    if not fits(x, weight, targets, bias):
        return NotImplemented
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": "none"}
    parts = chunks(x.shape[0], weight.shape[1], chunk)
    losses = np.empty(x.shape[0], x.dtype)
    for at in parts:
        logits = product(x[at], weight, bias)
        found = losses_cpu(logits, targets[at], class_weight, **options)
        if found is NotImplemented:
            return NotImplemented
        losses[at] = found
    if reduction == "none":
        return losses
    loss = np.sum(losses)
    if reduction == "mean":
        loss = loss / divisor(np, targets, class_weight, ignore_index, x.dtype)
    return np.asarray(loss)


def backward_cpu(
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
    if not fits(x, weight, targets, bias):
        return NotImplemented
    each_row = reduction == "none"
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": "none" if each_row else "sum",
    }
    if reduction == "mean":
        g = np.asarray(g / divisor(np, targets, class_weight, ignore_index, x.dtype))
    parts = chunks(x.shape[0], weight.shape[1], chunk)
    dx, dweight = np.empty(x.shape, x.dtype), np.zeros(weight.shape, x.dtype)
    dbias = None if bias is None else np.zeros(bias.shape, x.dtype)
    for at in parts:
        logits = product(x[at], weight, bias)
        dlogits = gradient_cpu(g[at] if each_row else g, logits, targets[at], class_weight, **options)
        if dlogits is NotImplemented:
            return NotImplemented
        dx[at] = product(dlogits, weight.T, None)
        if add_weight(dlogits, x[at], weight.shape, into=dweight) is NotImplemented:
            dweight += x[at].T @ dlogits
        if dbias is not None:
            dbias += dlogits.sum(axis=0)
    return dx, dweight, None, dbias, None


_linear_cross_entropy.kernel("cpu", dtypes.float32, dtypes.float64)(forward_cpu)
_linear_cross_entropy.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(backward_cpu)

CLASSES = A((5,), 0, 3, kind="int")
_linear_cross_entropy.samples(
    *(case((5, 2), (2, 3), CLASSES, (3,), reduction=r, chunk=2) for r in ("mean", "sum", "none")),
    *(case((5, 2), (2, 3), CLASSES, reduction=r) for r in ("mean", "sum", "none")),
    case((5, 2), (2, 3), [0, -1, 2, 1, -1], (3,), ignore_index=-1, label_smoothing=0.2, chunk=3),
    case((2, 2), (2, 3), [7, 7], ignore_index=7, chunk=1),
    case((0, 2), (2, 3), A((0,), 0, 3, kind="int"), (3,)),
    case((5, 0), (0, 3), CLASSES, (3,)),
    error(ShapeError, "needs x (rows, in)", (5, 2), (3, 3), CLASSES),
    error(IndexError, "targets holds the class 3, and there are 3", (2, 2), (2, 3), [0, 3]),
)


def tensor(who: str, given: Any) -> Any:
    """`given` as a tensor."""
    return given if isinstance(given, tape.TensorBase) else new(to_array(given, who=who))


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Any,
    bias: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    chunk: int | None = None,
) -> Tensor:
    """``cross_entropy(x @ weight + bias, targets)`` without ever holding all the logits.

    The loss of a language model over a large vocabulary: there the logits, and their gradient, are the largest arrays
    of a step. Here both exist for `chunk` rows at a time, and backward computes the logits again, a third more work in
    the products (compare E. Wijmans et al., "Cut your losses in large-vocabulary language models", 2025). Under
    ``create_graph=True`` all chunks are recorded, and kept.

    Parameters
    ----------
    x : Tensor
        ``(..., in)``.
    weight : Tensor
        ``(in, classes)``, as that of `nn.Dense`.
    targets : Tensor
        Class indices ``(...)`` of any integer dtype.
    bias : Tensor, optional
        ``(classes,)``.
    class_weight : Tensor, optional
        A factor for each class: the `weight` of `cross_entropy`. If it requires grad, all logits are held.
    ignore_index, label_smoothing, reduction : optional
        As for `cross_entropy`.
    chunk : int, optional
        Rows at a time; by default so many that they have about 8 million logits, and at least 128.

    Returns
    -------
    Tensor
        float32 where x and weight are of a half type, as `amp.autocast` makes them: logits and losses are not rounded.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If targets are not integers.
    IndexError
        For a class index that is negative or too large.
    ValueError
        For another reduction, a label smoothing that is not between 0 and 1, or a chunk that is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> x, weight = mg.tensor([[1.0, 0.0], [0.0, 1.0]]), mg.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
    >>> mg.round(mg.linear_cross_entropy(x, weight, mg.tensor([1, 2]), chunk=1), 4)
    tensor(0.2047)
    """
    who = "linear_cross_entropy"
    check_reduction(who, reduction)
    check_index(who, ignore_index)
    check_smoothing(who, label_smoothing)
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise ValueError(message(who, "chunk", repr(chunk), "a positive number of rows, or None"))
    x, weight, targets = (tensor(who, given) for given in (x, weight, targets))
    if weight.ndim != 2:
        raise ShapeError(message(who, "weight", weight, "a matrix (in, classes)"))
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        need = f"{weight.shape[0]} features on its last axis, as weight {tuple(weight.shape)} is (in, classes)"
        raise ShapeError(message(who, "x", x, need))
    if targets.dtype not in dtypes.INTEGER:
        hint = "For probabilities, call cross_entropy(linear(x, weight, bias), targets)"
        raise DTypeError(message(who, "targets", targets, "class indices of an integer dtype", hint))
    if targets.shape != x.shape[:-1]:
        raise ShapeError(message(who, "targets", targets, f"shape {x.shape[:-1]}, a class for each row of x"))
    for name, vector in (("bias", bias), ("class_weight", class_weight)):
        if vector is not None and np.shape(vector) != weight.shape[1:]:
            raise ShapeError(message(who, name, vector, f"a number for each of the {weight.shape[1]} classes"))
    options: dict[str, Any] = {
        "ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction,
    }  # fmt: skip
    if getattr(class_weight, "requires_grad", False):
        return cross_entropy(linear(x, weight, bias), targets, weight=class_weight, **options)
    if class_weight is not None:  # not rounded, as the losses are not
        wide = dtypes.float64 if dtypes.float64 in (x.dtype, weight.dtype) else dtypes.float32
        class_weight = astype(tensor(who, class_weight), wide, copy=False)
    n = math.prod(x.shape[:-1])
    flat, index = shaped(x, (n, x.shape[-1])), shaped(targets, (n,))
    losses = _linear_cross_entropy(flat, weight, index, bias, class_weight, chunk=chunk, **options)
    return shaped(losses, x.shape[:-1]) if reduction == "none" else losses

"""PyTorch's linear algebra and functions of neural networks, by minigrad's: see `torch_adapters`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch_adapters import ValuesOnly, axis_of, cast, lacks

import minigrad as mg


def tensordot(x: Any, y: Any, dims: Any = 2) -> Any:
    if not isinstance(dims, int):
        unequal = any(x.shape[i] != y.shape[j] for i, j in zip(*dims, strict=True))
        lacks(unequal, "summation over axes of different extents")
    return mg.tensordot(x, y, axes=dims if isinstance(dims, int) else tuple(map(tuple, dims)))


def inner(x: Any, y: Any) -> Any:
    return mg.tensordot(x, y, axes=([-1], [-1])) if x.ndim and y.ndim else x * y


def einsum(operands: Any, equation: str) -> Any:
    lacks(
        "..." in equation.partition("->")[0] and "..." not in equation.partition("->")[2],
        "summation over the axes of an ellipsis",
    )
    return mg.einsum(equation, *operands)


def cross(x: Any, y: Any, dim: int | None = None) -> Any:
    if dim is None:
        dim = x.shape.index(3)
    return mg.linalg.cross(x, y, axis=dim)


def eigh(x: Any, UPLO: str = "L") -> Any:
    return tuple(mg.linalg.eigh(x))


def eigvalsh(x: Any, UPLO: str = "L") -> Any:
    return mg.linalg.eigvalsh(x)


def svdvals(x: Any, *, driver: Any = None) -> Any:
    return mg.linalg.svdvals(x)


def svd(x: Any, some: bool = True, *, full_matrices: bool | None = None, driver: Any = None) -> Any:
    full = not some if full_matrices is None else full_matrices
    out = tuple(mg.linalg.svd(x, full_matrices=full))
    out = out if full_matrices is not None else (*out[:2], mg.matrix_transpose(out[2]))
    return (
        ValuesOnly(out, "the full singular vectors of a matrix that is not square")
        if full and x.shape[-1] != x.shape[-2]
        else out
    )


def qr(x: Any, mode: str | bool = True) -> Any:
    words = {True: "reduced", False: "complete"}
    mode = words.get(mode, mode)
    lacks(mode == "r", "qr for R alone")
    out = tuple(mg.linalg.qr(x, mode=mode))
    wide = mode == "complete" and x.shape[-2] > x.shape[-1]
    return ValuesOnly(out, "the completed Q of a tall matrix") if wide else out


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return mg.linalg.vector_norm(cast(x, dtype), axis=axis_of(x, dim), keepdims=keepdim, ord=ord)


def matrix_norm(x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    return mg.linalg.norm(cast(x, dtype), ord, tuple(dim), keepdim)


def norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return mg.linalg.norm(cast(x, dtype), ord, dim if dim is None or isinstance(dim, int) else tuple(dim), keepdim)


def old_norm(x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """``torch.norm``: numbers are orders for vectors, whatever the number of axes."""
    if p == "nuc":
        return mg.linalg.norm(cast(x, dtype), p, tuple(range(x.ndim)) if dim is None else tuple(dim), keepdim)
    return vector_norm(x, 2 if p in (None, "fro") else p, dim, keepdim, dtype=dtype)


def matrix_rank(x: Any, tol: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    lacks(tol is not None or atol is not None, "an absolute tolerance")
    lacks(isinstance(rtol, mg.Tensor), "a tolerance for each matrix")
    return mg.linalg.matrix_rank(x, rtol=rtol)


def pinv(x: Any, rcond: Any = None, *, rtol: Any = None, atol: Any = None, hermitian: bool = False) -> Any:
    rtol = rcond if rtol is None else rtol
    lacks(isinstance(rtol, mg.Tensor), "a tolerance for each matrix")
    return mg.linalg.pinv(x, rtol=rtol)


def low_rank_pinv(a: Any, b: Any) -> Any:
    return mg.linalg.pinv(a @ mg.matrix_transpose(b))


def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    lacks(not left, "solving from the right")
    if b.ndim > 1 and b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]:
        return mg.linalg.solve(a, b[..., None])[..., 0]
    return mg.linalg.solve(a, b)


def cholesky(x: Any, upper: bool = False) -> Any:
    return mg.linalg.cholesky(x, upper=upper)


# --- neural networks -------------------------------------------------------------------------------------------------


def classes_last(x: Any) -> Any:
    return mg.moveaxis(x, 1, -1) if x.ndim > 1 else x


def cross_entropy(
    x: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    soft = target.dtype not in (np.int64, np.int32, np.uint8)
    return mg.cross_entropy(
        classes_last(x), classes_last(target) if soft else target, weight=weight, label_smoothing=label_smoothing,
        ignore_index=None if soft else ignore_index, reduction=reduction,
    )  # fmt: skip


def nll_loss(x: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    return mg.nll_loss(classes_last(x), target, weight=weight, ignore_index=ignore_index, reduction=reduction)


def smooth_l1_loss(x: Any, y: Any, *, beta: float = 1.0, reduction: str = "mean") -> Any:
    lacks(beta == 0, "smooth_l1_loss with beta 0, which is l1_loss")
    return mg.smooth_l1_loss(x, y, beta=beta, reduction=reduction)


def loss(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, y: Any, **kwargs: Any) -> Any:
        lacks(x.shape != y.shape, "a loss that broadcasts its target")
        lacks(kwargs.pop("weight", None) is not None, "a weight for each element")
        return f(x, y, **kwargs)

    return inner


def bce_with_logits(x: Any, y: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> Any:
    return mg.binary_cross_entropy_with_logits(x, y, weight, pos_weight, reduction=reduction)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """PyTorch's is linear above a threshold."""
    lacks((x.detach().numpy() * beta > threshold).any() and threshold < 30, "softplus that is linear above a threshold")
    return mg.softplus(x * beta) / beta


def last_axes(shape: Any) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return mg.layer_norm(x, weight, bias, eps, axis=last_axes(shape))


def rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    return mg.rms_norm(x, weight, float(mg.finfo(x.dtype).eps) if eps is None else eps, axis=last_axes(shape))


def batch_norm(
    x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    lacks(x.ndim < 2, "a batch without an axis of channels")
    if training:
        axes = tuple(i for i in range(x.ndim) if i != 1)
        mean, var = mg.mean(x, axis=axes), mg.var(x, axis=axes)
    return mg.batch_norm(x, mean, var, weight, bias, eps)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """PyTorch's weight is (out, in)."""
    return mg.linear(x, mg.matrix_transpose(weight) if weight.ndim > 1 else weight, bias)


def embedding(weight: Any, ids: Any, *, padding_idx: int | None = None, **kwargs: Any) -> Any:
    lacks(
        kwargs.get("max_norm") or kwargs.get("scale_grad_by_freq") or kwargs.get("sparse"),
        "embedding that changes norms",
    )
    lacks(padding_idx is not None, "a row without a gradient")
    return mg.take(weight, ids, axis=0)


def one_hot(ids: Any, num_classes: int = -1) -> Any:
    lacks(num_classes == -1, "a number of classes that is guessed")
    return mg.one_hot(ids, num_classes, dtype=mg.int64)


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    lacks(training and 0 < p < 1, "random numbers")
    return mg.dropout(x, p, training=training)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return mg.clip(x, min, max)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return mg.clip(x, min_val, max_val)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return mg.where(mask, value, x)


# --- what makes results unique ---------------------------------------------------------------------------------------


def symmetric(x: Any) -> Any:
    """What PyTorch's own tests give to functions that read one triangle."""
    return x + x.mT


def eigen_gauge(w: Any, v: Any) -> Any:
    """An eigenvector is determined up to its sign."""
    return w, v * v


def singular_gauge(u: Any, s: Any, vh: Any) -> Any:
    """A pair of singular vectors is determined up to a sign, those of no singular value are not at all."""
    k = s.shape[-1]
    u, vh = u[..., :, :k], vh[..., :k, :]
    return u * u, s, vh * vh, (u * s[..., None, :]) @ vh


def old_singular_gauge(u: Any, s: Any, v: Any) -> Any:
    return singular_gauge(u, s, v.mT)


def complete_qr_gauge(q: Any, r: Any) -> Any:
    """What completes Q is any basis of a null space."""
    k = min(q.shape[-2], r.shape[-1])
    return q[..., :, :k], r

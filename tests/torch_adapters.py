"""What each op of PyTorch's `op_db` is called in minigrad: functions with PyTorch's signature that call minigrad alone.

A function raises `NotComparable` for a sample that asks for what minigrad does not have, and gives `ValuesOnly` where the values
must agree but the derivatives are documented to differ. Both carry their reason, and the reasons are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg

LA = mg.linalg


class NotComparable(Exception):
    """The sample uses a feature that minigrad does not have; the text names it."""


class ValuesOnly(NamedTuple):
    """A result whose derivatives are not compared."""

    result: Any
    reason: str


def lacks(condition: Any, feature: str) -> None:
    """Give a sample up for a reason."""
    if condition:
        raise NotComparable(feature)


# --- PyTorch's habits -----------------------------------------------------------------------------------------------


def number(x: Any) -> Any:
    """A Python number from a 0-d tensor that stands for one."""
    return x.item() if isinstance(x, mg.Tensor) else x


def axis_of(x: Any, dim: Any, *, empty_is_all: bool = True) -> Any:
    """`axis` for `dim`: PyTorch lets 0-d tensors have an axis, and means all axes by an empty tuple."""
    if dim is None or (empty_is_all and not isinstance(dim, int) and len(dim) == 0):
        return None
    if x.ndim == 0:
        return ()
    return dim if isinstance(dim, int) else tuple(dim)


def lifted(x: Any) -> Any:
    """A 0-d tensor as a vector, for what PyTorch does along an axis that such a tensor does not have."""
    return mg.reshape(x, (1,)) if x.ndim == 0 else x


def along(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` along an axis of a tensor that may be 0-d."""

    def inner(x: Any, *args: Any, **kwargs: Any) -> Any:
        out = f(lifted(x), *args, **kwargs)
        if x.ndim:
            return out
        return tuple(mg.reshape(o, ()) for o in out) if isinstance(out, tuple) else mg.reshape(out, ())

    return inner


def at(x: Any, dim: int, part: Any) -> tuple[Any, ...]:
    """The index that takes `part` of one axis."""
    return (slice(None),) * (dim % x.ndim) + (part,)


def cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else mg.astype(x, dtype)


def to(dtype: Any) -> Callable[..., Any]:
    return lambda x, **memory: mg.astype(x, dtype)


def to_complex(dtype: Any) -> Callable[..., Any]:
    return lambda x, **memory: ValuesOnly(mg.astype(x.detach(), dtype), "complex tensors have no gradients")


def reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return f(cast(x, dtype), axis=axis_of(x, dim), keepdims=keepdim)

    return inner


def position(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        return f(x, axis=None if x.ndim == 0 else dim, keepdims=keepdim)

    return inner


def extremum(value: Callable[..., Any], place: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return value(x)
        if isinstance(dim, mg.Tensor):
            return (mg.maximum if value is mg.max else mg.minimum)(x, dim)
        axis = axis_of(x, dim)
        return value(x, axis=axis, keepdims=keepdim), place(x, axis=None if x.ndim == 0 else dim, keepdims=keepdim)

    return inner


def spread(f: Callable[..., Any], *more: Callable[..., Any]) -> Callable[..., Any]:
    """`var` and `std`, and pairs of one with the mean."""

    def inner(
        x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        axis = axis_of(x, dim)
        free = unbiased if correction is None else correction
        out = f(x, axis=axis, correction=float(free), keepdims=keepdim)
        return (out, *(g(x, axis=axis, keepdims=keepdim) for g in more)) if more else out

    return inner


def softmax(f: Callable[..., Any]) -> Callable[..., Any]:
    def inner(x: Any, dim: int, *, dtype: Any = None) -> Any:
        return along(f)(cast(x, dtype), axis=dim)

    return inner


def scaled(f: Callable[..., Any]) -> Callable[..., Any]:
    """Addition and subtraction with PyTorch's factor `alpha`."""
    return lambda x, y, *, alpha=1: f(x, y if alpha == 1 else y * alpha)


def reversed_subtract(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return mg.subtract(y, x if alpha == 1 else x * alpha)


def divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return mg.floor_divide(x, y)
    out = mg.divide(x, y)
    return mg.trunc(out) if rounding_mode == "trunc" else out


def float_power(x: Any, y: Any) -> Any:
    """Everything in float64."""
    return mg.pow(*(mg.astype(v, mg.float64) if isinstance(v, mg.Tensor) else mg.tensor(v, dtype=mg.float64) for v in (x, y)))


def running(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim, *, dtype=None: along(f)(cast(x, dtype), axis=dim)


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return mg.diff(x, dim, n, prepend=prepend, append=append)


# --- creation ---------------------------------------------------------------------------------------------------------


def made(f: Callable[..., Any]) -> Callable[..., Any]:
    """A creation function; a layout means nothing to minigrad."""

    def inner(
        *args: Any, layout: Any = None, memory_format: Any = None, pin_memory: bool = False, **kwargs: Any
    ) -> Any:
        return f(*args, **kwargs)

    return inner


def arange(start: Any, end: Any = None, step: Any = 1, **kwargs: Any) -> Any:
    return mg.arange(start, end, step, **kwargs)


def linspace(start: Any, stop: Any, num: int, **kwargs: Any) -> Any:
    lacks(isinstance(start, mg.Tensor) or isinstance(stop, mg.Tensor), "linspace of tensors")
    return mg.linspace(start, stop, num, **kwargs)


def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    return mg.meshgrid(*(tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors), indexing=indexing)


def to_any(x: Any, *args: Any, **kwargs: Any) -> Any:
    dtypes = [v for v in (*args, *kwargs.values()) if isinstance(v, np.dtype)]
    like = [v.dtype for v in args if isinstance(v, mg.Tensor)]
    return mg.astype(x, (dtypes + like + [x.dtype])[0])


def eye(n: int, m: int | None = None, **kwargs: Any) -> Any:
    return mg.eye(n, m, **kwargs)


# --- shapes and places --------------------------------------------------------------------------------------------------


def expand(x: Any, shape: Any) -> Any:
    lead = len(shape) - x.ndim
    return mg.broadcast_to(x, tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)))


def split(x: Any, size: Any, dim: int = 0) -> Any:
    if isinstance(size, int):
        return mg.split(x, list(range(size, x.shape[dim], size)), axis=dim)
    return mg.split(x, np.cumsum(size)[:-1].tolist(), axis=dim)


def tensor_split(x: Any, sections: Any, dim: int = 0) -> Any:
    cuts = sections.tolist() if isinstance(sections, mg.Tensor) else sections
    lacks(isinstance(cuts, int) and x.shape[dim] % cuts, "split into a number of unequal parts")
    return mg.split(x, cuts, axis=dim)


def flip(x: Any, dims: Any) -> Any:
    return mg.flip(x, axis=tuple(dims))


def squeeze(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return mg.squeeze(x)
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    return mg.squeeze(x, axis=tuple(a for a in axes if x.ndim and x.shape[a] == 1))


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return mg.flatten(lifted(x), start_dim, end_dim)


def triangle(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, diagonal=0: f(x, k=diagonal)


def cat(tensors: Any, dim: int = 0) -> Any:
    lacks(
        any(t.shape == (0,) for t in tensors) and any(t.ndim > 1 for t in tensors),
        "an empty vector joined with matrices",
    )
    return mg.concat(tensors, axis=dim)


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    return along(mg.swapaxes)(x, dim0, dim1)


def reversed_axes(x: Any) -> Any:
    return mg.permute_dims(x, tuple(range(x.ndim))[::-1])


def reshape(x: Any, *shape: Any) -> Any:
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    lacks(isinstance(shape, np.dtype), "reinterpretation of memory in another dtype")
    return mg.reshape(x, tuple(shape))


def unflatten(x: Any, dim: int, sizes: Any) -> Any:
    dim %= x.ndim
    return mg.reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    return mg.roll(x, shifts, axis=dims if isinstance(dims, int) or dims else None)


def pad_constant(x: Any, pad: Any, mode: Any = "constant", value: float | None = None) -> Any:
    return pad_mode(x, pad, "constant", mode if not isinstance(mode, str) else value)


def pad_mode(x: Any, pad: Any, mode: str, value: float | None = None) -> Any:
    """PyTorch counts the widths from the last axis; a negative one cuts."""
    widths = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths = [(0, 0)] * (x.ndim - len(widths)) + widths[::-1]
    lacks(any(w < 0 for pair in widths for w in pair), "negative padding")
    words = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return mg.pad(x, tuple(widths), words[mode], constant_values=value or 0)


def repeat(x: Any, *counts: Any) -> Any:
    counts = counts[0] if counts and not isinstance(counts[0], int) else counts
    return mg.tile(x, tuple(counts))


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, **kwargs: Any) -> Any:
    lacks(kwargs, "an output size given beforehand")
    return mg.repeat(x, repeats, axis=None if x.ndim == 0 else dim)


def narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    start = int(number(start)) % max(x.shape[dim], 1) if number(start) < 0 else int(number(start))
    return x[at(x, dim, slice(start, start + length))]


def cut(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return x[at(x, dim, slice(start, end, step))]


def select(x: Any, dim: int, index: int) -> Any:
    return x[at(x, dim, index)]


def select_scatter(x: Any, source: Any, dim: int, index: int) -> Any:
    return x.at[at(x, dim, index)].set(source)


def slice_scatter(x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x.at[at(x, dim, slice(start, end, step))].set(source)


def take_flat(x: Any, index: Any) -> Any:
    return mg.take(mg.reshape(x, (-1,)), index)


def take(x: Any, dim: int, index: Any) -> Any:
    return mg.reshape(mg.take(lifted(x), index, axis=dim), x.shape) if x.ndim == 0 else mg.take(x, index, axis=dim)


def within(x: Any, index: Any, dim: int) -> tuple[Any, ...]:
    """The part of `x` that `index` reaches: PyTorch lets an index be shorter on the other axes."""
    return tuple(slice(None) if i == dim % x.ndim else slice(n) for i, n in enumerate(index.shape))


def gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    lacks(sparse_grad, "sparse gradients")
    x, ids = lifted(x), lifted(index)
    lacks(x.ndim != ids.ndim, "an empty index with another number of axes")
    out = mg.take_along_axis(x[within(x, ids, dim)], ids, axis=dim)
    return mg.reshape(out, index.shape)


def take_along_dim(x: Any, index: Any, dim: int | None = None) -> Any:
    return mg.take_along_axis(mg.reshape(x, (-1,)), mg.reshape(index, (-1,)), axis=0) if dim is None else (
        mg.take_along_axis(x, index, axis=dim)
    )  # fmt: skip


def scatter(x: Any, dim: int, index: Any, source: Any, reduce: str | None = None) -> Any:
    lacks(reduce == "multiply", "scatter that multiplies")
    x1, ids = lifted(x), lifted(index)
    part = within(x1, ids, dim)
    if isinstance(source, mg.Tensor) and source.ndim:
        source = source[tuple(slice(n) for n in ids.shape)]
    into = mg.put_along_axis if reduce is None else mg.scatter_add
    return mg.reshape(x1.at[part].set(into(x1[part], ids, source, axis=dim)), x.shape)


def scatter_add(x: Any, dim: int, index: Any, source: Any) -> Any:
    return scatter(x, dim, index, source, "add")


def scatter_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    lacks(reduce != "sum", f"scatter with reduction {reduce}")
    lacks(not include_self, "scatter that leaves out the old values")
    return scatter(x, dim, index, source, "add")


def index_change(name: str) -> Callable[..., Any]:
    """``x.at[index].name(source)`` along an axis."""

    def inner(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
        place = lifted(x).at[at(lifted(x), dim, lifted(index))]
        return mg.reshape(getattr(place, name)(source if alpha == 1 else source * alpha), x.shape)

    return inner


def index_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    lacks(not include_self, "index_reduce that leaves out the old values")
    return index_change("min" if reduce == "amin" else "max")(x, dim, index, source)


def index_put(x: Any, index: Any, values: Any, accumulate: bool = False) -> Any:
    place = x.at[tuple(index)]
    return place.add(values) if accumulate else place.set(values)


def put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    flat = mg.reshape(x, (-1,)).at[mg.reshape(index, (-1,))]
    values = mg.reshape(source, (-1,))
    return mg.reshape(flat.add(values) if accumulate else flat.set(values), x.shape)


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    def both(v: Any) -> Any:
        order = {"axis": dim, "descending": descending}
        return mg.sort(v, **order), mg.argsort(v, **order)

    return along(both)(x)


def argsort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return sort(x, dim, descending)[1]


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    lacks(x.ndim == 0 and k != 1, "nothing of a 0-d tensor")
    return along(lambda v: tuple(mg.topk(v, k, axis=dim, largest=largest)))(x)


def unique(
    x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: Any = None
) -> Any:
    lacks(dim is not None, "unique along an axis")
    out = mg.unique_all(x)
    parts = (out.values, *([out.inverse_indices] if return_inverse else ()), *([out.counts] if return_counts else ()))
    return parts if len(parts) > 1 else parts[0]


def searchsorted(
    x: Any, v: Any, *, right: bool = False, side: str | None = None, out_int32: bool = False, sorter: Any = None
) -> Any:
    lacks(x.ndim != 1, "rows of several sorted sequences")
    v = mg.asarray(v) if isinstance(v, mg.Tensor) else mg.asarray(v, dtype=x.dtype)
    out = mg.searchsorted(x, v, sorter, side=side or ("right" if right else "left"))
    return mg.astype(out, mg.int32) if out_int32 else out


def masked_select(x: Any, mask: Any) -> Any:
    x, mask = mg.broadcast_arrays(x, mask)
    return x[mask] if x.ndim else mg.reshape(x[mask], (-1,))


def nonzero(x: Any, as_tuple: bool = False) -> Any:
    lacks(x.ndim == 0, "positions in a 0-d tensor")
    places = mg.nonzero(x)
    return places if as_tuple else mg.stack(places, axis=1)


# --- linear algebra -------------------------------------------------------------------------------------------------------


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
    return LA.cross(x, y, axis=dim)


def eigh(x: Any, UPLO: str = "L") -> Any:
    return tuple(LA.eigh(x))


def eigvalsh(x: Any, UPLO: str = "L") -> Any:
    return LA.eigvalsh(x)


def svdvals(x: Any, *, driver: Any = None) -> Any:
    return LA.svdvals(x)


def svd(x: Any, some: bool = True, *, full_matrices: bool | None = None, driver: Any = None) -> Any:
    full = not some if full_matrices is None else full_matrices
    out = tuple(LA.svd(x, full_matrices=full))
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
    out = tuple(LA.qr(x, mode=mode))
    wide = mode == "complete" and x.shape[-2] > x.shape[-1]
    return ValuesOnly(out, "the completed Q of a tall matrix") if wide else out


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return LA.vector_norm(cast(x, dtype), axis=axis_of(x, dim), keepdims=keepdim, ord=ord)


def matrix_norm(x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    return LA.norm(cast(x, dtype), ord, tuple(dim), keepdim)


def norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return LA.norm(cast(x, dtype), ord, dim if dim is None or isinstance(dim, int) else tuple(dim), keepdim)


def old_norm(x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """``torch.norm``: numbers are orders for vectors, whatever the number of axes."""
    if p == "nuc":
        return LA.norm(cast(x, dtype), p, tuple(range(x.ndim)) if dim is None else tuple(dim), keepdim)
    return vector_norm(x, 2 if p in (None, "fro") else p, dim, keepdim, dtype=dtype)


def matrix_rank(x: Any, tol: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    lacks(tol is not None or atol is not None, "an absolute tolerance")
    lacks(isinstance(rtol, mg.Tensor), "a tolerance for each matrix")
    return LA.matrix_rank(x, rtol=rtol)


def pinv(x: Any, rcond: Any = None, *, rtol: Any = None, atol: Any = None, hermitian: bool = False) -> Any:
    rtol = rcond if rtol is None else rtol
    lacks(isinstance(rtol, mg.Tensor), "a tolerance for each matrix")
    return LA.pinv(x, rtol=rtol)


def low_rank_pinv(a: Any, b: Any) -> Any:
    return LA.pinv(a @ mg.matrix_transpose(b))


def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    lacks(not left, "solving from the right")
    if b.ndim > 1 and b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]:
        return LA.solve(a, b[..., None])[..., 0]
    return LA.solve(a, b)


def cholesky(x: Any, upper: bool = False) -> Any:
    return LA.cholesky(x, upper=upper)


# --- neural networks --------------------------------------------------------------------------------------------------------


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
        classes_last(x), classes_last(target) if soft else target, weight=weight, ignore_index=None if soft else ignore_index,
        label_smoothing=label_smoothing, reduction=reduction,
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
    return mg.rms_norm(x, weight, float(np.finfo(x.dtype).eps) if eps is None else eps, axis=last_axes(shape))


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


# --- what makes results unique ----------------------------------------------------------------------------------------------


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

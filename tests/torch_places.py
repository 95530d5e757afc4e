"""PyTorch's functions of shapes and places, by minigrad's: see `torch_adapters`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch_adapters import along, at, lacks, lifted, number

import minigrad as mg


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

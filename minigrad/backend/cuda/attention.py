"""Attention on the GPU: blocks of scores stay in registers and shared memory, so memory grows with the lengths alone.

Half types go through tensor cores (attention_64.cu and its like, by features of a head), float32 and float64 through
attention_float.cu. Each output is summed by one block of threads in a fixed order, so results do not depend on which
block is first: backward is a kernel for the gradient of query, one for those of key and value, and one for a bias.

T. Dao, D. Fu, S. Ermon, A. Rudra, C. Re, "FlashAttention", 2022; T. Dao, "FlashAttention-2", 2023.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend.cuda import capture, sources
from minigrad.backend.cuda.modules import kernel
from minigrad.ops.attention import Window, _attention
from minigrad.ops.noise import Key

__all__ = ["attention", "attention_vjp"]

Array = Any
WIDTHS = (64, 128, 256)  # of the kernels for half types
WARPS = 4  # in a block of those
NAMES = {dtypes.float16: "float16", dtypes.bfloat16: "bfloat16", dtypes.float32: "float32", dtypes.float64: "float64"}
TILE, FEATURES = 32, 64  # of the kernels for other types: rows of a tile, features that a block of threads sums
PADDING = 64  # what queries are rounded up to, for log-sum-exps and what goes with them
NULL = np.uint64(0)


def up(n: int, d: int) -> int:
    """How many times d covers n."""
    return -(-n // d)


@cache
def sizes(width: int) -> dict[str, int]:
    """The sizes of tiles that a source of kernels for half types names."""
    return {
        name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)\n", sources.text(f"attention_{width}"))
    }


def prepared(source: str, name: str, shared: int) -> Any:
    """A kernel that may use so much shared memory on the current device."""
    function = kernel(source, name)
    if shared > 48 << 10 and shared > function.max_dynamic_shared_size_bytes:  # what was set for wider heads stays
        function.max_dynamic_shared_size_bytes = shared
    return function


@cache
def shared_limit(device: int) -> int:
    """The bytes of shared memory that a block of threads of a device may have."""
    return int(cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])


def as_rows(x: Array) -> Array:
    """An array whose features lie side by side; half ones in rows that are copied by 16 bytes."""
    size = x.dtype.itemsize
    near = x.strides[3] == size or x.shape[3] == 1
    if size > 2:
        return x if near else cupy.ascontiguousarray(x)
    if near and x.shape[3] % 8 == 0 and not (x.data.ptr | x.strides[0] | x.strides[1] | x.strides[2]) % 16:
        return x
    room = cupy.zeros((*x.shape[:3], 8 * up(x.shape[3], 8)), x.dtype)
    room[..., : x.shape[3]] = x
    return room[..., : x.shape[3]]


def steps(x: Array) -> tuple[Any, ...]:
    """An array of rows and its steps, as kernels take them."""
    return x, *(np.int64(step // x.dtype.itemsize) for step in x.strides[:3])


def rows_like(x: Array, heads: int, length: int, features: int) -> Array:
    """A new array whose memory has the order of another's: heads within rows, where a projection made them so."""
    batch = x.shape[0]
    room = features + features % 2 if x.dtype.itemsize == 2 else features  # kernels for half types write pairs
    if heads > 1 and 0 < x.strides[1] < x.strides[2]:
        return cupy.empty((batch, length, heads, room), x.dtype)[..., :features].transpose(0, 2, 1, 3)
    return cupy.empty((batch, heads, length, room), x.dtype)[..., :features]


def over_scores(x: Array | None, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """A mask or bias that broadcasts to the scores, with its steps; None for one that does not."""
    if x is None:
        return NULL, *[np.int64(0)] * 4
    lead = 4 - x.ndim
    if lead < 0 or any(own not in (1, whole) for own, whole in zip(x.shape, shape[lead:], strict=True)):
        return None
    own = [0 if n == 1 else step // x.dtype.itemsize for n, step in zip(x.shape, x.strides, strict=True)]
    return x, *map(np.int64, [0] * lead + own)


class Problem:
    """The arguments that all kernels share, and the extents; `fits` is False for what they do not take."""

    def __init__(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        bias: Array | None,
        alibi_slopes: Array | None,
        key_lengths: Array | None,
        is_causal: bool,
        window: Window | None,
        softcap: float | None,
        dropout: float,
        seed: Key,
        scale: float,
    ) -> None:
        self.batches, self.heads, self.queries, self.width = query.shape
        self.key_heads, self.keys, self.value_width = key.shape[1], key.shape[2], value.shape[3]
        self.dtype = query.dtype
        self.widest: int = max(self.width, self.value_width)
        self.half, self.real = self.dtype.itemsize == 2, np.float64 if self.dtype.itemsize == 8 else np.float32
        shape = (self.batches, self.heads, self.queries, self.keys)
        masks, biases = over_scores(mask, shape), over_scores(bias, shape)
        far = self.queries + self.keys
        left, right = window or (None, None)
        left = far if left is None else min(left, far)
        right = 0 if is_causal else far if right is None else min(right, far)
        threshold = int(dropout * 2.0**32 + 0.5)
        options, self.device = (mask, bias, alibi_slopes, softcap), cupy.cuda.runtime.getDevice()
        self.plain = self.half and scale > 0 and not dropout and all(x is None for x in options)
        self.fits = (
            min(*shape, self.width, self.value_width, self.key_heads) > 0
            and self.heads % self.key_heads == 0
            and key.shape == (self.batches, self.key_heads, self.keys, self.width)
            and value.shape[:3] == key.shape[:3]
            and masks is not None
            and biases is not None
            and (mask is None or mask.dtype == np.bool_)
            and all(x is None or x.dtype == self.dtype for x in (key, value, bias, alibi_slopes))
            and (alibi_slopes is None or alibi_slopes.shape == (self.heads,))
            and (key_lengths is None or (key_lengths.shape == (self.batches,) and key_lengths.dtype.kind in "iu"))
            and min(left, right) >= 0
            and 0 <= threshold < 2**32
            and self.widest <= WIDTHS[-1]
            and far < 2**29  # places are ints
            and self.batches * self.heads * up(far, TILE) < 2**28  # and so are the numbers of blocks
            and all(self.shared(kind) <= shared_limit(self.device) for kind in ("forward", "queries", "keys", "bias"))
        )
        if not self.fits or masks is None or biases is None:
            return
        self.query, self.key, self.value = as_rows(query), as_rows(key), as_rows(value)
        slopes = NULL if alibi_slopes is None else cupy.ascontiguousarray(alibi_slopes)
        lengths = NULL if key_lengths is None else cupy.ascontiguousarray(key_lengths.astype(np.int64))
        offset = capture.offset()
        extents = (self.heads, self.heads // self.key_heads, self.queries, self.keys, self.width, self.value_width)
        self.arguments = (
            *map(np.int32, (*extents, left, right)),
            *map(np.float64, (scale, softcap or 0.0)),
            lengths,
            *masks,
            *biases,
            slopes,
            *map(np.uint64, (*seed, 0)[:3]),
            NULL if offset is None else offset,
            np.uint64(threshold),
            np.float64(1 / (1 - dropout)),
            *steps(self.query),
            *steps(self.key),
            *steps(self.value),
        )

    @property
    def padded_width(self) -> int:
        """The features that a kernel for half types has room for."""
        return next(width for width in WIDTHS if width >= self.widest)

    def own(self, kind: str) -> int:
        """The rows, queries or keys, whose results a block of threads makes."""
        if not self.half or kind == "bias":
            return TILE
        return 16 * WARPS * (sizes(self.padded_width)[f"{kind.upper()}_BLOCKS"] if self.plain else 1)

    def shared(self, kind: str) -> int:
        """The bytes of shared memory of a kernel."""
        if not self.half or kind == "bias":
            tiles, weights = {"forward": (3, 1), "queries": (4, 1), "keys": (4, 2), "bias": (4, 1)}[kind]
            numbers = tiles * TILE * (self.widest | 1) + weights * TILE * (TILE + 1)
            return numbers * (8 if self.real is np.float64 else 4)
        named = sizes(self.padded_width)
        tile = named["KEYS_QUERIES" if kind == "keys" else f"{kind.upper()}_KEYS"]
        rows = self.own(kind) * (1 if kind == "forward" else 2) + 4 * tile
        return rows * (self.padded_width + 8) * 2 + (16 * tile if kind == "keys" else 0)

    def launch(self, kind: str, blocks: int, *arguments: Any) -> None:
        """Run a kernel."""
        name, source = NAMES[self.dtype], "attention_bias" if kind == "bias" else "attention_float"
        threads = TILE * TILE // 16
        if self.half and kind != "bias":
            source, threads = f"attention_{self.padded_width}", 32 * WARPS
            name += "_plain" if self.plain else ""
        shared = self.shared(kind)
        prepared(source, f"{kind}_{name}", shared)(
            (blocks,), (threads,), (*self.arguments, *arguments), shared_mem=shared
        )

    def parts(self, kind: str) -> int:
        """How many blocks of threads share the features of their rows."""
        if self.half:
            return sizes(self.padded_width)["KEYS_PARTS"] if kind == "keys" else 1
        return up({"forward": self.value_width, "queries": self.width, "keys": self.widest}[kind], FEATURES)


def attention(*inputs: Any, **options: Any) -> Any:
    """Kernel of the op ``attention``: the results, of half types as those, and their log-sum-exps.

    Bytes: queries and results once, keys and values once for each block of queries that attends them.
    """
    p = Problem(*inputs, **options)
    if not p.fits:
        return NotImplemented
    out = rows_like(p.query, p.heads, p.queries, p.value_width)
    lse = cupy.empty((p.batches, p.heads, p.queries), p.real)
    blocks = p.batches * p.heads * up(p.queries, p.own("forward")) * p.parts("forward")
    p.launch("forward", blocks, *steps(out), lse)
    return out, lse


def attention_vjp(g: tuple[Array, Array], *given: Any, **options: Any) -> Any:
    """Kernel of its rule: the gradients of all its inputs, None for those that have none."""
    *inputs, out = given
    p, (bias, alibi_slopes) = Problem(*inputs, **options), inputs[4:6]
    if not p.fits or g[0].dtype != p.dtype or out[0].dtype != p.dtype:
        return NotImplemented
    g_out, result, places = as_rows(g[0]), as_rows(out[0]), p.batches * p.heads
    padded = PADDING * up(p.queries, PADDING)
    logs, deltas = cupy.empty((places, padded), p.real), cupy.empty((places, padded), p.real)
    kernel("attention_deltas", f"deltas_{NAMES[p.dtype]}")(
        (up(places * padded, WARPS),),
        (32 * WARPS,),
        (
            *steps(result),
            *steps(g_out),
            cupy.ascontiguousarray(out[1]),
            cupy.ascontiguousarray(g[1]),
            *map(np.int32, (p.heads, p.queries, p.value_width)),
            *map(np.int64, (padded, places * padded)),
            logs,
            deltas,
        ),
    )
    given = (*steps(g_out), logs, deltas, np.int64(padded))
    g_query = rows_like(p.query, p.heads, p.queries, p.width)
    g_key = rows_like(p.key, p.key_heads, p.keys, p.width)
    g_value = rows_like(p.value, p.key_heads, p.keys, p.value_width)
    key_blocks = p.batches * p.key_heads * up(p.keys, p.own("keys")) * p.parts("keys")
    p.launch("keys", key_blocks, *given, *steps(g_key), *steps(g_value))
    blocks, warps = up(p.queries, p.own("queries")), WARPS if p.half else TILE * TILE // 16 // 32
    sums = NULL if alibi_slopes is None else cupy.empty((p.batches, p.heads, blocks, warps), p.real)
    p.launch("queries", places * blocks * p.parts("queries"), *given, *steps(g_query), sums)
    g_slopes = None if alibi_slopes is None else cupy.sum(sums, axis=(0, 2, 3))
    g_bias = None if bias is None else bias_gradient(p, bias, given)
    return g_query, g_key, g_value, None, g_bias, g_slopes, None


def bias_gradient(p: Problem, bias: Array, given: tuple[Any, ...]) -> Array:
    """That of the scores, summed over what the bias was broadcast to; blocks of queries and keys by a second pass."""
    batches, heads, queries, keys = (1,) * (4 - bias.ndim) + bias.shape
    over_queries, over_keys = queries < p.queries, keys < p.keys
    rows, columns = up(p.queries, TILE), up(p.keys, TILE)
    parts = cupy.empty((batches, heads, rows if over_queries else queries, columns if over_keys else keys), p.real)
    shared = (*map(np.int32, (p.batches, batches, heads)), *map(np.bool_, (over_queries, over_keys)))
    p.launch("bias", batches * heads * rows * columns, *given, *shared, parts)
    axes = tuple(axis for axis, over in ((2, over_queries), (3, over_keys)) if over)
    return (cupy.sum(parts, axis=axes) if axes else parts).reshape(bias.shape)


KINDS = (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64)
_attention.kernel("cuda", *KINDS)(attention)
_attention.kernel("cuda", *KINDS, vjp=-1)(attention_vjp)

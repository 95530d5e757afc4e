"""Attention: each query gets the mean of the values, weighted by a softmax over its scores against all keys."""

from __future__ import annotations

import functools
import math
import operator
from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops import noise
from minigrad.ops.conversion import as_finite, as_index, as_number, as_operand, astype
from minigrad.ops.datatypes import broadcast_shapes, result_type
from minigrad.ops.manipulation import broadcast_to, reshape
from minigrad.ops.noise import Key, drop
from minigrad.ops.registry import Array, DTypeRule, op
from minigrad.ops.samples import A, case, error
from minigrad.ops.softmax import finite_max

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["scaled_dot_product_attention"]

Window = tuple[int | None, int | None]
NAME = "scaled_dot_product_attention"


# backward starts from results that nothing has rounded
unrounded = DTypeRule(floats=True, rounded=False, kinds=dtypes.ALL - dtypes.COMPLEX)


def grouped(xp: Any, x: Array, heads: int) -> Array:
    """The rows of all query heads that share a key head as one matrix: ``(batch, heads, rows, columns)``."""
    batch, own, length, columns = x.shape
    return xp.reshape(x, (batch, heads, own // max(heads, 1) * length, columns))


def products(xp: Any, rows: Array, keys: Array) -> Array:
    """Each row times each key: ``(batch, heads, rows, keys)``. Several heads of rows may share a head of keys."""
    flat = xp.matmul(grouped(xp, rows, keys.shape[1]), xp.matrix_transpose(keys))
    return xp.reshape(flat, (*rows.shape[:3], keys.shape[2]))


def mixed(xp: Any, weights: Array, values: Array) -> Array:
    """For each row of weights the sum of the values: ``(batch, heads, rows, features)``."""
    flat = xp.matmul(grouped(xp, weights, values.shape[1]), values)
    return xp.reshape(flat, (*weights.shape[:3], values.shape[3]))


def mixed_back(xp: Any, weights: Array, rows: Array, heads: int) -> Array:
    """For each column of weights the sum of the rows, over all heads that share one of `heads`."""
    return xp.matmul(xp.matrix_transpose(grouped(xp, weights, heads)), grouped(xp, rows, heads))


def offsets(xp: Any, n: int, m: int) -> Array:
    """How far each of m keys lies behind (negative) or ahead of each of n queries; the last of both are level."""
    return xp.arange(m) - xp.expand_dims(xp.arange(m - n, m), axis=1)


def distances(xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """How far each key lies from each query."""
    return xp.abs(offsets(xp, *shape[2:])).astype(dtype)


def attended(
    xp: Any,
    shape: tuple[int, ...],
    mask: Array | None,
    key_lengths: Array | None,
    is_causal: bool,
    window: Window | None,
) -> Array | None:
    """Which keys a query sees, in a shape that broadcasts to that of the scores; None for all."""
    n, m = shape[2:]
    left, right = window or (None, None)
    right = 0 if is_causal else right
    parts = [] if mask is None else [mask]
    if left is not None:
        parts.append(offsets(xp, n, m) >= -left)
    if right is not None:
        parts.append(offsets(xp, n, m) <= right)
    if key_lengths is not None:
        parts.append(xp.arange(m) < xp.reshape(key_lengths, (*key_lengths.shape, 1, 1, 1)))
    return functools.reduce(operator.and_, parts) if parts else None


def scores(
    xp: Any,
    similarity: Array,
    mask: Array | None,
    bias: Array | None,
    alibi_slopes: Array | None,
    key_lengths: Array | None,
    is_causal: bool,
    window: Window | None,
    softcap: float | None,
) -> Array:
    """What the softmax is taken of: the scaled products, capped, with what is added to them, -inf where masked."""
    s = similarity if softcap is None else softcap * xp.tanh(similarity / softcap)
    if bias is not None:
        s = s + bias
    if alibi_slopes is not None:
        s = s - xp.reshape(alibi_slopes, (*alibi_slopes.shape, 1, 1)) * distances(xp, s.shape, s.dtype)
    seen = attended(xp, s.shape, mask, key_lengths, is_causal, window)
    return s if seen is None else xp.where(seen, s, -math.inf)


@op(
    dtype=unrounded,
    skip="mask key_lengths",
    needs="query (batch, heads, queries, features), key (batch, key heads, keys, features) and value (batch, key "
    "heads, keys, value features), heads a multiple of key heads",
    amp="half",
)
def _attention(
    xp: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    key_lengths: Array | None = None,
    /,
    *,
    is_causal: bool = False,
    window: Window | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    seed: Key = (0, 0),
    scale: float = 1.0,
) -> tuple[Array, Array]:
    batch, heads, n, _ = query.shape
    if key.shape[2] == 0:
        lse = xp.full((batch, heads, n), -math.inf, dtype=query.dtype)
        return xp.zeros((batch, heads, n, value.shape[3]), dtype=query.dtype), lse
    similarity = products(xp, query * scale, key)
    s = scores(xp, similarity, mask, bias, alibi_slopes, key_lengths, is_causal, window, softcap)
    top = finite_max(xp, s, -1)
    p = xp.exp(s - top)
    total = xp.sum(p, axis=-1, keepdims=True)
    lse = xp.squeeze(xp.log(total) + top, axis=-1)
    p = p / xp.where(total == 0, 1.0, total)
    return mixed(xp, drop(xp, p, dropout, seed) if dropout else p, value), lse


@_attention.vjp()
def _(
    xp: Any,
    g: tuple[Array, Array],
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array | None,
    alibi_slopes: Array | None,
    key_lengths: Array | None,
    out: tuple[Array, Array],
    *,
    is_causal: bool,
    window: Window | None,
    softcap: float | None,
    dropout: float,
    seed: Key,
    scale: float,
) -> tuple[Array | None, ...]:
    heads = key.shape[1]
    result, lse = out
    empty = lse == -math.inf  # rows that see no key, where lse has no gradient
    query = query * scale
    similarity = products(xp, query, key)
    s = scores(xp, similarity, mask, bias, alibi_slopes, key_lengths, is_causal, window, softcap)
    p = weights = xp.exp(s - xp.expand_dims(xp.where(empty, 0.0, lse), axis=-1))
    g_p = products(xp, g[0], value)
    if dropout:
        g_p, weights = drop(xp, g_p, dropout, seed), drop(xp, p, dropout, seed)
    g_row = xp.where(empty, 0.0, g[1]) - xp.sum(g[0] * result, axis=-1)
    g_s = g_similarity = p * (g_p + xp.expand_dims(g_row, axis=-1))
    if softcap is not None:
        g_similarity = g_s * (1 - xp.tanh(similarity / softcap) ** 2)
    return (
        mixed(xp, g_similarity, key) * scale,
        mixed_back(xp, g_similarity, query, heads),
        mixed_back(xp, weights, g[0], heads),
        None,
        None if bias is None else g_s,
        None if alibi_slopes is None else -xp.sum(g_s * distances(xp, s.shape, s.dtype), axis=(0, 2, 3)),
        None,
    )


QUERY, KEY, VALUE = (2, 4, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3)
SCALE = {"scale": 0.7}
LENGTHS = A((2,), 2, 5, kind="int")
MASK = [[True, False, True, True], [False, True, False, False], [True, True, True, True]]
SLOPES = A((4,), 0.1, 1.0)
_attention.samples(
    case((1, 1, 2, 2), (1, 1, 3, 2), (1, 1, 3, 2)),
    case(QUERY, KEY, VALUE, **SCALE),
    case(QUERY, KEY, VALUE, is_causal=True, **SCALE),
    case(QUERY, KEY, VALUE, window=(1, 0), **SCALE),
    case(QUERY, KEY, VALUE, window=(None, 1), softcap=1.5, **SCALE),
    case(QUERY, KEY, VALUE, None, (3, 4), **SCALE),
    case(QUERY, KEY, VALUE, None, (2, 1, 3, 1), SLOPES, is_causal=True, **SCALE),
    case(QUERY, KEY, VALUE, MASK, (1, 4, 1, 4), SLOPES, LENGTHS, window=(2, 1), softcap=2.0, **SCALE),
    case(QUERY, KEY, VALUE, None, None, None, LENGTHS, dropout=0.4, seed=(1, 2), **SCALE),
    case((2, 4, 3, 2), (2, 1, 1, 2), (2, 1, 1, 2), dropout=0.2, seed=(3, 0)),
    case((2, 4, 3, 2), (2, 1, 3, 2), (2, 1, 3, 2), dropout=0.4, seed=(3, 0, 71)),
    case([[[[0.5, 1.0], [2.0, -1.0]]]], [[[[1.0, 0.0]]]], [[[[1.0, 2.0, 3.0]]]], [[True], [False]]),
    case([[[[900.0], [-900.0]]]], [[[[1.0], [-1.0], [0.0]]]], [[[[1.0], [2.0], [3.0]]]]),
    case((1, 1, 0, 2), (1, 1, 3, 2), (1, 1, 3, 2)),
    case((2, 2, 3, 0), (2, 1, 4, 0), (2, 1, 4, 2)),
    case((0, 2, 3, 2), (0, 1, 4, 2), (0, 1, 4, 2), is_causal=True),
    error(ShapeError, "needs query (batch, heads, queries, features)", (1, 1, 2, 3), (1, 1, 2, 4), (1, 1, 2, 4)),
    error(ShapeError, "needs query (batch, heads, queries, features)", (2, 3), (2, 3), (2, 3)),
)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    is_causal: bool = False,
    window: Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    key_lengths: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention ``softmax(scale * query @ key.T + ...) @ value``, with memory that grows with the lengths.

    The score of query i and key j, where the last query is level with the last key: ``p = i + keys - queries``, is
    ``s = scale * query[i] @ key[j]``, capped to ``softcap * tanh(s / softcap)``, plus ``bias[i, j]``, minus
    ``alibi_slopes * abs(p - j)``, and -inf where a key is not attended. A query that attends none gives zeros and has
    zero gradients.

    A. Vaswani et al., "Attention is all you need", 2017. T. Dao et al., "FlashAttention", 2022. Grouped heads:
    J. Ainslie et al., 2023. ALiBi: O. Press et al., 2022. Soft cap: Gemma Team, "Gemma 2", 2024.

    Parameters
    ----------
    query : Tensor
        ``(..., heads, queries, features)``; without heads ``(queries, features)``.
    key, value : Tensor
        ``(..., key heads, keys, features)`` and ``(..., key heads, keys, value features)``. The heads are a multiple of
        the key heads, and head h reads key head ``h // (heads // key_heads)``.
    mask : Tensor, optional
        Bools that broadcast to ``(..., heads, queries, keys)``; True means that the query attends the key.
    bias : Tensor, optional
        Numbers that broadcast to the same shape and are added to the scores; they may require grad.
    is_causal : bool
        A query attends no key after its own place: ``j <= p``.
    window : tuple of int or None, optional
        How many keys before and after its place a query attends, ``p - left <= j <= p + right``; None for no bound.
    softcap : float, optional
        Bounds the scaled products to ±softcap.
    alibi_slopes : Tensor, optional
        One slope a head, the penalty for each step between query and key; they may require grad.
    key_lengths : Tensor, optional
        Integers ``(...)``, one a sequence: keys from there on are padding, which is not attended. On a GPU they are
        not looked at: below 0 they count as 0, and above the number of keys as that.
    dropout : float
        The probability that a weight is dropped, 0 <= dropout < 1. It applies whenever it is not 0, with the next key
        of the default generator.
    scale : float, optional
        By default ``1 / sqrt(features)``.
    return_lse : bool
        Also return the log-sum-exp of each query's scores.

    Returns
    -------
    Tensor or tuple of Tensor
        ``(..., heads, queries, value features)``; with `return_lse` also the log-sum-exps ``(..., heads, queries)``,
        differentiable too, float32 for half types, -inf for a query that attends no key.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If the mask is not bool, the bias is, or the lengths are no integers.
    ValueError
        For a window below 0, a soft cap that is not positive, a dropout outside [0, 1), or lengths out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> x = mg.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> mg.round(F.scaled_dot_product_attention(x, x, x, is_causal=True), 3)
    tensor([[1.  , 0.  ],
            [0.33, 0.67]])
    """
    query, key = as_operand(NAME, "query", query), as_operand(NAME, "key", key)
    value = as_operand(NAME, "value", value)
    check_operands(NAME, query, key, value)
    query, key, value = _attention.autocast(query, key, value)
    whole = (*query.shape[:-1], key.shape[-2])
    floats = [query, key, value]
    if mask is not None:
        mask = as_operand(NAME, "mask", mask)
        if mask.dtype != dtypes.bool:
            raise DTypeError(message(NAME, "mask", mask, "bools, True = attend", "What is added to scores is bias="))
        mask = over_scores("mask", mask, whole)
    if bias is not None:
        bias = as_operand(NAME, "bias", bias)
        if bias.dtype not in dtypes.FLOATING:
            hint = "Bools that say what is attended are mask="
            raise DTypeError(message(NAME, "bias", bias, "floating numbers", hint))
        (bias,) = _attention.autocast(bias)
        floats.append(bias)
        bias = over_scores("bias", bias, whole)
    if alibi_slopes is not None:
        alibi_slopes = as_operand(NAME, "alibi_slopes", alibi_slopes)
        heads = query.shape[-3:-2] or (1,)
        if alibi_slopes.shape != heads:
            raise ShapeError(message(NAME, "alibi_slopes", alibi_slopes, f"shape {heads}, one slope a head"))
        (alibi_slopes,) = _attention.autocast(alibi_slopes)
        floats.append(alibi_slopes)
    if key_lengths is not None:
        key_lengths = read_lengths(key_lengths, query.shape[:-3], key.shape[-2])
    dropout = read_dropout(dropout)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    out, lse = _attention(
        four_axes(query),
        four_axes(key),
        four_axes(value),
        mask,
        bias,
        alibi_slopes,
        key_lengths,
        is_causal=bool(is_causal),
        window=read_window(window),
        softcap=None if softcap is None else read_positive("softcap", softcap),
        dropout=dropout,
        seed=noise.next_key(math.prod(query.shape[:-1]) * key.shape[-2]) if dropout else (0, 0),
        scale=as_finite(NAME, "scale", scale),
    )
    if query.ndim != 4:
        out, lse = reshape(out, (*query.shape[:-1], value.shape[-1])), reshape(lse, query.shape[:-1])
    if out.dtype is not query.dtype and any(x.dtype in dtypes.HALF for x in floats):
        out = astype(out, result_type(*floats), copy=False)
    return (out, lse) if return_lse else out


def check_operands(who: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse queries, keys and values that do not fit together."""
    q, k, v = query.shape, key.shape, value.shape
    if len(q) < 2:
        raise ShapeError(message(who, "query", query, "at least two axes, (queries, features)"))
    for name, x, shape in (("key", key, k), ("value", value, v)):
        if len(shape) != len(q) or shape[:-3] != q[:-3]:
            lead = ", ".join(map(str, q[:-3])) + ", " if len(q) > 3 else ""
            need = f"shape ({lead}{'key heads, ' if len(q) > 2 else ''}keys, features) for query {describe(query)}"
            raise ShapeError(message(who, name, x, need))
    if k[-1] != q[-1]:
        raise ShapeError(message(who, "key", key, f"{q[-1]} features, as query {describe(query)} has"))
    if v[:-1] != k[:-1]:
        need = f"the heads and the length of key {describe(key)}"
        raise ShapeError(message(who, "value", value, need, "Only their features may differ"))
    heads, shared = (q[-3], k[-3]) if len(q) > 2 else (1, 1)
    if heads % shared if shared else heads:
        need = f"a multiple of the {shared} heads of key {describe(key)}"
        raise ShapeError(message(who, "query", f"{describe(query)} with {heads} heads", need))


def four_axes(x: Tensor) -> Tensor:
    """A tensor with its axes before the heads made one, and with one head where it has no axis for it."""
    if x.ndim == 4:
        return x
    return reshape(x, (math.prod(x.shape[:-3]), *(x.shape[-3:-2] or (1,)), *x.shape[-2:]))


def over_scores(name: str, x: Tensor, whole: tuple[int, ...]) -> Tensor:
    """A mask or bias that broadcasts to the shape of the scores, its axes before the heads made one."""
    try:
        fits = broadcast_shapes(x.shape, whole) == whole
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(message(NAME, name, x, f"a shape that broadcasts to {whole}, that of the scores"))
    lead, own = whole[:-3], x.shape[-3:]
    if len(lead) < 2 or x.ndim < 4:
        return x
    if math.prod(x.shape[:-3]) == 1:
        return reshape(x, (1, *own))
    return reshape(broadcast_to(x, (*lead, *own)), (math.prod(lead), *own))


def read_lengths(key_lengths: Any, lead: tuple[int, ...], keys: int) -> Tensor:
    """The lengths as int64, one a sequence of the batch."""
    lengths = as_operand(NAME, "key_lengths", key_lengths)
    if lengths.dtype not in dtypes.INTEGER:
        raise DTypeError(message(NAME, "key_lengths", lengths, "integers"))
    if lengths.shape != lead:
        raise ShapeError(message(NAME, "key_lengths", lengths, f"shape {lead}, one length a sequence"))
    if lengths.device == "cpu":  # to look at those on a GPU the host would wait, and no graph could be captured
        wrong = (lengths < 0) | (lengths > keys)
        if wrong.any():
            got = f"{lengths[wrong][0].item()} in one place"
            raise ValueError(message(NAME, "key_lengths", got, f"lengths from 0 to {keys}, the number of keys"))
    return reshape(astype(lengths, dtypes.int64, copy=False), (math.prod(lead),))


def read_window(window: Any) -> Window | None:
    """Both bounds as ints or None."""
    if window is None:
        return None
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise ValueError(message(NAME, "window", window, "two numbers of keys, (left, right)", "None is no bound"))
    left, right = (None if bound is None else as_index(NAME, "window", bound) for bound in window)
    if min(left or 0, right or 0) < 0:
        raise ValueError(message(NAME, "window", window, "numbers of keys of at least 0", "None is no bound"))
    return left, right


def read_positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    number = float(as_number(NAME, name, value, (int, float)))
    if not 0 < number < math.inf:
        raise ValueError(message(NAME, name, number, "a positive number"))
    return number


def read_dropout(dropout: Any) -> float:
    """A probability that leaves something."""
    rate = float(as_number(NAME, "dropout", dropout, (int, float)))
    if not 0 <= rate < 1:
        raise ValueError(message(NAME, "dropout", rate, "a probability, 0 <= dropout < 1"))
    return rate


_attention.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("attention", "attention"))
_attention.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(Kernel("attention", "attention_vjp"))

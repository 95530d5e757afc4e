"""Attention whose scores and mask are given by Python functions, which are called on blocks of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import minigrad.ops as xp
from minigrad import dtypes
from minigrad._core import engine, tape
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.attention import _attention, check_operands, four_axes, mixed, mixed_back, products
from minigrad.ops.conversion import as_index, as_number, as_operand, astype, new
from minigrad.ops.datatypes import broadcast_shapes, result_type
from minigrad.ops.manipulation import reshape

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["flex_attention"]

NAME = "flex_attention"


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    scale: float | None = None,
    block_size: int = 256,
    return_lse: bool = False,
) -> Any:
    """Attention ``softmax(score_mod(scale * query @ key.T)) @ value`` over the keys that ``mask_mod`` lets through.

    Both functions are called on blocks of scores, never on all of them, with the indices of the block as integer
    tensors that broadcast to it: `batch` ``(B, 1, 1, 1)``, `head` ``(H, 1, 1)``, `query_index` ``(rows, 1)``,
    `key_index` ``(columns,)``. Blocks that are masked as a whole are left out, and backward computes the others again,
    so memory grows with the lengths and not with their product. Gradients also reach the tensors that `score_mod` uses
    from outside, such as a table of relative biases. A second derivative holds all scores at once.

    J. Dong, B. Feng, D. Guessous, Y. Liang, H. He, "Flex Attention: a programming model for generating optimized
    attention kernels", 2024.

    Parameters
    ----------
    query : Tensor
        ``(..., heads, queries, features)``; without heads ``(queries, features)``.
    key, value : Tensor
        ``(..., key heads, keys, features)`` and ``(..., key heads, keys, value features)``. The heads are a multiple of
        the key heads, and head h reads key head ``h // (heads // key_heads)``.
    score_mod : callable, optional
        ``score_mod(score, batch, head, query_index, key_index)`` gives the scores to use for the block `score`
        ``(B, H, rows, columns)``, in a shape that broadcasts to it. B counts all axes before the heads.
    mask_mod : callable, optional
        ``mask_mod(batch, head, query_index, key_index)`` gives bools that broadcast to the block; True = attend.
    scale : float, optional
        By default ``1 / sqrt(features)``.
    block_size : int
        Rows and columns of a block.
    return_lse : bool
        Also return the log-sum-exp of each query's scores.

    Returns
    -------
    Tensor or tuple of Tensor
        ``(..., heads, queries, value features)``, zeros where a query attends no key; with `return_lse` also the
        log-sum-exps ``(..., heads, queries)``, float32 for half types.

    Raises
    ------
    ShapeError
        If the operands, or what a function gives, do not fit.
    DTypeError
        If `mask_mod` gives no bools, or `score_mod` no floating numbers.
    TypeError
        If one of them is no callable.
    ValueError
        If the block size is not positive.

    Notes
    -----
    The functions must compute the same whenever they are called, and elementwise: a block knows nothing of others.
    Half types are computed in float32, and `score_mod` is given float32.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> x = mg.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> table = mg.tensor([0.5, 0.0, -0.5], requires_grad=True)  # a bias for each distance
    >>> def biased(score, batch, head, q, k):
    ...     return score + table[mg.abs(q - k)]
    >>> def causal(batch, head, q, k):
    ...     return k <= q
    >>> y = F.flex_attention(x, x, x, score_mod=biased, mask_mod=causal)
    >>> mg.round(y, 3)
    tensor([[1.   , 0.   ],
            [0.23 , 0.77 ],
            [0.798, 0.877]], grad_fn=<round>)
    >>> y.sum().backward()
    >>> table.grad.shape
    (3,)
    """
    query, key, value = (as_operand(NAME, n, x) for n, x in (("query", query), ("key", key), ("value", value)))
    check_operands(NAME, query, key, value)
    check_callable("score_mod", score_mod, "score, batch, head, query_index, key_index")
    check_callable("mask_mod", mask_mod, "batch, head, query_index, key_index")
    size = as_index(NAME, "block_size", block_size)
    if size < 1:
        raise ValueError(message(NAME, "block_size", size, "a positive number"))
    query, key, value = _attention.autocast(query, key, value)
    kind = result_type(query, key, value)
    if kind in dtypes.COMPLEX:
        raise DTypeError(message(NAME, "query, key or value", f"{kind}", "real numbers"))
    compute = dtypes.float64 if kind == dtypes.float64 else dtypes.float32
    factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else as_number(NAME, "scale", scale, (int, float))
    rows, keys, values = (four_axes(astype(x, compute, copy=False)) for x in (query, key, value))
    with tape.AutocastMode(None):  # backward computes the blocks again, without it
        out, lse = attend(rows * factor, keys, values, score_mod, mask_mod, size)
    if query.ndim != 4:
        out, lse = reshape(out, (*query.shape[:-1], value.shape[-1])), reshape(lse, query.shape[:-1])
    if kind in dtypes.HALF:
        out = astype(out, kind)
    return (out, lse) if return_lse else out


def attend(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Any, mask_mod: Any, size: int
) -> tuple[Tensor, Tensor]:
    """Results and log-sum-exps, on the tape as one node, with the edges of whatever the score function uses."""
    recording = tape.is_recording()
    with tape.Mode(tape.grad_mode, False):
        blocks = Blocks(query.detach(), key.detach(), value.detach(), score_mod, mask_mod, size)
        out, lse = blocks.forward(search=recording)
    if not recording:
        return out, lse
    own = [tape.edge(t) for t in (query, key, value)]
    # an operand may stand twice among them, as in self-attention on one tensor, or be used by the score function too
    edges = list({id(edge): edge for edge in (*own, *blocks.captured) if edge is not None}.values())
    if not edges:
        return out, lse

    def pull(node: tape.Node, cotangent: Any, create: bool) -> list[Any]:
        if create:
            with tape.Mode(tape.grad_mode, True):
                outputs = Blocks(query, key, value, score_mod, mask_mod, size).whole()
            live = [(t, g) for t, g in zip(outputs, cotangent, strict=True) if g is not None]
            return engine.run_backward([t for t, _ in live], [g for _, g in live], edges, True, True, True)
        wrapped = [None if g is None else engine.wrapped(g) for g in cotangent]
        with tape.Mode(tape.grad_mode, False):
            return gathered(edges, (*own, *blocks.captured), blocks.backward(out, lse, *wrapped))

    leaves = tuple(edge for edge in edges if isinstance(edge, tape.TensorBase))
    saved = (query, key, value, out, lse, *leaves)
    made = tape.record(tape.PyRule(NAME, pull), tuple(edges), (out._array, lse._array), saved)
    for mine, own_memory in zip(made, (out, lse), strict=True):
        tape.join_memory(mine, own_memory)
    return made[0], made[1]


def gathered(edges: Sequence[Any], places: Sequence[Any], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradient of each edge: the sum of those whose place is this edge."""
    totals: dict[int, Tensor] = {}
    for edge, g in zip(places, gradients, strict=True):
        if edge is not None and g is not None:
            totals[id(edge)] = totals[id(edge)] + g if id(edge) in totals else g
    return [totals.get(id(edge)) for edge in edges]


class Blocks:
    """One call, computed block by block.

    Parameters
    ----------
    query, key, value : Tensor
        ``(batch, heads, length, features)``; the query is scaled already.
    score_mod, mask_mod : callable or None
        The functions.
    size : int
        Rows and columns of a block.

    Attributes
    ----------
    captured : list of Node or Tensor
        The edges of what the score function uses from outside, as the forward found them.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, score_mod: Any, mask_mod: Any, size: int) -> None:
        self.query, self.key, self.value, self.score_mod, self.mask_mod = query, key, value, score_mod, mask_mod
        self.rows, self.columns = pieces(query.shape[2], size), pieces(key.shape[2], size)
        self.attended: list[tuple[int, int]] = []
        self.captured: list[Any] = []

    def forward(self, search: bool) -> tuple[Tensor, Tensor]:
        """The results by online softmax; `search` for what the score function uses."""
        made = [self.one_row(i, search) for i in range(len(self.rows))]
        return xp.concat([out for out, _ in made], axis=2), xp.concat([lse for _, lse in made], axis=2)

    def one_row(self, i: int, search: bool) -> tuple[Tensor, Tensor]:
        """The results of one piece of the queries."""
        query = self.query[:, :, self.rows[i]]
        kind = query.dtype
        top = xp.full((*query.shape[:3], 1), -math.inf, dtype=kind)
        total = xp.zeros((*query.shape[:3], 1), dtype=kind)
        mixture = xp.zeros((*query.shape[:3], self.value.shape[3]), dtype=kind)
        level = total  # what is subtracted before exp: the top where it is finite
        for j, columns in enumerate(self.columns):
            block = (self.rows[i], columns)
            mask = self.mask(*block)
            if columns.start == columns.stop or (mask is not None and not mask.any()):
                continue
            self.attended.append((i, j))
            s = products(xp, query, self.key[:, :, columns])
            if self.score_mod is not None:
                s = self.searched(s, *block) if search else self.modified(s, *block)
            s = masked(s, mask)
            above = xp.maximum(top, xp.max(s, axis=-1, keepdims=True))
            level = xp.where(xp.isfinite(above), above, 0.0)
            p, shrink = xp.exp(s - level), xp.exp(top - level)
            total = total * shrink + xp.sum(p, axis=-1, keepdims=True)
            mixture = mixture * shrink + mixed(xp, p, self.value[:, :, columns])
            top = above
        lse = xp.squeeze(xp.log(total) + level, axis=-1)
        return mixture / xp.where(total == 0, 1.0, total), lse

    def backward(self, out: Tensor, lse: Tensor, g_out: Tensor | None, g_lse: Tensor | None) -> list[Tensor | None]:
        """The gradients of query, key, value, and of what the score function uses."""
        g_out = xp.zeros_like(out) if g_out is None else g_out
        empty = lse == -math.inf  # rows that see no key, where lse has no gradient
        level = xp.expand_dims(xp.where(empty, 0.0, lse), axis=-1)
        shift = -xp.sum(g_out * out, axis=-1, keepdims=True)
        if g_lse is not None:
            shift = shift + xp.expand_dims(xp.where(empty, 0.0, g_lse), axis=-1)
        g_query = [xp.zeros_like(self.query[:, :, rows]) for rows in self.rows]
        g_key = [xp.zeros_like(self.key[:, :, columns]) for columns in self.columns]
        g_value = [xp.zeros_like(self.value[:, :, columns]) for columns in self.columns]
        g_captured: list[Tensor | None] = [None] * len(self.captured)
        for i, j in self.attended:
            rows, columns = self.rows[i], self.columns[j]
            query, key, value = self.query[:, :, rows], self.key[:, :, columns], self.value[:, :, columns]
            scores = modified = products(xp, query, key)
            if self.score_mod is not None:
                scores, modified = self.recorded(scores, rows, columns)
            g = g_out[:, :, rows]
            p = xp.exp(masked(modified.detach(), self.mask(rows, columns)) - level[:, :, rows])
            g_scores: Tensor | None = p * (products(xp, g, value) + shift[:, :, rows])
            g_value[j] = g_value[j] + mixed_back(xp, p, g, value.shape[1])
            if self.score_mod is not None:
                g_scores, *found = self.pulled(modified, g_scores, scores)
                g_captured = [b if a is None else a if b is None else a + b for a, b in zip(g_captured, found)]
            if g_scores is not None:
                g_query[i] = g_query[i] + mixed(xp, g_scores, key)
                g_key[j] = g_key[j] + mixed_back(xp, g_scores, query, key.shape[1])
        return [*(xp.concat(parts, axis=2) for parts in (g_query, g_key, g_value)), *g_captured]

    def whole(self) -> tuple[Tensor, Tensor]:
        """The results from all scores at once, by operations that are recorded one by one."""
        block = (slice(0, self.query.shape[2]), slice(0, self.key.shape[2]))
        s = masked(self.modified(products(xp, self.query, self.key), *block), self.mask(*block))
        return mixed(xp, xp.softmax(s, axis=-1), self.value), xp.logsumexp(s, axis=-1)

    def indices(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The indices of a block, in shapes that broadcast to it."""
        batch, heads = self.query.shape[:2]
        return (
            reshape(xp.arange(batch), (batch, 1, 1, 1)),
            reshape(xp.arange(heads), (heads, 1, 1)),
            xp.expand_dims(xp.arange(rows.start, rows.stop), axis=1),
            xp.arange(columns.start, columns.stop),
        )

    def mask(self, rows: slice, columns: slice) -> Tensor | None:
        """Which keys of a block are attended, in a shape that broadcasts to it; None for all."""
        if self.mask_mod is None:
            return None
        made = as_operand(NAME, "the result of mask_mod", self.mask_mod(*self.indices(rows, columns)))
        if made.dtype != dtypes.bool:
            raise DTypeError(message(NAME, "the result of mask_mod", made, "bools, True = attend"))
        check_fits("mask_mod", made, (*self.query.shape[:2], rows.stop - rows.start, columns.stop - columns.start))
        return None if made.all() else made

    def modified(self, scores: Tensor, rows: slice, columns: slice) -> Tensor:
        """What the score function makes of a block, in its shape and dtype."""
        if self.score_mod is None:
            return scores
        made = as_operand(NAME, "the result of score_mod", self.score_mod(scores, *self.indices(rows, columns)))
        if made.dtype not in dtypes.FLOATING:
            raise DTypeError(message(NAME, "the result of score_mod", made, "floating numbers"))
        check_fits("score_mod", made, scores.shape)
        made = astype(made, scores.dtype, copy=False)
        return made if made.shape == scores.shape else xp.broadcast_to(made, scores.shape)

    def recorded(self, scores: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The scores as a leaf, and what the score function makes of them, on the tape."""
        leaf = new(scores._array, requires_grad=True)
        with tape.Mode(tape.grad_mode, True):
            return leaf, self.modified(leaf, rows, columns)

    def searched(self, scores: Tensor, rows: slice, columns: slice) -> Tensor:
        """What the score function makes of a block; notes the edges of what it uses."""
        since = tape.clock()
        leaf, made = self.recorded(scores, rows, columns)
        known = {id(edge) for edge in (leaf, *self.captured)}
        self.captured += [edge for edge in tape.frontier([made], since) if id(edge) not in known]
        return made.detach()

    def pulled(self, modified: Tensor, g: Tensor | None, leaf: Tensor) -> list[Tensor | None]:
        """The gradients of a block of scores and of what the score function uses."""
        targets = [tape.edge(leaf), *self.captured]
        if not modified.requires_grad:
            return [None] * len(targets)
        return engine.run_backward([modified], [g], targets, False, False, True)


def pieces(length: int, size: int) -> list[slice]:
    """Slices that cover a length; a single empty one covers nothing."""
    return [slice(start, min(start + size, length)) for start in range(0, max(length, 1), size)]


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores, -inf where a key is not attended."""
    return scores if mask is None else xp.where(mask, scores, -math.inf)


def check_callable(name: str, function: Any, takes: str) -> None:
    """Refuse what cannot be called on blocks, such as a mask or a bias itself."""
    if function is not None and not callable(function):
        raise TypeError(message(NAME, name, function, f"None or a function of ({takes})"))


def check_fits(name: str, made: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what does not broadcast to a block of scores."""
    try:
        fits = broadcast_shapes(made.shape, shape) == shape
    except ShapeError:
        fits = False
    if not fits:
        need = f"a shape that broadcasts to the block {shape}"
        raise ShapeError(message(NAME, f"the result of {name}", describe(made), need))

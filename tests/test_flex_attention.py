"""Flex attention equals the formula on all scores at once, with gradients for what the functions use from outside."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.nn import functional as F
from minigrad.ops.conversion import new
from minigrad.testing import gradcheck
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
flex = F.flex_attention
EXTENT = 8  # longest length, and half the length of the table of biases


def dense(
    query: Any, key: Any, value: Any, *, score_mod: Any = None, mask_mod: Any = None, scale: float | None = None
) -> tuple[Any, Any]:
    """The formula as it is written, with every score in memory."""
    (batch, heads, n, features), m = query.shape, key.shape[2]
    group = heads // key.shape[1]
    key, value = mg.repeat(key, group, axis=1), mg.repeat(value, group, axis=1)
    scores = query @ mg.matrix_transpose(key) * (features**-0.5 if scale is None else scale)
    extents = ((batch, 3), (heads, 2), (n, 1), (m, 0))
    places = [mg.arange(extent).reshape((extent,) + (1,) * behind) for extent, behind in extents]
    if score_mod is not None:
        scores = mg.broadcast_to(score_mod(scores, *places), scores.shape)
    if mask_mod is not None:
        scores = mg.where(mask_mod(*places), scores, -math.inf)
    return mg.softmax(scores, axis=-1) @ value, mg.logsumexp(scores, axis=-1)


def no_score_mod(table: Any, weight: Any) -> Any:
    return None


def relative(table: Any, weight: Any) -> Any:
    return lambda s, b, h, i, j: s + table[h, i - j + EXTENT]


def capped(table: Any, weight: Any) -> Any:
    scaled = table * weight  # no leaf
    return lambda s, b, h, i, j: weight * mg.tanh(s / 2) + scaled[h, i - j + EXTENT] + table[0, j] * b


def unscored(table: Any, weight: Any) -> Any:
    return lambda s, b, h, i, j: table[0, i] * table[1, j]


def masking(table: Any, weight: Any) -> Any:
    return lambda s, b, h, i, j: mg.where((i + j) % 3 > 0, s * weight, -math.inf)


MASKS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "causal": lambda b, h, i, j: j <= i,
    "window": lambda b, h, i, j: mg.abs(i - j) <= 1,
    "rows": lambda b, h, i, j: i % 2 == 0,
    "batch": lambda b, h, i, j: (b + h + j) % 2 == 0,
    "nothing": lambda b, h, i, j: j < 0,
}


def operands(rng: np.random.Generator, batch: int, group: int, n: int, m: int) -> list[Any]:
    """Query, key, value, a table of biases and a scalar, as leaves."""
    shapes: list[tuple[int, ...]] = [
        (batch, 2 * group, n, 3), (batch, 2, m, 3), (batch, 2, m, 2), (2 * group, 2 * EXTENT), ()
    ]  # fmt: skip
    return [new(np.asarray(rng.normal(size=shape)), requires_grad=True) for shape in shapes]


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(0, 2),
    group=st.integers(1, 2),
    lengths=st.tuples(st.integers(0, EXTENT), st.integers(0, EXTENT)),
    size=st.integers(1, EXTENT + 1),
    score=st.sampled_from([no_score_mod, relative, capped, unscored, masking]),
    mask=st.sampled_from(list(MASKS)),
    scale=st.sampled_from([None, 0.3]),
)
def test_it_is_the_formula(
    seed: int, batch: int, group: int, lengths: tuple[int, int], size: int, score: Any, mask: str, scale: Any
) -> None:
    rng = np.random.default_rng(seed)
    query, key, value, table, weight = inputs = operands(rng, batch, group, *lengths)
    hooks = {"score_mod": score(table, weight), "mask_mod": MASKS[mask], "scale": scale}
    found = flex(query, key, value, **hooks, block_size=size, return_lse=True)
    expected = dense(query, key, value, **hooks)
    cotangents = [new(rng.uniform(0.5, 1.5, x.shape)) for x in expected]
    for what, ours, theirs in zip(("out", "lse"), found, expected, strict=True):
        assert_close(ours.detach(), theirs.detach(), mg.float64, what, floor=1.0)
    for used in ((0, 1), (0,), (1,)):  # with and without a cotangent of the log-sum-exps
        given_grads = [cotangents[k] for k in used]
        ours = mg.grad([found[k] for k in used], inputs, given_grads, allow_unused=True, retain_graph=True)
        theirs = mg.grad([expected[k] for k in used], inputs, given_grads, allow_unused=True, retain_graph=True)
        for name, a, b in zip(("query", "key", "value", "table", "weight"), ours, theirs, strict=True):
            if a is None or b is None:  # a table that only masked scores use may be found or not
                assert not any(g is not None and g.numpy().any() for g in (a, b)), name
            else:
                assert_close(a, b, mg.float64, f"gradient of {name}", floor=1.0)


@pytest.mark.parametrize("score", [no_score_mod, relative, capped, masking])
@pytest.mark.parametrize("mask", ["none", "causal", "rows"])
def test_derivatives_of_two_orders(score: Any, mask: str) -> None:
    def f(query: Any, key: Any, value: Any, table: Any, weight: Any) -> Any:
        return flex(query, key, value, score_mod=score(table, weight), mask_mod=MASKS[mask], block_size=2)

    assert gradcheck(f, operands(np.random.default_rng(0), 2, 2, 3, 4), order=2)


def test_one_tensor_in_every_place() -> None:
    x = np.random.default_rng(1).normal(size=(2, 5, 3))
    assert gradcheck(lambda x: flex(x, x, x, score_mod=lambda s, *_: s * x.sum(), block_size=2), [x], order=2)


def test_a_tensor_and_what_is_made_of_it() -> None:
    """Both stand on the tape before the call, one above the other."""
    table = np.random.default_rng(2).normal(size=6)
    x = new(np.random.default_rng(3).normal(size=(6, 3)))

    def f(table: Any) -> Any:
        double = table * table
        return flex(x, x, x, score_mod=lambda s, b, h, i, j: s + double[i] * table[j], block_size=4)

    assert gradcheck(f, [table], order=2)


def test_no_graph_without_need() -> None:
    x = mg.ones((4, 2))
    weight = mg.tensor(2.0, requires_grad=True)
    assert not flex(x, x, x, score_mod=lambda s, *_: s * 2).requires_grad
    with mg.no_grad():
        assert not flex(x, x, x, score_mod=lambda s, *_: s * weight).requires_grad
    assert flex(x, x, x, score_mod=lambda s, *_: s * weight).requires_grad


def test_only_blocks_that_are_attended_are_computed() -> None:
    seen: list[tuple[int, int]] = []

    def score(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        seen.append((int(i[0, 0]), int(j[0])))
        return s

    x = new(np.random.default_rng(4).normal(size=(1, 1, 8, 2)), requires_grad=True)
    out = flex(x, x, x, score_mod=score, mask_mod=MASKS["window"], block_size=2)
    expected = [(i, j) for i in range(0, 8, 2) for j in range(0, 8, 2) if abs(i - j) <= 2]
    assert seen == expected
    out.sum().backward()
    assert seen == expected * 2


def test_a_graph_may_be_used_twice_and_changes_are_found() -> None:
    x = new(np.random.default_rng(5).normal(size=(1, 1, 4, 2)), requires_grad=True)
    table = new(np.zeros(4), requires_grad=True)
    y = flex(x, x, x, score_mod=lambda s, b, h, i, j: s + table[j], block_size=2)
    first = mg.grad(y.sum(), [x, table], retain_graph=True)
    second = mg.grad(y.sum(), [x, table], retain_graph=True)
    for a, b in zip(first, second, strict=True):
        assert mg.array_equal(a, b)
    with mg.no_grad():
        table += 1.0
    with pytest.raises(mg.GradError, match="flex_attention"):
        y.sum().backward()


@pytest.mark.parametrize("kind", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_rounded_once(kind: Any) -> None:
    rng = np.random.default_rng(6)
    arrays = [rng.normal(size=(1, 2, 9, 4)).astype(kind) for _ in range(3)]
    half = [new(x, requires_grad=True) for x in arrays]
    wide = [new(x.astype(np.float64), requires_grad=True) for x in arrays]
    seen = []

    def score(s: Any, *_: Any) -> Any:
        seen.append(s.dtype)
        return s

    out, lse = flex(*half, score_mod=score, block_size=4, return_lse=True)
    true = flex(*wide, block_size=4)
    assert (out.dtype, lse.dtype, set(seen)) == (kind, mg.float32, {mg.float32})
    assert_close(out.detach(), true.detach(), kind, "out", factor=0.3)
    g = rng.uniform(0.5, 1.5, out.shape).astype(kind)
    for a, b in zip(mg.grad(out, half, new(g)), mg.grad(true, wide, new(g.astype(np.float64))), strict=True):
        assert a.dtype == kind
        assert_close(a, b, kind, "gradient", factor=0.5)


def test_memory_grows_with_the_length() -> None:
    n = 1024
    x = mg.ones((1, 1, n, 4))
    query = new(x.numpy(), requires_grad=True)
    tracemalloc.start()
    flex(query, x, x, mask_mod=MASKS["causal"], block_size=64).sum().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n  # a quarter of the bytes of all scores


REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (mg.ShapeError, "key is float32 (2, 2), needs 3 features", {"key": mg.ones((2, 2))}),
    (mg.DTypeError, "complex64", {"query": mg.ones((4, 3), dtype=mg.complex64)}),
    (TypeError, "score_mod is 3, needs None or a function of (score, batch, head, query_index, key_index)",
     {"score_mod": 3}),
    (TypeError, "mask_mod is bool (4, 4), needs None or a function of (batch, head, query_index, key_index)",
     {"mask_mod": mg.ones((4, 4), dtype=mg.bool)}),
    (ValueError, "block_size is 0, needs a positive number", {"block_size": 0}),
    (mg.DTypeError, "block_size is 1.5, needs an int", {"block_size": 1.5}),
    (mg.DTypeError, "scale is 'x', needs a number", {"scale": "x"}),
    (ValueError, "scale is inf, needs a finite number", {"scale": mg.inf}),
    (mg.DTypeError, "the result of mask_mod is float32 (1, 1, 4, 4), needs bools, True = attend",
     {"mask_mod": lambda b, h, i, j: mg.ones((1, 1, 4, 4))}),
    (mg.ShapeError, "the result of mask_mod is bool (3,), needs a shape that broadcasts to the block (1, 1, 4, 4)",
     {"mask_mod": lambda b, h, i, j: mg.zeros(3, dtype=mg.bool)}),
    (mg.DTypeError, "the result of score_mod is int64 (), needs floating numbers", {"score_mod": lambda *_: 1}),
    (mg.DTypeError, "the result of score_mod is None, needs a tensor", {"score_mod": lambda *_: None}),
    (mg.DTypeError, "the result of score_mod is complex64 (4, 4), needs floating numbers",
     {"score_mod": lambda *_: mg.ones((4, 4), dtype=mg.complex64)}),
    (mg.DTypeError, "the result of mask_mod is None, needs a tensor", {"mask_mod": lambda *_: None}),
    (mg.ShapeError, "the result of score_mod is float32 (2, 1, 4, 4), needs a shape that broadcasts to the block",
     {"score_mod": lambda s, *_: mg.concat([s, s])}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "wrong"), REFUSED, ids=[text[:40] for _, text, _ in REFUSED])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, wrong: dict[str, Any]) -> None:
    x = mg.ones((4, 3))
    with pytest.raises(kind) as caught:
        flex(**{"query": x, "key": x, "value": x, **wrong})
    assert text in str(caught.value)
    assert "flex_attention: " in str(caught.value)

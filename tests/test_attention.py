"""Attention agrees with the formula written out in loops, for every option and their combinations, and with PyTorch."""

from __future__ import annotations

import contextlib
import importlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend.numpy import backend
from minigrad.nn import functional as F
from minigrad.ops.conversion import new
from minigrad.testing import gradcheck
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

Array = np.ndarray[Any, Any]
STEP = 1e-30  # of a derivative by a complex step, which has no rounding
attention = F.scaled_dot_product_attention


def naive(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    *,
    mask: Array | None = None,
    key_lengths: Array | None = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    drop_key: tuple[int, int] = (0, 0),
    scale: float | None = None,
) -> tuple[Array, Array]:
    """Row by row, for real or complex numbers; returns the results and the log-sum-exps."""
    batch, heads, n, features = query.shape
    shared, m = key.shape[1:3]
    scores = (batch, heads, n, m)
    kept = backend.namespace.keep_mask(scores, *drop_key, dropout)
    allowed = np.broadcast_to(True if mask is None else mask, scores)
    added = np.broadcast_to(0.0 if bias is None else bias, scores)
    kind = np.result_type(query, key, value, added, 0.0 if alibi_slopes is None else alibi_slopes)
    out, lse = np.zeros((batch, heads, n, value.shape[3]), kind), np.full((batch, heads, n), -np.inf, kind)
    left, right = window or (None, None)
    for b, h, i in np.ndindex(batch, heads, n):
        at, own = i + m - n, h // (heads // shared)
        row: dict[int, Any] = {}
        for j in range(m):
            seen = allowed[b, h, i, j] and (key_lengths is None or j < key_lengths[b]) and not (is_causal and j > at)
            if not seen or (left is not None and j < at - left) or (right is not None and j > at + right):
                continue
            s = (query[b, h, i] * key[b, own, j]).sum() * (1 / math.sqrt(features) if scale is None else scale)
            s = s if softcap is None else softcap * np.tanh(s / softcap)
            row[j] = s + added[b, h, i, j] - (0.0 if alibi_slopes is None else alibi_slopes[h] * abs(at - j))
        if row:
            top = max(s.real for s in row.values())
            total = sum(np.exp(s - top) for s in row.values())
            lse[b, h, i] = np.log(total) + top
            for j, s in row.items():
                if kept[b, h, i, j]:
                    out[b, h, i] += np.exp(s - top) / total / (1 - dropout) * value[b, own, j]
    return out, lse


def next_key() -> tuple[int, int]:
    """The key that the next call with dropout will draw."""
    state = mg.random.get_state()
    key = mg.random.draw_key()
    mg.random.set_state(state)
    return key


def randoms(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(size=shape)


@st.composite
def options(draw: st.DrawFn, scores: tuple[int, int, int, int]) -> dict[str, Any]:
    """Any options at once; masks and biases broadcast along any axes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    batch, heads, _, m = scores

    def shape() -> tuple[int, ...]:
        whole = tuple(extent if draw(st.booleans()) else 1 for extent in scores)
        return whole[draw(st.integers(0, 4)) :]

    bounds = st.one_of(st.none(), st.integers(0, 5))
    return {
        "mask": rng.random(shape()) < draw(st.sampled_from([0.2, 0.8])) if draw(st.booleans()) else None,
        "bias": randoms(rng, *shape()) if draw(st.booleans()) else None,
        "alibi_slopes": rng.uniform(0, 1, heads) if draw(st.booleans()) else None,
        "key_lengths": rng.integers(0, m + 1, batch) if draw(st.booleans()) else None,
        "is_causal": draw(st.booleans()),
        "window": draw(st.one_of(st.none(), st.tuples(bounds, bounds))),
        "softcap": draw(st.sampled_from([None, 0.7, 5.0])),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "scale": draw(st.sampled_from([None, 0.0, 1.3])),
    }


@given(
    data=st.data(),
    kernels=st.booleans(),
    batch=st.integers(0, 2),
    shared=st.integers(1, 2),
    group=st.integers(1, 3),
    lengths=st.tuples(st.integers(0, 5), st.integers(0, 6)),
    features=st.tuples(st.integers(1, 3), st.integers(0, 3)),
)
def test_values_and_gradients_are_those_of_the_formula(
    data: st.DataObject,
    kernels: bool,
    batch: int,
    shared: int,
    group: int,
    lengths: tuple[int, int],
    features: tuple[int, int],
) -> None:
    (n, m), heads = lengths, shared * group
    chosen = data.draw(options((batch, heads, n, m)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    moving = {
        "query": randoms(rng, batch, heads, n, features[0]),
        "key": randoms(rng, batch, shared, m, features[0]),
        "value": randoms(rng, batch, shared, m, features[1]),
        **{name: chosen.pop(name) for name in ("bias", "alibi_slopes")},
    }
    moving = {name: x for name, x in moving.items() if x is not None}
    known = {**chosen, "drop_key": next_key() if chosen["dropout"] else (0, 0)}
    tensors = {name: new(x, requires_grad=True) for name, x in moving.items()}
    expected = naive(**moving, **known)
    cotangents = [randoms(rng, *x.shape) for x in expected]
    # the log-sum-exp of a row that sees nothing has no gradient, whatever its cotangent is
    cotangents[1][np.isneginf(expected[1])] = math.nan
    with contextlib.nullcontext() if kernels else generic():
        found = attention(**tensors, **chosen, return_lse=True)
        grads = mg.grad(found, list(tensors.values()), [new(c) for c in cotangents])
    for what, ours, theirs in zip(("out", "lse"), found, expected, strict=True):
        assert_close(ours.detach(), theirs, mg.float64, what, floor=1.0)
    for name, grad in zip(moving, grads, strict=True):
        along = randoms(rng, *moving[name].shape)
        moved = naive(**{**moving, name: moving[name] + 1j * STEP * along}, **known)
        parts = zip(cotangents, moved, strict=True)
        slope = sum((c * x.imag)[np.isfinite(c)].sum() / STEP for c, x in parts)
        size = float(np.abs(grad.numpy()).max(initial=0.0))
        assert_close((grad * along).sum(), slope, mg.float64, f"gradient of {name}", factor=10, floor=max(size, 1.0))


CHECKED: dict[str, dict[str, Any]] = {
    "full": {},
    "causal": {"is_causal": True},
    "dropout": {"dropout": 0.4, "softcap": 1.5},
    "masked": {"mask": np.array([[True, False, True, True], [False] * 4, [True] * 4]), "scale": 0.4},
    "window": {"window": (1, 1), "key_lengths": np.array([4, 0])},
    "all": {"window": (2, None), "softcap": 2.0, "is_causal": True, "dropout": 0.2, "key_lengths": np.array([3, 4])},
}


@pytest.mark.parametrize("chosen", CHECKED.values(), ids=CHECKED.keys())
def test_derivatives_of_two_orders(chosen: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3), (4, 1, 4), (4,))
    inputs = [randoms(rng, *shape) for shape in shapes]
    state = mg.random.get_state()

    def f(query: Any, key: Any, value: Any, bias: Any, slopes: Any) -> Any:
        mg.random.set_state(state)  # the same mask in every call
        out, lse = attention(query, key, value, bias=bias, alibi_slopes=slopes, return_lse=True, **chosen)
        return out, mg.where(mg.isfinite(lse), lse, 0.0)

    assert gradcheck(f, inputs, order=2)


def test_a_third_order() -> None:
    rng = np.random.default_rng(1)
    inputs = [randoms(rng, 1, 2, 2, 2), randoms(rng, 1, 1, 3, 2), randoms(rng, 1, 1, 3, 2)]
    assert gradcheck(lambda q, k, v: attention(q, k, v, is_causal=True, softcap=2.0), inputs, order=3)


@pytest.mark.parametrize("chosen", [{"mask": np.zeros((3, 5), bool)}, {"key_lengths": [0, 0]}], ids=str)
def test_rows_that_see_nothing_give_exact_zeros(chosen: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (new(randoms(rng, 2, 2, n, 4).astype(np.float32), requires_grad=True) for n in (3, 5, 5))
    bias = new(randoms(rng, 3, 5).astype(np.float32), requires_grad=True)
    out, lse = attention(q, k, v, bias=bias, return_lse=True, **chosen)
    assert not out.detach().numpy().any()
    assert np.isneginf(lse.detach().numpy()).all()
    ((out * 3).sum() + lse.sum()).backward()
    for t in (q, k, v, bias):
        assert t.grad is not None
        assert not t.grad.numpy().any()


def test_a_bias_of_minus_infinity_masks() -> None:
    rng = np.random.default_rng(3)
    q, k, v = (randoms(rng, 1, 2, n, 4) for n in (3, 5, 5))
    mask = rng.random((3, 5)) < 0.5
    mask[1] = False
    masked = attention(q, k, v, mask=mask)
    biased = attention(q, k, v, bias=np.where(mask, 0.0, -np.inf))
    assert_close(biased, masked, mg.float64, "out")


def test_the_axes_before_the_heads() -> None:
    rng = np.random.default_rng(4)
    q, k, v = randoms(rng, 2, 3, 4, 5, 2), randoms(rng, 2, 3, 2, 6, 2), randoms(rng, 2, 3, 2, 6, 3)
    flat = [x.reshape(6, *x.shape[2:]) for x in (q, k, v)]
    lengths = rng.integers(0, 7, (2, 3))
    for shape in [(5, 6), (4, 1, 6), (3, 1, 5, 6), (1, 1, 4, 5, 6), (2, 1, 1, 1, 6), (2, 3, 4, 5, 6)]:
        mask, bias = rng.random(shape) < 0.7, randoms(rng, *shape)
        out, lse = attention(q, k, v, mask=mask, bias=bias, key_lengths=lengths, return_lse=True)
        whole = (2, 3, 4, 5, 6)
        wide = [np.broadcast_to(x, whole).reshape(6, 4, 5, 6) for x in (mask, bias)]
        expected = naive(flat[0], flat[1], flat[2], wide[1], mask=wide[0], key_lengths=lengths.reshape(-1))
        assert_close(out, expected[0].reshape(2, 3, 4, 5, 3), mg.float64, "out")
        assert_close(lse, expected[1].reshape(2, 3, 4, 5), mg.float64, "lse")
    heads = attention(q[0, 0], k[0, 0], v[0, 0], is_causal=True)  # (heads, length, features)
    assert_close(heads, naive(q[0, :1], k[0, :1], v[0, :1], is_causal=True)[0][0], mg.float64, "heads")
    one = attention(q[0, 0, 0], k[0, 0, 0], v[0, 0, 0], alibi_slopes=[0.5], key_lengths=4)  # (length, features)
    alone = naive(q[:1, 0, :1], k[:1, 0, :1], v[:1, 0, :1], np.zeros(()), np.array([0.5]), key_lengths=np.array([4]))
    assert_close(one, alone[0][0, 0], mg.float64, "one", factor=1e6)  # the list holds a float32


@pytest.mark.parametrize("kind", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_rounded_once(kind: Any) -> None:
    rng = np.random.default_rng(5)
    arrays = [(4 * randoms(rng, 2, 2, 33, 16)).astype(kind) for _ in range(3)]
    g = rng.uniform(0.5, 1.5, (2, 2, 33, 16)).astype(kind)
    half = [new(x, requires_grad=True) for x in arrays]
    wide = [new(x.astype(np.float64), requires_grad=True) for x in arrays]
    out, lse = attention(*half, is_causal=True, return_lse=True)
    true, true_lse = attention(*wide, is_causal=True, return_lse=True)
    assert (out.dtype, lse.dtype) == (kind, mg.float32)
    assert_close(lse.detach(), true_lse.detach(), mg.float32, "lse")
    assert_close(out.detach(), true.detach(), kind, "out", factor=0.3)
    for ours, theirs in zip(mg.grad(out, half, new(g)), mg.grad(true, wide, new(g.astype(np.float64))), strict=True):
        assert ours.dtype == kind
        assert_close(ours, theirs, kind, "gradient", factor=0.5)


def test_the_dtypes_of_results() -> None:
    x = mg.zeros((1, 1, 2, 2), dtype=mg.bfloat16)
    assert attention(x, x, x).dtype == mg.bfloat16
    assert attention(x, x, x, bias=mg.zeros((2, 2))).dtype == mg.float32
    assert attention(x, x.astype(mg.float16), x).dtype == mg.float32
    assert attention(x, x, x.astype(mg.float64)).dtype == mg.float64
    assert attention(*[mg.ones((2, 2), dtype=mg.int64)] * 3).dtype == mg.float32
    assert attention([[1.0]], [[1.0]], [[2.0]]).tolist() == [[2.0]]


def test_dropout_is_drawn_anew_and_replayed() -> None:
    x = mg.ones((1, 2, 16, 4))
    mg.random.seed(7)
    first, second = attention(x, x, x, dropout=0.5), attention(x, x, x, dropout=0.5)
    mg.random.seed(7)
    assert mg.array_equal(first, attention(x, x, x, dropout=0.5))
    assert not mg.array_equal(first, second)
    assert 0.8 < float(first.mean()) < 1.2


def test_generic_body_with_large_scores() -> None:
    q, k = np.array([[[[3e4]], [[-3e4]]]], np.float32), np.array([[[[1.0], [-1.0]]]], np.float32)
    with generic():
        out, lse = attention(q, k, k, scale=1.0, return_lse=True)
    assert out.tolist() == [[[[1.0]], [[-1.0]]]]
    assert lse.tolist() == [[[3e4], [3e4]]]


Q, K = np.zeros((2, 4, 5, 3)), np.zeros((2, 2, 7, 3))
REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (mg.ShapeError, "query is float64 (3,), needs at least two axes", {"query": np.zeros(3)}),
    (mg.ShapeError, "key is float64 (1, 2, 7, 3), needs shape (2, key heads, keys, features)", {"key": K[:1]}),
    (mg.ShapeError, "value is float64 (2, 7, 3), needs shape (2, key heads, keys, features)", {"value": K[0]}),
    (mg.ShapeError, "key is float64 (2, 2, 7, 2), needs 3 features", {"key": K[..., :2]}),
    (mg.ShapeError, "value is float64 (2, 2, 6, 3), needs the heads and the length of key", {"value": K[:, :, :6]}),
    (mg.ShapeError, "value is float64 (2, 1, 7, 3), needs the heads and the length of key", {"value": K[:, :1]}),
    (mg.ShapeError, "with 3 heads, needs a multiple of the 2 heads of key", {"query": Q[:, :3]}),
    (mg.DTypeError, "query is text", {"query": "text"}),
    (mg.DTypeError, "complex128", {"query": Q + 1j}),
    (mg.DTypeError, "mask is float64 (5, 7), needs bools, True = attend. What is added to scores is bias=",
     {"mask": np.zeros((5, 7))}),
    (mg.ShapeError, "mask is bool (7, 5), needs a shape that broadcasts to (2, 4, 5, 7)",
     {"mask": np.ones((7, 5), bool)}),
    (mg.ShapeError, "mask is bool (3, 2, 4, 5, 7), needs a shape", {"mask": np.ones((3, 2, 4, 5, 7), bool)}),
    (mg.DTypeError, "bias is bool (5, 7), needs floating numbers", {"bias": np.ones((5, 7), bool)}),
    (mg.ShapeError, "bias is float64 (3, 5, 7), needs a shape that broadcasts", {"bias": np.ones((3, 5, 7))}),
    (mg.ShapeError, "alibi_slopes is float64 (2,), needs shape (4,), one slope a head", {"alibi_slopes": np.ones(2)}),
    (mg.DTypeError, "key_lengths is float32 (2,), needs integers", {"key_lengths": [1.0, 2.0]}),
    (mg.ShapeError, "key_lengths is int64 (3,), needs shape (2,)", {"key_lengths": [1, 2, 3]}),
    (ValueError, "key_lengths is 8 in one place, needs lengths from 0 to 7", {"key_lengths": [7, 8]}),
    (ValueError, "key_lengths is -1 in one place", {"key_lengths": [7, -1]}),
    (ValueError, "window is (-1, 0), needs numbers of keys of at least 0. None is no bound", {"window": (-1, 0)}),
    (ValueError, "window is 4, needs two numbers of keys, (left, right)", {"window": 4}),
    (mg.DTypeError, "window is 1.5, needs an int", {"window": (1.5, 0)}),
    (ValueError, "softcap is 0.0, needs a positive number", {"softcap": 0}),
    (ValueError, "softcap is inf, needs a positive number", {"softcap": math.inf}),
    (ValueError, "dropout is 1.0, needs a probability, 0 <= dropout < 1", {"dropout": 1.0}),
    (ValueError, "dropout is -0.1, needs a probability", {"dropout": -0.1}),
    (ValueError, "dropout is nan, needs a probability", {"dropout": math.nan}),
    (mg.DTypeError, "scale is 'x', needs a number", {"scale": "x"}),
    (ValueError, "scale is nan, needs a finite number", {"scale": mg.nan}),
    (mg.GradError, "scale is a tensor that requires grad", {"scale": mg.tensor(1.0, requires_grad=True)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "wrong"), REFUSED, ids=[text[:40] for _, text, _ in REFUSED])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(kind) as caught:
        attention(**{"query": Q, "key": K, "value": K, **wrong})
    assert text in str(caught.value)
    assert "attention: " in str(caught.value)


@pytest.mark.parametrize("case", ["full", "mask", "bias", "causal", "aligned", "grouped", "scale"])
def test_agrees_with_pytorch(case: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    n, m, heads = (6, 6, 4) if case == "causal" else (5, 7, 4)
    shared = 2 if case == "grouped" else heads
    arrays = [randoms(rng, 2, h, length, 8) for h, length in ((heads, n), (shared, m), (shared, m))]
    mask, bias = rng.random((2, 1, n, m)) < 0.8, randoms(rng, 1, heads, n, m)
    mask[..., 0] = True  # PyTorch gives NaN for a row without any
    corner = importlib.import_module("torch.nn.attention.bias").causal_lower_right(n, m)
    calls: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "full": ({}, {}),
        "mask": ({"mask": mask}, {"attn_mask": torch.tensor(mask)}),
        "bias": ({"bias": bias}, {"attn_mask": torch.tensor(bias)}),
        "causal": ({"is_causal": True}, {"is_causal": True}),
        "aligned": ({"is_causal": True}, {"attn_mask": corner}),
        "grouped": ({}, {"enable_gqa": True}),
        "scale": ({"scale": 0.3}, {"scale": 0.3}),
    }
    ours, theirs = calls[case]
    a, b = [new(x, requires_grad=True) for x in arrays], [torch.tensor(x, requires_grad=True) for x in arrays]
    out, expected = attention(*a, **ours), torch.nn.functional.scaled_dot_product_attention(*b, **theirs)
    assert_close(out.detach(), expected.detach().numpy(), mg.float64, "out")
    g = randoms(rng, *out.shape)
    grads = torch.autograd.grad(expected, b, torch.tensor(g))
    for mine, other in zip(mg.grad(out, a, new(g)), grads, strict=True):
        assert_close(mine, other.numpy(), mg.float64, "gradient")

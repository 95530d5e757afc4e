"""The kernels of attention equal the generic body and rule for every option, and leave alone what they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import blas
from minigrad._core.cpu import Kernel
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CANCELLED
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants

pytestmark = pytest.mark.skipif(not blas.available(), reason="the kernels of attention need NumPy's BLAS")

Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
op = REGISTRY["attention"]
attention, attention_vjp = Kernel("attention", "attention"), Kernel("attention", "attention_vjp")
PLAIN = {"is_causal": False, "window": None, "softcap": None, "dropout": 0.0, "seed": (0, 0), "scale": 0.5}


def assert_same(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    key_lengths: Array | None = None,
    **options: Any,
) -> None:
    """Kernels and generic body agree on values and gradients."""
    floats = {"bias": bias, "alibi_slopes": alibi_slopes}
    given_floats = {name: x for name, x in floats.items() if x is not None}
    hidden, lengths = (None if x is None else new(x) for x in (mask, key_lengths))

    def f(query: mg.Tensor, key: mg.Tensor, value: mg.Tensor, *more: mg.Tensor) -> Any:
        rest = dict(zip(given_floats, more, strict=True))
        arguments = (query, key, value, hidden, rest.get("bias"), rest.get("alibi_slopes"), lengths)
        return op(*arguments, **(PLAIN | options))

    assert_variants(f, query, key, value, *given_floats.values(), floor=CANCELLED)


def operands(
    rng: np.random.Generator,
    batch: int,
    key_heads: int,
    group: int,
    n: int,
    m: int,
    width: int,
    value_width: int,
    dtype: Any = np.float32,
) -> list[Array]:
    shapes = (batch, key_heads * group, n, width), (batch, key_heads, m, width), (batch, key_heads, m, value_width)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def heads_last(x: Array, layout: str) -> Array:
    """The layouts of `relayout`, one as a projection has its heads, and one inside a wider array."""
    if layout == "projected":
        return x.swapaxes(1, 2).copy().swapaxes(1, 2)
    if layout == "sliced":
        return np.concatenate([x, x, x], axis=-1)[..., x.shape[-1] : 2 * x.shape[-1]]
    return relayout(x, layout)


@given(data=st.data())
def test_attention_is_the_generic_one(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(FLOATS))
    batch, key_heads, group = draw(st.sampled_from([(1, 1, 1), (2, 2, 1), (1, 1, 3), (2, 2, 2), (0, 1, 1)]))
    sizes = st.sampled_from([1, 2, 7, 8, 9, 31, 33, 64, 65, 130, 245])
    n, m = draw(sizes), draw(sizes)
    widths = st.sampled_from([1, 3, 8, 16, 21])
    heads = key_heads * group
    arrays = operands(rng, batch, key_heads, group, n, m, draw(widths), draw(widths), dtype)
    arrays = [heads_last(x, draw(layouts() | st.sampled_from(["projected", "sliced"]))) for x in arrays]

    def over_scores() -> tuple[int, ...]:
        shape = [extent if draw(st.booleans()) else 1 for extent in (batch, heads, n, m)]
        return tuple(shape[draw(st.sampled_from([0, 0, 1, 2])) :])

    bound = st.sampled_from([None, 0, 1, 20, 2**40])
    options: dict[str, Any] = {
        "is_causal": draw(st.booleans()),
        "window": draw(st.none() | st.tuples(bound, bound)),
        "softcap": draw(st.sampled_from([None, None, 1.5])),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "seed": (draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**64 - 1))),
    }
    if draw(st.booleans()):
        options["mask"] = relayout(rng.random(over_scores()) < draw(st.sampled_from([0.1, 0.9])), draw(layouts()))
    if draw(st.booleans()):
        options["bias"] = relayout(rng.normal(size=over_scores()).astype(dtype), draw(layouts()))
    if draw(st.booleans()):
        options["alibi_slopes"] = relayout(rng.uniform(0.01, 0.1, heads).astype(dtype), draw(layouts()))
    if draw(st.booleans()):
        integer = draw(st.sampled_from([mg.int64, mg.int32, mg.uint8]))
        options["key_lengths"] = relayout(rng.integers(0, m + 1, batch).astype(integer), draw(layouts()))
    assert_same(*arrays, **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"window": (40, 3)},
        {"dropout": 0.2, "seed": (1, 2), "is_causal": True},
        {"bias": (4, 520, 530)},
        {"bias": (2, 1, 1, 530)},
        {"bias": (2, 4, 520, 1)},
        {"mask": (2, 1, 1, 530), "alibi_slopes": (4,), "softcap": 2.0},
    ],
    ids=str,
)
def test_many_blocks(dtype: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.random(value) < 0.7 if name == "mask" else rng.normal(size=value, scale=0.1).astype(dtype)
        for name, value in options.items()
        if name in ("mask", "bias", "alibi_slopes")
    }
    assert_same(*operands(rng, 2, 2, 2, 520, 530, 24, 40, dtype), **(options | arrays))


@pytest.mark.parametrize("width", [256, 500])
def test_wide_heads(width: int) -> None:
    assert_same(*operands(np.random.default_rng(0), 1, 1, 1, 70, 200, width, 5), is_causal=True)


def test_a_row_that_sees_no_key() -> None:
    query, key, value = operands(np.random.default_rng(0), 1, 1, 1, 100, 40, 8, 8)
    bias = np.zeros((100, 40), np.float32)
    options = PLAIN | {"is_causal": True, "softcap": 3.0}
    out, lse = attention(query, key, value, None, bias, None, None, **options)
    assert (lse[..., :60] == -math.inf).all()
    assert (out[..., :60, :] == 0).all()
    cotangents = np.ones_like(out), np.full_like(lse, math.nan)
    grads = attention_vjp(cotangents, query, key, value, None, bias, None, None, (out, lse), **options)
    assert (grads[0][..., :60, :] == 0).all()
    assert (grads[4][:60] == 0).all()


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan, 1e30])
@pytest.mark.parametrize("place", range(4))
def test_special_values(special: float, place: int) -> None:
    rng = np.random.default_rng(place)
    arrays = [*operands(rng, 1, 2, 1, 20, 250, 8, 8), rng.normal(size=(20, 250)).astype(np.float32)]
    arrays[place][..., 3, 5] = special
    with np.errstate(all="ignore"):
        assert_same(*arrays[:3], bias=arrays[3])


def test_the_heads_of_results_lie_as_those_of_the_operands() -> None:
    arrays = operands(np.random.default_rng(0), 2, 2, 2, 40, 50, 16, 24)
    for layout, order in (("C", (0, 1, 2, 3)), ("projected", (0, 2, 1, 3))):
        query, key, value = (heads_last(x, layout) for x in arrays)
        out = attention(query, key, value, None, None, None, None, **PLAIN)
        cotangents = tuple(np.ones_like(x) for x in out)
        grads = attention_vjp(cotangents, query, key, value, None, None, None, None, out, **PLAIN)
        for x in (out[0], *grads[:3]):
            assert x.transpose(order).flags.c_contiguous


def test_padding_may_hold_anything() -> None:
    query, key, value = operands(np.random.default_rng(0), 1, 1, 1, 20, 400, 8, 8)
    expected = attention(query, key, value, None, None, None, np.array([100]), **PLAIN)
    key[:, :, 100:] = value[:, :, 100:] = math.nan
    out = attention(query, key, value, None, None, None, np.array([100]), **PLAIN)
    cotangents = tuple(np.ones_like(x) for x in out)
    grads = attention_vjp(cotangents, query, key, value, None, None, None, np.array([100]), out, **PLAIN)
    for x, y in zip(out, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    assert all(np.isfinite(x).all() for x in grads[:3])


def test_kernels_are_registered() -> None:
    for dtype in FLOATS:
        assert ("cpu", dtype) in op.kernels
        assert ("cpu", dtype) in op.joint.kernels


Q, K, V = operands(np.random.default_rng(0), 1, 1, 2, 3, 4, 5, 6)
SLOPES, LENGTHS, MASK = np.ones(2, np.float32), np.array([3]), np.ones((3, 4), np.bool_)


@pytest.mark.parametrize(
    "arguments",
    [
        (Q.astype(np.float64), K, V),
        (Q, K, V.astype(np.float64)),
        (Q.astype(np.float16), K, V),
        (Q.astype(">f4"), K, V),
        (Q[0], K, V),
        (Q[:, :, :0], K, V),
        (Q, K[:, :, :0], V[:, :, :0]),
        (Q[..., :4], K, V),
        (Q, K[:, :, :3], V),
        (Q[:, :1], np.tile(K, (1, 2, 1, 1)), np.tile(V, (1, 2, 1, 1))),
        (Q, K, V, MASK.astype(np.int8)),
        (Q, K, V, MASK[:2]),
        (Q, K, V, MASK[np.newaxis, np.newaxis, np.newaxis]),
        (Q, K, V, None, np.ones((3, 4))),
        (Q, K, V, None, np.ones((3, 3), np.float32)),
        (Q, K, V, None, None, SLOPES.astype(np.float64)),
        (Q, K, V, None, None, SLOPES[:1]),
        (Q, K, V, None, None, None, LENGTHS.astype(np.float32)),
        (Q, K, V, None, None, None, LENGTHS.astype(np.uint64)),
        (Q, K, V, None, None, None, np.array([3, 3])),
    ],
)
def test_what_is_left_to_the_generic_body(arguments: tuple[Any, ...]) -> None:
    arguments = (*arguments, *[None] * (7 - len(arguments)))
    assert attention(*arguments, **PLAIN) is NotImplemented
    out = np.ones((1, 2, 3, 6), np.float32), np.ones((1, 2, 3), np.float32)
    assert attention_vjp(out, *arguments, out, **PLAIN) is NotImplemented


@pytest.mark.parametrize("options", [{"window": (-1, 0)}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": math.nan}])
def test_options_that_are_left_to_the_generic_body(options: dict[str, Any]) -> None:
    assert attention(Q, K, V, None, None, None, None, **(PLAIN | options)) is NotImplemented


@pytest.mark.parametrize("wrong", range(4))
def test_results_and_cotangents_that_do_not_fit(wrong: int) -> None:
    arrays = [np.ones((1, 2, 3, 6), np.float32), np.ones((1, 2, 3), np.float32)] * 2
    arrays[wrong] = arrays[wrong].astype(np.float64)
    for faulty in (arrays, [x[..., :2, :] if x.ndim == 4 else x[..., :2] for x in arrays]):
        found = attention_vjp(tuple(faulty[:2]), Q, K, V, None, None, None, None, tuple(faulty[2:]), **PLAIN)
        assert found is NotImplemented

"""Kernels that gather and scatter rows: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.nn import functional as F
from minigrad.ops.registry import REGISTRY
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants, generic, variant

embedding, embedding_vjp = Kernel("embedding", "embedding"), Kernel("embedding", "embedding_vjp")
take, take_vjp = Kernel("embedding", "take"), Kernel("embedding", "take_vjp")
getitem_vjp = Kernel("embedding", "getitem_vjp")
index_add, index_add_vjp = Kernel("embedding", "index_add"), Kernel("embedding", "index_add_vjp")
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
INTEGERS = (np.int64, np.int32, np.int16, np.uint8, np.uint32, np.uint64)
SPECIAL = [-math.inf, -3e38, -0.0, 0.0, 1.0, 3e38, math.inf, math.nan]


@st.composite
def tables(draw: st.DrawFn) -> Array:
    """A table of rows of one to some elements, in any layout, some of them infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([1, 2, 5, 40])), draw(st.sampled_from([1, 2, 7, 8, 16, 33, 300]))
    x = rng.normal(size=shape)
    special = rng.random(shape) < draw(st.sampled_from([0.0, 0.1]))
    x[special] = rng.choice(SPECIAL, special.sum())
    return relayout(x.astype(draw(st.sampled_from(FLOATS))), draw(layouts()))


@st.composite
def ids_for(draw: st.DrawFn, rows: int, kinds: tuple[Any, ...] = INTEGERS, low: int = 0) -> Array:
    """Ids of any shape, integer dtype and layout, mostly with repetitions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(), (0,), (1,), (9,), (3, 4), (2, 0, 3), (200,)]))
    return relayout(np.asarray(rng.integers(low, rows, shape), draw(st.sampled_from(kinds))), draw(layouts()))


@given(data=st.data(), weight=tables())
def test_embedding_is_the_generic_one(data: st.DataObject, weight: Array) -> None:
    ids = data.draw(ids_for(len(weight)))
    padding = data.draw(st.none() | st.integers(0, len(weight) - 1))
    assert_variants(lambda w, i: F.embedding(i, w, padding_idx=padding), weight, ids)


@given(data=st.data(), x=tables())
def test_take_getitem_and_index_add_are_the_generic_ones(data: st.DataObject, x: Array) -> None:
    ids = data.draw(ids_for(len(x), INTEGERS[:3], -len(x)))
    assert_variants(lambda t, i: mg.take(t, i, axis=0), x, ids)
    ran = None if ids.ndim else False
    assert_variants(lambda t, i: t[i], x, ids, ran=ran)
    values = np.random.default_rng(0).normal(size=(*ids.shape, *x.shape[1:])).astype(x.dtype)
    assert_variants(lambda t, i: mg.index_add(x.shape, i, t), values, ids, ran=ran)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "count"), [((3000, 40), 2000), ((65, 150), 3000), ((60_000,), 70_000), ((17, 5, 3), 9000)]
)
def test_large_tables(dtype: Any, shape: tuple[int, ...], count: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(dtype)
    ids = (rng.random(count) ** 3 * shape[0]).astype(np.int64)  # the first ones are frequent, as words are
    assert_variants(lambda t, i: mg.take(t, i, axis=0), x, ids)
    assert_variants(lambda t, i: t[i], x, ids - shape[0])
    if x.ndim == 2:
        assert_variants(lambda t, i: F.embedding(i, t, padding_idx=1), x, ids)


@pytest.mark.parametrize(("shape", "dtype"), [((9001, 467), np.float32), ((4001, 525), np.float64)])
def test_a_gradient_that_does_not_fit_in_the_caches(shape: tuple[int, int], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.integers(0, shape[0], 1000), np.repeat([0, 7, shape[0] - 1], 5)])
    g = rng.normal(size=(len(ids), shape[1])).astype(dtype)
    expected = np.zeros(shape, dtype)
    np.add.at(expected, ids[ids != 7], g[ids != 7])
    for level in cpu.levels():
        for threads in (1, 2):
            with variant(level, threads):
                np.testing.assert_array_equal(embedding_vjp(g, shape, ids, padding_idx=7), expected)


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.int32, mg.complex64, mg.bool], ids=str)
def test_other_dtypes_are_gathered_too(dtype: Any) -> None:
    weight = (mg.arange(12) % 5).astype(dtype).reshape(4, 3)
    ids = mg.tensor([[3, 0], [1, 3]])
    found = F.embedding(ids, weight), mg.take(weight, ids, axis=0)
    assert all(out.dtype == dtype and out.tolist() == weight.numpy()[ids.numpy()].tolist() for out in found)


def test_half_gradients_are_summed_in_float32() -> None:
    weight = mg.ones((2, 3), dtype=mg.bfloat16, requires_grad=True)
    F.embedding(mg.zeros(300, dtype=mg.int64), weight).sum().backward()
    assert weight.grad.tolist() == [[300.0] * 3, [0.0] * 3]
    assert weight.grad.dtype == mg.bfloat16


def test_a_row_that_pads_gets_no_gradient_of_any_order() -> None:
    weight = nn.Parameter(np.arange(6.0).reshape(3, 2))
    ids = mg.tensor([2, 1, 2, 0])
    (grad,) = mg.grad((F.embedding(ids, weight, padding_idx=2) ** 3).sum(), [weight], create_graph=True)
    (second,) = mg.grad((grad**2).sum(), [weight])
    rows = weight.detach().numpy()
    np.testing.assert_allclose(grad.detach().numpy(), 3 * rows**2 * [[1], [1], [0]])
    np.testing.assert_allclose(second.numpy(), 36 * rows**3 * [[1], [1], [0]])


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_are_added_to_those_that_are_there(kernels: bool) -> None:
    weight = nn.Parameter(np.zeros((5, 9), np.float32))
    for ids in ([0, 4, 4], [4, 1, 3]):
        out = F.embedding(mg.tensor(ids), weight) * mg.tensor([[1.0], [2.0], [4.0]])
        with nullcontext() if kernels else generic():
            out.sum().backward()
    assert weight.grad.numpy()[:, 0].tolist() == [1.0, 2.0, 0.0, 4.0, 7.0]


def test_kernels_add_into_an_array() -> None:
    into = np.ones((4, 9), np.float32)
    g = np.full((3, 9), 2.0, np.float32)
    ids = np.array([3, 0, 3])
    for kernel, parameters in (
        (embedding_vjp, {"padding_idx": 0}), (take_vjp, {"axis": 0}), (getitem_vjp, {}),
    ):  # fmt: skip
        arguments = (g, (4, 9)) if kernel is getitem_vjp else (g, (4, 9), ids)
        extra = {"index": (ids,)} if kernel is getitem_vjp else parameters
        assert kernel(*arguments, **extra, into=into) is into
    assert into[:, 0].tolist() == [5.0, 1.0, 1.0, 13.0]
    frozen = into.copy()
    frozen.flags.writeable = False
    for wrong in (frozen, into[:3], into.T, into.astype(np.float64), into.tolist()):
        assert embedding_vjp(g, (4, 9), ids, padding_idx=None, into=wrong) is NotImplemented


@pytest.mark.parametrize("wrong", [-5, 4, 2**62, -(2**63)])
@pytest.mark.parametrize("name", ["embedding", "take"])
def test_a_wrong_id_is_refused_as_without_kernels(name: str, wrong: int) -> None:
    weight, ids = mg.zeros((4, 2)), mg.tensor([0, wrong])

    def text() -> str:
        with pytest.raises(IndexError) as caught:
            F.embedding(ids, weight) if name == "embedding" else mg.take(weight, ids, axis=0)
        return str(caught.value)

    with generic():
        expected = text()
    assert text() == expected
    if name == "embedding":
        assert f"ids is int64 (2,) with the id {wrong}, needs integers in [0, 4), the rows of weight" in expected


W, I = np.ones((4, 3), np.float32), np.array([3, 0])  # noqa: E741 - the ids
G = np.ones((2, 3), np.float32)


def test_kernels_are_registered_and_take_plain_arrays() -> None:
    for name, forward in (("embedding", True), ("take", True), ("getitem", False), ("index_add", True)):
        op = REGISTRY[name]
        for dtype in FLOATS:
            assert (("cpu", dtype) in op.kernels) == forward
            assert ("cpu", dtype) in op.vjps[0].kernels
    frozen = W.copy()
    frozen.flags.writeable = False
    assert embedding(frozen, I[::-1], padding_idx=0).shape == (2, 3)
    assert embedding_vjp(np.broadcast_to(G[:1], (2, 3)), (4, 3), I, padding_idx=0).shape == (4, 3)
    assert embedding_vjp(G.T.copy().T, (4, 3), I, padding_idx=0).tolist() == [[0.0] * 3] * 3 + [[1.0] * 3]


@pytest.mark.parametrize(
    ("weight", "ids", "padding"),
    [
        (np.asfortranarray(W), I, None), (W[::-1], I, None), (W.astype(">f4"), I, None), (W[0], I, None),
        (W[:, :0], I, None), (W, I.astype(np.float64), None), (W, I > 0, None), (W, [3, 0], None), (1.0, I, None),
        (W, I + 1, None), (W, I - 1, None), (W, np.array([2**64 - 1], np.uint64), None), (W, I, 4), (W, I, -1),
        (W, I, 1.0), (W, I, True),
    ],
)  # fmt: skip
def test_embedding_leaves_to_the_generic_body(weight: Any, ids: Any, padding: Any) -> None:
    assert embedding(weight, ids, padding_idx=padding) is NotImplemented


@pytest.mark.parametrize(
    ("g", "shape", "ids"),
    [
        (G, (3, 3), I), (G, (4, 2), I), (G, (4, 3, 1), I), (G[:1], (4, 3), I), (G, (4, 3), I - 1), (G, [4, 3], I),
        (G, (), I), (G, (-4, 3), I), (G, (4.0, 3), I), (G.astype(np.float16), (4, 3), I), (1.0, (4, 3), I),
        (G, (4, 3), I * 1.0), (np.ones((1,) * 64), (1,) * 65, np.array(0)),
        (G[:0], (4, 3), I[:0]), (G[:, :0], (4, 0), I),
    ],
)  # fmt: skip
def test_sums_that_are_left_to_the_generic_rule(g: Any, shape: Any, ids: Any) -> None:
    assert embedding_vjp(g, shape, ids, padding_idx=None) is NotImplemented


def test_indices_that_are_left_to_the_generic_body() -> None:
    for index in [(slice(None),), (I, I), (0, ...), (I > 0,), I, [I], (I.astype(np.uint64),)]:
        assert index_add(G, shape=(4, 3), index=index) is NotImplemented
        assert getitem_vjp(G, (4, 3), index=index) is NotImplemented
        assert index_add_vjp(W, index=index) is NotImplemented
    assert take(W, I, axis=1) is take_vjp(G, (4, 3), I, axis=1) is NotImplemented

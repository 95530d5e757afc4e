"""Kernels of cross entropy and relu: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import dispatch
from minigrad._core.cpu import Kernel
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CANCELLED
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts, shapes
from minigrad.testing.variants import assert_variants

cross_entropy, cross_entropy_vjp = (
    Kernel("cross_entropy", "cross_entropy"),
    Kernel("cross_entropy", "cross_entropy_vjp"),
)
relu, relu_vjp = Kernel("elementwise", "relu"), Kernel("elementwise", "relu_vjp")
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
SPECIAL = [-math.inf, -3e38, -1e4, -88.0, -1.0, -0.0, 0.0, 1.0, 88.0, 1e4, 3e38, math.inf, math.nan]
PLAIN = {"ignore_index": None, "label_smoothing": 0.0, "reduction": "mean"}


def assert_same(f: Callable[[mg.Tensor], mg.Tensor], x: Array, seed: int = 0) -> None:
    """Kernels and generic body agree on one array, element by element."""
    assert_variants(f, x, seed=seed, floor=CANCELLED, each=True)


@st.composite
def floats(draw: st.DrawFn, shape: tuple[int, ...]) -> Array:
    """Numbers of one scale or another, in any layout, some of them at the ends of the range, infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(scale=draw(st.sampled_from([0.1, 1.0, 30.0])), size=shape)
    special = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
    x[special] = rng.choice(draw(st.lists(st.sampled_from(SPECIAL), min_size=1)), special.sum())
    return relayout(x.astype(draw(st.sampled_from(FLOATS))), draw(layouts()))


@given(data=st.data(), n=st.integers(0, 6), classes=st.sampled_from([1, 2, 3, 5, 10, 256, 261]))
def test_cross_entropy_is_the_generic_one(data: st.DataObject, n: int, classes: int) -> None:
    x = data.draw(floats((n, classes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    integer = data.draw(st.sampled_from([mg.int64, mg.int64, mg.int32]))
    targets = relayout(rng.integers(0, classes, n).astype(integer), data.draw(layouts()))
    weight = rng.uniform(0.5, 2.0, classes).astype(x.dtype) if data.draw(st.booleans()) else None
    options: dict[str, Any] = {
        "ignore_index": data.draw(st.sampled_from([None, 0, 1, -100, 2**70])),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])),
        "reduction": data.draw(st.sampled_from(["mean", "sum", "none"])),
    }
    given_weight = None if weight is None else new(weight)
    assert_same(lambda t: mg.cross_entropy(t, new(targets), weight=given_weight, **options), x, seed=n)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(400, 30), (3, 5000)])
def test_large_cross_entropy(dtype: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=shape).astype(dtype), new(rng.integers(0, shape[1], shape[0]))
    assert_same(lambda t: mg.cross_entropy(t, targets), x)
    assert_same(lambda t: mg.cross_entropy(t, targets, label_smoothing=0.1, reduction="none").sum(), x)


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -87.0), (np.float64, -708.0)])
def test_small_probabilities_keep_their_digits(dtype: Any, lowest: float) -> None:
    x = np.concatenate([np.linspace(lowest, 0.0, 1001), [lowest - 3, -math.inf]]).astype(dtype)[np.newaxis]
    found = cross_entropy_vjp(np.ones((), dtype), x, np.array([1000]), None, **PLAIN)[0]
    expected = np.exp(x[0].astype(np.longdouble))
    expected /= expected.sum()
    np.testing.assert_allclose(found[:1000], expected[:1000].astype(np.float64), rtol=8 * np.finfo(dtype).eps)
    assert found[1001] < np.finfo(dtype).tiny
    assert found[1002] == 0


@pytest.mark.parametrize("wrong", [-1, 3, -(2**62), 2**62])
def test_a_wrong_class_is_refused_as_without_kernels(wrong: int) -> None:
    texts = []
    for kernels in (True, False):
        before = dispatch.use_kernels(kernels)
        try:
            with pytest.raises(IndexError) as caught:
                mg.cross_entropy(mg.zeros((2, 3)), mg.tensor([0, wrong]), ignore_index=1)
        finally:
            dispatch.use_kernels(before)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert f"the class {wrong}" in texts[0]


@given(data=st.data(), shape=shapes())
def test_relu_is_the_generic_one(data: st.DataObject, shape: tuple[int, ...]) -> None:
    assert_same(mg.relu, data.draw(floats(shape)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_relu(dtype: Any) -> None:
    assert_same(mg.relu, np.random.default_rng(0).normal(size=(401, 400)).astype(dtype))


X, T = np.ones((2, 3), np.float32), np.array([0, 2])
G = np.ones((), np.float32)


def test_kernels_are_registered_and_take_plain_arrays() -> None:
    for op in (REGISTRY["relu"], REGISTRY["cross_entropy"]):
        for dtype in FLOATS:
            assert ("cpu", dtype) in op.kernels
            assert ("cpu", dtype) in op.vjps[0].kernels
    frozen = X.copy()
    frozen.flags.writeable = False
    assert cross_entropy(frozen, T, None, **PLAIN).shape == ()
    assert cross_entropy_vjp(G, frozen, T, None, **PLAIN).shape == (2, 3)
    expanded = np.broadcast_to(G, 2)  # as the rule of sum makes it
    assert cross_entropy_vjp(expanded, X, T, None, **(PLAIN | {"reduction": "none"})).shape == (2, 3)
    assert relu(frozen).shape == relu_vjp(frozen, frozen).shape == (2, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        (np.asfortranarray(X), T, None),
        (X[::-1], T, None),
        (X.astype(np.float16), T, None),
        (X.astype(">f4"), T, None),
        (X[0], T, None),
        (X[:0], T[:0], None),
        (X, T.astype(np.int32), None),
        (X, T[:1], None),
        (X, T[::-1], None),
        (X, T[:, np.newaxis], None),
        (X, np.array([0, 3]), None),
        (X, np.array([0, -1]), None),
        (X, T, np.ones(2, np.float32)),
        (X, T, np.ones(3)),
        (np.full_like(X, np.inf), T, None),
    ],
)
def test_cross_entropy_leaves_to_the_generic_body(arguments: tuple[Any, ...]) -> None:
    assert cross_entropy(*arguments, **PLAIN) is NotImplemented
    assert cross_entropy_vjp(G.astype(arguments[0].dtype), *arguments, **PLAIN) is NotImplemented


@pytest.mark.parametrize("g", [np.ones(()), np.ones(2, np.float32), 1.0, G.astype(">f4")])
def test_a_cotangent_that_does_not_fit(g: Any) -> None:
    assert cross_entropy_vjp(g, X, T, None, **PLAIN) is NotImplemented
    assert relu_vjp(g, X) is NotImplemented


@pytest.mark.parametrize("ignore_index", [2**63, 1.0, True])
def test_an_ignored_index_that_is_no_int64(ignore_index: Any) -> None:
    assert cross_entropy(X, T, None, **(PLAIN | {"ignore_index": ignore_index})) is NotImplemented


@pytest.mark.parametrize("x", [np.asfortranarray(X), X[:, ::2], X.astype(np.int64), X.astype(np.float16), 1.0])
def test_relu_leaves_to_the_generic_body(x: Any) -> None:
    assert relu(x) is NotImplemented
    assert relu_vjp(X, x) is NotImplemented

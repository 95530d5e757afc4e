"""Kernels of the normalizations: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.ops.registry import REGISTRY
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants, variant

layer_norm, layer_norm_vjp = Kernel("normalization", "layer_norm"), Kernel("normalization", "layer_norm_vjp")
rms_norm, rms_norm_vjp = Kernel("normalization", "rms_norm"), Kernel("normalization", "rms_norm_vjp")
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
SPECIAL = [-math.inf, -0.0, 0.0, math.inf, math.nan]
OPTIONS = {"eps": 1e-5, "axis": -1}
FLOOR = 10.0  # a gradient is a difference that may cancel to nothing, where a row has few elements or a small variance


@st.composite
def floats(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers around some mean, in any layout, some of them zero, infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(draw(st.sampled_from([0.0, 3.0])), draw(st.sampled_from([1.0, 30.0])), shape)
    special = rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.02]))
    x[special] = rng.choice(draw(st.lists(st.sampled_from(SPECIAL), min_size=1)), special.sum())
    return relayout(x.astype(dtype), draw(layouts()))


features = st.sampled_from([1, 2, 3, 7, 31, 32, 33, 70, 130])


@given(data=st.data(), rows=st.integers(1, 9), n=features)
def test_layer_norm_is_the_generic_one(data: st.DataObject, rows: int, n: int) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    x = data.draw(floats((rows, n), dtype))
    weights = [data.draw(floats((n,), dtype)) for _ in range(2)]
    eps = 0.1 if n < 7 else data.draw(st.sampled_from([1e-5, 0.1]))  # few elements can have almost no variance
    assert_variants(lambda t, w, b: mg.layer_norm(t, w, b, eps), x, *weights, seed=n, floor=FLOOR)
    assert_variants(lambda t: mg.layer_norm(t, eps=eps), x, seed=n, floor=FLOOR)
    assert_variants(lambda t, w: mg.layer_norm(t, w, eps=eps), x, weights[0], seed=n, floor=FLOOR)
    assert_variants(lambda t, b: mg.layer_norm(t, None, b, eps), x, weights[1], seed=n, floor=FLOOR)


@given(data=st.data(), rows=st.integers(1, 9), n=features)
def test_rms_norm_is_the_generic_one(data: st.DataObject, rows: int, n: int) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    x, weight = data.draw(floats((rows, n), dtype)), data.draw(floats((n,), dtype))
    assert_variants(lambda t, w: mg.rms_norm(t, w, 0.1), x, weight, seed=n, floor=FLOOR)
    assert_variants(lambda t: mg.rms_norm(t, eps=0.1), x, seed=n, floor=FLOOR)


@pytest.mark.parametrize("axis", [(-2, -1), (2, 1), -1, 2, (-1,), (0, 1, 2)], ids=str)
def test_the_last_axes_are_one_row(axis: Any) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    features = x.shape[3 - (1 if isinstance(axis, int) else len(axis)) :]
    weight = np.random.default_rng(1).normal(size=features).astype(np.float32)
    assert_variants(lambda t, w: mg.layer_norm(t, w, axis=axis), x, weight)
    assert_variants(lambda t, w: mg.rms_norm(t, w, axis=axis), x, weight)
    assert layer_norm(x, weight, None, eps=1e-5, axis=axis).shape == x.shape


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1000, 70), (9, 9001), (70, 1024)], ids=str)
def test_large_norms(dtype: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, size=shape).astype(dtype)
    weight, bias = rng.normal(size=(2, shape[1])).astype(dtype)
    # a sum over rows is made in blocks by the kernel and one by one by NumPy
    assert_variants(mg.layer_norm, x, weight, bias, wide=True, floor=1.0)
    assert_variants(mg.rms_norm, x, weight, wide=True, floor=1.0)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = np.random.default_rng(0).normal(1000.0, size=(20, 1000)).astype(np.float32)
    found = layer_norm(x, None, None, **OPTIONS)
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5), atol=2e-4)


X, W = np.ones((2, 3), np.float32), np.ones(3, np.float32)


def test_rows_of_one_element_have_no_gradient() -> None:
    x, weight, g = (np.float32([[value]]) for value in (1.7, 0.3, 1.1))
    for level in cpu.levels():
        with variant(level, 1):
            dx, dw, db = layer_norm_vjp(g, x, weight[0], **OPTIONS)
        assert (dx.item(), dw.item(), db.item()) == (0.0, 0.0, g.item()), level


def test_kernels_are_registered_and_take_views_and_frozen_arrays() -> None:
    for op in (REGISTRY["layer_norm"], REGISTRY["rms_norm"]):
        for dtype in FLOATS:
            assert ("cpu", dtype) in op.kernels
            assert ("cpu", dtype) in op.joint.kernels
    frozen = X.copy()
    frozen.flags.writeable = False
    expanded = np.broadcast_to(np.float32(1), (2, 3))  # as the rule of sum makes it
    for x in (frozen, expanded, np.asfortranarray(X), X[::-1]):
        assert layer_norm(x, W, W, **OPTIONS).shape == rms_norm(x, W, **OPTIONS).shape == (2, 3)
        assert [a.shape for a in layer_norm_vjp(x, X, W, **OPTIONS)] == [(2, 3), (3,), (3,)]
        assert [a.shape for a in rms_norm_vjp(X, x, W, **OPTIONS)] == [(2, 3), (3,)]


@pytest.mark.parametrize(
    ("x", "w", "axis"),
    [
        (X.astype(np.float16), None, -1),
        (X.astype(">f4"), None, -1),
        (X[:0], W, -1),
        (np.float32(1), None, -1),
        (np.ones((), np.float32), None, -1),
        (X, W, 0),
        (X, W, -3),
        (X, W, (0,)),
        (X, W, (1, 1)),
        (X, W, ()),
        (X, W[:2], -1),
        (X, W[np.newaxis], -1),
        (X, W.astype(np.float64), -1),
        (X, np.ones(6, np.float32)[::2], -1),
    ],
)  # fmt: skip
def test_norms_leave_to_the_generic_body(x: Array, w: Array | None, axis: Any) -> None:
    options: dict[str, Any] = {"eps": 1e-5, "axis": axis}
    assert layer_norm(x, w, None, **options) is NotImplemented
    assert layer_norm_vjp(x, x, w, **options) is NotImplemented
    assert rms_norm(x, w, **options) is NotImplemented
    assert rms_norm_vjp(x, x, w, **options) is NotImplemented


def test_a_cotangent_that_does_not_fit_is_left_to_the_generic_rule() -> None:
    for g in (X[:1], X.T.copy(), X.astype(np.float64), X.astype(np.float16)):
        assert layer_norm_vjp(g, X, W, **OPTIONS) is NotImplemented

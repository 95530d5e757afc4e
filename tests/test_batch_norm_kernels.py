"""Kernels of batch normalization: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core.cpu import Kernel
from minigrad.ops.normalization import batch_norm_training
from minigrad.ops.registry import REGISTRY
from minigrad.testing.gradcheck import gradcheck
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants

given_stats, given_stats_vjp = Kernel("batch_norm", "batch_norm"), Kernel("batch_norm", "batch_norm_vjp")
training = Kernel("batch_norm", "batch_norm_training")
training_vjp = Kernel("batch_norm", "batch_norm_training_vjp")
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
FLOOR = 50.0  # a gradient is a sum or a difference that may cancel to nothing; NumPy's float32 sums are worse than ours
OPTIONS = {"eps": 1e-5, "axis": 1}


def arguments(shape: tuple[int, ...], channels: int, dtype: Any, seed: int = 0) -> list[Array]:
    """x, mean, var, weight and bias."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=channels), rng.uniform(0.5, 2.0, channels), *rng.normal(size=(2, channels))]
    return [a.astype(dtype) for a in (rng.normal(2.0, 3.0, shape), *vectors)]


def train(axis: int, eps: float) -> Any:
    """A function of x, weight and bias whose cotangents reach all three results."""
    return lambda x, w=None, b=None: tuple(batch_norm_training(x, w, b, eps, axis=axis))


extents = st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 3, 17]), st.sampled_from([1, 2, 5, 31, 32, 33, 70]))


@given(
    shape=extents,
    axis=st.sampled_from([1, -1, 0, -2]),
    dtype=st.sampled_from(FLOATS),
    layout=layouts(),
    seed=st.integers(0, 1000),
)
def test_batch_norm_is_the_generic_one(shape: tuple[int, ...], axis: int, dtype: Any, layout: str, seed: int) -> None:
    x, mean, var, weight, bias = arguments(shape, shape[axis], dtype, seed)
    x = relayout(x, layout)
    assert_variants(train(axis, 0.1), x, weight, bias, wide=True, floor=FLOOR)
    assert_variants(train(axis, 0.1), x, wide=True, floor=FLOOR)
    assert_variants(lambda *a: mg.batch_norm(*a, axis=axis), x, mean, var, weight, bias, wide=True, floor=FLOOR)
    assert_variants(lambda t, m, v: mg.batch_norm(t, m, v, eps=0.1, axis=axis), x, mean, var, wide=True, floor=FLOOR)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((20, 6, 700), 1), ((2, 6, 4500), 1), ((2000, 40), 1), ((9, 70, 130), -1)])
def test_large_batch_norm(dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    x, mean, var, weight, bias = arguments(shape, shape[axis], dtype)
    assert_variants(train(axis, 1e-5), x, weight, bias, wide=True, floor=200.0)
    assert_variants(lambda *a: mg.batch_norm(*a, axis=axis), x, mean, var, weight, bias, wide=True, floor=200.0)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("inner", [3, 40])
def test_special_values_spoil_their_channel_alone(special: float, inner: int) -> None:
    x, mean, var, weight, bias = arguments((4, 3, inner), 3, np.float32)
    x[1, 2, 1] = special
    assert_variants(train(1, 1e-5), x, weight, bias)
    assert_variants(mg.batch_norm, x, mean, var, weight, bias, floor=FLOOR)
    assert np.isfinite(training(x, weight, bias, **OPTIONS)[0][:, :2]).all()


@pytest.mark.parametrize("shape", [(500, 3), (20, 3, 500)])
def test_a_mean_far_from_zero_costs_no_digits(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(1000.0, size=shape).astype(np.float32)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    _, mean, var = training(x, None, None, **OPTIONS)
    np.testing.assert_allclose(mean, x.mean(axis=axes, dtype=np.float64), rtol=2e-7)
    np.testing.assert_allclose(var, x.var(axis=axes, dtype=np.float64), rtol=1e-5)


def test_batch_norm_training_is_batch_norm_with_the_statistics_of_the_batch() -> None:
    x, _, _, weight, bias = (mg.tensor(a) for a in arguments((4, 3, 5), 3, np.float64))
    found = batch_norm_training(x, weight, bias)
    mean, var = mg.mean(x, axis=(0, 2)), mg.var(x, axis=(0, 2))
    expected = mg.batch_norm(x, mean, var, weight, bias)
    for a, b in zip(found, (expected, mean, var), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
    assert gradcheck(lambda t, w: tuple(batch_norm_training(t, w)), (x, weight), order=2)


X, V = np.ones((2, 3), np.float32), np.ones(3, np.float32)


def test_kernels_are_registered_and_take_views_and_frozen_arrays() -> None:
    for op in (REGISTRY["batch_norm"], REGISTRY["batch_norm_training"]):
        for dtype in FLOATS:
            assert ("cpu", dtype) in op.kernels
            assert ("cpu", dtype) in op.joint.kernels
    frozen = X.copy()
    frozen.flags.writeable = False
    expanded = np.broadcast_to(np.float32(1), (2, 3))  # as the rule of sum makes it
    for x in (frozen, expanded, np.asfortranarray(X), X[::-1]):
        assert given_stats(x, V, V, V, V, **OPTIONS).shape == (2, 3)
        assert [a.shape for a in given_stats_vjp(x, X, V, V, None, **OPTIONS)] == [(2, 3), *[(3,)] * 4]
        assert [a.shape for a in training(x, V, None, **OPTIONS)] == [(2, 3), (3,), (3,)]
        assert [a.shape for a in training_vjp((x, V, V), X, V, **OPTIONS)] == [(2, 3), (3,), (3,)]


@pytest.mark.parametrize(
    ("x", "v", "axis"),
    [
        (X.astype(np.float16), V, 1),
        (X.astype(">f4"), V, 1),
        (X[:0], V, 1),
        (np.ones((), np.float32), V, 0),
        (X, V, 2),
        (X, V, -3),
        (X, V, (1,)),
        (X, V, 0),
        (X, V[:2], 1),
        (X, V[np.newaxis], 1),
        (X, V.astype(np.float64), 1),
        (X, np.ones(6, np.float32)[::2], 1),
    ],
)  # fmt: skip
def test_batch_norm_leaves_to_the_generic_body(x: Array, v: Array, axis: Any) -> None:
    options: dict[str, Any] = {"eps": 1e-5, "axis": axis}
    assert given_stats(x, v, v, v, v, **options) is NotImplemented
    assert given_stats_vjp(x, x, v, v, v, **options) is NotImplemented
    assert training(x, v, v, **options) is NotImplemented
    assert training_vjp((x, v, v), x, v, **options) is NotImplemented


def test_a_cotangent_that_does_not_fit_is_left_to_the_generic_rule() -> None:
    for g in (X[:1], X.T.copy(), X.astype(np.float64), X.astype(np.float16)):
        assert given_stats_vjp(g, X, V, V, V, **OPTIONS) is NotImplemented
        assert training_vjp((g, V, V), X, V, **OPTIONS) is NotImplemented

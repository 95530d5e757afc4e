"""Batch and group normalization on the GPU: values, statistics and gradients are those of the generic bodies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_results import FLOATS, assert_gpu, counted, shifted
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import autograd
from minigrad.errors import ShapeError
from minigrad.ops.conversion import new

pytestmark = pytest.mark.usefixtures("gpu")
Array = np.ndarray[Any, Any]
TRAINING, GIVEN, GROUP = ("batch_norm_training",), ("batch_norm",), ("group_norm",)
ENDS: dict[str, Any] = {"floor": 10.0}  # a gradient is a difference that may cancel to nothing


def together(x: mg.Tensor, *vectors: mg.Tensor, **options: Any) -> mg.Tensor:
    """Result, mean and variance in one tensor, so that all of them have cotangents."""
    parts = mg.batch_norm_training(x, *vectors, **options)
    return mg.concat([mg.reshape(part, (-1,)) for part in parts])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, Array, int]:
    """Numbers around some mean, some NaN or infinite, a weight, a bias, and the axis of the channels."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] = draw(st.sampled_from([1, 2, 5, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(draw(st.sampled_from([0.0, 3.0])), draw(st.sampled_from([0.5, 4.0])), shape)
    x[rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.02]))] = draw(st.sampled_from([-math.inf, math.nan, 0.0]))
    dtype = draw(st.sampled_from(FLOATS))
    weight, bias = rng.normal(size=(2, shape[axis])).astype(dtype)
    return x.astype(dtype), weight, bias, axis


@given(data=problems())
def test_training(data: tuple[Array, Array, Array, int]) -> None:
    x, weight, bias, axis = data
    options: dict[str, Any] = {"eps": 0.1, "axis": axis}
    assert_gpu(lambda t, w, b: together(t, w, b, **options), x, weight, bias, names=TRAINING, **ENDS)
    assert_gpu(lambda t: together(t, **options), x, names=TRAINING, **ENDS)
    assert_gpu(lambda t, b: mg.batch_norm_training(t, None, b, **options).out, x, bias, names=TRAINING, **ENDS)


@given(data=problems())
def test_given_statistics(data: tuple[Array, Array, Array, int]) -> None:
    x, weight, bias, axis = data
    mean, var = (bias * 0.5).astype(x.dtype), (weight * weight + 1).astype(x.dtype)
    options: dict[str, Any] = {"eps": 0.1, "axis": axis}
    vectors = (mean, var, weight, bias)
    assert_gpu(lambda t, m, v, w, b: mg.batch_norm(t, m, v, w, b, **options), x, *vectors, names=GIVEN, **ENDS)
    assert_gpu(lambda t, m, v: mg.batch_norm(t, m, v, **options), x, mean, var, names=GIVEN, **ENDS)


@given(data=st.data(), samples=st.integers(1, 3), groups=st.integers(1, 3), channels=st.sampled_from([1, 2, 5, 40]))
def test_group_norm(data: st.DataObject, samples: int, groups: int, channels: int) -> None:
    inner = data.draw(st.sampled_from([(), (1,), (3,), (2, 3), (4, 8)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    dtype = data.draw(st.sampled_from(FLOATS))
    x = rng.normal(1.0, 2.0, (samples, groups * channels, *inner)).astype(dtype)
    weight, bias = rng.normal(size=(2, groups * channels)).astype(dtype)
    assert_gpu(lambda t, w, b: mg.group_norm(t, groups, w, b, 0.1), x, weight, bias, names=GROUP, **ENDS)
    assert_gpu(lambda t: mg.group_norm(t, groups, eps=0.1), x, names=GROUP, **ENDS)


SHAPES = [((2, 3, 2100), 1), ((700, 5, 7), 1), ((6, 2, 40, 40), 1), ((900, 40), 1), ((900, 3), -1), ((3, 50), 0)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_many_elements(dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    """Channels in several parts, packs and single elements. The last digit of a mean of 2 would count in each term."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(dtype)
    weight, bias = rng.normal(size=(2, shape[axis])).astype(dtype)
    assert_gpu(lambda t, w, b: together(t, w, b, axis=axis), x, weight, bias, names=TRAINING, **ENDS)
    if axis == 1 and shape[0] * shape[1] < 100:  # a block for each
        assert_gpu(lambda t, w, b: mg.group_norm(t, shape[1], w, b, 0.1), x, weight, bias, names=GROUP, **ENDS)


@pytest.mark.parametrize("shape", [(64, 2, 40), (5000, 2)])
def test_a_mean_far_from_zero_costs_no_digits(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(1000.0, size=shape).astype(np.float32)
    with counted(*TRAINING) as took:
        _, mean, var = mg.batch_norm_training(new(x).to("cuda"))
    wide = np.moveaxis(x.astype(np.float64), 1, 0).reshape(2, -1)
    np.testing.assert_allclose(mean.to("cpu").numpy(), wide.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(var.to("cpu").numpy(), wide.var(axis=1), rtol=1e-4)
    assert took == [True]


def test_channels_that_do_not_vary() -> None:
    out, mean, var = mg.batch_norm_training(mg.full((4, 3, 5), 0.3, device="cuda"))
    assert (out.to("cpu").numpy() == 0).all()
    np.testing.assert_array_equal(mean.to("cpu").numpy(), np.float32(0.3))
    np.testing.assert_array_equal(var.to("cpu").numpy(), 0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layouts(dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(dtype)
    whole = new(x).to("cuda")
    views = {"channels last": mg.moveaxis(whole, -1, 1), "strided": whole[::2], "shifted": shifted(x)}
    for what, t in views.items():
        results = []
        for tensor in (t.detach(), mg.asarray(t.to("cpu").numpy().copy(), device="cuda")):
            tensor.requires_grad = True
            with counted(*TRAINING) as took:
                out = mg.batch_norm_training(tensor).out
                (grad,) = autograd.grad([(out * out).sum()], [tensor])
            assert took == [True, True], what
            results.append([out.detach().to("cpu").numpy(), grad.to("cpu").numpy()])
        for a, b in zip(*results, strict=True):
            limit = 0 if what != "shifted" else 1e-5 if dtype == np.float32 else 0.1  # other elements share a thread
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), limit, limit, err_msg=what)


def test_the_same_bits_each_time() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3, 300)).astype(np.float32)
    found = set()
    for _ in range(3):
        t = new(x, device="cuda", requires_grad=True)
        out, mean, var = mg.batch_norm_training(t)
        (grad,) = autograd.grad([(out * out).sum()], [t])
        found.add(b"".join(a.detach().to("cpu").numpy().tobytes() for a in (out, mean, var, grad)))
    assert len(found) == 1


def test_what_is_left_to_the_generic_body() -> None:
    x, w = mg.ones((4, 3), device="cuda"), mg.ones(3, device="cuda")
    with counted(*TRAINING, *GIVEN, *GROUP) as took:
        assert mg.batch_norm(x[:0], w, w).shape == (0, 3)
        assert mg.group_norm(x[:0], 3).shape == (0, 3)
        for wrong in (
            lambda: mg.batch_norm_training(x[:0]),
            lambda: mg.batch_norm_training(x, w[:2]),
            lambda: mg.batch_norm(x, w, w[:2]),
            lambda: mg.group_norm(x, 2),
            lambda: mg.group_norm(x, 3, w[:2]),
        ):
            with pytest.raises(ShapeError, match="needs"):
                wrong()
    assert not any(took)

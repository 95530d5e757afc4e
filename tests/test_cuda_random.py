"""Random numbers and dropout on the GPU: bit for bit those of the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_arrays import LAYOUTS, placed, values
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend.numpy import backend as cpu
from minigrad.ops.registry import REGISTRY
from minigrad.testing.strategies import shapes

pytestmark = pytest.mark.usefixtures("gpu")

FLOATS = (mg.float16, mg.bfloat16, mg.float32, mg.float64)
NUMBERS = st.integers(0, 2**64 - 1)
SHAPES = shapes() | st.sampled_from([(1023,), (1025,), (3, 7, 101)])
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def backend(gpu: None) -> None:
    mg.ones(1, device="cuda")  # its kernels are registered when a GPU is first asked for


def numbers(array: Any) -> Any:
    return mg.asarray(array).to("cpu").numpy()


def assert_same(seed: int, draw: Any) -> None:
    """What `draw` draws on a device from a generator is the same on both."""
    here, there = (draw(mg.random.Generator(seed), device) for device in ("cpu", "cuda"))
    assert (there.device, there.dtype, there.shape) == ("cuda:0", here.dtype, here.shape)
    assert numbers(there).tobytes() == here.numpy().tobytes()


@given(
    seed=NUMBERS,
    shape=SHAPES,
    dtype=st.sampled_from(FLOATS),
    shift=st.sampled_from([0.0, -1.5, 1e-3, 3.7]),
    scale=st.sampled_from([1.0, 0.02, 7.0]),
)
def test_real_numbers(seed: int, shape: tuple[int, ...], dtype: Any, shift: float, scale: float) -> None:
    assert_same(seed, lambda g, device: g.uniform(shape, shift, shift + scale, dtype=dtype, device=device))
    assert_same(seed, lambda g, device: g.normal(shape, shift, scale, dtype=dtype, device=device))
    assert_same(seed, lambda g, device: g.exponential(shape, scale, dtype=dtype, device=device))
    assert_same(seed, lambda g, device: g.truncated_normal(shape, shift, scale, dtype=dtype, device=device))


def test_many_numbers_among_them_rare_ones() -> None:
    for dtype in (mg.float32, mg.float64):
        assert_same(3, lambda g, device, dtype=dtype: g.normal(150_000, dtype=dtype, device=device))
        assert_same(4, lambda g, device, dtype=dtype: g.exponential(100_000, dtype=dtype, device=device))
    assert_same(5, lambda g, device: g.uniform(20_000, 0.5, 1.0, dtype=mg.bfloat16, device=device))


@given(seed=NUMBERS, shape=SHAPES, low=st.integers(-(2**63), 2**63 - 1), data=st.data())
def test_integers(seed: int, shape: tuple[int, ...], low: int, data: st.DataObject) -> None:
    high = min(2**63, low + data.draw(st.sampled_from([1, 6, 2**32 - 1, 2**32, 2**63, 2**64])))
    assert_same(seed, lambda g, device: g.integers(low, high, shape, device=device))
    assert_same(seed, lambda g, device: g.integers(0, 200, shape, dtype=mg.uint8, device=device))


@given(seed=NUMBERS, shape=SHAPES, p=st.floats(0.0, 1.0), dtype=st.sampled_from([mg.bool, mg.float16, mg.int32]))
def test_bernoulli(seed: int, shape: tuple[int, ...], p: float, dtype: Any) -> None:
    assert_same(seed, lambda g, device: g.bernoulli(p, shape, dtype=dtype, device=device))
    each = np.random.default_rng(seed).random(shape)
    assert_same(seed, lambda g, device: g.bernoulli(each, dtype=dtype, device=device))


def test_draws_go_to_the_default_device() -> None:
    from minigrad.backend import devices

    with devices.using("cuda:1"):
        assert mg.random.Generator(1).normal(3).device == "cuda:1"
    assert mg.random.Generator(1).normal(3, device="cuda:0").tolist() == mg.random.Generator(1).normal(3).tolist()


@given(seed=NUMBERS, counter=NUMBERS, first=st.integers(0, 9) | st.integers(0, 2**40), rate=st.floats(0, 1))
def test_masks(seed: int, counter: int, first: int, rate: float) -> None:
    from minigrad.backend.cuda import keep_mask

    for shape in ((), (0, 2), (5,), (3, 17)):
        expected = cpu.namespace.keep_mask(shape, seed, counter, rate, first)
        np.testing.assert_array_equal(numbers(keep_mask(shape, seed, counter, rate, first)), expected)


def generic(x: Array, rate: float, key: tuple[int, ...]) -> Array:
    """What dropout must give, from a mask of the CPU, each step rounded to the dtype it is computed in."""
    seed, counter, *first = key
    kept = cpu.namespace.keep_mask(x.shape, seed, counter, rate, *first)
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    with np.errstate(all="ignore"):
        return np.where(kept, wide * (1 / (1 - rate) if rate < 1 else 0.0), 0.0).astype(x.dtype)


@given(
    seed=NUMBERS,
    counter=NUMBERS,
    first=st.none() | st.integers(0, 9) | st.integers(0, 2**40),
    rate=st.floats(0.0, 1.0),
    shape=SHAPES,
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    data=st.data(),
)
def test_dropout(
    seed: int, counter: int, first: int | None, rate: float, shape: Any, dtype: Any, layout: str, data: st.DataObject
) -> None:
    x = data.draw(values(dtype, shape, special=(math.nan, math.inf, -0.0)))
    key = (seed, counter) if first is None else (seed, counter, first)
    op = REGISTRY["dropout"]
    for kernel in (op.kernels["cuda", dtype], op.vjps[0].kernels["cuda", dtype]):
        found = kernel(placed(x, layout), rate=rate, key=key)
        assert found.dtype == dtype
        found, want = (a.astype(np.float64) for a in (numbers(found), generic(x, rate, key)))
        np.testing.assert_array_equal(found, want)  # NaN equals NaN, whatever its bits
        assert (np.signbit(found) == np.signbit(want))[~np.isnan(want)].all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dropout_of_tensors_is_that_of_the_cpu(dtype: Any) -> None:
    outcomes = []
    for device in ("cpu", "cuda"):
        mg.random.seed(5)
        x = mg.ones((30, 7), dtype=dtype, device=device, requires_grad=True)
        y = mg.dropout(x, 0.3)
        y.backward(mg.random.normal((30, 7), dtype=dtype, device=device))
        outcomes.append([numbers(y.detach()).tobytes(), numbers(x.grad).tobytes()])
    assert outcomes[0] == outcomes[1]


def test_a_captured_draw_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step is captured, the counter is the frozen one and what the device holds."""
    from minigrad.backend.cuda import capture, dropout, philox

    def draws(counter: int) -> list[Any]:
        made = [philox.keep_mask((9,), 7, counter, 0.5), philox.below((9,), (7, counter), 0, 1000)]
        made += [philox.below((9,), (7, counter), 0, 2**40), philox.hits((9,), (7, counter), np.full(9, 0.5))]
        made += [philox.reals("normal", (9,), dtype, (7, counter), 1.0) for dtype in FLOATS]
        made += [dropout.dropout(placed(np.ones(9, t)), rate=0.5, key=(7, counter)) for t in FLOATS]
        return [numbers(array).tolist() for array in made]

    expected = draws(2 + 5)
    assert all(a != b for a, b in zip(expected, draws(2), strict=True))
    moved = placed(np.array([5], np.uint64))
    monkeypatch.setattr(capture, "offset", lambda: moved)
    assert draws(2) == expected

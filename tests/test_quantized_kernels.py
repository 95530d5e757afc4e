"""Products with int8 weights: the kernels beside the generic bodies, bit for bit where sums are integers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.compress.quantization import int8
from minigrad.testing.variants import THREADS, generic, variant, watched

Array = np.ndarray[Any, Any]
dynamic = Kernel("quantized", "dynamic")
weight_only = Kernel("quantized", "weight_only")

rows = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 100])
inner = st.sampled_from([1, 2, 3, 8, 31, 64, 129])
columns = st.sampled_from([1, 2, 15, 16, 17, 33, 64, 65, 130])


def drawn(seed: int, m: int, k: int, n: int, spread: float = 1.0) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(m, k)) * np.exp(spread * rng.normal(size=(m, 1)))).astype(np.float32)
    weight = rng.integers(-127, 128, (k, n)).astype(np.int8)
    return x, weight, rng.uniform(1e-3, 0.1, n).astype(np.float32), rng.normal(size=n).astype(np.float32)


def assert_exact(x: Array, weight: Array, scale: Array, bias: Array | None, relu: bool, levels: int = 127) -> None:
    """The generic body's bits, from every instruction set and on any number of threads, by the kernel alone."""
    packed, kept = int8.pack(weight, 2), x.copy()
    with generic():
        expected = int8.dynamic_linear(x, packed, scale, bias, relu, levels)
    for level in cpu.levels():
        for threads in THREADS:
            with variant(level, threads), watched() as calls:
                found = int8.dynamic_linear(x, packed, scale, bias, relu, levels)
            assert calls == [("quantized.dynamic", True)]
            np.testing.assert_array_equal(found, expected, f"{level}, {threads} threads")
            np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(x, kept)


@given(
    m=rows, k=inner, n=columns, seed=st.integers(0, 99), biased=st.booleans(), relu=st.booleans(),
    levels=st.sampled_from([127, 127, 511, 2047]),
)  # fmt: skip
def test_integers_are_the_generic_ones_bit_for_bit(
    m: int, k: int, n: int, seed: int, biased: bool, relu: bool, levels: int
) -> None:
    x, weight, scale, bias = drawn(seed, m, k, n, spread=10.0)
    assert_exact(x, weight, scale, bias if biased else None, relu, levels)


@pytest.mark.parametrize("shape", [(200, 300, 400), (1, 2000, 700), (70, 5000, 40)])
def test_large_ones_too(shape: tuple[int, int, int]) -> None:
    assert_exact(*drawn(1, *shape), relu=True)


def test_the_sums_are_those_of_integers() -> None:
    x, weight, scale, bias = drawn(2, 9, 77, 50)
    quantized, row_scale = int8.quantize_rows(x)
    sums = quantized.astype(np.int32) @ weight.astype(np.int32)
    expected = sums.astype(np.float32) * scale * row_scale + bias
    np.testing.assert_array_equal(int8.dynamic_linear(x, int8.pack(weight, 2), scale, bias), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("lowest", "levels"), [(127, 127), (-127, 127), (-128, 127), (-128, 2047), (127, 2047)])
def test_nothing_saturates(sign: int, lowest: int, levels: int) -> None:
    """Where all factors are the largest, sums of two products leave int16, all of them come close to int32's end."""
    k = int8.most_inner(levels)
    x, weight = np.full((1, k), sign * 2.0, np.float32), np.full((k, 2), lowest, np.int8)
    ones = np.ones(2, np.float32)
    assert_exact(x, weight, ones, None, False, levels)
    found = int8.dynamic_linear(x, int8.pack(weight, 2), ones, levels=levels)
    np.testing.assert_allclose(found, sign * 2.0 * lowest * k, rtol=1e-6)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("relu", [False, True])
def test_rows_that_are_not_finite_give_nan_and_no_others(special: float, relu: bool) -> None:
    x, weight, scale, bias = drawn(3, 13, 40, 33)
    x[5, 7] = special
    assert_exact(x, weight, scale, bias, relu)
    found = int8.dynamic_linear(x, int8.pack(weight, 2), scale, bias, relu)
    assert np.isnan(found[5]).all()
    assert np.isfinite(np.delete(found, 5, 0)).all()


@pytest.mark.parametrize("size", [0.0, -0.0, 1e-45, 1e-38, 1.49e-36, 1.5e-36, 1e30, 3.4028235e38])
def test_rows_of_any_size(size: float) -> None:
    x, weight, scale, bias = drawn(4, 4, 30, 20)
    x[1] = np.float32(size) * np.sign(x[1])
    for added in (bias, None):
        assert_exact(x, weight, scale, added, False)
    if abs(size) < 1.49e-36:
        np.testing.assert_array_equal(int8.dynamic_linear(x, int8.pack(weight, 2), scale, bias)[1], bias)


def test_halves_are_rounded_to_even() -> None:
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32)
    assert int8.quantize_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2]]
    assert_exact(x, np.eye(7, dtype=np.int8), np.ones(7, np.float32), None, False)


@given(m=rows, k=inner, n=columns, biased=st.booleans(), relu=st.booleans())
def test_products_of_floats_with_int8_weights(m: int, k: int, n: int, biased: bool, relu: bool) -> None:
    x, weight, scale, bias = drawn(5, m, k, n)
    bias = bias if biased else None
    packed = int8.pack(weight, 1)
    wide, added = weight.astype(np.float64), 0.0 if bias is None else bias
    exact = x.astype(np.float64) @ wide * scale + added
    limit = (np.abs(x.astype(np.float64)) @ np.abs(wide) * scale + np.abs(added)) * (k + 3) * 2.0**-24
    exact = np.maximum(exact, 0) if relu else exact
    with generic():
        assert np.all(np.abs(int8.weight_only_linear(x, packed, scale, bias, relu) - exact) <= limit)
    for level in cpu.levels():
        first = b""
        for threads in THREADS:
            with variant(level, threads), watched() as calls:
                found = int8.weight_only_linear(x, packed, scale, bias, relu)
            assert calls == [("quantized.weight_only", True)]
            assert np.all(np.abs(found - exact) <= limit), f"{level}, {threads} threads"
            first = first or found.tobytes()
            assert found.tobytes() == first, f"{level}, {threads} threads"


@pytest.mark.parametrize("together", [1, 2])
@given(k=inner, n=columns)
def test_packing_loses_nothing(together: Any, k: int, n: int) -> None:
    weight = drawn(6, 1, k, n)[1]
    packed = int8.pack(weight, together)
    assert packed.shape == (-(-n // 16), -(-k // together), 16, together)
    np.testing.assert_array_equal(int8._unpacked(packed, k, n), weight)
    assert np.abs(packed.astype(np.int64)).sum() == np.abs(weight.astype(np.int64)).sum()


X, WEIGHT, SCALE, BIAS = drawn(7, 4, 6, 20)
READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False


def test_read_only_arrays_are_taken() -> None:
    packed = int8.pack(WEIGHT, 2)
    expected = dynamic(X, packed, SCALE, BIAS, False, 127)
    packed.flags.writeable = False
    np.testing.assert_array_equal(dynamic(READ_ONLY, packed, SCALE, BIAS, False, 127), expected)


@pytest.mark.parametrize(
    ("x", "together", "scale", "bias"),
    [
        (X.astype(np.float64), None, SCALE, BIAS),
        (X[0], None, SCALE, BIAS),
        (X[:0], None, SCALE, BIAS),
        (X[:, ::2], None, SCALE, BIAS),
        (X[:, :3].copy(), None, SCALE, BIAS),
        (X, 3, SCALE, BIAS),
        (X, None, SCALE[:16], BIAS[:16]),
        (X, None, SCALE.astype(np.float64), BIAS),
        (X, None, SCALE, BIAS[:-1]),
        (X, None, SCALE, BIAS.astype(np.float64)),
        (X, None, SCALE[:, None], BIAS),
        (X.tolist(), None, SCALE, BIAS),
    ],
)
def test_what_is_left_to_the_generic_bodies(x: Any, together: Any, scale: Any, bias: Any) -> None:
    for kernel, own, more in ((dynamic, 2, (127,)), (weight_only, 1, ())):
        assert kernel(x, int8.pack(WEIGHT, together or own), scale, bias, False, *more) is NotImplemented
        assert kernel(X, WEIGHT, SCALE, BIAS, False, *more) is NotImplemented


def test_kernels_can_be_switched_off() -> None:
    with generic():
        assert dynamic(X, int8.pack(WEIGHT, 2), SCALE, BIAS, False, 127) is NotImplemented
        assert weight_only(X, int8.pack(WEIGHT, 1), SCALE, BIAS, False) is NotImplemented


def test_no_reference_is_lost() -> None:
    arrays = (X.copy(), int8.pack(WEIGHT, 2), SCALE.copy(), BIAS.copy())
    before = [sys.getrefcount(a) for a in arrays]
    for _ in range(3):
        dynamic(*arrays, True, 127)
    assert [sys.getrefcount(a) for a in arrays] == before

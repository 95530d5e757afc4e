"""Products of bfloat16 matrices: what the generic body computes in float32 and rounds once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants, variant

matmul = Kernel("bfloat", "matmul")
linear = Kernel("bfloat", "linear")
Array = np.ndarray[Any, Any]

needs_bfloat = pytest.mark.skipif(not cpu.has_bf16(), reason="the processor does not multiply bfloat16")


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(mg.bfloat16)


sizes = st.sampled_from([1, 2, 5, 6, 7, 31, 64, 65, 130])


@given(data=st.data(), lead=st.sampled_from([(), (3,), (2, 2)]), m=sizes, k=sizes, n=sizes)
def test_products_are_the_generic_ones(data: st.DataObject, lead: tuple[int, ...], m: int, k: int, n: int) -> None:
    x = relayout(drawn(0, *lead, m, k), data.draw(layouts()))
    w = relayout(drawn(1, k, n), data.draw(layouts()))
    b = relayout(drawn(2, n), data.draw(layouts()))
    turned = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    assert_variants(mg.matmul, x, w, ran=False)  # small ones are cast to float32
    assert_variants(lambda x, w: mg.matmul(mg.matrix_transpose(x), w), turned, w, ran=False)
    assert_variants(mg.ops.linear, x, w, b, ran=False)


@pytest.mark.parametrize("shape", [(700, 300, 600), (7, 2000, 1100), (3, 40_000, 70)])
def test_large_products(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    assert_variants(mg.ops.linear, drawn(0, m, k), drawn(1, k, n), drawn(2, n), ran=["v4"] if cpu.has_bf16() else False)


@needs_bfloat
def test_the_kernel_takes_them_and_rounds_once() -> None:
    with variant("v4", 1):
        x, w, b = drawn(0, 64, 64), drawn(1, 64, 64), drawn(2, 64)
        out = linear(x, w, b)
        exact = x.astype(np.float64) @ w.astype(np.float64) + b.astype(np.float64)
        assert out.dtype == mg.bfloat16
        assert np.all(np.abs(out - exact) <= np.abs(exact) * 2**-8 + 1e-5)
        assert matmul(x, w.T).shape == (64, 64)


@needs_bfloat
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_special_values(special: float) -> None:
    x = drawn(0, 64, 64)
    x[3, 5] = special
    with variant("v4", 1):
        out = matmul(x, drawn(1, 64, 64))
    assert not np.isfinite(out[3].astype(np.float32)).any()
    assert np.isfinite(np.delete(out, 3, 0).astype(np.float32)).all()


X = drawn(0, 64, 64)


@pytest.mark.parametrize(
    ("x1", "x2"),
    [
        (X.astype(np.float32), X),
        (X, X.astype(np.float32)),
        (X[:, ::2], X[:32]),
        (X, X[:32]),
        (X[0], X),
        (X, X[0]),
        (X, np.stack([X, X])),
        (X[:0], X),
        (X[:, :0], X[:0]),
        (X[:4, :4], X[:4, :4]),
        (1.0, X),
    ],
)
def test_what_is_left_to_the_generic_body(x1: Any, x2: Any) -> None:
    assert matmul(x1, x2) is NotImplemented


@pytest.mark.parametrize("level", cpu.levels())
def test_only_the_widest_instruction_set_has_it(level: str) -> None:
    with variant(level, 1):
        assert (matmul(X, X) is not NotImplemented) == cpu.has_bf16()

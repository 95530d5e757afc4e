"""The kernel of dropout: bit for bit what the generic body and rule give, in every instruction set."""

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
from minigrad.backend.numpy import backend
from minigrad.ops.registry import REGISTRY
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts, shapes
from minigrad.testing.variants import assert_variants, variant

dropout = Kernel("dropout", "dropout")
Array = np.ndarray[Any, Any]
Key = tuple[int, ...]
FLOATS = (mg.float32, mg.float64)
NUMBERS = st.integers(0, 2**64 - 1)


def generic(x: Array, rate: float, key: Key) -> Array:
    """What the kernel must give, from a mask."""
    seed, counter, *first = key
    out: Array = np.where(backend.namespace.keep_mask(x.shape, seed, counter, rate, *first), x * (1 / (1 - rate)), 0.0)
    return out.astype(x.dtype)


def assert_same_bits(x: Array, rate: float, key: Key) -> None:
    expected = generic(x, rate, key)
    for level in cpu.levels():
        for threads in (1, 2, 3):
            with variant(level, threads):
                assert dropout(x, rate=rate, key=key).tobytes() == expected.tobytes(), f"{level}, {threads} threads"


@given(
    seed=NUMBERS,
    counter=NUMBERS,
    rate=st.floats(0.0, 1.0, exclude_max=True).filter(lambda rate: rate * 2**32 + 0.5 < 2**32),
    shape=shapes() | st.sampled_from([(255,), (256,), (257,), (5, 103)]),
    dtype=st.sampled_from(FLOATS),
    layout=layouts(),
)
def test_dropout_is_the_generic_one(
    seed: int, counter: int, rate: float, shape: tuple[int, ...], dtype: Any, layout: str
) -> None:
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    assert_same_bits(relayout(x, layout), rate, (seed, counter))
    assert_variants(lambda t: mg.dropout(t, rate, key=(seed, counter)), x, ran=None if rate > 1e-9 else False)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_dropout(dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(301, 333)).astype(dtype)
    assert_same_bits(x, 0.3, (7, 2**33))
    assert_variants(lambda t: mg.dropout(t, 0.3, key=(7, 8)), x)


def test_what_is_dropped_is_zero_whatever_it_was() -> None:
    x = np.array([math.nan, math.inf, -math.inf, -0.0] * 50, np.float32)
    assert_same_bits(x, 0.5, (3, 4))
    found = dropout(x, rate=0.5, key=(3, 4))
    assert (found == 0).any()
    assert np.isnan(found).any()


def test_half_types_come_through_float32() -> None:
    x = mg.ones((3, 100), dtype=mg.bfloat16, requires_grad=True)
    y = mg.dropout(x, 0.2, key=(1, 1))
    y.sum().backward()
    assert x.grad is not None
    assert y.dtype == x.grad.dtype == mg.bfloat16
    assert (y.detach().numpy() == x.grad.numpy()).all()
    assert set(y.detach().numpy().astype(float).ravel()) == {0.0, 1.25}


X = np.ones(5, np.float32)


@pytest.mark.parametrize("first", [1, 2, 3, 4, 1001, 2**40 + 3])
def test_a_mask_that_begins_elsewhere(first: int) -> None:
    x = np.random.default_rng(first).normal(size=70_001)
    assert_same_bits(x, 0.3, (7, 8, first))
    assert_same_bits(x[:5].astype(np.float32), 0.3, (7, 8, first))


def test_kernels_are_registered_and_take_views_and_frozen_arrays() -> None:
    op = REGISTRY["dropout"]
    for dtype in FLOATS:
        assert ("cpu", dtype) in op.kernels
        assert ("cpu", dtype) in op.vjps[0].kernels
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (frozen, np.broadcast_to(np.float32(1), (2, 3)), X[::-2]):
        assert dropout(x, rate=0.5, key=(1, 2)).shape == x.shape


@pytest.mark.parametrize(
    ("x", "rate", "key"),
    [
        (X.astype(np.float16), 0.5, (1, 2)),
        (X.astype(">f4"), 0.5, (1, 2)),
        (X, 1.0, (1, 2)),
        (X, math.nextafter(1.0, 0.0), (1, 2)),
        (X, -0.1, (1, 2)),
        (X, math.nan, (1, 2)),
        (X, 0.5, (1, -1)),
        (X, 0.5, (2**64, 1)),
        (X, 0.5, (1, 2, 3, 4)),
        (X, 0.5, (1, 2, -3)),
        (X, 0.5, [1, 2]),
        (X, 0.5, (1.0, 2)),
    ],
)
def test_dropout_leaves_to_the_generic_body(x: Array, rate: float, key: Any) -> None:
    assert dropout(x, rate=rate, key=key) is NotImplemented

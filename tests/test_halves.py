"""Casts between float32 and the half types: every half number, and float32 numbers around every one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.testing.variants import THREADS, variant

cast = Kernel("halves", "cast")
HALVES = (mg.float16, mg.bfloat16)
EVERY = np.arange(2**16, dtype=np.uint16)

Array = np.ndarray[Any, Any]


def around(half: Any) -> Array:
    """The half numbers as float32, and what lies beside them and beside the middle between two; and random bits."""
    offsets = np.array([-1, 0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001])
    bits = EVERY.view(half).astype(np.float32).view(np.uint32).astype(np.int64)
    beside = (bits[:, np.newaxis] + offsets).astype(np.uint32).ravel()
    drawn = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    return np.concatenate([beside, drawn]).view(np.float32)


def assert_same_bits(found: Array, expected: Array) -> None:
    """All bits are equal, but that a NaN is any NaN of the same sign."""
    assert found.dtype == expected.dtype
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    words = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(words)[~nan], expected.view(words)[~nan])


@pytest.mark.parametrize("level", cpu.levels())
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_casts_are_those_of_numpy(half: Any, level: str) -> None:
    numbers, wide = EVERY.view(half), around(half)
    with np.errstate(all="ignore"):
        narrow = wide.astype(half)
    for threads in THREADS:
        with variant(level, threads):
            assert_same_bits(cast(numbers, mg.float32), numbers.astype(np.float32))
            assert_same_bits(cast(wide, half), narrow)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5)])
def test_shapes(half: Any, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    assert cast(x, half).shape == cast(x.astype(half), mg.float32).shape == shape
    assert mg.asarray(x).astype(half).astype(mg.float32).tolist() == x.tolist()


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.ones(3), mg.float16),
        (np.ones(3, np.float16), mg.float64),
        (np.ones(3, np.float16), mg.bfloat16),
        (np.ones(3, np.float32), mg.float32),
        (np.ones((2, 4), np.float32)[:, ::2], mg.float16),
        (np.ones(3, ">f4"), mg.float16),
        (np.ones(3, np.float32), np.dtype(">f2")),
        (1.0, mg.float16),
    ],
)
def test_other_casts_are_left_to_numpy(x: Any, dtype: Any) -> None:
    assert cast(x, dtype) is NotImplemented


def test_gradients_pass_casts() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = x.astype(mg.bfloat16)
    (y * y).sum().backward()
    assert x.grad.dtype == mg.float32
    assert x.grad.tolist() == [2.0, 4.0]

"""Kernel of rotary embedding: it equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core.cpu import Kernel
from minigrad.nn import functional as F
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants

rotary, rotary_vjp = Kernel("rotary", "rotary"), Kernel("rotary", "rotary_vjp")
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)


def normal(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@given(data=st.data(), pairs=st.sampled_from([0, 1, 2, 7, 16, 33]), rest=st.integers(0, 2), seed=st.integers(0, 99))
def test_it_is_the_generic_one(data: st.DataObject, pairs: int, rest: int, seed: int) -> None:
    """For every layout of the three, tables that broadcast, and the gradients of all of them."""
    dtype = data.draw(st.sampled_from(FLOATS))
    lead = data.draw(st.sampled_from([(3,), (2, 3), (2, 3, 5), (2, 1, 5), (2, 2, 1, 3)]))
    kept = data.draw(st.lists(st.booleans(), min_size=len(lead), max_size=len(lead)))
    table = tuple(n if keep else 1 for n, keep in zip(lead, kept, strict=True))
    table = table[data.draw(st.integers(0, len(lead))) :]
    x = relayout(normal((*lead, 2 * pairs + rest), dtype, seed), data.draw(layouts()))
    cos, sin = (relayout(normal((*table, pairs), dtype, seed + i), data.draw(layouts())) for i in (1, 2))
    ran = None if x.ndim <= 4 else False  # five axes are left to the generic body
    for interleaved in (False, True):
        assert_variants(
            lambda *a, i=interleaved: F.rotary_embedding(*a, interleaved=i), x, cos, sin, seed=seed, ran=ran
        )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_many_rows(dtype: Any, interleaved: bool) -> None:
    """Enough to be shared among threads, with the heads before the length as attention has them."""
    x = normal((3, 70, 4, 40), dtype).swapaxes(1, 2)
    for table in ((70, 16), (3, 1, 70, 16)):
        cos, sin = normal(table, dtype, 1), normal(table, dtype, 2)
        assert_variants(lambda *a: F.rotary_embedding(*a, interleaved=interleaved), x, cos, sin, seed=3)


@pytest.mark.parametrize("kernel", [rotary, rotary_vjp])
def test_what_it_takes(kernel: Any) -> None:
    x, table = normal((2, 3, 5, 8), np.float32), normal((5, 4), np.float32)
    options = {"interleaved": False}
    out = kernel(x.swapaxes(1, 2), table[:3], table[:3], **options)
    assert out.strides == x.swapaxes(1, 2).strides
    assert kernel(x[:, :, ::2], table[::2], table[::2], **options).shape == (2, 3, 3, 8)
    for wrong in (
        (x.astype(np.float64), table, table),
        (x.astype(np.int64), table, table),
        (x[..., ::2], table[:, :2], table[:, :2]),
        (x, table[..., ::2], table[..., ::2]),
        (x, table[:3], table[:3]),
        (x, table, table[:, :3]),
        (x, table, table[:1]),
        (x[..., :6], table, table),
        (x[None], table, table),
        (x[0, 0, 0], table, table),
        (x[:0], table, table),
        (x.astype(">f4"), table, table),
        (x, table[None, None, None], table[None, None, None]),
        (x.tolist(), table, table),
    ):
        assert kernel(*wrong, **options) is NotImplemented
    assert kernel(np.broadcast_to(x[:1, :1, :1, :1], x.shape), table, table, **options) is NotImplemented

"""relu, its mask and sums of columns on a GPU, beside linear: equal to float64 for every dtype, size and alignment."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("gpu")

KINDS = (mg.float32, mg.float64, mg.float16, mg.bfloat16)


@pytest.fixture(scope="module")
def affine(gpu: None) -> Any:
    mg.ones(1, device="cuda")
    return importlib.import_module("minigrad.backend.cuda.affine")


def placed(x: Any, offset: int) -> Any:
    """An array on the GPU that begins so many elements behind a multiple of 16 bytes."""
    room = mg.zeros(x.size + offset, dtype=x.dtype, device="cuda")
    view = mg.reshape(room[offset:], x.shape)._array
    view[...] = mg.tensor(x, device="cuda")._array
    return view


def drawn(seed: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """Normal numbers, zeros of both signs and NaN among them."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.1, rng.choice([0.0, -0.0, np.nan], shape), rng.normal(size=shape)).astype(
        dtype
    )


def on_cpu(x: Any) -> Any:
    return mg.asarray(x).to("cpu").numpy()


@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(0, 9) | st.integers(60, 70), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(KINDS),
    offsets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_relu_and_its_mask(affine: Any, seed: int, shape: tuple[int, ...], dtype: Any, offsets: Any) -> None:
    x, y = drawn(seed, shape, dtype), drawn(seed + 1, shape, dtype)
    with np.errstate(invalid="ignore"):
        want = np.where(y > 0, x, np.zeros((), dtype)), np.maximum(x, np.zeros((), dtype))
    a, b = placed(x, offsets[0]), placed(y, offsets[1])
    found = [affine.gated(a, b)]
    affine.rectify(a)
    for g, w in zip([*found, a], want, strict=True):
        assert g.dtype == dtype
        np.testing.assert_array_equal(on_cpu(g).astype(np.float64), w.astype(np.float64))


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9) | st.integers(60, 300),
    n=st.integers(0, 9) | st.integers(30, 70) | st.sampled_from([128, 264]),
    dtype=st.sampled_from(KINDS),
    offset=st.integers(0, 3),
    gate=st.booleans(),
)
def test_sums_of_columns(affine: Any, seed: int, rows: int, n: int, dtype: Any, offset: int, gate: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(rows, n)).astype(dtype) for _ in range(2))
    given = placed(x, offset), placed(y, offset) if gate else None
    got = on_cpu(affine.column_sums(*given))
    kept = np.where(y > 0, x, np.zeros((), dtype)) if gate else x
    assert got.dtype == dtype
    assert_close(got, kept.astype(np.float64).sum(axis=0), dtype, "sums", floor=10.0)
    stack = affine.column_sums(given[0].reshape((1, rows, n)), given[1] if given[1] is None else given[1][None])
    assert on_cpu(stack).tobytes() == got.tobytes()


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_the_bits_of_sums_do_not_depend_on_the_alignment(affine: Any, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(500, 48)).astype(dtype)
    first, second = (on_cpu(affine.column_sums(placed(x, offset))) for offset in (0, 1))
    assert first.tobytes() == second.tobytes()


def test_views_in_other_orders(affine: Any) -> None:
    x, y = (np.random.default_rng(i).normal(size=(7, 5)) for i in range(2))
    a, b = (mg.tensor(v, device="cuda").T._array for v in (x, y))
    np.testing.assert_array_equal(on_cpu(affine.gated(a, b)), np.where(y > 0, x, 0.0).T)
    assert_close(on_cpu(affine.column_sums(a, b)), np.where(y > 0, x, 0.0).sum(axis=1), np.dtype(np.float64), "sums")


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_summed_in_float32(affine: Any, dtype: Any) -> None:
    ones = mg.ones((5000, 3), dtype=dtype, device="cuda")
    assert on_cpu(affine.column_sums(ones._array)).tolist() == np.full(3, 5000).astype(dtype).tolist()

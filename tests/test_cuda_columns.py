"""Sums of columns on a GPU: equal to float64 for every dtype, size and alignment."""

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
def columns(gpu: None) -> Any:
    mg.ones(1, device="cuda")
    return importlib.import_module("minigrad.backend.cuda.columns")


def placed(x: Any, offset: int) -> Any:
    """An array on the GPU that begins so many elements behind a multiple of 16 bytes."""
    room = mg.zeros(x.size + offset, dtype=x.dtype, device="cuda")
    view = mg.reshape(room[offset:], x.shape)._array
    view[...] = mg.tensor(x, device="cuda")._array
    return view


def on_cpu(x: Any) -> Any:
    return mg.asarray(x).to("cpu").numpy()


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9) | st.integers(60, 300),
    n=st.integers(0, 9) | st.integers(30, 70) | st.sampled_from([128, 264]),
    dtype=st.sampled_from(KINDS),
    offset=st.integers(0, 3),
    gate=st.booleans(),
)
def test_sums_of_columns(columns: Any, seed: int, rows: int, n: int, dtype: Any, offset: int, gate: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(rows, n)).astype(dtype) for _ in range(2))
    given = placed(x, offset), placed(y, offset) if gate else None
    got = on_cpu(columns.column_sums(*given))
    kept = np.where(y > 0, x, np.zeros((), dtype)) if gate else x
    assert got.dtype == dtype
    assert_close(got, kept.astype(np.float64).sum(axis=0), dtype, "sums", floor=10.0)
    stack = columns.column_sums(given[0].reshape((1, rows, n)), given[1] if given[1] is None else given[1][None])
    assert on_cpu(stack).tobytes() == got.tobytes()


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_the_bits_of_sums_do_not_depend_on_the_alignment(columns: Any, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(500, 48)).astype(dtype)
    first, second = (on_cpu(columns.column_sums(placed(x, offset))) for offset in (0, 1))
    assert first.tobytes() == second.tobytes()


def test_views_in_other_orders(columns: Any) -> None:
    x, y = (np.random.default_rng(i).normal(size=(7, 5)) for i in range(2))
    a, b = (mg.tensor(v, device="cuda").T._array for v in (x, y))
    assert_close(on_cpu(columns.column_sums(a, b)), np.where(y > 0, x, 0.0).sum(axis=1), np.dtype(np.float64), "sums")


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_summed_in_float32(columns: Any, dtype: Any) -> None:
    ones = mg.ones((5000, 3), dtype=dtype, device="cuda")
    assert on_cpu(columns.column_sums(ones._array)).tolist() == np.full(3, 5000).astype(dtype).tolist()


@pytest.mark.parametrize("n", [1, 2])
def test_many_rows_of_few_columns(columns: Any, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Parts lie along the second axis of a grid, which has 65535 blocks at most."""
    monkeypatch.setattr(columns, "LEAST_ROWS", 1)
    x = mg.ones((70000, n), device="cuda")
    assert on_cpu(columns.column_sums(x._array)).tolist() == [70000.0] * n

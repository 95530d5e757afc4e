"""Biases that cuBLASLt adds to products, and what is done where it does not."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import ops
from minigrad.testing.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("gpu")

HALVES = (mg.float16, mg.bfloat16)
KINDS = (mg.float32, mg.float64, *HALVES)


@pytest.fixture(scope="module")
def epilogue(gpu: None) -> Any:
    mg.ones(1, device="cuda")
    return importlib.import_module("minigrad.backend.cuda.epilogue")


@pytest.fixture
def added(epilogue: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What cuBLASLt said when it was asked."""
    matmul = importlib.import_module("minigrad.backend.cuda.matmul")
    said: list[bool] = []

    def multiply_add(*args: Any) -> bool:
        said.append(epilogue.multiply_add(*args))
        return said[-1]

    monkeypatch.setattr(matmul, "multiply_add", multiply_add)
    return said


def normal(seed: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def affine(x: Any, w: Any, b: Any) -> Any:
    return x.astype(np.float64) @ w.astype(np.float64) + b.astype(np.float64)


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_the_bias_is_added(added: list[bool], dtype: Any, turned: tuple[bool, bool]) -> None:
    """Before the result is rounded: of numbers that were rounded twice a third would differ."""
    x, w, b = normal(0, (40, 32), dtype), normal(1, (32, 24), dtype), normal(2, (24,), dtype)
    a, c = (
        mg.tensor(np.ascontiguousarray(v.T), device="cuda").T if flip else mg.tensor(v, device="cuda")
        for v, flip in zip((x, w), turned, strict=True)
    )
    got = mg.linear(a, c, mg.tensor(b, device="cuda")).to("cpu").numpy()
    want = affine(x, w, b)
    assert added == [dtype != mg.float64]
    assert_close(got, want, dtype, "linear")
    if dtype in HALVES:
        assert (got != want.astype(dtype)).mean() < 0.02
    relu = ops.linear_relu(a, c, mg.tensor(b, device="cuda")).to("cpu").numpy()
    np.testing.assert_array_equal(relu, np.maximum(got, np.zeros((), dtype)))


def test_a_stack_is_one_product(added: list[bool]) -> None:
    x, w, b = normal(0, (2, 3, 8, 16), np.float32), normal(1, (16, 8), np.float32), normal(2, (8,), np.float32)
    got = mg.linear(*(mg.tensor(v, device="cuda") for v in (x, w, b))).to("cpu").numpy()
    assert added == [True]
    assert_close(got, affine(x, w, b), np.dtype(np.float32), "linear")


@pytest.mark.parametrize(("rows", "expected"), [(4, [True]), (66, [])], ids=["few", "many"])
def test_rows_with_gaps(added: list[bool], rows: int, expected: list[bool]) -> None:
    """Few of them are copied, and one product then; many are a batch, to which cuBLASLt is not asked to add."""
    x, w, b = normal(0, (2, rows + 1, 8), np.float32), normal(1, (8, 8), np.float32), normal(2, (8,), np.float32)
    a, c, d = (mg.tensor(v, device="cuda") for v in (x, w, b))
    got = mg.linear(a[:, :rows], c, d).to("cpu").numpy()
    assert added == expected
    assert_close(got, affine(x[:, :rows], w, b), np.dtype(np.float32), "linear")


CASES: dict[str, tuple[tuple[int, ...], int, bool]] = {  # shape of x, columns, whether the bias is beside 16 bytes
    "one row": ((1, 8), 8, False),
    "a vector": ((8,), 8, False),
    "one column": ((8, 8), 1, False),
    "a bias that is not aligned": ((8, 8), 8, True),
}


@pytest.mark.parametrize("case", [*CASES])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_what_is_not_left_to_it(added: list[bool], dtype: Any, case: str) -> None:
    shape, n, beside = CASES[case]
    x, w, b = normal(0, shape, dtype), normal(1, (8, n), dtype), normal(2, (n + beside,), dtype)
    got = mg.linear(*(mg.tensor(v, device="cuda") for v in (x, w)), mg.tensor(b, device="cuda")[beside:])
    assert added == [False]
    assert_close(got.to("cpu").numpy(), affine(x, w, b[beside:]), dtype, "linear")


def test_a_bias_with_gaps(added: list[bool]) -> None:
    x, w, b = normal(0, (8, 8), np.float32), normal(1, (8, 8), np.float32), normal(2, (16,), np.float32)
    got = mg.linear(*(mg.tensor(v, device="cuda") for v in (x, w)), mg.tensor(b, device="cuda")[::2])
    assert not added
    assert_close(got.to("cpu").numpy(), affine(x, w, b[::2]), np.dtype(np.float32), "linear")


def test_nan_passes(added: list[bool]) -> None:
    x = mg.tensor(np.full((8, 8), np.nan, np.float32), device="cuda")
    w, b = mg.ones((8, 8), device="cuda"), mg.ones(8, device="cuda")
    assert np.isnan(ops.linear_relu(x, w, b).to("cpu").numpy()).all()
    assert added == [True]


def test_a_plan_is_made_once_a_shape_and_ends(epilogue: Any) -> None:
    x, w, b = (mg.ones(s, device="cuda") for s in ((24, 16), (16, 40), (40,)))
    mg.linear(x, w, b)
    before = epilogue.plan.cache_info()
    mg.linear(x, w, b)
    after = epilogue.plan.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)
    epilogue.plan.cache_clear()
    gc.collect()
    assert mg.linear(x, w, b).tolist() == [[17.0] * 40] * 24


def test_tf32_concerns_it(epilogue: Any) -> None:
    x = mg.full((8, 8), 1 + 2.0**-13, device="cuda")
    w, b = mg.tensor(np.eye(8, dtype=np.float32), device="cuda"), mg.zeros(8, device="cuda")
    assert mg.linear(x, w, b).tolist() == x.tolist()
    try:
        mg.cuda.set_matmul_precision("high")
        found = mg.linear(x, w, b).to("cpu").numpy()
        if not hasattr(epilogue.cupy, "__file__"):  # a GPU may have a better kernel for few elements
            assert (found == 1).all()
        assert abs(found - 1).max() <= 2.0**-13
    finally:
        mg.cuda.set_matmul_precision("highest")


def test_what_it_refuses_is_said(epilogue: Any) -> None:
    made = epilogue.Plan(*(mg.float32, 8, 8, 8), *[epilogue.Matrix(0, False, 8)] * 2, (256,) * 4, 2**25, 68, 0)
    assert made.works
    with pytest.raises(RuntimeError, match="cublasLtMatmulDesc: status 7"):
        made.describe(epilogue.EPILOGUE, epilogue.c_uint64(4))  # of a wrong width


def test_it_works_on_the_current_stream(epilogue: Any) -> None:
    blas = importlib.import_module("minigrad.backend.cuda.blas")
    x, w, b = (mg.ones(s, device="cuda") for s in ((8, 8), (8, 8), (8,)))
    stream = blas.cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(blas.cupy.cuda.get_current_stream().record())
    with stream:
        out = mg.linear(x, w, b)
        assert blas.handle(0).place[0] == stream.ptr
    stream.synchronize()
    assert out.tolist() == [[9.0] * 8] * 8

"""The handle of cuBLAS: its stream, its workspace; and that its stand-in refuses what cuBLAS refuses."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest

import minigrad as mg

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(scope="module")
def blas(gpu: None) -> Any:
    mg.ones(1, device="cuda")
    return importlib.import_module("minigrad.backend.cuda.blas")


@pytest.fixture
def stand_in(blas: Any) -> Any:
    """The stand-in of cuBLAS; its tests are nothing for a GPU."""
    if not hasattr(blas.cupy, "__file__"):
        return importlib.import_module("stand_in_cublas")
    pytest.skip("of the stand-in alone")


def multiply() -> None:
    x = mg.ones((3, 3), device="cuda")
    assert mg.matmul(x, x).tolist() == [[3.0] * 3] * 3


def test_the_workspace_is_kept_on_a_stream_and_new_on_another(blas: Any) -> None:
    cuda, own = blas.cupy.cuda, blas.handle(0)
    multiply()
    first = own.workspace
    multiply()
    assert own.workspace is first
    stream, pool = cuda.Stream(non_blocking=True), cuda.MemoryPool()
    with stream:
        multiply()
        second = own.workspace
        assert second is not first
        assert own.place[0] == stream.ptr
        with cuda.using_allocator(pool.malloc):  # as while a step is captured
            multiply()
            assert own.workspace is not second
            third = own.workspace
        multiply()
        assert own.workspace is not third
    other = threading.Thread(target=multiply)
    other.start()
    other.join()
    assert own.place[2] == other.ident


def test_products_have_a_workspace_on_the_current_stream(blas: Any, stand_in: Any) -> None:
    stand_in.calls()
    stream = blas.cupy.cuda.Stream(non_blocking=True)
    with stream:
        multiply()
    (call,) = stand_in.calls()
    own = blas.handle(0)
    assert (call.stream or 0) == stream.ptr
    assert call.workspace == own.workspace.data.ptr
    assert own.workspace.nbytes == blas.WORKSPACE_HOPPER


def test_the_workspace_of_older_gpus_is_smaller(blas: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas.cupy.cuda.runtime, "getDeviceProperties", lambda number: {"major": 8})
    assert blas.Handle().size == blas.WORKSPACE


def test_devices_have_handles_of_their_own(blas: Any) -> None:
    if mg.cuda.device_count() < 2:
        pytest.skip("one GPU")
    before = blas.handle(0)
    x = mg.tensor([[1.0, 1.0], [1.0, 1.0]], device="cuda:1")
    assert mg.matmul(x, x).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert blas.handle(1) is not before


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("INVALID_VALUE", {"lda": 3}),
    ("INVALID_VALUE", {"ldb": 1}),
    ("INVALID_VALUE", {"ldc": 3}),
    ("INVALID_VALUE", {"m": -1}),
    ("NOT_SUPPORTED", {"compute": 70}),
    ("NOT_SUPPORTED", {"out": 1}),
    ("NOT_SUPPORTED", {"kind": 3}),
    ("NOT_SUPPORTED", {"kind": 2, "compute": 77}),
    ("NOT_INITIALIZED", {"handle": None}),
]


@pytest.mark.parametrize(("status", "changes"), REFUSED, ids=str)
def test_the_stand_in_is_as_strict(blas: Any, stand_in: Any, status: str, changes: dict[str, Any]) -> None:
    """a is 4 x 2 and b 2 x 3, in the order of columns."""
    room = [mg.ones(64, dtype=mg.float64, device="cuda")._array for _ in range(3)]
    a, b, c = (x.data.ptr for x in room)
    number = blas.c_float(1.0)
    one = blas.ctypes.addressof(number)
    given = {
        "handle": blas.handle(0).pointer, "m": 4, "n": 3, "k": 2, "lda": 4, "ldb": 2, "ldc": 4, "kind": 0, "out": None,
        "compute": 68,
    }  # fmt: skip

    def gemm(
        handle: Any, m: int, n: int, k: int, lda: int, ldb: int, ldc: int, kind: int, out: Any, compute: int
    ) -> None:
        made = kind if out is None else out
        blas.call(
            "cublasGemmEx_64", handle, 0, 0, m, n, k, one, a, kind, lda, b, kind, ldb, one, c, made, ldc, compute, -1
        )

    gemm(**given)
    with pytest.raises(RuntimeError, match=f"cublasGemmEx_64: CUBLAS_STATUS_{status}"):
        gemm(**{**given, **changes})

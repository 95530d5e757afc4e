"""cuBLAS on the stream of CuPy, through handles of our own.

CuPy's functions refuse every handle while a stream is captured into a CUDA graph, do not bind the workspace, and let go
of it with each call, so the library that CuPy loads is called by ctypes.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad import dtypes
from minigrad.backend import precision
from minigrad.errors import DeviceError, message

__all__ = ["TYPES", "Matrix", "call", "compute_type", "handle", "load", "multiply", "numbers"]

# cudaDataType, cublasOperation_t, cublasComputeType_t, cublasMath_t and cublasGemmAlgo_t, as the headers number them
TYPES = {dtypes.float32: 0, dtypes.float64: 1, dtypes.float16: 2, dtypes.bfloat16: 14}
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70
NO_REDUCED_SUMS = 16  # the parts of a split sum of half types are added in float32
GEMM_DEFAULT = -1

NUMBERS = {  # where cuBLAS reads its factors, by the dtype of the sums
    np.dtype(np.float32): (c_float(0.0), c_float(1.0)),
    np.dtype(np.float64): (c_double(0.0), c_double(1.0)),
}
WORKSPACE = 2**22  # bytes, what NVIDIA recommends
WORKSPACE_HOPPER = 2**25

SIGNATURES: dict[str, list[Any]] = {
    "cublasCreate_v2": [c_void_p],
    "cublasSetMathMode": [c_void_p, c_int],
    "cublasSetStream_v2": [c_void_p, c_void_p],
    "cublasSetWorkspace_v2": [c_void_p, c_void_p, c_size_t],
    "cublasGemmEx_64": [
        c_void_p, c_int, c_int, c_int64, c_int64, c_int64,
        c_void_p, c_void_p, c_int, c_int64, c_void_p, c_int, c_int64,
        c_void_p, c_void_p, c_int, c_int64, c_int, c_int,
    ],
    "cublasGemmStridedBatchedEx_64": [
        c_void_p, c_int, c_int, c_int64, c_int64, c_int64,
        c_void_p, c_void_p, c_int, c_int64, c_int64, c_void_p, c_int, c_int64, c_int64,
        c_void_p, c_void_p, c_int, c_int64, c_int64, c_int64, c_int, c_int,
    ],
}  # fmt: skip


class Matrix(NamedTuple):
    """Matrices in memory: where the first lies, whether it lies there transposed, and the steps in elements."""

    pointer: int
    turned: bool
    ld: int  # from one row (of what lies there) to the next
    step: int = 0  # from one matrix to the next


def load(name: str, signatures: dict[str, list[Any]]) -> Any:
    """One of the libraries that CuPy uses, such as ``"cublas"``, its functions with their arguments."""
    try:
        from cuda import pathfinder

        found = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
    except (ImportError, RuntimeError, OSError) as error:
        hint = "Install them with: pip install 'minigrad[gpu]'"
        got = f"'cuda', and {name} is not found"
        raise DeviceError(message("matmul", "device", got, "the libraries of CUDA", hint)) from error
    for function, arguments in signatures.items():
        getattr(found, function).argtypes = arguments
    return found


@cache
def library() -> Any:
    """The functions of cuBLAS."""
    found = load("cublas", SIGNATURES)
    found.cublasGetStatusName.restype = ctypes.c_char_p
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a function of cuBLAS."""
    status = getattr(library(), name)(*arguments)
    if status:
        raise RuntimeError(f"{name}: {library().cublasGetStatusName(status).decode()}")


class Handle:
    """The handle of a device, which works on the current stream in a workspace of its own.

    The workspace is new where the stream, the thread or CuPy's allocator is another than at the last call. The old one
    goes back to its pool, in the order of its stream; a graph that is captured under a pool of its own has one there.
    """

    def __init__(self) -> None:
        made = c_void_p()
        call("cublasCreate_v2", ctypes.byref(made))
        call("cublasSetMathMode", made, NO_REDUCED_SUMS)
        major = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["major"]
        self.pointer, self.lock = made, threading.Lock()
        self.size = WORKSPACE if major < 9 else WORKSPACE_HOPPER
        self.place: Any = None
        self.workspace: Any = None

    def enter(self) -> None:
        """Go to the current stream."""
        stream = cupy.cuda.get_current_stream().ptr
        place = stream, cupy.cuda.get_allocator(), threading.get_ident()
        if place != self.place:
            self.place = self.workspace = None
            self.workspace = cupy.empty(self.size, np.uint8)
            call("cublasSetStream_v2", self.pointer, stream)
            call("cublasSetWorkspace_v2", self.pointer, self.workspace.data.ptr, self.size)  # setting a stream drops it
            self.place = place


@cache
def handle(device: int) -> Handle:
    """That of a device, which is the current one."""
    return Handle()


def compute_type(kind: Any) -> int:
    """The cublasComputeType_t of products of a dtype, as `mg.cuda.set_matmul_precision` wants it."""
    if kind == dtypes.float64:
        return COMPUTE_64F
    high = kind == dtypes.float32 and precision.get_matmul_precision() == "high"
    return COMPUTE_32F_FAST_TF32 if high else COMPUTE_32F


def numbers(kind: Any) -> tuple[int, int]:
    """Where 0 and 1 lie, in the dtype in which products of `kind` are summed."""
    zero, one = NUMBERS[np.dtype(np.float64) if kind == dtypes.float64 else np.dtype(np.float32)]
    return ctypes.addressof(zero), ctypes.addressof(one)


def multiply(
    kind: Any, out_kind: Any, m: int, n: int, k: int, a: Matrix, b: Matrix, c: Matrix, adds: bool, count: int
) -> None:
    """``c = a @ b``, or ``c += a @ b``, for `count` matrices (m, k) and (k, n) of a dtype in C order.

    cuBLAS has columns where NumPy has rows, so it is told ``c.T = b.T @ a.T``, which transposes nothing.
    """
    compute, code, out_code = compute_type(kind), TYPES[kind], TYPES[out_kind]
    zero, alpha = numbers(kind)
    beta = alpha if adds else zero
    own = handle(cupy.cuda.runtime.getDevice())
    head = own.pointer, int(b.turned), int(a.turned), n, m, k
    with own.lock:
        own.enter()
        if count == 1:
            call(
                "cublasGemmEx_64", *head,
                alpha, b.pointer, code, b.ld, a.pointer, code, a.ld,
                beta, c.pointer, out_code, c.ld, compute, GEMM_DEFAULT,
            )  # fmt: skip
        else:
            call(
                "cublasGemmStridedBatchedEx_64", *head,
                alpha, b.pointer, code, b.ld, b.step, a.pointer, code, a.ld, a.step,
                beta, c.pointer, out_code, c.ld, c.step, count, compute, GEMM_DEFAULT,
            )  # fmt: skip

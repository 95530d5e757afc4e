"""Products to which cuBLASLt adds a bias before it rounds them and writes them out, for the forward of linear."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache, lru_cache
from typing import Any

import cupy

from minigrad import dtypes
from minigrad.backend.cuda.blas import TYPES, Matrix, compute_type, handle, load, numbers

__all__ = ["multiply_add"]

# cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t, cublasLtMatmulPreferenceAttributes_t, cublasLtReductionScheme_t
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8
EPILOGUE_BIAS = 4
MAX_WORKSPACE, REDUCTION_SCHEMES, ALIGNMENT_A, ALIGNMENT_B, ALIGNMENT_C, ALIGNMENT_D = 1, 3, 5, 6, 7, 8
SUMS_IN_FLOAT32 = 2  # CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: how the parts of a split sum may be added

ALIGNED = 16  # bytes, that a bias must be
PLANS = 1024  # that are kept, one a shape
KINDS = {dtypes.float32, dtypes.float16, dtypes.bfloat16}

SIGNATURES: dict[str, list[Any]] = {
    "cublasLtMatmulDescCreate": [c_void_p, c_int, c_int],
    "cublasLtMatmulDescDestroy": [c_void_p],
    "cublasLtMatmulDescSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatrixLayoutCreate": [c_void_p, c_int, c_uint64, c_uint64, c_int64],
    "cublasLtMatrixLayoutDestroy": [c_void_p],
    "cublasLtMatmulPreferenceCreate": [c_void_p],
    "cublasLtMatmulPreferenceDestroy": [c_void_p],
    "cublasLtMatmulPreferenceSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatmulAlgoGetHeuristic": [*[c_void_p] * 7, c_int, c_void_p, c_void_p],
    "cublasLtMatmul": [*[c_void_p] * 14, c_size_t, c_void_p],
}


class Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


@cache
def library() -> Any:
    """The functions of cuBLASLt."""
    return load("cublasLt", SIGNATURES)


class Plan:
    """How cuBLASLt multiplies matrices of some shapes, or that it does not."""

    def __init__(
        self,
        kind: Any,
        m: int,
        n: int,
        k: int,
        a: Matrix,
        b: Matrix,
        alignments: tuple[int, ...],
        size: int,
        compute: int,
        device: int,
    ) -> None:
        self.library = library()
        self.owned: list[tuple[Any, Any]] = []  # with what destroys it
        code = TYPES[kind]
        self.description = self.made("MatmulDesc", compute, TYPES[dtypes.float32])
        self.a = self.made("MatrixLayout", code, *((k, n) if b.turned else (n, k)), b.ld)  # as blas.multiply turns them
        self.b = self.made("MatrixLayout", code, *((m, k) if a.turned else (k, m)), a.ld)
        self.c = self.made("MatrixLayout", code, n, m, n)
        self.describe(TRANSA, c_int32(b.turned))
        self.describe(TRANSB, c_int32(a.turned))
        self.describe(EPILOGUE, c_uint32(EPILOGUE_BIAS))
        self.describe(BIAS_POINTER, c_void_p(ALIGNED))  # only what it is a multiple of counts here
        wishes = self.made("MatmulPreference")
        places = ALIGNMENT_A, ALIGNMENT_B, ALIGNMENT_C, ALIGNMENT_D
        self.set(wishes, "MatmulPreference", MAX_WORKSPACE, c_size_t(size))
        self.set(wishes, "MatmulPreference", REDUCTION_SCHEMES, c_uint32(SUMS_IN_FLOAT32))
        for place, alignment in zip(places, alignments, strict=True):
            self.set(wishes, "MatmulPreference", place, c_uint32(alignment))
        self.found, count = Found(), c_int()
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            handle(device).pointer, self.description, self.a, self.b, self.c, self.c, wishes, 1,
            ctypes.byref(self.found), ctypes.byref(count),
        )  # fmt: skip
        self.works = status == 0 and count.value == 1 and self.found.state == 0

    def made(self, what: str, *arguments: Any) -> Any:
        """A new object of cuBLASLt, which ends with the plan."""
        new = c_void_p()
        self.checked(getattr(self.library, f"cublasLt{what}Create")(ctypes.byref(new), *arguments), what)
        self.owned.append((getattr(self.library, f"cublasLt{what}Destroy"), new))
        return new

    def set(self, whose: Any, what: str, attribute: int, value: Any) -> None:
        """Set an attribute."""
        setter = getattr(self.library, f"cublasLt{what}SetAttribute")
        self.checked(setter(whose, attribute, ctypes.byref(value), ctypes.sizeof(value)), what)

    def describe(self, attribute: int, value: Any) -> None:
        """Set an attribute of the product."""
        self.set(self.description, "MatmulDesc", attribute, value)

    @staticmethod
    def checked(status: int, what: str) -> None:
        """Raise what cuBLASLt refuses."""
        if status:
            raise RuntimeError(f"cublasLt{what}: status {status}")

    def __del__(self) -> None:
        for destroy, made in self.owned:
            destroy(made)


plan = lru_cache(PLANS)(Plan)


def alignment(pointer: int) -> int:
    """The power of 2 that a pointer is a multiple of, 256 at most."""
    return min(256, pointer & -pointer)


def multiply_add(kind: Any, m: int, n: int, k: int, a: Matrix, b: Matrix, c: Matrix, bias: int) -> bool:
    """``c = a @ b + bias`` of matrices (m, k) and (k, n) in C order; False where cuBLASLt does not do it."""
    if kind not in KINDS or bias % ALIGNED or min(m, n) == 1:
        return False
    device = cupy.cuda.runtime.getDevice()
    own = handle(device)
    with own.lock:  # a plan is for one device: its bias is set before each call
        alignments = *(alignment(x.pointer) for x in (b, a, c)), alignment(c.pointer)
        shapes = a._replace(pointer=0, step=0), b._replace(pointer=0, step=0)
        how = plan(kind, m, n, k, *shapes, alignments, own.size, compute_type(kind), device)
        if not how.works:
            return False
        own.enter()
        how.describe(BIAS_POINTER, c_void_p(bias))
        zero, one = numbers(kind)
        status = how.library.cublasLtMatmul(
            own.pointer, how.description, one, b.pointer, how.a, a.pointer, how.b, zero, c.pointer, how.c, c.pointer,
            how.c, ctypes.byref(how.found.algorithm), own.workspace.data.ptr, own.size, own.place[0],
        )  # fmt: skip
        how.checked(status, "Matmul")
    return True

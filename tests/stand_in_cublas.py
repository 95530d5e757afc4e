"""A stand-in for cuBLAS on machines without a GPU: a library of its functions for the CPU, and what finds it."""

from __future__ import annotations

import ctypes
import types
from functools import cache
from typing import Any

import stand_in_streams
from cuda_on_cpu import compiler

SOURCE = compiler.HERE / "cublas.cpp"
NUMBERS = (
    "m", "n", "k", "batches", "turned_a", "turned_b", "compute", "adds", "out", "stream", "workspace", "biased",
)  # fmt: skip


class Call(ctypes.Structure):
    """What the library notes of a product; sizes are those that it was told, with columns before rows."""

    _fields_ = [(name, ctypes.c_longlong) for name in NUMBERS] + [(name, ctypes.c_void_p) for name in "abc"]


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_longlong)
def capture(number: int) -> int:
    """Let a stream that captures note a product, which runs when the graph does."""
    found = stand_in_streams.current().capture
    if found is not None:
        found.calls.append((library()[1].calls_run, (number,), {}, None, set()))
    return found is not None


@cache
def library() -> tuple[str, ctypes.CDLL]:
    """Its path, and itself."""
    headers = "".join(f'#include "{compiler.HERE / name}"\n' for name in ("runtime.h", "device.cuh"))
    path = compiler.library("#include <functional>\n" + headers + SOURCE.read_text())
    found = ctypes.CDLL(str(path))
    found.calls_get.argtypes, found.calls_get.restype = [ctypes.c_longlong], ctypes.POINTER(Call)
    found.calls_count.restype = ctypes.c_longlong
    found.calls_run.argtypes, found.calls_run.restype = [ctypes.c_longlong], None
    found.calls_hook(capture)
    return str(path), found


def calls() -> list[Call]:
    """The products since the last time."""
    found = library()[1]
    made = [Call.from_buffer_copy(found.calls_get(i).contents) for i in range(found.calls_count())]
    found.calls_clear()
    return made


def load_nvidia_dynamic_lib(name: str) -> Any:
    """What cuda.pathfinder does."""
    assert name in ("cublas", "cublasLt")
    return types.SimpleNamespace(abs_path=library()[0])


def modules() -> dict[str, types.ModuleType]:
    """cuda.pathfinder, which CuPy brings along."""
    package, pathfinder = types.ModuleType("cuda"), types.ModuleType("cuda.pathfinder")
    vars(pathfinder)["load_nvidia_dynamic_lib"] = load_nvidia_dynamic_lib
    vars(package)["pathfinder"] = pathfinder
    return {"cuda": package, "cuda.pathfinder": pathfinder}

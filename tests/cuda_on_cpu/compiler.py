"""CUDA sources compiled for the CPU: `Module` stands in for cupy.RawModule, with runtime.h as the GPU."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "cuda_on_cpu"
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w", "-Wl,-Bsymbolic")
BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
KERNEL = re.compile(rf"__global__\s+{BOUNDS}void\s+{BOUNDS}(\w+)\s*\(")
DEVICE = re.compile(r'#line 1 "device.cuh"\n.*?(?=^#line |\Z)', re.DOTALL | re.MULTILINE)
SHARED = re.compile(r"extern\s+__shared__[^;]*\bshared_memory\s*\[\s*\]\s*;")
STATIC_LIMIT = 48 << 10


class Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_ulonglong),
        ("order", ctypes.c_ulonglong),
        ("arguments", ctypes.c_ulonglong),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_ulonglong)),
    )


class Order:
    """The seed of the order in which threads and blocks run; another one for each launch."""

    seed = 0


def compiler() -> str:
    """The C++ compiler."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        import pytest

        pytest.skip("CUDA sources run on the CPU by g++, which is not installed")
    return found


def compiled(code: str) -> ctypes.CDLL:
    """The library of the kernels of a source."""
    code = DEVICE.sub(lambda found: (HERE / "device.cuh").read_text(), code)
    command = [compiler(), "-E", "-P", "-x", "c++", "-"]
    plain = subprocess.run(command, input=code, capture_output=True, text=True, check=True)
    names = KERNEL.findall(plain.stdout)
    launchers = "\n".join(
        f'extern "C" const char* launch_{name}(const cuda::Launch* what) {{ return cuda::launch({name}, what); }}'
        for name in names
    )
    source = f'#include "{HERE / "runtime.h"}"\nnamespace {{\n{SHARED.sub("", code)}\n}}\n{launchers}\n'
    return ctypes.CDLL(str(library(source)))


def library(source: str) -> Path:
    """The file of the library of a source for the CPU, from an earlier run where that had the same."""
    key = hashlib.sha256((source + (HERE / "runtime.h").read_text() + repr(FLAGS)).encode()).hexdigest()[:24]
    made = BUILD / f"{key}.so"
    if not made.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        part = BUILD / f"{key}.{os.getpid()}.so"
        command = [compiler(), *FLAGS, "-x", "c++", "-", "-o", str(part)]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the CUDA source does not compile for the CPU:\n{done.stderr[:4000]}")
        part.replace(made)
    return made


class Module:
    """The kernels of a source."""

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        self.library = compiled(code)

    def compile(self, log_stream: Any = None) -> None:
        """What has been done."""

    def get_function(self, name: str) -> Function:
        return Function(getattr(self.library, f"launch_{name}"), name)


class Function:
    """A kernel."""

    def __init__(self, launcher: Any, name: str) -> None:
        self.launcher, self.name = launcher, name
        self.launcher.restype, self.launcher.argtypes = ctypes.c_char_p, [ctypes.POINTER(Launch)]
        self.max_dynamic_shared_size_bytes = STATIC_LIMIT

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0, **options: Any
    ) -> None:
        grids, blocks = ([*map(int, size), 1, 1][:3] for size in (grid, block))
        threads = blocks[0] * blocks[1] * blocks[2]
        limits = (2**31 - 1, 65535, 65535)
        if not all(1 <= n <= limit for n, limit in zip(grids, limits)) or not 1 <= threads <= 1024:
            raise ValueError(f"{self.name}: a grid of {grids} and blocks of {blocks}: CUDA_ERROR_INVALID_VALUE")
        if shared_mem > self.max_dynamic_shared_size_bytes or shared_mem > 227 << 10:
            raise ValueError(f"{self.name}: {shared_mem} bytes of shared memory: CUDA_ERROR_INVALID_VALUE")
        values = [self.value(a) for a in args]
        places = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        sizes = (ctypes.c_ulonglong * len(values))(*(v.nbytes for v in values))
        Order.seed += 1
        launch = Launch(
            (ctypes.c_uint * 3)(*grids),
            (ctypes.c_uint * 3)(*blocks),
            shared_mem,
            Order.seed,
            len(values),
            places,
            sizes,
        )
        fault = self.launcher(ctypes.byref(launch))
        if fault is not None:
            raise RuntimeError(f"{self.name}: {fault.decode()}")
        check_edges(args)

    def value(self, argument: Any) -> np.ndarray[Any, Any]:
        """The bytes of an argument: an address for an array."""
        if hasattr(argument, "values") and hasattr(argument, "device"):
            return np.array([argument.data.ptr], np.uint64)
        if isinstance(argument, np.generic):
            return np.array([argument])
        raise TypeError(f"{self.name}: an argument of type {type(argument).__name__}, needs an array or a NumPy scalar")


EDGE = 64  # bytes around the memory of an array, which no kernel may write to
ALIGNED = 512  # the memory of CuPy's arrays begins at multiples of it


def guarded(shape: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """An array of NaN or other odd bytes, with edges whose bytes are known."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.full(size + 2 * EDGE + ALIGNED, 0xFF, np.uint8)
    start = begin(memory)
    return memory[start : start + size].view(dtype).reshape(shape)


def begin(memory: np.ndarray[Any, Any]) -> int:
    """Where an array begins in memory with edges."""
    return EDGE + (-memory.ctypes.data - EDGE) % ALIGNED


def check_edges(args: Sequence[Any]) -> None:
    """Raise where a kernel has written beside an array that `guarded` made."""
    for argument in args:
        values = getattr(argument, "values", None)
        if not isinstance(values, np.ndarray):
            continue
        memory: Any = values
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        if memory.dtype == np.uint8 and memory.ndim == 1 and memory.size >= 2 * EDGE + ALIGNED and memory is not values:
            start = begin(memory)
            before = memory[:start]
            after = memory[memory.size - EDGE - ALIGNED + (start - EDGE) :]
            if (before != 0xFF).any() or (after != 0xFF).any():
                raise RuntimeError("a kernel wrote beside an array")


Kernel = Callable[..., None]

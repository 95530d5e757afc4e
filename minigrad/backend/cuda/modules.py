"""The CUDA sources, compiled by NVRTC when they are first used; CuPy keeps the results on disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import cupy

from minigrad.backend.cuda import sources

__all__ = ["compile_all", "kernel"]


@cache
def kernel(source: str, name: str) -> Any:
    """A kernel of a file such as ``"philox"``."""
    return module(source).get_function(name)


@cache
def module(source: str) -> Any:
    """All kernels of a file."""
    return cupy.RawModule(code=sources.text(source), options=sources.OPTIONS)


def compile_all(device: int) -> None:
    """Compile all files for a GPU side by side: NVRTC lets go of the interpreter meanwhile."""

    def made(source: str) -> None:
        with cupy.cuda.Device(device):
            module(source).compile()

    names = sorted((path.stem for path in sources.FOLDER.glob("*.cu")), key=lambda name: -len(sources.text(name)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(made, names))

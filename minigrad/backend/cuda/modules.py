"""The CUDA sources, compiled by NVRTC when they are first used; CuPy keeps the results on disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cupy

__all__ = ["OPTIONS", "SOURCES", "kernel"]

SOURCES = Path(__file__).parent
OPTIONS = ("--std=c++17", "--fmad=false")


@cache
def kernel(source: str, name: str) -> Any:
    """A kernel of a file such as ``"philox"``."""
    return module(source).get_function(name)


@cache
def module(source: str) -> Any:
    """All kernels of a file."""
    return cupy.RawModule(code=(SOURCES / f"{source}.cu").read_text(encoding="utf-8"), options=OPTIONS)

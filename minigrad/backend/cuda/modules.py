"""The CUDA sources, compiled by NVRTC when they are first used; CuPy keeps the results on disk."""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy

from minigrad.backend.cuda import sources

__all__ = ["kernel"]


@cache
def kernel(source: str, name: str) -> Any:
    """A kernel of a file such as ``"philox"``."""
    return module(source).get_function(name)


@cache
def module(source: str) -> Any:
    """All kernels of a file."""
    return cupy.RawModule(code=sources.text(source), options=sources.OPTIONS)

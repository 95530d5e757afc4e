"""What changes from step to step, for kernels whose arguments are frozen while a CUDA graph is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy

__all__ = ["before_replay", "offset", "scalars"]

Array = Any


def offset() -> Array | None:
    """What random kernels add to their counter: one uint64 on the GPU while a step is captured, else None."""
    return None


def scalars(compute: Callable[[], Any]) -> Array:
    """The array of NumPy's that `compute` returns, on the GPU; of a captured step, anew before each replay."""
    return cupy.asarray(compute())


def before_replay(function: Callable[[], object]) -> None:
    """Call it before each replay, where a step is captured."""

"""Arrays on the GPU for tests of kernels: in any layout, and with what is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

LAYOUTS = ("C", "F", "strided", "shifted")
SPECIAL = (-math.inf, -3e38, -1e4, -88.0, -0.0, 0.0, 88.0, 1e4, 3e38, math.inf, math.nan)


def placed(x: np.ndarray[Any, Any], layout: str = "C") -> Any:
    """A copy on the GPU; that of "shifted" lies in one piece, but begins at no multiple of 16 bytes."""
    import cupy

    if layout == "F":
        return cupy.array(np.array(x.T, order="C")).T
    if layout == "C":
        return cupy.array(x)
    room = cupy.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    if layout == "strided":
        room = cupy.empty((*x.shape, 2), x.dtype)[..., 1]
    room[...] = cupy.asarray(x)
    return room


@st.composite
def values(
    draw: st.DrawFn, dtype: Any, shape: tuple[int, ...], scale: float = 3.0, special: tuple[float, ...] = SPECIAL
) -> np.ndarray[Any, Any]:
    """Normal numbers, among which some are special ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = np.asarray(rng.normal(0, scale, shape))
    if special:
        odd = rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))
        x[odd] = rng.choice(special, odd.sum())
    with np.errstate(over="ignore"):
        return x.astype(dtype)

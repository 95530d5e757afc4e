"""Hypothesis strategies for shapes, dtypes, arrays and tensors. This module needs Hypothesis (``minigrad[test]``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from minigrad import dtypes as types
from minigrad.ops.conversion import new
from minigrad.testing.samples import LAYOUTS, relayout

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["arrays", "broadcastable_shapes", "dtypes", "layouts", "shapes", "tensors"]

KINDS = {
    "bool": types.BOOL,
    "integer": types.INTEGER,
    "floating": types.FLOATING,
    "half": types.HALF,
    "complex": types.COMPLEX,
    "any": types.ALL,
}


def shapes(*, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes, 0-d and (unless `min_side` is 1) empty ones among them."""
    return nps.array_shapes(min_dims=0, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcastable_shapes(
    n: int, *, max_dims: int = 3, min_side: int = 0, max_side: int = 4
) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Tuples of `n` shapes that broadcast together."""
    both = nps.mutually_broadcastable_shapes(num_shapes=n, max_dims=max_dims, min_side=min_side, max_side=max_side)
    return both.map(lambda found: tuple(found.input_shapes))


def dtypes(kind: str = "floating") -> st.SearchStrategy[types.DType]:
    """Dtypes of a kind: bool, integer, floating, half, complex or any."""
    return st.sampled_from(sorted(KINDS[kind], key=str))


def layouts() -> st.SearchStrategy[str]:
    """Names of memory layouts that `minigrad.testing.samples.relayout` knows."""
    return st.sampled_from(LAYOUTS)


@st.composite
def arrays(
    draw: st.DrawFn,
    dtype: types.DType | st.SearchStrategy[types.DType] = types.float64,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    low: float = -2.0,
    high: float = 2.0,
) -> np.ndarray[Any, Any]:
    """NumPy arrays of any dtype and layout: C, Fortran, strided, negative strides, read-only; 0-d and empty ones too.

    Parameters
    ----------
    draw : callable
        Given by Hypothesis.
    dtype : dtype or strategy of them
        The dtype.
    shape : tuple of int or strategy of them, optional
        The shape, that of `shapes` by default.
    low, high : float
        Bounds of floating and complex values (of either part).

    Returns
    -------
    numpy.ndarray
    """
    kind = draw(dtype) if isinstance(dtype, st.SearchStrategy) else dtype
    size = draw(shapes()) if shape is None else draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    if kind in types.FLOATING | types.COMPLEX:
        parts = nps.arrays(np.float64, size, elements=st.floats(low, high, width=16))
        values = draw(parts) + 1j * draw(parts) if kind in types.COMPLEX else draw(parts)
        array = np.asarray(values).astype(kind)
    else:
        array = draw(nps.arrays(kind, size))
    return relayout(array, draw(layouts()))


@st.composite
def tensors(
    draw: st.DrawFn,
    dtype: types.DType | st.SearchStrategy[types.DType] = types.float64,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    low: float = -2.0,
    high: float = 2.0,
    requires_grad: bool = False,
) -> Tensor:
    """Tensors on what `arrays` draws."""
    return new(draw(arrays(dtype, shape, low, high)), requires_grad=requires_grad)

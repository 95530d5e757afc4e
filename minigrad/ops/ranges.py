"""Ranges: evenly spaced numbers and the grids they span."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import as_index, as_number, asarray, new
from minigrad.ops.manipulation import broadcast_arrays, reshape

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["arange", "linspace", "meshgrid"]

MOST = np.iinfo(np.intp).max // 8  # what an array of 64-bit numbers can have


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers ``start + i * step`` of the half-open interval from `start` to `stop`.

    There are ``ceil((stop - start) / step)`` of them, none where that is negative. They are computed in 64 bits and
    cast.

    Parameters
    ----------
    start : int or float
        The first number; with `start` alone, the range is from 0 to it.
    stop : int or float, optional
        The end, which is left out.
    step : int or float
        The distance, which may be negative.
    dtype : dtype, optional
        By default int64 if all arguments are integers, float32 otherwise.
    device : str, optional
        Where the tensor lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor
        With one axis.

    Raises
    ------
    ValueError
        If `step` is 0, or a bound is not finite.
    OverflowError
        If an integer dtype cannot hold the numbers.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.arange(3), mg.arange(1.0, 0.0, -0.25)
    (tensor([0, 1, 2]), tensor([1.  , 0.75, 0.5 , 0.25]))
    """
    first, last = (0, start) if stop is None else (start, stop)
    named = (("start", first), ("stop", last), ("step", step))
    first, last, by = (as_number("arange", name, value, (int, float)) for name, value in named)
    integers = all(isinstance(value, int) for value in (first, last, by))
    default = dtypes.int64 if integers else dtypes.default_float
    wanted = default if dtype is None else dtypes.as_dtype(dtype, "arange")
    if wanted == dtypes.bool or wanted in dtypes.COMPLEX:
        raise DTypeError(message("arange", "dtype", str(wanted), "an integer or a floating dtype"))
    if by == 0:
        raise ValueError(message("arange", "step", "0", "a step other than 0"))
    if not all(map(math.isfinite, (first, last, by))):
        raise ValueError(message("arange", "bounds", (first, last, by), "finite numbers"))
    count = max(0, -((first - last) // by) if integers else math.ceil((last - first) / by))
    if count > MOST:
        raise ShapeError(message("arange", "stop", describe(last), f"at most {MOST} numbers"))
    if wanted in dtypes.INTEGER and count:
        limits = np.iinfo(wanted)
        edge = first + (count - 1) * by
        if min(first, edge) < limits.min or max(first, edge) > limits.max:
            raise OverflowError(message("arange", "dtype", str(wanted), f"a dtype that holds {first} to {edge}"))
    if integers and wanted in dtypes.INTEGER:
        wide: Any = np.uint64 if wanted == dtypes.uint64 else np.int64  # narrow types wrap in np.arange
        array = np.arange(first, first + count * by, by, dtype=wide).astype(wanted)
    else:
        with np.errstate(all="ignore"):
            array = (first + np.arange(count) * float(by)).astype(wanted)
    return new(array, requires_grad=requires_grad, device=device, who="arange")


def linspace(
    start: complex,
    stop: complex,
    /,
    num: int = 50,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: bool = True,
    requires_grad: bool = False,
) -> Tensor:
    """`num` evenly spaced numbers from `start` to `stop`, computed in 64 bits and cast.

    Parameters
    ----------
    start, stop : int, float or complex
        The ends.
    num : int
        How many.
    dtype : dtype, optional
        float32 by default, complex64 if an end is complex.
    device : str, optional
        Where the tensor lives.
    endpoint : bool
        Whether `stop` is the last number; otherwise it is the one after the last.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor
        Of shape ``(num,)``.

    Raises
    ------
    ShapeError
        If `num` is negative.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    first, last = as_number("linspace", "start", start), as_number("linspace", "stop", stop)
    default = dtypes.complex64 if isinstance(first, complex) or isinstance(last, complex) else dtypes.default_float
    wanted = default if dtype is None else dtypes.as_dtype(dtype, "linspace")
    if default == dtypes.complex64 and wanted not in dtypes.COMPLEX:
        raise DTypeError(message("linspace", "dtype", str(wanted), "a complex dtype, as the ends are complex"))
    count = as_index("linspace", "num", num)
    if count < 0:
        raise ShapeError(message("linspace", "num", count, "at least 0"))
    with np.errstate(all="ignore"):
        array = np.linspace(first, last, count, endpoint=endpoint)
        # towards minus infinity, as NumPy does; a plain cast would go towards zero
        array = (np.floor(array) if wanted in dtypes.INTEGER else array).astype(wanted)
    return new(array, requires_grad=requires_grad, device=device, who="linspace")


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Coordinate grids from coordinate vectors, as views.

    Parameters
    ----------
    *arrays : Tensor
        Vectors (or numbers) of lengths n1, n2, n3, ...
    indexing : str
        ``"ij"``: grids of shape (n1, n2, n3, ...). ``"xy"``: the first two axes are exchanged, (n2, n1, n3, ...).

    Returns
    -------
    list of Tensor
        One grid for each vector.

    Raises
    ------
    ShapeError
        If one of `arrays` has more than one axis.
    ValueError
        For another `indexing`.

    Examples
    --------
    >>> import minigrad as mg
    >>> x, y = mg.meshgrid(mg.arange(3), mg.arange(2))
    >>> x
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(message("meshgrid", "indexing", f"{indexing!r}", "'xy' or 'ij'"))
    n = len(arrays)
    axes = list(range(n))
    if indexing == "xy" and n > 1:
        axes[:2] = 1, 0
    spread = []
    for i, axis in enumerate(axes):
        x = asarray(arrays[i])
        if x.ndim > 1:
            raise ShapeError(message("meshgrid", f"arrays[{i}]", x, "one axis"))
        spread.append(reshape(x, (1,) * axis + (-1,) + (1,) * (n - axis - 1)))
    return broadcast_arrays(*spread)

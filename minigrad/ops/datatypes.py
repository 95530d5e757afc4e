"""Data types in the namespace: their names, and the functions of the array API that ask about them."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.dtypes import (
    bfloat16,
    bool,
    complex64,
    complex128,
    finfo,
    float16,
    float32,
    float64,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    isdtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from minigrad.errors import DTypeError, ShapeError, message

__all__ = [
    "bfloat16", "bool", "broadcast_shapes", "can_cast", "complex64", "complex128", "finfo", "float16", "float32",
    "float64", "iinfo", "int8", "int16", "int32", "int64", "isdtype", "result_type", "uint8", "uint16",
    "uint32", "uint64",
]  # fmt: skip

_NUMBERS = (int, float, complex)


def broadcast_shapes(*shapes: int | tuple[int, ...]) -> tuple[int, ...]:
    """The shape that shapes broadcast to.

    Parameters
    ----------
    *shapes : int or tuple of int
        Any number of them.

    Returns
    -------
    tuple of int

    Raises
    ------
    ShapeError
        If they do not broadcast together.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.broadcast_shapes((2, 1), (3,))
    (2, 3)
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        got = " and ".join(map(str, shapes))
        raise ShapeError(message("broadcast_shapes", "shapes", got, "extents that are equal or 1")) from None


def can_cast(from_: Any, to: Any, /) -> builtins.bool:
    """Whether the promotion rules take one dtype to another: the two together give `to`.

    Parameters
    ----------
    from_ : dtype or Tensor
        What would be cast.
    to : dtype
        The wanted dtype.

    Returns
    -------
    bool

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.can_cast(mg.float32, mg.float64), mg.can_cast(mg.float64, mg.float32)
    (True, False)
    """
    wanted = dtypes.as_dtype(to, "can_cast")
    try:
        return dtypes.promote([dtypes.as_dtype(getattr(from_, "dtype", from_), "can_cast"), wanted]) == wanted
    except DTypeError:  # uint64 and a signed integer
        return False


def result_type(*arrays_and_dtypes: Any) -> dtypes.DType:
    """The dtype in which arrays, dtypes and Python numbers meet.

    Parameters
    ----------
    *arrays_and_dtypes : Tensor, dtype or Python number
        At least one. Numbers are weak: they take the dtype of what they meet.

    Returns
    -------
    dtype

    Raises
    ------
    DTypeError
        For uint64 with a signed integer, which no integer dtype can hold.
    ValueError
        Without arguments.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.result_type(mg.zeros(2, dtype=mg.float16), mg.int64, 1.0)
    dtype('float16')
    """
    if not arrays_and_dtypes:
        raise ValueError(message("result_type", "arrays_and_dtypes", "empty", "at least one"))
    weak = [value for value in arrays_and_dtypes if isinstance(value, _NUMBERS)]
    strong = [value for value in arrays_and_dtypes if not isinstance(value, _NUMBERS)]
    # a class such as np.float32 has an attribute "dtype" too, that of its instances
    own = [value if isinstance(value, type) else getattr(value, "dtype", value) for value in strong]
    found = [dtypes.as_dtype(value, "result_type") for value in own]
    return dtypes.promote(found, weak)

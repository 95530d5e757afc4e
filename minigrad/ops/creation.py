"""Creation: tensors of a given shape, filled by a rule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np

from minigrad import dtypes
from minigrad.backend import devices
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import (
    as_number,
    asarray,
    astype,
    convert,
    copy,
    from_dlpack,
    new,
    tensor,
    to_array,
    to_device,
)
from minigrad.ops.ranges import arange, linspace, meshgrid
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "arange", "asarray", "astype", "convert", "copy", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like",
    "linspace", "meshgrid", "new", "one_hot", "ones", "ones_like", "tensor", "to_array", "to_device", "zeros",
    "zeros_like",
]  # fmt: skip

Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]


def as_shape(shape: Any, who: str) -> tuple[int, ...]:
    """A shape from an int or a sequence of ints."""
    extents = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    try:
        found = tuple(map(operator.index, extents))
    except TypeError:
        raise DTypeError(message(who, "shape", describe(shape), "an int or a tuple of ints")) from None
    if min(found, default=0) < 0:
        raise ShapeError(message(who, "shape", f"{found}", "extents of at least 0"))
    return found


def _filled(who: str, value: Any, shape: Any, wanted: dtypes.DType, device: Any, requires_grad: bool) -> Tensor:
    """A leaf with one value everywhere; None leaves the memory as it comes."""
    extents = as_shape(shape, who)
    backend, name = devices.backend_of(device, who)
    xp = backend.namespace
    try:
        if value is None:
            array = xp.empty(extents, wanted)
        elif isinstance(value, int) and not value:  # zeros are free: the system hands out zeroed pages
            array = xp.zeros(extents, wanted)
        else:
            with np.errstate(all="ignore"):  # a float beyond the dtype is inf, silently as everywhere
                array = xp.full(extents, value, wanted)
    except OverflowError:
        raise OverflowError(message(who, "fill_value", value, f"a value that {wanted} can hold")) from None
    except ValueError as reason:
        raise ShapeError(message(who, "shape", f"{extents}", "a shape that NumPy can make", str(reason))) from None
    return new(array, requires_grad=requires_grad, device=name, who=who)


def zeros(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros.

    Parameters
    ----------
    shape : int or tuple of int
        Its shape.
    dtype : dtype, optional
        float32 by default.
    device : str, optional
        Where it lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        For a negative extent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.zeros((2,))
    tensor([0., 0.])
    """
    wanted = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, "zeros")
    return _filled("zeros", 0, shape, wanted, device, requires_grad)


def ones(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones.

    Parameters
    ----------
    shape : int or tuple of int
        Its shape.
    dtype : dtype, optional
        float32 by default.
    device : str, optional
        Where it lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        For a negative extent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.ones((2, 2), dtype=mg.int64)
    tensor([[1, 1],
            [1, 1]])
    """
    wanted = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, "ones")
    return _filled("ones", 1, shape, wanted, device, requires_grad)


def empty(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose values are whatever was in its memory.

    Parameters
    ----------
    shape : int or tuple of int
        Its shape.
    dtype : dtype, optional
        float32 by default.
    device : str, optional
        Where it lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        For a negative extent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.empty((2, 3)).shape
    (2, 3)
    """
    wanted = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, "empty")
    return _filled("empty", None, shape, wanted, device, requires_grad)


def full(
    shape: Shape, fill_value: complex | Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with one value everywhere.

    Parameters
    ----------
    shape : int or tuple of int
        Its shape.
    fill_value : bool, int, float or complex
        The value.
    dtype : dtype, optional
        By default bool, int64, float32 or complex64, as `fill_value` is.
    device : str, optional
        Where it lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        For a negative extent.
    OverflowError
        If the dtype cannot hold an integer `fill_value`.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.full((2,), 7)
    tensor([7, 7])
    """
    value = as_number("full", "fill_value", fill_value)
    wanted = dtypes.promote([], [value]) if dtype is None else dtypes.as_dtype(dtype, "full")
    return _filled("full", value, shape, wanted, device, requires_grad)


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape, dtype and device of `x`, where no other is given.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.zeros_like(mg.tensor([1, 2]))
    tensor([0, 0])
    """
    x = asarray(x)
    return zeros(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape, dtype and device of `x`, where no other is given.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.ones_like(mg.tensor([1, 2]))
    tensor([1, 1])
    """
    x = asarray(x)
    return ones(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Unset memory of the shape, dtype and device of `x`, where no other is given.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.empty_like(mg.tensor([1, 2])).dtype
    dtype('int64')
    """
    x = asarray(x)
    return empty(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def full_like(
    x: Tensor, /, fill_value: complex | Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One value in the shape, dtype and device of `x`, where no other is given.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.full_like(mg.tensor([1.0, 2.0]), 7)
    tensor([7., 7.])
    """
    x = asarray(x)
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A matrix with ones on one diagonal and zeros elsewhere.

    Parameters
    ----------
    n_rows : int
        The number of rows.
    n_cols : int, optional
        The number of columns; `n_rows` by default.
    k : int
        Which diagonal: 0 the main one, positive above it, negative below.
    dtype : dtype, optional
        float32 by default.
    device : str, optional
        Where it lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor
        Of shape ``(n_rows, n_cols)``.

    Raises
    ------
    ShapeError
        For a negative extent.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = as_shape((n_rows, n_rows if n_cols is None else n_cols), "eye")
    wanted = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, "eye")
    return new(np.eye(rows, columns, k, wanted), requires_grad=requires_grad, device=device, who="eye")


@op(dtype=keep.but(same=False), needs="integer indices from 0 to num_classes - 1")
def _one_hot(xp: Any, indices: Array, /, num_classes: int, dtype: dtypes.DType) -> Array:
    if indices.dtype not in dtypes.INTEGER:
        raise TypeError("indices must be integers")
    if indices.size and (indices.min() < 0 or indices.max() >= num_classes):
        raise IndexError(f"indices lie between {indices.min()} and {indices.max()}")
    return (indices[..., None] == xp.arange(num_classes)).astype(dtype)


_one_hot.samples(
    case(np.array([2, 0]), num_classes=3, dtype=dtypes.float64),
    case(np.array(1), num_classes=2, dtype=dtypes.float32),
    case(np.zeros((2, 0), np.int32), num_classes=4, dtype=dtypes.int8),
    error(IndexError, "indices lie between 0 and 3", np.array([0, 3]), num_classes=3, dtype=dtypes.float32),
    error(DTypeError, "integer indices", (2,), num_classes=3, dtype=dtypes.float32),
)


def one_hot(indices: Tensor, num_classes: int, /, *, dtype: Any = None) -> Tensor:
    """Class numbers as unit vectors along a new last axis: ``out[..., c] = 1 if indices[...] == c else 0``.

    Parameters
    ----------
    indices : Tensor
        Integers, ``0 <= indices < num_classes``, of any shape.
    num_classes : int
        The extent of the new axis.
    dtype : dtype, optional
        float32 by default.

    Returns
    -------
    Tensor
        Of shape ``indices.shape + (num_classes,)``.

    Raises
    ------
    IndexError
        For an index outside the classes.
    DTypeError
        For indices that are not integers.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.one_hot(mg.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    (classes,) = as_shape(num_classes, "one_hot")
    wanted = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, "one_hot")
    return _one_hot(indices, classes, wanted)

"""int8: arrays as small integers and scales, and the products that are computed with them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, ShapeError, message

__all__ = [
    "check_inner", "dequantize_array", "dynamic_linear", "most_inner", "pack", "quantize_array", "quantize_rows",
    "weight_only_linear",
]  # fmt: skip

Array = np.ndarray[Any, Any]

LARGEST = 127  # -128 is left out: symmetric values need no correction of the sums
SMALLEST = np.finfo(np.float32).tiny  # a smaller scale would have lost its digits
WIDE = 16  # columns of a panel of packed weights

_dynamic = Kernel("quantized", "dynamic")
_weight_only = Kernel("quantized", "weight_only")


def quantize_array(values: Any, axis: int | tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """Round to int8, symmetrically: ``q = round(values / scale)`` with ``scale = max|values| / 127`` over some axes.

    No error is larger than ``scale / 2``. Halves are rounded to even. Values whose largest is below 1.5e-36, 127 times
    the smallest normal number, become 0 with the scale 0. B. Jacob et al., "Quantization and training of neural
    networks for efficient integer-arithmetic-only inference", 2018, with a zero point of 0.

    Parameters
    ----------
    values : array_like
        Finite floating numbers; they are rounded to float32 first.
    axis : int or tuple of int, optional
        The axes whose values share a scale; all of them by default. 0 for the columns of a weight (in, out).

    Returns
    -------
    quantized : numpy.ndarray
        int8, in [-127, 127].
    scale : numpy.ndarray
        float32, with 1 for each axis that shares it.

    Raises
    ------
    DTypeError
        If the values are not floating.
    ValueError
        If one is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.compress import dequantize_array, quantize_array
    >>> q, scale = quantize_array(np.array([[1.0, 0.25], [-0.5, 0.125]]), axis=0)
    >>> q.tolist(), scale.shape
    ([[127, 127], [-64, 64]], (1, 2))
    >>> np.round(dequantize_array(q, scale), 3)
    array([[ 1.   ,  0.25 ],
           [-0.504,  0.126]], dtype=float32)
    """
    given = np.asarray(values)
    if given.dtype.kind != "f" and given.dtype.name != "bfloat16":
        raise DTypeError(message("quantize_array", "values", given, "a floating dtype"))
    with np.errstate(over="ignore"):
        x = given.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(
            message("quantize_array", "values", f"{given.dtype} with NaN or inf", "finite float32 numbers")
        )
    scale = _scale(np.max(np.abs(x), axis=axis, keepdims=True, initial=0), LARGEST)
    return _divided(x, scale).astype(np.int8), scale


def dequantize_array(quantized: Any, scale: Any) -> Array:
    """The float32 numbers that int8 ones stand for, ``quantized * scale``.

    ``quantize_array`` gives the same int8 values back: the largest of each group is ±127.

    Parameters
    ----------
    quantized : array_like
        int8.
    scale : array_like
        A shape that stretches to it.
    """
    return np.asarray(quantized).astype(np.float32) * np.asarray(scale, np.float32)


def _scale(largest: Array, levels: int) -> Array:
    """What one step is where the largest value has so many of them."""
    scale = largest / np.float32(levels)
    return np.where(scale < SMALLEST, np.float32(0), scale)


def _divided(x: Array, scale: Array) -> Array:
    """X / scale, rounded; zeros where the scale is 0 or NaN."""
    kept = scale > 0
    return np.where(
        kept, np.rint(np.where(kept, x, np.float32(0)) / np.where(kept, scale, np.float32(1))), np.float32(0)
    )


def quantize_rows(x: Array, levels: int = LARGEST) -> tuple[Array, Array]:
    """int16 rows of a float32 matrix, in [-levels, levels], and a scale for each, (rows, 1).

    It is NaN, and the row zeros, where one is not finite.
    """
    largest = np.max(np.abs(x), axis=1, keepdims=True, initial=0)
    scale = np.where(np.isfinite(largest), _scale(largest, levels), np.float32(np.nan))
    return _divided(x, scale).astype(np.int16), scale


def pack(weight: Array, together: Literal[1, 2]) -> Array:
    """A weight (in, out) in the order in which the kernels read it, padded with zeros.

    (panels of 16 columns, in / together, 16, together): `dynamic_linear` reads two inner indices together,
    `weight_only_linear` one.
    """
    inner, columns = weight.shape
    blocks, panels = -(-inner // together), -(-columns // WIDE)
    padded = np.zeros((blocks * together, panels * WIDE), np.int8)
    padded[:inner, :columns] = weight
    return np.ascontiguousarray(padded.reshape(blocks, together, panels, WIDE).transpose(2, 0, 3, 1))


def _unpacked(packed: Array, inner: int, columns: int) -> Array:
    """The weight that was packed."""
    panels, blocks, wide, together = packed.shape
    return packed.transpose(1, 3, 0, 2).reshape(blocks * together, panels * wide)[:inner, :columns]


def dynamic_linear(
    x: Array, packed: Array, scale: Array, bias: Array | None = None, relu: bool = False, levels: int = LARGEST
) -> Array:
    """``x @ weight + bias`` of a float32 matrix, whose rows are rounded to integers in [-levels, levels] on the way.

    The sums are int32 and exact. Each is made float32 and multiplied by the scale of the column, then by that of the
    row; then the bias is added: the same bits from the kernel in every instruction set and from this generic body.

    Parameters
    ----------
    x : numpy.ndarray
        (rows, in), in C order, with at most ``most_inner(levels)`` columns.
    packed : numpy.ndarray
        ``pack(weight, 2)``.
    scale, bias : numpy.ndarray
        float32 (out,).
    relu : bool
        Set what is negative to 0.
    levels : int
        At most 32767; 127 for int8.

    Returns
    -------
    numpy.ndarray
        (rows, out); NaN in a row whose x has one, or an inf.
    """
    made = _dynamic(x, packed, scale, bias, relu, levels)
    if made is not NotImplemented:
        return made  # type: ignore[no-any-return]
    quantized, row_scale = quantize_rows(x, levels)
    weight = _unpacked(packed, x.shape[1], len(scale))
    # float64 holds the integers exactly, and NumPy multiplies it by its BLAS
    sums = (quantized.astype(np.float64) @ weight.astype(np.float64)).astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        return _finished(sums.astype(np.float32) * scale * row_scale, bias, relu)


def weight_only_linear(x: Array, packed: Array, scale: Array, bias: Array | None = None, relu: bool = False) -> Array:
    """``x @ weight + bias`` of a float32 matrix in float32; only the weight is int8. Packed is ``pack(weight, 1)``."""
    made = _weight_only(x, packed, scale, bias, relu)
    if made is not NotImplemented:
        return made  # type: ignore[no-any-return]
    weight = _unpacked(packed, x.shape[1], len(scale))
    with np.errstate(over="ignore", invalid="ignore"):
        return _finished((x @ weight.astype(np.float32)) * scale, bias, relu)


def _finished(y: Array, bias: Array | None, relu: bool) -> Array:
    if bias is not None:
        y = y + bias
    return np.where(y <= 0, np.float32(0), y) if relu else y


def most_inner(levels: int = LARGEST) -> int:
    """The inner indices over which an int32 adds up; a weight that is loaded may have -128."""
    return (2**31 - 1) // (levels * 128)


def check_inner(who: str, weight: Array, levels: int = LARGEST) -> None:
    """Raise where a weight is no matrix, or one whose sums could leave int32."""
    if weight.ndim != 2 or not weight.size:
        raise ShapeError(message(who, "weight", weight, "a matrix (in, out) with elements"))
    most = most_inner(levels)
    if weight.shape[0] > most:
        hint = "Take fewer input_bits" if levels > LARGEST else ""
        raise ShapeError(message(who, "weight", weight, f"at most {most} input features: int32 adds up no more", hint))

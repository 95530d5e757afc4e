"""Data types: the names, which kind each is, and how they promote.

The rules, in the order they apply:

1. Tensors and NumPy arrays have a dtype; Python numbers (and NumPy scalars) are *weak*: they take the dtype of what
   they meet.
2. Within a kind the wider dtype wins; float16 with bfloat16 gives float32.
3. A floating dtype meets an integer one: the floating one wins, at its own width (NumPy would widen to float64).
4. A weak float that meets only integers or bools gives float32, the default floating dtype.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from minigrad.errors import DTypeError, message

__all__ = [
    "ALL", "BOOL", "COMPLEX", "FLOATING", "HALF", "INTEGER", "SIGNED", "UNSIGNED", "DType", "as_dtype", "bfloat16",
    "bool", "complex64", "complex128", "default_float", "finfo", "float16", "float32", "float64", "iinfo", "int8",
    "int16", "int32", "int64", "is_floating", "isdtype", "promote", "uint8", "uint16", "uint32", "uint64",
]  # fmt: skip

DType: TypeAlias = "np.dtype[Any]"
_bool = bool

bool: DType = np.dtype(np.bool_)
int8: DType = np.dtype(np.int8)
int16: DType = np.dtype(np.int16)
int32: DType = np.dtype(np.int32)
int64: DType = np.dtype(np.int64)
uint8: DType = np.dtype(np.uint8)
uint16: DType = np.dtype(np.uint16)
uint32: DType = np.dtype(np.uint32)
uint64: DType = np.dtype(np.uint64)
float16: DType = np.dtype(np.float16)
bfloat16: DType = np.dtype(ml_dtypes.bfloat16)
float32: DType = np.dtype(np.float32)
float64: DType = np.dtype(np.float64)
complex64: DType = np.dtype(np.complex64)
complex128: DType = np.dtype(np.complex128)

default_float = float32

BOOL = frozenset({bool})
SIGNED = frozenset({int8, int16, int32, int64})
UNSIGNED = frozenset({uint8, uint16, uint32, uint64})
INTEGER = SIGNED | UNSIGNED
HALF = frozenset({float16, bfloat16})
FLOATING = HALF | {float32, float64}
COMPLEX = frozenset({complex64, complex128})
ALL = BOOL | INTEGER | FLOATING | COMPLEX

_KINDS = {
    "bool": BOOL,
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": INTEGER,
    "real floating": FLOATING,
    "complex floating": COMPLEX,
    "numeric": INTEGER | FLOATING | COMPLEX,
}


def as_dtype(dtype: Any, op: str = "dtype") -> DType:
    """Turn a name, a NumPy type or a Python type into a dtype that minigrad has.

    Parameters
    ----------
    dtype : object
        ``mg.float32``, ``"float32"``, ``np.float32``, ``float`` (the default floating dtype), ``int`` (int64) or
        ``bool``.
    op : str, optional
        Who asks, for the error.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    DTypeError
        If there is no such dtype.

    Examples
    --------
    >>> from minigrad.dtypes import as_dtype
    >>> as_dtype("bfloat16"), as_dtype(float)
    (dtype(bfloat16), dtype('float32'))
    """
    if dtype is float:
        return default_float
    if dtype is complex:
        return complex64
    try:
        found = bfloat16 if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found not in ALL:
        names = ", ".join(sorted(str(d) for d in ALL))
        raise DTypeError(message(op, "dtype", f"{dtype!r}", f"one of {names}"))
    assert found is not None
    return found if found.isnative else found.newbyteorder("=")


def is_floating(dtype: DType) -> _bool:
    """Whether a dtype is a real floating one, so that a tensor of it can require grad.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.dtypes.is_floating(mg.bfloat16), mg.dtypes.is_floating(mg.int64)
    (True, False)
    """
    return dtype in FLOATING


def isdtype(dtype: Any, kind: Any) -> _bool:
    """Whether a dtype is of a kind (array API standard).

    Parameters
    ----------
    dtype : dtype
        The dtype asked about.
    kind : str or dtype or tuple of them
        ``"bool"``, ``"signed integer"``, ``"unsigned integer"``, ``"integral"``, ``"real floating"``,
        ``"complex floating"``, ``"numeric"``, a dtype, or a tuple: any of them.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        For an unknown kind.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.isdtype(mg.bfloat16, "real floating"), mg.isdtype(mg.int8, ("bool", mg.int8))
    (True, True)
    """
    dtype = as_dtype(dtype, "isdtype")
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return dtype in _KINDS[kind]
    try:
        return _bool(dtype == as_dtype(kind, "isdtype"))
    except DTypeError:
        raise ValueError(message("isdtype", "kind", f"{kind!r}", f"a dtype or one of {', '.join(_KINDS)}")) from None


def finfo(dtype: Any) -> Any:
    """Limits of a floating dtype: bits, eps, max, min, smallest_normal, dtype.

    Parameters
    ----------
    dtype : dtype or Tensor
        A real or complex floating dtype, or a tensor of one.

    Returns
    -------
    object
        With the attributes named above, Python numbers.

    Raises
    ------
    DTypeError
        If the dtype is not a floating one.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.finfo(mg.bfloat16).eps
    0.0078125
    """
    found = as_dtype(getattr(dtype, "dtype", dtype), "finfo")
    if found not in FLOATING | COMPLEX:
        raise DTypeError(message("finfo", "dtype", str(found), "a floating dtype", "For integers ask mg.iinfo"))
    info: Any = ml_dtypes.finfo(found) if found == bfloat16 else np.finfo(found)  # type: ignore[no-untyped-call]
    real = np.dtype(info.dtype)
    return _Info(
        real.itemsize * 8, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal), real
    )


def iinfo(dtype: Any) -> Any:
    """Limits of an integer dtype: bits, max, min, dtype.

    Parameters
    ----------
    dtype : dtype or Tensor
        An integer dtype, or a tensor of one.

    Returns
    -------
    numpy.iinfo

    Raises
    ------
    DTypeError
        If the dtype is not an integer one.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.iinfo(mg.int8).max
    127
    """
    found = as_dtype(getattr(dtype, "dtype", dtype), "iinfo")
    if found not in INTEGER:
        raise DTypeError(message("iinfo", "dtype", str(found), "an integer dtype", "For floats ask mg.finfo"))
    return np.iinfo(found)


class _Info:
    """What `finfo` answers."""

    __slots__ = ("bits", "dtype", "eps", "max", "min", "smallest_normal")

    def __init__(self, bits: int, eps: float, top: float, bottom: float, normal: float, dtype: DType) -> None:
        self.bits, self.eps, self.max, self.min, self.smallest_normal, self.dtype = (
            bits,
            eps,
            top,
            bottom,
            normal,
            dtype,
        )

    def __repr__(self) -> str:
        return f"finfo({self.dtype}: bits={self.bits}, eps={self.eps}, max={self.max})"


def promote(dtypes: list[DType], weak: list[Any] = [], op: str = "result_type") -> DType:  # noqa: B006
    """The dtype in which dtypes and weak Python numbers meet, by the rules at the top of this module.

    Parameters
    ----------
    dtypes : list of dtype
        Of the arrays.
    weak : list of Python numbers
        Numbers without a dtype of their own.
    op : str, optional
        Who asks, for the error.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    DTypeError
        For uint64 with a signed integer, which no integer dtype can hold.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.dtypes.promote([mg.int64, mg.float16]), mg.dtypes.promote([mg.int64], [0.5])
    (dtype('float16'), dtype('float32'))
    """
    wanted: DType | None = None
    for dtype in dtypes:
        wanted = dtype if wanted is None or wanted == dtype else _pair(wanted, dtype, op)
    for value in weak:
        if isinstance(value, _bool):
            own = bool
        elif isinstance(value, int):
            own = int64 if wanted is None or wanted == bool else wanted
        elif isinstance(value, float):
            own = default_float if wanted is None or wanted.kind in "biu" else wanted
        elif wanted is None or wanted.kind in "biu" or wanted in HALF or wanted == float32:
            own = complex64
        else:
            own = complex128 if wanted == float64 else wanted
        wanted = own if wanted is None or own == wanted else _pair(wanted, own, op)
    assert wanted is not None
    return wanted


def _pair(a: DType, b: DType, op: str) -> DType:
    """Promote two different dtypes."""
    if {a, b} == {float16, bfloat16}:
        return float32
    exact = BOOL | INTEGER
    if a in exact and b in exact:
        found = np.promote_types(a, b)
        if found not in exact:
            raise DTypeError(
                message(op, "dtypes", f"{a} and {b}", "integers that fit one dtype", "Cast one with t.astype(mg.int64)")
            )
        return found
    if a in exact or b in exact:
        return b if a in exact else a
    if a in HALF or b in HALF:
        wide = b if a in HALF else a
        return wide
    return np.promote_types(a, b)

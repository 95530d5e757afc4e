"""Conversion: tensors from array-likes, and casts."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import dispatch, tape
from minigrad._core.cpu import Kernel
from minigrad.backend import devices
from minigrad.errors import DTypeError, GradError, ShapeError, describe, message
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["asarray", "astype", "convert", "copy", "from_dlpack", "new", "tensor", "to_array", "to_device"]

CUDA = (2, 13)  # the kinds of devices of DLPack that CUDA reaches: its own memory, and managed


def to_array(value: Any, dtype: Any = None, *, who: str, copy: bool | None = None) -> Any:
    """An array of a dtype that minigrad has from any array-like: nested lists, arrays, numbers, DLPack.

    Python floats become float32, whatever NumPy thinks of them; arrays keep their dtype.
    """
    wanted = None if dtype is None else dtypes.as_dtype(dtype, who)
    array = value if devices.is_foreign(value) else _read(value, wanted, who)
    native = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    if native not in dtypes.ALL:
        if array.dtype == object:
            hint = "Convert the elements first: np.array(data, dtype=float)"
            raise DTypeError(message(who, "data", "an object array", "numbers or bools", hint))
        raise DTypeError(message(who, "data", f"dtype {array.dtype}", "numbers or bools"))
    lends = isinstance(value, memoryview) or hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    if copy is False and not lends:
        need = f"True or None, since a {type(value).__name__} has no memory to share"
        raise ValueError(message(who, "copy", "False", need))
    if wanted is None:
        wanted = _default(native, typed=lends or _typed(value), who=who)
    if array.dtype != wanted:
        if copy is False:
            raise _cast_needed(who, array.dtype, wanted)
        _check_cast(array.dtype, wanted, who)
        with np.errstate(all="ignore"):
            return dispatch.recast(array, wanted)
    return array.copy(order="K") if copy else array


def _read(value: Any, wanted: dtypes.DType | None, who: str) -> np.ndarray[Any, Any]:
    """What NumPy makes of a value; Python integers that `wanted` cannot hold raise instead of wrapping."""
    if isinstance(value, np.ndarray):
        return np.asarray(_plain(value, who))
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    plain = _plain(value, who)
    exact = wanted if wanted in dtypes.INTEGER and not _typed(value) else None
    try:
        found = np.asarray(plain)
        if (
            exact is not None
            and found.dtype == dtypes.float64
            and all(type(v) is int for v in np.asarray(plain, object).flat)
        ):
            return np.asarray(plain, exact)  # integers on both sides of 2**63, which NumPy would make floats
        return np.asarray(plain, exact) if exact is not None and found.dtype in dtypes.INTEGER else found
    except OverflowError as overflow:
        raise OverflowError(message(who, "data", str(overflow), "a wider dtype")) from None
    except ValueError as error:
        raise ShapeError(message(who, "data", "a ragged nested sequence", "rows of equal length", str(error))) from None


def _default(found: dtypes.DType, *, typed: bool, who: str) -> dtypes.DType:
    """The dtype of a tensor when none was asked for: the array's own, and minigrad's defaults for Python numbers."""
    if typed:
        return found
    if found == dtypes.uint64:
        got = "an integer beyond int64"
        raise OverflowError(message(who, "data", got, "integers that fit int64", "Pass dtype=mg.uint64"))
    return {dtypes.float64: dtypes.default_float, dtypes.complex128: dtypes.complex64}.get(found, found)


def _cast_needed(who: str, own: dtypes.DType, wanted: dtypes.DType) -> ValueError:
    """The error of ``copy=False`` where the dtype is another one."""
    return ValueError(message(who, "copy", "False", f"True or None, since {own} has to be cast to {wanted}"))


def _check_cast(own: dtypes.DType, wanted: dtypes.DType, who: str) -> None:
    """Refuse to drop imaginary parts."""
    if own in dtypes.COMPLEX and wanted not in dtypes.COMPLEX | dtypes.BOOL:
        hint = "Take mg.real(x) or mg.abs(x) first"
        raise DTypeError(message(who, "dtype", f"{wanted} for {own} values", "a complex dtype", hint))


def _plain(value: Any, who: str) -> Any:
    """Nested sequences that hold tensors, with arrays in their place; a masked array would lose its mask."""
    if isinstance(value, tape.TensorBase):
        if value.requires_grad:
            raise GradError(
                "tensor: data holds a tensor that requires grad, and the graph would be lost. Use mg.stack([...]) to "
                "keep it, or t.detach() to drop it"
            )
        return value._array
    if isinstance(value, (list, tuple)):
        return [_plain(v, who) for v in value]
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray and np.any(getattr(value, "mask", False)):
        hint = "Fill the masked elements first: a.filled(0)"
        raise DTypeError(message(who, "data", "a masked array", "an array whose elements are all there", hint))
    return value


def _typed(value: Any) -> bool:
    """Whether a value brings a dtype of its own along (arrays, also inside lists), as Python numbers do not."""
    while isinstance(value, (list, tuple)):
        if not value:
            return False
        value = value[0]
    return hasattr(value, "dtype") or hasattr(value, "__array__") or isinstance(value, memoryview)


def as_number(who: str, name: str, value: Any, kinds: tuple[type, ...] = (int, float, complex)) -> Any:
    """A Python number from a number, or from an array or tensor without axes."""
    if isinstance(value, tape.TensorBase) and value.requires_grad:
        need = "a number; the graph would be lost"
        raise GradError(message(who, name, "a tensor that requires grad", need, "Call detach() on it"))
    found = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(found, kinds):
        got = f"the type {value.__name__}" if isinstance(value, type) else describe(value)
        raise DTypeError(message(who, name, got, "a number"))
    return found


def as_finite(who: str, name: str, value: Any) -> float:
    """A finite float."""
    found = float(as_number(who, name, value, (int, float)))
    if not math.isfinite(found):
        raise ValueError(message(who, name, found, "a finite number"))
    return found


def as_index(who: str, name: str, value: Any) -> int:
    """An int from anything that is one."""
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(message(who, name, value, "an int")) from None


def new(array: Any, *, requires_grad: bool = False, device: Any = None, who: str = "tensor") -> Tensor:
    """Wrap an array as a leaf; NumPy's goes to the default device where none is given."""
    if device is not None:
        array = devices.move(array, device, who)
    elif type(array) is np.ndarray and devices.default_device() != "cpu":
        array = devices.move(array, None, who)
    if requires_grad and array.dtype not in dtypes.FLOATING:
        got = f"True for a {array.dtype} tensor"
        raise GradError(message(who, "requires_grad", got, "a floating dtype", "Cast with dtype=mg.float32"))
    return tape.new_tensor(array, requires_grad)  # type: ignore[no-any-return]


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`.

    Parameters
    ----------
    data : array_like
        Numbers, nested sequences, NumPy arrays, tensors. Python floats become float32; arrays keep their dtype.
    dtype : dtype, optional
        The dtype to cast to.
    device : str, optional
        Where the tensor lives.
    requires_grad : bool
        Record operations on it.

    Returns
    -------
    Tensor
        A leaf.

    Raises
    ------
    ShapeError
        For nested sequences of unequal lengths.
    DTypeError
        For objects and strings.
    GradError
        If an integer tensor shall require grad.
    OverflowError
        For Python integers that the dtype cannot hold.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.tensor([[1.0, 2.0]], requires_grad=True)
    tensor([[1., 2.]], requires_grad=True)
    """
    if isinstance(data, tape.TensorBase):
        data = data._array
    return new(to_array(data, dtype, who="tensor", copy=True), requires_grad=requires_grad, device=device)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on `obj`, without a copy where that is possible; a tensor comes back as it is.

    Parameters
    ----------
    obj : array_like
        Numbers, nested sequences, NumPy arrays, tensors, objects with ``__dlpack__``.
    dtype : dtype, optional
        The dtype to cast to.
    device : str, optional
        Where the tensor lives.
    copy : bool, optional
        True always copies, False raises where a copy is needed.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If `copy` is False and a copy is needed.

    Examples
    --------
    >>> import numpy as np, minigrad as mg
    >>> a = np.zeros(2)
    >>> t = mg.asarray(a)
    >>> a[0] = 1.0
    >>> t
    tensor([1., 0.], dtype=float64)
    """
    if isinstance(obj, tape.TensorBase):
        wanted = obj.dtype if dtype is None else dtypes.as_dtype(dtype, "asarray")
        if copy is False and wanted != obj.dtype:
            raise _cast_needed("asarray", obj.dtype, wanted)
        moved = obj if device is None else _moved(obj, device, "asarray")
        return astype(moved, wanted, copy=bool(copy))  # type: ignore[arg-type]
    return new(to_array(obj, dtype, who="asarray", copy=copy), device=device, who="asarray")


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of an array of another library, by the DLPack protocol.

    Parameters
    ----------
    x : object
        With ``__dlpack__`` and ``__dlpack_device__``: arrays of NumPy, PyTorch, JAX, CuPy.
    device : str, optional
        Where the tensor lives.
    copy : bool, optional
        True always copies, False raises where a copy is needed.

    Returns
    -------
    Tensor
        A leaf that shares its memory with `x` unless it was copied.

    Raises
    ------
    DTypeError
        If `x` does not speak DLPack.
    BufferError
        If the memory of `x` cannot be shared: another device, or a dtype that DLPack or NumPy lacks.

    Examples
    --------
    >>> import numpy as np, minigrad as mg
    >>> mg.from_dlpack(np.arange(3))
    tensor([0, 1, 2])
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        hint = "mg.asarray takes anything array-like"
        raise DTypeError(message("from_dlpack", "x", x, "an array with __dlpack__", hint))
    backend, _ = devices.backend_of("cuda" if x.__dlpack_device__()[0] in CUDA else "cpu", "from_dlpack")
    try:
        array = backend.namespace.from_dlpack(x)
    except (BufferError, RuntimeError) as error:
        need = f"memory of a dtype that {backend.array_type.__module__} has"
        raise BufferError(message("from_dlpack", "x", x, need, str(error))) from None
    return new(to_array(array, who="from_dlpack", copy=copy), device=device, who="from_dlpack")


def convert(op: Any, argument: str, value: Any) -> Tensor:
    """What the dispatcher calls for an operand that is neither a tensor nor a Python number."""
    return as_operand(op.name, argument, value)


def check_operand(who: str, argument: str, value: Any) -> None:
    """Refuse what is no array and no number."""
    if not isinstance(value, (np.ndarray, list, tuple, int, float, complex)) and not hasattr(value, "__array__"):
        raise DTypeError(message(who, argument, value, "a tensor, an array or a number"))


def as_operand(who: str, argument: str, value: Any) -> Tensor:
    """A tensor from an operand of any kind."""
    if isinstance(value, tape.TensorBase):
        return value  # type: ignore[return-value]
    check_operand(who, argument, value)
    if isinstance(value, np.generic):
        value = value.item()  # NumPy's scalars are as weak as Python's
    return tape.new_tensor(to_array(value, who=who))  # type: ignore[no-any-return]


@op(dtype=keep, amp="keep")
def _to_device(xp: Any, x: Array, /, device: str, source: str) -> Array:
    if isinstance(x, tape.TensorBase):
        return _moved(x, device, "to")
    moved = devices.move(x, device, "to")
    return x.copy() if moved is x else moved


_to_device.vjp(0)(lambda xp, g, *, device, source: _to_device.body(xp, g, source, device))
_to_device.samples(case((2, 3), device="cpu", source="cpu"), case((), device="cpu", source="cpu"))


def to_device(x: Tensor, device: Any) -> Tensor:
    """The tensor on a device; itself where it lies there. The graph runs through it.

    Parameters
    ----------
    x : Tensor
        Any shape.
    device : str
        ``"cpu"``, ``"cuda"`` (the current GPU), ``"cuda:1"``.

    Returns
    -------
    Tensor

    Raises
    ------
    DeviceError
        If there is no such device, or CuPy or a driver is missing.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.ones(2)
    >>> x.to("cpu") is x
    True
    """
    return _moved(x, device, "to")


def _moved(x: Any, device: Any, who: str) -> Tensor:
    _, name = devices.backend_of(device, who)
    return x if x.device == name else _to_device(x, device=name, source=x.device)


@op(dtype=keep.but(same=False), view=True, needs="a dtype that it can be cast to")
def _astype(xp: Any, x: Array, /, dtype: Any, copy: bool) -> Array:
    _check_cast(x.dtype, dtype, "astype")
    return x.astype(dtype, copy=copy)


_astype.vjp(0)(lambda xp, g, x_dtype: xp.astype(g, x_dtype))
_astype.samples(
    case((2, 3), dtype=dtypes.float32, copy=True),
    case((3,), dtype=dtypes.float64, copy=False),
    case(A((3,), kind="int"), dtype=dtypes.float64, copy=True),
    case(A((2, 2)), dtype=dtypes.bool, copy=True),
    case((0, 3), dtype=dtypes.float32, copy=True),
    error(DTypeError, "a complex dtype", np.ones(2, np.complex64), dtype=dtypes.float32, copy=True),
)
_astype.kernel("cpu", dtypes.float32, *dtypes.HALF)(Kernel("halves", "astype"))
_astype.kernel("cpu", dtypes.float32, *dtypes.HALF, vjp=0)(Kernel("halves", "astype_vjp"))


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """Cast to another dtype; the gradient is cast back.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype.
    dtype : dtype
        The wanted dtype.
    copy : bool
        Also copy where the dtype is right already.
    device : str, optional
        Where the result lives.

    Returns
    -------
    Tensor

    Raises
    ------
    DTypeError
        If a complex tensor would lose its imaginary part.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.astype(mg.tensor([1.7]), mg.int64)
    tensor([1])
    """
    if device is not None:
        x = _moved(x, device, "astype")
    wanted = dtypes.as_dtype(dtype, "astype")
    if not copy and isinstance(x, tape.TensorBase) and x.dtype == wanted:  # type: ignore[redundant-expr]
        return x
    return _astype(x, wanted, copy)


def copy(x: Tensor, /) -> Tensor:
    """A copy in memory of its own; the graph runs through it.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.copy(mg.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    return asarray(x, copy=True)

"""Tensor: the user's object. Its methods are a line or two each and call ops, `inplace`, or `autograd`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self, TypeAlias

import numpy as np

from minigrad import inplace, ops, protocols
from minigrad._core import arrays, dispatch, engine, tape
from minigrad.backend import devices, rows
from minigrad.dtypes import FLOATING
from minigrad.errors import DeviceError, GradError, ShapeError, describe, message
from minigrad.ops import conversion, registry
from minigrad.ops.indexing import At

__all__ = ["Tensor", "TensorLike"]

Shape: TypeAlias = tuple[int, ...]
Axis: TypeAlias = int | tuple[int, ...] | None


class Tensor(dispatch.Operators):
    """An array that remembers how it was made, so that it can be differentiated.

    Make one with `minigrad.tensor` (copies) or `minigrad.asarray` (shares memory where it can).

    Attributes
    ----------
    shape : tuple of int
        Extents along each axis.
    dtype : numpy.dtype
        Element type.
    ndim, size : int
        Number of axes, number of elements.
    requires_grad : bool
        Whether operations on it are recorded. May be set on a leaf.
    grad : Tensor or None
        The gradient that `backward` accumulated.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Tensor: got a call of the class, needs mg.tensor(data), which copies, or mg.asarray(data)")

    __hash__ = object.__hash__  # by identity, so that tensors may be keys; == compares elements
    __array_priority__ = 1000

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded; may be set on a leaf."""
        return self._leaf or self._node is not None

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        if self._node is not None:
            if not on:
                raise GradError(
                    "requires_grad: only a leaf can be switched off. Call t.detach() for a tensor outside the graph"
                )
            return
        if on and self.dtype not in FLOATING:
            raise GradError(
                message(
                    "requires_grad",
                    None,
                    f"True for a {self.dtype} tensor",
                    "a floating dtype",
                    "Cast with t.astype(mg.float32)",
                )
            )
        self._leaf = bool(on)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor itself."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` accumulated; set it to None to start afresh."""
        return self._grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise GradError(message("grad", None, value, "a Tensor or None"))
            if value.shape != self.shape or value.dtype != self.dtype:
                raise GradError(
                    message("grad", None, describe(value), f"{describe(self)} like the tensor it belongs to")
                )
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def device(self) -> str:
        """Where the memory is: ``"cpu"``, or ``"cuda:0"`` and so on."""
        return engine.device_of(self)

    @property
    def T(self) -> Tensor:
        """The matrix transposed."""
        if self.ndim != 2:
            raise ShapeError(
                message("T", "x", self, "a matrix", "For stacks of matrices use t.mT, for other axes t.transpose(axes)")
            )
        return ops.permute_dims(self, (1, 0))

    @property
    def mT(self) -> Tensor:
        """A matrix, or a stack of them, with the last two axes exchanged."""
        return ops.matrix_transpose(self)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * int(self.dtype.itemsize)

    @property
    def grad_fn(self) -> tape.Node | None:
        """The node that recorded how the tensor was made, None for a leaf."""
        return self._node

    @property
    def real(self) -> Tensor:
        """The real part."""
        return ops.real(self)

    @property
    def imag(self) -> Tensor:
        """The imaginary part."""
        return ops.imag(self)

    # --- autograd ---------------------------------------------------------------------------------------------------

    def backward(self, gradient: Any = None, *, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Accumulate the gradient of this tensor into ``.grad`` of every leaf it was made from.

        Parameters
        ----------
        gradient : array_like, optional
            The cotangent of this tensor, of its shape; 1 for a scalar.
        retain_graph : bool
            Keep the graph for another backward.
        create_graph : bool
            Record the backward pass, so that gradients can be differentiated.

        Raises
        ------
        GradError
            If the tensor does not require grad, is no scalar and no `gradient` is given, or its graph was freed.

        Examples
        --------
        >>> import minigrad as mg
        >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * 3).backward(mg.tensor([1.0, 10.0]))
        >>> x.grad
        tensor([ 3., 30.])
        """
        engine.backward([self], [gradient], retain_graph or create_graph, create_graph)

    def detach(self) -> Tensor:
        """The same values outside the graph; the memory is shared."""
        return tape.share(self, self._array)  # type: ignore[no-any-return]

    def clone(self) -> Tensor:
        """A copy that stays in the graph."""
        return ops.positive(self)

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is not a leaf in its ``.grad``."""
        engine.retain_grad(self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call `hook` with the complete gradient of this tensor during backward.

        Parameters
        ----------
        hook : callable
            Takes the gradient; what it returns, unless None, takes the gradient's place.

        Returns
        -------
        callable
            Removes the hook.

        Examples
        --------
        >>> import minigrad as mg
        >>> x = mg.tensor(2.0, requires_grad=True)
        >>> remove = x.register_hook(lambda g: g * 10)
        >>> (x * x).backward()
        >>> x.grad
        tensor(40.)
        """
        return engine.register_hook(self, hook)

    def register_post_accumulate_grad_hook(
        self, hook: Callable[[Tensor], Callable[[], None] | None]
    ) -> Callable[[], None]:
        """Call `hook` with this leaf in each backward that reaches it, once all has been added to its ``.grad``.

        Parameters
        ----------
        hook : callable
            Takes the tensor, while backward goes on elsewhere; it may change ``.grad``. What it returns, unless None,
            is called without arguments when backward has ended, equal ones once.

        Returns
        -------
        callable
            Removes the hook.

        Examples
        --------
        >>> import minigrad as mg
        >>> x = mg.tensor(2.0, requires_grad=True)
        >>> remove = x.register_post_accumulate_grad_hook(lambda leaf: print(leaf.grad))
        >>> (x * x + x).backward()
        tensor(5.)
        """
        return engine.register_after(self, hook)

    # --- to NumPy and back ------------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array in the same memory; the tensor must not require grad."""
        if self.requires_grad:
            raise GradError("numpy: the tensor requires grad, and NumPy would lose the graph. Call t.detach().numpy()")
        if self.device != "cpu":
            raise DeviceError(message("numpy", "x", f"a tensor on {self.device}", "one on the CPU", 'Call t.to("cpu")'))
        array: np.ndarray[Any, Any] = engine.to_numpy(self)
        return array

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.size != 1:
            raise ShapeError(message("item", "x", self, "exactly one element", "t.tolist() gives them all"))
        return engine.to_numpy(self).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return engine.to_numpy(self).tolist()

    def astype(self, dtype: Any, *, copy: bool = True) -> Tensor:
        """Cast to another dtype."""
        return ops.astype(self, dtype, copy=copy)

    def to(self, target: Any = None, *, dtype: Any = None, device: Any = None) -> Tensor:
        """The tensor with another dtype or on another device; itself where nothing changes."""
        if isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda"):
            device = target
        elif target is not None:
            dtype = target
        moved = self if device is None else ops.to_device(self, device)
        return moved if dtype is None else ops.astype(moved, dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(
                    message("__array__", "copy", "False", f"True or None to cast {array.dtype} to {dtype}")
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return protocols.ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return protocols.function(function, types, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return protocols.namespace(api_version)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        array = self._array if devices.is_foreign(self._array) and not self.requires_grad else self.numpy()
        return array.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        array = self._array if devices.is_foreign(self._array) else engine.to_numpy(self)
        return array.__dlpack_device__()  # type: ignore[no-any-return]

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """The tensor on a device (array API standard)."""
        return self.to(device=device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise GradError("deepcopy: only leaves can be copied with their history. Call t.detach() or t.clone()")
        copied = self.__reduce__()
        made = copied[0](*(np.array(a, copy=True) if isinstance(a, np.ndarray) else a for a in copied[1]))
        if self.device != "cpu":
            made._array = devices.move(made._array, self.device, "deepcopy")
        memo[id(self)] = made
        if self._grad is not None:
            made._grad = self._grad.detach().clone()
        return made  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._node is not None:
            raise GradError("pickle: only leaves can be pickled. Call t.detach() first")
        return _rebuild, (type(self), engine.to_numpy(self), self._leaf)

    def __copy__(self) -> Tensor:
        if self._node is not None:
            return self.clone()
        made = _rebuild(type(self), self._array, self._leaf)
        tape.join_memory(made, self)
        return made

    # --- Python -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        # "tensor(" is 7 characters; NumPy indents the following lines by as much
        text = (
            np.array2string(engine.to_numpy(self), separator=", ", prefix=" " * 7) if self.size else self._empty_text()
        )
        # what the same text would make again needs no mark
        marks = "" if self.dtype in (np.float32, np.int64, np.bool_) and self.size else f", dtype={self.dtype}"
        if not self.size and self.dtype == np.float32:
            marks = ""
        if self._node is not None:
            marks += f", grad_fn=<{self._node.name}>"
        elif self._leaf:
            marks += ", requires_grad=True"
        return f"tensor({text}{marks})"

    def _empty_text(self) -> str:
        return "[]" if self.ndim == 1 else f"[], shape={self.shape}"

    def __format__(self, spec: str) -> str:
        return (
            format(self.item(), spec)
            if spec and self.size == 1
            else repr(self)
            if not spec
            else format(self.item(), spec)
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len: a tensor with 0 axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("iter: a tensor with 0 axes cannot be iterated over; t.item() is its value")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value: Any) -> bool:
        return bool((engine.to_numpy(self) == np.asarray(value)).any())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(message("bool", "x", self, "exactly one element", "Use t.any() or t.all()"))
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.size != 1 or self.ndim:
            raise TypeError(f"index: got {describe(self)}, needs an integer tensor with 0 axes")
        return int(self.item())

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        inplace.assign(self, index, value)

    def __delitem__(self, index: Any) -> NoReturn:
        raise TypeError("del: the elements of a tensor cannot be deleted; take the others with t[mask]")

    @property
    def at(self) -> At:
        """``t.at[i].set(v)``, ``.add(v)`` and so on: a new tensor with some elements changed, differentiable."""
        return At(self)

    # --- operators whose cost does not count (the others are C slots of the base) -----------------------------------

    def __pos__(self) -> Tensor:
        return ops.positive(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __invert__(self) -> Tensor:
        return ops.bitwise_invert(self)

    def __round__(self, ndigits: int | None = None) -> Any:
        return ops.round(self) if not ndigits else ops.round(self, ndigits)

    def __pow__(self, other: Any) -> Tensor:
        return ops.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return ops.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return ops.remainder(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return ops.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return ops.floor_divide(other, self)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return ops.floor_divide(self, other), ops.remainder(self, other)

    def __and__(self, other: Any) -> Tensor:
        return ops.bitwise_and(self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Tensor:
        return ops.bitwise_or(self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> Tensor:
        return ops.bitwise_xor(self, other)

    __rxor__ = __xor__

    def __lshift__(self, other: Any) -> Tensor:
        return ops.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return ops.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> Tensor:
        return ops.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return ops.bitwise_right_shift(other, self)

    def __eq__(self, other: object) -> Any:
        return ops.equal(self, other) if comparable(other) else NotImplemented

    def __ne__(self, other: object) -> Any:
        return ops.not_equal(self, other) if comparable(other) else NotImplemented

    def __lt__(self, other: Any) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.greater_equal(self, other)

    # --- in place ---------------------------------------------------------------------------------------------------

    def __iadd__(self, other: Any) -> Self:
        return inplace.update(self, ops.add, other)

    def __isub__(self, other: Any) -> Self:
        return inplace.update(self, ops.subtract, other)

    def __imul__(self, other: Any) -> Self:
        return inplace.update(self, ops.multiply, other)

    def __itruediv__(self, other: Any) -> Self:
        return inplace.update(self, ops.divide, other)

    def __ifloordiv__(self, other: Any) -> Self:
        return inplace.update(self, ops.floor_divide, other)

    def __imod__(self, other: Any) -> Self:
        return inplace.update(self, ops.remainder, other)

    def __ipow__(self, other: Any) -> Self:
        return inplace.update(self, ops.pow, other)

    def __iand__(self, other: Any) -> Self:
        return inplace.update(self, ops.bitwise_and, other)

    def __ior__(self, other: Any) -> Self:
        return inplace.update(self, ops.bitwise_or, other)

    def __ixor__(self, other: Any) -> Self:
        return inplace.update(self, ops.bitwise_xor, other)

    def __ilshift__(self, other: Any) -> Self:
        return inplace.update(self, ops.bitwise_left_shift, other)

    def __irshift__(self, other: Any) -> Self:
        return inplace.update(self, ops.bitwise_right_shift, other)

    # --- ops as methods, by NumPy's names ---------------------------------------------------------------------------

    def sum(self, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.sum`."""
        return ops.sum(self, axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.mean`."""
        return ops.mean(self if dtype is None else ops.astype(self, dtype), axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.prod`."""
        return ops.prod(self, axis, dtype=dtype, keepdims=keepdims)

    def var(self, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """See `minigrad.var`."""
        return ops.var(self, axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """See `minigrad.std`."""
        return ops.std(self, axis, correction=correction, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.max`."""
        return ops.max(self, axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.min`."""
        return ops.min(self, axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.argmax`."""
        return ops.argmax(self, axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.argmin`."""
        return ops.argmin(self, axis, keepdims=keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.any`."""
        return ops.any(self, axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See `minigrad.all`."""
        return ops.all(self, axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Tensor:
        """See `minigrad.cumulative_sum`; without an axis, over the flattened tensor."""
        return ops.cumulative_sum(ops.reshape(self, -1) if axis is None else self, axis=0 if axis is None else axis)

    def cumprod(self, axis: int | None = None) -> Tensor:
        """See `minigrad.cumulative_prod`; without an axis, over the flattened tensor."""
        return ops.cumulative_prod(ops.reshape(self, -1) if axis is None else self, axis=0 if axis is None else axis)

    def sort(self, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor:
        """See `minigrad.sort`. A new tensor: values in a graph are immutable."""
        return ops.sort(self, axis=axis, descending=descending, stable=stable)

    def argsort(self, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor:
        """See `minigrad.argsort`."""
        return ops.argsort(self, axis=axis, descending=descending, stable=stable)

    def reshape(self, *shape: Any) -> Tensor:
        """See `minigrad.reshape`; the extents may be given one by one."""
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    def flatten(self) -> Tensor:
        """All elements in one axis."""
        return ops.reshape(self, -1)

    ravel = flatten

    def transpose(self, *axes: Any) -> Tensor:
        """Reorder the axes as NumPy does: reversed, or as given."""
        order = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))) else axes
        return ops.permute_dims(self, tuple(order) if order else tuple(range(self.ndim))[::-1])

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """Exchange two axes."""
        return ops.swapaxes(self, axis1, axis2)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Drop axes of extent 1: all of them, or those given."""
        ones = tuple(i for i, n in enumerate(self.shape) if n == 1)
        return ops.squeeze(self, ones if axis is None else axis)

    def repeat(self, repeats: Any, axis: int | None = None) -> Tensor:
        """See `minigrad.repeat`."""
        return ops.repeat(self, repeats, axis=axis)

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        """See `minigrad.take`."""
        return ops.take(ops.reshape(self, -1) if axis is None else self, ops.asarray(indices), axis=axis or 0)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        """See `minigrad.clip`."""
        return ops.clip(self, min, max)

    def round(self, decimals: int = 0) -> Tensor:
        """See `minigrad.round`."""
        return ops.round(self) if not decimals else ops.round(self * 10.0**decimals) / 10.0**decimals

    def conj(self) -> Tensor:
        """The complex conjugate."""
        return ops.conj(self)

    def dot(self, other: Any) -> Tensor:
        """NumPy's dot: over the last axis, and the second-to-last of `other`."""
        return protocols.FUNCTIONS["dot"](self, other)  # type: ignore[no-any-return]

    def exp(self) -> Tensor:
        """See `minigrad.exp`."""
        return ops.exp(self)

    def log(self) -> Tensor:
        """See `minigrad.log`."""
        return ops.log(self)

    def sqrt(self) -> Tensor:
        """See `minigrad.sqrt`."""
        return ops.sqrt(self)

    def tanh(self) -> Tensor:
        """See `minigrad.tanh`."""
        return ops.tanh(self)

    def sigmoid(self) -> Tensor:
        """See `minigrad.sigmoid`."""
        return ops.sigmoid(self)

    def relu(self) -> Tensor:
        """See `minigrad.relu`."""
        return ops.relu(self)

    def softmax(self, axis: int = -1) -> Tensor:
        """See `minigrad.softmax`."""
        return ops.softmax(self, axis)


TensorLike: TypeAlias = Tensor | np.ndarray[Any, Any] | float | int | bool


def comparable(other: object) -> bool:
    """Whether == means elements; None and strings are simply not equal to a tensor."""
    return isinstance(other, (tape.TensorBase, int, float, complex, np.ndarray, np.generic, list, tuple))


def _rebuild(cls: type[Tensor], array: np.ndarray[Any, Any], requires_grad: bool) -> Tensor:
    """Make a leaf again from what `Tensor.__reduce__` gave."""
    made: Any = cls.__new__(cls)
    made._array, made._leaf = array, requires_grad
    return made  # type: ignore[no-any-return]


tape.bind_tensor(Tensor)
dispatch.bind(ops, conversion.convert, registry.explain, devices.using)
dispatch.bind_operators(registry.REGISTRY)
engine.bind(ops)
arrays.bind_expansion(rows.RowSparse, rows.RowSparse.dense)

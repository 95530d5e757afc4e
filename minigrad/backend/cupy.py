"""The CuPy backend: the array namespace that op bodies see on a GPU. Nothing outside `backend` imports CuPy."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cupy
import cupyx
import numpy as np

from minigrad import dtypes
from minigrad.backend import cuda
from minigrad.backend.cuda import capture, graphs, placed
from minigrad.backend.cuda.transfers import Transfers, transfers
from minigrad.errors import DeviceError, message

__all__ = ["CupyBackend", "backend"]

Array = Any


def from_dlpack(x: Any) -> Array:
    """An array of another library. As a view it is known to lie in memory that others see; CuPy does not say so."""
    return cupy.from_dlpack(x).view()


def getitem(x: Array, index: Any) -> Array:
    """``x[index]``."""
    return x[placed(index)]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); where exp overflows, the result is the right 0."""
    return 1 / (1 + cupy.exp(-x))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return cupy.maximum(x, 0) + cupy.log1p(cupy.exp(-cupy.abs(x)))


def unstack(x: Array, axis: int = 0) -> tuple[Array, ...]:
    """The parts along an axis."""
    return tuple(cupy.moveaxis(x, axis, 0))


def vecdot(x: Array, y: Array, axis: int = -1) -> Array:
    """Scalar products along an axis, conjugate in `x`."""
    return cupy.sum(cupy.conj(x) * y, axis=axis)


def diagonal(x: Array, offset: int = 0) -> Array:
    """That of the matrices in the last two axes."""
    return cupy.diagonal(x, offset, -2, -1)


def repeat(x: Array, repeats: Any, axis: int | None = None) -> Array:
    """Elements or slices in a row, each so many times."""
    return cupy.repeat(x, repeats if isinstance(repeats, int) else repeats.tolist(), axis=axis)


def svdvals(x: Array) -> Array:
    """Singular values."""
    return cupy.linalg.svd(x, compute_uv=False)


def vector_norm(x: Array, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Array:
    """The norm over axes."""
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = tuple(a % x.ndim for a in axes)
    sizes = cupy.abs(x)
    if ord == np.inf:
        return cupy.max(sizes, axis=axes, keepdims=keepdims)
    if ord == -np.inf:
        return cupy.min(sizes, axis=axes, keepdims=keepdims)
    if ord == 0:
        return cupy.sum((sizes != 0).astype(sizes.dtype), axis=axes, keepdims=keepdims)
    return cupy.sum(sizes**ord, axis=axes, keepdims=keepdims) ** (1 / ord)


def argsort(x: Array, axis: int = -1, stable: bool = True) -> Array:
    """The order of elements along an axis; CuPy's sort is always stable."""
    return cupy.argsort(x, axis=axis)


def count_nonzero(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """How many elements are not 0."""
    return cupy.sum(x != 0, axis=axis, keepdims=keepdims)


def solve(a: Array, b: Array) -> Array:
    """``x`` of ``a @ x = b``, of stacks of matrices that broadcast; CuPy's do not."""
    if b.ndim > 1 and a.shape[:-2] != b.shape[:-2]:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (cupy.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
    return cupy.linalg.solve(a, b)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of linear algebra that raises where it fails; CuPy's own default is to return numbers all the same."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with cupyx.errstate(linalg="raise"):
            return function(*args, **kwargs)

    return call


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of CuPy that knows no bfloat16, which float32 holds exactly; it picks or orders elements."""

    def call(*args: Any, **kwargs: Any) -> Any:
        kinds = [getattr(a, "dtype", None) for a in args]
        if dtypes.bfloat16 not in kinds:
            return function(*args, **kwargs)
        wide = (a.astype(np.float32) if kind == dtypes.bfloat16 else a for a, kind in zip(args, kinds, strict=True))
        out = function(*wide, **kwargs)
        if np.float32 in kinds:
            return out
        return tuple(map(narrowed, out)) if isinstance(out, tuple) else narrowed(out)

    return call


def narrowed(x: Array) -> Array:
    """float32 as bfloat16; other dtypes stay."""
    return x.astype(dtypes.bfloat16) if x.dtype == np.float32 else x


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of CuPy that takes NumPy's arrays too, as constants: the places that a body has computed."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(a, np.ndarray) for a in args):
            args = tuple(cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args)
        return function(*args, **kwargs)

    return call


def gpu(name: str) -> Any:
    """The device of a name with a number; as a block it is the current one."""
    return cupy.cuda.Device(int(name.partition(":")[2]))


class CupyBackend:
    """What the dispatcher asks of a backend, as NumPy's has it."""

    name = "cuda"
    array_type = cupy.ndarray
    random = cuda.philox
    current = staticmethod(gpu)
    cast = staticmethod(cuda.cast)

    def __init__(self) -> None:
        names = {name: value for name, value in vars(cupy).items() if not name.startswith("_")}
        linalg = {name: value for name, value in vars(cupy.linalg).items() if not name.startswith("_")}
        from cupyx.scipy.special import erf

        own = {
            "erf": erf,
            "sigmoid": sigmoid,
            "softplus": softplus,
            "keep_mask": cuda.keep_mask,
            "from_dlpack": from_dlpack,
            "matmul": cuda.multiplied,
            "getitem": getitem,
            "index_add": cuda.index_add,
            "index_put": cuda.index_put,
            "index_extremum": cuda.index_extremum,
            "repeat": repeat,
            "unstack": unstack,
            "vecdot": vecdot,
        }
        linalg |= {"diagonal": diagonal, "solve": solve, "svdvals": svdvals, "vector_norm": vector_norm}
        for name in ("cholesky", "eigh", "eigvalsh", "inv", "solve", "svd", "svdvals"):
            linalg[name] = checked(linalg[name])
        constants = {name: on_gpu(names[name]) for name in ("where", "take", "take_along_axis", "equal")}
        names |= {"argsort": argsort, "count_nonzero": count_nonzero} | constants
        for name in ("argpartition", "argsort", "searchsorted", "sort", "tril", "triu", "unique", "where"):
            names[name] = in_float32(names[name])
        self.namespace = SimpleNamespace(**names | own | {"linalg": SimpleNamespace(**linalg)})

    def check(self, who: str, name: str) -> None:
        """Raise DeviceError where there is no GPU that CuPy can use."""
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(message(who, "device", f"{name!r}", f"an NVIDIA GPU and its driver ({error})")) from None
        if not count:
            raise DeviceError(message(who, "device", f"{name!r}", "an NVIDIA GPU; CuPy finds none"))

    def full_name(self, name: str, who: str) -> str:
        """The name with its number; that of ``"cuda"`` is the current device's."""
        number = name.partition(":")[2]
        found = int(number) if number else cupy.cuda.runtime.getDevice()
        count = cupy.cuda.runtime.getDeviceCount()
        if found >= count:
            raise DeviceError(message(who, "device", f"{name!r}", f"a number below {count}, that of the GPUs"))
        return f"cuda:{found}"

    @staticmethod
    def count() -> int:
        """How many GPUs there are."""
        return cupy.cuda.runtime.getDeviceCount()  # type: ignore[no-any-return]

    @staticmethod
    def use(name: str) -> None:
        """Make a device the current one of this thread."""
        gpu(name).use()

    @staticmethod
    def synchronize(name: str) -> None:
        """Wait for a device."""
        gpu(name).synchronize()

    @staticmethod
    def compile_kernels(name: str) -> None:
        """Compile all kernels for a device."""
        from minigrad.backend.cuda import modules

        modules.compile_all(gpu(name).id)

    @staticmethod
    def memory_stats(name: str) -> dict[str, int]:
        """Bytes of the pool and of the device."""
        with gpu(name):
            free, total = cupy.cuda.runtime.memGetInfo()
            pool = cupy.get_default_memory_pool()
            used, held, limit = pool.used_bytes(), pool.total_bytes(), pool.get_limit()
        return {"used": used, "held": held, "limit": limit, "free": free, "total": total}

    @staticmethod
    def empty_cache() -> None:
        """Give back what the pools hold."""
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    @staticmethod
    def limit_memory(size: int | None, fraction: float | None) -> None:
        """Limit the pool of the current device."""
        cupy.get_default_memory_pool().set_limit(size=size, fraction=fraction)

    @staticmethod
    def properties(name: str) -> dict[str, Any]:
        """What a device is."""
        found = cupy.cuda.runtime.getDeviceProperties(gpu(name).id)
        return {
            "name": found["name"].decode(),
            "compute_capability": (found["major"], found["minor"]),
            "multiprocessors": found["multiProcessorCount"],
            "total_memory": found["totalGlobalMem"],
        }

    asked = staticmethod(capture.asked)
    aside = staticmethod(graphs.aside)
    graph = staticmethod(graphs.Graph)
    gradients, optimize = cuda.gradients, cuda.optimize  # what works on many arrays in one launch

    set_item = staticmethod(cuda.set_item)

    @staticmethod
    def at(name: str) -> Any:
        """A block in which a device is the current one."""
        return gpu(name)

    @staticmethod
    def transfers(name: str) -> Transfers:
        """Copies from the CPU to a device, beside its work."""
        return transfers(gpu(name).id)

    @staticmethod
    def stream(name: str, priority: int = 0) -> Any:
        """A stream of a device, which does not wait for the default one."""
        with gpu(name):
            return cupy.cuda.Stream(non_blocking=True, priority=priority)

    @staticmethod
    def current_stream(name: str) -> Any:
        """That of this thread."""
        with gpu(name):
            return cupy.cuda.get_current_stream()

    @staticmethod
    def event(blocking: bool, timing: bool) -> Any:
        """An event."""
        return cupy.cuda.Event(block=blocking, disable_timing=not timing)

    @staticmethod
    def elapsed(start: Any, end: Any) -> float:
        """Milliseconds between two events."""
        return cupy.cuda.get_elapsed_time(start, end)  # type: ignore[no-any-return]

    @staticmethod
    def elsewhere(array: Array) -> Any:
        """A block in which the array's device is the current one; None where it is."""
        return None if array.device.id == cupy.cuda.runtime.getDevice() else array.device

    @staticmethod
    def writeable(array: Array) -> bool:
        """Whether an array may be written to: not where many elements lie in one place."""
        return not array.size or all(n < 2 or step for n, step in zip(array.shape, array.strides, strict=True))

    @staticmethod
    def apart(array: Array, others: list[Any]) -> bool:
        """Whether an array shares no memory with others, by their bounds."""
        return not any(isinstance(x, cupy.ndarray) and cupy.may_share_memory(array, x) for x in others)

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Array:
        """Any array-like as an array of this backend, without a copy where it is one."""
        return cupy.asarray(value, dtype)

    @staticmethod
    def copy(array: Array) -> Array:
        """An own, contiguous copy."""
        return cupy.array(array, order="C", copy=True)

    @staticmethod
    def device(array: Array) -> str:
        """The name of the device that an array lies on."""
        return f"cuda:{array.device.id}"

    @staticmethod
    def place(array: Array, name: str) -> Array:
        """A copy of an array of any backend on a device."""
        with gpu(name):
            return cupy.array(array) if isinstance(array, cupy.ndarray) else cupy.asarray(np.asarray(array))

    @staticmethod
    def to_numpy(array: Array) -> np.ndarray[Any, Any]:
        """A copy of the array on the CPU."""
        return cupy.asnumpy(array)  # type: ignore[no-any-return]


backend = CupyBackend()

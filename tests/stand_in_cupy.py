"""A stand-in for CuPy on machines without a GPU: its arrays are NumPy's inside, and as strict as CuPy's outside.

NumPy's functions refuse them or hand over to this module, they do not mix with NumPy's arrays, results without axes
are arrays, and what CuPy's namespace lacks is missing here too. Two devices are told apart by a number.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import stand_in_cublas
import stand_in_streams
from cuda_on_cpu import compiler

from minigrad._core import special

# public names of NumPy 2.4 that CuPy 14.2 lacks, as far as they are functions on arrays
MISSING = {
    "block", "einsum_path", "emath", "errstate", "frompyfunc", "geomspace", "histogram_bin_edges", "insert", "isnat",
    "ma", "matvec", "nanpercentile", "nanquantile", "ndenumerate", "nditer", "polyder", "polydiv", "polyint", "spacing",
    "test", "unstack", "vecdot", "vecmat",
}  # fmt: skip
MISSING_LINALG = {
    "diagonal", "matrix_norm", "multi_dot", "outer", "svdvals", "tensordot", "test", "trace", "vecdot", "vector_norm",
}  # fmt: skip
CONVERT = {"asarray", "array", "ascontiguousarray", "asfortranarray"}  # take NumPy's arrays
KEPT = (type, np.dtype, int, float, str, type(None), types.ModuleType)


class PerThread(type):
    """What a class of devices knows of the thread that asks."""

    here = threading.local()

    @property
    def current(cls) -> int:
        """The number of the current device."""
        return getattr(PerThread.here, "number", 0)

    @current.setter
    def current(cls, number: int) -> None:
        PerThread.here.number = number


class Device(metaclass=PerThread):
    """A device by its number; as a context it is the current one."""

    attributes: ClassVar = {"MaxSharedMemoryPerBlockOptin": 227 << 10}

    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> None:
        self.before, Device.current = Device.current, self.id

    def __exit__(self, *error: object) -> None:
        Device.current = self.before

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        pass


class Pool:
    """A pool of memory that remembers its limit."""

    limit = 0

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        Pool.limit = int(fraction * 1000) if size is None else size  # type: ignore[operator]

    def get_limit(self) -> int:
        return Pool.limit

    def used_bytes(self) -> int:
        return 10

    def total_bytes(self) -> int:
        return 20

    def free_all_blocks(self) -> None:
        pass


class ndarray:
    """An array that lies elsewhere."""

    __module__ = "cupy"

    def __init__(self, values: Any, number: int | None = None, base: Any = None) -> None:
        self.values, self.device = values, Device(Device.current if number is None else number)
        self.base = base  # not None where it lies in the memory of another array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("values", "device", "ctypes", "data"):
            raise AttributeError(name)
        found = getattr(self.values, name)
        return wrapped(found) if callable(found) else boxed(found) if isinstance(found, np.ndarray) else found

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.values.ctypes.data)

    @property
    def flags(self) -> Any:
        own = self.values.flags
        return types.SimpleNamespace(c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous)

    def __getitem__(self, index: Any) -> ndarray:
        return boxed(self.values[opened(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.values[opened(index)] = opened(value)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or ufunc.__name__ in MISSING:
            return NotImplemented
        return boxed(ufunc(*map(opened, inputs), **{name: opened(value) for name, value in kwargs.items()}))

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        own = getattr(sys.modules["cupy"], function.__name__, None)
        return NotImplemented if own is None else own(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[ndarray]:
        return (boxed(part) for part in self.values)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id


BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")


def operator(name: str) -> Callable[..., Any]:
    """One of Python's operators."""

    def call(self: ndarray, *others: Any) -> Any:
        made = getattr(self.values, name)(*map(opened, others))
        if made is NotImplemented:
            return made
        return self if made is self.values else boxed(made)

    return call


for _name in BINARY:
    for _kind in (f"__{_name}__", f"__r{_name}__", *([] if _name == "matmul" else [f"__i{_name}__"])):
        setattr(ndarray, _kind, operator(_kind))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", operator(f"__{_name}__"))


def opened(value: Any) -> Any:
    """What lies inside; an array of NumPy's with axes is refused, as CuPy does."""
    if isinstance(value, ndarray):
        if value.device.id != Device.current:
            raise ValueError(f"Array device must be same as the current device: {value.device.id}")
        return value.values
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(map(opened, value))
    return value


def boxed(value: Any) -> Any:
    """A result; one without axes is an array too."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value), base=getattr(value, "base", None))
    if isinstance(value, tuple):
        parts = [boxed(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return [boxed(part) for part in value] if isinstance(value, list) else value


def wrapped(function: Callable[..., Any], convert: bool = False) -> Callable[..., Any]:
    """A function of NumPy on what lies inside."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if convert and isinstance(args[0], np.ndarray):
            return boxed(function(args[0].copy("K"), *args[1:], **kwargs))  # from the host
        return boxed(function(*map(opened, args), **{name: opened(value) for name, value in kwargs.items()}))

    if isinstance(function, np.ufunc):
        call.at = lambda x, *rest: function.at(atomic(x), *map(opened, rest))  # type: ignore[attr-defined]
    return call


def atomic(x: Any) -> Any:
    """What lies inside an array of a dtype that CuPy's atomic operations take, maxima and minima among them."""
    if x.dtype not in (np.int32, np.uint32, np.uint64, np.float32, np.float64):
        raise TypeError(f"no atomic operations on {x.dtype}")
    return opened(x)


def namespace(source: Any, missing: set[str]) -> dict[str, Any]:
    """The functions of a module of NumPy."""
    made = {}
    for name, value in vars(source).items():
        if not name.startswith("_") and name not in missing:
            made[name] = value if isinstance(value, KEPT) else wrapped(value, name in CONVERT)
    return made


def narrower(function: Callable[..., Any], allowed: str, refuses: bool = False) -> Callable[..., Any]:
    """A function that takes these keywords alone, and of bfloat16 makes float32, or raises."""
    own = wrapped(partial(function, kind="stable") if "kind" in allowed else function)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not {*kwargs} <= {*allowed.split()}:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument: {sorted(kwargs)}")
        halves = [isinstance(a, ndarray) and a.dtype.name == "bfloat16" for a in args]
        if refuses and any(halves):
            raise NotImplementedError("Sorting arrays with dtype 'bfloat16' is not supported")
        return own(*(a.astype(np.float32) if half else a for a, half in zip(args, halves)), **kwargs)

    return call


# what of CuPy is less than NumPy's: keywords, and whether bfloat16 is refused
NARROWER = {
    "argpartition": ("axis", True), "argsort": ("axis kind", True), "count_nonzero": ("axis", False),
    "searchsorted": ("side sorter", True), "sort": ("axis kind", True), "tril": ("k", False), "triu": ("k", False),
    "unique": ("return_index return_inverse return_counts axis equal_nan", True), "where": ("", False),
}  # fmt: skip


class errstate:
    """``cupyx.errstate`` of linear algebra, whose default is to ignore what goes wrong."""

    linalg = "ignore"

    def __init__(self, linalg: str) -> None:
        self.given = linalg

    def __enter__(self) -> None:
        self.before, errstate.linalg = errstate.linalg, self.given

    def __exit__(self, *error: object) -> None:
        errstate.linalg = self.before


def heedless(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of linear algebra that, unless told otherwise, gives something where it fails."""

    def call(a: Any, *others: Any) -> Any:
        if others and others[0].ndim > 1 and a.shape[:-1] != others[0].shape[:-1]:
            raise ValueError("a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b")
        try:
            return wrapped(function)(a, *others)
        except np.linalg.LinAlgError:
            if errstate.linalg == "raise":
                raise
            return ndarray(np.zeros(others[0].shape if others else a.shape, a.dtype))

    return call


def memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """empty, zeros and their like, of memory whose edges are looked at after a kernel has run."""

    def call(like: Any, dtype: Any = float, **kwargs: Any) -> Any:
        if isinstance(like, ndarray):
            like, dtype = like.shape, like.dtype if dtype in (float, None) else dtype
        values = compiler.guarded(like, dtype)
        if function in (np.zeros, np.zeros_like):
            values[...] = 0
        return ndarray(values.copy("F") if kwargs.get("order") == "F" else values)

    return call


def module(devices: int) -> dict[str, types.ModuleType]:
    """The modules that take CuPy's place."""
    cupy = types.ModuleType("cupy")
    vars(cupy).update(namespace(np, MISSING))
    error = type("CUDARuntimeError", (RuntimeError,), {})

    def count() -> int:
        if not devices:
            raise error("cudaErrorNoDevice: no CUDA-capable device is detected")
        return devices

    properties = {"name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 132, "totalGlobalMem": 1000}
    runtime = types.SimpleNamespace(
        getDeviceCount=count,
        getDevice=lambda: Device.current,
        CUDARuntimeError=error,
        memGetInfo=lambda: (900, 1000),
        getDeviceProperties=lambda number: properties,
    )
    made: dict[str, Any] = {
        "ndarray": ndarray,
        **{name: narrower(getattr(np, name), *how) for name, how in NARROWER.items()},
        **{f.__name__: memory(f) for f in (np.empty, np.empty_like, np.zeros, np.zeros_like)},
        "linalg": types.SimpleNamespace(
            **namespace(np.linalg, MISSING_LINALG)
            | {f.__name__: heedless(f) for f in (np.linalg.cholesky, np.linalg.inv, np.linalg.solve)}
        ),
        "cuda": types.SimpleNamespace(runtime=runtime, Device=Device),
        "asnumpy": lambda x: np.array(x.values),
        "from_dlpack": lambda x: ndarray(x.values if isinstance(x, ndarray) else np.from_dlpack(x)),
        "RawModule": compiler.Module,
        "get_default_memory_pool": Pool,
        "get_default_pinned_memory_pool": Pool,
    }
    vars(cupy).update(made)
    functions = types.ModuleType("cupyx.scipy.special")
    functions.erf = wrapped(special.erf)  # type: ignore[attr-defined]
    names = {"cupy": cupy, "cupyx": types.ModuleType("cupyx"), "cupyx.scipy": types.ModuleType("cupyx.scipy")}
    names["cupyx"].errstate = errstate  # type: ignore[attr-defined]
    names |= {"cupyx.scipy.special": functions} | stand_in_cublas.modules()
    stand_in_streams.install(names, ndarray)
    return names


@contextmanager
def installed(devices: int = 2) -> Iterator[None]:
    """Let ``import cupy`` find the stand-in in the block."""
    from minigrad import backend
    from minigrad.backend import devices as known

    taken = [name for name in sys.modules if name.startswith(("minigrad.backend.cupy", "minigrad.backend.cuda"))]
    assert not taken, "the backend of CuPy is there already"
    sys.modules.update(module(devices))
    try:
        yield
    finally:
        for name in [*sys.modules]:
            if name.startswith(("minigrad.backend.cupy", "minigrad.backend.cuda", "cupy", "cuda.")) or name == "cuda":
                del sys.modules[name]
        for name in ("cupy", "cuda"):
            vars(backend).pop(name, None)
        known._backends.pop(ndarray, None)

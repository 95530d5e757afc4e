"""Devices: their names, and the backend whose arrays lie there. A GPU's is made when it is first asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from minigrad._core import dispatch, engine
from minigrad.backend import numpy, rows
from minigrad.errors import DeviceError, describe, message

__all__ = [
    "add_backend", "backend_of", "check_current", "choose_gpu", "default_device", "is_foreign", "kernels_of", "move",
    "of_array", "set_item", "to_numpy", "using", "writeable",
]  # fmt: skip

Array = Any
NAME = re.compile(r"cpu|cuda(:\d+)?")

_backends: dict[type, Any] = {}  # by the type of their arrays
_default: ContextVar[str] = ContextVar("device", default="cpu")
_first = 0  # the GPU that "cuda" stands for at first, where there are as many


def add_backend(backend: Any) -> None:
    """Make a backend known to the core."""
    _backends[backend.array_type] = backend
    engine.bind_backend(backend)
    if backend is not rows.backend:  # ops see the full array
        dispatch.bind_backend(backend)


def default_device() -> str:
    """Where tensors are made that are not told where."""
    return _default.get()


@contextmanager
def using(device: str, current: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Make tensors on a device in the block: what the rules of a graph make lies where the graph does.

    `current` is a block that makes the device the current one, where it is another.
    """
    token = _default.set(device)
    try:
        with current or nullcontext():
            yield
    finally:
        _default.reset(token)


def backend_of(device: Any, who: str) -> tuple[Any, str]:
    """The backend of a device, and the full name of the device; None is the default.

    Raises
    ------
    DeviceError
        If there is no such device, or what it needs is not installed.
    """
    name = _default.get() if device is None else device
    if name == "cpu":
        return numpy.backend, name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DeviceError(message(who, "device", describe(device), "'cpu', 'cuda', or 'cuda:0' and so on"))
    cuda = _cuda(who, name)
    return cuda, cuda.full_name(name, who)


def _cuda(who: str, name: str) -> Any:
    try:
        from minigrad.backend import cupy
    except ImportError as error:
        got, hint = f"{name!r}, and {error}", "Install it with: pip install 'minigrad[gpu]'"
        raise DeviceError(message(who, "device", got, "CuPy", hint)) from None
    if cupy.backend.array_type not in _backends:
        cupy.backend.check(who, name)
        add_backend(cupy.backend)
        if _first:
            choose_gpu(_first)
    return cupy.backend


def choose_gpu(number: int) -> None:
    """Let ``"cuda"`` stand for GPU ``number % count`` from now on, as each rank of a machine does with its own."""
    global _first
    _first = number
    for backend in _backends.values():
        if backend.name == "cuda":
            backend.use(f"cuda:{number % backend.count()}")


def of_array(array: Array) -> Any:
    """The backend of an array; NumPy's for the subclasses of its own."""
    return _backends.get(type(array), numpy.backend)


def check_current(who: str, array: Array) -> None:
    """Raise where an array lies on another GPU than the current one."""
    backend = of_array(array)
    if backend.elsewhere(array) is not None:
        need, hint = f"one on {backend.full_name('cuda', who)}, the current GPU", "See mg.cuda.set_device"
        raise DeviceError(message(who, "x", f"an array on {backend.device(array)}", need, hint))


def is_foreign(value: Any) -> bool:
    """Whether a value is an array of a backend other than NumPy's."""
    if type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "dtype"):
        _cuda("asarray", "cuda")
        return type(value) in _backends
    return False


def kernels_of(array: Array, work: str) -> Any:
    """The module of kernels for a kind of work on such arrays, ``"optimize"`` or ``"gradients"``; None without one.

    Kernels that are switched off are none.
    """
    if type(array) is numpy.backend.array_type or not dispatch.kernels_on():
        return None
    return getattr(_backends.get(type(array)), work, None)


def set_item(array: Array, index: Any, values: Array) -> None:
    """``array[index] = values``."""
    if type(array) is not numpy.backend.array_type and is_foreign(array):
        _backends[type(array)].set_item(array, index, values)
    else:
        array[index] = values


def to_numpy(array: Array) -> Any:
    """The values of an array as one of NumPy's: itself, where it is that, else a copy on the CPU."""
    return _backends[type(array)].to_numpy(array)


def writeable(array: Array) -> bool:
    """Whether an array may be written to: its flags say so, or the backend where they do not."""
    flags = array.flags
    return bool(flags.writeable if hasattr(flags, "writeable") else _backends[type(array)].writeable(array))


def move(array: Array, device: Any, who: str) -> Array:
    """An array on a device; itself where it lies there."""
    backend, name = backend_of(device, who)
    source = _backends[type(array)]
    if source.device(array) == name:
        return array
    return source.to_numpy(array) if backend is numpy.backend else backend.place(array, name)


for _backend in (numpy.backend, rows.backend):
    add_backend(_backend)

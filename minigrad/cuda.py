"""GPUs: which there are, their memory, and waiting for them: ``mg.cuda.is_available()``."""

from __future__ import annotations

from typing import Any

from minigrad.backend import devices
from minigrad.backend.precision import get_matmul_precision, set_matmul_precision
from minigrad.errors import DeviceError, message

__all__ = [
    "current_device", "device_count", "empty_cache", "get_device_properties", "get_matmul_precision", "is_available",
    "memory_stats", "set_device", "set_matmul_precision", "set_memory_limit", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """Whether CuPy is installed and finds an NVIDIA GPU with its driver.

    Examples
    --------
    >>> import minigrad as mg
    >>> device = "cuda" if mg.cuda.is_available() else "cpu"
    """
    return device_count() > 0


def device_count() -> int:
    """How many GPUs there are; 0 without CuPy or a driver.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.cuda.device_count() >= 0
    True
    """
    try:
        found: int = _backend("device_count").count()
    except DeviceError:
        return 0
    return found


def current_device() -> str:
    """What ``"cuda"`` stands for in this thread, such as ``"cuda:0"``.

    Raises
    ------
    DeviceError
        If there is no GPU.
    """
    return devices.backend_of("cuda", "current_device")[1]


def set_device(device: str | int) -> None:
    """Let ``"cuda"`` stand for a GPU in this thread, as each of several processes does with its own.

    Parameters
    ----------
    device : str or int
        ``"cuda:1"``, or its number.

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    name = f"cuda:{device}" if isinstance(device, int) else device
    if name == "cpu":
        raise DeviceError(message("set_device", "device", "'cpu'", "a GPU, such as 'cuda:0'"))
    backend, name = devices.backend_of(name, "set_device")
    backend.use(name)


def synchronize(device: str | None = None) -> None:
    """Wait until a GPU, by default the current one, has done all it was told: before a clock is read.

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    backend, name = devices.backend_of("cuda" if device is None else device, "synchronize")
    backend.synchronize(name)


def memory_stats(device: str | None = None) -> dict[str, int]:
    """Bytes of a GPU, by default the current one.

    Returns
    -------
    dict of str to int
        ``"used"`` by arrays; ``"held"`` by the pool, which keeps what arrays give back; ``"limit"`` of the pool, 0 for
        none; ``"free"`` and ``"total"`` of the whole device.

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    backend, name = devices.backend_of("cuda" if device is None else device, "memory_stats")
    found: dict[str, int] = backend.memory_stats(name)
    return found


def empty_cache() -> None:
    """Give the memory that the pool holds and no array uses back to the system.

    Raises
    ------
    DeviceError
        If there is no GPU.
    """
    _backend("empty_cache").empty_cache()


def set_memory_limit(size: int | None = None, fraction: float | None = None) -> None:
    """Limit the pool of the current GPU; an array beyond it raises MemoryError.

    Parameters
    ----------
    size : int, optional
        Bytes; 0 lifts the limit.
    fraction : float, optional
        In its place: the share of the device's memory, 0 to 1.

    Raises
    ------
    DeviceError
        If there is no GPU.
    ValueError
        If both or none are given, or out of range.
    """
    if (size is None) == (fraction is None):
        raise ValueError(message("set_memory_limit", "size, fraction", (size, fraction), "one of them"))
    if size is not None and size < 0:
        raise ValueError(message("set_memory_limit", "size", size, "a number of bytes of at least 0"))
    if fraction is not None and not 0 <= fraction <= 1:
        raise ValueError(message("set_memory_limit", "fraction", fraction, "a number from 0 to 1"))
    _backend("set_memory_limit").limit_memory(size, fraction)


def get_device_properties(device: str | None = None) -> dict[str, Any]:
    """Name, compute capability, multiprocessors and memory of a GPU, by default the current one.

    Returns
    -------
    dict of str
        ``"name"``, ``"compute_capability"`` (major, minor), ``"multiprocessors"``, ``"total_memory"`` (bytes).

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    backend, name = devices.backend_of("cuda" if device is None else device, "get_device_properties")
    found: dict[str, Any] = backend.properties(name)
    return found


def _backend(who: str) -> Any:
    return devices.backend_of("cuda", who)[0]

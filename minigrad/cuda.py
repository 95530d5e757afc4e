"""GPUs: which there are, their memory, and waiting for them: ``mg.cuda.is_available()``."""

from __future__ import annotations

from typing import Any, Self

from minigrad.backend import devices
from minigrad.backend.precision import get_matmul_precision, set_matmul_precision
from minigrad.errors import DeviceError, message

__all__ = [
    "Event", "Stream", "compile_kernels", "current_device", "current_stream", "device_count", "empty_cache",
    "get_device_properties", "get_matmul_precision", "is_available", "memory_stats", "set_device",
    "set_matmul_precision", "set_memory_limit", "synchronize",
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


def compile_kernels(device: str | None = None) -> None:
    """Compile all kernels for a GPU, by default the current one, on all processors, for CuPy to keep on disk.

    Else those of a file are compiled when one is first used, which takes seconds each, and two minutes for all.

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    backend, name = devices.backend_of("cuda" if device is None else device, "compile_kernels")
    backend.compile_kernels(name)


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


class Stream:
    """A queue of work on a GPU, beside others: what is launched in ``with stream:`` runs in its order there.

    Work on two streams may run at once, in any order, so whoever needs what another stream makes has to wait for it on
    the GPU: `wait_stream`, or `wait_event` with an `Event`. Memory goes back to the stream that was current when it was
    allocated: keep a tensor that another stream still uses until `wait_stream` has told its own one.

    Parameters
    ----------
    device : str, optional
        The GPU; by default the current one.
    priority : int
        Lower numbers run first, where the GPU has a choice: 0, -1, ...

    Raises
    ------
    DeviceError
        If there is no such GPU.

    Examples
    --------
    >>> import minigrad as mg
    >>> if mg.cuda.is_available():
    ...     x, side = mg.ones((4,), device="cuda"), mg.cuda.Stream()
    ...     side.wait_stream(mg.cuda.current_stream())
    ...     with side:
    ...         y = x * 2
    ...     mg.cuda.current_stream().wait_stream(side)
    ...     print(y)
    """

    def __init__(self, device: str | None = None, priority: int = 0) -> None:
        backend, self.device = devices.backend_of("cuda" if device is None else device, "Stream")
        self._backend = _gpu(backend, "Stream")
        self._stream: Any = backend.stream(self.device, priority)
        self._blocks: list[Any] = []

    def __enter__(self) -> Self:
        """Make it the current stream, and its device the current one."""
        block = self._backend.at(self.device)
        block.__enter__()
        self._stream.__enter__()
        self._blocks.append(block)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)
        self._blocks.pop().__exit__(*error)

    def synchronize(self) -> None:
        """Let the host wait until all is done that was launched here."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether all is done."""
        return bool(self._stream.done)

    def record_event(self, event: Event | None = None) -> Event:
        """Record an event here, by default a new one, and return it."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let what is launched here later wait on the GPU for an event; the host goes on."""
        if event._event is not None:
            self._stream.wait_event(event._event)

    def wait_stream(self, other: Stream) -> None:
        """Let what is launched here later wait on the GPU for all that was launched on another stream so far."""
        self.wait_event(other.record_event())

    def __repr__(self) -> str:
        return f"Stream(device={self.device!r})"


class Event:
    """A place in a stream, to wait for and to measure time with.

    Parameters
    ----------
    enable_timing : bool
        Whether `elapsed_time` can use it.
    blocking : bool
        Whether `synchronize` lets the host sleep, where it would spin.

    Examples
    --------
    >>> import minigrad as mg
    >>> if mg.cuda.is_available():
    ...     start, end = mg.cuda.Event(enable_timing=True), mg.cuda.Event(enable_timing=True)
    ...     start.record()
    ...     x = mg.ones((1000, 1000), device="cuda") @ mg.ones((1000, 1000), device="cuda")
    ...     end.record()
    ...     end.synchronize()
    ...     milliseconds = start.elapsed_time(end)
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self.enable_timing, self.blocking = bool(enable_timing), bool(blocking)
        self._event: Any = None  # made where it is first recorded: it belongs to a device

    def record(self, stream: Stream | None = None) -> None:
        """Put it behind what was launched on a stream so far, by default the current one."""
        stream = current_stream() if stream is None else stream
        with stream._backend.at(stream.device):
            if self._event is None:
                self._event = stream._backend.event(self.blocking, self.enable_timing)
            self._event.record(stream._stream)

    def synchronize(self) -> None:
        """Let the host wait for it; at once where it was never recorded."""
        if self._event is not None:
            self._event.synchronize()

    def query(self) -> bool:
        """Whether all before it is done."""
        return self._event is None or bool(self._event.done)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream, by default the current one, wait for it on the GPU."""
        (current_stream() if stream is None else stream).wait_event(self)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to a later one; both must have been reached.

        Raises
        ------
        ValueError
            If one was made without `enable_timing`, or never recorded.
        """
        for name, event in (("the event", self), ("end", end)):
            if event._event is None or not event.enable_timing:
                got = "never recorded" if event.enable_timing else "one without a clock"
                need = "a recorded one, made with enable_timing=True"
                raise ValueError(message("Event.elapsed_time", name, got, need))
        return float(_backend("Event.elapsed_time").elapsed(self._event, end._event))


def current_stream(device: str | None = None) -> Stream:
    """The stream that work on a GPU, by default the current one, goes to in this thread.

    Raises
    ------
    DeviceError
        If there is no such GPU.
    """
    backend, name = devices.backend_of("cuda" if device is None else device, "current_stream")
    made = Stream.__new__(Stream)
    made._backend, made.device, made._blocks = _gpu(backend, "current_stream"), name, []
    made._stream = backend.current_stream(name)
    return made


def _gpu(backend: Any, who: str) -> Any:
    """The backend, which has streams where it is that of a GPU."""
    if not hasattr(backend, "stream"):
        raise DeviceError(message(who, "device", "'cpu'", "a GPU, such as 'cuda:0'"))
    return backend


def _backend(who: str) -> Any:
    return devices.backend_of("cuda", who)[0]

"""Streams, events, pinned memory and CUDA graphs for the stand-in for CuPy: it runs in order, and says what would race.

Copies from pinned memory on other streams than the default one run as late as they may; `stand_in_clocks` finds what
does not wait.

While a stream captures, calls are noted; at its end, all that was changed is put back, and what was made is poisoned.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
from cuda_on_cpu import compiler
from stand_in_clocks import (
    BINARY,
    UNARY,
    Pinned,
    World,
    arrays_in,
    current,
    empty_pinned,
    join,
    note,
    owner_of,
    touch,
    use,
    world,
)

SYNCHRONIZES = {  # those whose result has a shape that depends on values
    "nonzero", "flatnonzero", "argwhere", "unique", "unique_all", "unique_counts", "unique_inverse", "unique_values",
    "extract", "compress", "bincount", "union1d", "intersect1d", "setdiff1d", "trim_zeros",
}  # fmt: skip
READ_HOST = {"item", "tolist", "get", "tobytes"}
BUSY = "the current stream is capturing, so {} are disallowed"


class Stream:
    """A stream; as a context it is the current one."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, priority: int | None = None) -> None:
        self.ptr = 0 if null else len(world.clocks)
        world.used = world.used or not null
        self.device_id, self.is_non_blocking = 0, non_blocking
        self.seen = world.clocks.setdefault(self.ptr, {self.ptr: 1})
        self.pending: list[tuple[int, Callable[[], None]]] = []
        self.capture: Capture | None = None

    def __enter__(self) -> Self:
        world.stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert world.stack.pop() is self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def tick(self) -> int:
        """The time of what is launched now, after all that the host has waited for."""
        join(self.seen, world.host)
        self.seen[self.ptr] = self.seen.get(self.ptr, 0) + 1
        return self.seen[self.ptr]

    def settle(self, time: float = np.inf) -> None:
        """Run the copies that were put off, up to a time."""
        while self.pending and self.pending[0][0] <= time:
            self.pending.pop(0)[1]()

    def refuse(self) -> None:
        if self.capture is not None:
            self.capture.broken = True
            raise world.error("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.refuse()
        if event.stream is not None:
            event.stream.settle(event.time)
            join(self.seen, event.seen)

    def synchronize(self) -> None:
        self.refuse()
        self.settle(self.seen[self.ptr])
        join(world.host, self.seen)

    @property
    def done(self) -> bool:
        self.refuse()
        return not self.pending

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.capture = Capture(self)

    def end_capture(self) -> Graph:
        assert self.capture is not None, "cudaErrorIllegalState"
        capture, self.capture = self.capture, None
        capture.undo()
        if capture.broken:
            raise world.error("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return Graph(capture)

    def is_capturing(self) -> bool:
        return self.capture is not None


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream: Stream | None = None
        self.seen: dict[int, int] = {}
        self.time = 0
        self.timed = not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or current()
        self.stream.refuse()
        join(self.stream.seen, world.host)
        self.seen, self.time = dict(self.stream.seen), self.stream.seen[self.stream.ptr]

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.settle(self.time)
            join(world.host, self.seen)

    @property
    def done(self) -> bool:
        return self.stream is None or not any(time <= self.time for time, _ in self.stream.pending)


class Capture:
    """What a stream has noted, and what has to be put back."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.broken = stream, False
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any, set[int]]] = []
        self.before: dict[int, tuple[Any, Any]] = {}
        self.made: dict[int, Any] = {}
        self.pool: Any = None

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function now, to see what it gives, and note it."""
        given = list(arrays_in((args, kwargs)))
        for array in given:
            owner = owner_of(array)
            if id(owner) not in self.made and id(owner) not in self.before:
                self.before[id(owner)] = owner, owner.copy()
        with np.errstate(all="ignore"):  # kernels have not run, and what they are to make is odd
            made = function(*args, **kwargs)
        known = {id(owner_of(array)) for array in given}
        fresh = {id(array) for array in arrays_in(made) if id(owner_of(array)) not in known}
        if fresh:
            assert world.allocator is not None, "memory of the default pool is used while a stream captures"
            self.pool = world.allocator.__self__
        for array in arrays_in(made):
            if id(array) in fresh:
                self.made[id(owner_of(array))] = array
        if getattr(function, "name", "") not in ("empty", "empty_like"):  # which launch nothing
            self.calls.append((function, args, kwargs, made, fresh))
        return made

    def undo(self) -> None:
        """Nothing has run: put back what was there, and poison what was made."""
        for owner, values in self.before.values():
            owner[...] = values
        for array in self.made.values():
            array.values[...] = np.nan if array.values.dtype.kind in "fcV" else np.array(-1).astype(array.values.dtype)


class Graph:
    """Calls that run again in the same memory."""

    def __init__(self, capture: Capture) -> None:
        self.calls = capture.calls
        self.kept = capture.before, capture.made
        self.pool = None if capture.pool is None else weakref.ref(capture.pool)

    def upload(self, stream: Stream | None = None) -> None:
        pass

    def launch(self, stream: Stream | None = None) -> None:
        assert self.pool is None or self.pool() is not None, "the pool of a captured step has gone"
        assert (stream or current()).capture is None
        (stream or current()).settle()
        with stream or current(), np.errstate(all="ignore"):
            for function, args, kwargs, made, fresh in self.calls:
                again = function(*args, **kwargs)
                for array, new in zip(arrays_in(made), arrays_in(again), strict=True):
                    if id(array) in fresh:
                        array.values[...] = new.values
                note(function, args, kwargs, made)


class MemoryPool:
    """A pool of memory."""

    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        self.allocator = allocator

    def malloc(self, size: int) -> Any:
        return None


@contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    before, world.allocator = world.allocator, allocator
    try:
        yield
    finally:
        world.allocator = before


def copy_from_host(array: Any, values: Any) -> None:
    """An asynchronous copy to the GPU on the current stream."""
    stream = current()
    if stream.capture is not None:
        raise RuntimeError(BUSY.format("H2D transfers"))
    if not world.used:
        array.values[...] = values
        return
    time = stream.tick()
    touch(stream, time, owner_of(array), True)
    if not isinstance(values, Pinned):
        array.values[...] = values
        return
    use(owner_of(values), (-1, 0)).read[stream.ptr] = time

    def run() -> None:
        array.values[...] = values

    if stream.ptr:
        stream.pending.append((time, run))
    else:
        run()


def called(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function of the stand-in whose calls are noted."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        capture = current().capture
        current().settle()
        if name in READ_HOST:
            read_host(args[0])
        if capture is None:
            made = function(*args, **kwargs)
            note(noted, args, kwargs, made)
            return made
        if name in SYNCHRONIZES or (name == "where" and len(args) == 1) or (name == "__getitem__" and masked(args[1])):
            raise RuntimeError(BUSY.format("synchronous API calls"))
        if hosts(name, args):
            raise RuntimeError(BUSY.format("H2D transfers"))
        return capture.call(noted, args, kwargs)

    noted.name = name  # type: ignore[attr-defined]
    if hasattr(function, "at"):
        call.at = called(function.at, f"{name}.at")  # type: ignore[attr-defined]
    return call


def read_host(array: Any) -> None:
    """The host reads an array: it waits for the current stream."""
    stream = current()
    if stream.capture is not None:
        raise RuntimeError(BUSY.format("D2H transfers"))
    if world.used:
        touch(stream, stream.tick(), owner_of(array), False)
        stream.synchronize()


def hosts(name: str, args: Any) -> bool:
    """Whether a call copies arrays with axes from the host."""
    if name == "__getitem__" or name == "__setitem__":
        index = args[1] if type(args[1]) is tuple else (args[1],)
        return any(isinstance(part, (np.ndarray, list)) for part in index)
    first = args[0] if args else None
    return name in CONVERT and isinstance(first, (np.ndarray, list)) and np.ndim(first) > 0


def masked(index: Any) -> bool:
    """Whether an index picks by values."""
    parts: Iterable[Any] = index if isinstance(index, tuple) else (index,)
    return any(getattr(part, "dtype", None) == np.bool_ and getattr(part, "ndim", 0) > 0 for part in parts)


class Module(compiler.Module):
    """Kernels whose launches are noted."""

    def get_function(self, name: str) -> Any:
        return Kernel(getattr(self.library, f"launch_{name}"), name)


class Kernel(compiler.Function):
    """One of them."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        launch = called(super().__call__, "kernel")
        capture = current().capture
        if capture is None:
            launch(*args, **kwargs)
        else:  # nothing runs: it may know memory by its address alone, which nobody could put back
            capture.calls.append((launch, args, kwargs, None, set()))


def watch(ndarray: Any) -> None:
    """Let methods and operators of arrays be noted; once, for the class stays."""
    own, found = vars(ndarray), ndarray.__getattr__
    for name in [name for name in own if name.startswith("__") and (name in NOTED or name[2:-2] in OPERATORS)]:
        setattr(ndarray, name, called(own[name], name))
    for name in ("__bool__", "__float__", "__int__"):
        setattr(ndarray, name, reading(own[name]))

    def get(self: Any, name: str) -> Any:
        value = found(self, name)
        if not callable(value):
            return value
        return partial(called(lambda array, *args, **kwargs: found(array, name)(*args, **kwargs), name), self)

    ndarray.__getattr__, ndarray.set = get, copy_from_host


def reading(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A method by which the host reads."""

    def read(self: Any) -> Any:
        read_host(self)
        return method(self)

    return read


KEPT = {"from_dlpack", "get_default_memory_pool", "get_default_pinned_memory_pool"}
CONVERT = {"asarray", "array", "ascontiguousarray", "asfortranarray"}
NOTED = {"__getitem__", "__setitem__", "__array_ufunc__"}
OPERATORS = {f"{kind}{name}" for name in BINARY for kind in ("", "r", "i")} | UNARY


def install(modules: dict[str, types.ModuleType], ndarray: Any) -> None:
    """Put streams into the modules that take CuPy's place, and let them see every call."""
    cupy: Any = modules["cupy"]
    vars(world).update(vars(World()))
    world.ndarray, world.error = ndarray, cupy.cuda.runtime.CUDARuntimeError
    Stream.null = Stream(null=True)
    world.stack = [Stream.null]
    if not hasattr(ndarray, "set"):
        watch(ndarray)
    for space in (cupy, cupy.linalg, modules["cupyx.scipy.special"]):
        for name, value in list(vars(space).items()):
            if callable(value) and not isinstance(value, type) and name not in KEPT and not name.startswith("_"):
                setattr(space, name, called(value, name))
    cupy.asnumpy = lambda x: (read_host(x), np.array(x.values))[1]
    cupy.RawModule = Module
    vars(cupy.cuda).update(
        Stream=Stream, Event=Event, Graph=Graph, MemoryPool=MemoryPool, using_allocator=using_allocator,
        get_current_stream=current, get_allocator=lambda: world.allocator,
        get_elapsed_time=lambda start, end: float(end.time - start.time),
    )  # fmt: skip
    modules["cupyx"].empty_pinned = empty_pinned  # type: ignore[attr-defined]


__name__ = "cupy.stand_in_streams"  # an error that says where it came from passes over CuPy's own lines

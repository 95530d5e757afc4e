"""Vector clocks for the stand-in for CuPy: what streams and the host have waited for, and what races.

Each stream, and the host, has a clock (Lamport, 1978; Fidge, 1988): it knows how far it has waited for every other.
Memory knows who has written and read it last, and by whom it was allocated. What touches memory without having waited
for that raises, and so does what writes pinned memory that a copy may still read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

WRITE_FIRST = {"__setitem__", "copyto", "fill", "fill_diagonal", "place", "put", "put_along_axis", "putmask", "sort"}
BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
UNARY = {"lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"}
IN_PLACE = {f"__i{name}__" for name in BINARY}


class Memory:
    """Who has used a piece of memory: stream and time of its allocation, of the last write, and of reads since."""

    def __init__(self, made: tuple[int, int]) -> None:
        self.made = self.written = made
        self.read: dict[int, int] = {}


class World:
    """All streams and memory since the stand-in was installed."""

    def __init__(self) -> None:
        self.host: dict[int, int] = {}
        self.memory: dict[int, Memory] = {}
        self.clocks: dict[int, dict[int, int]] = {0: {0: 1}}  # by the number of the stream
        self.used = False  # whether there is any stream but the default one
        self.allocator: Any = None  # where memory comes from; None for the default pool
        self.freed: dict[int, list[tuple[int, int]]] = {}  # who has used what a stream got back
        self.freed_too_soon: list[str] = []
        self.stack: list[Any] = []
        self.ndarray: Any = None
        self.error: Any = RuntimeError


world = World()


def current() -> Any:
    return world.stack[-1]


def join(mine: dict[int, int], other: dict[int, int]) -> None:
    for ptr, time in other.items():
        mine[ptr] = max(mine.get(ptr, 0), time)


def owner_of(array: Any) -> Any:
    """The array that has the memory."""
    values = array.values if type(array) is world.ndarray else array
    while isinstance(values.base, np.ndarray):
        values = values.base
    return values


def arrays_in(nest: Any) -> Iterator[Any]:
    if type(nest) is world.ndarray:
        yield nest
    elif isinstance(nest, (tuple, list)):
        for part in nest:
            yield from arrays_in(part)
    elif isinstance(nest, dict):
        yield from arrays_in(list(nest.values()))


def written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What a call writes to, of what it is given."""
    name = getattr(function, "name", "")
    if name == "kernel":
        return list(arrays_in(args))
    return list(arrays_in([args[0]] if name in WRITE_FIRST | IN_PLACE or name.endswith(".at") else [kwargs.get("out")]))


def note(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
    """Check a call of the current stream against what other streams have done, and remember it."""
    if not world.used:
        return
    stream = current()
    time = stream.tick()
    given, writes = list(arrays_in((args, kwargs))), written(function, args, kwargs)
    known = {id(owner_of(array)) for array in given}
    for array in given:
        touch(stream, time, owner_of(array), any(array is other for other in writes))
    for array in arrays_in(made):
        if id(owner_of(array)) not in known:
            reuse(stream)
            use(owner_of(array), (stream.ptr, time))


def use(owner: Any, made: tuple[int, int]) -> Memory:
    """What is known of memory; it is from before all streams where nothing is."""
    found = world.memory.get(id(owner))
    if found is None:
        found = world.memory[id(owner)] = Memory(made)
        weakref.finalize(owner, release, id(owner))
    return found


def touch(stream: Any, time: int, owner: Any, writes: bool) -> None:
    found = use(owner, (0, 1))
    before = [found.made, found.written, *(found.read.items() if writes else ())]
    for ptr, when in before:
        if ptr >= 0 and stream.seen.get(ptr, 0) < when:
            how = "writes to" if writes else "reads"
            raise AssertionError(f"stream {stream.ptr} {how} memory of stream {ptr} without having waited for it")
    if writes:
        found.written, found.read = (stream.ptr, time), {}
    else:
        found.read[stream.ptr] = time


def release(key: int) -> None:
    """Memory goes back to its stream's part of the pool, where the next array may get it; pinned memory to the host."""
    found = world.memory.pop(key, None)
    if found is None:
        return
    home = found.made[0]
    used = [(ptr, time) for ptr, time in [*found.read.items(), found.written] if ptr != home]
    if home >= 0:
        world.freed.setdefault(home, []).extend(used)
    elif any(world.host.get(ptr, 0) < time for ptr, time in used):
        world.freed_too_soon.append("pinned memory is free while a copy may still read it")


def reuse(stream: Any) -> None:
    """An array is made on a stream: whoever has used what it got back must be done, as far as the stream knows."""
    for ptr, time in world.freed.pop(stream.ptr, []):
        if stream.seen.get(ptr, 0) < time:
            text = f"memory of stream {stream.ptr} is used again while stream {ptr} may still use it"
            world.freed_too_soon.append(text)


class Pinned(np.ndarray[Any, Any]):
    """Memory of the host that copies may read later: writing too soon raises."""

    def __setitem__(self, index: Any, values: Any) -> None:
        used = world.memory.get(id(owner_of(self)))
        if used is not None:
            late = {ptr for ptr, time in used.read.items() if world.host.get(ptr, 0) < time}
            assert not late, f"pinned memory is written while a copy on stream {late} may still read it"
        super().__setitem__(index, values)


def empty_pinned(shape: Any, dtype: Any = float) -> Any:
    return np.empty(shape, dtype).view(Pinned)


__name__ = "cupy.stand_in_clocks"  # as that of stand_in_streams

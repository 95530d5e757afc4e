"""Memory that processes share, and objects in it.

It is a file without a name (memfd on Linux, else a deleted one): the kernel frees it with the last process that has it
open, however that ends, so nothing can be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import pickle
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Memory", "Packed", "dump", "load"]

Array = np.ndarray[Any, Any]
Bytes = Any  # an array of uint8, which the typing of `struct` and `pickle` does not take for a buffer

ALIGN = 64
WORD = struct.Struct("<q")


class Memory:
    """Shared memory that grows and never shrinks; pickling it for a process that is being spawned shares it.

    Examples
    --------
    >>> from minigrad.data.memory import Memory
    >>> memory = Memory()
    >>> memory.bytes(4)[:] = 7
    >>> memory.bytes(2).tolist()
    [7, 7]
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = create() if fd is None else fd
        self._map: mmap.mmap | None = None

    def bytes(self, size: int) -> Bytes:
        """The first bytes, made where there are not so many yet. An array keeps its mapping, an older one too."""
        if self._map is None or len(self._map) < size:
            held = os.fstat(self.fd).st_size
            if held < size:
                held = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
                reserve(self.fd, held)
            self._map = mmap.mmap(self.fd, held) if held else None
        return np.empty(0, np.uint8) if self._map is None else np.frombuffer(self._map, np.uint8, size)

    def private(self, size: int) -> Bytes:
        """The first bytes as they are; what is written there is seen by this process alone, which gets the page."""
        return np.frombuffer(mmap.mmap(self.fd, size, access=mmap.ACCESS_COPY), np.uint8)

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return attach, (DupFd(self.fd),)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.fd)


def create() -> int:
    """Open a file without a name; not as 0 to 2, which are free where a stream is closed, and what prints writes to."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("minigrad-data")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def reserve(fd: int, size: int) -> None:
    """Give a file its size, and its memory where the system can: what lacks it then raises, and is not killed later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


def attach(handle: Any) -> Memory:
    """The memory in the process that got it."""
    return Memory(handle.detach())


class Packed:
    """An object as its pickle, and the memory of its arrays beside it."""

    def __init__(self, value: Any, *, maps: bool = False) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        file = io.BytesIO()
        Pickler(file, self.buffers, maps).dump(value)
        self.pickled = file.getbuffer()
        sizes = [buffer.raw().nbytes for buffer in self.buffers]
        self.table = np.array([len(self.pickled), *sizes], np.int64)
        self.places = list(places(self.table))
        self.size: int = self.places[-1].stop

    def write(self, out: Bytes) -> None:
        """Write it: the number of parts, the size of each, and the parts."""
        WORD.pack_into(out, 0, len(self.table))
        out[WORD.size : WORD.size + self.table.nbytes] = self.table.view(np.uint8)
        for place, part in zip(self.places, (self.pickled, *(buffer.raw() for buffer in self.buffers))):
            out[place] = np.frombuffer(part, np.uint8)


def places(table: Array) -> Iterator[slice]:
    """Where the parts lie, by their sizes."""
    at = WORD.size + table.nbytes
    for size in table.tolist():
        at = -(-at // ALIGN) * ALIGN
        yield slice(at, at + size)
        at += size


def dump(value: Any, memory: Memory, *, maps: bool = False) -> int:
    """Write an object into memory; returns how many bytes that took. `maps`: of mapped files the place alone."""
    packed = Packed(value, maps=maps)
    packed.write(memory.bytes(packed.size))
    return packed.size


def load(data: Bytes, *, copy: bool) -> Any:
    """Read an object from the bytes that `dump` wrote; its arrays are copies, or else views."""
    count = WORD.unpack_from(data)[0]
    table = data[WORD.size : WORD.size * (count + 1)].view(np.int64)
    pickled, *arrays = [data[place] for place in places(table)]
    return pickle.loads(pickled, buffers=[array.copy() for array in arrays] if copy else arrays)


class Pickler(pickle.Pickler):
    """A pickler that leaves the memory of arrays aside, and names the file of mapped ones instead of reading it."""

    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], maps: bool) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self.maps = maps

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        if self.maps and isinstance(value, np.memmap) and (place := file_place(value)) is not None:
            return np.memmap, (value.filename, value.dtype, "r", place, value.shape)
        if value.dtype.kind == "V" and value.dtype.names is None and value.flags.c_contiguous and value.itemsize == 2:
            return as_dtype, (value.view(np.uint16), value.dtype)  # bfloat16 has no buffer of its own
        return NotImplemented


def as_dtype(array: Array, dtype: Any) -> Array:
    """The same memory as another dtype."""
    return array.view(dtype)


def file_place(array: Any) -> int | None:
    """Where in its file a mapped array begins; None where it is not as it lies there."""
    base = getattr(array, "_mmap", None)
    if base is None or array.filename is None or array.mode == "c" or not array.flags.c_contiguous or not array.size:
        return None
    mapped, begins = (x.__array_interface__["data"][0] for x in (np.frombuffer(base, np.uint8), array))
    return int(begins - mapped + array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY)

"""A stand-in for ``cupy.cuda.nccl`` beside that for CuPy: bytes go between processes by sockets, from raw pointers.

Names, arguments and the numbers of the enumerations are those of CuPy 14.2. What NCCL answers by waiting for ever
(counts that do not match, a rank that is gone) ends in an error after `TIMEOUT` seconds here.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import selectors
import socket
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import stand_in_cupy
import stand_in_streams

TIMEOUT = float(os.environ.get("STAND_IN_NCCL_TIMEOUT", "30"))
DTYPES = [np.dtype(name) for name in ("i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ml_dtypes.bfloat16)]
NUMBERS = {
    "NCCL_SUM": 0, "NCCL_PROD": 1, "NCCL_MAX": 2, "NCCL_MIN": 3, "NCCL_AVG": 4,
    "NCCL_INT8": 0, "NCCL_CHAR": 0, "NCCL_UINT8": 1, "NCCL_INT32": 2, "NCCL_INT": 2, "NCCL_UINT32": 3, "NCCL_INT64": 4,
    "NCCL_UINT64": 5, "NCCL_FLOAT16": 6, "NCCL_HALF": 6, "NCCL_FLOAT32": 7, "NCCL_FLOAT": 7, "NCCL_FLOAT64": 8,
    "NCCL_DOUBLE": 8, "NCCL_BFLOAT16": 9,
}  # fmt: skip
ERRORS = {
    1: "UNHANDLED_CUDA_ERROR", 2: "SYSTEM_ERROR", 3: "INTERNAL_ERROR", 4: "INVALID_ARGUMENT", 5: "INVALID_USAGE",
    6: "REMOTE_ERROR",
}  # fmt: skip
HEAD = struct.Struct("<24sqqqq")  # what is called, a count, a dtype, an operation, the bytes that follow
_group: list[Callable[[], None]] | None = None  # the calls of the group that is open
seen: list[tuple[str, int]] = []  # the reductions, and the streams that they were told to
_letters: dict[int, tuple[NcclCommunicator, list[Any], list[Any]]] = {}  # its sends and receives, by communicator


class NcclError(RuntimeError):
    """An error with its number."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"NCCL_ERROR_{ERRORS[status]}: {ERRORS[status].lower().replace('_', ' ')}")

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.status,)


def memory(pointer: int, size: int) -> memoryview:
    """The bytes at an address."""
    if size and not pointer:
        raise NcclError(4)
    return memoryview((ctypes.c_ubyte * size).from_address(pointer) if size else b"").cast("B")


class NcclCommunicator:
    """Ranks of which each has a socket to each."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if len(commId) != 128:
            raise ValueError(f"commId length {len(commId)} != 128.")
        if not 0 <= rank < ndev:
            raise NcclError(4)
        self.count, self.rank, self.comm = ndev, rank, 1
        self.peers: dict[int, socket.socket] = {}
        name = "\0nccl-" + commId[:32].decode()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{name}-{rank}")
        listener.listen(ndev)
        listener.settimeout(TIMEOUT)
        end = time.monotonic() + TIMEOUT
        own = struct.pack("<qq", rank, stand_in_cupy.Device.current)
        places = {stand_in_cupy.Device.current}
        for other in range(ndev):
            if other == rank:
                continue
            link = listener.accept()[0] if other > rank else reach(f"{name}-{other}", end)
            link.settimeout(TIMEOUT)
            link.sendall(own)
            number, place = struct.unpack("<qq", link.recv(16, socket.MSG_WAITALL))
            self.peers[number] = link
            places.add(place)
        listener.close()
        if len(places) < ndev:  # "Duplicate GPU detected"
            raise NcclError(5)

    def destroy(self) -> None:
        for link in self.peers.values():
            link.close()
        self.peers, self.comm = {}, 0

    abort = destroy

    def __del__(self) -> None:
        self.destroy()

    def rank_id(self) -> int:
        return self.rank

    def size(self) -> int:
        return self.count

    def device_id(self) -> int:
        return stand_in_cupy.Device.current

    def check_async_error(self) -> None:
        if not self.comm:
            raise NcclError(4)

    # --- collectives ------------------------------------------------------------------------------------------------

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        def call() -> None:
            parts = self.meet("allReduce", memory(sendbuf, count * size), count, datatype, op)
            memory(recvbuf, count * size)[:] = folded(parts, datatype, op)

        size = self.check(datatype, op)
        seen.append(("allReduce", stream))
        later(call)

    def reduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, root: int, stream: int) -> None:
        def call() -> None:
            parts = self.meet("reduce", memory(sendbuf, count * size), count, datatype, op * 1000 + root)
            if self.rank == root:
                memory(recvbuf, count * size)[:] = folded(parts, datatype, op)

        size = self.check(datatype, op, root)
        later(call)

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:
        def call() -> None:
            whole = memory(sendbuf, recvcount * size * self.count)
            parts = self.meet("reduceScatter", whole, recvcount, datatype, op)
            low = recvcount * size * self.rank
            memory(recvbuf, recvcount * size)[:] = folded(parts, datatype, op)[low : low + recvcount * size]

        size = self.check(datatype, op)
        later(call)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        def call() -> None:
            parts = self.meet("allGather", memory(sendbuf, count * size), count, datatype, 0)
            memory(recvbuf, count * size * self.count)[:] = b"".join(parts)

        size = self.check(datatype)
        later(call)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        def call() -> None:
            own = memory(sendbuff, count * size) if self.rank == root else b""
            memory(recvbuff, count * size)[:] = self.meet("broadcast", own, count, datatype, root)[root]

        size = self.check(datatype, 0, root)
        later(call)

    # --- two ranks --------------------------------------------------------------------------------------------------

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        size = self.check(datatype, 0, peer)
        message = HEAD.pack(b"send", count, datatype, 0, count * size) + bytes(memory(sendbuf, count * size))
        self.letter([(peer, message)], [])

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        size = self.check(datatype, 0, peer)
        self.letter([], [(peer, count, datatype, memory(recvbuf, count * size))])

    def letter(self, sends: list[Any], receives: list[Any]) -> None:
        """Send and receive at the end of the group, or now."""
        if _group is None:
            self.trade(sends, receives)
            return
        _, all_sends, all_receives = _letters.setdefault(id(self), (self, [], []))
        all_sends += sends
        all_receives += receives

    def trade(self, sends: list[Any], receives: list[Any]) -> None:
        own = {peer: [m for to, m in sends if to == peer] for peer in self.peers}
        wanted = {peer: [r for r in receives if r[0] == peer] for peer in self.peers}
        if any(peer == self.rank for peer, *_ in [*sends, *receives]):
            raise NotImplementedError("to itself")
        arrived = self.exchange(own, {peer: len(given) for peer, given in wanted.items()})
        for peer, given in wanted.items():
            for (head, body), (_, count, datatype, target) in zip(arrived[peer], given, strict=True):
                if head[:3] != (b"send".ljust(24, b"\0"), count, datatype):
                    hang()
                target[:] = body

    # --- how --------------------------------------------------------------------------------------------------------

    def check(self, datatype: int, op: int = 0, root: int = 0) -> int:
        """The bytes of an element."""
        if not self.comm or not 0 <= datatype < len(DTYPES) or not 0 <= op <= 4 or not 0 <= root < self.count:
            raise NcclError(4)
        return DTYPES[datatype].itemsize

    def meet(self, name: str, own: Any, count: int, datatype: int, op: int) -> list[bytes]:
        """The bytes of all ranks in a collective."""
        message = HEAD.pack(name.encode(), count, datatype, op, len(own)) + bytes(own)
        arrived = self.exchange({peer: [message] for peer in self.peers}, dict.fromkeys(self.peers, 1))
        found = {self.rank: bytes(own)}
        for peer, [(head, body)] in arrived.items():
            if head[:4] != (name.encode().ljust(24, b"\0"), count, datatype, op):
                hang()
            found[peer] = body
        return [found[rank] for rank in range(self.count)]

    def exchange(self, own: dict[int, list[bytes]], wanted: dict[int, int]) -> dict[int, list[Any]]:
        """Send messages to peers while so many of theirs come."""
        out = {peer: b"".join(messages) for peer, messages in own.items()}
        found: dict[int, list[Any]] = {peer: [] for peer in wanted}
        parts = {peer: bytearray() for peer in wanted}
        end = time.monotonic() + TIMEOUT
        with selectors.DefaultSelector() as selector:
            for peer, link in self.peers.items():
                link.setblocking(False)
                selector.register(link, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)
            while any(out.values()) or any(len(found[peer]) < number for peer, number in wanted.items()):
                if time.monotonic() > end:
                    raise NcclError(6)
                for peer, link in self.peers.items():
                    reads = selectors.EVENT_READ if len(found[peer]) < wanted[peer] else 0
                    writes = selectors.EVENT_WRITE if out[peer] else 0
                    if reads | writes:
                        selector.modify(link, reads | writes, peer)
                    elif link in selector.get_map():
                        selector.unregister(link)
                for key, events in selector.select(0.1):
                    peer = key.data
                    if events & selectors.EVENT_WRITE and out[peer]:
                        try:
                            out[peer] = out[peer][key.fileobj.send(out[peer]) :]  # type: ignore[union-attr]
                        except OSError:
                            hang()
                    if events & selectors.EVENT_READ and len(found[peer]) < wanted[peer]:
                        self.take(key.fileobj, parts[peer], found[peer])
        return found

    @staticmethod
    def take(link: Any, part: bytearray, found: list[Any]) -> None:
        """Read what has come of one message, and no byte of the next."""
        length = HEAD.unpack_from(part)[-1] if len(part) >= HEAD.size else 0
        try:
            got = link.recv(HEAD.size + length - len(part))
        except OSError:
            got = b""
        if not got:
            hang()
        part += got
        if len(part) >= HEAD.size and len(part) == HEAD.size + HEAD.unpack_from(part)[-1]:
            found.append((HEAD.unpack_from(part), bytes(part[HEAD.size :])))
            part.clear()


def reach(name: str, end: float) -> socket.socket:
    """The socket of a rank that listens, or soon will."""
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(name)
        except OSError:
            link.close()
            if time.monotonic() > end:
                raise NcclError(2) from None
            time.sleep(0.005)
        else:
            return link


def hang() -> None:
    """What NCCL does for ever."""
    time.sleep(TIMEOUT)
    raise NcclError(6)


def folded(parts: list[bytes], datatype: int, op: int) -> bytes:
    """The sum or maximum in the order of the ranks; a maximum drops NaN, and sums of half types are half, as NCCL's."""
    arrays = [np.frombuffer(part, DTYPES[datatype]) for part in parts]
    total = arrays[0]
    with np.errstate(all="ignore"):
        for x in arrays[1:]:
            total = {0: np.add, 2: np.fmax}[op](total, x)
    return total.tobytes()


def later(call: Callable[[], None]) -> None:
    """Do it at the end of the group, or now."""
    if _group is None:
        call()
    else:
        _group.append(call)


def group_start() -> None:
    global _group
    if _group is not None:
        raise NotImplementedError("a group in a group")
    _group = []


def group_end() -> None:
    global _group
    calls, _group = _group, None
    letters = list(_letters.values())
    _letters.clear()
    if calls is None:
        raise NcclError(5)
    for call in calls:
        call()
    for comm, sends, receives in letters:
        comm.trade(sends, receives)


def unique_id() -> bytes:
    return os.urandom(16).hex().encode().ljust(128, b"\0")


def module() -> types.ModuleType:
    """What takes the place of ``cupy.cuda.nccl``."""
    made = types.ModuleType("cupy.cuda.nccl")
    vars(made).update(
        NUMBERS, available=True, NcclError=NcclError, NcclCommunicator=NcclCommunicator, groupStart=group_start,
        groupEnd=group_end, get_unique_id=unique_id, get_version=lambda: 22809,
    )  # fmt: skip
    return made


def install(devices: int) -> None:
    """Let ``import cupy`` find the stand-ins in this process, with NCCL between them; for good."""
    if "cupy" in sys.modules:
        return
    sys.modules.update(stand_in_cupy.module(devices))
    cupy: Any = sys.modules["cupy"]
    cuda: Any = types.ModuleType("cupy.cuda")
    vars(cuda).update(vars(cupy.cuda), nccl=module())
    cupy.cuda = cuda
    sys.modules.update({"cupy.cuda": cuda, "cupy.cuda.nccl": cuda.nccl})
    stand_in_cupy.Device.pci_bus_id = property("0000:{0.id:02x}:00.0".format)  # type: ignore[attr-defined]
    library: Any = importlib.import_module("minigrad.backend.cuda.nccl")
    for name in ("all_reduce", "reduce_parts", "gather_parts", "broadcast", "trade"):
        setattr(library.Link, name, noted(getattr(library.Link, name)))


def noted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose arrays the stand-in for streams looks at: what would race raises."""

    def call(link: Any, *args: Any) -> None:
        method(link, *args)
        stand_in_streams.note(call, args, {}, None)

    call.name = "kernel"  # type: ignore[attr-defined]
    return call

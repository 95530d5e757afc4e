"""The engine of a world of one rank."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from minigrad._core import shared
from minigrad.parallel.arrays import is_here
from minigrad.parallel.communicator import Communicator

__all__ = ["SingleCommunicator"]

Array = np.ndarray[Any, Any]


class SingleCommunicator(Communicator):
    """What `init` gives to a program that was started alone: every collective is a copy."""

    engine = "single"
    size, rank = 1, 0

    def _of(self, array: Any) -> Any:
        return self  # where arrays on a GPU are copied too

    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        if is_here(x):
            shared.combine([x], out, x.itemsize, kind, shared.ops[op])
        else:
            out[...] = x

    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        out[...] = x

    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        out[...] = x

    def _broadcast(self, x: Array, root: int) -> None:
        pass

    def _barrier(self) -> None:
        pass

    def _push(self, x: Array, to: int) -> NoReturn:
        raise AssertionError("there is no other rank")

    def _pull(self, x: Array, source: int) -> NoReturn:
        raise AssertionError("there is no other rank")

    def _exchange(self, x: Array, to: int, out: Array, source: int) -> NoReturn:
        raise AssertionError("there is no other rank")

    def _split(self, groups: list[list[int]]) -> Communicator | None:
        return SingleCommunicator() if groups else None

    def _abort(self, reason: str) -> None:
        raise SystemExit(reason or 1)

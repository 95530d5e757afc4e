"""Ahead: the batches of an epoch on a GPU, of which the next one is copied while the work on this one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad.backend import devices
from minigrad.data.collate import map_leaves
from minigrad.data.fetcher import END
from minigrad.tensor import Tensor

__all__ = ["Ahead"]


class Ahead:
    """Makes one batch ahead, and has it copied; an error of one is raised when its turn comes.

    Parameters
    ----------
    device : str
        A GPU.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.transfers = devices.backend_of(device, "DataLoader")[0].transfers(device)
        self.next: Any = None  # a batch and its arrays on their way, END, or an error

    def take(self, step: int, make: Callable[[int], Any]) -> Any:
        """The batch of a step, on the GPU, or END; `make` gives that of any step on the CPU.

        The copy of the one after it begins before this one is given, and so before work on it is launched.
        """
        found, self.next = self._send(step, make) if self.next is None else self.next, None
        if found is END:
            return END
        if isinstance(found, Exception):
            raise found
        self.next = self._send(step + 1, make)
        batch, sent = found
        there = iter(sent.arrive())
        return map_leaves(lambda leaf: self._placed(leaf, there), batch, (np.ndarray, Tensor))

    def _send(self, step: int, make: Callable[[int], Any]) -> Any:
        try:
            batch = make(step)
        except Exception as error:
            return error
        if batch is END:
            return END
        arrays: list[Any] = []
        map_leaves(lambda leaf: arrays.append(_array(leaf)), batch, (np.ndarray, Tensor))
        return batch, self.transfers.send([array for array in arrays if array is not None])

    def _placed(self, leaf: Any, there: Iterator[Any]) -> Any:
        if _array(leaf) is not None:
            return tape.new_tensor(next(there))
        return leaf.to(device=self.device) if isinstance(leaf, Tensor) else leaf


def _array(leaf: Any) -> Any:
    """The array to send; None for one of a dtype that tensors do not have, and for a tensor that lies elsewhere."""
    array = leaf._array if isinstance(leaf, Tensor) and not leaf.requires_grad else leaf
    return array if isinstance(array, np.ndarray) and array.dtype in dtypes.ALL else None

"""Deferred: a tensor of a module whose shape the first batch may complete."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from minigrad import ops
from minigrad.draws import unseen
from minigrad.errors import ShapeError, message
from minigrad.tensor import Tensor

__all__ = ["Buffer", "Deferred", "Fill", "check_initialized", "shape_text"]

Fill = Callable[[Tensor], Any]

# Of several threads with a first batch one fills. The fill is the user's code and may build layers of its own, so the
# thread that holds the lock may take it again.
_first_batch = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock does not exist there."""
    global _first_batch
    _first_batch = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Deferred(Tensor):
    """Base of `Parameter` and `Buffer`: its shape may be completed, and its memory filled, by the first batch.

    Attributes may be set on it; copies and pickles keep them.
    """

    _fill: Fill | None = None  # set while the shape is not known in full
    keeps_dtype: bool = False  # whether `Module.to` leaves its dtype alone, as that of the scale of integers

    def __init__(self, data: Any) -> None:
        self._array = ops.tensor(data.detach() if isinstance(data, Tensor) else data)._array

    @classmethod
    def deferred(cls, shape: Sequence[int | None], fill: Fill, *, dtype: Any = None, device: Any = None) -> Self:
        """Make one whose shape is completed by the first batch.

        Until then its unknown extents are 0, so it has no elements.

        Parameters
        ----------
        shape : sequence of int or None
            The extents; None for those that are not known yet.
        fill : callable
            Fills a tensor of the complete shape in place (a function of `minigrad.nn.init`).
        dtype, device : optional
            As for `Parameter`.

        Examples
        --------
        >>> from minigrad import nn
        >>> w = nn.Parameter.deferred((None, 3), nn.init.zeros)
        >>> w
        Parameter(shape=(?, 3), dtype=float32, uninitialized)
        >>> w.initialize((2, 3))
        >>> w.shape, w.is_initialized
        ((2, 3), True)
        """
        made = cls(ops.empty(tuple(extent or 0 for extent in shape), dtype=dtype, device=device))
        made._fill = fill
        return made

    @property
    def is_initialized(self) -> bool:
        """Whether the shape is known and the memory is filled."""
        return self._fill is None

    def initialize(self, shape: Sequence[int]) -> None:
        """Complete a deferred shape and fill the memory; nothing happens to one that has its shape.

        It stays the same object, so an optimizer that holds it goes on to hold it.

        Parameters
        ----------
        shape : sequence of int
            The complete shape.

        Raises
        ------
        ShapeError
            If `shape` contradicts the extents that were known.
        TypeError
            If the fill returns another object than the tensor it was given, or None.
        """
        with _first_batch:
            fill = self._fill
            if fill is None:
                return
            self.check_shape(shape)
            fresh = ops.empty(tuple(shape), dtype=self.dtype, device=self.device)
            with unseen():  # when a checkpoint runs again, the weights are there
                result = fill(fresh)
            if result is not None and result is not fresh:
                need = "None, or the tensor that it was given and filled in place"
                hint = "Write into that tensor: t[...] = values"
                raise TypeError(message(type(self).__name__, "the result of the initializer", result, need, hint))
            self.complete(fresh)

    def complete(self, values: Tensor) -> None:
        """Take over the memory of a tensor of the complete shape, in place of the fill."""
        with _first_batch:
            self._array = values._array
            self._fill = None

    def check_shape(self, shape: Sequence[int], name: str = "shape") -> None:
        """Raise ShapeError where `shape` is not the tensor's, or contradicts what is known of a deferred one."""
        if not self.accepts(shape):
            raise ShapeError(message(type(self).__name__, name, f"{tuple(shape)}", shape_text(self)))

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether values of this shape fit."""
        if self._fill is None:
            return tuple(shape) == self.shape
        return len(shape) == self.ndim and all(n == known if known else n > 0 for known, n in zip(self.shape, shape))

    def __repr__(self) -> str:
        if self._fill is None:
            return super().__repr__()
        return f"{type(self).__name__}(shape={shape_text(self)}, dtype={self.dtype}, uninitialized)"

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __copy__(self) -> Self:
        made = super().__copy__()
        vars(made).update(vars(self))
        return made  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = super().__deepcopy__(memo)
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made  # type: ignore[return-value]


class Buffer(Deferred):
    """A tensor that belongs to a module and is not trained, such as a running mean.

    `Module.register_buffer` takes any tensor; this one may be `deferred`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.nn.deferred import Buffer
    >>> layer = nn.Identity()
    >>> layer.register_buffer("mean", Buffer.deferred((None,), nn.init.zeros))
    >>> layer.load_state_dict({"mean": mg.ones((2,))})
    LoadReport(missing=[], unexpected=[])
    >>> layer.mean.tolist()
    [1.0, 1.0]
    """


def shape_text(p: Tensor) -> str:
    """The shape in words: ``(?, 3)`` where an extent is not known yet."""
    if not isinstance(p, Deferred) or p.is_initialized:
        return f"{p.shape}"
    inner = ", ".join(str(extent or "?") for extent in p.shape)
    return f"({inner},)" if p.ndim == 1 else f"({inner})"


def check_initialized(who: str, name: str, t: Tensor) -> None:
    """Raise where a tensor still waits for the batch that completes its shape."""
    if isinstance(t, Deferred) and not t.is_initialized:
        hint = "Give its layer the number of features (in_features=, features=), or call the model on one batch first"
        raise ShapeError(message(who, name, f"uninitialized, {shape_text(t)}", "its full shape", hint))

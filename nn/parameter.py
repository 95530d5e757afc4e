"""Parameter: a tensor that a module trains."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.tensor import Tensor

__all__ = ["Parameter"]

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


class Parameter(Tensor):
    """A leaf tensor that requires grad and that `Module` finds among its attributes.

    Operations on it give plain tensors. Optimizers and `Module.load_state_dict` write into its memory. Attributes may
    be set on it (``p.no_decay = True``); copies and pickles keep them.

    Parameters
    ----------
    data : array_like
        The values, which are copied: Python numbers become float32, arrays and tensors keep their dtype.
    requires_grad : bool
        Whether gradients reach it; False freezes it.
    dtype : dtype, optional
        Cast to it.
    device : str, optional
        Where it lives.

    Raises
    ------
    DTypeError
        If the values are not floating.

    Examples
    --------
    >>> from minigrad import nn
    >>> w = nn.Parameter([1.0, 2.0])
    >>> (w * w).sum().backward()
    >>> w.grad
    tensor([2., 4.])
    """

    _fill: Fill | None = None  # set while the shape is not known in full

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: Any = None, device: Any = None) -> None:
        values = data.detach() if isinstance(data, Tensor) else data
        made = ops.tensor(values, dtype=dtype, device=device)
        if made.dtype not in dtypes.FLOATING:
            hint = "Pass dtype=mg.float32, or keep it as a buffer (register_buffer)"
            raise DTypeError(message("Parameter", "data", made, "a floating dtype", hint))
        self._array = made._array
        self._leaf = bool(requires_grad)

    @classmethod
    def deferred(cls, shape: Sequence[int | None], fill: Fill, *, dtype: Any = None, device: Any = None) -> Parameter:
        """Make a parameter whose shape is completed by the first batch.

        Until then its unknown extents are 0, so it has no elements.

        Parameters
        ----------
        shape : sequence of int or None
            The extents; None for those that are not known yet.
        fill : callable
            Fills a tensor of the complete shape in place (a function of `minigrad.nn.init`).
        dtype, device : optional
            As for `Parameter`.

        Returns
        -------
        Parameter

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
        made = cls(ops.empty(tuple(extent or 0 for extent in shape), dtype=dtype), device=device)
        made._fill = fill
        return made

    @property
    def is_initialized(self) -> bool:
        """Whether the shape is known and the memory is filled."""
        return self._fill is None

    def initialize(self, shape: Sequence[int]) -> None:
        """Complete a deferred shape and fill the memory; nothing happens to a parameter that has its shape.

        The parameter stays the same object, so an optimizer that holds it goes on to hold it.

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
            fresh = ops.empty(tuple(shape), dtype=self.dtype)
            result = fill(fresh)
            if result is not None and result is not fresh:
                need = "None, or the tensor that it was given and filled in place"
                hint = "Write into that tensor: t[...] = values"
                raise TypeError(message("Parameter", "the result of the initializer", result, need, hint))
            self.complete(fresh)

    def complete(self, values: Tensor) -> None:
        """Take over the memory of a tensor of the complete shape, in place of the fill."""
        with _first_batch:
            self._array = values._array
            self._fill = None

    def check_shape(self, shape: Sequence[int], name: str = "shape") -> None:
        """Raise ShapeError where `shape` is not the parameter's, or contradicts what is known of a deferred one."""
        if not self.accepts(shape):
            raise ShapeError(message("Parameter", name, f"{tuple(shape)}", shape_text(self)))

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether values of this shape fit."""
        if self._fill is None:
            return tuple(shape) == self.shape
        return len(shape) == self.ndim and all(known in (0, n) for known, n in zip(self.shape, shape, strict=True))

    def __repr__(self) -> str:
        if self._fill is None:
            return super().__repr__()
        return f"Parameter(shape={shape_text(self)}, dtype={self.dtype}, uninitialized)"

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        made = super().__deepcopy__(memo)
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made  # type: ignore[return-value]


def shape_text(p: Tensor) -> str:
    """The shape in words: ``(?, 3)`` where an extent is not known yet."""
    if not isinstance(p, Parameter) or p.is_initialized:
        return f"{p.shape}"
    inner = ", ".join(str(extent or "?") for extent in p.shape)
    return f"({inner},)" if p.ndim == 1 else f"({inner})"

"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, message
from minigrad.nn.deferred import Deferred
from minigrad.tensor import Tensor

__all__ = ["Parameter"]


class Parameter(Deferred):
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

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: Any = None, device: Any = None) -> None:
        values = data.detach() if isinstance(data, Tensor) else data
        made = ops.tensor(values, dtype=dtype, device=device)
        if made.dtype not in dtypes.FLOATING:
            hint = "Pass dtype=mg.float32, or keep it as a buffer (register_buffer)"
            raise DTypeError(message("Parameter", "data", made, "a floating dtype", hint))
        self._array = made._array
        self._leaf = bool(requires_grad)

"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, message
from minigrad.nn.deferred import Deferred
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.nn.regularizers import Regularizer

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

    Attributes
    ----------
    regularizer : Regularizer or None
        A penalty that an optimizer's `step` adds, such as ``nn.L2(1e-4)``.
    constraint : callable or None
        What `step` calls with the new values, an array to change in place, such as ``nn.MaxNorm(2.0)``.
    mask : array_like of bool or None
        Of this shape, or one that stretches to it. Where it is False, `step` sets the gradient and the weight to 0.

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

    regularizer: Regularizer | None = None
    constraint: Callable[[Any], Any] | None = None
    mask: Any = None

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: Any = None, device: Any = None) -> None:
        values = data.detach() if isinstance(data, Tensor) else data
        made = ops.tensor(values, dtype=dtype, device=device)
        if made.dtype not in dtypes.FLOATING:
            hint = "Pass dtype=mg.float32, or keep it as a buffer (register_buffer)"
            raise DTypeError(message("Parameter", "data", made, "a floating dtype", hint))
        self._array = made._array
        self._leaf = bool(requires_grad)

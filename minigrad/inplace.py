"""In-place changes: allowed where no recorded op has saved the value, found out in backward where one has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minigrad import ops
from minigrad._core import tape
from minigrad.backend.devices import set_item, writeable
from minigrad.errors import DTypeError, GradError, ShapeError, describe, message
from minigrad.ops.scatter import as_key

if TYPE_CHECKING:
    from minigrad.ops.registry import Op
    from minigrad.tensor import Tensor

__all__ = ["assign", "update"]

T = TypeVar("T", bound="Tensor")


def update(t: T, op: Op[Any], other: Any) -> T:
    """``t op= other``."""
    _write(t, op(_before(t, other), other), op.name)
    return t


def assign(t: Tensor, index: Any, value: Any) -> None:
    """``t[index] = value``."""
    if not isinstance(value, tape.TensorBase):
        with np.errstate(all="ignore"):
            value = np.asarray(value, t.dtype) if not hasattr(value, "dtype") else value
            value = ops.asarray(value, device=t.device)
    if value.dtype != t.dtype:
        if not np.can_cast(value.dtype, t.dtype, "same_kind"):
            raise DTypeError(
                message("setitem", "value", value, f"{t.dtype} like the tensor", "Cast it with value.astype(t.dtype)")
            )
        value = ops.astype(value, t.dtype)
    if tape.is_recording() and (t.requires_grad or value.requires_grad):
        _write(t, ops.index_put(_before(t, value), value, index), "setitem")
        return
    # nothing is recorded: write into the memory itself; the op says what is wrong where NumPy refuses
    try:
        set_item(t._array, as_key(index, "setitem"), value._array)
    except (ValueError, IndexError, TypeError):
        ops.index_put(t.detach(), value.detach(), index)
        raise
    tape.mark_changed(t)


def _before(t: Tensor, other: Any) -> Tensor:
    """The tensor as it is now; while recording a copy at its place on the tape: a residual must keep its value."""
    if not tape.is_recording() or not (t.requires_grad or getattr(other, "requires_grad", False)):
        return t.detach()
    if t._leaf:
        raise GradError(
            "in-place change of a leaf that requires grad: its gradient would be that of another value. "
            "Update parameters under mg.no_grad(), or make a new tensor (t = t + u)"
        )
    if tape.is_shared(t):
        raise GradError(
            "in-place change of a recorded tensor that shares its memory with another (a view, or a detached tensor): "
            "the other's history would be wrong. Make a new tensor (t = t + u, t.at[i].set(v)), or change a t.clone()"
        )
    copy: Tensor = tape.new_tensor(t._array.copy())
    tape.adopt(copy, t)
    return copy


def _write(t: Tensor, result: Tensor, name: str) -> None:
    """Put a result into the memory of a tensor, and the tensor into the result's place on the tape."""
    if result.shape != t.shape:
        raise ShapeError(
            message(f"in-place {name}", "result", describe(result), f"shape {t.shape} like the tensor that is changed")
        )
    if result.dtype != t.dtype:
        raise DTypeError(
            message(
                f"in-place {name}",
                "result",
                describe(result),
                f"{t.dtype} like the tensor that is changed",
                "Make a new tensor",
            )
        )
    if not writeable(t._array):
        raise ValueError(
            message(
                f"in-place {name}", "x", "a read-only tensor", "memory that may be written to", "Change a t.clone()"
            )
        )
    t._array[...] = result._array
    tape.mark_changed(t)
    if result._node is not None:  # under no_grad the tensor stays where it was on the tape
        tape.adopt(t, result)

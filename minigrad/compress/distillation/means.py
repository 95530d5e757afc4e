"""Means over the rows of a loss, in float32 at least, each row by its weight."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes, ops
from minigrad.errors import ShapeError, message
from minigrad.tensor import Tensor

__all__ = ["check_shapes", "row_mean", "wide"]


def wide(x: Any) -> Tensor:
    """The tensor in float32, where it is half."""
    x = ops.asarray(x)
    return ops.astype(x, dtypes.float32) if x.dtype in dtypes.HALF else x


def check_shapes(who: str, student: Tensor, teacher: Tensor, hint: str = "") -> None:
    """Raise where the two differ: nothing is broadcast."""
    if student.shape != teacher.shape:
        need = f"the shape of the teacher's, {tuple(teacher.shape)}"
        raise ShapeError(message(who, "student", student, need, hint))


def row_mean(who: str, values: Tensor, rows: Tensor | None) -> Tensor:
    """The mean of the values of rows, each by its weight; the weights of a batch add up to 1.

    Parameters
    ----------
    who : str
        Whom an error names.
    values : Tensor
        (batch, ...), one value a row.
    rows : Tensor or None
        The weights, (batch,) or (batch, length). Axes that they have not are averaged; where the values have no such
        axis, an example has the weights of all its rows.

    Raises
    ------
    ShapeError
        If they are of another batch.
    """
    if rows is None:
        return ops.mean(values)
    if values.shape[: rows.ndim] != rows.shape:
        if not values.ndim or values.shape[0] != rows.shape[0]:
            raise ShapeError(message(who, "rows", rows, f"weights for values of shape {tuple(values.shape)}"))
        rows = ops.sum(ops.reshape(rows, (rows.shape[0], -1)), axis=1)
    rest = tuple(range(rows.ndim, values.ndim))
    if rest:
        values = ops.mean(values, axis=rest)
    return ops.sum(values * ops.astype(rows, values.dtype))

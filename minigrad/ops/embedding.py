"""Embedding: the rows of a table that ids name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.backend.rows import RowSparse
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.registry import Array, keep, op
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["embedding"]


def look_up(who: str, weight: Array, ids: Array, padding_idx: Any) -> Array:
    """Check the arguments, and take the rows."""
    if weight.ndim != 2:
        raise ShapeError(message(who, "weight", weight, "2 axes, a row of features for each id"))
    if ids.dtype not in dtypes.INTEGER:
        raise DTypeError(message(who, "ids", ids, "integers", "Cast with t.astype(mg.int64)"))
    rows = weight.shape[0]
    valid = f"[0, {rows}), the rows of weight"
    if padding_idx is not None and not (isinstance(padding_idx, int) and 0 <= padding_idx < rows):
        raise ValueError(message(who, "padding_idx", padding_idx, f"None or an integer in {valid}"))
    wrong = ids[(ids < 0) | (ids >= rows)]
    if wrong.size:
        hint = "Ids do not count from the end: give padding a row of its own" if wrong[0] < 0 else ""
        got = f"{describe(ids)} with the id {int(wrong[0])}"
        raise IndexError(message(who, "ids", got, f"integers in {valid}", hint))
    return weight[ids]


@op(dtype=keep, skip="ids", needs="integer ids, and a weight with a row for each")
def _embedding(xp: Any, weight: Array, ids: Array, /, *, padding_idx: Any = None) -> Array:
    return look_up("embedding", weight, ids, padding_idx)


@_embedding.vjp(0)
def _(xp: Any, g: Array, weight_shape: tuple[int, ...], ids: Array, *, padding_idx: int | None) -> Array:
    if padding_idx is not None:
        # NumPy knows no weak 0.0 beside bfloat16, and would make it float64
        g = xp.where(xp.expand_dims(ids == padding_idx, axis=-1), xp.zeros((), dtype=g.dtype), g)
    return xp.index_add(weight_shape, (ids,), g)


_embedding.kernel("cpu", *dtypes.ALL)(Kernel("embedding", "embedding"))
_embedding.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0, into=True)(Kernel("embedding", "embedding_vjp"))
# None with a padding_idx: the gradient is then, as it is meant to be, not the derivative.
SAMPLES = (
    case((4, 3), np.array([1, 3, 1])),
    case((4, 3), A((2, 5), 0, 4, kind="int")),
    case((3, 2), np.array([[2], [0], [2]], np.int32)),
    case((3, 2), np.array([1, 0], np.uint64)),
    case((3, 2), 1),
    case((3, 2), A((0,), 0, 1, kind="int")),
    case((3, 0), np.array([2, 2])),
    case((0, 2), A((2, 0), 0, 1, kind="int")),
    error(IndexError, "ids is int64 (2,) with the id 4, needs integers in [0, 4), the rows", (4, 2), np.array([0, 4])),
    error(IndexError, "with the id -1, needs integers in [0, 4), the rows of weight. Ids do not", (4, 2), -1),
    error(IndexError, "needs integers in [0, 2)", (2, 2), np.array([2**64 - 1], np.uint64)),
    error(DTypeError, "ids is float64 (1,), needs integers", (4, 2), np.array([1.0])),
    error(DTypeError, "needs integers", (4, 2), np.array([True])),
    error(ShapeError, "weight is float64 (4,), needs 2 axes", (4,), np.array([1])),
    error(ValueError, "padding_idx is 4, needs None or an integer in [0, 4)", (4, 2), np.array([1]), padding_idx=4),
    error(ValueError, "padding_idx is -1", (4, 2), np.array([1]), padding_idx=-1),
    error(ValueError, "padding_idx is 1.0", (4, 2), np.array([1]), padding_idx=1.0),
)
_embedding.samples(*SAMPLES)


@op(dtype=keep, skip="ids", needs="integer ids, and a weight with a row for each")
def _sparse_embedding(xp: Any, weight: Array, ids: Array, /, *, padding_idx: Any = None) -> Array:
    return look_up("sparse_embedding", weight, ids, padding_idx)


@_sparse_embedding.vjp(0)
def _(xp: Any, g: Array, weight_shape: tuple[int, ...], ids: Array, *, padding_idx: int | None) -> Any:
    if not isinstance(g, np.ndarray):  # a tensor, whose gradient is recorded
        if padding_idx is not None:
            g = xp.where(xp.expand_dims(ids == padding_idx, axis=-1), 0.0, g)
        return xp.index_add(weight_shape, (ids,), g)
    flat, rows = np.reshape(ids, -1), np.reshape(g, (ids.size, weight_shape[1]))
    if padding_idx is not None:
        kept = flat != padding_idx
        flat, rows = flat[kept], rows[kept]
    return RowSparse.gather(weight_shape, flat, rows)


_sparse_embedding.kernel("cpu", *dtypes.ALL)(Kernel("embedding", "embedding"))
_sparse_embedding.samples(*SAMPLES)


def embedding(ids: Tensor, weight: Tensor, *, padding_idx: int | None = None, sparse: bool = False) -> Tensor:
    """Rows of a table: ``out[..., :] = weight[ids[...], :]``.

    The gradient of `weight` is the sum of the cotangents of each row's occurrences, in the order in which they occur:
    the same bits for every number of threads. Bengio et al., "A neural probabilistic language model", 2003.

    Parameters
    ----------
    ids : Tensor of int
        Any shape. Unlike an index, a negative one does not count from the end, but is refused: most often it marks
        padding, and would read the last row.
    weight : Tensor
        The table, (number of ids, features).
    padding_idx : int, optional
        The id whose row gets a gradient of 0, so that it stays as it is.
    sparse : bool
        Keep the gradient of a `weight` that is a leaf as the rows that were used, so that neither `backward` nor a step
        of `optim.SGD`, `Adam` or `AdamW` costs more where the table is larger. ``weight.grad`` shows, and computes
        with, the full one. Of all other rows the optimizer then leaves values and state alone, as
        ``torch.optim.SparseAdam`` does. Recorded gradients (``create_graph=True``) are full ones.

    Returns
    -------
    Tensor
        Of the shape of `ids` and a last axis of the features, in the dtype of `weight`.

    Raises
    ------
    IndexError
        For an id that is negative or has no row.
    DTypeError
        If `ids` are not integers.
    ShapeError
        If `weight` has not two axes.
    ValueError
        If `padding_idx` is no id.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> weight = mg.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> out = F.embedding(mg.tensor([1, 2, 1, 0]), weight, padding_idx=0)
    >>> out.tolist()
    [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]
    >>> out.sum().backward()
    >>> weight.grad.tolist()
    [[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]]
    """
    return (_sparse_embedding if sparse else _embedding)(weight, ids, padding_idx=padding_idx)

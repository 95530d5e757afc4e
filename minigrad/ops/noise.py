"""Noise that training adds. What is random is a function of (seed, counter, index), so backward makes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.backend.numpy import backend as cpu
from minigrad.errors import DTypeError, message
from minigrad.ops.conversion import asarray, new
from minigrad.ops.registry import Array, floating, op
from minigrad.ops.samples import case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["dropout", "keep_mask"]

# seed and counter, and the number of the first element where it is not 0: a rank has a part of what is drawn for all
Key = tuple[int, int] | tuple[int, int, int]

_draw_key: Callable[[], tuple[int, int]]
_rank = 0


def bind(draw_key: Callable[[], tuple[int, int]]) -> None:
    """Say where keys come from; ``minigrad.random``, which stands on the ops, names its default generator."""
    global _draw_key
    _draw_key = draw_key


def set_rank(rank: int) -> None:
    """Let this process drop what is the part of a rank, for good: see `next_key`."""
    global _rank
    _rank = rank


@contextmanager
def split_rank(rank: int, size: int) -> Iterator[None]:
    """Let each of `size` ranks, which have parts of one layer, drop by a pattern of its own in the block."""
    global _rank
    before, _rank = _rank, _rank * size + rank
    try:
        yield
    finally:
        _rank = before


def next_key(size: int) -> Key:
    """A key for so many elements, from the default generator.

    Where a batch is shared evenly by ranks whose generators are alike, and comes first among the axes, the ranks
    together drop what one process would.
    """
    seed, counter = _draw_key()
    return (seed, counter, _rank * size) if _rank else (seed, counter)


def keep_mask(shape: tuple[int, ...], seed: int, counter: int, rate: float, first: int = 0) -> Tensor:
    """Bools that are False at a probability of `rate`, each a function of (seed, counter, `first` + its index).

    Examples
    --------
    >>> import minigrad as mg
    >>> bool(mg.ops.keep_mask((4,), 1, 0, 0.0).all())
    True
    """
    return new(cpu.namespace.keep_mask(shape, seed, counter, rate, first))


def drop(xp: Any, x: Array, rate: float, key: Key) -> Array:
    """Zeros at a probability of `rate`, and what is kept scaled so that the mean stays."""
    seed, counter, *first = key
    return xp.where(xp.keep_mask(x.shape, seed, counter, rate, *first), x * (1 / (1 - rate) if rate < 1 else 0.0), 0.0)


@op(dtype=floating.but(kinds=dtypes.ALL - dtypes.COMPLEX), amp="widest")
def _dropout(xp: Any, x: Array, /, rate: float, key: Key) -> Array:
    return drop(xp, x, rate, key)


_dropout.vjp(0)(lambda xp, g, *, rate, key: drop(xp, g, rate, key))
_dropout.samples(
    case((8,), rate=0.5, key=(1, 2)),
    case((3, 4), rate=0.1, key=(3, 0)),
    case((), rate=0.5, key=(5, 6)),
    case((5, 3), rate=0.5, key=(5, 6, 10)),
    case((0, 3), rate=0.5, key=(7, 8)),
    case((4,), rate=1.0, key=(9, 1)),
    error(DTypeError, "dropout: got complex64, needs one of", np.ones(2, np.complex64), rate=0.5, key=(1, 2)),
)
_dropout.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("dropout", "dropout"))
_dropout.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("dropout", "dropout"))


def dropout(x: Tensor, rate: float = 0.5, *, training: bool = True, key: Key | None = None) -> Tensor:
    """Zero each element with probability `rate` and scale the others by ``1 / (1 - rate)``.

    The mask is never stored: backward draws it again, for any number of threads the same.

    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: a simple way to prevent neural
    networks from overfitting", 2014.

    Parameters
    ----------
    x : Tensor
        Any shape.
    rate : float
        The probability of a zero, 0 to 1.
    training : bool
        Without it, `x` comes back as it is.
    key : tuple of int, optional
        Seed and counter, as ``Generator.draw_key()`` gives them; by default the next ones of the default generator. A
        third number is that of the first element, where `x` is a part of what is dropped together.

    Returns
    -------
    Tensor
        Of the shape of `x`.

    Raises
    ------
    ValueError
        If `rate` is not between 0 and 1.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.dropout(mg.ones(8), 0.5, key=(1, 0)).shape
    (8,)
    """
    if not 0 <= rate <= 1:
        raise ValueError(message("dropout", "rate", rate, "a probability, 0 to 1"))
    if not training or rate == 0:
        return asarray(x)
    return _dropout(x, rate=float(rate), key=next_key(x.size) if key is None else key)

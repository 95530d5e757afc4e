"""Positions: what tells attention the order of its tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import ShapeError, describe, message
from minigrad.nn import init
from minigrad.nn.checks import as_tensor, extent, finite, positive
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["LearnedPositions", "RotaryPositions", "SinusoidalPositions", "alibi_slopes"]

# Where a sequence starts: one number for all, or one for each sequence of the batch.
Offset = int | Sequence[int] | Tensor | np.ndarray[Any, Any]

LARGEST = 1 << 16  # positions to keep numbers for; those of later ones are computed in every call
_NARROW = functools.partial(init.normal, std=0.02)


def alibi_slopes(num_heads: int, *, dtype: Any = None) -> Tensor:
    """The slopes of ALiBi: ``2 ** (-8 * h / heads)`` for head h = 1, 2, ..., heads.

    Where the number of heads is no power of 2, those of the power below it come first, then every other one of the
    power above it. O. Press, N. A. Smith, M. Lewis, "Train short, test long", 2022.

    Parameters
    ----------
    num_heads : int
        The number of heads.
    dtype : dtype, optional
        Float32 by default.

    Returns
    -------
    Tensor
        (num_heads,), for ``alibi_slopes=`` of `scaled_dot_product_attention`.

    Raises
    ------
    ShapeError
        If there is no head.

    Examples
    --------
    >>> from minigrad import nn
    >>> nn.alibi_slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    heads = extent("alibi_slopes", "num_heads", num_heads)
    power = 1 << (heads.bit_length() - 1)
    exponents = [8 * h / power for h in range(1, power + 1)] + [4 * h / power for h in range(1, 2 * power, 2)]
    return ops.asarray(np.array([2.0**-e for e in exponents[:heads]]), dtype=dtype or dtypes.default_float)


class Tables:
    """Numbers for the positions 0, 1, ..., computed in float64 as far as they are needed and kept.

    They belong to no state dict, and a copy of a module shares them.

    Parameters
    ----------
    compute : callable
        Gives the rows of an array of positions, float64.
    """

    def __init__(self, compute: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
        self.compute = compute
        self.kept: dict[Any, Tensor] = {}

    def rows(self, like: Tensor, offset: Offset, length: int, dtype: Any) -> Tensor:
        """Rows of the positions from `offset` on: (length, ...), or (batch, length, ...) for several offsets."""
        start = read_offset(offset, like)
        key = (dtype, like.device)
        table = self.kept.get(key)
        needed = int(np.max(start, initial=0)) + length
        if needed > LARGEST:
            places = np.arange(length) + (start if isinstance(start, int) else start[:, None])
            found = self.compute(places.reshape(-1))
            return ops.asarray(found.reshape(*places.shape, *found.shape[1:]), dtype=dtype, device=like.device)
        if table is None or table.shape[0] < needed:
            size = max(64, 1 << (needed - 1).bit_length())
            table = ops.asarray(self.compute(np.arange(size)), dtype=dtype, device=like.device)
            self.kept[key] = table
        if isinstance(start, int):
            return table[start : start + length]
        return ops.take(table, ops.asarray(start[:, None] + np.arange(length), device=like.device), axis=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Tables, (self.compute,)


def read_offset(offset: Offset, x: Tensor) -> int | np.ndarray[Any, Any]:
    """An offset of x as an int, or an array of them, none negative."""
    found = np.asarray(offset.to("cpu").numpy() if isinstance(offset, Tensor) else offset)
    if found.dtype.kind not in "iu" or found.ndim > 1:
        raise TypeError(message("positions", "offset", offset, "an integer, or one for each sequence of the batch"))
    if found.ndim and len(found) not in (1, x.shape[0] if x.ndim > 2 else 1):
        need = f"one integer, or one for each sequence of x {describe(x)}"
        raise ShapeError(message("positions", "offset", f"{len(found)} integers", need))
    if found.size and found.min() < 0:
        raise ValueError(message("positions", "offset", f"{found.min()}", "a position of at least 0"))
    return found if found.ndim else int(found)


def _sinusoids(features: int, base: float, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    angles = positions[:, None] / base ** (np.arange(0, features, 2) / features)
    table = np.empty((len(positions), features))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : features // 2])
    return table


class SinusoidalPositions(Module):
    """Add sines and cosines of the positions: ``sin(p / base ** (2 i / features))`` to feature 2 i, cos to 2 i + 1.

    There is nothing to learn, and no longest length. A. Vaswani et al., "Attention is all you need", 2017.

    Parameters
    ----------
    base : float
        The longest wave is ``2 * pi * base``.

    Raises
    ------
    ValueError
        If `base` is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> mg.round(nn.SinusoidalPositions()(mg.zeros((1, 3, 4))), 3)
    tensor([[[ 0.   ,  1.   ,  0.   ,  1.   ],
             [ 0.841,  0.54 ,  0.01 ,  1.   ],
             [ 0.909, -0.416,  0.02 ,  1.   ]]])
    """

    def __init__(self, *, base: float = 10_000.0) -> None:
        self.base = positive("SinusoidalPositions", "base", base)
        self._tables: dict[int, Tables] = {}

    def forward(self, x: Tensor, offset: Offset = 0) -> Tensor:
        """Add to x of shape (..., length, features), whose first token has the position `offset`.

        With one offset for each sequence x is (batch, length, features).
        """
        x = tokens("SinusoidalPositions", x)
        features = x.shape[-1]
        tables = self._tables.get(features)
        if tables is None:
            tables = self._tables[features] = Tables(functools.partial(_sinusoids, features, self.base))
        return x + tables.rows(x, offset, x.shape[-2], x.dtype)

    def extra_repr(self) -> str:
        """The base, if it is not the paper's."""
        return "" if self.base == 10_000 else f"base={self.base:g}"


class LearnedPositions(Module):
    """Add a learned vector for each position, as in BERT and GPT-2.

    Parameters
    ----------
    max_length : int
        The number of positions.
    features : int, optional
        Read from the first batch where it is left out.
    initializer : str or callable, optional
        What fills the weight; a normal distribution with a deviation of 0.02 by default.
    dtype : dtype, optional
        Of the weight; float32 by default.

    Attributes
    ----------
    weight : Parameter
        (max_length, features).

    Raises
    ------
    ShapeError
        If `max_length` or `features` is not positive, or a sequence goes beyond `max_length`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.LearnedPositions(16, 4)
    >>> x = mg.zeros((2, 3, 4))
    >>> bool((layer(x, offset=5)[0] == layer.weight[5:8]).all())
    True
    """

    def __init__(
        self,
        max_length: int,
        features: int | None = None,
        *,
        initializer: str | Callable[..., Any] | None = None,
        dtype: Any = None,
    ) -> None:
        self.max_length = extent("LearnedPositions", "max_length", max_length)
        self.weight = Parameter.deferred((self.max_length, None), init.get(initializer or _NARROW), dtype=dtype)
        if features is not None:
            self.weight.initialize((self.max_length, extent("LearnedPositions", "features", features)))

    def forward(self, x: Tensor, offset: Offset = 0) -> Tensor:
        """Add to x of shape (..., length, features), whose first token has the position `offset`.

        With one offset for each sequence x is (batch, length, features).
        """
        x = tokens("LearnedPositions", x)
        start, length = read_offset(offset, x), x.shape[-2]
        last = int(np.max(start, initial=0)) + length
        if last > self.max_length:
            need = f"at most {self.max_length} positions, max_length of the layer"
            raise ShapeError(message("LearnedPositions", "x", f"{x.dtype} {x.shape} up to position {last - 1}", need))
        known = self.weight.shape[1]
        if not x.shape[-1] or (known and x.shape[-1] != known):
            raise ShapeError(message("LearnedPositions", "x", x, f"shape (..., length, {known or 'features'})"))
        self.weight.initialize((self.max_length, x.shape[-1]))
        if isinstance(start, int):
            return x + self.weight[start : start + length]
        return x + ops.embedding(ops.asarray(start[:, None] + np.arange(length), device=x.device), self.weight)

    def extra_repr(self) -> str:
        """Positions and features."""
        return f"{self.max_length}, {self.weight.shape[1] or '?'}"


def _turns(frequencies: tuple[float, ...], positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    angles = positions[:, None] * np.array(frequencies)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


class RotaryPositions(Module):
    """Turn pairs of features of queries and keys by angles that grow with the position: ``p / base ** (2 i / n)``.

    See `minigrad.nn.functional.rotary_embedding`. Pass it as ``rotary=`` to `MultiHeadAttention`. Angles are computed
    in float64, so that they are right at any position. J. Su et al., "RoFormer", 2021.

    Parameters
    ----------
    base : float
        Theta of the formula.
    rotary_dim : int, optional
        The number n of features of a head that are turned, even; all by default. Others pass unchanged.
    interleaved : bool
        Pairs are neighbours (GPT-J, RoFormer); by default they are a half apart (GPT-NeoX, Llama).
    scaling : float
        Divides the positions, so that a model sees more of them (position interpolation, S. Chen et al., 2023).
    frequencies : sequence of float, optional
        The angles of position 1, n / 2 of them, in place of those of `base`; for other ways to scale.

    Raises
    ------
    ShapeError
        If the number of features to turn is odd, or larger than that of a head.
    ValueError
        If `base` or `scaling` is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> rotary, query, key = nn.RotaryPositions(), mg.ones((1, 1, 4, 6)), mg.ones((1, 1, 4, 6))
    >>> near, far = [rotary(query, offset=p) @ rotary(key, offset=p).mT for p in (0, 1000)]
    >>> bool((abs(near - far) < 1e-5).all())
    True
    """

    def __init__(
        self,
        *,
        base: float = 10_000.0,
        rotary_dim: int | None = None,
        interleaved: bool = False,
        scaling: float = 1.0,
        frequencies: Sequence[float] | None = None,
    ) -> None:
        self.base = positive("RotaryPositions", "base", base)
        self.scaling = positive("RotaryPositions", "scaling", scaling)
        self.interleaved = bool(interleaved)
        if frequencies is not None and not isinstance(frequencies, Iterable):
            raise TypeError(message("RotaryPositions", "frequencies", frequencies, "a sequence of numbers"))
        self.frequencies = (
            None if frequencies is None else tuple(finite("RotaryPositions", "frequencies", f) for f in frequencies)
        )
        if self.frequencies is not None:
            if rotary_dim not in (None, 2 * len(self.frequencies)):
                need = f"{2 * len(self.frequencies)}, two features for each of the frequencies"
                raise ShapeError(message("RotaryPositions", "rotary_dim", rotary_dim, need))
            rotary_dim = 2 * len(self.frequencies)
        self.rotary_dim = None if rotary_dim is None else self._even("rotary_dim", rotary_dim)
        self._tables: dict[int, Tables] = {}

    @staticmethod
    def _even(name: str, features: int) -> int:
        if extent("RotaryPositions", name, features) % 2:
            raise ShapeError(message("RotaryPositions", name, f"{features}", "an even number of features"))
        return features

    def forward(self, x: Tensor, offset: Offset = 0) -> Tensor:
        """Turn x of shape (..., length, features), whose first token has the position `offset`.

        With one offset for each sequence x is (batch, heads, length, features).
        """
        x = tokens("RotaryPositions", x)
        features = self.rotary_dim or self._even("features of x", x.shape[-1])
        tables = self._tables.get(features)
        if tables is None:
            given = self.frequencies or tuple(self.base ** (-i / features) for i in range(0, features, 2))
            tables = self._tables[features] = Tables(functools.partial(_turns, tuple(f / self.scaling for f in given)))
        rows = tables.rows(x, offset, x.shape[-2], x.dtype if x.dtype == dtypes.float64 else dtypes.float32)
        if rows.ndim == 4:
            rows = rows[:, None]  # all heads of a sequence
        return ops.rotary_embedding(x, rows[..., 0, :], rows[..., 1, :], interleaved=self.interleaved)

    def extra_repr(self) -> str:
        """What is not the default."""
        parts = [] if self.base == 10_000 or self.frequencies else [f"base={self.base:g}"]
        parts += [] if self.rotary_dim is None else [f"rotary_dim={self.rotary_dim}"]
        parts += ["interleaved"] if self.interleaved else []
        return ", ".join(parts + ([f"scaling={self.scaling:g}"] if self.scaling != 1 else []))


def tokens(who: str, x: Tensor) -> Tensor:
    """An input with a length and features."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(message(who, "x", x, "shape (..., length, features)"))
    return x if x.dtype in dtypes.FLOATING else ops.astype(x, dtypes.default_float)

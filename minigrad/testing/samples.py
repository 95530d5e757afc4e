"""Draw the inputs that `minigrad.ops.samples` describes."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.ops.samples import A, Case

__all__ = ["LAYOUTS", "draw", "draw_case", "relayout", "seed_of"]

Array = np.ndarray[Any, Any]
DISTANCE = 0.1  # from points to avoid, and between distinct values
CELLS = 64
LAYOUTS = ("C", "F", "strided", "negative", "readonly")


def seed_of(name: str, number: int = 0) -> int:
    """A seed that depends on a name and a number only, so that adding an op or a case changes no other's inputs."""
    return zlib.crc32(f"{name}/{number}".encode())


def draw_case(case: Case, seed: int, dtype: dtypes.DType = dtypes.float64) -> list[Any]:
    """The inputs of a case: arrays where it describes them, the values it gives otherwise.

    Parameters
    ----------
    case : Case
        The case.
    seed : int
        The same seed draws the same numbers, whatever the dtype.
    dtype : dtype
        Of the floating inputs.

    Returns
    -------
    list
        One value an input.

    Examples
    --------
    >>> from minigrad.ops.samples import A, case
    >>> from minigrad.testing.samples import draw_case
    >>> x, y = draw_case(case(A((2, 3), 1.0, 2.0), 5), seed=0)
    >>> x.shape, bool((x >= 1).all()), y
    ((2, 3), True, 5)
    """
    rng = np.random.default_rng(seed)
    count = sum(isinstance(i, A) for i in case.inputs)
    drawn: list[Any] = []
    number = 0
    for value in case.inputs:
        if isinstance(value, A):
            array = draw(value, rng, number, count)
            value = array.astype(dtype) if array.dtype == np.float64 else array
            number += 1
        drawn.append(value)
    return drawn


def draw(a: A, rng: np.random.Generator, number: int = 0, count: int = 1) -> Array:
    """One array; floating ones are float64.

    The values of input `number` of `count` lie in cells of their own, so that no two inputs come close: where
    two inputs tie, ops like maximum have a kink.
    """
    if a.kind == "bool":
        return np.asarray(rng.integers(0, 2, a.shape), np.bool_)
    if a.kind == "int":
        if a.form == "distinct":
            return rng.permutation(np.arange(int(a.low), int(a.high)))[: int(np.prod(a.shape))].reshape(a.shape)
        array = np.asarray(rng.integers(int(a.low), int(a.high), a.shape))
        return np.sort(array, axis=-1) if a.form == "sorted" else array
    if a.kind == "complex":
        return np.asarray(_spread(a, rng.random(a.shape)) + 1j * _spread(a, rng.random(a.shape)))
    if a.kind != "float":
        raise ValueError(f"samples: kind is {a.kind!r}, needs 'float', 'int', 'bool' or 'complex'")
    if a.form == "any":
        unit = rng.random(a.shape) * CELLS
        cell = np.floor(unit)
        return _spread(a, (cell + (number + 0.5 * (unit - cell)) / count) / CELLS)
    if a.form in ("distinct", "sorted"):
        array = _distinct(a, rng)
        return np.sort(array, axis=-1) if a.form == "sorted" else array
    if a.form in ("spd", "symmetric", "regular"):
        return _matrices(a, rng)
    raise ValueError(f"samples: form is {a.form!r}, needs one of any, distinct, sorted, spd, symmetric, regular")


def _spread(a: A, unit: Array) -> Array:
    """Map [0, 1) onto what is left of [low, high] when the surroundings of the points to avoid are cut out."""
    pieces, start = [], a.low
    for point in sorted(a.avoid):
        if point - DISTANCE > start:
            pieces.append((start, min(point - DISTANCE, a.high)))
        start = max(start, point + DISTANCE)
    if start < a.high or not pieces:
        pieces.append((start, a.high))
    lengths = np.array([max(end - begin, 0.0) for begin, end in pieces])
    ends = np.cumsum(lengths)
    if ends[-1] == 0.0 and a.high > a.low:
        raise ValueError(f"samples: nothing of [{a.low}, {a.high}] is left beside {a.avoid}")
    place = np.asarray(unit) * ends[-1]
    which = np.minimum(np.searchsorted(ends, place, side="right"), len(pieces) - 1)
    begins = np.array([begin for begin, _ in pieces])
    return np.asarray(begins[which] + place - (ends - lengths)[which])


def _distinct(a: A, rng: np.random.Generator) -> Array:
    """Values at least 0.1 apart, in random order; the range grows upward where it cannot hold them."""
    n = int(np.prod(a.shape))
    if n == 0:
        return np.zeros(a.shape)
    cut = 2 * DISTANCE * len(a.avoid)
    spacing = max((a.high - a.low - cut) / n, 1.2 * DISTANCE)
    high = max(a.high, a.low + n * spacing + cut)
    unit = (rng.permutation(n) * spacing + rng.uniform(0.0, spacing - DISTANCE, n)) / (n * spacing)
    return _spread(A(a.shape, a.low, high, a.avoid), unit).reshape(a.shape)


def _matrices(a: A, rng: np.random.Generator) -> Array:
    """Matrices from random rotations and eigenvalues (singular values) that are well apart."""
    *batch, m, n = a.shape
    if a.form != "regular" and m != n:
        raise ValueError(f"samples: {a.form} matrices are square, not {m} x {n}")
    k = min(m, n)
    if 0 in a.shape:
        return np.zeros(a.shape)
    left = np.linalg.qr(rng.standard_normal((*batch, m, m)))[0][..., :k]
    if a.form == "symmetric":
        low, high = a.low, a.high
    else:
        low, high = 0.5, 2.0
    spacing = (high - low) / k
    values = low + spacing * (np.arange(k) + rng.uniform(0.25, 0.75, (*batch, k)))
    if a.form == "symmetric":
        values = np.where(np.abs(values) < DISTANCE, DISTANCE, values)
    right = left if a.form != "regular" else np.linalg.qr(rng.standard_normal((*batch, n, n)))[0][..., :k]
    matrix = (left * values[..., None, :]) @ np.swapaxes(right, -1, -2)
    return np.asarray(matrix if a.form == "regular" else 0.5 * (matrix + np.swapaxes(matrix, -1, -2)))


def relayout(array: Array, layout: str) -> Array:
    """The same values in memory that is laid out otherwise.

    Parameters
    ----------
    array : numpy.ndarray
        Any array.
    layout : str
        ``"C"``, ``"F"`` (column-major), ``"strided"`` (every other element), ``"negative"`` (backwards along each
        axis), ``"readonly"``.

    Returns
    -------
    numpy.ndarray
        A copy.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.testing.samples import relayout
    >>> relayout(np.arange(3), "negative").strides
    (-8,)
    """
    if layout == "C":
        return np.array(array, order="C")
    if layout == "F":
        return np.array(array, order="F")
    if layout == "readonly":
        own = np.array(array)
        own.flags.writeable = False
        return own
    backwards = layout == "negative"
    room = np.zeros(tuple(n if backwards else 2 * n for n in array.shape), array.dtype)
    every: Any = slice(None, None, -1 if backwards else 2)
    view: Array = room[(*[every] * array.ndim, ...)]
    view[...] = array
    return view

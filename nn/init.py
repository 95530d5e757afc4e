"""Initializers: functions that fill a tensor in place and return it.

Each takes the tensor first and, where it draws, a `generator` by name (the default one otherwise). So any of them, bare
or with arguments bound by `functools.partial`, serves as a layer's ``kernel_initializer``, and so does its name.

The fans of a weight are counted on its last two axes, (in, out); the axes before them are a window (a convolution's),
whose size multiplies both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import ops, random
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.random import Generator
from minigrad.tensor import Tensor

__all__ = [
    "constant", "fans", "get", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "kaiming_normal",
    "kaiming_uniform", "lecun_normal", "lecun_uniform", "normal", "ones", "orthogonal", "truncated_normal", "uniform",
    "xavier_normal", "xavier_uniform", "zeros",
]  # fmt: skip

# the standard deviation that is left of 1 when a normal distribution is cut at two standard deviations
_CUT_AT_TWO = 0.87962566103423978


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """The fan-in and the fan-out of a weight of shape (*window, in, out).

    Raises
    ------
    ShapeError
        If there are fewer than two axes.

    Examples
    --------
    >>> from minigrad.nn import init
    >>> init.fans((64, 10)), init.fans((3, 3, 16, 32))
    ((64, 10), (144, 288))
    """
    if len(shape) < 2:
        hint = "Use init.uniform, init.normal or init.zeros for a vector"
        raise ShapeError(message("init", "shape", f"{tuple(shape)}", "at least two axes, the last two (in, out)", hint))
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def _fill(t: Tensor, values: Any) -> Tensor:
    with no_grad():
        t[...] = values
    return t


def zeros(t: Tensor) -> Tensor:
    """Fill with 0."""
    return constant(t, 0.0)


def ones(t: Tensor) -> Tensor:
    """Fill with 1."""
    return constant(t, 1.0)


def constant(t: Tensor, value: float) -> Tensor:
    """Fill with one value.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> init.constant(mg.zeros((2,)), 0.5)
    tensor([0.5, 0.5])
    """
    return _fill(t, value)


def uniform(t: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill from the uniform distribution on [low, high)."""
    draw = random.uniform if generator is None else generator.uniform
    return _fill(t, draw(t.shape, low, high, dtype=t.dtype))


def normal(t: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill from the normal distribution."""
    draw = random.normal if generator is None else generator.normal
    return _fill(t, draw(t.shape, mean, std, dtype=t.dtype))


def truncated_normal(
    t: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Fill from the normal distribution, restricted to [mean + low * std, mean + high * std].

    `low` and `high` count standard deviations. `std` is that of the distribution before the restriction.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> bool((abs(init.truncated_normal(mg.zeros((1000,)), std=0.02)) <= 0.04).all())
    True
    """
    draw = random.truncated_normal if generator is None else generator.truncated_normal
    return _fill(t, draw(t.shape, mean, std, low, high, dtype=t.dtype))


def glorot_uniform(t: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill from U(-a, a), ``a = gain * sqrt(6 / (fan_in + fan_out))``.

    It keeps the variance of activations and of gradients about equal from layer to layer: Glorot and Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> bool((abs(init.glorot_uniform(mg.zeros((4, 2)))) <= 1.0).all())
    True
    """
    fan_in, fan_out = fans(t.shape)
    return _symmetric(t, gain * math.sqrt(2.0 / max(1, fan_in + fan_out)), generator)


def glorot_normal(t: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill from N(0, std), ``std = gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    fan_in, fan_out = fans(t.shape)
    return normal(t, 0.0, gain * math.sqrt(2.0 / max(1, fan_in + fan_out)), generator=generator)


def he_uniform(t: Tensor, gain: float = math.sqrt(2.0), *, generator: Generator | None = None) -> Tensor:
    """Fill from U(-a, a), ``a = gain * sqrt(3 / fan_in)``.

    The gain of sqrt(2) makes up for the half that ReLU cuts off: He et al., "Delving deep into rectifiers", 2015.
    """
    return _symmetric(t, gain / math.sqrt(max(1, fans(t.shape)[0])), generator)


def he_normal(t: Tensor, gain: float = math.sqrt(2.0), *, generator: Generator | None = None) -> Tensor:
    """Fill from N(0, std), ``std = gain / sqrt(fan_in)`` (He et al., 2015)."""
    return normal(t, 0.0, gain / math.sqrt(max(1, fans(t.shape)[0])), generator=generator)


def lecun_uniform(t: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Fill from U(-a, a), ``a = sqrt(3 / fan_in)`` (LeCun et al., "Efficient BackProp", 1998)."""
    return he_uniform(t, 1.0, generator=generator)


def lecun_normal(t: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Fill from a normal distribution of variance 1 / fan_in, cut at two standard deviations.

    LeCun et al., "Efficient BackProp", 1998; self-normalizing networks (SELU) ask for it.
    """
    std = 1.0 / math.sqrt(max(1, fans(t.shape)[0]))
    return truncated_normal(t, 0.0, std / _CUT_AT_TWO, generator=generator)


def orthogonal(t: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with `gain` times a matrix whose columns (or rows, where these are fewer) are orthonormal.

    The axes before the last count as one. The matrix is the Q of a normal random matrix, its signs fixed by those of R,
    so that it is uniform over all such matrices: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks", 2014; Mezzadri, "How to generate random matrices from the classical compact groups",
    2007.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> q = init.orthogonal(mg.zeros((4, 3)))
    >>> bool(abs(q.T @ q - mg.eye(3)).max() < 1e-5)
    True
    """
    fans(t.shape)  # a vector is no matrix
    rows, columns = math.prod(t.shape[:-1]), t.shape[-1]
    draw = random.normal if generator is None else generator.normal
    tall = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(draw(tall, dtype="float64").numpy())
    q *= np.where(np.diagonal(r) < 0, -gain, gain)
    return _fill(t, ops.asarray((q if rows >= columns else q.T).reshape(t.shape)))


def _symmetric(t: Tensor, std: float, generator: Generator | None) -> Tensor:
    """Fill from the uniform distribution around 0 with a standard deviation."""
    bound = math.sqrt(3.0) * std
    return uniform(t, -bound, bound, generator=generator)


xavier_uniform, xavier_normal = glorot_uniform, glorot_normal
kaiming_uniform, kaiming_normal = he_uniform, he_normal

_BY_NAME: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        zeros, ones, uniform, normal, truncated_normal, glorot_uniform, glorot_normal, he_uniform, he_normal,
        lecun_uniform, lecun_normal, orthogonal,
    )
}  # fmt: skip


def get(initializer: str | Callable[..., Any]) -> Callable[..., Any]:
    """An initializer by its name; a function is given back as it is.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from minigrad.nn import init
    >>> init.get("he_normal") is init.he_normal
    True
    """
    found = _BY_NAME.get(initializer) if isinstance(initializer, str) else initializer
    if not callable(found):
        got = repr(initializer) if isinstance(initializer, str) else initializer
        need = f"a function that fills a tensor, or one of {', '.join(_BY_NAME)}"
        raise ValueError(message("init.get", "initializer", got, need))
    return found

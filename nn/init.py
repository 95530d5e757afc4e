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
    "calculate_gain", "constant", "dirac", "eye", "fans", "get", "glorot_normal", "glorot_uniform", "he_normal",
    "he_uniform", "identity", "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "normal",
    "ones", "orthogonal", "sparse", "truncated_normal", "uniform", "xavier_normal", "xavier_uniform", "zeros",
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
        t[...] = values.to(t.device) if isinstance(values, Tensor) else values
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


def he_uniform(
    t: Tensor, gain: float = math.sqrt(2.0), mode: str = "fan_in", *, generator: Generator | None = None
) -> Tensor:
    """Fill from U(-a, a), ``a = gain * sqrt(3 / fan)``.

    The gain of sqrt(2) makes up for the half that ReLU cuts off (`calculate_gain` has others). The fan-in keeps the
    size of activations, the fan-out (``mode="fan_out"``) that of gradients: He et al., "Delving deep into rectifiers",
    2015.

    Raises
    ------
    ValueError
        For another mode.
    """
    return _symmetric(t, gain / math.sqrt(_fan("he_uniform", t, mode)), generator)


def he_normal(
    t: Tensor, gain: float = math.sqrt(2.0), mode: str = "fan_in", *, generator: Generator | None = None
) -> Tensor:
    """Fill from N(0, std), ``std = gain / sqrt(fan)``; see `he_uniform`."""
    return normal(t, 0.0, gain / math.sqrt(_fan("he_normal", t, mode)), generator=generator)


def _fan(who: str, t: Tensor, mode: str) -> int:
    """The fan that a mode names, at least 1."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(message(f"init.{who}", "mode", repr(mode), "'fan_in' or 'fan_out'"))
    return max(1, fans(t.shape)[mode == "fan_out"])


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


def eye(t: Tensor, gain: float = 1.0) -> Tensor:
    """Fill a matrix with `gain` on its diagonal and 0 elsewhere, so that a layer passes on as many features as it can.

    Raises
    ------
    ShapeError
        If there are not two axes.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> init.eye(mg.ones((2, 3)))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    if t.ndim != 2:
        raise ShapeError(message("init.eye", "t", t, "two axes, (in, out)", "For a convolution, use init.dirac"))
    return _fill(t, ops.asarray(np.eye(t.shape[0], t.shape[1]) * gain))


def dirac(t: Tensor, groups: int = 1) -> Tensor:
    """Fill the weight of a convolution, (*window, in, out), so that it passes on as many channels as it can.

    The middle of the window is the identity, all else is 0; of an even extent it is the place right of the middle. With
    `groups`, each group of outputs passes on the first channels of its inputs. S. Zagoruyko, N. Komodakis, "DiracNets:
    training very deep neural networks without skip-connections", 2017.

    Raises
    ------
    ShapeError
        If there are fewer than three axes, or the outputs do not divide into groups.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> init.dirac(mg.ones((3, 2, 2)))[1]
    tensor([[1., 0.],
            [0., 1.]])
    """
    if t.ndim < 3:
        raise ShapeError(message("init.dirac", "t", t, "at least three axes, (*window, in, out)", "See init.eye"))
    features, outputs = t.shape[-2:]
    if groups < 1 or outputs % groups:
        raise ShapeError(message("init.dirac", "groups", groups, f"a number that divides the {outputs} outputs"))
    values = np.zeros(t.shape)
    each = outputs // groups
    kept = np.arange(min(features, each))
    middle: tuple[Any, ...] = tuple(extent // 2 for extent in t.shape[:-2])
    for group in range(groups):
        values[(*middle, kept, group * each + kept)] = 1.0
    return _fill(t, ops.asarray(values))


def sparse(t: Tensor, sparsity: float, std: float = 0.01, *, generator: Generator | None = None) -> Tensor:
    """Fill a matrix (in, out) from N(0, std) and set a share of the inputs of every output to 0, rounded up.

    J. Martens, "Deep learning via Hessian-free optimization", 2010.

    Raises
    ------
    ShapeError
        If there are not two axes.
    ValueError
        If the share is not between 0 and 1.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import init
    >>> (init.sparse(mg.ones((10, 3)), 0.25) == 0).sum(axis=0)
    tensor([3, 3, 3])
    """
    if t.ndim != 2:
        raise ShapeError(message("init.sparse", "t", t, "two axes, (in, out)"))
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(message("init.sparse", "sparsity", sparsity, "a share, 0 to 1"))
    rows, columns = t.shape
    zero = math.ceil(sparsity * rows)
    draw = random.normal if generator is None else generator.normal
    shuffle = random.uniform if generator is None else generator.uniform
    values = draw((rows, columns), 0.0, std, dtype="float64").numpy().copy()
    ranks = np.argsort(shuffle((rows, columns), 0.0, 1.0, dtype="float64").numpy(), axis=0)
    values[ranks[:zero], np.arange(columns)] = 0.0
    return _fill(t, ops.asarray(values))


def calculate_gain(activation: str, slope: float | None = None) -> float:
    """What weights are multiplied by so that the activation leaves the size of activations as it is.

    1 for ``"linear"``, ``"sigmoid"`` and convolutions, 5/3 for ``"tanh"``, sqrt(2) for ``"relu"``,
    ``sqrt(2 / (1 + slope**2))`` for ``"leaky_relu"`` (slope 0.01 by default), 3/4 for ``"selu"``: the recommended
    values of PyTorch.

    Raises
    ------
    ValueError
        For an activation without a known gain.

    Examples
    --------
    >>> from minigrad.nn import init
    >>> round(init.calculate_gain("relu"), 4), init.calculate_gain("leaky_relu", 1.0)
    (1.4142, 1.0)
    """
    if activation == "leaky_relu":
        negative = 0.01 if slope is None else slope
        return math.sqrt(2.0 / (1.0 + negative * negative))
    if slope is not None:
        raise ValueError(message("init.calculate_gain", "slope", slope, f"None for {activation!r}"))
    if activation not in _GAINS:
        need = f"one of {', '.join(_GAINS)}, leaky_relu"
        raise ValueError(message("init.calculate_gain", "activation", repr(activation), need))
    return _GAINS[activation]


_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0), "selu": 0.75,
}  # fmt: skip


def _symmetric(t: Tensor, std: float, generator: Generator | None) -> Tensor:
    """Fill from the uniform distribution around 0 with a standard deviation."""
    bound = math.sqrt(3.0) * std
    return uniform(t, -bound, bound, generator=generator)


xavier_uniform, xavier_normal = glorot_uniform, glorot_normal
kaiming_uniform, kaiming_normal = he_uniform, he_normal
identity = eye

_BY_NAME: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        zeros, ones, uniform, normal, truncated_normal, glorot_uniform, glorot_normal, he_uniform, he_normal,
        lecun_uniform, lecun_normal, orthogonal, eye, dirac,
    )
} | {
    "xavier_uniform": xavier_uniform, "xavier_normal": xavier_normal,
    "kaiming_uniform": kaiming_uniform, "kaiming_normal": kaiming_normal, "identity": eye,
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

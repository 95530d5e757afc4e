"""Activations: elementwise nonlinear functions of neural networks, each stable over the whole range of its dtype."""

from __future__ import annotations

import math
from typing import Any

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, message
from minigrad.ops.registry import Array, floating, op, promote
from minigrad.ops.samples import A, case, error, unary

__all__ = [
    "elu", "erf", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "log_sigmoid", "mish", "relu", "selu", "sigmoid",
    "silu", "softplus",
]  # fmt: skip

real = floating.but(kinds=dtypes.ALL - dtypes.COMPLEX)
EXTREME = case([-3e38, -1e4, -88.0, 0.0, 88.0, 1e4, 3e38])


@op(dtype=real, ref="scipy.special.erf", amp="widest")
def erf(xp: Any, x: Array, /) -> Array:
    """Error function ``2 / sqrt(pi) * integral of exp(-t**2) from 0 to x``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.erf(mg.tensor([0.0, 1.0])), 4)
    tensor([0.    , 0.8427])
    """
    return xp.erf(x)


erf.vjp(0)(lambda xp, g, x: 2 / math.sqrt(math.pi) * g * xp.exp(-x * x))
erf.samples(*unary())


@op(dtype=real, ref="scipy.special.expit", amp="widest")
def sigmoid(xp: Any, x: Array, /) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.sigmoid(mg.tensor([0.0, 1.0, -100.0])), 4)
    tensor([0.5   , 0.7311, 0.    ])
    """
    return xp.sigmoid(x)


sigmoid.vjp(0)(lambda xp, g, out: g * out * (1 - out))
sigmoid.samples(*unary())


@op(dtype=real, amp="float32")
def softplus(xp: Any, x: Array, /) -> Array:
    """``log(1 + exp(x))``, a smooth relu.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.softplus(mg.tensor([0.0, 100.0])), 4)
    tensor([  0.6931, 100.    ])
    """
    return xp.softplus(x)


softplus.vjp(0)(lambda xp, g, x: g * xp.sigmoid(x))
softplus.samples(*unary())


@op(dtype=real, ref="scipy.special.log_expit", amp="float32")
def log_sigmoid(xp: Any, x: Array, /) -> Array:
    """``log(sigmoid(x))`` without underflow.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.log_sigmoid(mg.tensor([0.0, -100.0])), 4)
    tensor([  -0.6931, -100.    ])
    """
    return -xp.softplus(-x)


log_sigmoid.vjp(0)(lambda xp, g, x: g * xp.sigmoid(-x))
log_sigmoid.samples(*unary())


@op(dtype=promote.but(kinds=dtypes.INTEGER | dtypes.FLOATING), amp="widest")
def relu(xp: Any, x: Array, /) -> Array:
    """``maximum(x, 0)``; its derivative at 0 is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.relu(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return xp.maximum(x, 0)


relu.vjp(0)(lambda xp, g, out: xp.where(out > 0, g, 0.0))
relu.samples(*unary(avoid=(0.0,)), case(A((3,), -3, 4, kind="int")), error(DTypeError, "relu", A((2,), kind="bool")))


@op(dtype=real, amp="widest")
def leaky_relu(xp: Any, x: Array, /, negative_slope: float = 0.01) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``; its derivative at 0 is the slope.

    Parameters
    ----------
    x : Tensor
        Any shape.
    negative_slope : float
        The slope for negative values.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.leaky_relu(mg.tensor([-1.0, 2.0]), 0.1)
    tensor([-0.1,  2. ])
    """
    return xp.where(x > 0, x, negative_slope * x)


leaky_relu.vjp(0)(lambda xp, g, x, *, negative_slope: xp.where(x > 0, g, negative_slope * g))
leaky_relu.samples(*unary(avoid=(0.0,)), case(A((3,), avoid=(0.0,)), negative_slope=0.3))


@op(dtype=real, amp="widest")
def elu(xp: Any, x: Array, /, alpha: float = 1.0) -> Array:
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)``; its derivative at 0 is `alpha`.

    D.-A. Clevert, T. Unterthiner, S. Hochreiter, "Fast and accurate deep network learning by exponential linear
    units", 2016.

    Parameters
    ----------
    x : Tensor
        Any shape.
    alpha : float
        Minus the limit for very negative values.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.elu(mg.tensor([-1.0, 2.0])), 4)
    tensor([-0.6321,  2.    ])
    """
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


@elu.vjp(0)
def _(xp: Any, g: Array, x: Array, *, alpha: float) -> Array:
    return xp.where(x > 0, g, alpha * g * xp.exp(xp.minimum(x, 0)))


elu.samples(*unary(avoid=(0.0,)), case(A((3,), avoid=(0.0,)), alpha=0.5), EXTREME)

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@op(dtype=real, amp="widest")
def selu(xp: Any, x: Array, /) -> Array:
    """Scaled elu with a fixed point at mean 0 and variance 1: ``1.0507 * elu(x, 1.6733)``; at 0 its left derivative.

    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", 2017.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.selu(mg.tensor([-1.0, 2.0])), 4)
    tensor([-1.1113,  2.1014])
    """
    return xp.where(x > 0, SELU_SCALE * x, SELU_SCALE * SELU_ALPHA * xp.expm1(xp.minimum(x, 0)))


@selu.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    return xp.where(x > 0, SELU_SCALE * g, SELU_SCALE * SELU_ALPHA * g * xp.exp(xp.minimum(x, 0)))


selu.samples(*unary(avoid=(0.0,)), EXTREME)


@op(dtype=real, amp="widest")
def _gelu(xp: Any, x: Array, /) -> Array:
    return 0.5 * x * (1 + xp.erf(x / math.sqrt(2)))


@_gelu.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    below = 0.5 * (1 + xp.erf(x / math.sqrt(2)))
    density = xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return g * (below + x * density)


_gelu.samples(*unary(), EXTREME)

GELU_SCALE, GELU_CUBIC = math.sqrt(8 / math.pi), 0.044715
GELU_FLAT = 30.0  # beyond it the gate is 0 or 1 in every dtype, and cubes cannot overflow before it


def gelu_gate(xp: Any, x: Array) -> tuple[Array, Array]:
    """``0.5 * (1 + tanh(u)) = sigmoid(2 * u)`` with ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)``, and ``2 * u``."""
    twice = GELU_SCALE * x * (1 + GELU_CUBIC * x * x)
    return xp.sigmoid(twice), twice


@op(dtype=real, amp="widest")
def _gelu_tanh(xp: Any, x: Array, /) -> Array:
    return x * gelu_gate(xp, x)[0]


@_gelu_tanh.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    x = xp.clip(x, -GELU_FLAT, GELU_FLAT)
    gate, twice = gelu_gate(xp, x)
    slope = gate * xp.sigmoid(-twice)  # 1 - gate would lose its digits
    return g * (gate + x * slope * GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x))


_gelu_tanh.samples(*unary(), EXTREME)


def gelu(x: Any, /, approximate: str = "none") -> Any:
    """Gaussian error linear unit ``x * Phi(x)``, with the standard normal distribution function Phi.

    D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", 2016.

    Parameters
    ----------
    x : Tensor
        Any shape.
    approximate : str
        ``"none"``, or ``"tanh"``: ``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        For another word.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.gelu(mg.tensor([-1.0, 1.0])), 4)
    tensor([-0.1587,  0.8413])
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(message("gelu", "approximate", repr(approximate), "'none' or 'tanh'"))
    return _gelu(x) if approximate == "none" else _gelu_tanh(x)


@op(dtype=real, amp="widest")
def silu(xp: Any, x: Array, /) -> Array:
    """``x * sigmoid(x)``, also known as swish.

    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", 2018.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.silu(mg.tensor([-1.0, 1.0])), 4)
    tensor([-0.2689,  0.7311])
    """
    return x * xp.sigmoid(x)


@silu.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    s = xp.sigmoid(x)
    return g * (s + x * s * (1 - s))


silu.samples(*unary(), EXTREME)


@op(dtype=real, amp="widest")
def mish(xp: Any, x: Array, /) -> Array:
    """``x * tanh(softplus(x))``.

    D. Misra, "Mish: a self regularized non-monotonic activation function", 2020.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.round(mg.mish(mg.tensor([-1.0, 1.0])), 4)
    tensor([-0.3034,  0.8651])
    """
    return x * xp.tanh(xp.softplus(x))


@mish.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    x = xp.clip(x, -1000.0, 1000.0)  # straight beyond, in every dtype, and the products of order 2 stay finite
    t = xp.tanh(xp.softplus(x))
    return g * (t + x * xp.sigmoid(x) * (1 - t * t))


mish.samples(*unary(), EXTREME)


@op(dtype=real, amp="widest")
def hardsigmoid(xp: Any, x: Array, /) -> Array:
    """``clip(x / 6 + 1/2, 0, 1)``; its derivative at -3 and 3 is 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.hardsigmoid(mg.tensor([-4.0, 0.0, 1.5]))
    tensor([0.  , 0.5 , 0.75])
    """
    return xp.clip(x / 6 + 0.5, 0.0, 1.0)


hardsigmoid.vjp(0)(lambda xp, g, x: xp.where(xp.abs(x) < 3, g / 6, 0.0))
hardsigmoid.samples(*unary(-5.0, 5.0, avoid=(-3.0, 3.0)), EXTREME)


@op(dtype=real, amp="widest")
def hardswish(xp: Any, x: Array, /) -> Array:
    """``x * clip(x / 6 + 1/2, 0, 1)``; its derivative at -3 is 0, at 3 it is 1.

    A. Howard et al., "Searching for MobileNetV3", 2019.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.hardswish(mg.tensor([-1.5, 1.5, 4.0]))
    tensor([-0.375,  1.125,  4.   ])
    """
    return x * xp.clip(x / 6 + 0.5, 0.0, 1.0)


@hardswish.vjp(0)
def _(xp: Any, g: Array, x: Array) -> Array:
    return xp.where(x >= 3, g, xp.where(x > -3, g * (x / 3 + 0.5), 0.0))


hardswish.samples(*unary(-5.0, 5.0, avoid=(-3.0, 3.0)), EXTREME)

for function in (
    elu, erf, _gelu, _gelu_tanh, hardswish, leaky_relu, log_sigmoid, mish, relu, selu, sigmoid, silu, softplus,
):  # fmt: skip
    function.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("elementwise", function.name))
    function.kernel("cpu", dtypes.float32, dtypes.float64, vjp=0)(Kernel("elementwise", f"{function.name}_vjp"))

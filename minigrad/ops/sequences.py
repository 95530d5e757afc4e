"""Recurrent layers as functions: one layer, one direction, all steps of a batch of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.conversion import as_operand, astype
from minigrad.ops.creation import zeros
from minigrad.ops.datatypes import result_type
from minigrad.ops.manipulation import permute_dims, reshape
from minigrad.ops.matmul import linear
from minigrad.ops.ranges import arange
from minigrad.ops.recurrent import ACTIVATIONS, _gru, _lstm, _rnn
from minigrad.ops.registry import Op
from minigrad.ops.searching import where

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["gru", "lstm", "rnn"]


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    lengths: Any = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Plain recurrent layer, ``h = activation(x @ weight_ih + bias_ih + h @ weight_hh + bias_hh)`` at every step.

    J. L. Elman, "Finding structure in time", 1990. The step loop is one op, with backpropagation through time as its
    rule.

    Parameters
    ----------
    x : Tensor
        ``(batch, length, features)``.
    weight_ih, weight_hh : Tensor
        ``(features, units)`` and ``(units, units)``: PyTorch's, transposed.
    bias_ih, bias_hh : Tensor, optional
        ``(units,)``.
    hidden : Tensor, optional
        The state to start from, ``(batch, units)``; zeros by default.
    lengths : Tensor of int, optional
        ``(batch,)``: how many steps of each sequence count. Beyond them outputs are 0, whatever `x` holds, and the
        state stays that of the last valid step.
    activation : str
        ``"tanh"`` or ``"relu"``.
    reverse : bool
        Go from the last (valid) step to the first. The outputs remain in the order of `x`.

    Returns
    -------
    tuple of Tensor
        The outputs ``(batch, length, units)`` and the last state ``(batch, units)``.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If lengths are not integers.
    ValueError
        For a length that is negative or too large, or another activation.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> one = mg.ones((1, 1))
    >>> out, last = F.rnn(mg.ones((1, 3, 1)), one, one, activation="relu")
    >>> out.tolist(), last.tolist()
    ([[[1.0], [2.0], [3.0]]], [[3.0]])
    """
    if activation not in ACTIVATIONS:
        raise ValueError(message("rnn", "activation", repr(activation), f"one of {', '.join(ACTIVATIONS)}"))
    pre, weight, (h,), ends = prepare("rnn", x, weight_ih, weight_hh, bias_ih, bias_hh, (("hidden", hidden),), lengths)
    results: Any = _rnn(pre, weight, h, ends, activation=activation, reverse=bool(reverse))
    out, last = rounded(results, pre, weight, h)
    return permute_dims(out, (1, 0, 2)), last


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory, ``c = f * c + i * g`` and ``h = o * tanh(c)`` at every step.

    The gates are ``[i, f, g, o] = x @ weight_ih + bias_ih + h @ weight_hh + bias_hh``, in this order, the order of
    PyTorch and Keras; i, f and o (input, forget, output) go through a sigmoid, g through tanh. S. Hochreiter,
    J. Schmidhuber, "Long short-term memory", 1997; F. A. Gers et al., "Learning to forget", 2000.

    Parameters
    ----------
    x : Tensor
        ``(batch, length, features)``.
    weight_ih, weight_hh : Tensor
        ``(features, 4 * units)`` and ``(units, 4 * units)``: PyTorch's, transposed.
    bias_ih, bias_hh : Tensor, optional
        ``(4 * units,)``.
    hidden, cell : Tensor, optional
        The state to start from, ``(batch, units)`` each; zeros by default.
    lengths : Tensor of int, optional
        ``(batch,)``: how many steps of each sequence count. Beyond them outputs are 0, whatever `x` holds, and the
        state stays that of the last valid step.
    reverse : bool
        Go from the last (valid) step to the first. The outputs remain in the order of `x`.

    Returns
    -------
    tuple of Tensor
        The outputs ``(batch, length, units)``, the last hidden state and the last cell state, ``(batch, units)``.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If lengths are not integers.
    ValueError
        For a length that is negative or too large.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> out, hidden, cell = F.lstm(mg.ones((2, 5, 3)), mg.ones((3, 8)), mg.ones((2, 8)), lengths=[5, 4])
    >>> out.shape, hidden.shape, bool((out[1, 4] == 0).all()), bool((out[1, 3] == hidden[1]).all())
    ((2, 5, 2), (2, 2), True, True)
    """
    states = (("hidden", hidden), ("cell", cell))
    pre, weight, (h, c), ends = prepare("lstm", x, weight_ih, weight_hh, bias_ih, bias_hh, states, lengths)
    results: Any = _lstm(pre, weight, h, c, ends, reverse=bool(reverse))
    out, hidden, cell = rounded(results[:3], pre, weight, h, c)
    return permute_dims(out, (1, 0, 2)), hidden, cell


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit, ``h = (1 - z) * n + z * h`` at every step.

    With ``a = x @ weight_ih + bias_ih`` and ``b = h @ weight_hh + bias_hh``, each split into three in the order r, z,
    n (reset, update, new): ``r = sigmoid(a_r + b_r)``, ``z = sigmoid(a_z + b_z)``, ``n = tanh(a_n + r * b_n)``. The
    reset gate acts on the recurrent product, as in PyTorch, cuDNN and Keras (``reset_after=True``; Keras has z before
    r). K. Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

    Parameters
    ----------
    x : Tensor
        ``(batch, length, features)``.
    weight_ih, weight_hh : Tensor
        ``(features, 3 * units)`` and ``(units, 3 * units)``: PyTorch's, transposed.
    bias_ih, bias_hh : Tensor, optional
        ``(3 * units,)``.
    hidden : Tensor, optional
        The state to start from, ``(batch, units)``; zeros by default.
    lengths : Tensor of int, optional
        ``(batch,)``: how many steps of each sequence count. Beyond them outputs are 0, whatever `x` holds, and the
        state stays that of the last valid step.
    reverse : bool
        Go from the last (valid) step to the first. The outputs remain in the order of `x`.

    Returns
    -------
    tuple of Tensor
        The outputs ``(batch, length, units)`` and the last state ``(batch, units)``.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If lengths are not integers.
    ValueError
        For a length that is negative or too large.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> out, last = F.gru(mg.ones((2, 5, 3)), mg.ones((3, 6)), mg.ones((2, 6)), reverse=True)
    >>> out.shape, bool((out[:, 0] == last).all())
    ((2, 5, 2), True)
    """
    pre, weight, (h,), ends = prepare("gru", x, weight_ih, weight_hh, bias_ih, bias_hh, (("hidden", hidden),), lengths)
    bias = None if bias_hh is None else as_operand("gru", "bias_hh", bias_hh)
    results: Any = _gru(pre, weight, h, bias, ends, reverse=bool(reverse))
    out, last = rounded(results[:2], pre, weight, h)
    return permute_dims(out, (1, 0, 2)), last


GATES = {"rnn": 1, "lstm": 4, "gru": 3}
OPS: dict[str, Op[Any]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def prepare(
    who: str,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    states: tuple[tuple[str, Any], ...],
    lengths: Any,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
    """What the ops take: the input's share of all steps, the recurrent weight, the states and the lengths; checked."""
    x = as_operand(who, "x", x)
    wi, wh = as_operand(who, "weight_ih", weight_ih), as_operand(who, "weight_hh", weight_hh)
    gates = GATES[who]
    times = f"{gates} * units" if gates > 1 else "units"
    if x.ndim != 3:
        raise ShapeError(message(who, "x", x, "shape (batch, length, features)"))
    if wh.ndim != 2 or wh.shape[1] != gates * wh.shape[0]:
        raise ShapeError(message(who, "weight_hh", wh, f"shape (units, {times})"))
    if wi.shape != (x.shape[2], wh.shape[1]):
        need = f"shape {(x.shape[2], wh.shape[1])}, (features, {times}), as x is {tuple(x.shape)}"
        raise ShapeError(message(who, "weight_ih", wi, need))
    biases = []
    for name, given in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        bias = None if given is None else as_operand(who, name, given)
        if bias is not None and bias.shape != wh.shape[1:]:
            raise ShapeError(message(who, name, bias, f"shape {tuple(wh.shape[1:])}, ({times},)"))
        biases.append(bias)
    if who == "gru":
        biases[1] = None  # the reset gate acts on it
    parts = [b for b in biases if b is not None]
    bias = parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None
    shape = (x.shape[0], wh.shape[0])
    begin = []
    for name, given in states:
        state = zeros(shape, dtype=wh.dtype, device=wh.device) if given is None else as_operand(who, name, given)
        if state.shape != shape:
            raise ShapeError(message(who, name, state, f"shape {shape}, (batch, units)"))
        begin.append(state)
    ends = None if lengths is None else read_lengths(who, lengths, x.shape[0], x.shape[1])
    if ends is not None:  # a NaN in the padding would reach the gradient of weight_ih as 0 * NaN
        x = where(reshape(arange(x.shape[1], device=x.device) < reshape(ends, (-1, 1)), (*x.shape[:2], 1)), x, 0.0)
    wh, *begin = OPS[who].autocast(wh, *begin)
    return linear(permute_dims(x, (1, 0, 2)), wi, bias), wh, begin, ends


def read_lengths(who: str, lengths: Any, batch: int, steps: int) -> Tensor:
    """The lengths as int64, one a sequence."""
    found = as_operand(who, "lengths", lengths)
    if found.dtype not in dtypes.INTEGER:
        raise DTypeError(message(who, "lengths", found, "integers"))
    if found.shape != (batch,):
        raise ShapeError(message(who, "lengths", found, f"shape {(batch,)}, one length a sequence"))
    wrong = (found < 0) | (found > steps)
    if wrong.any():
        got = f"{found[wrong][0].item()} in one place"
        raise ValueError(message(who, "lengths", got, f"lengths from 0 to {steps}, the steps of x"))
    return astype(found, dtypes.int64, copy=False)


def rounded(results: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Any, ...]:
    """The results in the dtype of the inputs; the ops answer half types in float32."""
    dtype = result_type(*inputs)
    return tuple(astype(t, dtype, copy=False) for t in results) if dtype in dtypes.HALF else tuple(results)

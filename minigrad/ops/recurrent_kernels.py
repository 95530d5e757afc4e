"""Kernels of the recurrent ops: the steps by ``_core/loops/recurrent``, the gradient of the weight as one product."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core.cpu import Kernel
from minigrad.ops.recurrent import _gru, _lstm, _rnn, before
from minigrad.ops.registry import Array

__all__: list[str] = []

rnn_back, lstm_back, gru_back = (Kernel("recurrent", f"{name}_vjp") for name in ("rnn", "lstm", "gru"))
add_weight, column_sums = Kernel("matmul", "linear_vjp1"), Kernel("matmul", "linear_vjp2")


def plain(g: tuple[Array, ...]) -> tuple[Array, ...]:
    """The cotangents in C order; that of the outputs comes with batch and time exchanged."""
    return tuple(np.ascontiguousarray(each) for each in g)


def weight_gradient(starts: Array, da: Array, shape: tuple[int, ...]) -> Array:
    """The sum over steps and batch of ``starts.T @ da``."""
    found = add_weight(da, starts, shape)
    if found is NotImplemented:
        return starts.reshape(-1, starts.shape[2]).T @ da.reshape(-1, da.shape[2])
    return found


def rnn_vjp_cpu(
    g: tuple[Array, ...],
    weight: Array,
    hidden: Array,
    lengths: Array | None,
    out: tuple[Array, ...],
    *,
    activation: str,
    reverse: bool,
) -> Any:
    """Kernel of the rule of ``rnn``."""
    found = rnn_back(plain(g), weight, lengths, out, activation=activation, reverse=reverse)
    if found is NotImplemented:
        return found
    dpre, dh = found
    return dpre, weight_gradient(before(np, out[0], hidden, lengths, reverse), dpre, weight.shape), dh, None


def lstm_vjp_cpu(
    g: tuple[Array, ...],
    weight: Array,
    hidden: Array,
    cell: Array,
    lengths: Array | None,
    out: tuple[Array, ...],
    *,
    reverse: bool,
) -> Any:
    """Kernel of the rule of ``lstm``."""
    found = lstm_back(plain(g), weight, cell, lengths, out, reverse=reverse)
    if found is NotImplemented:
        return found
    dpre, dh, dc = found
    starts = before(np, out[0], hidden, lengths, reverse)
    return dpre, weight_gradient(starts, dpre, weight.shape), dh, dc, None


def gru_vjp_cpu(
    g: tuple[Array, ...],
    weight: Array,
    hidden: Array,
    bias: Array | None,
    lengths: Array | None,
    out: tuple[Array, ...],
    *,
    reverse: bool,
) -> Any:
    """Kernel of the rule of ``gru``."""
    starts = before(np, out[0], hidden, lengths, reverse)
    found = gru_back(plain(g), weight, lengths, out, starts, reverse=reverse)
    if found is NotImplemented:
        return found
    da, dpre, dh = found
    dbias = None if bias is None else column_sums(da)
    if dbias is NotImplemented:
        dbias = da.sum(axis=(0, 1))
    return dpre, weight_gradient(starts, da, weight.shape), dh, dbias, None


for _op, _rule, _name in ((_rnn, rnn_vjp_cpu, "rnn"), (_lstm, lstm_vjp_cpu, "lstm"), (_gru, gru_vjp_cpu, "gru")):
    _op.kernel("cpu", dtypes.float32, dtypes.float64)(Kernel("recurrent", _name))
    _op.kernel("cpu", dtypes.float32, dtypes.float64, vjp=-1)(_rule)

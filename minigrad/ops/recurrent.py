"""Recurrent layers over a whole sequence: one op a layer and direction, with backpropagation through time as its rule.

The ops take the input's share of every step, ``x @ weight_ih + bias``, as it is one product for all steps. Time is the
first axis. From step to step a sequence carries its state: where it has ended, the state stays what it was, the output
is 0, and nothing has a gradient. So in the reverse direction a sequence starts at its last valid step.
"""

from __future__ import annotations

from typing import Any

from minigrad.errors import ShapeError, message
from minigrad.ops.attention import unrounded
from minigrad.ops.registry import Array, op
from minigrad.ops.samples import A, case, error

__all__: list[str] = []  # the functions that users call are in minigrad/ops/sequences.py

ACTIVATIONS = ("tanh", "relu")
Sizes = tuple[int, int, int]


def sizes(who: str, pre: Array, weight: Array, states: dict[str, Array], lengths: Array | None, gates: int) -> Sizes:
    """Steps, batch and units; refuses shapes that do not fit together."""
    if pre.ndim != 3 or pre.shape[2] % gates:
        raise ShapeError(message(who, "pre", pre, f"shape (steps, batch, {gates} * units)"))
    steps, batch, units = pre.shape[0], pre.shape[1], pre.shape[2] // gates
    wanted: dict[str, tuple[Array, tuple[int, ...]]] = {"weight": (weight, (units, gates * units))}
    wanted |= {name: (state, (batch, units)) for name, state in states.items()}
    if lengths is not None:
        wanted["lengths"] = (lengths, (batch,))
    for name, (given, shape) in wanted.items():
        if given.shape != shape:
            raise ShapeError(message(who, name, given, f"shape {shape}, as pre is {tuple(pre.shape)}"))
    return steps, batch, units


def order(steps: int, reverse: bool) -> range:
    """The steps in the order in which they are taken."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def valid(xp: Any, lengths: Array | None, t: int) -> Array | None:
    """Which sequences have a step `t`, as a column; None for all."""
    return None if lengths is None else xp.expand_dims(lengths > t, axis=1)


def choose(xp: Any, mask: Array | None, x: Array, other: Any) -> Array:
    """`x` where the mask is True or there is none, else `other`."""
    return x if mask is None else xp.where(mask, x, other)


def stacked(xp: Any, parts: list[Array], reverse: bool, like: Array) -> Array:
    """The steps as one array, in the order of time; an empty one of the features of `like` where there are none."""
    if not parts:
        return xp.zeros((0, *like.shape), dtype=like.dtype)
    return xp.stack(parts[::-1] if reverse else parts)


def before(xp: Any, states: Array, first: Array, lengths: Array | None, reverse: bool) -> Array:
    """The state that each step started from; `states` are those after it, and `first` is that before all."""
    first = xp.expand_dims(first, axis=0)
    if not reverse:
        return xp.concat([first, states[:-1]]) if states.shape[0] else states
    moved = xp.concat([states[1:], first]) if states.shape[0] else states
    if lengths is None:
        return moved
    last = xp.expand_dims(xp.arange(states.shape[0]), axis=1) == lengths - 1
    return xp.where(xp.expand_dims(last, axis=2), first, moved)


def weight_gradient(xp: Any, h: Array, da: Array) -> Array:
    """The sum over steps and batch of ``h.T @ da``, as one product."""
    flat = xp.reshape(h, (h.shape[0] * h.shape[1], h.shape[2]))
    return xp.matmul(xp.matrix_transpose(flat), xp.reshape(da, (da.shape[0] * da.shape[1], da.shape[2])))


# ---- the plain recurrent layer ---------------------------------------------------------------------------------------


@op(
    dtype=unrounded,
    skip="lengths",
    needs="pre (steps, batch, units), weight (units, units), hidden (batch, units), lengths (batch,)",
    amp="half",
)
def _rnn(
    xp: Any,
    pre: Array,
    weight: Array,
    hidden: Array,
    lengths: Array | None = None,
    /,
    *,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[Array, Array]:
    if activation not in ACTIVATIONS:
        raise ValueError(message("rnn", "activation", repr(activation), f"one of {', '.join(ACTIVATIONS)}"))
    steps = sizes("rnn", pre, weight, {"hidden": hidden}, lengths, 1)[0]
    h, outs = hidden, []
    for t in order(steps, reverse):
        a = pre[t] + xp.matmul(h, weight)
        new = xp.tanh(a) if activation == "tanh" else xp.maximum(a, 0)
        mask = valid(xp, lengths, t)
        h = choose(xp, mask, new, h)
        outs.append(choose(xp, mask, new, 0.0))
    return stacked(xp, outs, reverse, hidden), h if steps else h * 1


@_rnn.vjp()
def _(
    xp: Any,
    g: tuple[Array, Array],
    weight: Array,
    hidden: Array,
    lengths: Array | None,
    out: tuple[Array, Array],
    *,
    activation: str,
    reverse: bool,
) -> tuple[Array | None, ...]:
    outs = out[0]
    slopes = 1 - outs * outs if activation == "tanh" else (outs > 0).astype(outs.dtype)
    turned = xp.matrix_transpose(weight)
    dh, das = g[1], []
    for t in order(outs.shape[0], not reverse):
        mask = valid(xp, lengths, t)
        da = choose(xp, mask, (dh + g[0][t]) * slopes[t], 0.0)
        dh = xp.matmul(da, turned) if mask is None else xp.matmul(da, turned) + xp.where(mask, 0.0, dh)
        das.append(da)
    dpre = stacked(xp, das, not reverse, hidden)
    return dpre, weight_gradient(xp, before(xp, outs, hidden, lengths, reverse), dpre), dh, None


# ---- long short-term memory ------------------------------------------------------------------------------------------


@op(
    dtype=unrounded,
    skip="lengths",
    needs="pre (steps, batch, 4 * units), weight (units, 4 * units), hidden and cell (batch, units), lengths (batch,)",
    amp="half",
)
def _lstm(
    xp: Any,
    pre: Array,
    weight: Array,
    hidden: Array,
    cell: Array,
    lengths: Array | None = None,
    /,
    *,
    reverse: bool = False,
) -> tuple[Array, ...]:
    """Outputs, the last hidden and cell state; and for backward the gates (input, forget, cell, output) and cells."""
    steps, _, n = sizes("lstm", pre, weight, {"hidden": hidden, "cell": cell}, lengths, 4)
    h, c = hidden, cell
    outs: list[Array] = []
    gates: list[Array] = []
    cells: list[Array] = []
    for t in order(steps, reverse):
        a = pre[t] + xp.matmul(h, weight)
        both, middle, o = xp.sigmoid(a[:, : 2 * n]), xp.tanh(a[:, 2 * n : 3 * n]), xp.sigmoid(a[:, 3 * n :])
        new_c = both[:, n:] * c + both[:, :n] * middle
        new_h = o * xp.tanh(new_c)
        mask = valid(xp, lengths, t)
        h, c = choose(xp, mask, new_h, h), choose(xp, mask, new_c, c)
        outs.append(choose(xp, mask, new_h, 0.0))
        gates.append(choose(xp, mask, xp.concat([both, middle, o], axis=1), 0.0))
        cells.append(c)
    if not steps:
        h, c = h * 1, c * 1
    empty = hidden if gates else xp.concat([hidden] * 4, axis=1)
    return (
        stacked(xp, outs, reverse, hidden), h, c, stacked(xp, gates, reverse, empty), stacked(xp, cells, reverse, cell),
    )  # fmt: skip


@_lstm.vjp()
def _(
    xp: Any,
    g: tuple[Array, ...],
    weight: Array,
    hidden: Array,
    cell: Array,
    lengths: Array | None,
    out: tuple[Array, ...],
    *,
    reverse: bool,
) -> tuple[Array | None, ...]:
    n = hidden.shape[1]
    outs, _, _, gates, cells = out
    g_outs, dh, dc, g_gates, g_cells = g
    turned = xp.matrix_transpose(weight)
    starts = before(xp, cells, cell, None, reverse)  # a cell stays what it was where its sequence has ended
    das = []
    for t in order(outs.shape[0], not reverse):
        mask = valid(xp, lengths, t)
        i, f, middle, o = (gates[t][:, k * n : (k + 1) * n] for k in range(4))
        above = xp.tanh(cells[t])
        new_dh, dc = dh + g_outs[t], dc + g_cells[t]
        new_dc = dc + new_dh * o * (1 - above * above)
        grown = xp.concat([new_dc * middle, new_dc * starts[t], new_dc * i, new_dh * above], axis=1) + g_gates[t]
        slopes = xp.concat([i * (1 - i), f * (1 - f), 1 - middle * middle, o * (1 - o)], axis=1)
        da = choose(xp, mask, grown * slopes, 0.0)
        dh = xp.matmul(da, turned) if mask is None else xp.matmul(da, turned) + xp.where(mask, 0.0, dh)
        dc = choose(xp, mask, new_dc * f, dc)
        das.append(da)
    dpre = stacked(xp, das, not reverse, gates[0] if das else xp.concat([hidden] * 4, axis=1))
    return dpre, weight_gradient(xp, before(xp, outs, hidden, lengths, reverse), dpre), dh, dc, None


# ---- gated recurrent unit --------------------------------------------------------------------------------------------


@op(
    dtype=unrounded,
    skip="lengths",
    needs="pre (steps, batch, 3 * units), weight (units, 3 * units), hidden (batch, units), bias (3 * units,), "
    "lengths (batch,)",
    amp="half",
)
def _gru(
    xp: Any,
    pre: Array,
    weight: Array,
    hidden: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    /,
    *,
    reverse: bool = False,
) -> tuple[Array, ...]:
    """Outputs and the last state; and for backward the gates (reset, update, new) and the state's share of new."""
    steps, _, n = sizes("gru", pre, weight, {"hidden": hidden}, lengths, 3)
    if bias is not None and bias.shape != (3 * n,):
        raise ShapeError(message("gru", "bias", bias, f"shape ({3 * n},), as pre is {tuple(pre.shape)}"))
    h = hidden
    outs: list[Array] = []
    gates: list[Array] = []
    for t in order(steps, reverse):
        a = xp.matmul(h, weight) if bias is None else xp.matmul(h, weight) + bias
        both, share = xp.sigmoid(pre[t][:, : 2 * n] + a[:, : 2 * n]), a[:, 2 * n :]
        middle = xp.tanh(pre[t][:, 2 * n :] + both[:, :n] * share)
        new = middle + both[:, n:] * (h - middle)
        mask = valid(xp, lengths, t)
        h = choose(xp, mask, new, h)
        outs.append(choose(xp, mask, new, 0.0))
        gates.append(choose(xp, mask, xp.concat([both, middle, share], axis=1), 0.0))
    empty = hidden if gates else xp.concat([hidden] * 4, axis=1)
    return stacked(xp, outs, reverse, hidden), h if steps else h * 1, stacked(xp, gates, reverse, empty)


@_gru.vjp()
def _(
    xp: Any,
    g: tuple[Array, ...],
    weight: Array,
    hidden: Array,
    bias: Array | None,
    lengths: Array | None,
    out: tuple[Array, ...],
    *,
    reverse: bool,
) -> tuple[Array | None, ...]:
    n = hidden.shape[1]
    outs, _, gates = out
    g_outs, dh, g_gates = g
    turned = xp.matrix_transpose(weight)
    starts = before(xp, outs, hidden, lengths, reverse)
    dpres, das = [], []
    for t in order(outs.shape[0], not reverse):
        mask = valid(xp, lengths, t)
        r, z, middle, share = (gates[t][:, k * n : (k + 1) * n] for k in range(4))
        g_r, g_z, g_middle, g_share = (g_gates[t][:, k * n : (k + 1) * n] for k in range(4))
        new_dh = dh + g_outs[t]
        a_middle = (new_dh * (1 - z) + g_middle) * (1 - middle * middle)
        a_r = (a_middle * share + g_r) * r * (1 - r)
        a_z = (new_dh * (starts[t] - middle) + g_z) * z * (1 - z)
        da = choose(xp, mask, xp.concat([a_r, a_z, a_middle * r + g_share], axis=1), 0.0)
        dh = choose(xp, mask, new_dh * z, dh) + xp.matmul(da, turned)
        das.append(da)
        dpres.append(choose(xp, mask, xp.concat([a_r, a_z, a_middle], axis=1), 0.0))
    empty = hidden if das else xp.concat([hidden] * 3, axis=1)
    dpre, dall = stacked(xp, dpres, not reverse, empty), stacked(xp, das, not reverse, empty)
    dbias = None if bias is None else xp.sum(dall, axis=(0, 1))
    return dpre, weight_gradient(xp, starts, dall), dh, dbias, None


LENGTHS = (A((3,), 0, 4, kind="int"), A((3,), 1, 3, kind="int"))

for _op, _gates, _states in ((_rnn, 1, 1), (_lstm, 4, 2), (_gru, 3, 1)):
    _pre, _weight, _hidden = A((3, 3, 2 * _gates), -1.0, 1.0), A((2, 2 * _gates), -1.0, 1.0), A((3, 2), -1.0, 1.0)
    _more = (None,) if _gates == 3 else ()
    _op.samples(
        *(case(_pre, _weight, *[_hidden] * _states, reverse=way) for way in (False, True)),
        *(
            case(_pre, _weight, *[_hidden] * _states, *_more, each, reverse=way)
            for each in LENGTHS
            for way in (False, True)
        ),
        case((0, 3, 2 * _gates), (2, 2 * _gates), *[(3, 2)] * _states),
        case((2, 0, 2 * _gates), (2, 2 * _gates), *[(0, 2)] * _states),
        case(A((1, 1, _gates)), A((1, _gates)), *[A((1, 1))] * _states),
        error(ShapeError, "pre is float64 (3, 2), needs shape (steps", (3, 2), (2, 2), *[(3, 2)] * _states),
        error(ShapeError, "weight is float64 (2, 2), needs shape (5", (1, 3, 5 * _gates), (2, 2), *[(3, 5)] * _states),
        error(ShapeError, "hidden is float64 (3, 3), needs shape (3, 2)", _pre, _weight, *[(3, 3)] * _states),
        error(
            ShapeError, "lengths is int64 (2,), needs shape (3,)", _pre, _weight, *[_hidden] * _states, *_more, [1, 2],
        ),
    )  # fmt: skip
_rnn.samples(
    case(A((3, 3, 2), 0.1, 1.0), A((2, 2), 0.1, 1.0), A((3, 2), 0.1, 1.0), activation="relu"),
    case(A((3, 3, 2), 0.1, 1.0), A((2, 2), 0.1, 1.0), A((3, 2), 0.1, 1.0), LENGTHS[0], activation="relu", reverse=True),
    error(
        ValueError, "rnn: activation is 'gelu', needs one of tanh, relu", (1, 1, 1), (1, 1), (1, 1), activation="gelu"
    ),
)
_gru.samples(
    *(case(A((3, 3, 6)), A((2, 6)), A((3, 2)), A((6,)), reverse=way) for way in (False, True)),
    case(A((3, 3, 6)), A((2, 6)), A((3, 2)), A((6,)), LENGTHS[1], reverse=True),
    error(ShapeError, "gru: bias is float64 (2,), needs shape (6,)", (3, 3, 6), (2, 6), (3, 2), (2,)),
)

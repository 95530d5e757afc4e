"""RNN, LSTM, GRU: recurrent layers over whole sequences, stacked and in both directions."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn.checks import check_options, extent, number
from minigrad.nn.extent_ties import Tie
from minigrad.nn.module import Module
from minigrad.nn.recurrent_cells import Cell, GRUCell, LSTMCell, RNNCell, refuse_pair
from minigrad.ops.conversion import as_operand
from minigrad.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN"]

State = Tensor | tuple[Tensor, ...]


class Recurrent(Module):
    """Base of the recurrent layers: a stack of cells in one or both directions, each run over all steps by one op.

    Attributes
    ----------
    cells : list of Cell
        One a layer.
    reverse_cells : list of Cell
        Those of the reverse direction, one a layer; empty without it.
    """

    cell_type: type[Cell]

    def __init__(
        self,
        units: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        return_sequences: bool = True,
        return_state: bool = False,
        in_features: int | None = None,
        **options: Any,
    ) -> None:
        who = type(self).__name__
        self.units, self.num_layers = extent(who, "units", units), extent(who, "num_layers", num_layers)
        self.bidirectional = bool(bidirectional)
        self.dropout = number(who, "dropout", dropout)
        if not 0.0 <= self.dropout <= 1.0:
            raise ValueError(message(who, "dropout", dropout, "a probability, 0 <= dropout <= 1"))
        check_options(who, options, self.cell_type, ("units", "in_features"))
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        if in_features is not None:
            in_features = extent(who, "in_features", in_features)
        features = [in_features] + [self.directions * self.units] * (self.num_layers - 1)
        self.cells = [self.cell_type(units, in_features=n, **options) for n in features]
        self.reverse_cells = [self.cell_type(units, in_features=n, **options) for n in features if bidirectional]

    @property
    def directions(self) -> int:
        """2 if there is a reverse direction, else 1."""
        return 2 if self.bidirectional else 1

    def _ties(self) -> list[Tie]:
        """Both directions read the same input."""
        return [[(cell.weight_ih, 0, 1) for cell in (self.cells[0], *self.reverse_cells[:1])]]

    @property
    def in_features(self) -> int | None:
        """Features of the input, None until they are known."""
        return self.cells[0].in_features

    def forward(self, x: Tensor, initial_state: State | None = None, *, lengths: Any = None) -> Any:
        """Run over x (batch, length, in_features); the class says what comes back.

        Parameters
        ----------
        x : Tensor
            ``(batch, length, in_features)``.
        initial_state : Tensor or pair of tensors, optional
            What `return_state` gives; zeros by default.
        lengths : Tensor of int, optional
            ``(batch,)``: how many steps of each sequence count.
        """
        x = ops.asarray(x)
        if x.ndim != 3 or not x.shape[2]:
            hint = "Without a batch, add its axis: x[None]" if x.ndim == 2 else ""
            raise ShapeError(message(type(self).__name__, "x", x, "shape (batch, length, features)", hint))
        begin = self.read_state(initial_state, x.shape[0])
        ends: list[tuple[Tensor, ...]] = []
        for depth, cell in enumerate(self.cells):
            if depth and self.training and self.dropout:
                x = ops.dropout(x, self.dropout)
            given = x
            x, *last = cell.run(given, begin[len(ends)], lengths)
            ends.append(tuple(last))
            if self.bidirectional:
                back, *last = self.reverse_cells[depth].run(given, begin[len(ends)], lengths, reverse=True)
                ends.append(tuple(last))
                x = ops.concat([x, back], axis=-1)
        if not self.return_sequences:
            x = ops.concat([end[0] for end in ends[-2:]], axis=-1) if self.bidirectional else ends[-1][0]
        if not self.return_state:
            return x
        states = tuple(ops.stack(list(each)) for each in zip(*ends, strict=True))
        return x, states if len(states) > 1 else states[0]

    def read_state(self, state: State | None, batch: int) -> list[list[Tensor]]:
        """The initial states of every cell, none where they are zeros."""
        count, who, states = self.num_layers * self.directions, type(self).__name__, self.cell_type.states
        if state is None:
            return [[] for _ in range(count)]
        pair = isinstance(state, (tuple, list))
        if states > 1 and not (pair and len(state) == states):
            raise TypeError(message(who, "initial_state", state, "a pair of tensors, hidden and cell"))
        if states == 1:
            refuse_pair(who, "initial_state", state, 3)
        shape = (count, batch, self.units)
        found = []
        for given in state if states > 1 else (state,):
            one = as_operand(who, "initial_state", given)
            if one.shape != shape:
                need = f"shape {shape}, ({'2 * ' if self.bidirectional else ''}num_layers, batch, units)"
                raise ShapeError(message(who, "initial_state", one, need))
            found.append(one)
        return [[one[k] for one in found] for k in range(count)]

    def extra_repr(self) -> str:
        """Features in and out, and what is not the default."""
        text = f"{self.in_features or '?'} -> {self.units}"
        for name, default in (("num_layers", 1), ("bidirectional", False), ("dropout", 0.0)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(Recurrent):
    """Plain recurrent layers over a batch of sequences, ``h = activation(x @ W + b + h @ U + c)`` at every step.

    What comes back is a tensor, as from any other layer: the outputs of all steps ``(batch, length, directions *
    units)``, or with ``return_sequences=False`` (the default of Keras) those after the last valid step, ``(batch,
    directions * units)``. With ``return_state=True`` it is a pair, as PyTorch gives it, with the last state of every
    layer, ``(num_layers * directions, batch, units)``; the reverse direction of a layer follows its forward one.

    With `lengths`, steps beyond the length of a sequence change nothing: outputs there are 0, states are those of the
    last valid step, and the reverse direction starts there.

    Parameters
    ----------
    units : int
        Features of the state of each layer and direction.
    num_layers : int
        Layers; each reads the outputs of the one before.
    activation : str
        ``"tanh"`` or ``"relu"``.
    bidirectional : bool
        Add cells that go from the last step to the first; outputs of both are joined on the last axis.
    dropout : float
        The probability with which outputs of every layer but the last are dropped in training.
    return_sequences, return_state : bool
        What comes back.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    bias : bool
        Whether the cells have biases.
    kernel_initializer, recurrent_initializer, bias_initializer, dtype : optional
        As for `RNNCell`, which takes regularizers and constraints too.

    Raises
    ------
    ShapeError
        If `units`, `num_layers` or `in_features` is not positive, or shapes do not fit.
    ValueError
        For a dropout that is no probability, or another activation.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.RNN(3, return_state=True)
    >>> out, state = layer(mg.ones((2, 5, 4)), lengths=mg.tensor([5, 2]))
    >>> out.shape, state.shape, bool((out[1, 1] == state[0, 1]).all())
    ((2, 5, 3), (1, 2, 3), True)
    """

    cell_type = RNNCell


class LSTM(Recurrent):
    """Long short-term memory over a batch of sequences; the formulas are those of `minigrad.nn.functional.lstm`.

    What comes back is a tensor, as from any other layer: the outputs of all steps ``(batch, length, directions *
    units)``, or with ``return_sequences=False`` (the default of Keras) those after the last valid step, ``(batch,
    directions * units)``. With ``return_state=True`` it is a pair, as PyTorch gives it, of that and the pair of hidden
    and cell states of every layer, ``(num_layers * directions, batch, units)`` each; the reverse direction of a layer
    follows its forward one.

    With `lengths`, steps beyond the length of a sequence change nothing: outputs there are 0, states are those of the
    last valid step, and the reverse direction starts there.

    Weights of PyTorch's layer are copied transposed: ``weight_ih_l0.T`` into ``cells.0.weight_ih``,
    ``weight_hh_l1_reverse.T`` into ``reverse_cells.1.weight_hh``, biases as they are.

    Parameters
    ----------
    units : int
        Features of the state of each layer and direction.
    num_layers : int
        Layers; each reads the outputs of the one before.
    bidirectional : bool
        Add cells that go from the last step to the first; outputs of both are joined on the last axis.
    dropout : float
        The probability with which outputs of every layer but the last are dropped in training.
    return_sequences, return_state : bool
        What comes back.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    bias : bool
        Whether the cells have biases.
    unit_forget_bias, kernel_initializer, recurrent_initializer, bias_initializer, dtype : optional
        As for `LSTMCell`, which takes regularizers and constraints too.

    Raises
    ------
    ShapeError
        If `units`, `num_layers` or `in_features` is not positive, or shapes do not fit.
    ValueError
        For a dropout that is no probability.
    TypeError
        If the initial state is no pair.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> model = nn.Sequential([nn.LSTM(8, 2, bidirectional=True, return_sequences=False), nn.Dense(3)])
    >>> model(mg.ones((4, 10, 5))).shape
    (4, 3)
    >>> model[0]
    LSTM(5 -> 8, num_layers=2, bidirectional=True
      (cells.0): LSTMCell(5 -> 8)
      (cells.1): LSTMCell(16 -> 8)
      (reverse_cells.0): LSTMCell(5 -> 8)
      (reverse_cells.1): LSTMCell(16 -> 8)
    )
    """

    cell_type = LSTMCell


class GRU(Recurrent):
    """Gated recurrent units over a batch of sequences; the formulas are those of `minigrad.nn.functional.gru`.

    What comes back is a tensor, as from any other layer: the outputs of all steps ``(batch, length, directions *
    units)``, or with ``return_sequences=False`` (the default of Keras) those after the last valid step, ``(batch,
    directions * units)``. With ``return_state=True`` it is a pair, as PyTorch gives it, with the last state of every
    layer, ``(num_layers * directions, batch, units)``; the reverse direction of a layer follows its forward one.

    With `lengths`, steps beyond the length of a sequence change nothing: outputs there are 0, states are those of the
    last valid step, and the reverse direction starts there.

    Parameters
    ----------
    units : int
        Features of the state of each layer and direction.
    num_layers : int
        Layers; each reads the outputs of the one before.
    bidirectional : bool
        Add cells that go from the last step to the first; outputs of both are joined on the last axis.
    dropout : float
        The probability with which outputs of every layer but the last are dropped in training.
    return_sequences, return_state : bool
        What comes back.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    bias : bool
        Whether the cells have biases.
    kernel_initializer, recurrent_initializer, bias_initializer, dtype : optional
        As for `GRUCell`, which takes regularizers and constraints too.

    Raises
    ------
    ShapeError
        If `units`, `num_layers` or `in_features` is not positive, or shapes do not fit.
    ValueError
        For a dropout that is no probability.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> first, second = mg.ones((2, 3, 4)), mg.zeros((2, 6, 4))
    >>> layer = nn.GRU(5, return_state=True)
    >>> out, state = layer(first)
    >>> out, state = layer(second, state)  # goes on where the first call ended
    >>> out.shape, state.shape
    ((2, 6, 5), (1, 2, 5))
    """

    cell_type = GRUCell

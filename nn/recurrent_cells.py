"""RNNCell, LSTMCell, GRUCell: one step of a recurrent layer, and the home of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.nn import init
from minigrad.nn.checks import extent
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.nn.regularizers import Regularizer, attach
from minigrad.tensor import Tensor

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell"]

Fill = str | Callable[..., Any]


class Cell(Module):
    """Base of the recurrent cells: the weights, and one step as a sequence of length 1.

    Attributes
    ----------
    weight_ih, weight_hh : Parameter
        ``(in_features, gates * units)`` and ``(units, gates * units)``: PyTorch's, transposed.
    bias_ih, bias_hh : Parameter or None
        ``(gates * units,)``.
    """

    gates: ClassVar[int]
    states: ClassVar[int] = 1

    def __init__(
        self,
        units: int,
        bias: bool = True,
        *,
        in_features: int | None = None,
        kernel_initializer: Fill = "glorot_uniform",
        recurrent_initializer: Fill = "orthogonal",
        bias_initializer: Fill = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        recurrent_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        kernel_constraint: str | Callable[[Any], Any] | None = None,
        recurrent_constraint: str | Callable[[Any], Any] | None = None,
        bias_constraint: str | Callable[[Any], Any] | None = None,
        dtype: Any = None,
    ) -> None:
        who = type(self).__name__
        self.units = extent(who, "units", units)
        width = self.gates * self.units
        self.weight_ih = Parameter.deferred((None, width), init.get(kernel_initializer), dtype=dtype)
        attach(self.weight_ih, kernel_regularizer, kernel_constraint)
        self.weight_hh = Parameter.deferred((self.units, width), init.get(recurrent_initializer), dtype=dtype)
        self.weight_hh.initialize((self.units, width))
        attach(self.weight_hh, recurrent_regularizer, recurrent_constraint)
        self.bias_ih: Parameter | None = None
        self.bias_hh: Parameter | None = None
        if bias:
            fill = init.get(bias_initializer)
            self.bias_ih, self.bias_hh = (Parameter.deferred((width,), fill, dtype=dtype) for _ in range(2))
            for p in (self.bias_ih, self.bias_hh):
                p.initialize((width,))
                attach(p, bias_regularizer, bias_constraint)
        if in_features is not None:
            self.weight_ih.initialize((extent(who, "in_features", in_features), width))

    @property
    def in_features(self) -> int | None:
        """Features of the input, None until they are known."""
        return self.weight_ih.shape[0] or None

    def sequence(self, x: Tensor, states: list[Tensor], lengths: Any, reverse: bool) -> tuple[Tensor, ...]:
        """Outputs (batch, length, units) and the last states, of x (batch, length, in_features)."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method sequence(self, x, states, lengths, reverse)")

    def run(self, x: Tensor, states: list[Tensor], lengths: Any = None, reverse: bool = False) -> tuple[Tensor, ...]:
        """`sequence`, with the weights completed by the first batch."""
        if not self.weight_ih.is_initialized:
            # refuses, before anything is fixed, what the real call would
            self.sequence(x[..., :0], states, lengths, reverse)
            self.weight_ih.initialize((x.shape[-1], self.gates * self.units))
        return self.sequence(x, states, lengths, reverse)

    def step(self, x: Any, states: list[Any]) -> list[Tensor]:
        """The states after one step on x (batch, in_features)."""
        who = type(self).__name__
        x = ops.asarray(x)
        if x.ndim != 2 or not x.shape[1]:
            raise ShapeError(message(who, "x", x, "shape (batch, features)"))
        begin = []
        for given in states:
            state = ops.asarray(given)
            if state.shape != (x.shape[0], self.units):
                raise ShapeError(message(who, "state", state, f"shape {(x.shape[0], self.units)}, (batch, units)"))
            begin.append(state)
        return list(self.run(ops.expand_dims(x, axis=1), begin)[1:])

    def options(self) -> dict[str, Any]:
        """The weights and biases by the names that the ops call them."""
        return {name: getattr(self, name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}

    def extra_repr(self) -> str:
        """Features in and out."""
        text = f"{self.in_features or '?'} -> {self.units}"
        return text if self.bias_ih is not None else f"{text}, bias=False"


class RNNCell(Cell):
    """One step of a plain recurrent layer, ``h = activation(x @ weight_ih + bias_ih + h @ weight_hh + bias_hh)``.

    Parameters
    ----------
    units : int
        Features of the state.
    activation : str
        ``"tanh"`` or ``"relu"``.
    bias : bool
        Whether there are biases, two of them, as in PyTorch.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
        What fills `weight_ih`, `weight_hh` and both biases: functions of `minigrad.nn.init`, or their names.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : Regularizer or str, optional
        Penalties on the same three, as for `Dense`.
    kernel_constraint, recurrent_constraint, bias_constraint : callable or str, optional
        Constraints on the same three, as for `Dense`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Raises
    ------
    ShapeError
        If `units` or `in_features` is not positive, or shapes do not fit.
    ValueError
        For another activation.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> cell = nn.RNNCell(3)
    >>> state = None
    >>> for x in mg.ones((5, 2, 4)):  # five steps of two sequences
    ...     state = cell(x, state)
    >>> state.shape, cell
    ((2, 3), RNNCell(4 -> 3))
    """

    gates = 1

    def __init__(self, units: int, activation: str = "tanh", bias: bool = True, **options: Any) -> None:
        if activation not in ("tanh", "relu"):
            raise ValueError(message(type(self).__name__, "activation", repr(activation), "'tanh' or 'relu'"))
        super().__init__(units, bias, **options)
        self.activation = activation

    def sequence(self, x: Tensor, states: list[Tensor], lengths: Any, reverse: bool) -> tuple[Tensor, ...]:
        """Outputs and the last state."""
        more = {"lengths": lengths, "reverse": reverse, "activation": self.activation}
        given: dict[str, Any] = dict(zip(("hidden",), states, strict=False))
        return ops.rnn(x, **self.options(), **given, **more)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """The state (batch, units) after x (batch, in_features); without one, it starts from zeros."""
        return self.step(x, [] if state is None else [state])[0]


class LSTMCell(Cell):
    """One step of long short-term memory; the formulas are those of `minigrad.nn.functional.lstm`.

    Parameters
    ----------
    units : int
        Features of the state.
    bias : bool
        Whether there are biases, two of them, as in PyTorch.
    unit_forget_bias : bool
        Let the forget gate's part of `bias_ih` start at 1, so that the cell remembers at first: R. Jozefowicz,
        W. Zaremba, I. Sutskever, "An empirical exploration of recurrent network architectures", 2015.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
        What fills `weight_ih`, `weight_hh` and both biases: functions of `minigrad.nn.init`, or their names.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : Regularizer or str, optional
        Penalties on the same three, as for `Dense`.
    kernel_constraint, recurrent_constraint, bias_constraint : callable or str, optional
        Constraints on the same three, as for `Dense`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Raises
    ------
    ShapeError
        If `units` or `in_features` is not positive, or shapes do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> cell = nn.LSTMCell(3, in_features=4)
    >>> hidden, memory = cell(mg.ones((2, 4)))
    >>> hidden.shape, memory.shape
    ((2, 3), (2, 3))
    """

    gates = 4
    states = 2

    def __init__(self, units: int, bias: bool = True, *, unit_forget_bias: bool = True, **options: Any) -> None:
        super().__init__(units, bias, **options)
        if self.bias_ih is not None and unit_forget_bias:
            with no_grad():
                self.bias_ih[self.units : 2 * self.units] = 1.0

    def sequence(self, x: Tensor, states: list[Tensor], lengths: Any, reverse: bool) -> tuple[Tensor, ...]:
        """Outputs, the last hidden and the last cell state."""
        given: dict[str, Any] = dict(zip(("hidden", "cell"), states, strict=False))
        return ops.lstm(x, **self.options(), **given, lengths=lengths, reverse=reverse)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        """The hidden and the cell state after x (batch, in_features); without a state, both start from zeros."""
        if state is not None and not (isinstance(state, (tuple, list)) and len(state) == 2):
            raise TypeError(message("LSTMCell", "state", state, "a pair of tensors, hidden and cell"))
        hidden, cell = self.step(x, [] if state is None else list(state))
        return hidden, cell


class GRUCell(Cell):
    """One step of a gated recurrent unit; the formulas are those of `minigrad.nn.functional.gru`.

    Parameters
    ----------
    units : int
        Features of the state.
    bias : bool
        Whether there are biases, two of them, as in PyTorch.
    in_features : int, optional
        Features of the input; left out, they are read from the first batch.
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
        What fills `weight_ih`, `weight_hh` and both biases: functions of `minigrad.nn.init`, or their names.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : Regularizer or str, optional
        Penalties on the same three, as for `Dense`.
    kernel_constraint, recurrent_constraint, bias_constraint : callable or str, optional
        Constraints on the same three, as for `Dense`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Raises
    ------
    ShapeError
        If `units` or `in_features` is not positive, or shapes do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.GRUCell(3)(mg.ones((2, 4)), mg.zeros((2, 3))).shape
    (2, 3)
    """

    gates = 3

    def sequence(self, x: Tensor, states: list[Tensor], lengths: Any, reverse: bool) -> tuple[Tensor, ...]:
        """Outputs and the last state."""
        given: dict[str, Any] = dict(zip(("hidden",), states, strict=False))
        return ops.gru(x, **self.options(), **given, lengths=lengths, reverse=reverse)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """The state (batch, units) after x (batch, in_features); without one, it starts from zeros."""
        return self.step(x, [] if state is None else [state])[0]

"""Recurrent layers and cells: formulas, padding, directions, stacks, state carried on, deferred shapes, refusals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.nn import functional as F
from minigrad.testing import gradcheck
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
LAYERS = [nn.RNN, nn.LSTM, nn.GRU]
CELLS = {nn.RNN: nn.RNNCell, nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell}
EACH = pytest.mark.parametrize("make", LAYERS, ids=lambda layer: layer.__name__)


def values(t: mg.Tensor) -> Array:
    return t.detach().numpy()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def one_step(layer: type, x: Array, state: list[Array], cell: Any) -> list[Array]:
    """The published formulas, for one step of one sequence."""
    a = x @ values(cell.weight_ih) + values(cell.bias_ih)
    b = state[0] @ values(cell.weight_hh) + values(cell.bias_hh)
    if layer is nn.RNN:
        return [np.tanh(a + b)]
    if layer is nn.LSTM:
        i, f, g, o = np.split(a + b, 4)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(c), c]
    (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
    z = sigmoid(az + bz)
    return [(1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * state[0]]


def filled(layer: Any, seed: int) -> Any:
    """The layer in float64, with random weights and biases."""
    rng = np.random.default_rng(seed)
    layer.to(mg.float64)
    with mg.no_grad():
        for p in layer.parameters():
            p[...] = mg.tensor(rng.uniform(-1, 1, p.shape))
    return layer


def flat(result: Any) -> list[mg.Tensor]:
    """A tensor, or nested tuples of them, as a list."""
    return [t for part in result for t in flat(part)] if isinstance(result, tuple) else [result]


def state_of(make: type, layers: int, batch: int, units: int, rng: np.random.Generator) -> Any:
    states = tuple(mg.tensor(rng.normal(size=(layers, batch, units))) for _ in range(2 if make is nn.LSTM else 1))
    return states if len(states) > 1 else states[0]


@EACH
def test_every_step_follows_the_formulas(make: Any) -> None:
    rng = np.random.default_rng(1)
    layer = filled(make(4, in_features=3, return_state=True), 2)
    x, begin = rng.normal(size=(2, 5, 3)), state_of(make, 1, 2, 4, rng)
    out, last = layer(mg.tensor(x), begin)
    for row in range(2):
        state = [values(t)[0, row] for t in flat(begin)]
        for t in range(5):
            state = one_step(make, x[row, t], state, layer.cells[0])
            np.testing.assert_allclose(values(out)[row, t], state[0], rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(flat(last), state, strict=True):
            np.testing.assert_allclose(values(ours)[0, row], theirs, rtol=1e-12, atol=1e-14)


def test_relu_in_place_of_tanh() -> None:
    layer = filled(nn.RNN(4, activation="relu", in_features=3), 3)
    x, cell = mg.tensor(np.random.default_rng(4).normal(size=(2, 3, 3))), layer.cells[0]
    h = mg.zeros((2, 4), dtype=mg.float64)
    for t in range(3):
        h = mg.relu(x[:, t] @ cell.weight_ih + cell.bias_ih + h @ cell.weight_hh + cell.bias_hh)
        np.testing.assert_allclose(values(layer(x))[:, t], values(h), rtol=1e-12, atol=1e-14)


@EACH
def test_a_layer_is_its_cell_step_after_step(make: Any) -> None:
    layer = filled(make(4, in_features=3, return_state=True), 5)
    cell, x = layer.cells[0], mg.tensor(np.random.default_rng(6).normal(size=(2, 4, 3)), requires_grad=True)
    assert type(cell) is CELLS[make]
    out, last = layer(x)
    state = None
    outs = []
    for t in range(4):
        state = cell(x[:, t], state)
        outs.append(flat(state)[0])
    again = mg.stack(outs, axis=1)
    cotangent = mg.tensor(np.random.default_rng(7).normal(size=out.shape))
    assert_close(values(out), values(again), mg.float64, "outputs")
    for ours, theirs in zip(flat(last), flat(state), strict=True):
        assert_close(values(ours)[0], values(theirs), mg.float64, "state")
    leaves = [x, *layer.parameters()]
    for ours, theirs in zip(mg.grad(out, leaves, cotangent), mg.grad(again, leaves, cotangent), strict=True):
        assert_close(values(ours), values(theirs), mg.float64, "gradient")


@EACH
@given(data=st.data())
def test_padding_changes_nothing(make: Any, data: st.DataObject) -> None:
    """Each sequence of a padded batch gives what it gives alone, forward and backward, whatever the padding holds."""
    batch, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    both, layers, seed = data.draw(st.booleans()), data.draw(st.integers(1, 2)), data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    layer = filled(make(3, layers, bidirectional=both, in_features=2, return_state=True), seed)
    x = rng.normal(size=(batch, steps, 2))
    for row, n in enumerate(lengths):
        x[row, n:] = data.draw(st.sampled_from([math.nan, math.inf, 7.0]))
    begin = state_of(make, layers * (1 + both), batch, 3, rng)
    padded = mg.tensor(x, requires_grad=True)
    out, last = layer(padded, begin, lengths=mg.tensor(lengths))
    cotangent = rng.normal(size=out.shape)
    grads = [values(g) for g in mg.grad(out, [padded, *layer.parameters()], mg.tensor(cotangent))]
    total: list[Any] = [0.0] * len(layer.parameters())
    for row, n in enumerate(lengths):
        assert not values(out)[row, n:].any()
        assert not grads[0][row, n:].any()
        alone = mg.tensor(x[row : row + 1, :n], requires_grad=True)
        own = tuple(t[:, row : row + 1] for t in flat(begin))
        expected, end = layer(alone, own if make is nn.LSTM else own[0])
        assert_close(values(out)[row : row + 1, :n], values(expected), mg.float64, f"outputs of row {row}")
        for ours, theirs in zip(flat(last), flat(end), strict=True):
            assert_close(values(ours)[:, row : row + 1], values(theirs), mg.float64, f"state of row {row}")
        found = mg.grad(expected, [alone, *layer.parameters()], mg.tensor(cotangent[row : row + 1, :n]))
        assert_close(grads[0][row : row + 1, :n], values(found[0]), mg.float64, f"gradient of row {row}")
        total = [a + values(g) for a, g in zip(total, found[1:], strict=True)]
    for ours, theirs in zip(grads[1:], total, strict=True):
        assert_close(ours, theirs, mg.float64, "gradient of a weight", floor=1.0)


@EACH
@given(seed=st.integers(0, 999), steps=st.integers(1, 6), padded=st.booleans())
def test_both_directions_are_two_runs(make: Any, seed: int, steps: int, padded: bool) -> None:
    """The reverse direction is a forward run over each sequence turned around, up to its length."""
    rng = np.random.default_rng(seed)
    layer = filled(make(3, bidirectional=True, in_features=2), seed)
    lengths = rng.integers(0, steps + 1, 3) if padded else np.full(3, steps)
    x = rng.normal(size=(3, steps, 2))
    out = values(layer(mg.tensor(x), lengths=mg.tensor(lengths) if padded else None))
    one_way = make(3, in_features=2).to(mg.float64)
    for cells, half in ((layer.cells, out[..., :3]), (layer.reverse_cells, out[..., 3:])):
        one_way.cells[0].load_state_dict(cells[0].state_dict())
        for row, n in enumerate(lengths):
            way = slice(None, n) if cells is layer.cells else slice(n - 1 if n else 0, None, -1)
            given = x[row : row + 1, way][:, :n]
            expected = values(one_way(mg.tensor(given.copy())))
            assert_close(half[row : row + 1, way][:, :n], expected, mg.float64, f"row {row}")


@EACH
@given(seed=st.integers(0, 999), depth=st.integers(2, 3), both=st.booleans())
def test_a_stack_is_a_composition(make: Any, seed: int, depth: int, both: bool) -> None:
    options = {"bidirectional": both, "return_state": True}
    stack = filled(make(3, depth, in_features=2, **options), seed)
    x = mg.tensor(np.random.default_rng(seed).normal(size=(2, 4, 2)))
    out, last = stack(x)
    y, ends = x, []
    for k in range(depth):
        single = make(3, in_features=y.shape[-1], **options).to(mg.float64)
        single.cells[0].load_state_dict(stack.cells[k].state_dict())
        if both:
            single.reverse_cells[0].load_state_dict(stack.reverse_cells[k].state_dict())
        y, end = single(y)
        ends.append([values(t) for t in flat(end)])
    assert_close(values(out), values(y), mg.float64, "outputs")
    for ours, theirs in zip(flat(last), zip(*ends, strict=True), strict=True):
        assert_close(values(ours), np.concatenate(theirs), mg.float64, "states")


@EACH
@given(seed=st.integers(0, 999), steps=st.integers(0, 6), data=st.data())
def test_a_state_goes_on_where_it_ended(make: Any, seed: int, steps: int, data: st.DataObject) -> None:
    """A run over a sequence equals one over its first part and, from the state left, one over the rest."""
    cut = data.draw(st.integers(0, steps))
    layer = filled(make(3, 2, in_features=2, return_state=True), seed)
    x = mg.tensor(np.random.default_rng(seed).normal(size=(2, steps, 2)), requires_grad=True)
    whole, end = layer(x)
    first, state = layer(x[:, :cut])
    second, state = layer(x[:, cut:], state)
    parts = mg.concat([first, second], axis=1)
    assert_close(values(parts), values(whole), mg.float64, "outputs")
    for ours, theirs in zip(flat(state), flat(end), strict=True):
        assert_close(values(ours), values(theirs), mg.float64, "state")
    loss, again = ((flat(s)[0] ** 3).sum() + (o * o).sum() for s, o in ((end, whole), (state, parts)))
    for ours, theirs in zip(mg.grad(again, layer.parameters()), mg.grad(loss, layer.parameters()), strict=True):
        assert_close(values(ours), values(theirs), mg.float64, "gradient", floor=1.0)


@EACH
@pytest.mark.parametrize("both", [False, True])
def test_what_comes_back(make: Any, both: bool) -> None:
    x, lengths, wide = mg.ones((2, 4, 3)), [4, 2], 10 if both else 5
    layer = make(5, 2, bidirectional=both)
    out = layer(x, lengths=lengths)
    assert out.shape == (2, 4, wide)
    layer.return_sequences = False
    end = layer(x, lengths=lengths)
    assert end.shape == (2, wide)
    for row, n in enumerate(lengths):
        assert np.array_equal(values(end)[row, :5], values(out)[row, n - 1, :5])
        assert np.array_equal(values(end)[row, 5:], values(out)[row, 0, 5:])
    layer.return_state = True
    again, state = layer(x, lengths=lengths)
    assert np.array_equal(values(again), values(end))
    assert [t.shape for t in flat(state)] == [(2 * (1 + both), 2, 5)] * (2 if make is nn.LSTM else 1)
    last = values(flat(state)[0])
    assert np.array_equal(np.concatenate(list(last[-2:] if both else last[-1:]), axis=-1), values(end))


@EACH
def test_third_derivatives(make: Any) -> None:
    """Through the whole layer, both ways and with padding; the contract of ops goes to the second order."""
    layer = filled(make(2, bidirectional=True, in_features=2), 8)

    def f(x: mg.Tensor) -> mg.Tensor:
        return layer(x, lengths=[2, 1])

    assert gradcheck(f, mg.tensor(np.random.default_rng(9).normal(size=(2, 2, 2))), order=3)


@EACH
def test_sizes_are_read_from_the_first_batch(make: Any) -> None:
    layer = make(3, 2, bidirectional=True)
    assert layer.in_features is None
    assert repr(layer).startswith(f"{make.__name__}(? -> 3, num_layers=2, bidirectional=True")
    with pytest.raises(ValueError, match="lengths is"):
        layer(mg.ones((2, 4, 5)), lengths=[5, 1])
    assert layer.in_features is None
    layer(mg.ones((2, 4, 5)))
    assert layer.in_features == 5
    assert layer.reverse_cells[0].weight_ih.shape[0] == 5
    assert layer.cells[1].in_features == 6
    twin = make(3, 2, bidirectional=True)
    twin.load_state_dict(layer.state_dict())
    x = mg.random.normal((1, 3, 5))
    assert np.array_equal(values(twin(x)), values(layer(x)))


@EACH
def test_initial_values(make: Any) -> None:
    cell = make(16, in_features=8).cells[0]
    square = values(cell.weight_hh)
    np.testing.assert_allclose(square @ square.T, np.eye(16), atol=1e-5)
    limit = math.sqrt(6 / sum(cell.weight_ih.shape))
    assert 0.8 * limit < abs(values(cell.weight_ih)).max() <= limit
    forget = np.zeros(cell.bias_ih.shape)
    if make is nn.LSTM:
        forget[16:32] = 1.0
        assert not values(make(16, unit_forget_bias=False).cells[0].bias_ih).any()
    assert np.array_equal(values(cell.bias_ih), forget)
    assert not values(cell.bias_hh).any()
    assert len(make(16, bias=False, in_features=8).parameters()) == 2


@EACH
def test_dropout_is_between_layers_and_in_training_only(make: Any) -> None:
    x = mg.random.normal((2, 4, 3))
    layer = make(64, 2, dropout=1.0)
    layer.eval()
    plain = values(layer(x))
    layer.train()
    dropped = values(layer(x))
    empty = values(layer.cells[1].run(mg.zeros((2, 4, 64)), [])[0])
    np.testing.assert_array_equal(dropped, empty)  # the second layer saw nothing
    assert not np.array_equal(dropped, plain)
    single = make(64, dropout=1.0)
    assert np.array_equal(values(single(x)), values(single.eval()(x)))


@EACH
def test_half_types(make: Any) -> None:
    layer = make(4, 2, in_features=3)
    x = mg.random.normal((2, 5, 3))
    expected = values(layer(x))
    layer.to(mg.bfloat16)
    out = layer(x.astype(mg.bfloat16))
    assert out.dtype == mg.bfloat16
    np.testing.assert_allclose(values(out).astype(np.float32), expected, atol=0.02)
    out.sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {mg.bfloat16}


def test_it_learns_to_remember() -> None:
    """Which of two symbols came first is known many steps later."""
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential([nn.LSTM(8, return_sequences=False), nn.Dense(1)])
    x = rng.normal(size=(64, 20, 2)).astype(np.float32)
    y = (x[:, 0, :1] > 0).astype(np.float32)
    model(mg.tensor(x))
    optimizer = mg.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(120):
        loss = F.binary_cross_entropy_with_logits(model(mg.tensor(x)), mg.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((values(model(mg.tensor(x))) > 0) == (y > 0)).mean() > 0.95


X = mg.ones((2, 4, 3))
REFUSED: list[tuple[Callable[..., Any], type[Exception], str]] = [
    (lambda n: n(0), ShapeError, "units is 0, needs at least 1"),
    (lambda n: n(2.5), TypeError, "units is 2.5, needs an int"),
    (lambda n: n(2, 0), ShapeError, "num_layers is 0, needs at least 1"),
    (lambda n: n(2, in_features=-1), ShapeError, "in_features is -1, needs at least 1"),
    (lambda n: n(2, dropout=1.5), ValueError, "dropout is 1.5, needs a probability"),
    (lambda n: n(2, dropout="a"), TypeError, "dropout is 'a', needs a number"),
    (lambda n: n(2, dropout=mg.nan), ValueError, "dropout is nan, needs a probability"),
    (lambda n: n(2, foo=1), TypeError, "got an argument foo, needs one of its own or of "),
    (lambda n: n(2)(mg.ones((4, 3))), ShapeError, "needs shape (batch, length, features). Without a batch, add its"),
    (lambda n: n(2)(mg.ones((2, 4, 0))), ShapeError, "x is float32 (2, 4, 0), needs shape (batch, length, features)"),
    (lambda n: n(2, in_features=5)(X), ShapeError, "weight_ih is float32 (5,"),
    (lambda n: n(2)(X, lengths=[1]), ShapeError, "lengths is int64 (1,), needs shape (2,), one length a sequence"),
    (lambda n: n(2)(X, lengths=[1, 5]), ValueError, "lengths is 5 in one place, needs lengths from 0 to 4, the steps"),
    (lambda n: n(2)(X, lengths=[-1, 2]), ValueError, "lengths is -1 in one place"),
    (lambda n: n(2)(X, lengths=[1.0, 2.0]), DTypeError, "lengths is float32 (2,), needs integers"),
]


@EACH
@pytest.mark.parametrize(("call", "raises", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refuses(make: Any, call: Callable[..., Any], raises: type[Exception], text: str) -> None:
    name = make.__name__
    with pytest.raises(raises, match=f"^({name}|{name}Cell|{name.lower()}): .*{re.escape(text)}"):
        call(make)


@EACH
def test_refuses_states(make: Any) -> None:
    pair = (lambda t: (t, t)) if make is nn.LSTM else (lambda t: t)
    with pytest.raises(ShapeError, match=r"initial_state is float32 \(1, 2, 2\), needs shape \(4, 2, 2\), \(2 \* num"):
        make(2, 2, bidirectional=True)(X, pair(mg.zeros((1, 2, 2))))
    with pytest.raises(ShapeError, match=r"Cell: state is float32 \(2, 3\), needs shape \(2, 2\), \(batch, units\)"):
        CELLS[make](2)(X[:, 0], pair(mg.zeros((2, 3))))
    with pytest.raises(ShapeError, match=r"Cell: x is float32 \(2, 4, 3\), needs shape \(batch, features\)"):
        CELLS[make](2)(X)
    if make is nn.LSTM:
        with pytest.raises(TypeError, match=r"LSTM: initial_state is float32 .*, needs a pair of tensors"):
            make(2)(X, mg.zeros((1, 2, 2)))
        with pytest.raises(TypeError, match=r"LSTMCell: state is float32 .*, needs a pair of tensors"):
            nn.LSTMCell(2)(X[:, 0], mg.zeros((2, 2)))


def test_an_activation_that_there_is_not() -> None:
    one, pair = mg.zeros((1, 2, 3)), (mg.zeros((2, 3)), mg.zeros((2, 3)))
    for layer, cell in ((nn.GRU(3), nn.GRUCell(3)), (nn.RNN(3), nn.RNNCell(3))):
        name, given = type(layer).__name__, mg.ones((2, 4, 5))
        with pytest.raises(
            TypeError, match=rf"^{name}: initial_state is .*, needs one tensor. Only an LSTM has a cell"
        ):
            layer(given, (one, one))
        with pytest.raises(TypeError, match=rf"^{name}Cell: state is .*, needs one tensor. Only an LSTM has a cell"):
            cell(given[:, 0], pair)
        assert layer(given, [mg.ones((2, 3))]).shape == (2, 4, 3)  # one a layer: they are stacked
    with pytest.raises(DTypeError, match=r"^LSTM: initial_state is None, needs a tensor"):
        nn.LSTM(3)(mg.ones((2, 4, 5)), (one, None))
    with pytest.raises(ValueError, match="RNNCell: activation is 'gelu', needs 'tanh' or 'relu'"):
        nn.RNN(2, activation="gelu")
    with pytest.raises(ValueError, match="rnn: activation is 'gelu', needs one of tanh, relu"):
        F.rnn(X, mg.ones((3, 2)), mg.ones((2, 2)), activation="gelu")


@pytest.mark.parametrize(("f", "gates"), [(F.rnn, 1), (F.lstm, 4), (F.gru, 3)])
def test_functions_refuse(f: Callable[..., Any], gates: int) -> None:
    good = {"x": X, "weight_ih": mg.ones((3, 2 * gates)), "weight_hh": mg.ones((2, 2 * gates))}
    for changes, text in (
        ({"x": mg.ones((4, 3))}, "x is float32 (4, 3), needs shape (batch, length, features)"),
        ({"weight_hh": mg.ones((2, 5))}, "weight_hh is float32 (2, 5), needs shape (units, "),
        ({"weight_ih": mg.ones((2, 2))}, f"weight_ih is float32 (2, 2), needs shape (3, {2 * gates}), (features, "),
        ({"bias_ih": mg.ones(9)}, f"bias_ih is float32 (9,), needs shape ({2 * gates},)"),
        ({"bias_hh": mg.ones(9)}, f"bias_hh is float32 (9,), needs shape ({2 * gates},)"),
        ({"hidden": mg.ones((2, 3))}, "hidden is float32 (2, 3), needs shape (2, 2), (batch, units)"),
    ):
        with pytest.raises(ShapeError, match=f"^{f.__name__}: {re.escape(text)}"):
            f(**{**good, **changes})


def test_errors_name_the_layer() -> None:
    model = nn.Sequential([nn.LSTM(2, in_features=3), nn.GRU(4, in_features=5)])
    with pytest.raises(ShapeError, match=r"^1: gru: weight_ih is float32 \(5, 12\), needs shape \(2, 12\)"):
        model(X)

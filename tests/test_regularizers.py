"""Regularizers, constraints, masks and master weights: what a step does with each of them, alone and by row."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import GradError, ShapeError
from minigrad.nn import constraints, regularizers

Array = np.ndarray[Any, Any]
OPTIMIZERS: list[Any] = [
    lambda params: optim.SGD(params, lr=0.1),
    lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    lambda params: optim.Adam(params, lr=0.1),
    lambda params: optim.AdamW(params, lr=0.1, weight_decay=0.1),
]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def values(p: mg.Tensor) -> Array:
    return p.detach().numpy()


def step(p: nn.Parameter, gradient: Any, make: Any = OPTIMIZERS[0]) -> Array:
    """The parameter after one step."""
    p.grad = mg.asarray(np.asarray(gradient, p.dtype))
    make([p]).step()
    return values(p)


# --- regularizers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularizer", [nn.L1(0.3), nn.L2(0.7), nn.L1L2(0.3, 0.7), nn.L1L2(0.0, 0.0)])
def test_the_gradient_is_that_of_the_penalty(regularizer: nn.Regularizer) -> None:
    w = mg.tensor(random(4, 3), requires_grad=True)
    penalty = regularizer.penalty(w)
    l1, l2 = regularizer.l1, regularizer.l2  # type: ignore[attr-defined]
    x = values(w)
    assert penalty.item() == pytest.approx(l1 * abs(x).sum() + l2 * (x * x).sum(), rel=1e-14)
    cotangent = random(seed=3)
    penalty.backward(mg.asarray(cotangent))
    assert w.grad is not None
    np.testing.assert_allclose(cotangent * regularizer.gradient(x), w.grad.numpy(), rtol=1e-13, atol=1e-15)
    for dtype in (np.float32, np.float64):
        assert regularizer.gradient(x.astype(dtype)).dtype == dtype
    assert regularizer.gradient(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_a_penalty_on_halves_is_float32() -> None:
    w = mg.full((1000,), 100.0, dtype=mg.float16)
    assert nn.L2(1.0).penalty(w).item() == 1e7  # float16 ends at 65504
    assert nn.L1L2(1.0, 1.0).penalty(w).dtype == mg.float32


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_is_that_on_loss_and_penalty(make: Any, maximize: bool) -> None:
    """And with `maximize` that on the loss less the penalty: weights shrink either way."""
    sign = -1.0 if maximize else 1.0

    def optimizer(params: Any) -> Any:
        made = make(params)
        made.param_groups[0]["maximize"] = maximize
        return made

    regularizer = nn.L1L2(0.3, 0.2)
    p, q = nn.Parameter(random(5, 4)), nn.Parameter(random(5, 4))
    p.regularizer = regularizer
    mine, twin = optimizer([p]), optimizer([q])
    for k in range(4):
        g = mg.asarray(random(5, 4, seed=k + 1))
        for each in (mine, twin):
            each.zero_grad()
        (p * g).sum().backward()
        kept = p.grad
        mine.step()
        ((q * g).sum() + sign * regularizer.penalty(q)).backward()
        twin.step()
        assert kept is not None
        assert np.array_equal(kept.numpy(), g.numpy())  # the gradient itself stays that of the loss
    np.testing.assert_allclose(values(p), values(q), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_threshold_is_that_of_the_rule_s_result(make: Any) -> None:
    """soft(x, lr * l1) after a step without a penalty."""
    p, q = nn.Parameter(random(40)), nn.Parameter(random(40))
    p.regularizer = nn.ProximalL1(2.0)
    g = random(40, seed=1)
    plain = step(q, g, make)
    got = step(p, g, make)
    np.testing.assert_allclose(got, np.sign(plain) * np.maximum(abs(plain) - 0.2, 0), rtol=1e-13, atol=1e-16)
    assert 0 < (got == 0).sum() < 40


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_lasso_has_exact_zeros(make: Any) -> None:
    """Inputs that say nothing get the weight 0, exactly; by the subgradient they do not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    y = x[:, :2] @ np.array([[2.0], [-1.0]])
    found = {}
    for regularizer in (nn.ProximalL1(0.2), nn.L1(0.2)):
        mg.random.seed(0)
        layer = nn.Dense(1, bias=False, in_features=8, kernel_regularizer=regularizer, dtype=mg.float64)
        optimizer = make(layer.parameters())
        for _ in range(150):
            optimizer.zero_grad()
            (0.5 * (layer(mg.asarray(x)) - mg.asarray(y)) ** 2).mean().backward()
            optimizer.step()
        found[type(regularizer)] = values(layer.weight)[:, 0]
    assert (found[nn.ProximalL1] == 0).sum() >= 5
    assert abs(found[nn.ProximalL1][:2]).min() > 0.5
    assert not (found[nn.L1] == 0).any()


def test_ista_is_the_solution_of_the_lasso() -> None:
    """SGD without momentum on a quadratic: at the end the optimality conditions hold."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=60)
    w = nn.Parameter(np.zeros(6))
    w.regularizer = nn.ProximalL1(0.15)
    optimizer = optim.SGD([w], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * (mg.asarray(x) @ w - mg.asarray(y)) ** 2).mean().backward()
        optimizer.step()
    slope, found = x.T @ (x @ values(w) - y) / 60, values(w)
    zero = found == 0
    assert 0 < zero.sum() < 6
    assert (abs(slope[zero]) <= 0.15 + 1e-12).all()
    np.testing.assert_allclose(slope[~zero], -0.15 * np.sign(found[~zero]), rtol=1e-9)


def test_the_threshold_follows_the_learning_rate() -> None:
    p = nn.Parameter([1.0])
    p.regularizer, p.grad = nn.ProximalL1(1.0), mg.zeros((1,))
    optimizer = optim.SGD([p], lr=0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert p.item() == 0.75

    class Unlike(optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"rate": 1.0})

        def check(self, group: Any) -> None:
            pass

        def update(self, x: Array, g: Array, state: Any, group: Any) -> None:
            x -= g

    with pytest.raises(ValueError, match=r"Unlike\.step: parameter 0: lr is None, needs a number, as the threshold"):
        Unlike([p]).step()
    p.regularizer = nn.L1(1.0)
    Unlike([p]).step()
    assert p.item() == -0.25


def test_the_whole_of_a_model() -> None:
    model = nn.Sequential(
        [nn.Embedding(5, 3), nn.Dense(4, kernel_regularizer="l1", bias_regularizer="l2"), nn.LayerNorm()]
    )
    model.add(nn.Dense(2))
    assert nn.regularize(model, nn.L2(0.5)) is model
    assert {name: repr(p.regularizer) for name, p in model.named_parameters()} == {
        "0.weight": "L2(0.5)", "1.weight": "L1(0.01)", "1.bias": "L2(0.01)", "2.weight": "None", "2.bias": "None",
        "3.weight": "L2(0.5)", "3.bias": "None",
    }  # fmt: skip
    table = values(model[0].weight)
    assert nn.penalty(model).item() == pytest.approx(0.5 * (table**2).sum(), rel=1e-5)  # the rest waits for a batch
    model(mg.tensor([[1, 2]]))
    first, last = values(model[1].weight), values(model[3].weight)
    expected = 0.5 * ((table**2).sum() + (last**2).sum()) + 0.01 * abs(first).sum()
    assert nn.penalty(model).item() == pytest.approx(expected, rel=1e-5)
    assert nn.penalty(nn.Dense(2, in_features=2)).item() == 0.0
    tied = nn.Sequential([nn.Dense(3, in_features=3, kernel_regularizer="l2"), nn.Dense(3, in_features=3)])
    tied[1].weight = tied[0].weight
    assert nn.penalty(tied).item() == pytest.approx(0.01 * (values(tied[0].weight) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize("make", [
    lambda **more: nn.Dense(3, in_features=2, **more),
    lambda **more: nn.Conv1D(3, 2, in_channels=2, **more),
    lambda **more: nn.Conv2D(3, 2, in_channels=2, **more),
    lambda **more: nn.Conv1DTranspose(3, 2, in_channels=2, **more),
    lambda **more: nn.Conv2DTranspose(3, 2, in_channels=2, **more),
])  # fmt: skip
def test_arguments_of_layers(make: Any) -> None:
    layer = make(
        kernel_regularizer=nn.L2(0.1), bias_regularizer="l1", kernel_constraint="unit_norm", bias_constraint=abs
    )
    assert (repr(layer.weight.regularizer), repr(layer.bias.regularizer)) == ("L2(0.1)", "L1(0.01)")
    assert repr(layer.weight.constraint) == "UnitNorm(axis=0)"
    assert layer.bias.constraint is abs
    plain = make(bias=False, kernel_regularizer=None)
    assert (plain.weight.regularizer, plain.weight.constraint, plain.weight.mask) == (None, None, None)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_arguments_of_recurrent_layers(kind: Any) -> None:
    layer = kind(
        3, in_features=2, kernel_regularizer="l1", recurrent_regularizer=nn.L2(0.2), bias_regularizer="l1_l2",
        kernel_constraint="non_negative", recurrent_constraint=nn.MaxNorm(1.0), bias_constraint="min_max_norm",
    )  # fmt: skip
    cell = layer.cells[0] if hasattr(layer, "cells") else layer
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    assert [repr(getattr(cell, name).regularizer) for name in names] == [
        "L1(0.01)", "L2(0.2)", "L1L2(l1=0.01, l2=0.01)", "L1L2(l1=0.01, l2=0.01)",
    ]  # fmt: skip
    assert [type(getattr(cell, name).constraint).__name__ for name in names] == [
        "NonNegative", "MaxNorm", "MinMaxNorm", "MinMaxNorm",
    ]  # fmt: skip


def test_arguments_of_embeddings() -> None:
    layer = nn.Embedding(4, 2, embeddings_regularizer="l2", embeddings_constraint=nn.MaxNorm(1.0, axis=1))
    assert (repr(layer.weight.regularizer), layer.weight.constraint.by_row) == ("L2(0.01)", True)  # type: ignore[union-attr]


def test_attributes_survive() -> None:
    layer = nn.Dense(3, in_features=2, kernel_regularizer=nn.L1(0.5), kernel_constraint=nn.MaxNorm(3.0))
    layer.weight.mask = random(2, 3) > 0
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to(mg.float64)):
        assert repr(made.weight.regularizer) == "L1(0.5)"
        assert repr(made.weight.constraint) == "MaxNorm(max_value=3.0, axis=0)"
        assert np.array_equal(made.weight.mask, layer.weight.mask)
    layer.load_state_dict(nn.Dense(3, in_features=2).state_dict())
    assert repr(layer.weight.regularizer) == "L1(0.5)"
    alike = copy.copy(layer.weight)
    assert alike.regularizer is layer.weight.regularizer
    assert alike._array is layer.weight._array
    waiting = nn.Dense(3, kernel_regularizer="l2")
    waiting(mg.ones((1, 2)))
    assert repr(waiting.weight.regularizer) == "L2(0.01)"


# --- constraints ------------------------------------------------------------------------------------------------------

matrices = st.tuples(
    st.integers(0, 99), st.sampled_from([1e-200, 1e-3, 1.0, 1e200]), st.sampled_from([0, 1, -1, (0, 1)])
)


@given(drawn=matrices)
def test_norms_are_held(drawn: Any) -> None:
    seed, size, axis = drawn
    x = random(4, 3, seed=seed)
    axes = axis if isinstance(axis, tuple) else (axis,)
    unit = x / np.sqrt((x * x).sum(axis=axes, keepdims=True))
    norm = np.sqrt((x * x).sum(axis=axes, keepdims=True)) * size
    for constraint, wanted in (
        (nn.MaxNorm(1.5, axis), np.minimum(norm, 1.5)),
        (nn.UnitNorm(axis), np.ones_like(norm)),
        (nn.MinMaxNorm(0.5, 1.5, axis=axis), np.clip(norm, 0.5, 1.5)),
        (nn.MinMaxNorm(0.5, 1.5, 0.25, axis), 0.25 * np.clip(norm, 0.5, 1.5) + 0.75 * norm),
    ):
        got = x * size
        constraint(got)
        np.testing.assert_allclose(got, unit * wanted, rtol=1e-12)
    kept = x * 0.01
    nn.MaxNorm(1.0, axis)(kept)
    assert np.array_equal(kept, x * 0.01)  # what is inside stays, to the bit


def test_constraints_at_their_edges() -> None:
    for constraint in (nn.MaxNorm(), nn.UnitNorm(), nn.MinMaxNorm(0.5, 1.0), nn.NonNegative()):
        zeros, none = np.zeros((3, 2), np.float32), np.zeros((0, 2), np.float32)
        constraint(zeros)
        constraint(none)
        assert not zeros.any()
        half = np.full((3, 2), 5.0, np.float32)
        constraint(half)
        assert half.dtype == np.float32
    with pytest.raises(ValueError, match="MaxNorm: axis is 1, needs axes of 1"):
        nn.MaxNorm(1.0, axis=1)(np.ones(3))


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_step_ends_inside_of_the_constraint(make: Any) -> None:
    p = nn.Parameter(random(5, 3))
    p.constraint = nn.MaxNorm(1.0)
    optimizer = make([p])
    for k in range(5):
        p.grad = mg.asarray(10 * random(5, 3, seed=k))
        optimizer.step()
        assert np.linalg.norm(values(p), axis=0).max() <= 1 + 1e-12
    p.constraint = lambda x: np.clip(x, -0.1, 0.1, out=x)
    optimizer.step()
    assert abs(values(p)).max() <= 0.1


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [
    lambda m: m, lambda m: mg.asarray(m), lambda m: m.astype(np.float32), lambda m: m.astype(np.int64).tolist(),
])  # fmt: skip
def test_masks_of_every_kind(kind: Any) -> None:
    mask = random(4, 3) > 0
    p = nn.Parameter(random(4, 3, seed=1))
    p.mask = kind(mask)
    g = random(4, 3, seed=2)
    expected = np.where(mask, values(p) - 0.1 * g, 0.0)
    got = step(p, np.where(mask, g, math.inf))  # what is left out may be anything
    assert np.array_equal(got, expected)
    assert not np.signbit(got[~mask]).any()


def test_a_mask_that_stretches_and_one_that_does_not() -> None:
    p = nn.Parameter(np.ones((4, 3)))
    p.mask = np.array([True, False, True])
    assert step(p, np.ones((4, 3)))[0].tolist() == [0.9, 0.0, 0.9]
    p.mask = np.ones((3, 4), np.bool_)
    with pytest.raises(ShapeError, match=r"SGD\.step: parameter 0: mask is \(3, 4\), needs \(4, 3\)"):
        step(p, np.ones((4, 3)))


# --- row-sparse gradients ---------------------------------------------------------------------------------------------


def table(dtype: Any = mg.float64) -> nn.Embedding:
    layer = nn.Embedding(6, 2, sparse=True, dtype=dtype)
    layer.weight._array[...] = random(6, 2, seed=5)
    return layer


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [mg.float64, mg.float16])
def test_rows_that_are_used_meet_all_stages(make: Any, dtype: Any) -> None:
    """They train as in a table of their own; the others stay, to the bit."""
    used = np.array([1, 4])
    layer = table(dtype)
    before = values(layer.weight).copy()
    twin = nn.Parameter(before[used])
    mask = np.array([[True, False], [True, True]])
    layer.weight.mask = np.ones((6, 2), np.bool_)
    layer.weight.mask[used] = twin.mask = mask
    for p in (layer.weight, twin):
        p.regularizer, p.constraint = nn.L1L2(0.1, 0.2), nn.MaxNorm(0.5, axis=1)
    mine, other = make(layer.parameters()), make([twin])
    for k in range(3):
        g = (np.random.default_rng(k).integers(-4, 5, (2, 2)) / 4).astype(before.dtype)
        mine.zero_grad()
        layer(mg.asarray(used)).backward(mg.asarray(g))
        twin.grad = mg.asarray(g)
        mine.step()
        other.step()
    assert np.array_equal(values(layer.weight)[used], values(twin))
    rest = np.setdiff1d(np.arange(6), used)
    assert np.array_equal(values(layer.weight)[rest], before[rest])
    state = mine.state[layer.weight]
    for name, value in other.state[twin].items():
        if hasattr(value, "dtype"):
            assert np.array_equal(state[name][used], value), name


@pytest.mark.parametrize("dtype", [mg.float64, mg.bfloat16])
def test_a_constraint_across_rows_sees_the_whole_table(dtype: Any) -> None:
    layer = table(dtype)
    layer.weight.constraint = nn.MaxNorm(0.5, axis=0)
    layer.weight.mask = np.ones((6, 2), np.bool_)
    layer.weight.mask[0, 0] = layer.weight._array[0, 0] = 0
    layer(mg.tensor([3])).sum().backward()
    optim.SGD(layer.parameters(), lr=0.1).step()
    got = values(layer.weight).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(got, axis=0), 0.5, rtol=1e-12 if dtype == mg.float64 else 1e-2)
    assert got[0, 0] == 0
    assert nn.MaxNorm(1.0, axis=(0, 1)).by_row is nn.MaxNorm(1.0, axis=-1).by_row is False


def test_a_rule_that_sees_whole_arrays_still_refuses_rows() -> None:
    class Whole(optim.SGD):
        by_row = False

    layer = table()
    layer(mg.tensor([3])).sum().backward()
    with pytest.raises(GradError, match="row-sparse, needs a full one"):
        Whole(layer.parameters()).step()


# --- master weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_steps_below_the_last_digit_are_not_lost(dtype: Any) -> None:
    p = nn.Parameter([1.0], dtype=dtype)
    optimizer = optim.SGD([p], lr=1e-4)
    for _ in range(1000):
        p.grad = mg.ones((1,), dtype=dtype)
        optimizer.step()
    assert float(values(p)[0]) == pytest.approx(0.9, rel=4e-3)  # alone, 1 - 1e-4 is 1 again
    assert p.dtype == dtype


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_a_run_on_halves_goes_on_from_its_state(make: Any, dtype: Any) -> None:
    def train(p: nn.Parameter, optimizer: Any, seeds: range) -> None:
        for k in seeds:
            p.grad = mg.asarray(random(8, 3, seed=k)).astype(p.dtype)
            optimizer.step()

    whole = nn.Parameter(random(8, 3), dtype=dtype)
    optimizer = make([("p", whole)])
    train(whole, optimizer, range(3))
    weights, state = values(whole).copy(), optimizer.state_dict()
    master = state["state"]["p"]["master"].numpy()
    assert master.dtype == np.float32
    train(whole, optimizer, range(3, 6))
    assert not np.array_equal(master, optimizer.state[whole]["master"])  # the snapshot is on its own
    second = nn.Parameter(weights)
    resumed = make([("p", second)])
    resumed.load_state_dict(state)
    train(second, resumed, range(3, 6))
    assert values(second).tobytes() == values(whole).tobytes()
    assert resumed.state[second]["master"].tobytes() == optimizer.state[whole]["master"].tobytes()
    with pytest.raises(ValueError, match="shape of master of parameter 'p'"):
        resumed.load_state_dict({**state, "state": {"p": {**state["state"]["p"], "master": np.zeros(3)}}})
    # a state without master weights makes them anew, one with them fits a float32 parameter
    del state["state"]["p"]["master"]
    resumed.load_state_dict(state)
    train(second, resumed, range(1))
    assert "master" in resumed.state[second]
    wide = nn.Parameter(weights.astype(np.float32))
    other = make([("p", wide)])
    other.load_state_dict(resumed.state_dict())
    assert "master" not in other.state[wide]
    second._array = second._array.astype(np.float32)  # as model.to does
    train(second, resumed, range(1))
    assert "master" not in resumed.state_dict()["state"]["p"]


@pytest.mark.parametrize("sparse", [False, True])
def test_what_others_write_into_a_half_parameter_counts(sparse: bool) -> None:
    layer = nn.Embedding(4, 2, sparse=sparse, dtype=mg.float16)
    optimizer = optim.SGD(layer.parameters(), lr=1e-5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(mg.tensor([1, 2])).sum().backward()
        optimizer.step()
    master = optimizer.state[layer.weight]["master"]
    kept = master[2].copy()
    assert not np.array_equal(kept, kept.astype(np.float16))
    with mg.no_grad():
        layer.weight[1] = mg.tensor([7.0, 8.0], dtype=mg.float16)
    optimizer.step()
    assert np.array_equal(master[1], np.array([7.0, 8.0], np.float32) - np.float32(1e-5))
    assert np.array_equal(master[2], kept - np.float32(1e-5))  # and where nobody wrote, no digit is lost
    before = layer.state_dict()
    layer.load_state_dict({"weight": np.ones((4, 2))})
    optimizer.step()
    assert np.array_equal(master[1:3], np.full((2, 2), 1 - np.float32(1e-5)))
    assert values(layer.weight).tolist() != before["weight"].tolist()


@pytest.mark.filterwarnings("error")
def test_a_master_weight_beyond_the_half_type() -> None:
    p = nn.Parameter([6e4, 1.0], dtype=mg.float16)
    optimizer = optim.SGD([p], lr=1e4)
    for gradient in (-2.0, 2.0):
        p.grad = mg.full((2,), gradient, dtype=mg.float16)
        optimizer.step()
        if gradient < 0:
            assert values(p)[0] == np.inf
    assert values(p)[0] == np.float16(6e4)


# --- closures ---------------------------------------------------------------------------------------------------------


def test_a_closure_is_called_first_and_its_loss_returned() -> None:
    p = nn.Parameter([3.0])
    optimizer = optim.SGD([p], lr=0.1)

    def closure() -> mg.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with mg.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 9.0
    assert p.item() == pytest.approx(2.4)
    assert optimizer.step() is None


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, Any, str]] = [
    (lambda: nn.L1(-1.0), ValueError, "L1: l1 is -1.0, needs a finite number of at least 0"),
    (lambda: nn.L2(math.inf), ValueError, "L2: l2 is inf"),
    (lambda: nn.L1L2("much"), TypeError, "L1L2: l1 is 'much', needs a number"),
    (lambda: regularizers.get("l3"), ValueError, "regularizers.get: regularizer is 'l3', needs None, an nn.Reg"),
    (lambda: regularizers.get(nn.L1), ValueError, "regularizer is a type"),  # type: ignore[arg-type]
    (lambda: nn.Dense(2, kernel_regularizer=0.1), ValueError, "regularizer is 0.1"),  # type: ignore[arg-type]
    (lambda: nn.Regularizer().penalty(mg.ones(1)), NotImplementedError, r"Regularizer: needs a method penalty"),
    (lambda: nn.Regularizer().gradient(np.ones(1)), NotImplementedError, r"Regularizer: needs a method gradient"),
    (lambda: constraints.get("norm"), ValueError, "constraints.get: constraint is 'norm', needs None, an nn.Con"),
    (lambda: constraints.get(nn.MaxNorm), ValueError, "constraint is a type"),
    (lambda: nn.Constraint()(np.ones(1)), NotImplementedError, r"Constraint: needs a method __call__"),
    (lambda: nn.MaxNorm(-1.0), ValueError, "MaxNorm: max_value is -1.0"),
    (lambda: nn.MaxNorm(1.0, axis="0"), ValueError, "MaxNorm: axis is '0', needs an int or several"),
    (lambda: nn.MaxNorm(1.0, axis=()), ValueError, "axis is"),
    (lambda: nn.MinMaxNorm(2.0, 1.0), ValueError, "MinMaxNorm: min_value is 2.0, needs at most max_value, 1.0"),
    (lambda: nn.MinMaxNorm(rate=2.0), ValueError, "MinMaxNorm: rate is 2.0, needs a share"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        call()

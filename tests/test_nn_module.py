"""Module: what it refuses to register, deferred buffers, and tied parameters through copies, casts and state."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import ShapeError
from minigrad.nn.deferred import Buffer


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that waits for its shape."""

    def __init__(self) -> None:
        self.first = nn.Dense(3, in_features=3, bias=False)
        self.second = nn.Dense(3, in_features=3)
        self.second.weight = self.first.weight
        self.register_buffer("mean", Buffer.deferred((None,), nn.init.ones))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.second(mg.tanh(self.first(x)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_stay_tied_and_train_alike(duplicate: Any) -> None:
    model = Tied()
    model.first.weight.requires_grad = True
    made = duplicate(model)
    assert made.first.weight is made.second.weight
    assert made.first.weight is not model.first.weight
    assert isinstance(made.mean, Buffer)
    assert not made.mean.is_initialized
    x = mg.asarray(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    for m in (model, made):
        optimizer = optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            (m(x) ** 2).sum().backward()
            optimizer.step()
    assert np.array_equal(model.first.weight.detach().numpy(), made.first.weight.detach().numpy())
    made.mean.initialize((3,))
    assert list(made.state_dict()) == ["mean", "first.weight", "second.bias"]


def test_tied_parameters_are_cast_and_loaded_once() -> None:
    model = Tied()
    model.mean.initialize((3,))
    weight = model.first.weight
    model.to(mg.float64)
    assert model.first.weight is model.second.weight is weight
    assert weight.dtype == model.mean.dtype == mg.float64
    state = {name: t + 1 for name, t in model.state_dict().items()}
    assert model.load_state_dict(state) == ([], [])
    assert np.array_equal(model.second.weight.detach().numpy(), state["first.weight"].detach().numpy())
    assert model.zero_grad() is None
    assert [p is weight for p in model.parameters()] == [True, False]


STATE = {"mean": np.ones(3), "second.bias": np.zeros(3)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("names", [["second.weight"], ["first.weight", "second.weight"], ["first.weight"]])
def test_a_state_has_a_tied_parameter_by_any_of_its_names(names: list[str], strict: bool) -> None:
    model = Tied()
    values = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    values[0, 1] = np.nan  # which differs from itself
    assert model.load_state_dict(STATE | {name: values.copy() for name in names}, strict=strict) == ([], [])
    np.testing.assert_array_equal(model.first.weight.detach().numpy(), values)
    assert model.first.weight is model.second.weight


@pytest.mark.parametrize("other", [np.full((3, 3), 1.5), np.ones((3, 1)), np.ones((1, 3, 3))], ids=lambda a: a.shape)
def test_several_names_of_a_tied_parameter_must_agree(other: Any) -> None:
    model = Tied()
    before = model.first.weight.detach().numpy().copy()
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"contradictory: first\.weight and second\.weight, which are one tensor$"):
            model.load_state_dict(
                STATE | {"second.weight": other, "first.weight": np.ones((3, 3))}, strict=strict
            )  # fmt: skip
    np.testing.assert_array_equal(model.first.weight.detach().numpy(), before)
    with pytest.raises(ValueError, match=r"mis-shaped: first\.weight is \(2, 3\)"):
        model.load_state_dict(STATE | {"second.weight": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"missing: first\.weight\n    unexpected: third\.weight, second\.weight\.x"):
        model.load_state_dict(STATE | {"third.weight": np.ones((3, 3)), "second.weight.x": np.ones(1)})


class Pair(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        self.a = self.b = inner

    def __repr__(self) -> str:
        return "Pair"  # the usual one has a line for every path


def test_names_of_shared_modules_and_of_modules_that_hold_themselves() -> None:
    """A walk over all paths of such a tree would not end in a lifetime."""
    layer: Any = nn.Dense(2, in_features=2)
    model: Any = layer
    for _ in range(64):
        model = Pair(model)
    assert model.named_parameters()[0][0] == ".".join("a" * 64) + ".weight"
    path = ".".join("abba" * 16)
    state = {f"{path}.weight": np.full((2, 2), 3.0), f"{path}.bias": np.zeros(2)}
    assert model.load_state_dict(state) == ([], [])
    assert layer.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    layer.loop = [layer]
    assert layer.load_state_dict({"loop.0.loop.0.weight": np.ones((2, 2)), "bias": np.ones(2)}) == ([], [])
    assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_buffers_outside_the_state_stay_unexpected() -> None:
    layer = nn.Identity()
    layer.register_buffer("kept", mg.ones((2,)))
    layer.register_buffer("again", layer.kept)
    layer.register_buffer("scratch", mg.ones((2,)), persistent=False)
    assert layer.load_state_dict({"again": [2.0, 3.0]}) == ([], [])
    assert layer.kept.tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"unexpected: scratch$"):
        layer.load_state_dict({"kept": [2.0, 3.0], "scratch": [1.0, 1.0]})


def test_deferred_buffer() -> None:
    layer = nn.Identity()
    layer.register_buffer("mean", Buffer.deferred((None, 2), nn.init.ones, dtype=mg.float64))
    assert layer.parameters() == []
    assert repr(layer.mean) == "Buffer(shape=(?, 2), dtype=float64, uninitialized)"
    with pytest.raises(ShapeError, match=r"state_dict: mean is uninitialized, \(\?, 2\)"):
        layer.state_dict()
    with pytest.raises(ValueError, match=r"mis-shaped: mean is \(3, 1\), needs \(\?, 2\)"):
        layer.load_state_dict({"mean": np.zeros((3, 1))})
    other = copy.deepcopy(layer)
    layer.mean.initialize((3, 2))
    assert layer.mean.tolist() == np.ones((3, 2)).tolist()
    assert not layer.mean.requires_grad
    assert other.load_state_dict(layer.state_dict()) == ([], [])
    assert other.mean.shape == (3, 2)
    with pytest.raises(ShapeError, match=r"Buffer: shape is \(4, 3\), needs \(\?, 2\)"):
        Buffer.deferred((None, 2), nn.init.ones).initialize((4, 3))


def test_register_buffer_refuses() -> None:
    layer = nn.Identity()
    for name in ("a.b", "", 3):
        with pytest.raises(ValueError, match=r"register_buffer: name is .*, needs a name without dots"):
            layer.register_buffer(name, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="register_buffer: tensor is a Parameter, needs a tensor that is not trained"):
        layer.register_buffer("weight", nn.Parameter([1.0]))
    assert layer.state_dict() == {}


def test_hooks_must_be_functions() -> None:
    layer = nn.ReLU()
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        with pytest.raises(TypeError, match=rf"{register.__name__}: hook is 3, needs a function"):
            register(3)  # type: ignore[operator]
    assert layer(mg.tensor([-1.0])).tolist() == [0.0]


def test_hooks_follow_copies_and_go_one_by_one() -> None:
    calls: list[str] = []
    layer = nn.ReLU()
    first = layer.register_forward_hook(lambda *_: calls.append("first"))
    layer.register_forward_hook(lambda *_: calls.append("second"))
    made = copy.deepcopy(layer)
    first()
    first()
    layer(mg.ones((1,)))
    assert calls == ["second"]
    made(mg.ones((1,)))
    assert calls == ["second", "first", "second"]


def test_apply_reaches_children_first_and_names_errors() -> None:
    model = nn.Sequential([nn.Residual(nn.Dense(2, in_features=2))])
    seen: list[str] = []
    assert model.apply(lambda m: seen.append(type(m).__name__)) is model
    assert seen == ["Dense", "Residual", "Sequential"]

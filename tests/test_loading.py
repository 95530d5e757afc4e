"""Layers that wait for their first batch: a state or a batch that does not fit changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.errors import GradError, ShapeError

TOKENS, VECTORS, IMAGES = mg.ones((2, 3, 8)), mg.ones((4, 6)), mg.ones((2, 6, 3, 3))
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "dense": (lambda: nn.Dense(3), lambda m: m(VECTORS)),
    "layer norm": (nn.LayerNorm, lambda m: m(VECTORS)),
    "batch norm": (nn.BatchNorm, lambda m: m(VECTORS)),
    "group norm": (lambda: nn.GroupNorm(2), lambda m: m(IMAGES)),
    "instance norm": (lambda: nn.InstanceNorm(affine=True), lambda m: m(IMAGES)),
    "convolution": (lambda: nn.Conv2D(4, 3), lambda m: m(IMAGES)),
    "lstm": (lambda: nn.LSTM(2, 2, bidirectional=True), lambda m: m(TOKENS)),
    "gru": (lambda: nn.GRU(2), lambda m: m(TOKENS)),
    "positions": (lambda: nn.LearnedPositions(5), lambda m: m(TOKENS)),
    "feed-forward": (nn.FeedForward, lambda m: m(TOKENS)),
    "gated": (lambda: nn.FeedForward(activation="swiglu"), lambda m: m(TOKENS)),
    "attention": (lambda: nn.MultiHeadAttention(4, num_kv_heads=2, qk_norm=True), lambda m: m(TOKENS)),
    "encoder": (lambda: nn.TransformerEncoder(2, 2), lambda m: m(TOKENS)),
    "decoder": (lambda: nn.TransformerDecoder(1, 2), lambda m: m(TOKENS, TOKENS)),
    "post norm": (lambda: nn.TransformerEncoder(1, 2, norm="post"), lambda m: m(TOKENS)),
}
each_layer = pytest.mark.parametrize(("make", "call"), LAYERS.values(), ids=LAYERS)


def shapes(module: nn.Module) -> list[tuple[Any, ...]]:
    return [(name, t.shape, getattr(t, "is_initialized", True)) for name, t, _ in module._tensors()]


def refusal(module: nn.Module, state: dict[str, Any]) -> str:
    """What the error says that a state is met with, nothing where it is loaded."""
    try:
        module.load_state_dict(state)
    except ValueError as error:
        return str(error)
    return ""


@each_layer
def test_a_state_completes_what_waits(make: Callable[[], nn.Module], call: Callable[[nn.Module], Any]) -> None:
    built, fresh = make(), make()
    call(built)
    state = built.state_dict()
    fresh.load_state_dict(state)
    assert shapes(fresh) == shapes(built)
    np.testing.assert_array_equal(call(fresh.eval()).detach().numpy(), call(built.eval()).detach().numpy())
    for name, value in state.items():
        part = make()
        part.load_state_dict({name: value}, strict=False)
        call(part)
        assert shapes(part) == shapes(built)


@each_layer
def test_a_state_that_contradicts_itself_changes_nothing(
    make: Callable[[], nn.Module], call: Callable[[nn.Module], Any]
) -> None:
    built = make()
    call(built)
    state = built.state_dict()
    refused = 0
    for name, value in state.items():
        for axis in range(value.ndim):
            shape = [n + (i == axis) for i, n in enumerate(value.shape)]
            model = nn.Sequential([nn.Identity(), make()])
            before = shapes(model)
            other = {f"1.{n}": v for n, v in state.items()} | {f"1.{name}": mg.ones(shape)}
            text = refusal(model, other)
            if text:
                refused += 1
                assert f"1.{name} is {tuple(shape)}" in text
                assert shapes(model) == before
                call(model[1])  # as if nothing had been
                assert shapes(model[1]) == shapes(built)
            else:  # the input may have had other features
                assert sum(not done for *_, done in before) == 1 or "key" in name or "value" in name
    assert refused


def test_what_contradicts_a_tensor_that_has_its_shape() -> None:
    layer = nn.LayerNorm()
    layer.load_state_dict({"weight": mg.ones(3)}, strict=False)
    with pytest.raises(ValueError, match=r"contradictory: bias is \(5,\) where weight is \(3,\)"):
        layer.load_state_dict({"bias": mg.ones(5)}, strict=False)
    with pytest.raises(ValueError, match=r"contradictory: weight is \(5,\), needs a multiple of 2 on axis 0"):
        nn.GroupNorm(2).load_state_dict({"weight": mg.ones(5)}, strict=False)


def test_an_extent_that_waits_is_not_completed_by_0() -> None:
    with pytest.raises(ValueError, match=r"mis-shaped: weight is \(0, 3\), needs \(\?, 3\)"):
        nn.Dense(3).load_state_dict({"weight": mg.ones((0, 3)), "bias": mg.ones(3)})
    with pytest.raises(ShapeError, match=r"shape is \(0, 3\), needs \(\?, 3\)"):
        nn.Dense(3).weight.initialize((0, 3))


def test_layers_put_in_the_place_of_others_have_shapes_of_their_own() -> None:
    class Turned(nn.Module):
        """A projection that keeps its weight the other way round."""

        def __init__(self) -> None:
            self.weight = nn.Parameter(mg.ones((2, 8)))

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            return x @ self.weight.mT @ self.weight

    model = nn.MultiHeadAttention(4)
    model.query = Turned()
    call = model(TOKENS)
    other = nn.MultiHeadAttention(4)
    other.query = Turned()
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(TOKENS).detach().numpy(), call.detach().numpy())


COMPLEX = {"dtype": mg.complex64}
BATCHES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "complex attention": (
        lambda: nn.MultiHeadAttention(2), lambda m: m(mg.ones((2, 3, 4), **COMPLEX)), lambda m: m(TOKENS),
    ),
    "mask": (
        lambda: nn.MultiHeadAttention(2), lambda m: m(mg.ones((2, 3, 4)), mask=mg.ones((5, 5)) > 0),
        lambda m: m(TOKENS),
    ),
    "lengths": (
        lambda: nn.MultiHeadAttention(2), lambda m: m(mg.ones((2, 3, 4)), key_lengths=[9, 9]), lambda m: m(TOKENS),
    ),
    "values": (
        lambda: nn.MultiHeadAttention(2),
        lambda m: m(mg.ones((2, 3, 4)), mg.ones((2, 4, 4)), mg.ones((2, 5, 4))),
        lambda m: m(TOKENS, mg.ones((2, 4, 3))),
    ),
    "odd heads with rotary positions": (
        lambda: nn.MultiHeadAttention(2, rotary=True), lambda m: m(mg.ones((2, 3, 6))), lambda m: m(TOKENS),
    ),
    "heads that do not divide": (
        lambda: nn.TransformerEncoder(1, 2), lambda m: m(mg.ones((2, 3, 7))), lambda m: m(TOKENS),
    ),
    "the same in a decoder": (
        lambda: nn.TransformerDecoder(1, 2, cross_attention=False), lambda m: m(mg.ones((2, 3, 7))),
        lambda m: m(TOKENS),
    ),
    "complex network": (nn.FeedForward, lambda m: m(mg.ones((2, 4), **COMPLEX)), lambda m: m(TOKENS)),
    "no batch": (nn.BatchNorm, lambda m: m(mg.ones((0, 3))), lambda m: m(VECTORS)),
    "positions": (lambda: nn.LearnedPositions(3), lambda m: m(mg.ones((4, 2))), lambda m: m(TOKENS)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "bad", "good"), BATCHES.values(), ids=BATCHES)
def test_a_first_batch_that_fails_fixes_nothing(
    make: Callable[[], nn.Module], bad: Callable[[Any], Any], good: Callable[[Any], Any]
) -> None:
    module, other = make(), make()
    before = shapes(module)
    with pytest.raises((ValueError, TypeError, GradError)):
        bad(module)
    assert shapes(module) == before
    good(module)
    good(other)
    assert shapes(module) == shapes(other)


def test_names_and_values_that_are_none():
    layer = nn.Dense(2, in_features=2)
    with pytest.raises(TypeError, match="load_state_dict: a name in the state is 1, needs a str"):
        layer.load_state_dict({1: [0.0], "bias": [0.0, 0.0]})
    with pytest.raises(ValueError, match=r"load_state_dict: 'weight' is .* needs a tensor, an array, or lists"):
        layer.load_state_dict({"weight": [[1.0], [1.0, 2.0]], "bias": [0.0, 0.0]})

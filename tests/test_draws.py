"""Draws: the second run of a checkpoint has the random numbers of the first, whatever happens around it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.draws import Draws
from minigrad.errors import GradError


class Pair(NamedTuple):
    value: Any
    mask: Any


def drawn_elsewhere():
    """Another thread takes a number of the generator that all threads share."""
    thread = threading.Thread(target=mg.random.uniform)
    thread.start()
    thread.join()


def test_what_other_threads_draw_does_not_count():
    calls = []

    def f(x):
        calls.append(None)
        first = mg.dropout(x, 0.5)
        if len(calls) == 1:
            drawn_elsewhere()
        return first + 10 * mg.dropout(x, 0.5)

    x = mg.ones(64, requires_grad=True)
    y = mg.checkpoint(f, x)
    y.sum().backward()
    assert len(calls) == 2
    assert x.grad.tolist() == y.tolist()


def test_generators_of_the_function_do_not_go_on():
    generator = mg.random.Generator(seed=3)
    x = mg.ones(64, requires_grad=True)
    y = mg.checkpoint(lambda x: x * generator.normal(64) * mg.random.normal(64), x)
    states = generator.get_state(), mg.random.get_state()
    y.sum().backward()
    assert x.grad.tolist() == y.tolist()
    assert states == (generator.get_state(), mg.random.get_state())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_function_that_seeds(seed):
    def f(x):
        mg.random.seed(seed)
        kept = mg.random.get_state()
        first = mg.dropout(x, 0.5)
        mg.random.set_state(kept)
        return first + mg.dropout(x, 0.5)

    x = mg.ones(32, requires_grad=True)
    y = mg.checkpoint(f, x)
    assert set(y.tolist()) == {0.0, 4.0}  # one mask twice
    mg.random.seed(9)
    y.sum().backward()
    assert x.grad.tolist() == y.tolist()
    assert mg.random.get_state()["seed"] == 9


LAYERS = {
    "dense": lambda: nn.Sequential([nn.Dense(16), nn.Dropout(0.5), nn.Dense(2), nn.Dropout(0.2)]),
    "attention": lambda: nn.MultiHeadAttention(2, dropout=0.3),
    "encoder": lambda: nn.TransformerEncoder(2, 2, 16, dropout=0.2),
    "transformer": lambda: nn.Sequential([nn.FeedForward(16, dropout=0.3), nn.LayerNorm(), nn.Dense(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("way", ["function", "nested", "flag"])
def test_the_batch_that_completes_shapes(name, way):
    found = []
    for plain in (True, False):
        mg.random.seed(4)
        model = LAYERS[name]()
        x = mg.random.normal((3, 5, 8)).requires_grad_()
        if plain:
            y = model(x)
        elif way == "flag":
            y = nn.checkpointed(model)(x)
        elif way == "function":
            y = mg.checkpoint(model, x)
        else:
            y = mg.checkpoint(lambda x, model=model: mg.checkpoint(model, x) * 1, x)
        weight = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
        (y * weight).sum().backward()
        found.append([y.tolist(), x.grad.tolist(), *(p.grad.tolist() for p in model.parameters())])
    assert found[0] == found[1]


def test_nested_checkpoints_and_second_order():
    found = []
    for run in (lambda f, x: f(x), mg.checkpoint):
        mg.random.seed(1)

        def inner(x):
            return mg.dropout(x * x * mg.random.normal(16), 0.3)

        def outer(x, run=run, inner=inner):
            return mg.dropout(run(inner, mg.dropout(x, 0.3)), 0.3) * mg.random.normal(16)

        x = mg.asarray(np.linspace(-1, 1, 16), dtype=mg.float64).requires_grad_()
        weight = mg.asarray(np.random.default_rng(0).normal(size=16))
        g = mg.grad((run(outer, x) * weight).sum(), x, create_graph=True)
        (g * g * weight).sum().backward()
        found.append((g.tolist(), x.grad.tolist(), mg.random.get_state()))
    assert found[0] == found[1]


def test_a_mode_that_changed_is_found():
    layer = nn.checkpointed(nn.Sequential([nn.Dense(4, in_features=4), nn.Dropout(0.5)]))
    x = mg.ones((2, 4), requires_grad=True)
    y = layer(x)
    layer.eval()
    with pytest.raises(GradError, match="checkpoint: f is random numbers drawn fewer times in its second run"):
        y.sum().backward()
    y = layer(x)
    layer.train()
    with pytest.raises(GradError, match="checkpoint: f is random numbers drawn more times in its second run"):
        y.sum().backward()
    assert mg.random.uniform(3).shape == (3,)  # and nothing is left behind


def test_named_tuples_stay_named_tuples():
    x = mg.ones(3, requires_grad=True)
    found = mg.checkpoint(lambda x: Pair(x * 2, mg.ones(3)), x)
    assert type(found) is Pair
    found.value.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    _, grads = mg.value_and_grad(lambda p: (p.value * p.mask).sum())(Pair(mg.ones(2), mg.ones(2)))
    assert type(grads) is Pair
    assert grads.mask.tolist() == [1.0, 1.0]
    out, _ = mg.autograd.vjp(lambda x: Pair(x * 2, x + 1), mg.ones(2), (mg.ones(2), mg.ones(2)))
    assert out.mask.tolist() == [2.0, 2.0]


def test_an_error_inside_leaves_no_record():
    draws = Draws()

    def fail():
        mg.random.uniform(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), draws.record():
        fail()
    with pytest.raises(ZeroDivisionError), draws.replay():
        raise ZeroDivisionError  # not that it drew fewer times
    before = mg.random.get_state()["counter"]
    mg.random.uniform(1)
    assert mg.random.get_state()["counter"] == before + 1

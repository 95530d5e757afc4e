"""The summary: what it counts, what it prints, and that it leaves the model as it was."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError


class Net(nn.Module):
    """What a summary can trip over: a tie, deferred layers, a frozen one, a view, reuse, a layer not called."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.ones((4,), np.float64))
        self.embed = nn.Embedding(10, 4)
        self.twice = nn.Dense(4)
        self.norm = nn.BatchNorm1D()
        self.flat = nn.Flatten()
        self.tied = nn.Dense(4, in_features=4)
        self.tied.weight = self.twice.weight
        self.spare = nn.Dense(1, in_features=2)
        self.spare.requires_grad_(False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids: mg.Tensor) -> mg.Tensor:
        x = self.embed(ids)
        x = self.twice(self.twice(x))
        x = self.dropout(self.norm(x * self.scale.astype(mg.float32)))
        return self.tied(self.flat(x[:, :1]))


def test_counts_and_shapes() -> None:
    net = Net()
    made = net.summary(input_shape=(5, 3), dtype=mg.int64)
    rows = {row.path: row for row in made.rows}
    assert list(rows) == ["", "embed", "twice", "norm", "flat", "tied", "spare", "dropout"]
    assert {path: row.parameters for path, row in rows.items()} == {
        "": 4, "embed": 40, "twice": 20, "norm": 6, "flat": 0, "tied": 4, "spare": 3, "dropout": 0,
    }  # fmt: skip
    assert rows[""].shapes == [(5, 4)]
    assert rows["twice"].shapes == [(5, 3, 4)] * 2
    assert rows["flat"].shapes == [(5, 4)]
    assert rows["spare"].shapes == []
    # the root gives what tied made, flat a view, and dropout in evaluation mode its input
    assert {path: row.activations for path, row in rows.items()} == {
        "": 0, "embed": 240, "twice": 480, "norm": 240, "flat": 0, "tied": 80, "spare": 0, "dropout": 0,
    }  # fmt: skip
    assert rows["norm"].memory == 6 * 4 + 6 * 4 + 8
    assert (made.parameters, made.trainable, made.frozen, made.uninitialized) == (77, 74, 3, 0)
    assert (made.parameter_memory, made.buffer_memory) == (4 * 73 + 8 * 4, 6 * 4 + 8)
    assert made.activation_memory == 1040
    text = str(made)
    assert "  twice: Dense       (5, 3, 4) x2          20" in text
    assert "not called" in text
    assert "Parameters: 77 (trainable 74, frozen 3)" in text
    assert len({len(line) for line in text.splitlines()[:-2]}) == 1


def test_it_leaves_the_model_as_it_was() -> None:
    net = Net()
    net.twice.eval()
    net.norm.momentum = 1.0
    seen: list[mg.Tensor] = []
    net.embed.register_forward_hook(lambda module, args, output: seen.append(output))
    before = {name: t.detach().numpy().copy() for name, t in [*net.named_parameters(), *net.named_buffers()]}
    objects = [id(t) for t in [*net.parameters(), *net.buffers()]]
    random, modes = mg.random.get_state(), [m.training for m in net.modules()]
    net.summary(mg.zeros((5, 3), dtype=mg.int64))
    assert mg.random.get_state() == random
    assert [m.training for m in net.modules()] == modes
    assert [id(t) for t in [*net.parameters(), *net.buffers()]] == objects
    assert {name: t.detach().numpy().tolist() for name, t in [*net.named_parameters(), *net.named_buffers()]} == {
        name: values.tolist() for name, values in before.items()
    }
    assert net.twice.in_features is None
    assert net.norm.features is None
    assert len(seen) == 1
    assert not seen[0].requires_grad
    assert all(len(m._hooks) == (m is net.embed) for m in net.modules())
    net.eval()(mg.zeros((2, 3), dtype=mg.int64))
    assert net.twice.in_features == 4


def test_buffers_that_a_forward_changes_come_back() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            self.register_buffer("count", mg.zeros(()))

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            self.count += 1
            return x

    model = Counter()
    model.summary(mg.ones((1,)))
    assert model.count.item() == 0
    model(mg.ones((1,)))
    assert model.count.item() == 1


def test_it_leaves_the_model_as_it_was_where_the_forward_fails() -> None:
    net = Net()
    with pytest.raises(DTypeError, match=r"^embed: embedding: ids is float"):
        net.summary(input_shape=(5, 3), dtype=mg.float32)
    model = nn.Sequential([nn.Dense(3), nn.Dense(3, in_features=2)])
    with pytest.raises(ShapeError, match=r"^1: linear"):
        model.summary(input_shape=(5, 3))
    for m in (net, model):
        assert all(part.training and not part._hooks for part in m.modules())
    assert model[0].in_features is None  # type: ignore[attr-defined]


def test_without_inputs() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Dense(2, in_features=3, bias=False)])
    made = model.summary()
    assert [(row.shapes, row.parameters, row.activations) for row in made.rows] == [
        ([None], 0, None), ([None], None, None), ([None], 6, None),
    ]  # fmt: skip
    assert (made.uninitialized, made.activation_memory) == (1, None)
    lines = str(made).splitlines()
    assert lines[3].split() == ["0:", "Dense", "?", "?", "?", "?"]
    assert "Parameters: 9, and those of 1 uninitialized ones (trainable 9, frozen 0)" in lines
    assert lines[-1].endswith("activations ?")


def test_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: mg.Tensor, b: mg.Tensor) -> dict[str, object]:
            return {"sum": a + b, "pair": [a, (b * 2, 3)]}

    made = Two().summary(input_shape=[(2, 3), (3,)])
    assert made.rows[0].shapes == [{"sum": (2, 3), "pair": [(2, 3), [(3,), "int"]]}]
    assert made.activation_memory == 24 + 12
    assert nn.ReLU().summary(input_shape=5).rows[0].shapes == [(5,)]
    wide = nn.Dense(2, in_features=3, dtype=mg.float64).summary(input_shape=(2, 3))
    assert wide.activation_memory == 2 * 2 * 8
    with pytest.raises(ValueError, match=r"summary: input_shape is .*, needs no inputs beside it"):
        Two().summary(mg.ones((1,)), input_shape=(1,))
    with pytest.raises(TypeError, match="summary: input_shape is ab, needs a shape"):
        Two().summary(input_shape="ab")


def test_sizes_in_words() -> None:
    last = str(nn.Embedding(1 << 18, 4).summary()).splitlines()[-1]
    assert last == "Memory: parameters 4.0 MiB, buffers 0 B, activations ?"

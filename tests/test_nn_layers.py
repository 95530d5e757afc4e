"""Containers, layers of shape, embedding: how they are named, called, copied, and what they refuse."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import load_digits
from minigrad.errors import AxisError, DTypeError, ShapeError


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def dense(units: int = 2, in_features: int = 2) -> nn.Dense:
    return nn.Dense(units, in_features=in_features)


def random(*shape: int) -> mg.Tensor:
    return mg.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def double(x: Any) -> Any:
    return x * 2


# --- Keras's way ------------------------------------------------------------------------------------------------------


def test_a_classifier_as_keras_writes_it() -> None:
    mg.random.seed(0)
    model = nn.Sequential(
        [nn.Flatten(), nn.Dense(64, activation="relu"), nn.Dropout(0.5), nn.Dense(10, activation="softmax")]
    )
    digits = load_digits()
    x, y = mg.asarray(digits.train_images[:256]), mg.asarray(digits.train_labels[:256])
    assert x.ndim == 3
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(mg.log(model(x)), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 1.5 < losses[0]
    assert np.allclose(model.eval()(x).sum(axis=-1).detach().numpy(), 1.0, atol=1e-5)


# --- ModuleList and ModuleDict ----------------------------------------------------------------------------------------


class Tower(nn.Module):
    def __init__(self) -> None:
        self.layers = nn.ModuleList([dense(), dense()])
        self.heads = nn.ModuleDict({"a": nn.ModuleList([dense()]), "b": nn.Sequential([dense()])})

    def forward(self, x: mg.Tensor, head: str = "a") -> mg.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.heads["a"][0](x) if head == "a" else self.heads[head](x)


def test_module_list_is_a_list() -> None:
    a, b, c, d = (dense() for _ in range(4))
    modules = nn.ModuleList([a])
    modules.append(c)
    modules.insert(1, b)
    modules += [d]
    assert list(modules) == [a, b, c, d]
    assert (len(modules), modules[-1], modules[1:3], c in modules, modules.index(c)) == (4, d, [b, c], True, 2)
    assert modules.pop(0) is a
    del modules[-1]
    modules[0] = d
    assert list(modules) == [d, c]
    assert names(modules) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    modules.reverse()
    assert modules.state_dict()["0.weight"].tolist() == c.weight.tolist()
    assert nn.ModuleList().parameters() == []


def test_module_dict_is_a_dict() -> None:
    a, b = dense(), dense()
    modules = nn.ModuleDict({"a": a})
    modules["b"] = b
    assert (list(modules), list(modules.values()), "b" in modules, len(modules)) == (["a", "b"], [a, b], True, 2)
    assert modules.pop("a") is a
    modules.update(c=a)
    assert names(modules) == ["b.weight", "b.bias", "c.weight", "c.bias"]
    with pytest.raises(KeyError):
        modules["a"]
    assert modules == modules
    assert modules != nn.ModuleDict(modules)
    assert len({modules, nn.ModuleDict()}) == 2


def test_tree_of_containers() -> None:
    tower = Tower()
    paths = ["", "layers", "layers.0", "layers.1", "heads", "heads.a", "heads.a.0", "heads.b", "heads.b.0"]
    assert [path for path, _ in tower.named_modules()] == paths
    assert names(tower)[-2:] == ["heads.b.0.weight", "heads.b.0.bias"]
    tower.eval()
    assert not any(m.training for m in tower.modules())
    assert "(layers): ModuleList(\n    (0): Dense(2 -> 2)" in repr(tower)


def test_errors_name_the_modules_of_containers() -> None:
    tower = Tower()
    for where in ("layers.1", "heads.a.0", "heads.b.0"):
        broken = copy.deepcopy(tower)
        layer = dict(broken.named_modules())[where]
        layer.weight = nn.Parameter(np.zeros((5, 2), np.float32))  # type: ignore[assignment]
        with pytest.raises(ShapeError, match=f"^{where}: linear: "):
            broken(mg.ones((3, 2)), head=where.split(".")[1])
    tower.layers.insert(0, nn.Dense(7, in_features=2))  # names move with the places
    with pytest.raises(ShapeError, match=r"^layers\.1: linear: "):
        tower(mg.ones((3, 2)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_containers(duplicate: Any) -> None:
    tower = Tower()
    tower.heads["b"][0].weight = tower.layers[0].weight  # tied
    made = duplicate(tower)
    assert names(made) == names(tower)
    assert made.heads["b"][0].weight is made.layers[0].weight is not tower.layers[0].weight
    x = random(3, 2).astype(mg.float32)
    assert made(x, head="b").tolist() == tower(x, head="b").tolist()
    made.layers.append(dense())
    assert (len(made.layers), len(tower.layers)) == (3, 2)
    with pytest.raises(ShapeError, match=r"^layers.0: "):
        made(mg.ones((3, 5)))


def test_containers_refuse() -> None:
    with pytest.raises(NotImplementedError, match=r"ModuleList: cannot be called. Call its modules"):
        nn.ModuleList([dense()])(mg.ones((2, 2)))
    with pytest.raises(TypeError, match=r"ModuleList: module 1 is the class ReLU, needs a module.*ReLU\(\.\.\.\)"):
        nn.ModuleList([dense(), nn.ReLU])  # type: ignore[list-item]
    modules = nn.ModuleDict({"a": dense()})
    for key, value, kind, text in (
        (1, dense(), TypeError, "a key is 1, needs a str"),
        ("a.b", dense(), ValueError, "a key is 'a.b', needs a name without dots"),
        ("", dense(), ValueError, "without dots"),
        ("c", mg.relu, TypeError, "module 'c' is a .*, needs a module"),
    ):
        with pytest.raises(kind, match=text):
            modules[key] = value  # type: ignore[index]
    assert list(modules) == ["a"]


# --- Residual and Lambda ----------------------------------------------------------------------------------------------


def test_residual() -> None:
    inner, projection = nn.Dense(3, in_features=3), nn.Dense(2, in_features=3)
    x = random(4, 3).astype(mg.float32)
    assert np.array_equal(nn.Residual(inner)(x).detach().numpy(), (x + inner(x)).detach().numpy())
    layer = nn.Residual(nn.Sequential([inner, nn.Dense(2, in_features=3)]), shortcut=projection)
    assert np.array_equal(layer(x).detach().numpy(), (projection(x) + layer.module(x)).detach().numpy())
    assert names(layer)[-2:] == ["shortcut.weight", "shortcut.bias"]


def test_residual_hands_arguments_on() -> None:
    class Scale(nn.Module):
        def forward(self, x: mg.Tensor, factor: float, shift: float = 0.0) -> mg.Tensor:
            return x * factor + shift

    assert nn.Residual(Scale())(mg.ones((2,)), 2.0, shift=1.0).tolist() == [4.0, 4.0]


def test_residual_refuses() -> None:
    x = mg.ones((4, 3))
    with pytest.raises(
        ShapeError, match=r"what the module gives is of shape \(4, 1\), needs the shape of x, \(4, 3\).*short"
    ):
        nn.Residual(nn.Dense(1))(x)  # would broadcast
    with pytest.raises(ShapeError, match=r"needs the shape of what the shortcut gives, \(4, 2\)"):
        nn.Residual(nn.Dense(1), nn.Dense(2))(x)
    with pytest.raises(TypeError, match="Residual: module is a function"):
        nn.Residual(double)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Residual: shortcut is a function"):
        nn.Residual(dense(), shortcut=double)  # type: ignore[arg-type]


def test_lambda() -> None:
    layer = nn.Lambda(double)
    assert (repr(layer), repr(nn.Lambda(double, name="twice"))) == ("Lambda(double)", "Lambda(twice)")
    assert pickle.loads(pickle.dumps(layer))(mg.ones((1,))).tolist() == [2.0]
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    (layer(x) * mg.tensor([3.0, -1.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6.0, -2.0]
    for wrong in (3, nn.ReLU):
        with pytest.raises(TypeError, match=r"Lambda: function is a?.*, needs a function"):
            nn.Lambda(wrong)  # type: ignore[arg-type]


# --- Flatten and Reshape ----------------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple))
def test_flatten_and_back(shape: tuple[int, ...]) -> None:
    x = random(*shape)
    flat = nn.Flatten()(x)
    assert flat.shape == (shape[0], int(np.prod(shape[1:])))
    assert np.array_equal(flat.detach().numpy().ravel(), x.detach().numpy().ravel())
    assert np.array_equal(nn.Reshape(shape[1:])(flat).detach().numpy(), x.detach().numpy())


def test_flatten_axes() -> None:
    x = mg.ones((2, 3, 4, 5))
    assert nn.Flatten(start_axis=0)(x).shape == (120,)
    assert nn.Flatten(2, 3)(x).shape == (2, 3, 20)
    assert nn.Flatten(1, -2)(x).shape == (2, 12, 5)
    assert (repr(nn.Flatten()), repr(nn.Flatten(2, 3))) == ("Flatten()", "Flatten(2, 3)")
    for wrong in (nn.Flatten(3, 1), nn.Flatten(4), nn.Flatten(0, 7)):
        with pytest.raises(ShapeError, match="flatten: axes is"):
            wrong(x)
    with pytest.raises(ShapeError, match="flatten: axes is"):
        nn.Flatten()(mg.tensor(1.0))


def test_reshape() -> None:
    assert nn.Reshape(-1)(mg.ones((2, 3, 4))).shape == (2, 12)
    assert nn.Reshape((-1, 2))(mg.ones((0, 3, 4))).shape == (0, 6, 2)
    assert nn.Reshape(())(mg.ones((2, 1))).shape == (2,)
    assert repr(nn.Reshape((2, -1))) == "Reshape((2, -1))"
    for shape in ((-1, -1), (-2,)):
        with pytest.raises(ShapeError, match=r"Reshape: shape is .* -1 at most once"):
            nn.Reshape(shape)
    with pytest.raises(ShapeError, match=r"x is float32 \(2, 5\), 5 elements a sample, needs .* shape \(-1, 2\)"):
        nn.Reshape((-1, 2))(mg.ones((2, 5)))
    with pytest.raises(ShapeError, match="needs a batch"):
        nn.Reshape(1)(mg.tensor(1.0))


# --- Embedding --------------------------------------------------------------------------------------------------------


def test_embedding() -> None:
    layer = nn.Embedding(5, 3, padding_idx=2, dtype=mg.float64)
    weight = layer.weight.detach().numpy()
    assert (layer.num_embeddings, layer.features, layer.weight.dtype) == (5, 3, mg.float64)
    assert repr(layer) == "Embedding(5 -> 3, padding_idx=2)"
    assert not weight[2].any()
    assert weight[[0, 1, 3, 4]].all()
    ids = np.array([[4, 2, 4], [0, 4, 1]])
    g = random(2, 3, 3)
    out = layer(mg.asarray(ids))
    assert np.array_equal(out.detach().numpy(), weight[ids])
    (out * g).sum().backward()
    expected = np.zeros((5, 3))
    np.add.at(expected, ids, g.detach().numpy())
    expected[2] = 0
    assert layer.weight.grad is not None
    assert np.allclose(layer.weight.grad.detach().numpy(), expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_of_halves_with_padding(dtype: np.dtype, sparse: bool) -> None:
    layer = nn.Embedding(4, 2, padding_idx=0, dtype=dtype, sparse=sparse)
    (layer(mg.tensor([[1, 0], [3, 1]])) * mg.tensor([0.5, 2.0], dtype=dtype)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == dtype
    expected = [[0.0, 0.0], [1.0, 4.0], [0.0, 0.0], [0.5, 2.0]]
    assert np.asarray(layer.weight.grad.astype(mg.float32)).tolist() == expected


def test_embedding_initializers() -> None:
    mg.random.seed(0)
    wide = nn.Embedding(1000, 16).weight.detach().numpy()
    assert abs(wide.std() - 1) < 0.03
    uniform = (
        nn.Embedding(10, 4, embeddings_initializer=lambda t: nn.init.uniform(t, -0.05, 0.05)).weight.detach().numpy()
    )
    assert 0.03 < abs(uniform).max() <= 0.05
    assert not nn.Embedding(3, 2, embeddings_initializer="zeros").weight.detach().numpy().any()


def test_embedding_from_pretrained() -> None:
    table = np.arange(6.0).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(table, padding_idx=1)
    assert layer.weight.tolist() == table.tolist()  # the vector of the padding too
    assert (layer.weight.dtype, layer.weight.requires_grad) == (mg.float64, False)
    layer.weight.detach()[0, 0] = 7.0
    assert table[0, 0] == 0.0
    tuned = nn.Embedding.from_pretrained(table, freeze=False)
    assert tuned.weight.requires_grad
    assert (layer.num_embeddings, layer.features) == (3, 2)
    assert nn.Embedding(3, 2).load_state_dict(layer.state_dict()) == ([], [])


def test_embedding_refuses() -> None:
    for sizes, kind in (((0, 2), ShapeError), ((2, -1), ShapeError), ((2.0, 2), TypeError), (("a", 2), TypeError)):
        with pytest.raises(kind, match=r"Embedding: (num_embeddings|features) is"):
            nn.Embedding(*sizes)  # type: ignore[arg-type]
    for padding in (3, -1, 1.0, True):
        with pytest.raises(ValueError, match=r"Embedding: padding_idx is .*, needs None or an int in \[0, 3\)"):
            nn.Embedding(3, 2, padding_idx=padding)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs None or an int in \[0, 2\)"):
        nn.Embedding.from_pretrained([[1.0], [2.0]], padding_idx=2)
    for table in ([1.0, 2.0], np.zeros((0, 2)), np.zeros((1, 2, 3))):
        with pytest.raises(ShapeError, match=r"Embedding: weight is .*needs 2 axes"):
            nn.Embedding.from_pretrained(table)
    with pytest.raises(DTypeError, match="Parameter: data is int64"):
        nn.Embedding.from_pretrained(np.zeros((2, 2), int))
    model = nn.Sequential([nn.Embedding(3, 2)])
    with pytest.raises(IndexError, match=r"^0: embedding: ids is .* the id 3"):
        model(mg.tensor([3]))
    with pytest.raises(DTypeError, match=r"^0: embedding: ids is float32"):
        model(mg.tensor([1.0]))


def test_tied_embedding_gets_both_gradients() -> None:
    layer = nn.Embedding(4, 3, dtype=mg.float64)
    ids, g = np.array([1, 1, 3]), random(3, 4)
    hidden = layer(mg.asarray(ids))
    ((hidden @ layer.weight.T) * g).sum().backward()
    w = layer.weight.detach().numpy()
    expected = g.detach().numpy().T @ w[ids]
    np.add.at(expected, ids, g.detach().numpy() @ w)
    assert layer.weight.grad is not None
    assert np.allclose(layer.weight.grad.detach().numpy(), expected, rtol=1e-12)


def test_an_axis_error_is_no_surprise() -> None:
    """Flatten's errors come from the op, which counts axes; both kinds are ShapeErrors."""
    assert issubclass(AxisError, ShapeError)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.ModuleList(None), "ModuleList: modules is None, needs an iterable of modules"),
        (lambda: nn.ModuleDict(3), "ModuleDict: modules is 3, needs a mapping of names to modules"),
        (lambda: nn.ModuleDict("ab"), "ModuleDict: modules is 'ab', needs a mapping of names to modules"),
        (lambda: nn.Reshape("a"), "Reshape: shape is 'a', needs an int"),
        (lambda: nn.Reshape((1, 2.5)), "Reshape: shape is 2.5, needs an int"),
        (lambda: nn.Flatten("a"), "Flatten: start_axis is 'a', needs an int"),
        (lambda: nn.Flatten(1, None), "Flatten: end_axis is None, needs an int"),
    ],
)
def test_arguments_of_another_kind_are_named(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()

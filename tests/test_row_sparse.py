"""Row-sparse gradients: exact sums, every path that leads to them, and optimizers that touch the used rows alone."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend import rows
from minigrad.backend.rows import RowSparse
from minigrad.errors import GradError
from minigrad.nn import functional as F

Array = np.ndarray[Any, Any]
OPTIMIZERS: list[tuple[Any, dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def leaf(*shape: int, dtype: Any = np.float64) -> mg.Tensor:
    return mg.tensor(random(*shape).astype(dtype), requires_grad=True)


def rows_of(p: mg.Tensor) -> RowSparse:
    assert p._grad is not None
    assert type(p._grad._array) is RowSparse
    return p._grad._array


def gradient(p: mg.Tensor) -> Array:
    assert p.grad is not None
    return p.grad.numpy()


def scatter(shape: tuple[int, ...], ids: Array, g: Array) -> Array:
    out = np.zeros(shape)
    np.add.at(out, ids, g)
    return out


# --- the gradient -----------------------------------------------------------------------------------------------------

batches = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=3)


@given(batches=batches, seed=st.integers(0, 99), padding=st.sampled_from([None, 2]), again=st.booleans())
def test_it_is_the_full_gradient(batches: list[list[int]], seed: int, padding: int | None, again: bool) -> None:
    """Repeated ids, several uses in one graph, and several backward passes."""
    weight, twin = leaf(7, 3), leaf(7, 3)
    for table, sparse in ((weight, True), (twin, False)):
        losses = []
        for i, ids in enumerate(batches):
            g = mg.asarray(random(len(ids), 3, seed=seed + i))
            losses.append((F.embedding(np.array(ids, np.int64), table, padding_idx=padding, sparse=sparse) * g).sum())
        for loss in losses if again else [sum(losses[1:], losses[0])]:
            loss.backward()
    used = sorted({i for ids in batches for i in ids} - {padding})
    assert rows_of(weight).ids.tolist() == used
    assert rows_of(weight).values.shape == (len(used), 3)
    np.testing.assert_allclose(gradient(weight), gradient(twin), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [mg.float32, mg.float16, mg.bfloat16])
def test_repeated_ids_are_added_up_exactly(dtype: Any) -> None:
    weight = mg.zeros((4, 1), dtype=dtype)
    weight.requires_grad = True
    out = F.embedding(mg.zeros((1000,), dtype=mg.int64), weight, sparse=True)
    out.backward(mg.ones((1000, 1), dtype=dtype))  # in a half type a running sum would stop at 256 or 2048
    assert gradient(weight).astype(np.float64).tolist() == [[1000.0], [0.0], [0.0], [0.0]]
    assert rows_of(weight).dtype == dtype


@pytest.mark.parametrize("features", [0, 1, 5])
def test_the_kernel_adds_as_numpy_does(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, g = np.random.default_rng(0).integers(0, 20, 100), random(100, features).astype(np.float32)
    found = RowSparse.gather((30, features), ids, g)
    monkeypatch.setattr(rows, "add_rows", lambda *_, **__: NotImplemented)
    expected = RowSparse.gather((30, features), ids, g)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.ids, np.unique(ids))
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.dense(), scatter((30, features), ids, g), rtol=1e-5, atol=1e-5)


def test_a_cotangent_is_not_shared() -> None:
    weight = leaf(4, 2)
    g = mg.asarray(random(2, 2))
    F.embedding(mg.tensor([3, 1]), weight, sparse=True).backward(g)
    assert not np.shares_memory(rows_of(weight).values, g.numpy())


@pytest.mark.parametrize("first", ["sparse", "full"])
@pytest.mark.parametrize("passes", [1, 2])
def test_it_meets_full_gradients(first: str, passes: int) -> None:
    """A table that is also the output layer: both gradients come, in one pass or two, in either order."""
    weight, ids, g, h = leaf(5, 3), np.array([1, 1, 4]), random(3, 3), random(2, 5)
    x = random(2, 3)
    looked = (F.embedding(ids, weight, sparse=True) * mg.asarray(g)).sum()
    full = ((mg.asarray(x) @ weight.T) * mg.asarray(h)).sum()
    pair = [looked, full] if first == "sparse" else [full, looked]
    for loss in pair if passes == 2 else [pair[0] + pair[1]]:
        loss.backward()
    expected = scatter((5, 3), ids, g) + h.T @ x
    np.testing.assert_allclose(gradient(weight), expected, rtol=1e-12)
    assert weight._grad is not None
    assert type(weight._grad._array) is np.ndarray


def test_rows_are_added_into_a_full_gradient_in_place() -> None:
    weight = leaf(5, 2)
    weight.grad = mg.asarray(random(5, 2))
    before, memory = gradient(weight).copy(), weight._grad._array  # type: ignore[union-attr]
    F.embedding(mg.tensor([1, 1]), weight, sparse=True).backward(mg.ones((2, 2), dtype=mg.float64))
    assert weight._grad._array is memory  # type: ignore[union-attr]
    before[1] += 2
    assert np.array_equal(gradient(weight), before)


def test_a_table_that_is_no_leaf_gets_a_full_cotangent() -> None:
    base = leaf(3, 5)
    ids, g = np.array([[0, 4], [4, 2]]), random(2, 2, 3)
    (F.embedding(ids, mg.tanh(base).T, sparse=True) * mg.asarray(g)).sum().backward()
    expected = scatter((5, 3), ids, g).T * (1 - np.tanh(base.detach().numpy()) ** 2)
    np.testing.assert_allclose(gradient(base), expected, rtol=1e-12)


def test_grad_and_higher_orders_give_full_tensors() -> None:
    weight, ids, g = leaf(5, 2), np.array([3, 3, 0]), random(3, 2)
    loss = (F.embedding(ids, weight, sparse=True) ** 3 * mg.asarray(g)).sum()
    (dw,) = mg.grad(loss, [weight], retain_graph=True)
    w = weight.detach().numpy()
    assert type(dw._array) is np.ndarray
    np.testing.assert_allclose(dw.numpy(), scatter((5, 2), ids, 3 * g * w[ids] ** 2), rtol=1e-12)
    (dw,) = mg.grad(loss, [weight], create_graph=True)
    v = random(5, 2, seed=3)
    second = mg.grad((dw * mg.asarray(v)).sum(), weight)
    np.testing.assert_allclose(second.numpy(), scatter((5, 2), ids, 6 * g * w[ids] * v[ids]), rtol=1e-12)


def test_hooks_and_anomalies() -> None:
    weight, seen = leaf(4, 2), []
    weight.register_hook(lambda g: seen.append(g.numpy()) or g * 2)
    with mg.detect_anomaly():
        F.embedding(mg.tensor([1]), weight, sparse=True).backward(mg.ones((1, 2), dtype=mg.float64))
    assert seen[0].tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert gradient(weight).tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


# --- what one can do with it ------------------------------------------------------------------------------------------


def looked_up() -> tuple[nn.Embedding, Array]:
    layer = nn.Embedding(6, 2, sparse=True, dtype=mg.float64)
    ids, g = np.array([4, 0, 4]), random(3, 2)
    layer(ids).backward(mg.asarray(g))  # type: ignore[arg-type]
    return layer, scatter((6, 2), ids, g)


def test_it_computes_as_the_full_one() -> None:
    layer, expected = looked_up()
    grad = layer.weight.grad
    assert grad is not None
    assert (grad.shape, grad.dtype, grad.ndim, grad.size, grad.device) == ((6, 2), mg.float64, 2, 12, "cpu")
    for made, value in (
        (grad.clone(), expected),
        (grad * 2, expected * 2),
        (1 - grad, 1 - expected),
        (-grad, -expected),
        (grad + grad, expected * 2),
        (grad @ mg.asarray(expected.T), expected @ expected.T),
        ((grad**2).sum(), (expected**2).sum()),
        (grad[4], expected[4]),
        (mg.linalg.vector_norm(grad), np.linalg.norm(expected)),
        (mg.concat([grad, mg.ones((1, 2), dtype=mg.float64)]), np.concatenate([expected, np.ones((1, 2))])),
        (grad.astype(mg.float32), expected.astype(np.float32)),
        (np.exp(grad), np.exp(expected)),  # type: ignore[call-overload]
    ):
        np.testing.assert_allclose(np.asarray(made.numpy()), value, rtol=1e-6)
    assert grad.tolist() == expected.tolist()
    assert np.array_equal(np.asarray(rows_of(layer.weight)), expected)
    assert repr(grad) == repr(mg.asarray(expected))
    assert rows_of(layer.weight).nbytes == 2 * 2 * 8 + 2 * 8


def test_it_is_not_written_to() -> None:
    layer, expected = looked_up()
    grad = layer.weight.grad
    assert grad is not None
    with pytest.raises(ValueError, match=r"a read-only tensor.*t\.clone\(\)"):
        grad *= 2
    with pytest.raises(TypeError, match="RowSparse"):
        grad[0] = 1.0
    assert np.array_equal(gradient(layer.weight), expected)
    layer.weight.grad = layer.weight.grad * 2  # type: ignore[operator]
    assert np.array_equal(gradient(layer.weight), expected * 2)


def test_zero_grad_copies_casts_and_state() -> None:
    layer, expected = looked_up()
    for made in (copy.deepcopy(layer), copy.copy(layer)):
        assert np.array_equal(gradient(made.weight), expected)
    assert pickle.loads(pickle.dumps(layer)).weight.grad is None
    assert list(layer.state_dict()) == ["weight"]
    assert repr(layer) == "Embedding(6 -> 2, sparse=True)"
    layer.zero_grad(set_to_none=False)
    assert rows_of(layer.weight).ids.size == 0
    assert not gradient(layer.weight).any()
    layer(np.array([2])).sum().backward()  # type: ignore[arg-type]
    assert rows_of(layer.weight).ids.tolist() == [2]
    layer.to(mg.float32)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == mg.float32
    layer.zero_grad()
    assert layer.weight.grad is None


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "options"), OPTIMIZERS)
def test_a_step_is_that_of_a_table_of_the_used_rows(make: Any, options: dict[str, Any]) -> None:
    """Rows that are always used train as in a full table; the others, and their state, stay as they are."""
    used = np.array([5, 0, 3])
    wide, narrow = leaf(9, 2), mg.tensor(leaf(9, 2).detach().numpy()[used], requires_grad=True)
    before = wide.detach().numpy().copy()
    other = leaf(2, 2)
    mine, twin = make([("wide", wide), ("other", other)], **options), make([narrow], **options)
    for step in range(5):
        ids, g = np.array([0, 1, 2, 2, 1]), mg.asarray(random(5, 2, seed=step))
        for optimizer in (mine, twin):
            optimizer.zero_grad()
        (F.embedding(used[ids], wide, sparse=True) * g).sum().backward()
        (F.embedding(ids, narrow) * g).sum().backward()
        (other * other).sum().backward()
        rows_of(wide)
        mine.step()
        twin.step()
    after = wide.detach().numpy()
    np.testing.assert_allclose(after[used], narrow.detach().numpy(), rtol=1e-12)
    unused = [1, 2, 4, 6, 7, 8]
    assert np.array_equal(after[unused], before[unused])
    state, expected = mine.state_dict()["state"], twin.state_dict()["state"]["0"]
    for name, value in expected.items():
        found = state["wide"][name]
        if hasattr(value, "shape"):
            np.testing.assert_allclose(found.numpy()[used], value.numpy(), rtol=1e-12, atol=1e-15)
            assert not found.numpy()[unused].any()
        else:
            assert found == value
    assert set(state) == {"wide", "other"}
    fresh = make([("wide", wide), ("other", other)], **options)
    fresh.load_state_dict(mine.state_dict())


def test_rows_that_rest_keep_their_state() -> None:
    weight = leaf(3, 1)
    optimizer = optim.Adam([weight], lr=0.1)
    for ids in ([0, 1], [0], [0]):
        optimizer.zero_grad()
        F.embedding(np.array(ids), weight, sparse=True).sum().backward()
        before = weight.detach().numpy().copy()
        optimizer.step()
        moved = (weight.detach().numpy() != before)[:, 0]
        assert np.flatnonzero(moved).tolist() == ids
    moments = optimizer.state[weight]
    assert moments["step"] == 3
    np.testing.assert_allclose(moments["exp_avg"][:, 0], [1 - 0.9**3, 0.1, 0.0], rtol=1e-12)


def test_momentum_that_is_switched_on_later() -> None:
    weight = leaf(4, 2)
    optimizer = optim.SGD([weight], lr=0.1)
    for momentum in (0.0, 0.9, 0.9):
        optimizer.param_groups[0]["momentum"] = momentum
        optimizer.zero_grad()
        F.embedding(mg.tensor([1, 2]), weight, sparse=True).sum().backward()
        optimizer.step()
    buffer = optimizer.state[weight]["momentum_buffer"]
    np.testing.assert_allclose(buffer, [[0, 0], [1.9, 1.9], [1.9, 1.9], [0, 0]], rtol=1e-12)


def test_a_state_follows_a_cast() -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    optimizer = optim.Adam(layer.parameters())
    for dtype in (mg.float32, mg.float64):
        layer.to(dtype)
        layer.zero_grad()
        layer(mg.tensor([1])).sum().backward()
        optimizer.step()
        assert optimizer.state[layer.weight]["exp_avg"].dtype == dtype


def test_a_step_allocates_nothing_of_the_size_of_the_table() -> None:
    """Independent of the vocabulary: what a step makes is counted, as times differ from machine to machine."""
    layer = nn.Embedding(200_000, 8, sparse=True, embeddings_initializer="zeros")
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        layer.zero_grad()
        (layer(mg.tensor([7, 199_999, 7])) * mg.tensor([1.0, 2.0, 3.0])[:, None]).sum().backward()
        optimizer.step()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[-1] < 100_000 < layer.weight.detach().numpy().nbytes
    np.testing.assert_allclose(layer.weight.detach().numpy()[[7, 199_999], 0], [-0.8, -0.4], rtol=1e-6)


def test_an_optimizer_that_needs_the_full_gradient_says_so() -> None:
    class Normalized(optim.SGD):  # which takes rows, but this rule is another
        def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
            x -= group["lr"] * g / np.linalg.norm(g)

    model = nn.Sequential([nn.Embedding(4, 2, sparse=True), nn.Dense(1)])
    model(mg.tensor([1])).sum().backward()
    before = model.state_dict()
    optimizer = Normalized(model.named_parameters(), lr=0.1)
    with pytest.raises(
        GradError, match=r"Normalized: the gradient of parameter '0.weight' is row-sparse.*sparse=False"
    ):
        optimizer.step()
    assert all(np.array_equal(t.numpy(), before[name].numpy()) for name, t in model.state_dict().items())

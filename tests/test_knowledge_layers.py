"""Entities beside tokens: embeddings aligned to them, and ERNIE's fusion; laws and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.knowledge import FusionEncoder, FusionLayer, KnowledgeEmbedding
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
FEATURES, ENTITY = 4, 3
TABLE = 5


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def close(a: Array, b: Array) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def fill(layer: nn.Module, seed: int = 0) -> None:
    """Make all parameters random, the biases too."""
    for i, p in enumerate(layer.parameters()):
        nn.init.normal(p, std=0.6, generator=mg.random.Generator(100 * seed + i))


def embedding(gated: bool = False, seed: int = 0, **options: Any) -> KnowledgeEmbedding:
    layer = KnowledgeEmbedding(TABLE, ENTITY, FEATURES, gated=gated, dtype=mg.float64, **options)
    fill(layer, seed)
    return layer


def fusion(seed: int = 0, activation: str = "gelu") -> FusionLayer:
    layer = FusionLayer(2, 1, 3, features=FEATURES, entity_features=ENTITY, activation=activation, dtype=mg.float64)
    fill(layer, seed)
    return layer


def smooth(seed: int) -> FusionLayer:
    """A layer for differences in short steps: features nearly alike would bend a norm with a small eps sharply."""
    layer = fusion(seed, activation="tanh")
    for part in (layer.attention_norm, layer.entity_attention_norm, layer.norm, layer.entity_norm):
        part.eps = 0.1
    return layer


def of_parameters(layer: nn.Module, call: Callable[..., Any], count: int) -> tuple[Callable[..., Any], list[Any]]:
    """A call with `count` inputs as a function of these and of all parameters, which follow; and their values."""
    names = [name for name, _ in layer.named_parameters()]

    def run(*given: Any) -> Any:
        for name, value in zip(names, given[count:], strict=True):
            *path, leaf = name.split(".")
            part: Any = layer
            for step in path:
                part = vars(part)[step] if isinstance(part, nn.Module) else part[int(step)]
            vars(part)[leaf] = value
        return call(*given[:count])

    return run, [mg.tensor(p.detach().numpy()) for p in layer.parameters()]


def ids_of(batch: int, length: int) -> st.SearchStrategy[Array]:
    values = st.integers(-1, TABLE - 1)
    return st.lists(values, min_size=batch * length, max_size=batch * length).map(
        lambda found: np.array(found).reshape(batch, length)
    )


# --- KnowledgeEmbedding -----------------------------------------------------------------------------------------------


@given(ids=ids_of(2, 3), gated=st.booleans(), padding=st.sampled_from([None, 0, 3]), seed=st.integers(0, 99))
def test_embedding_against_its_formula(ids: Array, gated: bool, padding: int | None, seed: int) -> None:
    layer, x = embedding(gated, seed, padding_id=padding), normal(2, 3, FEATURES, seed=seed)
    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    expected = x.copy()
    for place in np.ndindex(*ids.shape):
        if ids[place] not in (-1, padding):
            found = weights["entities.weight"][ids[place]] @ weights["projection.weight"]
            if gated:
                score = x[place] @ weights["token_gate.weight"] + weights["token_gate.bias"]
                found = found / (1 + np.exp(-score - found @ weights["entity_gate.weight"]))
            expected[place] += found
    y = layer(mg.asarray(x), mg.asarray(ids)).detach().numpy()
    close(y, expected)
    nothing = (ids == -1) | (ids == padding)
    assert np.array_equal(y[nothing], x[nothing])


@given(ids=ids_of(1, 3), gated=st.booleans(), seed=st.integers(0, 99))
def test_derivatives_of_the_embedding(ids: Array, gated: bool, seed: int) -> None:
    layer = embedding(gated, seed, padding_id=2)
    run, values = of_parameters(layer, lambda x: layer(x, mg.asarray(ids)), 1)
    assert gradcheck(run, [normal(1, 3, FEATURES, seed=seed), *values], order=2, seed=seed)


@given(ids=ids_of(2, 4), gated=st.booleans())
def test_frozen_vectors_get_no_gradient(ids: Array, gated: bool) -> None:
    table = normal(TABLE, ENTITY)
    frozen = KnowledgeEmbedding.from_pretrained(table, FEATURES, gated=gated)
    trained = KnowledgeEmbedding.from_pretrained(table, FEATURES, gated=gated, freeze=False)
    assert frozen.projection.weight.dtype == mg.float64
    trained.load_state_dict(frozen.state_dict())
    x, cotangent = mg.asarray(normal(2, 4, FEATURES, seed=1)), mg.asarray(normal(2, 4, FEATURES, seed=2))
    for layer in (frozen, trained):
        (layer(x, mg.asarray(ids)) * cotangent).sum().backward()
    assert frozen.entities.weight.grad is None
    assert np.array_equal(frozen.entities.weight.detach().numpy(), table)
    gradient = trained.entities.weight.grad
    assert gradient is not None
    used = np.isin(np.arange(TABLE), ids)
    assert np.array_equal((gradient.detach().numpy() != 0).any(axis=1), used)
    own, other = frozen.projection.weight.grad, trained.projection.weight.grad
    assert own is not None
    assert other is not None
    close(own.detach().numpy(), other.detach().numpy())


def test_a_sparse_table_has_the_gradient_of_a_dense_one() -> None:
    ids, x = mg.tensor([[1, -1, 3, 1]]), mg.asarray(normal(1, 4, FEATURES))
    dense, sparse = embedding(), embedding(sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for layer in (dense, sparse):
        (layer(x, ids) * mg.asarray(normal(1, 4, FEATURES, seed=1))).sum().backward()
    whole, rows = (layer.entities.weight.grad for layer in (dense, sparse))
    assert whole is not None
    assert rows is not None
    close(whole.numpy(), rows.numpy())


def test_embedding_refuses() -> None:
    layer, x = KnowledgeEmbedding(TABLE, ENTITY, FEATURES), mg.zeros((2, 3, FEATURES))
    for args, error, text in [
        ((mg.zeros((2, 3, 5)), mg.tensor([[1] * 3] * 2)), ShapeError, r"x is float32 \(2, 3, 5\), needs shape"),
        ((x, mg.zeros((2, 4), dtype=mg.int64)), ShapeError, r"ids is int64 \(2, 4\), needs shape \(2, 3\)"),
        ((x, mg.zeros((2, 3))), DTypeError, r"ids is float32 \(2, 3\), needs integers"),
        ((x, mg.full((2, 3), TABLE)), IndexError, r"ids from 5 to 5, needs -1 for none, or ids in \[0, 5\)"),
        ((x, mg.full((2, 3), -2)), IndexError, r"ids from -2 to -2"),
    ]:  # fmt: skip
        with pytest.raises(error, match=text):
            layer(*args)
    for options in ({"padding_id": TABLE}, {"padding_id": -1}):
        with pytest.raises(ValueError, match="padding_id is"):
            KnowledgeEmbedding(TABLE, ENTITY, FEATURES, **options)
    for sizes in ((0, 2, 2), (2, 0, 2), (2, 2, 0)):
        with pytest.raises(ShapeError, match="needs at least 1"):
            KnowledgeEmbedding(*sizes)


class Reader(nn.Module):
    """A model that has the layer inside, so that errors name its path."""

    def __init__(self, inside: nn.Module) -> None:
        self.inside = inside

    def forward(self, *args: Any) -> Any:
        return self.inside(*args)


def test_errors_name_the_layer() -> None:
    model = Reader(KnowledgeEmbedding(TABLE, ENTITY, FEATURES))
    with pytest.raises(ShapeError, match=r"^inside: KnowledgeEmbedding: x is"):
        model(mg.zeros((1, 2, 3)), mg.tensor([[1, 1]]))
    fused = Reader(FusionLayer(2, 1, 3, features=FEATURES, entity_features=ENTITY))
    with pytest.raises(ShapeError, match=r"^inside: FusionLayer: entities is"):
        fused(mg.zeros((1, 2, FEATURES)), mg.zeros((1, 3, ENTITY)), mg.tensor([[True, True]]))


@pytest.mark.parametrize("make", [lambda: embedding(True), fusion])
def test_state_round_trip(make: Callable[[], Any]) -> None:
    layer, other = make(), make()
    fill(other, seed=5)
    other.load_state_dict(layer.state_dict())
    given = (mg.asarray(normal(2, 3, FEATURES)), mg.tensor([[1, -1, 3], [0, 0, 2]]))
    if isinstance(layer, FusionLayer):
        given = (given[0], mg.asarray(normal(2, 3, ENTITY)), given[1] > 0)
    for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (layer(*given), other(*given)))):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


# --- FusionLayer ------------------------------------------------------------------------------------------------------

MASKS = st.lists(st.booleans(), min_size=6, max_size=6).map(lambda found: np.array(found).reshape(2, 3))


@given(there=MASKS, seed=st.integers(0, 99))
def test_fusion_against_its_formula(there: Array, seed: int) -> None:
    """One head and no padding, written out with NumPy."""
    layer = FusionLayer(1, 1, 3, features=FEATURES, entity_features=ENTITY, activation="tanh", dtype=mg.float64)
    fill(layer, seed)
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    x, entities = normal(2, 3, FEATURES, seed=seed), normal(2, 3, ENTITY, seed=seed + 1)

    def norm(y: Array, name: str) -> Array:
        centred = y - y.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(y: Array, name: str) -> Array:
        return y @ p[f"{name}.weight"] + p.get(f"{name}.bias", np.zeros(()))

    def attend(y: Array, seen: Array, name: str) -> Array:
        q, k, v = (linear(y, f"{name}.{part}") for part in ("query", "key", "value"))
        scores = np.where(seen, np.exp(q @ k.T / np.sqrt(y.shape[-1])), 0.0)
        total = scores.sum(-1, keepdims=True)
        return linear(scores / np.where(total, total, 1.0) @ v, f"{name}.output")

    tokens, found = (part.detach().numpy() for part in layer(mg.asarray(x), mg.asarray(entities), mg.asarray(there)))
    for i in range(2):
        has = there[i][:, None]
        e = np.where(has, entities[i], 0.0)
        w = norm(x[i] + attend(x[i], np.ones((3, 3), bool), "attention"), "attention_norm")
        e = norm(e + attend(e, np.repeat(there[i][None], 3, 0), "entity_attention"), "entity_attention_norm")
        h = np.tanh(linear(w, "hidden") + np.where(has, linear(e, "entity_hidden"), 0.0))
        close(tokens[i], norm(w + linear(h, "output"), "norm"))
        close(found[i], np.where(has, norm(e + linear(h, "entity_output"), "entity_norm"), 0.0))


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 3), min_size=2, max_size=2))
def test_without_entities_it_is_an_encoder_layer(seed: int, lengths: list[int]) -> None:
    layer = fusion(seed)
    plain = nn.TransformerEncoderLayer(2, 3, features=FEATURES, norm="post", dtype=mg.float64)
    names = {
        "self_attention.": "attention.", "self_attention_norm.": "attention_norm.", "feed_forward.hidden.": "hidden.",
        "feed_forward.output.": "output.", "feed_forward_norm.": "norm.",
    }  # fmt: skip
    state, own = layer.state_dict(), {}
    for name in plain.state_dict():
        start = next(part for part in names if name.startswith(part))
        own[name] = state[names[start] + name.removeprefix(start)]
    plain.load_state_dict(own)
    x, counts = mg.asarray(normal(2, 3, FEATURES, seed=seed)), mg.tensor(lengths)
    entities = mg.asarray(normal(2, 3, ENTITY))
    tokens, found = layer(x, entities, mg.zeros((2, 3), dtype=mg.bool), key_lengths=counts)
    close(tokens.detach().numpy(), plain(x, key_lengths=counts).detach().numpy())
    assert not found.detach().numpy().any()


@given(there=MASKS, seed=st.integers(0, 99))
def test_what_is_not_there_does_not_count(there: Array, seed: int) -> None:
    layer, x = fusion(seed), mg.asarray(normal(2, 3, FEATURES, seed=seed))
    entities = normal(2, 3, ENTITY, seed=seed)
    changed = np.where(there[..., None], entities, normal(2, 3, ENTITY, seed=seed + 7))
    both = [layer(x, mg.asarray(e), mg.asarray(there)) for e in (entities, changed)]
    for a, b in zip(*both):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


@given(there=MASKS, order=st.permutations(range(3)), seed=st.integers(0, 99))
def test_fusion_does_not_know_an_order(there: Array, order: list[int], seed: int) -> None:
    layer, x, entities = fusion(seed), normal(2, 3, FEATURES, seed=seed), normal(2, 3, ENTITY, seed=seed)
    whole = layer(*map(mg.asarray, (x, entities, there)))
    moved = layer(*(mg.asarray(given[:, order].copy()) for given in (x, entities, there)))
    for a, b in zip(whole, moved):
        close(a.detach().numpy()[:, order], b.detach().numpy())


@given(there=MASKS, seed=st.integers(0, 99))
def test_derivatives_of_fusion(there: Array, seed: int) -> None:
    layer = smooth(seed)
    run, values = of_parameters(layer, lambda x, e: layer(x, e, mg.asarray(there[:1])), 2)
    given = [normal(1, 3, FEATURES, seed=seed), normal(1, 3, ENTITY, seed=seed), *values]
    assert gradcheck(run, given, order=1, seed=seed, step=2e-4)


@settings(max_examples=6)
@given(there=MASKS, seed=st.integers(0, 99))
def test_second_derivatives_of_fusion(there: Array, seed: int) -> None:
    layer = smooth(seed)
    run, values = of_parameters(layer, lambda x, e: layer(x, e, mg.asarray(there[:1])), 2)
    given = [normal(1, 3, FEATURES, seed=seed), normal(1, 3, ENTITY, seed=seed), *values]
    assert gradcheck(run, given, order=2, seed=seed, step=2e-4)


def test_an_encoder_is_its_layers() -> None:
    encoder = FusionEncoder(2, 2, 1, 3, features=FEATURES, entity_features=ENTITY, dtype=mg.float64)
    fill(encoder)
    x, entities, there = (
        mg.asarray(normal(1, 3, FEATURES)),
        mg.asarray(normal(1, 3, ENTITY)),
        mg.tensor([[True, False, True]]),
    )
    first = encoder.layers[0](x, entities, there)
    for a, b in zip(encoder(x, entities, there), encoder.layers[1](*first, there)):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())
    assert {name.split(".")[1] for name in encoder.state_dict()} == {"0", "1"}


def test_fusion_refuses() -> None:
    layer = fusion()
    x, e, there = mg.zeros((2, 3, FEATURES)), mg.zeros((2, 3, ENTITY)), mg.ones((2, 3), dtype=mg.bool)
    for args, error, text in [
        ((mg.zeros((2, 3)), e, there), ShapeError, r"x is float32 \(2, 3\), needs shape \(batch, length, 4\)"),
        ((x, e[:1], there), ShapeError, r"entities is float32 \(1, 3, 3\), needs shape \(2, 3, 3\)"),
        ((x, e, there[:, :2]), ShapeError, r"there is bool \(2, 2\), needs shape \(2, 3\)"),
        ((x, e, mg.ones((2, 3))), DTypeError, r"there is float32 \(2, 3\), needs bools"),
    ]:
        with pytest.raises(error, match=text):
            layer(*args)

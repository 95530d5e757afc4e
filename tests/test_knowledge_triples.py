"""Attention over retrieved triples, the decoder that reads them, and the model of a dialogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.knowledge import KnowledgeDecoder, TripleAttention
from minigrad.knowledge.language.dialogue import DialogueModel
from minigrad.models import Seq2SeqConfig, generate
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
FEATURES, TRIPLE = 4, 3
MASKS = st.lists(st.booleans(), min_size=8, max_size=8).map(lambda found: np.array(found).reshape(2, 4))
SEEDS = st.integers(0, 99)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def fill(module: nn.Module, seed: int = 0) -> None:
    for i, p in enumerate(module.parameters()):
        nn.init.normal(p, std=0.6, generator=mg.random.Generator(100 * seed + i))


def make(seed: int = 0) -> TripleAttention:
    layer = TripleAttention(2, FEATURES, TRIPLE, dtype=mg.float64)
    fill(layer, seed)
    return layer


def array(x: Any) -> Array:
    found: Array = x.detach().numpy()
    return found


def close(a: Array, b: Array) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


# --- TripleAttention --------------------------------------------------------------------------------------------------


@given(mask=MASKS, seed=SEEDS)
def test_reading_against_its_formula(mask: Array, seed: int) -> None:
    """One head, written out with NumPy."""
    layer = TripleAttention(1, FEATURES, TRIPLE, dtype=mg.float64)
    fill(layer, seed)
    p = {name: array(value) for name, value in layer.named_parameters()}
    x, triples = normal(2, 3, FEATURES, seed=seed), normal(3, 2, 4, TRIPLE, seed=seed + 1)
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["norm.weight"] + p["norm.bias"]
    own = np.concatenate(list(triples), axis=-1)
    q, k, v = (
        given @ p[f"attention.{part}.weight"] + p[f"attention.{part}.bias"]
        for given, part in ((y, "query"), (own, "key"), (own, "value"))
    )
    weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(FEATURES)) * mask[:, None]
    total = weights.sum(-1, keepdims=True)
    expected = x + weights / np.where(total, total, 1.0) @ v @ p["attention.output.weight"]
    close(array(layer(mg.asarray(x), *mg.asarray(triples), mask=mg.asarray(mask))), expected)


@given(mask=MASKS, seed=SEEDS)
def test_without_a_triple_nothing_changes(mask: Array, seed: int) -> None:
    layer, x = make(seed), normal(2, 3, FEATURES, seed=seed)
    y = array(layer(mg.asarray(x), *mg.asarray(normal(3, 2, 4, TRIPLE)), mask=mg.asarray(mask)))
    for row, before, there in zip(y, x, mask):
        assert np.array_equal(row, before) == (not there.any())
    assert np.array_equal(array(layer(mg.asarray(x), *mg.zeros((3, 2, 0, TRIPLE), dtype=mg.float64))), x)


def test_without_a_triple_the_gradient_is_that_of_the_identity() -> None:
    layer, x = make(), mg.tensor(normal(1, 3, FEATURES), requires_grad=True)
    cotangent = normal(1, 3, FEATURES, seed=1)
    triples = mg.tensor(normal(3, 1, 4, TRIPLE), requires_grad=True)
    (layer(x, *triples, mask=mg.zeros((1, 4), dtype=mg.bool)) * mg.asarray(cotangent)).sum().backward()
    assert x.grad is not None
    assert triples.grad is not None
    assert np.array_equal(x.grad.numpy(), cotangent)
    assert not triples.grad.numpy().any()
    assert all(p.grad is None or not p.grad.numpy().any() for p in layer.parameters())


@given(mask=MASKS, order=st.permutations(range(4)), seed=SEEDS)
def test_the_order_of_triples_does_not_count(mask: Array, order: list[int], seed: int) -> None:
    layer, x, triples = make(seed), mg.asarray(normal(2, 3, FEATURES, seed=seed)), normal(3, 2, 4, TRIPLE, seed=seed)
    y = layer(x, *mg.asarray(triples), mask=mg.asarray(mask))
    close(array(y), array(layer(x, *mg.asarray(triples[:, :, order]), mask=mg.asarray(mask[:, order]))))


@given(mask=MASKS, seed=SEEDS)
def test_triples_that_are_missing_do_not_count(mask: Array, seed: int) -> None:
    layer, x, triples = make(seed), mg.asarray(normal(2, 3, FEATURES, seed=seed)), normal(3, 2, 4, TRIPLE, seed=seed)
    changed = np.where(mask[..., None], triples, 1e3)
    a, b = (array(layer(x, *mg.asarray(given), mask=mg.asarray(mask))) for given in (triples, changed))
    assert np.array_equal(a, b)
    for i, there in enumerate(mask):
        if there.any():
            alone = layer(x[i : i + 1], *mg.asarray(triples[:, i : i + 1, there]))
            close(a[i], array(alone)[0])


@given(place=st.integers(0, 2), seed=SEEDS)
def test_a_token_reads_alone(place: int, seed: int) -> None:
    """What one token reads depends on no other, before it or behind."""
    layer, x, triples = make(seed), normal(1, 3, FEATURES, seed=seed), mg.asarray(normal(3, 1, 4, TRIPLE, seed=seed))
    changed = x.copy()
    changed[0, place] += normal(FEATURES, seed=seed + 1)
    a, b = (array(layer(mg.asarray(given), *triples))[0] for given in (x, changed))
    others = np.arange(3) != place
    close(a[others], b[others])
    assert not np.allclose(a[place], b[place])


def of_parameters(layer: nn.Module, call: Any, count: int) -> tuple[Any, list[Array]]:
    """A call with `count` inputs as a function of these and of all parameters, which follow; and their values."""
    names = [name for name, _ in layer.named_parameters()]

    def run(*given: Any) -> Any:
        for name, value in zip(names, given[count:], strict=True):
            *path, leaf = name.split(".")
            part: Any = layer
            for step in path:
                part = vars(part)[step]
            vars(part)[leaf] = value
        return call(*given[:count])

    return run, [array(p).copy() for p in layer.parameters()]


@given(mask=MASKS, seed=SEEDS)
def test_derivatives(mask: Array, seed: int) -> None:
    # short steps: a normalization of a few features is sharply bent
    layer = make(seed)
    run, values = of_parameters(layer, lambda x, *triples: layer(x, *triples, mask=mg.asarray(mask[:1])), 4)
    given = [normal(1, 2, FEATURES, seed=seed), *normal(3, 1, 4, TRIPLE, seed=seed + 1), *values]
    assert gradcheck(run, given, order=1, seed=seed, step=2e-4)


@settings(max_examples=6)
@given(mask=MASKS, seed=SEEDS)
def test_second_derivatives(mask: Array, seed: int) -> None:
    layer = make(seed)
    run, values = of_parameters(layer, lambda x, *triples: layer(x, *triples, mask=mg.asarray(mask[:1])), 4)
    given = [normal(1, 2, FEATURES, seed=seed), *normal(3, 1, 4, TRIPLE, seed=seed + 1), *values]
    assert gradcheck(run, given, order=2, seed=seed, step=2e-4)


def test_frozen_triples_get_no_gradient() -> None:
    layer, table = make(), nn.Embedding.from_pretrained(normal(6, TRIPLE))
    triples = table(mg.tensor(np.arange(12).reshape(3, 1, 4) % 6))
    layer(mg.asarray(normal(1, 2, FEATURES)), *triples).sum().backward()
    assert table.weight.grad is None
    assert layer.attention.value.weight.grad is not None  # type: ignore[union-attr]


def test_state_round_trip() -> None:
    layer, other = make(1), make(2)
    other.load_state_dict(layer.state_dict())
    given = (mg.asarray(normal(1, 2, FEATURES)), *mg.asarray(normal(3, 1, 4, TRIPLE)))
    assert np.array_equal(array(layer(*given)), array(other(*given)))


def test_reading_refuses() -> None:
    layer, x, t = make(), mg.zeros((2, 3, FEATURES)), mg.zeros((2, 4, TRIPLE))
    mask = mg.ones((2, 4), dtype=mg.bool)
    for args, there, error, text in [
        ((x[0], t, t, t), None, ShapeError, r"x is float32 \(3, 4\), needs shape \(batch, length, 4\)"),
        ((x, t[0], t, t), None, ShapeError, r"heads is float32 \(4, 3\), needs shape \(2, triples, 3\)"),
        ((x, t, t[:, :2], t), None, ShapeError, r"relations is float32 \(2, 2, 3\), needs shape \(2, 4, 3\)"),
        ((x, t, t, t[..., :2]), None, ShapeError, r"tails is float32 \(2, 4, 2\), needs shape \(2, 4, 3\)"),
        ((x, t, t, t), mask[:, :3], ShapeError, r"mask is bool \(2, 3\), needs shape \(2, 4\)"),
        ((x, t, t, t), mg.ones((2, 4)), DTypeError, r"mask is float32 \(2, 4\), needs bools"),
    ]:
        with pytest.raises(error, match=text):
            layer(*args, mask=there)


# --- KnowledgeDecoder -------------------------------------------------------------------------------------------------


def decoder() -> KnowledgeDecoder:
    made = KnowledgeDecoder(2, 2, 3, features=FEATURES, triple_features=TRIPLE, dtype=mg.float64)
    fill(made)
    return made


def test_a_decoder_without_triples_is_the_plain_one() -> None:
    own = decoder()
    plain = nn.TransformerDecoder(2, 2, 3, features=FEATURES, dtype=mg.float64)
    plain.load_state_dict({name: t for name, t in own.state_dict().items() if not name.startswith("knowledge.")})
    x, memory = mg.asarray(normal(2, 3, FEATURES)), mg.asarray(normal(2, 5, FEATURES, seed=1))
    expected = array(plain(x, memory))
    assert np.array_equal(array(own(x, memory)), expected)
    triples = tuple(mg.asarray(normal(3, 2, 4, TRIPLE)))
    mask = mg.tensor([[False] * 4, [True, False, False, False]])
    found = array(own(x, memory, triples=triples, triple_mask=mask))
    assert np.array_equal(found[0], expected[0])
    assert not np.allclose(found[1], expected[1])


@given(length=st.integers(1, 4), mask=MASKS, seed=SEEDS)
def test_a_decoder_is_causal_and_its_cache_changes_nothing(length: int, mask: Array, seed: int) -> None:
    own = decoder()
    x, memory = mg.asarray(normal(2, 5, FEATURES, seed=seed)), mg.asarray(normal(2, 3, FEATURES, seed=seed + 1))
    given: dict[str, Any] = {
        "triples": tuple(mg.asarray(normal(3, 2, 4, TRIPLE, seed=seed))), "triple_mask": mg.asarray(mask)
    }  # fmt: skip
    with mg.no_grad():
        whole = array(own(x, memory, **given))
        close(array(own(x[:, :length], memory, **given)), whole[:, :length])
        cache = own.make_cache()
        parts = [own(part, memory, cache=cache, **given) for part in (x[:, :length], x[:, length:])]
    close(array(mg.concat(parts, axis=1)), whole)


def test_a_decoder_refuses() -> None:
    own, x, memory = decoder(), mg.asarray(normal(1, 2, FEATURES)), mg.asarray(normal(1, 2, FEATURES))
    with pytest.raises(ValueError, match="triple_mask is bool"):
        own(x, memory, triple_mask=mg.ones((1, 2), dtype=mg.bool))
    with pytest.raises(ShapeError, match="layers of the cache is 3, needs 2"):
        own(x, memory, cache=nn.DecoderCache(3))
    with pytest.raises(TypeError, match="cache is"):
        own(x, memory, cache=[])
    triples = tuple(mg.zeros((3, 1, 2, TRIPLE + 1), dtype=mg.float64))
    with pytest.raises(ShapeError, match=r"^knowledge\.0: TripleAttention: heads is float64 \(1, 2, 4\)"):
        own(x, memory, triples=triples)


# --- DialogueModel ----------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "features": 8, "num_encoder_layers": 1, "num_decoder_layers": 2, "num_heads": 2, "hidden_features": 8,
    "dropout": 0.0,
}  # fmt: skip
FACTS = mg.tensor([[[3, 4, 0], [5, 0, 0], [6, 7, 8]], [[9, 0, 0], [5, 6, 0], [0, 0, 0]]])


def dialogue(*, knowledge: bool = True, positions: str = "sinusoidal", seed: int = 0) -> DialogueModel:
    config = Seq2SeqConfig(12, positions=positions, **SIZES)
    model = DialogueModel(config, turns=3, knowledge=knowledge, dtype=mg.float64).eval()
    fill(model, seed)
    return model


def history(chosen: list[list[int]] | None = None) -> dict[str, Any]:
    given = {
        "source": mg.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]),
        "source_lengths": mg.tensor([4, 2]),
        "turns": mg.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]),
        "speakers": mg.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]),
    }
    return given if chosen is None else given | {"facts": FACTS, "chosen": mg.tensor(chosen)}


def test_turns_and_speakers_count() -> None:
    model, target = dialogue(), mg.tensor([[1, 5], [1, 6]])
    before = array(model(target=target, **history()))
    for name in ("turns", "speakers"):
        after = array(model(target=target, **history() | {name: mg.zeros((2, 4), dtype=mg.int64)}))
        assert not np.allclose(before[0], after[0])
        assert np.array_equal(before[1], after[1])


def test_facts_are_means_of_their_tokens() -> None:
    model = dialogue()
    table = array(model.embedding.weight)
    read, there = model.read(FACTS, mg.tensor([[1, -1], [0, 1]]))
    assert there.tolist() == [[True, False], [True, True]]
    scale = np.sqrt(8)  # embeddings come in times the root of the features
    close(
        array(read)[:, 1, 0],
        scale * np.stack([(table[3] + table[4]) / 2**0.5, table[5], (table[6] + table[7] + table[8]) / 3**0.5]),
    )
    close(array(read)[2, 0, 0], np.zeros(8))  # a text without tokens


def test_an_example_without_facts_is_answered_as_without_knowledge() -> None:
    model, plain = dialogue(), dialogue(knowledge=False)
    state = model.state_dict()
    plain.load_state_dict({name: t for name, t in state.items() if not name.startswith("decoder.knowledge.")})
    target = mg.tensor([[1, 5, 6], [1, 6, 7]])
    expected = array(plain(target=target, **history()))
    found = array(model(target=target, **history([[-1, -1], [0, -1]])))
    assert np.array_equal(found[0], expected[0])
    assert not np.allclose(found[1], expected[1])
    none = history([[-1], [-1]]) | {"facts": mg.zeros((0, 3, 1), dtype=mg.int64)}
    assert np.array_equal(array(model(target=target, **none)), expected)
    assert not plain.has_knowledge
    with pytest.raises(ValueError, match="knowledge=False"):
        plain(target=target, **history([[-1], [-1]]))


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "relative"])
def test_step_by_step_is_all_at_once(positions: str) -> None:
    model, target = dialogue(positions=positions), mg.tensor([[1, 5, 6, 3], [1, 6, 7, 4]])
    given = history([[0, 1], [1, -1]])
    whole = array(model(target=target, **given))
    decoding = model.decoding(**given)
    close(array(decoding.advance(target[:, :2])), whole[:, 1])
    decoding.reorder([1, 0])
    close(array(decoding.advance(target[:, 2:3][::-1])), whole[::-1, 2])
    decoding.reorder([0])
    close(array(decoding.advance(target[1:, 3:])), whole[1:, 3])


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_batch_are_those_alone(beams: int) -> None:
    model, given = dialogue(seed=4), history([[0, 1], [1, -1]])
    options: dict[str, Any] = {"max_new_tokens": 5, "stop": 2, "beams": beams}
    both = generate(model, [[1], [1]], inputs=given, **options)
    for i, found in enumerate(both):
        alone = {name: x if name == "facts" else x[i : i + 1] for name, x in given.items()}
        assert generate(model, [1], inputs=alone, **options) == found


def test_loss_counts_tokens() -> None:
    model, given = dialogue(), history([[0, 1], [1, -1]])
    target, lengths = mg.tensor([[5, 6, 2], [7, 2, 0]]), mg.tensor([3, 2])
    each = array(model.loss(target=target, target_lengths=lengths, reduction="none", **given))
    logits = array(model(target=model.shifted(target), **given))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, array(target)[..., None], axis=2)[..., 0]
    expected[1, 2] = 0.0
    close(each, expected)
    close(array(model.loss(target=target, target_lengths=lengths, **given)), expected.sum() / 5)


def test_training_uses_the_facts() -> None:
    """What one asks is the same, the facts differ, and so do the answers: only a model that reads can learn it."""
    mg.random.seed(0)
    losses = {}
    for knowledge in (True, False):
        model = DialogueModel(Seq2SeqConfig(12, **SIZES), knowledge=knowledge)
        optimizer = mg.optim.Adam(model.parameters(), lr=0.02)
        given: dict[str, Any] = {"source": mg.tensor([[3, 4], [3, 4]])}
        if knowledge:
            given |= {"facts": FACTS, "chosen": mg.tensor([[0], [1]])}
        for _ in range(40):
            optimizer.zero_grad()
            loss = model.loss(target=mg.tensor([[5, 6, 2], [7, 8, 2]]), **given)
            loss.backward()
            optimizer.step()
        losses[knowledge] = loss.item()
    assert losses[True] < 0.05
    assert losses[False] > np.log(2) / 3 - 0.01


def test_dialogue_refuses() -> None:
    model, target = dialogue(), mg.tensor([[1], [1]])
    for change, error, text in [
        ({"turns": mg.tensor([[0]])}, ShapeError, r"turns is int64 \(1, 1\), needs shape \(2, 4\)"),
        ({"speakers": mg.tensor([[0]])}, ShapeError, r"speakers is int64 \(1, 1\)"),
        ({"facts": FACTS}, ValueError, "facts and chosen is one of them, needs both or neither"),
        ({"facts": FACTS[0], "chosen": mg.tensor([[0], [0]])}, ShapeError, r"facts is int64 \(3, 3\)"),
        ({"facts": FACTS, "chosen": mg.tensor([0, 0])}, ShapeError, r"chosen is int64 \(2,\)"),
        (
            {"facts": FACTS, "chosen": mg.tensor([[2], [0]])},
            IndexError,
            r"chosen is from 0 to 2, needs -1 for none, or facts in \[0, 2\)",
        ),
    ]:
        with pytest.raises(error, match=text):
            model(target=target, **history() | change)
    with pytest.raises(ValueError, match="target_vocab_size is 5, needs None"):
        DialogueModel(Seq2SeqConfig(12, target_vocab_size=5, **SIZES))

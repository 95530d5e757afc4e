"""Transformers: the formula of their layers, decoding with caches, the laws of causality and padding, training."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import ShapeError
from minigrad.nn import functional as F
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
WIDTH, HEADS = 8, 2
LOOSE = 20  # 2e-11 in float64, for a few layers one after the other


def tensor(*shape: int, seed: int = 0, grad: bool = False) -> mg.Tensor:
    return mg.tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=grad)


def scattered(model: nn.Module) -> nn.Module:
    """All parameters random: biases and norms would hide their absence."""
    for i, p in enumerate(model.parameters()):
        with mg.no_grad():
            p += mg.random.Generator(i).normal(p.shape, 0.0, 0.2, dtype=p.dtype)
    return model


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """The options that layers, stacks and Transformer share."""
    return {
        "features": WIDTH,
        "dtype": mg.float64,
        "norm": draw(st.sampled_from(["pre", "post"])),
        "norm_layer": draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm, functools.partial(nn.LayerNorm, eps=1e-3)])),
        "activation": draw(st.sampled_from(["relu", "gelu", "swiglu", "reglu", mg.tanh])),
        "bias": draw(st.booleans()),
        "num_kv_heads": draw(st.sampled_from([1, 2])),
        "qk_norm": draw(st.booleans()),
        "rotary": draw(st.booleans()),
        "alibi": draw(st.booleans()),
        "window": draw(st.sampled_from([None, (2, None)])),
    }


# --- feed-forward -----------------------------------------------------------------------------------------------------


GATES = {"glu": mg.sigmoid, "reglu": mg.relu, "geglu": mg.gelu, "swiglu": mg.silu}


@pytest.mark.parametrize("activation", ["relu", "gelu", None, mg.tanh, *GATES])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_is_the_formula(activation: Any, bias: bool) -> None:
    layer = nn.FeedForward(5, activation, features=3, bias=bias, dtype=mg.float64)
    scattered(layer)
    x = tensor(2, 4, 3)
    inner = F.linear(x, layer.hidden.weight, layer.hidden.bias)
    if activation in GATES:
        inner = inner * GATES[activation](F.linear(x, layer.gate.weight, layer.gate.bias))
    elif activation is not None:
        inner = (getattr(mg, activation) if isinstance(activation, str) else activation)(inner)
    expected = F.linear(inner, layer.output.weight, layer.output.bias)
    assert_close(layer(x).detach().numpy(), expected.detach().numpy(), mg.float64, "feed-forward")
    assert (layer.gate is not None) == (activation in GATES)


def test_feed_forward_sizes() -> None:
    plain, gated = nn.FeedForward(), nn.FeedForward(None, "swiglu")
    assert plain.hidden_features is gated.hidden_features is None
    x = mg.ones((2, 12))
    assert plain(x).shape == gated(x).shape == (2, 12)
    assert (plain.hidden_features, gated.hidden_features) == (48, 32)
    given_one = nn.FeedForward(7, mg.tanh, gated=True)
    assert "hidden): Projection(? -> 7)" in repr(given_one)
    assert given_one(x).shape == (2, 12)
    assert given_one.gate.weight.shape == (12, 7)
    loaded = nn.FeedForward(None, "swiglu")
    loaded.load_state_dict(gated.state_dict())
    assert loaded(x).tolist() == gated(x).tolist()
    with pytest.raises(ShapeError, match=r"FeedForward: x is float32 \(2, 5\), needs shape \(\.\.\., 12\)"):
        plain(mg.ones((2, 5)))
    with pytest.raises(ValueError, match="name is 'swigloo'"):
        nn.FeedForward(2, "swigloo")
    with pytest.raises(ShapeError, match="hidden_features is 0"):
        nn.FeedForward(0)


# --- layers -----------------------------------------------------------------------------------------------------------


@given(chosen=options(), seed=st.integers(0, 99))
def test_layers_are_the_formula(chosen: dict[str, Any], seed: int) -> None:
    layer = nn.TransformerDecoderLayer(HEADS, 6, memory_features=5, **chosen)
    scattered(layer)
    x, memory = tensor(2, 4, WIDTH, seed=seed), tensor(2, 3, 5, seed=seed + 1)
    lengths = mg.tensor([3, 1])
    parts = [
        (layer.self_attention_norm, lambda y: layer.self_attention(y, is_causal=True)),
        (layer.cross_attention_norm, lambda y: layer.cross_attention(y, memory, key_lengths=lengths)),
        (layer.feed_forward_norm, layer.feed_forward),
    ]
    expected = x
    for norm, part in parts:
        expected = expected + part(norm(expected)) if chosen["norm"] == "pre" else norm(expected + part(expected))
    assert_close(layer(x, memory, memory_lengths=lengths).tolist(), expected.tolist(), mg.float64, "decoder layer")
    encoder = nn.TransformerEncoderLayer(HEADS, 6, **chosen)
    state = {name: t for name, t in layer.state_dict().items() if not name.startswith("cross")}
    assert encoder.load_state_dict(state) == ([], [])
    expected = x
    for norm, part in (parts[0], parts[2]):
        expected = expected + part(norm(expected)) if chosen["norm"] == "pre" else norm(expected + part(expected))
    assert_close(encoder(x, is_causal=True).tolist(), expected.tolist(), mg.float64, "encoder layer")


@given(chosen=options(), seed=st.integers(0, 99), at=st.integers(1, 4))
def test_the_decoder_does_not_see_the_future_nor_padding(chosen: dict[str, Any], seed: int, at: int) -> None:
    model = nn.Transformer(HEADS, 1, 2, 6, **chosen)
    source, target = tensor(2, 4, WIDTH, seed=seed), tensor(2, 5, WIDTH, seed=seed + 1, grad=True)
    lengths = mg.tensor([4, 2])
    out = model(source, target, source_lengths=lengths)
    other = target.detach().clone()
    other[:, at:] = tensor(2, 5 - at, WIDTH, seed=seed + 2)
    changed = source.clone()
    changed[1, 2:] = 5.0
    again = model(changed, other, source_lengths=lengths)
    assert (again[:, :at] == out[:, :at]).all()
    assert (again[:, at:] != out[:, at:]).any()
    mg.sum(out[:, :at] * tensor(2, at, WIDTH, seed=seed + 3)).backward()
    assert not target.grad.numpy()[:, at:].any()
    assert target.grad.numpy()[:, :at].any()


@given(chosen=options(), seed=st.integers(0, 99), order=st.permutations(range(5)))
def test_an_encoder_without_positions_does_not_know_the_order(
    chosen: dict[str, Any], seed: int, order: list[int]
) -> None:
    chosen.update(rotary=False, alibi=False, window=None)
    encoder = scattered(nn.TransformerEncoder(2, HEADS, 6, **chosen))
    x = tensor(2, 5, WIDTH, seed=seed)
    expected = encoder(x).detach().numpy()[:, order]
    assert_close(encoder(x[:, order]).detach().numpy(), expected, mg.float64, "permuted", factor=LOOSE)


# --- decoding ---------------------------------------------------------------------------------------------------------


class Translator(nn.Module):
    """Embeddings, positions, a Transformer and logits with tied weights."""

    def __init__(self, vocabulary: int, **chosen: Any) -> None:
        self.tokens = nn.Embedding(vocabulary, WIDTH).to(mg.float64)
        self.positions = nn.SinusoidalPositions()
        self.transformer = nn.Transformer(HEADS, 1, 2, 6, **chosen)

    def encode(self, source: mg.Tensor, lengths: mg.Tensor) -> mg.Tensor:
        return self.transformer.encoder(self.positions(self.tokens(source)), key_lengths=lengths)

    def decode(self, target: mg.Tensor, memory: mg.Tensor, lengths: mg.Tensor, cache: Any = None) -> mg.Tensor:
        offset = 0 if cache is None or not len(cache.offsets) else cache.offsets
        x = self.positions(self.tokens(target), offset)
        return self.transformer.decoder(x, memory, memory_lengths=lengths, cache=cache) @ self.tokens.weight.T


@given(chosen=options(), seed=st.integers(0, 99))
def test_greedy_decoding_with_a_cache_gives_the_same_tokens(chosen: dict[str, Any], seed: int) -> None:
    model = scattered(Translator(11, **chosen))
    source = mg.asarray(np.random.default_rng(seed).integers(0, 11, (3, 4)))
    lengths = mg.tensor([4, 1, 3])
    with mg.no_grad():
        memory = model.encode(source, lengths)
        ids = mg.zeros((3, 1), dtype=mg.int64)
        for _ in range(6):
            logits = model.decode(ids, memory, lengths)
            ids = mg.concat([ids, mg.argmax(logits[:, -1:], axis=-1)], axis=1)
        cache, last = model.transformer.decoder.make_cache(2), ids[:, :1]
        steps, found = [], [last]
        for _ in range(6):
            steps.append(model.decode(last, memory, lengths, cache))
            last = mg.argmax(steps[-1], axis=-1)
            found.append(last)
    assert_close(mg.concat(steps, axis=1).numpy(), logits.numpy(), mg.float64, "logits", factor=LOOSE)
    assert mg.concat(found, axis=1).tolist() == ids.tolist()
    assert cache.offsets.tolist() == [6, 6, 6]


@given(chosen=options(), seed=st.integers(0, 99), index=st.lists(st.integers(0, 1), min_size=1, max_size=4))
def test_beams_follow_their_sequences(chosen: dict[str, Any], seed: int, index: list[int]) -> None:
    decoder = scattered(nn.TransformerDecoder(2, HEADS, 6, **chosen))
    memory, x = tensor(2, 3, WIDTH, seed=seed), tensor(2, 4, WIDTH, seed=seed + 1)
    following = tensor(len(index), 2, WIDTH, seed=seed + 2)
    cache = decoder.make_cache()
    with mg.no_grad():
        decoder(x, memory, cache=cache)
        cache.reorder(index)
        chosen_memory = memory[mg.asarray(index)]
        out = decoder(following, chosen_memory, cache=cache)
        whole = decoder(mg.concat([x[mg.asarray(index)], following], axis=1), chosen_memory)
        assert_close(out.numpy(), whole[:, 4:].numpy(), mg.float64, "beams", factor=LOOSE)
        cache.reset()
        again = decoder(x[:1], memory[:1], cache=cache)
        assert_close(again.numpy(), decoder(x[:1], memory[:1]).numpy(), mg.float64, "after a reset", factor=LOOSE)


def test_memory_is_projected_once() -> None:
    decoder = nn.TransformerDecoder(2, HEADS, 6, features=WIDTH, dtype=mg.float64)
    memory, x = tensor(1, 3, WIDTH), tensor(1, 2, WIDTH, seed=1)
    cache = decoder.make_cache()
    with mg.no_grad():
        decoder(x[:, :1], memory, cache=cache)
        expected = decoder(x, memory)[:, 1:]
        out = decoder(x[:, 1:], mg.zeros_like(memory), cache=cache)  # what the cache has is used in its place
    assert_close(out.numpy(), expected.numpy(), mg.float64, "second token", factor=LOOSE)
    assert [c.length for layer in cache.layers for c in layer] == [2, 3, 2, 3]


# --- modules ----------------------------------------------------------------------------------------------------------


def test_dropout_is_everywhere_and_in_training_only() -> None:
    layer = nn.TransformerEncoderLayer(HEADS, 6, dropout=0.5, attention_dropout=0.25, features=WIDTH)
    rates = {name: m.rate for name, m in layer.named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"dropout": 0.5, "feed_forward.dropout": 0.5}
    assert layer.self_attention.dropout == 0.25
    decoder = nn.TransformerDecoderLayer(HEADS, 6, dropout=0.5)
    assert decoder.self_attention.dropout == decoder.cross_attention.dropout == 0.5
    x = mg.random.normal((2, 4, WIDTH))
    assert layer(x).tolist() != layer(x).tolist()
    layer.eval()
    assert layer(x).tolist() == layer(x).tolist()


def test_deferred_features_end_where_given_ones_start() -> None:
    lazy, eager = nn.Transformer(HEADS, 1, 1, 6), nn.Transformer(HEADS, 1, 1, 6, features=WIDTH)
    with pytest.raises(ShapeError, match="uninitialized"):
        lazy.state_dict()
    lazy(mg.ones((1, 3, WIDTH)), mg.ones((1, 2, WIDTH)))
    shapes = [(name, p.shape) for name, p in eager.named_parameters()]
    assert [(name, p.shape) for name, p in lazy.named_parameters()] == shapes
    assert {"encoder.norm.weight", "decoder.layers.0.cross_attention.value.bias"} <= dict(shapes).keys()
    assert "norm.weight" not in dict(nn.TransformerEncoder(1, HEADS, norm="post", features=WIDTH).named_parameters())


def test_copies_and_pickles() -> None:
    model = nn.TransformerEncoder(2, HEADS, 6, features=WIDTH, rotary=nn.RotaryPositions(base=100.0), alibi=True)
    x = mg.random.normal((1, 3, WIDTH))
    out = model(x).tolist()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other(x).tolist() == out


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_language_model_learns(norm: str) -> None:
    """The next of four tokens is the sum of the last two modulo 4, which needs attention and positions."""
    mg.random.seed(0)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 4, 32), rng.integers(0, 4, 32)]
    while len(rows) < 10:
        rows.append((rows[-1] + rows[-2]) % 4)
    ids = mg.asarray(np.stack(rows, axis=1))
    embed = nn.Embedding(4, 16)
    decoder = nn.TransformerDecoder(
        2, 2, features=16, cross_attention=False, rotary=True, norm=norm, norm_layer=nn.RMSNorm, activation="swiglu"
    )
    head = nn.Dense(4, in_features=16)
    adam = optim.Adam([*embed.parameters(), *decoder.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(80):
        adam.zero_grad()
        logits = head(decoder(embed(ids[:, :-1])))[:, 1:]  # the first is not followed by a sum
        loss = F.cross_entropy(logits.reshape((-1, 4)), ids[:, 2:].reshape((-1,)))
        loss.backward()
        adam.step()
    assert loss.item() < 0.1


def test_errors_name_the_layer() -> None:
    model = nn.Identity()
    model.encoder = nn.TransformerEncoder(2, HEADS, 6, features=WIDTH)
    model.encoder.layers[1].self_attention.query = nn.Dense(4, in_features=3)
    model.forward = lambda x: model.encoder(x)
    with pytest.raises(ShapeError, match=r"^encoder\.layers\.1\.self_attention: MultiHeadAttention: query is"):
        model(mg.ones((1, 2, WIDTH)))


ERRORS: list[tuple[type[Exception], str, Any]] = [
    (TypeError, "TransformerEncoderLayer: got an argument foo, needs one of its own or of num_kv_heads, head_dim",
     lambda: nn.TransformerEncoder(1, 2, foo=1)),
    (TypeError, "TransformerDecoderLayer: got an argument foo, needs", lambda: nn.TransformerDecoderLayer(2, foo=1)),
    (TypeError, "norm_layer is 'layer', needs a function", lambda: nn.TransformerEncoderLayer(2, norm_layer="layer")),
    (ValueError, "TransformerEncoderLayer: norm is 'first', needs", lambda: nn.TransformerEncoder(1, 2, norm="first")),
    (ShapeError, "num_layers is 0", lambda: nn.TransformerEncoder(0, 2)),
    (ValueError, "memory is None, needs the encoder's", lambda: nn.TransformerDecoderLayer(2)(mg.ones((1, 2, 4)))),
    (
        ValueError,
        "memory is .*, needs none",
        lambda: nn.TransformerDecoder(1, 2, cross_attention=False)(mg.ones((1, 2, 4)), mg.ones((1, 2, 4))),
    ),
    (
        ShapeError,
        "layers of the cache is 2, needs 1",
        lambda: nn.TransformerDecoder(1, 2)(mg.ones((1, 2, 4)), mg.ones((1, 2, 4)), cache=nn.DecoderCache(2)),
    ),
    (TypeError, "widow", lambda: nn.TransformerEncoderLayer(2, widow=(1, 1))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "wrong"), ERRORS, ids=[text[:30] for _, text, _ in ERRORS])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, wrong: Any) -> None:
    with pytest.raises(kind, match=text):
        wrong()

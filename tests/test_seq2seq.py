"""The encoder-decoder: causality, padding, caches, relative positions, generation, and that it learns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import optim
from minigrad.errors import ShapeError
from minigrad.io import load_weights, save_weights
from minigrad.models.decoding import Decoding, Generative
from minigrad.models.generation import generate
from minigrad.models.relative_positions import RelativePositionBias, buckets
from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig
from minigrad.models.t5 import NAMES, T5, hf_config, load_t5, t5_config
from minigrad.nn import functional as F
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
SOURCES, TARGETS = 13, 11
BASE = Seq2SeqConfig(
    SOURCES, TARGETS, features=8, num_encoder_layers=2, num_decoder_layers=2, num_heads=2, hidden_features=12,
    max_length=16, num_buckets=8, max_distance=12, dropout=0.0,
)  # fmt: skip
KINDS = {
    "sinusoidal": BASE,
    "learned": dataclasses.replace(BASE, positions="learned", tied_output=False),
    "relative": dataclasses.replace(BASE, positions="relative"),
    "t5": dataclasses.replace(
        BASE, target_vocab_size=None, positions="relative", norm="rms", activation="geglu_tanh", bias=False,
        attention_scale=1.0, scaled_input=False, scaled_output=True, head_dim=3,
    ),
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> Seq2Seq:
    """A model in float64 none of whose parameters is 0."""
    mg.random.seed(0)
    model = Seq2Seq(KINDS[kind], dtype=mg.float64)
    with mg.no_grad():
        for p in model.parameters():
            p[...] = p + mg.random.normal(p.shape, dtype=mg.float64) * 0.2
    return model.eval()


MODELS = {kind: made(kind) for kind in KINDS}


def draw(shape: tuple[int, ...], seed: int = 0, high: int = TARGETS) -> mg.Tensor:
    return mg.asarray(np.random.default_rng(seed).integers(3, high, shape))


def numpy(t: mg.Tensor) -> Array:
    return t.detach().numpy()


@given(kind=st.sampled_from(sorted(KINDS)), length=st.integers(1, 7), place=st.integers(0, 6), seed=st.integers(0, 99))
def test_a_later_token_never_changes_an_earlier_one(kind: str, length: int, place: int, seed: int) -> None:
    place %= length
    model, source, target = MODELS[kind], draw((1, 5), seed), draw((1, length), seed + 1)
    other = numpy(target).copy()
    other[0, place:] = (other[0, place:] - 2) % 8 + 3
    before, after = (numpy(model(source, t)) for t in (target, mg.asarray(other)))
    assert_close(after[:, :place], before[:, :place], mg.float64, "earlier logits")
    assert (np.abs(after[:, place:] - before[:, place:]).max(axis=-1) > 1e-9).all()


@each_kind
def test_the_encoder_sees_both_ways_and_the_decoder_all_of_it(kind: str) -> None:
    model, source, target = MODELS[kind], numpy(draw((1, 5))), draw((1, 4))
    before = numpy(model(mg.asarray(source), target))
    for changed in range(5):
        other = source.copy()
        other[0, changed] = (other[0, changed] - 2) % 8 + 3
        moved = np.abs(numpy(model(mg.asarray(other), target)) - before).max(axis=-1)
        assert (moved > 1e-9).all()


@given(
    kind=st.sampled_from(sorted(KINDS)),
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    more=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_padding_changes_nothing(kind: str, lengths: list[tuple[int, int]], more: int, seed: int) -> None:
    """Neither logits nor the gradients of a loss; the weights of the mean are the tokens."""
    model = MODELS[kind]
    ours, theirs = (max(column) + more for column in zip(*lengths, strict=True))
    source, target = draw((len(lengths), ours), seed), draw((len(lengths), theirs), seed + 1)
    source_lengths, target_lengths = (mg.asarray(list(column)) for column in zip(*lengths, strict=True))
    given_lengths = {"source_lengths": source_lengths, "target_lengths": target_lengths}
    padded = numpy(model(source, target, **given_lengths))
    whole = mg.grad(model.loss(source, target, **given_lengths), model.parameters(), allow_unused=True)
    tokens = sum(count for _, count in lengths)
    parts = []
    for row, (a, b) in enumerate(lengths):
        alone = source[row : row + 1, :a], target[row : row + 1, :b]
        assert_close(padded[row, :b], numpy(model(*alone))[0], mg.float64, f"row {row}", factor=10)
        parts.append(model.loss(*alone) * (b / tokens))
    expected = mg.grad(sum(parts[1:], parts[0]), model.parameters(), allow_unused=True)
    for (name, _), a, b in zip(model.named_parameters(), whole, expected, strict=True):
        assert_close(numpy(a), numpy(b), mg.float64, f"gradient of {name}", factor=10, floor=1.0)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_decoding_in_pieces_is_decoding_at_once(kind: str, cuts: list[int], seed: int) -> None:
    model, source, target = MODELS[kind], draw((2, 6), seed), draw((2, sum(cuts)), seed + 1)
    lengths = mg.asarray([6, 4])
    whole = numpy(model(source, target, source_lengths=lengths))
    decoding = model.decoding(source=source, source_lengths=lengths, capacity=2)
    assert isinstance(decoding, Decoding)
    end = 0
    for count in cuts:
        found = decoding.advance(target[:, end : end + count])
        end += count
        assert_close(numpy(found), whole[:, end - 1], mg.float64, f"logits after {end}", factor=10)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    counts=st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=1, max_size=3),
    orders=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_targets_of_several_lengths_and_reordering(
    kind: str, counts: list[list[int]], orders: list[list[int]], seed: int
) -> None:
    """Each row is what the model says of that source and target alone, wherever the row has been."""
    model, source, lengths = MODELS[kind], draw((3, 6), seed), np.array([6, 2, 4])
    rng = np.random.default_rng(seed)
    decoding = model.decoding(source=source, source_lengths=mg.asarray(lengths))
    rows: list[tuple[int, list[int]]] = [(i, []) for i in range(3)]
    for new, order in zip(counts, orders, strict=False):
        decoding.reorder(order)
        rows = [(rows[i][0], list(rows[i][1])) for i in order]
        ids = rng.integers(3, TARGETS, (3, max(new)))
        for (_, tokens), fresh, count in zip(rows, ids.tolist(), new, strict=True):
            tokens += fresh[:count]
        found = numpy(decoding.advance(mg.asarray(ids), mg.asarray(new)))
        for row, (origin, tokens) in enumerate(rows):
            alone = source[origin : origin + 1, : int(lengths[origin])]
            expected = numpy(model(alone, mg.asarray([tokens])))[0, -1]
            assert_close(found[row], expected, mg.float64, f"row {row}", factor=10)


@each_kind
def test_generation_is_the_likeliest_token_each_time(kind: str) -> None:
    model, source, lengths = MODELS[kind], draw((3, 6), 5), mg.asarray([6, 3, 5])
    assert isinstance(model, Generative)
    inputs = {"source": source, "source_lengths": lengths}
    found = generate(model, [[1]] * 3, max_new_tokens=8, stop=2, inputs=inputs)
    for row, tokens in enumerate(found):
        text = [1]
        while len(text) < 9:
            alone = source[row : row + 1, : int(lengths[row].item())]
            following = int(numpy(model(alone, mg.asarray([text])))[0, -1].argmax())
            if following == 2:
                break
            text.append(following)
        assert tokens == text[1:]


def test_a_wide_beam_search_finds_the_best_of_all() -> None:
    """Three tokens of a vocabulary of 11, all of which are tried here."""
    model, source = MODELS["relative"], draw((1, 4), 6)
    inputs = {"source": source}
    found = generate(model, [1], max_new_tokens=2, beams=TARGETS, length_penalty=0.0, inputs=inputs)
    every = np.array([[1, a, b] for a in range(TARGETS) for b in range(TARGETS)])
    sources = mg.asarray(np.repeat(numpy(source), len(every), axis=0))
    logs = numpy(mg.log_softmax(model(sources, mg.asarray(every[:, :2]))))
    scores = np.take_along_axis(logs, every[:, 1:, None], axis=2).sum(axis=(1, 2))
    assert found == every[scores.argmax(), 1:].tolist()


@each_kind
def test_the_loss_is_that_of_the_next_token(kind: str) -> None:
    model, source, target = MODELS[kind], draw((2, 5)), draw((2, 4), 1)
    read = model.shifted(target)
    assert read.tolist() == [[1, *row[:-1]] for row in target.tolist()]
    for smoothing in (0.0, 0.1):
        found = model.loss(source, target, label_smoothing=smoothing)
        expected = F.cross_entropy(model(source, read), target, label_smoothing=smoothing)
        assert_close(numpy(found), numpy(expected), mg.float64, "loss")


@each_kind
def test_cross_attention_says_where_the_decoder_looks(kind: str) -> None:
    model, source, target, lengths = MODELS[kind], draw((2, 5)), draw((2, 4), 1), mg.asarray([5, 2])
    maps = [numpy(m) for m in model.cross_attention(source, target, source_lengths=lengths)]
    assert [m.shape for m in maps] == [(2, 2, 4, 5)] * 2
    for m in maps:
        assert_close(m.sum(axis=-1), np.ones((2, 2, 4)), mg.float64, "sums")
        assert (m[1, :, :, 2:] == 0).all()
    # the first layer's, from its inputs
    layer = model.decoder.layers[0]
    x = model.target_embedding or model.embedding
    seen: list[Any] = []
    remove = layer.cross_attention.register_forward_pre_hook(lambda module, args: seen.append(args))
    model(source, target, source_lengths=lengths)
    remove()
    assert not layer.cross_attention._pre_hooks
    query, memory = (numpy(t) for t in seen[0])
    assert x.features == query.shape[-1]

    def heads(part: Any, values: Array) -> Array:
        y = values @ numpy(part.weight) + (0 if part.bias is None else numpy(part.bias))
        return y.reshape(*y.shape[:2], 2, -1).swapaxes(1, 2)

    q, k = heads(layer.cross_attention.query, query), heads(layer.cross_attention.key, memory)
    scale = model.config.attention_scale or q.shape[-1] ** -0.5
    scores = np.exp(scale * q @ k.swapaxes(-1, -2))
    scores[1, :, :, 2:] = 0
    assert_close(maps[0], scores / scores.sum(axis=-1, keepdims=True), mg.float64, "weights", factor=10)


@pytest.mark.parametrize("kind", ["sinusoidal", "t5"])
def test_it_learns_to_reverse(kind: str) -> None:
    mg.random.seed(0)
    config = dataclasses.replace(KINDS[kind], features=32, hidden_features=64, num_heads=4, head_dim=None)
    model = Seq2Seq(dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1))
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)

    def pairs(count: int) -> tuple[Array, Array]:
        source = rng.integers(3, TARGETS, (count, 4))
        return source, np.concatenate([source[:, ::-1], np.full((count, 1), 2)], axis=1)

    losses = []
    for _ in range(400):
        source, target = pairs(32)
        optimizer.zero_grad()
        loss = model.loss(mg.asarray(source), mg.asarray(target))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.2
    source, target = pairs(50)
    found = generate(model, [[1]] * 50, max_new_tokens=6, stop=2, inputs={"source": mg.asarray(source)})
    assert sum(row == wanted[:-1] for row, wanted in zip(found, target.tolist(), strict=True)) >= 40


def test_queries_start_smaller_where_attention_has_no_scale() -> None:
    """So that T5's scores start as large as those of others."""
    model = Seq2Seq(dataclasses.replace(KINDS["t5"], features=64, head_dim=16, num_heads=4))
    for layer in model.decoder.layers:
        for part in (layer.self_attention, layer.cross_attention):
            ratio = numpy(part.query.weight).std() / numpy(part.key.weight).std()
            assert ratio == pytest.approx(16**-0.5, rel=0.1)


@given(distance=st.integers(-500, 500), half=st.integers(2, 16), reach=st.integers(17, 300), both=st.booleans())
def test_buckets_grow_with_the_distance(distance: int, half: int, reach: int, both: bool) -> None:
    """Single ones first, none beyond the last, and both directions alike."""
    count = 4 * half if both else 2 * half
    found = buckets(np.array([distance, distance - 1, -distance]), count, reach, both)
    assert (found >= 0).all()
    assert (found < count).all()
    if distance <= 0:
        assert found[0] <= found[1]
        if -distance < half:
            assert found[0] == -distance
        if -distance >= reach:
            assert found[0] == (count // 2 if both else count) - 1
    if both and distance:
        assert abs(int(found[0]) - int(found[2])) == count // 2
    if not both and distance >= 0:
        assert found[0] == 0


def test_the_bias_is_a_table_of_heads_and_buckets() -> None:
    layer = RelativePositionBias(2, 8, 12, dtype=mg.float64)
    with mg.no_grad():
        layer.embedding.weight[...] = mg.random.normal((8, 2), dtype=mg.float64)
    table = numpy(layer.embedding.weight)
    found = numpy(layer(3, 6, np.array([0, 2])))
    assert found.shape == (2, 2, 3, 6)
    for row, start in enumerate((0, 2)):
        for query in range(3):
            for key in range(6):
                bucket = buckets(np.array(key - query - start), 8, 12, True)
                np.testing.assert_array_equal(found[row, :, query, key], table[bucket])
    np.testing.assert_array_equal(numpy(layer(3, 6, 2)), found[1:])


def test_t5_names_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = MODELS["t5"]
    theirs = NAMES.back(model.state_dict())
    assert theirs["encoder.block.1.layer.1.DenseReluDense.wi_0.weight"].shape == (12, 8)
    assert "decoder.block.0.layer.1.EncDecAttention.q.weight" in theirs
    # files hold the table of a stack, and that of the logits, again
    theirs["encoder.embed_tokens.weight"] = theirs["lm_head.weight"] = theirs["shared.weight"]
    save_weights(tmp_path, theirs)
    config = {
        "model_type": "t5", "vocab_size": SOURCES, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2, "num_heads": 2,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_t5(tmp_path, dtype=mg.float64)
    assert loaded.config.start_id == 0
    source, target = draw((2, 5)), draw((2, 4), 1)
    np.testing.assert_array_equal(numpy(loaded(source, target)), numpy(model(source, target)))
    save_weights(tmp_path, theirs | {"lm_head.weight": theirs["shared.weight"] * 2})
    doubled = load_t5(tmp_path, dtype=mg.float64)
    assert_close(numpy(doubled(source, target)), 2 * numpy(model(source, target)), mg.float64, "logits")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("left_out", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_t5_saved_and_loaded(gated: bool, tied: bool, left_out: bool, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    own: dict[str, Any] = (
        {"head_dim": None, "hidden_features": None, "norm_eps": None} if left_out else {"norm_eps": 1e-4}
    )
    config = dataclasses.replace(KINDS["t5"], tied_output=tied, num_decoder_layers=1, start_id=0, **own)
    config = config if gated else dataclasses.replace(config, activation="relu")
    mg.random.seed(0)
    model = T5(config, dtype=mg.float64).eval()
    model.save_pretrained(tmp_path, shard_bytes=3000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    gates = {name.split(".")[-2] for name in load_weights(tmp_path) if "DenseReluDense" in name}
    assert gates == ({"wi_0", "wi_1", "wo"} if gated else {"wi", "wo"})
    for other in (T5.from_pretrained(tmp_path, dtype=mg.float64), load_t5(tmp_path, dtype=mg.float64)):
        assert dataclasses.replace(other.config, max_length=16, **own) == model.config
        source, target = draw((2, 5)), draw((2, 4), 1)
        np.testing.assert_array_equal(numpy(other(source, target)), numpy(model(source, target)))
    assert t5_config(hf_config(other.config)) == other.config


def test_t5_without_its_table_or_with_another(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = T5(KINDS["t5"])
    model.save_pretrained(tmp_path)
    whole = NAMES.back(model.state_dict())
    shared, table = "shared.weight", whole["shared.weight"]
    rest = {name: array for name, array in whole.items() if name != shared}
    for weights, text in (
        (rest, "missing: embedding.weight \\(from shared.weight\\)"),
        (rest | {"lm_head.weight": table}, "missing: embedding.weight \\(from shared.weight\\)"),
        (rest | {shared: table[:-1]}, "mis-shaped: embedding.weight \\(from shared.weight\\) is .*, needs"),
        (rest | {shared: table[:, :-1], "lm_head.weight": table}, "mis-shaped: embedding.weight"),
        (rest | {shared: table, "lm_head.weight": table[0]}, "mis-shaped: output.weight"),
        (rest | {shared: table, "lm_head.weight": table[:3, :3]}, "mis-shaped: output.weight"),
    ):
        save_weights(tmp_path, weights)
        with pytest.raises(ValueError, match=f"NameMap: the weights do not fit T5:\n    {text}"):
            load_t5(tmp_path)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"num_layers": "6"}, "num_layers is '6', needs an integer"),
        ({"d_model": [512]}, r"d_model is \[512\], needs an integer"),
        ({"dropout_rate": "none"}, "dropout_rate is 'none', needs a finite number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', needs true or false"),
        ({"feed_forward_proj": {}}, "feed_forward_proj is {}, needs one of gelu"),
    ],
)
def test_malformed_configurations_of_t5(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        t5_config(given)


def test_t5_refuses_other_layouts() -> None:
    for kind, text in (("sinusoidal", "T5: positions is 'sinusoidal', needs 'relative'"), ("relative", "T5: norm is")):
        with pytest.raises(ValueError, match=text):
            T5(KINDS[kind])
    with pytest.raises(ValueError, match="T5: target_vocab_size is 11, needs None"):
        hf_config(dataclasses.replace(KINDS["t5"], target_vocab_size=11))
    with pytest.raises(ValueError, match="T5: activation is 'mish', needs one of"):
        T5(dataclasses.replace(KINDS["t5"], activation="mish"))


def test_errors() -> None:
    with pytest.raises(ValueError, match="positions is 'rotary', needs one of 'sinusoidal', 'learned', 'relative'"):
        dataclasses.replace(BASE, positions="rotary")
    with pytest.raises(ValueError, match="feed_forward_proj is 'gated-tanh', needs one of gelu"):
        t5_config({"feed_forward_proj": "gated-tanh"})
    with pytest.raises(ValueError, match="model_type is 'bart'"):
        t5_config({"model_type": "bart"})
    model = MODELS["learned"]
    with pytest.raises(ShapeError, match=r"source is int64 \(3,\), needs shape \(batch, length\)"):
        model(mg.asarray([1, 2, 3]), draw((1, 2)))
    with pytest.raises(ShapeError, match="at most 16 positions"):
        model(draw((1, 17)), draw((1, 2)))
    with pytest.raises(ShapeError, match="17, needs at most 16, the longest"):
        generate(model, [1] * 10, max_new_tokens=8, inputs={"source": draw((1, 3))})
    for wrong in ({"num_buckets": 3}, {"num_buckets": 32, "max_distance": 8}):
        with pytest.raises(ShapeError, match="RelativePositionBias"):
            RelativePositionBias(2, **wrong)

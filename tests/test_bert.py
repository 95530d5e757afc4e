"""BERT: padding, tied weights, sentence embeddings, the names of its weights, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import optim
from minigrad.errors import ShapeError
from minigrad.io import load_weights, save_weights
from minigrad.models.bert import NAMES, Bert, BertConfig, BertForMaskedLM, mean_pool
from minigrad.nn import functional as F
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
CONFIG = BertConfig(
    vocab_size=20, features=8, num_layers=2, num_heads=2, hidden_features=12, max_length=9, initializer_range=0.5
)


def made(kind: Any, seed: int = 0, **options: Any) -> Any:
    """A model in float64 whose biases are not 0."""
    mg.random.seed(seed)
    model = kind(dataclasses.replace(CONFIG, **options), dtype=mg.float64)
    with mg.no_grad():
        for p in model.parameters():
            p[...] = p + mg.random.normal(p.shape, dtype=mg.float64) * 0.2
    return model.eval()


def ids_of(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).integers(1, CONFIG.vocab_size, shape)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_padding_changes_nothing(lengths: list[int], more: int, seed: int) -> None:
    """Neither features nor embeddings nor gradients know what lies behind a text."""
    model = made(Bert)
    ids = ids_of((len(lengths), max(lengths) + more), seed)
    padded = model(mg.asarray(ids), lengths=mg.asarray(lengths))
    vectors = model.embed(mg.asarray(ids), lengths=mg.asarray(lengths))
    cotangents = np.random.default_rng(seed + 1).normal(size=vectors.shape)
    (vectors * mg.asarray(cotangents)).sum().backward()
    together = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, length in enumerate(lengths):
        alone = mg.asarray(ids[row : row + 1, :length])
        expected = model(alone)
        assert_close(padded[row, :length].detach(), expected[0].detach(), mg.float64, f"row {row}", factor=10)
        (model.embed(alone)[0] * mg.asarray(cotangents[row])).sum().backward()
    scale = max(float(abs(g).max().item()) for g in together.values())
    for name, p in model.named_parameters():
        if name in together:
            assert_close(together[name].numpy(), p.grad.numpy(), mg.float64, name, factor=10, floor=scale)
        else:
            assert name.startswith("pooler.")


def test_every_token_sees_every_other() -> None:
    model = made(Bert)
    ids = ids_of((1, 6), 0)
    before = model(mg.asarray(ids)).detach().numpy()
    for changed in range(6):
        other = ids.copy()
        other[0, changed] = other[0, changed] % 19 + 1
        moved = np.abs(model(mg.asarray(other)).detach().numpy() - before).max(axis=-1)
        assert (moved > 1e-6).all()


def test_segments_are_0_unless_they_are_given() -> None:
    model, ids = made(Bert), mg.asarray(ids_of((2, 5), 1))
    plain = model(ids).detach().numpy()
    same = model(ids, token_types=mg.zeros((2, 5), dtype=mg.int64)).detach().numpy()
    other = model(ids, token_types=mg.asarray(np.array([[0, 0, 0, 0, 1], [0] * 5]))).detach().numpy()
    assert_close(plain, same, mg.float64, "segments of 0")
    assert_close(other[1], plain[1], mg.float64, "the text without another segment")
    assert np.abs(other[0] - plain[0]).min(axis=-1).max() > 1e-6


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_mean_pool_is_numpy_s_mean(lengths: list[int], seed: int) -> None:
    hidden = np.random.default_rng(seed).normal(size=(len(lengths), 5, 3))
    found = mean_pool(mg.asarray(hidden), mg.asarray(lengths)).numpy()
    expected = np.stack([row[:length].mean(axis=0) for row, length in zip(hidden, lengths, strict=True)])
    assert_close(found, expected, mg.float64, "mean")
    assert_close(mean_pool(mg.asarray(hidden)).numpy(), hidden.mean(axis=1), mg.float64, "mean of all")


def test_embeddings_have_length_1_and_their_mean_s_direction() -> None:
    model, ids = made(Bert), mg.asarray(ids_of((3, 6), 2))
    lengths = mg.asarray([6, 1, 4])
    mean = model.embed(ids, lengths=lengths, normalize=False).detach().numpy()
    unit = model.embed(ids, lengths=lengths).detach().numpy()
    assert_close(unit, mean / np.linalg.norm(mean, axis=1, keepdims=True), mg.float64, "embedding")
    assert_close(mean, mean_pool(model(ids, lengths=lengths), lengths).detach(), mg.float64, "mean")


def test_the_pooler_reads_the_first_token() -> None:
    model, ids = made(Bert), mg.asarray(ids_of((2, 4), 3))
    hidden = model(ids)
    expected = np.tanh(
        hidden[:, 0].detach().numpy() @ model.pooler.weight.detach().numpy() + model.pooler.bias.detach().numpy()
    )
    assert_close(model.pool(hidden).detach(), expected, mg.float64, "pooled")
    bare = Bert(CONFIG, pooler=False)
    with pytest.raises(ValueError, match="pooler is None, needs a layer"):
        bare.pool(hidden)


def test_masked_loss_is_the_cross_entropy_of_what_was_masked() -> None:
    model, ids, rng = made(BertForMaskedLM), ids_of((3, 6), 4), np.random.default_rng(5)
    targets = np.where(rng.random((3, 6)) < 0.4, ids_of((3, 6), 6), -100)
    lengths = mg.asarray([6, 3, 5])
    found = model.loss(mg.asarray(ids), mg.asarray(targets), lengths=lengths)
    logits = model(mg.asarray(ids), lengths=lengths)
    expected = F.cross_entropy(logits, mg.asarray(targets), ignore_index=-100)
    assert_close(found.detach(), expected.detach(), mg.float64, "loss")
    names = [name for name, _ in model.named_parameters()]
    for a, b, name in zip(*(mg.grad(x, model.parameters()) for x in (found, expected)), names, strict=True):
        assert_close(a.numpy(), b.numpy(), mg.float64, f"gradient of {name}", factor=10, floor=1.0)


def test_the_table_is_that_of_the_logits_and_padding_gets_the_gradient_of_these_alone() -> None:
    model = made(BertForMaskedLM)
    assert sum(p.shape == (20, 8) for p in model.parameters()) == 1
    weight = model.bert.token_embedding.weight
    ids = mg.asarray(np.array([[0, 3, 5]]))
    (cotangent,) = np.random.default_rng(0).normal(size=(1, 1, 3, 20))
    (whole,) = mg.grad((model(ids) * mg.asarray(cotangent)).sum(), [weight])
    hidden = model.bert(ids).detach()
    (head,) = mg.grad((model.head(hidden, weight) * mg.asarray(cotangent)).sum(), [weight])
    gap = np.abs(whole.numpy() - head.numpy()).max(axis=1)
    assert_close(whole.numpy()[0], head.numpy()[0], mg.float64, "padding")
    assert (gap[[3, 5]] > 1e-6).all()
    assert gap[[1, 2, 4]].max() < 1e-12


def test_it_learns_a_text_by_heart() -> None:
    mg.random.seed(0)
    model = BertForMaskedLM(dataclasses.replace(CONFIG, initializer_range=0.1, dropout=0.0, attention_dropout=0.0))
    ids = ids_of((4, 8), 7)
    masked = np.random.default_rng(8).random(ids.shape) < 0.3
    shown, targets = np.where(masked, 1, ids), np.where(masked, ids, -100)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.loss(mg.asarray(shown), mg.asarray(targets))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.0
    assert losses[-1] < 0.1


def test_dropout_is_where_bert_has_it() -> None:
    """Of attention weights, of what a part adds, of embeddings; nothing inside the feed-forward network."""
    model = Bert(dataclasses.replace(CONFIG, dropout=0.2, attention_dropout=0.3))
    layer = model.encoder.layers[1]
    rates = (model.dropout.rate, layer.dropout.rate, layer.self_attention.dropout, layer.feed_forward.dropout.rate)
    assert rates == (0.2, 0.2, 0.3, 0.0)
    ids = mg.asarray(ids_of((2, 6), 9))
    assert (model(ids) != model(ids)).any()
    assert (model.eval()(ids) == model(ids)).all()


def test_names_there_and_back(tmp_path: Path) -> None:
    """What is saved by Hugging Face's names is loaded again, old names of norms too."""
    pytest.importorskip("safetensors")
    model = made(BertForMaskedLM)
    own = {name.removeprefix("bert."): value for name, value in model.state_dict().items()}
    theirs = NAMES.back(own)
    assert "bert.encoder.layer.1.attention.self.query.weight" in theirs
    assert theirs["bert.encoder.layer.0.intermediate.dense.weight"].shape == (12, 8)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in theirs.items()
    }
    assert len(old.keys() - theirs.keys()) == 12
    config = {
        "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": 9,
    }  # fmt: skip
    for number, weights in enumerate((theirs, old)):
        folder = tmp_path / str(number)
        save_weights(folder, weights)
        (folder / "config.json").write_text(json.dumps(config))
        loaded = BertForMaskedLM.from_pretrained(folder, dtype=mg.float64)
        assert not loaded.training
        for name, value in loaded.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy(), err_msg=name)
        assert Bert.from_pretrained(folder).pooler is None


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu_tanh", "padding_idx": None, "norm_eps": 1e-5}], ids=str)
def test_saved_and_loaded(options: dict[str, Any], pooler: bool, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    masked = made(BertForMaskedLM, **options)
    for model in (Bert(masked.config, pooler=pooler, dtype=mg.float64).eval(), masked):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder, shard_bytes=2000)
        assert len(list(folder.glob("*.safetensors"))) > 1
        prefixed = [name.startswith("bert.") for name in load_weights(folder)]
        assert any(prefixed) is (model is masked)
        assert sum(name.startswith("cls.predictions.") for name in load_weights(folder)) == 5 * (model is masked)
        other = type(model).from_pretrained(folder, dtype=mg.float64)
        assert other.config == model.config
        assert not other.training
        state, again = model.state_dict(), other.state_dict()
        assert list(state) == list(again)
        assert all(mg.array_equal(again[name], value) for name, value in state.items())
        ids = mg.asarray(ids_of((2, 5), 1))
        assert mg.array_equal(model(ids), other(ids))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    with pytest.raises(ValueError, match="BertConfig: activation is 'tanh', needs one of"):
        made(Bert, activation="tanh").save_pretrained(tmp_path)


def test_the_configuration_of_hugging_face() -> None:
    given = {"hidden_size": 24, "hidden_act": "gelu_new", "pad_token_id": None, "use_cache": True}
    config = BertConfig.from_hf(given)
    assert (config.features, config.activation, config.padding_idx) == (24, "gelu_tanh", None)
    assert config.vocab_size == BertConfig().vocab_size


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', needs one of bert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "quick"}, "hidden_act is 'quick', needs one of gelu, gelu_new"),
        ({"hidden_act": ["gelu"]}, "hidden_act is .*, needs one of gelu, gelu_new"),
        ({"hidden_size": "768"}, "hidden_size is '768', needs an integer"),
        ({"hidden_size": 7.5}, "hidden_size is 7.5, needs an integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, needs an integer"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan, needs a finite number"),
        ({"pad_token_id": [0]}, r"pad_token_id is \[0\], needs an integer"),
    ],
)
def test_other_configurations_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BertConfig.from_hf(given)


def test_errors() -> None:
    model = BertForMaskedLM(CONFIG)
    with pytest.raises(ShapeError, match=r"bert: Bert: ids is int64 \(3,\), needs shape \(batch, length\)"):
        model(mg.asarray([1, 2, 3]))
    with pytest.raises(ShapeError, match=r"position_embedding: .*at most 9 positions"):
        model(mg.ones((1, 10), dtype=mg.int64))
    with pytest.raises(ShapeError, match=r"targets is .*, needs the shape of ids"):
        model.loss(mg.ones((2, 3), dtype=mg.int64), mg.ones((2, 1), dtype=mg.int64))
    with pytest.raises(IndexError, match="the id 20"):
        model(mg.full((1, 2), 20, dtype=mg.int64))

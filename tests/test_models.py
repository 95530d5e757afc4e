"""Decoder-only models: what depends on what, losses, starts, caches, and tokenizers. Theirs are in another file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataError
from minigrad.errors import GradError, ShapeError
from minigrad.models import (
    GPT,
    ByteTokenizer,
    CharacterTokenizer,
    GPTConfig,
    LanguageModel,
    Llama,
    LlamaConfig,
    RotaryScaling,
    language_model,
)
from minigrad.testing.tolerances import assert_close

VOCABULARY = 13


def gpt(dtype: Any = mg.float64, **options: Any) -> GPT:
    given = {"max_length": 32, "features": 12, "num_layers": 2, "num_heads": 3, "initializer_range": 0.2} | options
    return GPT(GPTConfig(vocab_size=VOCABULARY, **given), dtype=dtype)


def llama(dtype: Any = mg.float64, **options: Any) -> Llama:
    given = {"features": 12, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_features": 16, "head_dim": 4}
    return Llama(LlamaConfig(vocab_size=VOCABULARY, **given | {"initializer_range": 0.2} | options), dtype=dtype)


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "gpt": gpt,
    "gpt, its own head": lambda: gpt(tied=False, bias=False),
    "llama": llama,
    "llama, tied": lambda: llama(tied=True, bias=True, num_kv_heads=1),
    "llama with a window": lambda: llama(window=3),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    mg.random.seed(5)
    return MODELS[request.param]().eval()


def draw_ids(data: st.DataObject, rows: int, length: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, VOCABULARY, (rows, length))


def close(actual: Any, expected: Any, what: str) -> None:
    assert_close(mg.asarray(actual).detach().numpy(), mg.asarray(expected).detach().numpy(), mg.float64, what, floor=1)


# --- what depends on what ---------------------------------------------------------------------------------------------


@given(data=st.data())
def test_the_future_never_changes_the_past(model: LanguageModel, data: st.DataObject) -> None:
    ids = draw_ids(data, 2, data.draw(st.integers(2, 10)))
    at = data.draw(st.integers(1, ids.shape[1] - 1))
    other = ids.copy()
    other[:, at:] = draw_ids(data, 2, ids.shape[1] - at)
    close(model(mg.asarray(other))[:, :at], model(mg.asarray(ids))[:, :at], "logits")


def test_every_token_of_the_past_counts() -> None:
    """Or the test above would pass for a model that sees nothing."""
    for model in (gpt().eval(), llama().eval()):
        ids = np.arange(6)[None]
        logits = model(mg.asarray(ids)).detach().numpy()
        for at in range(6):
            other = ids.copy()
            other[0, at] = 9
            changed = np.abs(model(mg.asarray(other)).detach().numpy() - logits).max(axis=-1)[0]
            assert (changed[at:] > 1e-6).all()


@given(data=st.data())
def test_padding_and_neighbours_change_nothing(model: LanguageModel, data: st.DataObject) -> None:
    ids = draw_ids(data, 3, 8)
    lengths = data.draw(st.lists(st.integers(1, 8), min_size=3, max_size=3))
    logits = model(mg.asarray(ids), key_lengths=mg.tensor(lengths))
    for row, length in enumerate(lengths):
        close(logits[row, :length], model(mg.asarray(ids[row : row + 1, :length]))[0], f"row {row}")


@given(data=st.data())
def test_a_cache_changes_nothing(model: LanguageModel, data: st.DataObject) -> None:
    """Tokens in pieces of any size, after prompts of different lengths."""
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=2))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    prompts, more = draw_ids(data, 2, max(lengths)), draw_ids(data, 2, sum(sizes))
    cache = model.make_cache(data.draw(st.sampled_from([None, 1])))
    with mg.no_grad():
        first = model(mg.asarray(prompts), key_lengths=mg.tensor(lengths), cache=cache)
        ends = np.cumsum(sizes)
        parts = [model(mg.asarray(more[:, e - n : e]), cache=cache) for n, e in zip(sizes, ends, strict=True)]
        following = mg.concat(parts, axis=1)
        for row, length in enumerate(lengths):
            whole = model(mg.asarray(np.concatenate([prompts[row, :length], more[row]])[None]))[0]
            close(first[row, :length], whole[:length], "prompt")
            close(following[row], whole[length:], "what follows")
    assert cache.offsets.tolist() == [length + sum(sizes) for length in lengths]


def test_a_cache_records_nothing(model: LanguageModel) -> None:
    with pytest.raises(GradError, match=r"Decode under mg.no_grad\(\)"):
        model(mg.tensor([[1]]), cache=model.make_cache())


def test_a_window_reaches_as_far_as_it_says() -> None:
    model = llama(window=3, num_layers=1).eval()
    ids = mg.tensor([[1, 2, 3, 4, 5, 6]])
    logits = model(ids).detach().numpy()
    other = model(mg.tensor([[9, 2, 3, 4, 5, 6]])).detach().numpy()
    changed = np.abs(logits - other).max(axis=-1)[0]
    assert (changed[:3] > 1e-9).all()
    assert (changed[3:] < 1e-12).all()


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10**9], ids=["in chunks", "whole"])
def test_loss(model: LanguageModel, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "CHUNK", limit)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, VOCABULARY, (2, 3, 7))
    targets[0, 2] = -100
    lengths = [7, 4, 5]
    loss = model(mg.asarray(ids), mg.asarray(targets), key_lengths=mg.tensor(lengths))
    logits = model(mg.asarray(ids)).detach().numpy()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = (np.arange(7) < np.array(lengths)[:, None]) & (targets >= 0)
    expected = -np.mean([logs[i, j, targets[i, j]] for i, j in zip(*np.nonzero(counted), strict=True)])
    assert_close(loss.item(), expected, mg.float64, "loss")
    gradients = mg.grad(loss, model.parameters())
    other = mg.cross_entropy(
        model(mg.asarray(ids)), mg.asarray(np.where(counted, targets, -100)), ignore_index=-100
    )  # fmt: skip
    for (name, _), g, e in zip(
        model.named_parameters(), gradients, mg.grad(other, model.parameters()), strict=True
    ):  # fmt: skip
        assert_close(g.numpy(), e.numpy(), mg.float64, f"gradient of {name}", floor=0.1)


def test_errors(model: LanguageModel) -> None:
    for kind in (GPT, Llama):
        with pytest.raises(TypeError, match=f"{kind.__name__}: config is None, needs a {kind.__name__}Config"):
            kind(None)
    with pytest.raises(ShapeError, match=r"ids is int64 \(2, 0\), needs at least one token in each sequence"):
        model(mg.zeros((2, 0), dtype=mg.int64))
    with pytest.raises(ShapeError, match=r"ids is int64 \(3,\), needs shape \(batch, length\)"):
        model(mg.tensor([1, 2, 3]))
    with pytest.raises(ShapeError, match=r"targets is int64 \(1, 2\), needs shape \(1, 3\), that of ids"):
        model(mg.tensor([[1, 2, 3]]), mg.tensor([[1, 2]]))
    with pytest.raises(IndexError):
        model(mg.tensor([[VOCABULARY]]))


def test_too_long_for_its_positions() -> None:
    with pytest.raises(ShapeError, match="needs at most 32 positions"):
        gpt()(mg.zeros((1, 33), dtype=mg.int64))
    assert llama()(mg.zeros((1, 33), dtype=mg.int64)).shape == (1, 33, VOCABULARY)


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss(name: str) -> None:
    mg.random.seed(1)
    model = MODELS[name]().to(mg.float32).train()
    ids = mg.tensor([[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]])
    adam = optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- how they start, and what they are made of ------------------------------------------------------------------------


def test_weights_start_as_gpt2s() -> None:
    mg.random.seed(0)
    model = GPT(GPTConfig(vocab_size=500, max_length=300, features=64, num_layers=8, num_heads=4))
    for name, p in model.named_parameters():
        spread = float(p.detach().numpy().std())
        if "norm" in name:
            assert spread == 0, name
        elif name.endswith("bias"):
            assert spread == 0, name
            assert float(p.detach().sum()) == 0, name
        else:
            expected = 0.02 / 4 if name.endswith("output.weight") else 0.02
            assert abs(spread / expected - 1) < 0.05, name
    loss = model(mg.tensor([[0, 1, 2, 3]]), mg.tensor([[9, 8, 7, 6]])).item()
    assert abs(loss - math.log(500)) < 0.2


def test_sizes() -> None:
    assert sum(p.size for p in gpt().parameters()) == 13 * 12 + 32 * 12 + 2 * (12 * 144 + 13 * 12) + 24
    small = llama(tied=True)
    assert small.head is None
    assert sum(p.size for p in llama().parameters()) - sum(p.size for p in small.parameters()) == 12 * 13


def test_dropout_works_in_training_only() -> None:
    model = gpt(dropout=0.5, embedding_dropout=0.0, attention_dropout=0.0)
    ids = mg.tensor([[1, 2, 3]])
    assert not mg.allclose(model(ids), model(ids))
    model.eval()
    assert mg.array_equal(model(ids), model(ids))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="GPT: activation is 'swiglu', needs one of gelu_tanh"):
        gpt(activation="swiglu")
    for config, text in (
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"activation_function": "gelu_fast"}, "activation_function is 'gelu_fast'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, needs False"),
    ):
        with pytest.raises(ValueError, match=f"GPTConfig: {text}"):
            GPTConfig.from_hf(config)
    for config, text in (
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True, "mlp_bias": False}, "mlp_bias is False, needs as attention_bias"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ):
        with pytest.raises(ValueError, match=f"LlamaConfig: {text}"):
            LlamaConfig.from_hf(config)
    with pytest.raises(ValueError, match="bias is False, needs True"):
        GPTConfig(bias=False).to_hf()
    with pytest.raises(ValueError, match="bias is True, needs False with a window"):
        LlamaConfig(bias=True, window=3).to_hf()


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(),
        GPTConfig(activation="relu", hidden_features=5, tied=False, dropout=0.0),
        LlamaConfig(),
        LlamaConfig(num_kv_heads=4, head_dim=6, bias=True, rope_base=5.0, tied=True),
        LlamaConfig(window=7, rope_scaling=RotaryScaling(2.0)),
        LlamaConfig(rope_scaling=RotaryScaling(8.0, 64, 1.5, 3.0)),
    ],
    ids=repr,
)
def test_configs_there_and_back(config: Any) -> None:
    assert type(config).from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', needs an object in JSON, or null"),
        ({"rope_scaling": 3}, "rope_scaling is 3, needs an object"),
        ({"rope_scaling": [["factor", 2.0]]}, "rope_scaling is .*, needs an object"),
        ({"rope_parameters": ["linear"]}, "rope_parameters is .*, needs an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is None, needs a positive number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "8"}}, "factor is '8', needs a positive number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0, needs a positive number"),
        ({"rope_scaling": {"rope_type": ["linear"], "factor": 1}}, r"rope_type is \['linear'\], needs 'default'"),
        ({"rope_scaling": {"rope_type": None}}, "rope_type is None, needs 'default'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "original_max_position_embeddings is None, needs"),
        ({"rope_theta": "10000"}, "rope_theta is '10000', needs a positive number"),
        ({"rope_theta": [1.0]}, "rope_theta is .*, needs a positive number"),
        ({"rope_theta": True}, "rope_theta is True, needs a positive number"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0, needs a positive number"),
        ({"rope_theta": float("inf")}, "rope_theta is inf, needs a positive number"),
        ({"sliding_window": 0}, "sliding_window is 0, needs at least 1, or null"),
        ({"sliding_window": -3}, "sliding_window is -3, needs at least 1, or null"),
        ({"sliding_window": "4096"}, "sliding_window is '4096', needs an integer"),
        ({"hidden_size": None, "num_hidden_layers": 2.0}, "num_hidden_layers is 2.0, needs an integer"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, needs true or false"),
    ],
)
def test_malformed_configurations_of_llama(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"LlamaConfig: {text}"):
        LlamaConfig.from_hf(given)


def test_configurations_that_are_refused() -> None:
    llama3 = {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 4.0, "high_freq_factor": 4.0}
    with pytest.raises(ValueError, match=r"high_freq_factor is 4.0, needs more than low_freq_factor, 4.0"):
        LlamaConfig.from_hf({"rope_scaling": {"rope_type": "llama3"} | llama3})
    with pytest.raises(ValueError, match="LlamaConfig: window is 0, needs at least 1, or None"):
        LlamaConfig(window=0)
    with pytest.raises(ValueError, match="GPTConfig: n_embd is '768', needs an integer"):
        GPTConfig.from_hf({"n_embd": "768"})
    with pytest.raises(ValueError, match=r"GPTConfig: activation_function is .*, needs a text"):
        GPTConfig.from_hf({"activation_function": ["relu"]})
    assert GPTConfig.from_hf({"n_inner": None, "n_head": None}) == GPTConfig()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt, its own head"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = MODELS[name]().eval()
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path, dtype=mg.float64)
    assert other.config == model.config
    assert not other.training
    assert all(mg.array_equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    ids = mg.tensor([[1, 2, 3]])
    assert mg.array_equal(model(ids), other(ids))
    assert type(model).from_pretrained(tmp_path).tokens.weight.dtype == mg.float32


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs a folder with config\.json"):
        GPT.from_pretrained(tmp_path)
    for text, said in (("{", "malformed"), ("[]", "needs an object in JSON"), ("[" * 200_000, "malformed")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=said):
            GPT.from_pretrained(tmp_path)
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    with pytest.raises(DataError, match=r"unreadable \(Is a directory\)"):
        GPT.from_pretrained(tmp_path / "folder")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="needs a safetensors file"):
        GPT.from_pretrained(tmp_path)


def test_the_head_of_gpt_goes_by_hugging_face_s_name() -> None:
    model = gpt(tied=False)
    names = set(model.names().back(model.state_dict()))
    assert {"lm_head.weight", "transformer.wte.weight"} <= names
    assert "transformer.lm_head.weight" not in names


# --- tokenizers -------------------------------------------------------------------------------------------------------


@given(text=st.text())
def test_bytes_there_and_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert bytes(ids.tolist()) == text.encode()
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == tokenizer.decode(mg.asarray(ids)) == text


@given(text=st.text(), specials=st.lists(st.text(min_size=2), unique=True, max_size=3))
def test_characters_there_and_back(
    text: str, specials: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:  # fmt: skip
    tokenizer = CharacterTokenizer.from_text(text, specials=specials)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.vocab_size == len(set(text)) + len(specials)
    assert set(ids.tolist()) == set(range(len(specials), tokenizer.vocab_size))
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.id(name) for name in specials] + ids.tolist()) == text
    assert [tokenizer.id(name) for name in specials] == list(range(len(specials)))
    file = tmp_path_factory.getbasetemp() / "characters.json"
    tokenizer.save(file)
    again = CharacterTokenizer.load(file)
    assert (again.characters, again.specials) == (tokenizer.characters, tokenizer.specials)
    assert again.encode(text).tolist() == ids.tolist()


def test_tokenizers_order_is_that_of_the_alphabet() -> None:
    tokenizer = CharacterTokenizer("zaé", specials=["<end>"])
    assert tokenizer.encode("aéz").tolist() == [2, 3, 1]
    assert tokenizer.decode([3, 0, 1]) == "éz"


def test_a_part_of_a_character() -> None:
    assert ByteTokenizer().decode([110, 195]) == "n\ufffd"


def test_tokenizers_refuse(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer("abc", specials=["<end>"])
    with pytest.raises(ValueError, match="text is with 'xy', needs characters of the alphabet"):
        tokenizer.encode("axby")
    with pytest.raises(ValueError, match="text is with 'x'"):
        CharacterTokenizer("").encode("x")
    with pytest.raises(ValueError, match="special is '<start>', needs one of '<end>'"):
        tokenizer.id("<start>")
    for ids in ([4], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="integers from 0 to 3"):
            tokenizer.decode(ids)
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        ByteTokenizer().decode([256])
    with pytest.raises(ValueError, match="'a' twice"):
        CharacterTokenizer("aba")
    with pytest.raises(ValueError, match="needs single characters"):
        CharacterTokenizer(["ab"])
    for text in ("{", "[]", '{"type": "words"}', '{"type": "characters"}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match="malformed"):
            CharacterTokenizer.load(tmp_path / "x.json")


def test_lazily_from_the_top() -> None:
    assert mg.models.GPT is GPT
    assert mg.io.load_weights.__module__ == "minigrad.io.weights"
    assert nn.Module in GPT.__mro__

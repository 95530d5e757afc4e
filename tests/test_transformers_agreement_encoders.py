"""Random small BERT and T5 models agree with Hugging Face's transformers in float64: logits and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.io import NameMap
from minigrad.models import bert, t5
from minigrad.models.generation import generate
from minigrad.models.relative_positions import buckets
from minigrad.testing.tolerances import assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
transformers = pytest.importorskip("transformers")

Array = np.ndarray[Any, Any]
SIZES = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
LENGTHS = [7, 3, 5]
BERTS = [
    {},
    {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 3},
    {"hidden_act": "relu", "pad_token_id": 4, "num_hidden_layers": 1, "num_attention_heads": 1},
]
T5S = [
    {},
    {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1},
    {"feed_forward_proj": "gated-silu", "d_kv": 7, "relative_attention_num_buckets": 8, "untied": True},
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scatter(model: Any) -> None:
    """Biases and norms start at 0 and 1, and weights near 0; others show more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def draw(shape: tuple[int, ...], high: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(5, high, shape)


def attended(lengths: list[int], length: int) -> Any:
    return torch.tensor(np.arange(length) < np.array(lengths)[:, None]).long()


def compare(
    ours: nn.Module, theirs: Any, names: NameMap, out: Any, expected: Any, rename: Callable[[str], str]
) -> None:
    """Values, and under a random cotangent the gradient of every parameter; padding is left away by the caller."""
    assert_close(out.detach().numpy(), expected.detach().numpy(), mg.float64, "value", factor=10)
    cotangent = np.random.default_rng(1).normal(size=out.shape)
    out.backward(mg.asarray(cotangent))
    expected.backward(torch.tensor(cotangent))
    grads = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    wanted = {rename(name): g for name, g in names.translate(grads).weights.items()}
    own = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(own) == set(wanted)
    # the gradient of a key's bias is 0 but for roundings, since a softmax does not see what it adds
    scale = max(np.abs(g).max() for g in wanted.values())
    for name, g in own.items():
        assert_close(g.numpy(), wanted[name], mg.float64, f"gradient of {name}", factor=10, floor=scale)


@pytest.mark.parametrize("options", BERTS, ids=str)
def test_bert(options: dict[str, Any], tmp_path: Path) -> None:
    """The features of tokens that count, and what the pooler makes of the first."""
    config = transformers.BertConfig(**SIZES | options, max_position_embeddings=16)
    theirs = transformers.BertModel(config).double().eval()
    scatter(theirs)
    ours = bert.Bert.from_pretrained(saved(theirs, tmp_path), dtype=mg.float64)
    ids, kinds = draw((3, 7), 31), np.random.default_rng(2).integers(0, 2, (3, 7))
    found = ours(mg.asarray(ids), token_types=mg.asarray(kinds), lengths=mg.asarray(LENGTHS))
    mask = attended(LENGTHS, 7)
    reference = theirs(torch.tensor(ids), token_type_ids=torch.tensor(kinds), attention_mask=mask)
    counted = np.arange(7) < np.array(LENGTHS)[:, None]
    out = mg.concat([found[mg.asarray(counted)], ours.pool(found)])
    expected = torch.concat([reference.last_hidden_state[torch.tensor(counted)], reference.pooler_output])
    compare(ours, theirs, bert.NAMES, out, expected, lambda name: name)


@pytest.mark.parametrize("options", BERTS, ids=str)
def test_masked_language_model(options: dict[str, Any], tmp_path: Path) -> None:
    """Logits, gradients and the loss, with padding that has tokens of its own."""
    config = transformers.BertConfig(**SIZES | options, max_position_embeddings=16)
    theirs = transformers.BertForMaskedLM(config).double().eval()
    scatter(theirs)
    ours = bert.BertForMaskedLM.from_pretrained(saved(theirs, tmp_path), dtype=mg.float64)
    ids = draw((3, 7), 31)
    ids[1, 1] = config.pad_token_id
    counted = np.arange(7) < np.array(LENGTHS)[:, None]
    mask = attended(LENGTHS, 7)
    out = ours(mg.asarray(ids), lengths=mg.asarray(LENGTHS))[mg.asarray(counted)]
    expected = theirs(torch.tensor(ids), attention_mask=mask).logits[torch.tensor(counted)]

    def rename(name: str) -> str:
        return name if name.startswith("head.") else f"bert.{name}"

    compare(ours, theirs, bert.NAMES, out, expected, rename)
    targets = np.where(np.random.default_rng(3).random(ids.shape) < 0.4, draw((3, 7), 31, seed=4), -100)
    loss = ours.loss(mg.asarray(ids), mg.asarray(targets), lengths=mg.asarray(LENGTHS))
    reference = theirs(torch.tensor(ids), attention_mask=mask, labels=torch.tensor(targets)).loss
    assert_close(loss.detach().numpy(), reference.detach().numpy(), mg.float64, "loss", factor=10)


def test_a_head_is_left_away_and_a_missing_one_is_named(tmp_path: Path) -> None:
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).eval()
    whole = bert.Bert.from_pretrained(saved(theirs, tmp_path / "head"))
    assert whole.pooler is None
    ids = draw((2, 5), 31)
    expected = theirs.bert(torch.tensor(ids)).last_hidden_state
    assert_close(whole(mg.asarray(ids)).detach().numpy(), expected.detach().numpy(), mg.float32, "value", factor=10)
    bare = transformers.BertModel(transformers.BertConfig(**SIZES))
    with pytest.raises(ValueError, match=r"missing: head\.bias, head\.transform|missing: head\.transform"):
        bert.BertForMaskedLM.from_pretrained(saved(bare, tmp_path / "bare"))


def made_t5(options: dict[str, Any]) -> Any:
    sizes = {"vocab_size": 29, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
    given = {name: value for name, value in options.items() if name != "untied"}
    config = transformers.T5Config(**sizes | given, decoder_start_token_id=0)
    theirs = transformers.T5ForConditionalGeneration(config).double().eval()
    if options.get("untied"):
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.detach().clone())
    scatter(theirs)
    return theirs


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The T5 of transformers rounds the squares of its norms to float32; here it has PyTorch's own norm."""

    def forward(self: Any, x: Any) -> Any:
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(transformers.models.t5.modeling_t5.T5LayerNorm, "forward", forward)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("options", T5S, ids=str)
def test_t5(options: dict[str, Any], tmp_path: Path) -> None:
    """Sources of several lengths, longer than the buckets of single distances."""
    theirs = made_t5(options)
    ours = t5.load_t5(saved(theirs, tmp_path), dtype=mg.float64)
    assert (ours.output is None) != options.get("untied", False)
    source, target = draw((3, 40), 29), draw((3, 20), 29, seed=1)
    lengths = [40, 3, 21]
    out = ours(mg.asarray(source), mg.asarray(target), source_lengths=mg.asarray(lengths))
    given = {"attention_mask": attended(lengths, 40), "decoder_input_ids": torch.tensor(target)}
    compare(ours, theirs, t5.NAMES, out, theirs(torch.tensor(source), **given).logits, lambda name: name)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("beams", [1, 3])
def test_t5_writes_the_same(beams: int, tmp_path: Path) -> None:
    """Greedy decoding and beam search, with caches, of padded sources."""
    theirs = made_t5({})
    ours = t5.load_t5(saved(theirs, tmp_path), dtype=mg.float64)
    source, lengths = draw((3, 9), 29), [9, 4, 6]
    inputs = {"source": mg.asarray(source), "source_lengths": mg.asarray(lengths)}
    found = generate(ours, [[0]] * 3, max_new_tokens=12, beams=beams, stop=1, inputs=inputs)
    options = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False, "early_stopping": True}
    mask = attended(lengths, 9)
    with torch.no_grad():
        expected = theirs.generate(torch.tensor(source), attention_mask=mask, **options).tolist()
    for row, wanted in zip(found, expected, strict=True):
        rest = wanted[1:]
        assert row == (rest[: rest.index(1)] if 1 in rest else rest)
    assert len({tuple(row) for row in found}) > 1


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "T5ForConditionalGeneration"])
def test_they_load_what_we_save(kind: str, tmp_path: Path) -> None:
    if kind.startswith("T5"):
        theirs, own = made_t5({"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1}), t5.T5
    else:
        theirs = getattr(transformers, kind)(transformers.BertConfig(**SIZES)).double().eval()
        scatter(theirs)
        own = bert.Bert if kind == "BertModel" else bert.BertForMaskedLM
    ours = own.from_pretrained(saved(theirs, tmp_path / "theirs"), dtype=mg.float64)
    ours.save_pretrained(tmp_path / "ours", shard_bytes=4000)
    back, report = type(theirs).from_pretrained(tmp_path / "ours", dtype=torch.float64, output_loading_info=True)
    assert not any(report.values()), report
    expected = theirs.state_dict()
    assert set(back.state_dict()) == set(expected)
    assert all(torch.equal(p, expected[n]) for n, p in back.state_dict().items())
    for name in ("hidden_act", "layer_norm_eps", "tie_word_embeddings", "dense_act_fn", "is_gated_act", "dropout_rate"):
        assert getattr(back.config, name, None) == getattr(theirs.config, name, None)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "reach"), [(32, 128), (8, 20), (16, 100)])
def test_buckets(bidirectional: bool, count: int, reach: int) -> None:
    distances = np.arange(-3000, 3000)
    attention = transformers.models.t5.modeling_t5.T5Attention
    expected = attention._relative_position_bucket(torch.tensor(distances), bidirectional, count, reach)
    np.testing.assert_array_equal(buckets(distances, count, reach, bidirectional), expected.numpy())

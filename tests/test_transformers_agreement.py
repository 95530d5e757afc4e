"""Models of Hugging Face's transformers, small and random, load from their files and compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.io import load_weights, save_weights
from minigrad.models import GPT, LanguageModel, Llama, LlamaConfig
from minigrad.testing.tolerances import assert_close

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

BATCH, LENGTH, VOCABULARY = 3, 9, 23
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
CASES: dict[str, tuple[type[LanguageModel], str, dict[str, Any]]] = {
    "gpt2": (GPT, "GPT2", GPT2),
    "gpt2, its own head": (GPT, "GPT2", GPT2 | {"tie_word_embeddings": False}),
    "gpt2, relu and narrow": (GPT, "GPT2", GPT2 | {"activation_function": "relu", "n_inner": 7}),
    "gpt2, exact gelu": (GPT, "GPT2", GPT2 | {"activation_function": "gelu", "layer_norm_epsilon": 0.1}),
    "llama, grouped": (Llama, "Llama", LLAMA),
    "llama, multi-query": (Llama, "Llama", LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama, heads of their own size": (Llama, "Llama", LLAMA | {"head_dim": 6, "rms_norm_eps": 0.1}),
    "llama, biases": (Llama, "Llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama, another base": (Llama, "Llama", LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "llama 3": (Llama, "Llama", LLAMA | {"rope_parameters": LLAMA3}),
    "llama, linear": (
        Llama,
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "mistral": (Llama, "Mistral", LLAMA | {"sliding_window": 4}),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def whole_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their norms and rotary positions compute in float32 whatever the model's dtype is: here in float64."""

    def norm(self: Any, x: Any) -> Any:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self: Any, x: Any, position_ids: Any) -> Any:
        angles = position_ids[..., None] * self.inv_freq.double()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    for name in ("Llama", "Mistral"):
        module = getattr(transformers.models, name.lower())
        module = getattr(module, f"modeling_{name.lower()}")
        monkeypatch.setattr(getattr(module, f"{name}RMSNorm"), "forward", norm)
        monkeypatch.setattr(getattr(module, f"{name}RotaryEmbedding"), "forward", rotary)


def loaded(own: type[LanguageModel], theirs: Any, folder: Path) -> LanguageModel:
    """Ours in float64, from their files, with their frequencies of rotary positions, rounded to float32."""
    ours = own.from_pretrained(saved(theirs, folder), dtype=mg.float64)
    rotary = ours.decoder.layers[0].self_attention.rotary
    if rotary is not None:
        rounded = theirs.model.rotary_emb.inv_freq.double().numpy()
        if rotary.frequencies is not None:
            assert_close(rotary.frequencies, rounded, mg.float32, "frequencies", each=True)
        else:
            assert_close(rotary.base ** -np.linspace(0, 1, len(rounded), endpoint=False), rounded, mg.float32, "base")
        rotary.frequencies = tuple(rounded)
    return ours


def made(kind: str, options: dict[str, Any]) -> Any:
    """A random model of theirs in float64, in evaluation mode; biases and norms are random too."""
    config = getattr(transformers, f"{kind}Config")(**options)
    torch.manual_seed(0)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    theirs = getattr(transformers, name)._from_config(config, attn_implementation="sdpa").to(torch.float64)
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.2 * torch.randn(p.shape, dtype=p.dtype)
    return theirs.eval()


def saved(theirs: Any, folder: Path, **options: Any) -> Path:
    theirs.save_pretrained(folder, safe_serialization=True, **options)
    return folder


def tokens(seed: int = 0) -> tuple[Any, Any]:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (BATCH, LENGTH + 1))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name: str, tmp_path: Path) -> None:
    own, kind, options = CASES[name]
    theirs = made(kind, options)
    ours = loaded(own, theirs, tmp_path)
    ids, targets = tokens()
    logits, reference = ours(mg.asarray(ids)), theirs(torch.tensor(ids)).logits
    assert_close(logits.detach().numpy(), reference.detach().numpy(), mg.float64, "logits")

    loss = ours(mg.asarray(ids), mg.asarray(targets))
    other = torch.nn.functional.cross_entropy(reference.reshape(-1, VOCABULARY), torch.tensor(targets).reshape(-1))
    assert_close(loss.item(), other.item(), mg.float64, "loss")

    cotangent = np.random.default_rng(1).normal(size=logits.shape)
    logits.backward(mg.asarray(cotangent))
    reference.backward(torch.tensor(cotangent))
    expected = ours.names().translate({n: p.grad.numpy() for n, p in theirs.named_parameters()})
    assert expected[1:] == ([], [], [])
    gradients = {n: p.grad.numpy() for n, p in ours.named_parameters()}
    assert set(gradients) == set(expected.weights)
    scale = max(np.abs(g).max() for g in gradients.values())
    for n, gradient in gradients.items():
        assert_close(gradient, expected.weights[n], mg.float64, f"gradient of {n}", floor=scale)


@pytest.mark.parametrize("name", ["gpt2", "llama, grouped", "mistral"])
def test_padding(name: str, tmp_path: Path) -> None:
    own, kind, options = CASES[name]
    theirs = made(kind, options)
    ours = loaded(own, theirs, tmp_path)
    (ids, _), lengths = tokens(), [LENGTH, 4, 6]
    attended = np.arange(LENGTH) < np.array(lengths)[:, None]
    logits = ours(mg.asarray(ids), key_lengths=mg.tensor(lengths)).detach().numpy()
    reference = theirs(torch.tensor(ids), attention_mask=torch.tensor(attended)).logits.detach().numpy()
    for row, length in enumerate(lengths):
        assert_close(logits[row, :length], reference[row, :length], mg.float64, f"logits of row {row}")


@pytest.mark.parametrize("name", ["gpt2", "llama 3", "mistral"])
def test_greedy_generation(name: str, tmp_path: Path) -> None:
    own, kind, options = CASES[name]
    theirs = made(kind, options)
    ours = loaded(own, theirs, tmp_path)
    (ids, _) = tokens()
    for penalty in (1.0, 1.3):
        found = ours.generate(ids[:, :5], max_new_tokens=8, repetition_penalty=penalty)
        reference = theirs.generate(
            torch.tensor(ids[:, :5]), attention_mask=torch.ones(BATCH, 5), max_new_tokens=8, do_sample=False,
            repetition_penalty=penalty, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        assert found == reference[:, 5:].tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama, grouped"])
def test_beam_search(name: str, tmp_path: Path) -> None:
    own, kind, options = CASES[name]
    theirs = made(kind, options)
    ours = loaded(own, theirs, tmp_path)
    (ids, _) = tokens()
    found = ours.generate(ids[:, :5], max_new_tokens=8, beams=3)
    reference = theirs.generate(
        torch.tensor(ids[:, :5]), attention_mask=torch.ones(BATCH, 5), max_new_tokens=8, do_sample=False,
        num_beams=3, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    assert found == reference[:, 5:].tolist()


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2, its own head", "llama, grouped", "llama 3", "llama, linear", "mistral"]
)
def test_they_load_what_we_save(name: str, tmp_path: Path) -> None:
    own, kind, options = CASES[name]
    theirs = made(kind, options)
    ours = own.from_pretrained(saved(theirs, tmp_path / "theirs"), dtype=mg.float64)
    ours.save_pretrained(tmp_path / "ours", shard_bytes=4000)
    back = type(theirs).from_pretrained(tmp_path / "ours", dtype=torch.float64, attn_implementation="sdpa").eval()
    expected = theirs.state_dict()
    assert set(back.state_dict()) == set(expected)
    assert all(torch.equal(p, expected[n]) for n, p in back.state_dict().items())
    (ids, _) = tokens()
    with torch.no_grad():
        logits, reference = back(torch.tensor(ids)).logits, theirs(torch.tensor(ids)).logits
    assert_close(logits.numpy(), reference.numpy(), mg.float32, "logits")  # the frequencies are rounded another way
    again = own.from_pretrained(tmp_path / "ours", dtype=mg.float64)
    assert again.config == ours.config


def test_shards_and_bfloat16(tmp_path: Path) -> None:
    theirs = made("Llama", LLAMA)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(p.to(torch.bfloat16))
        expected = theirs(torch.tensor(tokens()[0])).logits.numpy()
    ours = Llama.from_pretrained(saved(theirs.to(torch.bfloat16), tmp_path, max_shard_size="4KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert {t.dtype for t in load_weights(tmp_path).values()} == {mg.bfloat16}
    assert_close(ours(mg.asarray(tokens()[0])).detach().numpy(), expected, mg.float32, "logits")


def test_a_file_of_old_with_masks_and_without_a_prefix(tmp_path: Path) -> None:
    theirs = made("GPT2", GPT2)
    saved(theirs, tmp_path)
    bare = {n.removeprefix("transformer."): p.detach().numpy() for n, p in theirs.named_parameters()}
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 16, 16))) for i in range(2)}
    save_weights(tmp_path, bare | masks)
    ours = GPT.from_pretrained(tmp_path, dtype=mg.float64)
    expected = theirs(torch.tensor(tokens()[0])).logits.detach().numpy()
    assert_close(ours(mg.asarray(tokens()[0])).detach().numpy(), expected, mg.float64, "logits")


def test_other_models_are_refused(tmp_path: Path) -> None:
    theirs = made("GPT2", GPT2)
    with pytest.raises(ValueError, match="LlamaConfig: model_type is 'gpt2', needs one of"):
        Llama.from_pretrained(saved(theirs, tmp_path))
    other = made("GPT2", GPT2 | {"n_layer": 1})
    other.config.n_layer = 2
    with pytest.raises(ValueError, match=r"missing: decoder\.layers\.1\..* \(from transformer\.h\.1\.ln_1\.weight\)"):
        GPT.from_pretrained(saved(other, tmp_path))
    assert LlamaConfig.from_hf({"rope_scaling": None, "rope_theta": 7.0}).rope_base == 7.0  # version 4 of the library
    with pytest.raises(ValueError, match="rope_type is 'yarn'"):
        LlamaConfig.from_hf({"rope_scaling": {"type": "yarn", "factor": 2.0}})

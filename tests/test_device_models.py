"""Models on a GPU (or its stand-in): logits, gradients, generated tokens and scores are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import compress, knowledge, nn, optim
from minigrad.models import GPT, T5, Bert, BertConfig, GPTConfig, Llama, LlamaConfig, Seq2Seq, Seq2SeqConfig, generate

pytestmark = pytest.mark.usefixtures("gpu")

SMALL = {"vocab_size": 13, "features": 8, "num_heads": 2, "hidden_features": 12}
TEXTS = {"num_encoder_layers": 1, "num_decoder_layers": 1, "max_length": 12, **SMALL}
IDS = [[3, 4, 5, 6], [7, 8, 9, 10]]

MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "gpt": (lambda: GPT(GPTConfig(num_layers=2, max_length=16, **SMALL)), lambda m, x: m(x, x)),
    "llama": (
        lambda: Llama(LlamaConfig(num_layers=2, num_kv_heads=1, window=3, **SMALL)),
        lambda m, x: m(x, x, key_lengths=x[:, 0] // 2),
    ),
    "bert": (
        lambda: Bert(BertConfig(num_layers=2, max_length=8, **SMALL)),
        lambda m, x: m(x, lengths=x[:, 0] // 2 + 1)[0].sum(),
    ),
    "seq2seq": (lambda: Seq2Seq(Seq2SeqConfig(**TEXTS)), lambda m, x: m(x, x, source_lengths=x[:, 0] // 2).sum()),
    "t5": (
        lambda: T5(
            Seq2SeqConfig(
                positions="relative", norm="rms", bias=False, attention_scale=1.0, scaled_input=False, **TEXTS
            )
        ),
        lambda m, x: m(x, x, target_lengths=x[:, 0] // 2).sum(),
    ),
    "complex": (
        lambda: knowledge.ComplEx(9, 3, 4, dropout=0.2),
        lambda m, x: m(x[:, :3] % mg.asarray([9, 3, 9], device=x.device)).sum(),
    ),
    "transe": (
        lambda: knowledge.TransE(9, 3, 4),
        lambda m, x: m(x[:, :3] % mg.asarray([9, 3, 9], device=x.device)).sum(),
    ),
    "transh": (
        lambda: knowledge.TransH(9, 3, 4),
        lambda m, x: m(x[:, :3] % mg.asarray([9, 3, 9], device=x.device)).sum(),
    ),
    "rotate": (
        lambda: knowledge.RotatE(9, 3, 4),
        lambda m, x: m(x[:, :3] % mg.asarray([9, 3, 9], device=x.device)).sum(),
    ),
}


def step(model: Any, call: Callable[[Any, Any], Any], device: str) -> tuple[float, list[Any]]:
    """The loss and the weights after a step, dropout and all."""
    model.to(device)
    mg.random.seed(1)
    adam = optim.Adam(model.parameters(), lr=0.01, eps=1e-4)
    losses = []
    for _ in range(2):
        adam.zero_grad()
        loss = call(model, mg.asarray(IDS, device=device))
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert {p.device.partition(":")[0] for p in model.parameters()} == {device}
    return losses[-1], [p.detach().to("cpu").numpy() for p in model.parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_training(name: str) -> None:
    mg.random.seed(0)
    make, call = MODELS[name]
    model = make().to(mg.float64)
    (loss, weights), (got, found) = step(copy.deepcopy(model), call, "cpu"), step(model, call, "cuda")
    assert got == pytest.approx(loss, rel=1e-8)
    for w, g in zip(weights, found, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options", [{}, {"beams": 3}, {"temperature": 1.0, "top_k": 5}], ids=["greedy", "beams", "drawn"]
)
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_generation(name: str, options: dict[str, Any]) -> None:
    mg.random.seed(0)
    model = MODELS[name][0]().eval()
    made = []
    for device in ("cpu", "cuda"):
        model.to(device)
        mg.random.seed(3)
        made.append(generate(model, [[1, 2, 3], [4]], max_new_tokens=5, **options))
    assert made[0] == made[1]


@pytest.mark.parametrize("options", [{}, {"beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", ["seq2seq", "t5"])
def test_generation_from_a_source(name: str, options: dict[str, Any]) -> None:
    mg.random.seed(0)
    model = MODELS[name][0]().eval()
    made = []
    for device in ("cpu", "cuda"):
        model.to(device)
        source = mg.asarray(IDS, device=device)
        made.append(generate(model, [[1], [1]], max_new_tokens=4, inputs={"source": source}, **options))
    assert made[0] == made[1]


def test_pruned_weights_stay_0() -> None:
    results = []
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = nn.Sequential([nn.Dense(16, activation="relu", in_features=8), nn.Dense(4, in_features=16)]).to(device)
        compress.prune(model, 0.5, scope="layer")
        adam = optim.AdamW(model.parameters(), lr=0.01, eps=1e-4)
        x = mg.random.normal((6, 8)).to(device)
        for _ in range(3):
            adam.zero_grad()
            (model(x) ** 2).mean().backward()
            adam.step()
        weights = [p.detach().to("cpu").numpy() for p in model.parameters()]
        assert compress.sparsity(model).zeros == sum(int((w == 0).sum()) for w in weights if w.ndim > 1)
        assert all((w == 0).mean() >= 0.5 for w in weights if w.ndim > 1)
        results.append(weights)
        other = nn.Sequential([nn.Dense(16, activation="relu", in_features=8), nn.Dense(4, in_features=16)]).to(device)
        other.load_state_dict(model.state_dict())
        assert {p.device.partition(":")[0] for p in other.parameters()} == {device}
        for p, w in zip(other.parameters(), weights, strict=True):
            np.testing.assert_array_equal(p.detach().to("cpu").numpy(), w)
    for w, g in zip(*results, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-6)


def test_distillation() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        teacher, student = (nn.Dense(5, in_features=4).to(device) for _ in range(2))
        x = mg.random.normal((6, 4)).to(device)
        found = compress.soft_target_loss(student(x), teacher(x).detach(), temperature=2.0)
        found.backward()
        losses.append([found.item(), *student.weight.grad.to("cpu").ravel().tolist()])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-6)


def test_sparse_layers() -> None:
    mg.random.seed(0)
    model = nn.Sequential([nn.Dense(16, in_features=8), nn.Dense(4, in_features=16)])
    compress.prune(model, 0.9, scope="layer")
    x, want = mg.random.normal((3, 8)), None
    for device in ("cpu", "cuda"):
        got = compress.sparsify(model).to(device)(x.to(device)).to("cpu").detach().numpy()
        want = got if want is None else want
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_integer_layers_are_of_the_cpu() -> None:
    model = nn.Sequential([nn.Dense(16, in_features=8), nn.Dense(4, in_features=16)]).eval()
    changed = compress.quantize(model) or model
    with pytest.raises(mg.errors.DeviceError, match="on the CPU, where the kernels of int8 are"):
        changed.to("cuda")(mg.ones((2, 8), device="cuda"))

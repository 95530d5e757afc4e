"""Every layer, model and loss on a GPU (or its stand-in): outputs and gradients are those of the CPU, in float64."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

RNG = np.random.default_rng(0)


def draw(*shape: int) -> mg.Tensor:
    return mg.asarray(RNG.normal(size=shape))


def ids(high: int, *shape: int) -> mg.Tensor:
    return mg.asarray(RNG.integers(0, high, shape))


def unit(*shape: int) -> mg.Tensor:
    return mg.asarray(RNG.uniform(0.1, 0.9, shape))


def signs(*shape: int) -> mg.Tensor:
    return mg.asarray(RNG.choice([-1.0, 1.0], shape))


ROWS, TOKENS, LINES, IMAGES = draw(5, 6), draw(2, 5, 8), draw(2, 4, 9), draw(2, 4, 6, 5)
MASK = mg.asarray(RNG.random((2, 5)) < 0.7)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    **{
        name: (getattr(nn, name), (ROWS,))
        for name in ("ELU", "GELU", "SELU", "LeakyReLU", "LogSigmoid", "Mish", "ReLU")
    },
    **{name: (getattr(nn, name), (ROWS,)) for name in ("SiLU", "Sigmoid", "Softplus", "Tanh", "Identity", "Softmax")},
    **{
        name: (getattr(nn, name), (ROWS,))
        for name in ("LogSoftmax", "LayerNorm", "RMSNorm", "BatchNorm", "BatchNorm1D")
    },
    "Dense": (lambda: nn.Dense(3, activation="gelu"), (ROWS,)),
    "Dropout": (lambda: nn.Dropout(0.4), (ROWS,)),
    "Flatten": (nn.Flatten, (IMAGES,)),
    "Reshape": (lambda: nn.Reshape((3, 2)), (ROWS,)),
    "Lambda": (lambda: nn.Lambda(lambda x: x * x), (ROWS,)),
    "Residual": (lambda: nn.Residual(nn.Dense(6)), (ROWS,)),
    "Sequential": (lambda: nn.Sequential([nn.Dense(4), nn.Tanh(), nn.Dense(2)]), (ROWS,)),
    "Embedding": (lambda: nn.Embedding(7, 4), (ids(7, 3, 5),)),
    "FeedForward": (lambda: nn.FeedForward(activation="swiglu"), (TOKENS,)),
    "BatchNorm2D": (nn.BatchNorm2D, (IMAGES,)),
    "GroupNorm": (lambda: nn.GroupNorm(2), (IMAGES,)),
    "InstanceNorm": (lambda: nn.InstanceNorm(affine=True), (IMAGES,)),
    "Conv1D": (lambda: nn.Conv1D(6, 3, padding="same"), (LINES,)),
    "Conv2D": (lambda: nn.Conv2D(6, 3, stride=2), (IMAGES,)),
    "Conv1DTranspose": (lambda: nn.Conv1DTranspose(3, 3, stride=2), (LINES,)),
    "Conv2DTranspose": (lambda: nn.Conv2DTranspose(3, 3), (IMAGES,)),
    "AvgPool1D": (lambda: nn.AvgPool1D(2), (LINES,)),
    "AvgPool2D": (lambda: nn.AvgPool2D(2), (IMAGES,)),
    "MaxPool1D": (lambda: nn.MaxPool1D(2), (LINES,)),
    "MaxPool2D": (lambda: nn.MaxPool2D(2), (IMAGES,)),
    "AdaptiveAvgPool1D": (lambda: nn.AdaptiveAvgPool1D(4), (LINES,)),
    "AdaptiveAvgPool2D": (lambda: nn.AdaptiveAvgPool2D((2, 3)), (IMAGES,)),
    "GlobalAvgPool1D": (nn.GlobalAvgPool1D, (LINES,)),
    "GlobalAvgPool2D": (nn.GlobalAvgPool2D, (IMAGES,)),
    "RNN": (lambda: nn.RNN(4, bidirectional=True), (TOKENS,)),
    "LSTM": (lambda: nn.LSTM(4, 2), (TOKENS,)),
    "GRU": (lambda: nn.GRU(4), (TOKENS,)),
    "RNNCell": (lambda: nn.RNNCell(4), (ROWS,)),
    "LSTMCell": (lambda: nn.LSTMCell(4), (ROWS,)),
    "GRUCell": (lambda: nn.GRUCell(4), (ROWS,)),
    "LearnedPositions": (lambda: nn.LearnedPositions(6), (TOKENS,)),
    "SinusoidalPositions": (nn.SinusoidalPositions, (TOKENS,)),
    "RotaryPositions": (nn.RotaryPositions, (draw(2, 3, 5, 4),)),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(4, num_kv_heads=2, qk_norm=True, dropout=0.2), (TOKENS,)),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(2, 2, dropout=0.1), (TOKENS,)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(2), (TOKENS,)),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(1, 2), (TOKENS, draw(2, 4, 8))),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(2), (TOKENS, draw(2, 4, 8))),
    "Transformer": (lambda: nn.Transformer(2, 1, 1), (TOKENS, draw(2, 4, 8))),
    "MSELoss": (nn.MSELoss, (ROWS, draw(5, 6))),
    "L1Loss": (nn.L1Loss, (ROWS, draw(5, 6))),
    "HuberLoss": (nn.HuberLoss, (ROWS, draw(5, 6))),
    "SmoothL1Loss": (nn.SmoothL1Loss, (ROWS, draw(5, 6))),
    "CrossEntropyLoss": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), (ROWS, ids(6, 5))),
    "NLLLoss": (nn.NLLLoss, (ROWS, ids(6, 5))),
    "BCELoss": (nn.BCELoss, (unit(5, 6), unit(5, 6))),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, (ROWS, unit(5, 6))),
    "KLDivLoss": (nn.KLDivLoss, (ROWS, unit(5, 6))),
    "HingeLoss": (nn.HingeLoss, (ROWS, signs(5, 6))),
    "SigmoidFocalLoss": (nn.SigmoidFocalLoss, (ROWS, mg.asarray(RNG.integers(0, 2, (5, 6)) * 1.0))),
    "SoftmaxFocalLoss": (nn.SoftmaxFocalLoss, (ROWS, ids(6, 5))),
    "CosineEmbeddingLoss": (nn.CosineEmbeddingLoss, (ROWS, draw(5, 6), signs(5))),
    "MarginRankingLoss": (nn.MarginRankingLoss, (draw(5), draw(5), signs(5))),
    "TripletMarginLoss": (nn.TripletMarginLoss, (ROWS, draw(5, 6), draw(5, 6))),
}
CONTAINERS = {"Module", "ModuleDict", "ModuleList"}
APART = {"CTCLoss"}  # it takes lengths, below


def tensors(made: Any) -> list[mg.Tensor]:
    """All tensors of a result, which may be a tuple or a mapping."""
    if isinstance(made, mg.Tensor):
        return [made]
    parts = made.values() if isinstance(made, dict) else made if isinstance(made, (list, tuple)) else ()
    return [t for part in parts for t in tensors(part)]


def on(device: str, value: Any) -> Any:
    return value.to(device) if isinstance(value, mg.Tensor) else value


def results(
    model: nn.Module, inputs: tuple[Any, ...], device: str, call: Callable[..., Any] | None = None
) -> list[Any]:
    """Outputs, gradients of inputs and of parameters, and buffers afterwards, on the CPU."""
    mg.random.seed(1)
    model = model.to(device)
    given = [on(device, t.detach() if isinstance(t, mg.Tensor) else t) for t in inputs]
    for t in given:
        if isinstance(t, mg.Tensor) and t.dtype == mg.float64:
            t.requires_grad_()
    outputs = tensors((call or type(model).__call__)(model, *given))
    rng = np.random.default_rng(2)
    live = [t for t in outputs if t.requires_grad]
    total = sum((t * mg.asarray(rng.normal(size=t.shape), device=device)).sum() for t in live)
    if live:
        total.backward()
    grads = [t.grad for t in [*given, *model.parameters()] if isinstance(t, mg.Tensor) and t.grad is not None]
    found = [*outputs, *grads, *(t for _, t in model.named_buffers())]
    assert {t.device.partition(":")[0] for t in found} == {device.partition(":")[0]}
    return [t.detach().to("cpu").numpy() for t in found]


def compare(make: Callable[[], nn.Module], inputs: tuple[Any, ...], call: Callable[..., Any] | None = None) -> None:
    mg.random.seed(0)
    model = make()
    with mg.no_grad():
        (call or type(model).__call__)(copy.deepcopy(model) if not model.parameters() else model, *inputs)
    model.to(mg.float64)
    want, got = results(copy.deepcopy(model), inputs, "cpu", call), results(model, inputs, "cuda", call)
    assert len(want) == len(got) > 0
    for w, g in zip(want, got, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-11)


def test_no_layer_is_left_out() -> None:
    names = {n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and issubclass(getattr(nn, n), nn.Module)}
    assert names == {*LAYERS} | CONTAINERS | APART


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    compare(*LAYERS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_wait_are_completed_where_they_are(name: str) -> None:
    make, inputs = LAYERS[name]
    narrow = [t.astype(mg.float32) if t.dtype == mg.float64 else t for t in inputs]
    found = []
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = make().to(device)
        found.append([t.detach().to("cpu").numpy() for t in tensors(model(*(t.to(device) for t in narrow)))])
        assert {t.device.partition(":")[0] for t in [*model.parameters(), *model.buffers()]} <= {device}
        assert nn.penalty(model).device.partition(":")[0] == (device if model.parameters() else "cpu")
    for w, g in zip(*found, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_ctc() -> None:
    lengths = mg.asarray([4, 5]), mg.asarray([3, 2])
    compare(nn.CTCLoss, (nn.functional.log_softmax(draw(2, 5, 6)), ids(4, 2, 3) + 1, *lengths))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x, mask, lengths: m(x, mask=mask),
        lambda m, x, mask, lengths: m(x, key_lengths=lengths, is_causal=True),
        lambda m, x, mask, lengths: m(x, bias=mask.astype(mg.float64), need_weights=True),
    ],
    ids=["mask", "lengths", "bias"],
)
def test_attention_with_masks(call: Callable[..., Any]) -> None:
    compare(lambda: nn.MultiHeadAttention(2), (TOKENS, MASK[:, None, None], mg.asarray([3, 5])), call)


@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
def test_sequences_with_lengths(cell: Any) -> None:
    make = lambda: cell(4, 2, bidirectional=True, return_state=True)  # noqa: E731
    compare(make, (TOKENS, mg.asarray([3, 5])), lambda m, x, lengths: m(x, lengths=lengths))

"""Normalization layers, Embedding and containers agree with PyTorch: values, gradients, 100 steps of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim

torch = pytest.importorskip("torch", minversion="2.13")
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
STEPS = 100


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two thread pools that take turns are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0.5, 2.0, shape)


def values(t: Any) -> np.ndarray[Any, Any]:
    return t.detach().numpy()  # type: ignore[no-any-return]


def twin_state(theirs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """PyTorch's state as ours: the names agree, and dense weights lie the other way round."""
    modules = dict(theirs.named_modules())
    state = {}
    for name, t in theirs.state_dict().items():
        dense = name.endswith(".weight") and isinstance(modules[name.removesuffix(".weight")], torch.nn.Linear)
        state[name] = t.numpy().T if dense else t.numpy()
    return state


def copy_weights(ours: nn.Module, theirs: Any) -> None:
    """Draw weights, and give both models the same."""
    rng = np.random.default_rng(7)
    for name, t in theirs.state_dict().items():
        if "num_batches" not in name:
            spread = rng.normal(0, 0.3, t.shape) if t.ndim == 2 else rng.uniform(0.5, 1.5, t.shape)
            t.copy_(torch.from_numpy(spread))
    assert ours.load_state_dict(twin_state(theirs)) == ([], [])


def assert_state(ours: nn.Module, theirs: Any, **tolerance: float) -> None:
    expected = twin_state(theirs)
    state = ours.state_dict()
    assert set(state) == set(expected)
    for name, t in state.items():
        np.testing.assert_allclose(values(t), expected[name], **(tolerance or TOLERANCE))


def average_2d() -> Any:
    return torch.nn.BatchNorm2d(3, momentum=None)


def momentum_1d() -> Any:
    return torch.nn.BatchNorm1d(3, momentum=0.3)


def bare_2d() -> Any:
    return torch.nn.BatchNorm2d(3, affine=False)


def bare_groups() -> Any:
    return torch.nn.GroupNorm(2, 6, affine=False)


LAYERS: list[tuple[str, Callable[[], nn.Module], Callable[[], Any], tuple[int, ...]]] = [
    ("layer_norm", lambda: nn.LayerNorm(5), lambda: torch.nn.LayerNorm(5), (4, 3, 5)),
    ("layer_norm_axes", lambda: nn.LayerNorm((3, 5), 0.1), lambda: torch.nn.LayerNorm((3, 5), 0.1), (4, 3, 5)),
    ("layer_norm_no_bias", lambda: nn.LayerNorm(5, bias=False), lambda: torch.nn.LayerNorm(5, bias=False), (4, 5)),
    ("rms_norm", lambda: nn.RMSNorm(5), lambda: torch.nn.RMSNorm(5, eps=1e-6), (4, 3, 5)),
    ("group_norm", lambda: nn.GroupNorm(2), lambda: torch.nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    ("group_norm_flat", lambda: nn.GroupNorm(3), lambda: torch.nn.GroupNorm(3, 6), (3, 6)),
    ("group_norm_bare", lambda: nn.GroupNorm(2, affine=False), bare_groups, (3, 6, 4)),
    ("instance_norm", lambda: nn.InstanceNorm(affine=True), lambda: torch.nn.InstanceNorm1d(4, affine=True), (3, 4, 5)),
    ("instance_norm_bare", lambda: nn.InstanceNorm(), lambda: torch.nn.InstanceNorm2d(4), (3, 4, 5, 2)),
    ("batch_norm_1d", lambda: nn.BatchNorm1D(), lambda: torch.nn.BatchNorm1d(3), (6, 3)),
    ("batch_norm_1d_length", lambda: nn.BatchNorm1D(momentum=0.3), momentum_1d, (4, 3, 5)),
    ("batch_norm_2d", lambda: nn.BatchNorm2D(), lambda: torch.nn.BatchNorm2d(3), (4, 3, 5, 2)),
    ("batch_norm_average", lambda: nn.BatchNorm2D(momentum=None), average_2d, (4, 3, 5, 2)),
    ("batch_norm_bare", lambda: nn.BatchNorm2D(affine=False), bare_2d, (4, 3, 5, 2)),
    (
        "batch_norm_stateless",
        lambda: nn.BatchNorm1D(track_running_stats=False),
        lambda: torch.nn.BatchNorm1d(3, track_running_stats=False),
        (6, 3),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "twin", "shape"), [entry[1:] for entry in LAYERS], ids=[entry[0] for entry in LAYERS])
def test_layer(make: Callable[[], nn.Module], twin: Callable[[], Any], shape: tuple[int, ...]) -> None:
    """Values and gradients of three batches while training, the running statistics, and evaluation."""
    ours, theirs = make().to(mg.float64), twin().double()
    copy_weights(ours, theirs)
    for i in range(4):
        if i == 3:
            ours.eval()
            theirs.eval()
        a, g = random(*shape, seed=i), random(*shape, seed=10 + i)
        x, y = mg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        out, expected = ours(x), theirs(y)
        np.testing.assert_allclose(values(out), values(expected), **TOLERANCE)
        ours.zero_grad()
        theirs.zero_grad()
        out.backward(mg.asarray(g))
        expected.backward(torch.from_numpy(g))
        np.testing.assert_allclose(values(x.grad), y.grad.numpy(), **TOLERANCE)
        for name, p in theirs.named_parameters():
            np.testing.assert_allclose(values(dict(ours.named_parameters())[name].grad), p.grad.numpy(), **TOLERANCE)
        assert_state(ours, theirs)


@pytest.mark.parametrize("padding", [None, 2])
def test_embedding(padding: int | None) -> None:
    ours, theirs = nn.Embedding(7, 3, padding_idx=padding).to(mg.float64), torch.nn.Embedding(7, 3, padding).double()
    copy_weights(ours, theirs)
    ids, g = np.random.default_rng(0).integers(0, 7, (4, 9)), random(4, 9, 3)
    out, expected = ours(mg.asarray(ids)), theirs(torch.from_numpy(ids))
    np.testing.assert_array_equal(values(out), values(expected))
    out.backward(mg.asarray(g))
    expected.backward(torch.from_numpy(g))
    np.testing.assert_allclose(values(ours.weight.grad), theirs.weight.grad.numpy(), **TOLERANCE)
    made = nn.Embedding.from_pretrained(values(ours.weight), padding_idx=padding)
    twin = torch.nn.Embedding.from_pretrained(theirs.weight.detach(), padding_idx=padding)
    assert made.weight.requires_grad is twin.weight.requires_grad
    np.testing.assert_array_equal(values(made(mg.asarray(ids))), values(twin(torch.from_numpy(ids))))


class TheirResidual(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return x + self.module(x)


def train(ours: nn.Module, theirs: Any, batch: Callable[[int], np.ndarray[Any, Any]], optimizer: str) -> None:
    """Both models for some steps on the same batches; they have the same loss in every one."""
    settings: dict[str, Any] = {"SGD": {"lr": 0.05, "momentum": 0.9}, "AdamW": {"lr": 1e-3, "weight_decay": 0.1}}
    mine = getattr(optim, optimizer)(ours.parameters(), **settings[optimizer])
    other = getattr(torch.optim, optimizer)(theirs.parameters(), **settings[optimizer])
    for step in range(STEPS):
        x, y = batch(step), np.random.default_rng(step).integers(0, 4, 8)
        mine.zero_grad()
        other.zero_grad()
        loss = nn.functional.cross_entropy(ours(mg.asarray(x)), mg.asarray(y))
        expected = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-10)
        loss.backward()
        expected.backward()
        mine.step()
        other.step()
    assert_state(ours, theirs, rtol=1e-8, atol=1e-9)
    ours.eval()
    theirs.eval()
    x = batch(STEPS)
    np.testing.assert_allclose(values(ours(mg.asarray(x))), values(theirs(torch.from_numpy(x))), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_of_images(optimizer: str) -> None:
    ours = nn.Sequential(
        [nn.BatchNorm2D(), nn.GroupNorm(1), nn.Flatten(), nn.Dense(16, bias=False), nn.BatchNorm1D(),
         nn.Residual(nn.Dense(16)), nn.RMSNorm(), nn.Dense(4)]
    ).to(mg.float64)  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), torch.nn.GroupNorm(1, 3), torch.nn.Flatten(), torch.nn.Linear(48, 16, bias=False),
        torch.nn.BatchNorm1d(16), TheirResidual(torch.nn.Linear(16, 16)), torch.nn.RMSNorm(16, eps=1e-6),
        torch.nn.Linear(16, 4),
    ).double()  # fmt: skip
    copy_weights(ours, theirs)
    train(ours, theirs, lambda step: random(8, 3, 4, 4, seed=step), optimizer)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_of_words(optimizer: str) -> None:
    ours = nn.Sequential(
        [nn.Embedding(11, 6, padding_idx=0), nn.LayerNorm(), nn.Flatten(), nn.Dense(4)]
    ).to(mg.float64)  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.Embedding(11, 6, 0), torch.nn.LayerNorm(6), torch.nn.Flatten(), torch.nn.Linear(18, 4)
    ).double()
    copy_weights(ours, theirs)
    train(ours, theirs, lambda step: np.random.default_rng(step).integers(0, 11, (8, 3)), optimizer)

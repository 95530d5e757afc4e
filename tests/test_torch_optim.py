"""Optimizers against PyTorch's: 60 steps on given gradients, in float64 to rounding and in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim

torch = pytest.importorskip("torch")

STEPS = 60
SHAPES = [(), (5,), (3, 4), (2, 3, 2, 2)]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1, "betas": (0.8, 0.95), "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("NAdam", {"lr": 0.1, "betas": (0.0, 0.9)}),
    ("RAdam", {"lr": 0.1}),
    ("RAdam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.1, "betas": (0.9, 0.5), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.1, "maximize": True}),
    ("RMSprop", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.5}),
    ("RMSprop", {"lr": 0.1, "centered": True, "maximize": True}),
    ("RMSprop", {"lr": 0.1, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.5}),
    ("Adagrad", {"lr": 0.5, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.5, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.5, "eps": 1e-2, "weight_decay": 0.1, "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"lr": 0.5, "beta2_decay": -0.5, "eps": (1e-3, 0.5), "d": 2.0, "weight_decay": 0.1}),
    ("Adafactor", {"lr": 0.05, "eps": (1.0, 1e-3), "maximize": True}),
    ("Muon", {"lr": 0.1}),
    ("Muon", {"lr": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0, "adjust_lr_fn": "original"}),
    ("Muon", {"lr": 0.1, "ns_steps": 2, "eps": 1e2, "adjust_lr_fn": "match_rms_adamw"}),
    ("Muon", {"lr": 0.1, "ns_coefficients": (2.0, -1.5, 0.5)}),
]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in CASES]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Numbers that PyTorch keeps as tensors in float64, as Python's are here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def draw(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A parameter and a gradient for each step, of sizes that differ, some of them 0."""
    rng = np.random.default_rng(len(shape))
    gradients = rng.normal(size=(STEPS, *shape)) * 10.0 ** rng.integers(-2, 2, (STEPS, *shape))
    gradients *= rng.random(gradients.shape) > 0.1
    return rng.normal(size=shape).astype(dtype), gradients.astype(dtype)


def ours(name: str, options: dict[str, Any], x: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    p = nn.Parameter(x)
    optimizer = getattr(optim, name)([p], **options)
    path = []
    for g in gradients:
        p.grad = mg.asarray(g)
        optimizer.step()
        path.append(p.detach().numpy().copy())
    assert p.dtype == x.dtype
    return np.array(path)


def theirs(name: str, options: dict[str, Any], x: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    p = torch.nn.Parameter(torch.tensor(x))
    optimizer = getattr(torch.optim, name)([p], **options)
    path = []
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return np.array(path)


def compare(found: np.ndarray, expected: np.ndarray, dtype: Any) -> None:
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_trajectories(name: str, options: dict[str, Any], dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "Muon":  # whose iterations PyTorch rounds to bfloat16, and whose weights it has transposed
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        for shape in ((3, 4), (4, 3), (5, 5), (1, 6)):
            x, gradients = draw(shape, dtype)
            expected = theirs(name, options, x.T.copy(), np.swapaxes(gradients, 1, 2).copy())
            compare(ours(name, options, x, gradients), np.swapaxes(expected, 1, 2), dtype)
        return
    for shape in SHAPES:
        x, gradients = draw(shape, dtype)
        compare(ours(name, options, x, gradients), theirs(name, options, x, gradients), dtype)


def test_every_optimizer_of_pytorch_is_compared() -> None:
    mine = {name for name in optim.__all__ if hasattr(torch.optim, name)} - {"Optimizer", "LBFGS"}  # see test_lbfgs.py
    assert mine == {name for name, _ in CASES}


def test_defaults_are_those_of_pytorch() -> None:
    for name in {name for name, _ in CASES} | {"LBFGS"}:
        p, q = nn.Parameter(mg.zeros((2, 2))), torch.nn.Parameter(torch.zeros(2, 2))
        mine = getattr(optim, name)([p]).defaults
        given = getattr(torch.optim, name)([q]).defaults
        own = {"beta1", "relative_step", "scale_parameter"} if name == "Adafactor" else set()
        own |= {"maximize"} if name == "Muon" else set()
        shared = mine.keys() - own
        assert {key: mine[key] for key in shared} == {key: given[key] for key in shared}, name
        left = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
        assert given.keys() - mine.keys() <= left, name

"""Lion, LAMB and LARS, which PyTorch lacks, against optax: 60 steps on given gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim

optax = pytest.importorskip("optax")
jax = pytest.importorskip("jax")

STEPS = 60
SHAPES = {"zero": (3,), "scalar": (), "vector": (5,), "matrix": (3, 4), "kernel": (2, 3, 2, 2)}


def names(options: dict[str, Any]) -> dict[str, Any]:
    """Optax's names of hyperparameters."""
    made = dict(options)
    if "betas" in made:
        made["b1"], made["b2"] = made.pop("betas")
    if "adapt" in made:
        made["trust_ratio_mask"] = made.pop("adapt")
    return made


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {"lr": 0.1, "weight_decay": 0.0}),
    ("Lion", {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    ("LAMB", {"lr": 0.1}),
    ("LAMB", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("LARS", {"lr": 0.5}),
    ("LARS", {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.1, "eps": 1e-2}),
    ("LARS", {"lr": 0.5, "nesterov": True, "trust_coefficient": 0.05}),
    ("LARS", {"lr": 0.01, "adapt": False, "weight_decay": 0.1}),
]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in CASES]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_trajectories(name: str, options: dict[str, Any], dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    start = {key: (rng.normal(size=shape) * (key != "zero")).astype(dtype) for key, shape in SHAPES.items()}
    gradients = []
    for step in range(STEPS):  # those of "zero", which begins at 0, are 0 at first
        made = {key: rng.normal(size=shape) * 10.0 ** rng.integers(-2, 2) for key, shape in SHAPES.items()}
        gradients.append({key: (g * (key != "zero" or step > 4)).astype(dtype) for key, g in made.items()})

    params = {key: jax.numpy.asarray(x) for key, x in start.items()}
    given = names(options)
    rule = getattr(optax, name.lower())(given.pop("lr"), **given)
    state = rule.init(params)

    @jax.jit
    def step_of(params: Any, state: Any, g: Any) -> Any:
        updates, state = rule.update(g, state, params)
        return optax.apply_updates(params, updates), state

    mine = {key: nn.Parameter(x) for key, x in start.items()}
    optimizer = getattr(optim, name)(mine.items(), **options)
    for g in gradients:
        params, state = step_of(params, state, {key: jax.numpy.asarray(value) for key, value in g.items()})
        for key, p in mine.items():
            p.grad = mg.asarray(g[key])
        optimizer.step()
        for key, p in mine.items():
            expected = np.asarray(params[key])
            assert expected.dtype == p.dtype == dtype
            np.testing.assert_allclose(
                p.detach().numpy(), expected, rtol=tolerance, atol=tolerance * max(1.0, abs(expected).max())
            )

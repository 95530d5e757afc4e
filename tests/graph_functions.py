"""A network, batches, and steps for the tests of graphed steps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim

BATCHES = 9


def stand_in() -> Any:
    """The streams of the stand-in; None on a GPU."""
    import cupy

    if cupy.cuda.Stream.__module__ != "stand_in_streams":
        return None
    import stand_in_streams

    return stand_in_streams


@pytest.fixture(autouse=True)
def nothing_races() -> Iterator[None]:
    """No memory may go back to its stream while another one still uses it."""
    yield
    gc.collect()
    found = stand_in()
    if found is not None:
        late, found.world.freed_too_soon = found.world.freed_too_soon, []
        assert not late, late[:3]


def batches(count: int = BATCHES, rows: int = 6) -> list[tuple[mg.Tensor, mg.Tensor]]:
    rng = np.random.default_rng(7)
    pairs = [(rng.normal(size=(rows, 4)), rng.normal(size=(rows, 1))) for _ in range(count)]
    return [tuple(mg.tensor(a.astype(np.float32), device="cuda") for a in pair) for pair in pairs]  # type: ignore[misc]


def network() -> nn.Module:
    mg.random.seed(3)
    layers = [nn.Dense(8, "gelu", in_features=4), nn.BatchNorm1D(8), nn.Dropout(0.3), nn.LayerNorm(8), nn.Dense(1)]
    return nn.Sequential(layers).to("cuda")


class Rule(optim.Optimizer):
    """A rule of a user's: its rate is read on the GPU, and steps are counted before each replay."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def init(self, x: Any, group: Any) -> Any:
        return {"step": 0, "mean": np.zeros_like(x)}

    def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
        from minigrad.backend.cuda import capture

        def rate() -> Any:
            state["step"] += 1
            return np.array([group["lr"] / state["step"]], np.float32)

        state["mean"] *= 0.5
        state["mean"] += g
        x -= capture.scalars(rate) * state["mean"]


def everything(model: nn.Module, optimizer: Any) -> list[Any]:
    """All numbers that a step moves, on the CPU."""
    found = [t.detach().to("cpu").numpy() for _, t, _ in model._tensors()]
    found += [p.grad.detach().to("cpu").numpy() for p in model.parameters() if p.grad is not None]
    for state in optimizer.state_dict()["state"].values():
        found += [np.asarray(v.to("cpu").numpy() if isinstance(v, mg.Tensor) else v) for v in state.values()]
    return [*found, np.asarray(mg.random.get_state()["counter"])]


def plain(model: nn.Module, optimizer: Any) -> Callable[..., mg.Tensor]:
    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def same(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


RULES: dict[str, Callable[[nn.Module], Any]] = {
    "rule": lambda model: Rule(model.parameters(), 0.1),
    "sgd": lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda model: optim.Adam(model.parameters(), lr=0.01, amsgrad=True),
    "adamw": lambda model: optim.AdamW(model.parameters(), lr=0.01),
    "nadam": lambda model: optim.NAdam(model.parameters(), lr=0.01),
    "rmsprop": lambda model: optim.RMSprop(model.parameters(), lr=0.01, centered=True, momentum=0.5),
    "lion": lambda model: optim.Lion(model.parameters(), lr=0.01),
}

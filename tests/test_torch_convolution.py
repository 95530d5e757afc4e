"""Convolution and pooling beside PyTorch: values, gradients, and a training trajectory, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.nn import functional as F

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]


def agree(ours: Any, theirs: Any, *arrays: Array) -> None:
    """Assert equal values, and equal gradients under a random cotangent."""
    t = [mg.tensor(a, requires_grad=True) for a in arrays]
    u = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*t), theirs(*u)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-12)
    g = np.random.default_rng(1).normal(size=y.shape)
    y.backward(mg.asarray(g))
    z.backward(torch.tensor(g))
    for a, b in zip(t, u, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10, atol=1e-12)


@st.composite
def convolutions(draw: st.DrawFn, transposed: bool) -> tuple[list[Array], dict[str, Any], int]:
    n, groups, inner, outer = draw(st.integers(1, 2)), *(draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(n)) for _ in range(3))
    padding = tuple(draw(st.integers(0, (k - 1) * d // 2)) for k, d in zip(kernel, dilation, strict=True))
    extents = [draw(st.integers(d * (k - 1) + 1, 9)) for k, d in zip(kernel, dilation, strict=True)]
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        options["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    first = (groups * inner, outer) if transposed else (groups * outer, inner)
    shapes = [(draw(st.integers(1, 3)), groups * inner, *extents), (*first, *kernel), (groups * outer,)]
    return [rng.normal(size=shape) for shape in shapes], options, n


@given(problem=convolutions(transposed=False))
def test_convolution(problem: Any) -> None:
    arrays, options, n = problem
    ours, theirs = ((F.conv1d, torch.conv1d), (F.conv2d, torch.conv2d))[n - 1]
    agree(lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), *arrays)


@given(problem=convolutions(transposed=True))
def test_transposed_convolution(problem: Any) -> None:
    arrays, options, n = problem
    ours = (F.conv_transpose1d, F.conv_transpose2d)[n - 1]
    theirs = (torch.conv_transpose1d, torch.conv_transpose2d)[n - 1]
    agree(lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), *arrays)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_padding_in_words(padding: str, kernel: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 9, 8)), rng.normal(size=(4, 3, kernel, 2))
    agree(
        lambda a, b: F.conv2d(a, b, padding=padding, dilation=2),
        lambda a, b: torch.conv2d(a, b, padding=padding, dilation=2),
        x,
        weight,
    )


@given(
    window=st.integers(1, 4), stride=st.integers(1, 4), half=st.booleans(), extent=st.integers(4, 11),
    dilation=st.integers(1, 2), ceil=st.booleans(), included=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_pooling(
    window: int, stride: int, half: bool, extent: int, dilation: int, ceil: bool, included: bool, seed: int
) -> None:
    padding = window // 2 if half else 0
    x = np.random.default_rng(seed).normal(size=(2, 3, extent, extent + 1))
    if dilation * (window - 1) + 1 <= extent + 2 * padding:
        agree(
            lambda a: F.max_pool2d(a, window, stride, padding, dilation, ceil),
            lambda a: torch.nn.functional.max_pool2d(a, window, stride, padding, dilation, ceil),
            x,
        )
    agree(
        lambda a: F.avg_pool2d(a, window, stride, padding, included),
        lambda a: torch.nn.functional.avg_pool2d(a, window, stride, padding, count_include_pad=included),
        x,
    )
    agree(
        lambda a: F.adaptive_avg_pool2d(a, (window, stride)),
        lambda a: torch.nn.functional.adaptive_avg_pool2d(a, (window, stride)),
        x,
    )


def test_a_hundred_steps_of_training() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(16, 2, 12, 10)), rng.integers(0, 3, 16)
    ours = nn.Sequential([
        nn.Conv2D(6, 3, padding="same", activation="tanh", in_channels=2, dtype=mg.float64),
        nn.MaxPool2D(2),
        nn.Conv2D(8, (3, 2), stride=(1, 2), groups=2, in_channels=6, dtype=mg.float64),
        nn.SiLU(),
        nn.Conv2DTranspose(4, 3, stride=2, in_channels=8, dtype=mg.float64),
        nn.AvgPool2D(2),
        nn.GlobalAvgPool2D(),
        nn.Dense(3, in_features=4, dtype=mg.float64),
    ])  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3, padding="same"),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, (3, 2), stride=(1, 2), groups=2),
        torch.nn.SiLU(),
        torch.nn.ConvTranspose2d(8, 4, 3, stride=2),
        torch.nn.AvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).double()
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            values = torch.tensor(p.detach().numpy())
            q.copy_(values.T if values.ndim == 2 else values)
    one, other = optim.Adam(ours.parameters(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        one.zero_grad()
        loss = F.cross_entropy(ours(mg.asarray(x)), mg.asarray(labels))
        loss.backward()
        one.step()
        other.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(labels))
        expected.backward()
        other.step()
        losses.append((loss.item(), expected.item()))
    found, wanted = np.array(losses).T
    assert found[-1] < 0.7 * found[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-8)

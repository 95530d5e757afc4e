"""Losses agree with PyTorch's in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.nn import functional as F
from minigrad.testing.tolerances import assert_close

torch = pytest.importorskip("torch", minversion="2.13")
T = torch.nn.functional

RNG = np.random.default_rng(0)
SIGNS = np.array([1, -1, 1, -1, -1])
A, B, C = RNG.normal(size=(3, 5, 4))
P, Q = RNG.uniform(0.01, 0.99, size=(2, 5, 4))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two thread pools that take turns are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    moving: tuple[Any, ...],
    fixed: tuple[Any, ...] = (),
    **options: Any,
) -> None:
    """Values, and gradients by the first arguments, for every reduction."""
    for reduction in ("mean", "sum", "none"):
        mine = [mg.tensor(v, requires_grad=True) for v in moving]
        his = [torch.tensor(v, requires_grad=True) for v in moving]
        loss = ours(*mine, *(mg.tensor(v) for v in fixed), reduction=reduction, **options)
        expected = theirs(*his, *(torch.tensor(v) for v in fixed), reduction=reduction, **options)
        assert_close(loss.detach().numpy(), expected.detach().numpy(), mg.float64, f"loss, {reduction}")
        v = RNG.normal(size=loss.shape)
        found, truth = mg.grad(loss, mine, mg.tensor(v)), torch.autograd.grad(expected, his, torch.tensor(v))
        for a, b in zip(found, truth, strict=True):
            assert_close(a.numpy(), b.numpy(), mg.float64, f"gradient, {reduction}")


def test_binary_cross_entropy() -> None:
    compare(F.binary_cross_entropy, T.binary_cross_entropy, (P, Q))
    w = RNG.uniform(size=4)

    def ours(p: Any, t: Any, **options: Any) -> Any:
        return F.binary_cross_entropy(p, t, mg.tensor(w), **options)

    compare(ours, lambda p, t, **o: T.binary_cross_entropy(p, t, torch.tensor(w), **o), (P, Q))
    hard = np.array([0.0, 1.0, 0.0, 1.0, 1e-30])
    answer = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    loss = F.binary_cross_entropy(mg.tensor(hard), mg.tensor(answer), reduction="none")
    expected = T.binary_cross_entropy(torch.tensor(hard), torch.tensor(answer), reduction="none")
    assert_close(loss.numpy(), expected.numpy(), mg.float64, "loss")


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_margin_ranking(margin: float) -> None:
    compare(F.margin_ranking_loss, T.margin_ranking_loss, (A[:, 0], B[:, 0]), (SIGNS,), margin=margin)


@pytest.mark.parametrize("margin", [0.0, 0.3, -0.5])
def test_cosine_embedding(margin: float) -> None:
    compare(F.cosine_embedding_loss, T.cosine_embedding_loss, (A, B), (SIGNS,), margin=margin)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_triplet_margin(p: float, swap: bool) -> None:
    compare(F.triplet_margin_loss, T.triplet_margin_loss, (A, B, C), p=p, swap=swap, margin=1.5)


def test_hinge_is_a_ranking_against_zeros() -> None:
    compare(
        F.hinge_loss,
        lambda x, t, **o: T.margin_ranking_loss(x, torch.zeros_like(x), t, margin=1.0, **o),
        (A[:, 0],),
        (SIGNS,),
    )


def focal(x: Any, t: Any, *, alpha: float, gamma: float, reduction: str) -> Any:
    """The formula of Lin et al., in PyTorch."""
    p = torch.sigmoid(x)
    right = p * t + (1 - p) * (1 - t)
    losses = T.binary_cross_entropy_with_logits(x, t, reduction="none") * (1 - right) ** gamma
    losses = losses * (alpha * t + (1 - alpha) * (1 - t))
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal(gamma: float) -> None:
    compare(F.sigmoid_focal_loss, focal, (A, P), alpha=0.25, gamma=gamma)
    compare(F.sigmoid_focal_loss, focal, (A,), (np.round(P),), alpha=0.25, gamma=gamma)


def theirs_ctc(logits: Any, targets: Any, inputs: Any, ends: Any, **options: Any) -> Any:
    return T.ctc_loss(torch.log_softmax(logits, -1).transpose(0, 1), targets, inputs, ends, **options)


def ours_ctc(logits: Any, targets: Any, inputs: Any, ends: Any, **options: Any) -> Any:
    return F.ctc_loss(mg.log_softmax(logits), targets, inputs, ends, **options)


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc(blank: int, zero_infinity: bool) -> None:
    logits = RNG.normal(size=(6, 12, 5)) * 2
    targets = RNG.integers(1, 4, size=(6, 5))
    targets[0] = [1, 1, 1, 2, 2]
    inputs, ends = np.array([12, 12, 7, 9, 12, 12]), np.array([5, 3, 2, 0, 1, 5])
    if zero_infinity:
        inputs[0] = 6  # three repetitions take three blanks more
    compare(ours_ctc, theirs_ctc, (logits,), (targets, inputs, ends), blank=blank, zero_infinity=zero_infinity)


def test_ctc_of_long_sequences() -> None:
    logits, targets = RNG.normal(size=(3, 200, 20)), RNG.integers(1, 20, size=(3, 40))
    lengths = np.array([200, 150, 199]), np.array([40, 40, 12])
    compare(ours_ctc, theirs_ctc, (logits,), (targets, *lengths))
    short = logits.astype(np.float32)
    mine = ours_ctc(mg.tensor(short), *(mg.tensor(v) for v in (targets, *lengths)))
    exact = ours_ctc(mg.tensor(short.astype(np.float64)), *(mg.tensor(v) for v in (targets, *lengths)))
    np.testing.assert_allclose(mine.item(), exact.item(), rtol=2e-6)


def test_training_by_ctc() -> None:
    """A hundred steps of SGD on the same logits take the same way."""
    start, targets = RNG.normal(size=(4, 10, 5)), RNG.integers(1, 5, size=(4, 3))
    mine, his = mg.tensor(start, requires_grad=True), torch.tensor(start, requires_grad=True)
    losses = []
    for _ in range(100):
        loss = F.ctc_loss(mg.log_softmax(mine), mg.tensor(targets))
        expected = theirs_ctc(his, torch.tensor(targets), torch.full((4,), 10), torch.full((4,), 3))
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-9)
        (g,), (h,) = mg.grad(loss, [mine]), torch.autograd.grad(expected, [his])
        with mg.no_grad():
            mine -= 5.0 * g
        with torch.no_grad():
            his -= 5.0 * h
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    np.testing.assert_allclose(mine.detach().numpy(), his.detach().numpy(), rtol=1e-8, atol=1e-9)

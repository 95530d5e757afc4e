"""Losses beside the plain ones: values by hand, laws, edges, and what they refuse."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.nn import functional as F

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
SIGNS = np.array([1, -1, 1, -1, -1])


def values(t: mg.Tensor) -> Array:
    return t.detach().numpy()


# ---- binary cross entropy --------------------------------------------------------------------------------------------


def test_probabilities_give_what_their_logits_give() -> None:
    z, t, w = RNG.normal(size=(4, 3)), RNG.uniform(size=(4, 3)), RNG.uniform(0.5, 2.0, size=3)
    logits = mg.tensor(z, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = F.binary_cross_entropy(mg.sigmoid(logits), mg.tensor(t), mg.tensor(w), reduction=reduction)
        exact = F.binary_cross_entropy_with_logits(logits, mg.tensor(t), mg.tensor(w), reduction=reduction)
        np.testing.assert_allclose(values(loss), values(exact), rtol=1e-12)
        v = mg.tensor(RNG.normal(size=loss.shape))
        np.testing.assert_allclose(values(mg.grad(loss, logits, v)), values(mg.grad(exact, logits, v)), rtol=1e-9)


def test_certainty_costs_nothing_or_a_hundred() -> None:
    p = mg.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = F.binary_cross_entropy(p, mg.tensor([0.0, 1.0, 1.0, 0.0]), reduction="none")
    assert loss.tolist() == [0.0, 0.0, 100.0, 100.0]
    loss.sum().backward()
    assert p.grad is not None
    np.testing.assert_allclose(p.grad.numpy(), [0.0, 0.0, -1e12, 1e12], rtol=1e-6)


# ---- margins ---------------------------------------------------------------------------------------------------------


def test_hinge() -> None:
    x = RNG.normal(size=5) * 2
    expected = np.maximum(0, 1 - SIGNS * x)
    for target in (SIGNS, SIGNS.astype(np.float32), SIGNS.astype(np.int8)):
        np.testing.assert_allclose(values(F.hinge_loss(mg.tensor(x), mg.tensor(target))), expected.mean(), rtol=1e-12)


@given(seed=st.integers(0, 999), margin=st.floats(0, 2))
def test_an_order_turned_around_is_the_other_sign(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, s = (mg.tensor(v) for v in (rng.normal(size=5), rng.normal(size=5), rng.choice([-1, 1], 5)))
    loss = F.margin_ranking_loss(a, b, s, margin=margin, reduction="none")
    other = F.margin_ranking_loss(b, a, -s, margin=margin, reduction="none")
    assert np.array_equal(values(loss), values(other))
    hinge = F.hinge_loss(a - b, s, margin=margin, reduction="none")
    np.testing.assert_allclose(values(loss), values(hinge), rtol=1e-12)


@given(seed=st.integers(0, 999), scale=st.floats(0.5, 100))
def test_a_cosine_knows_no_lengths(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, s = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.choice([-1, 1], 5)
    loss = values(F.cosine_embedding_loss(mg.tensor(a), mg.tensor(b), mg.tensor(s), margin=0.3, reduction="none"))
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(loss, np.where(s == 1, 1 - cosine, np.maximum(0, cosine - 0.3)), atol=1e-9)
    longer = F.cosine_embedding_loss(mg.tensor(a * scale), mg.tensor(b), mg.tensor(s), margin=0.3, reduction="none")
    np.testing.assert_allclose(values(longer), loss, atol=1e-9)


def test_zeros_have_gradients() -> None:
    x = mg.zeros((2, 3), dtype=mg.float64, requires_grad=True)
    F.cosine_embedding_loss(x, mg.ones((2, 3), dtype=mg.float64), mg.tensor([1, -1])).backward()
    same = mg.ones((2, 3), dtype=mg.float64, requires_grad=True)
    F.triplet_margin_loss(same, same, same, eps=0.0).backward()
    assert x.grad is not None
    assert same.grad is not None
    assert np.isfinite(x.grad.numpy()).all()
    assert not same.grad.numpy().any()


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_triplets(p: float, swap: bool) -> None:
    a, near, far = RNG.normal(size=(3, 6, 4))
    d = [np.linalg.norm(x - y + 1e-6, p, axis=-1) for x, y in ((a, near), (a, far), (near, far))]
    expected = np.maximum(0, d[0] - (np.minimum(d[1], d[2]) if swap else d[1]) + 1.0)
    given = [mg.tensor(v) for v in (a, near, far)]
    loss = F.triplet_margin_loss(*given, p=p, swap=swap, reduction="none")
    np.testing.assert_allclose(values(loss), expected, rtol=1e-12)


# ---- focal losses ----------------------------------------------------------------------------------------------------


def test_focal_of_gamma_0_is_cross_entropy() -> None:
    z, t, c = mg.tensor(RNG.normal(size=(5, 4))), mg.tensor(RNG.uniform(size=(5, 4))), mg.tensor([0, 1, 3, 2, 1])
    np.testing.assert_allclose(
        values(F.sigmoid_focal_loss(z, t, gamma=0.0)), values(F.binary_cross_entropy_with_logits(z, t)), rtol=1e-12
    )
    np.testing.assert_allclose(values(F.softmax_focal_loss(z, c, gamma=0.0)), values(F.cross_entropy(z, c)), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_two_classes_by_softmax_are_a_question_by_sigmoid(gamma: float) -> None:
    z, yes = RNG.normal(size=6) * 3, np.array([0, 1, 1, 0, 1, 0])
    both = mg.tensor(np.stack([np.zeros(6), z], axis=1))
    one = F.sigmoid_focal_loss(mg.tensor(z), mg.tensor(yes), alpha=0.25, gamma=gamma)
    two = F.softmax_focal_loss(both, mg.tensor(yes), weight=mg.tensor([0.75, 0.25], dtype=mg.float64), gamma=gamma)
    np.testing.assert_allclose(values(one), values(two), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_logits_have_finite_gradients(gamma: float) -> None:
    z = mg.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    F.sigmoid_focal_loss(z, mg.tensor([0.0, 1.0, 1.0, 0.0]), gamma=gamma, reduction="sum").backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), [0.0, 0.0, -1.0, 1.0], atol=1e-30)
    rows = mg.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    F.softmax_focal_loss(rows, mg.tensor([0, 0]), gamma=gamma, reduction="sum").backward()
    assert rows.grad is not None
    np.testing.assert_allclose(rows.grad.numpy(), [[0.0, 0.0], [-1.0, 1.0]], atol=1e-30)


def test_focal_rows_that_are_ignored() -> None:
    z = mg.tensor(RNG.normal(size=(2, 3, 4)))
    t, w = mg.tensor([[0, -1, 2], [3, 3, -1]]), mg.tensor(RNG.uniform(0.5, 2.0, 4))
    losses = values(F.softmax_focal_loss(z, t, weight=w, ignore_index=-1, reduction="none"))
    assert losses.shape == (2, 3)
    assert losses[0, 1] == losses[1, 2] == 0.0
    np.testing.assert_allclose(values(F.softmax_focal_loss(z, t, weight=w, ignore_index=-1)), losses.sum() / 4)
    p = np.exp(z.numpy()) / np.exp(z.numpy()).sum(-1, keepdims=True)
    np.testing.assert_allclose(losses[0, 0], -w.numpy()[0] * (1 - p[0, 0, 0]) ** 2 * np.log(p[0, 0, 0]), rtol=1e-12)


# ---- connectionist temporal classification ---------------------------------------------------------------------------


def read(path: tuple[int, ...], blank: int) -> list[int]:
    """What a way through the classes reads as: repetitions are one, blanks are none."""
    return [c for c, _ in itertools.groupby(path) if c != blank]


@given(data=st.data())
def test_ctc_is_a_sum_over_all_ways(data: st.DataObject) -> None:
    steps, classes, seed = data.draw(st.integers(0, 5)), data.draw(st.integers(2, 3)), data.draw(st.integers(0, 99))
    blank = data.draw(st.integers(0, classes - 1))
    others = [c for c in range(classes) if c != blank]
    labels = data.draw(st.lists(st.sampled_from(others), max_size=3))
    scores = np.random.default_rng(seed).normal(size=(steps, classes))
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    ways = [
        sum(scores[t, c] for t, c in enumerate(path))
        for path in itertools.product(range(classes), repeat=steps)
        if read(path, blank) == labels
    ]
    expected = -np.log(np.exp(ways).sum()) if ways else math.inf
    # a padded batch of two, the other sequence being longer
    batch = np.zeros((2, 6, classes))
    batch[0, :steps], batch[0, steps:] = scores, math.nan
    padded = np.full((2, 4), -7)
    padded[0, : len(labels)] = labels
    padded[1] = others[0]
    given_ = mg.tensor(batch, requires_grad=True)
    lengths = mg.tensor([steps, 6]), mg.tensor([len(labels), 1])
    loss = F.ctc_loss(given_, mg.tensor(padded), *lengths, blank=blank, reduction="none")
    np.testing.assert_allclose(loss[0].item(), expected, rtol=1e-10, atol=1e-12)
    g = mg.grad(loss[0], given_).numpy()
    assert not g[1].any()
    assert not g[0, steps:].any()
    # every way passes each step once, so the posteriors of a step add up to 1
    np.testing.assert_allclose(g[0, :steps].sum(axis=-1), -1.0 if ways else 0.0, rtol=1e-10)


def test_ctc_impossible() -> None:
    scores, target = mg.log_softmax(mg.ones((2, 3, 3))), mg.tensor([[1, 1, 0], [1, 2, 1]])
    lengths = mg.tensor([2, 3]), mg.tensor([2, 3])
    assert F.ctc_loss(scores, target, *lengths, reduction="none").tolist()[0] == math.inf
    x = mg.tensor(scores, requires_grad=True)
    loss = F.ctc_loss(x, target, *lengths, zero_infinity=True, reduction="none")
    assert loss.tolist()[0] == 0.0
    assert loss.tolist()[1] == pytest.approx(3 * math.log(3))
    loss.sum().backward()
    assert x.grad is not None
    assert not x.grad.numpy()[0].any()
    assert x.grad.numpy()[1].any()


def test_ctc_takes_probabilities_of_0() -> None:
    x = mg.tensor([[[-math.inf, 0.0], [0.0, -math.inf]]], requires_grad=True)
    loss = F.ctc_loss(x, mg.tensor([[1]]))
    assert loss.item() == 0.0
    loss.backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[[0.0, -1.0], [-1.0, 0.0]]])


def test_ctc_reductions() -> None:
    scores, target = mg.log_softmax(mg.tensor(RNG.normal(size=(3, 5, 4)))), mg.tensor([[1, 2], [3, 1], [2, 2]])
    lengths = mg.tensor([5, 4, 5]), mg.tensor([2, 0, 1])
    each = values(F.ctc_loss(scores, target, *lengths, reduction="none"))
    np.testing.assert_allclose(values(F.ctc_loss(scores, target, *lengths, reduction="sum")), each.sum(), rtol=1e-12)
    mean = values(F.ctc_loss(scores, target, *lengths))
    np.testing.assert_allclose(mean, (each / [2, 1, 1]).mean(), rtol=1e-12)
    full = F.ctc_loss(scores, target, mg.tensor([5, 5, 5]), mg.tensor([2, 2, 2]))
    assert values(F.ctc_loss(scores, target)) == values(full)


# ---- modules and refusals --------------------------------------------------------------------------------------------

ONES, PAIR = mg.ones((2, 3)), mg.tensor([1, -1])
LOGS = mg.log_softmax(mg.tensor(np.random.default_rng(1).normal(size=(2, 4, 3))))
MODULES: list[tuple[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (
        nn.BCELoss(weight=mg.tensor([0.5, 1.0, 2.0])),
        F.binary_cross_entropy,
        (ONES * 0.3, ONES * 0.6),
        {"weight": mg.tensor([0.5, 1.0, 2.0])},
    ),
    (nn.HingeLoss(margin=2.0), F.hinge_loss, (mg.tensor([0.5, 0.1]), PAIR), {"margin": 2.0}),
    (
        nn.MarginRankingLoss(margin=2.0),
        F.margin_ranking_loss,
        (mg.tensor([0.5, 0.1]), mg.tensor([0.0, 1.0]), PAIR),
        {"margin": 2.0},
    ),
    (
        nn.CosineEmbeddingLoss(margin=0.5, reduction="sum"),
        F.cosine_embedding_loss,
        (ONES, ONES * 2, PAIR),
        {"margin": 0.5, "reduction": "sum"},
    ),
    (
        nn.TripletMarginLoss(margin=5.0, p=1.0, swap=True, eps=0.1),
        F.triplet_margin_loss,
        (ONES, ONES * 2, ONES * 3),
        {"margin": 5.0, "p": 1.0, "swap": True, "eps": 0.1},
    ),
    (
        nn.SigmoidFocalLoss(alpha=0.3, gamma=1.0),
        F.sigmoid_focal_loss,
        (ONES, ONES * 0.2),
        {"alpha": 0.3, "gamma": 1.0},
    ),
    (
        nn.SoftmaxFocalLoss(gamma=1.0, ignore_index=1, weight=mg.tensor([1.0, 2.0, 3.0])),
        F.softmax_focal_loss,
        (LOGS[0], mg.tensor([0, 1, 2, 2])),
        {"gamma": 1.0, "ignore_index": 1, "weight": mg.tensor([1.0, 2.0, 3.0])},
    ),
    (
        nn.CTCLoss(blank=2, reduction="none"),
        F.ctc_loss,
        (LOGS, mg.tensor([[0, 1], [1, 1]]), mg.tensor([4, 3]), mg.tensor([1, 2])),
        {"blank": 2, "reduction": "none"},
    ),
]


@pytest.mark.parametrize(("module", "f", "args", "options"), MODULES, ids=lambda v: getattr(v, "__name__", ""))
def test_modules(module: nn.Module, f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    expected = f(*args, **options)
    assert (values(expected) != 0).any()
    assert np.array_equal(values(module(*args)), values(expected))


EMPTY, NONE = mg.zeros((0, 3)), mg.zeros((0,), dtype=mg.int64)
NOTHING: list[tuple[nn.Module, tuple[Any, ...]]] = [
    (nn.BCELoss(), (EMPTY, EMPTY)),
    (nn.BCEWithLogitsLoss(weight=mg.ones(3), pos_weight=mg.ones(3)), (EMPTY, EMPTY)),
    (nn.CTCLoss(), (mg.zeros((0, 4, 3)), mg.zeros((0, 2), dtype=mg.int64))),
    (nn.CosineEmbeddingLoss(), (EMPTY, EMPTY, NONE)),
    (nn.CrossEntropyLoss(), (EMPTY, NONE)),
    (nn.CrossEntropyLoss(), (EMPTY, EMPTY)),
    (nn.CrossEntropyLoss(ignore_index=1), (ONES, mg.tensor([1, 1]))),
    (nn.HingeLoss(), (EMPTY, EMPTY)),
    (nn.HuberLoss(), (EMPTY, EMPTY)),
    (nn.KLDivLoss(), (EMPTY, EMPTY)),
    (nn.KLDivLoss(reduction="batchmean"), (EMPTY, EMPTY)),
    (nn.L1Loss(), (EMPTY, EMPTY)),
    (nn.MSELoss(), (EMPTY, EMPTY)),
    (nn.MarginRankingLoss(), (EMPTY, EMPTY, EMPTY)),
    (nn.NLLLoss(ignore_index=1), (ONES, mg.tensor([1, 1]))),
    (nn.SigmoidFocalLoss(alpha=0.2), (EMPTY, EMPTY)),
    (nn.SmoothL1Loss(), (EMPTY, EMPTY)),
    (nn.SoftmaxFocalLoss(), (EMPTY, NONE)),
    (nn.SoftmaxFocalLoss(ignore_index=1), (ONES, mg.tensor([1, 1]))),
    (nn.SoftmaxFocalLoss(ignore_index=1, weight=mg.ones(3)), (ONES * mg.nan, mg.tensor([1, 1]))),
    (nn.TripletMarginLoss(), (EMPTY, EMPTY, EMPTY)),
]


@pytest.mark.parametrize(("module", "args"), NOTHING, ids=lambda v: type(v).__name__)
def test_the_mean_of_nothing_is_0(module: nn.Module, args: tuple[Any, ...]) -> None:
    assert {type(module) for module, _ in NOTHING} >= {getattr(nn, n) for n in dir(nn) if n.endswith("Loss")}
    x = args[0].clone().detach()
    x.requires_grad = True
    loss = module(x, *args[1:])
    assert loss.item() == 0.0
    (slope,) = mg.grad(loss, [x], mg.tensor(3.0))
    assert not values(slope).any()


CLASSES = mg.tensor([0, 2])
BROKEN: list[tuple[nn.Module, tuple[Any, ...]]] = [
    (nn.BCEWithLogitsLoss(), (ONES,)),
    (nn.CosineEmbeddingLoss(), (ONES, mg.tensor([-1, -1]))),
    (nn.CrossEntropyLoss(), (CLASSES,)),
    (nn.HingeLoss(), (ONES,)),
    (nn.HuberLoss(), (ONES,)),
    (nn.KLDivLoss(), (ONES,)),
    (nn.L1Loss(), (ONES,)),
    (nn.MSELoss(), (ONES,)),
    (nn.MarginRankingLoss(), (ONES, ONES)),
    (nn.NLLLoss(), (CLASSES,)),
    (nn.SigmoidFocalLoss(), (ONES,)),
    (nn.SmoothL1Loss(), (ONES,)),
    (nn.SoftmaxFocalLoss(), (CLASSES,)),
    (nn.TripletMarginLoss(), (ONES, ONES)),
]


@pytest.mark.parametrize(("module", "args"), BROKEN, ids=lambda v: type(v).__name__)
def test_a_prediction_that_is_nan_makes_the_loss_nan(module: nn.Module, args: tuple[Any, ...]) -> None:
    x = ONES.clone()
    x[0, 0] = x[1, 2] = mg.nan
    assert np.isnan(module(x, *args).item())


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.HingeLoss(reduction="avg"), ValueError, "HingeLoss: reduction is 'avg', needs one of mean, sum, none"),
    (lambda: nn.HingeLoss(margin=mg.nan), ValueError, "HingeLoss: margin is nan, needs a finite number"),
    (lambda: nn.HingeLoss(margin="1"), TypeError, "HingeLoss: margin is '1', needs a number"),
    (lambda: nn.MarginRankingLoss(margin=mg.inf), ValueError, "MarginRankingLoss: margin is inf, needs a finite"),
    (lambda: nn.TripletMarginLoss(eps=mg.nan), ValueError, "TripletMarginLoss: eps is nan, needs a finite number"),
    (lambda: nn.TripletMarginLoss(margin=mg.nan), ValueError, "TripletMarginLoss: margin is nan, needs a positive"),
    (lambda: nn.TripletMarginLoss(p="a"), TypeError, "TripletMarginLoss: p is 'a', needs a number"),
    (lambda: nn.HuberLoss(delta=mg.nan), ValueError, "HuberLoss: delta is nan, needs a positive number"),
    (lambda: nn.SmoothL1Loss(beta="a"), TypeError, "SmoothL1Loss: beta is 'a', needs a number"),
    (lambda: nn.SigmoidFocalLoss(gamma=None), TypeError, "SigmoidFocalLoss: gamma is None, needs a number"),
    (lambda: nn.CrossEntropyLoss(label_smoothing="a"), TypeError, "CrossEntropyLoss: label_smoothing is 'a', needs"),
    (lambda: F.softmax_focal_loss(ONES, [0, 1], gamma="a"), DTypeError, "softmax_focal_loss: gamma is 'a', needs a nu"),
    (lambda: nn.CosineEmbeddingLoss(margin=2.0), ValueError, "CosineEmbeddingLoss: margin is 2.0, needs a cosine"),
    (lambda: nn.TripletMarginLoss(margin=0.0), ValueError, "TripletMarginLoss: margin is 0.0, needs a positive"),
    (lambda: nn.TripletMarginLoss(p=0.5), ValueError, "TripletMarginLoss: p is 0.5, needs a number of at least 1"),
    (lambda: nn.SigmoidFocalLoss(gamma=-1.0), ValueError, "SigmoidFocalLoss: gamma is -1.0, needs a number of at"),
    (lambda: nn.SigmoidFocalLoss(alpha=2.0), ValueError, "SigmoidFocalLoss: alpha is 2.0, needs a number from 0"),
    (lambda: nn.SoftmaxFocalLoss(gamma=-1.0), ValueError, "SoftmaxFocalLoss: gamma is -1.0, needs a number of at"),
    (lambda: F.softmax_focal_loss(ONES, ONES), DTypeError, "softmax_focal_loss: targets is float32 (2, 3), needs clas"),
    (
        lambda: F.softmax_focal_loss(ONES, mg.tensor([0, 1]), weight=mg.ones(2)),
        ShapeError,
        "softmax_focal_loss: weight is float32 (2,), needs a number for each of the 3 classes",
    ),
    (
        lambda: F.softmax_focal_loss(ONES, mg.tensor([0, 1]), gamma=-1.0),
        ValueError,
        "softmax_focal_loss: gamma is -1.0, needs a number of at least 0",
    ),
    (lambda: nn.CrossEntropyLoss(ignore_index=[1]), TypeError, "CrossEntropyLoss: ignore_index is [1], needs an int"),
    (lambda: nn.NLLLoss(ignore_index="a"), TypeError, "NLLLoss: ignore_index is 'a', needs an int"),
    (lambda: nn.SoftmaxFocalLoss(ignore_index=2.5), TypeError, "SoftmaxFocalLoss: ignore_index is 2.5, needs an int"),
    (lambda: F.cross_entropy(ONES, CLASSES, ignore_index=1.5), DTypeError, "cross_entropy: ignore_index is 1.5, needs"),
    (lambda: F.nll_loss(ONES, CLASSES, ignore_index=1.5), DTypeError, "nll_loss: ignore_index is 1.5, needs an int"),
    (lambda: F.softmax_focal_loss(ONES, CLASSES, ignore_index="a"), DTypeError, "softmax_focal_loss: ignore_index is"),
    (
        lambda: F.linear_cross_entropy(ONES, mg.ones((3, 3)), CLASSES, ignore_index=[1]),
        DTypeError,
        "linear_cross_entropy: ignore_index is [1], needs an int",
    ),
    (lambda: F.ctc_loss(ONES, [[1]]), ShapeError, "ctc_loss: log_probabilities is float32 (2, 3), needs shape (batch"),
    (lambda: F.ctc_loss(LOGS, ONES), DTypeError, "ctc_loss: targets is float32 (2, 3), needs class indices"),
    (lambda: F.ctc_loss(LOGS, [1, 2]), ShapeError, "ctc_loss: targets is int64 (2,), needs shape (2, labels)"),
    (lambda: F.ctc_loss(LOGS, [[1], [0]]), IndexError, "(2, 1) with the label 0, needs classes from 0 to 2 other"),
    (lambda: F.ctc_loss(LOGS, [[1], [3]]), IndexError, "with the label 3, needs classes from 0 to 2 other than the"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], blank=3), ValueError, "ctc_loss: blank is 3, needs one of the 3 classes"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], [4]), ShapeError, "input_lengths is int64 (1,), needs shape (2,)"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], [4, 5]), ValueError, "input_lengths is 5 in one place, needs lengths from 0"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], None, [2, 1]), ValueError, "target_lengths is 2 in one place, needs length"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], [1.0, 2.0]), DTypeError, "input_lengths is float32 (2,), needs integers"),
    (lambda: F.ctc_loss(LOGS, [[1], [1]], reduction="avg"), ValueError, "ctc_loss: reduction is 'avg', needs one of"),
]


@pytest.mark.parametrize(("call", "raises", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refuses(call: Callable[[], Any], raises: type[Exception], text: str) -> None:
    with pytest.raises(raises, match=re.escape(text)):
        call()

"""Cross entropy and likelihood as users call them: any number of leading axes, and what they refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.nn import functional as F

LOGITS = np.random.default_rng(0).normal(size=(2, 4, 3))
TARGETS = np.array([[0, 2, 1, 1], [2, 2, 0, 1]])
WEIGHT = np.array([0.5, 1.0, 2.0])
LOG_PROBABILITIES = LOGITS - np.log(np.exp(LOGITS).sum(axis=-1, keepdims=True))
LOSSES = -np.take_along_axis(LOG_PROBABILITIES, TARGETS[..., None], axis=-1)[..., 0]

BOTH = pytest.mark.parametrize(
    ("f", "source"), [(mg.cross_entropy, LOGITS), (mg.nll_loss, LOG_PROBABILITIES)], ids=["cross_entropy", "nll_loss"]
)


@BOTH
def test_leading_axes_are_rows(f: Callable[..., Any], source: np.ndarray[Any, Any]) -> None:
    x, t = mg.tensor(source), mg.tensor(TARGETS)
    each = f(x, t, reduction="none")
    assert each.shape == TARGETS.shape
    np.testing.assert_allclose(each.numpy(), LOSSES, rtol=1e-12)
    np.testing.assert_allclose(f(x, t, reduction="sum").numpy(), LOSSES.sum(), rtol=1e-12)
    np.testing.assert_allclose(f(x, t).numpy(), LOSSES.mean(), rtol=1e-12)
    assert f(x[0, 0], 0, reduction="none").shape == ()


@BOTH
def test_the_mean_is_over_the_weights_of_what_counts(f: Callable[..., Any], source: np.ndarray[Any, Any]) -> None:
    counted = TARGETS != 1
    expected = (WEIGHT[TARGETS] * LOSSES * counted).sum() / (WEIGHT[TARGETS] * counted).sum()
    for weight in (mg.tensor(WEIGHT), WEIGHT, WEIGHT.tolist()):
        out = f(mg.tensor(source), mg.tensor(TARGETS), weight=weight, ignore_index=1)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)
    nothing = f(mg.tensor(source), mg.full(TARGETS.shape, -100), ignore_index=-100)
    assert nothing.item() == 0.0


@pytest.mark.parametrize("half", [mg.float16, mg.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_half_logits_meet_weights_as_in_a_product(half: Any, reduction: str) -> None:
    x = mg.tensor(LOGITS, dtype=half)
    whole = [1, 2, 3]
    for weight in (None, whole, np.array(whole, np.int8), [True, False, True], WEIGHT, WEIGHT.tolist(), x[0, 0]):
        out = mg.cross_entropy(x, mg.tensor(TARGETS), weight=weight, reduction=reduction)
        assert out.dtype == (half if weight is None else (x * weight).dtype)


@BOTH
def test_a_row_that_is_ignored_has_gradient_zero_whatever_it_holds(
    f: Callable[..., Any], source: np.ndarray[Any, Any]
) -> None:
    broken = source.copy()
    broken[0, 1] = math.nan
    x = mg.tensor(broken, requires_grad=True)
    t = TARGETS.copy()
    t[0, 1] = -100
    f(x, mg.tensor(t), ignore_index=-100).backward()
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()
    assert not x.grad.numpy()[0, 1].any()


def test_probabilities_are_targets_too() -> None:
    x, one_hot = mg.tensor(LOGITS), np.eye(3)[TARGETS]
    soft = mg.cross_entropy(x, mg.tensor(one_hot), reduction="none")
    np.testing.assert_allclose(soft.numpy(), LOSSES, rtol=1e-12)
    smooth = mg.cross_entropy(x, mg.tensor(0.7 * one_hot + 0.1))
    np.testing.assert_allclose(mg.cross_entropy(x, mg.tensor(TARGETS), label_smoothing=0.3).numpy(), smooth.numpy())


REFUSED = [
    ({"reduction": "avg"}, ValueError, "reduction is 'avg', needs one of mean, sum, none"),
    ({"source": mg.tensor(1.0)}, ShapeError, "float32 (), needs at least one axis, that of the classes"),
    ({"targets": None}, DTypeError, "an object array"),
    (
        {"targets": mg.tensor([True, False])},
        DTypeError,
        "targets is bool (2,), needs class indices of an integer dtype",
    ),
    ({"targets": mg.tensor([0])}, ShapeError, "targets is int64 (1,), needs shape (2,)"),
    ({"targets": mg.tensor([0, 3])}, IndexError, "targets holds the class 3, and there are 3"),
    ({"targets": mg.tensor([0, -1])}, IndexError, "targets holds the class -1, and there are 3"),
    ({"source": mg.ones((2, 3, 4)), "targets": mg.zeros((2, 4), dtype=mg.int64)}, ShapeError, ", 1, -1)"),
    ({"source": mg.ones((2, 3), dtype=mg.complex64)}, DTypeError, "got complex64, needs one of"),
    ({"weight": mg.ones(2)}, ShapeError, "weight is float32 (2,), needs a number for each of the 3 classes"),
    ({"weight": [1.0, 2.0]}, ShapeError, "weight is [1.0, 2.0], needs a number for each of the 3 classes"),
    ({"weight": 1.0}, ShapeError, "weight is 1.0, needs a number for each of the 3 classes"),
]


@pytest.mark.parametrize("f", [mg.cross_entropy, mg.nll_loss], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("changes", "raises", "text"), REFUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_refuses(f: Callable[..., Any], changes: dict[str, Any], raises: type[Exception], text: str) -> None:
    arguments = {"source": mg.ones((2, 3)), "targets": mg.tensor([0, 2]), **changes}
    with pytest.raises(raises, match=f"^{f.__name__}: .*{re.escape(text)}"):
        f(arguments.pop("source"), arguments.pop("targets"), **arguments)


@pytest.mark.parametrize(
    ("targets", "options", "raises", "text"),
    [
        (mg.tensor([0, 2]), {"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5, needs a number from 0 to 1"),
        (mg.tensor([0, 2]), {"label_smoothing": "x"}, ValueError, "label_smoothing is 'x', needs a number from 0 to 1"),
        (mg.tensor([0, 2]), {"label_smoothing": math.nan}, ValueError, "label_smoothing is nan"),
        (mg.ones((2, 3)), {"ignore_index": 1}, ValueError, "needs None where targets are probabilities"),
        (mg.ones((2, 2)), {}, ShapeError, "targets is float32 (2, 2), needs shape (2, 3)"),
        (mg.ones((2, 3), dtype=mg.int64), {}, ShapeError, "If they are one-hot, cast them to floats"),
    ],
)
def test_cross_entropy_refuses(targets: Any, options: dict[str, Any], raises: type[Exception], text: str) -> None:
    with pytest.raises(raises, match=f"^cross_entropy: .*{re.escape(text)}"):
        mg.cross_entropy(mg.ones((2, 3)), targets, **options)


def test_nll_loss_takes_no_probabilities() -> None:
    with pytest.raises(DTypeError, match=r"nll_loss: targets is float32 \(2, 3\), needs class indices"):
        mg.nll_loss(mg.ones((2, 3)), mg.ones((2, 3)))


@pytest.mark.parametrize("value", ["x", 1.5, [1]])
def test_an_ignored_index_that_is_none_is_refused(value):
    """It would be equal to no target."""
    x, targets = mg.ones((2, 3)), mg.asarray([0, 1])
    calls = (
        lambda: F.cross_entropy(x, targets, ignore_index=value),
        lambda: F.nll_loss(x, targets, ignore_index=value),
        lambda: F.softmax_focal_loss(x, targets, ignore_index=value),
        lambda: F.linear_cross_entropy(x, mg.ones((3, 4)), targets, ignore_index=value),
        lambda: nn.CrossEntropyLoss(ignore_index=value),
        lambda: nn.NLLLoss(ignore_index=value),
    )
    for call in calls:
        with pytest.raises(TypeError, match=r"^\w+: ignore_index is .* needs an int"):
            call()

"""linear_cross_entropy beside cross_entropy of linear: values, gradients of two orders, refusals, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp
from minigrad.nn import functional as F
from minigrad.ops.conversion import new
from minigrad.testing import gradcheck
from minigrad.testing.variants import assert_variants

Array = np.ndarray[Any, Any]
REDUCTIONS = ("mean", "sum", "none")


def problem(n: int, features: int, classes: int, dtype: Any = np.float64) -> tuple[Array, Array, Array, Array]:
    """Rows, a weight, a bias and targets."""
    rng = np.random.default_rng(n + classes)
    x, weight, bias = (rng.normal(size=s).astype(dtype) for s in ((n, features), (features, classes), classes))
    return x, weight, bias, rng.integers(0, classes, n)


def whole(x: Any, weight: Any, targets: Any, bias: Any = None, class_weight: Any = None, **options: Any) -> Any:
    """The same with all logits at once."""
    return F.cross_entropy(F.linear(x, weight, bias), targets, weight=class_weight, **options)


@given(
    n=st.integers(0, 7),
    chunk=st.sampled_from([None, 1, 2, 3, 100]),
    biased=st.booleans(),
    weighted=st.booleans(),
    ignore_index=st.sampled_from([None, 0, -100]),
    label_smoothing=st.sampled_from([0.0, 0.2]),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_it_is_cross_entropy_of_linear(
    n: int,
    chunk: int | None,
    biased: bool,
    weighted: bool,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
) -> None:
    x, weight, bias, targets = problem(n, 3, 5)
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "class_weight": new(np.linspace(0.5, 2.0, 5)) if weighted else None,
    }
    leaves: list[Any] = [new(a.copy(), requires_grad=True) for a in ((x, weight, bias) if biased else (x, weight))]
    found = F.linear_cross_entropy(*leaves[:2], new(targets), *leaves[2:], chunk=chunk, **options)
    expected = whole(*leaves[:2], new(targets), *leaves[2:], **options)
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    g = new(np.random.default_rng(0).uniform(0.5, 1.5, found.shape))
    for ours, theirs in zip(mg.grad(found, leaves, g), mg.grad(expected, leaves, g), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_are_the_generic_ones(dtype: Any) -> None:
    x, weight, bias, targets = problem(130, 20, 500, dtype)
    for chunk in (None, 40):
        assert_variants(
            lambda x, w, b, chunk=chunk: F.linear_cross_entropy(x, w, new(targets), b, chunk=chunk), x, weight, bias
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_derivatives(reduction: str) -> None:
    x, weight, bias, targets = problem(4, 2, 3)
    options: dict[str, Any] = {"chunk": 3, "label_smoothing": 0.1, "reduction": reduction}
    assert gradcheck(
        lambda x, w, b: F.linear_cross_entropy(x, w, new(targets), b, **options),
        (new(x), new(weight), new(bias)),
        order=2,
    )


def test_any_number_of_axes_and_half_types() -> None:
    x, weight, _, targets = problem(6, 3, 4, np.float32)
    stack, classes = mg.tensor(x.reshape(2, 3, 3)), mg.tensor(targets.reshape(2, 3))
    found = F.linear_cross_entropy(stack, mg.tensor(weight), classes, reduction="none")
    assert found.shape == (2, 3)
    np.testing.assert_allclose(
        found.numpy(), whole(stack, mg.tensor(weight), classes, reduction="none").numpy(), rtol=1e-5
    )
    half = F.linear_cross_entropy(stack.astype(mg.bfloat16), mg.tensor(weight).astype(mg.bfloat16), classes)
    assert half.dtype == mg.float32
    np.testing.assert_allclose(float(half), float(np.mean(found.numpy())), rtol=2e-2)


def test_a_class_weight_may_require_grad() -> None:
    x, weight, _, targets = problem(6, 3, 4)
    factors = [new(np.linspace(0.5, 2.0, 4), requires_grad=True) for _ in range(2)]
    for f, factor in zip((F.linear_cross_entropy, whole), factors, strict=True):
        f(new(x), new(weight), new(targets), class_weight=factor).backward()
    np.testing.assert_allclose(*(np.asarray(f.grad) for f in factors), rtol=1e-12)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("gpu")
def test_a_class_weight_is_not_rounded_under_autocast(device: str) -> None:
    x, weight, _, targets = problem(6, 3, 4, np.float32)
    factors = np.array([1.0, 1 + 2.0**-12, 3.0, 0.1], np.float32)
    with amp.autocast(mg.bfloat16):
        given = [new(a).to(device) for a in (x, weight, targets)]
        found = F.linear_cross_entropy(*given, class_weight=new(factors).to(device), reduction="sum")
    wide = [new(a.astype(mg.bfloat16).astype(np.float64)) for a in (x, weight)]
    truth = F.linear_cross_entropy(*wide, new(targets), class_weight=new(factors.astype(np.float64)), reduction="sum")
    np.testing.assert_allclose(found.item(), truth.item(), rtol=2e-6)


def test_infinite_logits_give_what_the_generic_body_gives() -> None:
    x, weight, bias, targets = problem(6, 3, 4)
    bias[1] = np.inf
    assert_variants(lambda x: F.linear_cross_entropy(x, new(weight), new(targets), new(bias), chunk=4), x, ran=False)


def test_the_logits_never_exist_at_once() -> None:
    n, features, classes = 2048, 4, 2048
    x, weight, bias, targets = problem(n, features, classes, np.float32)
    leaves: list[Any] = [new(a, requires_grad=True) for a in (x, weight, bias)]
    logits = n * classes * 4
    peaks = []
    for f, options in ((F.linear_cross_entropy, {"chunk": 64}), (whole, {})):
        tracemalloc.start()
        try:
            f(*leaves[:2], new(targets), leaves[2], **options).backward()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[0] < logits / 8
    assert peaks[1] > 2 * logits


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": mg.ones(3)}, mg.ShapeError, "weight is .*, needs a matrix"),
        ({"x": mg.ones((2, 4))}, mg.ShapeError, "x is .*, needs 3 features"),
        ({"targets": mg.tensor([0])}, mg.ShapeError, "targets is .*a class for each row"),
        ({"targets": mg.ones((2, 4))}, mg.DTypeError, "targets is .*class indices"),
        ({"targets": mg.tensor([0, 4])}, IndexError, "got x .* targets holds the class 4, and there are 4"),
        ({"bias": mg.ones(3)}, mg.ShapeError, "bias is .*each of the 4 classes"),
        ({"class_weight": mg.ones(3)}, mg.ShapeError, "class_weight is .*each of the 4 classes"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing is 2.0"),
        ({"chunk": 0}, ValueError, "chunk is 0, needs a positive number"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"x": mg.ones((2, 3)), "weight": mg.ones((3, 4)), "targets": mg.tensor([0, 1])} | change
    with pytest.raises(error, match=f"linear_cross_entropy: {text}"):
        F.linear_cross_entropy(**arguments)

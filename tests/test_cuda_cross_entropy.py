"""Cross entropy on the GPU: losses and gradients are those of the generic body, with every option."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_results import FLOATS, assert_gpu, counted, shifted
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, autograd, dtypes
from minigrad.ops.conversion import new

pytestmark = pytest.mark.usefixtures("gpu")
Array = np.ndarray[Any, Any]
NAMES = ("cross_entropy",)
REDUCTIONS = ("mean", "sum", "none")
ENDS: dict[str, Any] = {"floor": 1.0}  # a gradient is what is left of a probability of about 1


@st.composite
def problems(draw: st.DrawFn, rows: int, classes: int) -> tuple[Array, Array, dict[str, Any]]:
    """Logits, some of them -inf or NaN, the class of each row, and options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(0.0, draw(st.sampled_from([0.1, 3.0])), (rows, classes))
    x[rng.random(x.shape) < draw(st.sampled_from([0.0, 0.0, 0.1]))] = draw(st.sampled_from([-math.inf, math.nan, 0.0]))
    integer = draw(st.sampled_from([mg.int64, mg.int32, mg.uint8]))
    targets = rng.integers(0, min(classes, 256), rows).astype(integer)
    options = {
        "ignore_index": draw(st.sampled_from([None, None, 0, 1, -100])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
    }
    return x.astype(draw(st.sampled_from(FLOATS))), targets, options


@given(data=st.data(), rows=st.integers(1, 6), classes=st.sampled_from([1, 2, 3, 8, 31, 64, 256, 257, 520]))
def test_it_is_the_generic_one(data: st.DataObject, rows: int, classes: int) -> None:
    x, targets, options = data.draw(problems(rows, classes))
    assert_gpu(lambda t, index: mg.cross_entropy(t, index, **options), x, targets, names=NAMES, seed=rows, **ENDS)


@given(data=st.data(), rows=st.integers(1, 6), classes=st.sampled_from([1, 2, 3, 8, 31, 64, 257]))
def test_class_weights(data: st.DataObject, rows: int, classes: int) -> None:
    x, targets, options = data.draw(problems(rows, classes))
    weight = np.random.default_rng(rows).uniform(0.5, 2.0, classes).astype(x.dtype)
    if data.draw(st.booleans()):
        weight[0] = 0.0

    def f(t: mg.Tensor, index: mg.Tensor) -> mg.Tensor:
        return mg.cross_entropy(t, index, weight=new(weight.astype(t.dtype), device=t.device), **options)

    assert_gpu(f, x, targets, names=NAMES, seed=rows, **ENDS)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_of_class_weights(reduction: str) -> None:
    """It is the generic rule's, which knows the loss that the kernel made."""
    rng = np.random.default_rng(0)
    x, targets, weight = rng.normal(size=(7, 5)), rng.integers(0, 5, 7), rng.uniform(0.5, 2.0, 5)

    def f(t: mg.Tensor, index: mg.Tensor, w: mg.Tensor) -> mg.Tensor:
        return mg.cross_entropy(t, index, weight=w, label_smoothing=0.1, ignore_index=2, reduction=reduction)

    assert_gpu(f, x, targets, weight, names=NAMES, **ENDS)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("classes", [2000, 8193])
def test_many_classes(dtype: Any, classes: int) -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.normal(0.0, 2.0, (4, classes)).astype(dtype), np.array([0, classes - 1, 7, 11])
    weight = rng.uniform(0.5, 2.0, classes).astype(dtype)
    assert_gpu(mg.cross_entropy, x, targets, names=NAMES, **ENDS)

    def f(t: mg.Tensor, index: mg.Tensor) -> mg.Tensor:
        w = new(weight.astype(t.dtype), device=t.device)
        return mg.cross_entropy(t, index, weight=w, label_smoothing=0.1, ignore_index=7, reduction="none")

    assert_gpu(f, x, targets, names=NAMES, **ENDS)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("part", [4096, 16])
def test_many_rows(monkeypatch: pytest.MonkeyPatch, part: int, reduction: str) -> None:
    """Their losses and weights are added up in parts."""
    mg.zeros(1, device="cuda")
    from minigrad.backend.cuda import cross_entropy

    monkeypatch.setattr(cross_entropy, "PART", part)
    monkeypatch.setattr(cross_entropy, "PARTS", 40)
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(700, 3)), rng.integers(0, 3, 700)
    assert_gpu(
        lambda t, i: mg.cross_entropy(t, i, ignore_index=1, reduction=reduction), x, targets, names=NAMES, **ENDS
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_rows_that_do_not_count_may_hold_anything(smoothing: float) -> None:
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    x[1] = math.nan
    options: dict[str, Any] = {"ignore_index": -1, "label_smoothing": smoothing}
    for targets in (np.array([4, -1, 39]), np.array([-1, -1, -1])):
        assert_gpu(lambda t, i: mg.cross_entropy(t, i, **options), x, targets, names=NAMES, **ENDS)
        leaf = new(x, device="cuda", requires_grad=True)
        (grad,) = autograd.grad([mg.cross_entropy(leaf, new(targets, device="cuda"), **options)], [leaf])
        assert not grad.to("cpu").numpy()[1].any()


@pytest.mark.parametrize("wrong", [-1, 3, -(2**62), 2**62])
def test_a_wrong_class_gives_nan(wrong: int) -> None:
    x = mg.ones((3, 3), device="cuda")
    x.requires_grad = True
    targets = mg.asarray([0, wrong, 2], device="cuda")
    losses = mg.cross_entropy(x, targets, reduction="none")
    (grad,) = autograd.grad([losses.sum()], [x])
    np.testing.assert_array_equal(np.isnan(losses.detach().to("cpu").numpy()), [False, True, False])
    np.testing.assert_array_equal(np.isnan(grad.to("cpu").numpy()), np.repeat([[False], [True], [False]], 3, axis=1))
    assert math.isnan(mg.cross_entropy(x, targets).item())
    assert not math.isnan(mg.cross_entropy(x, targets, ignore_index=wrong).item())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layouts(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(6, 32)).astype(dtype), rng.integers(0, 6, 32)
    whole = new(x).to("cuda")
    index = new(targets).to("cuda")
    views = {"transposed": (whole.T, index), "strided": (whole[::2], index[::11]), "shifted": (shifted(x), index[:6])}
    for what, (t, at) in views.items():
        results = []
        for tensor in (t.detach(), mg.asarray(t.to("cpu").numpy().copy(), device="cuda")):
            tensor.requires_grad = True
            losses = mg.cross_entropy(tensor, at, reduction="none")
            (grad,) = autograd.grad([losses.sum()], [tensor])  # an expanded cotangent
            results.append([losses.detach().to("cpu").numpy(), grad.to("cpu").numpy()])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b, what)


def test_what_is_left_to_the_generic_body() -> None:
    x, targets = mg.ones((2, 3), device="cuda"), mg.asarray([0, 2], device="cuda")
    with counted(*NAMES) as took:
        assert mg.cross_entropy(x[:0], targets[:0]).item() == 0
        np.testing.assert_allclose(mg.cross_entropy(x, targets, ignore_index=2**70).item(), math.log(3), rtol=1e-6)
    assert took == [False, False]


def test_the_same_bits_each_time() -> None:
    rng = np.random.default_rng(0)
    x, targets = new(rng.normal(size=(40, 300)).astype(np.float32)), new(rng.integers(0, 300, 40))
    found = {mg.cross_entropy(x.to("cuda"), targets.to("cuda")).item() for _ in range(3)}
    assert len(found) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("chunk", [None, 4, 1])
def test_linear_cross_entropy(chunk: int | None, reduction: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=shape).astype(dtype) for shape in ((9, 4), (4, 30), (30,)))
    targets = rng.integers(0, 30, 9)
    options: dict[str, Any] = {"reduction": reduction, "chunk": chunk}
    names = ("linear_cross_entropy",)

    def weighted(x: mg.Tensor, w: mg.Tensor, index: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        class_weight = new((np.arange(8, 38) / 16).astype(w.dtype), device=w.device)  # half types hold them
        smoothed: dict[str, Any] = {"label_smoothing": 0.1, "ignore_index": 3, "class_weight": class_weight}
        return mg.linear_cross_entropy(x, w, index, b, **smoothed, **options)

    assert_gpu(lambda x, w, i: mg.linear_cross_entropy(x, w, i, **options), x, weight, targets, names=names, **ENDS)
    assert_gpu(weighted, x, weight, targets, bias, names=names, **ENDS)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_linear_cross_entropy_of_more_classes_than_registers_hold(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (4, 8197)))
    targets, names = rng.integers(0, 8197, 3), ("linear_cross_entropy",)
    assert_gpu(mg.linear_cross_entropy, x, weight, targets, names=names, **ENDS)


def test_shares_of_a_mean_that_a_half_type_does_not_hold() -> None:
    """With 4096 rows those of a probability of 1e-4 are below the smallest number of float16."""
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float16) for shape in ((4096, 2), (2, 5)))
    weight[0] -= 9.0 * (np.arange(5) > 0)
    x[:, 0] = 1.0
    targets = np.zeros(4096, np.int64)
    truth, found = (
        [new(a.astype(kind)).to(device).detach() for a in (x, weight)]
        for kind, device in ((np.float64, "cpu"), (np.float16, "cuda"))
    )
    grads = []
    for t, w in (truth, found):
        w.requires_grad = True
        loss = mg.linear_cross_entropy(t, w, new(targets, device=t.device))
        (grad,) = autograd.grad([loss], [w])
        grads.append(grad.to("cpu").numpy().astype(np.float64))
    assert 0 < np.abs(grads[0][0, 1:]).max() < 1e-3
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-2, atol=1e-6)


def test_autocast_multiplies_half_types_and_rounds_no_logits() -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((9, 4), (4, 30)))
    targets = new(rng.integers(0, 30, 9)).to("cuda")
    with amp.autocast(mg.bfloat16), counted("linear_cross_entropy") as took:
        found = mg.linear_cross_entropy(*(new(a).to("cuda") for a in (x, weight)), targets)
    rounded = [new(a.astype(mg.bfloat16).astype(np.float64)).to("cuda") for a in (x, weight)]
    truth = mg.linear_cross_entropy(*rounded, targets).item()
    assert took == [True]
    assert found.dtype == mg.float32
    np.testing.assert_allclose(found.item(), truth, rtol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_under_autocast_half_logits_are_read_as_they_are(dtype: Any, reduction: str) -> None:
    """Loss and gradient are those of logits cast to float32, whose sums only have another order."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.0, 3.0, (40, 300)).astype(np.float32).astype(dtype)
    targets = new(rng.integers(0, 300, 40)).to("cuda")
    cotangent = new(np.asarray(rng.normal(size=40 if reduction == "none" else ()), np.float32)).to("cuda")
    found, kinds = [], []
    for cast in (False, True):
        logits = new(values).to("cuda").detach()
        logits.requires_grad = True
        with amp.autocast(dtype), counted("cross_entropy", kinds=kinds):
            loss = mg.cross_entropy(mg.astype(logits, mg.float32) if cast else logits, targets, reduction=reduction)
            (grad,) = autograd.grad([loss], [logits], [cotangent])
        assert (loss.dtype, grad.dtype) == (mg.float32, dtype)
        found.append([t.detach().to("cpu").numpy().astype(np.float64) for t in (loss, grad)])
    assert kinds == [dtype, dtype, mg.float32, mg.float32]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=dtypes.finfo(dtype).eps, atol=1e-7)


def test_linear_cross_entropy_of_nothing() -> None:
    x, weight = mg.ones((0, 2), device="cuda"), mg.ones((2, 3), device="cuda")
    assert mg.linear_cross_entropy(x, weight, mg.zeros(0, dtype=mg.int64, device="cuda")).item() == 0

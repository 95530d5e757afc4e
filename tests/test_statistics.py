"""Reductions, running sums and products, sorting: the promises that one sample of an op cannot hold."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError
from minigrad.testing import gradcheck

# few different values, so that ties, zeros and NaN meet
COARSE = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0, np.inf, np.nan]),
)


@pytest.mark.parametrize("zeros", [(), (1,), (1, 3), (0, 1, 2, 3, 4)])
def test_products_have_right_derivatives_at_zeros(zeros: tuple[int, ...]) -> None:
    x = np.array([[1.5, -0.7, 2.0, 0.4, 1.1], [0.9, 1.2, -1.3, 0.8, 0.6]])
    x[0, list(zeros)] = 0.0
    gradcheck(mg.prod, [x])
    gradcheck(lambda t: mg.prod(t, axis=1, keepdims=True), [x])
    gradcheck(lambda t: mg.prod(t, axis=(0, 1)), [x.reshape(2, 5, 1)])
    gradcheck(lambda t: mg.cumulative_prod(t, axis=1), [x])
    gradcheck(lambda t: mg.cumulative_prod(t, axis=0, include_initial=True), [x])


def test_derivatives_of_a_product_with_two_zeros_are_exact() -> None:
    x = mg.tensor([0.0, 3.0, 0.0], requires_grad=True)
    (first,) = mg.grad([mg.prod(x)], [x], create_graph=True)
    assert first.tolist() == [0.0, 0.0, 0.0]
    (second,) = mg.grad([first], [x], [mg.tensor([1.0, 0.0, 0.0])])
    assert second.tolist() == [0.0, 0.0, 3.0]


def test_ties_share_the_gradient_equally() -> None:
    x = mg.tensor([[1.0, 4.0, 4.0, 4.0], [2.0, 0.0, 1.0, 1.0]], requires_grad=True)
    (by_max,) = mg.grad([mg.max(x, axis=1)], [x], [mg.tensor([3.0, 5.0])])
    assert by_max.tolist() == [[0.0, 1.0, 1.0, 1.0], [5.0, 0.0, 0.0, 0.0]]
    (by_min,) = mg.grad([mg.min(x)], [x], [mg.tensor(2.0)])
    assert by_min.tolist() == [[0.0] * 4, [0.0, 2.0, 0.0, 0.0]]


def test_the_derivative_of_std_where_all_values_are_equal_is_zero() -> None:
    x = mg.tensor([[2.0, 2.0, 2.0], [1.0, 2.0, 3.0]], requires_grad=True)
    (first,) = mg.grad([mg.std(x, axis=1)], [x], [mg.tensor([7.0, 0.0])], create_graph=True)
    assert first.tolist() == [[0.0] * 3, [0.0] * 3]
    (second,) = mg.grad([first], [x], [mg.tensor([[1.0, 2.0, 4.0], [0.0] * 3])])
    assert second.tolist() == [[0.0] * 3, [0.0] * 3]


def test_var_does_not_cancel() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32) + np.float32(4096.0)
    assert mg.var(mg.tensor(x)).item() == 1.25
    assert mg.var(mg.tensor([1, 2, 3, 4])).dtype == mg.float32
    assert np.isnan(mg.var(mg.tensor([1.0]), correction=1).item())


@given(COARSE, st.booleans(), st.sampled_from([0, 1]))
def test_moments_are_numpys(x: np.ndarray[Any, Any], keepdims: bool, correction: int) -> None:
    x = np.nan_to_num(x, nan=0.5, posinf=3.0)
    for axis in [None, *range(-x.ndim, x.ndim), tuple(range(x.ndim))]:
        t = mg.tensor(x)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(mg.mean(t, axis, keepdims=keepdims).numpy(), x.mean(axis, keepdims=keepdims))
            taken = x.size // x.mean(axis).size
            if taken > correction:
                expected = x.var(axis, ddof=correction, keepdims=keepdims)
                ours = mg.var(t, axis, correction=correction, keepdims=keepdims)
                np.testing.assert_allclose(ours.numpy(), expected, atol=1e-15)
                root = mg.std(t, axis, correction=correction, keepdims=keepdims)
                np.testing.assert_allclose(root.numpy(), np.sqrt(expected), atol=1e-8)


def test_half_types_accumulate_in_float32() -> None:
    for dtype in (mg.float16, mg.bfloat16):
        ones = mg.ones(70_000, dtype=dtype)
        assert mg.mean(ones).item() == 1.0
        assert mg.mean(ones).dtype == dtype
        assert mg.std(ones).item() == 0.0
        assert mg.cumulative_sum(mg.ones(4096, dtype=dtype))[-1].item() == 4096.0
    assert mg.sum(mg.ones(70_000, dtype=mg.bfloat16)).item() == float(mg.tensor(70_000.0).astype(mg.bfloat16).item())


def test_small_integers_do_not_wrap() -> None:
    x = mg.full((300,), 2, dtype=mg.uint8)
    assert mg.sum(x).item() == 600
    assert mg.cumulative_sum(x)[-1].item() == 600
    assert mg.prod(mg.full((20,), 2, dtype=mg.int8)).item() == 2**20
    assert mg.sum(x, dtype=mg.float64).dtype == mg.float64


def test_empty_reductions() -> None:
    x = mg.zeros((0, 3))
    assert mg.sum(x, axis=0).tolist() == [0.0] * 3
    assert mg.prod(x, axis=0).tolist() == [1.0] * 3
    assert np.isnan(mg.mean(x, axis=0).numpy()).all()
    assert mg.max(x, axis=1).shape == (0,)
    assert not mg.any(x).item()
    assert mg.all(x).item()
    for op in (mg.max, mg.min):
        with pytest.raises(ShapeError, match=f"{op.__name__}: got x float32 .0, 3., axis=0, needs"):
            op(x, axis=0)


@given(COARSE)
def test_order_and_positions_are_numpys(x: np.ndarray[Any, Any]) -> None:
    t = mg.tensor(x)
    for axis in range(-x.ndim, x.ndim):
        np.testing.assert_array_equal(mg.sort(t, axis).numpy(), np.sort(x, axis))
        np.testing.assert_array_equal(mg.argsort(t, axis).numpy(), np.argsort(x, axis, stable=True))
        down = mg.argsort(t, axis, descending=True)
        np.testing.assert_array_equal(mg.take_along_axis(t, down, axis).numpy(), np.flip(np.sort(x, axis), axis))
        np.testing.assert_array_equal(mg.sort(t, axis, descending=True).numpy(), np.flip(np.sort(x, axis), axis))
        np.testing.assert_array_equal(mg.argmax(t, axis).numpy(), np.argmax(x, axis))
        np.testing.assert_array_equal(mg.argmin(t, axis).numpy(), np.argmin(x, axis))


def test_equal_values_keep_their_order_both_ways() -> None:
    x = mg.tensor([1.0, 0.0, 1.0, 0.0])
    assert mg.argsort(x).tolist() == [1, 3, 0, 2]
    assert mg.argsort(x, descending=True).tolist() == [0, 2, 1, 3]


def test_gradients_go_back_to_where_equal_values_came_from() -> None:
    x = mg.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True)
    (up,) = mg.grad([mg.sort(x)], [x], [mg.tensor([1.0, 2.0, 3.0, 4.0])])
    assert up.tolist() == [3.0, 1.0, 4.0, 2.0]
    (down,) = mg.grad([mg.sort(x, descending=True)], [x], [mg.tensor([1.0, 2.0, 3.0, 4.0])])
    assert sorted(down.tolist()[::2]) == [1.0, 2.0]


@given(COARSE, st.data())
def test_topk_is_the_front_of_the_order(x: np.ndarray[Any, Any], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(0, x.shape[axis]))
    for largest in (True, False):
        values, indices = mg.topk(mg.tensor(x), k, axis, largest=largest)
        order = np.flip(np.sort(x, axis), axis) if largest else np.sort(x, axis)
        np.testing.assert_array_equal(values.numpy(), np.take(order, range(k), axis))
        np.testing.assert_array_equal(np.take_along_axis(x, indices.numpy(), axis), values.numpy())
        ascending = np.sort(indices.numpy(), axis)
        assert (np.diff(ascending, axis=axis) > 0).all()


def test_topk_needs_an_integer() -> None:
    with pytest.raises(DTypeError, match=r"topk: k is 1\.5"):
        mg.topk(mg.zeros(3), 1.5)  # type: ignore[arg-type]


def test_where_does_not_leak_nan_from_the_branch_not_taken() -> None:
    x = mg.tensor([0.0, 4.0], requires_grad=True)
    safe = mg.where(x > 0, x, 1.0)
    y = mg.where(x > 0, mg.sqrt(safe), 0.0)
    y.backward(mg.tensor([3.0, 5.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.25]
    lost = mg.tensor([np.nan, 1.0], requires_grad=True)
    mg.where(mg.tensor([False, True]), lost, 2.0).backward(mg.tensor([np.nan, 3.0]))
    assert lost.grad is not None
    assert lost.grad.tolist() == [0.0, 3.0]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_diff_is_numpys(n: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    for axis in (0, -1):
        np.testing.assert_allclose(mg.diff(mg.tensor(x), axis, n).numpy(), np.diff(x, n, axis), atol=1e-15)
    ends = mg.tensor(x[:, :1])
    expected = np.diff(x, n, prepend=x[:, :1], append=x[:, :1])
    np.testing.assert_allclose(mg.diff(mg.tensor(x), n=n, prepend=ends, append=ends).numpy(), expected, atol=1e-15)
    gradcheck(lambda t: mg.diff(t, n=n, prepend=t[:, :1]) ** 2, [x])


def test_diff_refuses_what_it_cannot_subtract() -> None:
    with pytest.raises(ShapeError, match="diff: axis is 1"):
        mg.diff(mg.zeros(3), axis=1)
    with pytest.raises(ShapeError, match="diff: n is -1"):
        mg.diff(mg.zeros(3), n=-1)
    with pytest.raises(DTypeError, match="diff: x is bool"):
        mg.diff(mg.tensor([True, False]))


def test_running_sums_need_an_axis_where_there_are_several() -> None:
    for op in (mg.cumulative_sum, mg.cumulative_prod):
        with pytest.raises(ShapeError, match=f"{op.__name__}: axis is None"):
            op(mg.zeros((2, 2)))
        assert op(mg.tensor([1.0, 2.0]), include_initial=True).shape == (3,)

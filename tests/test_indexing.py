"""Indexing and scattering against NumPy: whatever stands between brackets, with first and second derivatives."""

from __future__ import annotations

import operator
import sys
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import ShapeError
from minigrad.testing import gradcheck

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@st.composite
def mixed(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """An index that mixes integers, slices, None, integer arrays that broadcast together, masks and one Ellipsis."""
    together = draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=3))
    parts: list[Any] = []
    for extent in shape[: draw(st.integers(0, len(shape)))]:
        kind = draw(st.sampled_from(["int", "slice", "array", "row", "mask", "none"]))
        if kind == "none":
            parts += [None, slice(None)]
        elif kind == "int":
            parts.append(draw(st.integers(-extent, extent - 1)))
        elif kind == "slice":
            parts.append(draw(st.slices(extent)))
        elif kind == "mask":
            # a mask stands for an integer array: one that picks a single place goes with any other
            mask = np.zeros(extent, bool)
            mask[draw(st.integers(0, extent - 1))] = True
            parts.append(mask)
        else:
            one = together if kind == "array" else (1, *together[1:])
            parts.append(draw(hnp.arrays(np.int64, one, elements=st.integers(-extent, extent - 1))))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
    return tuple(parts)


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Any index into an array of a shape."""
    return st.one_of(
        hnp.basic_indices(shape, allow_newaxis=True),
        hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=3, max_side=4)),
        hnp.arrays(np.bool_, shape),
        hnp.arrays(np.bool_, shape[:1]),
        mixed(shape),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Any]:
    """An array, and an index into it."""
    shape = draw(SHAPES)
    x = np.random.default_rng(draw(st.integers(0, 2**32))).uniform(0.5, 2.0, shape)
    index = draw(indices(shape))
    try:
        x[index]
    except IndexError:  # what stands behind an Ellipsis counts from the end, and may not fit there
        assume(False)
    return x, index


def scattered(shape: tuple[int, ...], index: Any, values: Any) -> np.ndarray[Any, Any]:
    out = np.zeros(shape)
    np.add.at(out, index, values)
    return out


@given(cases())
def test_getitem_is_numpys(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    x, index = case
    t = mg.tensor(x, requires_grad=True)
    y = t[index]
    assert y.shape == np.shape(x[index])
    np.testing.assert_array_equal(y.detach().numpy(), x[index])
    rng = np.random.default_rng(0)
    c, v = rng.uniform(0.5, 2.0, y.shape), rng.uniform(0.5, 2.0, x.shape)
    (first,) = mg.grad([y * y], [t], [mg.tensor(c)], create_graph=True)
    np.testing.assert_allclose(first.detach().numpy(), scattered(x.shape, index, 2 * c * x[index]))
    (second,) = mg.grad([first], [t], [mg.tensor(v)])
    np.testing.assert_allclose(second.numpy(), scattered(x.shape, index, 2 * c * v[index]))


@given(cases(), st.booleans())
def test_index_add_is_the_transpose_for_many_values(case: tuple[np.ndarray[Any, Any], Any], front: bool) -> None:
    # 2048 times as many values take the path that works on flat places
    x, index = case
    key = index if isinstance(index, tuple) else (index,)
    if front:
        wide, key = np.linspace(1.0, 2.0, 2048).reshape(-1, *(1,) * x.ndim) * x, (slice(None), *key)
    else:
        assume(all(part is not Ellipsis for part in key))
        wide = x[..., np.newaxis] * np.linspace(1.0, 2.0, 2048)
    values = wide[key]
    ours = mg.index_add(wide.shape, key, mg.tensor(values))
    np.testing.assert_allclose(ours.numpy(), scattered(wide.shape, key, values))


@given(cases(), st.booleans())
def test_index_put_is_assignment(case: tuple[np.ndarray[Any, Any], Any], scalar: bool) -> None:
    x, index = case
    rng = np.random.default_rng(1)
    values = rng.uniform(0.5, 2.0, () if scalar else x[index].shape)
    a, b = mg.tensor(x, requires_grad=True), mg.tensor(values, requires_grad=True)
    out = mg.index_put(a, b, index)
    expected = x.copy()
    expected[index] = values
    np.testing.assert_array_equal(out.detach().numpy(), expected)

    def dense(x: Any, values: Any) -> Any:
        into = np.zeros_like(x) + x
        into[index] = values
        return into

    # assignment is linear, so its Jacobian is what it does to unit vectors
    c = rng.uniform(0.5, 2.0, x.shape)
    by_x, by_values = mg.grad([out], [a, b], [mg.tensor(c)])
    np.testing.assert_array_equal(by_x.numpy(), dense(c, 0.0))
    units = np.eye(values.size).reshape(values.size, *values.shape)
    expected = np.array([(c * dense(np.zeros_like(x), unit)).sum() for unit in units]).reshape(values.shape)
    np.testing.assert_allclose(by_values.numpy(), expected)


def test_where_a_place_is_set_twice_the_last_value_gets_the_gradient() -> None:
    x, v = mg.zeros(3, requires_grad=True), mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    out = x.at[[1, 1, 0]].set(v)
    assert out.tolist() == [3.0, 2.0, 0.0]
    by_x, by_v = mg.grad([out], [x, v], [mg.tensor([5.0, 7.0, 11.0])])
    assert by_x.tolist() == [0.0, 0.0, 11.0]
    assert by_v.tolist() == [0.0, 7.0, 5.0]


def test_tensors_lists_and_ranges_are_indices() -> None:
    x = np.arange(12.0).reshape(4, 3)
    t = mg.tensor(x)
    np.testing.assert_array_equal(t[mg.tensor([0, 2])].numpy(), x[[0, 2]])
    np.testing.assert_array_equal(t[mg.tensor(1)].numpy(), x[1])
    np.testing.assert_array_equal(t[mg.tensor(x > 4)].numpy(), x[x > 4])
    np.testing.assert_array_equal(t[[]].numpy(), x[[]])
    np.testing.assert_array_equal(t[range(2), [0, 1]].numpy(), x[range(2), [0, 1]])
    np.testing.assert_array_equal(t[np.int64(2)].numpy(), x[2])
    np.testing.assert_array_equal(t[True].numpy(), x[True])


def test_basic_indices_give_views_and_advanced_ones_copies() -> None:
    t = mg.zeros((3, 2))
    assert np.shares_memory(t[0].numpy(), t.numpy())
    assert np.shares_memory(t[1, 1].numpy(), t.numpy())
    assert np.shares_memory(t[::2, None].numpy(), t.numpy())
    assert not np.shares_memory(t[[0]].numpy(), t.numpy())


def test_an_index_that_changes_later_changes_nothing() -> None:
    x, ids = mg.tensor([1.0, 2.0, 3.0], requires_grad=True), np.array([0, 0])
    y = x[ids]
    ids[:] = 2
    y.backward(mg.tensor([1.0, 1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (3, "getitem: .*index 3 is out of bounds for axis 0 with size 3"),
        ((0, [0, 2]), "index 2 is out of bounds for axis 1 with size 2"),
        (1.5, "getitem: index is 1.5, needs integers"),
        (mg.tensor([0.5]), r"getitem: index is float32 \(1,\), needs integers"),
        ("a", "getitem: index is 'a'|getitem: index is a, needs integers"),
        ((0, 0, 0), "too many indices"),
        (mg.tensor([True, False]), "boolean index did not match"),
        ((..., ...), "single ellipsis"),
    ],
)
def test_errors(index: Any, text: str) -> None:
    with pytest.raises(IndexError, match=text):
        mg.zeros((3, 2))[index]


def test_at() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    t = mg.tensor(x)
    once, twice, v = [0, 2], [1, 3, 1], np.array([0.5, 2.0, 3.0])
    assert t.at[once].get().tolist() == [1.0, 3.0]
    for name, change in [("multiply", operator.mul), ("divide", operator.truediv), ("power", operator.pow)]:
        expected = x.copy()
        expected[once] = change(x[once], v[:2])
        np.testing.assert_allclose(getattr(t.at[once], name)(mg.tensor(v[:2])).numpy(), expected)
        with pytest.raises(IndexError, match=f"at.{name}: index is one that names a place twice"):
            getattr(t.at[twice], name)(mg.tensor(v))
    for name, ufunc in [("add", np.add), ("subtract", np.subtract), ("min", np.minimum), ("max", np.maximum)]:
        expected = x.copy()
        ufunc.at(expected, twice, v)
        np.testing.assert_allclose(getattr(t.at[twice], name)(mg.tensor(v)).numpy(), expected)
    assert t.at[1:].add(1).tolist() == [1.0, 3.0, 4.0, 5.0]
    assert t.tolist() == x.tolist()


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "power", "min", "max", "set"])
def test_at_keeps_the_dtype_and_is_differentiable(name: str) -> None:
    x = mg.tensor([1.0, 2.0, 3.0])
    assert getattr(x.at[0], name)(mg.tensor(2.5, dtype=mg.float64)).dtype == mg.float32
    values = np.array([1.3, 0.6])
    index = [2, 0] if name in ("multiply", "divide", "power") else [2, 2]
    gradcheck(lambda a, v: getattr(a.at[index], name)(v), [np.array([1.1, 2.2, 0.7]), values])


def test_a_number_is_written_in_the_dtype_of_the_tensor() -> None:
    x = mg.zeros(2, dtype=mg.float64)
    written = [x.at[0].set(0.1), x.at[0].max(0.1), -x.at[0].min(-0.1), x.at[0].add(0.1), mg.index_put(x, 0.1, 0)]
    written.append(mg.put_along_axis(x, mg.tensor([0]), 0.1))
    for out in written:
        assert out.tolist() == [0.1, 0.0]
    x[0] = 0.1
    assert x.tolist() == [0.1, 0.0]
    assert mg.zeros(1, dtype=mg.int64).at[0].set(2**60 + 1).tolist() == [2**60 + 1]
    with pytest.raises(OverflowError, match=r"index_put: .* needs numbers that the dtype can hold"):
        mg.zeros(1, dtype=mg.uint8).at[0].set(300)


def test_ties_of_at_max_share_the_gradient() -> None:
    x, v = mg.tensor([1.0, 2.0], requires_grad=True), mg.tensor([2.0, 2.0, 1.0], requires_grad=True)
    x.at[[1, 1, 1]].max(v).backward(mg.tensor([5.0, 6.0]))
    assert x.grad is not None
    assert v.grad is not None
    assert x.grad.tolist() == [5.0, 2.0]
    assert v.grad.tolist() == [2.0, 2.0, 0.0]


def test_put_and_take_along_axis_are_numpys() -> None:
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    ids = np.array([[0, 3], [2, 1], [1, 0]])
    expected = x.copy()
    np.put_along_axis(expected, ids, v, axis=1)
    t, places = mg.tensor(x), mg.tensor(ids)
    out = mg.put_along_axis(t, places, mg.tensor(v), axis=1)
    np.testing.assert_array_equal(out.numpy(), expected)
    np.testing.assert_array_equal(mg.take_along_axis(out, places, axis=1).numpy(), v)
    np.testing.assert_array_equal(mg.put_along_axis(t, mg.tensor([[0]]), 0.0, axis=0).numpy()[0], 0.0)
    gradcheck(lambda a, b: mg.put_along_axis(a, places, b, axis=1), [x, v])
    gradcheck(lambda a, b: mg.scatter_add(a, places[:, [0, 0]], b * b, axis=1), [x, v])
    with pytest.raises(ShapeError, match=r"put_along_axis: indices is int64 \(2,\), needs integers with 2 axes"):
        mg.put_along_axis(t, mg.tensor([0, 1]), 0.0)
    with pytest.raises(ShapeError, match="scatter_add: axis is 2"):
        mg.scatter_add(t, places, 0.0, axis=2)


def test_take_reads_and_scatters_along_its_axis() -> None:
    with pytest.raises(ShapeError, match="take: axis is None"):
        mg.take(mg.zeros((2, 2)), mg.tensor([0]))
    assert mg.take(mg.tensor([1.0, 2.0]), mg.tensor([1, 1])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("offset", [-3, -1, 0, 2, 5])
@pytest.mark.parametrize("axes", [(0, 1), (2, 0), (-1, -2)])
def test_diagonal_is_numpys(offset: int, axes: tuple[int, int]) -> None:
    x = np.random.default_rng(3).normal(size=(3, 4, 2))
    np.testing.assert_array_equal(mg.diagonal(mg.tensor(x), offset, *axes).numpy(), np.diagonal(x, offset, *axes))
    gradcheck(lambda t: mg.diagonal(t, offset, *axes) ** 2, [x])


def test_diagonal_needs_two_axes() -> None:
    with pytest.raises(ShapeError, match="diagonal: axes is"):
        mg.diagonal(mg.zeros((2, 2)), axis1=0, axis2=-2)


def test_many_half_precision_values_at_one_place_are_summed_in_float32() -> None:
    for dtype in (mg.float16, mg.bfloat16):
        ones = mg.ones(3072, dtype=dtype)
        total = mg.index_add((2,), np.zeros(3072, int), ones)
        assert total.dtype == dtype
        assert total.tolist() == [3072.0, 0.0]


def test_taking_many_rows_keeps_no_reference_cycle() -> None:
    x = mg.ones((4, 3), requires_grad=True)
    before = sys.getrefcount(x)
    y = mg.take(x, mg.tensor([0, 1, 1]), axis=0)[0]
    del y
    assert sys.getrefcount(x) == before

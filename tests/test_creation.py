"""Creation, conversion, ranges, sets, data types and inspection, and the functions in front of the manipulation ops."""

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import dtypes, ops
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
dtype_list = sorted(dtypes.ALL, key=str)


def same(t: mg.Tensor, expected: Any, dtype: Any = None) -> None:
    """Equal values, and the dtype of `expected` or the one given."""
    expected = np.asarray(expected)
    assert t.dtype == (expected.dtype if dtype is None else dtype)
    np.testing.assert_array_equal(t._array, expected)
    assert t.shape == expected.shape


# --- filled ----------------------------------------------------------------------------------------------------------


@given(shapes, st.sampled_from(dtype_list))
def test_filled_tensors_have_the_shape_dtype_and_value_asked_for(shape: tuple[int, ...], dtype: Any) -> None:
    same(mg.zeros(shape, dtype=dtype), np.zeros(shape, dtype))
    same(mg.ones(shape, dtype=dtype), np.ones(shape, dtype))
    same(mg.full(shape, 1, dtype=dtype), np.ones(shape, dtype))
    like = mg.zeros(shape, dtype=dtype)
    same(mg.zeros_like(like), np.zeros(shape, dtype))
    same(mg.ones_like(like), np.ones(shape, dtype))
    same(mg.full_like(like, 1), np.ones(shape, dtype))
    for t in (mg.empty(shape, dtype=dtype), mg.empty_like(like)):
        assert (t.shape, t.dtype) == (shape, dtype)


@pytest.mark.parametrize("make", [mg.zeros, mg.ones, mg.empty, mg.eye])
def test_float32_is_the_default(make: Any) -> None:
    assert make(2).dtype == mg.float32


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(True, mg.bool), (7, mg.int64), (0.5, mg.float32), (1j, mg.complex64), (np.float64(0.5), mg.float32)],
)
def test_full_takes_its_dtype_from_the_value(value: Any, dtype: Any) -> None:
    same(mg.full(2, value), np.full(2, value), dtype)
    assert mg.full_like(mg.zeros(2, dtype=mg.float16), value if dtype != mg.complex64 else 2).dtype == mg.float16


def test_full_keeps_the_sign_of_zero_and_takes_tensors_without_axes() -> None:
    assert math.copysign(1.0, mg.full((), -0.0).item()) == -1.0
    same(mg.full(2, mg.tensor(3)), np.array([3, 3]))


def test_like_functions_can_change_the_dtype_and_require_grad() -> None:
    for make in (mg.zeros_like, mg.ones_like, mg.empty_like):
        t = make(mg.arange(3), dtype=mg.float64, requires_grad=True)
        assert t.dtype == mg.float64
        assert t.requires_grad
        assert t.is_leaf


@given(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 4)), st.integers(-5, 5))
def test_eye_is_numpy_s(rows: int, columns: int | None, k: int) -> None:
    same(mg.eye(rows, columns, k=k, dtype=mg.int32), np.eye(rows, columns, k=k, dtype=np.int32))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: mg.zeros(-1), ShapeError, "zeros: shape is (-1,), needs extents of at least 0"),
        (lambda: mg.ones((2, 1.5)), DTypeError, "ones: shape is (2, 1.5), needs an int or a tuple of ints"),
        (lambda: mg.empty("ab"), DTypeError, "empty: shape is 'ab', needs an int or a tuple of ints"),
        (lambda: mg.zeros((2**62, 4)), ShapeError, "zeros: shape is (4611686018427387904, 4)"),
        (lambda: mg.eye(2, -1), ShapeError, "eye: shape is (2, -1)"),
        (lambda: mg.full(2, 300, dtype=mg.int8), OverflowError, "full: fill_value is 300, needs a value that int8"),
        (lambda: mg.full(2, "a"), DTypeError, "full: fill_value is 'a', needs a number"),
        (lambda: mg.full(2, [1, 2]), DTypeError, "full: fill_value is [1, 2], needs a number"),
        (lambda: mg.full(2, mg.tensor(1.0, requires_grad=True)), GradError, "the graph would be lost"),
        (lambda: mg.zeros(2, device="cuda"), DeviceError, "zeros: device is 'cuda', "),
        (lambda: mg.zeros_like(mg.zeros(2), device="cuda"), DeviceError, "'cuda'"),
        (lambda: mg.ones(2, dtype=mg.int32, requires_grad=True), GradError, "ones: requires_grad is True for a int32"),
        (lambda: mg.zeros(2, dtype="float8"), DTypeError, "zeros: dtype is 'float8'"),
        (lambda: mg.arange(1, 2, 0), ValueError, "arange: step is 0"),
        (lambda: mg.arange(math.inf), ValueError, "needs finite numbers"),
        (lambda: mg.arange(1e30), ShapeError, "arange: stop is 1e+30, needs at most"),
        (lambda: mg.arange(300, dtype=mg.int8), OverflowError, "needs a dtype that holds 0 to 299"),
        (lambda: mg.arange(0, -2, -1, dtype=mg.uint8), OverflowError, "needs a dtype that holds 0 to -1"),
        (lambda: mg.arange(2, dtype=mg.bool), DTypeError, "arange: dtype is bool"),
        (lambda: mg.arange("a"), DTypeError, "arange: stop is 'a', needs a number"),
        (lambda: mg.arange(3, requires_grad=True), GradError, "arange: requires_grad is True for a int64"),
        (lambda: mg.linspace(0, 1, -1), ShapeError, "linspace: num is -1"),
        (lambda: mg.linspace(0, 1, 2.5), DTypeError, "linspace: num is 2.5, needs an int"),
        (lambda: mg.linspace(0, 1j, 2, dtype=mg.float32), DTypeError, "linspace: dtype is float32"),
        (lambda: mg.meshgrid(mg.ones((2, 2))), ShapeError, "meshgrid: arrays[0] is float32 (2, 2), needs one axis"),
        (lambda: mg.meshgrid(mg.ones(2), indexing="yx"), ValueError, "meshgrid: indexing is 'yx'"),
        (lambda: mg.one_hot(mg.tensor([0]), -1), ShapeError, "one_hot: shape is (-1,)"),
    ],
)
def test_creation_says_what_is_wrong(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


# --- ranges ----------------------------------------------------------------------------------------------------------


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool))
def test_arange_of_integers_is_range(start: int, stop: int, step: int) -> None:
    same(mg.arange(start, stop, step), np.array(range(start, stop, step), np.int64))
    same(mg.arange(stop), np.array(range(stop), np.int64))


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 3), st.booleans())
def test_arange_of_floats_has_the_length_of_the_standard(start: float, stop: float, step: float, down: bool) -> None:
    step = -step if down else step
    found = mg.arange(start, stop, step)
    assert found.dtype == mg.float32
    exact = Fraction(stop) - Fraction(start)
    # one more or less is within the rounding of the quotient
    assert abs(found.shape[0] - max(0, math.ceil(exact / Fraction(step)))) <= 1
    np.testing.assert_allclose(found._array, start + np.arange(found.shape[0]) * step, rtol=1e-6, atol=1e-6)


def test_arange_does_not_accumulate_rounding() -> None:
    found = mg.arange(0.0, 1e5, 0.1)
    assert found.shape == (1_000_000,)
    np.testing.assert_array_equal(found._array, (np.arange(1_000_000) * 0.1).astype(np.float32))


@pytest.mark.parametrize("dtype", [mg.uint64, mg.float16, mg.bfloat16, mg.float64, mg.int8])
def test_arange_in_other_dtypes(dtype: Any) -> None:
    same(mg.arange(1, 6, 2, dtype=dtype), np.array([1, 3, 5]).astype(dtype))


def test_arange_at_the_ends_of_the_integers() -> None:
    same(mg.arange(2**63, 2**63 + 2, dtype=mg.uint64), np.array([2**63, 2**63 + 1], np.uint64))
    same(mg.arange(126, 128, dtype=mg.int8), np.array([126, 127], np.int8))


@given(st.floats(-9, 9), st.floats(-9, 9), st.integers(0, 6), st.booleans())
def test_linspace_is_numpy_s(start: float, stop: float, num: int, endpoint: bool) -> None:
    same(
        mg.linspace(start, stop, num, endpoint=endpoint, dtype=mg.float64),
        np.linspace(start, stop, num, endpoint=endpoint),
    )


def test_linspace_dtypes() -> None:
    assert mg.linspace(0, 1, 3).dtype == mg.float32
    assert mg.linspace(0, 1j, 3).dtype == mg.complex64
    same(mg.linspace(-1, 1, 4, dtype=mg.int32), np.array([-1, -1, 0, 1], np.int32))


@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from(["xy", "ij"]))
def test_meshgrid_is_numpy_s(lengths: list[int], indexing: Any) -> None:
    vectors = [np.arange(n, dtype=np.float64) for n in lengths]
    ours = mg.meshgrid(*map(mg.asarray, vectors), indexing=indexing)
    theirs = np.meshgrid(*vectors, indexing=indexing)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)


# --- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, mg.int64), (True, mg.bool), (0.5, mg.float32), (1j, mg.complex64), ([], mg.float32), ([[1], [2]], mg.int64),
        ([1, 0.5], mg.float32), (np.float64(0.5), mg.float64), ([np.float64(0.5)], mg.float64),
        (np.zeros(2, ">f8"), mg.float64), (np.zeros(2, np.int8), mg.int8), (memoryview(np.zeros(2)), mg.float64),
        ([np.float32(1), np.float32(2)], mg.float32), ([mg.zeros(2, dtype=mg.float64)], mg.float64),
    ],
)  # fmt: skip
def test_python_numbers_take_the_defaults_and_arrays_keep_their_dtype(value: Any, dtype: Any) -> None:
    for make in (mg.tensor, mg.asarray):
        found = make(value)
        assert found.dtype == dtype
        assert found.dtype.isnative
        np.testing.assert_array_equal(found._array, np.asarray(value))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: mg.tensor([[1, 2], [3]]), ShapeError, "tensor: data is a ragged nested sequence"),
        (lambda: mg.tensor([None]), DTypeError, "tensor: data is an object array"),
        (lambda: mg.tensor("text"), DTypeError, "needs numbers or bools"),
        (lambda: mg.tensor(2**63), OverflowError, "Pass dtype=mg.uint64"),
        (lambda: mg.tensor([300], dtype=mg.int8), OverflowError, "300 out of bounds for int8"),
        (lambda: mg.tensor(-1, dtype=mg.uint8), OverflowError, "tensor: data"),
        (lambda: mg.tensor(1j, dtype=mg.float32), DTypeError, "needs a complex dtype"),
        (lambda: mg.tensor([mg.ones((), requires_grad=True)]), GradError, "Use mg.stack"),
        (lambda: mg.tensor(1, requires_grad=True), GradError, "tensor: requires_grad is True for a int64 tensor"),
        (lambda: mg.tensor(1.0, device="gpu"), DeviceError, "tensor: device is 'gpu'"),
        (lambda: mg.asarray(mg.ones(2), device="gpu"), DeviceError, "asarray: device is 'gpu'"),
        (lambda: mg.asarray([1.0], copy=False), ValueError, "a list has no memory to share"),
        (lambda: mg.asarray(np.ones(2), dtype=mg.float32, copy=False), ValueError, "float64 has to be cast to float32"),
        (lambda: mg.asarray(mg.ones(2), dtype=mg.float64, copy=False), ValueError, "float32 has to be cast to float64"),
        (lambda: mg.astype(mg.ones(2), mg.float64, device="gpu"), DeviceError, "astype: device is 'gpu'"),
        (lambda: mg.from_dlpack([1]), DTypeError, "from_dlpack: x is [1], needs an array with __dlpack__"),
        (lambda: mg.from_dlpack(np.array(["a"])), BufferError, "from_dlpack: x is <U1 (1,)"),
        (lambda: mg.from_dlpack(np.ones(2), device="gpu"), DeviceError, "from_dlpack: device is 'gpu'"),
    ],
)
def test_conversion_says_what_is_wrong(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


def test_who_copies() -> None:
    a = np.arange(3.0)
    assert np.shares_memory(mg.asarray(a)._array, a)
    assert np.shares_memory(mg.asarray(a, copy=False)._array, a)
    assert np.shares_memory(mg.from_dlpack(a)._array, a)
    assert not np.shares_memory(mg.tensor(a)._array, a)
    assert not np.shares_memory(mg.asarray(a, copy=True)._array, a)
    assert not np.shares_memory(mg.from_dlpack(a, copy=True)._array, a)
    t = mg.asarray(a)
    assert mg.asarray(t) is t
    assert mg.astype(t, mg.float64, copy=False) is t
    assert not np.shares_memory(mg.copy(t)._array, a)
    assert not np.shares_memory(mg.astype(t, mg.float64)._array, a)


def test_an_exporter_of_dlpack_alone_is_array_like() -> None:
    class Exporter:
        def __init__(self) -> None:
            self.array = np.arange(3.0)

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    exporter = Exporter()
    assert np.shares_memory(mg.asarray(exporter)._array, exporter.array)
    assert np.shares_memory(mg.from_dlpack(exporter)._array, exporter.array)


@pytest.mark.parametrize("make", [mg.copy, lambda t: mg.asarray(t, copy=True), lambda t: mg.astype(t, mg.float64)])
def test_copies_keep_the_graph(make: Any) -> None:
    gradcheck(lambda x: make(x) * x, [np.array([0.5, -1.5])], 2)


# --- in front of the manipulation ops ---------------------------------------------------------------------------------


@given(st.integers(0, 7), st.lists(st.integers(-8, 8), max_size=3), st.integers(1, 4), st.booleans())
def test_split_and_chunk(extent: int, cuts: list[int], parts: int, last: bool) -> None:
    x = np.arange(2.0 * extent).reshape((2, extent) if last else (extent, 2))
    axis = -1 if last else 0
    cuts = sorted(cuts, key=lambda cut: min(max(cut + extent if cut < 0 else cut, 0), extent))
    ours = mg.split(mg.asarray(x), cuts, axis=axis)
    for a, b in zip(ours, np.split(x, [c if c >= 0 else max(c + extent, 0) for c in cuts], axis=axis), strict=True):
        same(a, b)
    if extent % parts == 0:
        for a, b in zip(mg.split(mg.asarray(x), parts, axis=axis), np.split(x, parts, axis=axis), strict=True):
            same(a, b)
    chunks = mg.chunk(mg.asarray(x), parts, axis=axis)
    assert len(chunks) <= parts
    assert all(c.shape[axis] == chunks[0].shape[axis] for c in chunks[:-1])
    same(mg.concat(chunks, axis=axis), x)


@pytest.mark.parametrize("width", [0, 2, (1, 2), ((1, 2), (0, 3)), ((2, 1),), ((1,), (2,))])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_pad_is_numpy_s(width: Any, mode: Any) -> None:
    x = np.arange(12.0).reshape(3, 4)
    same(mg.pad(mg.asarray(x), width, mode), np.pad(x, width, mode))
    gradcheck(lambda t: mg.pad(t * t, width, mode), [x / 6 + 0.3], 2)


def test_pad_values() -> None:
    same(mg.pad(mg.tensor([True]), 1), np.array([False, True, False]))
    same(mg.pad(mg.tensor([1.0]), (0, 2), constant_values=-math.inf), np.array([1, -math.inf, -math.inf], np.float32))


def test_repeat_counts() -> None:
    x = mg.tensor([[1, 2], [3, 4]])
    same(mg.repeat(x, 2), np.array([1, 1, 2, 2, 3, 3, 4, 4]))
    same(mg.repeat(x, mg.tensor([2, 0]), axis=-1), np.array([[1, 1], [3, 3]]))
    same(mg.repeat(x, [1, 2], axis=0), np.array([[1, 2], [3, 4], [3, 4]]))
    same(mg.repeat(mg.zeros(0), []), np.zeros(0, np.float32))


def test_joining_promotes_and_takes_array_likes() -> None:
    half, brain = mg.ones(1, dtype=mg.float16), mg.ones(1, dtype=mg.bfloat16)
    assert mg.concat([half, brain]).dtype == mg.float32
    assert mg.stack([half, mg.arange(1)]).dtype == mg.float16
    same(mg.concat([mg.ones(1), [2, 3], np.array([4.0], np.float32)]), np.array([1, 2, 3, 4], np.float32))
    same(mg.stack([mg.tensor(1.0), 2.0]), np.array([1, 2], np.float32))


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: mg.concat([x, y * x[:1], x], axis=0),
        lambda x, y: mg.stack([x, x * y], axis=-1),
        lambda x, y: mg.unstack(x * y, axis=1)[1],
        lambda x, y: mg.split(x * y, 3, axis=1)[2],
        lambda x, y: mg.chunk(x * y, 2, axis=1)[0],
        lambda x, y: mg.broadcast_arrays(x * x, y)[1] * x,
        lambda x, y: mg.meshgrid(mg.flatten(x), y[0])[0] * mg.meshgrid(mg.flatten(x), y[0])[1],
        lambda x, y: mg.flatten(mg.tile(x, (2, 1, 2))) * mg.repeat(mg.flatten(x * y), 4),
    ],
)
def test_functions_of_several_tensors_are_differentiable_twice(f: Any) -> None:
    gradcheck(f, [np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]]), np.array([[0.4, 1.1, -0.9]])], 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: mg.concat([]), ShapeError, "concat: arrays is empty, needs at least one tensor"),
        (lambda: mg.stack(3), DTypeError, "stack: arrays is 3, needs a sequence of tensors"),
        (lambda: mg.split(mg.arange(5), 2), ShapeError, "split: indices_or_sections is 2, needs a divisor of axis 0's"),
        (lambda: mg.split(mg.arange(5), (3, 1)), ShapeError, "cuts in ascending order"),
        (lambda: mg.split(mg.arange(5), 1.5), DTypeError, "split: indices_or_sections is 1.5, needs an int"),
        (lambda: mg.split(mg.tensor(1.0), 1), ShapeError, "split: axis is 0 for float32 (), needs an axis of x"),
        (lambda: mg.chunk(mg.arange(5), 0), ShapeError, "chunk: chunks is 0, needs at least 1"),
        (lambda: mg.pad(mg.ones(2), (1, 2, 3)), ShapeError, "a pair for each of 1 axes"),
        (lambda: mg.pad(mg.ones(2), -1), ShapeError, "pad: pad_width is -1, needs numbers of at least 0"),
        (lambda: mg.pad(mg.ones(2), 0.5), DTypeError, "pad: pad_width is 0.5, needs integers"),
        (lambda: mg.pad(mg.ones(2), 1, "replicate"), ValueError, "PyTorch's 'replicate' is 'edge'"),
        (lambda: mg.pad(mg.arange(2), 1, constant_values=0.5), DTypeError, "a value that int64 can hold"),
        (lambda: mg.repeat(mg.ones(2), 1.5), DTypeError, "repeat: repeats is float32 (), needs an int"),
        (lambda: mg.repeat(mg.ones((2, 2)), 2, axis=2), ShapeError, "repeat: axis is 2 for shape (2, 2)"),
        (lambda: mg.flatten(mg.ones((2, 3)), 1, 0), ShapeError, "flatten: axes is 1 to 0"),
        (lambda: mg.broadcast_arrays(mg.ones(2), mg.ones(3)), ShapeError, "arrays is (2,) and (3,), needs shapes that"),
        (lambda: mg.reshape(mg.ones((2, 3)).T, (6,), copy=False), ShapeError, "reshape: got x"),
    ],
)
def test_manipulation_says_what_is_wrong(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


# --- sets ------------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, shapes, elements=st.sampled_from([-1.5, 0.0, 2.0, 7.0])))
def test_unique_counts_what_a_counter_counts(x: Array) -> None:
    expected = sorted(Counter(x.ravel().tolist()).items())
    found = mg.unique_all(mg.asarray(x))
    assert list(zip(found.values._array.tolist(), found.counts._array.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(found.values._array[found.inverse_indices._array], x)
    first = {v: i for i, v in reversed(list(enumerate(x.ravel().tolist())))}
    assert found.indices._array.tolist() == [first[v] for v, _ in expected]
    same(mg.unique_values(mg.asarray(x)), found.values._array)
    values, counts = mg.unique_counts(mg.asarray(x))
    same(values, found.values._array)
    same(counts, found.counts._array)
    values, inverse = mg.unique_inverse(mg.asarray(x))
    same(values, found.values._array)
    same(inverse, found.inverse_indices._array)
    assert inverse.shape == x.shape


def test_every_nan_is_unique_and_values_have_no_gradient() -> None:
    x = mg.tensor([math.nan, 1.0, math.nan], requires_grad=True)
    found = mg.unique_all(x)
    assert found.counts._array.tolist() == [1, 1, 1]
    assert not found.values.requires_grad


@pytest.mark.parametrize("dtype", [mg.bfloat16, mg.float16, mg.bool, mg.uint8, mg.complex64])
def test_unique_values_in_other_dtypes(dtype: Any) -> None:
    same(mg.unique_values(mg.tensor([1, 0, 1], dtype=dtype)), np.array([0, 1]).astype(dtype))


# --- data types and inspection ----------------------------------------------------------------------------------------


@given(st.lists(shapes, max_size=3))
def test_broadcast_shapes_is_numpy_s(some: list[tuple[int, ...]]) -> None:
    try:
        expected = np.broadcast_shapes(*some)
    except ValueError:
        with pytest.raises(ShapeError, match=r"broadcast_shapes: shapes is .* needs extents that are equal or 1"):
            mg.broadcast_shapes(*some)
    else:
        assert mg.broadcast_shapes(*some) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((mg.int8, mg.int16), mg.int16),
        ((mg.int64, mg.float16), mg.float16),
        ((mg.float16, mg.bfloat16), mg.float32),
        ((mg.zeros(2, dtype=mg.int8), 1.5), mg.float32),
        ((mg.bool, 1), mg.int64),
        ((mg.float32, mg.complex64, 1), mg.complex64),
        ((np.zeros(1), "float32"), mg.float64),
        ((1, 2.0), mg.float32),
    ],
)
def test_result_type(given: tuple[Any, ...], expected: Any) -> None:
    assert mg.result_type(*given) == expected


def test_result_type_and_can_cast_at_their_limits() -> None:
    with pytest.raises(ValueError, match="result_type: arrays_and_dtypes is empty"):
        mg.result_type()
    with pytest.raises(DTypeError, match="uint64 and int64"):
        mg.result_type(mg.uint64, mg.int64)
    assert not mg.can_cast(mg.uint64, mg.int64)
    assert mg.can_cast(mg.zeros(2, dtype=mg.int8), mg.int16)
    assert not mg.can_cast(mg.float32, mg.int64)


def test_the_namespace_describes_itself() -> None:
    info = ops.__array_namespace_info__()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert info.devices() == [info.default_device()] == [mg.zeros(1).device]
    defaults = info.default_dtypes()
    assert defaults["real floating"] == mg.zeros(1).dtype
    assert defaults["complex floating"] == mg.tensor(1j).dtype
    assert defaults["integral"] == mg.arange(1).dtype
    assert defaults["indexing"] == mg.argsort(mg.zeros(1)).dtype
    assert info.dtypes(kind="real floating") == {"float32": mg.float32, "float64": mg.float64}
    assert set(info.dtypes(kind=("bool", "signed integer"))) == {"bool", "int8", "int16", "int32", "int64"}
    assert all(getattr(ops, name) == dtype for name, dtype in info.dtypes().items())
    with pytest.raises(DeviceError):
        info.dtypes(device="gpu")


def test_constants() -> None:
    assert (ops.e, ops.pi, ops.inf, ops.newaxis) == (math.e, math.pi, math.inf, None)
    assert math.isnan(ops.nan)

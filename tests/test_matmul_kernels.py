"""Kernels of matmul and linear: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, ops
from minigrad._core import blas, cpu
from minigrad._core.cpu import Kernel
from minigrad.ops.registry import REGISTRY
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import broadcastable_shapes, layouts
from minigrad.testing.variants import assert_variants, variant

pytestmark = pytest.mark.skipif(not blas.available(), reason="NumPy's BLAS was not found")

RULES = {"matmul": 2, "linear": 3, "linear_relu": 3}
NAMES = [*RULES, *(f"{name}_vjp{i}" for name, n in RULES.items() for i in range(n))]
KERNELS = {name: Kernel("matmul", name) for name in NAMES}
FLOATS = (mg.float32, mg.float64)
Array = np.ndarray[Any, Any]


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


@st.composite
def factors(draw: st.DrawFn, sides: st.SearchStrategy[int]) -> tuple[Array, Array]:
    """Stacks of matrices that can be multiplied, in any layout, some of their elements infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    m, k, n = (draw(sides) for _ in range(3))
    first, second = draw(broadcastable_shapes(2, max_side=3))
    dtype = draw(st.sampled_from(FLOATS))
    made = []
    for shape in ((*first, m, k), (*second, k, n)):
        x = rng.normal(size=shape)
        x[rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.05]))] = draw(st.sampled_from([math.inf, math.nan]))
        made.append(relayout(x.astype(dtype), draw(layouts())))
    return made[0], made[1]


def taken(*factors: Array) -> bool | None:
    """Whether kernels must take factors: vectors, and stacks with matrices of one row or column, are left to NumPy."""
    return None if all(a.ndim > 1 and min(a.shape[-2:]) > 1 for a in factors) else False


def turned(x: Array) -> Array:
    """The transposed matrices in memory of their own."""
    return np.ascontiguousarray(np.swapaxes(x, -1, -2))


@given(pair=factors(st.integers(0, 5) | st.integers(30, 45)), left=st.booleans(), right=st.booleans())
def test_matmul_is_the_generic_one(pair: tuple[Array, Array], left: bool, right: bool) -> None:
    x1, x2 = turned(pair[0]) if left else pair[0], turned(pair[1]) if right else pair[1]

    def product(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        return mg.matmul(mg.matrix_transpose(a) if left else a, mg.matrix_transpose(b) if right else b)

    assert_variants(product, x1, x2, floor=10.0, ran=taken(x1, x2))


def coarse(x: Array) -> Array:
    """Quarters, whose products and sums are exact: nothing is rounded to the other side of relu's kink."""
    return (np.round(4 * x) / 4).astype(x.dtype)


@given(data=st.data(), pair=factors(st.integers(0, 4) | st.integers(30, 45)), biased=st.booleans())
def test_linear_is_the_generic_one(data: st.DataObject, pair: tuple[Array, Array], biased: bool) -> None:
    x, columns = pair[0], pair[1].shape[-1]
    arrays = [x] + [
        relayout(normal(*shape, dtype=x.dtype), data.draw(layouts()))
        for shape in [(x.shape[-1], columns), (columns,)][: 1 + biased]
    ]
    ran = taken(*arrays[:2])
    assert_variants(mg.linear, *arrays, floor=10.0, ran=ran)
    assert_variants(ops.linear_relu, *map(coarse, arrays), floor=10.0, ran=ran)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((130, 120), (120, 140)),
        ((530, 300), (300, 290)),  # more tiles
        ((5000, 20), (20, 12)),
        ((12, 20), (20, 5000)),
        ((30, 9000), (9000, 20)),  # a long sum, in parts
        ((200, 2100), (2100, 230)),
        ((30, 50, 60), (30, 60, 40)),  # a stack
        ((300, 10, 10), (300, 10, 12)),  # groups of small matrices
        ((40, 60, 50), (50, 70)),  # one large matrix
        ((60, 50), (40, 50, 60)),  # the first factor's gradient is a sum
        ((3, 1, 40, 50), (5, 50, 60)),  # as both are
    ],
)
def test_large_matmul(dtype: Any, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x1, x2 = normal(*first, dtype=dtype), normal(*second, dtype=dtype)
    assert_variants(mg.matmul, x1, x2, floor=10.0)
    assert_variants(lambda a, b: mg.matmul(a, mg.matrix_transpose(b)), x1, turned(x2), floor=10.0)
    assert_variants(lambda a, b: mg.matmul(mg.matrix_transpose(a), b), turned(x1), x2, floor=10.0)


# extents on both sides of LANES, of 4 rows at a time, of 8 rows at a time, of a slab
VECTORS = [(1, 2, 2), (1, 5, 3), (1, 8, 9), (1, 17, 64), (1, 130, 67), (1, 40, 2049), (1, 700, 700), (1, 9, 50_000)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("m", "k", "n"), VECTORS + [size[::-1] for size in VECTORS])
def test_a_matrix_and_a_vector(dtype: Any, m: int, k: int, n: int) -> None:
    x1, x2 = normal(m, k, dtype=dtype), normal(k, n, dtype=dtype)
    assert_variants(mg.matmul, x1, x2, floor=10.0)
    assert_variants(lambda a, b: mg.matmul(a, mg.matrix_transpose(b)), x1, turned(x2), floor=10.0)
    assert_variants(lambda a, b: mg.matmul(mg.matrix_transpose(a), b), turned(x1), x2, floor=10.0)
    x, weight, bias = coarse(x1), coarse(x2), coarse(normal(n, dtype=dtype))
    for op in (mg.linear, ops.linear_relu):
        assert_variants(op, x, weight, bias, floor=10.0)
        assert_variants(op, x[None], weight, floor=10.0)


def test_a_vector_with_gaps_between_its_numbers_is_left_to_numpy() -> None:
    weight = normal(5, 3)
    column = normal(5, 8)[:, :1]
    row = column.T
    assert KERNELS["matmul"](weight.T, column) is NotImplemented
    assert KERNELS["matmul"](row, weight) is NotImplemented
    assert KERNELS["matmul"](normal(4, 1, 5), normal(4, 5, 3)) is NotImplemented


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (900, 900), (300, 5000)])
def test_the_gradient_of_a_vector_is_added_into_an_array(dtype: Any, shape: tuple[int, int]) -> None:
    x, g = normal(shape[0], 1, dtype=dtype), normal(shape[0], shape[1], dtype=dtype)
    into = normal(1, shape[1], dtype=dtype)
    total = into + x.T @ g
    assert KERNELS["matmul_vjp1"](g, x, (1, shape[1]), into=into) is into
    np.testing.assert_allclose(into, total, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", [mg.linear, ops.linear_relu], ids=["linear", "linear_relu"])
def test_large_linear(dtype: Any, op: Any) -> None:
    x, weight, bias = (coarse(normal(*shape, dtype=dtype)) for shape in [(9, 70, 120), (120, 130), (130,)])
    assert_variants(op, x, weight, bias, floor=10.0)
    assert_variants(op, x, weight, floor=10.0)


def test_a_stack_with_axes_apart_in_memory() -> None:
    x = normal(7, 5, 4, 6).transpose(1, 2, 0, 3)  # heads before positions, as attention has them
    y = normal(5, 7, 4, 6).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(KERNELS["matmul"](x, y), x @ y, rtol=1e-5, atol=1e-5)
    assert_variants(lambda a, b: mg.matmul(a.transpose(1, 2, 0, 3), b), normal(7, 5, 4, 6), np.array(y), floor=10.0)
    assert_variants(lambda a, b: mg.matmul(a.transpose(1, 2, 0, 3), b), normal(7, 5, 4, 6), normal(6, 3), floor=10.0)


def test_a_cotangent_without_memory() -> None:
    x, weight = normal(6, 5), normal(5, 4)
    g = np.broadcast_to(np.float32(2), (6, 4))
    np.testing.assert_allclose(KERNELS["matmul_vjp0"](g, (6, 5), weight), g @ weight.T, rtol=1e-5)
    np.testing.assert_allclose(KERNELS["matmul_vjp1"](g, x, (5, 4)), x.T @ g, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("x1", "g", "shape"),
    [
        ((20, 8), (20, 9), (8, 9)),
        ((300, 90), (300, 80), (90, 80)),
        ((5000, 20), (5000, 30), (20, 30)),
        ((4, 20, 8), (4, 20, 9), (8, 9)),
        ((4, 20, 8), (4, 20, 9), (4, 8, 9)),
        ((2, 4, 20, 8), (2, 4, 20, 9), (1, 4, 8, 9)),
        ((0, 8), (0, 9), (8, 9)),
    ],
)
def test_a_gradient_is_added_into_an_array(
    dtype: Any, x1: tuple[int, ...], g: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    a, b = normal(*x1, dtype=dtype), normal(*g, dtype=dtype)
    names = ["matmul_vjp1", "linear_vjp1"] if len(shape) == 2 else ["matmul_vjp1"]
    for name in names:
        before = normal(*shape, dtype=dtype)
        total = before + KERNELS[name](b, a, shape)
        into = before.copy()
        assert KERNELS[name](b, a, shape, into=into) is into
        np.testing.assert_allclose(into, total, rtol=1e-5, atol=1e-4)
    if len(shape) == 2:
        out = normal(*g, dtype=dtype, seed=1)
        total = before + KERNELS["linear_relu_vjp1"](b, a, shape, out)
        assert KERNELS["linear_relu_vjp1"](b, a, shape, out, into=before) is before
        np.testing.assert_allclose(before, total, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("op", [mg.matmul, mg.linear, ops.linear_relu], ids=["matmul", "linear", "linear_relu"])
def test_passes_add_into_the_gradient_of_a_weight(op: Any) -> None:
    x, weight, g = mg.asarray(normal(6, 5)), mg.tensor(normal(5, 4), requires_grad=True), mg.asarray(normal(6, 4))
    op(x, weight).backward(g)
    once, memory = weight.grad.tolist(), weight.grad
    op(x, weight).backward(g)
    assert weight.grad is memory
    np.testing.assert_allclose(memory.numpy(), 2 * np.array(once), rtol=1e-5, atol=1e-5)
    (op(x, weight) + op(2 * x, weight)).backward(g)
    np.testing.assert_allclose(memory.numpy(), 5 * np.array(once), rtol=1e-5, atol=1e-5)


A, G = normal(5, 3), normal(5, 4)
FROZEN = np.zeros((3, 4), np.float32)
FROZEN.flags.writeable = False


@pytest.mark.parametrize(
    "into",
    [np.zeros((3, 4)), np.zeros((4, 3), np.float32), np.zeros((3, 4), np.float32, order="F"), FROZEN, 0.0,
     np.zeros((1, 3, 4), np.float32), np.zeros((6, 4), np.float32)[::2], np.zeros((3, 4), ">f4")],
)  # fmt: skip
def test_an_array_that_cannot_be_added_into(into: Any) -> None:
    assert KERNELS["matmul_vjp1"](G, A, (3, 4), into=into) is NotImplemented
    assert KERNELS["linear_vjp1"](G, A, (3, 4), into=into) is NotImplemented


@pytest.mark.parametrize("rows", [1, 3, 127, 128, 129, 1000, 20_000])
@pytest.mark.parametrize("columns", [1, 7, 1025])
def test_sums_of_columns(rows: int, columns: int) -> None:
    if rows * columns > 200_000:
        columns = 10
    for dtype in FLOATS:
        g, out = normal(rows, columns, dtype=dtype), normal(rows, columns, dtype=dtype, seed=1)
        exact = g.astype(np.float64).sum(axis=0)
        allowed = 4 * np.finfo(dtype).eps * np.abs(g).sum(axis=0)
        assert np.all(np.abs(KERNELS["linear_vjp2"](g) - exact) <= allowed)
        stack = g.reshape(1, rows, columns)
        assert KERNELS["linear_vjp2"](stack).tobytes() == KERNELS["linear_vjp2"](g).tobytes()
        passed = np.where(out > 0, g.astype(np.float64), 0).sum(axis=0)
        assert np.all(np.abs(KERNELS["linear_relu_vjp2"](g, out) - passed) <= allowed)


def test_a_sum_of_many_ones_is_exact() -> None:
    assert KERNELS["linear_vjp2"](np.ones((70_000, 2), np.float32)).tolist() == [70_000.0] * 2


def test_empty_sums_are_zeros_and_the_bias() -> None:
    x, weight, bias = normal(3, 0), normal(0, 4), normal(4)
    assert KERNELS["matmul"](x, weight).tolist() == [[0.0] * 4] * 3
    np.testing.assert_array_equal(KERNELS["linear"](x, weight, bias), np.broadcast_to(bias, (3, 4)))
    assert KERNELS["matmul_vjp1"](normal(0, 4), normal(0, 3), (3, 4)).tolist() == [[0.0] * 4] * 3
    assert KERNELS["matmul_vjp1"](normal(0, 2, 4), normal(0, 2, 3), (3, 4)).tolist() == [[0.0] * 4] * 3
    assert KERNELS["matmul"](normal(0, 2, 3), normal(3, 4)).shape == (0, 2, 4)


def test_kernels_are_registered_and_take_read_only_arrays() -> None:
    for name in RULES:
        op = REGISTRY[name]
        for dtype in FLOATS:
            assert ("cpu", dtype) in op.kernels
            assert all(("cpu", dtype) in vjp.kernels for vjp in op.vjps)
    x, weight, bias = (relayout(a, "readonly") for a in (normal(5, 3), normal(3, 4), normal(4)))
    assert KERNELS["linear"](x, weight, bias).shape == (5, 4)


@pytest.mark.parametrize(
    ("x1", "x2"),
    [
        (A, A),
        (A[0], A.T),
        (A, A[0]),
        (A, A.T.astype(np.float64)),
        (A.astype(np.float16), A.T.astype(np.float16)),
        (A.astype(">f4"), A.T.astype(">f4")),
        (A, A.T.tolist()),
        (np.zeros((2, 5, 3), np.float32), np.zeros((3, 3, 4), np.float32)),
        (np.zeros((1,) * 9 + (5, 3), np.float32), np.zeros((3, 4), np.float32)),
    ],
)
def test_matmul_leaves_to_the_generic_body(x1: Any, x2: Any) -> None:
    assert KERNELS["matmul"](x1, x2) is NotImplemented
    assert KERNELS["linear"](x1, x2, None) is NotImplemented


def test_rules_leave_to_the_generic_ones() -> None:
    for arguments in [(G, (5, 4), A.T), (G, (6, 3), A.T), (G, (3,), A.T), (G[:, ::-1], (3, 5), A.T)]:
        assert KERNELS["matmul_vjp0"](*arguments) is NotImplemented
    assert KERNELS["matmul_vjp0"](normal(2, 5, 4), (3, 5, 3), normal(2, 3, 4)) is NotImplemented
    assert KERNELS["matmul_vjp1"](G, A, (3, 5)) is NotImplemented
    assert KERNELS["matmul_vjp1"](G, A[:4], (3, 4)) is NotImplemented
    assert KERNELS["linear_vjp1"](normal(2, 5, 4), normal(2, 5, 3), (2, 3, 4)) is NotImplemented
    for g in (G[:, ::2], G[0], G[:0], G.astype(np.float16)):
        assert KERNELS["linear_vjp2"](g) is NotImplemented
    for out in (G[:4], G.astype(np.float64), np.asfortranarray(G), None):
        assert KERNELS["linear_relu_vjp0"](G, normal(3, 4), out) is NotImplemented
        assert KERNELS["linear_relu_vjp1"](G, A, (3, 4), out) is NotImplemented
        assert KERNELS["linear_relu_vjp2"](G, out) is NotImplemented
    for bias in (normal(3), normal(4, dtype=np.float64), normal(1, 4), normal(8)[::2]):
        assert KERNELS["linear"](A, normal(3, 4), bias) is NotImplemented


def test_dense_fuses_relu() -> None:
    layer = nn.Dense(4, activation="relu", in_features=3)
    y = layer(mg.asarray(A))
    assert y.grad_fn is not None
    assert y.grad_fn.rule is ops.linear_relu
    expected = np.maximum(A @ layer.weight.detach().numpy(), 0)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert nn.Dense(4, activation="tanh", in_features=3)(mg.asarray(A)).grad_fn.rule is mg.tanh


@pytest.mark.parametrize(("shape", "dtype"), [((97, 1100, 701), mg.float32), ((801, 530, 200), mg.float64)])
def test_products_larger_than_the_cache(shape: tuple[int, int, int], dtype: Any) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(scale=k**-0.5, size=s).astype(dtype) for s in [(m, k), (k, n), (n,)])
    assert_variants(mg.matmul, np.asfortranarray(x), np.asfortranarray(w), wide=True, floor=1.0, ran=True)
    assert_variants(ops.linear_relu, x, w, b, wide=True, floor=1.0)
    g, room = rng.normal(size=(m, n)).astype(dtype), np.ones((k, n), dtype)
    for level in cpu.levels():
        with variant(level, 2):
            room[:] = 1
            assert KERNELS["linear_vjp1"](g, x, w.shape, into=room) is room
        tolerance = 1e-4 if dtype == mg.float32 else 1e-12
        np.testing.assert_allclose(room, 1 + x.T.astype(np.float64) @ g, rtol=0, atol=tolerance)

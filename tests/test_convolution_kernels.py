"""Kernels of convolution and pooling: each equals the generic body and rule, and leaves alone what it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import blas
from minigrad._core.cpu import Kernel
from minigrad.ops.convolution import Geometry, _conv_kernel
from minigrad.ops.registry import REGISTRY
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants

pytestmark = pytest.mark.skipif(not blas.available(), reason="NumPy's BLAS was not found")

FLOATS = (mg.float32, mg.float64)
Array = np.ndarray[Any, Any]


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


@st.composite
def problems(draw: st.DrawFn, transposed: bool = False) -> tuple[list[Array], dict[str, Any], int]:
    """x, a weight and perhaps a bias; stride, padding, dilation and groups; the number of spatial axes."""
    n, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 5)), draw(st.integers(1, 10))
    kernel, stride, dilation = ([draw(st.integers(1, 3)) for _ in range(n)] for _ in range(3))
    padding = [draw(st.integers(0, 3)) for _ in range(n)]
    extents = [
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 9)) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    options: dict[str, Any] = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    options["groups"] = groups
    if transposed:
        padding = [min(p, d * (k - 1) // 2) for p, d, k in zip(padding, dilation, kernel, strict=True)]
        options["padding"] = tuple(padding)
        options["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
    shapes = [(draw(st.integers(1, 3)), groups * inner, *extents)]
    shapes += [(groups * inner, outer, *kernel) if transposed else (groups * outer, inner, *kernel)]
    shapes += [(groups * outer,)] * draw(st.integers(0, 1))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**31))), draw(st.sampled_from(FLOATS))
    return [relayout(rng.normal(size=s).astype(dtype), draw(layouts())) for s in shapes], options, n


@given(problem=problems())
def test_convolution_is_the_generic_one(problem: Any) -> None:
    arrays, options, n = problem
    assert_variants(lambda *a: (mg.conv1d if n == 1 else mg.conv2d)(*a, **options), *arrays, floor=10.0)


@given(problem=problems(transposed=True))
def test_transposed_convolution_is_the_generic_one(problem: Any) -> None:
    arrays, options, n = problem
    convolve = mg.conv_transpose1d if n == 1 else mg.conv_transpose2d
    assert_variants(lambda *a: convolve(*a, **options), *arrays, floor=10.0)


LARGE = [
    ((5, 3, 30, 31), (9, 3, 3, 3), {"padding": 1}),
    ((3, 70, 12, 13), (17, 70, 3, 3), {}),  # windows in several chunks of channels
    ((2, 40, 17, 16), (50, 40, 5, 5), {"stride": 2, "padding": 2}),
    ((20, 30, 3, 3), (25, 30, 3, 3), {"padding": 1}),  # blocks of several images
    ((40, 8, 1, 1), (8, 8, 1, 1), {}),
    ((3, 33, 20, 21), (40, 33, 1, 1), {}),  # no windows but pixels
    ((3, 33, 20, 21), (40, 33, 1, 1), {"stride": 2}),
    ((2, 12, 20, 20), (12, 1, 3, 3), {"groups": 12, "padding": 1}),
    ((3, 6, 700), (10, 6, 7), {"dilation": 3, "padding": "same"}),
    ((2, 600, 8), (3, 600, 2), {"stride": 3}),
    ((2, 2, 400, 1), (3, 2, 3, 1), {}),  # as many runs as windows
    ((2, 70, 22, 23), (20, 35, 3, 3), {"padding": 1, "groups": 2}),  # along the rows of padded images
    ((3, 60, 9, 40), (10, 60, 3, 3), {"padding": (2, 4), "dilation": (2, 3)}),
    ((2, 5, 60), (9, 5, 4), {"padding": "same"}),
    ((3, 9, 31, 75), (9, 1, 3, 3), {"groups": 9, "padding": 1}),  # shifted rows
    ((3, 9, 31, 75), (18, 1, 5, 4), {"groups": 9, "padding": 2, "stride": (3, 2), "dilation": (1, 2)}),
    ((2, 40, 20, 82), (2, 40, 3, 3), {"padding": 1}),  # some rows at a time
    ((2, 1, 20, 20), (30, 1, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("x", "weight", "options"), LARGE)
def test_large_convolution(x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], dtype: Any) -> None:
    scale = 1 / math.sqrt(math.prod(weight[1:]))
    arrays = [normal(*x, dtype=dtype), normal(*weight, dtype=dtype) * dtype.type(scale), normal(weight[0], dtype=dtype)]
    convolve = mg.conv1d if len(x) == 3 else mg.conv2d
    assert_variants(lambda *a: convolve(*a, **options), *arrays, wide=True, floor=100.0)


@pytest.mark.parametrize("shape", [(9, 4, 3, 3), (2, 4, 3, 3), (4, 1, 3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_pixel_that_is_not_finite_reaches_the_windows_that_hold_it(shape: tuple[int, ...], stride: int) -> None:
    x, weight = normal(2, 4, 15, 14), normal(*shape)
    x[0, 1, 0, 0], x[1, 3, 14, 13], x[0, 0, 5, 13], x[0, 2, 6, 0] = math.inf, -math.inf, math.nan, math.inf
    options = {"padding": 1, "stride": stride, "groups": 4 // shape[1]}
    assert_variants(lambda *a: mg.conv2d(*a, **options), x, weight, floor=10.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_large_transposed_convolution(stride: int, dtype: Any) -> None:
    arrays = [normal(3, 20, 15, 16, dtype=dtype), normal(20, 11, 4, 4, dtype=dtype) / 8, normal(11, dtype=dtype)]
    options = {"stride": stride, "padding": 1, "output_padding": stride - 1}
    assert_variants(lambda *a: mg.conv_transpose2d(*a, **options), *arrays, wide=True, floor=100.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_gradient_of_a_weight_has_kernels_of_its_own(dtype: Any) -> None:
    arrays = normal(3, 4, 9, 8, dtype=dtype), normal(3, 6, 4, 4, dtype=dtype)
    geometry = Geometry((2, 2), ((0, 1), (1, 0)), (1, 1), 2)
    assert_variants(lambda x, y: _conv_kernel(x, y, kernel=(3, 3), geometry=geometry), *arrays, floor=10.0)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Array, dict[str, Any], int]:
    """Whole numbers, with ties, some of them infinite or NaN; a window; the number of spatial axes."""
    n = draw(st.integers(1, 2))
    window, stride = (tuple(draw(st.integers(1, 3)) for _ in range(n)) for _ in range(2))
    padding = tuple(draw(st.integers(0, w // 2)) for w in window)
    extents = [draw(st.integers(w, 9)) for w in window]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.integers(-3, 4, (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *extents)).astype(np.float64)
    x[rng.random(x.shape) < draw(st.sampled_from([0.0, 0.1]))] = draw(st.sampled_from([math.inf, -math.inf, math.nan]))
    array = relayout(x.astype(draw(st.sampled_from(FLOATS))), draw(layouts()))
    return array, {"window": window, "stride": stride, "padding": padding}, n


@given(problem=pools(), dilation=st.integers(1, 2), ceil=st.booleans())
def test_max_pooling_is_the_generic_one(problem: Any, dilation: int, ceil: bool) -> None:
    x, options, n = problem
    spans = [dilation * (w - 1) + 1 - 2 * p for w, p in zip(options["window"], options["padding"], strict=True)]
    if any(span > extent for span, extent in zip(spans, x.shape[2:], strict=True)):
        dilation = 1
    pool = mg.max_pool1d if n == 1 else mg.max_pool2d
    assert_variants(lambda a: pool(a, dilation=dilation, ceil_mode=ceil, **options), x)


@given(problem=pools(), included=st.booleans())
def test_mean_pooling_is_the_generic_one(problem: Any, included: bool) -> None:
    x, options, n = problem
    pool = mg.avg_pool1d if n == 1 else mg.avg_pool2d
    assert_variants(lambda a: pool(a, count_include_pad=included, **options), x, floor=10.0)


def test_kernels_are_registered() -> None:
    for name in ("conv", "conv_transpose", "conv_kernel"):
        op = REGISTRY[name]
        for dtype in FLOATS:
            assert ("cpu", dtype) in op.kernels
            assert all(("cpu", dtype) in vjp.kernels for vjp in op.vjps[:2])
    for name in ("max_pool", "avg_pool"):
        assert all(("cpu", dtype) in REGISTRY[name].kernels for dtype in FLOATS)
        assert all(("cpu", dtype) in REGISTRY[name].vjps[0].kernels for dtype in FLOATS)


LINE = Geometry((1,), ((0, 0),), (1,), 1)
X, W = normal(2, 3, 5), normal(4, 3, 2)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "geometry"),
    [
        (X.astype(np.float16), W, None, LINE),
        (X, W.astype(np.float64), None, LINE),
        (X, W, normal(3), LINE),
        (X, W, normal(4, dtype=np.float64), LINE),
        (X, W, normal(8)[::2], LINE),
        (X, normal(4, 2, 2), None, LINE),
        (X, normal(4, 3, 6), None, LINE),  # a window larger than x
        (X[0], W, None, LINE),
        (normal(2, 3, 5, 5, 5), normal(4, 3, 2, 2, 2), None, Geometry((1,) * 3, ((0, 0),) * 3, (1,) * 3, 1)),
        (X[:0], W, None, LINE),
        (X.tolist(), W, None, LINE),
        (X, W, None, Geometry((1,), ((0, 0),), (1,), 2)),
    ],
)
def test_convolution_leaves_to_the_generic_body(x: Any, weight: Any, bias: Any, geometry: Geometry) -> None:
    assert Kernel("convolution", "conv")(x, weight, bias, geometry=geometry) is NotImplemented


def test_rules_leave_to_the_generic_ones() -> None:
    g = normal(2, 4, 4)
    transpose, product = Kernel("convolution", "conv_vjp0"), Kernel("convolution", "conv_vjp1")
    for shape in [(2, 3, 6), (2, 3, 5, 1)]:
        assert transpose(g, shape, W, geometry=LINE) is NotImplemented
    assert transpose(g[:, :3], X.shape, W, geometry=LINE) is NotImplemented
    assert product(g[:1], X, W.shape, geometry=LINE) is NotImplemented
    assert product(g, X, (4, 3, 3), geometry=LINE) is NotImplemented
    back = Kernel("pooling", "max_pool_vjp")
    options: dict[str, Any] = {"window": (2,), "stride": (2,), "padding": ((0, 0),), "dilation": (1,)}
    for cotangent, out in [(normal(2, 3, 2), normal(2, 3, 3)), (normal(2, 3, 3), normal(2, 3, 3))]:
        assert back(cotangent, X, out, **options) is NotImplemented
    assert back(normal(2, 3, 2), X.astype(np.float64), normal(2, 3, 2), **options) is NotImplemented
    mean = Kernel("pooling", "avg_pool_vjp")
    more: dict[str, Any] = {"window": (2,), "stride": (2,), "padding": ((0, 0),), "count_include_pad": True}
    assert mean(normal(2, 3, 3), X.shape, **more) is NotImplemented

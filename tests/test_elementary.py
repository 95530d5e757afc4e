"""Elementary functions and activations of the core: their errors, and that kernels are the generic body."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import cpu
from minigrad._core.cpu import Kernel
from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CANCELLED
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts, shapes
from minigrad.testing.variants import assert_variants, variant

Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
WIDE = {mg.float32: np.float64, mg.float64: np.longdouble}
SPECIAL = [-math.inf, -3e38, -1e4, -88.0, -3.0, -1.0, -0.0, 0.0, 1e-40, 1.0, 3.0, 88.0, 1e4, 3e38, math.inf, math.nan]


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x: Array) -> Array:
    """A series of positive terms, exp(-x**2) * sum of 2**n * x**(2 * n + 1) / (1 * 3 * ... * (2 * n + 1))."""
    inside = np.clip(x, -7, 7)
    term = total = inside
    for n in range(1, 250):
        term = term * (2 * inside * inside / (2 * n + 1))
        total = total + term
    return np.asarray(2 / np.sqrt(np.arctan(x.dtype.type(1)) * 4) * np.exp(-inside * inside) * total)


# The reference, the bounds in float32 and float64, and whether results are 0 where they would be subnormal.
ELEMENTARY: dict[str, tuple[Callable[[Array], Array], float, float, bool]] = {
    "exp": (np.exp, 1.1, 1.1, False),
    "log": (np.log, 1.0, 1.0, False),
    "tanh": (np.tanh, 2.7, 2.9, False),
    "erf": (erf, 1.4, 1.5, False),
    "sigmoid": (sigmoid, 2.5, 2.5, False),
    "softplus": (softplus, 2.1, 2.1, True),
}
# What is exact, and the same in both dtypes.
EXACT: dict[str, list[tuple[float, float]]] = {
    "exp": [(-math.inf, 0.0), (-1e4, 0.0), (-0.0, 1.0), (0.0, 1.0), (1e4, math.inf), (math.inf, math.inf)],
    "log": [(-math.inf, math.nan), (-1e-40, math.nan), (-0.0, -math.inf), (0.0, -math.inf), (1.0, 0.0),
            (math.inf, math.inf)],
    "tanh": [(-math.inf, -1.0), (-1e4, -1.0), (-0.0, -0.0), (0.0, 0.0), (1e-40, 1e-40), (math.inf, 1.0)],
    "erf": [(-math.inf, -1.0), (-1e4, -1.0), (-0.0, -0.0), (0.0, 0.0), (math.inf, 1.0)],
    "sigmoid": [(-math.inf, 0.0), (-1e4, 0.0), (-0.0, 0.5), (0.0, 0.5), (1e4, 1.0), (math.inf, 1.0)],
    "softplus": [(-math.inf, 0.0), (-1e4, 0.0), (1e4, 1e4), (math.inf, math.inf)],
}  # fmt: skip
KERNELS = [
    "elu", "erf", "exp", "gelu", "gelu_tanh", "hardswish", "leaky_relu", "log", "log_sigmoid", "mish", "relu", "selu",
    "sigmoid", "silu", "softplus", "tanh",
]  # fmt: skip
PARAMS = {"elu": {"alpha": 1.5}, "leaky_relu": {"negative_slope": 0.1}}
ONE_WAY = [("log", mg.float64)]  # NumPy's forward is the faster one


def spread(dtype: Any) -> Array:
    """Numbers of every magnitude and sign, and more of those where the functions bend."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2 ** (8 * dtype.itemsize), 20_000, np.dtype(f"u{dtype.itemsize}")).view(dtype)
    dense = [rng.uniform(-width, width, 5000) for width in (0.5, 1.5, 12.0, 110.0, 760.0)]
    subnormal = np.array(np.finfo(dtype).smallest_subnormal) * rng.integers(1, 2**20, 1000)
    return np.concatenate([bits, *[d.astype(dtype) for d in dense], subnormal.astype(dtype)])


def ulps(found: Array, exact: Array, flushes: bool) -> Array:
    """Errors in spacings at the reference, of finite numbers; others must be the same."""
    info = np.finfo(found.dtype)
    rounded = exact.astype(found.dtype)
    finite = np.isfinite(rounded) & np.isfinite(found)
    np.testing.assert_array_equal(found[~finite], rounded[~finite])
    found, exact = found[finite], exact[finite]
    error = np.ldexp(np.abs(found - exact), info.nmant - np.maximum(np.frexp(exact)[1] - 1, info.minexp))
    return np.where(flushes & (found == 0) & (np.abs(exact) < info.smallest_normal), 0, error)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ELEMENTARY)
@np.errstate(all="ignore")
def test_errors_in_units_in_the_last_place(name: str, dtype: Any) -> None:
    reference, single, double, flushes = ELEMENTARY[name]
    x = spread(dtype)
    exact = reference(x.astype(WIDE[dtype]))
    for level in cpu.levels():
        with variant(level, 1):
            error = ulps(Kernel("elementwise", name)(x), exact, flushes)
        assert error.max() <= (single if dtype == mg.float32 else double), level


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_exact_values_keep_their_signs(name: str, dtype: Any) -> None:
    x, expected = np.array([*EXACT[name], (math.nan, math.nan)], dtype).T.copy()
    for level in cpu.levels():
        with variant(level, 1):
            found = Kernel("elementwise", name)(x)
        np.testing.assert_array_equal(found, expected, level)
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(expected[known]), level)


def test_exp_reaches_the_ends_of_its_range() -> None:
    x = np.array([88.72, 88.73, -87.5, -103.9, -104.1], np.float32)
    for level in cpu.levels():
        with variant(level, 1):
            y = Kernel("elementwise", "exp")(x)
        subnormal = np.finfo(np.float32).smallest_subnormal
        np.testing.assert_array_equal(np.isinf(y), [False, True, False, False, False], level)
        np.testing.assert_array_equal(y[3:], [subnormal, 0], level)
        assert subnormal < y[2] < np.finfo(np.float32).smallest_normal, level


def assert_same(name: str, x: Array, seed: int = 0) -> None:
    """Kernels and generic body agree on one array, element by element."""
    params = PARAMS.get(name, {})
    assert_variants(lambda t: REGISTRY[name](t, **params), x, seed=seed, floor=CANCELLED, each=True)


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.data(), shape=shapes())
@np.errstate(all="ignore")
def test_kernels_are_the_generic_body(name: str, data: st.DataObject, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = np.asarray(rng.normal(scale=data.draw(st.sampled_from([0.1, 1.0, 30.0])), size=shape))
    chosen = rng.random(shape) < data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    x[chosen] = rng.choice(SPECIAL, chosen.sum())
    assert_same(name, relayout(x.astype(data.draw(st.sampled_from(FLOATS))), data.draw(layouts())), seed=x.size)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_large_arrays(name: str, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(scale=2.0, size=(401, 200)).astype(dtype)
    assert_same(name, np.abs(x) if name == "log" else x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gelu_keeps_its_digits_where_it_is_small(dtype: Any) -> None:
    x = np.linspace(-5, -2, 1001).astype(dtype)
    expected = [float(v) * 0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x]
    for level in cpu.levels():
        with variant(level, 1):
            np.testing.assert_allclose(Kernel("elementwise", "gelu")(x), expected, rtol=64 * np.finfo(dtype).eps)


X = np.linspace(-2.0, 2.0, 6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_registered_and_take_plain_arrays(name: str) -> None:
    op = REGISTRY[name]
    for dtype in FLOATS:
        assert (("cpu", dtype) in op.kernels) == ((name, dtype) not in ONE_WAY)
        assert ("cpu", dtype) in op.vjps[0].kernels
    forward, backward = Kernel("elementwise", name), Kernel("elementwise", f"{name}_vjp")
    params = PARAMS.get(name, {})
    frozen = np.abs(X)
    frozen.flags.writeable = False
    assert forward(frozen, **params).shape == backward(frozen, frozen, **params).shape == (2, 3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_cotangent_for_all_elements(dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 50, 300)).astype(dtype)
    g = np.broadcast_to(np.asarray(1.5, dtype), x.shape)
    kernel = Kernel("elementwise", "silu_vjp")
    np.testing.assert_array_equal(kernel(g, x), kernel(g.copy(), x))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("x", [np.asfortranarray(X), X[:, ::2], X.astype(np.int64), X.astype(np.float16), 1.0])
def test_what_is_left_to_the_generic_body(name: str, x: Any) -> None:
    params = PARAMS.get(name, {})
    assert Kernel("elementwise", name)(x, **params) is NotImplemented
    assert Kernel("elementwise", f"{name}_vjp")(X, x, **params) is NotImplemented


@pytest.mark.parametrize(
    "g",
    [
        np.float32(1.0),
        X[:, :2],
        X.astype(np.float64),
        X.astype(">f4"),
        np.asfortranarray(X),
        np.broadcast_to(X[0], (2, 3)),
    ],
)
def test_a_cotangent_that_does_not_fit(g: Any) -> None:
    assert Kernel("elementwise", "gelu_vjp")(g, X) is NotImplemented


@pytest.mark.parametrize(("name", "param"), [("elu", "alpha"), ("leaky_relu", "negative_slope")])
@pytest.mark.parametrize("value", [1, np.float64(0.5), 1j, "0.1"])
def test_parameters_other_than_floats(name: str, param: str, value: Any) -> None:
    assert Kernel("elementwise", name)(X, **{param: value}) is NotImplemented
    assert Kernel("elementwise", f"{name}_vjp")(X, X, **{param: value}) is NotImplemented

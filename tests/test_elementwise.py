"""Elementwise functions at their special values, and the wrappers around their ops: what samples cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError

FLOATS = [mg.float64, mg.float32, mg.float16, mg.bfloat16]
INF, NAN = math.inf, math.nan


def derivatives(
    f: Callable[..., Any], *points: float, dtype: Any = mg.float64
) -> tuple[list[float], list[list[float]]]:
    """The first derivatives at a point, and the matrix of the second ones."""
    given = [mg.tensor(p, dtype=dtype, requires_grad=True) for p in points]
    first = mg.grad([f(*given)], given, create_graph=True)
    second = [mg.grad([g], given, allow_unused=True, retain_graph=True) if g.requires_grad else () for g in first]
    rows = [[0.0 if g is None else g.item() for g in row] or [0.0] * len(points) for row in second]
    return [g.item() for g in first], rows


# pinned derivatives


@pytest.mark.parametrize("f", [mg.atan2, mg.hypot])
def test_the_origin_has_derivatives_zero_twice(f: Callable[..., Any]) -> None:
    assert derivatives(f, 0.0, 0.0) == ([0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("x1", "x2", "first"),
    [
        (1e4, 1e4, [0.5, 0.5]),
        (1e4, -1e4, [1.0, 0.0]),
        (INF, 1.0, [1.0, 0.0]),
        (1.0, INF, [0.0, 1.0]),
        (-INF, 1.0, [0.0, 1.0]),
        (INF, -INF, [1.0, 0.0]),
        (INF, INF, [0.5, 0.5]),
        (-INF, -INF, [0.0, 0.0]),
    ],
)
def test_logaddexp_far_out(x1: float, x2: float, first: list[float], dtype: Any) -> None:
    found, second = derivatives(mg.logaddexp, x1, x2, dtype=dtype)
    assert found == first
    curvature = 0.25 if x1 == x2 == 1e4 else 0.0
    assert second == [[curvature, -curvature], [-curvature, curvature]]


def test_logaddexp_beyond_the_rounding_of_its_sum() -> None:
    assert derivatives(mg.logaddexp, 1e20, 1e20) == ([0.5, 0.5], [[0.25, -0.25], [-0.25, 0.25]])
    first = derivatives(mg.logaddexp, 1000.0, 1000.5, dtype=mg.float32)[0]
    np.testing.assert_allclose(first, [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))], rtol=2e-7)


@pytest.mark.parametrize(
    ("exponent", "by_base", "by_exponent"), [(2.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (-1.0, -INF, -INF)]
)
def test_powers_of_zero(exponent: float, by_base: float, by_exponent: float) -> None:
    assert derivatives(mg.pow, 0.0, exponent)[0] == [by_base, by_exponent]


@pytest.mark.parametrize(("x1", "x2"), [(1.0, 0.1), (-1.0, 0.1), (0.3, -0.1), (5.0, INF)])
def test_remainder_is_its_dividend_less_whole_divisors(x1: float, x2: float) -> None:
    (by_dividend, by_divisor), _ = derivatives(mg.remainder, x1, x2)
    assert by_dividend == 1.0
    assert by_divisor == -(x1 // x2)


# NaN


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 100, 5000])
def test_nan_passes_through_extrema_and_relu(n: int, dtype: Any) -> None:
    a = np.tile(np.array([NAN, 1.0, NAN, 2.0, -1.0], dtype), n)
    b = np.tile(np.array([1.0, NAN, NAN, 1.0, 0.0], dtype), n)
    x, y = mg.tensor(a, requires_grad=True), mg.tensor(b)
    with np.errstate(invalid="ignore"):
        pairs = [
            (mg.maximum(x, y), np.maximum(a, b)),
            (mg.minimum(x, y), np.minimum(a, b)),
            (mg.maximum(x, 0.5), np.maximum(a, dtype.type(0.5))),
            (mg.relu(x), np.maximum(a, dtype.type(0))),
            (mg.max(x), np.max(a)),
            (mg.min(x), np.min(a)),
            (mg.max(x.reshape(5, n), axis=0), np.max(a.reshape(5, n), axis=0)),
            (mg.min(x.reshape(n, 5), axis=1), np.min(a.reshape(n, 5), axis=1)),
        ]
    for out, expected in pairs:
        np.testing.assert_array_equal(out.astype(mg.float64).detach().numpy(), expected.astype(np.float64))


# wrappers


def test_gelu_approximates_on_request() -> None:
    x = np.linspace(-4.0, 4.0, 9)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    for approximate, expected in [("none", exact), ("tanh", tanh)]:
        np.testing.assert_allclose(
            mg.gelu(mg.tensor(x), approximate=approximate).numpy(), expected, rtol=1e-12, atol=1e-15
        )
    for word in ("fast", True, None):
        with pytest.raises(ValueError, match=r"gelu: approximate is .*, needs 'none' or 'tanh'"):
            mg.gelu(mg.tensor(x), approximate=word)  # type: ignore[arg-type]


def test_dropout_leaves_alone_what_it_shall_not_change() -> None:
    x = mg.ones(8, requires_grad=True)
    assert mg.dropout(x, 0.5, training=False) is x
    assert mg.dropout(x, 0.0) is x
    assert mg.array_equal(mg.dropout([1.0, 2.0], 0.0), [1.0, 2.0])  # type: ignore[arg-type]
    assert mg.dropout(x, 1.0).tolist() == [0.0] * 8


def test_dropout_is_a_function_of_its_key() -> None:
    x = mg.ones(1000)
    assert mg.array_equal(mg.dropout(x, 0.5, key=(1, 2)), mg.dropout(x, 0.5, key=(1, 2)))
    assert not mg.array_equal(mg.dropout(x, 0.5, key=(1, 2)), mg.dropout(x, 0.5, key=(1, 3)))
    assert not mg.array_equal(mg.dropout(x, 0.5), mg.dropout(x, 0.5))


@pytest.mark.parametrize("rate", [-0.1, 1.5, NAN])
def test_dropout_refuses_what_is_no_probability(rate: float) -> None:
    with pytest.raises(ValueError, match=f"dropout: rate is {rate}, needs a probability"):
        mg.dropout(mg.ones(3), rate)


def test_allclose() -> None:
    x = mg.tensor([1.0, 2.0])
    assert mg.allclose(x, [1.0, 2.00001])
    assert not mg.allclose(x, [1.0, 2.1])
    assert mg.allclose(x, [1.0, 2.1], rtol=0.1)
    assert mg.allclose(x, [1.0, 2.1], atol=0.2)
    assert mg.allclose(mg.ones((2, 2)), 1.0)
    assert mg.allclose([NAN, INF], [NAN, INF], equal_nan=True)
    assert not mg.allclose([NAN], [NAN])
    assert not mg.allclose([INF], [-INF])
    assert mg.allclose(mg.zeros(0), mg.zeros(0))
    with pytest.raises(ShapeError, match=r"isclose: got .* needs shapes that broadcast together"):
        mg.allclose(x, [1.0, 2.0, 3.0])
    with pytest.raises(DTypeError, match="isclose: x2 is text"):
        mg.allclose(x, "text")


def test_array_equal() -> None:
    assert mg.array_equal([1, 2], mg.tensor([1.0, 2.0], requires_grad=True))
    assert not mg.array_equal([1, 2], [[1, 2]])
    assert not mg.array_equal([1], [1, 1])
    assert not mg.array_equal(mg.zeros((0, 2)), mg.zeros((0, 3)))
    assert mg.array_equal([], [])
    assert not mg.array_equal([NAN, 1.0], [NAN, 1.0])
    assert mg.array_equal([NAN, 1.0], [NAN, 1.0], equal_nan=True)
    assert not mg.array_equal([NAN], [1.0], equal_nan=True)
    # next to each other, and one float64
    assert not mg.array_equal([2**60], [2**60 + 1])
    assert not mg.array_equal([2**60], [2**60 + 1], equal_nan=True)

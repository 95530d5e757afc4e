"""Pooling: what it computes, how ties and padding count, what it refuses, and its layers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import ShapeError
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants, generic

Array = np.ndarray[Any, Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    window, stride = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    padding = tuple(draw(st.integers(0, w // 2)) for w in window)
    extents = [draw(st.integers(w, 6)) for w in window]
    x = normal(draw(st.integers(1, 2)), 2, *extents, seed=draw(st.integers(0, 1000)))
    return x, {"window": window, "stride": stride, "padding": padding}


def windows(x: Array, window: Any, stride: Any, padding: Any) -> list[list[Array]]:
    """For each place the elements of x in its window, those in the padding as NaN."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=math.nan)
    return [
        [
            x[:, :, i : i + window[0], j : j + window[1]].reshape(*x.shape[:2], -1)
            for j in range(0, x.shape[3] - window[1] + 1, stride[1])
        ]
        for i in range(0, x.shape[2] - window[0] + 1, stride[0])
    ]


@given(problem=problems())
def test_pooling_is_its_definition(problem: Any) -> None:
    x, options = problem
    each = windows(x, **options)

    def expected(reduce: Any) -> Array:
        return np.stack([np.stack([reduce(w) for w in row], axis=-1) for row in each], axis=-2)

    size = math.prod(options["window"])
    for pooled, reduce in [
        (mg.max_pool2d(x, **options), lambda w: np.nanmax(w, axis=-1)),
        (mg.avg_pool2d(x, **options), lambda w: np.nansum(w, axis=-1) / size),
        (mg.avg_pool2d(x, count_include_pad=False, **options), lambda w: np.nanmean(w, axis=-1)),
    ]:
        np.testing.assert_allclose(pooled.numpy(), expected(reduce), atol=1e-12)


@given(problem=problems())
def test_shares_of_a_window_add_up_to_its_cotangent(problem: Any) -> None:
    x, options = problem
    t = mg.tensor(np.round(x), requires_grad=True)  # whole numbers tie
    y = mg.max_pool2d(t, **options)
    g = normal(*y.shape, seed=1)
    y.backward(mg.asarray(g))
    assert t.grad.sum().item() == pytest.approx(g.sum(), abs=1e-9)


@pytest.mark.parametrize("kernels", [True, False])
def test_ties_share_and_nan_wins(kernels: bool) -> None:
    x = mg.tensor([[[2.0, 2.0, 1.0, 3.0, math.nan, 0.0]]], requires_grad=True)

    def check() -> None:
        x.grad = None
        y = mg.max_pool1d(x, 2)
        np.testing.assert_array_equal(y.detach().numpy(), [[[2.0, 3.0, math.nan]]])
        y.backward(mg.tensor([[[1.0, 5.0, 7.0]]]))
        assert x.grad.tolist() == [[[0.5, 0.5, 0.0, 5.0, 0.0, 0.0]]]

    if kernels:
        check()
    else:
        with generic():
            check()


@pytest.mark.parametrize("kernels", [True, False])
def test_padding_never_wins_nor_ties(kernels: bool) -> None:
    x = mg.tensor([[[-math.inf, -math.inf]]], requires_grad=True)

    def check() -> None:
        x.grad = None
        y = mg.max_pool1d(x, 2, 1, 1)
        assert y.tolist() == [[[-math.inf] * 3]]
        y.backward(mg.tensor([[[1.0, 2.0, 4.0]]]))
        assert x.grad.tolist() == [[[2.0, 5.0]]]

    if kernels:
        check()
    else:
        with generic():
            check()


@pytest.mark.parametrize(
    ("extent", "window", "stride", "padding", "count"),
    [
        (5, 2, 2, 0, 3),
        (4, 2, 2, 0, 2),
        (5, 2, 3, 0, 2),
        (7, 3, 3, 1, 3),
        (4, 2, 3, 1, 2),
        (3, 2, 4, 0, 1),
        (3, 2, 3, 1, 2),
    ],
)
def test_ceil_mode(extent: int, window: int, stride: int, padding: int, count: int) -> None:
    x = normal(1, 1, extent)
    y = mg.max_pool1d(x, window, stride, padding, ceil_mode=True)
    starts = [i * stride - padding for i in range(count)]
    assert y.tolist()[0][0] == [x[0, 0, max(s, 0) : s + window].max() for s in starts]


@given(
    extents=st.tuples(st.integers(1, 7), st.integers(1, 7)), size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_adaptive_pooling_is_its_definition(extents: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    x = normal(2, 3, *extents, seed=seed)
    found = mg.adaptive_avg_pool2d(x, size).numpy()
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * extents[0] // size[0], math.ceil((i + 1) * extents[0] / size[0]))
            columns = slice(j * extents[1] // size[1], math.ceil((j + 1) * extents[1] / size[1]))
            np.testing.assert_allclose(found[:, :, i, j], x[:, :, rows, columns].mean(axis=(2, 3)), atol=1e-12)
    line = mg.adaptive_avg_pool1d(x.reshape(6, 1, -1), 1).numpy()
    np.testing.assert_allclose(line.reshape(2, 3), x.mean(axis=(2, 3)), atol=1e-12)


@given(
    extents=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    wild=st.lists(st.sampled_from([math.inf, -math.inf, math.nan]), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_what_is_not_finite_stays_in_its_parts(
    extents: tuple[int, int], size: tuple[int, int], wild: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(1, 2, *extents)), rng.normal(size=(1, 2, *size))
    for array in (x, g):
        array.flat[rng.integers(array.size, size=len(wild))] = wild
    t = mg.tensor(x, requires_grad=True)
    y = mg.adaptive_avg_pool2d(t, size)
    slopes = np.zeros_like(x)
    (found,) = mg.grad(y, [t], mg.asarray(g), create_graph=True)
    with np.errstate(invalid="ignore"):
        for i, j in itertools.product(*map(range, size)):
            rows, columns = (
                slice(k * e // n, -(-(k + 1) * e // n)) for k, e, n in zip((i, j), extents, size, strict=True)
            )
            part = x[:, :, rows, columns]
            np.testing.assert_allclose(y[:, :, i, j].detach().numpy(), part.mean(axis=(2, 3)), atol=1e-12)
            slopes[:, :, rows, columns] += g[:, :, i, j, None, None] / math.prod(part.shape[2:])
    np.testing.assert_allclose(mg.grad(y, [t], mg.asarray(g))[0].numpy(), slopes, atol=1e-12)
    np.testing.assert_allclose(found.detach().numpy(), slopes, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mg.max_pool2d(normal(3, 4, 4), 2), "max_pool2d: x is float64 (3, 4, 4), needs 4 axes"),
        (lambda: mg.max_pool2d(normal(1, 3, 4, 1), 2), "max_pool2d: x is (4, 1) with its padding, needs at least the"),
        (lambda: mg.max_pool1d(normal(1, 3, 4), 0), "max_pool1d: window is 0, needs an int of at least 1"),
        (lambda: mg.max_pool1d(normal(1, 3, 4), 9, dilation=2**61), "needs an int of at most 2147483647"),
        (lambda: mg.max_pool1d(normal(1, 3, 4), 3, padding=2), "padding is 2, needs at most half the window (3,)"),
        (lambda: mg.avg_pool2d(normal(1, 3, 4, 4), (2, 2, 2)), "window is (2, 2, 2), needs an int or 2 ints"),
        (lambda: mg.adaptive_avg_pool2d(normal(1, 3, 4, 4), 0), "output_size is 0, needs an int or 2 ints of at least"),
        (lambda: nn.MaxPool2D(2, padding=2), "MaxPool2D: padding is 2, needs at most half the window (2, 2)"),
        (lambda: nn.GlobalAvgPool2D()(mg.ones((2, 3, 4))), "GlobalAvgPool2D: x is float32 (2, 3, 4), needs 4 axes"),
    ],
)
def test_errors(call: Any, text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shape", "expected", "text"),
    [
        (nn.MaxPool1D(3, 2, 1, 2, True), (2, 3, 9), lambda x: mg.max_pool1d(x, 3, 2, 1, 2, True),
         "MaxPool1D((3,), stride=(2,), padding=(1,), dilation=(2,), ceil_mode=True)"),
        (nn.MaxPool2D(2), (2, 3, 8, 6), lambda x: mg.max_pool2d(x, 2), "MaxPool2D((2, 2))"),
        (nn.AvgPool1D(2, padding=1, count_include_pad=False), (2, 3, 8), lambda x: mg.avg_pool1d(x, 2, 2, 1, False),
         "AvgPool1D((2,), padding=(1,), count_include_pad=False)"),
        (nn.AvgPool2D((1, 2)), (2, 3, 8, 6), lambda x: mg.avg_pool2d(x, (1, 2)), "AvgPool2D((1, 2))"),
        (nn.AdaptiveAvgPool1D(3), (2, 3, 8), lambda x: mg.adaptive_avg_pool1d(x, 3), "AdaptiveAvgPool1D((3,))"),
        (nn.AdaptiveAvgPool2D((2, 3)), (2, 3, 8, 6), lambda x: mg.adaptive_avg_pool2d(x, (2, 3)),
         "AdaptiveAvgPool2D((2, 3))"),
        (nn.GlobalAvgPool1D(), (2, 3, 8), lambda x: mg.mean(x, axis=2), "GlobalAvgPool1D()"),
        (nn.GlobalAvgPool2D(), (2, 3, 8, 6), lambda x: mg.mean(x, axis=(2, 3)), "GlobalAvgPool2D()"),
    ],
)  # fmt: skip
def test_layers(layer: nn.Module, shape: tuple[int, ...], expected: Any, text: str) -> None:
    x = mg.asarray(normal(*shape))
    np.testing.assert_array_equal(layer(x).numpy(), expected(x).numpy())
    assert repr(layer) == text


@given(
    channels=st.integers(1, 60),
    extents=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    dtype=st.sampled_from([np.float32, np.float64]),
    layout=layouts(),
    seed=st.integers(0, 1000),
)
def test_adaptive_kernels_are_the_generic_body(
    channels: int, extents: list[int], dtype: Any, layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 50, len(extents)))
    pool = mg.adaptive_avg_pool1d if len(extents) == 1 else mg.adaptive_avg_pool2d
    x = relayout(rng.normal(size=(2, channels, *extents)).astype(dtype), layout)
    assert_variants(lambda a: pool(a, size), x, seed=seed)


def test_global_pooling_takes_what_is_like_an_array() -> None:
    assert nn.GlobalAvgPool1D()([[[1.0, 3.0]]]).tolist() == [[2.0]]
    with pytest.raises(ShapeError, match=r"GlobalAvgPool2D: x is int64 \(\), needs 4 axes"):
        nn.GlobalAvgPool2D()(3)

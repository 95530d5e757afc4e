"""Convolution: what it computes, its laws, what it refuses, and its layers."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import ShapeError
from minigrad.nn import functional as F
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@st.composite
def geometries(draw: st.DrawFn, axes: int) -> tuple[Array, Array, dict[str, Any]]:
    """x, a weight, and the other arguments of a convolution over two axes."""
    groups, inner, outer = (draw(st.integers(1, 2)) for _ in range(3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(axes)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(axes))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    extents = [draw(st.integers(low, low + 3)) for low in least]
    seed = draw(st.integers(0, 1000))
    x = normal(draw(st.integers(1, 2)), groups * inner, *extents, seed=seed)
    weight = normal(groups * outer, inner, *kernel, seed=seed)
    return x, weight, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def by_definition(x: Array, weight: Array, stride: Any, padding: Any, dilation: Any, groups: int) -> Array:
    """The sum of the docstring, one product at a time."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    counts = [
        (e - d * (k - 1) - 1) // s + 1
        for e, d, k, s in zip(x.shape[2:], dilation, weight.shape[2:], stride, strict=True)
    ]
    y = np.zeros((len(x), len(weight), *counts))
    each = len(weight) // groups
    for b, o, c in itertools.product(range(len(x)), range(len(weight)), range(weight.shape[1])):
        for place in np.ndindex(*counts):
            for k in np.ndindex(*weight.shape[2:]):
                at = tuple(i * s + j * d for i, s, j, d in zip(place, stride, k, dilation, strict=True))
                y[(b, o, *place)] += weight[(o, c, *k)] * x[(b, o // each * weight.shape[1] + c, *at)]
    return y


@given(problem=geometries(2))
def test_conv2d_is_the_sum_of_its_definition(problem: Any) -> None:
    x, weight, options = problem
    np.testing.assert_allclose(mg.conv2d(x, weight, **options).numpy(), by_definition(x, weight, **options), atol=1e-12)


@given(problem=geometries(1))
def test_conv1d_is_the_sum_of_its_definition(problem: Any) -> None:
    x, weight, options = problem
    np.testing.assert_allclose(mg.conv1d(x, weight, **options).numpy(), by_definition(x, weight, **options), atol=1e-12)


@given(problem=geometries(2))
def test_the_transpose_is_the_transpose(problem: Any) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> for all x and y, whatever rows a stride leaves over."""
    x, weight, options = problem
    y = mg.conv2d(x, weight, **options)
    g = normal(*y.shape, seed=1)
    spans = [d * (k - 1) + 1 for d, k in zip(options["dilation"], weight.shape[2:], strict=True)]
    left = tuple(
        (e + 2 * p - span) % s
        for e, p, span, s in zip(x.shape[2:], options["padding"], spans, options["stride"], strict=True)
    )
    back = mg.conv_transpose2d(g, weight, output_padding=left, **options)
    assert back.shape == x.shape
    assert float((y * g).sum()) == pytest.approx(float((back * x).sum()), abs=1e-9)


@pytest.mark.parametrize(("extent", "kernel", "stride"), [(5, 3, 1), (5, 4, 1), (6, 3, 2), (7, 2, 3), (3, 1, 2)])
def test_padding_in_words(extent: int, kernel: int, stride: int) -> None:
    x, weight = normal(1, 2, extent), normal(3, 2, kernel)
    same = mg.conv1d(x, weight, stride=stride, padding="same")
    assert same.shape == (1, 3, math.ceil(extent / stride))
    total = max(0, (math.ceil(extent / stride) - 1) * stride + kernel - extent)
    around = np.pad(x, ((0, 0), (0, 0), (total // 2, total - total // 2)))
    np.testing.assert_allclose(same.numpy(), mg.conv1d(around, weight, stride=stride).numpy())
    valid = mg.conv1d(x, weight, stride=stride, padding="valid")
    assert valid.tolist() == mg.conv1d(x, weight, stride=stride).tolist()


def test_half_types_sum_in_float32() -> None:
    x, weight = np.ones((1, 1, 3000)), np.ones((1, 1, 3000))
    for dtype in (mg.float16, mg.bfloat16):
        y = mg.conv1d(mg.asarray(x, dtype=dtype), mg.asarray(weight, dtype=dtype))
        assert y.dtype == dtype
        assert y.item() == mg.asarray(3000.0, dtype=dtype).item()
    assert mg.conv1d(mg.ones((1, 1, 3), dtype=mg.int64), mg.ones((1, 1, 2), dtype=mg.int64)).dtype == mg.float32


def test_third_derivatives() -> None:
    x, weight = normal(1, 2, 4, 3), normal(2, 2, 2, 2)

    def f(x: mg.Tensor, weight: mg.Tensor) -> mg.Tensor:
        return mg.conv2d(x * x, weight * weight, stride=(2, 1), padding=1)

    assert gradcheck(f, [x, weight], order=3)
    assert gradcheck(lambda x, w: mg.conv_transpose2d(x, w, stride=2), [normal(1, 2, 2, 2), weight], order=2)


def test_a_second_backward_runs_the_ops() -> None:
    x, weight = mg.tensor(normal(1, 1, 5), requires_grad=True), mg.tensor(normal(1, 1, 3), requires_grad=True)
    (dx,) = mg.grad((mg.conv1d(x, weight) ** 2).sum(), [x], create_graph=True)
    assert dx.grad_fn is not None
    assert dx.grad_fn.rule.name == "conv_transpose"


@pytest.mark.parametrize(
    ("function", "x", "weight", "options", "text"),
    [
        (mg.conv2d, (1, 3, 5), (4, 3, 3), {}, "conv2d: weight is float64 (4, 3, 3), needs 4 axes, (out, in / groups,"),
        (mg.conv2d, (3, 5, 5), (4, 3, 3, 3), {}, "conv2d: x is float64 (3, 5, 5), needs 4 axes, (batch, channels, 2"),
        (mg.conv2d, (3, 5, 5), (4, 3, 3, 3), {}, "One example is a batch of 1: x[None]"),
        (mg.conv2d, (1, 2, 5, 5), (4, 3, 3, 3), {}, "needs 3 channels, as weight is (4, 3, 3, 3) and groups 1"),
        (mg.conv2d, (1, 3, 5, 5), (4, 3, 3, 3), {"groups": 3}, "groups is 3, needs a divisor of the 4 rows"),
        (mg.conv2d, (1, 3, 5, 5), (4, 3, 3, 3), {"groups": 0}, "groups is 0, needs a divisor"),
        (mg.conv2d, (1, 3, 2, 5), (4, 3, 3, 3), {}, "x is (2, 5) with its padding, needs at least the window's"),
        (mg.conv2d, (1, 3, 5, 5), (4, 3, 3, 3), {"stride": 0}, "stride is 0, needs an int or 2 ints of at least 1"),
        (mg.conv1d, (1, 3, 5), (4, 3, 3), {"dilation": (1, 1)}, "conv1d: dilation is (1, 1), needs an int of at least"),
        (mg.conv1d, (1, 3, 5), (4, 3, 5), {"dilation": 2**62}, "needs an int of at most 2147483647"),
        (mg.conv1d, (1, 3, 5), (4, 3, 3), {"padding": -1}, "padding is -1, needs an int of at least 0"),
        (mg.conv_transpose1d, (1, 3, 5), (4, 3, 3), {}, "conv_transpose1d: x is float64 (1, 3, 5), needs 4 channels"),
        (mg.conv_transpose1d, (1, 3, 5), (3, 4), {}, "conv_transpose1d: weight is float64 (3, 4), needs 3 axes"),
        (mg.conv_transpose1d, (1, 3, 5), (3, 4, 2), {"output_padding": 1}, "output_padding is 1, needs less than"),
        (mg.conv_transpose1d, (1, 3, 1), (3, 4, 2), {"padding": 1}, "padding is 1, needs less, as the result would"),
    ],
)
def test_errors(function: Any, x: Any, weight: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        function(normal(*x), normal(*weight), **options)
    assert text in str(caught.value)


def test_arguments_of_other_types() -> None:
    with pytest.raises(ValueError, match=r"conv1d: padding is 'full', needs an int, an int an axis, 'same' or 'valid'"):
        mg.conv1d(normal(1, 1, 3), normal(1, 1, 2), padding="full")
    with pytest.raises(TypeError, match=r"conv2d: stride is 1.5, needs an int or 2 ints"):
        mg.conv2d(normal(1, 1, 3, 3), normal(1, 1, 2, 2), stride=1.5)  # type: ignore[arg-type]


# ---- layers ----------------------------------------------------------------------------------------------------------

LAYERS = [
    (nn.Conv1D, mg.conv1d, (2, 6, 8), {"stride": 2, "padding": "same", "dilation": 2, "groups": 2}),
    (nn.Conv2D, mg.conv2d, (2, 6, 8, 7), {"stride": (2, 1), "padding": 1, "dilation": 2, "groups": 3}),
    (nn.Conv1DTranspose, mg.conv_transpose1d, (2, 6, 5), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    (nn.Conv2DTranspose, mg.conv_transpose2d, (2, 6, 5, 4), {"stride": 2, "dilation": (1, 2), "groups": 3}),
]
names = pytest.mark.parametrize(
    ("kind", "function", "shape", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", "")
)


@names
def test_a_layer_is_its_function(kind: Any, function: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = mg.asarray(normal(*shape).astype(np.float32))
    layer = kind(12, 3, activation="tanh", bias_initializer="normal", **options)
    assert layer.in_channels is None
    assert "? -> 12" in repr(layer)
    y = layer(x)
    expected = mg.tanh(function(x, layer.weight, layer.bias, **options))
    np.testing.assert_array_equal(y.detach().numpy(), expected.detach().numpy())
    assert layer.in_channels == 6
    assert "6 -> 12, kernel_size=(3" in repr(layer)
    assert layer.weight.shape[:2] == ((6, 12 // layer.groups) if layer.transposed else (12, 6 // layer.groups))
    again = kind(12, 3, in_channels=6, **options)
    assert again.weight.shape == layer.weight.shape
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(mg.tanh(again(x)).detach().numpy(), expected.detach().numpy())


@names
def test_a_layer_can_be_copied_before_its_first_batch(
    kind: Any, function: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    x = mg.ones(shape)
    for layer in (copy.deepcopy(kind(6, 3, **options)), pickle.loads(pickle.dumps(kind(6, 3, **options)))):
        assert layer(x).shape == function(x, layer.weight, None, **options).shape


def test_weights_start_at_the_scale_of_their_fans() -> None:
    mg.random.seed(0)
    for layer in (nn.Conv2D(64, 3, in_channels=32), nn.Conv2DTranspose(64, 3, in_channels=32)):
        bound = math.sqrt(6 / (9 * (32 + 64)))
        values = layer.weight.detach().numpy()
        assert 0.99 * bound < np.abs(values).max() <= bound
    he = nn.Conv2D(64, (3, 5), in_channels=32, kernel_initializer="he_normal").weight.detach().numpy()
    assert he.std() == pytest.approx(math.sqrt(2 / (15 * 32)), rel=0.02)
    rows = nn.Conv1D(4, 3, in_channels=2, kernel_initializer="orthogonal").weight.detach().numpy().reshape(4, 6)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)


def test_a_refused_batch_fixes_nothing() -> None:
    layer = nn.Conv2D(4, 3, groups=2)
    for shape in [(2, 4, 5), (2, 0, 5, 5), (2, 4, 2, 5), (2, 3, 5, 5)]:
        with pytest.raises(ShapeError, match="onv2"):
            layer(mg.ones(shape))
        assert layer.in_channels is None
    assert layer(mg.ones((2, 6, 5, 5))).shape == (2, 4, 3, 3)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.Conv2D(0, 3), ShapeError, "Conv2D: filters is 0, needs an int of at least 1"),
        (lambda: nn.Conv2D(4, (3, 3, 3)), ShapeError, "Conv2D: kernel_size is (3, 3, 3), needs an int or 2 ints"),
        (lambda: nn.Conv2D(4, 3, groups=3), ShapeError, "Conv2D: groups is 3, needs a divisor of the 4 filters"),
        (lambda: nn.Conv2D(4, 3, groups=2, in_channels=3), ShapeError, "in_channels is 3, needs a multiple of the 2"),
        (lambda: nn.Conv1D(4, 3, padding="full"), ValueError, "Conv1D: padding is 'full', needs an int"),
        (lambda: nn.Conv1DTranspose(4, 3, padding="same"), ValueError, "Conv1DTranspose: padding is 'same', needs an"),
        (lambda: nn.Conv1D(2.5, 3), TypeError, "Conv1D: filters is 2.5, needs an int"),
        (lambda: nn.Conv1D(4, 3, activation="rely"), ValueError, "activation: name is 'rely'"),
    ],
)
def test_layers_refuse(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def test_errors_name_the_layer() -> None:
    model = nn.Sequential([nn.Conv2D(4, 3), nn.Conv2D(4, 3)])
    with pytest.raises(ShapeError, match=r"1.*conv2d: x is .* with its padding"):
        model(mg.ones((1, 1, 4, 4)))


def test_functional_has_them() -> None:
    assert F.conv1d is mg.conv1d
    assert F.conv_transpose2d is mg.conv_transpose2d

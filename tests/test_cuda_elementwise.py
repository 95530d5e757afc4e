"""Elementwise kernels on the GPU: each gives what the generic body and rule give in float64; and biases."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.backend.numpy import backend as cpu
from minigrad.ops.registry import REGISTRY
from minigrad.testing.strategies import shapes
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

sys.path.insert(0, str(Path(__file__).parent))
from cuda_arrays import LAYOUTS, placed, values

pytestmark = pytest.mark.usefixtures("gpu")

FLOATS = (mg.float16, mg.bfloat16, mg.float32, mg.float64)
FUNCTIONS: dict[str, dict[str, float]] = {
    "elu": {"alpha": 0.7}, "erf": {}, "exp": {}, "gelu": {}, "gelu_tanh": {}, "hardswish": {},
    "leaky_relu": {"negative_slope": 0.3}, "log": {}, "log_sigmoid": {}, "mish": {}, "relu": {}, "selu": {},
    "sigmoid": {}, "silu": {}, "softplus": {}, "tanh": {},
}  # fmt: skip
OF_RESULT = ("exp", "relu", "sigmoid", "tanh")  # whose rule saves the result
SHAPES = shapes() | st.sampled_from([(2049,), (3, 7, 101)])


@pytest.fixture(scope="module", autouse=True)
def backend(gpu: None) -> None:
    mg.ones(1, device="cuda")  # its kernels are registered when a GPU is first asked for


def numbers(array: Any) -> Any:
    return mg.asarray(array).to("cpu").numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
@given(dtype=st.sampled_from(FLOATS), data=st.data())
def test_functions_are_the_generic_ones(name: str, dtype: Any, data: st.DataObject) -> None:
    op, params = REGISTRY[name], FUNCTIONS[name]
    shape = data.draw(SHAPES)
    x, g = data.draw(values(dtype, shape)), data.draw(values(dtype, shape, special=()))
    y = op.kernels["cuda", dtype](placed(x, data.draw(st.sampled_from(LAYOUTS))), **params)
    saved = numbers(y) if name in OF_RESULT else x
    pulled = op.vjps[0].kernels["cuda", dtype](
        placed(g, data.draw(st.sampled_from(LAYOUTS))), placed(saved, data.draw(st.sampled_from(LAYOUTS))), **params
    )
    with generic(), np.errstate(all="ignore"):
        want = op(x.astype(np.float64), **params).numpy().astype(dtype)
        rule = op.vjps[0].rule(cpu.namespace, g.astype(np.float64), saved.astype(np.float64), **params).astype(dtype)
    for found, expected, what in ((y, want, "value"), (pulled, rule, "gradient")):
        assert found.dtype == dtype
        assert_close(numbers(found), expected, dtype, what, floor=0.3, each=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_cotangent_for_all_is_read_where_it_is(dtype: Any) -> None:
    import cupy

    x = np.linspace(-3, 3, 1001).astype(dtype)
    one = cupy.broadcast_to(placed(np.full((), 1.7, dtype)), x.shape)
    pull = REGISTRY["gelu"].vjps[0].kernels["cuda", dtype]
    assert numbers(pull(one, placed(x))).tobytes() == numbers(pull(placed(np.full_like(x, 1.7)), placed(x))).tobytes()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tensors_go_through_the_kernels(dtype: Any) -> None:
    data = np.random.default_rng(0).normal(size=(5, 9)).astype(dtype)
    g = np.random.default_rng(1).normal(size=(5, 9)).astype(dtype)
    x = mg.tensor(data, device="cuda", requires_grad=True)
    y = mg.gelu(x)
    (grad,) = mg.grad(y, [x], mg.tensor(g, device="cuda"))
    op = REGISTRY["gelu"]
    assert numbers(y.detach()).tobytes() == numbers(op.kernels["cuda", dtype](placed(data))).tobytes()
    pulled = op.vjps[0].kernels["cuda", dtype](placed(g), placed(data))
    assert numbers(grad).tobytes() == numbers(pulled).tobytes()


def test_a_second_order_gradient() -> None:
    x = mg.tensor([-0.5, 0.25, 2.0], device="cuda", requires_grad=True)
    (first,) = mg.grad(mg.gelu(x, approximate="tanh").sum(), [x], create_graph=True)
    (second,) = mg.grad((first * mg.tensor([1.0, -2.0, 0.5], device="cuda")).sum(), [x])
    t = mg.tensor([-0.5, 0.25, 2.0], requires_grad=True)
    (first,) = mg.grad(mg.gelu(t, approximate="tanh").sum(), [t], create_graph=True)
    (want,) = mg.grad((first * mg.tensor([1.0, -2.0, 0.5])).sum(), [t])
    assert_close(numbers(second), want.numpy(), mg.float32, "second")


def test_a_parameter_that_is_no_number_is_left_alone() -> None:
    assert REGISTRY["elu"].kernels["cuda", mg.float32](placed(np.ones(3, np.float32)), alpha="1") is NotImplemented


@given(dtype=st.sampled_from(FLOATS), data=st.data())
def test_biases_and_activations(dtype: Any, data: st.DataObject) -> None:
    from minigrad.backend.cuda import elementwise
    from minigrad.backend.cuda.bias import ACTIVATIONS

    shape = data.draw(st.sampled_from([(0, 3), (1, 1), (3, 5), (7, 16), (2, 3, 8), (9, 131)]))
    x, bias = data.draw(values(dtype, shape)), data.draw(values(dtype, shape[-1:], special=()))
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    given_ = placed(x, data.draw(st.sampled_from(["C", "shifted"])))
    found = elementwise.add_bias(given_, placed(bias, data.draw(st.sampled_from(LAYOUTS))), activation)
    assert found is given_
    with generic(), np.errstate(all="ignore"):
        total = mg.tensor(x.astype(np.float64) + bias.astype(np.float64))
        want = total if activation is None else REGISTRY[activation](total)
        assert_close(numbers(found), want.numpy().astype(dtype), dtype, f"{activation}", floor=0.3, each=True)


@given(dtype=st.sampled_from(FLOATS), data=st.data())
def test_gradients_of_biases(dtype: Any, data: st.DataObject) -> None:
    from minigrad.backend.cuda import elementwise

    shape = data.draw(st.sampled_from([(0, 3), (4, 0), (5,), (1, 1), (3, 5), (2, 3, 8), (130, 3), (200, 40), (9, 300)]))
    g = data.draw(values(dtype, shape, special=(0.0, 100.0)))
    kept = data.draw(st.none() | values(dtype, shape, special=(0.0, math.nan)))
    layout = st.sampled_from(LAYOUTS)
    arrays = [placed(a, data.draw(layout)) for a in (g, kept) if a is not None]
    found = elementwise.bias_gradient(*arrays)
    rows = g.astype(np.float64).reshape(math.prod(shape[:-1]), shape[-1])
    if kept is not None:
        rows = np.where(kept.astype(np.float64).reshape(rows.shape) > 0, rows, 0)
    assert found.dtype == dtype
    assert_close(numbers(found), rows.sum(0), dtype, "gradient", floor=float(np.abs(rows).sum(0).max(initial=1)))
    assert numbers(elementwise.bias_gradient(*arrays)).tobytes() == numbers(found).tobytes()


def test_half_columns_are_summed_in_float32() -> None:
    from minigrad.backend.cuda import elementwise

    ones = np.ones((3000, 2), mg.bfloat16)
    assert numbers(elementwise.bias_gradient(placed(ones))).tolist() == [3008.0, 3008.0]  # 3000, rounded once


def test_layers_use_them() -> None:
    """A bias gets its gradient from the kernel, which sums half types in float32."""
    layer = nn.Dense(4, activation="relu", in_features=3)
    layer.to("cuda").to(mg.bfloat16)
    x = mg.tensor(np.abs(np.random.default_rng(0).normal(size=(70, 3))).astype(mg.bfloat16), device="cuda")
    layer.bias.detach()[...] = 4.0
    layer(x).backward(mg.ones((70, 4), device="cuda", dtype=mg.bfloat16) * 0.5)
    assert numbers(layer.bias.grad).tolist() == [35.0] * 4

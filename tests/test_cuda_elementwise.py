"""Elementwise kernels on the GPU: each gives what the generic body and rule give in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
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

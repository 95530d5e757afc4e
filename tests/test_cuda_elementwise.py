"""Elementwise kernels on the GPU: each gives what the generic body and rule give in float64."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from cuda_arrays import LAYOUTS, SPECIAL, placed, values
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dtypes
from minigrad.backend.numpy import backend as cpu
from minigrad.ops.registry import REGISTRY
from minigrad.testing.strategies import shapes
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

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


@given(
    shape=SHAPES,
    half=st.sampled_from([mg.float16, mg.bfloat16]),
    layout=st.sampled_from(["C", "shifted"]),
    data=st.data(),
)
def test_casts_are_numpys(shape: tuple[int, ...], half: Any, layout: str, data: st.DataObject) -> None:
    from minigrad.backend.cuda import cast

    x = data.draw(
        values(mg.float32, shape, special=(*SPECIAL, 1 + 2**-11, 1 + 3 * 2**-11, 6.1e-5, 3e-8, 65519.0, 65520.0))
    )
    with np.errstate(over="ignore"):
        want = x.astype(half)
    narrow = cast(placed(x, layout), half)
    wide = cast(placed(want, layout), mg.float32)
    assert (narrow.dtype, wide.dtype) == (half, mg.float32)
    np.testing.assert_array_equal(numbers(narrow).astype(np.float64), want.astype(np.float64))
    np.testing.assert_array_equal(numbers(wide), want.astype(np.float32))


def test_casts_of_tensors() -> None:
    from minigrad.backend.cuda import cast

    for pair in (
        (mg.float32, mg.float32),
        (mg.float64, mg.float16),
        (mg.float16, mg.bfloat16),
        (mg.int64, mg.float32),
    ):
        assert cast(placed(np.ones(3, pair[0])), pair[1]) is NotImplemented
    assert cast(placed(np.ones((3, 2), np.float32), "F"), mg.float16) is NotImplemented
    x = mg.tensor(np.linspace(0, 1, 9, dtype=np.float32), device="cuda", requires_grad=True)
    y = x.astype(mg.bfloat16)
    y.backward(mg.tensor(np.linspace(1, 2, 9).astype(mg.bfloat16), device="cuda"))
    assert numbers(y.detach()).tobytes() == np.linspace(0, 1, 9, dtype=np.float32).astype(mg.bfloat16).tobytes()
    assert x.grad.tolist() == np.linspace(1, 2, 9).astype(mg.bfloat16).astype(float).tolist()


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
@given(shape=SHAPES, dtype=st.sampled_from([mg.float16, mg.bfloat16]), data=st.data())
def test_arithmetic_of_halves(name: str, shape: tuple[int, ...], dtype: Any, data: st.DataObject) -> None:
    """Each result is rounded once, and so is what the generic body gives, which casts and computes in float32."""
    kinds = data.draw(st.sampled_from([(dtype, dtype), (dtype, mg.float32), (mg.float32, dtype)]))
    x, y, g = (data.draw(values(kind, shape)) for kind in (*kinds, dtypes.promote(kinds)))
    outcomes = []
    for device in ("cpu", "cuda"):
        tensors = [mg.tensor(a, device=device, requires_grad=True) for a in (x, y)]
        with generic() if device == "cpu" else nullcontext(), np.errstate(all="ignore"):
            out = REGISTRY[name](*tensors)
            out.backward(mg.tensor(g, device=device))
            outcomes.append([numbers(t).astype(np.float64) for t in (out.detach(), tensors[0].grad, tensors[1].grad)])
    for found, want in zip(outcomes[1], outcomes[0], strict=True):
        np.testing.assert_array_equal(found, want)
    kernel = REGISTRY[name].kernels["cuda", dtype]
    layouts = (data.draw(st.sampled_from(LAYOUTS)) for _ in range(2))
    found = numbers(kernel(*(placed(a, layout) for a, layout in zip((x, y), layouts, strict=True))))
    np.testing.assert_array_equal(found.astype(np.float64), outcomes[0][0])


def test_halves_that_broadcast_are_summed_in_float32() -> None:
    x = mg.ones((300, 2), dtype=mg.bfloat16, device="cuda", requires_grad=True)
    row = mg.ones(2, dtype=mg.bfloat16, device="cuda", requires_grad=True)
    (x * row + row).sum().backward()
    assert row.grad.tolist() == [600.0, 600.0]
    assert x.grad.dtype == mg.bfloat16

"""layer_norm and rms_norm on the GPU: each kernel equals the generic body, for rows of any length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_results import FLOATS, assert_gpu, counted, shifted
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import autograd
from minigrad.errors import ShapeError
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("gpu")
Array = np.ndarray[Any, Any]
LAYER, RMS = ("layer_norm",), ("rms_norm",)
# a gradient is a difference that may cancel to nothing, where a row has few elements or a small variance
ENDS: dict[str, Any] = {"floor": 10.0}


@st.composite
def floats(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers around some mean, some of them infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(draw(st.sampled_from([0.0, 3.0])), draw(st.sampled_from([0.5, 4.0])), shape)
    x[rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.02]))] = draw(st.sampled_from([-math.inf, math.nan, 0.0]))
    return x.astype(dtype)


@given(data=st.data(), rows=st.integers(1, 20), n=st.sampled_from([1, 2, 3, 8, 31, 64, 100, 256, 257, 520]))
def test_norms_are_those_of_the_generic_body(data: st.DataObject, rows: int, n: int) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    x, weight, bias = (data.draw(floats(shape, dtype)) for shape in ((rows, n), (n,), (n,)))
    eps = 0.1  # few elements can have almost no variance
    options: dict[str, Any] = {"seed": n, **ENDS}
    assert_gpu(lambda t, w, b: mg.layer_norm(t, w, b, eps), x, weight, bias, names=LAYER, **options)
    assert_gpu(lambda t, b: mg.layer_norm(t, None, b, eps), x, bias, names=LAYER, **options)
    assert_gpu(lambda t: mg.layer_norm(t, eps=eps), x, names=LAYER, **options)
    assert_gpu(lambda t, w: mg.rms_norm(t, w, eps), x, weight, names=RMS, **options)
    assert_gpu(lambda t: mg.rms_norm(t, eps=eps), x, names=RMS, **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("rows", "n"), [(3, 2048), (17, 8193), (200, 40)])
def test_long_rows_and_many(dtype: Any, rows: int, n: int) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(1.0, size=shape).astype(dtype) for shape in ((rows, n), (n,), (n,)))
    assert_gpu(mg.layer_norm, x, weight, bias, names=LAYER, **ENDS)
    assert_gpu(mg.rms_norm, x, weight, names=RMS, **ENDS)


@pytest.mark.parametrize("threads", [32, 300])
def test_few_groups_take_many_rows(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    mg.zeros(1, device="cuda")
    from minigrad.backend.cuda import normalization

    monkeypatch.setattr(normalization, "GROUPS", threads)
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(1.0, size=shape) for shape in ((150, 33), (33,), (33,)))
    assert_gpu(mg.layer_norm, x, weight, bias, names=LAYER)
    assert_gpu(mg.rms_norm, x, weight, names=RMS)


@pytest.mark.parametrize("axis", [(-2, -1), (2, 1), -1, 2, (-1,), (0, 1, 2)], ids=str)
def test_the_last_axes_are_one_row(axis: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3, 4))
    weight = rng.normal(size=x.shape[3 - (1 if isinstance(axis, int) else len(axis)) :])
    assert_gpu(lambda t, w, b: mg.layer_norm(t, w, b, axis=axis), x, weight, weight + 1, names=LAYER, **ENDS)
    assert_gpu(lambda t, w: mg.rms_norm(t, w, axis=axis), x, weight, names=RMS, **ENDS)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = np.random.default_rng(0).normal(1000.0, size=(20, 1000)).astype(np.float32)
    with counted(*LAYER) as took:
        found = mg.layer_norm(new(x).to("cuda")).to("cpu").numpy()
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5), atol=2e-4)
    assert took == [True]


def test_rows_of_one_element_have_no_gradient() -> None:
    x, weight, bias = (mg.asarray([value], device="cuda") for value in (1.7, 0.3, 0.1))
    for t in (x, weight, bias):
        t.requires_grad = True
    grads = autograd.grad([mg.layer_norm(x, weight, bias)], [x, weight, bias], [mg.asarray([1.1], device="cuda")])
    assert [g.item() for g in grads[:2]] == [0.0, 0.0]
    np.testing.assert_allclose(grads[2].item(), 1.1, rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layouts(dtype: Any) -> None:
    """Transposed, every other row, no multiple of 16 bytes; a cotangent that is one number; a weight in pieces."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(32, 32)).astype(dtype), rng.normal(size=64).astype(dtype)
    whole, scale = new(x).to("cuda"), new(weight).to("cuda")
    views = {"transposed": whole.T, "strided": whole[::2], "shifted": shifted(x), "backwards": whole[::-1]}
    for what, t in views.items():
        results = []
        for tensor, w in ((t.detach(), scale[::2]), (t.to("cpu"), scale[::2].to("cpu"))):
            plain = tensor if tensor.device != "cpu" else mg.asarray(tensor.numpy().copy(), device="cuda")
            other = w.detach() if w.device != "cpu" else mg.asarray(w.numpy().copy(), device="cuda")
            for leaf in (plain, other):
                leaf.requires_grad = True
            out = mg.layer_norm(plain, other)
            grads = autograd.grad([(out * 3.0).sum()], [plain, other])
            results.append([a.detach().to("cpu").numpy() for a in (out, *grads)])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b, what)


def test_the_same_bits_each_time() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(70, 300)).astype(np.float32), rng.normal(size=300).astype(np.float32)
    found = set()
    for _ in range(3):
        t, w = (new(a, device="cuda", requires_grad=True) for a in (x, weight))
        out = mg.layer_norm(t, w)
        grads = autograd.grad([(out * out).sum()], [t, w])
        found.add(b"".join(a.detach().to("cpu").numpy().tobytes() for a in (out, *grads)))
    assert len(found) == 1


def test_what_is_left_to_the_generic_body() -> None:
    x, w = mg.ones((2, 3), device="cuda"), mg.ones(3, device="cuda")
    with counted(*LAYER, *RMS) as took:
        assert mg.layer_norm(x[:0], w).shape == (0, 3)
        assert mg.rms_norm(x[:, :0]).shape == (2, 0)
        for wrong in (
            lambda: mg.layer_norm(x, w[:2]),
            lambda: mg.rms_norm(x, w[None]),
            lambda: mg.layer_norm(x, axis=0),
        ):
            with pytest.raises(ShapeError, match="needs"):
                wrong()
    assert not any(took)


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_not_cast_on_the_way(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    x, w = (mg.ones(shape, dtype=dtype, device="cuda", requires_grad=True) for shape in ((4, 8), (8,)))
    op, seen = REGISTRY["layer_norm"], []
    for table in (op.kernels, op.joint.kernels):
        kernel = table["cuda", dtype]

        def noting(*arrays: Any, kernel: Any = kernel, **options: Any) -> Any:
            out = kernel(*arrays, **options)
            seen.extend(a.dtype for a in (*arrays, *(out if isinstance(out, tuple) else [out])) if a is not None)
            return out

        monkeypatch.setitem(table, ("cuda", dtype), noting)
    autograd.grad([mg.layer_norm(x, w)], [x, w], [mg.ones((4, 8), dtype=dtype, device="cuda")])
    assert seen == [dtype] * 9  # x, weight, result; cotangent, x, weight, three gradients

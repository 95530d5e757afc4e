"""softmax and its kin on the GPU: each kernel equals the generic body, for rows of any length along any axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
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

pytestmark = pytest.mark.usefixtures("gpu")
Array = np.ndarray[Any, Any]
FAMILY = ("softmax", "log_softmax", "logsumexp")
SPECIAL = [-math.inf, math.inf, math.nan, 0.0]
# Gradients are what is left of cotangents of about 1. That of log_softmax has exp of a result that was rounded: half of
# the last digit of -8 in float16 is 0.4 %.
ENDS: dict[str, Any] = {
    "softmax": {"floor": 1.0},
    "logsumexp": {"floor": 1.0},
    "log_softmax": {"floor": 4.0},
}


@st.composite
def logits(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers of some spread, some of them infinite or NaN, some rows all -inf."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(0.0, draw(st.sampled_from([0.1, 2.0, 5.0])), shape)
    special = rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.1]))
    x[special] = rng.choice(draw(st.lists(st.sampled_from(SPECIAL), min_size=1)), special.sum())
    if draw(st.booleans()) and shape[0]:
        x[draw(st.integers(0, shape[0] - 1))] = -math.inf
    return x.astype(dtype)


@pytest.mark.parametrize("name", FAMILY)
@given(data=st.data(), n=st.sampled_from([1, 2, 3, 4, 7, 8, 31, 64, 100, 256, 257, 264, 520]), rows=st.integers(1, 5))
def test_rows_are_those_of_the_generic_body(name: str, data: st.DataObject, n: int, rows: int) -> None:
    x = data.draw(logits((rows, n), data.draw(st.sampled_from(FLOATS))))
    assert_gpu(lambda t: getattr(mg, name)(t, axis=-1), x, names=(name,), seed=n, **ENDS[name])


@contextmanager
def width(n: int) -> Iterator[None]:
    """Columns are taken together from n neighbours on."""
    mg.zeros(1, device="cuda")
    from minigrad.backend.cuda import softmax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "WIDTH", n)
        yield


@pytest.mark.parametrize("least", [1, 10**9])
@pytest.mark.parametrize("name", FAMILY)
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_axis(name: str, least: int, data: st.DataObject, shape: list[int]) -> None:
    x = data.draw(logits(tuple(shape), data.draw(st.sampled_from(FLOATS))))
    axis: Any = data.draw(st.integers(-x.ndim, x.ndim - 1))
    options: dict[str, Any] = {}
    if name == "logsumexp":
        options["keepdims"] = data.draw(st.booleans())
        several = st.lists(st.integers(0, x.ndim - 1), min_size=1, unique=True).map(tuple)
        axis = data.draw(st.sampled_from([axis, None]) | several)
    with width(least):
        assert_gpu(lambda t: getattr(mg, name)(t, axis=axis, **options), x, names=(name,), **ENDS[name])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 16), 0), ((2, 100, 33), 1), ((3, 2, 5, 40), 1), ((1100, 20), 0), ((70, 8, 8), 0)]
)
def test_columns(name: str, dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).normal(0.0, 3.0, shape)
    x[..., 1] = -math.inf
    x[..., 2][x[..., 2] > 0] = -math.inf
    x[..., 3].ravel()[0] = math.nan
    assert_gpu(lambda t: getattr(mg, name)(t, axis=axis), x.astype(dtype), names=(name,), **ENDS[name])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("n", [2048, 8192, 8193, 12_000])
def test_long_rows(name: str, dtype: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(0.0, 3.0, (4, n))
    x[0].sort()  # the maximum comes last
    x[1] = -np.sort(x[1])
    x[2] = -math.inf
    x[3, : n // 2] = -math.inf
    assert_gpu(lambda t: getattr(mg, name)(t, axis=-1), x.astype(dtype), names=(name,), **ENDS[name])


@pytest.mark.parametrize(("shape", "axis"), [((3, 9000), -1), ((300, 20), 0)])
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("low", [-1000.0, -60_000.0, 1000.0, 60_000.0])
def test_large_logits(name: str, low: float, shape: tuple[int, int], axis: int) -> None:
    x = np.random.default_rng(0).uniform(low, low + 3, shape).astype(np.float32)
    x[1, ::3] -= 500.0
    assert_gpu(lambda t: getattr(mg, name)(t, axis=axis), x, names=(name,), **ENDS[name])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_layouts(name: str, dtype: Any) -> None:
    """Transposed, every other element, backwards, no multiple of 16 bytes; a cotangent that is one number."""
    f = getattr(mg, name)
    x = np.random.default_rng(0).normal(size=(6, 64)).astype(dtype)
    whole = new(x).to("cuda")
    views = {
        "transposed": (whole.T, x.T), "strided": (whole[::2, ::2], x[::2, ::2]), "backwards": (whole[::-1], x[::-1]),
        "shifted": (shifted(x), x), "expanded": (mg.broadcast_to(whole[:1], (3, 64)), np.repeat(x[:1], 3, axis=0)),
    }  # fmt: skip
    for what, (t, plain) in views.items():
        results = []
        for tensor in (t.detach(), new(plain.copy()).to("cuda")):
            tensor.requires_grad = True
            out = f(tensor, axis=-1)
            with counted(name) as took:
                (grad,) = autograd.grad([(out * 3.0).sum()], [tensor])
            assert took == [True], what
            results.append([out.detach().to("cpu").numpy(), grad.to("cpu").numpy()])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b, what)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("n", [40, 700, 9000])
def test_the_same_bits_each_time_and_in_any_company(name: str, n: int) -> None:
    """Threads run in another order each time; none is read before it is written."""
    x = new(np.random.default_rng(0).normal(size=(5, n)).astype(np.float32)).to("cuda")
    first, again, few = (getattr(mg, name)(t, axis=-1).to("cpu").numpy() for t in (x, x, x[2:4]))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[2:4], few)


@pytest.mark.parametrize("name", FAMILY)
def test_what_is_left_to_the_generic_body(name: str) -> None:
    f = getattr(mg, name)
    with counted(name) as took:
        for t in (mg.ones((2, 0), device="cuda"), mg.ones((), device="cuda"), mg.ones((1, 70_000), device="cuda")):
            assert f(t, axis=-1).shape == f(t.to("cpu"), axis=-1).shape
        with pytest.raises(ShapeError, match="needs an axis of x"):
            f(mg.ones((2, 3), device="cuda"), axis=2)
    assert took == [False] * 4


SUMS = """
extern "C" __global__ void rows_of_warps(const float* x, float* out) {
    const int i = threadIdx.y * blockDim.x + threadIdx.x;
    out[i] = block_sum(x[i], static_cast<float*>(nullptr));
    out[blockDim.x * blockDim.y + i] = warp_max<8>(x[i]);
}

extern "C" __global__ void whole(const double* x, double* out, long long n) {
    extern __shared__ unsigned char shared_memory[];
    double* scratch = reinterpret_cast<double*>(shared_memory);
    const int i = threadIdx.x;
    for (int k = 0; k < n; ++k) {
        const double sum = block_sum(x[k * blockDim.x + i], scratch), top = block_max(x[k * blockDim.x + i], scratch);
        out[2 * (k * blockDim.x + i)] = sum;
        out[2 * (k * blockDim.x + i) + 1] = top;
    }
}
"""


def sums(barriers: bool) -> tuple[Array, Array]:
    """What block_sum and block_max give each thread, and what they should."""
    import cupy

    from minigrad.backend.cuda import sources

    header = "\n".join(sources.lines("rows.cuh", set()))
    if not barriers:
        header = header.replace("__syncthreads();", "")
    x = np.random.default_rng(0).normal(size=(3, 96))
    out = cupy.empty((3, 96, 2), np.float64)
    kernel = cupy.RawModule(code=header + SUMS, options=sources.OPTIONS).get_function("whole")
    kernel((1,), (96,), (cupy.asarray(x), out, np.int64(3)), shared_mem=256)
    expected = np.stack([x.sum(axis=1), x.max(axis=1)], axis=1)[:, np.newaxis]
    return cupy.asnumpy(out), np.broadcast_to(expected, (3, 96, 2))


def test_sums_and_maxima_of_blocks_and_warps() -> None:
    import cupy

    from minigrad.backend.cuda import sources

    found, expected = sums(barriers=True)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert (found == found[:, :1]).all()  # the same bits for every thread
    header = "\n".join(sources.lines("rows.cuh", set()))
    x = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    out = cupy.empty((2, 4, 32), np.float32)
    cupy.RawModule(code=header + SUMS, options=sources.OPTIONS).get_function("rows_of_warps")(
        (1,), (32, 4), (cupy.asarray(x), out)
    )
    sum_of_row, top_of_eight = cupy.asnumpy(out)
    np.testing.assert_allclose(sum_of_row, np.broadcast_to(x.sum(axis=1, keepdims=True), (4, 32)), rtol=1e-5)
    np.testing.assert_array_equal(top_of_eight, np.repeat(x.reshape(16, 8).max(axis=1), 8).reshape(4, 32))


def test_a_missing_barrier_would_be_found() -> None:
    import cupy

    if hasattr(cupy, "RawKernel"):  # the stand-in has none
        pytest.skip("a GPU may run the warps one after the other")
    found, expected = sums(barriers=False)
    assert not np.allclose(found, expected)

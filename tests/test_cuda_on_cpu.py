"""The CPU that stands in for a GPU keeps CUDA's rules, and reports what breaks them."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minigrad import dtypes

compiler = importlib.import_module("cuda_on_cpu.compiler")

SOURCE = r"""
template <typename T>
DEVICE T sum_of_warp(T x) {
    for (int d = 16; d; d /= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
    }
    return x;
}

extern "C" __global__ void sums(const float* x, float* out, long long n) {
    __shared__ float parts[8];
    float own = 0;
    for (long long i = blockIdx.x * 256 + threadIdx.x; i < n; i += 256ll * gridDim.x) {
        own += x[i];
    }
    own = sum_of_warp(own);
    if (threadIdx.x % 32 == 0) {
        parts[threadIdx.x / 32] = own;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float whole = 0;
        for (int w = 0; w < 8; ++w) {
            whole += parts[w];
        }
        out[blockIdx.x] = whole;
    }
}

extern "C" __global__ void race(int* out) {
    __shared__ int last;
    last = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        out[0] = last;
    }
}

extern "C" __global__ void no_barrier(float* out) {
    extern __shared__ unsigned char shared_memory[];
    float* values = reinterpret_cast<float*>(shared_memory);
    values[threadIdx.x] = 1;
    out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void some_wait(float* out) {
    if (threadIdx.x < 40) {
        __syncwarp();
    } else {
        __shfl_sync(0xFFFFFFFFu, 1.0f, 0);
    }
    out[0] = 1;
}

extern "C" __global__ void for_ever(float* out) {
    if (threadIdx.x == 0) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void advance(float* out) {  // the C library has a function of this name
    out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void beside(float* out, int n) {
    out[n] = 1;
}

extern "C" __global__ void early(const float* x, float* out) {
    extern __shared__ unsigned char shared_memory[];
    float* values = reinterpret_cast<float*>(shared_memory);
    copy_async(values + 4 * threadIdx.x, x + 4 * threadIdx.x);
    commit_copies();
    out[threadIdx.x] = values[4 * threadIdx.x];
    wait_copies<0>();
    __syncthreads();
    out[32 + threadIdx.x] = values[127 - threadIdx.x];
}

#define PRODUCT(name, T)                                                                          \
    extern "C" __global__ void product_##name(const T* a, const T* b, float* d) {                 \
        __shared__ __align__(16) T left[16 * 16];                                                 \
        __shared__ __align__(16) T right[16 * 16];                                                \
        for (int i = threadIdx.x; i < 256; i += 32) {                                             \
            left[i] = a[i];                                                                       \
            right[i] = b[i];                                                                      \
        }                                                                                         \
        __syncthreads();                                                                          \
        const int lane = threadIdx.x, g = lane / 4, t = lane % 4;                                 \
        unsigned x[4], y[4];                                                                      \
        load_matrices(x, left + (lane % 16) * 16 + lane / 16 * 8);                                \
        load_matrices_transposed(y, right + (lane % 16) * 16 + lane / 16 * 8);                    \
        for (int half = 0; half < 2; ++half) {                                                    \
            float sums[4] = {};                                                                   \
            const unsigned z[2] = {y[2 * half], y[2 * half + 1]};                                 \
            mma_16x8x16(sums, x, z, T());                                                         \
            for (int i = 0; i < 4; ++i) {                                                         \
                d[(g + 8 * (i / 2)) * 16 + 8 * half + 2 * t + i % 2] = sums[i];                   \
            }                                                                                     \
        }                                                                                         \
    }
PRODUCT(float16, float16)
PRODUCT(bfloat16, bfloat16)

extern "C" __global__ void round_trip(const float* x, float16* h, bfloat16* b, float* out, int n) {
    if (threadIdx.x < n) {
        h[threadIdx.x] = from_float<float16>(x[threadIdx.x]);
        b[threadIdx.x] = from_float<bfloat16>(x[threadIdx.x]);
        out[2 * threadIdx.x] = to_float(h[threadIdx.x]);
        out[2 * threadIdx.x + 1] = to_float(b[threadIdx.x]);
    }
}
"""


@pytest.fixture(scope="module")
def module() -> Any:
    return compiler.Module('#line 1 "device.cuh"\n#line 1 "here"\n' + SOURCE)


def array(values: Any) -> Any:
    made = compiler.guarded(np.shape(values), values.dtype)
    made[...] = values
    return SimpleNamespace(values=made, device=0, data=SimpleNamespace(ptr=made.ctypes.data))


def launch(module: Any, name: str, threads: int, *arguments: Any, grid: int = 1, shared: int = 0) -> None:
    module.get_function(name)((grid,), (threads,), arguments, shared_mem=shared)


def test_blocks_warps_and_barriers(module: Any) -> None:
    x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    out = array(np.zeros(3, np.float32))
    launch(module, "sums", 256, array(x), out, np.int64(x.size), grid=3)
    np.testing.assert_allclose(out.values.sum(), x.sum(dtype=np.float64), rtol=1e-5)


def test_kernels_are_not_taken_for_functions_of_libraries(module: Any) -> None:
    out = array(np.zeros(8, np.float32))
    launch(module, "advance", 8, out)
    np.testing.assert_array_equal(out.values, np.arange(8))


def test_order_is_drawn(module: Any) -> None:
    seen = set()
    for _ in range(20):
        out = array(np.zeros(1, np.int32))
        launch(module, "race", 64, out)
        seen.add(int(out.values[0]))
    assert len(seen) > 5


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_products_of_tensor_cores(module: Any, name: str) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(16, 16)).astype(dtypes.as_dtype(name, "test")) for _ in range(2))
    d = array(np.zeros((16, 16), np.float32))
    launch(module, f"product_{name}", 32, array(a), array(b), d)
    np.testing.assert_allclose(d.values, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-5)


def test_halves_are_rounded_to_even(module: Any) -> None:
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, 70000, -1e-8, np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    h, b = array(np.zeros(8, np.float16)), array(np.zeros(8, dtypes.bfloat16))
    out = array(np.zeros(16, np.float32))
    launch(module, "round_trip", 8, array(x), h, b, out, np.int32(8))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(h.values, x.astype(np.float16))
    np.testing.assert_array_equal(b.values.astype(np.float32), x.astype(dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(out.values[0::2], h.values.astype(np.float32))
    np.testing.assert_array_equal(out.values[1::2], b.values.astype(np.float32))


def test_shared_memory_starts_odd(module: Any) -> None:
    out = array(np.zeros(64, np.float32))
    launch(module, "no_barrier", 64, out, shared=256)
    assert np.isnan(out.values).any()


def test_copies_arrive_when_waited_for(module: Any) -> None:
    x = np.arange(128, dtype=np.float32)
    out = array(np.zeros(64, np.float32))
    launch(module, "early", 32, array(x), out, shared=512)
    assert np.isnan(out.values[:32]).all()
    np.testing.assert_array_equal(out.values[32:], x[:95:-1])


def test_faults_are_reported(module: Any) -> None:
    out = array(np.zeros(8, np.float32))
    with pytest.raises(RuntimeError, match="some_wait: lanes that meet in another function in __"):
        launch(module, "some_wait", 64, out)
    with pytest.raises(RuntimeError, match=r"for_ever: 32 threads of block .* wait for ever, one in __sync"):
        launch(module, "for_ever", 32, out)
    with pytest.raises(RuntimeError, match="wrote beside an array"):
        launch(module, "beside", 1, out, np.int32(9))
    with pytest.raises(RuntimeError, match="past the shared memory"):
        launch(module, "no_barrier", 64, array(np.zeros(64, np.float32)), shared=128)
    with pytest.raises(ValueError, match="INVALID_VALUE"):
        launch(module, "race", 2048, out)
    with pytest.raises(RuntimeError, match="argument 1 has 8 bytes, the kernel takes 4"):
        launch(module, "beside", 1, out, np.int64(1))
    with pytest.raises(TypeError, match="an argument of type int"):
        launch(module, "beside", 1, out, 1)

// Sums, differences, products and quotients of half types, computed in float and rounded once.

#include "device.cuh"
#include "chunks.cuh"

struct Add {
    static __device__ __forceinline__ float of(float x, float y) { return x + y; }
};

struct Subtract {
    static __device__ __forceinline__ float of(float x, float y) { return x - y; }
};

struct Multiply {
    static __device__ __forceinline__ float of(float x, float y) { return x * y; }
};

struct Divide {
    static __device__ __forceinline__ float of(float x, float y) { return x / y; }
};

template <class F, class T>
DEVICE void combine(const T* x, const T* y, T* out, long long n) {
    constexpr int N = CHUNK<T>;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(y) && aligned(out);
    Chunk<T, N> first, second;
    load(first, x + start, whole, count);
    load(second, y + start, whole, count);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        first.at[k] = from_float<T>(F::of(to_float(first.at[k]), to_float(second.at[k])));
    }
    store(out + start, first, whole, count);
}

#define KERNELS(NAME, F)                                                                                      \
    extern "C" __global__ void NAME##_float16(const float16* x, const float16* y, float16* out, long long n) { \
        combine<F>(x, y, out, n);                                                                             \
    }                                                                                                         \
    extern "C" __global__ void NAME##_bfloat16(const bfloat16* x, const bfloat16* y, bfloat16* out,           \
                                               long long n) {                                                 \
        combine<F>(x, y, out, n);                                                                             \
    }

KERNELS(add, Add)
KERNELS(subtract, Subtract)
KERNELS(multiply, Multiply)
KERNELS(divide, Divide)

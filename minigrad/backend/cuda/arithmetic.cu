// Sums, differences, products and quotients: of half types, computed in float and rounded once; of a half type and
// float32, in float32.

#include "device.cuh"
#include "chunks.cuh"

typedef float float32;

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

template <class F, class X, class Y, class To>
DEVICE void combine(const X* x, const Y* y, To* out, long long n) {
    constexpr int N = CHUNK<X> > CHUNK<Y> ? CHUNK<X> : CHUNK<Y>;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(y) && aligned(out);
    Chunk<X, N> first;
    Chunk<Y, N> second;
    Chunk<To, N> made;
    load(first, x + start, whole, count);
    load(second, y + start, whole, count);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        made.at[k] = from_float<To>(F::of(to_float(first.at[k]), to_float(second.at[k])));
    }
    store(out + start, made, whole, count);
}

#define KERNEL(NAME, F, X, Y, TO)                                                                    \
    extern "C" __global__ void NAME##_##X##_##Y(const X* x, const Y* y, TO* out, long long n) { \
        combine<F>(x, y, out, n);                                                                    \
    }

#define KERNELS(NAME, F)                          \
    KERNEL(NAME, F, float16, float16, float16)    \
    KERNEL(NAME, F, float16, float32, float32)    \
    KERNEL(NAME, F, float32, float16, float32)    \
    KERNEL(NAME, F, bfloat16, bfloat16, bfloat16) \
    KERNEL(NAME, F, bfloat16, float32, float32)   \
    KERNEL(NAME, F, float32, bfloat16, float32)

KERNELS(add, Add)
KERNELS(subtract, Subtract)
KERNELS(multiply, Multiply)
KERNELS(divide, Divide)

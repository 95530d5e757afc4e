// Casts between float and the half types, each number rounded to the nearest, ties to even. A thread takes 8 numbers,
// 16 bytes of the narrow ones.

#include "device.cuh"
#include "chunks.cuh"

template <class From, class To>
DEVICE void cast(const From* x, To* out, long long n) {
    constexpr int N = 8;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(out);
    Chunk<From, N> given;
    Chunk<To, N> made;
    load(given, x + start, whole, count);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        made.at[k] = from_float<To>(to_float(given.at[k]));
    }
    store(out + start, made, whole, count);
}

#define CAST(FROM, TO, A, B)                                                                     \
    extern "C" __global__ void cast_##FROM##_##TO(const A* x, B* out, long long n) { cast(x, out, n); }

CAST(float32, float16, float, float16)
CAST(float32, bfloat16, float, bfloat16)
CAST(float16, float32, float16, float)
CAST(bfloat16, float32, bfloat16, float)

// Dropout: random words are made, applied and forgotten in registers. Forward and backward are one kernel. Element i is
// kept where word first + i is at least the threshold, a share of 2^32 (which itself drops all).

#include "device.cuh"
#include "chunks.cuh"
#include "philox.cuh"

template <class T>
DEVICE void dropout(const T* x, T* out, long long n, double scale, uint64 threshold, uint64 seed, uint64 counter,
                        const uint64* offset, uint64 first) {
    typedef Real<T> R;
    constexpr int N = sizeof(T) == 8 ? 4 : CHUNK<T>;  // a multiple of the words of a block
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(out);
    const int turn = static_cast<int>(first % 4);  // the same for all threads
    counter = moved(counter, offset);
    Chunk<T, N> chunk;
    load(chunk, x + start, whole, count);
    uint64 block = (first + start) / 4;
    Words words = philox(seed, counter, block);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const int place = (turn + k) % 4;
        if (k > 0 && place == 0) {
            words = philox(seed, counter, ++block);
        }
        const uint32 word = place < 2 ? (place == 0 ? words.w[0] : words.w[1]) : (place == 2 ? words.w[2] : words.w[3]);
        const R value = to_float(chunk.at[k]) * static_cast<R>(scale);
        chunk.at[k] = from_float<T>(word >= threshold ? value : R(0));
    }
    store(out + start, chunk, whole, count);
}

#define KERNEL(NAME, T)                                                                                               \
    extern "C" __global__ void dropout_##NAME(const T* x, T* out, long long n, double scale, uint64 threshold,        \
                                              uint64 seed, uint64 counter, const uint64* offset, uint64 first) {      \
        dropout(x, out, n, scale, threshold, seed, counter, offset, first);                                           \
    }

KERNEL(float16, float16)
KERNEL(bfloat16, bfloat16)
KERNEL(float32, float)
KERNEL(float64, double)

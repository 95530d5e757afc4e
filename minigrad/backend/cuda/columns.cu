// Sums of columns, for the gradients of biases.

#include "device.cuh"

template <typename T>
DEVICE bool lets_through(T y) {
    return to_float(y) > 0;
}

constexpr int WARPS = 8;
constexpr int WIDEST = 8;  // elements in 16 bytes

// Sums over the rows of one part: out[part, column] += x[row, column], of what relu let through where y is its result.
// A lane has `size` columns side by side, a warp every eighth row; the sums of the warps are added in their order.
template <typename T, typename S, int size>
DEVICE void sum_columns(const T* x, const T* y, S* out, long long rows, long long n, long long each) {
    typedef typename Sum<T>::type Real;
    __shared__ Real sums[WARPS][32 * WIDEST];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long column = (static_cast<long long>(blockIdx.x) * 32 + lane) * size;
    const long long start = blockIdx.y * each, stop = start + each < rows ? start + each : rows;
    Real sum[size] = {};
    if (column < n) {
        for (long long row = start + warp; row < stop; row += WARPS) {
            struct alignas(size * sizeof(T)) Part {
                T x[size];
            };
            const long long at = row * n + column;
            const Part part = *reinterpret_cast<const Part*>(x + at);
            if (y == nullptr) {
#pragma unroll
                for (int i = 0; i < size; ++i) {
                    sum[i] += to_float(part.x[i]);
                }
            } else {
                const Part gate = *reinterpret_cast<const Part*>(y + at);
#pragma unroll
                for (int i = 0; i < size; ++i) {
                    sum[i] += lets_through(gate.x[i]) ? to_float(part.x[i]) : Real(0);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < size; ++i) {
        sums[warp][i * 32 + lane] = sum[i];
    }
    __syncthreads();
    if (warp == 0 && column < n) {
#pragma unroll
        for (int i = 0; i < size; ++i) {
            Real total = 0;
            for (int w = 0; w < WARPS; ++w) {
                total += sums[w][i * 32 + lane];
            }
            out[blockIdx.y * n + column + i] = from_float<S>(total);
        }
    }
}

#define KERNELS(T, name)                                                                                                  \
    extern "C" __global__ void sums_##name(                                                                               \
        const T* g, const T* y, Sum<T>::type* out, long long rows, long long n, long long each, bool aligned              \
    ) {                                                                                                                   \
        if (aligned) {                                                                                                    \
            sum_columns<T, Sum<T>::type, 16 / sizeof(T)>(g, y, out, rows, n, each);                                        \
        } else {                                                                                                          \
            sum_columns<T, Sum<T>::type, 1>(g, y, out, rows, n, each);                                                    \
        }                                                                                                                 \
    }                                                                                                                     \
    extern "C" __global__ void total_##name(const Sum<T>::type* parts, T* out, long long rows, long long n) {             \
        sum_columns<Sum<T>::type, T, 1>(parts, nullptr, out, rows, n, rows);                                              \
    }

KERNELS(float16, float16)
KERNELS(bfloat16, bfloat16)
KERNELS(float, float32)
KERNELS(double, float64)

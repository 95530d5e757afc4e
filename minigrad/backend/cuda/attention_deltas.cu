// What the backward of attention needs of each query: its log-sum-exp as an exponent, infinite where it attends no key,
// so that its weights are 0, and what the gradients of its weights are less. Rows up to `padded` stand for no query.

#include "attention_problem.cuh"

template <typename T>
DEVICE void attention_deltas(
    Rows<const T> out, Rows<const T> g_out, const typename Sum<T>::type* lse, const typename Sum<T>::type* g_lse, int heads,
    int queries, int value_width, long long padded, long long count, typename Sum<T>::type* logs, typename Sum<T>::type* deltas
) {
    typedef typename Sum<T>::type real;
    const long long place = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (place >= count) {
        return;
    }
    const long long i = place % padded, flat = place / padded;
    const int lane = threadIdx.x % 32, batch = flat / heads, head = flat % heads;
    real sum = 0;
    if (i < queries) {
        const T* x = out.of(batch, head) + i * out.row;
        const T* g = g_out.of(batch, head) + i * g_out.row;
        for (int c = lane; c < value_width; c += 32) {
            sum += static_cast<real>(to_float(x[c])) * static_cast<real>(to_float(g[c]));
        }
    }
#pragma unroll
    for (int d = 16; d; d /= 2) {
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
    }
    if (lane == 0) {
        const real log = i < queries ? lse[flat * queries + i] : -static_cast<real>(infinity());
        const bool empty = log == -infinity();
        logs[place] = empty ? static_cast<real>(infinity()) : log * Exponent<real>::unit;
        deltas[place] = empty ? sum : sum - g_lse[flat * queries + i];
    }
}

#define DELTAS(T, real)                                                                                                \
    extern "C" __global__ void deltas_##T(                                                                             \
        ROWS(const T, out), ROWS(const T, g_out), const real *lse, const real *g_lse, int heads, int queries,          \
        int value_width, long long padded, long long count, real *logs, real *deltas) {                                \
        attention_deltas<T>(                                                                                           \
            THE_ROWS(out), THE_ROWS(g_out), lse, g_lse, heads, queries, value_width, padded, count, logs, deltas);     \
    }

typedef float float32;
typedef double float64;

DELTAS(float16, float)
DELTAS(bfloat16, float)
DELTAS(float32, float)
DELTAS(float64, double)

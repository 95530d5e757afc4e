// Elementwise functions and their rules: one pass over the arrays. A thread takes a chunk (chunks.cuh); half types are
// computed in float and rounded once.

#include "device.cuh"
#include "chunks.cuh"
#include "functions.cuh"

template <class F, class T>
DEVICE void forward(const T* x, T* out, long long n, double a, double b) {
    typedef Real<T> R;
    constexpr int N = CHUNK<T>;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(out);
    Chunk<T, N> chunk;
    load(chunk, x + start, whole, count);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        chunk.at[k] = from_float<T>(F::value(to_float(chunk.at[k]), static_cast<R>(a), static_cast<R>(b)));
    }
    store(out + start, chunk, whole, count);
}

// `one`: all elements have the cotangent g[0].
template <class F, class T>
DEVICE void backward(const T* g, const T* x, T* out, long long n, int one, double a, double b) {
    typedef Real<T> R;
    constexpr int N = CHUNK<T>;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(x) && aligned(out) && (one || aligned(g));
    Chunk<T, N> chunk, cotangents;
    load(chunk, x + start, whole, count);
    if (!one) {
        load(cotangents, g + start, whole, count);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const R given = to_float(one ? g[0] : cotangents.at[k]);
        const R pulled = F::pull(given, to_float(chunk.at[k]), static_cast<R>(a), static_cast<R>(b));
        chunk.at[k] = from_float<T>(pulled);
    }
    store(out + start, chunk, whole, count);
}

#define KERNELS(NAME, F, TYPE, T)                                                                             \
    extern "C" __global__ void NAME##_##TYPE(const T* x, T* out, long long n, double a, double b) {           \
        forward<F>(x, out, n, a, b);                                                                          \
    }                                                                                                         \
    extern "C" __global__ void NAME##_vjp_##TYPE(const T* g, const T* x, T* out, long long n, int one, double a, \
                                                 double b) {                                                  \
        backward<F>(g, x, out, n, one, a, b);                                                                 \
    }

#define FUNCTION(NAME, F)                \
    KERNELS(NAME, F, float16, float16)   \
    KERNELS(NAME, F, bfloat16, bfloat16) \
    KERNELS(NAME, F, float32, float)     \
    KERNELS(NAME, F, float64, double)

FUNCTION(exp, Exp)
FUNCTION(log, Log)
FUNCTION(softplus, Softplus)
FUNCTION(log_sigmoid, LogSigmoid)
FUNCTION(tanh, Tanh)
FUNCTION(sigmoid, Sigmoid)
FUNCTION(erf, Erf)
FUNCTION(relu, Relu)
FUNCTION(leaky_relu, LeakyRelu)
FUNCTION(hardswish, Hardswish)
FUNCTION(elu, Elu)
FUNCTION(gelu, Gelu)
FUNCTION(gelu_tanh, GeluTanh)
FUNCTION(silu, Silu)
FUNCTION(mish, Mish)

// softmax, log_softmax and logsumexp along the middle axis of (outer, n, inner), as ops/softmax.py defines them. A block
// has 32 neighbouring columns, which lie side by side in memory, and blockDim.y threads for each.

#include "exponentials.cuh"

extern __shared__ unsigned char shared_memory[];

struct Column {
    long long number;
    long long first;  // the place of its first element
    bool exists;
};

DEVICE Column own_column(long long n, long long inner) {
    const long long tiles = (inner + 31) / 32, outer = blockIdx.x / tiles;
    const long long j = (blockIdx.x - outer * tiles) * 32 + threadIdx.x;
    return {outer * inner + j, outer * n * inner + j, j < inner};
}

// Call f(place) for the elements of a column that this thread has.
template <class F>
DEVICE void each_element(const Column& column, long long n, long long inner, F f) {
    if (column.exists) {
        for (long long i = threadIdx.y; i < n; i += blockDim.y) {
            f(column.first + i * inner);
        }
    }
}

// f(f(x of the first thread of a column, x of the second), ...).
template <class A, class F>
DEVICE A folded(A x, F f) {
    A* shared = reinterpret_cast<A*>(shared_memory);
    __syncthreads();
    shared[threadIdx.y * 32 + threadIdx.x] = x;
    __syncthreads();
    A all = shared[threadIdx.x];
    for (int k = 1; k < blockDim.y; ++k) {
        all = f(all, shared[k * 32 + threadIdx.x]);
    }
    return all;
}

template <class A>
DEVICE A column_sum(A x) {
    return folded(x, [](A a, A b) { return a + b; });
}

template <class T>
DEVICE Exponentials<Wide<T>> exponentials(const T* x, const Column& column, long long n, long long inner) {
    typedef Wide<T> A;
    A top = -infinity(), total = 0;
    each_element(column, n, inner, [&](long long at) {
        const A v = to_float(x[at]);
        if (v > top) {
            total = rescaled<T>(total, top, v);
            top = v;
        }
        total += exponential<T>(v - base(top));
    });
    const A all = folded(top, [](A a, A b) { return larger(a, b); });
    return {base(all), column_sum(rescaled<T>(total, top, all))};
}

// `factor` has a number for each column, or is null.
template <class T>
DEVICE void softmax(const T* x, const T* factor, T* out, long long n, long long inner) {
    typedef Wide<T> A;
    const Column column = own_column(n, inner);
    const Exponentials<A> e = exponentials(x, column, n, inner);
    const A scale = 1 / (e.total == 0 ? A(1) : e.total) *
                    (factor && column.exists ? to_float(factor[column.number]) : A(1));
    each_element(column, n, inner, [&](long long at) {
        out[at] = from_float<T>(exponential<T>(to_float(x[at]) - e.base) * scale);
    });
}

template <class T>
DEVICE void log_softmax(const T* x, T* out, long long n, long long inner) {
    typedef Wide<T> A;
    const Column column = own_column(n, inner);
    const Exponentials<A> e = exponentials(x, column, n, inner);
    const A log_total = logarithm(e.total == 0 ? A(1) : e.total);
    each_element(column, n, inner, [&](long long at) {
        out[at] = from_float<T>(to_float(x[at]) - e.base - log_total);
    });
}

template <class T>
DEVICE void logsumexp(const T* x, T* out, long long n, long long inner) {
    const Column column = own_column(n, inner);
    const Exponentials<Wide<T>> e = exponentials(x, column, n, inner);
    if (threadIdx.y == 0 && column.exists) {
        out[column.number] = from_float<T>(logarithm(e.total) + e.base);
    }
}

template <class T>
DEVICE void softmax_vjp(const T* g, const T* out, T* dx, long long n, long long inner) {
    typedef Wide<T> A;
    const Column column = own_column(n, inner);
    A dot = 0;
    each_element(column, n, inner, [&](long long at) { dot += to_float(g[at]) * to_float(out[at]); });
    dot = column_sum(dot);
    each_element(column, n, inner, [&](long long at) {
        dx[at] = from_float<T>(to_float(out[at]) * (to_float(g[at]) - dot));
    });
}

template <class T>
DEVICE void log_softmax_vjp(const T* g, const T* out, T* dx, long long n, long long inner) {
    typedef Wide<T> A;
    const Column column = own_column(n, inner);
    A total = 0;
    each_element(column, n, inner, [&](long long at) { total += to_float(g[at]); });
    total = column_sum(total);
    each_element(column, n, inner, [&](long long at) {
        dx[at] = from_float<T>(to_float(g[at]) - exponential<T>(to_float(out[at])) * total);
    });
}

#define FORMS(T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmax_##T(const T* x, const T* factor, T* out, long long n, long long inner) {                              \
        softmax<T>(x, factor, out, n, inner);                                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        log_softmax_##T(const T* x, T* out, long long n, long long inner) {                                           \
        log_softmax<T>(x, out, n, inner);                                                                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        logsumexp_##T(const T* x, T* out, long long n, long long inner) {                                             \
        logsumexp<T>(x, out, n, inner);                                                                               \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmax_vjp_##T(const T* g, const T* out, T* dx, long long n, long long inner) {                              \
        softmax_vjp<T>(g, out, dx, n, inner);                                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        log_softmax_vjp_##T(const T* g, const T* out, T* dx, long long n, long long inner) {                          \
        log_softmax_vjp<T>(g, out, dx, n, inner);                                                                     \
    }

FORMS(float32)
FORMS(float64)
FORMS(float16)
FORMS(bfloat16)

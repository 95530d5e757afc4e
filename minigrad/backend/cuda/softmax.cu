// softmax, log_softmax and logsumexp of rows, as ops/softmax.py defines them; rows of any length.

#include "exponentials.cuh"

extern __shared__ unsigned char shared_memory[];

// `factor` has a number for each row, or is null.
template <class T, int VALUES>
DEVICE void softmax(const T* x, const T* factor, T* out, long long rows, long long n) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> row(x + i * n, n, is_aligned(x, n), -infinity());
    const Exponentials<A> e = exponentials(row, reinterpret_cast<A*>(shared_memory));
    const A scale = 1 / (e.total == 0 ? A(1) : e.total) * (factor ? to_float(factor[i]) : A(1));
    row.map(out + i * n, is_aligned(out, n), [&](A v, long long) { return exponential<T>(v - e.base) * scale; });
}

template <class T, int VALUES>
DEVICE void log_softmax(const T* x, T* out, long long rows, long long n) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> row(x + i * n, n, is_aligned(x, n), -infinity());
    const Exponentials<A> e = exponentials(row, reinterpret_cast<A*>(shared_memory));
    const A log_total = logarithm(e.total == 0 ? A(1) : e.total);
    row.map(out + i * n, is_aligned(out, n), [&](A v, long long) { return v - e.base - log_total; });
}

template <class T, int VALUES>
DEVICE void logsumexp(const T* x, T* out, long long rows, long long n) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> row(x + i * n, n, is_aligned(x, n), -infinity());
    const Exponentials<A> e = exponentials(row, reinterpret_cast<A*>(shared_memory));
    if (threadIdx.x == 0) {
        out[i] = from_float<T>(logarithm(e.total) + e.base);
    }
}

template <class T, int VALUES>
DEVICE void softmax_vjp(const T* g, const T* out, T* dx, long long rows, long long n) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> cotangent(g + i * n, n, is_aligned(g, n), 0), made(out + i * n, n, is_aligned(out, n), 0);
    A dot = 0;
    each_pack<T, VALUES>(n, [&](int p, long long at) {
        const A *u = cotangent(p, at), *v = made(p, at);
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            dot += u[k] * v[k];
        }
    });
    dot = block_sum(dot, reinterpret_cast<A*>(shared_memory));
    each_pack<T, VALUES>(n, [&](int p, long long at) {
        const A *u = cotangent(p, at), *v = made(p, at);
        A d[PACK<T>];
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            d[k] = v[k] * (u[k] - dot);
        }
        store(dx + i * n, at, n, is_aligned(dx, n), d);
    });
}

template <class T, int VALUES>
DEVICE void log_softmax_vjp(const T* g, const T* out, T* dx, long long rows, long long n) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> cotangent(g + i * n, n, is_aligned(g, n), 0), made(out + i * n, n, is_aligned(out, n), 0);
    const A total = cotangent.sum(reinterpret_cast<A*>(shared_memory), [](A u, long long) { return u; });
    each_pack<T, VALUES>(n, [&](int p, long long at) {
        const A *u = cotangent(p, at), *v = made(p, at);
        A d[PACK<T>];
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            d[k] = u[k] - exponential<T>(v[k]) * total;
        }
        store(dx + i * n, at, n, is_aligned(dx, n), d);
    });
}

#define KERNELS(T, SUFFIX, VALUES)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmax_##T##SUFFIX(const T* x, const T* factor, T* out, long long rows, long long n) {                       \
        softmax<T, VALUES>(x, factor, out, rows, n);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        log_softmax_##T##SUFFIX(const T* x, T* out, long long rows, long long n) {                                    \
        log_softmax<T, VALUES>(x, out, rows, n);                                                                      \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        logsumexp_##T##SUFFIX(const T* x, T* out, long long rows, long long n) {                                      \
        logsumexp<T, VALUES>(x, out, rows, n);                                                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmax_vjp_##T##SUFFIX(const T* g, const T* out, T* dx, long long rows, long long n) {                       \
        softmax_vjp<T, VALUES>(g, out, dx, rows, n);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        log_softmax_vjp_##T##SUFFIX(const T* g, const T* out, T* dx, long long rows, long long n) {                   \
        log_softmax_vjp<T, VALUES>(g, out, dx, rows, n);                                                              \
    }

#define FORMS(T)       \
    KERNELS(T, , HELD) \
    KERNELS(T, _long, 0)

FORMS(float32)
FORMS(float64)
FORMS(float16)
FORMS(bfloat16)

// layer_norm and rms_norm of rows, as ops/normalization.py defines them; rows of any length. A weight and a bias are one
// number for each element of a row, or null.

#include "packs.cuh"

extern __shared__ unsigned char shared_memory[];

// What a row is brought to mean 0 and variance 1 with; without CENTERED the mean is 0.
template <class A>
struct Moments {
    A mean;
    A scale;
};

template <class T, int VALUES, bool CENTERED>
DEVICE Moments<Wide<T>> moments(Row<T, VALUES>& row, Wide<T> eps, Wide<T>* scratch) {
    typedef Wide<T> A;
    A mean = 0;
    if constexpr (CENTERED) {
        mean = row.sum(scratch, [](A v, long long) { return v; }) / A(row.n);
    }
    const A squares = row.sum(scratch, [&](A v, long long) { return (v - mean) * (v - mean); });
    return {mean, 1 / square_root(squares / A(row.n) + eps)};
}

template <class T, int VALUES, bool CENTERED>
DEVICE void norm(
    const T* x, const T* weight, const T* bias, T* out, long long rows, long long n, Wide<T> eps) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    Row<T, VALUES> row(x + i * n, n, is_aligned(x, n), 0);
    const Moments<A> m = moments<T, VALUES, CENTERED>(row, eps, reinterpret_cast<A*>(shared_memory));
    each_pack<T, VALUES>(n, [&](int p, long long at) {
        const A* v = row(p, at);
        A made[PACK<T>], other[PACK<T>];
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            made[k] = (v[k] - m.mean) * m.scale;
        }
        if (weight) {
            load(other, weight, at, n, is_aligned(weight, n), A(0));
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                made[k] *= other[k];
            }
        }
        if (bias) {
            load(other, bias, at, n, is_aligned(bias, n), A(0));
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                made[k] += other[k];
            }
        }
        store(out + i * n, at, n, is_aligned(out, n), made);
    });
}

// Add values to a sum that a thread keeps in registers or, of a row that is long, in global memory, where `first` ones
// replace what is there. Nobody else touches its elements.
template <int VALUES, int SIZE, class A>
DEVICE void accumulate(A* held, A* memory, const A* values, long long at, long long n, bool first) {
#pragma unroll
    for (int k = 0; k < SIZE; ++k) {
        if constexpr (VALUES > 0) {
            held[k] += values[k];
        } else if (at + k < n) {
            memory[at + k] = first ? values[k] : memory[at + k] + values[k];
        }
    }
}

// Gradients. The rows are dealt out to `slots` groups of blockDim.x threads, and each adds up those of weight and bias
// over its own: dweight and dbias are (slots, n), to be summed over the first axis; either may be null. With `adds`, that
// of x is added to what dx holds.
template <class T, int VALUES, bool CENTERED>
DEVICE void norm_vjp(
    const T* g, const T* x, const T* weight, T* dx, Wide<T>* dweight, Wide<T>* dbias, long long rows, long long n,
    long long slots, Wide<T> eps, bool adds) {
    typedef Wide<T> A;
    constexpr int SIZE = PACK<T>, PACKS = VALUES ? VALUES / SIZE : 1;
    A* scratch = reinterpret_cast<A*>(shared_memory);
    A slopes[PACKS][SIZE] = {}, shifts[PACKS][SIZE] = {};
    const long long slot = own_row();
    if (slot >= slots) {
        return;
    }
    dweight += dweight ? slot * n : 0;
    dbias += dbias ? slot * n : 0;
    for (long long i = slot; i < rows; i += slots) {
        Row<T, VALUES> row(x + i * n, n, is_aligned(x, n), 0), cotangent(g + i * n, n, is_aligned(g, n), 0);
        const Moments<A> m = moments<T, VALUES, CENTERED>(row, eps, scratch);
        A mean = 0, slope = 0;
        each_pack<T, VALUES>(n, [&](int p, long long at) {
            const A *u = cotangent(p, at), *v = row(p, at);
            A normal[SIZE], product[SIZE], factor[SIZE];
            if (weight) {
                load(factor, weight, at, n, is_aligned(weight, n), A(0));
            }
#pragma unroll
            for (int k = 0; k < SIZE; ++k) {
                normal[k] = (v[k] - m.mean) * m.scale;
                product[k] = u[k] * normal[k];
                const A inner = weight ? u[k] * factor[k] : u[k];
                mean += inner;
                slope += inner * normal[k];
            }
            if (dweight) {
                accumulate<VALUES, SIZE>(slopes[p], dweight, product, at, n, i == slot);
            }
            if (dbias) {
                accumulate<VALUES, SIZE>(shifts[p], dbias, u, at, n, i == slot);
            }
        });
        mean = CENTERED ? block_sum(mean, scratch) / A(n) : A(0);
        slope = block_sum(slope, scratch) / A(n);
        each_pack<T, VALUES>(n, [&](int p, long long at) {
            const A *u = cotangent(p, at), *v = row(p, at);
            A made[SIZE], factor[SIZE];
            if (weight) {
                load(factor, weight, at, n, is_aligned(weight, n), A(0));
            }
#pragma unroll
            for (int k = 0; k < SIZE; ++k) {
                const A inner = weight ? u[k] * factor[k] : u[k];
                made[k] = m.scale * (inner - mean - (v[k] - m.mean) * m.scale * slope);
            }
            if (adds) {
                load(factor, dx + i * n, at, n, is_aligned(dx, n), A(0));
#pragma unroll
                for (int k = 0; k < SIZE; ++k) {
                    made[k] += factor[k];
                }
            }
            store(dx + i * n, at, n, is_aligned(dx, n), made);
        });
    }
    if constexpr (VALUES > 0) {
        each_pack<T, VALUES>(n, [&](int p, long long at) {
#pragma unroll
            for (int k = 0; k < SIZE; ++k) {
                if (dweight && at + k < n) {
                    dweight[at + k] = slopes[p][k];
                }
                if (dbias && at + k < n) {
                    dbias[at + k] = shifts[p][k];
                }
            }
        });
    }
}

// The sums of the columns of a matrix. A block has 32 neighbours, and blockDim.y threads for each.
template <class T>
DEVICE void add_columns(const Wide<T>* x, T* out, long long rows, long long n) {
    typedef Wide<T> A;
    A* sums = reinterpret_cast<A*>(shared_memory);
    const long long j = static_cast<long long>(blockIdx.x) * 32 + threadIdx.x;
    A total = 0;
    if (j < n) {
        for (long long i = threadIdx.y; i < rows; i += blockDim.y) {
            total += x[i * n + j];
        }
    }
    sums[threadIdx.y * 32 + threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y == 0 && j < n) {
        total = 0;
        for (int k = 0; k < blockDim.y; ++k) {
            total += sums[k * 32 + threadIdx.x];
        }
        out[j] = from_float<T>(total);
    }
}

#define KERNELS(T, A, SUFFIX, VALUES)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##T##SUFFIX(                                     \
        const T* x, const T* weight, const T* bias, T* out, long long rows, long long n, A eps) {                     \
        norm<T, VALUES, true>(x, weight, bias, out, rows, n, eps);                                                    \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        rms_norm_##T##SUFFIX(const T* x, const T* weight, T* out, long long rows, long long n, A eps) {               \
        norm<T, VALUES, false>(x, weight, nullptr, out, rows, n, eps);                                                \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_vjp_##T##SUFFIX(                                 \
        const T* g, const T* x, const T* weight, T* dx, A* dweight, A* dbias, long long rows, long long n,            \
        long long slots, A eps, bool adds) {                                                                          \
        norm_vjp<T, VALUES, true>(g, x, weight, dx, dweight, dbias, rows, n, slots, eps, adds);                       \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) rms_norm_vjp_##T##SUFFIX(                                   \
        const T* g, const T* x, const T* weight, T* dx, A* dweight, long long rows, long long n, long long slots,     \
        A eps, bool adds) {                                                                                           \
        norm_vjp<T, VALUES, false>(g, x, weight, dx, dweight, nullptr, rows, n, slots, eps, adds);                    \
    }

#define FORMS(T, A)                                                                                                   \
    KERNELS(T, A, , HELD)                                                                                             \
    KERNELS(T, A, _long, 0)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        add_columns_##T(const A* x, T* out, long long rows, long long n) {                                            \
        add_columns<T>(x, out, rows, n);                                                                              \
    }

FORMS(float32, float)
FORMS(float64, double)
FORMS(float16, float)
FORMS(bfloat16, float)

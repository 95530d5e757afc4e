// Rows of a matrix in packs of 16 bytes. blockDim.x threads share a row, and with VALUES of it at most in the registers
// of each it is read once; VALUES is 0 for rows that are longer and read again whenever they are needed.

#include "rows.cuh"

typedef float float32;
typedef double float64;

enum {
    HELD = 8,       // values of a row in the registers of a thread
    THREADS = 1024  // of a block, at most: what the registers of a kernel have to suffice for
};

template <class T>
using Wide = typename Sum<T>::type;

template <class T>
constexpr int PACK = 16 / sizeof(T);

DEVICE float square_root(float x) { return sqrtf(x); }

DEVICE double square_root(double x) { return sqrt(x); }

// Whether rows, each of which begins so many elements behind another from p on, can be read in packs. A null pointer has
// none to read.
template <class T, int COUNT = PACK<T>>
DEVICE bool is_aligned(const T* p, long long step) {
    return reinterpret_cast<unsigned long long>(p) % (COUNT * sizeof(T)) == 0 && step % COUNT == 0;
}

template <int BYTES>
struct Word;

template <>
struct Word<16> {
    typedef uint4 type;
};

template <>
struct Word<8> {
    typedef uint2 type;
};

template <class T, int COUNT = PACK<T>>
union Pack {
    typename Word<COUNT * sizeof(T)>::type bits;
    T values[COUNT];
};

// The elements of a row from `at` on, and `fill` behind its end.
template <class T>
DEVICE void load(Wide<T>* values, const T* row, long long at, long long n, bool aligned, Wide<T> fill) {
    if (aligned && at + PACK<T> <= n) {
        Pack<T> pack;
        pack.bits = *reinterpret_cast<const uint4*>(row + at);
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            values[k] = to_float(pack.values[k]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            values[k] = at + k < n ? to_float(row[at + k]) : fill;
        }
    }
}

template <class T, class A, int COUNT>
DEVICE void store(T* row, long long at, long long n, bool aligned, const A (&values)[COUNT]) {
    if (aligned && at + COUNT <= n) {
        Pack<T, COUNT> pack;
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            pack.values[k] = from_float<T>(values[k]);
        }
        *reinterpret_cast<decltype(pack.bits)*>(row + at) = pack.bits;
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            if (at + k < n) {
                row[at + k] = from_float<T>(values[k]);
            }
        }
    }
}

// Call f(p, at) for each pack of this thread: its number and its first element.
template <class T, int VALUES, class F>
DEVICE void each_pack(long long n, F f) {
    if constexpr (VALUES > 0) {
#pragma unroll
        for (int p = 0; p < VALUES / PACK<T>; ++p) {
            const long long at = (static_cast<long long>(p) * blockDim.x + threadIdx.x) * PACK<T>;
            if (at < n) {
                f(p, at);
            }
        }
    } else {
        for (long long at = static_cast<long long>(threadIdx.x) * PACK<T>; at < n; at += blockDim.x * PACK<T>) {
            f(0, at);
        }
    }
}

// What a thread has of a row.
template <class T, int VALUES>
struct Row {
    const T* row;
    long long n;
    bool aligned;
    Wide<T> fill;
    Wide<T> held[VALUES ? VALUES / PACK<T> : 1][PACK<T>];

    __device__ Row(const T* row, long long n, bool aligned, Wide<T> fill)
        : row(row), n(n), aligned(aligned), fill(fill) {
        if constexpr (VALUES > 0) {
            each_pack<T, VALUES>(n, [&](int p, long long at) { load(held[p], row, at, n, aligned, fill); });
        }
    }

    // The elements of a pack.
    __device__ const Wide<T>* operator()(int p, long long at) {
        if constexpr (VALUES == 0) {
            load(held[0], row, at, n, aligned, fill);
        }
        return held[p];
    }

    // The sum of f(element, its place).
    template <class F>
    __device__ Wide<T> sum(Wide<T>* scratch, F f) {
        Wide<T> total = 0;
        each_pack<T, VALUES>(n, [&](int p, long long at) {
            const Wide<T>* v = (*this)(p, at);
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                total += at + k < n ? f(v[k], at + k) : Wide<T>(0);
            }
        });
        return block_sum(total, scratch);
    }

    // out = f(element, its place), in a dtype of its own.
    template <class To, class F>
    __device__ void map(To* out, bool out_aligned, F f) {
        each_pack<T, VALUES>(n, [&](int p, long long at) {
            const Wide<T>* v = (*this)(p, at);
            Wide<T> made[PACK<T>];
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                made[k] = f(v[k], at + k);
            }
            store(out, at, n, out_aligned, made);
        });
    }
};

// The row of this thread; at or beyond the number of rows it has nothing to do.
DEVICE long long own_row() {
    return static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
}

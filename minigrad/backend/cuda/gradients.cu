// Gradients of many parameters in one launch: scaled in place, with a look whether all are finite, and their norm. What
// is found, and what the gradients are scaled by, stays in the GPU's memory.

#include "device.cuh"
#include "tables.cuh"
#include "rows.cuh"

struct Row {
    void* values;
    long long n;
};

// ---- norms ----------------------------------------------------------------------------------------------------------

template <class T>
DEVICE T magnitude(T x) {
    return x < T(0) ? -x : x;
}

// (sum |x|^power)^(1 / power) of n values, or the largest |x| for an infinite power; every thread gets it. They are
// divided by the largest first, so that no power overflows or vanishes: squares of float32 do neither in double.
template <class T>
DEVICE double norm_of(const T* values, long long n, double power) {
    __shared__ double scratch[32];
    const bool squares = power == 2.0 && sizeof(T) < 8;
    constexpr int N = 16 / sizeof(T);
    const long long whole = is_aligned(values, 16) ? n - n % N : 0;
    double top = 0.0, bad = 0.0, sum = 0.0;
    const auto see = [&](T value) {
        const double x = magnitude<double>(to_float(value));
        sum += squares ? x * x : 0.0;
        bad += x != x ? 1.0 : 0.0;
        top = x > top ? x : top;
    };
    for (long long i = N * threadIdx.x; i < whole; i += N * THREADS) {
        const Pack<T, N> x = load<T, N>(values, i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            see(x.at[j]);
        }
    }
    for (long long i = whole + threadIdx.x; i < n; i += THREADS) {
        see(values[i]);
    }
    if (squares) {
        return sqrt(block_sum(sum, scratch));
    }
    bad = block_sum(bad, scratch);
    top = block_max(top, scratch);
    if (bad != 0.0) {
        return nan("");
    }
    if (isinf(power) || top == 0.0 || isinf(top)) {
        return top;
    }
    sum = 0.0;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        const double x = magnitude<double>(to_float(values[i])) / top;
        sum += power == 2.0 ? x * x : pow(x, power);
    }
    sum = block_sum(sum, scratch);
    return top * (power == 2.0 ? sqrt(sum) : pow(sum, 1.0 / power));
}

// The norm of each chunk.
template <class T>
DEVICE void chunk_norms(const long long* table, int count, double power, double* norms) {
    const Row* rows = reinterpret_cast<const Row*>(table + count);
    const Part part = part_of(table, count, rows);
    const T* values = static_cast<const T*>(rows[part.row].values);
    const double norm = norm_of(values + part.start, part.stop - part.start, power);
    if (threadIdx.x == 0) {
        norms[blockIdx.x] = norm;
    }
}

extern "C" __global__ void norms_float32(const long long* table, int count, double power, double* norms) {
    chunk_norms<float>(table, count, power, norms);
}

extern "C" __global__ void norms_float64(const long long* table, int count, double power, double* norms) {
    chunk_norms<double>(table, count, power, norms);
}

extern "C" __global__ void norms_float16(const long long* table, int count, double power, double* norms) {
    chunk_norms<float16>(table, count, power, norms);
}

extern "C" __global__ void norms_bfloat16(const long long* table, int count, double power, double* norms) {
    chunk_norms<bfloat16>(table, count, power, norms);
}

// The norm of norms, for each block of those between two ends: of the chunks of an array, or of all arrays.
extern "C" __global__ void fold(const double* norms, const long long* ends, double power, double* out) {
    const long long k = blockIdx.x, start = k == 0 ? 0 : ends[k - 1];
    const double norm = norm_of(norms + start, ends[k] - start, power);
    if (threadIdx.x == 0) {
        out[k] = norm;
    }
}

// ---- scaling --------------------------------------------------------------------------------------------------------

enum { BY, BY_INVERSE, TO_NORM };

// What the values are multiplied by: `value`, or 1 / *number, or what brings a norm of *number down to `value`.
DEVICE double factor_of(int how, double value, const double* number) {
    if (how == BY) {
        return value;
    }
    if (how == BY_INVERSE) {
        return 1.0 / *number;
    }
    const double factor = value / (*number + 1e-6);
    return factor >= 1.0 ? 1.0 : factor;  // NaN stays
}

template <class T, int N>
DEVICE bool scale(T* values, long long i, double factor, bool wide) {
    Pack<T, N> x = load<T, N>(values, i);
    bool finite = true;
#pragma unroll
    for (int j = 0; j < N; ++j) {
        if (factor != 1.0) {
            x.at[j] = wide ? static_cast<T>(x.at[j] * factor) : x.at[j] * static_cast<T>(factor);
        }
        finite = finite && x.at[j] - x.at[j] == T(0);
    }
    if (factor != 1.0) {
        store(values, i, x);
    }
    return finite;
}

// Multiply; *finite becomes false where a product is infinite or NaN. Below 1e-30 a float32 factor is too near to the
// subnormal numbers, which have few digits.
template <class T>
DEVICE void scale_all(const long long* table, int count, int how, double value, const double* number, bool* finite) {
    const double factor = factor_of(how, value, number);
    if (factor == 1.0 && finite == nullptr) {
        return;
    }
    const Row* rows = reinterpret_cast<const Row*>(table + count);
    const Part part = part_of(table, count, rows);
    T* values = static_cast<T*>(rows[part.row].values);
    constexpr int N = 16 / sizeof(T);
    const bool wide = sizeof(T) == 4 && factor < 1e-30;
    bool good = true;
    const long long whole = is_aligned(values, 16) ? part.stop - (part.stop - part.start) % N : part.start;
    for (long long i = part.start + N * threadIdx.x; i < whole; i += N * THREADS) {
        good = scale<T, N>(values, i, factor, wide) && good;
    }
    for (long long i = whole + threadIdx.x; i < part.stop; i += THREADS) {
        good = scale<T, 1>(values, i, factor, wide) && good;
    }
    if (finite != nullptr && !good) {
        *finite = false;
    }
}

extern "C" __global__ void scale_float32(
    const long long* table, int count, int how, double value, const double* number, bool* finite) {
    scale_all<float>(table, count, how, value, number, finite);
}

extern "C" __global__ void scale_float64(
    const long long* table, int count, int how, double value, const double* number, bool* finite) {
    scale_all<double>(table, count, how, value, number, finite);
}

// ---- the loss scale -------------------------------------------------------------------------------------------------

// state: the scale, which is one of float32, and how many steps in a row were finite; amp.GradScaler has the rule.
extern "C" __global__ void adapt(
    double* state, const bool* finite, double growth, double backoff, double interval, double least, double largest) {
    double scale = state[0], steps = state[1];
    if (!*finite) {
        scale *= backoff;
        steps = 0.0;
    } else if (steps + 1.0 >= interval) {
        scale = scale * growth < largest ? scale * growth : scale;
        steps = 0.0;
    } else {
        steps += 1.0;
    }
    scale = static_cast<float>(scale);
    state[0] = scale > least ? scale : least;
    state[1] = steps;
}

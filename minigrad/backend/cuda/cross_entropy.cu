// Cross entropy of rows of logits with class indices, as ops/cross_entropy.py defines it; rows of any length. A class
// that is none gives NaN: to say more, the host would have to wait.

#include "exponentials.cuh"

extern __shared__ unsigned char shared_memory[];

// What is the same for all rows, each of which begins `step` elements behind another, those of a gradient too. The
// weights are one a class, or null.
template <class T>
struct Task {
    const T* logits;
    const long long* targets;
    const T* weights;
    long long rows, n, step;
    bool ignores;
    long long ignored;
    Wide<T> smoothing;

    __device__ bool counts(long long target) const { return !(ignores && target == ignored); }

    __device__ bool has(long long target) const { return target >= 0 && target < n; }

    __device__ Wide<T> weight(long long target) const { return weights ? to_float(weights[target]) : Wide<T>(1); }
};

// The weight of a row: 0 where it does not count, NaN where its class is none.
template <class T>
DEVICE Wide<T> row_weight(const Task<T>& task, long long target) {
    if (!task.counts(target)) {
        return 0;
    }
    return task.has(target) ? task.weight(target) : infinity() - infinity();
}

// The loss of each row; and its weight, where `row_weights` is not null.
template <class T, int VALUES>
DEVICE void losses(const Task<T>& task, Wide<T>* out, Wide<T>* row_weights) {
    typedef Wide<T> A;
    A* scratch = reinterpret_cast<A*>(shared_memory);
    const long long i = own_row(), n = task.n;
    if (i >= task.rows) {
        return;
    }
    const long long target = task.targets[i];
    const A weight = row_weight(task, target);
    A loss = weight;  // 0 or NaN
    if (task.counts(target) && task.has(target)) {
        Row<T, VALUES> row(task.logits + i * task.step, n, is_aligned(task.logits, task.step), -infinity());
        const Exponentials<A> e = exponentials(row, scratch);
        const A log_total = logarithm(e.total == 0 ? A(1) : e.total);
        loss = (task.smoothing - 1) * weight * (to_float(row.row[target]) - e.base - log_total);
        if (task.smoothing != 0) {
            const A shares = row.sum(scratch, [&](A v, long long j) { return (v - e.base - log_total) * task.weight(j); });
            loss += shares * (-task.smoothing / n);
        }
    }
    if (threadIdx.x == 0) {
        out[i] = loss;
        if (row_weights) {
            row_weights[i] = weight;
        }
    }
}

// The gradient of the logits. `g` is one number, or one a row; `divisor` is null, or what a mean divides by.
template <class T, int VALUES, class To>
DEVICE void gradient(const Task<T>& task, const Wide<T>* g, bool each, const Wide<T>* divisor, To* out) {
    typedef Wide<T> A;
    A* scratch = reinterpret_cast<A*>(shared_memory);
    const long long i = own_row(), n = task.n;
    if (i >= task.rows) {
        return;
    }
    const long long target = task.targets[i];
    const bool good = task.counts(target) && task.has(target);
    const A weight = row_weight(task, target);
    const bool aligned = is_aligned<To, PACK<T>>(out, task.step);
    out += i * task.step;
    if (!good) {
        each_pack<T, VALUES>(n, [&](int, long long at) {
            A made[PACK<T>];
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                made[k] = weight;  // 0 or NaN
            }
            store(out, at, n, aligned, made);
        });
        return;
    }
    Row<T, VALUES> row(task.logits + i * task.step, n, is_aligned(task.logits, task.step), -infinity());
    const Exponentials<A> e = exponentials(row, scratch);
    const A total = e.total == 0 ? A(1) : e.total;
    A cotangent = g[each ? i : 0];
    if (divisor) {
        cotangent /= *divisor == 0 ? A(1) : *divisor;
    }
    const A hit = (1 - task.smoothing) * cotangent * weight, share = task.smoothing / n * cotangent;
    A mass = hit;
    if (task.smoothing != 0) {
        A all = n;
        if (task.weights) {
            all = Row<T, 0>(task.weights, n, false, 0).sum(scratch, [](A w, long long) { return w; });
        }
        mass += share * all;
    }
    const A log_total = logarithm(total);
    row.map(out, aligned, [&](A v, long long j) {
        A d = exponential<T>(v - e.base - log_total) * mass;
        if (task.smoothing != 0 && j < n) {
            d -= share * task.weight(j);
        }
        return j == target ? d - hit : d;
    });
}

// The weights of a part of the rows for each block, added up.
template <class T>
DEVICE void add_weights(const Task<T>& task, long long part, Wide<T>* out) {
    typedef Wide<T> A;
    const long long start = blockIdx.x * part, end = start + part < task.rows ? start + part : task.rows;
    A total = 0;
    for (long long i = start + threadIdx.x; i < end; i += blockDim.x) {
        total += row_weight(task, task.targets[i]);
    }
    total = block_sum(total, reinterpret_cast<A*>(shared_memory));
    if (threadIdx.x == 0) {
        out[blockIdx.x] = total;
    }
}

// A part of one or two arrays for each block, added up; those of `b`, which may be null, behind those of `a`.
template <class A>
DEVICE void add(const A* a, const A* b, long long n, long long part, A* out) {
    A* scratch = reinterpret_cast<A*>(shared_memory);
    const long long start = blockIdx.x * part, end = start + part < n ? start + part : n;
    A total = 0, other = 0;
    for (long long i = start + threadIdx.x; i < end; i += blockDim.x) {
        total += a[i];
        other += b ? b[i] : A(0);
    }
    total = block_sum(total, scratch);
    other = block_sum(other, scratch);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = total;
        if (b) {
            out[gridDim.x + blockIdx.x] = other;
        }
    }
}

// The sum of n losses, by one block; `row_weights` is null, or what a mean divides by in parts.
template <class A>
DEVICE void reduce(const A* losses, const A* row_weights, long long n, A* out) {
    A* scratch = reinterpret_cast<A*>(shared_memory);
    A total = 0, weight = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) {
        total += losses[i];
        weight += row_weights ? row_weights[i] : A(0);
    }
    total = block_sum(total, scratch);
    weight = block_sum(weight, scratch);
    if (threadIdx.x == 0) {
        *out = weight == 0 ? total : total / weight;
    }
}

#define TASK(T, A)                                                                                                    \
    const T *logits, const long long *targets, const T *weights, long long rows, long long n, long long step,        \
        bool ignores, long long ignored, A smoothing

#define GIVEN {logits, targets, weights, rows, n, step, ignores, ignored, smoothing}

#define GRADIENT(T, A, NAME, VALUES, TO)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        cross_entropy_vjp_##NAME(TASK(T, A), const A* g, bool each, const A* divisor, TO* out) {                      \
        gradient<T, VALUES>(GIVEN, g, each, divisor, out);                                                            \
    }

#define KERNELS(T, A, SUFFIX, VALUES)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        cross_entropy_##T##SUFFIX(TASK(T, A), A* out, A* row_weights) {                                               \
        losses<T, VALUES>(GIVEN, out, row_weights);                                                                   \
    }                                                                                                                 \
    GRADIENT(T, A, T##SUFFIX, VALUES, T)

#define FORMS(T, A)                                                                                                   \
    KERNELS(T, A, , HELD)                                                                                             \
    KERNELS(T, A, _long, 0)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) add_weights_##T(TASK(T, A), long long part, A* out) {       \
        add_weights<T>(GIVEN, part, out);                                                                             \
    }

#define SUMS(A)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        add_##A(const A* a, const A* b, long long n, long long part, A* out) {                                        \
        add<A>(a, b, n, part, out);                                                                                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        reduce_##A(const A* losses, const A* row_weights, long long n, A* out) {                                      \
        reduce<A>(losses, row_weights, n, out);                                                                       \
    }

SUMS(float32)
SUMS(float64)
FORMS(float32, float)
FORMS(float64, double)
FORMS(float16, float)
FORMS(bfloat16, float)

// Of logits that a product of half types left in float32, for the next product.
GRADIENT(float32, float, float32_float16, HELD, float16)
GRADIENT(float32, float, float32_float16_long, 0, float16)
GRADIENT(float32, float, float32_bfloat16, HELD, bfloat16)
GRADIENT(float32, float, float32_bfloat16_long, 0, bfloat16)

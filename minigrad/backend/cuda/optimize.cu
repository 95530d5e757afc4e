// Update rules of optimizers as one pass over memory, for all parameters of a group that have one dtype. With a half
// parameter, a mask and penalties it is the whole way of docs/training_step.md from the gradient to the weight.

#include "device.cuh"
#include "tables.cuh"

// A parameter; minigrad/backend/cuda/optimize.py writes it, 8 bytes a field. What it lacks is null.
struct Row {
    void* x;  // the parameter, or the float32 master weights of a half one
    const void* g;
    void* first;  // its state: the momentum buffer, or the moments
    void* second;
    void* third;
    void* half;  // the half parameter
    const bool* keep;  // its mask
    long long* step;  // how many steps it has taken
    double* product;  // of NAdam's momenta
    long long n;
    int g_kind, half_kind;  // 0: that of x, 1: float16, 2: bfloat16
    double l1, l2, prox;  // factors of penalties
};

// The hyperparameters of a group; `Numbers` of minigrad/optim/fused_step.py.
struct Numbers {
    double lr, beta1, fresh1, beta2, fresh2, eps, shrink, penalty, rate, momentum, fresh, decay, sign;
};

// What a rule multiplies by in this step of a parameter: the gradient, its mean, the root of the second moment.
struct Factors {
    double scale, mean_scale, root_scale;
};

// ---- the count of steps ---------------------------------------------------------------------------------------------

enum { SGD, ADAM, NADAM, RADAM, RMSPROP, ADAGRAD, LION };

DEVICE Factors factors_of(int rule, const Numbers& a, long long before, double* product) {
    const double step = static_cast<double>(before + 1);
    if (rule == SGD) {
        return {before == 0 ? 1.0 : a.fresh, 0.0, 1.0};
    }
    if (rule == ADAM) {
        return {a.lr / (1.0 - pow(a.beta1, step)), 0.0, 1.0 / sqrt(1.0 - pow(a.beta2, step))};
    }
    if (rule == NADAM) {
        const double mu = a.beta1 * (1.0 - 0.5 * pow(0.96, step * a.decay));
        const double next = a.beta1 * (1.0 - 0.5 * pow(0.96, (step + 1.0) * a.decay));
        const double all = *product *= mu;
        return {a.lr * (1.0 - mu) / (1.0 - all), a.lr * next / (1.0 - all * next), 1.0 / sqrt(1.0 - pow(a.beta2, step))};
    }
    if (rule == RADAM) {
        const double power = pow(a.beta2, step), rate = a.lr / (1.0 - pow(a.beta1, step));
        const double longest = 2.0 / (1.0 - a.beta2) - 1.0;
        const double length = longest - 2.0 * step * power / (1.0 - power);
        if (length <= 5.0) {
            return {0.0, rate, -1.0};  // a step of momentum: nothing is divided by a root
        }
        const double rect = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
        return {0.0, rate * sqrt(rect * (1.0 - power)), 1.0};
    }
    if (rule == ADAGRAD) {
        return {a.lr / (1.0 + static_cast<double>(before) * a.decay), 0.0, 1.0};
    }
    return {1.0, 0.0, 1.0};
}

// Count the step of every parameter, unless it is skipped, and say what follows from the count.
extern "C" __global__ void count_steps(
    const long long* table, int count, int rule, const double* numbers, const bool* finite, double* factors) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count || (finite != nullptr && !*finite)) {
        return;
    }
    const Row& row = reinterpret_cast<const Row*>(table + count)[k];
    const long long before = row.step == nullptr ? 0 : *row.step;
    const Numbers& a = *reinterpret_cast<const Numbers*>(numbers);
    reinterpret_cast<Factors*>(factors)[k] = factors_of(rule, a, before, row.product);
    if (row.step != nullptr) {
        *row.step = before + 1;
    }
}

// ---- the rules ------------------------------------------------------------------------------------------------------

DEVICE float root(float x) {
    return sqrtf(x);
}

DEVICE double root(double x) {
    return sqrt(x);
}

// g + penalty * x; g where there is no penalty, though x be infinite.
template <class T>
DEVICE T penalized(T g, T penalty, T x) {
    return penalty != T(0) ? g + penalty * x : g;
}

template <class T>
struct Sgd {
    T lr, momentum, fresh, penalty, sign;
    bool nesterov;

    __device__ Sgd(const Numbers& a, const Factors& f, int flags)
        : lr(a.lr), momentum(a.momentum), fresh(f.scale), penalty(a.penalty), sign(a.sign), nesterov(flags != 0) {}

    __device__ void operator()(const Row& row, T& x, T g, T& buffer, T&, T&) const {
        g = penalized(sign * g, penalty, x);
        if (row.first == nullptr) {
            x -= lr * g;
            return;
        }
        buffer = momentum * buffer + fresh * g;
        x -= lr * (nesterov ? g + momentum * buffer : buffer);
    }
};

template <class T>
struct Adam {
    T beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign, scale, root_scale;

    __device__ Adam(const Numbers& a, const Factors& f, int)
        : beta1(a.beta1), fresh1(a.fresh1), beta2(a.beta2), fresh2(a.fresh2), eps(a.eps), shrink(a.shrink),
          penalty(a.penalty), sign(a.sign), scale(f.scale), root_scale(f.root_scale) {}

    __device__ void operator()(const Row& row, T& x, T g, T& m, T& v, T& largest) const {
        g = penalized(sign * g, penalty, x);
        m = beta1 * m + fresh1 * g;
        v = beta2 * v + fresh2 * g * g;
        T top = v;
        if (row.third != nullptr) {
            top = largest >= v || largest != largest ? largest : v;  // NaN stays
            largest = top;
        }
        x = shrink * x - scale * m / (root(top) * root_scale + eps);
    }
};

template <class T>
struct Adaptive {
    T beta1, fresh1, beta2, fresh2, eps, shrink, penalty, rate, momentum, sign, scale, mean_scale, root_scale;
    bool centered;

    __device__ Adaptive(const Numbers& a, const Factors& f, int flags)
        : beta1(a.beta1), fresh1(a.fresh1), beta2(a.beta2), fresh2(a.fresh2), eps(a.eps), shrink(a.shrink),
          penalty(a.penalty), rate(a.rate), momentum(a.momentum), sign(a.sign), scale(f.scale),
          mean_scale(f.mean_scale), root_scale(f.root_scale), centered(flags != 0) {}

    __device__ void operator()(const Row& row, T& x, T g, T& m, T& v, T& buffer) const {
        g = penalized(sign * g, penalty, x);
        v = beta2 * v + fresh2 * g * g;
        T square = v, ahead = scale * g;
        if (row.first != nullptr) {
            m = beta1 * m + fresh1 * g;
            if (centered) {
                square = v - m * m;
                square = square < T(0) ? T(0) : square;  // which rounding may have made negative
            } else {
                ahead = (scale != T(0) ? ahead : T(0)) + mean_scale * m;
            }
        }
        if (root_scale >= T(0)) {
            ahead = ahead / (root(square) * root_scale + eps);
        }
        if (row.third != nullptr) {
            buffer = momentum * buffer + ahead;
            ahead = buffer;
        }
        x = shrink * x - rate * ahead;
    }
};

template <class T>
struct Lion {
    T beta1, fresh1, beta2, fresh2, shrink, rate, sign;

    __device__ Lion(const Numbers& a, const Factors&, int)
        : beta1(a.beta1), fresh1(a.fresh1), beta2(a.beta2), fresh2(a.fresh2), shrink(a.shrink), rate(a.rate),
          sign(a.sign) {}

    __device__ void operator()(const Row&, T& x, T g, T& m, T&, T&) const {
        g = sign * g;
        const T c = beta1 * m + fresh1 * g;
        m = beta2 * m + fresh2 * g;
        const T direction = c > T(0) ? T(1) : c < T(0) ? T(-1) : T(0);
        x = shrink * x - rate * (c != c ? c : direction);
    }
};

// ---- from the gradient to the weight --------------------------------------------------------------------------------

DEVICE float widened(unsigned short bits, int kind) {
    return kind == 1 ? to_float(float16{bits}) : to_float(bfloat16{bits});
}

DEVICE unsigned short rounded(float x, int kind) {
    return kind == 1 ? from_float<float16>(x).bits : from_float<bfloat16>(x).bits;
}

template <class T, int N>
DEVICE Pack<T, N> gradient(const Row& row, long long i) {
    if (row.g_kind == 0) {
        return load<T, N>(row.g, i);
    }
    const auto bits = load<unsigned short, N>(row.g, i);
    Pack<T, N> g;
#pragma unroll
    for (int j = 0; j < N; ++j) {
        g.at[j] = widened(bits.at[j], row.g_kind);
    }
    return g;
}

// N elements from i on.
template <class T, int N, class Rule>
DEVICE void step(const Row& row, long long i, const Rule& rule, T prox, bool ascends) {
    Pack<T, N> x = load<T, N>(row.x, i), g = gradient<T, N>(row, i), first{}, second{}, third{};
    Pack<unsigned short, N> half{};
    Pack<bool, N> keep{};
    if (row.first != nullptr) {
        first = load<T, N>(row.first, i);
    }
    if (row.second != nullptr) {
        second = load<T, N>(row.second, i);
    }
    if (row.third != nullptr) {
        third = load<T, N>(row.third, i);
    }
    if (row.half != nullptr) {
        half = load<unsigned short, N>(row.half, i);
    }
    if (row.keep != nullptr) {
        keep = load<bool, N>(row.keep, i);
    }
    const T l1 = row.l1, l2 = 2.0 * row.l2;
#pragma unroll
    for (int j = 0; j < N; ++j) {
        T w = x.at[j], ahead = g.at[j];
        if (row.half != nullptr && rounded(w, row.half_kind) != half.at[j]) {
            w = widened(half.at[j], row.half_kind);  // somebody has written to the parameter
        }
        if (l1 != T(0) || l2 != T(0)) {
            T slope = l1 != T(0) ? l1 * (w != w ? w : w > T(0) ? T(1) : w < T(0) ? T(-1) : T(0)) : T(0);
            slope = l2 != T(0) ? slope + l2 * w : slope;
            ahead = ascends ? ahead - slope : ahead + slope;  // a rule that ascends turns the sign of all it sees
        }
        const bool kept = row.keep == nullptr || keep.at[j];
        rule(row, w, kept ? ahead : T(0), first.at[j], second.at[j], third.at[j]);
        if (row.prox != 0.0) {
            w -= w < -prox ? -prox : w > prox ? prox : w;
        }
        x.at[j] = kept ? w : T(0);
        if (row.half != nullptr) {
            half.at[j] = rounded(x.at[j], row.half_kind);
        }
    }
    store(row.x, i, x);
    if (row.first != nullptr) {
        store(row.first, i, first);
    }
    if (row.second != nullptr) {
        store(row.second, i, second);
    }
    if (row.third != nullptr) {
        store(row.third, i, third);
    }
    if (row.half != nullptr) {
        store(row.half, i, half);
    }
}

// A block takes a chunk of a parameter. In a step that is skipped nothing is written.
template <class T, class Rule>
DEVICE void update(
    const long long* table, int count, const double* numbers, const double* factors, const bool* finite, int flags) {
    if (finite != nullptr && !*finite) {
        return;
    }
    const Row* rows = reinterpret_cast<const Row*>(table + count);
    const Part part = part_of(table, count, rows);
    const Row row = rows[part.row];
    const Numbers& a = *reinterpret_cast<const Numbers*>(numbers);
    const Rule rule(a, reinterpret_cast<const Factors*>(factors)[part.row], flags);
    const T prox = a.lr * row.prox;
    const bool ascends = a.sign < 0.0;
    constexpr int N = 16 / sizeof(T);
    const bool fits = is_aligned(row.x, 16) && is_aligned(row.g, row.g_kind == 0 ? 16 : 2 * N) && is_aligned(row.first, 16) &&
                      is_aligned(row.second, 16) && is_aligned(row.third, 16) && is_aligned(row.half, 2 * N) &&
                      is_aligned(row.keep, N);
    const long long whole = fits ? part.stop - (part.stop - part.start) % N : part.start;
    for (long long i = part.start + N * threadIdx.x; i < whole; i += N * THREADS) {
        step<T, N>(row, i, rule, prox, ascends);
    }
    for (long long i = whole + threadIdx.x; i < part.stop; i += THREADS) {
        step<T, 1>(row, i, rule, prox, ascends);
    }
}

#define KERNEL(NAME, RULE, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                               \
        const long long* table, int count, const double* numbers, const double* factors, const bool* finite, int flags) { \
        update<T, RULE<T>>(table, count, numbers, factors, finite, flags);                                                \
    }

KERNEL(sgd_float32, Sgd, float)
KERNEL(sgd_float64, Sgd, double)
KERNEL(adam_float32, Adam, float)
KERNEL(adam_float64, Adam, double)
KERNEL(adaptive_float32, Adaptive, float)
KERNEL(adaptive_float64, Adaptive, double)
KERNEL(lion_float32, Lion, float)
KERNEL(lion_float64, Lion, double)

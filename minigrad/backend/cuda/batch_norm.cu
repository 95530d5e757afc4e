// batch_norm, batch_norm_training and group_norm, as ops/normalization.py and ops/group_norm.py define them. An array is
// (outer, channels, inner). Statistics of its channels are made in parts and folded in a fixed order; then each result
// is a straight line in the elements of its channel. A weight and a bias are one number a channel, or null.

#include "packs.cuh"

extern __shared__ unsigned char shared_memory[];

// Of some elements x of a channel, and what is to be differentiated by them.
template <class A>
struct Statistics {
    A n;
    A mean;
    A spread;  // sum((x - mean)^2)
    A shift;   // sum(g)
    A slope;   // sum(g (x - mean))

    // T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    // variances", 1979.
    __device__ Statistics merged(const Statistics& other) const {
        const A all = n + other.n;
        if (all == 0) {
            return *this;
        }
        const A center = (n * mean + other.n * other.mean) / all;
        const A left = mean - center, right = other.mean - center;
        return {
            all, center, spread + other.spread + (n * left * left + other.n * right * right), shift + other.shift,
            slope + other.slope + (shift * left + other.shift * right)};
    }

    // Of all lanes of a warp, in its first.
    __device__ Statistics merged_lanes() const {
        Statistics s = *this;
        for (int step = 16; step > 0; step /= 2) {
            s = s.merged(
                {__shfl_down_sync(0xffffffffu, s.n, step), __shfl_down_sync(0xffffffffu, s.mean, step),
                 __shfl_down_sync(0xffffffffu, s.spread, step), __shfl_down_sync(0xffffffffu, s.shift, step),
                 __shfl_down_sync(0xffffffffu, s.slope, step)});
        }
        return s;
    }
};

// Those of one thread, summed against its first element, since a square of a large mean would leave no digits; or
// against a number that is given, which then takes the place of the mean.
template <class A>
struct Sums {
    bool given;
    A base;
    A n = 0, sum = 0, squares = 0, shift = 0, slope = 0;

    __device__ void add(A x, A g) {
        if (n == 0 && !given) {
            base = x - x == 0 ? x : A(0);
        }
        const A d = x - base;
        n += 1;
        sum += d;
        squares += d * d;
        shift += g;
        slope += g * d;
    }

    __device__ Statistics<A> statistics() const {
        if (n == 0) {
            return {0, 0, 0, 0, 0};
        }
        if (given) {
            return {n, base, squares, shift, slope};
        }
        const A d = sum / n, spread = squares - sum * d;
        return {n, base + d, spread < 0 ? A(0) : spread, shift, slope - shift * d};
    }
};

// Block (c, p) has part p of channel c: so many of the outer places. `g` may be null, and so may
// `about`, a number a channel to be taken for the mean.
template <class T>
DEVICE void gather(
    const T* x, const T* g, const T* about, Wide<T>* parts, long long outer, long long channels, long long inner,
    long long part) {
    typedef Wide<T> A;
    const long long start = blockIdx.y * part, end = start + part < outer ? start + part : outer;
    const bool aligned = is_aligned(x, inner) && is_aligned(g, inner);
    const long long units = aligned ? inner / PACK<T> : inner;
    const long long rows = blockDim.x / units, rest = blockDim.x % units;  // how far a thread goes on: no division there
    long long i = start + threadIdx.x / units, j = threadIdx.x % units;
    Sums<A> sums = {about != nullptr, about ? to_float(about[blockIdx.x]) : A(0)};
    while (i < end) {
        const long long at = (i * channels + blockIdx.x) * inner;
        if (aligned) {
            A v[PACK<T>], u[PACK<T>] = {};
            load(v, x + at, j * PACK<T>, inner, true, A(0));
            if (g) {
                load(u, g + at, j * PACK<T>, inner, true, A(0));
            }
#pragma unroll
            for (int k = 0; k < PACK<T>; ++k) {
                sums.add(v[k], u[k]);
            }
        } else {
            sums.add(to_float(x[at + j]), g ? to_float(g[at + j]) : A(0));
        }
        i += rows;
        j += rest;
        if (j >= units) {
            j -= units;
            ++i;
        }
    }
    Statistics<A>* shared = reinterpret_cast<Statistics<A>*>(shared_memory);
    Statistics<A> s = sums.statistics().merged_lanes();
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = s;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; ++w) {
            s = s.merged(shared[w]);
        }
        reinterpret_cast<Statistics<A>*>(parts)[static_cast<long long>(blockIdx.x) * gridDim.y + blockIdx.y] = s;
    }
}

// The same where inner is 1: a block has 32 neighbouring channels, and blockDim.y threads for each.
template <class T>
DEVICE void gather_last(
    const T* x, const T* g, const T* about, Wide<T>* parts, long long outer, long long channels, long long part) {
    typedef Wide<T> A;
    const long long start = blockIdx.y * part, end = start + part < outer ? start + part : outer;
    const long long c = static_cast<long long>(blockIdx.x) * 32 + threadIdx.x;
    Sums<A> sums = {about != nullptr, about && c < channels ? to_float(about[c]) : A(0)};
    if (c < channels) {
        for (long long i = start + threadIdx.y; i < end; i += blockDim.y) {
            sums.add(to_float(x[i * channels + c]), g ? to_float(g[i * channels + c]) : A(0));
        }
    }
    Statistics<A>* shared = reinterpret_cast<Statistics<A>*>(shared_memory);
    Statistics<A> s = sums.statistics();
    shared[threadIdx.y * 32 + threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.y == 0 && c < channels) {
        for (int k = 1; k < blockDim.y; ++k) {
            s = s.merged(shared[k * 32 + threadIdx.x]);
        }
        reinterpret_cast<Statistics<A>*>(parts)[c * gridDim.y + blockIdx.y] = s;
    }
}

// What a warp finds of a channel: in its first lane the statistics of all parts.
template <class A>
DEVICE Statistics<A> folded(const A* parts, long long c, long long count) {
    Statistics<A> s = {0, 0, 0, 0, 0};
    for (long long p = threadIdx.x; p < count; p += 32) {
        s = s.merged(reinterpret_cast<const Statistics<A>*>(parts)[c * count + p]);
    }
    return s.merged_lanes();
}

// The line of a channel: out = scale (x - mean) + shift, and to that `pull` times the cotangent.
template <class A>
struct Line {
    A scale;
    A mean;
    A shift;
    A pull;
};

template <class T>
DEVICE Wide<T> element(const T* vector, long long c, Wide<T> otherwise) {
    return vector ? to_float(vector[c]) : otherwise;
}

// The mean and the variance of each channel, and its line.
template <class T>
DEVICE void lines(
    const Wide<T>* parts, const T* weight, const T* bias, Wide<T>* out, T* means, T* variances, long long channels,
    long long count, Wide<T> eps) {
    typedef Wide<T> A;
    const long long c = own_row();
    if (c >= channels) {
        return;
    }
    const Statistics<A> s = folded(parts, c, count);
    if (threadIdx.x == 0) {
        const A variance = s.spread / s.n, scale = 1 / square_root(variance + eps);
        reinterpret_cast<Line<A>*>(out)[c] = {scale * element(weight, c, A(1)), s.mean, element(bias, c, A(0)), 0};
        means[c] = from_float<T>(s.mean);
        variances[c] = from_float<T>(variance);
    }
}

// The lines of the gradient, where the results had the mean and variance among them: their cotangents are `of_mean` and
// `of_variance`, or null.
template <class T>
DEVICE void lines_vjp(
    const Wide<T>* parts, const T* weight, const T* of_mean, const T* of_variance, Wide<T>* out, T* dweight, T* dbias,
    long long channels, long long count, Wide<T> eps) {
    typedef Wide<T> A;
    const long long c = own_row();
    if (c >= channels) {
        return;
    }
    const Statistics<A> s = folded(parts, c, count);
    if (threadIdx.x == 0) {
        const A scale = 1 / square_root(s.spread / s.n + eps), factor = scale * element(weight, c, A(1));
        const A slope = s.slope * scale;
        reinterpret_cast<Line<A>*>(out)[c] = {
            (2 * element(of_variance, c, A(0)) - factor * scale * slope) / s.n, s.mean,
            (element(of_mean, c, A(0)) - factor * s.shift) / s.n, factor};
        dweight[c] = from_float<T>(slope);
        dbias[c] = from_float<T>(s.shift);
    }
}

// The lines of given means and variances, one thread a channel.
template <class T>
DEVICE void given_lines(
    const T* mean, const T* variance, const T* weight, const T* bias, Wide<T>* out, long long channels, Wide<T> eps) {
    typedef Wide<T> A;
    const long long c = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (c < channels) {
        const A scale = 1 / square_root(to_float(variance[c]) + eps);
        reinterpret_cast<Line<A>*>(out)[c] = {
            scale * element(weight, c, A(1)), to_float(mean[c]), element(bias, c, A(0)), 0};
    }
}

// The gradients by them, and the lines of the gradient.
template <class T>
DEVICE void given_lines_vjp(
    const Wide<T>* parts, const T* mean, const T* variance, const T* weight, Wide<T>* out, T* dmean, T* dvariance,
    T* dweight, T* dbias, long long channels, long long count, Wide<T> eps) {
    typedef Wide<T> A;
    const long long c = own_row();
    if (c >= channels) {
        return;
    }
    const Statistics<A> s = folded(parts, c, count);
    if (threadIdx.x == 0) {
        const A scale = 1 / square_root(to_float(variance[c]) + eps), factor = scale * element(weight, c, A(1));
        const A slope = (s.slope + s.shift * (s.mean - to_float(mean[c]))) * scale;
        reinterpret_cast<Line<A>*>(out)[c] = {0, 0, 0, factor};
        dmean[c] = from_float<T>(-factor * s.shift);
        dvariance[c] = from_float<T>(factor * scale * slope * A(-0.5));
        dweight[c] = from_float<T>(slope);
        dbias[c] = from_float<T>(s.shift);
    }
}

// The lines of groups of `together` channels, of which `parts` has one a channel and sample: `channels` are those of all
// samples, and `weights` the channels of one. With `g` those of the gradient; then `slopes` and `shifts` are what each
// sample adds to the gradients of weight and bias.
template <class T>
DEVICE void group_lines(
    const Wide<T>* parts, const T* weight, const T* bias, bool g, Wide<T>* out, Wide<T>* slopes, Wide<T>* shifts,
    long long channels, long long weights, long long together, long long count, Wide<T> eps) {
    typedef Wide<T> A;
    const long long first = own_row() * together;
    if (first >= channels) {
        return;
    }
    const Statistics<A>* all = reinterpret_cast<const Statistics<A>*>(parts);
    Statistics<A> s = {0, 0, 0, 0, 0};  // with the weights in the cotangents
    for (long long p = threadIdx.x; p < together * count; p += 32) {
        Statistics<A> one = all[first * count + p];
        const A w = element(weight, (first + p / count) % weights, A(1));
        one.shift *= w;
        one.slope *= w;
        s = s.merged(one);
    }
    s = s.merged_lanes();
    const A n = __shfl_sync(0xffffffffu, s.n, 0), mean = __shfl_sync(0xffffffffu, s.mean, 0);
    const A shift = __shfl_sync(0xffffffffu, s.shift, 0) / n, slope = __shfl_sync(0xffffffffu, s.slope, 0) / n;
    const A scale = 1 / square_root(__shfl_sync(0xffffffffu, s.spread, 0) / n + eps);
    for (long long c = first + threadIdx.x; c < first + together; c += 32) {
        const A factor = scale * element(weight, c % weights, A(1));
        Line<A> line = {factor, mean, element(bias, c % weights, A(0)), 0};
        if (g) {
            Statistics<A> one = {0, 0, 0, 0, 0};
            for (long long p = 0; p < count; ++p) {
                one = one.merged(all[c * count + p]);
            }
            slopes[c] = (one.slope + one.shift * (one.mean - mean)) * scale;
            shifts[c] = one.shift;
            line = {-scale * scale * scale * slope, mean, -scale * shift, factor};
        }
        reinterpret_cast<Line<A>*>(out)[c] = line;
    }
}

// The lines applied, by rows of n elements: those of a channel or, with LAST, one of each channel. `x` or `g` may be null.
template <class T, bool LAST>
DEVICE void follow(const T* x, const T* g, const Wide<T>* lines, T* out, long long rows, long long n, long long channels) {
    typedef Wide<T> A;
    const long long i = own_row();
    if (i >= rows) {
        return;
    }
    const Line<A>* line = reinterpret_cast<const Line<A>*>(lines) + (LAST ? 0 : i % channels);
    Line<A> own = *line;
    each_pack<T, 0>(n, [&](int, long long at) {
        A v[PACK<T>], u[PACK<T>], made[PACK<T>];
        if (x) {
            load(v, x + i * n, at, n, is_aligned(x, n), A(0));
        }
        if (g) {
            load(u, g + i * n, at, n, is_aligned(g, n), A(0));
        }
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            if (LAST && at + k < n) {
                own = line[at + k];
            }
            made[k] = (x ? own.scale * (v[k] - own.mean) + own.shift : own.shift) + (g ? own.pull * u[k] : A(0));
        }
        store(out + i * n, at, n, is_aligned(out, n), made);
    });
}

#define FORMS(T, A)                                                                                                   \
    extern "C" __global__ void gather_##T(                                                                            \
        const T* x, const T* g, const T* about, A* parts, long long outer, long long channels, long long inner,       \
        long long part) {                                                                                             \
        gather<T>(x, g, about, parts, outer, channels, inner, part);                                                  \
    }                                                                                                                 \
    extern "C" __global__ void gather_last_##T(                                                                       \
        const T* x, const T* g, const T* about, A* parts, long long outer, long long channels, long long part) {      \
        gather_last<T>(x, g, about, parts, outer, channels, part);                                                    \
    }                                                                                                                 \
    extern "C" __global__ void lines_##T(                                                                             \
        const A* parts, const T* weight, const T* bias, A* out, T* means, T* variances, long long channels,           \
        long long count, A eps) {                                                                                     \
        lines<T>(parts, weight, bias, out, means, variances, channels, count, eps);                                   \
    }                                                                                                                 \
    extern "C" __global__ void lines_vjp_##T(                                                                         \
        const A* parts, const T* weight, const T* of_mean, const T* of_variance, A* out, T* dweight, T* dbias,        \
        long long channels, long long count, A eps) {                                                                 \
        lines_vjp<T>(parts, weight, of_mean, of_variance, out, dweight, dbias, channels, count, eps);                 \
    }                                                                                                                 \
    extern "C" __global__ void given_lines_##T(                                                                       \
        const T* mean, const T* variance, const T* weight, const T* bias, A* out, long long channels, A eps) {        \
        given_lines<T>(mean, variance, weight, bias, out, channels, eps);                                             \
    }                                                                                                                 \
    extern "C" __global__ void given_lines_vjp_##T(                                                                   \
        const A* parts, const T* mean, const T* variance, const T* weight, A* out, T* dmean, T* dvariance,            \
        T* dweight, T* dbias, long long channels, long long count, A eps) {                                           \
        given_lines_vjp<T>(                                                                                           \
            parts, mean, variance, weight, out, dmean, dvariance, dweight, dbias, channels, count, eps);              \
    }                                                                                                                 \
    extern "C" __global__ void group_lines_##T(                                                                       \
        const A* parts, const T* weight, const T* bias, bool g, A* out, A* slopes, A* shifts, long long channels,     \
        long long weights, long long together, long long count, A eps) {                                              \
        group_lines<T>(parts, weight, bias, g, out, slopes, shifts, channels, weights, together, count, eps);         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) follow_##T(                                                 \
        const T* x, const T* g, const A* lines, T* out, long long rows, long long n, long long channels) {            \
        follow<T, false>(x, g, lines, out, rows, n, channels);                                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) follow_last_##T(                                            \
        const T* x, const T* g, const A* lines, T* out, long long rows, long long n, long long channels) {            \
        follow<T, true>(x, g, lines, out, rows, n, channels);                                                         \
    }

FORMS(float32, float)
FORMS(float64, double)
FORMS(float16, float)
FORMS(bfloat16, float)

// What attention is asked for: extents, options, and what becomes of the product of a query and a key.

#include "device.cuh"
#include "philox.cuh"

#define MEMBER __device__ __forceinline__  // DEVICE is for functions alone: on the CPU it makes them static

template <typename T>
struct Problem {
    typedef typename Sum<T>::type real;
    int heads, group;  // query heads, and how many of them share a key head
    int queries, keys, width, value_width;
    int left, right;  // query i attends keys i + keys - queries - left ... i + keys - queries + right
    double scale, cap;  // cap 0: none
    const long long* lengths;
    const bool* mask;
    long long mask_batch, mask_head, mask_query, mask_key;  // steps in elements
    const T* bias;
    long long bias_batch, bias_head, bias_query, bias_key;
    const T* slopes;
    uint64 seed, counter, first;
    const uint64* offset;
    uint64 threshold;  // words from there on keep their element; 0 keeps all
    double keep_scale;
};

#define PROBLEM(T)                                                                                                     \
    int heads, int group, int queries, int keys, int width, int value_width, int left, int right, double scale,        \
        double cap, const long long *lengths, const bool *mask, long long mask_batch, long long mask_head,             \
        long long mask_query, long long mask_key, const T *bias, long long bias_batch, long long bias_head,            \
        long long bias_query, long long bias_key, const T *slopes, uint64 seed, uint64 counter, uint64 first,          \
        const uint64 *offset, uint64 threshold, double keep_scale

#define THE_PROBLEM                                                                                                    \
    {heads, group, queries, keys, width, value_width, left, right, scale, cap, lengths, mask, mask_batch, mask_head,   \
     mask_query, mask_key, bias, bias_batch, bias_head, bias_query, bias_key, slopes, seed, counter, first, offset,    \
     threshold, keep_scale}

// An array (batch, head, row, feature) whose features lie side by side; steps in elements.
template <typename T>
struct Rows {
    T* data;
    long long batch, head, row;

    MEMBER T* of(int b, int h) const { return data + b * batch + h * head; }
};

#define ROWS(T, name) T *name, long long name##_batch, long long name##_head, long long name##_row
#define THE_ROWS(name) {name, name##_batch, name##_head, name##_row}

template <typename real>
struct Exponent;  // 2^x for float, e^x for double, and the factor to their exponents

template <>
struct Exponent<float> {
    static constexpr float unit = 1.44269504f, logarithm = 0.693147181f;
    static MEMBER float of(float x) { return exp2_fast(x); }
    static MEMBER float log(float x) { return log2f(x); }
};

template <>
struct Exponent<double> {
    static constexpr double unit = 1, logarithm = 1;
    static MEMBER double of(double x) { return exp(x); }
    static MEMBER double log(double x) { return ::log(x); }
};

DEVICE float bend(float x) { return tanhf(x); }
DEVICE double bend(double x) { return tanh(x); }
DEVICE float product_sum(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double product_sum(double x, double y, double z) { return fma(x, y, z); }

// The scores of one head of queries. Where it is Plain, no option changes them and scale is positive: the products stay
// unscaled, and `factor`, which makes exponents of scores, has the scale in it.
template <typename T, bool Plain>
struct Scores {
    typedef typename Sum<T>::type real;
    const Problem<T>& p;
    const bool* mask;
    const T* bias;
    real slope, factor;
    int shift, end;  // key i + shift is level with query i; keys from `end` on are padding
    uint64 element, counter;

    MEMBER Scores(const Problem<T>& p, int batch, int head) : p(p) {
        shift = p.keys - p.queries;
        const long long length = p.lengths ? p.lengths[batch] : p.keys;
        end = length < 0 ? 0 : length < p.keys ? static_cast<int>(length) : p.keys;
        factor = static_cast<real>(Plain ? p.scale * Exponent<real>::unit : Exponent<real>::unit);
        if (Plain) {
            return;
        }
        mask = p.mask ? p.mask + batch * p.mask_batch + head * p.mask_head : nullptr;
        bias = p.bias ? p.bias + batch * p.bias_batch + head * p.bias_head : nullptr;
        slope = p.slopes ? to_float(p.slopes[head]) : 0;
        element = p.first + (static_cast<uint64>(batch) * p.heads + head) * p.queries * p.keys;
        counter = moved(p.counter, p.offset);
    }

    // Keys from `low` to before `high` are those that some of the queries i0 ... i1 attend.
    MEMBER int low(int i0) const { return max(0, i0 + shift - p.left); }
    MEMBER int high(int i1) const { return min(end, i1 + shift + p.right + 1); }

    // Queries from `early` to before `late` are those that attend some of the keys j0 ... j1.
    MEMBER int early(int j0) const { return max(0, j0 - shift - p.right); }
    MEMBER int late(int j1) const { return min(p.queries, j1 - shift + p.left + 1); }

    // Whether no query of i0 ... i1 attends a key of j0 ... j1, and whether all attend all, but for the mask.
    MEMBER bool none(int i0, int i1, int j0, int j1) const {
        return j0 >= end || j0 > i1 + shift + p.right || j1 < i0 + shift - p.left;
    }
    MEMBER bool all(int i0, int i1, int j0, int j1) const {
        return j1 < end && j1 <= i0 + shift + p.right && j0 >= i1 + shift - p.left;
    }
    MEMBER bool attends(int i, int j) const {  // without branches
        return (j < end) & (j <= i + shift + p.right) & (j >= i + shift - p.left);
    }

    // Indices outside are read as those at the edge, for elements that count for nothing.
    MEMBER real bias_at(int i, int j) const {
        return to_float(bias[min(i, p.queries - 1) * p.bias_query + min(j, p.keys - 1) * p.bias_key]);
    }
    MEMBER bool mask_at(int i, int j) const {
        return mask[min(i, p.queries - 1) * p.mask_query + min(j, p.keys - 1) * p.mask_key];
    }
    MEMBER real distance(int i, int j) const { return static_cast<real>(abs(j - i - shift)); }

    // The score of one product; `bent` gets the derivative of its cap.
    MEMBER real score(real s, int i, int j, real& bent) const {
        bent = 1;
        s *= static_cast<real>(p.scale);
        if (p.cap != 0) {
            const real cap = static_cast<real>(p.cap), t = bend(s / cap);
            bent = (1 - t) * (1 + t);
            s = cap * t;
        }
        if (bias) {
            s += bias_at(i, j);
        }
        if (p.slopes) {
            s -= slope * distance(i, j);
        }
        return attends(i, j) && (!mask || mask_at(i, j)) ? s : -static_cast<real>(infinity());
    }

    // Whether dropout keeps the weight of a query and a key, in bit 0; in bit 1 that of the key behind it.
    MEMBER unsigned kept_pair(int i, int j) const {
        const uint64 place = element + static_cast<uint64>(i) * p.keys + j;
        const Words words = philox(p.seed, counter, place >> 2);
        uint32 one = place & 2 ? words.w[2] : words.w[0], two = place & 2 ? words.w[3] : words.w[1];
        if (place & 1) {
            one = two;
            two = place & 2 ? philox(p.seed, counter, (place >> 2) + 1).w[0] : words.w[2];
        }
        return (one >= p.threshold) | (two >= p.threshold) << 1;
    }
    MEMBER bool kept(int i, int j) const { return kept_pair(i, j) & 1; }
};

// The largest score so far as what exponents are less: 0 where it is infinite, so that no difference is NaN.
template <typename real>
DEVICE real base_of(real top, real factor) {
    return top == infinity() || top == -infinity() ? 0 : top * factor;
}

// What sums shrink by when the largest score grows from `top` to `best`: by a finite number, even to an infinite one.
template <typename real>
DEVICE real shrink_of(real top, real best, real factor) {
    return top == best ? 1 : Exponent<real>::of(min(product_sum(top, factor, -base_of(best, factor)), static_cast<real>(0)));
}

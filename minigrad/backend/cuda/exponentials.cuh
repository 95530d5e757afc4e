// The sum of the exponentials of a row, taken against its maximum.

#include "packs.cuh"

// exp as the dtype of the row can hold it: of half types two instructions do.
template <class T>
DEVICE Wide<T> exponential(Wide<T> x) {
    if constexpr (sizeof(T) == 8) {
        return exp(x);
    } else if constexpr (sizeof(T) == 4) {
        return expf(x);
    } else {
        return exp2_fast(x * 1.44269504f);
    }
}

DEVICE float logarithm(float x) { return logf(x); }

DEVICE double logarithm(double x) { return log(x); }

// What is subtracted before exp: the maximum, or 0 where it is infinite, since inf - inf is NaN.
template <class A>
DEVICE A base(A top) {
    return top - top == 0 ? top : A(0);
}

template <class A>
struct Exponentials {
    A base;   // the maximum of the row
    A total;  // sum(exp(x - base)); 0 where all are -inf
};

// A sum of exponentials against one maximum, brought to another. 0 times the inf that exp may give would be NaN.
template <class T>
DEVICE Wide<T> rescaled(Wide<T> total, Wide<T> top, Wide<T> next) {
    return total == 0 ? Wide<T>(0) : total * exponential<T>(base(top) - base(next));
}

// One pass (M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018): a sum that is scaled down
// whenever a larger element comes. The row is filled up with -inf.
template <class T, int VALUES>
DEVICE Exponentials<Wide<T>> exponentials(Row<T, VALUES>& row, Wide<T>* scratch) {
    typedef Wide<T> A;
    A top = -infinity(), total = 0;
    each_pack<T, VALUES>(row.n, [&](int p, long long at) {
        const A* v = row(p, at);
        A next = top;
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            next = larger(next, v[k]);
        }
        if (next != top) {
            total = rescaled<T>(total, top, next);
            top = next;
        }
#pragma unroll
        for (int k = 0; k < PACK<T>; ++k) {
            total += exponential<T>(v[k] - base(top));
        }
    });
    const A all = block_max(top, scratch);
    return {base(all), block_sum(rescaled<T>(total, top, all), scratch)};
}

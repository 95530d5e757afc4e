// Elementwise functions as types: what kernels apply to the numbers that they hold. The formulas are those of
// minigrad/_core/loops/elementwise.pyx.

#include "math.cuh"

// Each function: `value` of x, and `pull`, the cotangent g times the derivative, of x or, where the comment says so, of
// the function's result. a and b are parameters of the function.

struct Exp {  // of the result
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return power(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R y, R, R) { return g * y; }
};

struct Log {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return logarithm(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) { return g / x; }
};

struct Softplus {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return softplus_of(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) { return g * sigmoid_of(x); }
};

struct LogSigmoid {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return -softplus_of(-x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) { return g * sigmoid_of(-x); }
};

struct Tanh {  // of the result
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return hyperbolic_tangent(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R y, R, R) { return g * (R(1) - y * y); }
};

struct Sigmoid {  // of the result
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return sigmoid_of(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R y, R, R) { return g * y * (R(1) - y); }
};

struct Erf {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return error_function(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) { return R(1.1283791670955126) * g * power(-x * x); }  // 2 / sqrt(pi)
};

struct Relu {  // of the result
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return x <= R(0) ? R(0) : x; }  // NaN stays
    template <class R>
    static __device__ __forceinline__ R pull(R g, R y, R, R) { return y > R(0) ? g : R(0); }
};

struct LeakyRelu {
    template <class R>
    static __device__ __forceinline__ R value(R x, R a, R) { return x > R(0) ? x : a * x; }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R a, R) { return x > R(0) ? g : a * g; }
};

struct Hardswish {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) {
        R gate = x / R(6) + R(0.5);
        gate = gate < R(0) ? R(0) : gate;
        return x * (gate > R(1) ? R(1) : gate);
    }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) {
        const R between = x > R(-3) ? g * (x / R(3) + R(0.5)) : R(0);
        return x >= R(3) ? g : between;
    }
};

struct Elu {  // and selu: a * x or b * (exp(x) - 1)
    template <class R>
    static __device__ __forceinline__ R value(R x, R a, R b) { return x > R(0) ? a * x : b * power_less_1(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R a, R b) { return x > R(0) ? a * g : b * g * power(x); }
};

struct Gelu {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) {
        R bell;
        return x * normal_cdf(x, bell);
    }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) {
        R bell;
        const R below = normal_cdf(x, bell);
        return g * (below + x * (R(0.3989422804014327) * bell));  // 1 / sqrt(2 pi)
    }
};

struct GeluTanh {  // with (1 + tanh(u)) / 2 = sigmoid(2 u)
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) {
        return x * sigmoid_of(R(1.5957691216057308) * x * (R(1) + R(0.044715) * x * x));  // 2 sqrt(2 / pi)
    }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) {
        const R scale = R(1.5957691216057308), cubic = R(0.044715);
        const R flat = R(30);  // beyond, the gate is 0 or 1, and its cube cannot overflow before
        R clipped = x < -flat ? -flat : x;
        clipped = clipped > flat ? flat : clipped;
        R slope;
        const R gate = sigmoid_of(scale * clipped * (R(1) + cubic * clipped * clipped), slope);
        return g * (gate + clipped * slope * scale * (R(1) + R(3) * cubic * clipped * clipped));
    }
};

struct Silu {
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) { return x * sigmoid_of(x); }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) {
        R slope;
        const R gate = sigmoid_of(x, slope);
        return g * (gate + x * slope);
    }
};

struct Mish {  // with tanh(log(1 + e)) = m / (m + 2), where m = e (e + 2) and e = exp(x)
    template <class R>
    static __device__ __forceinline__ R value(R x, R, R) {
        const R e = power(x > R(40) ? R(40) : x);  // from there on the quotient is 1
        const R m = e * (e + R(2));
        return x * (m / (m + R(2)));
    }
    template <class R>
    static __device__ __forceinline__ R pull(R g, R x, R, R) {
        R clipped = x < R(-1000) ? R(-1000) : x;  // beyond, the derivative is 0 and 1
        clipped = clipped > R(40) ? R(40) : clipped;
        const R e = power(clipped);
        const R m = e * (e + R(2));
        const R r = R(1) / (m + R(2));
        return g * (m * r + R(4) * clipped * (e * r) * ((e + R(1)) * r));
    }
};

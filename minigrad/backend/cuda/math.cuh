// Elementary functions of both real types under one name, and those of which activations are made.


DEVICE float magnitude(float x) { return fabsf(x); }
DEVICE double magnitude(double x) { return fabs(x); }
DEVICE float power(float x) { return expf(x); }
DEVICE double power(double x) { return exp(x); }
DEVICE float power_less_1(float x) { return expm1f(x); }
DEVICE double power_less_1(double x) { return expm1(x); }
DEVICE float logarithm(float x) { return logf(x); }
DEVICE double logarithm(double x) { return log(x); }
DEVICE float logarithm_of_1_plus(float x) { return log1pf(x); }
DEVICE double logarithm_of_1_plus(double x) { return log1p(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
DEVICE float error_function(float x) { return erff(x); }
DEVICE double error_function(double x) { return erf(x); }

// 1 / (1 + exp(-x)), of the exponential that cannot overflow.
template <class R>
DEVICE R sigmoid_of(R x) {
    const R e = power(-magnitude(x));
    return (x < R(0) ? e : R(1)) / (R(1) + e);
}

// sigmoid(x), and sigmoid(x) * sigmoid(-x), its derivative.
template <class R>
DEVICE R sigmoid_of(R x, R& slope) {
    const R e = power(-magnitude(x));
    const R r = R(1) / (R(1) + e);
    slope = e * r * r;
    return (x < R(0) ? e : R(1)) * r;
}

// log(1 + exp(x)).
template <class R>
DEVICE R softplus_of(R x) {
    return (x > R(0) ? x : R(0)) + logarithm_of_1_plus(power(-magnitude(x)));
}

// The standard normal distribution function, and its density but for the factor: exp(-x^2 / 2). In float the tail is
// that times the quotient of polynomials of minigrad/_core/loops/math.pxd, in which nothing cancels.
DEVICE float normal_cdf(float x, float& bell) {
    const float y = fminf(fabsf(x), 15.0f);
    float p = fmaf(y, 0.0041525196f, 0.040876582f);
    p = fmaf(y, fmaf(y, fmaf(y, p, 0.18395604f), 0.43926635f), 0.5f);
    float q = fmaf(y, fmaf(y, 0.010408712f, 0.10246852f), 0.47137401f);
    q = fmaf(y, fmaf(y, fmaf(y, q, 1.2054949f), 1.6764177f), 1.0f);
    bell = expf(-0.5f * x * x);
    const float tail = bell * (p / q);
    return x < 0.0f ? tail : 1.0f - tail;
}

DEVICE double normal_cdf(double x, double& bell) {
    bell = exp(-0.5 * x * x);
    return 0.5 * erfc(-0.70710678118654752 * x);
}

"""Elementary functions without a branch or a call, so that the compiler makes vectors of the loops around them."""
from libc.math cimport INFINITY
from libc.string cimport memcpy
from numpy cimport npy_intp, npy_uint32, npy_uint64

ctypedef fused real:
    float
    double


cdef inline real exp_not_positive(real x) noexcept nogil:
    """exp(x) for x <= 0 (and NaN) to a unit or two in the last place; 0 where it would be subnormal.

    ``x = k * log(2) + r``, and the Taylor series of exp(r) for abs(r) <= log(2) / 2, in halves that do not wait for
    each other. Adding 1.5 * 2**(mantissa bits) rounds to the integer k and leaves it in the low bits, which a shift
    makes an exponent; k = -127 (in double -1023) becomes 0.
    """
    cdef real low = -88.0 if real is float else -709.0
    cdef real shift = 12582912.0 if real is float else 6755399441055744.0
    cdef real log2_high = 0.693359375 if real is float else 6.93147180369123816490e-1
    cdef real log2_low = -2.1219444005469057e-4 if real is float else 1.90821492927058770002e-10
    cdef real shifted, k, r, r2, r4, power, scale
    cdef npy_uint32 bits4
    cdef npy_uint64 bits8
    x = low if x < low else x
    shifted = x * <real>1.4426950408889634 + shift
    k = shifted - shift
    r = (x - k * log2_high) - k * log2_low
    r2 = r * r
    r4 = r2 * r2
    power = <real>(1 / 24.0) + r * <real>(1 / 120.0) + r2 * (<real>(1 / 720.0) + r * <real>(1 / 5040.0))
    if real is double:
        power += r4 * (
            1 / 40320.0 + r * (1 / 362880.0) + r2 * (1 / 3628800.0 + r * (1 / 39916800.0))
            + r4 * (1 / 479001600.0 + r * (1 / 6227020800.0))
        )
    power = <real>1 + r + r2 * (<real>0.5 + r * <real>(1 / 6.0)) + r4 * power
    if real is float:
        memcpy(&bits4, &shifted, 4)
        bits4 = (bits4 + 127) << 23
        memcpy(&scale, &bits4, 4)
    else:
        memcpy(&bits8, &shifted, 8)
        bits8 = (bits8 + 1023) << 52
        memcpy(&scale, &bits8, 8)
    return power * scale


cdef inline real largest(const real* x, npy_intp n) noexcept nogil:
    """The maximum but for NaN; four at a time, since each comparison waits for the one before."""
    cdef real a = -INFINITY, b = -INFINITY, c = -INFINITY, d = -INFINITY
    cdef npy_intp j = 0
    while j + 4 <= n:
        a = x[j] if x[j] > a else a
        b = x[j + 1] if x[j + 1] > b else b
        c = x[j + 2] if x[j + 2] > c else c
        d = x[j + 3] if x[j + 3] > d else d
        j += 4
    while j < n:
        a = x[j] if x[j] > a else a
        j += 1
    a = a if a > b else b
    c = c if c > d else d
    return a if a > c else c

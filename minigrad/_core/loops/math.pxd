"""Elementary functions without a branch or a call, so that the compiler makes vectors of the loops around them.

Each reduces its argument to a short interval and takes a minimax polynomial there, fitted for this file. The errors in
units in the last place (ULP) are the largest, for float32 over all its numbers (``tools/check_ulp.py``), for float64
over samples. They hold with FMA, where x86-64-v3 and -v4 give the same bits; without it erf and softplus reach a tenth
more. Infinities, NaN and signed zeros give what C gives.
"""
from libc.math cimport INFINITY, NAN, copysign, copysignf, fabs, fabsf
from libc.string cimport memcpy
from numpy cimport npy_intp, npy_uint32, npy_uint64

ctypedef fused real:
    float
    double

# ---- parts -----------------------------------------------------------------------------------------------------------


cdef inline real magnitude(real x) noexcept nogil:
    """abs(x)"""
    if real is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline real with_sign(real x, real sign) noexcept nogil:
    """abs(x) with the sign of `sign`."""
    if real is float:
        return copysignf(x, sign)
    else:
        return copysign(x, sign)


cdef inline real reduced(real x, real* shifted) noexcept nogil:
    """The r of ``x = k * log(2) + r`` with an integer k and abs(r) <= log(2) / 2.

    Adding 1.5 * 2**(mantissa bits) rounds to the integer and leaves it in the low bits of `shifted`. The high part of
    log(2) ends in zeros, so that its product with k is exact without FMA too.
    """
    cdef real shift = 12582912.0 if real is float else 6755399441055744.0
    cdef real log2_high = 0.693359375 if real is float else 6.93147180369123816490e-1
    cdef real log2_low = -2.1219444005469057e-4 if real is float else 1.90821492927058770002e-10
    cdef real k
    shifted[0] = x * <real>1.4426950408889634 + shift
    k = shifted[0] - shift
    return (x - k * log2_high) - k * log2_low


cdef inline real power_of_2(real shifted, int more=0) noexcept nogil:
    """2**(k + more) with the k of `reduced`: shifted up it is an exponent; the least gives 0."""
    cdef npy_uint32 bits4
    cdef npy_uint64 bits8
    cdef real power
    if real is float:
        memcpy(&bits4, &shifted, 4)
        bits4 = (bits4 + 127 + more) << 23
        memcpy(&power, &bits4, 4)
    else:
        memcpy(&bits8, &shifted, 8)
        bits8 = (bits8 + 1023 + more) << 52
        memcpy(&power, &bits8, 8)
    return power


cdef inline real scaled(real x, real shifted) noexcept nogil:
    """x * 2**k, in two steps, since for infinite and subnormal results 2**k is no normal number."""
    cdef npy_uint32 sum4, half4
    cdef npy_uint64 sum8, half8
    cdef real first, second
    if real is float:
        memcpy(&sum4, &shifted, 4)
        sum4 -= 0x4B400000 - 254  # the bits of the shift; k plus two biases is left
        half4 = sum4 >> 1
        sum4 = (sum4 - half4) << 23
        half4 <<= 23
        memcpy(&first, &half4, 4)
        memcpy(&second, &sum4, 4)
    else:
        memcpy(&sum8, &shifted, 8)
        sum8 -= <npy_uint64>0x4338000000000000 - 2046
        half8 = sum8 >> 1
        sum8 = (sum8 - half8) << 52
        half8 <<= 52
        memcpy(&first, &half8, 8)
        memcpy(&second, &sum8, 8)
    return x * first * second


cdef inline real expm1_near_0(real r) noexcept nogil:
    """exp(r) - 1 for abs(r) <= log(2) / 2, in halves that do not wait for each other."""
    cdef real r2 = r * r
    cdef real r4 = r2 * r2
    cdef real q
    if real is float:
        q = (<float>0.49999994 + r * <float>0.16666523) + r2 * (
            (<float>0.041668292 + r * <float>0.008368536) + r2 * <float>0.0013818329
        )
    else:
        q = (0.500000000000001 + r * 0.16666666666665475) + r2 * (0.04166666666654795 + r * 0.00833333333435669)
        q += r4 * (
            (0.001388888893792029 + r * 0.00019841267256855735)
            + r2 * (2.480149930458398e-05 + r * 2.7559840717016252e-06)
            + r4 * (2.762803998420828e-07 + r * 2.422856822699937e-08)
        )
    return r + r2 * q


cdef inline real atanh_rest(real z) noexcept nogil:
    """2 * atanh(s) / s - 2 with z = s**2 <= 1/9."""
    cdef real z2 = z * z
    cdef real q
    if real is float:
        q = (<float>0.66666448 + z * <float>0.40020129) + z2 * (<float>0.2802068 + z * <float>0.27931806)
    else:
        q = (0.666666666666665 + z * 0.4000000000010445) + z2 * (0.2857142855081316 + z * 0.22222224001304575)
        q += z2 * z2 * (
            (0.18181736337929322 + z * 0.15386836568575848) + z2 * (0.13296086845596156 + z * 0.12153008019426968)
            + z2 * z2 * (0.08104865788004473 + z * 0.17501669284032628)
        )
    return z * q


# ---- functions -------------------------------------------------------------------------------------------------------


cdef inline real exp(real x) noexcept nogil:
    """exp(x), subnormal where it must be: 1.03 ULP, in float64 1.05."""
    cdef real low = -104.0 if real is float else -746.0
    cdef real high = 89.0 if real is float else 710.0
    cdef real shifted, r
    x = low if x < low else x
    x = high if x > high else x
    r = reduced(x, &shifted)
    return scaled(<real>1 + expm1_near_0(r), shifted)


cdef inline real exp_not_positive(real x) noexcept nogil:
    """exp(x) for x <= 0 (and NaN), the fastest form: 0 where it would be subnormal, the bits of `exp` elsewhere.

    Right up to 88 (in double 709), too, where the power of 2 is still a number.
    """
    cdef real low = -88.0 if real is float else -709.0
    cdef real shifted, r
    x = low if x < low else x
    r = reduced(x, &shifted)
    return (<real>1 + expm1_near_0(r)) * power_of_2(shifted)


cdef inline real exp_to_40(real x) noexcept nogil:
    """exp(x) for x <= 40 (and NaN), the bits of `exp` but faster."""
    cdef real low = -104.0 if real is float else -746.0
    cdef real shifted, r
    x = low if x < low else x
    r = reduced(x, &shifted)
    return (<real>1 + expm1_near_0(r)) * power_of_2(shifted, 64) * <real>5.421010862427522e-20  # 2**-64


cdef inline real expm1_not_positive(real x) noexcept nogil:
    """exp(x) - 1 for x <= 0 (and NaN), which keeps its digits near 0; a zero comes out positive."""
    cdef real low = -88.0 if real is float else -709.0
    cdef real shifted, r, power
    x = low if x < low else x
    r = reduced(x, &shifted)
    power = power_of_2(shifted)
    return (power - <real>1) + power * expm1_near_0(r)


cdef inline real log(real x) noexcept nogil:
    """log(x) = k * log(2) + log(1 + f) with x = 2**k * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2).

    0.95 ULP, in float64 0.8. In double the division keeps the polynomial short.
    """
    cdef real tiny = 1.17549435e-38 if real is float else 2.2250738585072014e-308
    cdef real lift = 8388608.0 if real is float else 4503599627370496.0  # 2**23 and 2**52, the bits of the mantissa
    cdef npy_uint32 bits4, k4
    cdef npy_uint64 bits8, k8
    cdef real m, k, f, z, s, y
    m = x * lift if x < tiny else x
    if real is float:
        memcpy(&bits4, &m, 4)
        k4 = (bits4 + (0x3F800000 - 0x3F3504F3)) >> 23  # k and a bias of 127
        bits4 -= (k4 - 127) << 23
        k4 |= 0x4B000000  # k as a number: the mantissa of what is at least `lift`
        memcpy(&m, &bits4, 4)
        memcpy(&k, &k4, 4)
        k -= lift + 150 if x < tiny else lift + 127
    else:
        memcpy(&bits8, &m, 8)
        k8 = (bits8 + (<npy_uint64>0x3FF0000000000000 - <npy_uint64>0x3FE6A09E667F3BCD)) >> 52
        bits8 -= (k8 - 1023) << 52
        k8 |= <npy_uint64>0x4330000000000000
        memcpy(&m, &bits8, 8)
        memcpy(&k, &k8, 8)
        k -= lift + 1075 if x < tiny else lift + 1023
    f = m - <real>1
    if real is float:
        z = f * f
        y = (<float>0.3333333 - f * <float>0.25000823) + z * (<float>0.2000126 - f * <float>0.16623315) + z * z * (
            (<float>0.14200915 - f * <float>0.13159783) + z * (<float>0.12767951 - f * <float>0.07643981)
        )
        y = z * (f * y - <float>0.5) - k * <float>2.1219444e-4
    else:
        s = f / (2 + f)
        z = 0.5 * f * f
        y = s * (z + atanh_rest(s * s)) + k * 1.90821492927058770002e-10 - z
    y = k * <real>(0.693359375 if real is float else 6.93147180369123816490e-1) + (f + y)
    y = y if x < <real>INFINITY else x
    y = -<real>INFINITY if x == 0 else y
    return <real>NAN if x < 0 else y


cdef inline real log1p_unit(real x) noexcept nogil:
    """log(1 + x) for 0 <= x <= 1 (and NaN), as 2 * atanh(s) = x - s * x + ... with s = x / (2 + x)."""
    cdef real s = x / (<real>2 + x)
    return x - s * (x - atanh_rest(s * s))


cdef inline real tanh(real x) noexcept nogil:
    """tanh(x) = (exp(2 * x) - 1) / (exp(2 * x) + 1), from exp(2 * x) - 1, which keeps its digits near 0.

    2.62 ULP, in float64 2.8.
    """
    cdef real flat = 20.0 if real is float else 40.0
    cdef real shifted, r, power, grown
    cdef real twice = <real>2 * magnitude(x)
    twice = flat if twice > flat else twice
    r = reduced(twice, &shifted)
    power = power_of_2(shifted)
    grown = (power - <real>1) + power * expm1_near_0(r)
    return with_sign(grown / (grown + <real>2), x)


cdef inline real sigmoid(real x) noexcept nogil:
    """1 / (1 + exp(-x)), of the exponential that cannot overflow: 2.41 ULP, in float64 2.3."""
    cdef real e = exp_to_40(-magnitude(x))
    return (e if x < 0 else <real>1) / (<real>1 + e)


cdef inline real sigmoid_and_slope(real x, real* slope) noexcept nogil:
    """sigmoid(x), and sigmoid(x) * sigmoid(-x), its derivative."""
    cdef real e = exp_to_40(-magnitude(x))
    cdef real r = <real>1 / (<real>1 + e)
    slope[0] = e * r * r
    return (e if x < 0 else <real>1) * r


cdef inline real softplus(real x) noexcept nogil:
    """log(1 + exp(x)): 1.83 ULP, in float64 1.9; 0 where it would be subnormal."""
    return (x if x > 0 else <real>0) + log1p_unit(exp_not_positive(-magnitude(x)))


cdef inline real tail_ratio(real x) noexcept nogil:
    """Phi(-abs(x)) / exp(-x**2 / 2) with the standard normal distribution function Phi: Mills' ratio but for a factor.

    A quotient of polynomials with positive coefficients, so that nothing cancels.
    """
    cdef real far = 15.0 if real is float else 40.0  # where the exponential is 0
    cdef real p, q
    x = magnitude(x)
    x = far if x > far else x
    if real is float:
        p = <float>0.040876582 + x * <float>0.0041525196
        p = <float>0.5 + x * (<float>0.43926635 + x * (<float>0.18395604 + x * p))
        q = <float>0.47137401 + x * (<float>0.10246852 + x * <float>0.010408712)
        q = <float>1 + x * (<float>1.6764177 + x * (<float>1.2054949 + x * q))
    else:
        p = 7.029767163117548e-06 + x * 2.2621762702761202e-07
        p = 0.007155917825074207 + x * (0.0010454873406223766 + x * (0.00010727210396025585 + x * p))
        p = 0.35815681768516766 + x * (0.1324445121592577 + x * (0.03580334139427864 + x * p))
        p = 0.5 + x * (0.8285982153568751 + x * (0.6806606311031056 + x * p))
        q = 1.7621013135170343e-05 + x * 5.670435001272262e-07
        q = 0.018204983144587517 + x * (0.0026382691420993917 + x * (0.0002694583323631261 + x * q))
        q = 0.9824467237870691 + x * (0.3493942658598624 + x * (0.09233107424656566 + x * q))
        q = 1 + x * (2.4550809915166156 + x * (2.820192480857901 + x * (2.0049226988486195 + x * q)))
    return p / q


cdef inline real erf(real x) noexcept nogil:
    """The error function: odd powers for abs(x) < 1, beyond 1 - 2 * Phi(-sqrt(2) * x); 1.18 ULP, in float64 1.1."""
    cdef real z = x * x
    cdef real near, far
    if real is float:
        near = <float>-0.026853811 + z * (<float>0.0051883273 + z * (<float>-0.00080101920 + z * <float>7.8538576e-05))
        near = <float>0.12837917 + z * (<float>-0.37612626 + z * (<float>0.11283585 + z * near))
    else:
        near = -1.1365661644367267e-09 + z * 5.945254923277616e-11
        near = 1.646097279815068e-06 + z * (-1.6350025034086767e-07 + z * (1.4657878650325638e-08 + z * near))
        near = -0.0008548326978740622 + z * (0.000120553310368449 + z * (-1.4925593505645053e-05 + z * near))
        near = 0.11283791670954857 + z * (-0.026866170645072893 + z * (0.005223977624780838 + z * near))
        near = 0.1283791670955126 + z * (-0.3761263890318375 + z * near)
    far = <real>1 - <real>2 * exp_not_positive(-z) * tail_ratio(x * <real>1.4142135623730951)
    return x + x * near if z < 1 else with_sign(far, x)

# distutils: extra_compile_args = -ffp-contract=off
"""Random numbers as pure functions of (key, counter, index): Philox4x32-10 and the transforms to distributions.

Each function fills ``out`` and depends on nothing else: element i is the same for every length of ``out``, number of
threads, instruction set and device. For this the transforms use only IEEE 754 operations that are rounded correctly
everywhere (+, -, *, /, sqrt and conversions, never fused: hence the compiler flag above), and their own series for
log, sin and cos, whose last digits differ from one libm to the next.

A block has the words w0 w1 w2 w3. A 32-bit element takes the next word, a 64-bit one the next two, the first on top:

fill_bits         the word or words
fill_uniform      float32: 24 high bits / 2^24; float64: (27 high bits of the first word, 26 of the second) / 2^53
fill_exponential  -log(u); float32: u = (31 high bits + 1/2) / 2^31; float64: u = (the 53 bits above + 1/2) / 2^53
fill_normal       pairs r cos(t), r sin(t) (Box and Muller, 1958) with r = sqrt(-2 log(u))
                  float32: u of a word v, t = 2 pi w / 2^32 of the next word w
                  float64: u of w0 and w1, t = 2 pi (w2, 24 high bits of w3) / 2^56
fill_truncated_normal  float64: the quantile of p_low + (p_high - p_low) u, Wichura's AS 241
fill_keep_mask    word >= rate * 2^32
fill_below        span < 2^32: the high 32 bits of span * (a b), words a and b; else the high 64 of span * (w0 w1 w2 w3)
fill_permutation  step i takes block i, as fill_below does with a span of 2^32 and more

Logarithm: u = 2^e m with sqrt(1/2) <= m < sqrt(2), s = (m - 1) / (m + 1), log(u) = e log(2) + 2 s + 2 s (s^2/3 + ...).
Angle: the nearest multiple of pi/2 is split off in integers, the rest, at most pi/4, goes through Taylor's series.
"""

from libc.math cimport sqrt, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

ctypedef fused real:
    float
    double

ctypedef fused bits:
    uint32_t
    uint64_t

ctypedef void (*Transform)(const Words* words, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil

cdef Py_ssize_t RELEASE_GIL = 10_000  # elements; below, releasing the GIL costs more than it gives


cdef void fill_chunks(
    Transform transform, const void* argument, uint64_t key, uint64_t counter, uint64_t first,
    Py_ssize_t per_block, Py_ssize_t size, char* out, Py_ssize_t total,
) noexcept nogil:
    cdef Words words
    cdef double last[2 * BLOCKS]  # a block gives at most 16 bytes
    cdef Py_ssize_t chunk = BLOCKS * per_block
    cdef Py_ssize_t done = 0
    while total - done >= chunk:
        philox_blocks(key, counter, first, BLOCKS, &words)
        transform(&words, BLOCKS, argument, out)
        first += BLOCKS
        done += chunk
        out += chunk * size
    if done < total:
        chunk = (total - done + per_block - 1) // per_block
        philox_blocks(key, counter, first, chunk, &words)
        transform(&words, chunk, argument, last)
        memcpy(out, last, (total - done) * size)


cdef void fill(
    Transform transform, const void* argument, uint64_t key, uint64_t counter, uint64_t first,
    Py_ssize_t per_block, Py_ssize_t size, void* out, Py_ssize_t total,
) noexcept:
    if total < RELEASE_GIL:
        fill_chunks(transform, argument, key, counter, first, per_block, size, <char*>out, total)
    else:
        with nogil:
            fill_chunks(transform, argument, key, counter, first, per_block, size, <char*>out, total)


# ---- series ----------------------------------------------------------------------------------------------------------

cdef inline real neg_log(real u) noexcept nogil:
    """-log(u) for 0 < u <= 1; the series ends where the next term is below half a unit in the last place."""
    cdef uint32_t i32
    cdef uint64_t i64
    cdef int32_t e
    cdef real m, s, z, p
    # the exponent in the bits of u / sqrt(1/2), biased to stay positive
    if real is float:
        memcpy(&i32, &u, 4)
        e = <int32_t>((i32 - 0x3F3504F3u + (<uint32_t>256 << 23)) >> 23) - 256
        i32 -= <uint32_t>e << 23
        memcpy(&m, &i32, 4)
    else:
        memcpy(&i64, &u, 8)
        e = <int32_t>((i64 - 0x3FE6A09E667F3BCDu + (<uint64_t>2048 << 52)) >> 52) - 2048
        i64 -= <uint64_t>(<uint32_t>e) << 52
        memcpy(&m, &i64, 8)
    s = (m - 1) / (m + 1)  # in double for float32 too, since Cython's constants are doubles
    z = s * s
    if real is float:
        p = <real>(1 / 9.0)
    else:
        p = <real>(1 / 21.0)
        p = p * z + <real>(1 / 19.0)
        p = p * z + <real>(1 / 17.0)
        p = p * z + <real>(1 / 15.0)
        p = p * z + <real>(1 / 13.0)
        p = p * z + <real>(1 / 11.0)
        p = p * z + <real>(1 / 9.0)
    p = p * z + <real>(1 / 7.0)
    p = p * z + <real>(1 / 5.0)
    p = p * z + <real>(1 / 3.0)
    s = s + s
    return -(<real>e * <real>0.6931471805599453 + (s + s * (z * p)))


cdef inline void sin_cos(real x, real* sine, real* cosine) noexcept nogil:
    """Taylor's series for |x| <= pi/4."""
    cdef real z = x * x
    cdef real p, q
    if real is float:
        p = <real>(1 / 362880.0)
        q = <real>(-1 / 3628800.0)
    else:
        p = <real>(1 / 355687428096000.0)
        p = p * z + <real>(-1 / 1307674368000.0)
        p = p * z + <real>(1 / 6227020800.0)
        p = p * z + <real>(-1 / 39916800.0)
        p = p * z + <real>(1 / 362880.0)
        q = <real>(1 / 20922789888000.0)
        q = q * z + <real>(-1 / 87178291200.0)
        q = q * z + <real>(1 / 479001600.0)
        q = q * z + <real>(-1 / 3628800.0)
    p = p * z + <real>(-1 / 5040.0)
    p = p * z + <real>(1 / 120.0)
    p = p * z + <real>(-1 / 6.0)
    q = q * z + <real>(1 / 40320.0)
    q = q * z + <real>(-1 / 720.0)
    q = q * z + <real>(1 / 24.0)
    q = q * z + <real>(-1 / 2.0)
    sine[0] = x + x * (z * p)
    cosine[0] = 1 + z * q


cdef inline double half_open(uint32_t high, uint32_t low) noexcept nogil:
    """A uniform number of [0, 1) of 53 bits; int32 converts to double in vector code, int64 does not."""
    return (<double><int32_t>(high >> 5) * 67108864.0 + <double><int32_t>(low >> 6)) * (1 / 9007199254740992.0)


cdef inline double open_unit64(uint32_t high, uint32_t low) noexcept nogil:
    """A uniform number of (0, 1] of 53 bits."""
    return half_open(high, low) + 1 / 18014398509481984.0


cdef inline float open_unit32(uint32_t word) noexcept nogil:
    """A uniform number of (0, 1] of 31 bits."""
    return (<float><int32_t>(word >> 1) + <float>0.5) * <float>(1 / 2147483648.0)


cdef inline void box_muller(
    uint32_t r_high, uint32_t r_low, uint32_t a_high, uint32_t a_low, real* first, real* second
) noexcept nogil:
    cdef real radius
    cdef uint32_t quadrant = (a_high + 0x20000000u) >> 30
    cdef real angle = <real><int32_t>(a_high - (quadrant << 30))
    cdef real sine, cosine
    if real is float:
        radius = sqrtf(2 * neg_log(open_unit32(r_high)))
    else:
        radius = sqrt(2 * neg_log(open_unit64(r_high, r_low)))
        angle += <real><int32_t>(a_low >> 8) * <real>(1 / 16777216.0)
    sin_cos(angle * <real>1.4629180792671596e-09, &sine, &cosine)  # 2 pi / 2^32
    # the signs of cos and sin in quadrants 0 to 3: + - - + and + + - -
    first[0] = radius * <real>(1 - <int32_t>((quadrant + 1) & 2)) * (sine if quadrant & 1 else cosine)
    second[0] = radius * <real>(1 - <int32_t>(quadrant & 2)) * (cosine if quadrant & 1 else sine)


cdef inline double normal_quantile(double p) noexcept nogil:
    """Inverse of the normal distribution function, 0 < p < 1: M. J. Wichura, algorithm AS 241 (PPND16), 1988."""
    cdef double q = p - 0.5
    cdef double r, a, b
    if -0.425 <= q <= 0.425:
        r = 0.180625 - q * q
        a = 2509.0809287301226727
        a = a * r + 33430.575583588128105
        a = a * r + 67265.770927008700853
        a = a * r + 45921.953931549871457
        a = a * r + 13731.693765509461125
        a = a * r + 1971.5909503065514427
        a = a * r + 133.14166789178437745
        a = a * r + 3.3871328727963666080
        b = 5226.4952788528545610
        b = b * r + 28729.085735721942674
        b = b * r + 39307.895800092710610
        b = b * r + 21213.794301586595867
        b = b * r + 5394.1960214247511077
        b = b * r + 687.18700749205790830
        b = b * r + 42.313330701600911252
        return q * a / (b * r + 1)
    r = sqrt(neg_log(p if q < 0 else 1 - p))
    if r <= 5:
        r -= 1.6
        a = 7.74545014278341407640e-4
        a = a * r + 0.0227238449892691845833
        a = a * r + 0.241780725177450611770
        a = a * r + 1.27045825245236838258
        a = a * r + 3.64784832476320460504
        a = a * r + 5.76949722146069140550
        a = a * r + 4.63033784615654529590
        a = a * r + 1.42343711074968357734
        b = 1.05075007164441684324e-9
        b = b * r + 5.47593808499534494600e-4
        b = b * r + 0.0151986665636164571966
        b = b * r + 0.148103976427480074590
        b = b * r + 0.689767334985100004550
        b = b * r + 1.67638483018380384940
        b = b * r + 2.05319162663775882187
    else:
        r -= 5
        a = 2.01033439929228813265e-7
        a = a * r + 2.71155556874348757815e-5
        a = a * r + 1.24266094738807843860e-3
        a = a * r + 0.0265321895265761230930
        a = a * r + 0.296560571828504891230
        a = a * r + 1.78482653991729133580
        a = a * r + 5.46378491116411436990
        a = a * r + 6.65790464350110377720
        b = 2.04426310338993978564e-15
        b = b * r + 1.42151175831644588870e-7
        b = b * r + 1.84631831751005468180e-5
        b = b * r + 7.86869131145613259100e-4
        b = b * r + 0.0148753612908506148525
        b = b * r + 0.136929880922735805310
        b = b * r + 0.599832206555887937690
    a /= b * r + 1
    return -a if q < 0 else a


cdef inline uint64_t high_product(uint64_t x, uint64_t y) noexcept nogil:
    """The high 64 bits of the 128-bit product."""
    cdef uint64_t x0 = <uint32_t>x, x1 = x >> 32
    cdef uint64_t y0 = <uint32_t>y, y1 = y >> 32
    cdef uint64_t middle = x1 * y0 + (x0 * y0 >> 32)
    return x1 * y1 + (middle >> 32) + ((x0 * y1 + <uint32_t>middle) >> 32)


cdef inline uint64_t below(const Words* w, Py_ssize_t j, uint64_t span) noexcept nogil:
    """The high 64 bits of the 192-bit product of span, or of 2^64 for span 0, and the 128 bits of block j."""
    cdef uint64_t high = <uint64_t>w.w0[j] << 32 | w.w1[j]
    cdef uint64_t low = <uint64_t>w.w2[j] << 32 | w.w3[j]
    cdef uint64_t carry = high_product(low, span)
    if span == 0:
        return high
    return high_product(high, span) + (high * span + carry < carry)


# ---- transforms: what one chunk of words becomes ---------------------------------------------------------------------

cdef void to_bits32(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef uint32_t* o = <uint32_t*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        o[4 * j] = w.w0[j]
        o[4 * j + 1] = w.w1[j]
        o[4 * j + 2] = w.w2[j]
        o[4 * j + 3] = w.w3[j]


cdef void to_bits64(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef uint64_t* o = <uint64_t*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        o[2 * j] = <uint64_t>w.w0[j] << 32 | w.w1[j]
        o[2 * j + 1] = <uint64_t>w.w2[j] << 32 | w.w3[j]


cdef void to_uniform32(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef float* o = <float*>out
    cdef float unit = <float>(1 / 16777216.0)
    cdef Py_ssize_t j
    for j in range(blocks):
        o[4 * j] = <float><int32_t>(w.w0[j] >> 8) * unit
        o[4 * j + 1] = <float><int32_t>(w.w1[j] >> 8) * unit
        o[4 * j + 2] = <float><int32_t>(w.w2[j] >> 8) * unit
        o[4 * j + 3] = <float><int32_t>(w.w3[j] >> 8) * unit


cdef void to_uniform64(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef double* o = <double*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        o[2 * j] = half_open(w.w0[j], w.w1[j])
        o[2 * j + 1] = half_open(w.w2[j], w.w3[j])


cdef void to_exponential32(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef float* o = <float*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        o[4 * j] = neg_log(open_unit32(w.w0[j]))
        o[4 * j + 1] = neg_log(open_unit32(w.w1[j]))
        o[4 * j + 2] = neg_log(open_unit32(w.w2[j]))
        o[4 * j + 3] = neg_log(open_unit32(w.w3[j]))


cdef void to_exponential64(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef double* o = <double*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        o[2 * j] = neg_log(open_unit64(w.w0[j], w.w1[j]))
        o[2 * j + 1] = neg_log(open_unit64(w.w2[j], w.w3[j]))


cdef void to_normal32(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef float* o = <float*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        box_muller(w.w0[j], 0, w.w1[j], 0, &o[4 * j], &o[4 * j + 1])
        box_muller(w.w2[j], 0, w.w3[j], 0, &o[4 * j + 2], &o[4 * j + 3])


cdef void to_normal64(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef double* o = <double*>out
    cdef Py_ssize_t j
    for j in range(blocks):
        box_muller(w.w0[j], w.w1[j], w.w2[j], w.w3[j], &o[2 * j], &o[2 * j + 1])


cdef void to_truncated_normal(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef double* o = <double*>out
    cdef double low = (<const double*>argument)[0]
    cdef double width = (<const double*>argument)[1] - low
    cdef double top = 1 - 1 / 9007199254740992.0  # the quantile of 1 is infinite
    cdef double p
    cdef Py_ssize_t j
    for j in range(blocks):
        p = low + width * open_unit64(w.w0[j], w.w1[j])
        o[2 * j] = normal_quantile(p if p < top else top)
        p = low + width * open_unit64(w.w2[j], w.w3[j])
        o[2 * j + 1] = normal_quantile(p if p < top else top)


cdef void to_keep_mask(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef uint8_t* o = <uint8_t*>out
    cdef uint32_t threshold = (<const uint32_t*>argument)[0]
    cdef Py_ssize_t j
    for j in range(blocks):
        o[4 * j] = w.w0[j] >= threshold
        o[4 * j + 1] = w.w1[j] >= threshold
        o[4 * j + 2] = w.w2[j] >= threshold
        o[4 * j + 3] = w.w3[j] >= threshold


cdef void to_below32(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef uint64_t* o = <uint64_t*>out
    cdef uint32_t span = <uint32_t>(<const uint64_t*>argument)[0]
    cdef Py_ssize_t j
    for j in range(blocks):
        o[2 * j] = (<uint64_t>w.w0[j] * span + (<uint64_t>w.w1[j] * span >> 32)) >> 32
        o[2 * j + 1] = (<uint64_t>w.w2[j] * span + (<uint64_t>w.w3[j] * span >> 32)) >> 32


cdef void to_below64(const Words* w, Py_ssize_t blocks, const void* argument, void* out) noexcept nogil:
    cdef uint64_t* o = <uint64_t*>out
    cdef uint64_t span = (<const uint64_t*>argument)[0]
    cdef Py_ssize_t j
    for j in range(blocks):
        o[j] = below(w, j, span)


# ---- the functions Python calls --------------------------------------------------------------------------------------

def fill_bits(uint64_t key, uint64_t counter, bits[::1] out, uint64_t first_block=0):
    """Fill a uint32 or uint64 array with random bits, beginning at a block of the draw."""
    if out.shape[0] == 0:
        return
    if bits is uint32_t:
        fill(to_bits32, NULL, key, counter, first_block, 4, 4, &out[0], out.shape[0])
    else:
        fill(to_bits64, NULL, key, counter, first_block, 2, 8, &out[0], out.shape[0])


def fill_uniform(uint64_t key, uint64_t counter, real[::1] out):
    """Fill a float32 or float64 array with uniform numbers of [0, 1)."""
    if out.shape[0] == 0:
        return
    if real is float:
        fill(to_uniform32, NULL, key, counter, 0, 4, 4, &out[0], out.shape[0])
    else:
        fill(to_uniform64, NULL, key, counter, 0, 2, 8, &out[0], out.shape[0])


def fill_exponential(uint64_t key, uint64_t counter, real[::1] out):
    """Fill a float32 or float64 array with exponentially distributed numbers of mean 1."""
    if out.shape[0] == 0:
        return
    if real is float:
        fill(to_exponential32, NULL, key, counter, 0, 4, 4, &out[0], out.shape[0])
    else:
        fill(to_exponential64, NULL, key, counter, 0, 2, 8, &out[0], out.shape[0])


def fill_normal(uint64_t key, uint64_t counter, real[::1] out):
    """Fill a float32 or float64 array with normal numbers of mean 0 and standard deviation 1."""
    if out.shape[0] == 0:
        return
    if real is float:
        fill(to_normal32, NULL, key, counter, 0, 4, 4, &out[0], out.shape[0])
    else:
        fill(to_normal64, NULL, key, counter, 0, 2, 8, &out[0], out.shape[0])


def fill_truncated_normal(uint64_t key, uint64_t counter, double p_low, double p_high, double[::1] out):
    """Fill with the normal numbers whose distribution function lies between p_low and p_high, 0 <= p_low < p_high."""
    cdef double[2] p = [p_low, p_high]
    if out.shape[0] == 0:
        return
    fill(to_truncated_normal, p, key, counter, 0, 2, 8, &out[0], out.shape[0])


def fill_keep_mask(uint64_t key, uint64_t counter, double rate, uint8_t[::1] out, uint64_t block=0):
    """Fill with 0 at a probability of ``rate``, else 1; the probability is rounded to a multiple of 2^-32.

    ``block``: the first one to take, of four elements each.
    """
    cdef uint32_t threshold
    cdef double scaled = rate * 4294967296.0 + 0.5
    if not 0 <= rate <= 1:
        raise ValueError(f"fill_keep_mask: rate is {rate}, needs 0 <= rate <= 1")
    if out.shape[0] == 0:
        return
    if scaled >= 4294967296.0:
        memset(&out[0], 0, out.shape[0])
        return
    threshold = <uint32_t>scaled
    fill(to_keep_mask, &threshold, key, counter, block, 4, 1, &out[0], out.shape[0])


def fill_below(uint64_t key, uint64_t counter, uint64_t span, uint64_t[::1] out):
    """Fill with integers of [0, span), or of [0, 2^64) for span 0.

    A value is the high part of the product of span and random bits, 64 of them for a span below 2^32, else 128. So the
    probabilities of two values differ by less than 2^-64: no sample shows that, and nothing has to be drawn twice.
    """
    if out.shape[0] == 0:
        return
    if 0 < span < 4294967296:
        fill(to_below32, &span, key, counter, 0, 2, 8, &out[0], out.shape[0])
    else:
        fill(to_below64, &span, key, counter, 0, 1, 8, &out[0], out.shape[0])


def fill_permutation(uint64_t key, uint64_t counter, int64_t[::1] out):
    """Fill with 0 ... n - 1 in random order (Fisher, Yates): number i takes a place j <= i, what was there place i."""
    cdef Words words
    cdef Py_ssize_t n = out.shape[0]
    cdef Py_ssize_t i, j, k
    with nogil:
        for i in range(n):
            k = i % BLOCKS
            if k == 0:
                philox_blocks(key, counter, <uint64_t>i, min(n - i, <Py_ssize_t>BLOCKS), &words)
            j = <Py_ssize_t>below(&words, k, <uint64_t>(i + 1))
            out[i] = out[j]
            out[j] = i

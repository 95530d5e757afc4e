"""What attention does to one row of a block of scores. Rows are padded to whole vectors of LANES, and so are the loops.

A fixed number of lanes also fixes the order in which sums are made, whatever the width of the processor's vectors.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy
from numpy cimport npy_intp, npy_uint8, npy_uint32, npy_uint64

from minigrad._core.loops.math cimport exp_not_positive, tanh
from minigrad._core.loops.plain cimport real
from minigrad._core.loops.rows cimport block_sum
from minigrad._core.philox cimport BLOCKS, Words, philox_blocks

cdef enum:
    LANES = 16

cdef struct Keep:
    # the random words of one row of scores, of which the first `shift` belong to keys before it
    npy_uint32 words[4 * BLOCKS]
    npy_intp shift


cdef inline npy_intp padded(npy_intp n) noexcept nogil:
    return (n + LANES - 1) & ~<npy_intp>(LANES - 1)


cdef extern from *:
    """
    /* gcc makes vectors of a maximum only if it is told to: the order of its comparisons shows where there is NaN */
    #define MG_ROW_MAX(name, real)                                  \\
        static inline real name(const real *x, Py_ssize_t n) {      \\
            real top = -INFINITY;                                   \\
            _Pragma("omp simd reduction(max:top)")                  \\
            for (Py_ssize_t j = 0; j < n; j++)                      \\
                top = x[j] > top ? x[j] : top;                      \\
            return top;                                             \\
        }
    MG_ROW_MAX(mg_row_max_f, float)
    MG_ROW_MAX(mg_row_max_d, double)
    """
    float mg_row_max_f(const float* x, npy_intp n) nogil
    double mg_row_max_d(const double* x, npy_intp n) nogil


cdef inline real row_max(const real* x, npy_intp n) noexcept nogil:
    """The maximum, where there is no NaN."""
    if real is float:
        return mg_row_max_f(x, n)
    else:
        return mg_row_max_d(x, n)


cdef inline real row_exp(real* x, real top, npy_intp n) noexcept nogil:
    """Write exp(x - top) in place and return the sum."""
    cdef npy_intp j
    for j in range(n):
        x[j] = exp_not_positive(<real>(x[j] - top))
    return <real>block_sum(x, n)


cdef inline real row_infinite(real* x, npy_intp n) noexcept nogil:
    """As `row_exp` below an infinite score: NaN there, 0 elsewhere; the sum is infinite, or NaN if a score is."""
    cdef npy_intp j
    cdef real total = 0
    for j in range(n):
        total += 0 if x[j] < INFINITY else x[j]
        x[j] = 0 if x[j] < INFINITY else x[j] - x[j]
    return total


cdef inline void row_gradient(real* p, real* d, real log_total, real delta, npy_intp n) noexcept nogil:
    """Scores become probabilities, and the cotangents of these become those of the scores."""
    cdef real probability
    cdef npy_intp j
    for j in range(n):
        probability = exp_not_positive(<real>(p[j] - log_total))
        p[j] = probability
        d[j] = probability * (d[j] - delta)


cdef inline void draw(
    Keep* keep, npy_uint64 seed, npy_uint64 counter, npy_uint64 element, npy_intp n,
) noexcept nogil:
    """The words of `n` elements, at most 4 * BLOCKS - LANES, from `element` on."""
    cdef Words words
    cdef npy_intp j, blocks
    keep.shift = <npy_intp>(element & 3)
    blocks = (keep.shift + n + 3) >> 2
    philox_blocks(seed, counter, element >> 2, blocks, &words)
    for j in range(blocks):
        keep.words[4 * j] = words.w0[j]
        keep.words[4 * j + 1] = words.w1[j]
        keep.words[4 * j + 2] = words.w2[j]
        keep.words[4 * j + 3] = words.w3[j]


cdef inline void row_drop(
    real* p, const Keep* keep, npy_uint32 threshold, real scale, npy_intp n,
) noexcept nogil:
    """Scale the probabilities that are kept, and make the others 0."""
    cdef const npy_uint32* words = keep.words + keep.shift
    cdef npy_intp j
    cdef real value
    for j in range(n):
        value = p[j] * scale
        p[j] = value if words[j] >= threshold else 0


cdef inline void row_gradient_drop(
    real* p, real* d, real log_total, real delta, const Keep* keep, npy_uint32 threshold, real scale, npy_intp n,
) noexcept nogil:
    """As `row_gradient`; the probabilities come out as they were after dropout."""
    cdef const npy_uint32* words = keep.words + keep.shift
    cdef real probability, factor
    cdef npy_intp j
    for j in range(n):
        probability = exp_not_positive(<real>(p[j] - log_total))
        factor = scale if words[j] >= threshold else 0
        p[j] = probability * factor
        d[j] = probability * (d[j] * factor - delta)


cdef inline void row_cap(real* x, real* slope, real cap, npy_intp n) noexcept nogil:
    """cap * tanh(x / cap) in place; `slope` gets the derivative if it is given."""
    cdef npy_intp j
    cdef real t
    cdef real inverse = 1 / cap
    if slope == NULL:
        for j in range(n):
            x[j] = cap * tanh(<real>(x[j] * inverse))
    else:
        for j in range(n):
            t = tanh(<real>(x[j] * inverse))
            x[j] = cap * t
            slope[j] = (1 - t) * (1 + t)


cdef inline void row_multiply(real* x, const real* y, npy_intp n) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        x[j] *= y[j]


cdef inline void row_bias(real* x, const char* bias, npy_intp step, npy_intp n) noexcept nogil:
    """Add a bias whose elements are `step` bytes apart."""
    cdef npy_intp j
    cdef real value
    if step == sizeof(real):
        for j in range(n):
            x[j] += (<const real*>bias)[j]
    elif step == 0:
        value = (<const real*>bias)[0]
        for j in range(n):
            x[j] += value
    else:
        for j in range(n):
            x[j] += (<const real*>(bias + j * step))[0]


cdef inline void row_bias_gradient(const real* d, real* out, npy_intp step, npy_intp n) noexcept nogil:
    """Add a row to the gradient of a bias, whose elements are `step` elements apart."""
    cdef npy_intp j
    cdef real total = 0
    if step == 0:
        for j in range(n):
            total += d[j]
        out[0] += total
    else:
        for j in range(n):
            out[j] += d[j]


cdef inline void row_slope(real* x, real slope, npy_intp distance, npy_intp n) noexcept nogil:
    """Subtract slope * abs(distance - j), ALiBi's penalty."""
    cdef npy_intp j
    cdef int away
    cdef int start = <int>distance
    for j in range(n):
        away = start - <int>j
        x[j] -= slope * <real>(away if away > 0 else -away)


cdef inline double row_slope_gradient(const real* d, npy_intp distance, npy_intp n) noexcept nogil:
    """The sum of d * abs(distance - j)."""
    cdef double sums[LANES]
    cdef double total = 0
    cdef npy_intp j, lane, away
    for lane in range(LANES):
        sums[lane] = 0
    for j in range(n):
        away = distance - j
        sums[j & (LANES - 1)] += d[j] * <double>(away if away > 0 else -away)
    for lane in range(LANES):
        total += sums[lane]
    return total


cdef inline void row_mask(real* x, const char* mask, npy_intp step, npy_intp n) noexcept nogil:
    """-inf where the mask, whose elements are `step` bytes apart, is False."""
    cdef npy_intp j
    cdef const npy_uint8* bits = <const npy_uint8*>mask
    cdef real value
    if step == 1:
        for j in range(n):
            value = x[j]
            x[j] = value if bits[j] else -INFINITY
    else:
        for j in range(n):
            value = x[j]
            x[j] = value if bits[j * step] else -INFINITY


cdef inline void row_outside(real* x, npy_intp start, npy_intp stop, npy_intp n) noexcept nogil:
    """-inf before `start` and from `stop` on."""
    cdef npy_intp j
    for j in range(start):
        x[j] = -INFINITY
    for j in range(stop, n):
        x[j] = -INFINITY


cdef inline void copy_rows(
    const real* x, npy_intp ldx, npy_intp rows, npy_intp columns, real* out, npy_intp ldo,
) noexcept nogil:
    cdef npy_intp r
    for r in range(rows):
        memcpy(out + r * ldo, x + r * ldx, columns * sizeof(real))


cdef inline const real* packed(
    const real* x, npy_intp ld, npy_intp rows, npy_intp columns, real* room,
) noexcept nogil:
    """The rows without gaps between them, which products are faster with: in `room`, if there are gaps."""
    if ld == columns:
        return x
    copy_rows(x, ld, rows, columns, room, columns)
    return room


cdef inline void transpose(
    const real* x, npy_intp ldx, npy_intp rows, npy_intp columns, real* out, npy_intp ldo,
) noexcept nogil:
    """out[c, r] = x[r, c], of eight rows at a time: what is gathered from them is one vector to store."""
    cdef real gathered[8]
    cdef npy_intp row = 0, c, k
    while row + 8 <= rows:
        for c in range(columns):
            for k in range(8):
                gathered[k] = x[k * ldx + c]
            for k in range(8):
                out[c * ldo + k] = gathered[k]
        x += 8 * ldx
        out += 8
        row += 8
    for k in range(rows - row):
        for c in range(columns):
            out[c * ldo + k] = x[k * ldx + c]

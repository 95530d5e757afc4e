"""Sums over a row of numbers around its mean, in LANES lanes: what the normalizations are made of."""
from numpy cimport npy_intp

from minigrad._core.loops.plain cimport real

cdef enum:
    LANES = 32
    CHUNK = 4096  # elements that are summed without double precision


cdef inline real fold(const real* lane, const real* rest, npy_intp n) noexcept nogil:
    """The sum of the lanes, by halves; those of a row of fewer elements are all zero."""
    cdef real half[16]
    cdef int k
    if n < LANES:
        return (rest[0] + rest[1]) + (rest[2] + rest[3])
    for k in range(16):
        half[k] = lane[k] + lane[k + 16]
    for k in range(8):
        half[k] += half[k + 8]
    for k in range(4):
        half[k] += half[k + 4] + rest[k]
    return (half[0] + half[1]) + (half[2] + half[3])


cdef inline void clear(real* lane, real* rest) noexcept nogil:
    cdef int k
    for k in range(LANES):
        lane[k] = 0
    for k in range(4):
        rest[k] = 0


cdef inline real add(const real* x, npy_intp n) noexcept nogil:
    """The sum of x."""
    cdef real lane[LANES]
    cdef real rest[4]  # of its own: a loop of unknown length would keep the lanes out of registers
    cdef npy_intp j = 0, k
    clear(lane, rest)
    while j + LANES <= n:
        for k in range(LANES):
            lane[k] += x[j + k]
        j += LANES
    while j + 4 <= n:
        for k in range(4):
            rest[k] += x[j + k]
        j += 4
    while j < n:
        rest[0] += x[j]
        j += 1
    return fold(lane, rest, n)


cdef inline real add_squares(const real* x, real mean, npy_intp n) noexcept nogil:
    """The sum of (x - mean)^2."""
    cdef real lane[LANES]
    cdef real rest[4]
    cdef npy_intp j = 0, k
    clear(lane, rest)
    while j + LANES <= n:
        for k in range(LANES):
            lane[k] += (x[j + k] - mean) * (x[j + k] - mean)
        j += LANES
    while j + 4 <= n:
        for k in range(4):
            rest[k] += (x[j + k] - mean) * (x[j + k] - mean)
        j += 4
    while j < n:
        rest[0] += (x[j] - mean) * (x[j] - mean)
        j += 1
    return fold(lane, rest, n)


cdef inline void add_products(
    const real* g, const real* x, real mean, npy_intp n, real* shift, real* slope,
) noexcept nogil:
    """The sums of g and of g (x - mean)."""
    cdef real first[LANES]
    cdef real second[LANES]
    cdef real rest1[4]
    cdef real rest2[4]
    cdef npy_intp j = 0, k
    clear(first, rest1)
    clear(second, rest2)
    while j + LANES <= n:
        for k in range(LANES):
            first[k] += g[j + k]
            second[k] += g[j + k] * (x[j + k] - mean)
        j += LANES
    while j + 4 <= n:
        for k in range(4):
            rest1[k] += g[j + k]
            rest2[k] += g[j + k] * (x[j + k] - mean)
        j += 4
    while j < n:
        rest1[0] += g[j]
        rest2[0] += g[j] * (x[j] - mean)
        j += 1
    shift[0] = fold(first, rest1, n)
    slope[0] = fold(second, rest2, n)


cdef inline void add_weighted(
    const real* g, const real* x, const real* w, real mean, npy_intp n, real* shift, real* slope, real* squares,
) noexcept nogil:
    """The sums of g w, of g w (x - mean) and of (x - mean)^2."""
    cdef real first[LANES]
    cdef real second[LANES]
    cdef real third[LANES]
    cdef real rest1[4]
    cdef real rest2[4]
    cdef real rest3[4]
    cdef npy_intp j = 0, k
    clear(first, rest1)
    clear(second, rest2)
    clear(third, rest3)
    while j + LANES <= n:
        for k in range(LANES):
            first[k] += g[j + k] * w[j + k]
            second[k] += g[j + k] * w[j + k] * (x[j + k] - mean)
            third[k] += (x[j + k] - mean) * (x[j + k] - mean)
        j += LANES
    while j + 4 <= n:
        for k in range(4):
            rest1[k] += g[j + k] * w[j + k]
            rest2[k] += g[j + k] * w[j + k] * (x[j + k] - mean)
            rest3[k] += (x[j + k] - mean) * (x[j + k] - mean)
        j += 4
    while j < n:
        rest1[0] += g[j] * w[j]
        rest2[0] += g[j] * w[j] * (x[j] - mean)
        rest3[0] += (x[j] - mean) * (x[j] - mean)
        j += 1
    shift[0] = fold(first, rest1, n)
    slope[0] = fold(second, rest2, n)
    squares[0] = fold(third, rest3, n)

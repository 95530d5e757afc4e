"""Products of a matrix and a vector, which read the matrix once, where it lies."""
from cython.parallel cimport prange
from numpy cimport npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport pieces, real

cdef enum:
    SLAB = 2_048            # numbers of the result, at most, that one thread computes at a time, in its cache;
    ALIGN = 64              # they begin at multiples of this, so that the same ones fill vectors for any threads
    LANES = 16              # of a sum

cdef struct Side:
    npy_intp k, n, ld       # the vector (k,), the result (n,), and the elements between rows of the matrix
    bint across             # whether the matrix is (k, n): its rows, each times a number, add up; else it is (n, k)
    const void* bias        # what the result starts from, or NULL,
    npy_intp bias_step      # one number for all of it (0) or one for each (1)
    bint adds, relu         # to what is in the result; of the result


cdef inline void dot4(const real* x, npy_intp ld, const real* v, npy_intp n, real* out) noexcept nogil:
    """Add the products of four rows and a vector to four numbers; they share what is read of the vector."""
    cdef real[LANES] a, b, c, d
    cdef npy_intp j = 0, k
    for k in range(LANES):
        a[k] = b[k] = c[k] = d[k] = 0
    while j + LANES <= n:
        for k in range(LANES):
            a[k] += x[j + k] * v[j + k]
            b[k] += x[ld + j + k] * v[j + k]
            c[k] += x[2 * ld + j + k] * v[j + k]
            d[k] += x[3 * ld + j + k] * v[j + k]
        j += LANES
    out[0] += fold(a) + rest(x + j, v + j, n - j)
    out[1] += fold(b) + rest(x + ld + j, v + j, n - j)
    out[2] += fold(c) + rest(x + 2 * ld + j, v + j, n - j)
    out[3] += fold(d) + rest(x + 3 * ld + j, v + j, n - j)


cdef inline real dot(const real* x, const real* v, npy_intp n) noexcept nogil:
    """The product of a row and a vector, summed in the order of `dot4`."""
    cdef real[LANES] a
    cdef npy_intp j = 0, k
    for k in range(LANES):
        a[k] = 0
    while j + LANES <= n:
        for k in range(LANES):
            a[k] += x[j + k] * v[j + k]
        j += LANES
    return fold(a) + rest(x + j, v + j, n - j)


cdef inline real fold(real* lane) noexcept nogil:
    """The sum of the lanes, by halves."""
    cdef int k
    for k in range(8):
        lane[k] += lane[k + 8]
    for k in range(4):
        lane[k] += lane[k + 4]
    return (lane[0] + lane[1]) + (lane[2] + lane[3])


cdef inline real rest(const real* x, const real* v, npy_intp n) noexcept nogil:
    """What is left of a row, fewer numbers than lanes."""
    cdef real total = 0
    cdef npy_intp j
    for j in range(n):
        total += x[j] * v[j]
    return total


cdef inline void add_dots(
    const real* v, npy_intp k, const real* matrix, npy_intp ld, npy_intp n, real* out,
) noexcept nogil:
    """out (n,) += matrix (n, k) @ v."""
    cdef npy_intp j
    for j in range(0, n - n % 4, 4):
        dot4(matrix + j * ld, ld, v, k, out + j)
    for j in range(n - n % 4, n):
        out[j] += dot(matrix + j * ld, v, k)


cdef inline void add_rows(
    const real* v, npy_intp k, const real* matrix, npy_intp ld, npy_intp n, real* out,
) noexcept nogil:
    """out (n,) += v @ matrix (k, n), of which eight rows at a time are read, so that `out` is read less often."""
    cdef npy_intp i = 0, j
    cdef const real* x
    while i + 8 <= k:
        x = matrix + i * ld
        for j in range(n):
            out[j] += (
                ((v[i] * x[j] + v[i + 1] * x[ld + j]) + (v[i + 2] * x[2 * ld + j] + v[i + 3] * x[3 * ld + j]))
                + ((v[i + 4] * x[4 * ld + j] + v[i + 5] * x[5 * ld + j])
                    + (v[i + 6] * x[6 * ld + j] + v[i + 7] * x[7 * ld + j]))
            )
        i += 8
    while i < k:
        x = matrix + i * ld
        for j in range(n):
            out[j] += v[i] * x[j]
        i += 1


cdef inline void slab(
    npy_intp start, npy_intp wide, const Side* s, const real* v, const real* matrix, real* out,
) noexcept nogil:
    """Compute one slab of the result."""
    cdef npy_intp n = min(wide, s.n - start), j
    cdef const real* bias = <const real*>s.bias
    out += start
    if not s.adds:
        for j in range(n):
            out[j] = 0
    if bias != NULL:
        for j in range(n):
            out[j] += bias[(start + j) * s.bias_step]
    if s.across:
        add_rows(v, s.k, matrix + start, s.ld, n, out)
    else:
        add_dots(v, s.k, matrix + start * s.ld, s.ld, n, out)
    if s.relu:
        for j in range(n):
            out[j] = 0 if out[j] <= 0 else out[j]


cdef inline void multiply_vector(const Side* s, const real* v, const real* matrix, real* out) noexcept nogil:
    """The product; its bits do not depend on the threads."""
    cdef int threads = threads_for(s.n * s.k // 8)    # they are multiplied as fast as they are read
    cdef npy_intp wide = min(SLAB, pieces(pieces(s.n, threads), ALIGN) * ALIGN), slabs = pieces(s.n, wide), i
    if threads == 1 or slabs == 1:
        for i in range(slabs):
            slab(i * wide, wide, s, v, matrix, out)
    else:
        for i in prange(slabs, num_threads=threads, schedule="static"):
            slab(i * wide, wide, s, v, matrix, out)

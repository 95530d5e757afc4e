"""Sums of columns, of all elements or of those that relu lets through: the gradient of a bias."""
from cython.parallel cimport prange
from numpy cimport npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport real

cdef enum:
    ROWS = 128              # of a block
    COLUMNS = 1_024


cdef inline npy_intp blocks_across(npy_intp n) noexcept nogil:
    return (n + COLUMNS - 1) // COLUMNS


cdef inline npy_intp blocks_down(npy_intp rows) noexcept nogil:
    return (rows + ROWS - 1) // ROWS


cdef inline real passed(const real* g, const real* y, npy_intp i) noexcept nogil:
    """An element of `g`; where `y`, a result of relu, is given and not positive, 0."""
    cdef real value = g[i]
    return value if y == NULL or y[i] > 0 else 0


cdef inline void sum_rows(
    const real* g, const real* y, npy_intp rows, npy_intp ld, npy_intp n, real* out,
) noexcept nogil:
    """Sum `n` columns over `rows` rows, four at a time, so that `out` is read and written a quarter as often."""
    cdef npy_intp i = 0, j, end = rows * ld
    for j in range(n):
        out[j] = 0
    while i + 4 * ld <= end:
        for j in range(i, i + n):
            out[j - i] += passed(g, y, j) + passed(g, y, j + ld) + (passed(g, y, j + 2 * ld) + passed(g, y, j + 3 * ld))
        i += 4 * ld
    while i < end:
        for j in range(i, i + n):
            out[j - i] += passed(g, y, j)
        i += ld


cdef inline void sum_block(
    npy_intp index, const real* g, const real* y, npy_intp rows, npy_intp n, real* out,
) noexcept nogil:
    """Sum one block of rows and columns; block k of rows writes row k of `out`."""
    cdef npy_intp across = blocks_across(n), row = index // across * ROWS, column = index % across * COLUMNS
    cdef npy_intp high = min(ROWS, rows - row), wide = min(COLUMNS, n - column), at = row * n + column
    out += index // across * n + column
    if y == NULL:
        sum_rows(g + at, <const real*>NULL, high, n, wide, out)
    else:
        sum_rows(g + at, y + at, high, n, wide, out)


cdef inline void sum_blocks(const real* g, const real* y, npy_intp rows, npy_intp n, real* out) noexcept nogil:
    cdef npy_intp i, blocks = blocks_down(rows) * blocks_across(n)
    cdef int threads = threads_for(rows * n)
    if threads == 1 or blocks == 1:
        for i in range(blocks):
            sum_block(i, g, y, rows, n, out)
    else:
        for i in prange(blocks, num_threads=threads, schedule="static"):
            sum_block(i, g, y, rows, n, out)

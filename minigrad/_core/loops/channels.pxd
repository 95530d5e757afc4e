"""An array as (outer, channels, inner): sums for each channel, and results that are affine for each channel.

The array is cut into parts that stay in the cache: where `inner` is large, pieces of one channel, else blocks of whole
rows, summed column by column. A part gives its mean, the squares of the deviations from it, and of a cotangent g the
sums of g and of g (x - that mean). So the statistics cost one pass over memory, and so do they with both sums of the
backward. Parts are merged in their order, in double precision (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", 1979).
"""
from cython.parallel cimport prange
from libc.string cimport memset
from numpy cimport PyArray_DIMS, PyArray_NDIM, ndarray, npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.moments cimport CHUNK, LANES, add, add_products, add_squares
from minigrad._core.loops.plain cimport real

cdef enum:
    NARROW = 32     # fewer elements of a channel side by side are columns of a row
    BLOCK = 8192    # elements of a block of rows, within these bounds:
    FEWEST = 32
    MOST = 64

cdef enum Row:      # of a table with a column for each channel
    MEAN
    SQUARES         # of the deviations from the mean, summed
    SHIFT           # the sum of g
    SLOPE           # the sum of g (x - mean)
    VAR
    WEIGHT
    BIAS
    MEAN_GRAD
    VAR_GRAD
    RESULT          # four rows: MEAN, and what g, x - mean and 1 are multiplied by
    ROWS = 13

cdef struct Task:
    npy_intp outer
    npy_intp channels
    npy_intp inner
    bint columns
    npy_intp length     # rows of a block, or elements of a piece
    npy_intp blocks     # the parts are (blocks, channels, pieces)
    npy_intp pieces
    bint given          # the mean
    bint has_x          # the result is affine in x
    bint has_g          # and in g


cdef inline Task cut(ndarray x, int axis):
    cdef Task task
    cdef int k
    task.outer, task.inner, task.channels = 1, 1, PyArray_DIMS(x)[axis]
    for k in range(axis):
        task.outer *= PyArray_DIMS(x)[k]
    for k in range(axis + 1, PyArray_NDIM(x)):
        task.inner *= PyArray_DIMS(x)[k]
    task.columns = task.inner < NARROW
    if task.columns:
        task.length = min(max(BLOCK // (task.channels * task.inner), FEWEST), MOST)
        task.blocks, task.pieces = (task.outer + task.length - 1) // task.length, task.inner
    else:
        task.length = CHUNK
        task.blocks, task.pieces = task.outer, (task.inner + task.length - 1) // task.length
    task.given, task.has_x, task.has_g = False, True, False
    return task


# ---- sums ------------------------------------------------------------------------------------------------------------

cdef inline void sum_piece(
    npy_intp i, const Task* task, const real* g, const real* x, const double* mean, real* parts, npy_intp size,
) noexcept nogil:
    cdef npy_intp start = i // task.pieces * task.inner + i % task.pieces * task.length
    cdef npy_intp n = min(task.length, task.inner - i % task.pieces * task.length)
    x += start
    parts += i
    if task.given:
        parts[0] = <real>mean[i // task.pieces % task.channels]
        parts[size] = 0
    else:
        parts[0] = add(x, n) / n
        parts[size] = add_squares(x, parts[0], n)
    if g != NULL:
        add_products(g + start, x, parts[0], n, parts + 2 * size, parts + 3 * size)


cdef inline void sum_squares(
    const real* x, const real* center, real* squares, npy_intp rows, npy_intp width,
) noexcept nogil:
    """For each column the sum of (x - center)^2, LANES columns at a time: their sums stay in registers."""
    cdef real middle[LANES]
    cdef real lane[LANES]
    cdef npy_intp i, j = 0, k
    while j + LANES <= width:
        for k in range(LANES):
            middle[k] = center[j + k]
            lane[k] = 0
        for i in range(rows):
            for k in range(LANES):
                lane[k] += (x[i * width + j + k] - middle[k]) * (x[i * width + j + k] - middle[k])
        for k in range(LANES):
            squares[j + k] = lane[k]
        j += LANES
    for i in range(rows):
        for k in range(j, width):
            squares[k] += (x[i * width + k] - center[k]) * (x[i * width + k] - center[k])


cdef inline void sum_products(
    const real* g, const real* x, const real* center, real* shift, real* slope, npy_intp rows, npy_intp width,
) noexcept nogil:
    """The same for the sums of g and of g (x - center)."""
    cdef real middle[LANES]
    cdef real first[LANES]
    cdef real second[LANES]
    cdef npy_intp i, j = 0, k
    while j + LANES <= width:
        for k in range(LANES):
            middle[k] = center[j + k]
            first[k] = 0
            second[k] = 0
        for i in range(rows):
            for k in range(LANES):
                first[k] += g[i * width + j + k]
                second[k] += g[i * width + j + k] * (x[i * width + j + k] - middle[k])
        for k in range(LANES):
            shift[j + k] = first[k]
            slope[j + k] = second[k]
        j += LANES
    memset(shift + j, 0, (width - j) * sizeof(real))
    memset(slope + j, 0, (width - j) * sizeof(real))
    for i in range(rows):
        for k in range(j, width):
            shift[k] += g[i * width + k]
            slope[k] += g[i * width + k] * (x[i * width + k] - center[k])


cdef inline void sum_block(
    npy_intp block, const Task* task, const real* g, const real* x, const double* mean, real* parts, npy_intp size,
) noexcept nogil:
    cdef npy_intp i, j, width = task.channels * task.inner, first = block * task.length
    cdef npy_intp rows = min(task.length, task.outer - first)
    cdef real* center = parts + block * width
    cdef real* squares = center + size
    x += first * width
    memset(center, 0, width * sizeof(real))
    memset(squares, 0, width * sizeof(real))
    if task.given:
        for j in range(width):
            center[j] = <real>mean[j // task.inner]
    else:
        for i in range(rows):
            for j in range(width):
                center[j] += x[i * width + j]
        for j in range(width):
            center[j] /= rows
        sum_squares(x, center, squares, rows, width)
    if g != NULL:
        sum_products(g + first * width, x, center, center + 2 * size, center + 3 * size, rows, width)


cdef inline void sum_part(
    npy_intp i, const Task* task, const real* g, const real* x, const double* mean, real* parts, npy_intp size,
) noexcept nogil:
    if task.columns:
        sum_block(i, task, g, x, mean, parts, size)
    else:
        sum_piece(i, task, g, x, mean, parts, size)


cdef inline npy_intp count(const Task* task, npy_intp block, npy_intp piece) noexcept nogil:
    """The number of elements of a part."""
    if task.columns:
        return min(task.length, task.outer - block * task.length)
    return min(task.length, task.inner - piece * task.length)


cdef inline void merge(const Task* task, const real* parts, npy_intp size, bint has_g, double* table) noexcept nogil:
    cdef npy_intp b, c, p, n, i, channels = task.channels, total = task.outer * task.inner
    cdef double* mean = table + MEAN * channels
    cdef double* squares = table + SQUARES * channels
    cdef double* shift = table + SHIFT * channels
    cdef double* slope = table + SLOPE * channels
    cdef double gap
    if not task.given:
        for b in range(task.blocks):
            for c in range(channels):
                for p in range(task.pieces):
                    mean[c] += <double>parts[(b * channels + c) * task.pieces + p] * count(task, b, p)
        for c in range(channels):
            mean[c] /= total
    for b in range(task.blocks):
        for c in range(channels):
            for p in range(task.pieces):
                i = (b * channels + c) * task.pieces + p
                n = count(task, b, p)
                gap = 0.0 if task.given else parts[i] - mean[c]
                squares[c] += parts[size + i] + gap * gap * n
                if has_g:
                    shift[c] += parts[2 * size + i]
                    slope[c] += parts[3 * size + i] + gap * parts[2 * size + i]
    if not task.given:
        for c in range(channels):
            table[VAR * channels + c] = squares[c] / total


cdef inline void sum_all(const Task* task, const real* g, const real* x, double* table, real* parts) noexcept nogil:
    """Fill the rows MEAN and SQUARES of the table, unless they are given, and with a cotangent SHIFT and SLOPE."""
    cdef npy_intp i, size = task.blocks * task.channels * task.pieces
    cdef int threads = threads_for(task.outer * task.channels * task.inner)
    if threads == 1:  # even a region that is not parallel costs about 1 us
        for i in range(task.blocks if task.columns else size):
            sum_part(i, task, g, x, table, parts, size)
    else:
        for i in prange(task.blocks if task.columns else size, num_threads=threads, schedule="static"):
            sum_part(i, task, g, x, table, parts, size)
    merge(task, parts, size, g != NULL, table)


# ---- results ---------------------------------------------------------------------------------------------------------

cdef inline void write_piece(
    npy_intp i, const Task* task, const real* g, const real* x, const double* table, real* out,
) noexcept nogil:
    cdef npy_intp c = i // task.pieces % task.channels, channels = task.channels, j
    cdef npy_intp start = i // task.pieces * task.inner + i % task.pieces * task.length
    cdef npy_intp end = start + min(task.length, task.inner - i % task.pieces * task.length)
    cdef real mean = <real>table[RESULT * channels + c]
    cdef real by_g = <real>table[(RESULT + 1) * channels + c]
    cdef real by_x = <real>table[(RESULT + 2) * channels + c]
    cdef real plus = <real>table[(RESULT + 3) * channels + c]
    if not task.has_g:
        for j in range(start, end):
            out[j] = (x[j] - mean) * by_x + plus
    elif not task.has_x:
        for j in range(start, end):
            out[j] = g[j] * by_g
    else:
        for j in range(start, end):
            out[j] = g[j] * by_g + ((x[j] - mean) * by_x + plus)


cdef inline void write_block(
    npy_intp block, const Task* task, const real* g, const real* x, const real* spread, real* out,
) noexcept nogil:
    cdef npy_intp row, i, j, width = task.channels * task.inner, first = block * task.length
    cdef const real* mean = spread
    cdef const real* by_g = mean + width
    cdef const real* by_x = by_g + width
    cdef const real* plus = by_x + width
    for row in range(first, min(first + task.length, task.outer)):
        i = row * width
        if not task.has_g:
            for j in range(width):
                out[i + j] = (x[i + j] - mean[j]) * by_x[j] + plus[j]
        elif not task.has_x:
            for j in range(width):
                out[i + j] = g[i + j] * by_g[j]
        else:
            for j in range(width):
                out[i + j] = g[i + j] * by_g[j] + ((x[i + j] - mean[j]) * by_x[j] + plus[j])


cdef inline void write_part(
    npy_intp i, const Task* task, const real* g, const real* x, const double* table, const real* spread, real* out,
) noexcept nogil:
    if task.columns:
        write_block(i, task, g, x, spread, out)
    else:
        write_piece(i, task, g, x, table, out)


cdef inline void write_all(
    const Task* task, const real* g, const real* x, const double* table, real* spread, real* out,
) noexcept nogil:
    """Write ``g * by_g + (x - mean) * by_x + plus``, the factors taken from the table; `spread` is for 4 rows."""
    cdef npy_intp i, k, width = task.channels * task.inner
    cdef npy_intp units = task.blocks if task.columns else task.blocks * task.channels * task.pieces
    cdef int threads = threads_for(task.outer * width)
    if task.columns:
        for k in range(4):
            for i in range(width):
                spread[k * width + i] = <real>table[(RESULT + k) * task.channels + i // task.inner]
    if threads == 1:
        for i in range(units):
            write_part(i, task, g, x, table, spread, out)
    else:
        for i in prange(units, num_threads=threads, schedule="static"):
            write_part(i, task, g, x, table, spread, out)

"""Arrays as rows of numbers, and reductions of a row in an order that depends on nothing but its length."""
from libc.math cimport INFINITY
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_GETCONTIGUOUS, PyArray_IS_C_CONTIGUOUS, PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE,
    PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp,
)

from minigrad._core.loops.math cimport exp_not_positive
from minigrad._core.loops.plain cimport real

cdef enum:
    LANES = 32       # results that grow side by side, since each step waits for the one before
    COPIED = 10_000  # elements up to which a copy costs less than the steps of the generic body, whatever the strides
    BLOCK = 1024     # elements summed in their own precision, before the sums are added up in double


cdef inline ndarray in_order(object x):
    """`x` in C order, a copy where that is cheap; None where it is not, or `x` is no array of float32 or float64."""
    cdef int kind, last
    if type(x) is not ndarray or not PyArray_ISNOTSWAPPED(<ndarray>x):
        return None
    kind, last = PyArray_TYPE(<ndarray>x), PyArray_NDIM(<ndarray>x) - 1
    if kind != NPY_FLOAT and kind != NPY_DOUBLE:
        return None
    if not PyArray_IS_C_CONTIGUOUS(<ndarray>x) and PyArray_SIZE(<ndarray>x) > COPIED:
        if PyArray_STRIDES(<ndarray>x)[last] != 0 and PyArray_STRIDES(<ndarray>x)[last] != PyArray_ITEMSIZE(<ndarray>x):
            return None
    return PyArray_GETCONTIGUOUS(<ndarray>x)


cdef inline real row_largest(const real* x, npy_intp n) noexcept nogil:
    """The maximum but for NaN."""
    cdef real lanes[LANES]
    cdef real top = -INFINITY
    cdef npy_intp j = 0, k
    if n < LANES:
        for j in range(n):
            top = x[j] if x[j] > top else top
        return top
    for k in range(LANES):
        lanes[k] = -INFINITY
    while j + LANES <= n:
        for k in range(LANES):
            lanes[k] = x[j + k] if x[j + k] > lanes[k] else lanes[k]
        j += LANES
    for k in range(n - j):
        lanes[k] = x[j + k] if x[j + k] > lanes[k] else lanes[k]
    for k in range(16):
        lanes[k] = lanes[k] if lanes[k] > lanes[k + 16] else lanes[k + 16]
    for k in range(8):
        lanes[k] = lanes[k] if lanes[k] > lanes[k + 8] else lanes[k + 8]
    for k in range(4):
        lanes[k] = lanes[k] if lanes[k] > lanes[k + 4] else lanes[k + 4]
    lanes[0] = lanes[0] if lanes[0] > lanes[1] else lanes[1]
    lanes[2] = lanes[2] if lanes[2] > lanes[3] else lanes[3]
    return lanes[0] if lanes[0] > lanes[2] else lanes[2]


cdef inline double fold(real* lanes) noexcept nogil:
    """The sum of the lanes, by halves."""
    cdef npy_intp k
    for k in range(16):
        lanes[k] += lanes[k + 16]
    for k in range(8):
        lanes[k] += lanes[k + 8]
    for k in range(4):
        lanes[k] += lanes[k + 4]
    return (<double>lanes[0] + lanes[1]) + (<double>lanes[2] + lanes[3])


cdef inline double block_sum(const real* x, npy_intp n) noexcept nogil:
    """The sum of at most BLOCK elements."""
    cdef real lanes[LANES]
    cdef real total = 0
    cdef npy_intp j = 0, k
    if n < LANES:
        for j in range(n):
            total += x[j]
        return total
    for k in range(LANES):
        lanes[k] = 0
    while j + LANES <= n:
        for k in range(LANES):
            lanes[k] += x[j + k]
        j += LANES
    for k in range(n - j):
        lanes[k] += x[j + k]
    return fold(lanes)


cdef inline double block_dot(const real* x, const real* y, npy_intp n) noexcept nogil:
    """The sum of the products of at most BLOCK elements."""
    cdef real lanes[LANES]
    cdef real total = 0
    cdef npy_intp j = 0, k
    if n < LANES:
        for j in range(n):
            total += x[j] * y[j]
        return total
    for k in range(LANES):
        lanes[k] = 0
    while j + LANES <= n:
        for k in range(LANES):
            lanes[k] += x[j + k] * y[j + k]
        j += LANES
    for k in range(n - j):
        lanes[k] += x[j + k] * y[j + k]
    return fold(lanes)


cdef inline double row_sum(const real* x, npy_intp n) noexcept nogil:
    """The sum of the elements."""
    cdef double total = 0.0
    cdef npy_intp j = 0
    while j < n:
        total += block_sum(x + j, min(n - j, BLOCK))
        j += BLOCK
    return total


cdef inline double row_dot(const real* x, const real* y, npy_intp n) noexcept nogil:
    """The sum of the products of the elements."""
    cdef double total = 0.0
    cdef npy_intp j = 0
    while j < n:
        total += block_dot(x + j, y + j, min(n - j, BLOCK))
        j += BLOCK
    return total


cdef inline double exponentials(const real* x, real top, real* out, npy_intp n) noexcept nogil:
    """Write exp(x - top) and return the sum; `top` is at least as large as every element."""
    cdef double total = 0.0
    cdef npy_intp j = 0, k, size
    while j < n:
        size = min(n - j, BLOCK)
        for k in range(j, j + size):
            out[k] = exp_not_positive(<real>(x[k] - top))
        total += block_sum(out + j, size)
        j += BLOCK
    return total


cdef inline double sum_exponentials(const real* x, real top, npy_intp n) noexcept nogil:
    """The sum of exp(x - top)."""
    cdef real block[BLOCK]
    cdef double total = 0.0
    cdef npy_intp j = 0
    while j < n:
        total += exponentials(x + j, top, block, min(n - j, BLOCK))
        j += BLOCK
    return total

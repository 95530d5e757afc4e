"""Products of dense rows with a sparse matrix: what a pruned fully connected layer computes.

The matrix lies by its outputs: for each the inputs that it has a weight for, and these weights. Rows of the batch are
taken 32 at a time and transposed, so that a weight is multiplied with a vector of them; one or two rows are taken by
themselves. A number of the result is summed by one thread, in an order that neither the number of threads nor the row's
place in the batch changes.
"""
from cython.parallel cimport prange
from libc.stdint cimport INT32_MAX
from libc.stdlib cimport free, malloc
from numpy cimport (
    NPY_FLOAT, NPY_INT32, PyArray_DATA, PyArray_DIM, PyArray_EMPTY, PyArray_NDIM, import_array, ndarray, npy_int32,
    npy_intp, npy_uint32,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport is_plain, pieces

import_array()

cdef enum:
    ROWS = 32   # of a panel: their sums stay in registers
    FEW = 2     # rows that are taken one by one
    LINE = 16   # elements
    UNITS = 32  # outputs that one thread takes at a time

ctypedef struct Sparse:
    const float* x          # (batch, features)
    const float* values
    const npy_int32* columns
    const npy_int32* ends   # (units + 1,): where the weights of each output begin
    const float* bias       # (units,), or NULL
    float* out              # (batch, units)
    float* panels           # (panels, features, ROWS), or NULL
    npy_intp batch
    npy_intp features
    npy_intp units
    npy_intp count          # panels


cdef inline bint is_vector(object x, int kind):
    return is_plain(x, kind) and PyArray_NDIM(<ndarray>x) == 1


cdef void turn(npy_intp panel, const Sparse* p) noexcept nogil:
    """Transpose the rows of a panel, a line of the cache of each at a time; those beyond the batch are 0."""
    cdef npy_intp i, j, start = 0, stop, first = panel * ROWS, high = min(ROWS, p.batch - panel * ROWS)
    cdef float* target = p.panels + first * p.features
    cdef const float* source = p.x + first * p.features
    while start < p.features:
        stop = min(start + LINE, p.features)
        for j in range(high):
            for i in range(start, stop):
                target[i * ROWS + j] = source[j * p.features + i]
        for j in range(high, ROWS):
            for i in range(start, stop):
                target[i * ROWS + j] = 0
        start = stop


cdef void multiply(npy_intp panel, npy_intp start, npy_intp stop, const Sparse* p) noexcept nogil:
    """Some outputs of a panel; weights go in pairs, so that one sum need not wait for the other."""
    cdef npy_intp o, k, last, j, first = panel * ROWS, high = min(ROWS, p.batch - panel * ROWS)
    cdef const float* source = p.panels + first * p.features
    cdef const float* row
    cdef const float* other
    cdef float v, w, bias
    cdef float sums[ROWS]
    cdef float more[ROWS]
    for o in range(start, stop):
        bias = 0 if p.bias == NULL else p.bias[o]
        for j in range(ROWS):
            sums[j] = bias
            more[j] = 0
        k, last = p.ends[o], p.ends[o + 1]
        while k + 1 < last:
            v, w = p.values[k], p.values[k + 1]
            row, other = source + p.columns[k] * ROWS, source + p.columns[k + 1] * ROWS
            for j in range(ROWS):
                sums[j] += v * row[j]
            for j in range(ROWS):
                more[j] += w * other[j]
            k += 2
        if k < last:
            v, row = p.values[k], source + p.columns[k] * ROWS
            for j in range(ROWS):
                sums[j] += v * row[j]
        for j in range(high):
            p.out[(first + j) * p.units + o] = sums[j] + more[j]


cdef void rows(npy_intp start, npy_intp stop, const Sparse* p) noexcept nogil:
    """Some outputs of all rows, one row after the other; four sums, so that none waits for the one before."""
    cdef npy_intp b, o, k, last
    cdef const float* x
    cdef const float* v = p.values
    cdef const npy_int32* c = p.columns
    cdef float first, second, third, fourth
    for b in range(p.batch):
        x = p.x + b * p.features
        for o in range(start, stop):
            first = 0 if p.bias == NULL else p.bias[o]
            second = third = fourth = 0
            k, last = p.ends[o], p.ends[o + 1]
            while k + 4 <= last:
                first += v[k] * x[c[k]]
                second += v[k + 1] * x[c[k + 1]]
                third += v[k + 2] * x[c[k + 2]]
                fourth += v[k + 3] * x[c[k + 3]]
                k += 4
            while k < last:
                first += v[k] * x[c[k]]
                k += 1
            p.out[b * p.units + o] = (first + second) + (third + fourth)


cdef void run(const Sparse* p, npy_intp weights) noexcept nogil:
    cdef npy_intp i, parts = pieces(p.units, UNITS)
    cdef int threads = threads_for(weights * p.batch // 4)
    if p.panels == NULL:
        for i in prange(parts, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
            rows(i * UNITS, min((i + 1) * UNITS, p.units), p)
        return
    for i in prange(p.count, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        turn(i, p)
    for i in prange(p.count * parts, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
        multiply(i // parts, (i % parts) * UNITS, min((i % parts + 1) * UNITS, p.units), p)


cdef bint is_whole(const Sparse* p, npy_intp weights) noexcept nogil:
    """Whether every weight has its place in the matrix; asked each time, since buffers may be written to."""
    cdef npy_intp i
    cdef bint wrong = p.ends[0] != 0 or p.ends[p.units] != weights
    for i in range(p.units):
        wrong |= p.ends[i + 1] < p.ends[i]
    for i in range(weights):
        wrong |= <npy_uint32>p.columns[i] >= <npy_uint32>p.features
    return not wrong


def linear(x, values, columns, ends, bias):
    """``x @ weight + bias`` of float32 rows (batch, features), or NotImplemented where it takes other arrays.

    Parameters
    ----------
    x : numpy.ndarray
        (batch, features).
    values, columns, ends : numpy.ndarray
        The weights by their outputs: float32, int32, int32.
    bias : numpy.ndarray or None
        (units,).
    """
    cdef Sparse p
    cdef npy_intp weights
    cdef npy_intp dims[2]
    cdef ndarray out
    if not is_plain(x, NPY_FLOAT) or PyArray_NDIM(<ndarray>x) != 2:
        return NotImplemented
    if not (is_vector(values, NPY_FLOAT) and is_vector(columns, NPY_INT32) and is_vector(ends, NPY_INT32)):
        return NotImplemented
    weights, p.units = PyArray_DIM(<ndarray>values, 0), PyArray_DIM(<ndarray>ends, 0) - 1
    if p.units < 0 or PyArray_DIM(<ndarray>columns, 0) != weights or PyArray_DIM(<ndarray>x, 1) > INT32_MAX:
        return NotImplemented
    if bias is not None and not (is_vector(bias, NPY_FLOAT) and PyArray_DIM(<ndarray>bias, 0) == p.units):
        return NotImplemented
    p.batch, p.features = PyArray_DIM(<ndarray>x, 0), PyArray_DIM(<ndarray>x, 1)
    dims[0], dims[1] = p.batch, p.units
    out = <ndarray>PyArray_EMPTY(2, dims, NPY_FLOAT, 0)
    p.x, p.out = <const float*>PyArray_DATA(<ndarray>x), <float*>PyArray_DATA(out)
    p.values = <const float*>PyArray_DATA(<ndarray>values)
    p.columns = <const npy_int32*>PyArray_DATA(<ndarray>columns)
    p.ends = <const npy_int32*>PyArray_DATA(<ndarray>ends)
    p.bias = NULL
    if bias is not None:
        p.bias = <const float*>PyArray_DATA(<ndarray>bias)
    if not is_whole(&p, weights):
        raise ValueError("SparseDense: columns and ends do not fit the values, need those of a sparse matrix")
    p.panels, p.count = NULL, pieces(p.batch, ROWS)
    if p.batch > FEW:
        p.panels = <float*>malloc(max(p.count * ROWS * p.features, 1) * sizeof(float))
        if p.panels == NULL:
            raise MemoryError
    with nogil:
        run(&p, weights)
    free(p.panels)
    return out

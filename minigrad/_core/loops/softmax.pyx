"""Kernels of softmax, log_softmax and logsumexp over one axis.

An array of C order is blocks of n lines of ``inner`` elements, n being the extent of the axis. Where it is the last
axis (inner = 1) the work is cut into rows, elsewhere into strips of neighboring columns, each of which stays in the
cache, if it can, while it is passed over two or three times. A kernel answers NotImplemented for what it does not take
(another dtype, several axes, nothing at all, a logit of +inf); the generic body then runs, or says what is wrong.
"""
from cython.parallel cimport prange
from libc.math cimport INFINITY, log
from numpy cimport (
    NPY_FLOAT, NPY_MAXDIMS, PyArray_CompareLists, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_IS_C_CONTIGUOUS,
    PyArray_IS_F_CONTIGUOUS, PyArray_NBYTES, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.math cimport exp_not_positive
from minigrad._core.loops.plain cimport RELEASE_GIL, empty_like, real, same_shape
from minigrad._core.loops.rows cimport exponentials, in_order, row_dot, row_largest, row_sum, sum_exponentials
from minigrad._core.loops.stream cimport STREAMED, stream

import_array()

cdef enum:
    NARROW = 128      # columns in a strip that still reads memory fast
    WIDE = 2048       # and in the widest
    STRIP = 65_536    # elements of a strip that stay in the cache
    ROW = 8192        # elements of a row that is made there before it is written

cdef enum Function:
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP
    SOFTMAX_VJP
    LOG_SOFTMAX_VJP
    LOGSUMEXP_VJP

cdef struct Task:
    Function function
    int axis              # counted from the front; -1 stands for all of them as one row
    npy_intp n            # extent of the axis
    npy_intp inner        # elements from one to the next along it
    npy_intp width        # columns of a strip
    npy_intp strips       # of one block
    npy_intp pieces       # rows, or strips of all blocks
    bint streams          # rows are made in the cache and written past it


# ---- the last axis ---------------------------------------------------------------------------------------------------


cdef inline bint find_top(const real* x, npy_intp n, real* top) noexcept nogil:
    """What to subtract before exp: the maximum, or 0 if all is -inf; False if it is +inf."""
    top[0] = row_largest(x, n)
    if top[0] == -INFINITY:
        top[0] = 0
    return top[0] != INFINITY


cdef bint softmax_row(const real* g, const real* x, real* out, npy_intp n) noexcept nogil:
    """The softmax, times the number at `g` where there is one."""
    cdef real top, scale
    cdef double total
    cdef npy_intp j
    if not find_top(x, n, &top):
        return False
    total = exponentials(x, top, out, n)
    if total == 0:
        total = 1.0
    scale = <real>(1 / total) if g == NULL else <real>(g[0] / total)
    for j in range(n):
        out[j] *= scale
    return True


cdef bint log_softmax_row(const real* x, real* out, npy_intp n) noexcept nogil:
    cdef real top, log_total
    cdef double total
    cdef npy_intp j
    if not find_top(x, n, &top):
        return False
    total = sum_exponentials(x, top, n)
    log_total = <real>log(1.0 if total == 0 else total)
    for j in range(n):
        out[j] = (x[j] - top) - log_total
    return True


cdef bint logsumexp_row(const real* x, real* out, npy_intp n) noexcept nogil:
    cdef real top
    if not find_top(x, n, &top):
        return False
    out[0] = <real>log(sum_exponentials(x, top, n)) + top
    return True


cdef void softmax_vjp_row(const real* g, const real* y, real* out, npy_intp n) noexcept nogil:
    cdef real mean = <real>row_dot(g, y, n)
    cdef npy_intp j
    for j in range(n):
        out[j] = y[j] * (g[j] - mean)


cdef void log_softmax_vjp_row(const real* g, const real* y, real* out, npy_intp n) noexcept nogil:
    cdef real total = <real>row_sum(g, n)
    cdef npy_intp j
    for j in range(n):
        out[j] = g[j] - exp_not_positive(y[j]) * total


# ---- another axis: `width` columns side by side ----------------------------------------------------------------------


cdef inline bint find_tops(const Task* task, npy_intp width, const real* x, real* top) noexcept nogil:
    """What to subtract before exp in each column; False if the maximum of one is +inf."""
    cdef npy_intp i, k
    cdef bint finite = True
    for k in range(width):
        top[k] = -INFINITY
    for i in range(task.n):
        for k in range(width):
            top[k] = x[i * task.inner + k] if x[i * task.inner + k] > top[k] else top[k]
    for k in range(width):
        finite = finite and top[k] != INFINITY
        top[k] = 0 if top[k] == -INFINITY else top[k]
    return finite


cdef bint softmax_strip(const Task* task, npy_intp width, const real* g, const real* x, real* out) noexcept nogil:
    """The softmax of each column, times its number of `g` where there is one."""
    cdef real top[WIDE]
    cdef real total[WIDE]
    cdef npy_intp i, k, at
    if not find_tops(task, width, x, top):
        return False
    for k in range(width):
        total[k] = 0
    for i in range(task.n):
        at = i * task.inner
        for k in range(width):
            out[at + k] = exp_not_positive(<real>(x[at + k] - top[k]))
            total[k] += out[at + k]
    for k in range(width):
        total[k] = (<real>1 if g == NULL else g[k]) / (<real>1 if total[k] == 0 else total[k])
    for i in range(task.n):
        at = i * task.inner
        for k in range(width):
            out[at + k] *= total[k]
    return True


cdef bint logarithm_strip(const Task* task, npy_intp width, const real* x, real* out) noexcept nogil:
    """The log_softmax or the logsumexp of each column."""
    cdef real top[WIDE]
    cdef real total[WIDE]
    cdef npy_intp i, k, at
    if not find_tops(task, width, x, top):
        return False
    for k in range(width):
        total[k] = 0
    for i in range(task.n):
        at = i * task.inner
        for k in range(width):
            total[k] += exp_not_positive(<real>(x[at + k] - top[k]))
    if task.function == LOGSUMEXP:
        for k in range(width):
            out[k] = <real>log(total[k]) + top[k]
        return True
    for k in range(width):
        total[k] = <real>log(<real>1 if total[k] == 0 else total[k])
    for i in range(task.n):
        at = i * task.inner
        for k in range(width):
            out[at + k] = (x[at + k] - top[k]) - total[k]
    return True


cdef void vjp_strip(const Task* task, npy_intp width, const real* g, const real* y, real* out) noexcept nogil:
    """The gradients of softmax or log_softmax."""
    cdef real total[WIDE]
    cdef npy_intp i, k, at
    for k in range(width):
        total[k] = 0
    if task.function == SOFTMAX_VJP:
        for i in range(task.n):
            at = i * task.inner
            for k in range(width):
                total[k] += g[at + k] * y[at + k]
        for i in range(task.n):
            at = i * task.inner
            for k in range(width):
                out[at + k] = y[at + k] * (g[at + k] - total[k])
    else:
        for i in range(task.n):
            at = i * task.inner
            for k in range(width):
                total[k] += g[at + k]
        for i in range(task.n):
            at = i * task.inner
            for k in range(width):
                out[at + k] = g[at + k] - exp_not_positive(y[at + k]) * total[k]


# ---- pieces ----------------------------------------------------------------------------------------------------------


cdef bint run_row(const Task* task, npy_intp i, const real* g, const real* x, real* out) noexcept nogil:
    cdef real row[ROW]
    cdef npy_intp n = task.n, at = i * n
    cdef real* to = out + at
    cdef bint done = True
    if task.streams:
        to = row
    if task.function == SOFTMAX:
        done = softmax_row[real](NULL, x + at, to, n)
    elif task.function == LOG_SOFTMAX:
        done = log_softmax_row(x + at, to, n)
    elif task.function == LOGSUMEXP:
        done = logsumexp_row(x + at, out + i, n)
    elif task.function == LOGSUMEXP_VJP:
        done = softmax_row(g + i, x + at, to, n)
    elif task.function == SOFTMAX_VJP:
        softmax_vjp_row(g + at, x + at, to, n)
    else:
        log_softmax_vjp_row(g + at, x + at, to, n)
    if task.streams:
        stream(out + at, row, n * sizeof(real))
    return done


cdef bint run_strip(const Task* task, npy_intp piece, const real* g, const real* x, real* out) noexcept nogil:
    cdef npy_intp block = piece // task.strips, column = (piece % task.strips) * task.width
    cdef npy_intp width = min(task.width, task.inner - column)
    cdef npy_intp at = block * task.n * task.inner + column, reduced = block * task.inner + column
    if task.function == SOFTMAX:
        return softmax_strip[real](task, width, NULL, x + at, out + at)
    if task.function == LOG_SOFTMAX:
        return logarithm_strip(task, width, x + at, out + at)
    if task.function == LOGSUMEXP:
        return logarithm_strip(task, width, x + at, out + reduced)
    if task.function == LOGSUMEXP_VJP:
        return softmax_strip(task, width, g + reduced, x + at, out + at)
    vjp_strip(task, width, g + at, x + at, out + at)
    return True


cdef bint run_piece(const Task* task, npy_intp i, const real* g, const real* x, real* out) noexcept nogil:
    return run_row(task, i, g, x, out) if task.inner == 1 else run_strip(task, i, g, x, out)


cdef bint run_parallel(const Task* task, const real* g, const real* x, real* out, int threads) noexcept nogil:
    cdef npy_intp i
    cdef int failed = 0
    for i in prange(task.pieces, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        failed += not run_piece(task, i, g, x, out)
    return failed == 0


cdef bint run(real* out, const Task* task, const void* g, const void* x, npy_intp size) noexcept:
    """The function; a large array without the GIL."""
    cdef npy_intp i
    cdef bint done
    if size < RELEASE_GIL:
        for i in range(task.pieces):
            if not run_piece(task, i, <const real*>g, <const real*>x, out):
                return False
        return True
    with nogil:
        done = run_parallel(task, <const real*>g, <const real*>x, out, threads_for(size))
    return done


# ---- arrays ----------------------------------------------------------------------------------------------------------


cdef bint plan(Task* task, Function function, ndarray x, object axis):
    """How to cut the work, None being all axes at once; False where the axis is none, or there is nothing to do."""
    cdef npy_intp ndim = PyArray_NDIM(x), outer = 1, k
    cdef npy_intp* extents = PyArray_DIMS(x)
    if PyArray_SIZE(x) == 0:
        return False
    task.function, task.axis, task.n, task.inner = function, -1, PyArray_SIZE(x), 1
    if axis is not None:
        if type(axis) is not int or not -ndim <= axis < ndim:
            return False
        task.axis = axis + ndim if axis < 0 else axis
        task.n = extents[task.axis]
        for k in range(task.axis):
            outer *= extents[k]
        for k in range(task.axis + 1, ndim):
            task.inner *= extents[k]
    task.width = STRIP // task.n // NARROW * NARROW
    task.width = WIDE if task.width == 0 else min(task.width, WIDE)
    task.strips = (task.inner + task.width - 1) // task.width
    task.pieces = outer * task.strips
    task.streams = task.inner == 1 and task.n <= ROW and function != LOGSUMEXP and PyArray_NBYTES(x) >= STREAMED
    return True


cdef int reduce(const Task* task, ndarray x, bint keepdims, npy_intp* extents):
    """Write the shape that a sum over the axis has, and return how many axes that is."""
    cdef int ndim = PyArray_NDIM(x), j, k = 0
    for j in range(ndim):
        if task.axis == j or task.axis == -1:
            if not keepdims:
                continue
            extents[k] = 1
        else:
            extents[k] = PyArray_DIMS(x)[j]
        k += 1
    return k


cdef object attempt(const Task* task, ndarray g, ndarray x, ndarray out):
    cdef const void* cotangents = NULL if g is None else PyArray_DATA(g)
    cdef bint done
    if PyArray_TYPE(x) == NPY_FLOAT:
        done = run(<float*>PyArray_DATA(out), task, cotangents, PyArray_DATA(x), PyArray_SIZE(x))
    else:
        done = run(<double*>PyArray_DATA(out), task, cotangents, PyArray_DATA(x), PyArray_SIZE(x))
    return out if done else NotImplemented


cdef bint is_reversed(object x):
    """Whether `x` is in Fortran order: its transpose is in C order, with the axes counted from the other end."""
    return type(x) is ndarray and PyArray_IS_F_CONTIGUOUS(<ndarray>x) and not PyArray_IS_C_CONTIGUOUS(<ndarray>x)


cdef object other_end(object axis):
    return -1 - axis if type(axis) is int else axis


cdef object transpose(object x):
    return (<ndarray>x).T if type(x) is ndarray else x


cdef object forward(Function function, object given, object axis):
    cdef Task task
    cdef ndarray x
    if is_reversed(given):
        return transpose(forward(function, transpose(given), other_end(axis)))
    x = in_order(given)
    if x is None or axis is None or not plan(&task, function, x, axis):
        return NotImplemented
    return attempt(&task, None, x, empty_like(x))


cdef object backward(Function function, object cotangents, object given, object axis):
    cdef Task task
    cdef ndarray g, out
    if is_reversed(given):
        return transpose(backward(function, transpose(cotangents), transpose(given), other_end(axis)))
    g, out = in_order(cotangents), in_order(given)
    if g is None or out is None or axis is None or PyArray_TYPE(g) != PyArray_TYPE(out) or not same_shape(g, out):
        return NotImplemented
    return attempt(&task, g, out, empty_like(out)) if plan(&task, function, out, axis) else NotImplemented


cdef object reduction(object x, object axis, bint keepdims):
    cdef Task task
    cdef npy_intp extents[NPY_MAXDIMS]
    cdef ndarray values
    cdef int ndim
    if is_reversed(x):
        return transpose(reduction(transpose(x), other_end(axis), keepdims))
    values = in_order(x)
    if values is None or not plan(&task, LOGSUMEXP, values, axis):
        return NotImplemented
    ndim = reduce(&task, values, keepdims, extents)
    return attempt(&task, None, values, <ndarray>PyArray_EMPTY(ndim, extents, PyArray_TYPE(values), 0))


cdef object reduction_vjp(object g, object x, object axis, bint keepdims):
    cdef Task task
    cdef npy_intp extents[NPY_MAXDIMS]
    cdef ndarray cotangents, values
    cdef int ndim
    if is_reversed(x):
        return transpose(reduction_vjp(transpose(g), transpose(x), other_end(axis), keepdims))
    cotangents, values = in_order(g), in_order(x)
    if cotangents is None or values is None or PyArray_TYPE(cotangents) != PyArray_TYPE(values):
        return NotImplemented
    if not plan(&task, LOGSUMEXP_VJP, values, axis):
        return NotImplemented
    ndim = reduce(&task, values, keepdims, extents)
    if PyArray_NDIM(cotangents) != ndim or not PyArray_CompareLists(extents, PyArray_DIMS(cotangents), ndim):
        return NotImplemented
    return attempt(&task, cotangents, values, empty_like(values))


def softmax(x, *, axis):
    """Kernel of the op ``softmax``."""
    return forward(SOFTMAX, x, axis)


def softmax_vjp(g, out, *, axis):
    """Kernel of its rule."""
    return backward(SOFTMAX_VJP, g, out, axis)


def log_softmax(x, *, axis):
    """Kernel of the op ``log_softmax``."""
    return forward(LOG_SOFTMAX, x, axis)


def log_softmax_vjp(g, out, *, axis):
    """Kernel of its rule."""
    return backward(LOG_SOFTMAX_VJP, g, out, axis)


def logsumexp(x, *, axis, bint keepdims):
    """Kernel of the op ``logsumexp``, over one axis or all of them."""
    return reduction(x, axis, keepdims)


def logsumexp_vjp(g, x, *, axis, bint keepdims):
    """Kernel of its rule: the softmax, times `g`."""
    return reduction_vjp(g, x, axis, keepdims)

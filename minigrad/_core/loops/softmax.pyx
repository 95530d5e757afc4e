"""Kernels of softmax, log_softmax and logsumexp over one axis.

An array of C order is blocks of n lines of ``inner`` elements, n being the extent of the axis. Where it is the last
axis (inner = 1) the work is cut into rows, elsewhere into strips of neighboring columns, each of which stays in the
cache, if it can, while it is passed over two or three times. Where there are fewer than FEW of either, and each is
long, threads share each of them. A kernel answers NotImplemented for what it does not take (another dtype, several
axes, nothing at all, a logit of +inf); the generic body then runs, or says what is wrong.
"""
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from numpy cimport (
    NPY_FLOAT, NPY_MAXDIMS, PyArray_CompareLists, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_IS_C_CONTIGUOUS,
    PyArray_IS_F_CONTIGUOUS, PyArray_NBYTES, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, empty_like, real, same_shape
from minigrad._core.loops.rows cimport BLOCK, in_order, row_largest
from minigrad._core.loops.softmax_parts cimport (
    LOG_SOFTMAX, LOG_SOFTMAX_VJP, LOGSUMEXP, LOGSUMEXP_VJP, SOFTMAX, SOFTMAX_VJP, Function, end_of_sum, end_sums,
    finish_row, finish_strip, has_top, settle, strip_sums, strip_tops, sum_of_row,
)
from minigrad._core.loops.stream cimport STREAMED, stream

import_array()

cdef enum:
    NARROW = 128      # columns in a strip that still reads memory fast
    WIDE = 2048       # and in the widest
    STRIP = 65_536    # elements of a strip that stay in the cache
    ROW = 8192        # elements of a row that is made there before it is written
    FEW = 8           # pieces, too few for many threads
    LONG = 131_072    # elements of a row, or of columns, that are worth sharing
    HIGH = 128        # rows of a block of columns, at least
    TILE = 16_384     # elements of such a block, unless it were higher than BLOCK

cdef struct Task:
    Function function
    int axis              # counted from the front; -1 stands for all of them as one row
    npy_intp n            # extent of the axis
    npy_intp inner        # elements from one to the next along it
    npy_intp width        # columns of a strip
    npy_intp strips       # of one block
    npy_intp pieces       # rows, or strips of all blocks
    bint streams          # rows are made in the cache and written past it
    bint shares           # threads share each row, or all columns of a block, since there are few


# ---- pieces: a row, or a strip of columns ----------------------------------------------------------------------------


cdef inline const real* cotangents(const Task* task, const real* g, npy_intp at, npy_intp reduced) noexcept nogil:
    """Where those of a piece are, if the function has any; logsumexp's lie at the place of its result."""
    if g == NULL:
        return NULL
    return g + (reduced if task.function == LOGSUMEXP_VJP else at)


cdef bint run_row(const Task* task, npy_intp i, const real* g, const real* x, real* out) noexcept nogil:
    cdef real row[ROW]
    cdef real top = 0, end
    cdef npy_intp n = task.n, at = i * n
    cdef real* to = out + at
    if task.streams:
        to = row
    g = cotangents(task, g, at, i)
    x += at
    if has_top(task.function):
        top = row_largest(x, n)
        if not settle(&top, 1):
            return False
    end = end_of_sum(task.function, sum_of_row(task.function, g, x, top, to, n), g)
    if task.function == LOGSUMEXP:
        out[i] = end + top
        return True
    finish_row(task.function, g, x, top, end, to, n)
    if task.streams:
        stream(out + at, row, n * sizeof(real))
    return True


cdef bint run_strip(const Task* task, npy_intp piece, const real* g, const real* x, real* out) noexcept nogil:
    cdef real top[WIDE]
    cdef real total[WIDE]
    cdef npy_intp block = piece // task.strips, column = (piece % task.strips) * task.width, k
    cdef npy_intp width = min(task.width, task.inner - column), n = task.n, inner = task.inner
    cdef npy_intp at = block * n * inner + column, reduced = block * inner + column
    g = cotangents(task, g, at, reduced)
    x += at
    if has_top(task.function):
        strip_tops(x, n, inner, width, top)
        if not settle(top, width):
            return False
    strip_sums(task.function, g, x, top, out + at, n, inner, width, total)
    end_sums(task.function, g, width, total)
    if task.function == LOGSUMEXP:
        for k in range(width):
            out[reduced + k] = total[k] + top[k]
    else:
        finish_strip(task.function, g, x, top, total, n, inner, width, out + at)
    return True


cdef bint run_piece(const Task* task, npy_intp i, const real* g, const real* x, real* out) noexcept nogil:
    return run_row(task, i, g, x, out) if task.inner == 1 else run_strip(task, i, g, x, out)


# ---- a piece that threads share, where there are few -----------------------------------------------------------------


cdef bint share_row(
    const Task* task, npy_intp i, const real* g, const real* x, real* out, int threads,
) noexcept nogil:
    """A row in blocks of those elements that are summed on their own anyway: the bits of `run_row`."""
    cdef npy_intp n = task.n, blocks = (n + BLOCK - 1) // BLOCK, at = i * n, j
    cdef npy_intp each = 0 if g == NULL or task.function == LOGSUMEXP_VJP else BLOCK  # cotangents of a block
    cdef Function function = task.function
    cdef real top = -INFINITY, end
    cdef double total = 0.0
    cdef double* part = <double*>malloc(blocks * sizeof(double))
    if part == NULL:
        return False
    g = cotangents(task, g, at, i)
    x += at
    if has_top(function):
        for j in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
            part[j] = row_largest(x + j * BLOCK, min(BLOCK, n - j * BLOCK))
        for j in range(blocks):
            top = <real>part[j] if part[j] > top else top
    if not settle(&top, 1):
        free(part)
        return False
    for j in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        part[j] = sum_of_row(
            function, g + j * each, x + j * BLOCK, top, out + at + j * BLOCK, min(BLOCK, n - j * BLOCK)
        )
    for j in range(blocks):
        total += part[j]
    free(part)
    end = end_of_sum(function, total, g)
    if function == LOGSUMEXP:
        out[i] = end + top
        return True
    for j in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        finish_row(
            function, g + j * each, x + j * BLOCK, top, end, out + at + j * BLOCK, min(BLOCK, n - j * BLOCK)
        )
    return True


cdef enum Step:
    TOPS
    SUMS
    FINISH


cdef void share_tile(
    Step step, const Task* task, npy_intp piece, npy_intp high, const real* g, const real* x, real* tops, real* totals,
    real* out,
) noexcept nogil:
    """A step for some rows and columns; the first two leave a row of `tops` or `totals` for each block of rows."""
    cdef real top[WIDE]
    cdef real total[WIDE]
    cdef npy_intp block = piece // task.strips, column = (piece % task.strips) * task.width
    cdef npy_intp width = min(task.width, task.inner - column), n = min(high, task.n - block * high)
    cdef npy_intp at = block * high * task.inner + column, place = block * task.inner + column
    if step == TOPS:
        strip_tops(x + at, n, task.inner, width, top)
        memcpy(tops + place, top, width * sizeof(real))
        return
    g = cotangents(task, g, at, 0)
    memcpy(top, tops + column, width * sizeof(real))
    if step == SUMS:
        strip_sums(task.function, g, x + at, top, out + at, n, task.inner, width, total)
        memcpy(totals + place, total, width * sizeof(real))
        return
    memcpy(total, totals + column, width * sizeof(real))
    finish_strip(task.function, g, x + at, top, total, n, task.inner, width, out + at)


cdef void share_step(
    Step step, const Task* task, npy_intp high, const real* g, const real* x, real* tops, real* totals, real* out,
    int threads,
) noexcept nogil:
    """A step for all rows and columns of a block of the array; what the first two leave is folded in its first row."""
    cdef npy_intp blocks = (task.n + high - 1) // high, i, k
    cdef double total
    for i in prange(blocks * task.strips, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        share_tile(step, task, i, high, g, x, tops, totals, out)
    if step == TOPS:
        for i in range(1, blocks):
            for k in range(task.inner):
                tops[k] = tops[i * task.inner + k] if tops[i * task.inner + k] > tops[k] else tops[k]
    elif step == SUMS:
        for k in range(task.inner):
            total = 0.0
            for i in range(blocks):
                total += totals[i * task.inner + k]
            totals[k] = <real>total


cdef bint share_columns(
    const Task* task, npy_intp i, const real* g, const real* x, real* out, int threads,
) noexcept nogil:
    """Columns, cut across into blocks of rows."""
    cdef npy_intp high = max(HIGH, min(BLOCK, TILE // task.inner)), blocks = (task.n + high - 1) // high, k
    cdef npy_intp at = i * task.n * task.inner, reduced = i * task.inner
    cdef real* tops = <real*>calloc(2 * blocks * task.inner, sizeof(real))
    cdef real* totals = tops + blocks * task.inner
    if tops == NULL:
        return False
    g = cotangents(task, g, at, reduced)
    x += at
    if has_top(task.function):
        share_step(TOPS, task, high, g, x, tops, totals, out, threads)
        if not settle(tops, task.inner):
            free(tops)
            return False
    share_step(SUMS, task, high, g, x, tops, totals, out + at, threads)
    end_sums(task.function, g, task.inner, totals)
    if task.function == LOGSUMEXP:
        for k in range(task.inner):
            out[reduced + k] = totals[k] + tops[k]
    else:
        share_step(FINISH, task, high, g, x, tops, totals, out + at, threads)
    free(tops)
    return True


# ---- all pieces ------------------------------------------------------------------------------------------------------


cdef bint run_parallel(const Task* task, const real* g, const real* x, real* out, int threads) noexcept nogil:
    cdef npy_intp i
    cdef int failed = 0
    if task.shares:
        for i in range(task.pieces // task.strips):
            if task.inner == 1:
                failed += not share_row(task, i, g, x, out, threads)
            else:
                failed += not share_columns(task, i, g, x, out, threads)
        return failed == 0
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
    task.shares = task.pieces < FEW and task.n * task.inner >= LONG and task.n > STRIP // NARROW
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

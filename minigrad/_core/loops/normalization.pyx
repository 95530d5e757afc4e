"""Kernels of layer_norm and rms_norm: each row is read while it lies in the first-level cache, statistics and all.

Mean and variance are taken in two passes, as in the generic body. The sums of chunks of a row are added in double
precision. The gradients of the weights are sums over blocks of rows, added in the order of the blocks, so that the
number of threads changes no bit.
"""
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.string cimport memset
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NBYTES, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE,
    import_array,
    ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.moments cimport CHUNK, add, add_squares, add_weighted
from minigrad._core.loops.plain cimport RELEASE_GIL, alike, empty_like, is_plain, is_real, real
from minigrad._core.loops.rows cimport in_order
from minigrad._core.loops.stream cimport STREAMED, stream

import_array()

cdef enum:
    ROW = 8192          # elements of a row that is made in the cache and written past it
    ROWS = 4            # whose gradients are added to the weights' at once,
    COLUMNS = 256       # of so many columns
    BLOCKS = 64         # at most, of rows that share one partial sum of the weights' gradients
    BLOCK = 8192        # elements of a block at least
    BLOCK_ROWS = 4      # and rows, so that the partial sums never outgrow the array

cdef struct Task:
    npy_intp rows
    npy_intp n              # elements of a row
    npy_intp block          # rows of a block
    double eps
    bint centered           # layer norm; RMS norm takes the mean for 0
    bint streams            # the result is too large for the caches


# ---- one row ---------------------------------------------------------------------------------------------------------

cdef inline real mean_of(const Task* task, const real* x) noexcept nogil:
    """The mean of a row, or what is taken for it."""
    cdef npy_intp j = 0
    cdef double total = 0.0
    if task.centered:
        while j < task.n:
            total += add(x + j, min(task.n - j, CHUNK))
            j += CHUNK
    return <real>total / <real>task.n


cdef inline real scale_of(const Task* task, double squares, real like) noexcept nogil:
    """1 / sqrt(variance + eps)."""
    return 1 / <real>sqrt(<real>squares / <real>task.n + <real>task.eps)


cdef inline void measure(const Task* task, const real* x, real* mean, real* scale) noexcept nogil:
    """The mean and the scale of a row."""
    cdef npy_intp j = 0
    cdef double squares = 0.0
    mean[0] = mean_of(task, x)
    while j < task.n:
        squares += add_squares(x + j, mean[0], min(task.n - j, CHUNK))
        j += CHUNK
    scale[0] = scale_of(task, squares, mean[0])


cdef inline void measure_all(
    const Task* task, const real* g, const real* x, const real* w, real* mean, real* scale, real* shift, real* slope,
) noexcept nogil:
    """The same, and the means of g w and of g w times the normalized x, for the rule."""
    cdef npy_intp j = 0
    cdef double shifts = 0.0, slopes = 0.0, squares = 0.0
    cdef real some_squares
    mean[0] = mean_of(task, x)
    while j < task.n:
        add_weighted(g + j, x + j, w + j, mean[0], min(task.n - j, CHUNK), shift, slope, &some_squares)
        shifts += shift[0]
        slopes += slope[0]
        squares += some_squares
        j += CHUNK
    # the result of a single element is constant; 1 / sqrt(eps) would make the rounding of g w a gradient
    scale[0] = 0 if task.centered and task.n == 1 else scale_of(task, squares, mean[0])
    shift[0] = <real>shifts / <real>task.n if task.centered else 0
    slope[0] = <real>(slopes * scale[0]) / <real>task.n


cdef inline void write_row(
    const real* x, const real* w, const real* b, real mean, real scale, real* out, npy_intp n,
) noexcept nogil:
    cdef npy_intp j
    if w != NULL and b != NULL:
        for j in range(n):
            out[j] = (x[j] - mean) * scale * w[j] + b[j]
    elif w != NULL:
        for j in range(n):
            out[j] = (x[j] - mean) * scale * w[j]
    elif b != NULL:
        for j in range(n):
            out[j] = (x[j] - mean) * scale + b[j]
    else:
        for j in range(n):
            out[j] = (x[j] - mean) * scale


cdef inline void write_gradient(
    const real* g, const real* x, const real* w, real mean, real scale, real shift, real slope, real* out, npy_intp n,
) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        out[j] = scale * ((g[j] * w[j] - shift) - (x[j] - mean) * scale * slope)


cdef inline void add_gradients(
    const real* g, const real* x, const real* mean, const real* scale, real* dw, real* db, npy_intp rows, npy_intp n,
) noexcept nogil:
    """Add the rows' gradients to those of weight and bias, of four rows at a time, so that these are seldom read."""
    cdef real first[COLUMNS]    # of their own: gcc cannot know that none of the arrays overlap
    cdef real second[COLUMNS]
    cdef npy_intp i, j = 0, k, size
    if rows < ROWS:
        for i in range(rows):
            for j in range(n):
                dw[j] += g[i * n + j] * ((x[i * n + j] - mean[i]) * scale[i])
                db[j] += g[i * n + j]
        return
    while j < n:
        size = min(n - j, COLUMNS)
        for k in range(size):
            first[k] = (
                (g[k] * ((x[k] - mean[0]) * scale[0]) + g[k + n] * ((x[k + n] - mean[1]) * scale[1]))
                + (g[k + 2 * n] * ((x[k + 2 * n] - mean[2]) * scale[2])
                   + g[k + 3 * n] * ((x[k + 3 * n] - mean[3]) * scale[3]))
            )
            second[k] = (g[k] + g[k + n]) + (g[k + 2 * n] + g[k + 3 * n])
        for k in range(size):
            dw[j + k] += first[k]
        for k in range(size):
            db[j + k] += second[k]
        g += COLUMNS
        x += COLUMNS
        j += COLUMNS


# ---- all rows --------------------------------------------------------------------------------------------------------

cdef void forward_row(
    npy_intp i, const Task* task, const real* x, const real* w, const real* b, real* out,
) noexcept nogil:
    cdef real row[ROW]
    cdef real mean, scale
    x += i * task.n
    out += i * task.n
    measure(task, x, &mean, &scale)
    if task.streams:
        write_row(x, w, b, mean, scale, row, task.n)
        stream(out, row, task.n * sizeof(real))
    else:
        write_row(x, w, b, mean, scale, out, task.n)


cdef void forward(const Task* task, const real* x, const real* w, const real* b, real* out) noexcept nogil:
    cdef npy_intp i
    cdef int threads = threads_for(task.rows * task.n)
    if threads == 1:  # even a region that is not parallel costs about 1 us
        for i in range(task.rows):
            forward_row(i, task, x, w, b, out)
    else:
        for i in prange(task.rows, num_threads=threads, schedule="static"):
            forward_row(i, task, x, w, b, out)


cdef void backward_block(
    npy_intp block, const Task* task, const real* g, const real* x, const real* w, real* dx, real* dw, real* db,
) noexcept nogil:
    """The rows of one block; its sums go to its own row of `dw` and `db`."""
    cdef npy_intp i, n = task.n, first = block * task.block, end = min(first + task.block, task.rows)
    cdef real mean[ROWS]
    cdef real scale[ROWS]
    cdef real made[ROW]
    cdef real shift, slope
    cdef int row
    dw += block * n
    db += block * n
    memset(dw, 0, n * sizeof(real))
    memset(db, 0, n * sizeof(real))
    while first < end:
        for row in range(min(end - first, ROWS)):
            i = (first + row) * n
            measure_all(task, g + i, x + i, w, &mean[row], &scale[row], &shift, &slope)
            if task.streams:
                write_gradient(g + i, x + i, w, mean[row], scale[row], shift, slope, made, n)
                stream(dx + i, made, n * sizeof(real))
            else:
                write_gradient(g + i, x + i, w, mean[row], scale[row], shift, slope, dx + i, n)
        add_gradients(g + first * n, x + first * n, mean, scale, dw, db, min(end - first, ROWS), n)
        first += ROWS


cdef void fold_blocks(
    const real* parts, real* out, npy_intp blocks, npy_intp n, npy_intp start, npy_intp end,
) noexcept nogil:
    """Add up what the blocks give for some columns."""
    cdef npy_intp i, j
    memset(out + start, 0, (end - start) * sizeof(real))
    for i in range(blocks):
        for j in range(start, end):
            out[j] += parts[i * n + j]


cdef void backward(
    const Task* task, const real* g, const real* x, const real* w, real* dx, real* dw, real* db, real* parts,
) noexcept nogil:
    cdef npy_intp i, blocks = (task.rows + task.block - 1) // task.block
    cdef int threads
    if blocks == 1:
        backward_block(0, task, g, x, w, dx, dw, db)
        return
    threads = threads_for(task.rows * task.n)
    if threads == 1:
        for i in range(blocks):
            backward_block(i, task, g, x, w, dx, parts, parts + blocks * task.n)
    else:
        for i in prange(blocks, num_threads=threads, schedule="static"):
            backward_block(i, task, g, x, w, dx, parts, parts + blocks * task.n)
    threads = threads_for(blocks * task.n)
    if threads == 1:
        fold_blocks(parts, dw, blocks, task.n, 0, task.n)
        fold_blocks(parts + blocks * task.n, db, blocks, task.n, 0, task.n)
    else:
        for i in prange(0, task.n, CHUNK, num_threads=threads, schedule="static"):
            fold_blocks(parts, dw, blocks, task.n, i, min(i + CHUNK, task.n))
            fold_blocks(parts + blocks * task.n, db, blocks, task.n, i, min(i + CHUNK, task.n))


# ---- arguments -------------------------------------------------------------------------------------------------------

cdef int trailing(ndarray x, object axis) except -1:
    """The number of axes that are normalized, 0 where they are not the last ones."""
    cdef int ndim = PyArray_NDIM(x)
    if type(axis) is int:
        return 1 if ndim and (axis == -1 or axis == ndim - 1) else 0
    if type(axis) is not tuple or not all([type(a) is int for a in <tuple>axis]):
        return 0
    wanted = sorted([a + ndim if a < 0 else a for a in <tuple>axis])
    return len(wanted) if 0 < len(wanted) <= ndim and wanted == list(range(ndim - len(wanted), ndim)) else 0


cdef bint fits(object w, ndarray x, int axes):
    """Whether `w` is a plain array of the dtype of `x` and the shape of its last axes."""
    cdef int k, skipped = PyArray_NDIM(x) - axes
    if not is_plain(w, PyArray_TYPE(x)) or PyArray_NDIM(<ndarray>w) != axes:
        return False
    for k in range(axes):
        if PyArray_DIMS(<ndarray>w)[k] != PyArray_DIMS(x)[skipped + k]:
            return False
    return True


cdef ndarray ones(ndarray x, int axes):
    """The weight that changes nothing."""
    cdef ndarray out = <ndarray>PyArray_EMPTY(axes, PyArray_DIMS(x) + PyArray_NDIM(x) - axes, PyArray_TYPE(x), 0)
    out.fill(1)
    return out


cdef inline void* data(object x):
    return NULL if x is None else PyArray_DATA(<ndarray>x)


cdef void run(
    real* out, const Task* task, const void* g, const void* x, const void* w, const void* b, void* dw, void* db,
    void* parts,
) noexcept:
    """The forward, or where there is a cotangent the rule."""
    if g == NULL:
        if task.rows * task.n < RELEASE_GIL:
            forward(task, <const real*>x, <const real*>w, <const real*>b, out)
        else:
            with nogil:
                forward(task, <const real*>x, <const real*>w, <const real*>b, out)
    elif task.rows * task.n < RELEASE_GIL:
        backward(task, <const real*>g, <const real*>x, <const real*>w, out, <real*>dw, <real*>db, <real*>parts)
    else:
        with nogil:
            backward(task, <const real*>g, <const real*>x, <const real*>w, out, <real*>dw, <real*>db, <real*>parts)


cdef object attempt(object g, object given, object weight, object bias, double eps, object axis, bint centered):
    """The forward, or the gradients of x, weight and bias where there is a cotangent, if the arguments fit."""
    cdef Task task
    cdef ndarray x = in_order(given), out
    cdef object cotangent = None, dw = None, db = None, parts = None
    cdef npy_intp blocks, size
    cdef int axes, k
    if not is_real(x) or PyArray_SIZE(x) == 0:
        return NotImplemented
    axes = trailing(x, axis)
    if axes == 0 or not (weight is None or fits(weight, x, axes)) or not (bias is None or fits(bias, x, axes)):
        return NotImplemented
    task.n = 1
    for k in range(PyArray_NDIM(x) - axes, PyArray_NDIM(x)):
        task.n *= PyArray_DIMS(x)[k]
    task.rows = PyArray_SIZE(x) // task.n
    task.eps, task.centered = eps, centered
    task.block = max((task.rows + BLOCKS - 1) // BLOCKS, (BLOCK + task.n - 1) // task.n, BLOCK_ROWS)
    if g is not None:
        cotangent = in_order(g)
        if not alike(cotangent, x):
            return NotImplemented
        if weight is None:
            weight = ones(x, axes)
        dw, db = empty_like(weight), empty_like(weight)
        blocks = (task.rows + task.block - 1) // task.block
        if blocks > 1:
            size = 2 * blocks * task.n
            parts = PyArray_EMPTY(1, &size, PyArray_TYPE(x), 0)
    out = empty_like(x)
    task.streams = task.n <= ROW and PyArray_NBYTES(out) >= STREAMED
    if PyArray_TYPE(x) == NPY_FLOAT:
        run(
            <float*>PyArray_DATA(out), &task, data(cotangent), data(x), data(weight), data(bias), data(dw), data(db),
            data(parts),
        )
    else:
        run(
            <double*>PyArray_DATA(out), &task, data(cotangent), data(x), data(weight), data(bias), data(dw), data(db),
            data(parts),
        )
    return out if g is None else (out, dw, db)


def layer_norm(x, weight, bias, *, double eps, axis):
    """Kernel of the op ``layer_norm``."""
    return attempt(None, x, weight, bias, eps, axis, True)


def layer_norm_vjp(g not None, x, weight, *, double eps, axis):
    """Kernel of its joint rule."""
    return attempt(g, x, weight, None, eps, axis, True)


def rms_norm(x, weight, *, double eps, axis):
    """Kernel of the op ``rms_norm``."""
    return attempt(None, x, weight, None, eps, axis, False)


def rms_norm_vjp(g not None, x, weight, *, double eps, axis):
    """Kernel of its joint rule."""
    found = attempt(g, x, weight, None, eps, axis, False)
    return found if found is NotImplemented else (<tuple>found)[:2]

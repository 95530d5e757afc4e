"""Kernels of cross entropy with class indices: rows in parallel, each passed over while it is in the cache.

Each takes what the generic body or rule takes, without ``xp``, and computes the same. It answers NotImplemented where
it does not take the arguments (another dtype, shapes that do not fit, a class that is none, a logit of +inf); the
generic body then runs, or says what is wrong. The losses of the rows are added up in order, on one thread.
"""
from cython.parallel cimport prange
from libc.math cimport INFINITY, log
from numpy cimport (
    NPY_FLOAT, NPY_INT32, NPY_INT64, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_ISALIGNED,
    PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE, PyArray_NBYTES, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE,
    import_array, ndarray, npy_int32, npy_int64, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, empty_like, is_plain, is_real, real
from minigrad._core.loops.rows cimport (
    BLOCK, block_sum, exponentials, in_order, row_largest, row_sum, sum_exponentials,
)
from minigrad._core.loops.stream cimport STREAMED, stream

import_array()

cdef enum:
    ROW = 8192  # classes of a row that is made in the cache before it is written past it

cdef enum Reduction:
    MEAN
    SUM
    NONE

cdef struct Task:
    npy_intp n                  # rows
    npy_intp classes
    const npy_int64* targets    # one of the two is NULL
    const npy_int32* narrow
    bint ignores
    npy_int64 ignored
    double smoothing
    Reduction reduction
    npy_intp step               # elements from one row's cotangent to the next
    double weights              # of the rows that count, in all
    double all_classes          # the weights of all classes together
    bint streams


cdef inline npy_int64 target(const Task* task, npy_intp i) noexcept nogil:
    """The class of a row, or -1 where it does not count."""
    cdef npy_int64 t = task.targets[i] if task.narrow == NULL else task.narrow[i]
    return -1 if task.ignores and t == task.ignored else t


cdef bint prepare(Task* task, const real* weight) noexcept nogil:
    """Check the classes and add up the weights; False where one is none."""
    cdef npy_intp i
    cdef npy_int64 t
    task.weights = 0.0
    for i in range(task.n):
        t = task.targets[i] if task.narrow == NULL else task.narrow[i]
        if task.ignores and t == task.ignored:
            continue
        if t < 0 or t >= task.classes:
            return False
        task.weights += 1.0 if weight == NULL else weight[t]
    if task.weights == 0:
        task.weights = 1.0
    task.all_classes = task.classes if weight == NULL else row_sum(weight, task.classes)
    return True


cdef double shares(const real* x, const real* weight, real top, real log_total, npy_intp n) noexcept nogil:
    """The log-probabilities of all classes together, each times the weight of the class."""
    cdef real block[BLOCK]
    cdef double total = 0.0
    cdef npy_intp j = 0, k, size
    while j < n:
        size = min(n - j, BLOCK)
        for k in range(size):
            block[k] = (x[j + k] - top) - log_total
        if weight != NULL:
            for k in range(size):
                block[k] *= weight[j + k]
        total += block_sum(block, size)
        j += BLOCK
    return total


cdef bint forward(const Task* task, npy_intp i, const real* logits, const real* weight, real* losses) noexcept nogil:
    """The loss of one row; False for a logit of +inf."""
    cdef const real* x = logits + i * task.classes
    cdef real top, log_total, loss
    cdef double total
    cdef npy_int64 t = target(task, i)
    losses[i] = 0
    if t < 0:
        return True
    top = row_largest(x, task.classes)
    if top == INFINITY:
        return False
    if top == -INFINITY:
        top = 0
    total = sum_exponentials(x, top, task.classes)
    log_total = <real>log(1.0 if total == 0 else total)
    loss = <real>(task.smoothing - 1)
    if weight != NULL:
        loss *= weight[t]
    loss *= (x[t] - top) - log_total
    if task.smoothing != 0:
        loss += <real>shares(x, weight, top, log_total, task.classes) * <real>(-task.smoothing / task.classes)
    losses[i] = loss
    return True


cdef bint gradient(
    const Task* task, npy_intp i, real cotangent, const real* x, const real* weight, real* out,
) noexcept nogil:
    """The gradient of the logits `x` of one row; False for a logit of +inf."""
    cdef real top, scale, hit, share
    cdef double total
    cdef npy_intp j
    cdef npy_int64 t = target(task, i)
    if t < 0:
        for j in range(task.classes):
            out[j] = 0
        return True
    top = row_largest(x, task.classes)
    if top == INFINITY:
        return False
    if top == -INFINITY:
        top = 0
    total = exponentials(x, top, out, task.classes)
    if total == 0:
        total = 1.0
    if task.reduction == MEAN:
        cotangent /= <real>task.weights
    hit = <real>(1 - task.smoothing) * cotangent
    if weight != NULL:
        hit *= weight[t]
    share = <real>(task.smoothing / task.classes) * cotangent
    scale = <real>((hit + share * task.all_classes) / total)
    if task.smoothing == 0:
        for j in range(task.classes):
            out[j] *= scale
    elif weight == NULL:
        for j in range(task.classes):
            out[j] = out[j] * scale - share
    else:
        for j in range(task.classes):
            out[j] = out[j] * scale - share * weight[j]
    out[t] -= hit
    return True


cdef bint backward(
    const Task* task, npy_intp i, const real* g, const real* logits, const real* weight, real* out,
) noexcept nogil:
    """The gradient of one row, in its place."""
    cdef real row[ROW]
    cdef npy_intp at = i * task.classes
    cdef bint done
    if not task.streams:
        return gradient(task, i, g[i * task.step], logits + at, weight, out + at)
    done = gradient(task, i, g[i * task.step], logits + at, weight, row)
    stream(out + at, row, task.classes * sizeof(real))
    return done


cdef bint run_row(
    const Task* task, npy_intp i, const real* g, const real* logits, const real* weight, real* out,
) noexcept nogil:
    return forward(task, i, logits, weight, out) if g == NULL else backward(task, i, g, logits, weight, out)


cdef bint run_parallel(
    const Task* task, const real* g, const real* logits, const real* weight, real* out, int threads,
) noexcept nogil:
    cdef npy_intp i
    cdef int failed = 0
    for i in prange(task.n, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        failed += not run_row(task, i, g, logits, weight, out)
    return failed == 0


cdef bint run(real* out, Task* task, const void* g, const void* logits, const void* weight) noexcept:
    """The rule, or the losses where `g` is NULL; for many rows without the GIL."""
    cdef npy_intp i, size = task.n * task.classes
    cdef bint done
    if not prepare(task, <const real*>weight):
        return False
    if size < RELEASE_GIL:
        for i in range(task.n):
            if not run_row(task, i, <const real*>g, <const real*>logits, <const real*>weight, out):
                return False
        return True
    with nogil:
        done = run_parallel(
            task, <const real*>g, <const real*>logits, <const real*>weight, out, threads_for(size),
        )
    return done


cdef void reduce(const Task* task, const real* losses, real* out) noexcept:
    cdef double total = row_sum(losses, task.n)
    out[0] = <real>total / <real>task.weights if task.reduction == MEAN else <real>total


cdef bint is_vector(object x, npy_intp n):
    return PyArray_NDIM(<ndarray>x) == 1 and PyArray_DIMS(<ndarray>x)[0] == n


cdef bint is_cotangent(object g, int kind, Task* task):
    """Whether `g` is what the reduction says; notes its step, which is 0 where a sum has been expanded."""
    if type(g) is not ndarray or PyArray_TYPE(<ndarray>g) != kind:
        return False
    if not PyArray_ISALIGNED(<ndarray>g) or not PyArray_ISNOTSWAPPED(<ndarray>g):
        return False
    if task.reduction != NONE:
        task.step = 0
        return PyArray_NDIM(<ndarray>g) == 0
    if not is_vector(g, task.n):
        return False
    task.step = PyArray_STRIDES(<ndarray>g)[0] // PyArray_ITEMSIZE(<ndarray>g)
    return True


cdef bint read(
    Task* task, object logits, object targets, object weight, object ignore_index, double smoothing, str reduction,
):
    """Note the arguments; False where one does not fit."""
    if not is_real(logits) or PyArray_NDIM(<ndarray>logits) != 2 or PyArray_SIZE(<ndarray>logits) == 0:
        return False
    task.n, task.classes = PyArray_DIMS(<ndarray>logits)[0], PyArray_DIMS(<ndarray>logits)[1]
    task.smoothing = smoothing
    task.reduction = MEAN if reduction == "mean" else NONE if reduction == "none" else SUM
    task.targets, task.narrow = NULL, NULL
    if is_plain(targets, NPY_INT64):
        task.targets = <const npy_int64*>PyArray_DATA(<ndarray>targets)
    elif is_plain(targets, NPY_INT32):
        task.narrow = <const npy_int32*>PyArray_DATA(<ndarray>targets)
    else:
        return False
    if not is_vector(targets, task.n):
        return False
    if weight is not None:
        if not is_plain(weight, PyArray_TYPE(<ndarray>logits)) or not is_vector(weight, task.classes):
            return False
    task.ignores = ignore_index is not None
    if task.ignores:
        if type(ignore_index) is not int or not -2**63 <= ignore_index < 2**63:
            return False
        task.ignored = ignore_index
    return True


def cross_entropy(logits, targets, weight, *, ignore_index, double label_smoothing, str reduction):
    """Kernel of the op behind ``cross_entropy`` with class indices."""
    cdef Task task
    cdef ndarray losses, out
    cdef int kind
    cdef bint done
    cdef const void* weights
    logits = in_order(logits)
    if logits is None or not read(&task, logits, targets, weight, ignore_index, label_smoothing, reduction):
        return NotImplemented
    kind = PyArray_TYPE(<ndarray>logits)
    weights = NULL if weight is None else PyArray_DATA(<ndarray>weight)
    losses = <ndarray>PyArray_EMPTY(1, PyArray_DIMS(<ndarray>logits), kind, 0)
    if kind == NPY_FLOAT:
        done = run(<float*>PyArray_DATA(losses), &task, NULL, PyArray_DATA(<ndarray>logits), weights)
    else:
        done = run(<double*>PyArray_DATA(losses), &task, NULL, PyArray_DATA(<ndarray>logits), weights)
    if not done:
        return NotImplemented
    if task.reduction == NONE:
        return losses
    out = <ndarray>PyArray_EMPTY(0, NULL, kind, 0)
    if kind == NPY_FLOAT:
        reduce(&task, <const float*>PyArray_DATA(losses), <float*>PyArray_DATA(out))
    else:
        reduce(&task, <const double*>PyArray_DATA(losses), <double*>PyArray_DATA(out))
    return out


def cross_entropy_vjp(g, logits, targets, weight, *, ignore_index, double label_smoothing, str reduction):
    """Kernel of its rule for the logits."""
    cdef Task task
    cdef ndarray out
    cdef int kind
    cdef bint done
    cdef const void* weights
    logits = in_order(logits)
    if logits is None or not read(&task, logits, targets, weight, ignore_index, label_smoothing, reduction):
        return NotImplemented
    kind = PyArray_TYPE(<ndarray>logits)
    if not is_cotangent(g, kind, &task):
        return NotImplemented
    weights = NULL if weight is None else PyArray_DATA(<ndarray>weight)
    out = empty_like(logits)
    task.streams = task.classes <= ROW and PyArray_NBYTES(out) >= STREAMED
    if kind == NPY_FLOAT:
        done = run(
            <float*>PyArray_DATA(out), &task, PyArray_DATA(<ndarray>g), PyArray_DATA(<ndarray>logits), weights,
        )
    else:
        done = run(
            <double*>PyArray_DATA(out), &task, PyArray_DATA(<ndarray>g), PyArray_DATA(<ndarray>logits), weights,
        )
    return out if done else NotImplemented

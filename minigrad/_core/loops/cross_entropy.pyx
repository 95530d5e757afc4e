"""Kernels of cross entropy with class indices: one pass over the rows, not a dozen over the matrix.

Each takes what the generic body or rule takes, without ``xp``, and computes the same. It answers NotImplemented where
it does not take the arguments (another dtype or order in memory, shapes that do not fit, a class that is none); the
generic body then runs, or says what is wrong.
"""
from libc.math cimport INFINITY, log
from numpy cimport (
    NPY_FLOAT, NPY_INT64, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_ISALIGNED, PyArray_ISNOTSWAPPED,
    PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_int64,
    npy_intp,
)

from minigrad._core.loops.math cimport exp_not_positive, largest
from minigrad._core.loops.plain cimport RELEASE_GIL, is_plain, is_real, real

import_array()

cdef enum:
    BLOCK = 256

cdef enum Reduction:
    MEAN
    SUM
    NONE

cdef struct Task:
    npy_intp n                  # rows
    npy_intp classes
    const npy_int64* targets
    bint ignores
    npy_int64 ignored
    double smoothing
    Reduction reduction
    npy_intp step               # elements from one row's cotangent to the next


cdef inline double exponentials(const real* x, real top, real* out, npy_intp n) noexcept nogil:
    """Write exp(x - top) and return the sum."""
    cdef double a = 0.0, b = 0.0, c = 0.0, d = 0.0
    cdef npy_intp j
    for j in range(n):
        out[j] = exp_not_positive(<real>(x[j] - top))
    j = 0
    while j + 4 <= n:
        a += out[j]
        b += out[j + 1]
        c += out[j + 2]
        d += out[j + 3]
        j += 4
    while j < n:
        a += out[j]
        j += 1
    return (a + b) + (c + d)


cdef bint add_weights(const Task* task, const real* weight, double* total) noexcept nogil:
    """The weight of all rows that count; False where the class of one is none."""
    cdef npy_intp i
    cdef npy_int64 t
    total[0] = 0.0
    for i in range(task.n):
        t = task.targets[i]
        if task.ignores and t == task.ignored:
            continue
        if t < 0 or t >= task.classes:
            return False
        total[0] += 1.0 if weight == NULL else weight[t]
    if total[0] == 0:
        total[0] = 1.0
    return True


cdef bint forward(const Task* task, const real* logits, const real* weight, real* out) noexcept nogil:
    """The losses, or what they are reduced to; False for a class that is none or a logit of +inf."""
    cdef real block[BLOCK]
    cdef const real* x
    cdef real top, log_total, loss
    cdef double total, share, weights, reduced = 0.0
    cdef npy_intp i, j
    cdef npy_int64 t
    if not add_weights(task, weight, &weights):
        return False
    for i in range(task.n):
        t = task.targets[i]
        if task.ignores and t == task.ignored:
            if task.reduction == NONE:
                out[i] = 0
            continue
        x = logits + i * task.classes
        top = largest(x, task.classes)
        if top == INFINITY:
            return False
        if top == -INFINITY:
            top = 0
        total = 0.0
        j = 0
        while j < task.classes:
            total += exponentials(x + j, top, block, min(task.classes - j, BLOCK))
            j += BLOCK
        log_total = <real>log(1.0 if total == 0 else total)
        loss = <real>(task.smoothing - 1)
        if weight != NULL:
            loss *= weight[t]
        loss *= (x[t] - top) - log_total
        if task.smoothing != 0:
            share = 0.0
            for j in range(task.classes):
                share += ((x[j] - top) - log_total) * (<real>1 if weight == NULL else weight[j])
            loss += <real>share * <real>(-task.smoothing / task.classes)
        if task.reduction == NONE:
            out[i] = loss
        else:
            reduced += loss
    if task.reduction == MEAN:
        out[0] = <real>reduced / <real>weights
    elif task.reduction == SUM:
        out[0] = <real>reduced
    return True


cdef bint backward(
    const Task* task, const real* g, const real* logits, const real* weight, real* out,
) noexcept nogil:
    """The gradient of the logits; False as in the forward."""
    cdef const real* x
    cdef real* grad
    cdef real top, scale, hit, share, cotangent
    cdef double total, weights, all_classes = task.classes
    cdef npy_intp i, j
    cdef npy_int64 t
    if not add_weights(task, weight, &weights):
        return False
    if weight != NULL:
        all_classes = 0.0
        for j in range(task.classes):
            all_classes += weight[j]
    for i in range(task.n):
        t = task.targets[i]
        grad = out + i * task.classes
        if task.ignores and t == task.ignored:
            for j in range(task.classes):
                grad[j] = 0
            continue
        x = logits + i * task.classes
        top = largest(x, task.classes)
        if top == INFINITY:
            return False
        if top == -INFINITY:
            top = 0
        total = exponentials(x, top, grad, task.classes)
        if total == 0:
            total = 1.0
        cotangent = g[i * task.step]
        if task.reduction == MEAN:
            cotangent /= <real>weights
        hit = <real>(1 - task.smoothing) * cotangent
        if weight != NULL:
            hit *= weight[t]
        share = <real>(task.smoothing / task.classes) * cotangent
        scale = <real>((hit + share * all_classes) / total)
        if task.smoothing == 0:
            for j in range(task.classes):
                grad[j] *= scale
        else:
            for j in range(task.classes):
                grad[j] = grad[j] * scale - share * (<real>1 if weight == NULL else weight[j])
        grad[t] -= hit
    return True


cdef bint run(real* out, const Task* task, const void* g, const void* logits, const void* weight) noexcept:
    """The rule, or the forward where `g` is NULL; a large one without the GIL."""
    cdef bint done
    if task.n * task.classes < RELEASE_GIL:
        if g == NULL:
            return forward(task, <const real*>logits, <const real*>weight, out)
        return backward(task, <const real*>g, <const real*>logits, <const real*>weight, out)
    with nogil:
        if g == NULL:
            done = forward(task, <const real*>logits, <const real*>weight, out)
        else:
            done = backward(task, <const real*>g, <const real*>logits, <const real*>weight, out)
    return done


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





cdef object attempt(
    object g, object logits, object targets, object weight, object ignore_index, double smoothing, str reduction,
):
    """The rule, or the forward where `g` is None, if the arguments fit."""
    cdef Task task
    cdef ndarray out
    cdef int kind
    cdef bint done
    cdef const void* cotangents = NULL
    cdef const void* weights = NULL
    if not is_real(logits) or PyArray_NDIM(<ndarray>logits) != 2 or PyArray_SIZE(<ndarray>logits) == 0:
        return NotImplemented
    kind = PyArray_TYPE(<ndarray>logits)
    task.n, task.classes = PyArray_DIMS(<ndarray>logits)[0], PyArray_DIMS(<ndarray>logits)[1]
    task.smoothing = smoothing
    task.reduction = MEAN if reduction == "mean" else NONE if reduction == "none" else SUM
    if not is_plain(targets, NPY_INT64) or not is_vector(targets, task.n):
        return NotImplemented
    task.targets = <const npy_int64*>PyArray_DATA(<ndarray>targets)
    if weight is not None:
        if not is_plain(weight, kind) or not is_vector(weight, task.classes):
            return NotImplemented
        weights = PyArray_DATA(<ndarray>weight)
    task.ignores = ignore_index is not None
    if task.ignores:
        if type(ignore_index) is not int or not -2**63 <= ignore_index < 2**63:
            return NotImplemented
        task.ignored = ignore_index
    if g is not None:
        if not is_cotangent(g, kind, &task):
            return NotImplemented
        cotangents = PyArray_DATA(<ndarray>g)
        out = <ndarray>PyArray_EMPTY(2, PyArray_DIMS(<ndarray>logits), kind, 0)
    else:
        out = <ndarray>PyArray_EMPTY(1 if task.reduction == NONE else 0, PyArray_DIMS(<ndarray>logits), kind, 0)
    if kind == NPY_FLOAT:
        done = run(<float*>PyArray_DATA(out), &task, cotangents, PyArray_DATA(<ndarray>logits), weights)
    else:
        done = run(<double*>PyArray_DATA(out), &task, cotangents, PyArray_DATA(<ndarray>logits), weights)
    return out if done else NotImplemented


def cross_entropy(logits, targets, weight, *, ignore_index, double label_smoothing, str reduction):
    """Kernel of the op behind ``cross_entropy`` with class indices."""
    return attempt(None, logits, targets, weight, ignore_index, label_smoothing, reduction)


def cross_entropy_vjp(g not None, logits, targets, weight, *, ignore_index, double label_smoothing, str reduction):
    """Kernel of its rule for the logits."""
    return attempt(g, logits, targets, weight, ignore_index, label_smoothing, reduction)

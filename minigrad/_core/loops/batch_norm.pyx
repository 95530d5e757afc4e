"""Kernels of batch normalization, with the statistics of the batch and with given ones, and of group normalization.

A kernel fills a table with a column for each channel: from vectors it is given, from sums over the array, and at last
with the factors of the result.
"""
from libc.math cimport sqrt
from libc.string cimport memset
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE,
    import_array, ndarray, npy_intp,
)

from minigrad._core.loops.channels cimport (
    BIAS, MEAN, MEAN_GRAD, RESULT, ROWS, SHIFT, SLOPE, VAR, VAR_GRAD, WEIGHT, Task, cut, sum_all, write_all,
)
from minigrad._core.loops.plain cimport RELEASE_GIL, alike, empty_like, is_real, real
from minigrad._core.loops.rows cimport in_order

import_array()


cdef void run_sums(real* parts, const Task* task, const void* g, const void* x, double* table) noexcept:
    if task.outer * task.channels * task.inner < RELEASE_GIL:
        sum_all(task, <const real*>g, <const real*>x, table, parts)
    else:
        with nogil:
            sum_all(task, <const real*>g, <const real*>x, table, parts)


cdef void run_write(
    real* out, const Task* task, const void* g, const void* x, const double* table, void* spread,
) noexcept:
    if task.outer * task.channels * task.inner < RELEASE_GIL:
        write_all(task, <const real*>g, <const real*>x, table, <real*>spread, out)
    else:
        with nogil:
            write_all(task, <const real*>g, <const real*>x, table, <real*>spread, out)


cdef inline void* data(object x):
    return NULL if x is None else PyArray_DATA(<ndarray>x)


cdef int channel_axis(object x, object axis) except -2:
    """The axis of the channels, counted from the front; -1 where there is none or nothing to compute."""
    cdef int ndim
    if not is_real(x) or type(axis) is not int or PyArray_SIZE(<ndarray>x) == 0:
        return -1
    ndim = PyArray_NDIM(<ndarray>x)
    return axis % ndim if -ndim <= axis < ndim else -1


cdef bint load(double* row, object values, ndarray x, npy_intp channels, double default):
    """Copy a vector of the dtype of `x`, or the default, into the table; False where it does not fit."""
    cdef npy_intp c
    if values is None:
        for c in range(channels):
            row[c] = default
        return True
    if not is_real(values) or PyArray_TYPE(<ndarray>values) != PyArray_TYPE(x):
        return False
    if PyArray_NDIM(<ndarray>values) != 1 or PyArray_SIZE(<ndarray>values) != channels:
        return False
    for c in range(channels):
        row[c] = (
            (<float*>PyArray_DATA(<ndarray>values))[c] if PyArray_TYPE(x) == NPY_FLOAT
            else (<double*>PyArray_DATA(<ndarray>values))[c]
        )
    return True


cdef ndarray store(const double* row, ndarray x, npy_intp channels):
    """A row of the table as a vector of the dtype of `x`."""
    cdef ndarray out = <ndarray>PyArray_EMPTY(1, &channels, PyArray_TYPE(x), 0)
    cdef npy_intp c
    for c in range(channels):
        if PyArray_TYPE(x) == NPY_FLOAT:
            (<float*>PyArray_DATA(out))[c] = <float>row[c]
        else:
            (<double*>PyArray_DATA(out))[c] = row[c]
    return out


cdef ndarray new_table(npy_intp channels):
    cdef npy_intp size = ROWS * channels
    cdef ndarray table = <ndarray>PyArray_EMPTY(1, &size, NPY_DOUBLE, 0)
    memset(PyArray_DATA(table), 0, size * sizeof(double))
    return table


cdef void take_sums(const Task* task, object g, ndarray x, double* table):
    cdef npy_intp size = (2 if g is None else 4) * task.blocks * task.channels * task.pieces
    cdef ndarray parts = <ndarray>PyArray_EMPTY(1, &size, PyArray_TYPE(x), 0)
    if PyArray_TYPE(x) == NPY_FLOAT:
        run_sums(<float*>PyArray_DATA(parts), task, data(g), data(x), table)
    else:
        run_sums(<double*>PyArray_DATA(parts), task, data(g), data(x), table)


cdef ndarray write(const Task* task, object g, ndarray x, const double* table):
    cdef ndarray out = empty_like(x), spread = None
    cdef npy_intp size = 4 * task.channels * task.inner
    if task.columns:
        spread = <ndarray>PyArray_EMPTY(1, &size, PyArray_TYPE(x), 0)
    if PyArray_TYPE(x) == NPY_FLOAT:
        run_write(<float*>PyArray_DATA(out), task, data(g), data(x), table, data(spread))
    else:
        run_write(<double*>PyArray_DATA(out), task, data(g), data(x), table, data(spread))
    return out


cdef void affine(double* table, npy_intp channels, double eps) noexcept:
    """The factors of the forward."""
    cdef npy_intp c
    for c in range(channels):
        table[RESULT * channels + c] = table[MEAN * channels + c]
        table[(RESULT + 2) * channels + c] = table[WEIGHT * channels + c] / sqrt(table[VAR * channels + c] + eps)
        table[(RESULT + 3) * channels + c] = table[BIAS * channels + c]


def batch_norm(x, mean, var, weight, bias, *, double eps, axis):
    """Kernel of the op ``batch_norm``."""
    cdef ndarray given = in_order(x)
    cdef int place = channel_axis(given, axis)
    cdef npy_intp n
    cdef Task task
    cdef double* table
    if place < 0 or mean is None or var is None:
        return NotImplemented
    task = cut(given, place)
    n = task.channels
    kept = new_table(n)
    table = <double*>data(kept)
    if not load(table + MEAN * n, mean, given, n, 0.0) or not load(table + VAR * n, var, given, n, 1.0):
        return NotImplemented
    if not load(table + WEIGHT * n, weight, given, n, 1.0) or not load(table + BIAS * n, bias, given, n, 0.0):
        return NotImplemented
    affine(table, n, eps)
    return write(&task, None, given, table)


def batch_norm_vjp(g, x, mean, var, weight, *, double eps, axis):
    """Kernel of its joint rule."""
    cdef ndarray given = in_order(x), cotangent = in_order(g)
    cdef int place = channel_axis(given, axis)
    cdef npy_intp c, n
    cdef Task task
    cdef double* table
    cdef double scale
    if place < 0 or mean is None or var is None or not alike(cotangent, given):
        return NotImplemented
    task = cut(given, place)
    n = task.channels
    kept = new_table(n)
    table = <double*>data(kept)
    if not load(table + MEAN * n, mean, given, n, 0.0) or not load(table + VAR * n, var, given, n, 1.0):
        return NotImplemented
    if not load(table + WEIGHT * n, weight, given, n, 1.0):
        return NotImplemented
    task.given, task.has_x, task.has_g = True, False, True
    take_sums(&task, cotangent, given, table)
    for c in range(n):
        scale = 1 / sqrt(table[VAR * n + c] + eps)
        table[(RESULT + 1) * n + c] = scale * table[WEIGHT * n + c]
        table[MEAN_GRAD * n + c] = -scale * table[WEIGHT * n + c] * table[SHIFT * n + c]
        table[VAR_GRAD * n + c] = -0.5 * scale**3 * table[WEIGHT * n + c] * table[SLOPE * n + c]
        table[SLOPE * n + c] *= scale
    return (
        write(&task, cotangent, given, table), store(table + MEAN_GRAD * n, given, n),
        store(table + VAR_GRAD * n, given, n), store(table + SLOPE * n, given, n), store(table + SHIFT * n, given, n),
    )


def batch_norm_training(x, weight, bias, *, double eps, axis):
    """Kernel of the op behind ``batch_norm_training``."""
    cdef ndarray given = in_order(x)
    cdef int place = channel_axis(given, axis)
    cdef npy_intp n
    cdef Task task
    cdef double* table
    if place < 0:
        return NotImplemented
    task = cut(given, place)
    n = task.channels
    kept = new_table(n)
    table = <double*>data(kept)
    if not load(table + WEIGHT * n, weight, given, n, 1.0) or not load(table + BIAS * n, bias, given, n, 0.0):
        return NotImplemented
    take_sums(&task, None, given, table)
    affine(table, n, eps)
    return write(&task, None, given, table), store(table + MEAN * n, given, n), store(table + VAR * n, given, n)


def batch_norm_training_vjp(tuple g not None, x, weight, *, double eps, axis):
    """Kernel of its joint rule."""
    cdef ndarray given = in_order(x), cotangent = in_order(g[0])
    cdef int place = channel_axis(given, axis)
    cdef npy_intp c, n
    cdef Task task
    cdef double* table
    cdef double scale, total
    if place < 0 or not alike(cotangent, given):
        return NotImplemented
    task = cut(given, place)
    n = task.channels
    kept = new_table(n)
    table = <double*>data(kept)
    if not load(table + MEAN_GRAD * n, g[1], given, n, 0.0) or not load(table + VAR_GRAD * n, g[2], given, n, 0.0):
        return NotImplemented
    if not load(table + WEIGHT * n, weight, given, n, 1.0):
        return NotImplemented
    task.has_g = True
    take_sums(&task, cotangent, given, table)
    total = task.outer * task.inner
    for c in range(n):
        scale = 1 / sqrt(table[VAR * n + c] + eps)
        table[SLOPE * n + c] *= scale
        table[RESULT * n + c] = table[MEAN * n + c]
        table[(RESULT + 1) * n + c] = scale * table[WEIGHT * n + c]
        table[(RESULT + 2) * n + c] = (
            2 * table[VAR_GRAD * n + c] - scale * scale * table[WEIGHT * n + c] * table[SLOPE * n + c]
        ) / total
        table[(RESULT + 3) * n + c] = (
            table[MEAN_GRAD * n + c] - scale * table[WEIGHT * n + c] * table[SHIFT * n + c]
        ) / total
    return (
        write(&task, cotangent, given, table), store(table + SLOPE * n, given, n), store(table + SHIFT * n, given, n)
    )


# ---- groups: the channels of the samples, each a row with a scale and a shift of its own ------------------------------

cdef ndarray rows_of_groups(ndarray x, object weight, object bias, object num_groups):
    """A table with a column for each channel of each sample: statistics of its group, weight and bias; or None."""
    cdef npy_intp batch, channels, groups, rows, r, size
    cdef ndarray stats, kept
    cdef double* table
    cdef const double* found
    cdef Task task
    if not is_real(x) or type(num_groups) is not int or PyArray_NDIM(x) < 2 or PyArray_SIZE(x) == 0:
        return None
    batch, channels = PyArray_DIMS(x)[0], PyArray_DIMS(x)[1]
    if not 0 < num_groups <= channels or channels % num_groups != 0:
        return None
    groups, rows = batch * <npy_intp>num_groups, batch * channels
    size = channels // <npy_intp>num_groups
    kept, stats = new_table(rows), new_table(groups)
    table, found = <double*>data(kept), <const double*>data(stats)
    if not load(table + WEIGHT * rows, weight, x, channels, 1.0) or not load(table + BIAS * rows, bias, x, channels, 0.0):
        return None
    task = cut(x.reshape(1, groups, -1), 1)
    take_sums(&task, None, x, <double*>data(stats))
    for r in range(rows):
        table[MEAN * rows + r] = found[MEAN * groups + r // size]
        table[VAR * rows + r] = found[VAR * groups + r // size]
    for r in range(channels, rows):
        table[WEIGHT * rows + r] = table[WEIGHT * rows + r - channels]
        table[BIAS * rows + r] = table[BIAS * rows + r - channels]
    return kept


def group_norm(x, weight, bias, *, num_groups, double eps):
    """Kernel of the op behind ``group_norm``."""
    cdef ndarray given = in_order(x), kept = rows_of_groups(given, weight, bias, num_groups)
    cdef npy_intp rows
    cdef Task task
    if kept is None:
        return NotImplemented
    rows = PyArray_DIMS(given)[0] * PyArray_DIMS(given)[1]
    task = cut(given.reshape(1, rows, -1), 1)
    affine(<double*>data(kept), rows, eps)
    return write(&task, None, given, <const double*>data(kept))


def group_norm_vjp(g, x, weight, *, num_groups, double eps):
    """Kernel of its joint rule."""
    cdef ndarray given = in_order(x), cotangent = in_order(g), kept, dx
    cdef npy_intp rows, channels, size, first, r
    cdef Task task
    cdef double* table
    cdef double scale, shift, slope, total
    if not is_real(given) or not alike(cotangent, given):
        return NotImplemented
    kept = rows_of_groups(given, weight, None, num_groups)
    if kept is None:
        return NotImplemented
    channels = PyArray_DIMS(given)[1]
    rows, size = PyArray_DIMS(given)[0] * channels, channels // <npy_intp>num_groups
    table = <double*>data(kept)
    task = cut(given.reshape(1, rows, -1), 1)
    task.given, task.has_g = True, True
    take_sums(&task, cotangent, given, table)
    total = size * task.inner
    for first in range(0, rows, size):
        shift = slope = 0
        for r in range(first, first + size):
            shift += table[WEIGHT * rows + r] * table[SHIFT * rows + r]
            slope += table[WEIGHT * rows + r] * table[SLOPE * rows + r]
        scale = 1 / sqrt(table[VAR * rows + first] + eps)
        for r in range(first, first + size):
            table[SLOPE * rows + r] *= scale
            table[RESULT * rows + r] = table[MEAN * rows + r]
            table[(RESULT + 1) * rows + r] = scale * table[WEIGHT * rows + r]
            table[(RESULT + 2) * rows + r] = -scale * scale * scale * slope / total
            table[(RESULT + 3) * rows + r] = -scale * shift / total
    dx = write(&task, cotangent, given, table)
    for r in range(channels, rows):    # the sums over the samples, in their order
        table[SLOPE * rows + r % channels] += table[SLOPE * rows + r]
        table[SHIFT * rows + r % channels] += table[SHIFT * rows + r]
    return (
        dx, None if weight is None else store(table + SLOPE * rows, given, channels),
        store(table + SHIFT * rows, given, channels),
    )

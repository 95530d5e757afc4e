"""Kernel of rotary embedding: pairs of features are turned in one pass, in whatever order the rows lie.

Queries and keys come as views with the heads before the length, and the result keeps their order in memory, so that
the projections' gradients need no copy.
"""
from cython.parallel cimport prange
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED_RO, PyArray_ITEMSIZE, PyArray_NDIM,
    PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_intp,
)

import numpy as np

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, real, same_shape

import_array()

cdef enum:
    AXES = 4          # of queries and keys: batch, heads, length, features
    CHUNK = 16_384    # elements that one thread takes at a time

cdef struct Layout:
    npy_intp rows
    npy_intp features
    npy_intp pairs
    npy_intp heads
    npy_intp length
    npy_intp x[3]     # bytes from one sequence, head and token to the next
    npy_intp out[3]
    npy_intp cos[3]   # 0 where all have the same
    npy_intp sin[3]
    bint interleaved


cdef inline void turn_halves(
    const real* x, const real* cos, const real* sin, real* out, npy_intp pairs, real sign,
) noexcept nogil:
    cdef npy_intp j
    for j in range(pairs):
        out[j] = x[j] * cos[j] - x[j + pairs] * (sign * sin[j])
    for j in range(pairs):
        out[j + pairs] = x[j + pairs] * cos[j] + x[j] * (sign * sin[j])


cdef inline void turn_neighbours(
    const real* x, const real* cos, const real* sin, real* out, npy_intp pairs, real sign,
) noexcept nogil:
    cdef npy_intp j
    cdef real first, second, s
    for j in range(pairs):
        first, second, s = x[2 * j], x[2 * j + 1], sign * sin[j]
        out[2 * j] = first * cos[j] - second * s
        out[2 * j + 1] = second * cos[j] + first * s


cdef void turn_rows(
    npy_intp start, npy_intp stop, const Layout* at, const char* x, const char* cos, const char* sin, char* out,
    real sign,
) noexcept nogil:
    """Turn some rows, by the angles or, with the sign -1, back."""
    cdef npy_intp row, b, h, i, j
    cdef const real* source
    cdef const real* c
    cdef const real* s
    cdef real* target
    for row in range(start, stop):
        i, h = row % at.length, row // at.length
        b, h = h // at.heads, h % at.heads
        source = <const real*>(x + b * at.x[0] + h * at.x[1] + i * at.x[2])
        c = <const real*>(cos + b * at.cos[0] + h * at.cos[1] + i * at.cos[2])
        s = <const real*>(sin + b * at.sin[0] + h * at.sin[1] + i * at.sin[2])
        target = <real*>(out + b * at.out[0] + h * at.out[1] + i * at.out[2])
        if at.interleaved:
            turn_neighbours(source, c, s, target, at.pairs, sign)
        else:
            turn_halves(source, c, s, target, at.pairs, sign)
        for j in range(2 * at.pairs, at.features):
            target[j] = source[j]


cdef void turn_all(
    const Layout* at, const char* x, const char* cos, const char* sin, char* out, real sign,
) noexcept nogil:
    cdef npy_intp piece, step = max(1, CHUNK // at.features)
    cdef npy_intp pieces = (at.rows + step - 1) // step
    cdef int threads = threads_for(at.rows * at.features)
    for piece in prange(pieces, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        turn_rows(piece * step, min((piece + 1) * step, at.rows), at, x, cos, sin, out, sign)


cdef void run(
    const Layout* at, const void* x, const void* cos, const void* sin, void* out, real sign,
) noexcept:
    if at.rows * at.features < RELEASE_GIL:
        turn_rows(0, at.rows, at, <const char*>x, <const char*>cos, <const char*>sin, <char*>out, sign)
    else:
        with nogil:
            turn_all(at, <const char*>x, <const char*>cos, <const char*>sin, <char*>out, sign)


cdef bint steps_of(ndarray a, ndarray x, npy_intp* steps):
    """The strides of an array that broadcasts to the rows of `x`; False where its features do not lie together."""
    cdef int n = PyArray_NDIM(a), own, k
    cdef npy_intp extent
    if PyArray_DIMS(a)[n - 1] > 1 and PyArray_STRIDES(a)[n - 1] != PyArray_ITEMSIZE(a):
        return False
    if n > PyArray_NDIM(x):
        return False
    for k in range(3):
        own = n - AXES + k
        steps[k] = 0
        if own < 0:
            continue
        extent = PyArray_DIMS(a)[own]
        if extent != 1:
            if extent != PyArray_DIMS(x)[PyArray_NDIM(x) - AXES + k]:
                return False
            steps[k] = PyArray_STRIDES(a)[own]
    return True


cdef object turned(object x, object cos, object sin, bint interleaved, double sign):
    """The pairs of x turned, or NotImplemented."""
    cdef Layout at
    cdef ndarray given, c, s, out
    cdef int kind, n
    if type(x) is not ndarray or type(cos) is not ndarray or type(sin) is not ndarray:
        return NotImplemented
    given, c, s = <ndarray>x, <ndarray>cos, <ndarray>sin
    kind, n = PyArray_TYPE(given), PyArray_NDIM(given)
    if (kind != NPY_FLOAT and kind != NPY_DOUBLE) or PyArray_TYPE(c) != kind or PyArray_TYPE(s) != kind:
        return NotImplemented
    if not 2 <= n <= AXES or PyArray_SIZE(given) == 0 or PyArray_NDIM(c) < 1:
        return NotImplemented
    if not (PyArray_ISBEHAVED_RO(given) and PyArray_ISBEHAVED_RO(c) and PyArray_ISBEHAVED_RO(s)):
        return NotImplemented
    at.features = PyArray_DIMS(given)[n - 1]
    at.pairs = PyArray_DIMS(c)[PyArray_NDIM(c) - 1]
    if 2 * at.pairs > at.features or not same_shape(c, s):
        return NotImplemented
    if not (steps_of(given, given, at.x) and steps_of(c, given, at.cos) and steps_of(s, given, at.sin)):
        return NotImplemented
    out = np.empty_like(x)
    if not steps_of(out, given, at.out):
        return NotImplemented
    at.length = PyArray_DIMS(given)[n - 2]
    at.heads = PyArray_DIMS(given)[n - 3] if n > 2 else 1
    at.rows = PyArray_SIZE(given) // at.features
    at.interleaved = interleaved
    if kind == NPY_FLOAT:
        run[float](&at, PyArray_DATA(given), PyArray_DATA(c), PyArray_DATA(s), PyArray_DATA(out), <float>sign)
    else:
        run[double](&at, PyArray_DATA(given), PyArray_DATA(c), PyArray_DATA(s), PyArray_DATA(out), sign)
    return out


def rotary(x, cos, sin, *, interleaved):
    """Kernel of the op ``rotary_embedding``."""
    return turned(x, cos, sin, interleaved, 1.0)


def rotary_vjp(g, cos, sin, *, interleaved):
    """Kernel of its rule for x."""
    return turned(g, cos, sin, interleaved, -1.0)

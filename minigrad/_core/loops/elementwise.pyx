"""Kernels of elementwise functions: one pass over the array, not one for every term of a formula."""
from cython.parallel cimport prange
from numpy cimport NPY_FLOAT, PyArray_DATA, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, alike, empty_like, is_real, real

import_array()

cdef enum:
    CHUNK = 16_384  # elements that one thread takes at a time


cdef void relu_loop(const real* g, const real* x, real* out, npy_intp n) noexcept nogil:
    """The elements of `g` where x > 0, else 0; without `g` those of `x`, and NaN too."""
    cdef npy_intp i
    cdef real value
    if g == NULL:
        for i in range(n):
            out[i] = 0 if x[i] <= 0 else x[i]
    else:
        for i in range(n):
            value = g[i]  # loaded in any case: a conditional load would keep the compiler from making vectors
            out[i] = value if x[i] > 0 else 0


cdef void relu_chunk(npy_intp start, const real* g, const real* x, real* out, npy_intp n) noexcept nogil:
    n = min(CHUNK, n - start)
    if g == NULL:
        relu_loop[real](NULL, x + start, out + start, n)
    else:
        relu_loop(g + start, x + start, out + start, n)


cdef void relu_all(const real* g, const real* x, real* out, npy_intp n) noexcept nogil:
    cdef npy_intp start
    cdef int threads = threads_for(n)
    for start in prange(0, n, CHUNK, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        relu_chunk(start, g, x, out, n)


cdef void relu_run(real* out, const void* g, const void* x, npy_intp n) noexcept:
    if n < RELEASE_GIL:
        relu_loop(<const real*>g, <const real*>x, out, n)
    else:
        with nogil:
            relu_all(<const real*>g, <const real*>x, out, n)


cdef ndarray relu_new(const void* g, ndarray x):
    cdef ndarray out = empty_like(x)
    if PyArray_TYPE(x) == NPY_FLOAT:
        relu_run(<float*>PyArray_DATA(out), g, PyArray_DATA(x), PyArray_SIZE(x))
    else:
        relu_run(<double*>PyArray_DATA(out), g, PyArray_DATA(x), PyArray_SIZE(x))
    return out


def relu(x):
    """Kernel of the op ``relu``."""
    return relu_new(NULL, <ndarray>x) if is_real(x) else NotImplemented


def relu_vjp(g, out):
    """Kernel of its rule."""
    if not is_real(out) or not alike(g, out):
        return NotImplemented
    return relu_new(PyArray_DATA(<ndarray>g), <ndarray>out)

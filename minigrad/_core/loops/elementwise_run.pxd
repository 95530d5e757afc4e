"""Running loops over the elements of an array, on threads and without the GIL where it is large.

All loops have one signature: `x` is the function's input or, for a rule that saves it, its output; `g` is the
cotangent, which the loop of a forward ignores; `a` and `b` are parameters of the function. A kernel hands the loops of
both dtypes to `forward` or `backward`.
"""
from cython.parallel cimport prange
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_ISALIGNED, PyArray_ISNOTSWAPPED, PyArray_NDIM,
    PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, empty_like, is_plain, is_real, real, same_shape

cdef enum:
    CHUNK = 8_192  # elements that one thread takes at a time

ctypedef void (*Loop)(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil
ctypedef void (*Loop4)(const float* g, const float* x, float* out, npy_intp n, float a, float b) noexcept nogil
ctypedef void (*Loop8)(const double* g, const double* x, double* out, npy_intp n, double a, double b) noexcept nogil


cdef inline void run(
    Loop loop, const real* g, npy_intp step, const real* x, real* out, npy_intp n, real a, real b,
) noexcept:
    """Chunk by chunk; `step` is 1, or 0 where one chunk of `g` serves all."""
    cdef npy_intp start
    cdef int threads
    if n < RELEASE_GIL:
        for start in range(0, n, CHUNK):
            loop(g + step * start, x + start, out + start, min(CHUNK, n - start), a, b)
        return
    with nogil:
        threads = threads_for(n)
        for start in prange(0, n, CHUNK, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
            loop(g + step * start, x + start, out + start, min(CHUNK, n - start), a, b)


cdef inline ndarray new(ndarray g, npy_intp step, ndarray x, Loop4 loop4, Loop8 loop8, double a, double b):
    cdef ndarray out = empty_like(x)
    cdef npy_intp n = PyArray_SIZE(x)
    if PyArray_TYPE(x) == NPY_FLOAT:
        run[float](
            loop4, <const float*>PyArray_DATA(g), step, <const float*>PyArray_DATA(x), <float*>PyArray_DATA(out), n,
            <float>a, <float>b,
        )
    else:
        run[double](
            loop8, <const double*>PyArray_DATA(g), step, <const double*>PyArray_DATA(x), <double*>PyArray_DATA(out), n,
            a, b,
        )
    return out


cdef inline object forward(object x, Loop4 loop4, Loop8 loop8, double a=0, double b=0):
    """The function's kernel."""
    return new(<ndarray>x, 1, <ndarray>x, loop4, loop8, a, b) if is_real(x) else NotImplemented


cdef inline void fill(real* out, npy_intp n, real value) noexcept:
    cdef npy_intp i
    for i in range(n):
        out[i] = value


cdef inline bint is_expanded(ndarray g):
    """Whether `g` is one number for all elements, as the rule of a sum makes it."""
    cdef int axis
    for axis in range(PyArray_NDIM(g)):
        if PyArray_DIMS(g)[axis] != 1 and PyArray_STRIDES(g)[axis] != 0:
            return False
    return PyArray_ISALIGNED(g) and PyArray_ISNOTSWAPPED(g)


cdef inline object backward(object g, object x, Loop4 loop4, Loop8 loop8, double a=0, double b=0):
    """The kernel of the function's rule."""
    cdef npy_intp n
    cdef ndarray chunk
    if not is_real(x) or type(g) is not ndarray or PyArray_TYPE(<ndarray>g) != PyArray_TYPE(<ndarray>x):
        return NotImplemented
    if not same_shape(g, x):
        return NotImplemented
    if is_plain(g, PyArray_TYPE(<ndarray>x)):
        return new(<ndarray>g, 1, <ndarray>x, loop4, loop8, a, b)
    if not is_expanded(<ndarray>g):
        return NotImplemented
    n = min(CHUNK, PyArray_SIZE(<ndarray>x))
    chunk = <ndarray>PyArray_EMPTY(1, &n, PyArray_TYPE(<ndarray>x), 0)
    if PyArray_TYPE(chunk) == NPY_FLOAT:
        fill(<float*>PyArray_DATA(chunk), n, (<const float*>PyArray_DATA(<ndarray>g))[0])
    else:
        fill(<double*>PyArray_DATA(chunk), n, (<const double*>PyArray_DATA(<ndarray>g))[0])
    return new(chunk, 0, <ndarray>x, loop4, loop8, a, b)

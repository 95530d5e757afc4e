"""Kernels of convolution over one or two axes, of its transpose, and of the gradient of the weight."""
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array,
    ndarray, npy_intp,
)

from minigrad._core.blas cimport has_blas
from minigrad._core.loops.convolve cimport convolve, flip, inner, spread, sum_windows
from minigrad._core.loops.panels cimport MG_HAS_PANELS
from minigrad._core.loops.plain cimport is_plain, real
from minigrad._core.loops.rows cimport in_order
from minigrad._core.loops.windows cimport BLOCK, Windows, read_axes

import_array()


# ---- from arrays to windows ------------------------------------------------------------------------------------------

cdef bint read(
    Windows* p, object geometry, npy_intp n, npy_intp channels, npy_intp units, tuple extents, tuple kernel,
) except -1:
    """Describe the convolution of an image; False where there is nothing to compute, or it is left to the generic
    body."""
    cdef npy_intp groups = geometry[3]
    if not read_axes(p, extents, kernel, geometry[0], geometry[1], geometry[2]):
        return False
    if groups < 1 or channels % groups or units % groups or n * channels * units == 0:
        return False
    p.n, p.groups, p.c, p.o = n, groups, channels // groups, units // groups
    return MG_HAS_PANELS or has_blas(max(inner(p), p.o, p.oh * p.ow, BLOCK))


cdef inline void flatten(Windows* p) noexcept:
    """Of windows of one pixel, all pixels may lie in one row."""
    if p.kh * p.kw == 1 and p.sh * p.sw == 1 and p.h == p.oh and p.w == p.ow and p.ph == 0 and p.pw == 0:
        p.w = p.ow = p.h * p.w
        p.h = p.oh = 1


cdef inline tuple spatial(ndarray x):
    return (<object>x).shape[2:]


cdef inline bint is_vector(object bias, ndarray x, npy_intp n):
    return bias is None or (
        is_plain(bias, PyArray_TYPE(x)) and PyArray_NDIM(<ndarray>bias) == 1 and PyArray_SIZE(<ndarray>bias) == n
    )


cdef inline bint are_images(ndarray x, ndarray y):
    """Whether both are arrays of one dtype and number of axes, and at least three."""
    return (
        x is not None and y is not None and PyArray_TYPE(x) == PyArray_TYPE(y) and PyArray_NDIM(x) == PyArray_NDIM(y)
        and PyArray_NDIM(x) > 2
    )


cdef inline void* data(object x) noexcept:
    return NULL if x is None else PyArray_DATA(<ndarray>x)


cdef ndarray result(ndarray x, npy_intp n, npy_intp channels, npy_intp high, npy_intp wide):
    """A new array (n, channels, high, wide), or (n, channels, wide) where x has three axes."""
    cdef npy_intp[4] dims
    cdef bint plane = PyArray_NDIM(x) == 4
    dims[0], dims[1], dims[2], dims[3] = n, channels, high if plane else wide, wide
    return <ndarray>PyArray_EMPTY(3 + plane, dims, PyArray_TYPE(x), 0)


# ---- kernels ---------------------------------------------------------------------------------------------------------

cdef bint run_convolve(const Windows* p, const void* x, const void* weight, const void* bias, real* y) noexcept:
    with nogil:
        return convolve(p, <const real*>x, <const real*>weight, <const real*>bias, y)


cdef bint run_spread(const Windows* p, const void* y, const void* weight, const void* bias, real* x) noexcept:
    with nogil:
        return spread(p, <const real*>y, <const real*>weight, <const real*>bias, x)


cdef bint run_sum(const Windows* p, const void* x, const void* y, real* weight) noexcept:
    with nogil:
        return sum_windows(p, <const real*>x, <const real*>y, weight)


cdef object convolved(object x, object weight, object bias, object geometry):
    cdef ndarray given = in_order(x), matrix = in_order(weight), out
    cdef Windows p
    cdef bint done
    if not are_images(given, matrix) or not is_vector(bias, given, PyArray_DIMS(matrix)[0]):
        return NotImplemented
    if not read(
        &p, geometry, PyArray_DIMS(given)[0], PyArray_DIMS(given)[1], PyArray_DIMS(matrix)[0], spatial(given),
        spatial(matrix),
    ) or p.c != PyArray_DIMS(matrix)[1]:
        return NotImplemented
    out = result(given, p.n, p.groups * p.o, p.oh, p.ow)
    flatten(&p)
    if PyArray_TYPE(given) == NPY_FLOAT:
        done = run_convolve(&p, data(given), data(matrix), data(bias), <float*>data(out))
    else:
        done = run_convolve(&p, data(given), data(matrix), data(bias), <double*>data(out))
    return out if done else NotImplemented


cdef object transposed(object y, object weight, object bias, tuple extents, object geometry):
    cdef ndarray given = in_order(y), matrix = in_order(weight), out, flipped
    cdef Windows p, q
    cdef bint done
    if not are_images(given, matrix) or len(extents) != PyArray_NDIM(given) - 2:
        return NotImplemented
    if not read(
        &p, geometry, PyArray_DIMS(given)[0], PyArray_DIMS(matrix)[1] * <npy_intp>geometry[3], PyArray_DIMS(given)[1],
        extents, spatial(matrix),
    ) or PyArray_DIMS(matrix)[0] != p.groups * p.o or not is_vector(bias, given, p.groups * p.c):
        return NotImplemented
    if PyArray_SIZE(given) != p.n * p.groups * p.o * p.oh * p.ow or PyArray_DIMS(given)[2] != (
        p.oh if PyArray_NDIM(given) == 4 else p.ow
    ):
        return NotImplemented
    out = result(given, p.n, p.groups * p.c, p.h, p.w)
    if p.sh == 1 and p.sw == 1:    # a convolution too, of the flipped weight
        q = p
        q.c, q.o, q.h, q.w, q.oh, q.ow = p.o, p.c, p.oh, p.ow, p.h, p.w
        q.ph, q.pw = p.dh * (p.kh - 1) - p.ph, p.dw * (p.kw - 1) - p.pw
        flatten(&q)
        flipped = <ndarray>PyArray_EMPTY(PyArray_NDIM(matrix), PyArray_DIMS(matrix), PyArray_TYPE(matrix), 0)
        if PyArray_TYPE(given) == NPY_FLOAT:
            flip(&p, <const float*>data(matrix), <float*>data(flipped))
            done = run_convolve(&q, data(given), data(flipped), data(bias), <float*>data(out))
        else:
            flip(&p, <const double*>data(matrix), <double*>data(flipped))
            done = run_convolve(&q, data(given), data(flipped), data(bias), <double*>data(out))
    elif PyArray_TYPE(given) == NPY_FLOAT:
        done = run_spread(&p, data(given), data(matrix), data(bias), <float*>data(out))
    else:
        done = run_spread(&p, data(given), data(matrix), data(bias), <double*>data(out))
    return out if done else NotImplemented


cdef object summed(object x, object y, tuple kernel, object geometry):
    cdef ndarray given = in_order(x), results = in_order(y), out
    cdef Windows p
    cdef bint done
    if not are_images(given, results) or PyArray_DIMS(given)[0] != PyArray_DIMS(results)[0]:
        return NotImplemented
    if not read(
        &p, geometry, PyArray_DIMS(given)[0], PyArray_DIMS(given)[1], PyArray_DIMS(results)[1], spatial(given), kernel
    ):
        return NotImplemented
    if PyArray_SIZE(results) != p.n * p.groups * p.o * p.oh * p.ow or PyArray_DIMS(results)[2] != (
        p.oh if PyArray_NDIM(results) == 4 else p.ow
    ):
        return NotImplemented
    out = result(given, p.groups * p.o, p.c, p.kh, p.kw)
    flatten(&p)
    if PyArray_TYPE(given) == NPY_FLOAT:
        done = run_sum(&p, data(given), data(results), <float*>data(out))
    else:
        done = run_sum(&p, data(given), data(results), <double*>data(out))
    return out if done else NotImplemented


def conv(x, weight, bias, *, geometry):
    """Kernel of the op ``conv``."""
    return convolved(x, weight, bias, geometry)


def conv_vjp0(g, tuple x_shape not None, weight, *, geometry):
    """Kernel of its rule for x."""
    return transposed(g, weight, None, x_shape[2:], geometry)


def conv_vjp1(g, x, tuple weight_shape not None, *, geometry):
    """Kernel of its rule for the weight."""
    return summed(x, g, weight_shape[2:], geometry)


def conv_transpose(x, weight, bias, *, tuple extents not None, geometry):
    """Kernel of the op ``conv_transpose``."""
    return transposed(x, weight, bias, extents, geometry)


def conv_transpose_vjp0(g, weight, *, geometry):
    """Kernel of its rule for x."""
    return convolved(g, weight, None, geometry)


def conv_transpose_vjp1(g, x, tuple weight_shape not None, *, geometry):
    """Kernel of its rule for the weight."""
    return summed(g, x, weight_shape[2:], geometry)


def conv_kernel(x, y, *, tuple kernel not None, geometry):
    """Kernel of the op ``conv_kernel``."""
    return summed(x, y, kernel, geometry)


def conv_kernel_vjp0(g, tuple x_shape not None, y, *, geometry):
    """Kernel of its rule for x."""
    return transposed(y, g, None, x_shape[2:], geometry)


def conv_kernel_vjp1(g, x, *, geometry):
    """Kernel of its rule for y."""
    return convolved(x, g, None, geometry)

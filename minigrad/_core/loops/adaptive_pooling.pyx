"""Kernels of adaptive mean pooling: the means of parts that cover one or two axes evenly, a row of parts at a time."""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_EMPTY, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport real
from minigrad._core.loops.rows cimport in_order

import_array()

cdef struct Parts:
    npy_intp n, h, w, oh, ow    # images, their rows and columns, and those of parts
    npy_intp* left              # where the columns of each part start,
    npy_intp* right             # and where they end


cdef inline npy_intp first(npy_intp i, npy_intp extent, npy_intp size) noexcept nogil:
    """Where part i of an axis starts."""
    return i * extent // size


cdef inline npy_intp last(npy_intp i, npy_intp extent, npy_intp size) noexcept nogil:
    """Where it ends."""
    return ((i + 1) * extent + size - 1) // size


cdef inline void take_means(const Parts* p, const real* x, real* sums, real* out) noexcept nogil:
    """The means of one image: its rows are added up, then the columns of each part."""
    cdef npy_intp i, j, row, column, top, bottom, left, right
    cdef real total
    for i in range(p.oh):
        top, bottom = first(i, p.h, p.oh), last(i, p.h, p.oh)
        for column in range(p.w):
            sums[column] = x[top * p.w + column]
        for row in range(top + 1, bottom):
            for column in range(p.w):
                sums[column] += x[row * p.w + column]
        for j in range(p.ow):
            left, right = p.left[j], p.right[j]
            total = 0
            for column in range(left, right):
                total += sums[column]
            out[i * p.ow + j] = total / <real>((bottom - top) * (right - left))


cdef inline void share_means(const Parts* p, const real* g, real* shares, real* slope) noexcept nogil:
    """What the elements of one image get of the cotangents of its means."""
    cdef npy_intp i, j, row, column, top, bottom, left, right
    cdef real share
    memset(slope, 0, p.h * p.w * sizeof(real))
    for i in range(p.oh):
        top, bottom = first(i, p.h, p.oh), last(i, p.h, p.oh)
        memset(shares, 0, p.w * sizeof(real))
        for j in range(p.ow):
            left, right = p.left[j], p.right[j]
            share = g[i * p.ow + j] / <real>((bottom - top) * (right - left))
            for column in range(left, right):
                shares[column] += share
        for row in range(top, bottom):
            for column in range(p.w):
                slope[row * p.w + column] += shares[column]


cdef inline void pool_image(
    npy_intp image, bint back, const Parts* p, const real* source, real* memory, real* out,
) noexcept nogil:
    cdef real* sums = memory + threadid() * p.w
    if back:
        share_means(p, source + image * p.oh * p.ow, sums, out + image * p.h * p.w)
    else:
        take_means(p, source + image * p.h * p.w, sums, out + image * p.oh * p.ow)


cdef bint pool(bint back, Parts* p, const real* source, real* out) noexcept nogil:
    """All images; False where there is no memory."""
    cdef npy_intp image, j
    cdef int threads = threads_for(p.n * max(p.h, p.oh) * max(p.w, p.ow))
    cdef real* memory = <real*>malloc(threads * p.w * sizeof(real))
    p.left = <npy_intp*>malloc(2 * p.ow * sizeof(npy_intp))
    if memory == NULL or p.left == NULL:
        free(memory)
        free(p.left)
        return False
    p.right = p.left + p.ow
    for j in range(p.ow):
        p.left[j], p.right[j] = first(j, p.w, p.ow), last(j, p.w, p.ow)
    for image in prange(p.n, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        pool_image(image, back, p, source, memory, out)
    free(memory)
    free(p.left)
    return True


cdef bint run(bint back, Parts* p, const real* source, real* out) noexcept:
    with nogil:
        return pool(back, p, source, out)


cdef object pooled(bint back, ndarray source, tuple shape, tuple output):
    """The means of images of a shape, or where `back` what those get of the cotangents `source`."""
    cdef int axes = <int>len(shape), i
    cdef Parts p
    cdef npy_intp[4] dims
    cdef ndarray out
    cdef bint done
    if source is None or PyArray_NDIM(source) != axes or axes - 2 != len(output) or not 3 <= axes <= 4:
        return NotImplemented
    dims[0], dims[1] = shape[0], shape[1]
    p.n, p.h, p.oh = dims[0] * dims[1], 1, 1
    if axes == 4:
        p.h, p.oh = shape[2], output[0]
    p.w, p.ow = shape[axes - 1], output[axes - 3]
    if p.n == 0 or p.h == 0 or p.w == 0:
        return NotImplemented
    if PyArray_SIZE(source) != p.n * (p.oh * p.ow if back else p.h * p.w):
        return NotImplemented
    for i in range(2, axes):
        dims[i] = shape[i] if back else output[i - 2]
    out = <ndarray>PyArray_EMPTY(axes, dims, PyArray_TYPE(source), 0)
    if PyArray_TYPE(source) == NPY_FLOAT:
        done = run(back, &p, <const float*>PyArray_DATA(source), <float*>PyArray_DATA(out))
    else:
        done = run(back, &p, <const double*>PyArray_DATA(source), <double*>PyArray_DATA(out))
    return out if done else NotImplemented


def adaptive_avg_pool(x, *, tuple output):
    """Kernel of the op ``adaptive_avg_pool``."""
    cdef ndarray given = in_order(x)
    return NotImplemented if given is None else pooled(False, given, (<object>given).shape, output)


def adaptive_avg_pool_vjp(g, tuple x_shape not None, *, tuple output):
    """Kernel of its rule."""
    return pooled(True, in_order(g), x_shape, output)

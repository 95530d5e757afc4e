"""Kernels of max and mean pooling over one or two axes, a row of windows of one channel at a time."""
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_EMPTY, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport alike, real
from minigrad._core.loops.rows cimport in_order
from minigrad._core.loops.windows cimport Run, Windows, clip, read_axes

import_array()

cdef enum Job:
    MAX, MAX_BACK, MEAN, MEAN_BACK


# ---- one row of windows ----------------------------------------------------------------------------------------------

# The stride is given apart: where the compiler sees which it is, it makes vectors of the loop.

cdef inline void raise_row(npy_intp n, npy_intp stride, const real* pixels, real* out) noexcept nogil:
    cdef npy_intp t
    cdef real value, best
    for t in range(n):
        value, best = pixels[t * stride], out[t]
        out[t] = value if (value > best) | (value != value) else best    # `or` would make a branch


cdef inline void count_row(npy_intp n, npy_intp stride, const real* pixels, const real* out, real* hits) noexcept nogil:
    cdef npy_intp t
    for t in range(n):
        hits[t] += <real>1 if pixels[t * stride] == out[t] else <real>0


cdef inline void share_row(
    npy_intp n, npy_intp stride, const real* pixels, const real* out, const real* shares, real* slope,
) noexcept nogil:
    cdef npy_intp t
    cdef real share
    for t in range(n):
        share = shares[t]
        slope[t * stride] += share if pixels[t * stride] == out[t] else <real>0


cdef inline void add_row(npy_intp n, npy_intp stride, const real* pixels, real* out) noexcept nogil:
    cdef npy_intp t
    for t in range(n):
        out[t] += pixels[t * stride]


cdef inline void spread_row(npy_intp n, npy_intp stride, const real* shares, real* slope) noexcept nogil:
    cdef npy_intp t
    for t in range(n):
        slope[t * stride] += shares[t]


cdef inline void take_largest(const Windows* p, const Run* run, const real* image, real* out) noexcept nogil:
    """The maxima of a row of windows; NaN wins."""
    cdef npy_intp i, j, t, source, low, high
    for t in range(p.ow):
        out[t] = -<real>INFINITY
    for i in range(p.kh):
        for j in range(p.kw):
            clip(p, run, i, j, &source, &low, &high)
            if p.sw == 1:
                raise_row(high - low, 1, image + source, out + low)
            elif p.sw == 2:
                raise_row(high - low, 2, image + source, out + low)
            else:
                raise_row(high - low, p.sw, image + source, out + low)


cdef inline void share_largest(
    const Windows* p, const Run* run, const real* image, const real* out, const real* g, real* hits, real* slope,
) noexcept nogil:
    """Hand the cotangents of a row of windows to their maxima, in equal shares."""
    cdef npy_intp i, j, t, source, low, high
    for t in range(p.ow):
        hits[t] = 0
    for i in range(p.kh):
        for j in range(p.kw):
            clip(p, run, i, j, &source, &low, &high)
            if p.sw == 1:
                count_row(high - low, 1, image + source, out + low, hits + low)
            elif p.sw == 2:
                count_row(high - low, 2, image + source, out + low, hits + low)
            else:
                count_row(high - low, p.sw, image + source, out + low, hits + low)
    for t in range(p.ow):
        hits[t] = g[t] / hits[t]
    for i in range(p.kh):
        for j in range(p.kw):
            clip(p, run, i, j, &source, &low, &high)
            if p.sw == 1:
                share_row(high - low, 1, image + source, out + low, hits + low, slope + source)
            elif p.sw == 2:
                share_row(high - low, 2, image + source, out + low, hits + low, slope + source)
            else:
                share_row(high - low, p.sw, image + source, out + low, hits + low, slope + source)


cdef inline void set_shares(const Windows* p, const Run* run, bint padded, real* shares) noexcept nogil:
    """One over the number of elements that count in each window of a row."""
    cdef npy_intp i, j, t, source, low, high
    cdef real start = p.kh * p.kw if padded else 0
    for t in range(p.ow):
        shares[t] = start
    if not padded:
        for i in range(p.kh):
            for j in range(p.kw):
                clip(p, run, i, j, &source, &low, &high)
                for t in range(low, high):
                    shares[t] += 1
    for t in range(p.ow):
        shares[t] = <real>1 / max(shares[t], <real>1)


cdef inline void take_mean(
    const Windows* p, const Run* run, bint padded, const real* image, real* shares, real* out,
) noexcept nogil:
    cdef npy_intp i, j, t, source, low, high
    set_shares(p, run, padded, shares)
    for t in range(p.ow):
        out[t] = 0
    for i in range(p.kh):
        for j in range(p.kw):
            clip(p, run, i, j, &source, &low, &high)
            if p.sw == 1:
                add_row(high - low, 1, image + source, out + low)
            elif p.sw == 2:
                add_row(high - low, 2, image + source, out + low)
            else:
                add_row(high - low, p.sw, image + source, out + low)
    for t in range(p.ow):
        out[t] *= shares[t]


cdef inline void share_mean(
    const Windows* p, const Run* run, bint padded, const real* g, real* shares, real* slope,
) noexcept nogil:
    cdef npy_intp i, j, t, source, low, high
    set_shares(p, run, padded, shares)
    for t in range(p.ow):
        shares[t] *= g[t]
    for i in range(p.kh):
        for j in range(p.kw):
            clip(p, run, i, j, &source, &low, &high)
            if p.sw == 1:
                spread_row(high - low, 1, shares + low, slope + source)
            elif p.sw == 2:
                spread_row(high - low, 2, shares + low, slope + source)
            else:
                spread_row(high - low, p.sw, shares + low, slope + source)


# ---- all of them -----------------------------------------------------------------------------------------------------

cdef inline void pool_image(
    npy_intp image, Job job, const Windows* p, bint padded, const real* x, const real* y, const real* g, real* memory,
    real* out,
) noexcept nogil:
    """One channel of one image."""
    cdef npy_intp pixels = image * p.h * p.w, row
    cdef real* shares = memory + threadid() * p.ow
    cdef Run run
    run.image, run.column, run.at, run.length = image, 0, 0, p.ow
    if job == MAX_BACK or job == MEAN_BACK:
        memset(out + pixels, 0, p.h * p.w * sizeof(real))
    for row in range(p.oh):
        run.row = row
        if job == MAX:
            take_largest(p, &run, x + pixels, out + (image * p.oh + row) * p.ow)
        elif job == MEAN:
            take_mean(p, &run, padded, x + pixels, shares, out + (image * p.oh + row) * p.ow)
        elif job == MEAN_BACK:
            share_mean(p, &run, padded, g + (image * p.oh + row) * p.ow, shares, out + pixels)
        else:
            share_largest(
                p, &run, x + pixels, y + (image * p.oh + row) * p.ow, g + (image * p.oh + row) * p.ow, shares,
                out + pixels,
            )


cdef bint pool(
    Job job, const Windows* p, bint padded, const real* x, const real* y, const real* g, real* out,
) noexcept nogil:
    """Run a job on all images; False where there is no memory."""
    cdef npy_intp image
    cdef int threads = threads_for(p.n * p.oh * p.ow * p.kh * p.kw)
    cdef real* memory = <real*>malloc(threads * p.ow * sizeof(real))
    if memory == NULL:
        return False
    for image in prange(p.n, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        pool_image(image, job, p, padded, x, y, g, memory, out)
    free(memory)
    return True


cdef bint run(
    Job job, const Windows* p, bint padded, const void* x, const void* y, const void* g, real* out,
) noexcept:
    with nogil:
        return pool(job, p, padded, <const real*>x, <const real*>y, <const real*>g, out)


cdef inline void* data(object x) noexcept:
    return NULL if x is None else PyArray_DATA(<ndarray>x)


cdef object pooled(
    Job job, bint padded, ndarray x, ndarray y, ndarray g, tuple shape, tuple window, tuple stride, tuple padding,
    tuple dilation,
):
    """The result of a job on images of a shape; `x`, `y` and `g` are those that it reads."""
    cdef ndarray out, model = g if x is None else x
    cdef Windows p
    cdef npy_intp[4] dims
    cdef int i
    cdef bint back = job == MAX_BACK or job == MEAN_BACK, done
    if model is None or not read_axes(&p, shape[2:], window, stride, padding, dilation):
        return NotImplemented
    p.n, p.groups, p.c, p.o = <npy_intp>shape[0] * <npy_intp>shape[1], 1, 1, 1
    if p.n == 0 or (back and (g is None or PyArray_SIZE(g) != p.n * p.oh * p.ow)):
        return NotImplemented
    dims[0], dims[1] = shape[0], shape[1]
    for i in range(2, len(shape)):
        dims[i] = shape[i]
    if not back:
        dims[2], dims[len(shape) - 1] = p.oh, p.ow    # of three axes, the last
    out = <ndarray>PyArray_EMPTY(<int>len(shape), dims, PyArray_TYPE(model), 0)
    if PyArray_TYPE(model) == NPY_FLOAT:
        done = run(job, &p, padded, data(x), data(y), data(g), <float*>PyArray_DATA(out))
    else:
        done = run(job, &p, padded, data(x), data(y), data(g), <double*>PyArray_DATA(out))
    return out if done else NotImplemented


cdef tuple shape_of(ndarray x):
    return None if x is None or PyArray_NDIM(x) < 3 else (<object>x).shape


def max_pool(x, *, tuple window, tuple stride, tuple padding, tuple dilation):
    """Kernel of the op ``max_pool``."""
    cdef ndarray given = in_order(x)
    cdef tuple shape = shape_of(given)
    if shape is None:
        return NotImplemented
    return pooled(MAX, True, given, None, None, shape, window, stride, padding, dilation)


def max_pool_vjp(g, x, out, *, tuple window, tuple stride, tuple padding, tuple dilation):
    """Kernel of its rule."""
    cdef ndarray given = in_order(x), result = in_order(out), cotangent = in_order(g)
    cdef tuple shape = shape_of(given)
    if shape is None or result is None or cotangent is None or not alike(cotangent, result):
        return NotImplemented
    if PyArray_TYPE(given) != PyArray_TYPE(result):
        return NotImplemented
    return pooled(MAX_BACK, True, given, result, cotangent, shape, window, stride, padding, dilation)


def avg_pool(x, *, tuple window, tuple stride, tuple padding, bint count_include_pad):
    """Kernel of the op ``avg_pool``."""
    cdef ndarray given = in_order(x)
    cdef tuple shape = shape_of(given)
    if shape is None:
        return NotImplemented
    return pooled(MEAN, count_include_pad, given, None, None, shape, window, stride, padding, (1,) * len(window))


def avg_pool_vjp(g, tuple x_shape not None, *, tuple window, tuple stride, tuple padding, bint count_include_pad):
    """Kernel of its rule."""
    cdef ndarray cotangent = in_order(g)
    if cotangent is None or PyArray_NDIM(cotangent) != len(x_shape):
        return NotImplemented
    return pooled(
        MEAN_BACK, count_include_pad, None, None, cotangent, x_shape, window, stride, padding, (1,) * len(window)
    )

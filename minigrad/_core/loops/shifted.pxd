"""Convolution with one or two results of a group, as a channel by itself has: rows of pixels, shifted, times a number.

A product of matrices would compute eight results to keep one or two.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport npy_intp

from minigrad._core.loops.plain cimport pieces, real
from minigrad._core.loops.windows cimport Windows, pad, pitch_of

cdef enum:
    FEW = 2                 # results of a group, at most
    LANES = 32              # results of a row that are computed together
    SUMMED = 8              # products of a row that are summed side by side
    BAND = 16_384           # pixels of padded rows that a thread has at a time, about
    TASKS = 8               # that the sum over all images is cut into at least


cdef inline bint is_few(const Windows* p) noexcept nogil:
    return p.o <= FEW and p.kh * p.kw > 1 and p.ph >= 0 and p.pw >= 0


cdef inline npy_intp rows_of(const Windows* p, npy_intp high) noexcept nogil:
    """The rows of the padded image that so many rows of results need."""
    return (high - 1) * p.sh + 1 + (p.kh - 1) * p.dh


cdef inline npy_intp high_of(const Windows* p) noexcept nogil:
    """Rows of results that are computed at a time."""
    return min(p.oh, max(1, (BAND // (p.c * pitch_of(p)) - (p.kh - 1) * p.dh) // p.sh))


# ---- shifted rows times weights --------------------------------------------------------------------------------------

cdef inline void shift_row(
    const Windows* p, const real* band, npy_intp plane, const real* weight, real start, real* y,
) noexcept nogil:
    """One row of results, of padded rows that begin at `band`, in channels `plane` apart."""
    cdef real sums[LANES]
    cdef npy_intp pitch = pitch_of(p), span = (p.ow - 1) * p.sw + 1, block, t, c, i, j, lane, q
    cdef const real* pixels
    cdef real factor
    for block in range(pieces(span, LANES)):
        t = block * LANES
        for lane in range(LANES):
            sums[lane] = start
        for c in range(p.c):
            for i in range(p.kh):
                for j in range(p.kw):
                    pixels = band + c * plane + i * p.dh * pitch + j * p.dw + t
                    factor = weight[(c * p.kh + i) * p.kw + j]
                    for lane in range(LANES):
                        sums[lane] += factor * pixels[lane]
        if p.sw == 1:
            memcpy(y + t, sums, min(LANES, p.ow - t) * sizeof(real))
        else:
            for q in range(pieces(t, p.sw), min(p.ow, pieces(t + LANES, p.sw))):
                y[q] = sums[q * p.sw - t]


cdef inline void shift_image(
    npy_intp task, const Windows* p, const real* x, const real* weight, const real* bias, real* memory, npy_intp size,
    real* y,
) noexcept nogil:
    """The results of one group of one image."""
    cdef npy_intp group = task % p.groups, pitch = pitch_of(p), high = high_of(p), plane = rows_of(p, high) * pitch
    cdef npy_intp block, top, rows, c, o, r, unit
    cdef real* band = memory + threadid() * size
    memset(band + p.c * plane, 0, LANES * sizeof(real))    # what the last lanes read
    for block in range(pieces(p.oh, high)):
        top = block * high
        rows = min(high, p.oh - top)
        for c in range(p.c):
            pad(p, x + (task * p.c + c) * p.h * p.w, top * p.sh, rows_of(p, rows), band + c * plane)
        for o in range(p.o):
            unit = group * p.o + o
            for r in range(rows):
                shift_row(
                    p, band + r * p.sh * pitch, plane, weight + unit * p.c * p.kh * p.kw,
                    <real>0 if bias == NULL else bias[unit], y + ((task * p.o + o) * p.oh + top + r) * p.ow,
                )


cdef inline bint convolve_few(
    const Windows* p, const real* x, const real* weight, const real* bias, int threads, real* y,
) noexcept nogil:
    """y = the convolution of x; False where there is no memory."""
    cdef npy_intp size = p.c * rows_of(p, high_of(p)) * pitch_of(p) + LANES, task
    cdef real* memory = <real*>malloc(threads * size * sizeof(real))
    if memory == NULL:
        return False
    for task in prange(
        p.n * p.groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic", chunksize=4,
    ):
        shift_image(task, p, x, weight, bias, memory, size, y)
    free(memory)
    return True


# ---- the gradient of the weight, of one channel a group --------------------------------------------------------------

cdef inline real dot_rows(
    const Windows* p, const real* x, npy_intp pitch, const real* y,
) noexcept nogil:
    """The sum of the products of two images, of which the first has rows `pitch` apart."""
    cdef real sums[SUMMED]
    cdef real four[4]
    cdef real rest = 0
    cdef npy_intp _r, t, lane
    for lane in range(SUMMED):
        sums[lane] = 0
    for lane in range(4):
        four[lane] = 0
    for _r in range(p.oh):
        t = 0
        while t + SUMMED <= p.ow:
            for lane in range(SUMMED):
                sums[lane] += x[t + lane] * y[t + lane]
            t += SUMMED
        if t + 4 <= p.ow:
            for lane in range(4):
                four[lane] += x[t + lane] * y[t + lane]
            t += 4
        while t < p.ow:
            rest += x[t] * y[t]
            t += 1
        x += pitch
        y += p.ow
    for lane in range(4):
        four[lane] += sums[lane] + sums[lane + 4]
    return ((four[0] + four[1]) + (four[2] + four[3])) + rest


cdef inline npy_intp image_parts(const Windows* p) noexcept nogil:
    """Into how many parts the images are cut: few, where there are groups enough."""
    return min(p.n, pieces(TASKS, p.groups))


cdef inline void sum_images(
    npy_intp task, const Windows* p, const real* x, const real* y, real* memory, npy_intp size, real* sums,
) noexcept nogil:
    """One part of the sum of one group."""
    cdef npy_intp parts = image_parts(p), group = task // parts, each = pieces(p.n, parts), pitch = pitch_of(p)
    cdef npy_intp first = task % parts * each, kernel = p.kh * p.kw, image, o, i, j
    cdef real* band = memory + threadid() * size
    sums += task * p.o * kernel
    memset(sums, 0, p.o * kernel * sizeof(real))
    for image in range(first, min(p.n, first + each)):
        pad(p, x + (image * p.groups + group) * p.h * p.w, 0, rows_of(p, p.oh), band)
        for o in range(p.o):
            for i in range(p.kh):
                for j in range(p.kw):
                    sums[o * kernel + i * p.kw + j] += dot_rows(
                        p, band + i * p.dh * pitch + j * p.dw, pitch,
                        y + ((image * p.groups + group) * p.o + o) * p.oh * p.ow,
                    )


cdef inline bint sum_few(const Windows* p, const real* x, const real* y, int threads, real* weight) noexcept nogil:
    """weight = the sum over all windows of y times the window of x; False where there is no memory."""
    cdef npy_intp parts = image_parts(p), tasks = p.groups * parts, size = rows_of(p, p.oh) * pitch_of(p)
    cdef npy_intp each = p.o * p.kh * p.kw, task, part, i
    cdef real* memory = <real*>malloc(threads * size * sizeof(real))
    cdef real* sums = <real*>malloc(tasks * each * sizeof(real))
    if memory == NULL or sums == NULL:
        free(memory)
        free(sums)
        return False
    for task in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
        sum_images(task, p, x, y, memory, size, sums)
    for task in range(p.groups):
        for i in range(each):
            weight[task * each + i] = sums[task * parts * each + i]
            for part in range(1, parts):
                weight[task * each + i] += sums[(task * parts + part) * each + i]
    free(memory)
    free(sums)
    return True

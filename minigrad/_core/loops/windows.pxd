"""Windows of convolution: columns of a matrix, filled from images and added back to them, a block at a time.

The windows of all images of a batch are numbered in one row, and a block is a piece of that. It is cut into runs that
lie in one row of one image, so that the innermost loops copy what lies together. Windows that are one pixel apart can
be numbered along the rows of a padded image instead, those included that lap over from one row to the next: then one
element of all windows of a block lies in one piece.
"""
from libc.string cimport memcpy, memset
from numpy cimport npy_intp

from minigrad._core.loops.plain cimport real

cdef enum:
    BLOCK = 240             # windows of a block, at most

cdef struct Windows:
    npy_intp n, groups          # images, and groups of channels
    npy_intp c, o               # channels of a group, before and behind the convolution
    npy_intp h, w, oh, ow       # extents of an image, and how many windows it has
    npy_intp kh, kw, sh, sw     # of a window, and from one to the next
    npy_intp ph, pw, dh, dw     # padding before the image; from one element of a window to the next

cdef struct Run:
    npy_intp image, row, column  # of its first window,
    npy_intp at, length          # which is window `at` of the block; there are `length` in all


cdef inline npy_intp places(npy_intp extent, npy_intp kernel, npy_intp stride, npy_intp dilation) noexcept:
    """How many windows fit."""
    extent -= dilation * (kernel - 1) + 1
    return 0 if extent < 0 else extent // stride + 1


cdef inline bint read_axes(
    Windows* p, tuple extents, tuple kernel, tuple stride, tuple padding, tuple dilation,
) except -1:
    """Describe one or two axes; False for others, and where no window fits."""
    cdef bint plane = len(extents) == 2
    if not 1 <= len(extents) <= 2 or not len(kernel) == len(stride) == len(padding) == len(dilation) == len(extents):
        return False
    if 0 in extents or 0 in kernel:
        return False
    p.w, p.kw, p.sw, p.dw, p.pw = extents[plane], kernel[plane], stride[plane], dilation[plane], padding[plane][0]
    p.h = p.kh = p.sh = p.dh = p.oh = 1
    p.ph = 0
    if plane:
        p.h, p.kh, p.sh, p.dh, p.ph = extents[0], kernel[0], stride[0], dilation[0], padding[0][0]
        p.oh = places(p.h + p.ph + <npy_intp>padding[0][1], p.kh, p.sh, p.dh)
    p.ow = places(p.w + p.pw + <npy_intp>padding[plane][1], p.kw, p.sw, p.dw)
    return p.oh > 0 and p.ow > 0


cdef inline int cut_runs(const Windows* p, npy_intp start, npy_intp length, Run* runs) noexcept nogil:
    """Cut the windows from number `start` on, of all images, into runs; returns how many there are."""
    cdef npy_intp at = 0, outer = p.oh * p.ow, place
    cdef int n = 0
    while at < length:
        place = (start + at) % outer
        runs[n].image = (start + at) // outer
        runs[n].row, runs[n].column, runs[n].at = place // p.ow, place % p.ow, at
        runs[n].length = min(length - at, p.ow - runs[n].column)
        at += runs[n].length
        n += 1
    return n


cdef inline int cut_padded(
    const Windows* p, npy_intp image, npy_intp start, npy_intp length, Run* runs,
) noexcept nogil:
    """The same along the rows of one padded image; the windows that lap over are in no run."""
    cdef npy_intp at = 0, pitch = pitch_of(p), column
    cdef int n = 0
    while at < length:
        column = (start + at) % pitch
        if column < p.ow:
            runs[n].image, runs[n].row, runs[n].column, runs[n].at = image, (start + at) // pitch, column, at
            runs[n].length = min(length - at, p.ow - column)
            n += 1
        at += pitch - column if column >= p.ow else min(length - at, p.ow - column)
    return n


cdef inline npy_intp pitch_of(const Windows* p) noexcept nogil:
    """Pixels of a row of the padded image, as many as the windows cover."""
    return (p.ow - 1) * p.sw + 1 + (p.kw - 1) * p.dw


cdef inline void pad(
    const Windows* p, const real* channel, npy_intp top, npy_intp rows, real* out,
) noexcept nogil:
    """Some rows of a channel of the padded image, whose padding is not negative."""
    cdef npy_intp pitch = pitch_of(p), held = max(0, min(p.w, pitch - p.pw)), r, y
    for r in range(rows):
        y = top + r - p.ph
        if 0 <= y < p.h:
            memset(out, 0, p.pw * sizeof(real))
            memcpy(out + p.pw, channel + y * p.w, held * sizeof(real))
            memset(out + p.pw + held, 0, (pitch - p.pw - held) * sizeof(real))
        else:
            memset(out, 0, pitch * sizeof(real))
        out += pitch


cdef inline void clip(
    const Windows* p, const Run* run, npy_intp i, npy_intp j, npy_intp* source, npy_intp* low, npy_intp* high,
) noexcept nogil:
    """Element (i, j) of the windows of a run lies in the image from window `low` to `high`, from pixel `source` on."""
    cdef npy_intp y = run.row * p.sh - p.ph + i * p.dh, x = run.column * p.sw - p.pw + j * p.dw
    low[0] = high[0] = source[0] = 0
    if y < 0 or y >= p.h:
        return
    if x < 0:
        low[0] = min(run.length, (p.sw - 1 - x) // p.sw)
    if x < p.w:
        high[0] = min(run.length, (p.w - x + p.sw - 1) // p.sw)
    high[0] = max(low[0], high[0])
    source[0] = y * p.w + x + low[0] * p.sw


cdef inline void fill(
    const Windows* p, const real* x, npy_intp group, npy_intp first, npy_intp channels, const Run* runs, int n,
    npy_intp wide, real* out,
) noexcept nogil:
    """out (channels * window, wide) = the windows of some channels of a group, one a column."""
    cdef npy_intp i, j, t, c, source, low, high, size = p.h * p.w
    cdef const real* image
    cdef const real* pixels
    cdef real* row
    cdef int r
    for r in range(n):
        image = x + ((runs[r].image * p.groups + group) * p.c + first) * size
        for i in range(p.kh):
            for j in range(p.kw):
                clip(p, &runs[r], i, j, &source, &low, &high)
                for c in range(channels):
                    row = out + ((c * p.kh + i) * p.kw + j) * wide + runs[r].at
                    pixels = image + c * size + source
                    for t in range(low):
                        row[t] = 0
                    if p.sw == 1:
                        memcpy(row + low, pixels, (high - low) * sizeof(real))
                    else:
                        for t in range(high - low):
                            row[low + t] = pixels[t * p.sw]
                    for t in range(high, runs[r].length):
                        row[t] = 0


cdef inline void add_back(
    const Windows* p, const real* columns, npy_intp group, npy_intp first, npy_intp channels, const Run* runs, int n,
    npy_intp wide, real* x,
) noexcept nogil:
    """The transpose of `fill`: add each element to the pixel that it would have been filled from."""
    cdef npy_intp i, j, t, c, source, low, high, size = p.h * p.w
    cdef const real* row
    cdef real* image
    cdef real* pixels
    cdef int r
    for r in range(n):
        image = x + ((runs[r].image * p.groups + group) * p.c + first) * size
        for i in range(p.kh):
            for j in range(p.kw):
                clip(p, &runs[r], i, j, &source, &low, &high)
                for c in range(channels):
                    row = columns + ((c * p.kh + i) * p.kw + j) * wide + runs[r].at + low
                    pixels = image + c * size + source
                    if p.sw == 1:
                        for t in range(high - low):
                            pixels[t] += row[t]
                    else:
                        for t in range(high - low):
                            pixels[t * p.sw] += row[t]


cdef inline void copy_out(
    const Windows* p, const real* rows, npy_intp group, npy_intp wide, const Run* runs, int n, const real* bias,
    real* y,
) noexcept nogil:
    """Put a block of results (o, wide) in its places, with the bias added."""
    cdef npy_intp c, t, size = p.oh * p.ow
    cdef const real* row
    cdef real* place
    cdef real shift
    cdef int r
    for r in range(n):
        place = y + ((runs[r].image * p.groups + group) * p.o * p.oh + runs[r].row) * p.ow + runs[r].column
        for c in range(p.o):
            row = rows + c * wide + runs[r].at
            if bias == NULL:
                memcpy(place + c * size, row, runs[r].length * sizeof(real))
            else:
                shift = bias[group * p.o + c]
                for t in range(runs[r].length):
                    (place + c * size)[t] = row[t] + shift


cdef inline void copy_in(
    const Windows* p, const real* y, npy_intp group, npy_intp wide, const Run* runs, int n, real* rows,
) noexcept nogil:
    """The transpose of `copy_out`, without a bias."""
    cdef npy_intp c, size = p.oh * p.ow
    cdef const real* place
    cdef int r
    for r in range(n):
        place = y + ((runs[r].image * p.groups + group) * p.o * p.oh + runs[r].row) * p.ow + runs[r].column
        for c in range(p.o):
            memcpy(rows + c * wide + runs[r].at, place + c * size, runs[r].length * sizeof(real))

"""The three products of convolution: windows times weights, the transpose, and the gradient of the weight.

Windows become columns of a matrix, a block at a time, so that they stay in the cache between being filled and being
multiplied: by panels of our own under AVX2 and AVX-512, else by BLAS. The result of a block is the same whichever
thread has it. The gradient of a weight is a sum over all windows. It is cut into parts by the shapes alone, and these
are added up in one order.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport npy_intp

from minigrad._core.blas cimport enter, leave
from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.gemm cimport gemm
from minigrad._core.loops.panels cimport MG_BYTES, MG_HAS_PANELS, mg_copy_chunks, pack, tile_of, width
from minigrad._core.loops.plain cimport pieces, real
from minigrad._core.loops.shifted cimport convolve_few, is_few, rows_of, sum_few
from minigrad._core.loops.windows cimport (
    BLOCK, Run, Windows, add_back, copy_in, copy_out, cut_padded, cut_runs, fill, pad, pitch_of,
)

cdef enum:
    ROWS = 8                # of a tile of panels
    INNER = 512             # elements of windows that are filled and multiplied at a time
    INNER_OF_SUM = 288      # the same where the sum is over the windows
    GROUP = 4               # blocks that one thread takes at a time
    TASKS = 8               # that the sum over all windows is cut into at least
    PART = 512              # windows of a part, at least
    CHEAP = 16              # multiplications that cost as much as an element of a simple loop


cdef inline npy_intp whole(npy_intp extent, npy_intp side) noexcept nogil:
    return pieces(extent, side) * side


cdef inline npy_intp inner(const Windows* p) noexcept nogil:
    """Elements of a window of all channels of a group."""
    return p.c * p.kh * p.kw


cdef inline npy_intp channels_of(const Windows* p, npy_intp elements) noexcept nogil:
    """How many channels are taken at a time, so that their windows have about as many elements."""
    return pieces(p.c, pieces(inner(p), elements))


cdef inline int shared(const Windows* p) noexcept nogil:
    """The threads that a problem is worth."""
    return threads_for(p.n * p.groups * p.oh * p.ow * p.o * inner(p) // CHEAP)


cdef inline npy_intp block_of(const real* x) noexcept nogil:
    return width(x) if MG_HAS_PANELS else BLOCK


# ---- windows times weights -------------------------------------------------------------------------------------------

cdef inline void pack_weight(
    const Windows* p, const real* weight, bint turned, npy_intp depth, npy_intp rows, real* packed,
) noexcept nogil:
    """Panels of 8 rows of each group's matrix (o, inner), of all of them by parts of `depth`; `turned`: of its
    transpose."""
    cdef npy_intp group, start, deep, ld = inner(p), total = p.o if turned else ld
    cdef const real* matrix
    for group in range(p.groups):
        matrix = weight + group * p.o * ld
        start = 0
        while start < total:
            deep = min(depth, total - start)
            pack(matrix + (start * ld if turned else start), not turned, ld, rows, ROWS, deep, packed)
            packed += whole(rows, ROWS) * deep
            start += deep


cdef inline void multiply_block(
    npy_intp block, npy_intp group, const Windows* p, const real* x, const real* weight, const real* packed,
    const real* bias, real* columns, real* rows, real* y,
) noexcept nogil:
    """The results of some windows."""
    cdef npy_intp wide = block_of(x), start = block * wide, count = min(wide, p.n * p.oh * p.ow - start), i, deep
    cdef npy_intp kernel = p.kh * p.kw, channels = channels_of(p, INNER), first = 0, high = whole(p.o, ROWS)
    cdef Run[BLOCK] runs
    cdef int n = cut_runs(p, start, count, runs)
    packed += group * high * inner(p)
    while first < p.c:
        deep = min(channels, p.c - first) * kernel
        if MG_HAS_PANELS and count < wide:
            memset(columns, 0, deep * wide * sizeof(real))
        fill(p, x, group, first, min(channels, p.c - first), runs, n, wide, columns)
        if MG_HAS_PANELS:
            for i in range(high // ROWS):
                tile_of(wide, packed, columns, deep, <const real*>NULL, first > 0, False, rows + i * ROWS * wide, wide)
                packed += ROWS * deep
        else:
            gemm(
                False, False, p.o, count, deep, weight + group * p.o * inner(p) + first * kernel, inner(p),
                columns, wide, first > 0, rows, wide,
            )
        first += channels
    copy_out(p, rows, group, wide, runs, n, bias, y)


cdef inline bint is_padded(const Windows* p) noexcept nogil:
    """Whether windows are numbered along the rows of the padded image: one pixel apart, and few lap over."""
    return (
        MG_HAS_PANELS and p.sh == 1 and p.sw == 1 and p.kh * p.kw > 1 and p.ph >= 0 and p.pw >= 0
        and 4 * pitch_of(p) <= 5 * p.ow
    )


cdef inline npy_intp padded_windows(const Windows* p) noexcept nogil:
    """The windows of an image so numbered, up to the last one."""
    return (p.oh - 1) * pitch_of(p) + p.ow


cdef inline npy_intp band_rows(const Windows* p, npy_intp wide) noexcept nogil:
    """The rows of the padded image, at most, that a task needs."""
    return rows_of(p, min(p.oh, pieces(GROUP * wide, pitch_of(p)) + 1))


cdef inline void copy_windows(
    const Windows* p, const real* band, npy_intp plane, npy_intp channels, npy_intp wide, real* out,
) noexcept nogil:
    """out (channels * window, wide) = the windows that begin at `band` and behind, whole panels of them."""
    cdef npy_intp c, i, j, pitch = pitch_of(p)
    cdef int chunks = <int>(3 * MG_BYTES // 32)
    for c in range(channels):
        for i in range(p.kh):
            for j in range(p.kw):
                mg_copy_chunks(band + c * plane + i * p.dh * pitch + j * p.dw, out, chunks)
                out += wide


cdef inline void multiply_padded(
    npy_intp task, const Windows* p, const real* x, const real* packed, const real* bias, real* memory, npy_intp size,
    real* y,
) noexcept nogil:
    """The results of some blocks of windows along the rows of a padded image."""
    cdef npy_intp wide = width(x), total = padded_windows(p), tasks = pieces(total, GROUP * wide), pitch = pitch_of(p)
    cdef npy_intp at = task % tasks * GROUP * wide, end = min(total, at + GROUP * wide), top = at // pitch
    cdef npy_intp image = task // tasks % p.n, group = task // (tasks * p.n), plane = band_rows(p, wide) * pitch
    cdef npy_intp channels = channels_of(p, INNER), high = whole(p.o, ROWS), c, first, deep, count, i
    cdef real* band = memory + threadid() * size
    cdef real* columns = band + p.c * plane + pitch + wide    # between them, what windows that lap over read
    cdef real* rows = columns + channels * p.kh * p.kw * wide
    cdef const real* panel
    cdef Run[BLOCK] runs
    for c in range(p.c):
        pad(
            p, x + ((image * p.groups + group) * p.c + c) * p.h * p.w, top, rows_of(p, (end - 1) // pitch - top + 1),
            band + c * plane,
        )
    memset(band + p.c * plane, 0, (pitch + wide) * sizeof(real))
    while at < end:
        count = min(wide, end - at)
        panel = packed + group * high * inner(p)
        first = 0
        while first < p.c:
            c = min(channels, p.c - first)
            deep = c * p.kh * p.kw
            copy_windows(p, band + first * plane + at - top * pitch, plane, c, wide, columns)
            for i in range(high // ROWS):
                tile_of(count, panel, columns, deep, <const real*>NULL, first > 0, False, rows + i * ROWS * wide, wide)
                panel += ROWS * deep
            first += channels
        copy_out(p, rows, group, wide, runs, cut_padded(p, image, at, count, runs), bias, y)
        at += wide


cdef inline void multiply_task(
    npy_intp task, const Windows* p, const real* x, const real* weight, const real* packed, const real* bias,
    real* memory, npy_intp size, real* y,
) noexcept nogil:
    cdef npy_intp wide = block_of(x), blocks = pieces(p.n * p.oh * p.ow, wide), tasks = pieces(blocks, GROUP), block
    cdef real* columns = memory + threadid() * size
    for block in range(task % tasks * GROUP, min(blocks, task % tasks * GROUP + GROUP)):
        multiply_block(
            block, task // tasks, p, x, weight, packed, bias, columns,
            columns + channels_of(p, INNER) * p.kh * p.kw * wide, y,
        )


cdef inline bint convolve(
    const Windows* p, const real* x, const real* weight, const real* bias, real* y,
) noexcept nogil:
    """y = the convolution of x; False where there is no memory."""
    cdef npy_intp wide = block_of(x), tasks = p.groups * pieces(pieces(p.n * p.oh * p.ow, wide), GROUP), task
    cdef npy_intp high = whole(p.o, ROWS), size = (channels_of(p, INNER) * p.kh * p.kw + high) * wide
    cdef int threads = shared(p)
    cdef bint padded = is_padded(p)
    cdef real* memory
    cdef real* packed = NULL
    if is_few(p):
        return convolve_few(p, x, weight, bias, threads, y)
    if padded:
        tasks = p.n * p.groups * pieces(padded_windows(p), GROUP * wide)
        size += p.c * band_rows(p, wide) * pitch_of(p) + pitch_of(p) + wide
    memory = <real*>malloc(threads * size * sizeof(real))
    if MG_HAS_PANELS:
        packed = <real*>malloc(p.groups * high * inner(p) * sizeof(real))
    if memory == NULL or (MG_HAS_PANELS and packed == NULL):
        free(memory)
        free(packed)
        return False
    if MG_HAS_PANELS:
        pack_weight(p, weight, False, channels_of(p, INNER) * p.kh * p.kw, p.o, packed)
    if padded:
        for task in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
            multiply_padded(task, p, x, packed, bias, memory, size, y)
    else:
        enter()
        for task in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
            multiply_task(task, p, x, weight, packed, bias, memory, size, y)
        leave()
    free(memory)
    free(packed)
    return True


# ---- the transpose: weights times results, added back to the image ---------------------------------------------------

cdef inline void spread_image(
    npy_intp task, const Windows* p, const real* y, const real* weight, const real* packed, const real* bias,
    real* memory, npy_intp size, real* x,
) noexcept nogil:
    """One group of channels of one image."""
    cdef npy_intp image = task // p.groups, group = task % p.groups, outer = p.oh * p.ow, wide = block_of(y)
    cdef npy_intp pixels = p.h * p.w, high = whole(inner(p), ROWS), block, start, count, i, c
    cdef const real* results = y + task * p.o * outer
    cdef real* panel = memory + threadid() * size
    cdef real* columns = panel + p.o * wide
    cdef real* place
    cdef Run[BLOCK] runs
    cdef int n
    packed += group * high * p.o
    for c in range(p.c):
        place = x + (task * p.c + c) * pixels
        for i in range(pixels):
            place[i] = 0 if bias == NULL else bias[group * p.c + c]
    for block in range(pieces(outer, wide)):
        start = block * wide
        count = min(wide, outer - start)
        n = cut_runs(p, image * outer + start, count, runs)
        if MG_HAS_PANELS:
            pack(results + start, False, outer, count, wide, p.o, panel)
            for i in range(high // ROWS):
                tile_of(
                    wide, packed + i * ROWS * p.o, panel, p.o, <const real*>NULL, False, False,
                    columns + i * ROWS * wide, wide,
                )
        else:
            gemm(
                True, False, inner(p), count, p.o, weight + group * p.o * inner(p), inner(p), results + start, outer,
                0, columns, wide,
            )
        add_back(p, columns, group, 0, p.c, runs, n, wide, x)


cdef inline bint spread(
    const Windows* p, const real* y, const real* weight, const real* bias, real* x,
) noexcept nogil:
    """x = the transposed convolution of y; False where there is no memory."""
    cdef npy_intp high = whole(inner(p), ROWS), size = (p.o + high) * block_of(y), tasks = p.n * p.groups, task
    cdef int threads = shared(p)
    cdef real* memory = <real*>malloc(threads * size * sizeof(real))
    cdef real* packed = NULL
    if MG_HAS_PANELS:
        packed = <real*>malloc(p.groups * high * p.o * sizeof(real))
    if memory == NULL or (MG_HAS_PANELS and packed == NULL):
        free(memory)
        free(packed)
        return False
    if MG_HAS_PANELS:
        pack_weight(p, weight, True, p.o, inner(p), packed)
    enter()
    for task in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
        spread_image(task, p, y, weight, packed, bias, memory, size, x)
    leave()
    free(memory)
    free(packed)
    return True


cdef inline void flip(const Windows* p, const real* weight, real* out) noexcept nogil:
    """The weight (groups, o, c, window) of a transpose of stride 1 as that of a convolution, (groups, c, o, window)."""
    cdef npy_intp group, o, c, k, kernel = p.kh * p.kw
    for group in range(p.groups):
        for c in range(p.c):
            for o in range(p.o):
                for k in range(kernel):
                    out[((group * p.c + c) * p.o + o) * kernel + k] = (
                        weight[((group * p.o + o) * p.c + c) * kernel + kernel - 1 - k]
                    )


# ---- the gradient of the weight --------------------------------------------------------------------------------------

cdef inline npy_intp chunks_of(const Windows* p) noexcept nogil:
    return pieces(p.c, channels_of(p, INNER_OF_SUM))


cdef inline npy_intp parts_of(const Windows* p) noexcept nogil:
    """Into how many parts the sum over the windows is cut: few, where there are other tasks enough."""
    return min(pieces(TASKS, p.groups * chunks_of(p)), pieces(p.n * p.oh * p.ow, PART))


cdef inline npy_intp columns_of(const Windows* p, const real* x) noexcept nogil:
    """Columns of the sums of a chunk of channels, with what fills up the panels."""
    return whole(channels_of(p, INNER_OF_SUM) * p.kh * p.kw, width(x) if MG_HAS_PANELS else 1)


cdef inline void add_block(
    const Windows* p, npy_intp group, npy_intp first, npy_intp channels, npy_intp start, npy_intp count, const real* x,
    const real* y, bint adds, real* columns, real* sums,
) noexcept nogil:
    """Add the products of some windows with their elements of some channels."""
    cdef npy_intp high = whole(p.o, ROWS), ld = columns_of(p, x), wide = width(x), deep = channels * p.kh * p.kw
    cdef npy_intp i, j, panel
    cdef real* panels = columns + ld * BLOCK
    cdef real* rows = panels + wide * BLOCK
    cdef real* packed = rows + high * BLOCK
    cdef Run[BLOCK] runs
    cdef int n = cut_runs(p, start, count, runs)
    copy_in(p, y, group, BLOCK, runs, n, rows)
    fill(p, x, group, first, channels, runs, n, BLOCK, columns)
    if not MG_HAS_PANELS:
        gemm(False, True, p.o, deep, count, rows, BLOCK, columns, BLOCK, adds, sums, ld)
        return
    pack(rows, True, BLOCK, p.o, ROWS, count, packed)
    for panel in range(pieces(deep, wide)):
        j = panel * wide
        pack(columns + j * BLOCK, True, BLOCK, min(wide, deep - j), wide, count, panels)
        for i in range(high // ROWS):
            tile_of(
                min(wide, deep - j), packed + i * ROWS * count, panels, count, <const real*>NULL, adds, False,
                sums + i * ROWS * ld + j, ld,
            )


cdef inline void sum_part(
    npy_intp task, const Windows* p, const real* x, const real* y, real* memory, npy_intp size, real* sums,
) noexcept nogil:
    """One part of the sum, of one group and some of its channels."""
    cdef npy_intp parts = parts_of(p), chunks = chunks_of(p), channels = channels_of(p, INNER_OF_SUM)
    cdef npy_intp total = p.n * p.oh * p.ow, each = whole(pieces(total, parts), BLOCK), start = task % parts * each
    cdef npy_intp end = min(total, start + each), first = task // parts % chunks * channels, at = start
    sums += task * whole(p.o, ROWS) * columns_of(p, x)
    if start >= end:
        memset(sums, 0, whole(p.o, ROWS) * columns_of(p, x) * sizeof(real))
    while at < end:
        add_block(
            p, task // (parts * chunks), first, min(channels, p.c - first), at, min(BLOCK, end - at), x, y, at > start,
            memory + threadid() * size, sums,
        )
        at += BLOCK


cdef inline void fold_row(npy_intp row, const Windows* p, const real* sums, real* weight) noexcept nogil:
    """Add up the parts of one row of the weight, without what filled up the panels."""
    cdef npy_intp parts = parts_of(p), channels = channels_of(p, INNER_OF_SUM), kernel = p.kh * p.kw
    cdef npy_intp ld = columns_of(p, sums), area = whole(p.o, ROWS) * ld, chunks = chunks_of(p), chunk, part, j, deep
    cdef const real* other
    weight += row * inner(p)
    for chunk in range(chunks):
        deep = min(channels, p.c - chunk * channels) * kernel
        for part in range(parts):
            other = sums + ((row // p.o * chunks + chunk) * parts + part) * area + row % p.o * ld
            if part == 0:
                memcpy(weight, other, deep * sizeof(real))
            else:
                for j in range(deep):
                    weight[j] += other[j]
        weight += deep


cdef inline bint sum_windows(const Windows* p, const real* x, const real* y, real* weight) noexcept nogil:
    """weight = the sum over all windows of y times the window of x; False where there is no memory."""
    cdef npy_intp high = whole(p.o, ROWS), ld = columns_of(p, x), rows = p.groups * p.o
    cdef npy_intp tasks = p.groups * chunks_of(p) * parts_of(p), size = (ld + width(x) + 2 * high) * BLOCK, task
    cdef int threads = shared(p)
    cdef real* memory
    cdef real* sums
    if p.c == 1 and p.sh == 1 and p.sw == 1 and is_few(p):
        return sum_few(p, x, y, threads, weight)
    memory = <real*>malloc(threads * size * sizeof(real))
    sums = <real*>malloc(tasks * high * ld * sizeof(real))
    if memory == NULL or sums == NULL:
        free(memory)
        free(sums)
        return False
    enter()
    for task in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
        sum_part(task, p, x, y, memory, size, sums)
    leave()
    for task in prange(rows, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        fold_row(task, p, sums, weight)
    free(memory)
    free(sums)
    return True

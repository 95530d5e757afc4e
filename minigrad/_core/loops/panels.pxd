"""Large matrix products of our own, for AVX-512: all threads share one packed right factor.

The loops are those of K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008: a part
of the right factor is packed into panels of three vectors, each thread packs some rows of the left one into panels of
8, and a tile of 8 rows is summed up in registers. Transposed factors only are packed in another way. Each number of
the result is summed up in one order, whatever the tiles and threads: over parts of `DEPTH_OF_PANEL`, one after
another.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport npy_intp

from minigrad._core.cpu cimport num_threads
from minigrad._core.loops.plain cimport real

cdef extern from *:
    """
    #if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 12)
    #include <string.h>
    #define MG_HAS_PANELS 1
    #define MG_LANES(real) (64 / (Py_ssize_t)sizeof(real))

    /* c (8, VECTORS vectors) = or += a (8, depth) @ b (depth, 3 vectors): the sums take 8 * VECTORS of 32 registers.
       `start` is a row that is added to each row of c, or NULL. */
    #define MG_TILE(name, real, VECTORS)                                                                            \
        static void name(const real *a, const real *b, Py_ssize_t depth, const real *start, int adds, int relu,     \
                         real *c, Py_ssize_t ldc) {                                                                 \
            typedef real row __attribute__((vector_size(64)));                                                      \
            enum {LANES = 64 / sizeof(real)};                                                                       \
            row sum[8][VECTORS], x[VECTORS];                                                                        \
            _Pragma("GCC unroll 8")                                                                                 \
            for (int i = 0; i < 8; i++)                                                                             \
                _Pragma("GCC unroll 3")                                                                             \
                for (int j = 0; j < VECTORS; j++) sum[i][j] = (row){0};                                             \
            for (Py_ssize_t k = 0; k < depth; k++, a += 8, b += 3 * LANES) {                                        \
                _Pragma("GCC unroll 3")                                                                             \
                for (int j = 0; j < VECTORS; j++) memcpy(&x[j], b + j * LANES, 64);                                 \
                _Pragma("GCC unroll 8")                                                                             \
                for (int i = 0; i < 8; i++)                                                                         \
                    _Pragma("GCC unroll 3")                                                                         \
                    for (int j = 0; j < VECTORS; j++) sum[i][j] += a[i] * x[j];                                     \
            }                                                                                                       \
            _Pragma("GCC unroll 8")                                                                                 \
            for (int i = 0; i < 8; i++)                                                                             \
                _Pragma("GCC unroll 3")                                                                             \
                for (int j = 0; j < VECTORS; j++) {                                                                 \
                    row old;                                                                                        \
                    if (start) { memcpy(&old, start + j * LANES, 64); sum[i][j] += old; }                           \
                    if (adds) { memcpy(&old, c + i * ldc + j * LANES, 64); sum[i][j] += old; }                      \
                    if (relu) for (int l = 0; l < LANES; l++)                                                       \
                        if (sum[i][j][l] <= 0) sum[i][j][l] = 0;                                                    \
                    memcpy(c + i * ldc + j * LANES, &sum[i][j], 64);                                                \
                }                                                                                                   \
        }
    #else
    #define MG_HAS_PANELS 0
    #define MG_TILE(name, real, VECTORS)                                                                            \
        static inline void name(const real *a, const real *b, Py_ssize_t depth, const real *start, int adds,        \
                                int relu, real *c, Py_ssize_t ldc) {                                                \
            (void)a; (void)b; (void)depth; (void)start; (void)adds; (void)relu; (void)c; (void)ldc;                 \
        }
    #endif
    MG_TILE(mg_tile_float1, float, 1)
    MG_TILE(mg_tile_float2, float, 2)
    MG_TILE(mg_tile_float3, float, 3)
    MG_TILE(mg_tile_double1, double, 1)
    MG_TILE(mg_tile_double2, double, 2)
    MG_TILE(mg_tile_double3, double, 3)
    static inline void mg_tile_float(Py_ssize_t columns, const float *a, const float *b, Py_ssize_t depth,
                                     const float *start, int adds, int relu, float *c, Py_ssize_t ldc) {
        if (columns > 32) mg_tile_float3(a, b, depth, start, adds, relu, c, ldc);
        else if (columns > 16) mg_tile_float2(a, b, depth, start, adds, relu, c, ldc);
        else mg_tile_float1(a, b, depth, start, adds, relu, c, ldc);
    }
    static inline void mg_tile_double(Py_ssize_t columns, const double *a, const double *b, Py_ssize_t depth,
                                      const double *start, int adds, int relu, double *c, Py_ssize_t ldc) {
        if (columns > 16) mg_tile_double3(a, b, depth, start, adds, relu, c, ldc);
        else if (columns > 8) mg_tile_double2(a, b, depth, start, adds, relu, c, ldc);
        else mg_tile_double1(a, b, depth, start, adds, relu, c, ldc);
    }
    """
    const bint MG_HAS_PANELS
    void mg_tile_float(
        npy_intp columns, const float* a, const float* b, npy_intp depth, const float* start, bint adds, bint relu,
        float* c, npy_intp ldc) noexcept nogil
    void mg_tile_double(
        npy_intp columns, const double* a, const double* b, npy_intp depth, const double* start, bint adds, bint relu,
        double* c, npy_intp ldc) noexcept nogil
    void mg_turn_float(const float* x, npy_intp ldx, float* y, npy_intp ldy) noexcept nogil
    void mg_turn_double(const double* x, npy_intp ldx, double* y, npy_intp ldy) noexcept nogil

cdef enum:
    ROWS = 8
    DEPTH_OF_PANEL = 512    # inner indices that are packed at a time
    HIGH = 96               # rows that one thread packs at a time, so that they stay in its second-level cache
    CHUNK = 3072            # columns that are packed at a time, so that all threads find them in the last one
    GROUP = 384             # columns of a task where there are few over rows
    FEW_TASKS = 16

cdef struct Factors:
    const void* a               # c (m, n) = op(a) (m, k) @ op(b) (k, n)
    const void* b
    const void* bias            # added to each row, or NULL
    npy_intp m, n, k, lda, ldb, ldc
    bint ta, tb, adds, relu
    npy_intp first, columns     # of the part of b that is packed now
    npy_intp start, depth
    npy_intp groups, group      # of columns


cdef inline npy_intp width(const real* x) noexcept nogil:
    """The columns of a panel: three vectors."""
    return 192 // sizeof(real)


cdef inline void pack_side(
    const real* x, bint along, npy_intp ld, npy_intp valid, npy_intp wide, npy_intp depth, real* out,
) noexcept nogil:
    """A panel (depth, wide) of `valid` rows of x (`along`: each lies along the inner index) or columns, then zeros."""
    cdef npy_intp i, k, whole = valid - valid % 8 if along else 0, inner = depth - depth % 8
    if valid < wide:
        memset(out, 0, depth * wide * sizeof(real))
    if not along:    # lengths that the compiler knows become a few vector moves
        if valid < wide:
            for k in range(depth):
                memcpy(out + k * wide, x + k * ld, valid * sizeof(real))
        elif wide == ROWS:
            for k in range(depth):
                memcpy(out + k * ROWS, x + k * ld, ROWS * sizeof(real))
        else:
            for k in range(depth):
                memcpy(out + k * wide, x + k * ld, 192)
        return
    for i in range(0, whole, 8):
        for k in range(0, inner, 8):
            if real is float:
                mg_turn_float(x + i * ld + k, ld, out + k * wide + i, wide)
            else:
                mg_turn_double(x + i * ld + k, ld, out + k * wide + i, wide)
    for i in range(valid):
        for k in range(inner if i < whole else 0, depth):
            out[k * wide + i] = x[i * ld + k]


cdef inline void pack_panel(npy_intp panel, const Factors* p, real* packed) noexcept nogil:
    """A panel of the right factor."""
    cdef npy_intp wide = width(packed), at = p.first + panel * wide
    cdef const real* b = <const real*>p.b + (at * p.ldb + p.start if p.tb else p.start * p.ldb + at)
    pack_side(b, p.tb, p.ldb, min(wide, p.first + p.columns - at), wide, p.depth, packed + panel * wide * p.depth)


cdef inline void multiply_rows(
    npy_intp task, const Factors* p, const real* packed_b, real* scratch, real* c,
) noexcept nogil:
    """Some rows of the result, and some of its columns."""
    cdef npy_intp wide = width(packed_b), top = task // p.groups * HIGH, i, j, row, column, high, across
    cdef npy_intp left = task % p.groups * p.group, right = min(left + p.group, p.columns)
    cdef npy_intp tiles = (min(HIGH, p.m - top) + ROWS - 1) // ROWS
    cdef bint adds = p.adds or p.start > 0, relu = p.relu and p.start + p.depth == p.k
    cdef real* packed = scratch + threadid() * HIGH * p.depth
    cdef const real* bias
    cdef const real* start
    cdef real* out
    cdef real[8 * 48] edge
    cdef real[48] row_of_edge
    for i in range(tiles):
        row = top + i * ROWS
        pack_side(
            <const real*>p.a + (p.start * p.lda + row if p.ta else row * p.lda + p.start), not p.ta, p.lda,
            min(ROWS, p.m - row), ROWS, p.depth, packed + i * ROWS * p.depth,
        )
    for j in range((right - left + wide - 1) // wide):
        column = left + j * wide
        across = min(wide, right - column)
        bias = <const real*>p.bias + p.first + column if p.bias != NULL and p.start == 0 else <const real*>NULL
        for i in range(tiles):
            row = top + i * ROWS
            high = min(ROWS, p.m - row)
            out = c + row * p.ldc + p.first + column
            start = bias
            if high < ROWS or across % (wide // 3):    # a tile that is not whole is computed beside the result
                copy_rows(out, p.ldc, edge, wide, high if adds else 0, across)
                if bias != NULL:
                    memcpy(row_of_edge, bias, across * sizeof(real))
                    start = row_of_edge
                tile_of(across, packed + i * ROWS * p.depth, packed_b + column * p.depth, p.depth, start, adds, relu,
                        edge, wide)
                copy_rows(edge, wide, out, p.ldc, high, across)
            else:
                tile_of(across, packed + i * ROWS * p.depth, packed_b + column * p.depth, p.depth, start, adds, relu,
                        out, p.ldc)


cdef inline void copy_rows(
    const real* x, npy_intp ldx, real* y, npy_intp ldy, npy_intp rows, npy_intp columns,
) noexcept nogil:
    cdef npy_intp i
    for i in range(rows):
        memcpy(y + i * ldy, x + i * ldx, columns * sizeof(real))


cdef inline void tile_of(
    npy_intp columns, const real* a, const real* b, npy_intp depth, const real* start, bint adds, bint relu, real* c,
    npy_intp ldc,
) noexcept nogil:
    if real is float:
        mg_tile_float(columns, a, b, depth, start, adds, relu, c, ldc)
    else:
        mg_tile_double(columns, a, b, depth, start, adds, relu, c, ldc)


cdef inline bint by_panels(Factors* p, real* c) noexcept nogil:
    """Compute a product; False, with nothing done, where there is no memory."""
    cdef npy_intp wide = width(c), blocks = (p.m + HIGH - 1) // HIGH, panels, i
    cdef npy_intp chunk = min(CHUNK, (p.n + wide - 1) // wide * wide), deep = min(DEPTH_OF_PANEL, p.k)
    cdef int threads = num_threads()
    cdef real* packed
    cdef real* scratch
    p.group = chunk if blocks >= FEW_TASKS else GROUP
    p.groups = (chunk + p.group - 1) // p.group
    packed = <real*>malloc(chunk * deep * sizeof(real))
    scratch = <real*>malloc(threads * HIGH * deep * sizeof(real))
    if packed == NULL or scratch == NULL:
        free(packed)
        free(scratch)
        return False
    p.first = 0
    while p.first < p.n:
        p.columns = min(chunk, p.n - p.first)
        p.groups = (p.columns + p.group - 1) // p.group
        panels = (p.columns + wide - 1) // wide
        p.start = 0
        while p.start < p.k:
            p.depth = min(deep, p.k - p.start)
            for i in prange(panels, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
                pack_panel(i, p, packed)
            for i in prange(blocks * p.groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
                multiply_rows(i, p, packed, scratch, c)
            p.start += p.depth
        p.first += p.columns
    free(packed)
    free(scratch)
    return True

"""Large matrix products of our own, for AVX-512 and AVX2: all threads share one packed right factor.

The loops are those of K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008: a part
of the right factor is packed into panels of three vectors, each thread packs some rows of the left one into panels of
8, and a tile of 8 rows is summed up in registers. Transposed factors only are packed in another way. Each number of
the result is summed up in one order, whatever the tiles and threads: over parts of `MG_DEPTH`, one after
another.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport npy_intp

from minigrad._core.cpu cimport num_threads
from minigrad._core.loops.plain cimport pieces, real
from minigrad._core.loops.transpose cimport turn8

cdef extern from *:
    """
    #include <string.h>
    #if (defined(__clang__) || __GNUC__ >= 12) && (defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__)))
    #define MG_HAS_PANELS 1
    #ifdef __AVX512F__
    enum {MG_BYTES = 64, MG_HIGH = 8, MG_DEPTH = 512};   /* of a vector; rows whose sums fit the registers; */
    #else
    enum {MG_BYTES = 32, MG_HIGH = 4, MG_DEPTH = 1024};   /* the depth of panels that fit the caches */
    #endif

    /* c (8, VECTORS vectors) = or += a (8, depth) @ b (depth, 3 vectors), HIGH rows at a time: their sums take
       HIGH * VECTORS registers, of 32 or of 16, and eight at least, as a sum waits for the one before. `start` is a row
       that is added to each row of c, or NULL. */
    #define MG_TILE(name, real, VECTORS)                                                                            \
        static void name(const real *a, const real *b, Py_ssize_t depth, const real *start, int adds, int relu,     \
                         real *c, Py_ssize_t ldc) {                                                                 \
            typedef real row __attribute__((vector_size(MG_BYTES)));                                                \
            enum {LANES = MG_BYTES / sizeof(real), HIGH = VECTORS == 1 ? 8 : MG_HIGH};                              \
            for (int top = 0; top < 8; top += HIGH, c += HIGH * ldc) {                                              \
                row sum[HIGH][VECTORS], x[VECTORS];                                                                 \
                const real *left = a + top, *right = b;                                                             \
                for (int i = 0; i < HIGH; i++)                                                                      \
                    for (int j = 0; j < VECTORS * MG_BYTES; j += 64)                                                \
                        __builtin_prefetch((char *)(c + i * ldc) + j, 1);                                           \
                _Pragma("GCC unroll 8")                                                                             \
                for (int i = 0; i < HIGH; i++)                                                                      \
                    _Pragma("GCC unroll 3")                                                                         \
                    for (int j = 0; j < VECTORS; j++) sum[i][j] = (row){0};                                         \
                for (Py_ssize_t k = 0; k < depth; k++, left += 8, right += 3 * LANES) {                             \
                    _Pragma("GCC unroll 3")                                                                         \
                    for (int j = 0; j < VECTORS; j++) memcpy(&x[j], right + j * LANES, MG_BYTES);                   \
                    _Pragma("GCC unroll 8")                                                                         \
                    for (int i = 0; i < HIGH; i++)                                                                  \
                        _Pragma("GCC unroll 3")                                                                     \
                        for (int j = 0; j < VECTORS; j++) sum[i][j] += left[i] * x[j];                              \
                }                                                                                                   \
                _Pragma("GCC unroll 8")                                                                             \
                for (int i = 0; i < HIGH; i++)                                                                      \
                    _Pragma("GCC unroll 3")                                                                         \
                    for (int j = 0; j < VECTORS; j++) {                                                             \
                        row old;                                                                                    \
                        if (start) { memcpy(&old, start + j * LANES, MG_BYTES); sum[i][j] += old; }                 \
                        if (adds) { memcpy(&old, c + i * ldc + j * LANES, MG_BYTES); sum[i][j] += old; }            \
                        if (relu) for (int l = 0; l < LANES; l++)                                                   \
                            if (sum[i][j][l] <= 0) sum[i][j][l] = 0;                                                \
                        memcpy(c + i * ldc + j * LANES, &sum[i][j], MG_BYTES);                                      \
                    }                                                                                               \
            }                                                                                                       \
        }
    #else
    #define MG_HAS_PANELS 0
    enum {MG_BYTES = 64, MG_DEPTH = 512};
    #define MG_TILE(name, real, VECTORS)                                                                            \
        static inline void name(const real *a, const real *b, Py_ssize_t depth, const real *start, int adds,        \
                                int relu, real *c, Py_ssize_t ldc) {                                                \
            (void)a; (void)b; (void)depth; (void)start; (void)adds; (void)relu; (void)c; (void)ldc;                 \
        }
    #endif
    /* `chunks` times 32 bytes; gcc copies those that it knows in halves of 16 */
    static inline void mg_copy_chunks(const void *x, void *y, int chunks) {
        typedef char chunk __attribute__((vector_size(32)));
        chunk a;
        _Pragma("GCC unroll 6")
        for (int i = 0; i < chunks; i++) {
            memcpy(&a, (const char *)x + i * 32, 32);
            memcpy((char *)y + i * 32, &a, 32);
        }
    }
    MG_TILE(mg_tile_float1, float, 1)
    MG_TILE(mg_tile_float2, float, 2)
    MG_TILE(mg_tile_float3, float, 3)
    MG_TILE(mg_tile_double1, double, 1)
    MG_TILE(mg_tile_double2, double, 2)
    MG_TILE(mg_tile_double3, double, 3)
    static inline void mg_tile_float(Py_ssize_t columns, const float *a, const float *b, Py_ssize_t depth,
                                     const float *start, int adds, int relu, float *c, Py_ssize_t ldc) {
        enum {LANES = MG_BYTES / sizeof(float)};
        if (columns > 2 * LANES) mg_tile_float3(a, b, depth, start, adds, relu, c, ldc);
        else if (columns > LANES) mg_tile_float2(a, b, depth, start, adds, relu, c, ldc);
        else mg_tile_float1(a, b, depth, start, adds, relu, c, ldc);
    }
    static inline void mg_tile_double(Py_ssize_t columns, const double *a, const double *b, Py_ssize_t depth,
                                      const double *start, int adds, int relu, double *c, Py_ssize_t ldc) {
        enum {LANES = MG_BYTES / sizeof(double)};
        if (columns > 2 * LANES) mg_tile_double3(a, b, depth, start, adds, relu, c, ldc);
        else if (columns > LANES) mg_tile_double2(a, b, depth, start, adds, relu, c, ldc);
        else mg_tile_double1(a, b, depth, start, adds, relu, c, ldc);
    }
    """
    const bint MG_HAS_PANELS
    const npy_intp MG_BYTES, MG_DEPTH
    void mg_copy_chunks(const void* x, void* y, int chunks) noexcept nogil
    void mg_tile_float(
        npy_intp columns, const float* a, const float* b, npy_intp depth, const float* start, bint adds, bint relu,
        float* c, npy_intp ldc) noexcept nogil
    void mg_tile_double(
        npy_intp columns, const double* a, const double* b, npy_intp depth, const double* start, bint adds, bint relu,
        double* c, npy_intp ldc) noexcept nogil

cdef enum:
    ROWS = 8
    PACKED = 4              # panels that one thread packs at a time, from parts of rows that are not too short
    HIGH = 96               # rows that one thread packs at a time, so that they stay in its second-level cache
    CHUNK = 3072            # columns that are packed at a time, so that all threads find them in the last one
    SHARE = 16              # tasks for each thread, by parting the columns too, so that none waits long; but
    GROUP = 384             # about so many columns a task, since each packs its rows again

cdef struct Factors:
    const void* a               # c (m, n) = op(a) (m, k) @ op(b) (k, n)
    const void* b
    const void* bias            # added to each row, or NULL
    npy_intp m, n, k, lda, ldb, ldc
    bint ta, tb, adds, relu
    npy_intp first, columns     # of the part of b that is packed now
    npy_intp start, depth
    npy_intp high               # of the rows of a task
    npy_intp groups, group      # of columns, and how many a group has


cdef inline npy_intp width(const real* x) noexcept nogil:
    """The columns of a panel: three vectors."""
    return 3 * MG_BYTES // sizeof(real)


cdef inline void pack(
    const real* x, bint along, npy_intp ld, npy_intp n, npy_intp wide, npy_intp depth, real* out,
) noexcept nogil:
    """Panels (depth, wide) of `n` rows of x (`along`: each lies along the inner index) or columns; then zeros."""
    cdef npy_intp whole = n // wide, rest = n % wide, inner = depth - depth % 8, i, k, group, panel
    cdef real* last = out + whole * wide * depth
    if rest:
        memset(last, 0, depth * wide * sizeof(real))
    if not along:
        # a few panels in one pass, as their rows lie side by side; rows of many would fall on one set of the cache
        for group in range(pieces(whole, PACKED)):
            for k in range(depth):
                for panel in range(group * PACKED, min(group * PACKED + PACKED, whole)):
                    if wide == ROWS:
                        mg_copy_chunks(
                            x + k * ld + panel * ROWS, out + (panel * depth + k) * ROWS, ROWS * sizeof(real) // 32
                        )
                    else:
                        mg_copy_chunks(
                            x + k * ld + panel * wide, out + (panel * depth + k) * wide, 3 * MG_BYTES // 32
                        )
        for k in range(depth if rest else 0):
            memcpy(last + k * wide, x + k * ld + whole * wide, rest * sizeof(real))
        return
    for panel in range(pieces(n, wide)):
        rest = min(wide, n - panel * wide)
        for i in range(0, rest - rest % 8, 8):
            for k in range(0, inner, 8):
                turn8(x + i * ld + k, ld, out + k * wide + i, wide)
        for i in range(rest):
            for k in range(inner if i < rest - rest % 8 else 0, depth):
                out[k * wide + i] = x[i * ld + k]
        x += wide * ld
        out += wide * depth


cdef inline npy_intp packs(const Factors* p, const real* like) noexcept nogil:
    """How many calls of `pack_panels` the part of the right factor takes."""
    return pieces(p.columns, PACKED * width(like))


cdef inline void pack_panels(npy_intp task, const Factors* p, real* packed) noexcept nogil:
    """Some panels of the right factor."""
    cdef npy_intp wide = width(packed), at = task * PACKED * wide, column = p.first + at
    cdef const real* b = <const real*>p.b + (column * p.ldb + p.start if p.tb else p.start * p.ldb + column)
    pack(b, p.tb, p.ldb, min(PACKED * wide, p.columns - at), wide, p.depth, packed + at * p.depth)


cdef inline void multiply_rows(
    npy_intp task, const Factors* p, const real* packed_b, real* scratch, real* c,
) noexcept nogil:
    """Some rows of the result, and some of its columns."""
    cdef npy_intp wide = width(packed_b), top = task // p.groups * p.high, i, j, row, column, high, across
    cdef npy_intp left = task % p.groups * p.group, right = min(left + p.group, p.columns)
    cdef npy_intp tiles = pieces(min(p.high, p.m - top), ROWS)
    cdef bint adds = p.adds or p.start > 0, relu = p.relu and p.start + p.depth == p.k
    cdef real* packed = scratch + threadid() * HIGH * p.depth
    cdef const real* bias
    cdef const real* start
    cdef real* out
    cdef real[8 * 48] edge
    cdef real[48] row_of_edge
    pack(
        <const real*>p.a + (p.start * p.lda + top if p.ta else top * p.lda + p.start), not p.ta, p.lda,
        min(p.high, p.m - top), ROWS, p.depth, packed,
    )
    for j in range(pieces(right - left, wide)):
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


cdef inline npy_intp even(npy_intp extent, npy_intp parts, npy_intp unit) noexcept nogil:
    """The size of parts that are as equal as multiples of a unit can be."""
    return pieces(pieces(extent, parts), unit) * unit


cdef inline bint by_panels(Factors* p, real* c) noexcept nogil:
    """Compute a product; False, with nothing done, where there is no memory."""
    cdef npy_intp wide = width(c), blocks, i
    cdef npy_intp chunk = min(CHUNK, pieces(p.n, wide) * wide), deep = even(p.k, pieces(p.k, MG_DEPTH), 8)
    cdef int threads = num_threads()
    cdef real* packed
    cdef real* scratch
    p.high = even(p.m, pieces(pieces(p.m, HIGH), threads) * threads, ROWS)    # so that no thread waits long
    blocks = pieces(p.m, p.high)
    packed = <real*>malloc(chunk * deep * sizeof(real))
    scratch = <real*>malloc(threads * HIGH * deep * sizeof(real))
    if packed == NULL or scratch == NULL:
        free(packed)
        free(scratch)
        return False
    p.first = 0
    while p.first < p.n:
        p.columns = min(chunk, p.n - p.first)
        p.groups = min(pieces(SHARE * threads, blocks), pieces(p.columns, GROUP))
        p.group = even(p.columns, p.groups, wide)
        p.groups = pieces(p.columns, p.group)
        p.start = 0
        while p.start < p.k:
            p.depth = min(deep, p.k - p.start)
            for i in prange(packs(p, c), num_threads=threads, use_threads_if=threads > 1, schedule="static"):
                pack_panels(i, p, packed)
            for i in prange(blocks * p.groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
                multiply_rows(i, p, packed, scratch, c)
            p.start += p.depth
        p.first += p.columns
    free(packed)
    free(scratch)
    return True

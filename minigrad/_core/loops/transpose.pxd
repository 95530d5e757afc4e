"""Transposes of matrices, eight by eight in registers."""
from cython.parallel cimport prange
from numpy cimport npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport pieces, real

cdef extern from *:
    """
    /* y (8, 8) = the transpose of x (8, 8): three times rows i and i + 4 are interleaved, which each time turns the
       bits of row and column, read as one number, around by one place */
    #if defined(__clang__) || __GNUC__ >= 12
    #include <string.h>
    #define MG_TURN(name, real)                                                                                     \
        static inline void name(const real *x, Py_ssize_t ldx, real *y, Py_ssize_t ldy) {                           \
            typedef real row __attribute__((vector_size(8 * sizeof(real))));                                        \
            row a[8], b[8]; /* in registers, once all loops are unrolled */                                         \
            _Pragma("GCC unroll 8")                                                                                 \
            for (int i = 0; i < 8; i++) memcpy(&a[i], x + i * ldx, sizeof(row));                                    \
            _Pragma("GCC unroll 3")                                                                                 \
            for (int turn = 0; turn < 3; turn++) {                                                                  \
                _Pragma("GCC unroll 4")                                                                             \
                for (int i = 0; i < 4; i++) {                                                                       \
                    b[2 * i] = __builtin_shufflevector(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);                   \
                    b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);             \
                }                                                                                                   \
                _Pragma("GCC unroll 8")                                                                             \
                for (int i = 0; i < 8; i++) a[i] = b[i];                                                            \
            }                                                                                                       \
            _Pragma("GCC unroll 8")                                                                                 \
            for (int i = 0; i < 8; i++) memcpy(y + i * ldy, &a[i], sizeof(row));                                    \
        }
    #else
    #define MG_TURN(name, real)                                                                                     \
        static inline void name(const real *x, Py_ssize_t ldx, real *y, Py_ssize_t ldy) {                           \
            for (int i = 0; i < 8; i++)                                                                             \
                for (int j = 0; j < 8; j++) y[j * ldy + i] = x[i * ldx + j];                                        \
        }
    #endif
    MG_TURN(mg_turn_float, float)
    MG_TURN(mg_turn_double, double)
    """
    void mg_turn_float(const float* x, npy_intp ldx, float* y, npy_intp ldy) noexcept nogil
    void mg_turn_double(const double* x, npy_intp ldx, double* y, npy_intp ldy) noexcept nogil

cdef enum:
    BAND = 32               # rows that are transposed at a time, a multiple of 8


cdef inline void turn8(const real* x, npy_intp ldx, real* y, npy_intp ldy) noexcept nogil:
    """y (8, 8) = the transpose of x (8, 8)."""
    if real is float:
        mg_turn_float(x, ldx, y, ldy)
    else:
        mg_turn_double(x, ldx, y, ldy)


cdef inline void turn_band(npy_intp start, npy_intp m, npy_intp n, const real* x, npy_intp ld, real* y) noexcept nogil:
    """Transpose some rows of x (m, n) into columns of y (n, m)."""
    cdef npy_intp end = min(start + BAND, m), blocks = n - n % 8, i, j
    for j in range(0, blocks, 8):
        for i in range(start, end - end % 8, 8):
            turn8(x + i * ld + j, ld, y + j * m + i, m)
    for i in range(start, end):
        for j in range(blocks if i < end - end % 8 else 0, n):
            y[j * m + i] = x[i * ld + j]


cdef inline void turn(npy_intp m, npy_intp n, const real* x, npy_intp ld, real* y) noexcept nogil:
    """y (n, m) = the transpose of x (m, n), whose rows are `ld` elements apart."""
    cdef npy_intp i, bands = pieces(m, BAND)
    cdef int threads = threads_for(m * n)
    if threads == 1:    # a region costs half a microsecond even then
        for i in range(bands):
            turn_band(i * BAND, m, n, x, ld, y)
    else:
        for i in prange(bands, num_threads=threads, schedule="static"):
            turn_band(i * BAND, m, n, x, ld, y)

"""Products of bfloat16 matrices by VDPBF16PS, which multiplies pairs and adds them up in float32.

Twice the peak of a float32 product, and half the memory. Sums are float32, rounded once at the end; subnormal factors
count as 0, as the instruction has it. Both factors are packed into panels of whole tiles: `ROWS` of the left and
`COLUMNS` of the right one, for each pair of inner indices side by side, padded with zeros.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport (
    PyArray_DATA, PyArray_DIMS, PyArray_ISALIGNED, PyArray_ISNOTSWAPPED, PyArray_NDIM, PyArray_STRIDES, PyArray_TYPE,
    import_array, ndarray, npy_intp, npy_uint16, npy_uint32,
)

from minigrad._core.cpu cimport num_threads
from minigrad._core.loops.plain cimport is_plain

from ml_dtypes import bfloat16
import numpy as np

from minigrad._core import cpu

import_array()

cdef extern from *:
    """
    #define MG_ROWS 6
    #define MG_COLUMNS 64

    #if defined(__AVX512F__) && defined(__AVX512BW__) && (defined(__clang__) || __GNUC__ >= 10)
    #include <immintrin.h>
    #define MG_HAS_BFLOAT 1

    /* One tile of out, at most MG_ROWS x MG_COLUMNS: 24 of the 32 registers hold its sums, 4 a row of b. */
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
    static void mg_tile(const uint32_t *a, const uint32_t *b, Py_ssize_t pairs, const uint16_t *bias, Py_ssize_t first,
                        uint16_t *out, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t columns) {
        __m512 sum[MG_ROWS][4];
        #pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const Py_ssize_t left = columns - 16 * j;
            __m512i start = _mm512_setzero_si512();
            if (bias && left > 0)
                start = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
                    left >= 16 ? 0xFFFF : (1u << left) - 1, bias + first + 16 * j)), 16);
            #pragma GCC unroll 6
            for (int i = 0; i < MG_ROWS; i++) sum[i][j] = _mm512_castsi512_ps(start);
        }
        for (Py_ssize_t k = 0; k < pairs; k++, a += MG_ROWS, b += MG_COLUMNS) {
            const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 16);
            const __m512bh b2 = (__m512bh)_mm512_loadu_si512(b + 32), b3 = (__m512bh)_mm512_loadu_si512(b + 48);
            #pragma GCC unroll 6
            for (int i = 0; i < MG_ROWS; i++) {
                const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i]);
                sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
                sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
                sum[i][2] = _mm512_dpbf16_ps(sum[i][2], x, b2);
                sum[i][3] = _mm512_dpbf16_ps(sum[i][3], x, b3);
            }
        }
        #pragma GCC unroll 6
        for (int i = 0; i < MG_ROWS; i++)
            #pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const Py_ssize_t left = columns - 16 * j;
                if (i < rows && left > 0)
                    _mm256_mask_storeu_epi16(out + i * ld + 16 * j, left >= 16 ? 0xFFFF : (1u << left) - 1,
                                             (__m256i)_mm512_cvtneps_pbh(sum[i][j]));
            }
    }
    #else
    #define MG_HAS_BFLOAT 0
    static void mg_tile(const uint32_t *a, const uint32_t *b, Py_ssize_t pairs, const uint16_t *bias, Py_ssize_t first,
                        uint16_t *out, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t columns) {
        (void)a; (void)b; (void)pairs; (void)bias; (void)first; (void)out; (void)ld; (void)rows; (void)columns;
    }
    #endif
    """
    const bint MG_HAS_BFLOAT
    void mg_tile(
        const npy_uint32* a, const npy_uint32* b, npy_intp pairs, const npy_uint16* bias, npy_intp first,
        npy_uint16* out, npy_intp ld, npy_intp rows, npy_intp columns) noexcept nogil

cdef enum:
    ROWS = 6
    COLUMNS = 64
    PACKED = 262_144  # bytes of the left factor that one task packs, so that they stay in the second-level cache
    GROUP = 512       # columns of a task where there are few tasks over rows
    FEW = 16
    SMALL = 32_768    # products of numbers; below, casting to float32 is as fast

cdef int BFLOAT = np.dtype(bfloat16).num

cdef struct Matrix:
    const npy_uint16* data
    npy_intp rows, columns
    npy_intp ld         # elements from one stored row to the next
    bint transposed     # stored columns first


cdef void pack(
    const Matrix* x, bint inner_contiguous, npy_intp ld, npy_intp start, npy_intp width, npy_intp valid, npy_intp inner,
    npy_uint32* out,
) noexcept nogil:
    """A panel: for each pair of inner indices the pairs of numbers of `width` outer indices from `start` on."""
    cdef npy_intp p, i, pairs = (inner + 1) // 2
    cdef const npy_uint16* first
    cdef const npy_uint16* second
    cdef npy_uint32 high
    if valid < width:
        memset(out, 0, pairs * width * sizeof(npy_uint32))
    if inner_contiguous:
        for i in range(valid):
            first = x.data + (start + i) * ld
            for p in range(inner // 2):
                out[p * width + i] = first[2 * p] | (<npy_uint32>first[2 * p + 1] << 16)
            if inner % 2:
                out[(pairs - 1) * width + i] = first[inner - 1]
    else:
        for p in range(pairs):
            first = x.data + 2 * p * ld + start
            second = first + ld
            if 2 * p + 1 < inner:
                for i in range(valid):
                    high = second[i]
                    out[p * width + i] = first[i] | (high << 16)
            else:
                for i in range(valid):
                    out[p * width + i] = first[i]


cdef void pack_columns(npy_intp panel, const Matrix* b, npy_uint32* packed) noexcept nogil:
    cdef npy_intp pairs = (b.rows + 1) // 2, start = panel * COLUMNS
    pack(b, b.transposed, b.ld, start, COLUMNS, min(COLUMNS, b.columns - start), b.rows,
         packed + panel * pairs * COLUMNS)


cdef void multiply_rows(
    npy_intp task, npy_intp groups, npy_intp height, npy_intp group, const Matrix* a, const npy_uint32* packed_b,
    npy_intp columns, const npy_uint16* bias, npy_uint32* scratch, npy_uint16* out,
) noexcept nogil:
    """Some rows of the product, and some of its columns."""
    cdef npy_intp top = task // groups * height, left = task % groups * group
    cdef npy_intp bottom = min(top + height, a.rows), right = min(left + group, columns)
    cdef npy_intp pairs = (a.columns + 1) // 2, row, column, i, j, tiles = (bottom - top + ROWS - 1) // ROWS
    cdef npy_uint32* packed = scratch + threadid() * height * pairs
    for i in range(tiles):
        row = top + i * ROWS
        pack(a, not a.transposed, a.ld, row, ROWS, min(ROWS, bottom - row), a.columns, packed + (row - top) * pairs)
    for j in range((right - left + COLUMNS - 1) // COLUMNS):
        column = left + j * COLUMNS
        for i in range(tiles):
            row = top + i * ROWS
            mg_tile(
                packed + (row - top) * pairs, packed_b + column * pairs, pairs, bias, column,
                out + row * columns + column, columns, min(ROWS, bottom - row), min(COLUMNS, columns - column),
            )


cdef bint multiply(const Matrix* a, const Matrix* b, const npy_uint16* bias, npy_uint16* out) noexcept nogil:
    """Write a @ b, plus a bias where there is one; False where there is no memory."""
    cdef npy_intp pairs = (a.columns + 1) // 2, panels = (b.columns + COLUMNS - 1) // COLUMNS
    cdef npy_intp height = max(1, min(16, PACKED // (pairs * 4 * ROWS))) * ROWS
    cdef npy_intp blocks = (a.rows + height - 1) // height
    cdef npy_intp group = GROUP if blocks < FEW else panels * COLUMNS
    cdef npy_intp groups = (b.columns + group - 1) // group
    cdef npy_intp i
    cdef int threads = num_threads() if a.rows * b.columns * pairs > 4 * SMALL else 1
    cdef npy_uint32* packed_b = <npy_uint32*>malloc(panels * COLUMNS * pairs * sizeof(npy_uint32))
    cdef npy_uint32* scratch = <npy_uint32*>malloc(threads * height * pairs * sizeof(npy_uint32))
    if packed_b != NULL and scratch != NULL:
        for i in prange(panels, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
            pack_columns(i, b, packed_b)
        for i in prange(blocks * groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
            multiply_rows(i, groups, height, group, a, packed_b, b.columns, bias, scratch, out)
    i = packed_b != NULL and scratch != NULL
    free(packed_b)
    free(scratch)
    return i


cdef bint read(object x, npy_intp ndim, Matrix* m):
    """A matrix from an array of `ndim` axes, all but the last flattened; False where it does not lie in rows."""
    cdef npy_intp* dims
    cdef npy_intp* strides
    cdef npy_intp i
    if type(x) is not ndarray or PyArray_TYPE(<ndarray>x) != BFLOAT or PyArray_NDIM(<ndarray>x) != ndim:
        return False
    if not PyArray_ISALIGNED(<ndarray>x) or not PyArray_ISNOTSWAPPED(<ndarray>x):
        return False
    dims, strides = PyArray_DIMS(<ndarray>x), PyArray_STRIDES(<ndarray>x)
    m.data = <const npy_uint16*>PyArray_DATA(<ndarray>x)
    m.columns = dims[ndim - 1]
    m.rows = 1
    for i in range(ndim - 1):
        m.rows *= dims[i]
        if i and strides[i - 1] != dims[i] * strides[i]:
            return False
    if m.rows == 0 or m.columns == 0:
        return False
    m.transposed = strides[ndim - 1] != 2
    m.ld = (strides[ndim - 1] if m.transposed else strides[ndim - 2]) // 2
    return not m.transposed or strides[ndim - 2] == 2


cdef object product(const Matrix* a, const Matrix* b, tuple shape, object bias=None):
    """a @ b + bias as a new array of some shape, or NotImplemented."""
    cdef bint done
    cdef const npy_uint16* added = NULL
    if not MG_HAS_BFLOAT or not cpu.has_bf16() or a.columns != b.rows or a.rows * b.columns * a.columns < SMALL:
        return NotImplemented
    if bias is not None:
        if not is_plain(bias, BFLOAT) or bias.shape != (b.columns,):
            return NotImplemented
        added = <const npy_uint16*>PyArray_DATA(<ndarray>bias)
    out = np.empty(shape, bfloat16)
    cdef npy_uint16* data = <npy_uint16*>PyArray_DATA(<ndarray>out)
    with nogil:
        done = multiply(a, b, added, data)
    return out if done else NotImplemented


cdef inline void transpose(Matrix* m):
    m.rows, m.columns = m.columns, m.rows
    m.transposed = not m.transposed


def linear(x, weight, bias):
    """Kernel of the op ``linear``."""
    cdef Matrix a, b
    if type(x) is not ndarray or x.ndim < 2 or not read(x, x.ndim, &a) or not read(weight, 2, &b):
        return NotImplemented
    return product(&a, &b, x.shape[:x.ndim - 1] + weight.shape[1:], bias)


def linear_vjp0(g, weight):
    """Kernel of its rule for the input."""
    return matmul_vjp0(g, g.shape, weight)


def linear_vjp1(g, x, weight_shape):
    """Kernel of its rule for the weight."""
    return matmul_vjp1(g, x, weight_shape)


def matmul(x1, x2):
    """Kernel of the op ``matmul`` for a matrix, or a stack of them, and a matrix."""
    return linear(x1, x2, None)


def matmul_vjp0(g, x1_shape, x2):
    """Kernel of its rule for the left factor: g @ x2^T."""
    cdef Matrix a, b
    if len(x1_shape) < 2 or type(g) is not ndarray or g.ndim < 2 or not read(g, g.ndim, &a) or not read(x2, 2, &b):
        return NotImplemented
    transpose(&b)
    return product(&a, &b, g.shape[:g.ndim - 1] + x2.shape[:1])


def matmul_vjp1(g, x1, x2_shape):
    """Kernel of its rule for the right factor: x1^T @ g."""
    cdef Matrix a, b
    if len(x2_shape) != 2 or type(x1) is not ndarray or x1.ndim < 2:
        return NotImplemented
    if not read(x1, x1.ndim, &a) or not read(g, x1.ndim, &b):
        return NotImplemented
    transpose(&a)
    return product(&a, &b, tuple(x2_shape))

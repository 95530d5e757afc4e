"""Products with int8 weights: by rows that are quantized on the way, in int32, or by rows of float32.

The first is exact: every instruction set gives the same bits. Factors are widened to int16, whose products are added
in pairs to int32 (VPMADDWD): VPMADDUBSW, which takes bytes, saturates. Weights come packed into panels of 16 columns:
for each pair of inner indices, or for each index where rows are float32, those of the columns side by side, padded with
zeros.
"""
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from numpy cimport (
    NPY_FLOAT, NPY_INT8, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NDIM, import_array, ndarray, npy_int8,
    npy_int16, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.dispatch cimport kernels_on
from minigrad._core.loops.plain cimport RELEASE_GIL, is_plain, pieces

import_array()

cdef extern from *:
    """
    #include <float.h>
    #include <math.h>
    #include <stdint.h>
    #include <string.h>

    #define MG_WIDE 16                      /* columns of a panel */

    /* Nothing may be contracted across it: a product that is rounded, then added. */
    #if defined(__GNUC__)
    #define MG_FENCE __asm__ volatile("" ::: "memory")
    #define MG_INLINE static inline __attribute__((always_inline))
    #else
    #define MG_FENCE
    #define MG_INLINE static inline
    #endif

    /* One row as integers in [-levels, levels], padded with zeros to an even number; its scale, NaN if not finite. */
    static float mg_quantize(const float *x, Py_ssize_t n, float levels, int16_t *out) {
        int32_t most = 0;
        for (Py_ssize_t k = 0; k < n; k++) {
            int32_t bits;
            memcpy(&bits, x + k, 4);
            bits &= 0x7FFFFFFF;             /* as integers NaN is above infinity, and that above all others */
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, 4);
        if (n % 2) out[n] = 0;
        const float scale = largest / levels;
        if (most >= 0x7F800000 || scale < FLT_MIN) {  /* a smaller scale would have lost its digits */
            memset(out, 0, n * sizeof(int16_t));
            return most >= 0x7F800000 ? NAN : 0.0f;
        }
        for (Py_ssize_t k = 0; k < n; k++) out[k] = (int16_t)(int32_t)nearbyintf(x[k] / scale);
        return scale;
    }

    /* VECTORS of them hold a panel, and TALL rows of sums fit into the registers. */
    #if defined(__AVX512BW__)
    #include <immintrin.h>
    #define MG_VECTORS 1
    #define MG_TALL 12
    typedef __m512i mg_ints;
    typedef __m512 mg_reals;
    #define MG_STEP 16
    MG_INLINE mg_ints mg_widen(const int8_t *w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)w)); }
    MG_INLINE mg_ints mg_pair(const int16_t *x) { int32_t p; memcpy(&p, x, 4); return _mm512_set1_epi32(p); }
    #if defined(__AVX512VNNI__)
    MG_INLINE mg_ints mg_dot(mg_ints sum, mg_ints x, mg_ints w) { return _mm512_dpwssd_epi32(sum, x, w); }
    #else
    MG_INLINE mg_ints mg_dot(mg_ints sum, mg_ints x, mg_ints w) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
    }
    #endif
    #define mg_no_ints() _mm512_setzero_si512()
    #define mg_keep_ints(p, v) _mm512_storeu_si512((void *)(p), v)
    MG_INLINE mg_reals mg_real(const int8_t *w) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)w)));
    }
    #define mg_no_reals() _mm512_setzero_ps()
    #define mg_one(x) _mm512_set1_ps(x)
    #define mg_fma(sum, x, w) _mm512_fmadd_ps(x, w, sum)
    #define mg_keep_reals(p, v) _mm512_storeu_ps(p, v)
    #elif defined(__AVX2__)
    #include <immintrin.h>
    #define MG_VECTORS 2
    #define MG_TALL 6
    typedef __m256i mg_ints;
    typedef __m256 mg_reals;
    #define MG_STEP 8
    MG_INLINE mg_ints mg_widen(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)w)); }
    MG_INLINE mg_ints mg_pair(const int16_t *x) { int32_t p; memcpy(&p, x, 4); return _mm256_set1_epi32(p); }
    MG_INLINE mg_ints mg_dot(mg_ints sum, mg_ints x, mg_ints w) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
    }
    #define mg_no_ints() _mm256_setzero_si256()
    #define mg_keep_ints(p, v) _mm256_storeu_si256((void *)(p), v)
    MG_INLINE mg_reals mg_real(const int8_t *w) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)w)));
    }
    #define mg_no_reals() _mm256_setzero_ps()
    #define mg_one(x) _mm256_set1_ps(x)
    #define mg_fma(sum, x, w) _mm256_fmadd_ps(x, w, sum)
    #define mg_keep_reals(p, v) _mm256_storeu_ps(p, v)
    #elif defined(__SSE4_1__)
    #include <smmintrin.h>
    #define MG_VECTORS 4
    #define MG_TALL 2
    typedef __m128i mg_ints;
    typedef __m128 mg_reals;
    #define MG_STEP 4
    MG_INLINE mg_ints mg_widen(const int8_t *w) { return _mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)w)); }
    MG_INLINE mg_ints mg_pair(const int16_t *x) { int32_t p; memcpy(&p, x, 4); return _mm_set1_epi32(p); }
    MG_INLINE mg_ints mg_dot(mg_ints sum, mg_ints x, mg_ints w) { return _mm_add_epi32(sum, _mm_madd_epi16(x, w)); }
    #define mg_no_ints() _mm_setzero_si128()
    #define mg_keep_ints(p, v) _mm_storeu_si128((void *)(p), v)
    MG_INLINE mg_reals mg_real(const int8_t *w) {
        int32_t four;
        memcpy(&four, w, 4);
        return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)));
    }
    #define mg_no_reals() _mm_setzero_ps()
    #define mg_one(x) _mm_set1_ps(x)
    #define mg_fma(sum, x, w) _mm_add_ps(sum, _mm_mul_ps(x, w))
    #define mg_keep_reals(p, v) _mm_storeu_ps(p, v)
    #else
    #define MG_VECTORS 16
    #define MG_TALL 1
    #define MG_STEP 1
    typedef int32_t mg_ints;
    typedef float mg_reals;
    typedef struct { int16_t a, b; } mg_two;
    #define MG_SCALAR 1
    #define mg_no_ints() 0
    #define mg_keep_ints(p, v) (*(p) = (v))
    #define mg_real(w) ((float)*(w))
    #define mg_no_reals() 0.0f
    #define mg_one(x) (x)
    #define mg_fma(sum, x, w) ((sum) + (x) * (w))
    #define mg_keep_reals(p, v) (*(p) = (v))
    #endif

    #if defined(__GNUC__)
    #define MG_UNROLL _Pragma("GCC unroll 16")
    #else
    #define MG_UNROLL
    #endif

    /* Sums of products of `rows` rows, at most MG_TALL, with one panel. */
    MG_INLINE void mg_dots(int rows, const int16_t *x, Py_ssize_t ld, const int8_t *w, Py_ssize_t pairs,
                           int32_t *sums) {
        mg_ints sum[MG_TALL][MG_VECTORS];
        MG_UNROLL
        for (int i = 0; i < rows; i++)
            MG_UNROLL
            for (int j = 0; j < MG_VECTORS; j++) sum[i][j] = mg_no_ints();
        for (Py_ssize_t p = 0; p < pairs; p++, x += 2, w += 2 * MG_WIDE) {
    #if defined(MG_SCALAR)
            for (int j = 0; j < MG_WIDE; j++)
                sum[0][j] += (int32_t)x[0] * w[2 * j] + (int32_t)x[1] * w[2 * j + 1];
    #else
            mg_ints wide[MG_VECTORS];
            MG_UNROLL
            for (int j = 0; j < MG_VECTORS; j++) wide[j] = mg_widen(w + 2 * MG_STEP * j);
            MG_UNROLL
            for (int i = 0; i < rows; i++) {
                const mg_ints both = mg_pair(x + i * ld);
                MG_UNROLL
                for (int j = 0; j < MG_VECTORS; j++) sum[i][j] = mg_dot(sum[i][j], both, wide[j]);
            }
    #endif
        }
        MG_UNROLL
        for (int i = 0; i < rows; i++)
            MG_UNROLL
            for (int j = 0; j < MG_VECTORS; j++) mg_keep_ints(sums + i * MG_WIDE + MG_STEP * j, sum[i][j]);
    }

    /* The same of rows of float32 with `panels` panels, whose sums fit into the registers. */
    MG_INLINE void mg_products(int rows, int panels, const float *x, Py_ssize_t ld, const int8_t *w, Py_ssize_t n,
                               float *sums) {
        mg_reals sum[MG_TALL < 4 ? 4 : MG_TALL][MG_VECTORS];  /* rows * panels of them */
        MG_UNROLL
        for (int i = 0; i < rows * panels; i++)
            MG_UNROLL
            for (int j = 0; j < MG_VECTORS; j++) sum[i][j] = mg_no_reals();
        for (Py_ssize_t k = 0; k < n; k++) {
            MG_UNROLL
            for (int p = 0; p < panels; p++) {
                mg_reals wide[MG_VECTORS];
                MG_UNROLL
                for (int j = 0; j < MG_VECTORS; j++) wide[j] = mg_real(w + (p * n + k) * MG_WIDE + MG_STEP * j);
                MG_UNROLL
                for (int i = 0; i < rows; i++) {
                    const mg_reals one = mg_one(x[i * ld + k]);
                    MG_UNROLL
                    for (int j = 0; j < MG_VECTORS; j++)
                        sum[i * panels + p][j] = mg_fma(sum[i * panels + p][j], one, wide[j]);
                }
            }
        }
        MG_UNROLL
        for (int i = 0; i < rows * panels; i++)
            MG_UNROLL
            for (int j = 0; j < MG_VECTORS; j++) mg_keep_reals(sums + i * MG_WIDE + MG_STEP * j, sum[i][j]);
    }

    #define MG_CASE(r) case r: mg_dots(r, x, ld, w, pairs, sums); break;
    static void mg_sums(int rows, const int16_t *x, Py_ssize_t ld, const int8_t *w, Py_ssize_t pairs, int32_t *sums) {
        switch (rows) {
        MG_CASE(1)
    #if MG_TALL > 1
        MG_CASE(2)
    #endif
    #if MG_TALL > 2
        MG_CASE(3) MG_CASE(4) MG_CASE(5) MG_CASE(6)
    #endif
    #if MG_TALL > 6
        MG_CASE(7) MG_CASE(8) MG_CASE(9) MG_CASE(10) MG_CASE(11) MG_CASE(12)
    #endif
        default: break;
        }
    }

    /* One row takes four panels at a time and two take two: the sums of one panel alone would wait for each other. */
    #define MG_BOTH(r, p) case 16 * p + r: mg_products(r, p, x, ld, w, n, sums); break;
    static void mg_real_sums(int rows, int panels, const float *x, Py_ssize_t ld, const int8_t *w, Py_ssize_t n,
                             float *sums) {
        switch (16 * panels + rows) {
        MG_BOTH(1, 1)
    #if MG_TALL > 1
        MG_BOTH(2, 1)
    #endif
    #if MG_TALL > 2
        MG_BOTH(1, 4) MG_BOTH(2, 2)
        MG_BOTH(3, 1) MG_BOTH(4, 1) MG_BOTH(5, 1) MG_BOTH(6, 1)
    #endif
    #if MG_TALL > 6
        MG_BOTH(7, 1) MG_BOTH(8, 1) MG_BOTH(9, 1) MG_BOTH(10, 1) MG_BOTH(11, 1) MG_BOTH(12, 1)
    #endif
        default: break;
        }
    }

    /* relu, which keeps NaN */
    MG_INLINE float mg_floor(float y) { return y <= 0.0f ? 0.0f : y; }

    /* out = sum * scale * row + bias, each product and the sum rounded by itself. */
    static void mg_finish(const int32_t *sums, float row, const float *scale, const float *bias, int relu,
                          Py_ssize_t columns, float *out) {
        float made[MG_WIDE];
        for (int j = 0; j < MG_WIDE; j++) made[j] = (float)sums[j] * scale[j] * row;
        if (bias) {
            MG_FENCE;
            for (int j = 0; j < MG_WIDE; j++) made[j] += bias[j];
        }
        if (relu) for (int j = 0; j < MG_WIDE; j++) made[j] = mg_floor(made[j]);
        if (columns == MG_WIDE) memcpy(out, made, sizeof(made));
        else memcpy(out, made, columns * sizeof(float));
    }

    static void mg_finish_real(const float *sums, const float *scale, const float *bias, int relu, Py_ssize_t columns,
                               float *out) {
        float made[MG_WIDE];
        for (int j = 0; j < MG_WIDE; j++) made[j] = sums[j] * scale[j] + bias[j];
        if (relu) for (int j = 0; j < MG_WIDE; j++) made[j] = mg_floor(made[j]);
        if (columns == MG_WIDE) memcpy(out, made, sizeof(made));
        else memcpy(out, made, columns * sizeof(float));
    }
    """
    const int TALL "MG_TALL"
    float quantize "mg_quantize"(const float* x, npy_intp n, float levels, npy_int16* out) noexcept nogil
    void sum_up "mg_sums"(
        int rows, const npy_int16* x, npy_intp ld, const npy_int8* w, npy_intp pairs, int* sums) noexcept nogil
    void sum_reals "mg_real_sums"(
        int rows, int panels, const float* x, npy_intp ld, const npy_int8* w, npy_intp n, float* sums) noexcept nogil
    void finish "mg_finish"(
        const int* sums, float row, const float* scale, const float* bias, bint relu, npy_intp columns, float* out,
    ) noexcept nogil
    void finish_reals "mg_finish_real"(
        const float* sums, const float* scale, const float* bias, bint relu, npy_intp columns, float* out,
    ) noexcept nogil

cdef enum:
    WIDE = 16         # columns of a panel
    TALLEST = 12      # rows at a time, in any instruction set
    HELD = 131_072    # numbers of quantized rows that one task works on, so that they stay in the second-level cache
    GROUP = 4         # panels of a task
    WORK = 16         # products that take as long as what `threads_for` counts

cdef struct Problem:
    npy_intp rows, inner, columns
    npy_intp panels, height      # of the weights, and how many rows a task takes
    const npy_int8* packed
    const float* scale
    const float* bias            # NULL where there is none
    bint relu
    float levels                 # quantized rows are in [-levels, levels]
    float* out


cdef inline void column_values(const float* given, npy_intp panel, npy_intp columns, float* out) noexcept nogil:
    """The values of the columns of one panel; zeros where it is padded, or nothing is given."""
    cdef npy_intp j, count = 0 if given == NULL else min(WIDE, columns - panel * WIDE)
    for j in range(WIDE):
        out[j] = given[panel * WIDE + j] if j < count else 0.0


cdef void quantize_row(npy_intp row, const Problem* p, const float* x, npy_int16* rows, float* scales) noexcept nogil:
    scales[row] = quantize(x + row * p.inner, p.inner, p.levels, rows + row * 2 * pieces(p.inner, 2))


cdef void multiply_block(
    npy_intp task, npy_intp groups, const Problem* p, const npy_int16* rows, const float* scales,
) noexcept nogil:
    """Some rows of the product, and some of its columns."""
    cdef float scale[WIDE]
    cdef float bias[WIDE]
    cdef int sums[TALLEST * WIDE]
    cdef npy_intp top = task // groups * p.height, bottom = min(top + p.height, p.rows), row, i, columns
    cdef npy_intp panel, first = task % groups * GROUP, pairs = pieces(p.inner, 2)
    cdef int tall
    for panel in range(first, min(first + GROUP, p.panels)):
        columns = min(WIDE, p.columns - panel * WIDE)
        column_values(p.scale, panel, p.columns, scale)
        column_values(p.bias, panel, p.columns, bias)
        row = top
        while row < bottom:
            tall = <int>min(TALL, bottom - row)
            sum_up(tall, rows + row * 2 * pairs, 2 * pairs, p.packed + panel * pairs * 2 * WIDE, pairs, sums)
            for i in range(tall):
                finish(
                    sums + i * WIDE, scales[row + i], scale, NULL if p.bias == NULL else bias, p.relu, columns,
                    p.out + (row + i) * p.columns + panel * WIDE,
                )
            row += tall


cdef void multiply_reals(npy_intp task, npy_intp groups, const Problem* p, const float* x) noexcept nogil:
    """The same of rows of float32."""
    cdef float scale[WIDE]
    cdef float bias[WIDE]
    cdef float sums[TALLEST * WIDE]
    cdef npy_intp top = task // groups * p.height, bottom = min(top + p.height, p.rows), row, i, columns
    cdef npy_intp panel, first = task % groups * GROUP, last = min(first + GROUP, p.panels)
    cdef int tall, together, j
    row = top
    while row < bottom:
        tall = <int>min(TALL, bottom - row)
        panel = first
        while panel < last:
            together = 1
            if TALL > 2 and tall <= 2 and last - panel >= 4 // tall:
                together = 4 // tall
            sum_reals(
                tall, together, x + row * p.inner, p.inner, p.packed + panel * p.inner * WIDE, p.inner, sums,
            )
            for j in range(together):
                columns = min(WIDE, p.columns - (panel + j) * WIDE)
                column_values(p.scale, panel + j, p.columns, scale)
                column_values(p.bias, panel + j, p.columns, bias)
                for i in range(tall):
                    finish_reals(
                        sums + (i * together + j) * WIDE, scale, bias, p.relu, columns,
                        p.out + (row + i) * p.columns + (panel + j) * WIDE,
                    )
            panel += together
        row += tall


cdef bint multiply(Problem* p, const float* x) noexcept nogil:
    """Write the product of rows that are quantized first; False where there is no memory."""
    cdef npy_intp pairs = pieces(p.inner, 2), groups = pieces(p.panels, GROUP), i
    cdef int threads = threads_for(p.rows * p.inner * p.columns // WORK)
    cdef npy_int16* rows = <npy_int16*>malloc(p.rows * 2 * pairs * sizeof(npy_int16))
    cdef float* scales = <float*>malloc(p.rows * sizeof(float))
    cdef bint done = rows != NULL and scales != NULL
    p.height = max(1, min(8, HELD // (2 * pairs * TALLEST))) * TALLEST
    if done:
        for i in prange(p.rows, num_threads=threads, use_threads_if=threads > 1 and p.rows > 1, schedule="static"):
            quantize_row(i, p, x, rows, scales)
        for i in prange(
            pieces(p.rows, p.height) * groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic",
        ):
            multiply_block(i, groups, p, rows, scales)
    free(rows)
    free(scales)
    return done


cdef void multiply_floats(Problem* p, const float* x) noexcept nogil:
    """The same of rows that stay as they are."""
    cdef npy_intp groups = pieces(p.panels, GROUP), i
    cdef int threads = threads_for(p.rows * p.inner * p.columns // WORK)
    p.height = max(1, min(8, HELD // (2 * p.inner * TALLEST))) * TALLEST
    for i in prange(
        pieces(p.rows, p.height) * groups, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic",
    ):
        multiply_reals(i, groups, p, x)


cdef ndarray prepare(Problem* p, object x, object packed, object scale, object bias, bint relu, int together):
    """Read the arguments and make the result; None where they are not what the loops take."""
    cdef npy_intp* dims
    cdef npy_intp shape[2]
    cdef ndarray out
    if not kernels_on() or not is_plain(x, NPY_FLOAT) or PyArray_NDIM(<ndarray>x) != 2:
        return None
    if not is_plain(packed, NPY_INT8) or PyArray_NDIM(<ndarray>packed) != 4:
        return None
    if not is_plain(scale, NPY_FLOAT) or PyArray_NDIM(<ndarray>scale) != 1:
        return None
    p.rows, p.inner = PyArray_DIMS(<ndarray>x)[0], PyArray_DIMS(<ndarray>x)[1]
    p.columns = PyArray_DIMS(<ndarray>scale)[0]
    p.panels = pieces(p.columns, WIDE)
    dims = PyArray_DIMS(<ndarray>packed)
    if p.rows == 0 or p.inner == 0 or p.columns == 0 or dims[0] != p.panels or dims[1] != pieces(p.inner, together):
        return None
    if dims[2] != WIDE or dims[3] != together:
        return None
    p.bias = NULL
    if bias is not None:
        if not is_plain(bias, NPY_FLOAT) or bias.shape != (p.columns,):
            return None
        p.bias = <const float*>PyArray_DATA(<ndarray>bias)
    shape[0], shape[1] = p.rows, p.columns
    out = <ndarray>PyArray_EMPTY(2, shape, NPY_FLOAT, 0)
    p.packed, p.scale = <const npy_int8*>PyArray_DATA(<ndarray>packed), <const float*>PyArray_DATA(<ndarray>scale)
    p.relu, p.out = relu, <float*>PyArray_DATA(out)
    return out


def dynamic(x, packed, scale, bias, bint relu, int levels):
    """``x @ weight * scale + bias``, by rows of integers in [-levels, levels]; packed is (panels, pairs, 16, 2)."""
    cdef Problem p
    cdef bint done
    out = prepare(&p, x, packed, scale, bias, relu, 2)
    if out is None or levels < 1 or levels > 32767:
        return NotImplemented
    p.levels = levels
    cdef const float* data = <const float*>PyArray_DATA(<ndarray>x)
    if p.rows * p.inner * p.columns < WORK * RELEASE_GIL:
        done = multiply(&p, data)
    else:
        with nogil:
            done = multiply(&p, data)
    return out if done else NotImplemented


def weight_only(x, packed, scale, bias, bint relu):
    """``x @ weight * scale + bias`` in float32; packed is (panels, in, 16, 1)."""
    cdef Problem p
    out = prepare(&p, x, packed, scale, bias, relu, 1)
    if out is None:
        return NotImplemented
    cdef const float* data = <const float*>PyArray_DATA(<ndarray>x)
    if p.rows * p.inner * p.columns < WORK * RELEASE_GIL:
        multiply_floats(&p, data)
    else:
        with nogil:
            multiply_floats(&p, data)
    return out

"""Kernels of dropout: random words are made in the first-level cache and applied at once, never kept as a mask.

The words are those of ``philox.pxd``: Philox4x32-10, word k of block j for element 4 j + k; a key may say which element
the first one is. Here eight blocks (or as
many as a vector has 64-bit lanes) go through the rounds together: a lane holds one word of a block, and what the last
product left above it needs no clearing, since the next product takes only the low half.
"""
from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from numpy cimport NPY_FLOAT, PyArray_DATA, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, empty_like, is_real, real
from minigrad._core.loops.rows cimport in_order

import_array()

cdef extern from *:
    """
    #if defined(__AVX512F__)
        #include <immintrin.h>
        #define MG_LANES 8
        #define MG_PRODUCT(a, b) ((mg_lanes)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
    #elif defined(__AVX2__)
        #include <immintrin.h>
        #define MG_LANES 4
        #define MG_PRODUCT(a, b) ((mg_lanes)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
    #elif defined(__SSE2__)
        #include <emmintrin.h>
        #define MG_LANES 2
        #define MG_PRODUCT(a, b) ((mg_lanes)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
    #else
        #define MG_LANES 1
        #define MG_PRODUCT(a, b) (((a) & 0xFFFFFFFFu) * (b))
    #endif
    #if MG_LANES > 1
        typedef uint64_t mg_lanes __attribute__((vector_size(8 * MG_LANES)));
    #else
        typedef uint64_t mg_lanes;
    #endif
    #define MG_BLOCKS 64  /* made at a time, so that the words stay in the first-level cache */

    /* The words of MG_BLOCKS blocks from `first` on, in the order of the elements. */
    static inline void mg_words(uint64_t key, uint64_t counter, uint64_t first, uint32_t* words)
    {
        union { mg_lanes lanes[MG_BLOCKS / MG_LANES]; uint64_t each[MG_BLOCKS]; } low, high;
        mg_lanes zero = {0};
        for (int j = 0; j < MG_BLOCKS; j++)
            low.each[j] = first + (uint64_t)j;
        for (int i = 0; i < MG_BLOCKS / MG_LANES; i++) {
            mg_lanes c0 = low.lanes[i], c1 = c0 >> 32, c2 = zero + counter, c3 = zero + (counter >> 32);
            uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
            for (int round = 0; round < 10; round++) {
                mg_lanes p0 = MG_PRODUCT(c0, zero + 0xD2511F53u), p1 = MG_PRODUCT(c2, zero + 0xCD9E8D57u);
                c0 = (p1 >> 32) ^ c1 ^ (zero + k0);
                c1 = p1;
                c2 = (p0 >> 32) ^ c3 ^ (zero + k1);
                c3 = p0;
                k0 += 0x9E3779B9u;
                k1 += 0xBB67AE85u;
            }
            low.lanes[i] = (c0 & 0xFFFFFFFFu) | (c1 << 32);
            high.lanes[i] = (c2 & 0xFFFFFFFFu) | (c3 << 32);
        }
        for (int j = 0; j < MG_BLOCKS; j++) {
            words[4 * j] = (uint32_t)low.each[j];
            words[4 * j + 1] = (uint32_t)(low.each[j] >> 32);
            words[4 * j + 2] = (uint32_t)high.each[j];
            words[4 * j + 3] = (uint32_t)(high.each[j] >> 32);
        }
    }
    """
    enum:
        MG_BLOCKS
    void mg_words(uint64_t key, uint64_t counter, uint64_t first, uint32_t* words) noexcept nogil

cdef enum:
    WORDS = 256         # of MG_BLOCKS blocks
    CHUNK = 16_384      # elements that one thread takes at a time

cdef struct Noise:
    uint64_t key
    uint64_t counter
    uint64_t first      # the number of the first element
    uint32_t threshold  # words below it drop their element
    double scale


cdef inline void apply(const uint32_t* words, const Noise* noise, const real* x, real* out, npy_intp n) noexcept nogil:
    cdef npy_intp j
    cdef real value, scale = <real>noise.scale
    cdef uint32_t threshold = noise.threshold
    for j in range(n):
        value = x[j] * scale  # in any case: a conditional load would keep the compiler from making vectors
        out[j] = value if words[j] >= threshold else 0


cdef void drop_chunk(npy_intp start, const Noise* noise, const real* x, real* out, npy_intp total) noexcept nogil:
    cdef uint32_t words[WORDS]
    cdef npy_intp j = start, end = min(start + CHUNK, total)
    cdef npy_intp skip = noise.first & 3
    while skip == 0 and j + WORDS <= end:
        mg_words(noise.key, noise.counter, (<uint64_t>j + noise.first) // 4, words)
        apply(words, noise, x + j, out + j, WORDS)
        j += WORDS
    while j < end:
        mg_words(noise.key, noise.counter, (<uint64_t>j + noise.first) // 4, words)
        apply(words + skip, noise, x + j, out + j, min(WORDS - 4, end - j))
        j += WORDS - 4


cdef void drop_all(const Noise* noise, const real* x, real* out, npy_intp n) noexcept nogil:
    cdef npy_intp start
    cdef int threads = threads_for(n)
    for start in prange(0, n, CHUNK, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        drop_chunk(start, noise, x, out, n)


cdef void run(real* out, const Noise* noise, const void* x, npy_intp n) noexcept:
    if n < RELEASE_GIL:
        drop_chunk(0, noise, <const real*>x, out, n)
    else:
        with nogil:
            drop_all(noise, <const real*>x, out, n)


def dropout(x, *, double rate, key):
    """Kernel of the op behind ``dropout``, and of its rule: zeros where a word is below ``rate * 2^32``."""
    cdef Noise noise
    cdef double scaled = rate * 4294967296.0 + 0.5
    cdef ndarray given = in_order(x), out
    if not is_real(given) or not 0 <= rate < 1 or scaled >= 4294967296.0:
        return NotImplemented
    if type(key) is not tuple or not 2 <= len(<tuple>key) <= 3:
        return NotImplemented
    for part in <tuple>key:
        if type(part) is not int or not 0 <= part < 2**64:
            return NotImplemented
    noise.key, noise.counter = (<tuple>key)[0], (<tuple>key)[1]
    noise.first = (<tuple>key)[2] if len(<tuple>key) == 3 else 0
    noise.threshold, noise.scale = <uint32_t>scaled, 1 / (1 - rate)
    out = empty_like(given)
    if PyArray_TYPE(given) == NPY_FLOAT:
        run(<float*>PyArray_DATA(out), &noise, PyArray_DATA(given), PyArray_SIZE(given))
    else:
        run(<double*>PyArray_DATA(out), &noise, PyArray_DATA(given), PyArray_SIZE(given))
    return out

"""Stores past the caches, for results that do not fit there.

A usual store reads the line that it is about to overwrite. Where memory is what a loop waits for, a third less traffic
is a third less time. A result that fits in the caches must not be written so: whoever reads it next would wait.
"""
cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #include <stdint.h>
    static void mg_stream(void* out, const void* block, size_t bytes) {
        char* to = (char*)out;
        const char* from = (const char*)block;
        size_t at = (size_t)(-(uintptr_t)to & 63);
        if (at > bytes) at = bytes;
        memcpy(to, from, at);
        for (; at + 64 <= bytes; at += 64)
            for (int k = 0; k < 64; k += 16)
                _mm_stream_si128((__m128i*)(to + at + k), _mm_loadu_si128((const __m128i*)(from + at + k)));
        memcpy(to + at, from + at, bytes - at);
        _mm_sfence();
    }
    #else
    static void mg_stream(void* out, const void* block, size_t bytes) { memcpy(out, block, bytes); }
    #endif
    """
    # Copy a block that is in the cache to memory.
    void stream "mg_stream"(void* out, const void* block, size_t bytes) noexcept nogil

cdef enum:
    STREAMED = 16_777_216  # bytes of a result from which on it is better not kept in the caches

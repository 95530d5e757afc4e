"""What several processes bring, combined element by element in the order of their ranks.

The order is fixed, so every process that combines the same sources gets the same bits. Half types are summed in float32
and rounded once.
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from numpy cimport npy_intp

from minigrad._core.loops.half_bits cimport from_bits, from_half, to_bfloat, to_half
from minigrad._core.loops.plain cimport pieces, real
from minigrad._core.shared cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX, MEAN, UINT8, UINT16, UINT32, UINT64,
)

cdef enum:
    BLOCK = 1024  # elements that stay in the first cache while source after source is added

ctypedef fused number:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef inline number larger(number a, number b) noexcept nogil:
    """The larger one; NaN where one is, as in numpy.maximum."""
    if number is float or number is double:
        return a if a > b or a != a else b
    else:
        return a if a > b else b


cdef inline void add_block(number* out, const number* x, npy_intp n) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] += x[i]


cdef inline void max_block(number* out, const number* x, npy_intp n) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = larger(out[i], x[i])


cdef inline void divide(real* out, npy_intp n, int count) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] /= count


cdef void combine_typed(
    int op, const char** sources, int count, char* to, npy_intp n, number like
) noexcept nogil:
    """`to` may be the first of the sources."""
    cdef npy_intp block, start, size
    cdef int k
    cdef number* out
    for block in range(pieces(n, BLOCK)):
        start = block * BLOCK
        size = min(BLOCK, n - start)
        out = <number*>to + start
        if to != sources[0]:
            memcpy(out, <const number*>sources[0] + start, size * sizeof(number))
        for k in range(1, count):
            if op == MAX:
                max_block(out, <const number*>sources[k] + start, size)
            else:
                add_block(out, <const number*>sources[k] + start, size)
        if op == MEAN:
            if number is float or number is double:
                divide(out, size, count)


cdef inline void widen(int kind, float* out, const uint16_t* x, npy_intp n) noexcept nogil:
    cdef npy_intp i
    if kind == FLOAT16:
        for i in range(n):
            out[i] = from_half(x[i])
    else:
        for i in range(n):
            out[i] = from_bits(<uint32_t>x[i] << 16)


cdef void combine_half(int kind, int op, const char** sources, int count, char* to, npy_intp n) noexcept nogil:
    cdef npy_intp block, start, size, i
    cdef int k
    cdef float total[BLOCK]
    cdef float one[BLOCK]
    cdef uint16_t* out
    for block in range(pieces(n, BLOCK)):
        start = block * BLOCK
        size = min(BLOCK, n - start)
        widen(kind, total, <const uint16_t*>sources[0] + start, size)
        for k in range(1, count):
            widen(kind, one, <const uint16_t*>sources[k] + start, size)
            if op == MAX:
                max_block(total, one, size)
            else:
                add_block(total, one, size)
        if op == MEAN:
            divide(total, size, count)
        out = <uint16_t*>to + start
        if kind == FLOAT16:
            for i in range(size):
                out[i] = to_half(total[i])
        else:
            for i in range(size):
                out[i] = to_bfloat(total[i])


cdef void combine(int kind, int op, const char** sources, int count, char* to, npy_intp n) noexcept nogil:
    if kind == FLOAT32:
        combine_typed[float](op, sources, count, to, n, 0)
    elif kind == FLOAT64:
        combine_typed[double](op, sources, count, to, n, 0)
    elif kind == FLOAT16 or kind == BFLOAT16:
        combine_half(kind, op, sources, count, to, n)
    elif kind == INT8:
        combine_typed[int8_t](op, sources, count, to, n, 0)
    elif kind == INT16:
        combine_typed[int16_t](op, sources, count, to, n, 0)
    elif kind == INT32:
        combine_typed[int32_t](op, sources, count, to, n, 0)
    elif kind == INT64:
        combine_typed[int64_t](op, sources, count, to, n, 0)
    elif kind == UINT8:
        combine_typed[uint8_t](op, sources, count, to, n, 0)
    elif kind == UINT16:
        combine_typed[uint16_t](op, sources, count, to, n, 0)
    elif kind == UINT32:
        combine_typed[uint32_t](op, sources, count, to, n, 0)
    elif kind == UINT64:
        combine_typed[uint64_t](op, sources, count, to, n, 0)


def address():
    """Where `combine` is, for who calls it without the GIL."""
    return <uintptr_t>&combine

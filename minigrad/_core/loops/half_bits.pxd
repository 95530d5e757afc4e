"""One number between float32 and the half types, in bits: what the loops over many are made of."""
from libc.string cimport memcpy
from numpy cimport npy_uint16, npy_uint32


cdef inline npy_uint32 bits_of(float x) noexcept nogil:
    cdef npy_uint32 bits
    memcpy(&bits, &x, 4)
    return bits


cdef inline float from_bits(npy_uint32 bits) noexcept nogil:
    cdef float x
    memcpy(&x, &bits, 4)
    return x


cdef inline npy_uint16 to_half(float x) noexcept nogil:
    cdef npy_uint32 bits = bits_of(x)
    cdef npy_uint32 size = bits & 0x7FFFFFFF
    # half of the last place that is kept, less one, plus one where that place is odd; then the exponent's new bias
    cdef npy_uint32 normal = (size + 0xFFF + ((size >> 13) & 1) - (112 << 23)) >> 13
    # adding 1/2 aligns the number with the half type's subnormals and rounds it
    cdef npy_uint32 subnormal = bits_of(from_bits(size) + <float>0.5) - 0x3F000000
    cdef npy_uint32 out = subnormal if size < 0x38800000 else normal
    out = 0x7C00 if size >= 0x477FF000 else out
    out = 0x7E00 if size > 0x7F800000 else out
    return <npy_uint16>(out | ((bits >> 16) & 0x8000))


cdef inline float from_half(npy_uint16 h) noexcept nogil:
    cdef npy_uint32 size = h & 0x7FFF
    # a subnormal counts units of 2**-24; as an integer it is exact, and no slow float32 subnormal is made on the way
    cdef npy_uint32 small = bits_of(<float><int>size * <float>(2.0 ** -24))
    cdef npy_uint32 out = (size << 13) + (112 << 23)
    out = small if size < 0x400 else out
    out = (size << 13) | 0x7F800000 if size >= 0x7C00 else out
    return from_bits(out | (<npy_uint32>(h & 0x8000) << 16))


cdef inline npy_uint16 to_bfloat(float x) noexcept nogil:
    cdef npy_uint32 bits = bits_of(x)
    cdef npy_uint32 out = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    out = 0x7FC0 | ((bits >> 16) & 0x8000) if (bits & 0x7FFFFFFF) > 0x7F800000 else out
    return <npy_uint16>out

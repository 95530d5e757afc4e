"""The Philox4x32-10 counter-based generator as inline code, for every kernel that needs random words.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
A block of four 32-bit words is a pure function of a 64-bit key and a 128-bit counter. Here the key is the seed, the
low half of the counter is the index of the block, the high half the number of the draw. Word k of block j belongs to
element 4 j + k, so a mask made here can be made again in a backward pass, from any element on, on any device.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    BLOCKS = 64  # blocks made at a time: words and results stay in the first-level cache


cdef struct Words:
    # word k of BLOCKS consecutive blocks lies together, so that the compiler turns the loops into vector code
    uint32_t w0[BLOCKS]
    uint32_t w1[BLOCKS]
    uint32_t w2[BLOCKS]
    uint32_t w3[BLOCKS]


cdef inline void philox_round(
    uint32_t* c0, uint32_t* c1, uint32_t* c2, uint32_t* c3, uint32_t k0, uint32_t k1
) noexcept nogil:
    cdef uint64_t p0 = <uint64_t>0xD2511F53u * c0[0]
    cdef uint64_t p1 = <uint64_t>0xCD9E8D57u * c2[0]
    c0[0] = <uint32_t>(p1 >> 32) ^ c1[0] ^ k0
    c1[0] = <uint32_t>p1
    c2[0] = <uint32_t>(p0 >> 32) ^ c3[0] ^ k1
    c3[0] = <uint32_t>p0


cdef inline void philox_blocks(
    uint64_t key, uint64_t counter, uint64_t first, Py_ssize_t count, Words* words
) noexcept nogil:
    """Write the words of blocks first ... first + count - 1 of draw ``counter``; count is at most BLOCKS."""
    cdef uint32_t k0[10]
    cdef uint32_t k1[10]
    cdef uint32_t c0, c1, c2, c3
    cdef uint64_t block
    cdef Py_ssize_t j
    cdef int r
    for r in range(10):  # the key schedule: a Weyl sequence of the golden ratio and of sqrt(3) - 1
        k0[r] = <uint32_t>key + <uint32_t>r * 0x9E3779B9u
        k1[r] = <uint32_t>(key >> 32) + <uint32_t>r * 0xBB67AE85u
    for j in range(count):
        block = first + <uint64_t>j
        c0 = <uint32_t>block
        c1 = <uint32_t>(block >> 32)
        c2 = <uint32_t>counter
        c3 = <uint32_t>(counter >> 32)
        # written out: a loop inside this loop would keep it from being vectorized
        philox_round(&c0, &c1, &c2, &c3, k0[0], k1[0])
        philox_round(&c0, &c1, &c2, &c3, k0[1], k1[1])
        philox_round(&c0, &c1, &c2, &c3, k0[2], k1[2])
        philox_round(&c0, &c1, &c2, &c3, k0[3], k1[3])
        philox_round(&c0, &c1, &c2, &c3, k0[4], k1[4])
        philox_round(&c0, &c1, &c2, &c3, k0[5], k1[5])
        philox_round(&c0, &c1, &c2, &c3, k0[6], k1[6])
        philox_round(&c0, &c1, &c2, &c3, k0[7], k1[7])
        philox_round(&c0, &c1, &c2, &c3, k0[8], k1[8])
        philox_round(&c0, &c1, &c2, &c3, k0[9], k1[9])
        words.w0[j] = c0
        words.w1[j] = c1
        words.w2[j] = c2
        words.w3[j] = c3

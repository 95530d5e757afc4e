from numpy cimport npy_intp

cdef enum:
    # what elements are
    FLOAT32
    FLOAT64
    FLOAT16
    BFLOAT16
    INT8
    INT16
    INT32
    INT64
    UINT8
    UINT16
    UINT32
    UINT64

cdef enum:
    # how they are combined
    SUM
    MEAN
    MAX

ctypedef void (*Combine)(int kind, int op, const char** sources, int count, char* to, npy_intp n) noexcept nogil

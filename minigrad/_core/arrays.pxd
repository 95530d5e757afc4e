from cpython.object cimport PyObject


cdef enum Code:
    NONE = 0
    ADD = 1
    SUBTRACT = 2
    MULTIPLY = 3
    DIVIDE = 4
    NEGATIVE = 5

cdef object binary(int code, object a, object b)
cdef object unary(int code, object a)
cdef object expand(object a, tuple shape)
cdef object full_sum(object a)
cdef object filled(tuple shape, object dtype, double value)
cdef bint same_shape(object a, tuple shape) except -1
cdef bint sole(PyObject* a) noexcept
cdef bint overlaps(object a, object b) except -1
cdef object hush()
cdef int unhush(object token) except -1
cdef bint add_to(object a, object b) except -1
cdef object dtype_of(object a)
cdef bint is_partial(object a)
cdef object dense(object a)

"""Which arrays the loops take, and where they put their results."""
from libc.string cimport memcmp
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DIMS, PyArray_EMPTY, PyArray_ISCARRAY_RO, PyArray_NDIM, PyArray_TYPE, ndarray,
    npy_intp,
)

ctypedef fused real:
    float
    double

cdef enum:
    RELEASE_GIL = 10_000  # elements; below, releasing the GIL costs more than it gives


cdef inline npy_intp pieces(npy_intp extent, npy_intp size) noexcept nogil:
    """How many pieces of a size there are in an extent, the last of which may be smaller."""
    return (extent + size - 1) // size


cdef inline bint is_plain(object x, int kind):
    """Whether `x` is an array of the type number `kind`, aligned and in C order."""
    return type(x) is ndarray and PyArray_TYPE(<ndarray>x) == kind and PyArray_ISCARRAY_RO(<ndarray>x)


cdef inline bint is_real(object x):
    """Whether `x` is an array of float32 or float64, aligned and in C order."""
    return is_plain(x, NPY_FLOAT) or is_plain(x, NPY_DOUBLE)


cdef inline bint same_shape(object a, object b):
    """Whether two arrays have the same extents."""
    cdef int n = PyArray_NDIM(<ndarray>a)
    # a 0-d array has no extents, not even a pointer to them
    return PyArray_NDIM(<ndarray>b) == n and (
        n == 0 or not memcmp(PyArray_DIMS(<ndarray>a), PyArray_DIMS(<ndarray>b), n * sizeof(npy_intp))
    )


cdef inline bint alike(object a, object b):
    """Whether `a` is a plain array of the dtype and shape of the array `b`."""
    return is_plain(a, PyArray_TYPE(<ndarray>b)) and same_shape(a, b)


cdef inline ndarray empty_like(object x):
    """A new array of the dtype and shape of `x`, in C order."""
    return <ndarray>PyArray_EMPTY(PyArray_NDIM(<ndarray>x), PyArray_DIMS(<ndarray>x), PyArray_TYPE(<ndarray>x), 0)

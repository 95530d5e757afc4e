"""Special functions that NumPy lacks, elementwise, in float32 and float64."""
from libc.math cimport erf as erf64

import numpy as np

cdef extern from "<math.h>" nogil:
    float erff(float)

ctypedef fused real:
    float
    double


cdef void erf_loop(const real* x, real* out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if real is float:
            out[i] = erff(x[i])
        else:
            out[i] = erf64(x[i])


def erf(x):
    """The error function 2/sqrt(pi) * integral of exp(-t^2) from 0 to x, for an array of floats."""
    array = np.ascontiguousarray(x)
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    out = np.empty(array.shape, array.dtype)
    cdef const float[::1] x4
    cdef float[::1] out4
    cdef const double[::1] x8
    cdef double[::1] out8
    cdef Py_ssize_t n = array.size
    if n == 0:
        return out
    if array.dtype == np.float32:
        x4, out4 = array.reshape(-1), out.reshape(-1)
        with nogil:
            erf_loop(&x4[0], &out4[0], n)
    else:
        x8, out8 = array.reshape(-1), out.reshape(-1)
        with nogil:
            erf_loop(&x8[0], &out8[0], n)
    return out.reshape(np.shape(x))

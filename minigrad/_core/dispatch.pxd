cdef bint kernels_on()

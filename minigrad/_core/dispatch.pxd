cpdef bint kernels_on()
cpdef object recast(object array, object dtype)

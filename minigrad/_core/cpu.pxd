from numpy cimport npy_intp

cdef enum:
    PARALLEL = 50_000  # elements; a parallel region costs about 2 us, which smaller loops do not win back


cdef class Kernel:
    cdef readonly str module, name
    cdef object function
    cdef object load(self)


cdef int num_threads() noexcept nogil

# For a loop over `work` simple elements. What is computed must not depend on the answer: cut the work into pieces by
# its shape, never by the number of threads.
cdef int threads_for(npy_intp work) noexcept nogil

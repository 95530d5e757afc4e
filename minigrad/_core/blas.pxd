from numpy cimport npy_intp

# Whether BLAS was found and takes matrices whose largest extent (rows, columns or leading dimension) is `extent`.
cdef bint has_blas(npy_intp extent) noexcept nogil

# Whether products of at most 1,000,000 multiplications, of which neither factor is transposed, run without packing
# their factors, and faster than parts of a large product do.
cdef bint has_small_kernels() noexcept nogil

# BLAS runs on one thread between `enter` and `leave`, whichever threads call it, and the kernels share the work
# themselves: two pools of threads would fight for the processors. Calls nest.
cdef void enter() noexcept nogil
cdef void leave() noexcept nogil

# C = alpha * op(A) @ op(B) + beta * C in C order: op(A) is (m, k), op(B) is (k, n); ta, tb: it is stored transposed;
# ld: elements from one stored row to the next. beta 0 does not read C.
cdef void sgemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, float alpha, const float* a, npy_intp lda,
    const float* b, npy_intp ldb, float beta, float* c, npy_intp ldc,
) noexcept nogil
cdef void dgemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, double alpha, const double* a, npy_intp lda,
    const double* b, npy_intp ldb, double beta, double* c, npy_intp ldc,
) noexcept nogil

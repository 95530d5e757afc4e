"""NumPy's own BLAS, called without the interpreter: found in the libraries that NumPy has loaded, whatever their name.

``cblas_?gemm`` of NumPy's wheels has a prefix and 64-bit integers (``scipy_cblas_sgemm64_``); other builds have other
names. Where none is found, `available` is False and the kernels that need it leave everything to NumPy.
"""
from numpy cimport npy_intp

import os

import numpy._core._multiarray_umath as umath

cdef extern from *:
    """
    #include <stdint.h>
    #include <dlfcn.h>
    #include <string.h>
    #ifdef RTLD_NOLOAD
    #define MG_FLAGS (RTLD_LAZY | RTLD_NOLOAD)
    #else
    #define MG_FLAGS RTLD_LAZY
    #endif
    enum {MG_ROWS = 101, MG_N = 111, MG_T = 112};

    typedef void (*mg_sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                               const float *, int64_t, float, float *, int64_t);
    typedef void (*mg_dgemm64)(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                               const double *, int64_t, double, double *, int64_t);
    typedef void (*mg_sgemm32)(int, int, int, int, int, int, float, const float *, int,
                               const float *, int, float, float *, int);
    typedef void (*mg_dgemm32)(int, int, int, int, int, int, double, const double *, int,
                               const double *, int, double, double *, int);
    static void *mg_sgemm, *mg_dgemm;
    static int mg_wide;                     /* integers of 64 bits */
    static void (*mg_set_threads)(int);
    static int (*mg_get_threads)(void);
    static int mg_small;                    /* it has kernels that read small matrices where they lie */
    static char mg_guard;
    static int mg_inside, mg_before;

    static int mg_find_blas(const char *path) {
        static const char *cores[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
        static const char *names[][6] = {
            {"scipy_cblas_sgemm64_", "scipy_cblas_dgemm64_", "scipy_openblas_set_num_threads64_",
             "scipy_openblas_get_num_threads64_", "64", "scipy_openblas_get_corename64_"},
            {"cblas_sgemm64_", "cblas_dgemm64_", "openblas_set_num_threads64_", "openblas_get_num_threads64_", "64",
             "openblas_get_corename64_"},
            {"scipy_cblas_sgemm", "scipy_cblas_dgemm", "scipy_openblas_set_num_threads",
             "scipy_openblas_get_num_threads", "32", "scipy_openblas_get_corename"},
            {"cblas_sgemm", "cblas_dgemm", "openblas_set_num_threads", "openblas_get_num_threads", "32",
             "openblas_get_corename"},
        };
        void *library = dlopen(path, MG_FLAGS);
        if (!library) return 0;
        for (int i = 0; i < 4; i++) {
            mg_sgemm = dlsym(library, names[i][0]);
            mg_dgemm = dlsym(library, names[i][1]);
            if (mg_sgemm && mg_dgemm) {
                mg_wide = names[i][4][0] == '6';
                mg_set_threads = (void (*)(int))dlsym(library, names[i][2]);
                mg_get_threads = (int (*)(void))dlsym(library, names[i][3]);
                if (!mg_set_threads || !mg_get_threads) break;
                char *(*corename)(void) = (char *(*)(void))dlsym(library, names[i][5]);
                for (int j = 0; corename && j < 3; j++) mg_small |= !strcmp(corename(), cores[j]);
                return 1;
            }
        }
        mg_sgemm = mg_dgemm = 0;
        mg_set_threads = 0;
        mg_get_threads = 0;
        return 0;
    }
    static void mg_gemm_f(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                          const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
        if (mg_wide)
            ((mg_sgemm64)mg_sgemm)(MG_ROWS, ta ? MG_T : MG_N, tb ? MG_T : MG_N, m, n, k, alpha, a, lda, b, ldb,
                                   beta, c, ldc);
        else
            ((mg_sgemm32)mg_sgemm)(MG_ROWS, ta ? MG_T : MG_N, tb ? MG_T : MG_N, (int)m, (int)n, (int)k, alpha, a,
                                   (int)lda, b, (int)ldb, beta, c, (int)ldc);
    }
    static void mg_gemm_d(int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a, int64_t lda,
                          const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
        if (mg_wide)
            ((mg_dgemm64)mg_dgemm)(MG_ROWS, ta ? MG_T : MG_N, tb ? MG_T : MG_N, m, n, k, alpha, a, lda, b, ldb,
                                   beta, c, ldc);
        else
            ((mg_dgemm32)mg_dgemm)(MG_ROWS, ta ? MG_T : MG_N, tb ? MG_T : MG_N, (int)m, (int)n, (int)k, alpha, a,
                                   (int)lda, b, (int)ldb, beta, c, (int)ldc);
    }
    static void mg_lock(void) { while (__atomic_test_and_set(&mg_guard, __ATOMIC_ACQUIRE)) {} }
    static void mg_unlock(void) { __atomic_clear(&mg_guard, __ATOMIC_RELEASE); }
    static void mg_enter(void) {
        mg_lock();
        if (mg_inside++ == 0) {
            mg_before = mg_get_threads();
            if (mg_before != 1) mg_set_threads(1);
        }
        mg_unlock();
    }
    static void mg_leave(void) {
        mg_lock();
        if (--mg_inside == 0 && mg_before != 1) mg_set_threads(mg_before);
        mg_unlock();
    }
    static void mg_choose(int n) {
        if (!mg_set_threads) return;
        mg_lock();
        if (mg_inside) mg_before = n; else mg_set_threads(n);
        mg_unlock();
    }
    static void mg_forked(void) {
        if (mg_inside && mg_before != 1) mg_set_threads(mg_before);
        mg_inside = 0;
        mg_unlock();
    }
    """
    int mg_wide
    int mg_small
    int mg_find_blas(const char* path)
    void mg_gemm_f(
        bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, float alpha, const float* a, npy_intp lda,
        const float* b, npy_intp ldb, float beta, float* c, npy_intp ldc) noexcept nogil
    void mg_gemm_d(
        bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, double alpha, const double* a, npy_intp lda,
        const double* b, npy_intp ldb, double beta, double* c, npy_intp ldc) noexcept nogil
    void mg_enter() noexcept nogil
    void mg_leave() noexcept nogil
    void mg_choose(int n) nogil
    void mg_forked() nogil


def forked():
    """Forget who was inside; the child of a fork is alone."""
    mg_forked()


cdef bint _found = mg_find_blas(os.fsencode(umath.__file__))


# a thread that held the lock is not there in the child of a fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


def available():
    """Whether NumPy's BLAS was found."""
    return bool(_found)


def set_threads(int n):
    """Set the threads of BLAS outside of the kernels."""
    mg_choose(n)


cdef bint has_blas(npy_intp extent) noexcept nogil:
    return _found and (mg_wide or extent <= 0x7FFFFFFF)


cdef bint has_small_kernels() noexcept nogil:
    return mg_small


cdef void enter() noexcept nogil:
    mg_enter()


cdef void leave() noexcept nogil:
    mg_leave()


cdef void sgemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, float alpha, const float* a, npy_intp lda,
    const float* b, npy_intp ldb, float beta, float* c, npy_intp ldc,
) noexcept nogil:
    mg_gemm_f(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)


cdef void dgemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, double alpha, const double* a, npy_intp lda,
    const double* b, npy_intp ldb, double beta, double* c, npy_intp ldc,
) noexcept nogil:
    mg_gemm_d(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)

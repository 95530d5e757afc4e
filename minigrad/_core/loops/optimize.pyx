"""Update rules of optimizers as one pass over memory: a parameter, its gradient and its state go in, and are changed.

``sgd`` and ``adam`` answer False, and change nothing, where they do not take the arrays (another dtype, a stride,
another backend's arrays); the optimizer then runs its generic body, which computes the same.
"""
from libc.math cimport sqrt, sqrtf
from libc.string cimport memcmp
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_ISALIGNED, PyArray_ISBEHAVED, PyArray_IS_C_CONTIGUOUS,
    PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.dispatch cimport kernels_on
from minigrad._core.loops.plain cimport RELEASE_GIL, real

import_array()


cdef bint fits(object a, object like) except -1:
    """Whether an array has the dtype, shape and order of `like`, which was found to fit."""
    if type(a) is not ndarray or PyArray_TYPE(<ndarray>a) != PyArray_TYPE(<ndarray>like):
        return False
    cdef int n = PyArray_NDIM(<ndarray>a)
    if n != PyArray_NDIM(<ndarray>like):
        return False
    if not PyArray_IS_C_CONTIGUOUS(<ndarray>a) or not PyArray_ISALIGNED(<ndarray>a):
        return False
    return n == 0 or memcmp(PyArray_DIMS(<ndarray>a), PyArray_DIMS(<ndarray>like), n * sizeof(npy_intp)) == 0


cdef bint takes(object x) except -1:
    """Whether a parameter's array is float32 or float64, contiguous and may be written to."""
    if not kernels_on() or type(x) is not ndarray:
        return False
    return (
        (PyArray_TYPE(<ndarray>x) == NPY_FLOAT or PyArray_TYPE(<ndarray>x) == NPY_DOUBLE)
        and PyArray_IS_C_CONTIGUOUS(<ndarray>x) and PyArray_ISBEHAVED(<ndarray>x)
    )


# ---- SGD -------------------------------------------------------------------------------------------------------------

cdef void sgd_loop(
    real* x, const real* grad, real* momentum_buffer, Py_ssize_t n,
    real lr, real momentum, real fresh, real weight_decay, real sign, bint nesterov,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real g
    if momentum_buffer == NULL:
        for i in range(n):
            x[i] -= lr * (sign * grad[i] + weight_decay * x[i])
    elif nesterov:
        for i in range(n):
            g = sign * grad[i] + weight_decay * x[i]
            momentum_buffer[i] = momentum * momentum_buffer[i] + fresh * g
            x[i] -= lr * (g + momentum * momentum_buffer[i])
    else:
        for i in range(n):
            g = sign * grad[i] + weight_decay * x[i]
            momentum_buffer[i] = momentum * momentum_buffer[i] + fresh * g
            x[i] -= lr * momentum_buffer[i]


def sgd(
    x not None, g not None, momentum_buffer,
    double lr, double momentum, double fresh, double weight_decay, bint nesterov, bint maximize,
):
    """Stochastic gradient descent in place; `fresh` is the gradient's share of the momentum buffer, if any."""
    if not (takes(x) and fits(g, x) and (momentum_buffer is None or fits(momentum_buffer, x))):
        return False
    cdef Py_ssize_t n = PyArray_SIZE(<ndarray>x)
    cdef void* p = PyArray_DATA(<ndarray>x)
    cdef void* d = PyArray_DATA(<ndarray>g)
    cdef void* b = NULL if momentum_buffer is None else PyArray_DATA(<ndarray>momentum_buffer)
    cdef double sign = -1.0 if maximize else 1.0
    if PyArray_TYPE(<ndarray>x) == NPY_FLOAT:
        if n < RELEASE_GIL:
            sgd_loop[float](<float*>p, <float*>d, <float*>b, n, lr, momentum, fresh, weight_decay, sign, nesterov)
        else:
            with nogil:
                sgd_loop[float](<float*>p, <float*>d, <float*>b, n, lr, momentum, fresh, weight_decay, sign, nesterov)
    elif n < RELEASE_GIL:
        sgd_loop[double](<double*>p, <double*>d, <double*>b, n, lr, momentum, fresh, weight_decay, sign, nesterov)
    else:
        with nogil:
            sgd_loop[double](<double*>p, <double*>d, <double*>b, n, lr, momentum, fresh, weight_decay, sign, nesterov)
    return True


# ---- Adam ------------------------------------------------------------------------------------------------------------

cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef void adam_loop(
    real* x, const real* grad, real* m, real* v, real* v_max, Py_ssize_t n,
    real beta1, real fresh1, real beta2, real fresh2, real eps, real shrink, real penalty, real sign,
    real step_size, real root_scale,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real g
    if v_max == NULL:
        for i in range(n):
            g = sign * grad[i] + penalty * x[i]
            m[i] = beta1 * m[i] + fresh1 * g
            v[i] = beta2 * v[i] + fresh2 * g * g
            x[i] = shrink * x[i] - step_size * m[i] / (root(v[i]) * root_scale + eps)
    else:
        for i in range(n):
            g = sign * grad[i] + penalty * x[i]
            m[i] = beta1 * m[i] + fresh1 * g
            v[i] = beta2 * v[i] + fresh2 * g * g
            v_max[i] = v_max[i] if v_max[i] >= v[i] else v[i]
            x[i] = shrink * x[i] - step_size * m[i] / (root(v_max[i]) * root_scale + eps)


def adam(
    x not None, g not None, m not None, v not None, v_max,
    double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled, bint maximize, long step,
):
    """Adam and AdamW in place; `v_max` is the state of AMSGrad or None, `step` counts from 1."""
    if not (takes(x) and fits(g, x) and fits(m, x) and fits(v, x) and (v_max is None or fits(v_max, x))):
        return False
    cdef Py_ssize_t n = PyArray_SIZE(<ndarray>x)
    cdef void* p = PyArray_DATA(<ndarray>x)
    cdef void* d = PyArray_DATA(<ndarray>g)
    cdef void* first = PyArray_DATA(<ndarray>m)
    cdef void* second = PyArray_DATA(<ndarray>v)
    cdef void* top = NULL if v_max is None else PyArray_DATA(<ndarray>v_max)
    cdef double shrink = 1.0 - lr * weight_decay if decoupled else 1.0
    cdef double penalty = 0.0 if decoupled else weight_decay
    cdef double sign = -1.0 if maximize else 1.0
    cdef double fresh1 = 1.0 - beta1, fresh2 = 1.0 - beta2  # in double: 1 - 0.999 has few digits in float32
    cdef double step_size = lr / (1.0 - beta1 ** step)
    cdef double root_scale = 1.0 / sqrt(1.0 - beta2 ** step)
    if PyArray_TYPE(<ndarray>x) == NPY_FLOAT:
        if n < RELEASE_GIL:
            adam_loop[float](
                <float*>p, <float*>d, <float*>first, <float*>second, <float*>top, n,
                beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign, step_size, root_scale,
            )
        else:
            with nogil:
                adam_loop[float](
                    <float*>p, <float*>d, <float*>first, <float*>second, <float*>top, n,
                    beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign, step_size, root_scale,
                )
    elif n < RELEASE_GIL:
        adam_loop[double](
            <double*>p, <double*>d, <double*>first, <double*>second, <double*>top, n,
            beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign, step_size, root_scale,
        )
    else:
        with nogil:
            adam_loop[double](
                <double*>p, <double*>d, <double*>first, <double*>second, <double*>top, n,
                beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign, step_size, root_scale,
            )
    return True

"""Update rules of optimizers as one pass over memory, for all parameters of a group in one call.

Parameters, their gradients and their states go in as lists; what is large is cut into chunks, and the threads share the
chunks of all parameters, so that many small ones cost no more than one large one. Parameters and states are changed.
``sgd`` and ``adam`` return the places of those that they leave alone (another dtype, a stride, another backend's
arrays); the optimizer then runs its generic body for these, which computes the same.
"""
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdlib cimport free, malloc
from numpy cimport PyArray_DATA, import_array, ndarray, npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.dispatch cimport kernels_on
from minigrad._core.loops.jobs cimport CHUNK, Job, at, find, is_own, job_of, number, penalized, root, takes
from minigrad._core.loops.plain cimport RELEASE_GIL, real

import_array()

cdef struct Sgd:
    double lr, momentum, weight_decay, sign
    bint nesterov

cdef struct Adam:
    double beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign


# ---- SGD -------------------------------------------------------------------------------------------------------------

cdef void sgd_loop(
    real* x, const real* grad, real* buffer, npy_intp n,
    real lr, real momentum, real fresh, real weight_decay, real sign, bint nesterov,
) noexcept nogil:
    cdef npy_intp i
    cdef real g, b
    if buffer == NULL:
        for i in range(n):
            x[i] -= lr * penalized(sign * grad[i], weight_decay, x[i])
    elif nesterov:
        for i in range(n):
            g = penalized(sign * grad[i], weight_decay, x[i])
            b = momentum * buffer[i] + fresh * g
            buffer[i] = b
            x[i] -= lr * (g + momentum * b)
    else:
        for i in range(n):
            g = penalized(sign * grad[i], weight_decay, x[i])
            b = momentum * buffer[i] + fresh * g
            buffer[i] = b
            x[i] -= lr * b


cdef inline void sgd_typed(const Job* job, npy_intp start, npy_intp n, const Sgd* s, real like) noexcept nogil:
    sgd_loop[real](
        at(job.x, start, like), at(<void*>job.g, start, like), at(job.first, start, like), n,
        s.lr, s.momentum, job.scale, s.weight_decay, s.sign, s.nesterov,
    )


cdef void sgd_chunk(const Job* jobs, npy_intp count, npy_intp chunk, const Sgd* s) noexcept nogil:
    cdef npy_intp k = find(jobs, count, chunk)
    cdef npy_intp start = (chunk - (jobs[k - 1].end if k else 0)) * CHUNK
    cdef npy_intp n = min(CHUNK, jobs[k].n - start)
    if jobs[k].wide:
        sgd_typed[double](&jobs[k], start, n, s, 0.0)
    else:
        sgd_typed[float](&jobs[k], start, n, s, 0.0)


cdef void sgd_all(const Job* jobs, npy_intp count, npy_intp chunks, int threads, const Sgd* s) noexcept nogil:
    cdef npy_intp chunk
    for chunk in prange(chunks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        sgd_chunk(jobs, count, chunk, s)


def sgd(
    list xs not None, list gs not None, list states not None,
    double lr, double momentum, double dampening, double weight_decay, bint nesterov, bint maximize,
):
    """Stochastic gradient descent; with `momentum` each state has a ``momentum_buffer``."""
    cdef npy_intp i, total = len(xs), count = 0, chunks, elements
    cdef object x, g, buffer
    cdef dict state
    cdef list left = [], taken = []
    cdef Sgd s = Sgd(lr, momentum, weight_decay, -1.0 if maximize else 1.0, nesterov)
    cdef Job* jobs
    if not kernels_on():
        return list(range(total))
    jobs = <Job*>malloc(total * sizeof(Job))
    if jobs == NULL and total:
        raise MemoryError
    try:
        for i in range(total):
            x, g, state = xs[i], gs[i], states[i]
            buffer = state.get("momentum_buffer") if momentum else None
            if not takes(x, g) or (momentum and not is_own(buffer, x)):
                left.append(i)
                continue
            jobs[count] = job_of(x, g)
            if buffer is not None:
                jobs[count].first = PyArray_DATA(<ndarray>buffer)
            jobs[count].scale = 1.0 - dampening if state["step"] else 1.0
            taken.append(state)
            count += 1
        chunks = number(jobs, count, &elements)
        if elements < RELEASE_GIL:
            for i in range(chunks):
                sgd_chunk(jobs, count, i, &s)
        else:
            with nogil:
                sgd_all(jobs, count, chunks, threads_for(elements), &s)
        for state in taken:
            state["step"] += 1
    finally:
        free(jobs)
    return left


# ---- Adam ------------------------------------------------------------------------------------------------------------

cdef void adam_loop(
    real* x, const real* grad, real* first, real* second, real* largest, npy_intp n,
    real beta1, real fresh1, real beta2, real fresh2, real eps, real shrink, real penalty, real sign,
    real step_size, real root_scale,
) noexcept nogil:
    cdef npy_intp i
    cdef real g, m, v, top
    if largest == NULL:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            m = beta1 * first[i] + fresh1 * g
            v = beta2 * second[i] + fresh2 * g * g
            first[i] = m
            second[i] = v
            x[i] = shrink * x[i] - step_size * m / (root(v) * root_scale + eps)
    else:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            m = beta1 * first[i] + fresh1 * g
            v = beta2 * second[i] + fresh2 * g * g
            first[i] = m
            second[i] = v
            top = largest[i]
            v = top if top >= v else v
            v = top if top != top else v  # NaN stays, as in numpy.maximum
            largest[i] = v
            x[i] = shrink * x[i] - step_size * m / (root(v) * root_scale + eps)


cdef inline void adam_typed(const Job* job, npy_intp start, npy_intp n, const Adam* a, real like) noexcept nogil:
    adam_loop[real](
        at(job.x, start, like), at(<void*>job.g, start, like), at(job.first, start, like),
        at(job.second, start, like), at(job.third, start, like), n,
        a.beta1, a.fresh1, a.beta2, a.fresh2, a.eps, a.shrink, a.penalty, a.sign, job.scale, job.root_scale,
    )


cdef void adam_chunk(const Job* jobs, npy_intp count, npy_intp chunk, const Adam* a) noexcept nogil:
    cdef npy_intp k = find(jobs, count, chunk)
    cdef npy_intp start = (chunk - (jobs[k - 1].end if k else 0)) * CHUNK
    cdef npy_intp n = min(CHUNK, jobs[k].n - start)
    if jobs[k].wide:
        adam_typed[double](&jobs[k], start, n, a, 0.0)
    else:
        adam_typed[float](&jobs[k], start, n, a, 0.0)


cdef void adam_all(const Job* jobs, npy_intp count, npy_intp chunks, int threads, const Adam* a) noexcept nogil:
    cdef npy_intp chunk
    for chunk in prange(chunks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        adam_chunk(jobs, count, chunk, a)


def adam(
    list xs not None, list gs not None, list states not None,
    double lr, double beta1, double beta2, double eps, double weight_decay, bint decoupled, bint maximize,
):
    """Adam and AdamW; a state with ``max_exp_avg_sq`` is AMSGrad's."""
    cdef npy_intp i, total = len(xs), count = 0, chunks, elements
    cdef object x, g, m, v, largest
    cdef dict state
    cdef list left = [], taken = []
    cdef long step
    cdef Adam a
    cdef Job* jobs
    if not kernels_on():
        return list(range(total))
    a.beta1, a.beta2, a.eps = beta1, beta2, eps
    a.fresh1, a.fresh2 = 1.0 - beta1, 1.0 - beta2  # in double: 1 - 0.999 has few digits in float32
    a.shrink = 1.0 - lr * weight_decay if decoupled else 1.0
    a.penalty = 0.0 if decoupled else weight_decay
    a.sign = -1.0 if maximize else 1.0
    jobs = <Job*>malloc(total * sizeof(Job))
    if jobs == NULL and total:
        raise MemoryError
    try:
        for i in range(total):
            x, g, state = xs[i], gs[i], states[i]
            m, v, largest = state["exp_avg"], state["exp_avg_sq"], state.get("max_exp_avg_sq")
            if not (takes(x, g) and is_own(m, x) and is_own(v, x) and (largest is None or is_own(largest, x))):
                left.append(i)
                continue
            jobs[count] = job_of(x, g)
            jobs[count].first, jobs[count].second = PyArray_DATA(<ndarray>m), PyArray_DATA(<ndarray>v)
            if largest is not None:
                jobs[count].third = PyArray_DATA(<ndarray>largest)
            step = state["step"] + 1
            taken.append(state)
            jobs[count].scale = lr / (1.0 - beta1 ** step)
            jobs[count].root_scale = 1.0 / sqrt(1.0 - beta2 ** step)
            count += 1
        chunks = number(jobs, count, &elements)
        if elements < RELEASE_GIL:
            for i in range(chunks):
                adam_chunk(jobs, count, i, &a)
        else:
            with nogil:
                adam_all(jobs, count, chunks, threads_for(elements), &a)
        for state in taken:
            state["step"] += 1
    finally:
        free(jobs)
    return left

"""Rules that divide a gradient, or its running mean, by the root of a running second moment; and Lion, by signs.

``adaptive`` is one loop for all rules of `minigrad.optim.adaptive` (NAdam, RAdam, RMSprop, Adagrad): they differ in
which arrays a state has and in numbers. As in ``optimize``, parameters and states are changed, and the places of those
that are left alone are returned.
"""
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from numpy cimport PyArray_DATA, import_array, ndarray, npy_intp

from minigrad._core.cpu cimport threads_for
from minigrad._core.dispatch cimport kernels_on
from minigrad._core.loops.jobs cimport CHUNK, Job, at, find, is_own, job_of, number, penalized, root, takes
from minigrad._core.loops.plain cimport RELEASE_GIL, real

import_array()

cdef struct Rule:
    double beta1, fresh1, beta2, fresh2, eps, shrink, penalty, rate, momentum, sign
    bint centered
    bint lion


cdef inline real spread(real v, real m) noexcept nogil:
    """v - m * m, which rounding may turn negative, at least 0; NaN stays."""
    cdef real out = v - m * m
    return 0 if out < 0 else out


cdef inline real direction(real c) noexcept nogil:
    """The sign of a number; NaN stays."""
    cdef real out = 1 if c > 0 else -1 if c < 0 else 0
    return c if c != c else out


cdef void adaptive_loop(
    real* x, const real* grad, real* first, real* second, real* third, npy_intp n,
    real beta1, real fresh1, real beta2, real fresh2, real eps, real shrink, real penalty, real rate, real momentum,
    real sign, bint centered, real scale, real mean_scale, real root_scale,
) noexcept nogil:
    cdef npy_intp i
    cdef real g, m, v, u
    if first == NULL and third == NULL:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            v = beta2 * second[i] + fresh2 * g * g
            second[i] = v
            x[i] = shrink * x[i] - rate * scale * g / (root(v) * root_scale + eps)
    elif first == NULL:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            v = beta2 * second[i] + fresh2 * g * g
            second[i] = v
            u = momentum * third[i] + scale * g / (root(v) * root_scale + eps)
            third[i] = u
            x[i] = shrink * x[i] - rate * u
    elif not centered:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            m = beta1 * first[i] + fresh1 * g
            v = beta2 * second[i] + fresh2 * g * g
            first[i] = m
            second[i] = v
            x[i] = shrink * x[i] - rate * (scale * g + mean_scale * m) / (root(v) * root_scale + eps)
    elif third == NULL:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            m = beta1 * first[i] + fresh1 * g
            v = beta2 * second[i] + fresh2 * g * g
            first[i] = m
            second[i] = v
            x[i] = shrink * x[i] - rate * scale * g / (root(spread(v, m)) * root_scale + eps)
    else:
        for i in range(n):
            g = penalized(sign * grad[i], penalty, x[i])
            m = beta1 * first[i] + fresh1 * g
            v = beta2 * second[i] + fresh2 * g * g
            first[i] = m
            second[i] = v
            u = momentum * third[i] + scale * g / (root(spread(v, m)) * root_scale + eps)
            third[i] = u
            x[i] = shrink * x[i] - rate * u


cdef void lion_loop(
    real* x, const real* grad, real* first, npy_intp n,
    real beta1, real fresh1, real beta2, real fresh2, real shrink, real rate, real sign,
) noexcept nogil:
    cdef npy_intp i
    cdef real g, m
    for i in range(n):
        g = sign * grad[i]
        m = first[i]
        first[i] = beta2 * m + fresh2 * g
        x[i] = shrink * x[i] - rate * direction(beta1 * m + fresh1 * g)


cdef inline void rule_typed(const Job* job, npy_intp start, npy_intp n, const Rule* r, real like) noexcept nogil:
    if r.lion:
        lion_loop[real](
            at(job.x, start, like), at(<void*>job.g, start, like), at(job.first, start, like), n,
            r.beta1, r.fresh1, r.beta2, r.fresh2, r.shrink, r.rate, r.sign,
        )
    else:
        adaptive_loop[real](
            at(job.x, start, like), at(<void*>job.g, start, like), at(job.first, start, like),
            at(job.second, start, like), at(job.third, start, like), n,
            r.beta1, r.fresh1, r.beta2, r.fresh2, r.eps, r.shrink, r.penalty, r.rate, r.momentum, r.sign, r.centered,
            job.scale, job.mean_scale, job.root_scale,
        )


cdef void rule_chunk(const Job* jobs, npy_intp count, npy_intp chunk, const Rule* r) noexcept nogil:
    cdef npy_intp k = find(jobs, count, chunk)
    cdef npy_intp start = (chunk - (jobs[k - 1].end if k else 0)) * CHUNK
    cdef npy_intp n = min(CHUNK, jobs[k].n - start)
    if jobs[k].wide:
        rule_typed[double](&jobs[k], start, n, r, 0.0)
    else:
        rule_typed[float](&jobs[k], start, n, r, 0.0)


cdef void rule_all(const Job* jobs, npy_intp count, npy_intp chunks, int threads, const Rule* r) noexcept nogil:
    cdef npy_intp chunk
    for chunk in prange(chunks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        rule_chunk(jobs, count, chunk, r)


cdef void run(Job* jobs, npy_intp count, const Rule* r) noexcept:
    """Update the parameters of all jobs."""
    cdef npy_intp i, elements, chunks = number(jobs, count, &elements)
    if elements < RELEASE_GIL:
        for i in range(chunks):
            rule_chunk(jobs, count, i, r)
    else:
        with nogil:
            rule_all(jobs, count, chunks, threads_for(elements), r)


def adaptive(
    list xs not None, list gs not None, list states not None, list scales not None, tuple names not None,
    double beta1, double fresh1, double beta2, double fresh2, double eps, double shrink, double penalty, double rate,
    double momentum, bint centered, bint maximize,
):
    """Rules of `minigrad.optim.adaptive`: `names` are those of the mean or None, the second moment, the buffer or None.

    Each of `scales` has three factors: of the gradient, of its mean, and of the root; or it is None, and the parameter
    is left alone.
    """
    cdef npy_intp i, total = len(xs), count = 0
    cdef object x, g, first, second, third, factors
    cdef dict state
    cdef list left = []
    cdef Rule r = Rule(
        beta1, fresh1, beta2, fresh2, eps, shrink, penalty, rate, momentum, -1.0 if maximize else 1.0, centered, False
    )
    cdef Job* jobs
    if not kernels_on():
        return list(range(total))
    jobs = <Job*>malloc(total * sizeof(Job))
    if jobs == NULL and total:
        raise MemoryError
    try:
        for i in range(total):
            x, g, state, factors = xs[i], gs[i], states[i], scales[i]
            first = None if names[0] is None else state[names[0]]
            second = state[names[1]]
            third = None if names[2] is None else state[names[2]]
            if not (
                factors is not None and takes(x, g) and is_own(second, x)
                and (first is None or is_own(first, x)) and (third is None or is_own(third, x))
            ):
                left.append(i)
                continue
            jobs[count] = job_of(x, g)
            jobs[count].second = PyArray_DATA(<ndarray>second)
            if first is not None:
                jobs[count].first = PyArray_DATA(<ndarray>first)
            if third is not None:
                jobs[count].third = PyArray_DATA(<ndarray>third)
            jobs[count].scale, jobs[count].mean_scale, jobs[count].root_scale = factors
            count += 1
        run(jobs, count, &r)
    finally:
        free(jobs)
    return left


def lion(
    list xs not None, list gs not None, list states not None,
    double lr, double beta1, double beta2, double weight_decay, bint maximize,
):
    """Lion; each state has an ``exp_avg``."""
    cdef npy_intp i, total = len(xs), count = 0
    cdef object x, g, first
    cdef dict state
    cdef list left = []
    cdef Rule r = Rule(
        beta1, 1.0 - beta1, beta2, 1.0 - beta2, 0.0, 1.0 - lr * weight_decay, 0.0, lr, 0.0,
        -1.0 if maximize else 1.0, False, True,
    )
    cdef Job* jobs
    if not kernels_on():
        return list(range(total))
    jobs = <Job*>malloc(total * sizeof(Job))
    if jobs == NULL and total:
        raise MemoryError
    try:
        for i in range(total):
            x, g, state = xs[i], gs[i], states[i]
            first = state["exp_avg"]
            if not (takes(x, g) and is_own(first, x)):
                left.append(i)
                continue
            jobs[count] = job_of(x, g)
            jobs[count].first = PyArray_DATA(<ndarray>first)
            count += 1
        run(jobs, count, &r)
    finally:
        free(jobs)
    return left

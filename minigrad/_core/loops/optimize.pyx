"""Update rules of optimizers as one pass over memory, for all parameters of a group in one call.

Parameters, their gradients and their states go in as lists; what is large is cut into chunks, and the threads share the
chunks of all parameters, so that many small ones cost no more than one large one. Parameters and states are changed.
``sgd`` and ``adam`` return the places of those that they leave alone (another dtype, a stride, another backend's
arrays); the optimizer then runs its generic body for these, which computes the same.
"""
from cython.parallel cimport prange
from libc.math cimport sqrt, sqrtf
from libc.stdlib cimport free, malloc
from numpy cimport (
    NPY_DOUBLE, PyArray_DATA, PyArray_ISWRITEABLE, PyArray_SIZE, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.dispatch cimport kernels_on
from minigrad._core.loops.plain cimport RELEASE_GIL, alike, is_real, real

import_array()

cdef enum:
    CHUNK = 4096  # elements that a thread updates at a time

cdef struct Job:
    void* x                # the arrays of a parameter
    const void* g
    void* first            # its state: the momentum buffer, or the moments, or NULL
    void* second
    void* largest
    npy_intp n
    npy_intp end           # where its chunks end in the row of those of all parameters
    bint wide              # float64
    double scale           # of SGD: the gradient's share of the momentum buffer; of Adam: the corrected step size
    double root_scale

cdef struct Sgd:
    double lr, momentum, weight_decay, sign
    bint nesterov

cdef struct Adam:
    double beta1, fresh1, beta2, fresh2, eps, shrink, penalty, sign


cdef inline bint is_own(object a, object x):
    """Whether an array of the state may be written to, and is of the dtype and shape of the parameter `x`."""
    return alike(a, x) and PyArray_ISWRITEABLE(<ndarray>a)


cdef inline bint takes(object x, object g):
    """Whether a parameter is float32 or float64, in C order, may be written to, and the gradient is like it."""
    return is_real(x) and PyArray_ISWRITEABLE(<ndarray>x) and alike(g, x)


cdef inline Job job_of(object x, object g):
    cdef Job job
    job.x, job.g = PyArray_DATA(<ndarray>x), PyArray_DATA(<ndarray>g)
    job.first = job.second = job.largest = NULL
    job.n = PyArray_SIZE(<ndarray>x)
    job.end = 0
    job.wide = PyArray_TYPE(<ndarray>x) == NPY_DOUBLE
    job.scale = job.root_scale = 1.0
    return job


cdef npy_intp number(Job* jobs, npy_intp count, npy_intp* elements):
    """Number the chunks of all jobs; returns how many there are."""
    cdef npy_intp i, chunks = 0
    elements[0] = 0
    for i in range(count):
        chunks += (jobs[i].n + CHUNK - 1) // CHUNK
        elements[0] += jobs[i].n
        jobs[i].end = chunks
    return chunks


cdef inline npy_intp find(const Job* jobs, npy_intp count, npy_intp chunk) noexcept nogil:
    """The job that a chunk belongs to."""
    cdef npy_intp low = 0, high = count - 1, middle
    while low < high:
        middle = (low + high) // 2
        if jobs[middle].end <= chunk:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline real* at(void* x, npy_intp start, real like) noexcept nogil:
    """An element of an array, which may be missing; `like` says of which type."""
    return NULL if x == NULL else <real*>x + start


cdef inline real penalized(real g, real penalty, real x) noexcept nogil:
    """g + penalty * x; g where there is no penalty, though x be infinite. The compiler asks outside of the loop."""
    return g + penalty * x if penalty != 0 else g


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

cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


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
        at(job.second, start, like), at(job.largest, start, like), n,
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
                jobs[count].largest = PyArray_DATA(<ndarray>largest)
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

"""What the kernels of optimizers share: parameters with their gradients and states as jobs, cut into chunks.

What is large is cut into chunks, and the threads share the chunks of all parameters, so that many small ones cost no
more than one large one.
"""
from libc.math cimport sqrt, sqrtf
from numpy cimport NPY_DOUBLE, PyArray_DATA, PyArray_ISWRITEABLE, PyArray_SIZE, PyArray_TYPE, ndarray, npy_intp

from minigrad._core.loops.plain cimport alike, is_real, real

cdef enum:
    CHUNK = 4096  # elements that a thread updates at a time

cdef struct Job:
    void* x                # the arrays of a parameter
    const void* g
    void* first            # its state: the momentum buffer, or the moments, or NULL
    void* second
    void* third
    npy_intp n
    npy_intp end           # where its chunks end in the row of those of all parameters
    bint wide              # float64
    double scale           # what a rule multiplies by in this step of this parameter: see there
    double mean_scale
    double root_scale


cdef inline bint is_own(object a, object x):
    """Whether an array of the state may be written to, and is of the dtype and shape of the parameter `x`."""
    return alike(a, x) and PyArray_ISWRITEABLE(<ndarray>a)


cdef inline bint takes(object x, object g):
    """Whether a parameter is float32 or float64, in C order, may be written to, and the gradient is like it."""
    return is_real(x) and PyArray_ISWRITEABLE(<ndarray>x) and alike(g, x)


cdef inline Job job_of(object x, object g):
    cdef Job job
    job.x, job.g = PyArray_DATA(<ndarray>x), PyArray_DATA(<ndarray>g)
    job.first = job.second = job.third = NULL
    job.n = PyArray_SIZE(<ndarray>x)
    job.end = 0
    job.wide = PyArray_TYPE(<ndarray>x) == NPY_DOUBLE
    job.scale = job.mean_scale = job.root_scale = 1.0
    return job


cdef inline npy_intp number(Job* jobs, npy_intp count, npy_intp* elements):
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


cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline real* at(void* x, npy_intp start, real like) noexcept nogil:
    """An element of an array, which may be missing; `like` says of which type."""
    return NULL if x == NULL else <real*>x + start


cdef inline real penalized(real g, real penalty, real x) noexcept nogil:
    """g + penalty * x; g where there is no penalty, though x be infinite. The compiler asks outside of the loop."""
    return g + penalty * x if penalty != 0 else g

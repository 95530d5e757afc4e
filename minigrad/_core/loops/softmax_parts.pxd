"""The parts of softmax and its kin, for a row of numbers and for columns side by side: maxima, sums, and what is left.

Each part takes as many elements as it is given, all of an axis or a block of it, so that threads can share a long one.
`g` is a cotangent, `y` a result whose gradient is wanted.
"""
from libc.math cimport INFINITY, log
from numpy cimport npy_intp

from minigrad._core.loops.math cimport exp_not_positive
from minigrad._core.loops.plain cimport real
from minigrad._core.loops.rows cimport exponentials, row_dot, row_sum, sum_exponentials

cdef enum Function:
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP
    LOGSUMEXP_VJP
    SOFTMAX_VJP
    LOG_SOFTMAX_VJP


cdef inline bint has_top(Function function) noexcept nogil:
    """Whether the maximum is subtracted before exp."""
    return function <= LOGSUMEXP_VJP


cdef inline bint settle(real* top, npy_intp width) noexcept nogil:
    """Make of maxima what to subtract before exp: 0 of -inf, where all is; False if one is +inf."""
    cdef npy_intp k
    cdef bint finite = True
    for k in range(width):
        finite = finite and top[k] != INFINITY
        top[k] = 0 if top[k] == -INFINITY else top[k]
    return finite


# ---- a row -----------------------------------------------------------------------------------------------------------


cdef inline double sum_of_row(
    Function function, const real* g, const real* x, real top, real* out, npy_intp n,
) noexcept nogil:
    """The sum of exp(x - top), which softmax keeps in `out`; of g * y; or of g."""
    if function == SOFTMAX or function == LOGSUMEXP_VJP:
        return exponentials(x, top, out, n)
    if has_top(function):
        return sum_exponentials(x, top, n)
    return row_dot(g, x, n) if function == SOFTMAX_VJP else row_sum(g, n)


cdef inline real end_of_sum(Function function, double total, const real* g) noexcept nogil:
    """What a sum contributes to each result: a factor, a logarithm, or itself."""
    if function == SOFTMAX:
        return <real>(1 / (1.0 if total == 0 else total))
    if function == LOGSUMEXP_VJP:
        return <real>(g[0] / (1.0 if total == 0 else total))
    if function == LOG_SOFTMAX:
        return <real>log(1.0 if total == 0 else total)
    return <real>log(total) if function == LOGSUMEXP else <real>total


cdef inline void finish_row(
    Function function, const real* g, const real* x, real top, real end, real* out, npy_intp n,
) noexcept nogil:
    """The results; softmax has its exponentials in `out`."""
    cdef npy_intp j
    if function == SOFTMAX or function == LOGSUMEXP_VJP:
        for j in range(n):
            out[j] *= end
    elif function == LOG_SOFTMAX:
        for j in range(n):
            out[j] = (x[j] - top) - end
    elif function == SOFTMAX_VJP:
        for j in range(n):
            out[j] = x[j] * (g[j] - end)
    else:
        for j in range(n):
            out[j] = g[j] - exp_not_positive(x[j]) * end


# ---- `width` columns side by side, `inner` elements from one of their `n` rows to the next ---------------------------


cdef inline void strip_tops(const real* x, npy_intp n, npy_intp inner, npy_intp width, real* top) noexcept nogil:
    """The maximum of each column but for NaN."""
    cdef npy_intp i, k
    for k in range(width):
        top[k] = -INFINITY
    for i in range(n):
        for k in range(width):
            top[k] = x[i * inner + k] if x[i * inner + k] > top[k] else top[k]


cdef inline void strip_sums(
    Function function, const real* g, const real* x, const real* top, real* out,
    npy_intp n, npy_intp inner, npy_intp width, real* total,
) noexcept nogil:
    """`sum_of_row` of each column."""
    cdef npy_intp i, k, at
    for k in range(width):
        total[k] = 0
    if function == SOFTMAX or function == LOGSUMEXP_VJP:
        for i in range(n):
            at = i * inner
            for k in range(width):
                out[at + k] = exp_not_positive(<real>(x[at + k] - top[k]))
                total[k] += out[at + k]
    elif has_top(function):
        for i in range(n):
            at = i * inner
            for k in range(width):
                total[k] += exp_not_positive(<real>(x[at + k] - top[k]))
    elif function == SOFTMAX_VJP:
        for i in range(n):
            at = i * inner
            for k in range(width):
                total[k] += g[at + k] * x[at + k]
    else:
        for i in range(n):
            at = i * inner
            for k in range(width):
                total[k] += g[at + k]


cdef inline void end_sums(Function function, const real* g, npy_intp width, real* total) noexcept nogil:
    """`end_of_sum` of each column, in place."""
    cdef npy_intp k
    if function == SOFTMAX:
        for k in range(width):
            total[k] = <real>1 / (<real>1 if total[k] == 0 else total[k])
    elif function == LOGSUMEXP_VJP:
        for k in range(width):
            total[k] = g[k] / (<real>1 if total[k] == 0 else total[k])
    elif function == LOG_SOFTMAX:
        for k in range(width):
            total[k] = <real>log(<real>1 if total[k] == 0 else total[k])
    elif function == LOGSUMEXP:
        for k in range(width):
            total[k] = <real>log(total[k])


cdef inline void finish_strip(
    Function function, const real* g, const real* x, const real* top, const real* end,
    npy_intp n, npy_intp inner, npy_intp width, real* out,
) noexcept nogil:
    """`finish_row` of each column."""
    cdef npy_intp i, k, at
    if function == SOFTMAX or function == LOGSUMEXP_VJP:
        for i in range(n):
            at = i * inner
            for k in range(width):
                out[at + k] *= end[k]
    elif function == LOG_SOFTMAX:
        for i in range(n):
            at = i * inner
            for k in range(width):
                out[at + k] = (x[at + k] - top[k]) - end[k]
    elif function == SOFTMAX_VJP:
        for i in range(n):
            at = i * inner
            for k in range(width):
                out[at + k] = x[at + k] * (g[at + k] - end[k])
    else:
        for i in range(n):
            at = i * inner
            for k in range(width):
                out[at + k] = g[at + k] - exp_not_positive(x[at + k]) * end[k]

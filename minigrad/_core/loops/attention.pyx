"""Kernels of attention: blocks of scores that never leave the cache, so that memory grows with the lengths alone.

T. Dao, D. Fu, S. Ermon, A. Rudra, C. Re, "FlashAttention", 2022; T. Dao, "FlashAttention-2", 2023.

The forward has a task for each block of queries; it goes over the keys in blocks and keeps, for each query, the largest
score so far and the sum of exponentials below it. The backward makes the scores again and their softmax from the
log-sum-exp: a task has some key blocks, whose gradients it owns, and goes over the queries; where several tasks have
keys of one head, each sums the gradient of query apart, and the parts are added in order. Tasks depend on the shapes
only, and so does every bit of the result.

Keys outside of a query's band (causal, window, lengths) are skipped, or their weights are 0 whatever they hold: unlike
in the generic body, a NaN in padding does not reach a query that does not attend it, unless they share a block.
"""
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport (
    NPY_CORDER, NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NDIM, PyArray_NewCopy,
    PyArray_SwapAxes, PyArray_TYPE, PyArray_ZEROS, import_array, ndarray, npy_intp,
)

from minigrad._core.blas cimport enter, leave
from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.attention_backward cimport backward_task, delta_row
from minigrad._core.loops.attention_forward cimport forward_block, turn_block
from minigrad._core.loops.attention_problem cimport Problem, Rows, by_rows, over_scores, read, start_of
from minigrad._core.loops.plain cimport is_plain, real, same_shape

import_array()

cdef enum:
    FEW_QUERIES = 4    # up to so many do not repay that the keys are transposed
    TASKS = 16         # a backward with fewer heads splits their keys into chunks,
    CHUNKS = 8         # at most so many, since each but the first holds a gradient of query
    FOLDED = 64        # rows that a task folds
    ALIGNMENT = 64     # bytes of a cache line; so many elements are whole lines too

cdef struct Fold:
    # out (batch, head, row, feature) gets the sum of `count` arrays `step` apart, those of the next head `span` on
    Rows out
    const void* parts
    npy_intp count, step, span, heads, rows, width
    bint fresh                 # out holds nothing yet


cdef void fold_rows(const Fold* fold, npy_intp index, real* scratch) noexcept nogil:
    """Add the parts of up to FOLDED rows, in order."""
    cdef npy_intp blocks = (fold.rows + FOLDED - 1) // FOLDED
    cdef npy_intp first = index % blocks * FOLDED, head = index // blocks, row, part, j
    cdef const real* x
    cdef real* out
    for row in range(first, min(first + FOLDED, fold.rows)):
        out = <real*>fold.out.data + start_of(&fold.out, head // fold.heads, head % fold.heads, row)
        if fold.fresh:
            memset(out, 0, fold.width * sizeof(real))
        for part in range(fold.count):
            x = <const real*>fold.parts + head * fold.span + part * fold.step + row * fold.width
            for j in range(fold.width):
                out[j] += x[j]


# ---- over the threads ------------------------------------------------------------------------------------------------


cdef inline int threads_of(const Problem* p) noexcept nogil:
    return threads_for(p.batches * p.heads * p.queries * p.keys * (p.width + p.value_width) // 32)


cdef inline npy_intp share(npy_intp* total, npy_intp n) noexcept nogil:
    """Where `n` elements begin that are added to the memory of a call: at the start of a cache line."""
    cdef npy_intp start = total[0]
    total[0] += (n + ALIGNMENT - 1) & ~<npy_intp>(ALIGNMENT - 1)
    return start


cdef inline void* aligned(void* memory) noexcept nogil:
    return <void*>((<size_t>memory + ALIGNMENT - 1) & ~<size_t>(ALIGNMENT - 1))


cdef bint forward(Problem* p, real* lse) noexcept nogil:
    """The results and their log-sum-exp; False if there is no memory."""
    cdef int threads = threads_of(p)
    cdef npy_intp blocks = p.batches * (p.heads // p.group) * p.blocks
    cdef npy_intp tasks = p.batches * p.heads * ((p.queries + p.rows - 1) // p.rows)
    cdef npy_intp total = 0, size = 0, turned, i
    cdef bint few = p.queries <= FEW_QUERIES
    cdef void* memory
    cdef real* scratch
    turned = share(&total, 0 if few else blocks * p.size * p.width)
    share(&size, p.rows * (p.size + p.value_width + 2))
    memory = malloc((total + threads * size) * sizeof(real) + ALIGNMENT)
    if memory == NULL:
        return False
    scratch = <real*>aligned(memory)
    p.lse, p.turned = lse, NULL
    if not few:
        enter()    # few queries need no products of BLAS
        p.turned = scratch + turned
        for i in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
            turn_block(p, i, scratch)
    scratch += total
    for i in prange(tasks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic", chunksize=1):
        forward_block(p, i, scratch + threadid() * size)
    if not few:
        leave()
    free(memory)
    return True


cdef void fold_all(const Fold* fold, npy_intp batches, int threads, real* scratch) noexcept nogil:
    cdef npy_intp i, n = batches * fold.heads * ((fold.rows + FOLDED - 1) // FOLDED)
    for i in prange(n, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        fold_rows(fold, i, scratch)


cdef bint backward(Problem* p, real* lse) noexcept nogil:
    """The gradients, into arrays that are there; False if there is no memory."""
    cdef int threads = threads_of(p)
    cdef npy_intp heads = p.batches * p.heads, total = 0, size = 0, parts, keys, values, i
    cdef npy_intp own = 0 if p.group == 1 else heads * p.keys  # rows of keys and values for each query head
    cdef Rows g_key = p.g_key, g_value = p.g_value
    cdef Fold fold
    cdef void* memory
    cdef real* scratch
    parts = share(&total, (p.chunks - 1) * heads * p.queries * p.width)
    keys = share(&total, own * p.width)
    values = share(&total, own * p.value_width)
    share(&size, p.size * (3 * p.width + 2 * p.value_width + 2 * p.rows + 1))
    share(&size, p.queries * (2 * p.width + p.value_width))
    memory = malloc((total + threads * size) * sizeof(real) + ALIGNMENT)
    if memory == NULL:
        return False
    scratch = <real*>aligned(memory)
    p.lse, p.parts = lse, scratch + parts
    if p.group > 1:
        p.g_key = Rows(scratch + keys, p.heads * p.keys * p.width, p.keys * p.width, p.width)
        p.g_value = Rows(scratch + values, p.heads * p.keys * p.value_width, p.keys * p.value_width, p.value_width)
    scratch += total
    enter()
    for i in prange(heads * p.queries, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        delta_row(p, i, scratch)
    for i in prange(
        p.slices * p.chunks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic", chunksize=1,
    ):
        backward_task(p, i, scratch + threadid() * size)
    if p.chunks > 1:
        fold = Fold(
            p.g_query, p.parts, p.chunks - 1, heads * p.queries * p.width, p.queries * p.width, p.heads, p.queries,
            p.width, False)
        fold_all(&fold, p.batches, threads, scratch)
    if p.group > 1:
        fold = Fold(
            g_key, p.g_key.data, p.group, p.g_key.head, p.group * p.g_key.head, p.heads // p.group, p.keys, p.width,
            True)
        fold_all(&fold, p.batches, threads, scratch)
        fold = Fold(
            g_value, p.g_value.data, p.group, p.g_value.head, p.group * p.g_value.head, p.heads // p.group, p.keys,
            p.value_width, True)
        fold_all(&fold, p.batches, threads, scratch)
    leave()
    free(memory)
    return True


# ---- the functions Python calls --------------------------------------------------------------------------------------


cdef ndarray new_rows(const Rows* like, npy_intp heads, npy_intp rows, npy_intp width, Problem* p, int kind, Rows* out):
    """A new array (batch, head, row, feature) whose memory has the order of another's.

    Where the heads lie within the rows, as a projection makes them, what follows brings them together again; then it
    need not copy.
    """
    cdef npy_intp[4] dims = [p.batches, heads, rows, width]
    cdef ndarray array
    if like.head < like.row and heads > 1:
        dims[1], dims[2] = rows, heads
        array = <ndarray>PyArray_SwapAxes(<ndarray>PyArray_EMPTY(4, dims, kind, 0), 1, 2)
    else:
        array = <ndarray>PyArray_EMPTY(4, dims, kind, 0)
    by_rows(array, kind, out)
    return array


cdef inline int kind_of(object x):
    return NPY_DOUBLE if type(x) is ndarray and PyArray_TYPE(<ndarray>x) == NPY_DOUBLE else NPY_FLOAT


def attention(
    query, key, value, mask, bias, alibi_slopes, key_lengths, *, bint is_causal, window, softcap, double dropout,
    seed, double scale,
):
    """Kernel of the op ``attention``: the results and their log-sum-exp."""
    cdef Problem p
    cdef int kind = kind_of(query)
    cdef bint done
    cdef npy_intp[3] dims
    cdef ndarray out, lse
    kept = read(
        &p, kind, query, key, value, mask, bias, alibi_slopes, key_lengths, is_causal, window, softcap, dropout, seed,
        scale)
    if kept is None:
        return NotImplemented
    out = new_rows(&p.query, p.heads, p.queries, p.value_width, &p, kind, &p.out)
    dims = [p.batches, p.heads, p.queries]
    lse = <ndarray>PyArray_EMPTY(3, dims, kind, 0)
    with nogil:
        if kind == NPY_FLOAT:
            done = forward(&p, <float*>PyArray_DATA(lse))
        else:
            done = forward(&p, <double*>PyArray_DATA(lse))
    if not done:
        raise MemoryError
    return out, lse


def attention_vjp(
    g, query, key, value, mask, bias, alibi_slopes, key_lengths, out, *, bint is_causal, window, softcap,
    double dropout, seed, double scale,
):
    """Kernel of its rule: the gradients of all its inputs, None for those that have none."""
    cdef Problem p
    cdef int kind = kind_of(query)
    cdef bint done
    cdef npy_intp[3] dims
    cdef ndarray deltas, g_query, g_key, g_value
    cdef object g_bias = None, g_slopes = None
    kept = read(
        &p, kind, query, key, value, mask, bias, alibi_slopes, key_lengths, is_causal, window, softcap, dropout, seed,
        scale)
    if kept is None:
        return NotImplemented
    g_out, result, lse, g_lse = by_rows(g[0], kind, &p.g_out), by_rows(out[0], kind, &p.out), out[1], g[1]
    if g_out is None or result is None or not is_plain(lse, kind) or type(g_lse) is not ndarray:
        return NotImplemented
    if PyArray_TYPE(<ndarray>g_lse) != kind or not same_shape(g_lse, lse) or not same_shape(g_out, result):
        return NotImplemented
    deltas = <ndarray>PyArray_NewCopy(<ndarray>g_lse, NPY_CORDER)
    p.deltas = PyArray_DATA(deltas)
    p.slices, p.g_bias.data = p.batches * p.heads, NULL
    if bias is not None:
        g_bias = PyArray_ZEROS(PyArray_NDIM(<ndarray>bias), PyArray_DIMS(<ndarray>bias), kind, 0)
        over_scores(g_bias, kind, &p, &p.g_bias)
        p.slices = (1 if p.g_bias.batch == 0 else p.batches) * (1 if p.g_bias.head == 0 else p.heads)
    p.chunks = min((TASKS + p.slices - 1) // p.slices, min(p.blocks, CHUNKS))
    if g_bias is not None and p.g_bias.key == 0:
        p.chunks = 1  # the chunks would add to the same elements
    if p.slopes != NULL:
        dims = [p.chunks, p.batches, p.heads]
        g_slopes = PyArray_ZEROS(3, dims, NPY_DOUBLE, 0)
        p.g_slopes = <double*>PyArray_DATA(<ndarray>g_slopes)
    g_query = new_rows(&p.query, p.heads, p.queries, p.width, &p, kind, &p.g_query)
    g_key = new_rows(&p.key, p.heads // p.group, p.keys, p.width, &p, kind, &p.g_key)
    g_value = new_rows(&p.value, p.heads // p.group, p.keys, p.value_width, &p, kind, &p.g_value)
    with nogil:
        if kind == NPY_FLOAT:
            done = backward(&p, <float*>PyArray_DATA(<ndarray>lse))
        else:
            done = backward(&p, <double*>PyArray_DATA(<ndarray>lse))
    if not done:
        raise MemoryError
    if g_slopes is not None:
        g_slopes = g_slopes.sum((0, 1)).astype(alibi_slopes.dtype)
    return g_query, g_key, g_value, None, g_bias, g_slopes, None

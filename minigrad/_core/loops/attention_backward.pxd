"""The gradients that one chunk of the keys of a head gives."""
from libc.math cimport INFINITY
from libc.string cimport memset
from numpy cimport npy_intp

from minigrad._core.loops.attention_forward cimport draw_row, finish_scores, gemm
from minigrad._core.loops.attention_problem cimport Problem, first_key, last_key, start_of
from minigrad._core.loops.attention_rows cimport (
    Keep, copy_rows, packed, padded, row_bias_gradient, row_gradient, row_gradient_drop, row_multiply,
    row_slope_gradient, transpose,
)
from minigrad._core.loops.plain cimport real
from minigrad._core.loops.rows cimport row_dot


cdef inline void delta_row(const Problem* p, npy_intp row, real* scratch) noexcept nogil:
    """What the scores' cotangents of one query are less: sum(g_out * out) - g_lse, which `deltas` holds."""
    cdef npy_intp query = row % p.queries, head = row // p.queries % p.heads, batch = row // p.queries // p.heads
    cdef real* delta = <real*>p.deltas + row
    if (<const real*>p.lse)[row] == -INFINITY:
        delta[0] = 0
    else:
        delta[0] = <real>row_dot(
            <const real*>p.g_out.data + start_of(&p.g_out, batch, head, query),
            <const real*>p.out.data + start_of(&p.out, batch, head, query), p.value_width,
        ) - delta[0]


cdef inline void retract(
    const Problem* p, npy_intp chunk, npy_intp batch, npy_intp head, npy_intp query, npy_intp key, npy_intp n,
    real* x, real* d, real* slope,
) noexcept nogil:
    """Of one row, scores become weights of values, and the cotangents of the weights those of the products."""
    cdef npy_intp width = padded(n), row = (batch * p.heads + head) * p.queries + query
    cdef real log_total = (<const real*>p.lse)[row]
    cdef real delta = (<const real*>p.deltas)[row]
    cdef char* bias
    cdef Keep keep
    finish_scores(p, batch, head, query, key, n, x, slope)
    if log_total == -INFINITY:
        log_total = INFINITY  # no key is seen, and every weight is 0
    if p.drops:
        draw_row(p, batch, head, query, key, width, &keep)
        row_gradient_drop(x, d, log_total, delta, &keep, p.threshold, <real>p.keep_scale, width)
    else:
        row_gradient(x, d, log_total, delta, width)
    if p.g_bias.data != NULL:
        bias = p.g_bias.data + batch * p.g_bias.batch + head * p.g_bias.head + query * p.g_bias.query
        row_bias_gradient(d, <real*>(bias + key * p.g_bias.key), p.g_bias.key, n)
    if p.slopes != NULL:
        p.g_slopes[(chunk * p.batches + batch) * p.heads + head] -= row_slope_gradient(d, query + p.offset - key, n)
    if p.cap != 0:
        row_multiply(d, slope, n)


cdef inline void backward_keys(
    const Problem* p, npy_intp chunk, npy_intp batch, npy_intp head, npy_intp first, const real* queries,
    const real* g_out, real* g_queries, real* scratch,
) noexcept nogil:
    """The gradients of one block of keys and its values, and what it adds to those of all queries."""
    cdef npy_intp shared = head // p.group, last = min(first + p.size, p.keys), held = last - first
    cdef npy_intp width = p.width, value_width = p.value_width, size = p.size
    cdef npy_intp query = max(first - p.offset - p.right, 0), stop = min(last - p.offset + p.left, p.queries)
    cdef npy_intp key, n, rows, i
    cdef real* turned_keys = scratch
    cdef real* turned_values = turned_keys + size * width
    cdef real* x = turned_values + size * value_width
    cdef real* d = x + p.rows * size
    cdef real* slope = d + p.rows * size
    cdef real* g_keys = slope + size
    cdef real* g_values = g_keys + size * width
    cdef real* room = g_values + size * value_width
    cdef const real* keys = <const real*>p.key.data + start_of(&p.key, batch, shared, first)
    cdef const real* values = <const real*>p.value.data + start_of(&p.value, batch, shared, first)
    cdef const real* q
    cdef const real* g
    cdef real scale = <real>p.scale
    memset(g_keys, 0, held * width * sizeof(real))
    memset(g_values, 0, held * value_width * sizeof(real))
    transpose(keys, p.key.row, held, width, turned_keys, size)
    transpose(values, p.value.row, held, value_width, turned_values, size)
    keys = packed(keys, p.key.row, held, width, room)
    while query < stop:
        rows = min(stop - query, p.rows)
        key = max(first_key(p, query) - first, 0)  # counted from the first of the block
        n = min(last_key(p, batch, query + rows - 1), last) - first - key
        if n > 0:
            q = queries + query * width
            g = g_out + query * value_width
            gemm[real](False, False, rows, n, width, scale, q, width, turned_keys + key, size, 0, x, size)
            gemm[real](False, False, rows, n, value_width, 1, g, value_width, turned_values + key, size, 0, d, size)
            for i in range(rows):
                retract(p, chunk, batch, head, query + i, first + key, n, x + i * size, d + i * size, slope)
            gemm[real](
                True, False, n, value_width, rows, 1, x, size, g, value_width, 1, g_values + key * value_width,
                value_width)
            gemm[real](True, False, n, width, rows, scale, d, size, q, width, 1, g_keys + key * width, width)
            gemm[real](
                False, False, rows, width, n, scale, d, size, keys + key * width, width, 1, g_queries + query * width,
                width)
        query += rows
    copy_rows(
        g_keys, width, held, width, <real*>p.g_key.data + start_of(&p.g_key, batch, head, first), p.g_key.row)
    copy_rows(
        g_values, value_width, held, value_width,
        <real*>p.g_value.data + start_of(&p.g_value, batch, head, first), p.g_value.row)


cdef inline void backward_head(
    const Problem* p, npy_intp chunk, npy_intp batch, npy_intp head, real* scratch,
) noexcept nogil:
    """All of one chunk of keys of one head."""
    cdef const real* queries = <const real*>p.query.data + start_of(&p.query, batch, head, 0)
    cdef const real* g_out = <const real*>p.g_out.data + start_of(&p.g_out, batch, head, 0)
    cdef real* g_queries = <real*>p.g_query.data + start_of(&p.g_query, batch, head, 0)
    cdef real* sums = g_queries
    cdef npy_intp block
    # The heads of a projection lie in few sets of the cache, and would drive each other out; they are read many times.
    queries = packed(queries, p.query.row, p.queries, p.width, scratch)
    scratch += p.queries * p.width
    g_out = packed(g_out, p.g_out.row, p.queries, p.value_width, scratch)
    scratch += p.queries * p.value_width
    if chunk > 0:
        sums = <real*>p.parts + (((chunk - 1) * p.batches + batch) * p.heads + head) * p.queries * p.width
    elif p.g_query.row != p.width:
        sums = scratch
    scratch += p.queries * p.width
    memset(sums, 0, p.queries * p.width * sizeof(real))
    for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
        backward_keys(p, chunk, batch, head, block * p.size, queries, g_out, sums, scratch)
    if chunk == 0 and sums != g_queries:
        copy_rows(sums, p.width, p.queries, p.width, g_queries, p.g_query.row)


cdef inline void backward_task(const Problem* p, npy_intp index, real* scratch) noexcept nogil:
    """One chunk of the keys of one head, or of all heads that share a bias, since they add to its gradient."""
    cdef npy_intp chunk = index % p.chunks, slice_ = index // p.chunks
    cdef npy_intp batch = 0, head = 0, batch_end = p.batches, head_end = p.heads, h
    if p.g_bias.data == NULL or p.g_bias.head != 0 or p.heads == 1:
        head = slice_ % p.heads
        head_end = head + 1
        slice_ //= p.heads
    if p.g_bias.data == NULL or p.g_bias.batch != 0 or p.batches == 1:
        batch = slice_
        batch_end = batch + 1
    while batch < batch_end:
        for h in range(head, head_end):
            backward_head(p, chunk, batch, h, scratch)
        batch += 1

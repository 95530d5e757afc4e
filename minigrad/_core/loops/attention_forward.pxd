"""Blocks of scores, and the results of one block of queries."""
from libc.math cimport INFINITY, log
from libc.string cimport memset
from numpy cimport npy_intp

from minigrad._core.blas cimport dgemm, sgemm
from minigrad._core.loops.attention_problem cimport Problem, first_key, last_key, start_of
from minigrad._core.loops.attention_rows cimport (
    Keep, draw, padded, row_bias, row_cap, row_drop, row_exp, row_infinite, row_mask, row_max, row_outside, row_slope,
    transpose,
)
from minigrad._core.loops.math cimport exp_not_positive
from minigrad._core.loops.plain cimport real
from minigrad._core.loops.vector cimport add_dots, add_rows


cdef inline void gemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, real alpha, const real* a, npy_intp lda,
    const real* b, npy_intp ldb, real beta, real* c, npy_intp ldc,
) noexcept nogil:
    if real is float:
        sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
    else:
        dgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)


cdef inline void finish_scores(
    const Problem* p, npy_intp batch, npy_intp head, npy_intp query, npy_intp key, npy_intp n, real* x, real* slope,
) noexcept nogil:
    """Make scores of scaled products with `n` keys from `key` on; `slope` gets the derivative of the cap."""
    cdef npy_intp start = min(max(first_key(p, query) - key, 0), n)
    cdef npy_intp stop = min(max(last_key(p, batch, query) - key, start), n)
    cdef npy_intp width = stop - start
    row_outside(x, start, stop, padded(n))
    x += start
    key += start
    if p.cap != 0:
        if slope != NULL:
            memset(slope, 0, n * sizeof(real))
            slope += start
        row_cap(x, slope, <real>p.cap, width)
    if p.bias.data != NULL:
        row_bias(
            x, p.bias.data + batch * p.bias.batch + head * p.bias.head + query * p.bias.query + key * p.bias.key,
            p.bias.key, width,
        )
    if p.slopes != NULL:
        row_slope(x, (<const real*>p.slopes)[head], query + p.offset - key, width)
    if p.mask.data != NULL:
        row_mask(
            x, p.mask.data + batch * p.mask.batch + head * p.mask.head + query * p.mask.query + key * p.mask.key,
            p.mask.key, width,
        )


cdef inline void draw_row(
    const Problem* p, npy_intp batch, npy_intp head, npy_intp query, npy_intp key, npy_intp n, Keep* keep,
) noexcept nogil:
    cdef npy_intp element = ((batch * p.heads + head) * p.queries + query) * p.keys + key
    draw(keep, p.seed, p.counter, p.first + element, n)


cdef inline void turn_block(const Problem* p, npy_intp index, real* scratch) noexcept nogil:
    """Transpose one block of keys."""
    cdef npy_intp heads = p.heads // p.group
    cdef npy_intp key = index % p.blocks * p.size
    cdef npy_intp head = index // p.blocks
    transpose(
        <const real*>p.key.data + start_of(&p.key, head // heads, head % heads, key), p.key.row,
        min(p.size, p.keys - key), p.width, <real*>p.turned + index * p.size * p.width, p.size,
    )


cdef inline void few_scores(
    const Problem* p, const real* query, const real* keys, npy_intp n, real* x,
) noexcept nogil:
    """Scaled products of a query with `n` keys where they lie."""
    cdef npy_intp j
    memset(x, 0, n * sizeof(real))
    add_dots(query, p.width, keys, p.key.row, n, x)
    for j in range(n):
        x[j] *= <real>p.scale


cdef inline void attend(
    const Problem* p, npy_intp batch, npy_intp head, npy_intp query, npy_intp key, npy_intp n, real* x, real* out,
    real* top, real* total,
) noexcept nogil:
    """Exponentials of one row of scores; what was summed before is scaled to the new maximum."""
    cdef npy_intp width = padded(n), j
    cdef real highest, scale
    cdef Keep keep
    finish_scores(p, batch, head, query, key, n, x, <real*>NULL)
    highest = row_max(x, width)
    if highest > top[0]:
        scale = exp_not_positive(<real>(top[0] - highest))
        if total[0] != 0:
            for j in range(p.value_width):
                out[j] *= scale
        total[0] *= scale
        top[0] = highest
    if top[0] == INFINITY:
        total[0] += row_infinite(x, width)
    else:
        total[0] += row_exp(x, <real>0 if top[0] == -INFINITY else top[0], width)
    if p.drops:
        draw_row(p, batch, head, query, key, width, &keep)
        row_drop(x, &keep, p.threshold, <real>p.keep_scale, width)


cdef inline void forward_block(const Problem* p, npy_intp index, real* scratch) noexcept nogil:
    """The results of one block of queries of one head; the last ones come first, which may see the most keys."""
    cdef npy_intp blocks = (p.queries + p.rows - 1) // p.rows
    cdef npy_intp query = (blocks - 1 - index % blocks) * p.rows
    cdef npy_intp head = index // blocks % p.heads, batch = index // blocks // p.heads
    cdef npy_intp shared = head // p.group
    cdef npy_intp rows = min(p.queries - query, p.rows)
    cdef npy_intp end = last_key(p, batch, query + rows - 1), key = first_key(p, query), block, n, i, j
    cdef real* sums = scratch + p.rows * p.size
    cdef real* tops = sums + p.rows * p.value_width
    cdef real* totals = tops + p.rows
    cdef real* out
    cdef real* lse = <real*>p.lse + (batch * p.heads + head) * p.queries + query
    cdef const real* values = <const real*>p.value.data + start_of(&p.value, batch, shared, 0)
    cdef const real* queries = <const real*>p.query.data + start_of(&p.query, batch, head, query)
    cdef const real* keys
    cdef real scale
    memset(sums, 0, rows * p.value_width * sizeof(real))
    for i in range(rows):
        tops[i] = -INFINITY
        totals[i] = 0
    while key < end:
        block = key // p.size
        n = min(end, (block + 1) * p.size) - key
        if p.turned == NULL:
            keys = <const real*>p.key.data + start_of(&p.key, batch, shared, key)
            for i in range(rows):
                few_scores(p, queries + i * p.query.row, keys, n, scratch + i * p.size)
        else:
            keys = <const real*>p.turned + (batch * (p.heads // p.group) + shared) * p.blocks * p.size * p.width
            keys += block * p.size * p.width + key % p.size
            gemm[real](
                False, False, rows, n, p.width, <real>p.scale, queries, p.query.row, keys, p.size, 0, scratch, p.size)
        for i in range(rows):
            attend(
                p, batch, head, query + i, key, n, scratch + i * p.size, sums + i * p.value_width, tops + i, totals + i)
        if p.turned == NULL:
            for i in range(rows):
                add_rows(
                    scratch + i * p.size, n, values + key * p.value.row, p.value.row, p.value_width,
                    sums + i * p.value_width)
        else:
            gemm[real](
                False, False, rows, p.value_width, n, 1, scratch, p.size, values + key * p.value.row, p.value.row,
                1, sums, p.value_width)
        key += n
    for i in range(rows):
        out = <real*>p.out.data + start_of(&p.out, batch, head, query + i)
        scale = 1 / (<real>1 if totals[i] == 0 else totals[i])
        for j in range(p.value_width):
            out[j] = sums[i * p.value_width + j] * scale
        lse[i] = tops[i] + <real>log(totals[i])

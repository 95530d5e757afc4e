"""The arguments of attention as the loops want them: extents, steps and options, checked once."""
from numpy cimport (
    NPY_BOOL, NPY_INT64, NPY_UINT64, NPY_ULONGLONG, PyArray_DATA, PyArray_DIMS, PyArray_GETCONTIGUOUS,
    PyArray_ISALIGNED, PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_STRIDES, PyArray_TYPE,
    PyTypeNum_ISINTEGER, ndarray, npy_int64, npy_intp, npy_uint32, npy_uint64,
)

from minigrad._core.blas cimport has_blas
from minigrad._core.loops.plain cimport is_plain

cdef enum:
    QUERIES = 64             # rows of a block of scores, at most
    BANDED = 32              # with a causal or other band, since half of the square at its edge is computed in vain
    KEYS = 240               # columns of one, at most: a row of random words is one call of philox_blocks
    SMALL_GEMM = 1_000_000   # OpenBLAS multiplies matrices of at most so many products without copying them

cdef struct Rows:
    # an array (batch, head, row, feature) whose features lie side by side; steps in elements
    void* data
    npy_intp batch, head, row

cdef struct Scores:
    # an array that broadcasts to (batch, head, query, key); steps in bytes
    char* data
    npy_intp batch, head, query, key

cdef struct Problem:
    npy_intp batches, heads, group      # query heads, and how many of them share a key head
    npy_intp queries, keys, width, value_width
    npy_intp rows                       # queries in a block of scores
    npy_intp size, blocks               # keys in a block, blocks of keys
    npy_intp offset, left, right        # query i attends keys i + offset - left ... i + offset + right
    const npy_int64* lengths
    Rows query, key, value
    Scores mask, bias
    const void* slopes
    double scale, cap                   # cap 0: none
    double keep_scale                   # of what dropout keeps
    bint drops
    npy_uint32 threshold                # words from there on keep their element
    npy_uint64 seed, counter, first
    Rows out
    void* lse
    void* turned                        # forward: the keys, each block of them transposed
    # what only the backward has
    Rows g_out, g_query, g_key, g_value
    void* deltas                        # of each query, what its scores' cotangents are less
    Scores g_bias
    double* g_slopes                    # (chunk, batch, head)
    void* parts                         # (chunk - 1, batch, head, query, feature): gradients of query to be added
    npy_intp slices, chunks             # sets of heads, and of key blocks, that make a task


cdef inline npy_intp start_of(const Rows* x, npy_intp batch, npy_intp head, npy_intp row) noexcept nogil:
    """Where a row begins, in elements."""
    return batch * x.batch + head * x.head + row * x.row


cdef inline npy_intp first_key(const Problem* p, npy_intp query) noexcept nogil:
    """The first key in the band of a query."""
    return max(query + p.offset - p.left, 0)


cdef inline npy_intp last_key(const Problem* p, npy_intp batch, npy_intp query) noexcept nogil:
    """One more than the last key in the band of a query; may be less than the first."""
    cdef npy_intp end = min(query + p.offset + p.right + 1, p.keys)
    return end if p.lengths == NULL else min(end, <npy_intp>p.lengths[batch])


cdef inline ndarray by_rows(object x, int kind, Rows* rows):
    """Note where the rows of a 4-D array lie, or those of a copy, and return it; None if it is no such array."""
    cdef ndarray kept
    cdef npy_intp size
    cdef npy_intp* dims
    cdef npy_intp* steps
    if type(x) is not ndarray or PyArray_TYPE(<ndarray>x) != kind or PyArray_NDIM(<ndarray>x) != 4:
        return None
    kept = <ndarray>x
    size, dims, steps = PyArray_ITEMSIZE(kept), PyArray_DIMS(kept), PyArray_STRIDES(kept)
    if not PyArray_ISALIGNED(kept) or not PyArray_ISNOTSWAPPED(kept):
        return None
    if (
        (dims[3] != 1 and steps[3] != size) or (dims[2] != 1 and steps[2] < dims[3] * size)
        or (steps[0] | steps[1] | steps[2]) & (size - 1)
    ):
        kept = <ndarray>PyArray_GETCONTIGUOUS(kept)
        steps = PyArray_STRIDES(kept)
    rows.data = PyArray_DATA(kept)
    rows.batch, rows.head = steps[0] // size, steps[1] // size
    rows.row = dims[3] if dims[2] == 1 else steps[2] // size
    return kept


cdef inline bint has_shape(object x, npy_intp batches, npy_intp heads, npy_intp rows, npy_intp columns):
    cdef npy_intp* dims = PyArray_DIMS(<ndarray>x)
    return dims[0] == batches and dims[1] == heads and dims[2] == rows and dims[3] == columns


cdef inline bint over_scores(object x, int kind, const Problem* p, Scores* scores):
    """Note the steps of a mask or bias; False if it does not broadcast to the scores."""
    cdef npy_intp[4] whole = [p.batches, p.heads, p.queries, p.keys]
    cdef npy_intp[4] steps = [0, 0, 0, 0]
    cdef npy_intp* dims
    cdef int axis, own
    scores.data = NULL
    if x is None:
        return True
    if type(x) is not ndarray or PyArray_TYPE(<ndarray>x) != kind or PyArray_NDIM(<ndarray>x) > 4:
        return False
    if not PyArray_ISALIGNED(<ndarray>x) or not PyArray_ISNOTSWAPPED(<ndarray>x):
        return False
    dims = PyArray_DIMS(<ndarray>x)
    for own in range(PyArray_NDIM(<ndarray>x)):
        axis = own + 4 - PyArray_NDIM(<ndarray>x)
        if dims[own] != 1:
            if dims[own] != whole[axis]:
                return False
            steps[axis] = PyArray_STRIDES(<ndarray>x)[own]
    scores.data = <char*>PyArray_DATA(<ndarray>x)
    scores.batch, scores.head, scores.query, scores.key = steps[0], steps[1], steps[2], steps[3]
    return True


cdef inline bint read_band(Problem* p, bint is_causal, object window):
    """The bounds of keys around a query; False for a window that is none."""
    cdef npy_intp far = p.queries + p.keys  # beyond every key
    left, right = (None, None) if window is None else window
    if (left is not None and left < 0) or (right is not None and right < 0):
        return False
    p.left = far if left is None else min(left, far)
    p.right = 0 if is_causal else far if right is None else min(right, far)
    p.rows = QUERIES if p.left == far and p.right == far else BANDED
    return True


cdef inline object read_lengths(object lengths, npy_intp batches):
    """The lengths as a plain array of int64; None if they are no such thing."""
    if type(lengths) is not ndarray or PyArray_NDIM(<ndarray>lengths) != 1 or lengths.shape[0] != batches:
        return None
    kind = PyArray_TYPE(<ndarray>lengths)
    if not PyTypeNum_ISINTEGER(kind) or kind == NPY_UINT64 or kind == NPY_ULONGLONG:
        return None
    return lengths if is_plain(lengths, NPY_INT64) else lengths.astype("int64")


cdef inline bint read_dropout(Problem* p, double rate, object seed):
    """The bound of the random words, as ``fill_keep_mask`` has it; False where nothing is kept."""
    cdef double threshold = rate * 4294967296.0 + 0.5
    p.drops = rate != 0
    if not 0 <= rate < 1 or threshold >= 4294967296.0:
        return False
    p.threshold, p.keep_scale = <npy_uint32>threshold, 1 / (1 - rate)
    p.seed, p.counter = seed[0], seed[1]
    p.first = seed[2] if len(seed) > 2 else 0
    return True


cdef inline tuple read(
    Problem* p, int kind, object query, object key, object value, object mask, object bias, object alibi_slopes,
    object key_lengths, bint is_causal, object window, object softcap, double dropout, object seed, double scale,
):
    """Fill in the problem and return the arrays to keep alive; None if the kernel does not take it."""
    cdef npy_intp* dims
    cdef npy_intp key_heads
    q, k, v = by_rows(query, kind, &p.query), by_rows(key, kind, &p.key), by_rows(value, kind, &p.value)
    if q is None or k is None or v is None:
        return None
    dims = PyArray_DIMS(<ndarray>q)
    p.batches, p.heads, p.queries, p.width = dims[0], dims[1], dims[2], dims[3]
    dims = PyArray_DIMS(<ndarray>k)
    key_heads, p.keys, p.value_width = dims[1], dims[2], PyArray_DIMS(<ndarray>v)[3]
    if p.batches * p.heads * p.queries * p.width * key_heads * p.keys * p.value_width == 0 or p.heads % key_heads:
        return None
    if not has_shape(k, p.batches, key_heads, p.keys, p.width):
        return None
    if not has_shape(v, p.batches, key_heads, p.keys, p.value_width):
        return None
    p.group, p.offset, p.scale = p.heads // key_heads, p.keys - p.queries, scale
    p.cap = 0.0 if softcap is None else softcap
    if not has_blas(max(max(p.query.row, p.key.row), max(p.value.row, max(p.queries, p.keys)))):
        return None
    if not over_scores(mask, NPY_BOOL, p, &p.mask) or not over_scores(bias, kind, p, &p.bias):
        return None
    if not read_band(p, is_causal, window) or not read_dropout(p, dropout, seed):
        return None
    # as many keys in a block as BLAS multiplies without copying, in blocks of about one size
    p.size = max(64, min(KEYS, SMALL_GEMM // (p.rows * max(p.width, p.value_width)) & ~<npy_intp>15))
    p.blocks = (p.keys + p.size - 1) // p.size
    p.size = ((p.keys + p.blocks - 1) // p.blocks + 15) & ~<npy_intp>15
    p.blocks = (p.keys + p.size - 1) // p.size
    p.slopes = p.lengths = NULL
    slopes = lengths = None
    if alibi_slopes is not None:
        if type(alibi_slopes) is not ndarray or PyArray_TYPE(<ndarray>alibi_slopes) != kind:
            return None
        if PyArray_NDIM(<ndarray>alibi_slopes) != 1 or alibi_slopes.shape[0] != p.heads:
            return None
        slopes = PyArray_GETCONTIGUOUS(<ndarray>alibi_slopes)
        if not is_plain(slopes, kind):
            return None
        p.slopes = PyArray_DATA(<ndarray>slopes)
    if key_lengths is not None:
        lengths = read_lengths(key_lengths, p.batches)
        if lengths is None:
            return None
        p.lengths = <const npy_int64*>PyArray_DATA(<ndarray>lengths)
    return q, k, v, slopes, lengths

"""Matrix products of NumPy's BLAS: one for both floating dtypes, and whole stacks of them shared among threads."""
from cython.parallel cimport prange
from libc.string cimport memcpy
from numpy cimport npy_intp

from minigrad._core.blas cimport dgemm, enter, has_small_kernels, leave, sgemm
from minigrad._core.cpu cimport num_threads, threads_for
from minigrad._core.loops.panels cimport MG_HAS_PANELS, Factors, by_panels
from minigrad._core.loops.plain cimport pieces, real
from minigrad._core.loops.transpose cimport BAND, turn_band

cdef enum:
    # Multiplications up to which OpenBLAS does not think of threads: needs no `enter`, and is too short to be shared.
    SMALL_PRODUCT = 262_144
    AXES = 8                # leading axes of a stack, at most
    TILES = 8               # that a large product is cut into at least
    TILE = 1_048_576        # multiplications that pay for a second thread
    WIDE = 1_024            # the largest side of a tile where there are enough of them
    NARROW = 64             # the least side, as BLAS packs its operands again for each tile;
    FEW = 4                 # from so many tiles on it is 4 times as long
    ALIGN = 16              # tiles begin at multiples of the widest register tile of BLAS
    SIDE = 64               # a block (SIDE, DEPTH) @ (DEPTH, SIDE) is small enough for the kernels of small products,
    DEPTH = 240
    BLOCK_DOUBLES = 7_680   # as many bytes as a block of floats
    BLOCKED = 2_500_000     # which win as long as all three matrices, in bytes, stay in the cache

cdef struct Axis:
    npy_intp extent, a, b, c    # and the elements from one matrix to the next, 0 where it is the same one

cdef struct Product:
    const void* a               # c (m, n) = op(a) (m, k) @ op(b) (k, n)
    const void* b
    npy_intp m, n, k, lda, ldb, ldc
    bint ta, tb
    int kept, summed            # how many axes there are
    Axis[AXES] axes             # for every place on these, the innermost first,
    Axis[AXES] sums             # summed over the places on these
    npy_intp matrices, terms    # products of their extents
    bint adds                   # to what is in c
    const void* bias            # what each row of the result starts from, or NULL
    bint relu                   # of the result
    npy_intp high, wide, deep   # of a tile (high, wide), which is the sum of products (high, deep) @ (deep, wide)
    npy_intp down, across       # tiles of a matrix
    npy_intp parts              # of the sum; all but the first are computed in memory of their own
    void* rest                  # that memory, (parts - 1, m, n)
    npy_intp group              # tiles that one thread takes at a time


# ---- one product -----------------------------------------------------------------------------------------------------

cdef inline void gemm(
    bint ta, bint tb, npy_intp m, npy_intp n, npy_intp k, const real* a, npy_intp lda, const real* b, npy_intp ldb,
    double beta, real* c, npy_intp ldc,
) noexcept nogil:
    """c (m, n) = op(a) @ op(b) + beta * c; the arguments are those of `minigrad._core.blas`."""
    if real is float:
        sgemm(ta, tb, m, n, k, 1, a, lda, b, ldb, <float>beta, c, ldc)
    else:
        dgemm(ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc)


cdef inline void in_blocks(
    bint ta, npy_intp m, npy_intp n, npy_intp k, const real* a, npy_intp lda, const real* b, npy_intp ldb,
    double beta, real* c, npy_intp ldc,
) noexcept nogil:
    """`gemm` in blocks that BLAS multiplies without packing them; b is not transposed, and blocks of a are turned."""
    cdef double[BLOCK_DOUBLES] memory    # the same bytes for both dtypes: a thread's stack may be small
    cdef real* panel = <real*>memory
    cdef const real* left
    cdef npy_intp step, start, i, j, q, high, deep, ld, depth = pieces(k, pieces(k, DEPTH * 4 // sizeof(real)))
    for step in range(pieces(k, depth)):
        start = step * depth
        deep = min(depth, k - start)
        for i in range(pieces(m, SIDE)):
            high = min(SIDE, m - i * SIDE)
            if ta:
                for q in range(pieces(deep, BAND)):
                    turn_band(q * BAND, deep, high, a + start * lda + i * SIDE, lda, panel)
                left, ld = panel, deep
            else:
                left, ld = a + i * SIDE * lda + start, lda
            for j in range(pieces(n, SIDE)):
                gemm(
                    False, False, high, min(SIDE, n - j * SIDE), deep, left, ld, b + start * ldb + j * SIDE, ldb,
                    beta if step == 0 else 1, c + i * SIDE * ldc + j * SIDE, ldc,
                )


cdef inline bint suits_blocks(bint tb, npy_intp m, npy_intp n, npy_intp k, npy_intp size) noexcept nogil:
    return (
        has_small_kernels() and not tb and min(m, n, k) >= BAND and m * n * k > SIDE * SIDE * DEPTH
        and (m * k + k * n + m * n) * size <= BLOCKED
    )


# ---- stacks of products ----------------------------------------------------------------------------------------------

cdef inline double work(const Product* p) noexcept nogil:
    """Multiplications."""
    return <double>p.m * p.n * p.k * p.matrices * p.terms


cdef inline void cut(Product* p) noexcept nogil:
    """Choose tiles by the shapes: larger ones the more there are, as each packs its operands again."""
    cdef double total, count
    cdef npy_intp side
    cdef bint by_rows, by_depth, divisible = p.matrices * p.terms == 1 and p.bias == NULL and not p.relu
    if p.k == 0 or p.terms == 0:
        # BLAS clears c where the sum is empty; the strides of empty arrays may be no leading dimensions
        p.k, p.terms, p.summed, p.ta, p.tb, p.lda, p.ldb = 0, 1, 0, False, False, 1, p.n
    total = work(p)
    p.high, p.wide, p.deep, p.down, p.across, p.parts = p.m, p.n, p.k, 1, 1, 1
    while True:
        count = <double>p.matrices * p.down * p.across * p.parts
        by_depth = divisible and p.parts < TILES and p.deep >= 2 * max(p.high, p.wide)
        by_rows = 3 * p.high >= 2 * p.wide    # the columns of x2 cost less to pack again than the rows of x1
        side = pieces(p.deep if by_depth else p.high if by_rows else p.wide, 2 * ALIGN) * ALIGN
        if total <= TILE * count * count * count:
            break
        if side < (WIDE // 2 if count >= TILES else 4 * NARROW if count >= FEW else NARROW):
            break
        if by_depth:
            p.deep, p.parts = side, pieces(p.k, side)
        elif by_rows:
            p.high, p.down = side, pieces(p.m, side)
        else:
            p.wide, p.across = side, pieces(p.n, side)
    p.group = max(1, <npy_intp>(TILE * count / (total + 1)))


cdef inline void move(
    const Axis* axes, int n, npy_intp index, npy_intp* a, npy_intp* b, npy_intp* c,
) noexcept nogil:
    """Go from the first matrices to those of place `index` on the axes."""
    cdef npy_intp at
    cdef int i
    for i in range(n):
        at = index % axes[i].extent
        index //= axes[i].extent
        a[0] += at * axes[i].a
        b[0] += at * axes[i].b
        c[0] += at * axes[i].c


cdef inline void tile(const Product* p, npy_intp index, real* c) noexcept nogil:
    """Compute one tile of one matrix, or a part of it."""
    cdef npy_intp row = index // p.across % p.down * p.high, column = index % p.across * p.wide
    cdef npy_intp part = index // (p.across * p.down) % p.parts, depth = part * p.deep
    cdef npy_intp m = min(p.high, p.m - row), n = min(p.wide, p.n - column), k = min(p.deep, p.k - depth)
    cdef npy_intp a = (row if p.ta else depth) + (depth if p.ta else row) * p.lda
    cdef npy_intp b = (depth if p.tb else column) + (column if p.tb else depth) * p.ldb
    cdef npy_intp at = row * p.ldc + column, i, j, term, a_term, b_term
    cdef real* out
    cdef bint blocks = suits_blocks(p.tb, m, n, k, sizeof(real))
    cdef double beta
    move(p.axes, p.kept, index // (p.across * p.down * p.parts), &a, &b, &at)
    c = c + at if part == 0 else <real*>p.rest + (part - 1) * p.m * p.n + at
    if p.bias != NULL:
        for i in range(m):
            memcpy(c + i * p.ldc, <const real*>p.bias + column, n * sizeof(real))
    for term in range(p.terms):
        a_term, b_term = a, b
        move(p.sums, p.summed, term, &a_term, &b_term, &at)
        beta = (p.adds and part == 0) or p.bias != NULL or term > 0
        if blocks:
            in_blocks(
                p.ta, m, n, k, <const real*>p.a + a_term, p.lda, <const real*>p.b + b_term, p.ldb, beta, c, p.ldc
            )
        else:
            gemm(
                p.ta, p.tb, m, n, k, <const real*>p.a + a_term, p.lda, <const real*>p.b + b_term, p.ldb, beta, c, p.ldc
            )
    if p.relu:
        for i in range(m):
            out = c + i * p.ldc
            for j in range(n):
                out[j] = 0 if out[j] <= 0 else out[j]


cdef inline void tiles(const Product* p, npy_intp start, npy_intp end, real* c) noexcept nogil:
    cdef npy_intp index
    for index in range(start, end):
        tile(p, index, c)


cdef inline void add_parts(const Product* p, npy_intp row, real* c) noexcept nogil:
    """Add up one row of all parts."""
    cdef npy_intp part, j
    cdef const real* other
    c += row * p.n
    for part in range(p.parts - 1):
        other = <const real*>p.rest + (part * p.m + row) * p.n
        for j in range(p.n):
            c[j] += other[j]


cdef inline bint suits_panels(const Product* p, npy_intp size) noexcept nogil:
    """Whether it is one product, too large for the cache or for kernels that need not pack it."""
    return (
        MG_HAS_PANELS and p.matrices == 1 and p.terms == 1 and p.m >= 2 * BAND and p.n >= BAND and p.k >= BAND
        and ((p.m * p.k + p.k * p.n + p.m * p.n) * size > BLOCKED or not has_small_kernels())
    )


cdef inline bint compute_by_panels(const Product* p, real* c) noexcept nogil:
    """Compute one large product by panels; False, with nothing done, where there is no memory."""
    cdef Factors f
    f.a, f.b, f.bias = p.a, p.b, p.bias
    f.m, f.n, f.k, f.lda, f.ldb, f.ldc = p.m, p.n, p.k, p.lda, p.ldb, p.ldc
    f.ta, f.tb, f.adds, f.relu = p.ta, p.tb, p.adds, p.relu
    return by_panels(&f, c)


cdef inline void share(const Product* p, real* c) noexcept nogil:
    """Compute the tiles, on several threads if there is more than one group of them."""
    cdef npy_intp i, n = p.matrices * p.parts * p.down * p.across, groups = pieces(n, p.group)
    cdef int threads = num_threads()
    if suits_panels(p, sizeof(real)) and compute_by_panels(p, c):
        return
    enter()
    if threads == 1 or groups == 1:
        tiles(p, 0, n, c)
    else:
        for i in prange(groups, num_threads=threads, schedule="dynamic"):
            tiles(p, i * p.group, min(i * p.group + p.group, n), c)
    leave()
    if p.parts > 1:
        threads = threads_for(p.m * p.n * p.parts)
        for i in prange(p.m, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
            add_parts(p, i, c)


cdef inline void compute(Product* p, real* c) noexcept:
    """Compute a product that has been cut."""
    if work(p) <= SMALL_PRODUCT:
        tiles(p, 0, p.matrices * p.down * p.across, c)    # small products have no parts
    else:
        with nogil:
            share(p, c)

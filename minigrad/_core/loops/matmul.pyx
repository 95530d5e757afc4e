"""Kernels of matmul and linear, and of their rules: products of stacks of matrices by NumPy's BLAS.

Each call is brought to one form, `Product`: BLAS gets transposes as flags, leading axes become rows where they lie in
memory like rows, and an axis that broadcasting stretched is summed by products that add to the same result. The results
are cut into tiles, which BLAS computes on one thread each, so that the two pools of threads do not fight. The tiles
depend on the shapes alone, and so do the bits of the result.
"""
from cython.parallel cimport prange
from numpy cimport (
    NPY_CORDER, NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_ISALIGNED, PyArray_ISCARRAY,
    PyArray_ISNOTSWAPPED, PyArray_IS_C_CONTIGUOUS, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_NewCopy, PyArray_SIZE,
    PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from minigrad._core.blas cimport has_blas, has_small_kernels
from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.columns cimport blocks_down, sum_blocks
from minigrad._core.loops.gemm cimport AXES, Axis, Product, compute, cut
from minigrad._core.loops.plain cimport RELEASE_GIL, alike, empty_like, is_plain, is_real, real
from minigrad._core.loops.transpose cimport turn
from minigrad._core.loops.vector cimport Side, multiply_vector

import_array()

cdef enum:
    CHUNK = 16_384          # elements that one thread takes at a time
    TURN_FROM = 1_024       # elements of a transposed x2 that is worth a copy,
    TURN_TO = 1_048_576
    TURN_ROWS = 512         # unless the tiles have more rows than these


# ---- from arrays to a product ----------------------------------------------------------------------------------------

cdef inline bint is_stacked(ndarray x) noexcept:
    """Whether BLAS can read the matrices of `x` where they lie, as they are or transposed."""
    cdef int n = PyArray_NDIM(x)
    cdef npy_intp size = PyArray_ITEMSIZE(x)
    cdef npy_intp rows = PyArray_DIMS(x)[n - 2], columns = PyArray_DIMS(x)[n - 1]
    cdef npy_intp down = PyArray_STRIDES(x)[n - 2], across = PyArray_STRIDES(x)[n - 1]
    if (columns <= 1 or across == size) and (rows <= 1 or (down >= columns * size and down % size == 0)):
        return True
    return (rows <= 1 or down == size) and (columns <= 1 or (across >= rows * size and across % size == 0))


cdef ndarray matrices(object x, int kind):
    """`x`, or a copy in C order where BLAS cannot read it; None for what is no stack of matrices of that dtype."""
    cdef int i, n
    if type(x) is not ndarray or PyArray_TYPE(<ndarray>x) != kind:
        return None
    n = PyArray_NDIM(<ndarray>x)
    if not 2 <= n <= AXES + 2 or not PyArray_ISALIGNED(<ndarray>x) or not PyArray_ISNOTSWAPPED(<ndarray>x):
        return None
    if not is_stacked(<ndarray>x):
        return <ndarray>PyArray_NewCopy(<ndarray>x, NPY_CORDER)
    for i in range(n - 2):
        if PyArray_STRIDES(<ndarray>x)[i] % PyArray_ITEMSIZE(<ndarray>x):
            return <ndarray>PyArray_NewCopy(<ndarray>x, NPY_CORDER)
    return <ndarray>x


cdef void read(ndarray x, bint turned, npy_intp* rows, npy_intp* columns, bint* transposed, npy_intp* ld) noexcept:
    """How the matrices of `x`, or their transposes, look to BLAS."""
    cdef int n = PyArray_NDIM(x)
    cdef npy_intp size = PyArray_ITEMSIZE(x)
    cdef npy_intp high = PyArray_DIMS(x)[n - 2], wide = PyArray_DIMS(x)[n - 1]
    cdef npy_intp down = PyArray_STRIDES(x)[n - 2], across = PyArray_STRIDES(x)[n - 1]
    if (wide <= 1 or across == size) and (high <= 1 or down >= wide * size):
        transposed[0] = turned
        ld[0] = max(1, down // size if high > 1 else wide)
    else:
        transposed[0] = not turned
        ld[0] = max(1, across // size if wide > 1 else high)
    rows[0], columns[0] = (wide, high) if turned else (high, wide)


cdef inline npy_intp extent(int n, const npy_intp* dims, int lead, int i) noexcept:
    """The extent at place `i` of `lead` leading axes, of a stack with `n` axes in all."""
    i -= lead - (n - 2)
    return dims[i] if i >= 0 else 1


cdef inline npy_intp step(ndarray x, int lead, int i) noexcept:
    """The elements from one matrix to the next there; 0 where it stays the same."""
    i -= lead - (PyArray_NDIM(x) - 2)
    return PyArray_STRIDES(x)[i] // PyArray_ITEMSIZE(x) if i >= 0 and PyArray_DIMS(x)[i] != 1 else 0


cdef bint set_axes(Product* p, ndarray a, ndarray b, int n, const npy_intp* dims) noexcept:
    """Sort the leading axes of a result with the extents `dims`; False where they do not fit."""
    cdef int lead = max(PyArray_NDIM(a), PyArray_NDIM(b)) - 2, i
    cdef npy_intp ea, eb, kept, at = p.m * p.n
    cdef Axis axis
    p.kept = p.summed = 0
    p.matrices = p.terms = 1
    if n - 2 > lead:
        return False
    for i in range(lead - 1, -1, -1):
        ea = extent(PyArray_NDIM(a), PyArray_DIMS(a), lead, i)
        eb = extent(PyArray_NDIM(b), PyArray_DIMS(b), lead, i)
        kept = extent(n, dims, lead, i)
        axis = Axis(eb if ea == 1 else ea, step(a, lead, i), step(b, lead, i), 0)
        if (ea != 1 and eb != 1 and ea != eb) or (kept != 1 and kept != axis.extent):
            return False
        if kept != 1:
            axis.c = at
            at *= kept
            if p.kept == 0 and axis.b == 0 and not p.ta and axis.a == p.m * p.lda:
                p.m *= kept    # the rows of one large matrix
            else:
                p.axes[p.kept] = axis
                p.kept += 1
                p.matrices *= kept
        elif axis.extent != 1:
            if p.summed == 0 and p.ta and not p.tb and axis.a == p.k * p.lda and axis.b == p.k * p.ldb:
                p.k *= axis.extent
            else:
                p.sums[p.summed] = axis
                p.summed += 1
                p.terms *= axis.extent
    return True


cdef ndarray turned(Product* p, int kind):
    """Have op(b) as it is, by a transposed copy in C order; BLAS is slow to do it."""
    cdef npy_intp[2] dims
    cdef ndarray copy
    dims[0], dims[1] = p.k, p.n
    copy = <ndarray>PyArray_EMPTY(2, dims, kind, 0)
    if kind == NPY_FLOAT:
        turn(p.n, p.k, <const float*>p.b, p.ldb, <float*>PyArray_DATA(copy))
    else:
        turn(p.n, p.k, <const double*>p.b, p.ldb, <double*>PyArray_DATA(copy))
    p.b, p.ldb, p.tb = PyArray_DATA(copy), max(1, p.n), False
    return copy


cdef inline bint is_vector(const Product* p) noexcept:
    """Whether the numbers of the factor that is one row or one column lie side by side."""
    return (p.lda == 1 or not p.ta) if p.m == 1 else (p.ldb == 1 or p.tb)


cdef void by_vector(const Product* p, real* out) noexcept:
    """The product of a matrix and a vector."""
    cdef Side side
    cdef const real* vector = <const real*>p.a
    cdef const real* matrix = <const real*>p.b
    side.k, side.n, side.ld, side.across = p.k, p.n, p.ldb, not p.tb
    if p.m > 1:
        vector, matrix = matrix, vector
        side.n, side.ld, side.across = p.m, p.lda, p.ta
    side.bias, side.bias_step, side.adds, side.relu = p.bias, p.m == 1, p.adds, p.relu
    if side.n * side.k < RELEASE_GIL:
        multiply_vector(&side, vector, matrix, out)
    else:
        with nogil:
            multiply_vector(&side, vector, matrix, out)


cdef object product(
    object x1, bint turn1, object x2, bint turn2, int n, npy_intp* dims, object into, object bias=None, bint relu=False,
):
    """``x1 @ x2``, each of them transposed or not, summed to the shape `dims`, and added to `into` if it is given."""
    cdef Product p
    cdef npy_intp rows, size
    cdef int kind
    cdef ndarray a, b, out, rest
    if type(x1) is not ndarray:
        return NotImplemented
    kind = PyArray_TYPE(<ndarray>x1)
    if kind != NPY_FLOAT and kind != NPY_DOUBLE:
        return NotImplemented
    a, b = matrices(x1, kind), matrices(x2, kind)
    if a is None or b is None:
        return NotImplemented
    read(a, turn1, &p.m, &p.k, &p.ta, &p.lda)
    read(b, turn2, &rows, &p.n, &p.tb, &p.ldb)
    p.ldc = max(1, p.n)
    if rows != p.k or dims[n - 2] != p.m or dims[n - 1] != p.n:
        return NotImplemented
    if not set_axes(&p, a, b, n, dims) or not has_blas(max(p.m, p.n, p.k, p.lda, p.ldb)):
        return NotImplemented
    if turn1 and n == 2 and p.summed and not (PyArray_IS_C_CONTIGUOUS(a) and PyArray_IS_C_CONTIGUOUS(b)):
        # a sum over a stack; in C order all rows are those of one matrix
        a, b = <ndarray>PyArray_NewCopy(a, NPY_CORDER), <ndarray>PyArray_NewCopy(b, NPY_CORDER)
        return product(a, turn1, b, turn2, n, dims, into)
    if (p.m == 1 or p.n == 1) and p.k > 1 and (p.matrices * p.terms != 1 or not is_vector(&p)):
        return NotImplemented    # NumPy multiplies a matrix and a vector without packing the matrix
    p.bias = NULL
    if bias is not None:
        if not is_plain(bias, kind) or PyArray_NDIM(<ndarray>bias) != 1 or PyArray_DIMS(<ndarray>bias)[0] != p.n:
            return NotImplemented
        p.bias = PyArray_DATA(<ndarray>bias)
    p.relu, p.adds = relu, into is not None
    out = <ndarray>PyArray_EMPTY(n, dims, kind, 0) if into is None else <ndarray>into
    p.a, p.b = PyArray_DATA(a), PyArray_DATA(b)
    if PyArray_SIZE(out) == 0:
        return out
    if (p.m == 1 or p.n == 1) and p.k > 1:
        if kind == NPY_FLOAT:
            by_vector(&p, <float*>PyArray_DATA(out))
        else:
            by_vector(&p, <double*>PyArray_DATA(out))
        return out
    cut(&p)
    if p.parts > 1:
        size = (p.parts - 1) * p.m * p.n
        rest = <ndarray>PyArray_EMPTY(1, &size, kind, 0)
        p.rest = PyArray_DATA(rest)
    if (
        p.tb and has_small_kernels() and p.matrices * p.terms == 1 and 8 <= p.high <= TURN_ROWS
        and TURN_FROM <= p.n * p.k <= TURN_TO
    ):
        b = turned(&p, kind)
    if kind == NPY_FLOAT:
        compute(&p, <float*>PyArray_DATA(out))
    else:
        compute(&p, <double*>PyArray_DATA(out))
    return out


cdef int extents(object shape, npy_intp* dims) except -2:
    """The extents of a stack of matrices; -1 for the shape of something else."""
    cdef int i, n = <int>len(<tuple>shape)
    if not 2 <= n <= AXES + 2:
        return -1
    for i in range(n):
        dims[i] = (<tuple>shape)[i]
    return n


cdef int is_stack(object x) noexcept:
    """The number of axes of a stack of matrices; 0 for something else."""
    if type(x) is not ndarray or not 2 <= PyArray_NDIM(<ndarray>x) <= AXES + 2:
        return 0
    return PyArray_NDIM(<ndarray>x)


# ---- matmul ----------------------------------------------------------------------------------------------------------

def matmul(x1, x2):
    """Kernel of the op ``matmul``."""
    cdef npy_intp[AXES + 2] dims
    cdef int i, n1 = is_stack(x1), n2 = is_stack(x2), n = max(n1, n2)
    if not n1 or not n2:
        return NotImplemented
    for i in range(n - 2):
        dims[i] = extent(n1, PyArray_DIMS(<ndarray>x1), n - 2, i)
        if dims[i] == 1:
            dims[i] = extent(n2, PyArray_DIMS(<ndarray>x2), n - 2, i)
    dims[n - 2], dims[n - 1] = PyArray_DIMS(<ndarray>x1)[n1 - 2], PyArray_DIMS(<ndarray>x2)[n2 - 1]
    return product(x1, False, x2, False, n, dims, None)


def matmul_vjp0(g, tuple x1_shape not None, x2):
    """Kernel of its rule for the first factor, ``g @ x2.mT`` summed to the shape of the factor."""
    cdef npy_intp[AXES + 2] dims
    cdef int n = extents(x1_shape, dims)
    return NotImplemented if n < 0 else product(g, False, x2, True, n, dims, None)


def matmul_vjp1(g, x1, tuple x2_shape not None, *, into=None):
    """Kernel of its rule for the second factor, ``x1.mT @ g`` summed to its shape.

    `into`, an array of that shape and of the dtype, in C order, is added to and returned.
    """
    cdef npy_intp[AXES + 2] dims
    cdef int n = extents(x2_shape, dims)
    if n < 0 or (into is not None and not takes(into, g, x2_shape)):
        return NotImplemented
    return product(x1, True, g, False, n, dims, into)


cdef bint takes(object into, object g, tuple shape):
    """Whether a gradient of this shape, of the dtype of `g`, can be added to `into`."""
    return (
        type(into) is ndarray and type(g) is ndarray and PyArray_TYPE(<ndarray>into) == PyArray_TYPE(<ndarray>g)
        and PyArray_ISCARRAY(<ndarray>into) and into.shape == shape
    )


# ---- linear ----------------------------------------------------------------------------------------------------------

cdef object affine(object x, object weight, object bias, bint relu):
    cdef npy_intp[AXES + 2] dims
    cdef int i, n = is_stack(x)
    if not n or is_stack(weight) != 2:
        return NotImplemented
    for i in range(n - 1):
        dims[i] = PyArray_DIMS(<ndarray>x)[i]
    dims[n - 1] = PyArray_DIMS(<ndarray>weight)[1]
    return product(x, False, weight, False, n, dims, None, bias, relu)


def linear(x, weight, bias):
    """Kernel of the op ``linear``."""
    return affine(x, weight, bias, False)


def linear_vjp0(g, weight):
    """Kernel of its rule for x, ``g @ weight.T``."""
    cdef npy_intp[AXES + 2] dims
    cdef int i, n = is_stack(g)
    if not n or is_stack(weight) != 2:
        return NotImplemented
    for i in range(n - 1):
        dims[i] = PyArray_DIMS(<ndarray>g)[i]
    dims[n - 1] = PyArray_DIMS(<ndarray>weight)[0]
    return product(g, False, weight, True, n, dims, None)


def linear_vjp1(g, x, tuple weight_shape not None, *, into=None):
    """Kernel of its rule for the weight, ``x.T @ g`` of all rows; `into` is that of `matmul_vjp1`."""
    return matmul_vjp1(g, x, weight_shape, into=into) if len(weight_shape) == 2 else NotImplemented


def linear_vjp2(g):
    """Kernel of its rule for the bias: the column sums, which would be left to the engine otherwise."""
    return column_sums(g, None)


def linear_relu(x, weight, bias):
    """Kernel of the op behind ``linear`` with the activation relu."""
    return affine(x, weight, bias, True)


def linear_relu_vjp0(g, weight, out):
    """Kernel of its rule for x."""
    g = masked(g, out)
    return NotImplemented if g is None else linear_vjp0(g, weight)


def linear_relu_vjp1(g, x, tuple weight_shape not None, out, *, into=None):
    """Kernel of its rule for the weight."""
    g = masked(g, out)
    return NotImplemented if g is None else linear_vjp1(g, x, weight_shape, into=into)


def linear_relu_vjp2(g, out):
    """Kernel of its rule for the bias."""
    return column_sums(g, out) if is_real(out) else NotImplemented


# ---- relu's mask and the sums of columns -----------------------------------------------------------------------------

cdef void mask_chunk(npy_intp start, const real* g, const real* y, real* out, npy_intp n) noexcept nogil:
    """The elements of `g` where y > 0, else 0."""
    cdef npy_intp i
    cdef real value
    for i in range(start, min(start + CHUNK, n)):
        value = g[i]    # loaded in any case: a conditional load would keep the compiler from making vectors
        out[i] = value if y[i] > 0 else 0


cdef void mask_all(const real* g, const real* y, real* out, npy_intp n) noexcept nogil:
    cdef npy_intp start
    cdef int threads = threads_for(n)
    for start in prange(0, n, CHUNK, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        mask_chunk(start, g, y, out, n)


cdef void mask(const void* g, const void* y, real* out, npy_intp n) noexcept:
    if n < RELEASE_GIL:
        mask_chunk(0, <const real*>g, <const real*>y, out, n)
    else:
        with nogil:
            mask_all(<const real*>g, <const real*>y, out, n)


cdef ndarray masked(object g, object y):
    """The cotangent of relu's argument; None for arrays that are not taken."""
    cdef ndarray out
    if not is_real(y) or not alike(g, y):
        return None
    out = empty_like(y)
    if PyArray_TYPE(out) == NPY_FLOAT:
        mask(PyArray_DATA(<ndarray>g), PyArray_DATA(<ndarray>y), <float*>PyArray_DATA(out), PyArray_SIZE(out))
    else:
        mask(PyArray_DATA(<ndarray>g), PyArray_DATA(<ndarray>y), <double*>PyArray_DATA(out), PyArray_SIZE(out))
    return out


cdef void sum_columns(const void* g, const void* y, npy_intp rows, npy_intp n, real* out) noexcept:
    if rows * n < RELEASE_GIL:
        sum_blocks(<const real*>g, <const real*>y, rows, n, out)
    else:
        with nogil:
            sum_blocks(<const real*>g, <const real*>y, rows, n, out)


cdef object column_sums(object g, object y):
    """The sums over all axes but the last, of what relu lets through where `y` is its result."""
    cdef npy_intp[2] dims
    cdef npy_intp rows
    cdef const void* gate = NULL
    cdef ndarray out
    if not is_real(g) or PyArray_NDIM(<ndarray>g) < 2 or (y is not None and not alike(y, g)):
        return NotImplemented
    dims[1] = PyArray_DIMS(<ndarray>g)[PyArray_NDIM(<ndarray>g) - 1]
    if PyArray_SIZE(<ndarray>g) == 0:
        return NotImplemented
    if y is not None:
        gate = PyArray_DATA(<ndarray>y)
    while True:
        rows = PyArray_SIZE(<ndarray>g) // dims[1]
        dims[0] = blocks_down(rows)
        if dims[0] == 1:
            out = <ndarray>PyArray_EMPTY(1, dims + 1, PyArray_TYPE(<ndarray>g), 0)
        else:
            out = <ndarray>PyArray_EMPTY(2, dims, PyArray_TYPE(<ndarray>g), 0)
        if PyArray_TYPE(out) == NPY_FLOAT:
            sum_columns(PyArray_DATA(<ndarray>g), gate, rows, dims[1], <float*>PyArray_DATA(out))
        else:
            sum_columns(PyArray_DATA(<ndarray>g), gate, rows, dims[1], <double*>PyArray_DATA(out))
        if dims[0] == 1:
            return out
        g, gate = out, NULL    # the sums of blocks, which are summed in turn

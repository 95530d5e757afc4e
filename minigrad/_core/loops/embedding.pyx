"""Kernels that gather rows of a table by integer ids, and that add rows to those of a new table.

The sum of the rows that one id names is made in the order in which the id occurs, by one thread, and so has the same
bits for every number of threads. Ids are checked and copied first: no loop reads or writes outside of a table.
"""
from cython.parallel cimport prange
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_FORCECAST, NPY_DOUBLE, NPY_FLOAT, NPY_INT64, NPY_MAXDIMS, PyArray_DATA,
    PyArray_DIMS, PyArray_EMPTY, PyArray_FROM_OTF, PyArray_ISWRITEABLE, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE,
    PyArray_TYPE, PyTypeNum_ISINTEGER, PyTypeNum_ISUNSIGNED, import_array, ndarray, npy_int64, npy_intp, npy_uint32,
    npy_uint64,
)

from minigrad._core.cpu cimport threads_for
from minigrad._core.loops.plain cimport RELEASE_GIL, is_plain, real
from minigrad._core.loops.stream cimport STREAMED, stream

import_array()

cdef enum:
    BLOCK = 65_536    # bytes of a table that one thread writes at a time; they stay in its cache
    DOUBLES = 8192    # in a block
    PIECES = 16       # into how many blocks a smaller table is cut
    SMALL = 262_144   # bytes; of still smaller ones the threads share the columns, not the rows
    COLUMNS = 64      # how many one takes
    NARROW = 8        # elements; sorting the ids of smaller rows costs more than adding them
    AHEAD = 4         # how many rows before their turn are asked for: they lie all over a table


cdef extern from *:
    """
    #if defined(__GNUC__)
    #define mg_prefetch(p) __builtin_prefetch(p)
    #else
    #define mg_prefetch(p) ((void)(p))
    #endif
    """
    void prefetch_line "mg_prefetch"(const void* p) noexcept nogil


cdef inline void prefetch(const char* row, npy_intp size) noexcept nogil:
    """Ask for the start of a row, so that its first load does not wait for memory."""
    cdef npy_intp at = 0
    while at < min(size, 1024):
        prefetch_line(row + at)
        at += 64


# ---- ids -------------------------------------------------------------------------------------------------------------

cdef ndarray rows_of(object ids, npy_intp n, bint wrap):
    """An own copy of integers of any type and shape as a vector, each in [0, n); None where they are not.

    With `wrap` negative ones count from the end.
    """
    cdef ndarray given, out
    cdef const npy_int64* source
    cdef npy_int64* target
    cdef npy_intp i, count
    cdef npy_int64 id_
    cdef bint wrong = False
    if type(ids) is not ndarray or not PyTypeNum_ISINTEGER(PyArray_TYPE(<ndarray>ids)):
        return None
    if wrap and PyTypeNum_ISUNSIGNED(PyArray_TYPE(<ndarray>ids)) and PyArray_ITEMSIZE(<ndarray>ids) == 8:
        return None  # as int64 the largest would be negative
    given = <ndarray>PyArray_FROM_OTF(ids, NPY_INT64, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST)
    count = PyArray_SIZE(given)
    out = <ndarray>PyArray_EMPTY(1, &count, NPY_INT64, 0)
    source, target = <const npy_int64*>PyArray_DATA(given), <npy_int64*>PyArray_DATA(out)
    for i in range(count):
        id_ = source[i]
        id_ += n if wrap and id_ < 0 else 0
        wrong |= <npy_uint64>id_ >= <npy_uint64>n
        target[i] = id_
    return None if wrong else out


# ---- gather ----------------------------------------------------------------------------------------------------------

cdef void gather_rows(
    npy_intp start, npy_intp stop, const char* table, const npy_int64* ids, char* out, npy_intp row,
) noexcept nogil:
    """Copy the rows of some ids; `row` is the size of one in bytes."""
    cdef npy_intp i
    if row == 4:
        for i in range(start, stop):
            (<npy_uint32*>out)[i] = (<const npy_uint32*>table)[ids[i]]
    elif row == 8:
        for i in range(start, stop):
            (<npy_uint64*>out)[i] = (<const npy_uint64*>table)[ids[i]]
    else:
        for i in range(start, stop):
            if i + AHEAD < stop:
                prefetch(table + ids[i + AHEAD] * row, row)
            memcpy(out + i * row, table + ids[i] * row, row)


cdef void gather_all(const char* table, const npy_int64* ids, char* out, npy_intp count, npy_intp row) noexcept nogil:
    cdef npy_intp block, step = max(1, BLOCK // row)
    cdef npy_intp blocks = (count + step - 1) // step
    cdef int threads = threads_for(count * row // 8)  # a copy is half the work of a simple element
    for block in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="static"):
        gather_rows(block * step, min((block + 1) * step, count), table, ids, out, row)


cdef object gather(object table, object ids, bint wrap):
    """``table[ids]``, or NotImplemented."""
    cdef npy_intp dims[NPY_MAXDIMS]
    cdef npy_intp size, count, row
    cdef int lead, rest, kind, i
    cdef ndarray places, out
    if type(table) is not ndarray or PyArray_NDIM(<ndarray>table) == 0 or type(ids) is not ndarray:
        return NotImplemented
    kind = PyArray_TYPE(<ndarray>table)
    lead, rest = PyArray_NDIM(<ndarray>ids), PyArray_NDIM(<ndarray>table) - 1
    if not is_plain(table, kind) or lead + rest > NPY_MAXDIMS or PyArray_SIZE(<ndarray>table) == 0:
        return NotImplemented
    places = rows_of(ids, PyArray_DIMS(<ndarray>table)[0], wrap)
    if places is None:
        return NotImplemented
    for i in range(lead):
        dims[i] = PyArray_DIMS(<ndarray>ids)[i]
    for i in range(rest):
        dims[lead + i] = PyArray_DIMS(<ndarray>table)[i + 1]
    out = <ndarray>PyArray_EMPTY(lead + rest, dims, kind, 0)
    count = PyArray_SIZE(places)
    row = PyArray_SIZE(<ndarray>table) // PyArray_DIMS(<ndarray>table)[0] * PyArray_ITEMSIZE(<ndarray>table)
    size = count * row
    if size < 4 * RELEASE_GIL:
        gather_rows(
            0, count, <const char*>PyArray_DATA(<ndarray>table), <const npy_int64*>PyArray_DATA(places),
            <char*>PyArray_DATA(out), row,
        )
    else:
        with nogil:
            gather_all(
                <const char*>PyArray_DATA(<ndarray>table), <const npy_int64*>PyArray_DATA(places),
                <char*>PyArray_DATA(out), count, row,
            )
    return out


# ---- scatter-add -----------------------------------------------------------------------------------------------------

cdef struct Plan:
    npy_intp n            # rows of the table
    npy_intp width        # elements of a row
    npy_intp count        # ids
    npy_intp skipped      # an id that adds nothing, or -1
    int shift             # a block has 2**shift rows
    npy_intp blocks
    bint fresh            # the table is new, and not yet zero
    bint past             # and does not fit in the caches, so that each block goes past them
    const npy_int64* ids
    npy_int64* ends       # for each block: where the occurrences of its ids end in `order`
    npy_int64* order      # places in `ids`, block by block, in the order in which they occur


cdef void sort_by_block(Plan* plan) noexcept nogil:
    """A stable counting sort of the ids by the block that their row lies in."""
    cdef npy_intp i, block
    cdef npy_int64 total = 0, here
    memset(plan.ends, 0, plan.blocks * sizeof(npy_int64))
    for i in range(plan.count):
        if plan.ids[i] != plan.skipped:
            plan.ends[plan.ids[i] >> plan.shift] += 1
    for block in range(plan.blocks):
        here = plan.ends[block]
        plan.ends[block] = total
        total += here
    for i in range(plan.count):
        if plan.ids[i] != plan.skipped:
            block = plan.ids[i] >> plan.shift
            plan.order[plan.ends[block]] = i
            plan.ends[block] += 1


cdef inline void add_row(real* out, const real* values, npy_intp width) noexcept nogil:
    cdef npy_intp j
    for j in range(width):
        out[j] += values[j]


cdef void scatter_block(npy_intp block, const Plan* plan, const real* values, real* out) noexcept nogil:
    """The values of the ids of a block added to its rows; if the table is new, to zeros that are still in the cache."""
    cdef npy_intp first = block << plan.shift, width = plan.width
    cdef npy_intp size = min(plan.n - first, (<npy_intp>1) << plan.shift) * width * sizeof(real)
    cdef npy_int64 i, k
    cdef double buffer[DOUBLES]
    cdef real* rows = out + first * width
    if plan.past:
        rows = <real*>buffer
    if plan.fresh:
        memset(rows, 0, size)
    for i in range(plan.ends[block - 1] if block else 0, plan.ends[block]):
        k = plan.order[i]
        add_row(rows + (plan.ids[k] - first) * width, values + k * width, width)
    if plan.past:
        stream(out + first * width, buffer, size)


cdef void scatter_sorted(real* out, Plan* plan, const real* values) noexcept nogil:
    cdef npy_intp block
    cdef int threads = threads_for((plan.count + (plan.n if plan.fresh else 0)) * plan.width)
    sort_by_block(plan)
    # dynamic: some blocks may have most of the ids, as those of frequent words do
    for block in prange(plan.blocks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
        scatter_block(block, plan, values, out)


cdef void scatter_columns(
    npy_intp start, npy_intp stop, const Plan* plan, const real* values, real* out,
) noexcept nogil:
    """The same for some columns, the ids in turn as they come: for tables that stay in the cache as a whole."""
    cdef npy_intp i, width = plan.width
    if plan.fresh and stop - start == width:
        memset(out, 0, plan.n * width * sizeof(real))
    elif plan.fresh:
        for i in range(plan.n):
            memset(out + i * width + start, 0, (stop - start) * sizeof(real))
    for i in range(plan.count):
        if plan.ids[i] != plan.skipped:
            add_row(out + plan.ids[i] * width + start, values + i * width + start, stop - start)


cdef void scatter_unsorted(real* out, const Plan* plan, const real* values) noexcept nogil:
    cdef npy_intp piece, pieces = (plan.width + COLUMNS - 1) // COLUMNS
    cdef int threads = threads_for((plan.count + (plan.n if plan.fresh else 0)) * plan.width)
    if threads == 1 or pieces == 1:
        scatter_columns(0, plan.width, plan, values, out)
        return
    for piece in prange(pieces, num_threads=threads, schedule="static"):
        scatter_columns(piece * COLUMNS, min((piece + 1) * COLUMNS, plan.width), plan, values, out)


cdef void scatter_run(real* out, Plan* plan, const void* values) noexcept:
    if (plan.n + plan.count) * plan.width < RELEASE_GIL:
        scatter_columns(0, plan.width, plan, <const real*>values, out)
    elif plan.width < NARROW or plan.n * plan.width * <npy_intp>sizeof(real) <= SMALL:
        with nogil:
            scatter_unsorted(out, plan, <const real*>values)
    else:
        with nogil:
            scatter_sorted(out, plan, <const real*>values)


cdef bint has_shape(ndarray x, int n, const npy_intp* dims):
    """Whether an array has `n` axes of these extents."""
    cdef int i
    if PyArray_NDIM(x) != n:
        return False
    for i in range(n):
        if PyArray_DIMS(x)[i] != dims[i]:
            return False
    return True


cdef object scatter(object shape, object ids, object values, object skipped, bint wrap, object into):
    """Row i of `values` added to row ids[i] of `into`, or of zeros of `shape` where it is None; or NotImplemented."""
    cdef npy_intp dims[NPY_MAXDIMS]
    cdef npy_intp extent, row, size
    cdef int kind, lead, n, i
    cdef ndarray places, scratch, rows, out
    cdef Plan plan
    if type(shape) is not tuple or type(values) is not ndarray or type(ids) is not ndarray:
        return NotImplemented
    n, kind, lead = <int>len(<tuple>shape), PyArray_TYPE(<ndarray>values), PyArray_NDIM(<ndarray>ids)
    if (kind != NPY_FLOAT and kind != NPY_DOUBLE) or not 0 < n <= NPY_MAXDIMS:
        return NotImplemented
    if PyArray_NDIM(<ndarray>values) != lead + n - 1:
        return NotImplemented
    for i in range(n):
        if type((<tuple>shape)[i]) is not int or (<tuple>shape)[i] < 0:
            return NotImplemented
        dims[i] = (<tuple>shape)[i]
    for i in range(lead + n - 1):
        extent = PyArray_DIMS(<ndarray>ids)[i] if i < lead else dims[i - lead + 1]
        if PyArray_DIMS(<ndarray>values)[i] != extent:
            return NotImplemented
    places = rows_of(ids, dims[0], wrap)
    if places is None or PyArray_SIZE(<ndarray>values) == 0:
        return NotImplemented
    if into is None:
        out = <ndarray>PyArray_EMPTY(n, dims, kind, 0)
    elif is_plain(into, kind) and PyArray_ISWRITEABLE(<ndarray>into) and has_shape(<ndarray>into, n, dims):
        out = <ndarray>into
    else:
        return NotImplemented
    rows = <ndarray>PyArray_FROM_OTF(values, kind, NPY_ARRAY_CARRAY_RO)
    plan.n, plan.width, plan.count = dims[0], PyArray_SIZE(out) // dims[0], PyArray_SIZE(places)
    plan.skipped = -1 if skipped is None else skipped
    plan.fresh = into is None
    plan.shift = 0
    row = plan.width * PyArray_ITEMSIZE(out)
    while row << (plan.shift + 1) <= BLOCK and PIECES << plan.shift < plan.n:
        plan.shift += 1
    plan.past = plan.fresh and row << plan.shift <= BLOCK and row * plan.n >= STREAMED
    plan.blocks = ((plan.n - 1) >> plan.shift) + 1
    size = plan.blocks + plan.count
    scratch = <ndarray>PyArray_EMPTY(1, &size, NPY_INT64, 0)
    plan.ids = <const npy_int64*>PyArray_DATA(places)
    plan.ends = <npy_int64*>PyArray_DATA(scratch)
    plan.order = plan.ends + plan.blocks
    if kind == NPY_FLOAT:
        scatter_run(<float*>PyArray_DATA(out), &plan, PyArray_DATA(rows))
    else:
        scatter_run(<double*>PyArray_DATA(out), &plan, PyArray_DATA(rows))
    return out


# ---- what the ops call -----------------------------------------------------------------------------------------------

cdef inline object only(object index):
    """The one array that an index is, or None; it then counts along the first axis."""
    return (<tuple>index)[0] if type(index) is tuple and len(<tuple>index) == 1 else None


cdef inline bint is_id(object padding_idx, npy_intp rows):
    """Whether it names one of the rows, or none."""
    return padding_idx is None or (type(padding_idx) is int and 0 <= padding_idx < rows)


def embedding(weight, ids, *, padding_idx):
    """Kernel of the op ``embedding``."""
    if type(weight) is not ndarray or PyArray_NDIM(<ndarray>weight) != 2:
        return NotImplemented
    if not is_id(padding_idx, PyArray_DIMS(<ndarray>weight)[0]):
        return NotImplemented
    return gather(weight, ids, False)


def embedding_vjp(g, weight_shape, ids, *, padding_idx, into=None):
    """Kernel of its rule for the weight."""
    return scatter(weight_shape, ids, g, padding_idx, False, into)


def take(x, indices, *, axis):
    """Kernel of the op ``take`` along the first axis."""
    return gather(x, indices, True) if axis == 0 else NotImplemented


def take_vjp(g, x_shape, indices, *, axis, into=None):
    """Kernel of its rule."""
    return scatter(x_shape, indices, g, None, True, into) if axis == 0 else NotImplemented


def getitem_vjp(g, x_shape, *, index, into=None):
    """Kernel of the rule of ``getitem`` with one array of integers."""
    return scatter(x_shape, only(index), g, None, True, into)


def index_add(values, *, shape, index):
    """Kernel of the op ``index_add`` with one array of integers."""
    return scatter(shape, only(index), values, None, True, None)


def index_add_vjp(g, *, index):
    """Kernel of its rule."""
    return gather(g, only(index), True)

"""Kernels of the recurrent ops: the steps of a whole sequence, forward and backward.

Sequences do not meet, so a thread takes some of them through all steps, and threads wait for each other at the end.
The recurrent weight is packed once for all steps (panels.pxd), where the processor has AVX-512; elsewhere BLAS
multiplies. How sequences are shared out depends on their number alone, and so do the bits of the result.
"""
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_FLOAT, NPY_INT64, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_NDIM, PyArray_TYPE, import_array, ndarray,
    npy_int64, npy_intp,
)

from minigrad._core.blas cimport enter, has_blas, leave
from minigrad._core.cpu cimport num_threads, threads_for
from minigrad._core.loops.gemm cimport gemm
from minigrad._core.loops.math cimport sigmoid, tanh
from minigrad._core.loops.panels cimport (
    HIGH, MG_DEPTH, MG_HAS_PANELS, Factors, multiply_rows, pack_panels, packs, width,
)
from minigrad._core.loops.plain cimport is_plain, is_real, pieces, real

import_array()

cdef enum:
    FEW = 16        # sequences that are shared out by 8; more of them by 16, MANY by 32: the weight is read less often
    MANY = 128
    PACKED = 16     # units from which on packing pays

cdef enum Kind:
    RNN
    LSTM
    GRU

cdef struct Task:
    Kind kind
    npy_intp steps, batch, n, all   # `all`: columns of the weight
    npy_intp block                  # sequences that one thread takes at a time
    bint reverse, relu, packs
    bint turned                     # multiply by the transpose of the weight
    const npy_int64* lengths        # or NULL
    const void* weight              # (n, all)
    void* packed
    void* scratch                   # for packing rows, HIGH a thread
    void* rows                      # (batch, all), for the gru

# the arrays of a call, of which not every kind has all
cdef struct Arrays:
    const void* pre         # (steps, batch, all)
    const void* bias        # (all,) or NULL
    const void* cell        # (batch, n)
    const void* starts      # (steps, batch, n), the states that steps start from
    void* outs              # (steps, batch, n)
    void* cells             # (steps, batch, n)
    void* gates             # (steps, batch, 4 * n)
    void* h                 # (batch, n), the state; backward its cotangent
    void* c
    const void* g_outs      # cotangents
    const void* g_cells
    const void* g_gates
    void* da                # (steps, batch, all), the cotangent of the product
    void* dpre              # and that of pre, where it is another one


# ---- the product of a step -------------------------------------------------------------------------------------------

cdef inline void set_factors(const Task* task, Factors* p, npy_intp part) noexcept nogil:
    """A part of the inner indices."""
    p.k = task.all if task.turned else task.n
    p.n = task.n if task.turned else task.all
    p.b, p.ldb, p.tb = task.weight, task.all, task.turned
    p.bias, p.ta, p.adds, p.relu = NULL, False, True, False
    p.first, p.columns, p.groups = 0, p.n, 1
    p.start = part * MG_DEPTH
    p.depth = min(MG_DEPTH, p.k - p.start)


cdef inline npy_intp panel_columns(const Factors* p, const real* x) noexcept nogil:
    """The columns of all panels."""
    return pieces(p.n, width(x)) * width(x)


cdef void multiply(const Task* task, npy_intp rows, const real* a, real* c) noexcept nogil:
    """c (rows, n) += a (rows, k) @ the weight, or its transpose."""
    cdef Factors p
    cdef npy_intp part
    set_factors(task, &p, 0)
    if not task.packs:
        gemm(False, task.turned, rows, p.n, p.k, a, p.k, <const real*>task.weight, task.all, 1, c, p.n)
        return
    for part in range(pieces(p.k, MG_DEPTH)):
        set_factors(task, &p, part)
        p.a, p.m, p.lda, p.ldc = a, rows, p.k, p.n
        p.high, p.group = HIGH, panel_columns(&p, a)
        multiply_rows(0, &p, <const real*>task.packed + p.start * p.group, <real*>task.scratch, c)


cdef bint pack(Task* task, const real* weight, int threads) noexcept nogil:
    """Pack the weight; False where there is no memory."""
    cdef Factors p
    cdef npy_intp part, i, columns
    set_factors(task, &p, 0)
    columns = panel_columns(&p, weight)
    task.packed = malloc(p.k * columns * sizeof(real))
    task.scratch = malloc(num_threads() * HIGH * MG_DEPTH * sizeof(real))
    if task.packed == NULL or task.scratch == NULL:
        return False
    for part in range(pieces(p.k, MG_DEPTH)):
        set_factors(task, &p, part)
        for i in prange(packs(&p, weight), num_threads=threads, use_threads_if=threads > 1):
            pack_panels(i, &p, <real*>task.packed + p.start * columns)
    return True


# ---- loops over the units of one sequence; short ones, as the compiler checks their arrays for overlap ---------------

cdef inline void sigmoids(real* x, npy_intp n) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        x[j] = sigmoid(x[j])


cdef inline void tanhs(real* x, npy_intp n) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        x[j] = tanh(x[j])


cdef inline void add_to(real* x, const real* y, npy_intp n) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        x[j] += y[j]


cdef inline void sum_to(real* out, const real* x, const real* y, npy_intp n) noexcept nogil:
    cdef npy_intp j
    for j in range(n):
        out[j] = x[j] + y[j]


# ---- forward ---------------------------------------------------------------------------------------------------------

cdef inline void rnn_row(const Task* task, real* h, real* out) noexcept nogil:
    """`out` holds the argument of the activation."""
    cdef npy_intp j
    if task.relu:
        for j in range(task.n):
            out[j] = 0 if out[j] <= 0 else out[j]    # NaN stays
    else:
        tanhs(out, task.n)
    memcpy(h, out, task.n * sizeof(real))


cdef inline void lstm_row(npy_intp n, real* gates, real* h, real* c) noexcept nogil:
    """`gates` holds their arguments."""
    cdef npy_intp j
    sigmoids(gates, 2 * n)
    tanhs(gates + 2 * n, n)
    sigmoids(gates + 3 * n, n)
    for j in range(n):
        c[j] = gates[n + j] * c[j] + gates[j] * gates[2 * n + j]
    for j in range(n):
        h[j] = tanh(c[j])
    for j in range(n):
        h[j] *= gates[3 * n + j]


cdef inline void gru_row(npy_intp n, const real* pre, const real* a, real* gates, real* h) noexcept nogil:
    """`a` is the product of the state and the weight, and the bias."""
    cdef npy_intp j
    sum_to(gates, pre, a, 2 * n)
    sigmoids(gates, 2 * n)
    memcpy(gates + 3 * n, a + 2 * n, n * sizeof(real))
    for j in range(n):
        gates[2 * n + j] = pre[2 * n + j] + gates[j] * gates[3 * n + j]
    tanhs(gates + 2 * n, n)
    for j in range(n):
        h[j] = gates[2 * n + j] + gates[n + j] * (h[j] - gates[2 * n + j])


cdef void forward_block(npy_intp block, const Task* task, const Arrays* x, const real* like) noexcept nogil:
    """All steps of some sequences."""
    cdef npy_intp first = block * task.block, rows = min(task.block, task.batch - first), n = task.n
    cdef npy_intp step, t, i, at, many = 1 if task.kind == RNN else 4
    cdef real* h = <real*>x.h + first * n
    cdef real* c = <real*>x.c + first * n if task.kind == LSTM else <real*>NULL
    cdef real* a
    cdef real* gates
    cdef real* outs
    for step in range(task.steps):
        t = task.steps - 1 - step if task.reverse else step
        at = t * task.batch + first
        outs = <real*>x.outs + at * n
        gates = outs if task.kind == RNN else <real*>x.gates + at * 4 * n
        a = gates
        if task.kind == GRU:
            a = <real*>task.rows + first * task.all
            if x.bias == NULL:
                memset(a, 0, rows * task.all * sizeof(real))
            else:
                for i in range(rows):
                    memcpy(a + i * task.all, x.bias, task.all * sizeof(real))
        else:
            memcpy(a, <const real*>x.pre + at * task.all, rows * task.all * sizeof(real))
        multiply(task, rows, <const real*>h, a)
        for i in range(rows):
            if task.lengths != NULL and task.lengths[first + i] <= t:
                memset(gates + i * many * n, 0, many * n * sizeof(real))
                memset(outs + i * n, 0, n * sizeof(real))
            elif task.kind == RNN:
                rnn_row(task, h + i * n, outs + i * n)
            else:
                if task.kind == LSTM:
                    lstm_row(n, gates + i * 4 * n, h + i * n, c + i * n)
                else:
                    gru_row(n, <const real*>x.pre + (at + i) * task.all, a + i * task.all, gates + i * 4 * n, h + i * n)
                memcpy(outs + i * n, h + i * n, n * sizeof(real))
        if task.kind == LSTM:
            memcpy(<real*>x.cells + at * n, c, rows * n * sizeof(real))


# ---- backward --------------------------------------------------------------------------------------------------------

cdef inline void rnn_row_back(const Task* task, const real* out, const real* g, real* dh, real* da) noexcept nogil:
    cdef npy_intp j
    cdef real value
    sum_to(da, dh, g, task.n)
    if task.relu:
        for j in range(task.n):
            value = da[j]    # loaded in any case: a conditional load would keep the compiler from making vectors
            da[j] = value if out[j] > 0 else 0
    else:
        for j in range(task.n):
            da[j] *= <real>1 - out[j] * out[j]
    memset(dh, 0, task.n * sizeof(real))


cdef inline void lstm_row_back(
    npy_intp n, const real* gates, const real* before, const real* g_outs, const real* g_cells, const real* g_gates,
    real* dh, real* dc, real* da,
) noexcept nogil:
    """`da` ends with tanh of the cells after the step."""
    cdef npy_intp j
    cdef real* above = da + 3 * n
    add_to(dh, g_outs, n)
    add_to(dc, g_cells, n)
    for j in range(n):
        dc[j] += dh[j] * gates[3 * n + j] * (<real>1 - above[j] * above[j])
    for j in range(n):
        da[j] = (dc[j] * gates[2 * n + j] + g_gates[j]) * gates[j] * (<real>1 - gates[j])
    for j in range(n):
        da[n + j] = dc[j] * before[j]
    for j in range(n):
        da[n + j] = (da[n + j] + g_gates[n + j]) * gates[n + j] * (<real>1 - gates[n + j])
    for j in range(n):
        da[2 * n + j] = (dc[j] * gates[j] + g_gates[2 * n + j]) * (<real>1 - gates[2 * n + j] * gates[2 * n + j])
    for j in range(n):
        above[j] = (dh[j] * above[j] + g_gates[3 * n + j]) * gates[3 * n + j] * (<real>1 - gates[3 * n + j])
    for j in range(n):
        dc[j] *= gates[n + j]
    memset(dh, 0, n * sizeof(real))


cdef inline void gru_row_back(
    npy_intp n, const real* gates, const real* before, const real* g_outs, const real* g_gates, real* dh, real* dpre,
    real* da,
) noexcept nogil:
    cdef npy_intp j
    add_to(dh, g_outs, n)
    for j in range(n):
        dpre[2 * n + j] = dh[j] * (<real>1 - gates[n + j]) + g_gates[2 * n + j]
    for j in range(n):
        dpre[2 * n + j] *= <real>1 - gates[2 * n + j] * gates[2 * n + j]
    for j in range(n):
        dpre[n + j] = dh[j] * (before[j] - gates[2 * n + j])
    for j in range(n):
        dpre[n + j] = (dpre[n + j] + g_gates[n + j]) * gates[n + j] * (<real>1 - gates[n + j])
    for j in range(n):
        dpre[j] = (dpre[2 * n + j] * gates[3 * n + j] + g_gates[j]) * gates[j] * (<real>1 - gates[j])
    memcpy(da, dpre, 2 * n * sizeof(real))
    for j in range(n):
        da[2 * n + j] = dpre[2 * n + j] * gates[j] + g_gates[3 * n + j]
    for j in range(n):
        dh[j] *= gates[n + j]


cdef void backward_block(npy_intp block, const Task* task, const Arrays* x, const real* like) noexcept nogil:
    cdef npy_intp first = block * task.block, rows = min(task.block, task.batch - first), n = task.n
    cdef npy_intp step, t, i, at, before
    cdef bint begins
    cdef real* dh = <real*>x.h + first * n
    cdef real* dc = <real*>x.c + first * n if task.kind == LSTM else <real*>NULL
    cdef real* da
    cdef const real* g_outs
    cdef const real* start = NULL
    for step in range(task.steps):
        t = step if task.reverse else task.steps - 1 - step
        begins = step == task.steps - 1
        at = t * task.batch + first
        da = <real*>x.da + at * task.all
        g_outs = <const real*>x.g_outs + at * n
        before = at + task.batch if task.reverse else at - task.batch
        if task.kind == LSTM:
            start = <const real*>x.cell + first * n if begins else <const real*>x.cells + before * n
        for i in range(rows):
            if task.lengths != NULL and task.lengths[first + i] <= t:
                memset(da + i * task.all, 0, task.all * sizeof(real))
                if task.kind == LSTM:
                    add_to(dc + i * n, <const real*>x.g_cells + (at + i) * n, n)
                elif task.kind == GRU:
                    memset(<real*>x.dpre + (at + i) * task.all, 0, task.all * sizeof(real))
            elif task.kind == RNN:
                rnn_row_back(task, <const real*>x.outs + (at + i) * n, g_outs + i * n, dh + i * n, da + i * n)
            elif task.kind == LSTM:
                memcpy(da + i * task.all + 3 * n, <const real*>x.cells + (at + i) * n, n * sizeof(real))
                tanhs(da + i * task.all + 3 * n, n)
                lstm_row_back(
                    n, <const real*>x.gates + (at + i) * 4 * n, start + i * n, g_outs + i * n,
                    <const real*>x.g_cells + (at + i) * n, <const real*>x.g_gates + (at + i) * 4 * n, dh + i * n,
                    dc + i * n, da + i * task.all,
                )
            else:
                gru_row_back(
                    n, <const real*>x.gates + (at + i) * 4 * n, <const real*>x.starts + (at + i) * n, g_outs + i * n,
                    <const real*>x.g_gates + (at + i) * 4 * n, dh + i * n, <real*>x.dpre + (at + i) * task.all,
                    da + i * task.all,
                )
        multiply(task, rows, <const real*>da, dh)


# ---- all sequences ---------------------------------------------------------------------------------------------------

cdef bint run(Task* task, const Arrays* x, const real* weight) noexcept nogil:
    """Forward, or backward where the weight is turned; False where there is no memory."""
    cdef npy_intp block, blocks = (task.batch + task.block - 1) // task.block
    cdef int threads = threads_for(task.steps * task.batch * task.all)
    cdef bint fine = True
    task.packed = task.scratch = task.rows = NULL
    if task.packs:
        fine = pack(task, weight, threads)
    if task.kind == GRU and not task.turned:
        task.rows = malloc(task.batch * task.all * sizeof(real))
        fine = fine and task.rows != NULL
    if fine:
        enter()
        for block in prange(blocks, num_threads=threads, use_threads_if=threads > 1, schedule="dynamic"):
            if task.turned:
                backward_block(block, task, x, weight)
            else:
                forward_block(block, task, x, weight)
        leave()
    free(task.packed)
    free(task.scratch)
    free(task.rows)
    return fine


cdef bint has_shape(object x, int kind, npy_intp a, npy_intp b, npy_intp c=-1):
    """Whether `x` is a plain array of the type number and of this shape."""
    cdef npy_intp* dims
    if not is_plain(x, kind):
        return False
    dims = PyArray_DIMS(<ndarray>x)
    if c < 0:
        return PyArray_NDIM(<ndarray>x) == 2 and dims[0] == a and dims[1] == b
    return PyArray_NDIM(<ndarray>x) == 3 and dims[0] == a and dims[1] == b and dims[2] == c


cdef bint set_task(Task* task, Kind kind, npy_intp steps, npy_intp batch, object weight, object lengths, bint reverse):
    """Fill in what both directions need; False for what is not taken."""
    cdef npy_intp n, count = 1 if kind == RNN else 4 if kind == LSTM else 3
    if not is_real(weight) or PyArray_NDIM(<ndarray>weight) != 2:
        return False
    n = PyArray_DIMS(<ndarray>weight)[0]
    if PyArray_DIMS(<ndarray>weight)[1] != count * n or min(min(steps, batch), n) == 0:
        return False
    task.lengths = NULL
    if lengths is not None:
        if not is_plain(lengths, NPY_INT64) or PyArray_NDIM(<ndarray>lengths) != 1:
            return False
        if PyArray_DIMS(<ndarray>lengths)[0] != batch:
            return False
        task.lengths = <const npy_int64*>PyArray_DATA(<ndarray>lengths)
    task.kind, task.steps, task.batch, task.n, task.all = kind, steps, batch, n, count * n
    task.block = 8 if batch <= FEW else 16 if batch < MANY else 32
    task.reverse, task.relu, task.turned = reverse, False, False
    task.packs = MG_HAS_PANELS and n >= PACKED
    task.weight = PyArray_DATA(<ndarray>weight)
    return task.packs or has_blas(max(task.all, batch))


cdef bint start(Task* task, const Arrays* x, object weight):
    """Run, in the dtype of the weight."""
    cdef bint fine
    if PyArray_TYPE(<ndarray>weight) == NPY_FLOAT:
        with nogil:
            fine = run(task, x, <const float*>task.weight)
    else:
        with nogil:
            fine = run(task, x, <const double*>task.weight)
    return fine


cdef ndarray three(npy_intp a, npy_intp b, npy_intp c, int kind):
    cdef npy_intp[3] dims
    dims[0], dims[1], dims[2] = a, b, c
    return <ndarray>PyArray_EMPTY(3, dims, kind, 0)


cdef object forward(Kind kind, object pre, object weight, object hidden, object cell, object bias, object lengths,
                    bint reverse, bint relu):
    cdef Task task
    cdef Arrays x
    cdef int number
    cdef npy_intp* dims
    cdef ndarray outs, gates, cells, h, c
    if type(pre) is not ndarray or PyArray_NDIM(<ndarray>pre) != 3:
        return NotImplemented
    dims = PyArray_DIMS(<ndarray>pre)
    if not set_task(&task, kind, dims[0], dims[1], weight, lengths, reverse):
        return NotImplemented
    number = PyArray_TYPE(<ndarray>weight)
    if not has_shape(pre, number, task.steps, task.batch, task.all):
        return NotImplemented
    if not has_shape(hidden, number, task.batch, task.n):
        return NotImplemented
    if kind == LSTM and not has_shape(cell, number, task.batch, task.n):
        return NotImplemented
    x.bias = NULL
    if bias is not None:
        if not is_plain(bias, number) or PyArray_NDIM(<ndarray>bias) != 1:
            return NotImplemented
        if PyArray_DIMS(<ndarray>bias)[0] != task.all:
            return NotImplemented
        x.bias = PyArray_DATA(<ndarray>bias)
    task.relu = relu
    outs, h = three(task.steps, task.batch, task.n, number), hidden.copy()
    x.pre, x.outs, x.h = PyArray_DATA(<ndarray>pre), PyArray_DATA(outs), PyArray_DATA(h)
    if kind != RNN:
        gates = three(task.steps, task.batch, 4 * task.n, number)
        x.gates = PyArray_DATA(gates)
    if kind == LSTM:
        cells, c = three(task.steps, task.batch, task.n, number), cell.copy()
        x.cells, x.c = PyArray_DATA(cells), PyArray_DATA(c)
    if not start(&task, &x, weight):
        return NotImplemented
    return (outs, h) if kind == RNN else (outs, h, c, gates, cells) if kind == LSTM else (outs, h, gates)


def rnn(pre, weight, hidden, lengths, *, str activation not None, bint reverse):
    """Kernel of the op ``rnn``."""
    if activation != "tanh" and activation != "relu":
        return NotImplemented
    return forward(RNN, pre, weight, hidden, None, None, lengths, reverse, activation == "relu")


def lstm(pre, weight, hidden, cell, lengths, *, bint reverse):
    """Kernel of the op ``lstm``."""
    return forward(LSTM, pre, weight, hidden, cell, None, lengths, reverse, False)


def gru(pre, weight, hidden, bias, lengths, *, bint reverse):
    """Kernel of the op ``gru``."""
    return forward(GRU, pre, weight, hidden, None, bias, lengths, reverse, False)


cdef object backward(Kind kind, tuple g, object weight, object cell, object lengths, tuple out, object starts,
                     bint reverse, bint relu):
    """The cotangents of the product, of pre where it is another one, and of the states."""
    cdef Task task
    cdef Arrays x
    cdef int number
    cdef npy_intp* dims
    cdef ndarray da, dpre, dh, dc
    cdef object outs = out[0]
    if type(outs) is not ndarray or PyArray_NDIM(<ndarray>outs) != 3:
        return NotImplemented
    dims = PyArray_DIMS(<ndarray>outs)
    if not set_task(&task, kind, dims[0], dims[1], weight, lengths, reverse):
        return NotImplemented
    number = PyArray_TYPE(<ndarray>weight)
    for each in (outs, g[0]):
        if not has_shape(each, number, task.steps, task.batch, task.n):
            return NotImplemented
    if not has_shape(g[1], number, task.batch, task.n):
        return NotImplemented
    task.relu, task.turned = relu, True
    da, dh = three(task.steps, task.batch, task.all, number), g[1].copy()
    x.outs, x.g_outs = PyArray_DATA(<ndarray>outs), PyArray_DATA(<ndarray>g[0])
    x.da, x.h = PyArray_DATA(da), PyArray_DATA(dh)
    if kind != RNN:
        gates, g_gates = (out[3], g[3]) if kind == LSTM else (out[2], g[2])
        for each in (gates, g_gates):
            if not has_shape(each, number, task.steps, task.batch, 4 * task.n):
                return NotImplemented
        x.gates, x.g_gates = PyArray_DATA(<ndarray>gates), PyArray_DATA(<ndarray>g_gates)
    if kind == LSTM:
        for each in (out[4], g[4]):
            if not has_shape(each, number, task.steps, task.batch, task.n):
                return NotImplemented
        for each in (cell, g[2]):
            if not has_shape(each, number, task.batch, task.n):
                return NotImplemented
        dc = g[2].copy()
        x.cells, x.g_cells = PyArray_DATA(<ndarray>out[4]), PyArray_DATA(<ndarray>g[4])
        x.cell, x.c = PyArray_DATA(<ndarray>cell), PyArray_DATA(dc)
    if kind == GRU:
        if not has_shape(starts, number, task.steps, task.batch, task.n):
            return NotImplemented
        dpre = three(task.steps, task.batch, task.all, number)
        x.starts, x.dpre = PyArray_DATA(<ndarray>starts), PyArray_DATA(dpre)
    if not start(&task, &x, weight):
        return NotImplemented
    return (da, dh) if kind == RNN else (da, dh, dc) if kind == LSTM else (da, dpre, dh)


def rnn_vjp(tuple g not None, weight, lengths, tuple out not None, *, str activation not None, bint reverse):
    """Of the rule of ``rnn``: the cotangents of pre and of the state."""
    return backward(RNN, g, weight, None, lengths, out, None, reverse, activation == "relu")


def lstm_vjp(tuple g not None, weight, cell, lengths, tuple out not None, *, bint reverse):
    """Of the rule of ``lstm``: the cotangents of pre and of the states."""
    return backward(LSTM, g, weight, cell, lengths, out, None, reverse, False)


def gru_vjp(tuple g not None, weight, lengths, tuple out not None, starts, *, bint reverse):
    """Of the rule of ``gru``: the cotangents of the product, of pre and of the state."""
    return backward(GRU, g, weight, None, lengths, out, starts, reverse, False)

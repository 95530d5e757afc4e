"""Arithmetic on small arrays, where NumPy's cost per call is more than the work, and the array questions the tape asks.

Every function answers None where it does not take what it is given; the caller then uses NumPy.
"""
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsDouble
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_BASE, PyArray_CHKFLAGS,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_EMPTY, PyArray_ISBEHAVED_RO, PyArray_IS_C_CONTIGUOUS,
    PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_intp,
)

import numpy as np

import_array()

cdef extern from "numpy/arrayobject.h":
    int PyArray_SetBaseObject(ndarray arr, object obj) except -1
    PyObject* array_type "((PyObject*)&PyArray_Type)"

cdef extern from *:
    """
    #define new_array(descr, nd, dims, strides, data) PyArray_NewFromDescr( \\
        &PyArray_Type, (PyArray_Descr*)(descr), nd, dims, strides, data, 0, NULL)
    """
    object new_array(PyObject* descr, int nd, npy_intp* dims, npy_intp* strides, void* data)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    PyTypeObject* Py_TYPE(PyObject*)
    int PyContextVar_Reset(object var, object token) except -1
    object PyContextVar_Set(object var, object value)

# NumPy's floating-point warnings are switched off around every body: values follow IEEE 754, and detect_anomaly finds
# NaN and inf. np.errstate does the same and costs more than a small operation.
cdef object _extobj_var, _extobj_quiet
try:
    from numpy._core.umath import _extobj_contextvar, _make_extobj
    _extobj_var, _extobj_quiet = _extobj_contextvar, _make_extobj(all="ignore")
except ImportError:
    _extobj_var = None


cdef object hush():
    """Silence NumPy's floating-point warnings; returns what unhush needs."""
    if _extobj_var is not None:
        return PyContextVar_Set(_extobj_var, _extobj_quiet)
    state = np.errstate(all="ignore")
    state.__enter__()
    return state


cdef int unhush(object token) except -1:
    if _extobj_var is not None:
        PyContextVar_Reset(_extobj_var, token)
    else:
        token.__exit__(None, None, None)
    return 0


# above this many elements NumPy's vector loops win over the call they cost
cdef npy_intp SMALL = 1024

ctypedef fused real:
    float
    double


cdef inline void loop(int code, real* x, npy_intp sx, real* y, npy_intp sy, real* out, npy_intp n) noexcept nogil:
    cdef npy_intp i
    if code == ADD:
        for i in range(n):
            out[i] = x[i * sx] + y[i * sy]
    elif code == SUBTRACT:
        for i in range(n):
            out[i] = x[i * sx] - y[i * sy]
    elif code == MULTIPLY:
        for i in range(n):
            out[i] = x[i * sx] * y[i * sy]
    elif code == DIVIDE:
        for i in range(n):
            out[i] = x[i * sx] / y[i * sy]


cdef inline void strided(int code, real* x, npy_intp sx, real* y, npy_intp sy, real* out, npy_intp n) noexcept nogil:
    # constant strides let the compiler vectorise each of the three cases
    if sx == 1 and sy == 1:
        loop(code, x, 1, y, 1, out, n)
    elif sx == 1:
        loop(code, x, 1, y, 0, out, n)
    else:
        loop(code, x, 0, y, 1, out, n)


cdef inline bint is_small(object a):
    return (
        type(a) is ndarray and PyArray_IS_C_CONTIGUOUS(<ndarray>a) and PyArray_SIZE(<ndarray>a) <= SMALL
        and PyArray_ISBEHAVED_RO(<ndarray>a)
        and (PyArray_TYPE(<ndarray>a) == NPY_FLOAT or PyArray_TYPE(<ndarray>a) == NPY_DOUBLE)
    )


cdef inline bint as_double(object value, double* out) except -1:
    if type(value) is float:
        out[0] = PyFloat_AS_DOUBLE(value)
        return True
    if type(value) is int:
        out[0] = PyLong_AsDouble(value)
        return True
    return False


cdef object binary(int code, object a, object b):
    """`a op b` for small contiguous arrays of one shape (or one 0-d) and float type, or such an array and a number."""
    cdef ndarray like, out
    cdef void* x
    cdef void* y
    cdef npy_intp step_x = 1, step_y = 1
    cdef double value = 0.0
    cdef float single
    cdef bint first = is_small(a), second = is_small(b)
    if first and second:
        like = <ndarray>a
        if PyArray_TYPE(like) != PyArray_TYPE(<ndarray>b):
            return None
        if not same_extents(like, <ndarray>b):
            if PyArray_NDIM(<ndarray>b) == 0:
                step_y = 0
            elif PyArray_NDIM(like) == 0:
                step_x = 0
                like = <ndarray>b
            else:
                return None
    elif first:
        if not as_double(b, &value):
            return None
        like = <ndarray>a
        step_y = 0
    elif second:
        if not as_double(a, &value):
            return None
        like = <ndarray>b
        step_x = 0
    else:
        return None
    out = <ndarray>PyArray_EMPTY(PyArray_NDIM(like), PyArray_DIMS(like), PyArray_TYPE(like), 0)
    single = <float>value
    if PyArray_TYPE(like) == NPY_FLOAT:
        x = PyArray_DATA(<ndarray>a) if first else <void*>&single
        y = PyArray_DATA(<ndarray>b) if second else <void*>&single
        strided(code, <float*>x, step_x, <float*>y, step_y, <float*>PyArray_DATA(out), PyArray_SIZE(out))
    else:
        x = PyArray_DATA(<ndarray>a) if first else <void*>&value
        y = PyArray_DATA(<ndarray>b) if second else <void*>&value
        strided(code, <double*>x, step_x, <double*>y, step_y, <double*>PyArray_DATA(out), PyArray_SIZE(out))
    return out


cdef inline bint same_extents(ndarray a, ndarray b):
    cdef int i
    if PyArray_NDIM(a) != PyArray_NDIM(b):
        return False
    for i in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[i] != PyArray_DIMS(b)[i]:
            return False
    return True


cdef bint add_to(object a, object b) except -1:
    """``a += b`` for small contiguous float arrays of one shape and dtype; False where they are something else."""
    cdef ndarray x, y
    if not (is_small(a) and is_small(b) and PyArray_CHKFLAGS(<ndarray>a, NPY_ARRAY_WRITEABLE)):
        return False
    x, y = <ndarray>a, <ndarray>b
    if PyArray_TYPE(x) != PyArray_TYPE(y) or not same_extents(x, y):
        return False
    if PyArray_TYPE(x) == NPY_FLOAT:
        loop(ADD, <float*>PyArray_DATA(x), 1, <float*>PyArray_DATA(y), 1, <float*>PyArray_DATA(x), PyArray_SIZE(x))
    else:
        loop(ADD, <double*>PyArray_DATA(x), 1, <double*>PyArray_DATA(y), 1, <double*>PyArray_DATA(x), PyArray_SIZE(x))
    return True


cdef dict _expansions = {}    # type of arrays that keep only part of their elements -> what makes them full


def bind_expansion(kind, function):
    """Say how arrays of a type that keeps only part of its elements are made full."""
    _expansions[kind] = function


cdef bint is_partial(object a):
    """Whether an array keeps only part of its elements, as a row-sparse gradient does."""
    return type(a) is not ndarray and type(a) in _expansions


cdef object dense(object a):
    """An array in full."""
    return _expansions[type(a)](a) if is_partial(a) else a


cdef object dtype_of(object a):
    """The dtype of an array; for NumPy's the pointer itself, since the attribute costs 30 ns."""
    if type(a) is ndarray:
        return <object><PyObject*>PyArray_DESCR(<ndarray>a)
    return a.dtype


cdef object unary(int code, object a):
    """`-a` for a small contiguous float array."""
    cdef ndarray x, out
    cdef npy_intp i
    cdef float* x4
    cdef float* out4
    cdef double* x8
    cdef double* out8
    if code != NEGATIVE or not is_small(a):
        return None
    x = <ndarray>a
    out = <ndarray>PyArray_EMPTY(PyArray_NDIM(x), PyArray_DIMS(x), PyArray_TYPE(x), 0)
    if PyArray_TYPE(x) == NPY_FLOAT:
        x4, out4 = <float*>PyArray_DATA(x), <float*>PyArray_DATA(out)
        for i in range(PyArray_SIZE(x)):
            out4[i] = -x4[i]
    else:
        x8, out8 = <double*>PyArray_DATA(x), <double*>PyArray_DATA(out)
        for i in range(PyArray_SIZE(x)):
            out8[i] = -x8[i]
    return out


cdef object full_sum(object a):
    """The sum of all elements of a small contiguous float array, as a 0-d array; added up in double precision."""
    cdef ndarray x, out
    cdef npy_intp i
    cdef double total = 0.0
    if not is_small(a):
        return None
    x = <ndarray>a
    out = <ndarray>PyArray_EMPTY(0, NULL, PyArray_TYPE(x), 0)
    if PyArray_TYPE(x) == NPY_FLOAT:
        for i in range(PyArray_SIZE(x)):
            total += (<float*>PyArray_DATA(x))[i]
        (<float*>PyArray_DATA(out))[0] = <float>total
    else:
        for i in range(PyArray_SIZE(x)):
            total += (<double*>PyArray_DATA(x))[i]
        (<double*>PyArray_DATA(out))[0] = total
    return out


cdef object filled(tuple shape, object descr, double value):
    """A new array of `shape`, every element `value`."""
    cdef ndarray out
    if len(shape) == 0 and descr.num in (NPY_FLOAT, NPY_DOUBLE):
        out = <ndarray>PyArray_EMPTY(0, NULL, descr.num, 0)
        if PyArray_TYPE(out) == NPY_FLOAT:
            (<float*>PyArray_DATA(out))[0] = <float>value
        else:
            (<double*>PyArray_DATA(out))[0] = value
        return out
    return np.full(shape, value, descr)


cdef object expand(object a, tuple shape):
    """`a` broadcast to `shape` as a read-only array of zero strides (NumPy's broadcast_to costs 20 times as much)."""
    cdef ndarray x, out
    cdef npy_intp dims[64]
    cdef npy_intp strides[64]
    cdef int n = <int>len(shape), lead, i
    if type(a) is not ndarray or n > 64:
        return None
    x = <ndarray>a
    lead = n - PyArray_NDIM(x)
    if lead < 0:
        return None
    for i in range(n):
        dims[i] = shape[i]
        if i < lead:
            strides[i] = 0
        elif PyArray_DIMS(x)[i - lead] == dims[i]:
            strides[i] = PyArray_STRIDES(x)[i - lead]
        elif PyArray_DIMS(x)[i - lead] == 1:
            strides[i] = 0
        else:
            return None
    cdef object descr = x.dtype
    Py_INCREF(descr)    # new_array takes the reference over
    out = <ndarray>new_array(<PyObject*>descr, n, dims, strides, PyArray_DATA(x))
    Py_INCREF(x)
    PyArray_SetBaseObject(out, x)
    return out


cdef bint same_shape(object a, tuple shape) except -1:
    cdef int i
    if type(a) is not ndarray:
        return tuple(a.shape) == shape
    if PyArray_NDIM(<ndarray>a) != len(shape):
        return False
    for i in range(PyArray_NDIM(<ndarray>a)):
        if PyArray_DIMS(<ndarray>a)[i] != <npy_intp>shape[i]:
            return False
    return True


cdef bint sole(PyObject* a) noexcept:
    """Whether there is one reference to an array and its memory, the caller's, so that it may be written to.

    The argument is a bare pointer because a Python reference to it would count.
    """
    if (<PyObject*>Py_TYPE(a)) != array_type:    # on a GPU; what is no array lacks the attribute
        return Py_REFCNT(a) == 1 and getattr(<object>a, "base", False) is None
    return (
        Py_REFCNT(a) == 1 and PyArray_BASE(<ndarray>a) is NULL
        and PyArray_CHKFLAGS(<ndarray>a, NPY_ARRAY_WRITEABLE)
    )


cdef bint overlaps(object a, object b) except -1:
    """Whether two arrays may lie in the same memory (by their bounds)."""
    cdef size_t low_a, high_a, low_b, high_b
    if type(a) is not ndarray or type(b) is not ndarray:
        return True
    bounds(<ndarray>a, &low_a, &high_a)
    bounds(<ndarray>b, &low_b, &high_b)
    return low_a < high_b and low_b < high_a


cdef void bounds(ndarray a, size_t* low, size_t* high) noexcept:
    cdef int i
    cdef npy_intp step
    low[0] = high[0] = <size_t>PyArray_DATA(a)
    high[0] += PyArray_ITEMSIZE(a)
    for i in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[i] == 0:
            high[0] = low[0]
            return
        step = (PyArray_DIMS(a)[i] - 1) * PyArray_STRIDES(a)[i]
        if step > 0:
            high[0] += step
        else:
            low[0] += step


def first_read_only(list arrays not None):
    """The place of the first of NumPy's arrays that cannot be written to, -1 where there is none."""
    cdef Py_ssize_t k
    for k in range(len(arrays)):
        if type(arrays[k]) is ndarray and not PyArray_CHKFLAGS(<ndarray>arrays[k], NPY_ARRAY_WRITEABLE):
            return k
    return -1


def sum_small(x, axis=None, bint keepdims=False):
    """Kernel of the op ``sum``: all elements of a small contiguous array."""
    if axis is not None or keepdims:
        return NotImplemented
    out = full_sum(x)
    return NotImplemented if out is None else out

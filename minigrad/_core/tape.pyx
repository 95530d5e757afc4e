"""The tape: tensors, the nodes that record how they were made, and the modes that decide whether to record."""
cimport cython
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.ref cimport Py_INCREF, Py_XDECREF
from numpy cimport ndarray, PyArray_NDIM, PyArray_DIMS, import_array

from minigrad._core.arrays cimport dtype_of

import contextvars
import os
import sys
import weakref

from minigrad.errors import GradError

import_array()

cdef extern from "Python.h":
    int PyContextVar_Get(object var, PyObject* default, PyObject** value) except -1
    int PyContextVar_Reset(object var, object token) except -1
    object PyContextVar_Set(object var, object value)
    Py_ssize_t Py_REFCNT(PyObject*)
    object PyLong_FromSsize_t(Py_ssize_t)


grad_mode = contextvars.ContextVar("minigrad_grad_mode", default=True)
anomaly_mode = contextvars.ContextVar("minigrad_anomaly_mode", default=False)
autocast_mode = contextvars.ContextVar("minigrad_autocast_mode", default=None)

cdef object _grad_mode = grad_mode
cdef object _anomaly_mode = anomaly_mode
cdef object _autocast_mode = autocast_mode
cdef object _tensor_type = None
cdef object _no_args = ()
cdef unsigned long long _seq = 0
_package = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


cdef inline bint read_mode(object var) except -1:
    cdef PyObject* value = NULL
    PyContextVar_Get(var, NULL, &value)
    cdef bint on = <object>value is True
    Py_XDECREF(value)
    return on


cdef bint recording() except -1:
    return read_mode(_grad_mode)


# detect_anomaly blocks open in any thread; the context variable is read only where there are some
cdef int _anomaly_users = 0


cdef bint anomaly() except -1:
    return _anomaly_users != 0 and read_mode(_anomaly_mode)


def count_anomaly_user(int step):
    """Note that a detect_anomaly block was entered (1) or left (-1)."""
    global _anomaly_users
    _anomaly_users += step


# whether an autocast block was ever entered: before that, nobody reads the context variable
cdef bint _autocast_used = False


@cython.final
cdef class Region:
    """What ops know of the autocast block that they are called in."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.params = {"dtype": dtype, "copy": False}
        self.kept = {}


cdef Region region_here():
    """The autocast block in force; None where there is none."""
    cdef PyObject* value = NULL
    if not _autocast_used:
        return None
    PyContextVar_Get(_autocast_mode, NULL, &value)
    cdef object found = <object>value
    Py_XDECREF(value)
    return <Region>found


def forget_cast():
    """Let the autocast block in force cast its next activation anew, as where the memory of a cast goes its own way."""
    cdef Region region = region_here()
    if region is not None:
        region.recent = None


cdef object leave_region():
    """Switch autocast off; returns what `enter_region` needs to switch it on again."""
    return PyContextVar_Set(_autocast_mode, None)


cdef int enter_region(object token) except -1:
    PyContextVar_Reset(_autocast_mode, token)
    return 0


def autocast_dtype():
    """The half type of the autocast block in force; None where there is none."""
    cdef Region region = region_here()
    return None if region is None else region.dtype


cdef class Mode:
    """Sets a context variable inside a ``with`` block.

    Compiled, so that an interrupt from the keyboard cannot come between a change and its undoing.
    """
    cdef readonly object variable, value
    cdef list tokens

    def __cinit__(self, *args, **kwargs):
        self.tokens = []

    def __init__(self, variable, value):
        self.variable = variable
        self.value = value

    def __enter__(self):
        self.tokens.append(self.variable.set(self.value))
        return self

    def __exit__(self, kind, error, trace):
        self.variable.reset(self.tokens.pop())


cdef class AutocastMode(Mode):
    """Autocast to a half type inside a ``with`` block, or none where the value is None."""

    def __init__(self, dtype):
        super().__init__(_autocast_mode, dtype)

    def __enter__(self):
        global _autocast_used
        cdef Region region = None
        if self.value is not None:
            _autocast_used = True
            region = region_here()
            if region is None or region.dtype != self.value:    # an inner block of one dtype shares what is kept
                region = Region(self.value)
        self.tokens.append(PyContextVar_Set(_autocast_mode, region))
        return self


def is_recording():
    """True where new operations are recorded on the tape (no ``no_grad`` is in force)."""
    return recording()


def user_site():
    """The caller's file, line and function, frames of this package left out."""
    frame = sys._getframe(0)
    while frame is not None:
        path = frame.f_code.co_filename
        # nn/ installs below the package, but in a checkout it lies beside it; both belong to us
        if not path.startswith(_package) and not str(frame.f_globals.get("__name__")).startswith("minigrad."):
            return f"{path}:{frame.f_lineno}, in {frame.f_code.co_name}"
        frame = frame.f_back
    return "an unknown place"


@cython.final
@cython.freelist(64)
cdef class Version:
    """Counts the in-place changes of one piece of memory; every tensor in that memory shares it."""


cdef Version new_version():
    return Version.__new__(Version)


cdef Version version_of(TensorBase t):
    if t._version is None:
        t._version = new_version()
    return t._version


cdef class Rule:
    """What a node does with the cotangent of its output: the base of ops, Functions and checkpoints."""

    cdef list pull(self, Node node, object g, unsigned long long want, bint create, list into):
        raise GradError(f"{self.name}: this node has no derivative rule")


@cython.final
cdef class Pick(Rule):
    """Takes one output of a node that has several; the engine hands its cotangent on."""

    def __cinit__(self):
        self.name = "output"


cdef Pick _pick = Pick()


@cython.final
@cython.freelist(256)
@cython.trashcan(True)
cdef class Node:
    """One recorded operation. It never holds the tensor it made, so a graph has no reference cycle."""

    @property
    def name(self):
        """The name of the op that was recorded."""
        return self.rule.name if self.rule is not None else "freed"

    @property
    def is_pick(self):
        """Whether the node takes one output of its only parent."""
        return self.rule is _pick

    def release(self):
        """Drop residuals and edges; a later backward through this node raises."""
        release(self)

    def __repr__(self):
        return f"<Node {self.name} -> {self.shape} {self.dtype}>"


cdef release(Node node):
    node.freed = True
    node.saved = None
    node.parents = _no_args
    node.params = None
    node.out_versions = None
    if type(node.rule) is PyRule:    # made for this node alone; what its function closes over goes too
        (<PyRule>node.rule).function = None


cdef tuple shape_of(object array):
    cdef int n, i
    cdef tuple shape
    cdef object extent
    if type(array) is not ndarray:
        return tuple(array.shape)
    n = PyArray_NDIM(<ndarray>array)
    if n == 0:
        return _no_args
    shape = PyTuple_New(n)
    for i in range(n):
        extent = PyLong_FromSsize_t(PyArray_DIMS(<ndarray>array)[i])
        Py_INCREF(extent)
        PyTuple_SET_ITEM(shape, i, extent)
    return shape


cdef Node new_node(Rule rule, dict params, tuple parents, tuple saved, object array):
    global _seq
    cdef Node node = Node.__new__(Node)
    _seq += 1
    node.seq = _seq
    node.rule = rule
    node.params = params
    node.parents = parents
    node.saved = saved
    if array is not None:
        node.shape = shape_of(array)
        node.dtype = dtype_of(array)
    return node


cdef Node new_pick(Node source, int index, object array):
    cdef Node node = new_node(_pick, None, (source,), None, array)
    node.index = index
    return node


cdef int check_versions(Node node) except -1:
    """Raise where a residual was changed in place after the node saved it."""
    cdef long total = 0
    if node.saved is None:
        return 0
    total = versions(node.saved)
    if node.out_versions is not None:
        total += out_versions(node.out_versions)
    if total != node.version_sum:
        raise_changed(node)
    return 0


cdef long versions(tuple saved) except -1:
    """How often the saved tensors were changed in place, added up."""
    cdef long total = 0
    cdef object item
    for item in saved:
        if isinstance(item, TensorBase):
            if (<TensorBase>item)._version is not None:
                total += (<TensorBase>item)._version.value
        elif type(item) is tuple:
            total += versions(<tuple>item)
    return total


cdef long out_versions(object kept) except -1:
    cdef long total = 0
    if type(kept) is Version:
        return (<Version>kept).value
    for item in <tuple>kept:
        total += (<Version>item).value
    return total


cdef raise_freed():
    raise GradError(
        "backward: the graph was freed by an earlier backward. Pass retain_graph=True to the first one, or compute the "
        "outputs again"
    )


cdef raise_changed(Node node):
    sites = []
    for item in node.saved:
        for part in (item if type(item) is tuple else (item,)):
            if isinstance(part, TensorBase) and (<TensorBase>part)._version is not None:
                sites.append((<TensorBase>part)._version.site)
    versions = node.out_versions
    for item in ((versions,) if type(versions) is Version else versions or ()):
        sites.append((<Version>item).site)
    changed = next((site for site in sites if site), "an unknown place")
    recorded = f" (recorded at {node.site})" if node.site else ""
    raise GradError(
        f"{node.name}: a value that {node.name}{recorded} saved for backward was changed in place at {changed}. "
        "Make a new tensor instead (t = t + u, or t.at[i].set(v)), or change a t.clone()."
    )


cdef class TensorBase:
    """The memory of a tensor and its place on the tape; `minigrad.Tensor` adds the methods."""

    @property
    def shape(self):
        """Extents along each axis, a tuple of ints."""
        return shape_of(self._array)

    @property
    def dtype(self):
        """Element type, a NumPy dtype."""
        return self._array.dtype

    @property
    def ndim(self):
        """How many axes there are."""
        return self._array.ndim

    @property
    def size(self):
        """How many elements there are."""
        return self._array.size

    @property
    def requires_grad(self):
        """Whether operations on this tensor are recorded."""
        return self._leaf or self._node is not None

    @property
    def is_leaf(self):
        """Whether the tensor was made by the user and not by a recorded operation."""
        return self._node is None


cdef object edge_of(TensorBase t):
    if t._node is not None:
        return t._node
    return t if t._leaf else None


def edge(TensorBase t not None):
    """What the graph knows the tensor by: its node, itself where it is a leaf, None where it is a constant."""
    return edge_of(t)


def bind_tensor(cls):
    """Make `cls` the type of every tensor that an operation returns."""
    global _tensor_type
    _tensor_type = cls


cdef TensorBase wrap(object array, Node node):
    # the type's own tp_new, called directly: cls.__new__ costs 60 ns more
    cdef TensorBase t = new_tensor_object(_tensor_type)
    t._array = array
    t._node = node
    return t


cdef extern from *:
    """
    static CYTHON_INLINE PyObject* new_tensor_object(PyObject* cls) {
        static PyObject* empty = NULL;
        if (!empty) { empty = PyTuple_New(0); if (!empty) return NULL; }
        return ((PyTypeObject*)cls)->tp_new((PyTypeObject*)cls, empty, NULL);
    }
    """
    TensorBase new_tensor_object(object cls)


def new_tensor(array, bint requires_grad=False):
    """Wrap a backend's array, without a copy, as a tensor that is not the result of an operation."""
    cdef TensorBase t = wrap(array, None)
    t._leaf = requires_grad
    return t


def share(TensorBase source not None, array):
    """A constant tensor on `array`, which lies in the memory of `source` (detach, views outside the graph)."""
    cdef TensorBase t = wrap(array, None)
    t._version = version_of(source)
    t._version.shared = True
    return t


def mark_changed(TensorBase t not None):
    """Note an in-place change of the tensor's memory, and where the user's code made it."""
    cdef Version version = version_of(t)
    version.value += 1
    version.site = user_site()


def adopt(TensorBase t not None, TensorBase result not None):
    """Give `t`, whose memory now holds the values of `result`, the place of `result` on the tape."""
    t._node = result._node


def is_shared(TensorBase t not None):
    """Whether other tensors that are still alive lie in the same memory."""
    cdef Py_ssize_t holders
    if t._version is None or not t._version.shared:
        return False
    # every tensor in the memory holds the count, and so does the node that saved the tensor as its output
    holders = Py_REFCNT(<PyObject*>t._version)
    if t._node is not None and t._node.out_versions is t._version:
        holders -= 1
    return holders > 1


def join_memory(TensorBase made not None, TensorBase source not None):
    """Let a tensor that was wrapped around the array of `source` count in-place changes with it."""
    made._version = version_of(source)


cdef class PyRule(Rule):
    """A rule written in Python: ``pull(node, cotangent, create)`` gives a cotangent (or None) for each parent."""
    cdef object function

    def __init__(self, str name, function):
        self.name = name
        self.function = function

    cdef list pull(self, Node node, object g, unsigned long long want, bint create, list into):
        check_versions(node)
        return list(self.function(node, g, create))


def record(Rule rule not None, tuple parents not None, tuple arrays not None, tuple saved not None):
    """Put an operation that is not an op on the tape; returns its output tensors.

    Parameters
    ----------
    rule : Rule
        What pulls cotangents back.
    parents : tuple of Node or Tensor or None
        The edges of the inputs.
    arrays : tuple of array
        The outputs.
    saved : tuple
        Residuals; tensors among them are guarded against in-place changes.

    Returns
    -------
    list of Tensor
    """
    cdef Node node
    cdef list outputs = []
    cdef int i
    for array in arrays:
        if array.dtype.kind == "c":
            raise GradError(f"{rule.name}: the result is {array.dtype}; gradients are defined for real tensors only")
    if not any([array.dtype.kind in "fV" for array in arrays]):
        return [wrap(array, None) for array in arrays]
    node = new_node(rule, None, parents, saved, arrays[0] if len(arrays) == 1 else None)
    node.version_sum = versions(saved)
    if anomaly():
        node.site = user_site()
    if len(arrays) == 1:
        return [wrap(arrays[0], node)]
    node.outputs = tuple([(tuple(array.shape), array.dtype) for array in arrays])
    for i in range(<int>len(arrays)):
        outputs.append(wrap(arrays[i], new_pick(node, i, arrays[i]) if arrays[i].dtype.kind in "fV" else None))
    return outputs


def node_reference(TensorBase t not None):
    """A weak reference to the node that made a tensor (for a pick: to the node that made all outputs)."""
    node = t._node
    return weakref.ref((<Node>node).parents[0] if (<Node>node).rule is _pick else node)


def reopen(Node node not None, int index, TensorBase t not None):
    """Output `index` of a node as a tensor in the graph again, on the memory of `t`."""
    cdef TensorBase made
    made = wrap(t._array, node if node.shape is not None else new_pick(node, index, t._array))
    made._version = t._version
    return made


def clock():
    """The number of the newest node; nodes made later have larger ones."""
    return _seq


def frontier(list outputs not None, unsigned long long since):
    """The leaves, and the nodes not newer than `since`, that a graph stands on."""
    cdef list stack = [edge_of(<TensorBase>t) for t in outputs]
    cdef set seen = set()
    cdef list found = []
    while stack:
        item = stack.pop()
        if item is None or item in seen:
            continue
        seen.add(item)
        if type(item) is Node and (<Node>item).seq > since:
            stack.extend((<Node>item).parents)
        else:
            found.append(item)
    return found


def mark_updated(list parameters not None, str site):
    """Note that the memory of each tensor was changed, and by whom: a text, so that no step walks the stack."""
    cdef Version version
    for p in parameters:
        version = version_of(<TensorBase?>p)
        version.value += 1
        version.site = site

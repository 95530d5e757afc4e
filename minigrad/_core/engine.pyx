"""The backward pass: from the cotangents of some outputs to those of leaves or of chosen inputs, without recursion."""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from numpy cimport NPY_ARRAY_WRITEABLE, PyArray_CHKFLAGS, import_array, ndarray

from minigrad._core.arrays cimport (
    ADD, add_to, binary, dense, dtype_of, expand, filled, hush, is_partial, same_shape, sole, unhush,
)
from minigrad._core.dispatch cimport recast
from minigrad._core.tape cimport (
    Node, TensorBase, Version, anomaly, edge_of, enter_region, leave_region, raise_freed, region_here, version_of, wrap,
)

import os
import weakref

from numpy import generic

from minigrad._core.tape import grad_mode
from minigrad.errors import DTypeError, GradError, ShapeError

import_array()

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(object items, Py_ssize_t place)
    Py_ssize_t Py_REFCNT(PyObject*)
    int PyContextVar_Reset(object var, object token) except -1
    object PyContextVar_Set(object var, object value)

cdef object _grad_mode = grad_mode
cdef object _namespace = None
cdef dict _backends = {}
cdef cython.pymutex _grad_lock
cdef object ADDED = object()    # in place of a gradient that its rule has added where it belongs


def _acquire_grad_lock():
    _grad_lock.acquire()


def _release_grad_lock():
    _grad_lock.release()


# a child forked while another thread accumulates would find the lock held for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_acquire_grad_lock, after_in_parent=_release_grad_lock, after_in_child=_release_grad_lock
    )


def bind(namespace):
    """Give the engine the op namespace."""
    global _namespace
    _namespace = namespace


def bind_backend(backend):
    """Register a backend by the type of its arrays."""
    _backends[backend.array_type] = backend


cdef struct Slot:
    PyObject* item        # Node or leaf tensor, a strong reference
    PyObject* cotangent   # a strong reference, NULL before the first contribution
    Py_ssize_t waiting    # contributions still to come
    Py_ssize_t target     # place among the chosen inputs, -1 if it is none
    bint through          # some parent leads to something that wants a gradient
    bint needed           # is wanted itself, or through
    bint settled          # of a leaf: all its contributions are in


@cython.final
cdef class Run:
    """One backward pass. What it notes about a node lies here and not in the node, so passes may run side by side."""
    cdef Slot* slots
    cdef Py_ssize_t count, room
    cdef Py_ssize_t* table      # open addressing: pointer of an item -> slot + 1
    cdef size_t mask
    cdef bint create, retain, accumulate, stop
    cdef list found             # cotangents of the chosen inputs
    cdef list ending            # what hooks want to be called at the end

    def __cinit__(self):
        self.room = 16
        self.mask = 63
        self.slots = <Slot*>malloc(self.room * sizeof(Slot))
        self.table = <Py_ssize_t*>calloc(self.mask + 1, sizeof(Py_ssize_t))
        if self.slots == NULL or self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_XDECREF(self.slots[i].item)
            Py_XDECREF(self.slots[i].cotangent)
        free(self.slots)
        free(self.table)

    cdef Py_ssize_t find(self, object item):
        """The slot of an item, -1 where it has none."""
        cdef size_t h = hash_pointer(<PyObject*>item) & self.mask
        while self.table[h] != 0:
            if self.slots[self.table[h] - 1].item == <PyObject*>item:
                return self.table[h] - 1
            h = (h + 1) & self.mask
        return -1

    cdef Py_ssize_t add(self, object item) except -1:
        """Give an item a slot."""
        cdef size_t h
        cdef Py_ssize_t k
        cdef Slot* more
        cdef Py_ssize_t* table
        if self.count == self.room:
            more = <Slot*>realloc(self.slots, 2 * self.room * sizeof(Slot))
            if more == NULL:
                raise MemoryError
            self.slots = more
            self.room *= 2
        if 2 * <size_t>(self.count + 1) > self.mask:
            table = <Py_ssize_t*>calloc(4 * (self.mask + 1), sizeof(Py_ssize_t))
            if table == NULL:
                raise MemoryError
            free(self.table)
            self.table = table
            self.mask = 4 * (self.mask + 1) - 1
            for k in range(self.count):
                h = hash_pointer(self.slots[k].item) & self.mask
                while self.table[h] != 0:
                    h = (h + 1) & self.mask
                self.table[h] = k + 1
        h = hash_pointer(<PyObject*>item) & self.mask
        while self.table[h] != 0:
            h = (h + 1) & self.mask
        k = self.count
        self.table[h] = k + 1
        Py_INCREF(item)
        self.slots[k].item = <PyObject*>item
        self.slots[k].cotangent = NULL
        self.slots[k].waiting = 0
        self.slots[k].target = -1
        self.slots[k].through = self.slots[k].needed = self.slots[k].settled = False
        self.count += 1
        return k

    cdef int order(self, list roots, Py_ssize_t* length, Py_ssize_t** sequence) except -1:
        """Depth first from the roots: slots in an order in which every parent comes before its children."""
        cdef Py_ssize_t depth = 0, room = 64, n = 0, slot, parent, place, size = 64
        cdef Py_ssize_t* stack = <Py_ssize_t*>malloc(2 * room * sizeof(Py_ssize_t))
        cdef Py_ssize_t* done = <Py_ssize_t*>malloc(size * sizeof(Py_ssize_t))
        cdef void* more
        cdef object item, edge
        cdef Node node
        try:
            if stack == NULL or done == NULL:
                raise MemoryError
            for item in roots:
                slot = self.find(item)
                if slot >= 0 and self.slots[slot].waiting < 0:
                    continue
                if slot < 0:
                    slot = self.add(item)
                stack[0], stack[1], depth = slot, 0, 1
                self.slots[slot].waiting = -1    # on the stack or done, until contributions are counted
                while depth:
                    slot, place = stack[2 * depth - 2], stack[2 * depth - 1]
                    item = <object>self.slots[slot].item
                    if type(item) is Node and not (self.stop and self.slots[slot].target >= 0):
                        node = <Node>item
                        if node.freed:
                            raise_freed()
                        if place < len(node.parents):
                            stack[2 * depth - 1] = place + 1
                            edge = node.parents[place]
                            if edge is None:
                                continue
                            parent = self.find(edge)
                            if parent < 0:
                                parent = self.add(edge)
                            elif self.slots[parent].waiting < 0:
                                continue
                            self.slots[parent].waiting = -1
                            if depth == room:
                                more = realloc(stack, 4 * room * sizeof(Py_ssize_t))
                                if more == NULL:
                                    raise MemoryError
                                stack = <Py_ssize_t*>more
                                room *= 2
                            stack[2 * depth], stack[2 * depth + 1] = parent, 0
                            depth += 1
                            continue
                    depth -= 1
                    if n == size:
                        more = realloc(done, 2 * size * sizeof(Py_ssize_t))
                        if more == NULL:
                            raise MemoryError
                        done = <Py_ssize_t*>more
                        size *= 2
                    done[n] = slot
                    n += 1
            length[0], sequence[0] = n, done
            done = NULL
        finally:
            free(stack)
            free(done)
        return 0

    cdef mark(self, Py_ssize_t* sequence, Py_ssize_t n):
        """Find what leads to a wanted gradient, and count the contributions each slot will get."""
        cdef Py_ssize_t i, slot, parent
        cdef object item, edge
        for i in range(n):
            self.slots[sequence[i]].waiting = 0
        for i in range(n):
            slot = sequence[i]
            item = <object>self.slots[slot].item
            if type(item) is not Node:
                self.slots[slot].needed = self.accumulate or self.slots[slot].target >= 0
                continue
            if not (self.stop and self.slots[slot].target >= 0):
                for edge in (<Node>item).parents:
                    if edge is not None:
                        parent = self.find(edge)
                        if parent < 0:
                            raise_freed()
                        if self.slots[parent].needed:
                            self.slots[slot].through = True
            self.slots[slot].needed = self.slots[slot].through or self.slots[slot].target >= 0
        for i in range(n):
            slot = sequence[i]
            if self.slots[slot].through:
                item = <object>self.slots[slot].item
                for edge in (<Node>item).parents:
                    if edge is not None:
                        parent = self.find(edge)
                        if parent < 0:
                            raise_freed()
                        self.slots[parent].waiting += 1

    cdef give(self, Py_ssize_t slot, object g):
        """Add a contribution to a slot: borrowed the first time, owned from the second."""
        cdef PyObject* before = self.slots[slot].cotangent
        cdef PyObject* total
        if before == NULL:
            Py_INCREF(g)
            self.slots[slot].cotangent = <PyObject*>g
            return
        total = add_cotangents(before, g, self.create)
        self.slots[slot].cotangent = total
        Py_XDECREF(before)

    cdef object take(self, Py_ssize_t slot):
        """Move the cotangent out of a slot."""
        cdef PyObject* held = self.slots[slot].cotangent
        if held == NULL:
            return None
        self.slots[slot].cotangent = NULL
        g = <object>held
        Py_XDECREF(held)
        return g

    cdef bint outer(self, Py_ssize_t slot):
        """Whether another pass, which asked for this one, goes on from the slot, and will run its hooks."""
        return self.stop and self.slots[slot].target >= 0

    cdef settle_leaf(self, Py_ssize_t slot):
        """All contributions to a leaf are in: run its hooks, then accumulate or report."""
        cdef TensorBase leaf = <TensorBase><object>self.slots[slot].item
        cdef object g = self.take(slot), made
        if g is not None:
            if leaf._hooks and not self.outer(slot):
                g = run_hooks(leaf._hooks, g, leaf._array.shape, leaf._array.dtype, self.create, "leaf")
            if self.slots[slot].target >= 0:
                self.found[self.slots[slot].target] = g
            elif self.accumulate:
                accumulate_grad(leaf, g, self.create)
        if leaf._hooks and self.accumulate and not self.slots[slot].settled:
            self.slots[slot].settled = True
            g = None
            for entry in list(leaf._hooks):
                if len(<tuple>entry) == 2:
                    made = (<tuple>entry)[0](leaf)
                    if made is not None and made not in self.ending:
                        self.ending.append(made)

    cdef go(self, list roots, list seeds):
        cdef Py_ssize_t n = 0, i, k, slot, parent
        cdef Py_ssize_t* sequence = NULL
        cdef Node node
        cdef object item, g, edge, grad
        cdef tuple parents
        cdef list grads
        cdef unsigned long long want
        self.order(roots, &n, &sequence)
        try:
            self.mark(sequence, n)
            for item, g in zip(roots, seeds, strict=True):
                self.give(self.find(item), g)
            g = None
            for i in range(n - 1, -1, -1):
                slot = sequence[i]
                item = <object>self.slots[slot].item
                if type(item) is not Node:
                    if self.slots[slot].waiting == 0:
                        self.settle_leaf(slot)
                    continue
                node = <Node>item
                g = self.take(slot)
                if not self.slots[slot].needed:
                    self.drop(slot)
                    continue
                if g is not None and node.hooks and node.shape is not None and not self.outer(slot):
                    g = run_hooks(node.hooks, g, node.shape, node.dtype, self.create, node.rule.name)
                if self.slots[slot].target >= 0:
                    self.found[self.slots[slot].target] = g
                if not self.slots[slot].through:
                    continue
                if node.freed:
                    raise_freed()
                parents = node.parents
                if g is None:
                    for edge in parents:
                        if edge is not None:
                            self.arrive(self.find(edge))
                    self.drop(slot)
                    continue
                if node.is_pick:
                    self.hand_on(node, g)
                    g = None
                    self.drop(slot)
                    continue
                if node.shape is None:
                    g = fill_missing(<list>g, node, self.create)
                    if node.freed:    # by another thread, while zeros were made
                        raise_freed()
                want = 0
                for k in range(len(parents)):
                    edge = parents[k]
                    if edge is not None and self.slots[self.find(edge)].needed:
                        if k < 64:
                            want |= <unsigned long long>1 << k
                if node.rule.adds and not self.create and not anomaly():
                    grads = self.pull_into(node, g, want)
                else:
                    grads = node.rule.pull(node, g, want, self.create, None)
                if anomaly():
                    inspect_backward(node, g, grads)
                g = None
                for k in range(len(parents)):
                    edge = parents[k]
                    if edge is None:
                        continue
                    parent = self.find(edge)
                    if self.slots[parent].needed:
                        grad = grads[k]
                        grads[k] = None    # so that a fresh array has one reference when it arrives
                        if grad is not None and grad is not ADDED:
                            self.give(parent, conform(grad, edge, node, self.create))
                            grad = None
                    self.arrive(parent)
                grads = None
                if not self.retain:
                    node.release()
                self.drop(slot)
        finally:
            free(sequence)

    cdef list pull_into(self, Node node, object g, unsigned long long want):
        """`pull` by a rule that may add a gradient to what is there already, which leaves ADDED in its place.

        It may add to a cotangent that is owned, or to the ``.grad`` of a leaf whose last contribution this is. A leaf's
        is taken from it meanwhile, and what others accumulate until it is back is added then: no lock is held while
        a rule runs.
        """
        cdef Py_ssize_t k, slot, n = len(node.parents)
        cdef list rooms = [None] * n, lent = [None] * n, grads
        cdef object edge
        cdef tuple parents = node.parents    # another thread may free the node while the rule runs
        cdef Version version
        if node.compute is not None:
            return node.rule.pull(node, g, want, False, None)
        for k in range(min(n, 64)):
            if not (want >> k) & 1:
                continue
            edge = parents[k]
            slot = self.find(edge)
            if self.slots[slot].cotangent != NULL:
                if sole(self.slots[slot].cotangent):
                    rooms[k] = <object>self.slots[slot].cotangent
            elif type(edge) is not Node and self.accumulate and self.slots[slot].waiting == 1:
                lent[k] = borrow_grad(<TensorBase>edge)
                if lent[k] is not None:
                    rooms[k] = (<TensorBase>lent[k])._array
        try:
            grads = node.rule.pull(node, g, want, False, rooms)
            for k in range(n):
                if grads[k] is not None and grads[k] is rooms[k]:
                    grads[k] = ADDED
                    if lent[k] is not None:
                        version = version_of(<TensorBase>lent[k])
                        version.value += 1
                        version.site = "accumulation into .grad by backward"
        finally:
            for k in range(n):
                if lent[k] is not None:
                    return_grad(<TensorBase>parents[k], <TensorBase>lent[k])
        return grads

    cdef arrive(self, Py_ssize_t slot):
        """One expected contribution came (or will not come); a leaf is settled with its last one."""
        self.slots[slot].waiting -= 1
        if self.slots[slot].waiting == 0 and self.slots[slot].needed:
            if type(<object>self.slots[slot].item) is not Node:
                self.settle_leaf(slot)

    cdef hand_on(self, Node pick, object g):
        """Put the cotangent of one output into the bundle of the node that made it."""
        cdef Node source = <Node>pick.parents[0]
        cdef Py_ssize_t slot = self.find(source)
        cdef list bundle
        if self.slots[slot].cotangent == NULL:
            bundle = [None] * len(source.outputs)
            Py_INCREF(bundle)
            self.slots[slot].cotangent = <PyObject*>bundle
        else:
            bundle = <list><object>self.slots[slot].cotangent
        bundle[pick.index] = g if bundle[pick.index] is None else total_of(bundle[pick.index], g, self.create)
        self.arrive(slot)
        if not self.retain:
            pick.release()

    cdef drop(self, Py_ssize_t slot):
        """Let go of a node, so that memory is freed while backward still runs.

        The table keeps the node's address. That is safe: children come first, so nobody asks for it again.
        """
        cdef PyObject* item = self.slots[slot].item
        if not self.retain:
            self.slots[slot].item = NULL
            Py_XDECREF(item)


cdef inline size_t hash_pointer(PyObject* p) noexcept nogil:
    return (<uintptr_t>p >> 4) * <size_t>0x9E3779B97F4A7C15 >> 20


cdef object total_of(object a, object b, bint create):
    """a + b in new memory."""
    if create:
        return _namespace.add(a, b)
    total = binary(ADD, a, b)
    if total is None:
        total = a + b
        if type(total) is not type(a):    # NumPy makes scalars of 0-d sums
            total = _backends[type(a)].asarray(total)
    return total


cdef bint is_writeable(object array):
    """Whether a gradient may be added to in its memory."""
    if type(array) is ndarray:
        return PyArray_CHKFLAGS(<ndarray>array, NPY_ARRAY_WRITEABLE)
    return not is_partial(array) and _backends[type(array)].writeable(array)


cdef PyObject* add_cotangents(PyObject* first, object b, bint create) except NULL:
    """A new reference to first + b, in the memory of `first` where the caller's reference is the only one to it."""
    cdef object a, total
    # counted before `a` takes a reference of its own
    cdef bint mine = not create and sole(first)
    a = <object>first
    if mine and type(b) is type(a) and dtype_of(a) is dtype_of(b):
        if not add_to(a, b):
            a += b
        total = a
    else:
        total = total_of(a, b, create)
    Py_INCREF(total)
    return <PyObject*>total


cdef object conform(object g, object edge, Node node, bint create):
    """Undo broadcasting and casting: a cotangent gets the shape and dtype of the value it belongs to."""
    cdef tuple shape
    cdef object dtype
    if type(edge) is Node:
        shape, dtype = (<Node>edge).shape, (<Node>edge).dtype
    else:
        shape, dtype = (<TensorBase>edge).shape, dtype_of((<TensorBase>edge)._array)
    if create:
        if not isinstance(g, TensorBase):
            g = _namespace.asarray(g, dtype=dtype)
        if g.shape != shape:
            g = unbroadcast(g, shape, _namespace, node)
    else:
        if isinstance(g, TensorBase):
            g = (<TensorBase>g)._array
        elif type(g) not in _backends:
            g = _backends[ndarray].asarray(g, dtype=dtype if isinstance(g, (int, float)) else None)
        elif type(edge) is Node:    # its rule knows full arrays only
            g = dense(g)
        if not same_shape(g, shape):
            g = unbroadcast(g, shape, _backends[type(g)].namespace, node)
            if type(g) not in _backends:
                g = _backends[ndarray].asarray(g)
    if (create or dtype_of(g) is not dtype) and g.dtype != dtype:
        if node.compute is None or g.dtype != node.compute:
            raise DTypeError(f"{node.rule.name}: its vjp rule gave a {g.dtype} gradient for a {dtype} input")
        g = _namespace.astype(g, dtype) if create else recast(g, dtype)
    return g


cdef object unbroadcast(object g, tuple shape, object xp, Node node):
    """Sum a cotangent over the axes that broadcasting stretched, or stretch one that a rule left smaller."""
    cdef tuple given = tuple(g.shape)
    cdef int lead = <int>len(given) - <int>len(shape), k
    cdef list axes
    cdef object expanded
    if lead >= 0:
        axes = list(range(lead))
        for k in range(<int>len(shape)):
            if shape[k] == 1 and given[lead + k] != 1:
                axes.append(lead + k)
        if axes and g.dtype.itemsize == 2:    # half types accumulate in float32
            dtype = g.dtype
            g = xp.astype(xp.sum(xp.astype(g, "float32"), axis=tuple(axes), keepdims=True), dtype)
        elif axes:
            g = xp.sum(g, axis=tuple(axes), keepdims=True)
        if lead:
            g = xp.reshape(g, tuple(g.shape)[lead:])
    if tuple(g.shape) != shape:
        expanded = expand(g, shape)
        if expanded is None:
            try:
                expanded = xp.broadcast_to(g, shape)
            except ValueError:
                raise ShapeError(
                    f"{node.rule.name}: its vjp rule gave a gradient of shape {given} for an input of shape {shape}"
                ) from None
        g = expanded
    return g


cdef object fill_missing(list bundle, Node node, bint create):
    """The cotangents of all outputs of a node; zeros where an output was not used."""
    cdef list full = []
    cdef object some = next(g for g in bundle if g is not None)
    for g, (shape, dtype) in zip(bundle, node.outputs, strict=True):
        if g is None and dtype.kind in "fV":
            if create:
                g = _namespace.zeros(shape, dtype=dtype, device=some.device)
            else:
                g = _backends[type(some)].namespace.zeros(shape, dtype=dtype)
        full.append(g)
    return tuple(full)


cdef object run_hooks(list hooks, object g, object shape, object dtype, bint create, str name):
    """Call hooks on a complete cotangent; what one returns takes its place."""
    cdef TensorBase t = wrapped(g)
    for entry in list(hooks):
        if len(<tuple>entry) == 2:    # one for afterwards
            continue
        changed = (<tuple>entry)[0](t)
        if changed is not None:
            if not isinstance(changed, TensorBase):
                raise GradError(f"hook on {name}: returned {type(changed).__name__}, needs None or a Tensor")
            if changed.shape != tuple(shape) or changed.dtype != dtype:
                raise GradError(
                    f"hook on {name}: returned {changed.dtype} {changed.shape}, "
                    f"needs {dtype} {tuple(shape)} like the gradient"
                )
            t = changed
    return t if create else t._array


cdef accumulate_grad(TensorBase leaf, object g, bint create):
    """Add a cotangent to ``.grad``; nothing is lost when threads share a parameter."""
    cdef TensorBase grad
    cdef Version version
    if create:
        replace_grad(leaf, g)
        return
    with _grad_lock:
        if leaf._grad is None:
            # the caller's variable is the only reference to an array that nobody else can see
            leaf._grad = wrap(g if sole(<PyObject*>g) else _backends[type(g)].copy(g), None)
            return
        grad = <TensorBase>leaf._grad
        if grad._node is None and not grad._leaf and is_writeable(grad._array):
            if is_partial(g):
                g.add_to(grad._array)
            elif not add_to(grad._array, g):
                grad._array += g
            version = version_of(grad)
            version.value += 1
            version.site = "accumulation into .grad by backward"
            return
        if is_partial(grad._array) and grad._node is None and not grad._leaf:
            leaf._grad = wrap(total_of(grad._array, g, False), None)
            return
    replace_grad(leaf, wrap(g, None))


cdef replace_grad(TensorBase t, object g):
    """Put ``.grad`` plus a tensor in the place of ``.grad``.

    The sum is recorded and may run anybody's code, so it is made without the lock, and made again where another thread
    changed ``.grad`` meanwhile.
    """
    cdef TensorBase before, total
    cdef long value
    while True:
        before = t._grad
        value = 0 if before is None else version_of(before).value
        # a copy: the cotangent may be the caller's own tensor, or that of another leaf
        total = _namespace.positive(g) if before is None else _namespace.add(before, g)
        with _grad_lock:
            if t._grad is before and (before is None or version_of(before).value == value):
                t._grad = total
                return


cdef bint changes_gradient(list hooks) except -1:
    """Whether one of the hooks sees a cotangent before it is accumulated."""
    for entry in hooks:
        if len(<tuple>entry) == 1:
            return True
    return False


cdef TensorBase borrow_grad(TensorBase leaf):
    """Take ``.grad`` from a leaf, if it may be added to in place."""
    cdef TensorBase grad
    if leaf._grad is None or (leaf._hooks and changes_gradient(leaf._hooks)):
        return None
    with _grad_lock:
        grad = <TensorBase>leaf._grad
        if grad is None or grad._node is not None or grad._leaf or not is_writeable(grad._array):
            return None
        leaf._grad = None
    return grad


cdef return_grad(TensorBase leaf, TensorBase grad):
    """Give ``.grad`` back to a leaf; what came meanwhile is added to it."""
    with _grad_lock:
        came, leaf._grad = leaf._grad, grad
    if came is not None:
        accumulate_grad(leaf, (<TensorBase>came)._array, False)


def run_backward(list outputs, list seeds, object inputs, bint retain, bint create, bint stop=False):
    """Pull cotangents back from `outputs`.

    Parameters
    ----------
    outputs : list of Tensor
        Where to start; each requires grad.
    seeds : list of Tensor
        Their cotangents, of the same shapes and dtypes.
    inputs : list of Node or Tensor or None
        The edges whose cotangents are wanted; None accumulates into ``.grad`` of every leaf.
    retain : bool
        Keep the graph.
    create : bool
        Record the backward pass itself.
    stop : bool
        Do not look beyond the `inputs`.

    Returns
    -------
    list of Tensor or None
        A cotangent for each of `inputs`; None where no path leads to it.
    """
    cdef Run run = Run()
    cdef Py_ssize_t slot, k
    cdef list roots = [], values = []
    cdef list which = []
    cdef object token, region
    run.create = create
    run.retain = retain
    run.accumulate = inputs is None
    run.stop = stop
    run.found = []
    run.ending = []
    if inputs is not None:
        for edge in <list>inputs:
            slot = run.find(edge)
            if slot < 0:
                slot = run.add(edge)
                run.slots[slot].target = len(run.found)
                run.found.append(None)
            which.append(run.slots[slot].target)
    for output, seed in zip(outputs, seeds, strict=True):
        roots.append(edge_of(<TensorBase>output))
        values.append(seed if create else (<TensorBase>seed)._array)
    seed = None
    seeds.clear()
    token, quiet = PyContextVar_Set(_grad_mode, create), hush()
    region = None if region_here() is None else leave_region()    # rules keep to the dtypes of the forward
    try:
        run.go(roots, values)
    finally:
        if region is not None:
            enter_region(region)
        unhush(quiet)
        PyContextVar_Reset(_grad_mode, token)
    values.clear()
    for end in run.ending:
        end()
    return [own_result(run.found, k) for k in which]


cdef object own_result(list found, Py_ssize_t place):
    """A cotangent as a tensor that shares its memory with no other one, nor with what the caller passed in."""
    cdef PyObject* held = PyList_GET_ITEM(found, place)
    cdef bint mine
    # counted before `g` takes a reference of its own
    if isinstance(<object>held, TensorBase):
        mine = Py_REFCNT(held) == 1 and sole(<PyObject*>(<TensorBase>held)._array)
    else:
        mine = sole(held)
    g = <object>held
    if g is None:
        return None
    if isinstance(g, TensorBase):
        return g if mine else _namespace.positive(g)
    if is_partial(g):
        return wrap(dense(g), None)
    return wrap(g if mine else _backends[type(g)].copy(g), None)


def backward(list outputs, list gradients, bint retain, bint create):
    """Accumulate into ``.grad`` of every leaf; a gradient of None is 1 for a scalar output."""
    run_backward(outputs, seeds_for(outputs, gradients, "backward"), None, retain, create)


def seeds_for(list outputs, list gradients, str who):
    """The cotangents to start from, checked against the outputs."""
    cdef list seeds = []
    cdef TensorBase t
    for output, gradient in zip(outputs, gradients, strict=True):
        t = <TensorBase?>output
        if edge_of(t) is None:
            kind = t._array.dtype.kind
            raise GradError(
                f"{who}: the output ({t._array.dtype} {t.shape}) does not require grad"
                + (
                    ". Only floating tensors have gradients" if kind in "iub"
                    else ": no input has requires_grad=True, or it was made under no_grad() or detached"
                )
            )
        if gradient is None:
            if t._array.size != 1:
                raise GradError(
                    f"{who}: the output has shape {t.shape}, needs a scalar or a gradient of that shape. "
                    "Reduce it (t.sum(), t.mean()), or pass gradient="
                )
            if type(t._array) is ndarray:
                seeds.append(wrap(filled(t.shape, t._array.dtype, 1.0), None))
            else:
                seeds.append(wrap(_backends[type(t._array)].namespace.ones(t.shape, dtype=t.dtype), None))
            continue
        seed = gradient if isinstance(gradient, TensorBase) else _namespace.asarray(gradient)
        if seed.shape != t.shape:
            raise GradError(f"{who}: the gradient has shape {seed.shape}, needs {t.shape} like the output")
        seeds.append(seed if seed.dtype == t._array.dtype else _namespace.astype(seed, t._array.dtype))
    return seeds


def register_hook(TensorBase t not None, hook):
    """Attach a hook to a leaf or to the node of a tensor; returns what removes it."""
    cdef list hooks
    if not callable(hook):
        raise GradError(f"register_hook: hook is {type(hook).__name__}, needs a callable that takes the gradient")
    if t._node is not None:
        if t._node.hooks is None:
            t._node.hooks = []
        hooks = t._node.hooks
    elif t._leaf:
        if t._hooks is None:
            t._hooks = []
        hooks = t._hooks
    else:
        raise GradError("register_hook: the tensor does not require grad, so no gradient will ever reach it")
    entry = (hook,)
    hooks.append(entry)

    def remove():
        # by identity: the same function may be registered twice
        hooks[:] = [other for other in hooks if other is not entry]
    return remove


def register_after(TensorBase leaf not None, hook):
    """Let a hook see a leaf once backward has added all to its ``.grad``; returns what removes it."""
    cdef list hooks
    if not callable(hook):
        raise GradError(
            f"register_post_accumulate_grad_hook: hook is {type(hook).__name__}, needs a callable that takes the tensor"
        )
    if leaf._node is not None or not leaf._leaf:
        raise GradError(
            "register_post_accumulate_grad_hook: the tensor is no leaf that requires grad, so nothing is accumulated"
        )
    if leaf._hooks is None:
        leaf._hooks = []
    hooks = leaf._hooks
    entry = (hook, True)
    hooks.append(entry)

    def remove():
        hooks[:] = [other for other in hooks if other is not entry]
    return remove


def retain_grad(TensorBase t not None):
    """Let a tensor that is not a leaf keep its gradient."""
    if edge_of(t) is None:
        raise GradError("retain_grad: the tensor does not require grad, so no gradient will ever reach it")
    if t._node is None:
        return
    # the node must not hold the tensor it made, or the graph would be a cycle
    reference = weakref.ref(t)
    for (hook,) in t._node.hooks or ():
        if getattr(hook, "retains", None) == reference:
            return

    def keep(g):
        tensor = reference()
        if tensor is not None:
            replace_grad(tensor, g)
    keep.retains = reference
    register_hook(t, keep)


def device_of(TensorBase t not None):
    """The name of the device that a tensor lies on."""
    return _backends[type(t._array)].device(t._array)


def to_numpy(TensorBase t not None):
    """The values of a tensor as a NumPy array, whatever it requires."""
    return _backends[type(t._array)].to_numpy(t._array)


def inspect_backward(Node node, g, list grads):
    """Under detect_anomaly: raise at the first node whose finite cotangent became NaN or inf."""
    parts = g if isinstance(g, tuple) else (g,)
    if not all(part is None or is_finite(part) for part in parts):
        return
    for k, grad in enumerate(grads):
        if grad is not None and not is_finite(grad):
            recorded = f", recorded at {node.site}" if node.site else ""
            raise GradError(
                f"detect_anomaly: the backward of {node.rule.name}{recorded} made a NaN or inf in the gradient of "
                f"input {k}. "
                f"Its cotangent: {', '.join(spread(part) for part in parts if part is not None)}; "
                f"its residuals: {', '.join(spread(v) for v in node.saved or () if hasattr(v, 'dtype')) or 'none'}"
            )


def is_finite(value):
    """Whether every element is finite."""
    array = (<TensorBase>value)._array if isinstance(value, TensorBase) else value
    if not hasattr(array, "dtype") or array.dtype.kind in "biu":
        return True
    if type(array) not in _backends and isinstance(array, generic):    # what NumPy makes of arrays without axes
        array = _backends[ndarray].asarray(array)
    return bool(_backends[type(array)].namespace.isfinite(array).all()) if type(array) in _backends else True


def spread(value):
    """Dtype, shape and range of an array in words."""
    array = (<TensorBase>value)._array if isinstance(value, TensorBase) else value
    if array.size == 0:
        return f"{array.dtype} {tuple(array.shape)}"
    return f"{array.dtype} {tuple(array.shape)} from {float(array.min()):.6g} to {float(array.max()):.6g}"


def wrapped(array):
    """A constant tensor on a cotangent that the engine holds as an array; read-only, as others may hold it too."""
    if isinstance(array, TensorBase):
        return array
    view = array.view()
    if type(view) is ndarray:
        view.flags.writeable = False
    return wrap(view, None)

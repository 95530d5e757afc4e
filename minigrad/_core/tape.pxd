from numpy cimport ndarray


cdef class Version:
    cdef readonly long value     # how many times the memory was changed in place
    cdef readonly bint shared    # more than one tensor lies in this memory
    cdef readonly str site       # file, line and function of the last change


cdef class Rule:
    cdef readonly str name
    cdef readonly bint adds   # a kernel of it can add a gradient to one that is there
    cdef list pull(self, Node node, object g, unsigned long long want, bint create, list into)


cdef class Node:
    cdef readonly Rule rule
    cdef readonly dict params
    cdef readonly tuple parents      # for each input: Node, leaf TensorBase, or None
    cdef readonly tuple saved        # residuals, in the order of the rule
    cdef long version_sum            # of everything in saved, when it was saved
    cdef object out_versions         # Version of a saved output, or a tuple of them
    cdef readonly object compute     # dtype the op computed in, where it is not the inputs' own
    cdef readonly tuple shape        # of the output; None for a node of several outputs
    cdef readonly object dtype
    cdef readonly int index          # which output of its parent, for a pick
    cdef readonly tuple outputs      # (shape, dtype) of each output, for a node of several
    cdef public list hooks
    cdef public str site             # where it was recorded, under detect_anomaly
    cdef readonly unsigned long long seq
    cdef readonly bint freed
    cdef object __weakref__


cdef class Region:
    cdef readonly object dtype    # the half type
    cdef readonly dict params     # of the op astype, for a cast to it
    cdef dict kept                # id of a leaf -> the leaf, its array and version, and the cast array
    cdef tuple recent             # of the result that was cast last: a weak reference, its version, the cast array


cdef class TensorBase:
    cdef public object _array
    cdef public Node _node
    cdef public Version _version
    cdef public bint _leaf           # a leaf that requires grad
    cdef public object _grad
    cdef public list _hooks
    cdef object __weakref__


cdef TensorBase wrap(object array, Node node)
cdef bint recording() except -1
cdef bint anomaly() except -1
cdef Region region_here()
cdef object leave_region()
cdef int enter_region(object token) except -1
cdef Version version_of(TensorBase t)
cdef Node new_node(Rule rule, dict params, tuple parents, tuple saved, object array)
cdef Node new_pick(Node source, int index, object array)
cdef int check_versions(Node node) except -1
cdef object edge_of(TensorBase t)
cdef raise_freed()
cdef long versions(tuple saved) except -1
cdef long out_versions(object kept) except -1

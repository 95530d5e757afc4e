"""Dispatch: how a call of an op becomes arrays in, arrays out and a node on the tape."""
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from numpy cimport NPY_DOUBLE, NPY_FLOAT, PyArray_ISNOTSWAPPED, PyArray_TYPE, import_array, ndarray

import os
from weakref import ref

from minigrad._core.arrays cimport (
    ADD, DIVIDE, MULTIPLY, NEGATIVE, SUBTRACT, binary, dense, dtype_of, hush, is_partial, overlaps, unary, unhush,
)
from minigrad._core.cpu cimport Kernel
from minigrad._core.tape cimport (
    Node, Region, Rule, TensorBase, anomaly, check_versions, edge_of, enter_region, leave_region, new_node, new_pick,
    out_versions, raise_freed, recording, region_here, version_of, versions, wrap,
)

import numpy as np

from minigrad.errors import DeviceError, DTypeError, GradError

import_array()


cdef enum Residual:
    VALUE = 0
    OUT = 1
    SHAPE = 2
    DTYPE = 3

cdef enum Policy:    # which floating inputs autocast casts
    KEEP = 0         # none
    HALF = 1         # those below float64, to its half type
    FLOAT32 = 2      # half ones, to float32

cdef bint _kernels = os.environ.get("MINIGRAD_KERNELS", "1") != "0"
cdef object _numpy_backend = None    # the record of the NumPy backend
cdef dict _backends = {}             # array type -> backend record
cdef object _namespace = None        # minigrad's own ops: the `xp` of a rule that runs on tensors
cdef object _convert = None          # anything array-like -> tensor
cdef object _explain = None          # the error of a failed body -> the error the user sees
cdef object _using = None            # a block in which tensors are made on a device
cdef object _inspect = None          # what detect_anomaly does with a result

cdef object _float32 = np.dtype(np.float32)    # what half types are computed in

CAUGHT = (
    ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError, MemoryError, np.linalg.LinAlgError
)
FLAGS = {"add": ADD, "subtract": SUBTRACT, "multiply": MULTIPLY, "divide": DIVIDE, "negative": NEGATIVE}


def bind(namespace, convert, explain, using):
    """Give the dispatcher the op namespace and the Python halves of its slow paths."""
    global _namespace, _convert, _explain, _using, _is_finite, _spread, _user_site
    from minigrad._core.engine import is_finite, spread
    from minigrad._core.tape import user_site
    _namespace, _convert, _explain, _using = namespace, convert, explain, using
    _is_finite, _spread, _user_site = is_finite, spread, user_site


def bind_backend(backend):
    """Register a backend by the type of its arrays."""
    global _numpy_backend
    _backends[backend.array_type] = backend
    if backend.array_type is ndarray:
        _numpy_backend = backend


cdef object foreign(object g):
    """The first array that is not NumPy's among those of a cotangent or of tensors; None where there is none."""
    cdef object part
    if isinstance(g, (tuple, list)):
        return next((found for found in map(foreign, g) if found is not None), None)
    part = (<TensorBase>g)._array if isinstance(g, TensorBase) else g
    return part if type(part) is not ndarray and type(part) in _backends else None


cdef object located(object array):
    """A block in which the device of an array is the current one, and tensors are made there."""
    cdef object backend = _backends[type(array)]
    return _using(backend.device(array), backend.elsewhere(array))


cpdef bint kernels_on():
    """Whether kernels are used."""
    return _kernels


def use_kernels(bint on):
    """Switch the kernels on or off; returns what was set before."""
    global _kernels
    before, _kernels = _kernels, on
    return bool(before)


cdef TensorBase policy_cast(TensorBase t, Policy policy, Region region):
    """The tensor in the dtype of a policy, by a recorded cast; itself where it has that dtype or takes no part.

    The values of a cast leaf are kept as long as the block lasts, so that a parameter is cast once; those of the result
    of an op until another is cast, as several products of one input follow each other. Each use still has a node of its
    own: their gradients are added up in the dtype of what was cast.
    """
    cdef object array = t._array, dtype = dtype_of(array), half
    cdef long version
    cdef tuple entry
    cdef TensorBase made
    if dtype.kind not in "fV" or dtype.itemsize > 4:
        return t
    if policy == FLOAT32:
        return t if dtype is _float32 or dtype.itemsize == 4 else _astype.apply((t,), _to_float32)
    if dtype == region.dtype:
        return t
    version = 0 if t._version is None else t._version.value
    if t._node is not None:
        entry = region.recent
        if entry is not None and entry[0]() is t and entry[1] == version:
            return _astype.finish([t], entry[2], None, region.params, recording())
        made = _astype.apply((t,), region.params)
        region.recent = (ref(t), version, made._array)
        return made
    if not t._leaf or type(array) is not ndarray:
        return _astype.apply((t,), region.params)
    entry = region.kept.get(id(t))
    if entry is not None and entry[1] is array and entry[2] == version:
        half = entry[3]
    else:
        half = recast(array, region.dtype)
        region.kept[id(t)] = (t, array, version, half)
    return _astype.finish([t], half, None, region.params, recording())


cdef class Vjp:
    """The rule for one input (or, for a joint rule, for all of them) and the residuals it asks for."""
    cdef readonly object rule
    cdef readonly tuple slots    # places in the node's residuals
    cdef int n
    cdef int places[8]           # the same for C
    cdef readonly object params  # names of the parameters it asks for, None for all
    cdef public dict kernels     # (backend, dtype) -> kernel
    cdef public set adding       # those that take `into`, an array to add the gradient to

    def __init__(self, rule, slots, params):
        self.rule = rule
        self.slots = slots
        self.n = len(slots)
        for i in range(self.n):
            self.places[i] = slots[i]
        self.params = params
        self.kernels = {}
        self.adding = set()


cdef class Op(Rule):
    """One operation: a generic body, vjp rules, a dtype rule, and kernels that may stand in for the body."""
    cdef readonly object body
    cdef readonly tuple inputs           # names of the array inputs
    cdef readonly bint variadic          # one name that stands for any number of arrays
    cdef readonly tuple input_defaults   # trailing defaults of inputs
    cdef readonly tuple params           # names of the static parameters
    cdef readonly tuple positional       # those that may be given by position
    cdef readonly dict defaults
    cdef readonly bint defaults_complete
    cdef readonly object dtype_rule
    cdef frozenset plain                 # dtypes the op computes in as they are
    cdef readonly tuple skip             # per input: the dtype rule leaves it alone
    cdef readonly object result          # dtype rule of the output: "same" or None
    cdef readonly bint view
    cdef readonly str amp                # what autocast does: "half", "float32", "widest" or "keep"
    cdef Policy policy                   # the same for C
    cdef readonly int code               # of the small-array loops, 0 where there is none
    cdef readonly tuple vjps             # per input: Vjp or None; one Vjp for all inputs under `joint`
    cdef readonly object joint
    cdef int n_residuals                 # what a node saves: for each residual its kind and the input it is of
    cdef int kinds[16]
    cdef int sources[16]
    cdef bint composed                   # no rule of its own: differentiated through the body
    cdef public dict kernels             # (backend, dtype) -> forward kernel
    cdef public bint mixed               # those of half types look at the dtypes of all inputs themselves
    cdef public object ref
    cdef public list cases
    cdef dict __dict__

    def __init__(
        self, name, body, inputs, variadic, input_defaults, params, positional, defaults, dtype_rule, skip, view, code,
        amp,
    ):
        self.name = name
        self.body = body
        self.inputs = inputs
        self.variadic = variadic
        self.input_defaults = input_defaults
        self.params = params
        self.positional = positional
        self.defaults = defaults
        self.defaults_complete = len(defaults) == len(params)
        self.dtype_rule = dtype_rule
        self.plain = dtype_rule.plain
        self.result = dtype_rule.result
        self.skip = skip
        self.view = view
        self.code = FLAGS[code] if code else 0
        self.amp = amp
        self.policy = HALF if amp == "half" else FLOAT32 if amp == "float32" and dtype_rule.rounded else KEEP
        self.vjps = (None,) * len(inputs)
        self.joint = None
        self.n_residuals = 0
        self.composed = True
        self.kernels = {}
        self.cases = []

    def add_kernel(self, kernel, backend, dtypes, vjp, bint into):
        """Register a kernel for the forward, the joint rule (`vjp` is -1) or the rule of one input."""
        cdef dict table = self.kernels
        cdef Vjp entry
        if vjp is not None:
            entry = <Vjp?>(self.joint if vjp < 0 else self.vjps[vjp])
            table = entry.kernels
            if into:
                entry.adding.add(kernel)
                self.adds = True
        for dtype in dtypes:
            table[backend, dtype] = kernel

    @property
    def composite(self):
        """Whether the op has no rule of its own and is differentiated through its body."""
        return self.composed

    def add_rule(self, index, rule, names, params):
        """Attach a vjp rule for input `index` (None: for all inputs) that asks for the residuals `names`."""
        cdef int kind, source, slot
        cdef list slots = []
        for name in names:
            stem, _, suffix = name.rpartition("_")
            if name == "out":
                kind, source = OUT, 0
            elif name in self.inputs:
                kind, source = VALUE, self.inputs.index(name)
            elif suffix == "shape" and stem in self.inputs:
                kind, source = SHAPE, self.inputs.index(stem)
            elif suffix == "dtype" and stem in self.inputs:
                kind, source = DTYPE, self.inputs.index(stem)
            else:
                raise TypeError(f"{self.name}: a rule asks for {name!r}, which is neither an input nor out")
            for slot in range(self.n_residuals):
                if self.kinds[slot] == kind and self.sources[slot] == source:
                    break
            else:
                slot = self.n_residuals
                if slot == 16 or len(slots) == 8:
                    raise TypeError(f"{self.name}: a rule may ask for 8 residuals, an op for 16")
                self.kinds[slot], self.sources[slot] = kind, source
                self.n_residuals += 1
            slots.append(slot)
        self.composed = False
        entry = Vjp(rule, tuple(slots), None if set(params) == set(self.params) else tuple(params))
        if index is None:
            self.joint = entry
        else:
            self.vjps = (*self.vjps[:index], entry, *self.vjps[index + 1:])

    def __repr__(self):
        return f"<op {self.name}>"

    def __reduce__(self):
        return self.name

    def __call__(self, *args, **kwargs):
        cdef tuple given = args
        cdef Py_ssize_t n = len(self.inputs), k = len(given)
        if not kwargs:
            if self.code and k == 2 and n == 2:
                return self.pair(given[0], given[1])
            if self.defaults_complete and (self.variadic or k == n):
                return self.apply(given, self.defaults)
        elif k == n and not self.variadic:
            params = kwargs
            for name in kwargs:
                if name not in self.defaults:
                    params = None
                    break
            if params is not None and self.defaults_complete:
                if len(kwargs) < len(self.defaults):
                    params = self.defaults.copy()
                    params.update(kwargs)
                return self.apply(given, params)
        return self.bind_and_apply(given, kwargs)

    def bind_and_apply(self, tuple given, dict kwargs):
        """Sort arguments into array inputs and static parameters."""
        cdef Py_ssize_t n = len(self.inputs), k = len(given), j
        cdef dict params = dict(self.defaults)
        cdef list arrays
        if self.variadic:
            arrays = list(given)
        else:
            arrays = list(given[:n])
            for j in range(n, k):
                if j - n >= len(self.positional):
                    most = n + len(self.positional)
                    raise TypeError(f"{self.name}() takes at most {most} positional arguments, got {k}")
                if self.positional[j - n] in kwargs:
                    raise TypeError(f"{self.name}() got {self.positional[j - n]!r} twice")
                params[self.positional[j - n]] = given[j]
            for j in range(len(arrays), n):
                name = self.inputs[j]
                if name in kwargs:
                    arrays.append(kwargs.pop(name))
                elif n - j <= len(self.input_defaults):
                    arrays.append(self.input_defaults[len(self.input_defaults) - (n - j)])
                else:
                    raise TypeError(f"{self.name}() misses its argument {name!r}")
        for key, value in kwargs.items():
            if key not in self.params:
                names = ", ".join(self.inputs + self.params)
                raise TypeError(f"{self.name}() has no argument {key!r}; it takes {names}")
            params[key] = value
        for key in self.params:
            if key not in params:
                raise TypeError(f"{self.name}() misses its argument {key!r}")
        return self.apply(tuple(arrays), params)

    cdef TensorBase pair(self, object x1, object x2):
        """An arithmetic operator on float tensors of one dtype, or one such tensor and a Python number."""
        cdef object a, b, out = None, token
        cdef bint record = False
        if isinstance(x1, TensorBase):
            a = (<TensorBase>x1)._array
            record = (<TensorBase>x1)._leaf or (<TensorBase>x1)._node is not None
        else:
            a = x1
        if isinstance(x2, TensorBase):
            b = (<TensorBase>x2)._array
            record = record or (<TensorBase>x2)._leaf or (<TensorBase>x2)._node is not None
        else:
            b = x2
        if not _kernels or not is_plain(a, b) or anomaly():
            return <TensorBase>self.apply((x1, x2), self.defaults)
        out = binary(self.code, a, b)
        if out is None:
            token = hush()
            try:
                if self.code == ADD:
                    out = a + b
                elif self.code == SUBTRACT:
                    out = a - b
                elif self.code == MULTIPLY:
                    out = a * b
                else:
                    out = a / b
            except ValueError:
                out = None
            finally:
                unhush(token)
            if type(out) is not ndarray:
                return <TensorBase>self.apply((x1, x2), self.defaults)
        if record and recording():
            return <TensorBase>self.finish([x1, x2], out, None, self.defaults, True)
        return wrap(out, None)

    cdef object apply(self, tuple given, dict params):
        cdef list tensors = list(given)
        cdef list arrays = []
        cdef Py_ssize_t i, n = len(tensors)
        cdef object x, array, out, kernel, token, backend = _numpy_backend
        cdef object compute = None, result = None, common = None, half
        cdef bint record = False, uniform = True
        cdef TensorBase t
        cdef Region region = None
        if self.policy != KEEP or self.composed:
            region = region_here()
            if region is not None and self.policy != KEEP:
                self.cast_inputs(tensors, region)
        for i in range(n):
            x = tensors[i]
            if x is None:
                if self.variadic or i < n - len(self.input_defaults):
                    name = self.inputs[0 if self.variadic else i]
                    raise DTypeError(f"{self.name}: {name} is None, needs a tensor, an array or a number")
                arrays.append(None)
                continue
            if not isinstance(x, TensorBase):
                if type(x) is float or type(x) is int or type(x) is bool or type(x) is complex:
                    arrays.append(x)
                    uniform = False
                    continue
                if isinstance(x, np.generic):    # NumPy's scalars are as weak as Python's
                    arrays.append(x.item())
                    uniform = False
                    continue
                x = tensors[i] = _convert(self, self.inputs[0 if self.variadic else i], x)
            t = <TensorBase>x
            array = t._array
            if t._leaf or t._node is not None:
                record = True
            if type(array) is not ndarray:
                if is_partial(array):
                    t = tensors[i] = wrap(dense(array), None)
                    array = t._array
                else:
                    backend = self.find_backend(tensors)
            arrays.append(array)
            if uniform and not (self.skip[0] if self.variadic else self.skip[i]):
                if common is None:
                    common = dtype_of(array)
                elif dtype_of(array) is not common:
                    uniform = False
        if backend is not _numpy_backend:
            self.find_backend(tensors)
            array = foreign(tensors)
            if array is not None and backend.elsewhere(array) is not None:
                with located(array):
                    return self.apply(given, params)
        record = record and recording()
        if _kernels and self.kernels and not (record and self.composed):
            half = common if uniform else half_among(arrays) if self.mixed else None
            if half is not None and half not in self.plain:
                out = self.run_half(backend, half, arrays, params)
                if out is not NotImplemented:
                    return self.finish(tensors, out, _float32, params, record)
        if not uniform or common is None or common not in self.plain:
            skip = self.skip * n if self.variadic else self.skip
            token = hush()
            try:
                arrays, compute, result = self.dtype_rule.resolve(self, arrays, skip, backend)
            except (ValueError, TypeError, OverflowError) as error:
                raise _explain(self, tensors, params, error) from None
            finally:
                unhush(token)
            for i in range(n):   # numbers become constants, so that a rule may ask for their shape
                if tensors[i] is not None and not isinstance(tensors[i], TensorBase):
                    tensors[i] = wrap(arrays[i], None)
            if compute is not None:
                common = compute
            elif common is None:    # numbers only, and an op that takes them as they are
                common = next((a.dtype for a in arrays if a is not None), None)
        if record and self.composed:
            if compute is not None:
                tensors = [
                    t if t is None or skipped or t.dtype == compute else _namespace.astype(t, compute)
                    for t, skipped in zip(tensors, self.skip * n if self.variadic else self.skip, strict=True)
                ]
            out = self.compose(tensors, params, region is not None)
            if result is not None and result is not compute:
                out = cast_all(out, compute, result)
            return out
        token = hush()
        try:
            out = NotImplemented
            if _kernels and self.kernels:
                kernel = self.kernels.get((backend.name, common))
                if kernel is not None:
                    if type(kernel) is Kernel:
                        kernel = (<Kernel>kernel).load()
                    out = kernel(*arrays, **params)
            if out is NotImplemented:
                out = self.body(backend.namespace, *arrays, **params)
            if type(out) is tuple or type(out) is list:
                out = tuple([backend.asarray(part) for part in out])
                if result is not None and result is not compute:
                    out = tuple([recast(part, result) if part.dtype == compute else part for part in out])
            else:
                if type(out) is not ndarray and type(out) not in _backends:
                    out = backend.asarray(out)
                if result is not None and result is not compute and out.dtype == compute:
                    out = recast(out, result)
        except CAUGHT as error:
            raise _explain(self, tensors, params, error) from None
        finally:
            unhush(token)
        if type(out) is not tuple and self.result is not None:
            expected = result if result is not None else common
            if dtype_of(out) is not expected and out.dtype != expected:
                raise DTypeError(f"{self.name}: the result is {out.dtype}, the dtype rule says {expected}")
        if record or self.view or anomaly():
            return self.finish(tensors, out, compute, params, record)
        if type(out) is tuple:
            return tuple([wrap(part, None) for part in <tuple>out])
        return wrap(out, None)

    cdef object run_half(self, object backend, object dtype, list arrays, dict params):
        """The result of a kernel that takes a half type as it is; NotImplemented where there is none."""
        cdef object kernel = self.kernels.get((backend.name, dtype)), token
        if kernel is None or dtype.itemsize != 2:
            return NotImplemented
        token = hush()
        try:
            return kernel(*arrays, **params)
        except CAUGHT as error:
            raise _explain(self, [wrap(array, None) for array in arrays], params, error) from None
        finally:
            unhush(token)

    cdef object compose(self, list tensors, dict params, bint autocast):
        """Run the generic body on tensors, so that the ops inside it are recorded; autocast leaves them alone."""
        cdef object token = leave_region() if autocast else None, array
        try:
            array = foreign(tensors)
            if array is None:
                return self.body(_namespace, *tensors, **params)
            with located(array):
                return self.body(_namespace, *tensors, **params)
        except (DTypeError, GradError, DeviceError):
            raise
        except (ValueError, TypeError, IndexError) as error:
            raise _explain(self, tensors, params, error) from None
        finally:
            if autocast:
                enter_region(token)

    def autocast(self, *tensors):
        """The tensors as autocast would have the op take them; as they are outside of its blocks.

        For functions that do something with their operands before or after they call the op.
        """
        cdef list given = list(tensors)
        cdef Region region = region_here()
        cdef Py_ssize_t i
        if region is not None:
            for i in range(len(given)):
                if isinstance(given[i], TensorBase):
                    given[i] = policy_cast(<TensorBase>given[i], self.policy, region)
        return given

    cdef cast_inputs(self, list tensors, Region region):
        """Cast the inputs by the policy of the op; what the dtype rule skips stays as it is."""
        cdef Py_ssize_t i
        cdef object x
        for i in range(len(tensors)):
            x = tensors[i]
            if x is None or self.skip[0 if self.variadic else i]:
                continue
            if not isinstance(x, TensorBase):
                if isinstance(x, (int, float, complex, np.generic)):    # weak, they take any dtype
                    continue
                x = _convert(self, self.inputs[0 if self.variadic else i], x)
            tensors[i] = policy_cast(<TensorBase>x, self.policy, region)

    def find_backend(self, tensors):
        """The backend that every input lives on."""
        found = None
        for t in tensors:
            if isinstance(t, TensorBase):
                backend = _backends[type((<TensorBase>t)._array)]
                if found is None:
                    found, first = backend, t
                elif backend is not found or (backend is not _numpy_backend and first.device != t.device):
                    raise DeviceError(
                        f"{self.name}: its inputs are on {first.device} and {t.device}, needs all on one device. "
                        "Move one with t.to(device)"
                    )
        return found

    cdef object finish(self, list tensors, object out, object compute, dict params, bint record):
        """Wrap the result, share the memory count of a view, and put a node on the tape."""
        cdef Node node = None
        cdef TensorBase made
        cdef tuple parents = None
        cdef list parts
        cdef Py_ssize_t i
        cdef bint watched = anomaly()
        if watched:
            self.inspect(tensors, out)
        if record:
            if type(out) is tuple:
                record = False
                for part in <tuple>out:
                    record = keeps_grad(self, part) or record
            else:
                record = keeps_grad(self, out)
        if record:
            parents = self.edges(tensors)
            record = parents is not None
        if record:
            node = new_node(self, params, parents, None, None if type(out) is tuple else out)
            node.compute = compute
            if watched:
                node.site = _user_site()
        if type(out) is tuple:
            parts = []
            if record:
                node.outputs = tuple([(part.shape, part.dtype) for part in <tuple>out])
            for i in range(len(<tuple>out)):
                part = (<tuple>out)[i]
                made = wrap(part, new_pick(node, <int>i, part) if record and part.dtype.kind in "fV" else None)
                if self.view:
                    share_memory(made, tensors)
                parts.append(made)
            if record:
                self.save(node, tensors, tuple(parts))
            return tuple(parts)
        made = wrap(out, node)
        if self.view:
            share_memory(made, tensors)
        if record and self.n_residuals:
            self.save(node, tensors, made)
        return made

    cdef tuple edges(self, list tensors):
        """What the inputs with a rule are known by on the tape; None where no input requires grad."""
        cdef Py_ssize_t i, n = len(tensors)
        cdef tuple parents = PyTuple_New(n)
        cdef object edge, x
        cdef bint found = False
        for i in range(n):
            edge = None
            x = tensors[i]
            if isinstance(x, TensorBase) and (self.joint is not None or self.vjps[i] is not None):
                edge = edge_of(<TensorBase>x)
                found = found or edge is not None
            Py_INCREF(edge)
            PyTuple_SET_ITEM(parents, i, edge)
        return parents if found else None

    cdef inspect(self, list tensors, object out):
        """Under detect_anomaly: raise where finite inputs made a NaN or inf."""
        parts = out if type(out) is tuple else (out,)
        if all([_is_finite(part) for part in parts]) or not all([_is_finite(t) for t in tensors if t is not None]):
            return
        operands = ", ".join([
            f"{name} {_spread(t)}"
            for name, t in zip(self.inputs * len(tensors) if self.variadic else self.inputs, tensors, strict=True)
            if hasattr(t, "dtype")
        ])
        raise GradError(f"detect_anomaly: {self.name} made a NaN or inf at {_user_site()}. Its operands: {operands}")

    cdef save(self, Node node, list tensors, object made):
        """Keep what the rules of the inputs that require grad ask for, and nothing else."""
        cdef Py_ssize_t i
        cdef int slot, k
        cdef unsigned int wanted = 0
        cdef object item
        cdef tuple saved
        cdef Vjp entry
        if self.joint is not None:
            wanted = 0xFFFF
        else:
            for i in range(len(node.parents)):
                if node.parents[i] is not None:
                    entry = <Vjp>self.vjps[i]
                    for k in range(entry.n):
                        wanted |= <unsigned int>1 << entry.places[k]
        saved = PyTuple_New(self.n_residuals)
        for slot in range(self.n_residuals):
            item = self.residual(slot, tensors, made, node) if (wanted >> slot) & 1 else None
            Py_INCREF(item)
            PyTuple_SET_ITEM(saved, slot, item)
        node.saved = saved
        node.version_sum = versions(saved)
        if node.out_versions is not None:
            node.version_sum += out_versions(node.out_versions)

    cdef object residual(self, int slot, list tensors, object made, Node node):
        cdef int kind = self.kinds[slot]
        cdef object x
        if kind == VALUE:
            return tuple(tensors) if self.variadic else tensors[self.sources[slot]]
        if kind == OUT:
            if type(made) is tuple:
                node.out_versions = tuple([version_of(<TensorBase>part) for part in <tuple>made])
                return tuple([(<TensorBase>part)._array for part in <tuple>made])
            node.out_versions = version_of(<TensorBase>made)
            return (<TensorBase>made)._array
        if self.variadic:
            return tuple([t.shape if kind == SHAPE else t.dtype for t in tensors])
        x = tensors[self.sources[slot]]
        if not isinstance(x, TensorBase):
            return None if x is None or kind == DTYPE else ()
        return (<TensorBase>x).shape if kind == SHAPE else (<TensorBase>x).dtype

    cdef list pull(self, Node node, object g, unsigned long long want, bint create, list into):
        cdef object array = foreign(g) if type(g) is not ndarray else None
        if array is None:
            return self.pull_here(node, g, want, create, into)
        with located(array):    # what the rules make lies beside what they are given
            return self.pull_here(node, g, want, create, into)

    cdef list pull_here(self, Node node, object g, unsigned long long want, bint create, list into):
        # taken once: another thread may free the node while a rule runs
        cdef tuple parents = node.parents, saved = node.saved
        cdef dict params = node.params
        cdef Py_ssize_t n = len(parents), i
        cdef list grads = [None] * n
        cdef list values
        cdef object backend, xp, given
        if node.freed:
            raise_freed()
        check_versions(node)
        if self.code and not create and _kernels and node.compute is None and type(g) is ndarray and not anomaly():
            if self.pull_small(parents, saved, g, want, grads):
                return grads
        if create:
            backend, xp = None, _namespace
        else:
            backend = _backends[type(g[0]) if type(g) is tuple else type(g)]
            xp = backend.namespace
        if node.compute is not None and not create and _kernels:
            if self.joint is not None:
                given = self.pull_joint_half(backend, node, saved, g, params)
                if given is not NotImplemented:
                    return self.one_each(given, n)
            elif type(g) is not tuple:
                want = self.pull_half(backend, parents, saved, g, params, want, grads)
                if not want:
                    return grads
        values = self.open_saved(node, saved, node.compute, create)
        if node.compute is not None:
            g = tuple([cast(part, node.compute) for part in <tuple>g]) if type(g) is tuple else cast(g, node.compute)
        if self.joint is not None:
            return self.one_each(self.run(<Vjp>self.joint, backend, xp, g, values, params, into), n)
        for i in range(n):
            if parents[i] is not None and (i >= 64 or (want >> i) & 1):
                grads[i] = self.run(
                    <Vjp>self.vjps[i], backend, xp, g, values, params, None if into is None else into[i]
                )
        return grads

    cdef list open_saved(self, Node node, tuple saved, object compute, bint create):
        """The residuals as rules take them: tensors or arrays, in the dtype `compute`, as they are if it is None."""
        cdef list values = []
        cdef object item
        cdef Py_ssize_t slot
        for slot in range(self.n_residuals):
            item = saved[slot]
            if item is not None and self.kinds[slot] <= OUT:
                if self.kinds[slot] == OUT:
                    item = self.reopen_out(node, item, compute, create)
                elif self.variadic:
                    item = tuple([open_value(part, None if self.skip[0] else compute, create) for part in <tuple>item])
                else:
                    item = open_value(item, None if self.skip[self.sources[slot]] else compute, create)
            values.append(item)
        return values

    cdef list one_each(self, object given, Py_ssize_t n):
        """What a joint rule gave, one gradient an input."""
        if not isinstance(given, (tuple, list)) or len(given) != n:
            count = len(given) if isinstance(given, (tuple, list)) else type(given).__name__
            raise GradError(f"{self.name}: its joint vjp rule gave {count}, needs a tuple of {n}, one an input")
        return list(given)

    cdef object pull_joint_half(self, object backend, Node node, tuple saved, object g, dict params):
        """What a joint rule's kernel gives that takes half types as they are; NotImplemented where there is none.

        The dtype of the inputs finds it, which all that the dtype rule looks at must have.
        """
        cdef Vjp entry = <Vjp>self.joint
        cdef object dtype = self.half_of(entry, saved, (g[0] if type(g) is tuple else g).dtype), kernel, item
        cdef list values
        cdef Py_ssize_t slot
        kernel = entry.kernels.get((backend.name, dtype)) if dtype.itemsize == 2 else None
        if kernel is None:
            return NotImplemented
        values = self.open_saved(node, saved, None, False)
        for slot in range(self.n_residuals):
            if self.kinds[slot] == VALUE and not self.skip[0 if self.variadic else self.sources[slot]]:
                item = values[slot]
                for part in <tuple>item if type(item) is tuple else (item,):
                    if part is not None and part.dtype != dtype:
                        return NotImplemented
        return kernel(g, *[values[slot] for slot in entry.slots], **chosen(entry, params))

    cdef object half_of(self, Vjp entry, tuple saved, object dtype):
        """The half type of the inputs that a rule asks for, where results are not rounded to it; else `dtype`."""
        cdef object item
        cdef Py_ssize_t slot
        if dtype.itemsize != 2 and not self.variadic:
            for slot in entry.slots:
                item = saved[slot]
                if self.kinds[slot] == VALUE and isinstance(item, TensorBase) and not self.skip[self.sources[slot]]:
                    return dtype_of((<TensorBase>item)._array)
        return dtype

    cdef unsigned long long pull_half(
        self, object backend, tuple parents, tuple saved, object g, dict params, unsigned long long want, list grads,
    ) except? 0:
        """Let kernels that take half types as they are give gradients; returns which are left."""
        cdef Py_ssize_t i
        cdef Vjp entry
        cdef object kernel, out
        cdef list args
        for i in range(min(len(parents), 64)):
            if parents[i] is None:
                want &= ~(<unsigned long long>1 << i)
            elif (want >> i) & 1:
                entry = <Vjp>self.vjps[i]
                kernel = entry.kernels.get((backend.name, self.half_of(entry, saved, g.dtype)))
                if kernel is None:
                    continue
                args = [open_value(saved[slot], None, False) for slot in entry.slots]
                out = kernel(g, *args, **chosen(entry, params))
                if out is not NotImplemented:
                    grads[i] = out
                    want &= ~(<unsigned long long>1 << i)
        return want

    cdef object run(self, Vjp entry, object backend, object xp, object g, list values, dict params, object into):
        cdef list args = [values[slot] for slot in entry.slots]
        cdef object kernel, out
        params = chosen(entry, params)
        if backend is not None and _kernels and entry.kernels:
            first = next(part for part in <tuple>g if part is not None) if type(g) is tuple else g
            kernel = entry.kernels.get((backend.name, first.dtype))
            if kernel is not None:
                adds = into is not None and kernel in entry.adding
                if adds and type(into) is list:
                    into = [room if room is not None and apart(room, g, args) else None for room in <list>into]
                elif adds:
                    adds = apart(into, g, args)
                if type(kernel) is Kernel:
                    kernel = (<Kernel>kernel).load()
                out = kernel(g, *args, **params, into=into) if adds else kernel(g, *args, **params)
                if out is not NotImplemented:
                    return out
        return entry.rule(xp, g, *args, **params)

    cdef object reopen_out(self, Node node, object item, object compute, bint create):
        if type(item) is tuple:
            if create:
                item = tuple([
                    wrap(part, new_pick(node, <int>k, part) if part.dtype.kind in "fV" else None)
                    for k, part in enumerate(<tuple>item)
                ])
            return tuple([cast(part, compute) for part in <tuple>item]) if compute is not None else item
        if create:
            item = wrap(item, node)
        return cast(item, compute) if compute is not None else item

    cdef bint pull_small(self, tuple parents, tuple saved, object g, unsigned long long want, list grads) except -1:
        """The rules of + - * and unary minus without a Python call; False where they do not take the arrays."""
        cdef object other, part
        cdef Py_ssize_t i
        if self.code == ADD:
            for i in range(2):
                if parents[i] is not None and (want >> i) & 1:
                    grads[i] = g
            return True
        if self.code == SUBTRACT:
            if parents[0] is not None and want & 1:
                grads[0] = g
            if parents[1] is not None and want & 2:
                part = unary(NEGATIVE, g)
                grads[1] = -g if part is None else part
            return type(grads[1]) is ndarray or grads[1] is None
        if self.code == NEGATIVE:
            part = unary(NEGATIVE, g)
            grads[0] = -g if part is None else part
            return type(grads[0]) is ndarray
        if self.code == MULTIPLY:
            for i in range(2):
                if parents[i] is not None and (want >> i) & 1:
                    other = saved[(<Vjp>self.vjps[i]).places[0]]
                    if isinstance(other, TensorBase):
                        other = (<TensorBase>other)._array
                    part = binary(MULTIPLY, g, other)
                    if part is None:
                        part = g * other
                        if type(part) is not ndarray:
                            return False
                    grads[i] = part
            return True
        return False


cdef object half_among(list arrays):
    """The first dtype of two bytes; None where there is none."""
    for array in arrays:
        dtype = getattr(array, "dtype", None)
        if dtype is not None and dtype.itemsize == 2:
            return dtype
    return None


cdef bint apart(object into, object g, list args) except -1:
    """Whether an array, such as one that a gradient is to be added to, shares no memory with others."""
    if type(into) is not ndarray:
        return type(into) in _backends and _backends[type(into)].apart(into, [g, *args])
    if overlaps(into, g):
        return False
    for a in args:
        if type(a) is ndarray and overlaps(into, a):
            return False
    return True


cdef inline dict chosen(Vjp entry, dict params):
    """The parameters that a rule asks for."""
    return params if entry.params is None else {name: params[name] for name in entry.params}


cdef bint keeps_grad(Op op, object array) except -1:
    """Whether a result can carry a gradient; a complex one from a recorded input would lose it silently."""
    kind = dtype_of(array).kind
    if kind == "c":
        raise GradError(
            f"{op.name}: the result is {array.dtype}, and gradients are defined for real tensors only. "
            "Call detach() on the inputs, or stay in the real numbers"
        )
    return kind == "f" or kind == "V"


cdef share_memory(TensorBase made, list tensors):
    """A result in the memory of an input counts in-place changes with it."""
    cdef TensorBase source
    for x in tensors:
        if isinstance(x, TensorBase):
            source = <TensorBase>x
            if source is not made and not apart(made._array, source._array, []):
                made._version = version_of(source)
                made._version.shared = True
                return


cdef inline bint is_plain(object a, object b) except -1:
    """Whether two operands are float32 or float64 arrays of one dtype, or one such array and a Python number."""
    cdef int kind
    if type(a) is ndarray:
        kind = PyArray_TYPE(<ndarray>a)
        if (kind != NPY_FLOAT and kind != NPY_DOUBLE) or not PyArray_ISNOTSWAPPED(<ndarray>a):
            return False
        if type(b) is ndarray:
            return PyArray_TYPE(<ndarray>b) == kind and PyArray_ISNOTSWAPPED(<ndarray>b)
        return type(b) is float or type(b) is int
    if type(b) is ndarray:
        kind = PyArray_TYPE(<ndarray>b)
        if (kind != NPY_FLOAT and kind != NPY_DOUBLE) or not PyArray_ISNOTSWAPPED(<ndarray>b):
            return False
        return type(a) is float or type(a) is int
    return False


cdef Kernel _cast_half = Kernel("halves", "cast")


cpdef object recast(object array, object dtype):
    """``array.astype(dtype)``, by a kernel between float32 and the half types."""
    if _kernels:
        if type(array) is ndarray:
            out = _cast_half.load()(array, dtype)
        else:
            out = _backends[type(array)].cast(array, dtype)
        if out is not NotImplemented:
            return out
    return array.astype(dtype)


cdef object cast(object value, object dtype):
    if value is None or value.dtype == dtype or value.dtype.kind not in "fV":
        return value
    return _namespace.astype(value, dtype) if isinstance(value, TensorBase) else recast(value, dtype)


cdef object open_value(object item, object compute, bint create):
    """A saved input as the rule wants it: a tensor or its array, in the dtype the op computed in."""
    if not isinstance(item, TensorBase):
        return item
    if create:
        if compute is not None and item.dtype != compute:
            return _namespace.astype(item, compute)
        return item
    array = (<TensorBase>item)._array
    if compute is not None and array.dtype != compute:
        return recast(array, compute)
    return array


def cast_all(out, compute, result):
    """Cast each tensor of a result that is in the dtype of the computation to the dtype of the result."""
    if isinstance(out, tuple):
        parts = [_namespace.astype(part, result) if part.dtype == compute else part for part in out]
        return type(out)(*parts) if hasattr(out, "_fields") else tuple(parts)
    return _namespace.astype(out, result) if out.dtype == compute else out


cdef Op _add, _subtract, _multiply, _divide, _negative, _astype
cdef dict _to_float32 = {"dtype": _float32, "copy": False}


def bind_operators(ops):
    """Give the arithmetic operators of tensors, and autocast, their ops, by name."""
    global _add, _subtract, _multiply, _divide, _negative, _astype
    _astype = ops["astype"]
    _add, _subtract, _multiply, _divide, _negative = (
        ops["add"], ops["subtract"], ops["multiply"], ops["divide"], ops["negative"]
    )


cdef class Operators(TensorBase):
    """The four operators whose cost counts, as C slots; the others are methods of Tensor."""

    def __add__(self, other):
        return _add.pair(self, other) if takes(other) else NotImplemented

    def __radd__(self, other):
        return _add.pair(other, self) if takes(other) else NotImplemented

    def __sub__(self, other):
        return _subtract.pair(self, other) if takes(other) else NotImplemented

    def __rsub__(self, other):
        return _subtract.pair(other, self) if takes(other) else NotImplemented

    def __mul__(self, other):
        return _multiply.pair(self, other) if takes(other) else NotImplemented

    def __rmul__(self, other):
        return _multiply.pair(other, self) if takes(other) else NotImplemented

    def __truediv__(self, other):
        return _divide.pair(self, other) if takes(other) else NotImplemented

    def __rtruediv__(self, other):
        return _divide.pair(other, self) if takes(other) else NotImplemented

    def __neg__(self):
        return _negative.apply((self,), _negative.defaults)


cdef inline bint takes(object other):
    # anything that knows how to combine itself with a tensor gets its turn
    return (
        isinstance(other, TensorBase) or type(other) is float or type(other) is int
        or isinstance(other, (int, float, complex, np.ndarray, np.generic, list, tuple))
        or type(other) in _backends
    )

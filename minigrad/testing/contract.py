"""The contract of an op, checked on each of its samples. The tests run `CHECKS` over the whole registry."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import autograd, dtypes
from minigrad._core import dispatch, tape
from minigrad.backend.numpy import backend
from minigrad.errors import DTypeError
from minigrad.ops.conversion import new
from minigrad.ops.registry import Op
from minigrad.ops.samples import A, Case
from minigrad.testing.gradcheck import gradcheck
from minigrad.testing.samples import LAYOUTS, draw_case, relayout, seed_of
from minigrad.testing.tolerances import RELATIVE, assert_close

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["CHECKS", "Trial", "trials"]

Array = np.ndarray[Any, Any]
FLOATS = (dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16)
ROUNDED_ONCE = 0.3  # of a half type's tolerance: a little more than half a unit in the last place
CANCELLED = 0.1  # a gradient smaller than this is what is left of terms of about 1


class Trial:
    """An op on one of its samples."""

    def __init__(self, op: Op[Any], case: Case, number: int) -> None:
        self.op, self.case, self.number = op, case, number
        self.seed = seed_of(op.name, number)
        self.skip = op.skip * len(case.inputs) if op.variadic else op.skip

    def inputs(self, dtype: dtypes.DType = dtypes.float64) -> list[Any]:
        """Arrays and numbers; the floating arrays have this dtype."""
        drawn = [np.asarray(v) if isinstance(v, list) else v for v in draw_case(self.case, self.seed)]
        missing = 0 if self.op.variadic else len(self.op.inputs) - len(drawn)
        return [cast(v, dtype) for v in drawn] + list(self.op.input_defaults[len(self.op.input_defaults) - missing :])

    @functools.cached_property
    def literal(self) -> bool:
        """Whether the sample gives values as they are: special ones, where each element is compared at its own scale."""
        return any(isinstance(i, (list, np.ndarray)) for i in self.case.inputs)

    @functools.cached_property
    def floats(self) -> list[dtypes.DType]:
        """The floating dtypes that the op takes and whose range holds the sample."""
        largest = max((float(np.max(np.abs(v), initial=0.0, where=np.isfinite(v))) for v in self.inputs() if is_float(v)), default=0.0)
        return [d for d in FLOATS if d in self.op.dtype_rule.kinds and largest <= dtypes.finfo(d).max]

    @functools.cached_property
    def varying(self) -> list[int]:
        """The inputs that are differentiated: floating and finite, if the op has a rule for them."""
        joint = self.op.composite or self.op.joint is not None or self.op.variadic
        return [
            i
            for i, v in enumerate(self.inputs())
            if is_float(v)
            and bool(np.isfinite(v).all())
            and (not self.skip[i] or (not joint and self.op.vjps[i] is not None))
        ]

    def run(self, inputs: list[Any], grad: bool = False) -> tuple[list[Any], tuple[Tensor, ...]]:
        """The arguments as tensors, and the results."""
        given = [new(v, requires_grad=grad and i in self.varying) if isinstance(v, np.ndarray) else v for i, v in enumerate(inputs)]
        result = self.op(*given, **self.case.params)
        return given, tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def outputs(self, inputs: list[Any]) -> list[Array]:
        """The results as arrays."""
        return [t._array for t in self.run(inputs)[1]]

    def pull(self, inputs: list[Any], wide: list[Array]) -> list[Array]:
        """Gradients by the varying inputs; `wide` are cotangents in float64, one an output."""
        given, results = self.run(inputs, grad=True)
        live = [(t, new(c.astype(t.dtype))) for t, c in zip(results, wide, strict=True) if t.requires_grad]
        if live:
            autograd.backward([t for t, _ in live], [c for _, c in live])
        return [np.zeros_like(inputs[i]) if given[i].grad is None else given[i].grad._array for i in self.varying]

    def cotangents(self, dtype: dtypes.DType = dtypes.float64) -> list[Array]:
        """Random ones, representable in `dtype`."""
        rng = np.random.default_rng(self.seed)
        signs = (-1.0, 1.0)
        return [
            np.asarray(rng.uniform(0.5, 1.5, a.shape) * rng.choice(signs, a.shape)).astype(dtype).astype(np.float64)
            for a in self.outputs(self.inputs())
        ]

    @property
    def differentiable(self) -> bool:
        """Whether something that varies leads to something floating."""
        return bool(self.varying) and any(a.dtype in dtypes.FLOATING for a in self.outputs(self.inputs()))

    def truth(self, inputs: list[Any]) -> list[Array]:
        """What the reference, or the generic body, makes of the inputs."""
        result = None
        if self.op.ref is not None:
            try:
                result = call_reference(self.op, inputs, self.case.params)
            except ValueError:
                if not any(isinstance(v, np.ndarray) and v.size == 0 for v in inputs):
                    raise  # SciPy's softmax, for one, refuses empty arrays
        if result is None:
            arrays = self.op.dtype_rule.resolve(self.op, list(inputs), self.skip, backend)[0]
            with np.errstate(all="ignore"):
                result = self.op.body(backend.namespace, *arrays, **{**self.op.defaults, **self.case.params})
        return [np.asarray(a) for a in (result if isinstance(result, (tuple, list)) else (result,))]


def cast(value: Any, dtype: dtypes.DType) -> Any:
    """A floating array in this dtype, anything else as it is."""
    return value.astype(dtype) if is_float(value) else value


def is_float(value: Any) -> bool:
    """Whether a value is a floating array."""
    return isinstance(value, np.ndarray) and value.dtype in dtypes.FLOATING


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor."""
    return isinstance(value, tape.TensorBase)


def trials(op: Op[Any]) -> Iterator[Trial]:
    """The op on each sample that works."""
    for number, case in enumerate(op.cases):
        if case.raises is None:
            yield Trial(op, case, number)


def call_reference(op: Op[Any], inputs: list[Any], params: dict[str, Any]) -> Any:
    """Call the NumPy or SciPy function that an op names as its reference; one for any number of arrays takes them as a list."""
    path = op.ref.split(".") if op.ref else []
    function: Any = importlib.import_module(path[0])
    for depth, part in enumerate(path[1:], 2):
        if not hasattr(function, part):
            importlib.import_module(".".join(path[:depth]))
        function = getattr(function, part)
    known = {} if isinstance(function, np.ufunc) else inspect.signature(function).parameters
    listed = op.variadic and not any(p.kind is p.VAR_POSITIONAL for p in known.values())
    # where the function has another default, or none, the op's counts
    params = {**{name: value for name, value in op.defaults.items() if name in known}, **params}
    args = [list(inputs)] if listed else [v for v in inputs if v is not None]
    if known and not set(params) <= set(known) and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        args += [params.pop(name) for name in op.positional]  # it calls them otherwise
    with np.errstate(all="ignore"):
        return function(*args, **params)


def each(check: Callable[[Trial], None]) -> Callable[[Op[Any]], None]:
    """Run a check on every sample that works, and say which one failed."""

    @functools.wraps(check)
    def run(op: Op[Any]) -> None:
        for trial in trials(op):
            try:
                check(trial)
            except Exception as error:
                error.add_note(f"{op.name}, sample {trial.number}: {trial.case}")
                raise

    return run


def coarsest(*arrays: Any) -> dtypes.DType:
    """The dtype that bounds how well arrays can agree; that of the first where none is inexact."""
    found = [a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype in RELATIVE]
    return max(found, key=lambda d: RELATIVE[d]) if found else arrays[0].dtype


@each
def check_forward(trial: Trial) -> None:
    """Results agree with the reference, evaluated in float64 at the same rounded inputs."""
    for dtype in trial.floats:
        inputs = trial.inputs(dtype)
        outputs = trial.outputs(inputs)
        wide = [cast(v, dtypes.float64) for v in inputs]
        truth = trial.truth(wide)
        assert len(outputs) == len(truth), f"{len(outputs)} results, the reference has {len(truth)}"
        for k, (out, expected) in enumerate(zip(outputs, truth, strict=True)):
            held = coarsest(out, *inputs) if out.dtype in RELATIVE else out.dtype
            factor = ROUNDED_ONCE if held in dtypes.HALF and trial.op.dtype_rule.accumulate else 1.0
            assert_close(out, expected, held, f"output {k} for {dtype} inputs", factor=factor, each=trial.literal)


@each
def check_dtypes(trial: Trial) -> None:
    """Floating inputs of a dtype give what the dtype rule says; dtypes that the op does not take are refused."""
    op = trial.op
    if any(isinstance(v, np.dtype) for v in trial.case.params.values()):
        return
    if not any(isinstance(i, A) and i.kind == "float" and not s for i, s in zip(trial.case.inputs, trial.skip)):
        return
    for dtype in FLOATS:
        inputs = trial.inputs(dtype)
        if op.dtype_rule.promoted and dtype not in op.dtype_rule.kinds:
            refuses(trial, inputs, dtype)
            continue
        result = op.dtype_rule.resolve(op, list(inputs), trial.skip, backend)[2]
        outputs = trial.outputs(inputs)
        for k, out in enumerate(outputs):
            if out.dtype in dtypes.FLOATING:
                assert out.dtype == (result or dtype), f"output {k} for {dtype} inputs is {out.dtype}"
            elif len(outputs) == 1:
                assert op.result is None, f"the result for {dtype} inputs is {out.dtype}, though the rule says it is the same"


@each
def check_integers(trial: Trial) -> None:
    """Integers give what the dtype rule says, without a word on widths that it does not say; or they are refused."""
    op = trial.op
    if any(isinstance(v, np.dtype) for v in trial.case.params.values()):
        return
    described = [i for i in trial.case.inputs if isinstance(i, A)]
    if not described or trial.literal or any(i.kind != "float" or i.form not in ("any", "distinct") for i in described):
        return
    for dtype in (dtypes.int32, dtypes.uint8):
        inputs = [np.asarray(np.ceil(np.abs(v))).astype(dtype) if isinstance(v, np.ndarray) else v for v in trial.inputs()]
        if op.dtype_rule.promoted and dtype not in op.dtype_rule.kinds:
            refuses(trial, inputs, dtype)
            continue
        try:
            expected = op.dtype_rule.resolve(op, list(inputs), trial.skip, backend)[2]
        except DTypeError:
            refuses(trial, inputs, dtype)
            continue
        outputs = trial.outputs(inputs)
        if op.result is not None and len(outputs) == 1:
            assert outputs[0].dtype == (expected or dtype), f"the result for {dtype} inputs is {outputs[0].dtype}"


def refuses(trial: Trial, inputs: list[Any], dtype: dtypes.DType) -> None:
    """Assert that inputs of a dtype which the op does not take raise DTypeError."""
    try:
        trial.run(inputs)
    except DTypeError:
        return
    raise AssertionError(f"{dtype} is not among the kinds of the op, yet it takes it")


@each
def check_gradients(trial: Trial) -> None:
    """First and second derivatives agree with central differences."""
    inputs = trial.inputs()
    if not trial.differentiable or any(a.dtype in dtypes.FLOATING - {dtypes.float64} for a in trial.outputs(inputs)):
        return

    # values that a sample gives as they are, such as 1e38, are not for differences; check_low_precision compares them
    moving = [i for i in trial.varying if isinstance(trial.case.inputs[i], A)]

    def f(*varying: Any) -> Any:
        given = [new(v) if isinstance(v, np.ndarray) else v for v in inputs]
        for i, v in zip(moving, varying, strict=True):
            given[i] = v
        return trial.op(*given, **trial.case.params)

    f.__name__ = trial.op.name
    if moving:
        gradcheck(f, [inputs[i] for i in moving], 2, seed=trial.seed)


@each
def check_low_precision(trial: Trial) -> None:
    """Gradients in float32 and half types have their input's dtype and agree with float64 at the same rounded inputs."""
    if not trial.differentiable:
        return
    for dtype in trial.floats:
        if dtype == dtypes.float64:
            continue
        inputs, cotangents = trial.inputs(dtype), trial.cotangents(dtype)
        wide = [cast(v, dtypes.float64) for v in inputs]
        truth = trial.pull(wide, cotangents)
        for i, grad, expected in zip(trial.varying, trial.pull(inputs, cotangents), truth, strict=True):
            assert grad.dtype == dtype, f"the gradient of {dtype} input {i} is {grad.dtype}"
            assert_close(grad, expected, dtype, f"gradient of {dtype} input {i}", floor=CANCELLED, each=trial.literal)


@each
def check_layouts(trial: Trial) -> None:
    """However the inputs lie in memory, results and gradients are equal, and the inputs stay as they are."""
    inputs, cotangents = trial.inputs(), trial.cotangents()
    outputs, grads = trial.outputs(inputs), trial.pull(inputs, cotangents)
    unchanged(inputs, trial.inputs())
    for layout in LAYOUTS[1:]:
        moved = [relayout(v, layout) if isinstance(v, np.ndarray) else v for v in inputs]
        for k, (out, expected) in enumerate(zip(trial.outputs(moved), outputs, strict=True)):
            assert_close(out, expected, out.dtype, f"output {k} of {layout} inputs")
        turned = [relayout(c, layout) for c in cotangents]
        for i, grad, expected in zip(trial.varying, trial.pull(moved, turned), grads, strict=True):
            assert_close(grad, expected, grad.dtype, f"gradient of {layout} input {i}")
        unchanged(moved, inputs)


def unchanged(now: list[Any], before: list[Any]) -> None:
    """Assert that arrays hold what they held."""
    for i, (a, b) in enumerate(zip(now, before, strict=True)):
        if isinstance(a, np.ndarray):
            assert np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"), f"input {i} was changed in place"


@each
def check_memory(trial: Trial) -> None:
    """Only the result of a view op lies in the memory of an input."""
    if trial.op.view:
        return
    inputs = trial.inputs()
    outputs = trial.outputs(inputs)
    for k, out in enumerate(outputs):
        for i, v in enumerate(inputs):
            assert not (isinstance(v, np.ndarray) and np.shares_memory(out, v)), f"output {k} lies in the memory of input {i}"
        for j, other in enumerate(outputs[:k]):
            assert not np.shares_memory(out, other), f"output {k} lies in the memory of output {j}"


@each
def check_kernels(trial: Trial) -> None:
    """Kernels and the small-array loops compute what the generic body and rules compute."""
    for dtype in trial.floats:
        inputs, cotangents = trial.inputs(dtype), trial.cotangents(dtype)
        fast = trial.outputs(inputs), trial.pull(inputs, cotangents)
        before = dispatch.use_kernels(False)
        try:
            generic = trial.outputs(inputs), trial.pull(inputs, cotangents)
        finally:
            dispatch.use_kernels(before)
        for kind, ours, theirs in zip(("output", "gradient"), fast, generic, strict=True):
            for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                assert a.dtype == b.dtype, f"{kind} {k} is {a.dtype} with kernels and {b.dtype} without"
                held = coarsest(a, *inputs) if a.dtype in RELATIVE else a.dtype
                assert_close(a, b, held, f"{kind} {k} for {dtype}, kernel against generic", floor=CANCELLED, each=trial.literal)


@each
def check_residuals(trial: Trial) -> None:
    """Nothing outlives the forward but what a rule asks for."""
    op = trial.op
    if op.composite or not trial.varying:
        return
    given: list[Any] = []
    for i, v in enumerate(trial.inputs()):
        # an addition in between, since a leaf is kept by the graph in any case
        given.append((new(v, requires_grad=True) + 0.0 if i in trial.varying else new(v.copy())) if isinstance(v, np.ndarray) else v)
    result = op(*given, **trial.case.params)
    nodes = [t._node for t in (result if isinstance(result, (tuple, list)) else (result,))]
    if not any(nodes):
        return
    asked = {name for rule in (*op.vjps, op.joint) if rule is not None for name in list(inspect.signature(rule.rule).parameters)[2:]}
    names = op.inputs * len(given) if op.variadic else op.inputs
    watched = [(i, name, weakref.ref(t._array)) for i, (name, t) in enumerate(zip(names, given, strict=True)) if is_tensor(t)]
    del given, result
    for i, name, array in watched:
        kept = name in asked or (op.view and "out" in asked)
        assert kept or array() is None, f"input {i} ({name}) outlives the forward, though no rule asks for it"


def check_errors(op: Op[Any]) -> None:
    """Inputs that must be refused are, with a text that names the op; recording or not."""
    for number, case in enumerate(op.cases):
        if case.raises is None:
            continue
        for grad in (False, True):
            given = [
                new(v, requires_grad=grad and v.dtype in dtypes.FLOATING) if isinstance(v, np.ndarray) else v
                for v in draw_case(case, seed_of(op.name, number))
            ]
            try:
                op(*given, **case.params)
            except case.raises as error:
                text = str(error)
            except Exception as error:
                error.add_note(f"{op.name}, sample {number} should raise {case.raises.__name__}: {case}")
                raise
            else:
                raise AssertionError(f"{op.name}, sample {number} should raise {case.raises.__name__}: {case}")
            assert case.text in text, f"{op.name}, sample {number}: {case.text!r} is not in {text!r}"
            assert op.name in text, f"{op.name}, sample {number}: the op is not named in {text!r}"


def check_record(op: Op[Any]) -> None:
    """The record is complete: samples, a rule where one is needed, and documentation with an example."""
    assert any(case.raises is None for case in op.cases), f"{op.name}: no samples"
    assert op.needs, f"{op.name}: needs is empty"
    public = op if not op.body.__name__.startswith("_") else getattr(sys.modules[op.__module__], op.name.rpartition(".")[2], None)
    if public is not None:
        text = inspect.getdoc(public) or ""
        assert ">>>" in text, f"{op.name}: its documentation has no example"


CHECKS: tuple[Callable[[Op[Any]], None], ...] = (
    check_record, check_forward, check_dtypes, check_integers, check_gradients, check_low_precision, check_layouts, check_memory, check_kernels,
    check_residuals, check_errors,
)  # fmt: skip

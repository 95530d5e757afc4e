"""The contract of an op, checked on each of its samples. The tests run `CHECKS` over the whole registry."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad._core import cpu, tape
from minigrad.backend.numpy import backend
from minigrad.errors import DTypeError
from minigrad.ops.conversion import new
from minigrad.ops.registry import Op
from minigrad.ops.samples import A
from minigrad.testing.gradcheck import gradcheck
from minigrad.testing.samples import LAYOUTS, draw_case, relayout, seed_of
from minigrad.testing.tolerances import RELATIVE, assert_close
from minigrad.testing.trial import FLOATS, Trial, cast, is_float, is_tensor, trials
from minigrad.testing.variants import generic, variant

__all__ = ["CHECKS"]

ROUNDED_ONCE = 0.3  # of a half type's tolerance: a little more than half a unit in the last place
CANCELLED = 0.1  # a number smaller than this is what is left of terms of about 1
# a result saved in a half type is rounded before terms such as 1 - out**2 cancel
CANCELLED_HALF = 0.5


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
            floor = 0.0 if trial.literal else CANCELLED
            what = f"output {k} for {dtype} inputs"
            assert_close(out, expected, held, what, factor=factor, floor=floor, each=trial.literal)


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
                assert op.result is None, f"the result for {dtype} inputs is {out.dtype}, not the same"


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
        drawn = trial.inputs()
        inputs = [np.asarray(np.ceil(np.abs(v)), dtype) if isinstance(v, np.ndarray) else v for v in drawn]
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


@each
def check_numbers(trial: Trial) -> None:
    """A Python number may stand for a 0-d input; it is weak, and float32 where nothing else has a dtype."""
    inputs = trial.inputs(dtypes.float32)
    which = [i for i, v in enumerate(trial.case.inputs) if isinstance(v, A) and v.shape == () and v.kind == "float"]
    if dtypes.float32 not in trial.floats or not which:
        return
    outputs = trial.outputs(inputs)
    for i in which:
        numbers = [float(v) if k == i else v for k, v in enumerate(inputs)]
        for out, expected in zip(trial.outputs(numbers), outputs, strict=True):
            assert out.dtype == expected.dtype, f"the result is {out.dtype} with a number as input {i}"
            assert_close(out, expected, out.dtype, f"output with a number as input {i}")


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
    """Gradients in float32 and half types have their input's dtype, and agree with float64 at the same inputs."""
    if not trial.differentiable:
        return
    for dtype in trial.floats:
        if dtype == dtypes.float64:
            continue
        inputs, cotangents = trial.inputs(dtype), trial.cotangents(dtype)
        wide = [cast(v, dtypes.float64) for v in inputs]
        truth = trial.pull(wide, cotangents)
        floor = CANCELLED_HALF if dtype in dtypes.HALF else CANCELLED
        for i, grad, expected in zip(trial.varying, trial.pull(inputs, cotangents), truth, strict=True):
            assert grad.dtype == dtype, f"the gradient of {dtype} input {i} is {grad.dtype}"
            assert_close(grad, expected, dtype, f"gradient of {dtype} input {i}", floor=floor, each=trial.literal)


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
            if isinstance(v, np.ndarray):
                assert not np.shares_memory(out, v), f"output {k} lies in the memory of input {i}"
        for j, other in enumerate(outputs[:k]):
            assert not np.shares_memory(out, other), f"output {k} lies in the memory of output {j}"


@each
def check_kernels(trial: Trial) -> None:
    """Kernels of every instruction set and the small-array loops compute what the generic body and rules compute."""
    for dtype in trial.floats:
        inputs, cotangents = trial.inputs(dtype), trial.cotangents(dtype)
        with generic():
            expected = trial.outputs(inputs), trial.pull(inputs, cotangents)
        for level in cpu.levels():
            with variant(level, cpu.get_threads()):
                fast = trial.outputs(inputs), trial.pull(inputs, cotangents)
            for kind, ours, theirs in zip(("output", "gradient"), fast, expected, strict=True):
                for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                    assert a.dtype == b.dtype, f"{kind} {k} is {a.dtype} with kernels and {b.dtype} without"
                    held = coarsest(a, *inputs) if a.dtype in RELATIVE else a.dtype
                    what = f"{kind} {k} for {dtype}, {level} kernel against generic"
                    assert_close(a, b, held, what, floor=CANCELLED, each=trial.literal)


def everything(trial: Trial, inputs: list[Any], cotangents: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Results, results on the tape, and gradients."""
    recorded = [t._array for t in trial.run(inputs, grad=True)[1]]
    return trial.outputs(inputs), recorded, trial.pull(inputs, cotangents)


def autocast_to(amp: str, own: dtypes.DType, half: dtypes.DType) -> dtypes.DType:
    """The dtype to which a policy casts an input of dtype `own` in a block of type `half`."""
    if amp == "half":
        return half if own != dtypes.float64 else own
    return dtypes.float32 if amp == "float32" and own in dtypes.HALF else own


@each
def check_autocast(trial: Trial) -> None:
    """Under autocast results and gradients are those of inputs that were cast by hand, to the last bit."""
    for half, dtype in itertools.product(sorted(dtypes.HALF, key=str), FLOATS):
        if dtype == half or not {half, dtype} <= set(trial.floats):
            continue
        inputs, cotangents = trial.inputs(dtype), trial.cotangents(dtypes.bfloat16)
        cast_by_hand = [
            v if skipped or not is_float(v) else cast(v, autocast_to(trial.op.amp, v.dtype, half))
            for v, skipped in zip(inputs, trial.skip, strict=True)
        ]
        with tape.AutocastMode(half):
            found = everything(trial, inputs, cotangents)
        for what, ours, theirs in zip(
            ("output", "recorded output", "gradient"), found, everything(trial, cast_by_hand, cotangents), strict=True
        ):
            wanted = [cast(b, dtype) if what == "gradient" else b for b in theirs]
            for k, (a, b) in enumerate(zip(ours, wanted, strict=True)):
                name = f"{what} {k} for {dtype} inputs under autocast to {half}"
                assert a.dtype == b.dtype, f"{name} is {a.dtype}, and {b.dtype} of inputs cast by hand"
                assert a.tobytes() == b.tobytes(), f"{name} is not that of inputs cast by hand"


@each
def check_residuals(trial: Trial) -> None:
    """Nothing outlives the forward but what a rule asks for."""
    op = trial.op
    if op.composite or not trial.varying:
        return
    given = trial.run(trial.inputs(), grad=True)[0]
    # an addition in between, since a leaf is kept by the graph in any case
    given = [t + 0.0 if is_tensor(t) and t.requires_grad else t for t in given]
    result: Any = op(*given, **trial.case.params)
    nodes = [t._node for t in (result if isinstance(result, (tuple, list)) else (result,))]
    if not any(nodes):
        return
    rules = [rule.rule for rule in (*op.vjps, op.joint) if rule is not None]
    asked = {name for rule in rules for name in list(inspect.signature(rule).parameters)[2:]}
    names = op.inputs * len(given) if op.variadic else op.inputs
    watched = [(name, weakref.ref(t._array)) for name, t in zip(names, given, strict=True) if is_tensor(t)]
    del given, result
    for i, (name, array) in enumerate(watched):
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
    private = op.body.__name__.startswith("_")
    public = getattr(sys.modules[op.__module__], op.name.rpartition(".")[2], None) if private else op
    if public is not None:
        text = inspect.getdoc(public) or ""
        assert ">>>" in text, f"{op.name}: its documentation has no example"


CHECKS: tuple[Callable[[Op[Any]], None], ...] = (
    check_record, check_forward, check_dtypes, check_integers, check_numbers, check_gradients, check_low_precision,
    check_layouts, check_memory, check_kernels, check_autocast, check_residuals, check_errors,
)  # fmt: skip

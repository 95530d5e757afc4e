"""A trial: an op on one of its samples, called and differentiated in the ways that the contract asks about."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import autograd, dtypes
from minigrad._core import tape
from minigrad.backend.numpy import backend
from minigrad.ops.conversion import new
from minigrad.ops.registry import Op
from minigrad.ops.samples import Case
from minigrad.testing.samples import draw_case, seed_of

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["FLOATS", "Trial", "cast", "is_float", "is_tensor", "trials"]

Array = np.ndarray[Any, Any]
FLOATS = (dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16)


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
        """Whether the sample gives values as they are: special ones, each compared at its own scale."""
        return any(isinstance(i, (list, np.ndarray)) for i in self.case.inputs)

    @functools.cached_property
    def floats(self) -> list[dtypes.DType]:
        """The floating dtypes that the op takes and whose range holds the sample."""
        sizes = [np.abs(v[np.isfinite(v)]).max(initial=0.0) for v in self.inputs() if is_float(v)]
        largest = float(max(sizes, default=0.0))
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
        wanted = self.varying if grad else []
        given = [new(v, requires_grad=i in wanted) if isinstance(v, np.ndarray) else v for i, v in enumerate(inputs)]
        result: Any = self.op(*given, **self.case.params)
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
        return [
            np.zeros_like(inputs[i]) if given[i].grad is None else given[i].grad.detach().numpy() for i in self.varying
        ]

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
    """Call the NumPy or SciPy function that an op names as its reference."""
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

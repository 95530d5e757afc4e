"""The op record: what one operation is. Every op of minigrad is made here and listed in `REGISTRY`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec

import numpy as np

from minigrad import dtypes
from minigrad._core import dispatch
from minigrad.errors import AxisError, DeviceError, DTypeError, GradError, ShapeError, describe, layer_path, message
from minigrad.ops.samples import Case

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "POLICIES", "REGISTRY", "Array", "DTypeRule", "Op", "accumulate_float32", "comparison", "exact", "explain",
    "floating", "keep", "op", "promote",
]  # fmt: skip

P = ParamSpec("P")
Array = Any  # an array of whatever backend `xp` is, or a Tensor where `xp` is minigrad itself

REGISTRY: dict[str, Op[Any]] = {}

BROADCAST = "shapes that broadcast together"

POLICIES = {
    "half": "floating inputs below float64 are cast to the half type of the block",
    "float32": "half inputs are cast to float32",
    "widest": "inputs of several dtypes are brought to the widest, as they are anywhere",
    "keep": "inputs are left as they are",
}


class DTypeRule:
    """In which dtype an op computes and answers.

    Parameters
    ----------
    promoted : bool
        Bring all inputs to one dtype.
    floats : bool
        Integers become the default floating dtype first.
    accumulate : bool
        Half types are computed in float32 and the result is rounded once.
    rounded : bool
        False leaves that result in float32.
    same : bool
        The result has the dtype of the inputs; the dispatcher asserts it.
    kinds : frozenset of dtype
        What the op takes.
    """

    def __init__(
        self,
        *,
        promoted: bool = True,
        floats: bool = False,
        accumulate: bool = True,
        rounded: bool = True,
        same: bool = True,
        kinds: frozenset[dtypes.DType] = dtypes.ALL,
    ) -> None:
        self.promoted, self.floats, self.kinds = promoted, floats, kinds
        self.accumulate, self.rounded = accumulate, rounded
        self.result = "same" if same else None
        self.plain = kinds
        if floats:
            self.plain = self.plain - dtypes.BOOL - dtypes.INTEGER
        if accumulate:
            self.plain = self.plain - dtypes.HALF

    def but(self, **changes: Any) -> DTypeRule:
        """A rule like this one with some of its arguments changed."""
        own = {
            "promoted": self.promoted,
            "floats": self.floats,
            "accumulate": self.accumulate,
            "rounded": self.rounded,
            "same": self.result is not None,
            "kinds": self.kinds,
        }
        return DTypeRule(**{**own, **changes})

    def resolve(
        self, op: Op[Any], arrays: list[Any], skip: tuple[bool, ...], backend: Any
    ) -> tuple[list[Any], dtypes.DType | None, dtypes.DType | None]:
        """Cast the inputs; returns them, the dtype of the computation and the dtype of the result."""
        if not self.promoted:
            return [self._constant(a, None, backend) for a in arrays], None, None
        own = [a for a, out in zip(arrays, skip, strict=True) if not out and a is not None]
        weak = [a for a in own if isinstance(a, (bool, int, float, complex))]
        found = [a.dtype for a in own if hasattr(a, "dtype")]
        result = dtypes.promote(found, weak, op.name)
        self.check(op, result)
        if self.floats and result not in dtypes.FLOATING | dtypes.COMPLEX:
            result = dtypes.default_float
        compute = dtypes.float32 if self.accumulate and result in dtypes.HALF else result
        cast = [
            self._constant(a, None, backend) if out or a is None else self._constant(a, compute, backend)
            for a, out in zip(arrays, skip, strict=True)
        ]
        return cast, compute, result if self.rounded else compute

    def check(self, op: Op[Any], dtype: dtypes.DType) -> None:
        """Refuse a dtype that the op does not take."""
        if dtype not in self.kinds:
            names = sorted(str(d) for d in self.kinds)
            raise DTypeError(f"{op.name}: got {dtype}, needs one of {', '.join(names)}")

    @staticmethod
    def _constant(a: Any, dtype: dtypes.DType | None, backend: Any) -> Any:
        if a is None:
            return None
        if hasattr(a, "dtype"):
            return a if dtype is None or a.dtype == dtype else dispatch.recast(a, dtype)
        return backend.asarray(a, dtype or dtypes.promote([], [a]))


promote = DTypeRule()
floating = DTypeRule(floats=True)
accumulate_float32 = floating
comparison = DTypeRule(accumulate=False, same=False)
exact = DTypeRule(accumulate=False)
keep = DTypeRule(promoted=False, accumulate=False)


class Op(dispatch.Op, Generic[P]):
    """One operation. Calling it computes; the decorators below complete its record."""

    needs: str
    hint: str
    ref: str | None
    cases: list[Case]

    @property
    def __signature__(self) -> Any:
        """The public signature: the body's without ``xp``."""
        import inspect

        whole = inspect.signature(self.body)
        # an input with a default may be given by name too
        public = [
            p if p.default is p.empty or p.kind is not p.POSITIONAL_ONLY else p.replace(kind=p.POSITIONAL_OR_KEYWORD)
            for p in list(whole.parameters.values())[1:]
        ]
        return whole.replace(parameters=public)

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor: ...

    def vjp(self, *which: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Attach the vjp rule for inputs `which`; without a number, one joint rule that answers for all inputs.

        The rule is called as ``rule(xp, g, *residuals, **params)``. The names of its positional parameters after ``g``
        say what the forward must save: inputs by name, ``out``, or ``NAME_shape`` where the shape is enough.
        """

        def attach(rule: Callable[..., Any]) -> Callable[..., Any]:
            code = rule.__code__
            names = list(code.co_varnames[2 : code.co_argcount])
            params = list(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
            for index in which or (None,):
                self.add_rule(index, rule, names, params)
            return rule

        return attach

    def kernel(
        self, backend: str, *kinds: dtypes.DType, vjp: int | None = None, into: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a kernel for the forward, or for the rule of input `vjp`, on a backend and for dtypes.

        A kernel takes what the body or rule takes, without ``xp``, and returns NotImplemented for what it leaves alone.
        With `into`, that of a rule also takes ``into=``, an array to which it adds the gradient and which it returns;
        that of a joint rule a list of them, with None where there is none. A kernel for a half type, a joint rule's
        too, gets arrays of it as they are, and cotangents in float32 where the op does not round its results; others
        are given what was cast to float32. It is called where all inputs that the dtype rule looks at have that type.
        """

        def attach(kernel: Callable[..., Any]) -> Callable[..., Any]:
            self.add_kernel(kernel, backend, kinds, vjp, into)
            return kernel

        return attach

    def samples(self, *cases: Case) -> None:
        """Add the inputs on which the generic tests try the op."""
        self.cases.extend(cases)


def op(
    *,
    dtype: DTypeRule = promote,
    skip: str = "",
    view: bool = False,
    ref: str | None = None,
    needs: str = BROADCAST,
    hint: str = "",
    code: str | None = None,
    name: str | None = None,
    amp: str | None = None,
) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]:
    """Make an op from its generic body.

    Parameters
    ----------
    dtype : DTypeRule
        The dtype rule.
    skip : str
        Names of inputs, separated by spaces, that the dtype rule leaves alone (conditions, indices).
    view : bool
        The result may lie in the memory of an input.
    ref : str, optional
        Dotted name of a NumPy or SciPy function that the generic tests compare with.
    needs, hint : str
        What the inputs must be and how to mend them, for the error when the body fails.
    code : str, optional
        Name of the loop for small arrays in ``_core/arrays.pyx``.
    name : str, optional
        The name of the op; the body's by default.
    amp : str, optional
        What `minigrad.amp.autocast` does with floating inputs, one of `POLICIES`. An op that rounds must say it.

    Returns
    -------
    callable
        A decorator for ``body(xp, *inputs, /, params, *, keyword_params)``: what stands before the slash is an array
        input (``*xs`` takes any number), what stands behind it is a static parameter.
    """

    def make(body: Callable[Concatenate[Any, P], Any]) -> Op[P]:
        inputs, variadic, input_defaults, params, positional, defaults = _sorted_arguments(body)
        title = name or body.__name__.strip("_")
        if not inputs:
            raise TypeError(
                f"op {title!r}: the body has no array inputs; they stand between xp and a slash, f(xp, x, /, axis)"
            )
        skipped = tuple(i in skip.split() for i in inputs)
        made: Op[P] = Op(
            title, body, inputs, variadic, input_defaults, params, positional, defaults, dtype, skipped, view, code,
            policy_of(title, dtype, amp),
        )  # fmt: skip
        made.__doc__, made.__name__, made.__qualname__ = body.__doc__, title, title
        made.__module__ = body.__module__
        made.ref, made.needs, made.hint = ref, needs, hint
        if title in REGISTRY:
            raise ValueError(f"op {title!r} is registered twice")
        REGISTRY[title] = made
        return made

    return make


def policy_of(title: str, rule: DTypeRule, amp: str | None) -> str:
    """What autocast does with an op; it follows from the dtype rule for ops that select or move values."""
    if amp is None and rule.accumulate and rule.kinds & dtypes.HALF:
        raise TypeError(f"op {title!r}: it rounds its results, so it must say amp=, one of {', '.join(POLICIES)}")
    if amp is not None and amp not in POLICIES:
        raise ValueError(message(f"op {title!r}", "amp", repr(amp), f"one of {', '.join(POLICIES)}"))
    return amp or ("widest" if rule.promoted else "keep")


def _sorted_arguments(
    body: Callable[..., Any],
) -> tuple[tuple[str, ...], bool, tuple[Any, ...], tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Sort the arguments of a body after ``xp``, from its code object, since `inspect` is slow to import and to call.

    Returns the inputs, whether there is any number of them, their trailing defaults, the static parameters, those of
    them that may be given by position, and the defaults of the parameters.
    """
    code = body.__code__
    names = code.co_varnames
    only, count, keyword = code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount
    variadic = bool(code.co_flags & 0x04)  # CO_VARARGS
    own = body.__defaults__ or ()
    with_default = dict(zip(names[count - len(own) : count], own, strict=True))
    inputs = (names[count + keyword],) if variadic else names[1:only]
    positional = () if variadic else names[max(only, 1) : count]
    params = positional + names[count : count + keyword]
    defaults = {n: with_default[n] for n in positional if n in with_default} | (body.__kwdefaults__ or {})
    return inputs, variadic, tuple(with_default[n] for n in inputs if n in with_default), params, positional, defaults


def explain(op: Op[Any], tensors: list[Any], params: dict[str, Any], error: Exception) -> Exception:
    """Turn what an array library raised inside a body into an error that names the op and its arguments."""
    path = layer_path.get()
    who = f"{path + ': ' if path else ''}{op.name}"
    told = str(error).startswith(f"{who}: ") and ", needs " in str(error)  # built with `message` by the body itself
    if told or isinstance(error, (ShapeError, DTypeError, DeviceError, GradError)):
        return error
    names = [f"{op.inputs[0]}[{i}]" for i in range(len(tensors))] if op.variadic else op.inputs
    got = [f"{n} {describe(t)}" for n, t in zip(names, tensors, strict=True) if t is not None]
    got += [f"{key}={describe(value)}" for key, value in params.items() if value is not op.defaults.get(key)]
    needs = op.needs
    if isinstance(error, OverflowError):
        needs = "numbers that the dtype can hold"
    elif isinstance(error, TypeError) and needs == BROADCAST:
        needs = "dtypes and arguments it can compute with"
    text = f"{who}: got {', '.join(got)}, needs {needs}. {str(error).rstrip('. ')}."
    if op.hint:
        text += f" {op.hint}"
    if isinstance(error, np.exceptions.AxisError):
        return AxisError(text)
    if isinstance(error, MemoryError):
        return MemoryError(text)  # NumPy's own kind takes other arguments
    if isinstance(error, (IndexError, OverflowError, ZeroDivisionError, np.linalg.LinAlgError)):
        return type(error)(text)
    return DTypeError(text) if isinstance(error, TypeError) else ShapeError(text)

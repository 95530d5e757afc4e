"""gradcheck: derivatives of any order against central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import autograd, dtypes
from minigrad._core import tape
from minigrad.errors import describe, message
from minigrad.ops.conversion import new
from minigrad.testing.tolerances import gradient

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["GradcheckError", "gradcheck"]

Array = np.ndarray[Any, Any]
EACH = 48  # up to so many elements every coordinate is tried; above, random directions
DIRECTIONS = 6


class GradcheckError(AssertionError):
    """A derivative, or the manners of a function, failed `gradcheck`."""


def gradcheck(
    f: Callable[..., Any],
    inputs: Any,
    order: int = 2,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    step: float = 1e-3,
    seed: int = 0,
) -> bool:
    """Check the derivatives of a function against central differences, up to some order.

    With random cotangents ``c`` the gradient of ``phi(x) = <f(x), c>`` must agree with

        (phi(x - 2 h v) - 8 phi(x - h v) + 8 phi(x + h v) - phi(x + 2 h v)) / (12 h)

    along every coordinate ``v``, or along random directions where there are many. Order 2 does the same with the
    gradient as a function of ``x`` and ``c``, recorded by ``create_graph=True``; and so on.

    Parameters
    ----------
    f : callable
        Takes the inputs as tensors and returns a tensor or a tuple of tensors. Results that are not floating are
        ignored.
    inputs : tensor or array, or a sequence of them
        Where to check. Floating ones are copied to float64 and differentiated, the others are handed over as they are.
        They must keep a distance of some steps from kinks and jumps of `f`.
    order : int
        How often to differentiate.
    atol, rtol : float, optional
        Tolerance: ``rtol`` times the sum of the terms' magnitudes, plus ``atol`` times the magnitude of ``phi`` (at
        least 1). By default 1e-9 and 1e-7 for order 1, ten times that above.
    step : float
        The step ``h``.
    seed : int
        For the cotangents and directions.

    Returns
    -------
    bool
        True.

    Raises
    ------
    ValueError
        If `order`, a tolerance or `step` is out of range, or nothing among the inputs is floating.
    GradcheckError
        If `f` returns something else than tensors; if a derivative differs, has another shape or dtype than its input,
        or lies in the memory of another array; if `f` or its backward changes an array that it was given; if `f` gives
        other values the second time. It is an AssertionError and shows the worst element and the inputs.

    Notes
    -----
    Cotangents are random because special ones hide faults: the vjp of softmax under a cotangent of ones is zero. As in
    any backward pass, leaves that `f` refers to without taking them as inputs collect a ``.grad``.

    Examples
    --------
    >>> import numpy as np, minigrad as mg
    >>> from minigrad.testing import gradcheck
    >>> gradcheck(lambda x, y: x * x / y, [np.array([1.0, 2.0]), np.array(3.0)])
    True
    """
    if order < 1:
        raise ValueError(message("gradcheck", "order", f"{order}", "an order of at least 1"))
    for title, tolerance in (("atol", atol), ("rtol", rtol)):
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise ValueError(message("gradcheck", title, f"{tolerance}", "a finite number of at least 0"))
    if not 0 < step < math.inf:
        raise ValueError(message("gradcheck", "step", f"{step}", "a finite number above 0"))
    given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    values = [_value(x) for x in given]
    if not any(_differentiable(v) for v in values):
        raise ValueError(message("gradcheck", "inputs", given, "at least one floating tensor or array"))
    rng = np.random.default_rng(seed)
    name = getattr(f, "__name__", type(f).__name__)
    call = _Call(f, values, name, 1)
    with autograd.enable_grad(), np.errstate(all="ignore"):
        for level in range(1, order + 1):
            relative, absolute = gradient(level)
            call.check(rng, relative if rtol is None else rtol, absolute if atol is None else atol, step)
            call = call.derivative()
    return True


def _value(x: Any) -> Any:
    """A float64 array for what is differentiated, anything else as it is."""
    if isinstance(x, tape.TensorBase) or hasattr(x, "__array__"):
        array = x._array if isinstance(x, tape.TensorBase) else np.asarray(x)
        return array.astype(np.float64) if array.dtype in dtypes.FLOATING else array.copy()
    return x


def _differentiable(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


class _Call:
    """A function at a point, and what is asked of it there."""

    def __init__(self, f: Callable[..., Any], values: list[Any], name: str, order: int) -> None:
        self.f, self.values, self.name, self.order = f, values, name, order
        self.where = [i for i, v in enumerate(values) if _differentiable(v)]
        self.cotangents: list[Array] = []

    def run(self, values: Sequence[Any], grad: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors given to `f`, and its floating results."""
        where = self.where if grad else []
        args = [new(v, requires_grad=i in where) if isinstance(v, np.ndarray) else v for i, v in enumerate(values)]
        results: tuple[Any, ...] = _tuple(self.f(*args))
        for t in results:
            if not isinstance(t, tape.TensorBase):
                fault = f"f returned {describe(t)} (a {type(t).__name__}), needs a tensor or a tuple of tensors"
                raise GradcheckError(self.report(fault))
        return args, [t for t in results if t.dtype in dtypes.FLOATING]

    def check(self, rng: np.random.Generator, rtol: float, atol: float, step: float) -> None:
        before = [v.copy() if isinstance(v, np.ndarray) else v for v in self.values]
        args, outputs = self.run(self.values, grad=True)
        if not outputs:
            raise GradcheckError(self.report("f returns nothing that is floating"))
        for k, t in enumerate(outputs):
            if t.dtype != dtypes.float64:
                raise GradcheckError(self.report(f"output {k} is {t.dtype}; differences need float64 from float64"))
        self.cotangents = [_cotangent(rng, t.shape) for t in outputs]
        plain = [t._array.copy() for t in self.run(self.values)[1]]
        again = [t._array for t in self.run(self.values)[1]]
        for k, (t, u, v) in enumerate(zip(outputs, plain, again, strict=True)):
            if not np.array_equal(u, v, equal_nan=True):
                raise GradcheckError(self.report(f"f is not deterministic: output {k} changes from call to call"))
            if t.shape != u.shape or not np.allclose(t._array, u, rtol=1e-9, atol=1e-9, equal_nan=True):
                raise GradcheckError(self.report(f"output {k} differs between recording and not recording"))
        grads = self.pull(args, outputs)
        self.compare_inputs(before)
        self.compare_memory(grads)
        self.compare_numbers(rng, grads, rtol, atol, step)

    def pull(self, args: list[Tensor], outputs: list[Tensor]) -> list[Array]:
        """First-order gradients of <outputs, cotangents>, as ``backward`` leaves them in ``.grad``."""
        pairs = [(t, c) for t, c in zip(outputs, self.cotangents, strict=True) if t.requires_grad]
        kept = [c.copy() for c in self.cotangents]
        if pairs:
            autograd.backward([t for t, _ in pairs], [new(c) for _, c in pairs])
        for k, (c, copy) in enumerate(zip(self.cotangents, kept, strict=True)):
            if not np.array_equal(c, copy):
                raise GradcheckError(self.report(f"backward changed the cotangent of output {k} in place"))
        grads = []
        for i in self.where:
            grad, value = args[i].grad, self.values[i]
            if grad is not None and (grad.shape != value.shape or grad.dtype != value.dtype):
                what = f"the gradient of input {i} is {grad.dtype} {grad.shape}, the input {value.dtype} {value.shape}"
                raise GradcheckError(self.report(what))
            grads.append(np.zeros_like(value) if grad is None else grad.detach().numpy())
        return grads

    def compare_inputs(self, before: list[Any]) -> None:
        for i, (now, then) in enumerate(zip(self.values, before, strict=True)):
            if isinstance(now, np.ndarray) and now.tobytes() != then.tobytes():
                raise GradcheckError(self.report(f"input {i} was changed in place"))

    def compare_memory(self, grads: list[Array]) -> None:
        owners = [(f"input {i}", v) for i, v in enumerate(self.values) if isinstance(v, np.ndarray)]
        owners += [(f"the cotangent of output {k}", c) for k, c in enumerate(self.cotangents)]
        for i, grad in zip(self.where, grads, strict=True):
            for owner, array in owners:
                if np.shares_memory(grad, array):
                    raise GradcheckError(self.report(f"the gradient of input {i} lies in the memory of {owner}"))
            owners.append((f"the gradient of input {i}", grad))

    def compare_numbers(
        self, rng: np.random.Generator, grads: list[Array], rtol: float, atol: float, step: float
    ) -> None:
        flat = np.concatenate([g.ravel() for g in grads])
        # random elements are bounded away from 0, so that each has its say, and bounded, so that none meets a kink
        directions = np.eye(flat.size) if flat.size <= EACH else _cotangent(rng, (DIRECTIONS, flat.size))
        worst = (-1.0, 0, 0.0, 0.0, 0.0)
        for k, v in enumerate(directions):
            numerical, size = self.slope(v, step)
            analytic = float(flat @ v)
            allowed = rtol * float(np.abs(flat) @ np.abs(v)) + rtol * abs(numerical) + atol * max(1.0, size)
            gap = abs(analytic - numerical)
            excess = gap / allowed if np.isfinite(gap) else np.inf
            if not excess <= max(worst[0], 0.0):
                worst = (excess, k, analytic, numerical, allowed)
        if worst[0] > 1.0:
            place = f"random direction {worst[1]}" if flat.size > EACH else self.place(worst[1])
            raise GradcheckError(
                self.report(
                    f"wrong derivative, worst at {place}\n"
                    f"  analytic   {worst[2]!r}\n  numerical  {worst[3]!r}\n"
                    f"  difference {abs(worst[2] - worst[3]):.3e}, allowed {worst[4]:.3e}"
                )
            )

    def place(self, k: int) -> str:
        """The input and element that coordinate `k` of all inputs together is."""
        for i in self.where:
            if k < self.values[i].size:
                return f"input {i}, element {tuple(int(j) for j in np.unravel_index(k, self.values[i].shape))}"
            k -= self.values[i].size
        raise IndexError(k)

    def slope(self, v: Array, step: float) -> tuple[float, float]:
        """The derivative of <f, cotangents> along `v`, by differences; and the size of its terms, hence its noise."""
        total, size = 0.0, 0.0
        for k, weight in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
            moved, start = list(self.values), 0
            for i in self.where:
                x = self.values[i]
                moved[i] = np.asarray(x + (k * step) * v[start : start + x.size].reshape(x.shape))
                start += x.size
            for t, c in zip(self.run(moved)[1], self.cotangents, strict=True):
                terms = t._array * c
                total += weight * float(np.sum(terms))
                size = max(size, float(np.sum(np.abs(terms))))
        return total / (12 * step), size

    def derivative(self) -> _Call:
        """The gradient as a function of the inputs and the cotangents, one order up."""
        f, where, count = self.f, self.where, len(self.values)

        def gradients(*args: Any) -> tuple[Tensor, ...]:
            create = any(args[i].requires_grad for i in where)
            own = list(args[:count])
            if not create:
                for i in where:
                    own[i] = new(args[i]._array, requires_grad=True)
            outputs = [t for t in _tuple(f(*own)) if t.dtype in dtypes.FLOATING]
            pairs = [(t, c) for t, c in zip(outputs, args[count:], strict=True) if t.requires_grad]
            found: Sequence[Any] = [None] * len(where)
            if pairs:
                ends, starts = [t for t, _ in pairs], [own[i] for i in where]
                found = autograd.grad(ends, starts, [c for _, c in pairs], create_graph=create, allow_unused=True)
            return tuple(new(np.zeros(own[i].shape)) if g is None else g for i, g in zip(where, found, strict=True))

        return _Call(gradients, [*self.values, *self.cotangents], self.name, self.order + 1)

    def report(self, fault: str) -> str:
        """The text of an error: what is wrong, and where."""
        lines = [f"gradcheck of {self.name}, order {self.order}: {fault}"]
        count = len(self.values)
        for i, v in enumerate(self.values):
            lines.append(f"  input {i}: {describe(v)}\n    {_shown(v)}")
        if self.order > 1:
            lines.append(f"  (of the {count} inputs the last ones are the cotangents of the order below)")
        for k, c in enumerate(self.cotangents):
            lines.append(f"  cotangent {k}: {c.shape}\n    {_shown(c)}")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    """A value for the report."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, prefix="    ", threshold=60, precision=6)
    return repr(value)


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random, of either sign, and nowhere near zero."""
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))

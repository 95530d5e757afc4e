"""L-BFGS: steps from a quadratic model that the last gradients have built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import arrays, tape
from minigrad.autograd import enable_grad
from minigrad.backend.rows import RowSparse
from minigrad.errors import DTypeError, GradError, describe, message
from minigrad.nn.deferred import check_initialized
from minigrad.nn.masks import mask_of
from minigrad.nn.parameter import Parameter
from minigrad.optim.line_search import Point, strong_wolfe
from minigrad.optim.optimizer import Array, Group, Optimizer
from minigrad.optim.terms import is_in

__all__ = ["LBFGS"]

CURVED = 1e-10  # the least product of a step and the change of the gradient that goes into the memory


class Memory:
    """What `LBFGS` knows: steps, changes of the gradient over them, and where it stands."""

    def __init__(self) -> None:
        self.n_iter = 0
        self.func_evals = 0
        self.scale = 1.0  # of the first guess at the inverse of the second derivative
        self.steps: list[Array] = []
        self.changes: list[Array] = []
        self.products: list[float] = []  # of each step and its change
        self.gradient: Array | None = None  # where the last step began
        self.step: Array | None = None

    def learn(self, gradient: Array, size: int) -> None:
        """Take in the change of the gradient over the last step."""
        if self.step is not None and self.gradient is not None:
            change = gradient - self.gradient
            product = float(np.dot(change, self.step))
            if product > CURVED and size:
                self.steps = [*self.steps, self.step][-size:]
                self.changes = [*self.changes, change][-size:]
                self.products = [*self.products, product][-size:]
                self.scale = product / float(np.dot(change, change))
        self.gradient, self.step = gradient, None

    def direction(self) -> Array:
        """The inverse of the second derivative, as far as it is known, times minus the gradient: two loops."""
        assert self.gradient is not None
        q = -self.gradient
        pairs = list(zip(self.steps, self.changes, self.products, strict=True))
        weights = []
        for s, y, product in reversed(pairs):
            weights.append(float(np.dot(s, q)) / product)
            q -= weights[-1] * y
        q *= self.scale
        for (s, y, product), weight in zip(pairs, reversed(weights), strict=True):
            q += (weight - float(np.dot(y, q)) / product) * s
        return q


class LBFGS(Optimizer):
    """L-BFGS: BFGS with limited memory.

    A step runs up to `max_iter` iterations ::

        d = -H @ g                      g: the gradient with respect to all parameters, one vector
        x = x + t * d                   t = lr, in the very first iteration lr * min(1, 1 / sum(|g|)); or line search

    with H the inverse of the second derivative, as BFGS sees it in the last `history_size` steps and changes of g.
    Nocedal, "Updating quasi-Newton matrices with limited storage", 1980; Nocedal and Wright, "Numerical optimization",
    2006, algorithm 7.4. Steps, bounds and defaults are those of PyTorch. Numbers come from the whole data set: with
    batches that change it does badly.

    Parameters
    ----------
    params : iterable
        See `Optimizer`; one group.
    lr : float
        Learning rate; the first trial of the line search.
    max_iter : int
        Iterations a step.
    max_eval : int, optional
        Evaluations of the closure a step, 1.25 times `max_iter` by default; the line search may go one beyond.
    tolerance_grad : float
        A step ends where no element of the gradient is larger.
    tolerance_change : float
        A step ends where no parameter, or the loss, changes by more.
    history_size : int
        How many pairs are remembered; each costs twice the memory of the parameters.
    line_search_fn : str, optional
        "strong_wolfe", or None for steps of length `lr`.

    Notes
    -----
    `step` needs a closure. It knows no regularizers or constraints of parameters, and refuses them. Where a parameter
    has a mask, it goes on in the space of the weights that are left, and forgets what it knew before the mask. A
    direction that is not finite is not followed, and a trial whose loss is not finite is too long.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([-1.2, 1.0], dtype=mg.float64)
    >>> optimizer = optim.LBFGS([w], line_search_fn="strong_wolfe", max_iter=50, tolerance_change=1e-12)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> round(optimizer.step(closure).item(), 4), closure().item() < 1e-10
    (24.2, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if max_eval is None and isinstance(max_iter, int):
            max_eval = max_iter * 5 // 4
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self._memory = Memory()
        self._gone: Array | None = None  # which elements of the vector masks leave out
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Check ranges."""
        for name in ("lr", "tolerance_grad", "tolerance_change"):
            self.require(group, name)
        for name in ("max_iter", "max_eval", "history_size"):
            if not isinstance(group[name], int) or not is_in(group[name], 0, math.inf):
                raise ValueError(message(self._who, name, describe(group[name]), "an int of at least 0"))
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            got = describe(group["line_search_fn"])
            raise ValueError(message(self._who, "line_search_fn", got, "'strong_wolfe' or None"))

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Take the one group there may be."""
        if self.param_groups:
            hint = "Put all parameters into it: they are one vector"
            raise ValueError(message(self._who, "group", "the second one", "one group", hint))
        super().add_param_group(group)

    # --- a step -----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimize for up to `max_iter` iterations.

        Parameters
        ----------
        closure : callable
            Clears the gradients, computes the loss, calls ``backward`` and returns the loss.

        Returns
        -------
        object
            What the closure returned first.

        Raises
        ------
        TypeError
            If there is no closure.
        GradError
            If it leaves no gradient.
        """
        if not callable(closure):
            hint = "optimizer.step(closure) evaluates the loss several times"
            need = "a function that clears the gradients, calls backward and returns the loss"
            raise TypeError(message(f"{self._who}.step", "closure", closure, need, hint))
        group = self.param_groups[0]
        self._check_plain(group)
        self._leave_out(group)
        memory = self._memory
        lr, most, tolerance = group["lr"], group["max_eval"], group["tolerance_change"]
        returned, loss, g = self._evaluate(closure)
        memory.func_evals += 1
        evals, x = 1, self._flat([p._array for p in group["params"]])
        if not lr or _largest(g) <= group["tolerance_grad"]:
            return returned
        for n in range(1, group["max_iter"] + 1):
            memory.n_iter += 1
            memory.learn(g, group["history_size"])
            d, before = memory.direction(), loss
            t = lr if memory.n_iter > 1 else lr * min(1.0, 1.0 / float(np.sum(np.abs(g))))
            slope = float(np.dot(g, d))
            if not slope <= -tolerance or not math.isfinite(loss):
                break
            if group["line_search_fn"]:
                start = Point(0.0, loss, g, slope)
                found, used = self._search(closure, x, d, start, t, tolerance, most - evals)
                t, loss, g = found.t, found.loss, found.gradient
                memory.step = t * d
                x = self._write(x + memory.step)
            else:
                memory.step = t * d
                x, used = self._write(x + memory.step), 0
                if n < group["max_iter"]:  # where the data change, the last evaluation would be of no use
                    _, loss, g = self._evaluate(closure)
                    used = 1
            evals += used
            memory.func_evals += used
            if (
                evals >= most
                or _largest(g) <= group["tolerance_grad"]
                or _largest(memory.step) <= tolerance
                or abs(loss - before) < tolerance
            ):
                break
        return returned

    def _search(
        self, closure: Callable[[], Any], x: Array, d: Array, start: Point, t: float, tolerance: float, most: int
    ) -> tuple[Point, int]:
        """A step length along `d`; where the closure fails, the parameters are as before."""

        def evaluate(t: float) -> Point:
            self._write(x + t * d)
            _, loss, g = self._evaluate(closure)
            slope = float(np.dot(g, d))
            return Point(t, loss if math.isfinite(slope) and math.isfinite(loss) else math.inf, g, slope)

        try:
            return strong_wolfe(evaluate, start, t, _largest(d), tolerance, most)
        except BaseException:
            self._write(x)
            raise

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float, Array]:
        """What the closure returns, as a number too, and the gradient with respect to all parameters."""
        with enable_grad():
            returned = closure()
        params = self.param_groups[0]["params"]
        grads = [None if p._grad is None else p._grad._array for p in params]
        if all(g is None for g in grads):
            for p in params:
                if isinstance(p, Parameter) and not p.is_initialized:
                    check_initialized(f"{self._who}.step", self._name(self.param_groups[0], p), p)
            raise GradError(message(f"{self._who}.step", "every gradient", "None", "one", "The closure calls backward"))
        full = [
            np.zeros_like(p._array) if g is None else g.dense() if type(g) is RowSparse else g
            for p, g in zip(params, grads, strict=True)
        ]
        flat = self._flat(full)
        if self._gone is not None:
            flat[self._gone] = 0
        return returned, float(returned), flat

    def _leave_out(self, group: Group) -> None:
        """Set what masks leave out to 0, and where it is more than before, forget what was learned with it."""
        keeps = [mask_of(p, f"{self._who}.step") for p in group["params"]]
        self._gone = None
        if all(keep is None for keep in keeps):
            return
        full = [np.ones(p.shape, np.bool_) if k is None else k for p, k in zip(group["params"], keeps, strict=True)]
        gone = self._gone = ~self._flat(full)
        x = self._flat([p._array for p in group["params"]])
        x[gone] = 0
        self._write(x)
        memory = self._memory
        known = [memory.gradient, memory.step, *memory.steps]
        if any(part is not None and part[gone].any() for part in known):
            self._memory = Memory()
            self._memory.func_evals = memory.func_evals

    def _flat(self, parts: list[Array]) -> Array:
        """One vector; a copy."""
        return np.concatenate([part.ravel() for part in parts])

    def _write(self, x: Array) -> Array:
        """Write a vector into the parameters; the vector as they hold it."""
        params, start = self.param_groups[0]["params"], 0
        for p in params:
            array = p._array
            array[...] = x[start : start + array.size].reshape(array.shape)
            start += array.size
        tape.mark_updated(params, f"{self._who}.step")
        return x

    def _check_plain(self, group: Group) -> None:
        """Raise where a parameter is read-only or a half one, or has what the steps here would pass by."""
        for p in group["params"]:
            if p.dtype not in (dtypes.float32, dtypes.float64):
                hint = "Keep the parameters in float32: model.to(mg.float32)"
                raise DTypeError(message(self._who, self._name(group, p), describe(p), "float32 or float64", hint))
            for name in ("regularizer", "constraint"):
                if getattr(p, name, None) is not None:
                    hint = "Another optimizer keeps it"
                    raise ValueError(message(self._who, f"{name} of {self._name(group, p)}", "set", "None", hint))
        frozen = arrays.first_read_only([p._array for p in group["params"]])
        if frozen >= 0:
            where = self._name(group, group["params"][frozen])
            hint = "Copy it: mg.tensor(array, requires_grad=True)"
            raise ValueError(message(f"{self._who}.step", where, "read-only", "memory to write to", hint))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of the state; under ``"state"`` the memory, once there has been a step."""
        made, memory = super().state_dict(), self._memory
        if memory.func_evals:
            made["state"] = {
                "n_iter": memory.n_iter,
                "func_evals": memory.func_evals,
                "scale": memory.scale,
                "steps": [tape.new_tensor(step.copy()) for step in memory.steps],
                "changes": [tape.new_tensor(change.copy()) for change in memory.changes],
                "products": list(memory.products),
                "gradient": None if memory.gradient is None else tape.new_tensor(memory.gradient.copy()),
                "step": None if memory.step is None else tape.new_tensor(memory.step.copy()),
            }
        return made

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, hyperparameters included; all of it fits, or nothing is changed."""
        given: Any = state
        memory = Memory()
        if isinstance(given, Mapping) and isinstance(given.get("state"), Mapping):
            given, memory = {**given, "state": {}}, self._restore(given["state"])
        super().load_state_dict(given)  # which says what is wrong with anything else
        self._memory = memory

    def _restore(self, given: Mapping[str, Any]) -> Memory:
        made = Memory()
        if not given:
            return made
        names = ["changes", "func_evals", "gradient", "n_iter", "products", "scale", "step", "steps"]
        self._compare("keys of the memory", sorted(map(str, given)), names)
        made.n_iter, made.func_evals = int(given["n_iter"]), int(given["func_evals"])
        made.scale = float(given["scale"])
        made.steps = [self._vector("a step", value) for value in given["steps"]]
        made.changes = [self._vector("a change", value) for value in given["changes"]]
        made.products = [float(value) for value in given["products"]]
        self._compare("number of changes", len(made.changes), len(made.steps))
        self._compare("number of products", len(made.products), len(made.steps))
        made.gradient = None if given["gradient"] is None else self._vector("gradient", given["gradient"])
        made.step = None if given["step"] is None else self._vector("step", given["step"])
        return made

    def _vector(self, what: str, value: Any) -> Array:
        params = [p._array for p in self.param_groups[0]["params"]]
        size, dtype = sum(array.size for array in params), np.result_type(*params)
        made = ops.tensor(value, dtype=dtype)
        self._compare(f"shape of {what}", made.shape, (size,))
        return made._array


def _largest(x: Array) -> float:
    """The largest absolute value."""
    return float(np.max(np.abs(x), initial=0.0))

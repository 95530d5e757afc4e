"""Optimizer: the base of all of them. It keeps the parameters in groups and a state for each parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import arrays, tape
from minigrad.autograd import enable_grad
from minigrad.backend.numbers import DeviceNumber
from minigrad.backend.rows import RowSparse
from minigrad.errors import DTypeError, GradError, ShapeError, describe, message
from minigrad.nn.checks import clear_gradients
from minigrad.nn.deferred import check_initialized
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.optim.fused_step import FusedRule, FusedStep
from minigrad.optim.stages import MASTER, Stages, wide
from minigrad.tensor import Tensor

__all__ = ["Array", "Group", "Optimizer", "State"]

Array = Any  # an array of the parameter's backend
Group = dict[str, Any]  # hyperparameters, "params" (tensors) and "names"
State = dict[str, Any]  # arrays and numbers

Due = tuple[list[Tensor], list[Array], list[Array], list[State], list[Stages], FusedStep | None]
RULE = {"advance", "conform", "init", "plain", "plan", "update", "update_all"}  # where a subclass changes the rule


class Optimizer:
    """Base of the optimizers.

    A subclass is two functions on arrays, `init` and `update`, and `check` for its hyperparameters. A step writes into
    the memory of the parameters and records nothing. What surrounds the rule (regularizers, constraints, masks, master
    weights) is the same for all of them: docs/training_step.md.

    A rule sees float32 or float64. Where a parameter is half, an update smaller than half its last digit would be lost;
    so its state holds float32 master weights, ``"master"``, which the rule updates, and which are rounded to it.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor), or of dict
        What to train: ``model.parameters()``, ``model.named_parameters()``, or groups, dicts with ``"params"`` and
        hyperparameters of their own.
    defaults : dict
        Hyperparameters of the groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dict
        The groups; ``optimizer.param_groups[0]["lr"] = 0.01`` changes a hyperparameter.
    state : dict
        The state of each parameter that has been updated.

    Raises
    ------
    ValueError
        If there are no parameters, one is there twice, or a hyperparameter is out of range or unknown.
    GradError
        If a tensor is no leaf.
    DTypeError
        If a parameter is not floating.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> class Signs(optim.Optimizer):
    ...     def __init__(self, params, lr):
    ...         super().__init__(params, {"lr": lr})
    ...     def update(self, x, g, state, group):
    ...         x -= group["lr"] * (g > 0)
    >>> w = nn.Parameter([1.0, 1.0])
    >>> (w * mg.tensor([2.0, -2.0])).sum().backward()
    >>> Signs([w], lr=0.5).step()
    >>> w
    tensor([0.5, 1. ], requires_grad=True)
    """

    by_row = False  # whether the rule works element by element, so that it may see some rows of a table alone

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.state: dict[Tensor, State] = {}
        self._items: dict[Tensor, Any] = {}  # what a kernel on a GPU is told of parameters
        self._finite: Array | None = None  # a bool on a GPU, where False steps are to be skipped
        self.param_groups: list[Group] = []
        if isinstance(params, (Module, Tensor, Mapping)):
            hint = "Pass model.parameters()" if isinstance(params, Module) else "Put it into a list"
            raise TypeError(message(self._who, "params", params, "an iterable of parameters", hint))
        if not isinstance(params, Iterable):
            raise TypeError(
                message(self._who, "params", params, "an iterable of parameters", "Pass model.parameters()")
            )
        given = list(params)
        if not given:
            raise ValueError(
                message(self._who, "params", "empty", "at least one parameter", "Has the model any layers?")
            )
        if not any(isinstance(entry, Mapping) for entry in given):
            given = [{"params": given}]
        for group in given:
            self.add_param_group(group)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        rule = next(c for c in cls.__mro__ if "update" in vars(c) or "update_all" in vars(c))
        if "update_all" not in vars(rule):  # the one of a class above would pass its rule by
            cls.update_all = Optimizer.update_all  # type: ignore[method-assign]
        if rule is cls and "by_row" not in vars(cls):  # nor does what the class above said hold for another rule
            cls.by_row = False
        if "fused_rule" not in vars(cls) and RULE & vars(cls).keys():
            cls.fused_rule = Optimizer.fused_rule  # type: ignore[method-assign]

    @property
    def _who(self) -> str:
        return type(self).__name__

    # --- what a subclass writes -------------------------------------------------------------------------------------

    def init(self, x: Array, group: Group) -> State:
        """Make the state of one parameter, when it is updated for the first time."""
        return {}

    def update(self, x: Array, g: Array, state: State, group: Group) -> None:
        """Write the new values of one parameter into `x`, and its new state into `state`; `g` must stay as it is."""
        raise NotImplementedError(f"{self._who}: needs a method update(self, x, g, state, group)")

    def update_all(self, xs: list[Array], gs: list[Array], states: list[State], group: Group) -> None:
        """Update parameters of one group together, where that is faster than to call `update` for each."""
        for x, g, state in zip(xs, gs, states, strict=True):
            self.update(x, g, state, group)

    def fused_rule(self, group: Group) -> FusedRule | None:
        """The rule as a kernel on a GPU knows it, None where it knows none."""
        return None

    def fit_state(self, x: Array, state: State, group: Group) -> None:
        """Make the state what the hyperparameters say, which may have changed between steps."""

    def conform(self, x: Array, state: State) -> None:
        """Cast the state to the dtype of the parameter, which ``model.to(dtype)`` may have changed."""
        for name, value in state.items():
            if hasattr(value, "dtype") and value.dtype != x.dtype:
                state[name] = value.astype(x.dtype)

    def check(self, group: Group) -> None:
        """Raise ValueError where a hyperparameter of a group is out of range."""
        self.require(group, "lr")

    def require(self, group: Group, name: str, low: float = 0.0, below: float = math.inf) -> None:
        """Raise ValueError where a hyperparameter is not a number in [low, below)."""
        value = group[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < below:
            need = f"a finite number of at least {low:g}" if below == math.inf else f"a number in [{low:g}, {below:g})"
            raise ValueError(message(self._who, name, describe(value), need))

    # --- what a training loop calls ---------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; a step that is refused changes none.

        The gradient of a half parameter becomes float32; the regularizer's gradient is added, and what the mask leaves
        out set to 0; the rule computes the new values, with the decay of the weights where it has one; threshold and
        constraint follow, the mask again, and the way back to half. See docs/training_step.md, also for what comes
        before: unscaling and clipping.

        Parameters
        ----------
        closure : callable, optional
            Zeroes the gradients, computes the loss, calls its ``backward`` and returns it; called first.

        Returns
        -------
        object
            What the closure returned, None without one.

        Raises
        ------
        ShapeError
            If a parameter still waits for the batch that completes its shape, a mask does not fit, or a parameter was
            made smaller, as `minigrad.compress` does, after its state was made.
        ValueError
            If a parameter lies in memory that is read-only.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        finite = self._finite
        known = None if finite is None else set(self.state)
        due = [self._due(group) for group in self.param_groups]
        if known is not None and not all(self._guarded(part, known) for part in due):  # what cannot look at it itself
            if not finite:
                for p in [p for p in self.state if p not in known]:
                    del self.state[p]
                return loss
            finite = None
        changed: list[Tensor] = []
        try:
            with np.errstate(all="ignore"):  # values follow IEEE 754, as in ops
                for group, (params, xs, gs, states, stages, fused) in zip(self.param_groups, due, strict=True):
                    changed += params
                    if fused is not None:
                        changed += fused.params
                        fused.launch(finite)
                    self.update_all(xs, gs, states, group)
                    for stage in stages:
                        stage.finish()
        except ValueError:
            self._check_states()
            raise
        finally:  # a rule that fails may have changed some
            tape.mark_updated(changed, f"{self._who}.step")
        return loss

    @staticmethod
    def _guarded(due: Due, known: set[Tensor]) -> bool:
        """Whether kernels can skip the step by themselves: a state whose steps nobody counts must not be new."""
        _, xs, *_, fused = due
        return not xs and (fused is None or fused.counts or known.issuperset(fused.params))

    def _due(self, group: Group) -> Due:
        """The parameters of a group that have a gradient, and what the rule is to see of them; most need no stages."""
        params: list[Tensor] = []
        xs, gs, states, special = [], [], [], []
        known, usual = self.state, dtypes.float32  # hashing a dtype costs as much as a small update
        given = group["params"]
        fused = None if not given or type(given[0]._array) is np.ndarray else FusedStep.of(self, group)
        for p in given:
            grad = p._grad
            if grad is None:
                if isinstance(p, Parameter) and not p.is_initialized:
                    check_initialized(f"{self._who}.step", self._name(group, p), p)
                continue
            x, g = p._array, grad._array
            state = known.get(p)
            if state is None:
                with nullcontext() if fused is None else fused.device:
                    state = known[p] = self.init(wide(x), group)
            if type(g) is RowSparse and not self.by_row:
                hint = "Make the table with sparse=False, or give it to an optimizer of its own"
                got = "row-sparse"
                raise GradError(message(self._who, f"the gradient of {self._name(group, p)}", got, "a full one", hint))
            if fused is not None and fused.takes(p, g, state):
                continue
            params.append(p)
            xs.append(x)
            gs.append(g)
            states.append(state)
            if (
                type(g) is RowSparse
                or (x.dtype is not usual and x.dtype in dtypes.HALF)
                or (
                    isinstance(p, Parameter)
                    and (p.mask is not None or p.regularizer is not None or p.constraint is not None)
                )
            ):
                special.append(len(xs) - 1)
        frozen = arrays.first_read_only(xs)
        if frozen >= 0:
            where = self._name(group, params[frozen])
            hint = "Copy it: mg.tensor(array, requires_grad=True)"
            raise ValueError(message(f"{self._who}.step", where, "read-only", "memory to write to", hint))
        made = []
        for i in special:
            stage = Stages(self, group, params[i], states[i])
            xs[i], gs[i], states[i] = stage.x, stage.g, stage.state
            made.append(stage)
        return params, xs, gs, states, made, fused

    def _check_states(self) -> None:
        """Raise where a state is of another shape than its parameter, which was changed since: only after a failure."""
        for group in self.param_groups:
            for p in group["params"]:
                for value in self.state.get(p, {}).values():
                    shape = getattr(value, "shape", ())
                    if len(shape) == p.ndim and any(n not in (1, own) for n, own in zip(shape, p.shape)):
                        got, need = f"of shape {tuple(shape)}", f"{p.shape}, that of the parameter"
                        hint = "Make the optimizer anew, as the parameter was made smaller"
                        where = f"the state of {self._name(group, p)}"
                        raise ShapeError(message(f"{self._who}.step", where, got, need, hint)) from None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group: a dict with ``"params"`` and the hyperparameters that differ from the defaults."""
        given: Any = group
        if not isinstance(given, Mapping):
            hint = "Groups and parameters cannot be mixed" if self.param_groups else ""
            raise TypeError(message(self._who, "group", describe(given), "a dict with 'params'", hint))
        unknown = [key for key in group if key != "params" and key not in self.defaults]
        if unknown or "params" not in group:
            need = f"'params' and any of {', '.join(self.defaults)}"
            raise ValueError(message(self._who, "group", f"a dict with {', '.join(map(repr, group))}", need))
        params, names = [], []
        entries = group["params"]
        if isinstance(entries, (Module, Mapping)) or not isinstance(entries, (Tensor, Iterable)):
            hint = "Pass model.parameters()" if isinstance(entries, Module) else ""
            raise TypeError(message(self._who, "'params' of a group", entries, "an iterable of parameters", hint))
        seen = {id(p) for other in self.param_groups for p in other["params"]}
        keys = {key for other in self._keys() for key in other}
        count = len(keys)
        for i, entry in enumerate([entries] if isinstance(entries, Tensor) else entries):
            name, p = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
            where = f"parameter {i}" if name is None else f"parameter {name!r}"
            if not isinstance(p, Tensor):
                raise TypeError(message(self._who, where, p, "a tensor that requires grad"))
            if p._node is not None:
                hint = "Optimize the tensor that it was computed from"
                raise GradError(message(self._who, where, f"the result of {p._node.name}", "a leaf", hint))
            if id(p) in seen:
                raise ValueError(message(self._who, where, "there twice", "each parameter once"))
            if name is not None and not isinstance(name, str):
                raise TypeError(message(self._who, f"the name of parameter {i}", name, "a str"))
            key = name or str(count + i)
            if key in keys:
                got = f"the second that a state dict would call {key!r}"
                raise ValueError(
                    message(self._who, where, got, "a name of its own", "Parameters without one are numbered")
                )
            keys.add(key)
            seen.add(id(p))
            params.append(p)
            names.append(name)
        made = {**self.defaults, **{key: value for key, value in group.items() if key != "params"}}
        self.check(made)
        made["params"], made["names"] = params, names
        for p in params:
            self._check_dtype(made, p)
        self.param_groups.append(made)

    def _check_dtype(self, group: Group, p: Tensor) -> None:
        if p.dtype not in dtypes.FLOATING:
            raise DTypeError(message(self._who, self._name(group, p), describe(p), "a floating dtype"))

    def _name(self, group: Group, p: Tensor) -> str:
        i = next(i for i, other in enumerate(group["params"]) if other is p)
        return f"parameter {group['names'][i] or i!r}"

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of the state: dicts, lists, numbers, strings and (copies of) tensors.

        Returns
        -------
        dict
            ``"optimizer"``: the class's name. ``"param_groups"``: the hyperparameters of each group, and under
            ``"params"`` the keys of its parameters: their names where they have some, else their numbers. ``"state"``:
            the state of each parameter by its key.

        Examples
        --------
        >>> from minigrad import nn, optim
        >>> optim.SGD([("w", nn.Parameter([1.0]))], lr=0.1).state_dict()["param_groups"][0]["params"]
        ['w']
        """
        state, groups = {}, []
        for group, keys in zip(self.param_groups, self._keys(), strict=True):
            groups.append({key: _plain(group[key]) for key in self.defaults} | {"params": keys})
            for key, p in zip(keys, group["params"], strict=True):
                own = {k: v.item() if isinstance(v, DeviceNumber) else v for k, v in self.state.get(p, {}).items()}
                if p in self.state and not self._is_unused(p, own):
                    state[key] = {
                        name: tape.new_tensor(value.copy()) if hasattr(value, "dtype") else value
                        for name, value in own.items()
                        if name != MASTER or p.dtype in dtypes.HALF  # it may be left over from before model.to(dtype)
                    }
        return {"optimizer": self._who, "param_groups": groups, "state": state}

    def _is_unused(self, p: Tensor, own: State) -> bool:
        """Whether all steps of a parameter were skipped on its GPU: without one there is no state."""
        return own.get("step") == 0 and isinstance(self.state[p]["step"], DeviceNumber)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, hyperparameters included; all of it fits, or nothing is changed.

        Parameters
        ----------
        state : mapping
            Its lists and tuples may have changed places, as in JSON; its tensors may be arrays.

        Raises
        ------
        TypeError
            If it is no mapping.
        ValueError
            If it is of another optimizer, or its groups, parameters or shapes are others.
        """
        if not isinstance(state, Mapping):
            raise TypeError(message(f"{self._who}.load_state_dict", "state", state, "what state_dict gives"))
        self._compare("keys of the state", sorted(map(str, state)), ["optimizer", "param_groups", "state"])
        self._compare("optimizer", state["optimizer"], self._who)
        groups, keys = state["param_groups"], self._keys()
        self._check_kinds(state)
        self._compare("number of groups", len(groups), len(keys))
        known = {key for own in keys for key in own}
        self._compare("parameters with a state that it lacks", [key for key in state["state"] if key not in known], [])
        loaded: dict[Tensor, State] = {}
        hyper: list[Group] = []
        for i, (group, given, own) in enumerate(zip(self.param_groups, groups, keys, strict=True)):
            self._compare(f"hyperparameters of group {i}", sorted(given), sorted([*self.defaults, "params"]))
            self._compare(f"parameters of group {i}", list(given["params"]), own)
            hyper.append({k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k != "params"})
            self.check(hyper[-1])
            for key, p in zip(own, group["params"], strict=True):
                if key in state["state"]:
                    loaded[p] = self._restored(key, p, self.init(wide(p._array), hyper[-1]), state["state"][key])
        for group, values in zip(self.param_groups, hyper, strict=True):
            group.update(values)
        self.state = loaded

    def _restored(self, key: str, p: Tensor, fresh: State, given: Mapping[str, Any]) -> State:
        """The state of one parameter, of the kinds, shapes and dtypes that a fresh one has.

        Master weights are taken where there are some and the parameter is half; else they are made by the next step.
        """
        if MASTER in given:
            given = dict(given)
            if p.dtype in dtypes.HALF:
                fresh[MASTER] = wide(p._array)
            else:
                del given[MASTER]
        self._compare(f"state of parameter {key!r}", sorted(given), sorted(fresh))
        made: State = {}
        for name, like in fresh.items():
            if hasattr(like, "dtype"):
                value = self._converted(key, name, given, partial(ops.tensor, dtype=like.dtype, device=p.device))
                self._compare(f"shape of {name} of parameter {key!r}", value.shape, tuple(like.shape))
                made[name] = value._array
            else:
                made[name] = self._converted(key, name, given, type(like))
        return made

    def _converted(self, key: str, name: str, given: Mapping[str, Any], convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(given[name])
        except (TypeError, ValueError, OverflowError):
            who, what = f"{self._who}.load_state_dict", f"{name} of parameter {key!r}"
            raise ValueError(message(who, what, describe(given[name]), "what state_dict gives")) from None

    def _check_kinds(self, state: Mapping[str, Any]) -> None:
        """Raise where a dict or a list is something else."""
        groups, states = state["param_groups"], state["state"]
        checks: list[tuple[str, Any, Any]] = [("param_groups", groups, (list, tuple)), ("state", states, Mapping)]
        if isinstance(groups, (list, tuple)):
            for i, group in enumerate(groups):
                checks.append((f"group {i}", group, Mapping))
                if isinstance(group, Mapping) and "params" in group:
                    checks.append((f"parameters of group {i}", group["params"], (list, tuple)))
        if isinstance(states, Mapping):
            checks += [(f"state of parameter {key!r}", own, Mapping) for key, own in states.items()]
        for what, value, kind in checks:
            if not isinstance(value, kind):
                need = "a dict" if kind is Mapping else "a list"
                raise TypeError(message(f"{self._who}.load_state_dict", what, describe(value), need))

    def _keys(self) -> list[list[str]]:
        """What each group's parameters are called in a state dict."""
        keys, count = [], 0
        for group in self.param_groups:
            keys.append([name or str(count + i) for i, name in enumerate(group["names"])])
            count += len(group["params"])
        return keys

    def _compare(self, what: str, given: Any, own: Any) -> None:
        if given != own:
            raise ValueError(message(f"{self._who}.load_state_dict", what, f"{given!r}", f"{own!r}"))

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            values = ", ".join(f"{key}={group[key]}" for key in self.defaults)
            lines.append(f"{sum(p.size for p in group['params']):,} parameters: {values}")
        return f"{self._who}({'; '.join(lines)})"


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON takes it: NumPy's numbers as Python's."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value

"""Random graphs beside a naive twin: one Python object a number, so simple that it can only be right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import minigrad as mg
from minigrad.errors import GradError
from minigrad.testing.tolerances import assert_close

LIMIT = 100.0  # larger values are squashed, so that products stay finite
Places = np.ndarray[Any, Any]  # of Number objects


class Number:
    """A float, and what it was made of: pairs of another number and the derivative by it."""

    def __init__(self, value: float, parents: tuple[tuple[Number, float], ...] = (), wanted: bool = False) -> None:
        self.value, self.parents = value, tuple((p, d) for p, d in parents if p.wanted)
        self.wanted = wanted or bool(self.parents)

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __sub__(self, other: Number) -> Number:
        return Number(self.value - other.value, ((self, 1.0), (other, -1.0)))

    def __mul__(self, other: Number) -> Number:
        return Number(self.value * other.value, ((self, other.value), (other, self.value)))

    def tanh(self) -> Number:
        y = math.tanh(self.value)
        return Number(y, ((self, 1.0 - y * y),))

    def exp(self) -> Number:
        y = math.exp(self.value)
        return Number(y, ((self, y),))

    def cut(self) -> Number:
        return Number(self.value)


tanh = np.frompyfunc(Number.tanh, 1, 1)
exp = np.frompyfunc(Number.exp, 1, 1)
cut = np.frompyfunc(Number.cut, 1, 1)
own = np.frompyfunc(
    lambda n: Number(n.value, ((n, 1.0),)), 1, 1
)  # new numbers for a tensor, as it has a node of its own


def places(values: np.ndarray[Any, Any], wanted: bool = False) -> Places:
    """An array of new numbers."""
    return objects(np.frompyfunc(lambda v: Number(float(v), wanted=wanted), 1, 1)(values))


def objects(result: Any) -> Places:
    """An array also where NumPy hands a single object out."""
    if isinstance(result, np.ndarray):
        return result
    array = np.empty((), object)
    array[()] = result
    return array


def values_of(numbers: Places) -> np.ndarray[Any, Any]:
    return np.array([n.value for n in numbers.ravel()], dtype=np.float64).reshape(numbers.shape)


def pull(numbers: Places, cotangent: np.ndarray[Any, Any]) -> dict[int, float]:
    """Derivatives of <numbers, cotangent> by every number below, found by id."""
    order: list[Number] = []
    seen: set[int] = set()
    for root in numbers.ravel():
        stack = [(root, iter(root.parents))]
        if id(root) in seen:
            continue
        seen.add(id(root))
        while stack:
            number, rest = stack[-1]
            parent = next((p for p, _ in rest if id(p) not in seen), None)
            if parent is None:
                order.append(number)
                stack.pop()
            else:
                seen.add(id(parent))
                stack.append((parent, iter(parent.parents)))
    found: dict[int, float] = dict.fromkeys(seen, 0.0)
    for root, c in zip(numbers.ravel(), cotangent.ravel(), strict=True):
        found[id(root)] += float(c)
    for number in reversed(order):
        for parent, derivative in number.parents:
            found[id(parent)] += found[id(number)] * derivative
    return found


def gathered(numbers: Places, found: dict[int, float]) -> np.ndarray[Any, Any]:
    return np.array([found.get(id(n), 0.0) for n in numbers.ravel()], dtype=np.float64).reshape(numbers.shape)


picks = st.integers(0, 1000)
seeds = st.integers(0, 2**31)
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (0, 3)])
indices = st.sampled_from([np.s_[...], np.s_[::-1], np.s_[1:], np.s_[0], np.s_[..., -1], np.s_[None], np.s_[[0, 0]]])


class Graphs(RuleBasedStateMachine):
    """Builds a graph step by step, differentiates it here and there, and asks the twin every time."""

    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[tuple[Any, Places]] = []
        self.pairs: list[tuple[Any, Places]] = []
        self.totals: list[np.ndarray[Any, Any] | None] = []  # what .grad of each leaf should hold

    def new(self, values: Any, **options: Any) -> Any:
        return mg.tensor(values, device=self.device, **options)

    def pick(self, i: int) -> tuple[Any, Places]:
        return self.pairs[i % len(self.pairs)]

    def keep(self, tensor: Any, numbers: Any) -> None:
        numbers = objects(numbers)
        if np.abs(values_of(numbers)).max(initial=0.0) > LIMIT:
            tensor, numbers = mg.tanh(tensor), objects(tanh(numbers))
        numbers = objects(own(numbers))
        assert tensor.shape == numbers.shape
        assert_close(tensor.detach().to("cpu").numpy(), values_of(numbers), mg.float64, "value")
        # the graph knows tensors, the twin each number: all of a recorded tensor may have been overwritten
        assert tensor.requires_grad or not any(n.wanted for n in numbers.ravel())
        self.pairs.append((tensor, numbers))

    @initialize(seed=seeds)
    def start(self, seed: int) -> None:
        self.leaf((2, 3), True, seed)
        self.leaf((3,), True, seed + 1)

    @rule(shape=shapes, wanted=st.booleans(), seed=seeds)
    def leaf(self, shape: tuple[int, ...], wanted: bool, seed: int) -> None:
        values = np.random.default_rng(seed).uniform(-1.5, 1.5, shape)
        pair = self.new(values, requires_grad=wanted), places(np.asarray(values), wanted)
        self.pairs.append(pair)
        if wanted:
            self.leaves.append(pair)
            self.totals.append(None)

    @rule(i=picks, j=picks, f=st.sampled_from([lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b]))
    def combine(self, i: int, j: int, f: Callable[[Any, Any], Any]) -> None:
        (s, a), (t, b) = self.fitting(i, j)
        self.keep(f(s, t), f(a, b))

    def fitting(self, i: int, j: int) -> list[tuple[Any, Places]]:
        """Two pairs that broadcast together: the second is summed where it does not fit."""
        first, second = self.pick(i), self.pick(j)
        try:
            np.broadcast_shapes(first[1].shape, second[1].shape)
        except ValueError:
            second = second[0].sum(), self.total(second[1], None)
        return [first, second]

    @staticmethod
    def total(numbers: Places, axis: int | None) -> Places:
        """A sum, of none too."""
        if numbers.size == 0:
            return places(np.sum(np.zeros(numbers.shape), axis=axis))
        return objects(np.sum(numbers, axis=axis))

    @rule(i=picks, pair=st.sampled_from([(mg.tanh, tanh), (mg.exp, exp)]))
    def apply(self, i: int, pair: tuple[Any, Any]) -> None:
        t, a = self.pick(i)
        if np.abs(values_of(a)).max(initial=0.0) < 4.0:
            self.keep(pair[0](t), pair[1](a))

    @rule(i=picks, axis=st.sampled_from([None, 0, -1]))
    def sum(self, i: int, axis: int | None) -> None:
        t, a = self.pick(i)
        axis = axis if a.ndim else None
        if a.size:
            self.keep(mg.sum(t, axis=axis), self.total(a, axis))

    @rule(i=picks)
    def reshape(self, i: int) -> None:
        t, a = self.pick(i)
        shape = (-1,) if a.ndim > 1 else (1, a.size)
        if a.size:
            self.keep(mg.reshape(t, shape), a.reshape(shape))

    @rule(i=picks, index=indices)
    def slice(self, i: int, index: Any) -> None:
        t, a = self.pick(i)
        if a.ndim and a.shape[0]:
            self.keep(t[index], a[index])

    @rule(i=picks)
    def detach(self, i: int) -> None:
        t, a = self.pick(i)
        self.keep(t.detach(), cut(a))

    @rule(i=picks, j=picks)
    def without_grad(self, i: int, j: int) -> None:
        (s, a), (t, b) = self.fitting(i, j)
        with mg.no_grad():
            made = s * t
        self.keep(made, cut(objects(a * b)))

    @rule(i=picks, j=picks)
    def change(self, i: int, j: int) -> None:
        """In place, on a tensor that nothing has saved yet."""
        (s, a), (t, b) = self.fitting(i, j)
        if np.broadcast_shapes(a.shape, b.shape) != a.shape:
            t, b = mg.sum(t), self.total(b, None)
        fresh = s.clone()
        fresh += t
        a = objects(a + b)
        fresh *= 0.5
        half = places(np.asarray(0.5))
        self.keep(fresh, a * half)

    @rule(i=picks, j=picks)
    def assign(self, i: int, j: int) -> None:
        (s, a), (t, b) = self.pick(i), self.pick(j)
        if a.ndim == 0 or a.shape[0] == 0 or b.size == 0:
            return
        fresh, a = s.clone(), a.copy()
        fresh[0] = t.sum()
        a[0] = self.total(b, None)[()]
        self.keep(fresh, a)

    @rule(i=picks)
    def change_saved(self, i: int) -> None:
        """A residual that was changed in place is found out, and no gradient is touched."""
        t, a = self.pick(i)
        if not t.requires_grad or a.size == 0:
            return
        fresh = t.clone()
        square = (fresh * fresh).sum()
        fresh += 1.0
        with pytest.raises(GradError, match="changed in place"):
            square.backward(retain_graph=True)
        self.keep(fresh, objects(a + places(np.asarray(1.0))))

    def cotangent(self, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(seed)
        return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))

    @rule(i=picks, seed=seeds)
    def backward(self, i: int, seed: int) -> None:
        self.run_backward(i, seed, retain=True)

    @precondition(lambda self: len(self.pairs) > 15)
    @rule(i=picks, seed=seeds)
    def backward_and_free(self, i: int, seed: int) -> None:
        """Without retain_graph the graph is gone; building goes on from the leaves."""
        t, _ = self.pick(i)
        if self.run_backward(i, seed, retain=False) and not t.is_leaf:
            with pytest.raises(GradError, match="retain_graph"):
                t.backward(mg.ones_like(t))
            self.pairs = list(self.leaves)

    def run_backward(self, i: int, seed: int, retain: bool) -> bool:
        t, a = self.pick(i)
        if not t.requires_grad:
            with pytest.raises(GradError):
                t.backward(mg.ones_like(t))
            return False
        if a.size == 0:
            return False
        c = self.cotangent(a.shape, seed)
        found = pull(a, c)
        seed_of_pass = self.new(c)
        t.backward(seed_of_pass, retain_graph=retain)
        assert (seed_of_pass.to("cpu").numpy() == c).all(), "the caller's cotangent was written to"
        for k, (_, numbers) in enumerate(self.leaves):
            if any(id(n) in found for n in numbers.ravel()):
                g = gathered(numbers, found)
                total = self.totals[k]
                self.totals[k] = g if total is None else total + g
        return True

    @rule(i=picks, j=picks, seed=seeds)
    def grad(self, i: int, j: int, seed: int) -> None:
        """`grad` by a leaf or by something in the middle leaves .grad alone."""
        (t, a), (x, b) = self.pick(i), self.pick(j)
        if not (t.requires_grad and x.requires_grad) or a.size == 0 or b.size == 0:
            return
        c = self.cotangent(a.shape, seed)
        g = mg.grad(t, x, self.new(c), retain_graph=True, allow_unused=True)
        found = pull(a, c)
        if g is None:
            assert not any(id(n) in found for n in b.ravel())
        else:
            assert_close(g.to("cpu").numpy(), gathered(b, found), mg.float64, "grad", factor=100, floor=1.0)

    @invariant()
    def gradients_agree(self) -> None:
        for (t, _), total in zip(self.leaves, self.totals, strict=True):
            if total is not None:
                assert_close(t.grad.to("cpu").numpy(), total, mg.float64, ".grad", factor=100, floor=1.0)
            elif t.grad is not None:
                assert_close(t.grad.to("cpu").numpy(), np.zeros(t.shape), mg.float64, ".grad of a leaf off every path")


TestGraphs = Graphs.TestCase
TestGraphs.settings = settings(stateful_step_count=30)

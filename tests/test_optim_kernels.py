"""The kernels of adaptive rules and of Lion: their generic bodies, in all instruction sets, on any threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad._core import cpu, dispatch
from minigrad._core.cpu import Kernel
from minigrad.testing import variants

Make = Callable[[Any], optim.Optimizer]

beta = st.floats(0, 0.99)
moments = st.floats(0.5, 0.9999)
eps = st.sampled_from([1e-8, 1e-3])
# a penalty brings a difference of x back times lr * weight_decay / sqrt(v): small, or rounding would grow
common = {"lr": st.floats(0, 0.1), "weight_decay": st.floats(0, 0.1), "maximize": st.booleans()}
OPTIONS: dict[str, dict[str, Any]] = {
    "NAdam": {"betas": st.tuples(beta, moments), "eps": eps, "momentum_decay": st.floats(0, 1),
              "decoupled_weight_decay": st.booleans()},
    # so that the rectified steps begin at once: those before are the generic body's
    "RAdam": {"betas": st.tuples(beta, st.floats(0.9, 0.9999)), "eps": eps, "decoupled_weight_decay": st.booleans()},
    "RMSprop": {"alpha": st.floats(0.9, 0.9999), "eps": eps, "momentum": st.sampled_from([0.0, 0.5, 0.9]),
                "centered": st.booleans()},
    "Adagrad": {"lr_decay": st.floats(0, 1), "initial_accumulator_value": st.floats(0, 1), "eps": eps},
    "Lion": {"betas": st.tuples(beta, beta)},
}  # fmt: skip
RULES: dict[str, Make] = {
    "nadam": lambda p: optim.NAdam(p, lr=0.1, weight_decay=0.1),
    "nadam decoupled": lambda p: optim.NAdam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    "radam": lambda p: optim.RAdam(p, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1, weight_decay=0.1),
    "rmsprop momentum": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9),
    "rmsprop centered": lambda p: optim.RMSprop(p, lr=0.1, centered=True, maximize=True),
    "rmsprop both": lambda p: optim.RMSprop(p, lr=0.1, centered=True, momentum=0.9),
    "rmsprop without eps": lambda p: optim.RMSprop(p, lr=0.1, eps=0.0),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "lion": lambda p: optim.Lion(p, lr=0.1),
    "lion decay": lambda p: optim.Lion(p, lr=0.1, weight_decay=0.1, maximize=True),
}
LAYOUTS = {
    "C": lambda a: a,
    "F": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.repeat(a[..., np.newaxis], 2, axis=-1)[..., 0],
}
WARM = 6  # steps after which RAdam's are rectified


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data())
def test_they_are_the_generic_bodies(name: str, data: st.DataObject) -> None:
    """Some steps of both; one gradient may have a layout that the kernels leave alone."""
    options = data.draw(st.fixed_dictionaries(common | OPTIONS[name]), "options")
    shape = data.draw(st.sampled_from([(), (0,), (1,), (7,), (3, 5), (64, 33), (12_000,)]), "shape")
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)), "layout")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    x, *gradients = (rng.normal(size=shape).astype(dtype) for _ in range(WARM + 3))
    gradients[-2] = LAYOUTS[layout](gradients[-2])
    results = []
    for on in (True, False):
        p = nn.Parameter(x)
        optimizer = getattr(optim, name)([p], **options)
        before = dispatch.use_kernels(on)
        try:
            for g in gradients:
                p.grad = mg.asarray(g)
                optimizer.step()
        finally:
            dispatch.use_kernels(before)
        state = optimizer.state_dict()["state"]["0"]
        results.append([p.detach().numpy(), *(np.asarray(getattr(v, "_array", v)) for v in state.values())])
    tolerance = 128 * np.finfo(dtype).eps  # the two round differently in a handful of operations a step
    for kernel, generic in zip(*results, strict=True):
        scale = abs(generic).max(initial=1.0)
        if name == "Lion":  # a sign that rounding decides is another now and then, among very many
            assert np.count_nonzero(abs(kernel - generic) > tolerance * scale) <= kernel.size // 1000
            continue
        np.testing.assert_allclose(kernel, generic, rtol=tolerance, atol=tolerance * scale)


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 1.0, -3.0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_infinities_and_nan_are_those_of_the_generic_body(name: str) -> None:
    """Every special value of a parameter against those of two gradients, early and late."""
    x, g, h = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL, SPECIAL))

    def results(late: bool) -> list[np.ndarray]:
        p = nn.Parameter(x.astype(np.float32))
        optimizer = RULES[name]([p])
        for gradient in (*[np.zeros_like(g)] * WARM * late, g, h, np.ones_like(g)):
            p.grad = mg.asarray(gradient.astype(np.float32))
            optimizer.step()
        return [p.detach().numpy(), *(np.asarray(value) for value in optimizer.state[p].values())]

    for late in (False, True):
        with variants.generic():
            expected = results(late)
        for level in cpu.levels():
            with variants.variant(level, 1):
                found = results(late)
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


MIXED = [
    ((), np.float32), ((0,), np.float32), ((3, 5), np.float64), ((5000,), np.float32), ((4096,), np.float64),
    ((3, 9001), np.float32), ((1,), np.float64), ((60_000,), np.float32),
]  # fmt: skip


def train_mixed(make: Make) -> list[np.ndarray]:
    """Parameters of all sorts after some steps; in every second step only some have a gradient."""
    rng = np.random.default_rng(0)
    params = [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape, dtype in MIXED]
    optimizer = make(params)
    for step in range(WARM + 3):
        for p in params[:: 1 + step % 2]:
            p.grad = mg.asarray(np.asarray(rng.normal(size=p.shape), p.dtype))
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().numpy() for p in params]


@pytest.mark.parametrize("name", ["nadam", "radam", "rmsprop", "rmsprop both", "rmsprop momentum", "lion decay"])
def test_parameters_of_all_sorts_are_updated_together(name: str) -> None:
    with variants.generic():
        expected = train_mixed(RULES[name])
    for level in cpu.levels():
        found = []
        for threads in (1, 2, 3):
            with variants.variant(level, threads):
                found.append(train_mixed(RULES[name]))
        for a, b, c, e in zip(*found, expected, strict=True):
            assert a.tobytes() == b.tobytes() == c.tobytes()
            tolerance = 128 * np.finfo(e.dtype).eps
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


NUMBERS = (0.9, 0.1, 0.99, 0.01, 1e-8, 1.0, 0.0, 0.1, 0.9, False, False)
LION = (0.1, 0.9, 0.99, 0.0, False)


def test_they_take_plain_arrays_and_refuse_others() -> None:
    rng = np.random.default_rng(0)
    x, g, m, v = rng.normal(size=(4, 3, 4)).astype(np.float32)
    adaptive, lion = Kernel("adaptive", "adaptive"), Kernel("adaptive", "lion")
    names, one = ("m", "v", "b"), (1.0, 0.0, 1.0)

    def states(m: Any, v: Any = v, b: Any = m) -> list[dict[str, Any]]:
        return [{"m": m, "v": v, "b": b, "exp_avg": m}]

    assert adaptive([], [], [], [], names, *NUMBERS) == lion([], [], [], *LION) == []
    assert adaptive([x], [g], states(m, abs(v)), [one], names, *NUMBERS) == []
    assert lion([x], [g], states(m), *LION) == []
    before, frozen = x.copy(), x.copy()
    frozen.setflags(write=False)
    for a, b, state in [
        (x.T, g.T, states(m.T, v.T, m.T)), (x, g.astype(np.float64), states(m)), (x, g[:2], states(m)),
        (x, g, states(m.reshape(4, 3))), (frozen, g, states(m)), (x.astype(np.float16), g, states(m)),
        (x.view(np.recarray), g, states(m)), (x, list(g), states(m)), (x, g, states(frozen)), (x, g, states(m.T)),
    ]:  # fmt: skip
        assert adaptive([a], [b], state, [one], names, *NUMBERS) == [0]
        assert lion([a], [b], state, *LION) == [0]
    for state in (states(m, frozen), states(m, v, frozen), states(m, v.astype(np.float64)), states(m, v, m[:1])):
        assert adaptive([x], [g], state, [one], names, *NUMBERS) == [0]
    assert adaptive([x], [g], states(m), [None], names, *NUMBERS) == [0]
    np.testing.assert_array_equal(x, before)


def test_a_state_that_was_cast_is_taken_from_the_next_step_on() -> None:
    """The generic body casts it once."""
    p = nn.Parameter(mg.ones((3,)))
    optimizer = optim.RMSprop([p], momentum=0.9, centered=True)
    for dtype in (np.float32, np.float64, np.float64):
        p._array = p._array.astype(dtype)
        p.grad = mg.asarray(np.ones(3, dtype))
        optimizer.step()
        assert {v.dtype for v in optimizer.state[p].values() if hasattr(v, "dtype")} == {np.dtype(dtype)}
    assert optimizer.state[p]["step"] == 3


@pytest.mark.parametrize("kernels", [True, False])
def test_a_variance_that_rounding_makes_negative_counts_as_0(kernels: bool) -> None:
    before = dispatch.use_kernels(kernels)
    try:
        p, g = nn.Parameter(mg.zeros((100,))), np.random.default_rng(0).normal(size=100).astype(np.float32)
        optimizer = optim.RMSprop([p], lr=0.1, alpha=0.999, centered=True, eps=0.5)
        p.grad = mg.asarray(g)
        optimizer.step()
        state = optimizer.state[p]
        state["grad_avg"][...], state["square_avg"][...] = g, g * g * np.float32(1 - 1e-3)
        start = p.detach().numpy().copy()
        optimizer.step()
    finally:
        dispatch.use_kernels(before)
    assert (state["square_avg"] < state["grad_avg"] ** 2).all()
    np.testing.assert_allclose(p.detach().numpy(), start - 0.1 * g / 0.5, rtol=1e-5)


class Doubled(optim.RMSprop):
    """A rule of its own, which the kernel must not pass by."""

    def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
        super().update(x, g, state, group)
        super().update(x, g, state, group)


def test_a_subclass_with_a_rule_of_its_own() -> None:
    p, q = nn.Parameter([1.0]), nn.Parameter([1.0])
    twice, once = Doubled([p]), optim.RMSprop([q])
    p.grad = mg.ones((1,))
    twice.step()
    for _ in range(2):
        q.grad = mg.ones((1,))
        once.step()
    assert p.item() == q.item() != 1.0


def test_a_base_without_numbers() -> None:
    from minigrad.optim.adaptive import Adaptive

    p = nn.Parameter([1.0])
    p.grad = mg.ones((1,))
    with pytest.raises(NotImplementedError, match="Adaptive: needs a method plan"):
        Adaptive([p], {"lr": 0.1}).step()

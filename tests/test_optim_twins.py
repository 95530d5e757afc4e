"""Optimizers against twins in plain Python, written from the formulas of the papers: no NumPy, no running updates.

Where a rule keeps a running mean, its twin sums up the whole history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim

Matrix = list[list[float]]
SHAPE = (2, 3)


def mean(history: Sequence[float], decay: float) -> float:
    """The exponential mean of a history that began at 0."""
    return math.fsum((1 - decay) * decay ** (len(history) - 1 - i) * value for i, value in enumerate(history))


def squares(history: Sequence[float]) -> list[float]:
    return [value * value for value in history]


# --- rules that work element by element: x after each gradient --------------------------------------------------------


def momentum_of(t: int, beta1: float, decay: float) -> float:
    return beta1 * (1 - 0.5 * 0.96 ** (t * decay))


def nadam(x: float, g: list[float], o: dict[str, Any]) -> float:
    (beta1, beta2), t = o["betas"], len(g)
    m, v = mean(g, beta1), mean(squares(g), beta2) / (1 - beta2**t)
    mus = [momentum_of(i, beta1, o["momentum_decay"]) for i in range(1, t + 2)]
    looked_ahead = (1 - mus[t - 1]) * g[-1] / (1 - math.prod(mus[:t])) + mus[t] * m / (1 - math.prod(mus))
    return x - o["lr"] * looked_ahead / (math.sqrt(v) + o["eps"])


def radam(x: float, g: list[float], o: dict[str, Any]) -> float:
    (beta1, beta2), t = o["betas"], len(g)
    m = mean(g, beta1) / (1 - beta1**t)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    assume(abs(length - 5) > 1e-9)
    if length <= 5:
        return x - o["lr"] * m
    adaptive = math.sqrt(1 - beta2**t) / (math.sqrt(mean(squares(g), beta2)) + o["eps"])
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return x - o["lr"] * m * math.sqrt(rectified) * adaptive


def rmsprop(x: float, g: list[float], o: dict[str, Any]) -> float:
    steps = []
    for t in range(1, len(g) + 1):
        variance = mean(squares(g[:t]), o["alpha"]) - o["centered"] * mean(g[:t], o["alpha"]) ** 2
        steps.append(g[t - 1] / (math.sqrt(variance) + o["eps"]))
    return x - o["lr"] * math.fsum(o["momentum"] ** (len(g) - 1 - i) * step for i, step in enumerate(steps))


def adagrad(x: float, g: list[float], o: dict[str, Any]) -> float:
    total = o["initial_accumulator_value"] + math.fsum(squares(g))
    return x - o["lr"] / (1 + (len(g) - 1) * o["lr_decay"]) * g[-1] / (math.sqrt(total) + o["eps"])


def adadelta(x: float, g: list[float], o: dict[str, Any]) -> float:
    deltas: list[float] = []
    for t in range(1, len(g) + 1):
        rms_of_steps = math.sqrt(mean(squares(deltas), o["rho"]) + o["eps"])
        deltas.append(rms_of_steps / math.sqrt(mean(squares(g[:t]), o["rho"]) + o["eps"]) * g[t - 1])
    return x - o["lr"] * deltas[-1]


def lion(x: float, g: list[float], o: dict[str, Any]) -> float:
    beta1, beta2 = o["betas"]
    c = beta1 * mean(g[:-1], beta2) + (1 - beta1) * g[-1]
    assume(abs(c) > 1e-9)  # the sign of what is nothing but rounding is no one's
    return x - o["lr"] * (math.copysign(1, c) + o["weight_decay"] * x)


def trajectory(rule: Callable[..., float], x: float, gradients: list[float], o: dict[str, Any]) -> float:
    """The last value of one element; the penalty goes into the gradient, or shrinks the weight."""
    sign, decay, history = -1.0 if o["maximize"] else 1.0, o["weight_decay"], []
    for g in gradients:
        if o.get("decoupled_weight_decay"):
            x *= 1 - o["lr"] * decay
            history.append(sign * g)
        else:
            history.append(sign * g + (0 if rule is lion else decay * x))
        x = rule(x, history, o)
    return x


# --- rules that see a whole matrix ------------------------------------------------------------------------------------


def norm(a: Matrix) -> float:
    return math.sqrt(math.fsum(value * value for row in a for value in row))


def each(f: Callable[..., float], *matrices: Matrix) -> Matrix:
    return [[f(*values) for values in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def product(a: Matrix, b: Matrix) -> Matrix:
    return [
        [math.fsum(p * q for p, q in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a
    ]


def transposed(a: Matrix) -> Matrix:
    return [list(column) for column in zip(*a, strict=True)]


def combine(history: list[Matrix], f: Callable[[list[float]], float]) -> Matrix:
    """A function of the history of each element."""
    return each(lambda *values: f(list(values)), *history)


def lamb(x: Matrix, history: list[Matrix], past: list[Matrix], o: dict[str, Any]) -> Matrix:
    (beta1, beta2), t = o["betas"], len(history)
    m = combine(history, lambda g: mean(g, beta1) / (1 - beta1**t))
    v = combine(history, lambda g: mean(squares(g), beta2) / (1 - beta2**t))
    step = each(lambda m, v, x: m / (math.sqrt(v) + o["eps"]) + o["weight_decay"] * x, m, v, x)
    ratio = norm(x) / norm(step) if o["adapt"] and norm(x) and norm(step) else 1
    return each(lambda x, u: x - o["lr"] * ratio * u, x, step)


def lars(x: Matrix, history: list[Matrix], past: list[Matrix], o: dict[str, Any]) -> Matrix:
    u = each(lambda g, x: g + o["weight_decay"] * x, history[-1], x)
    factor = o["trust_coefficient"] * norm(x) / (norm(u) + o["eps"]) if o["adapt"] and norm(x) and norm(u) else 1
    past.append(each(lambda u: o["lr"] * factor * u, u))
    moved = combine(past, lambda steps: math.fsum(o["momentum"] ** i * s for i, s in enumerate(reversed(steps))))
    if o["nesterov"]:
        moved = each(lambda s, b: s + o["momentum"] * b, past[-1], moved)
    return each(lambda x, b: x - b, x, moved)


def adafactor(x: Matrix, history: list[Matrix], past: list[Matrix], o: dict[str, Any]) -> Matrix:
    rows, columns, size = [0.0] * len(x), [0.0] * len(x[0]), len(x) * len(x[0])
    for t, g in enumerate(history, 1):
        fresh = t ** o["beta2_decay"]
        square = each(lambda value: value * value, g)
        rows = [(1 - fresh) * r + fresh * math.fsum(row) / len(row) for r, row in zip(rows, square, strict=True)]
        lines = transposed(square)
        columns = [(1 - fresh) * c + fresh * math.fsum(w) / len(w) for c, w in zip(columns, lines, strict=True)]
    least, least_scale = o["eps"]
    total = max(math.fsum(rows) / len(rows), least)
    u = [
        [g / max(math.sqrt(r * c / total), least) for g, c in zip(row, columns, strict=True)]
        for row, r in zip(history[-1], rows, strict=True)
    ]
    rate = min(o["lr"], 1 / math.sqrt(len(history))) if o["relative_step"] else o["lr"]
    rate *= max(least_scale, norm(x) / math.sqrt(size)) if o["scale_parameter"] else 1
    clip = max(1, norm(u) / math.sqrt(size) / o["d"])
    past.append(each(lambda u: rate * u / clip, u))
    step = past[-1] if o["beta1"] is None else combine(past, lambda steps: mean(steps, o["beta1"]))
    return each(lambda x, u: x * (1 - o["lr"] * o["weight_decay"]) - u, x, step)


def muon(x: Matrix, history: list[Matrix], past: list[Matrix], o: dict[str, Any]) -> Matrix:
    b = combine(history, lambda g: mean(g, o["momentum"]))
    if o["nesterov"]:
        b = each(lambda g, b: (1 - o["momentum"]) * g + o["momentum"] * b, history[-1], b)
    size = max(norm(b), o["eps"])
    s, (c0, c1, c2) = each(lambda value: value / size, b), o["ns_coefficients"]
    for _ in range(o["ns_steps"]):  # X -> c0 X + c1 (X X') X + c2 (X X')^2 X, whichever side is the longer
        cubed = product(product(s, transposed(s)), s)
        fifth = product(product(s, transposed(s)), cubed)
        s = each(lambda x, y, z: c0 * x + c1 * y + c2 * z, s, cubed, fifth)
    inputs, outputs = len(x), len(x[0])
    matched = o["adjust_lr_fn"] == "match_rms_adamw"
    scale = 0.2 * math.sqrt(max(inputs, outputs)) if matched else math.sqrt(max(1, outputs / inputs))
    return each(lambda x, s: x * (1 - o["lr"] * o["weight_decay"]) - o["lr"] * scale * s, x, s)


# --- comparisons ------------------------------------------------------------------------------------------------------


def ours(name: str, options: dict[str, Any], x: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    p = nn.Parameter(x)
    optimizer = getattr(optim, name)([p], **options)
    for g in gradients:
        p.grad = mg.asarray(g)
        optimizer.step()
    return p.detach().numpy()


def close(found: Any, expected: Any) -> None:
    scale = max(1.0, float(abs(np.asarray(expected)).max()))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * scale)


numbers = st.floats(-8, 8).map(lambda value: round(value, 3) + 0.0)
beta = st.floats(0, 0.98)
# where the gradient cancels with a penalty its root is nothing but rounding: eps keeps that small
eps = st.floats(1e-4, 1)
rate, decay = st.floats(0.01, 1), st.sampled_from([0.0, 0.2])
common = {"lr": rate, "weight_decay": decay, "maximize": st.booleans()}

RULES: dict[str, tuple[Callable[..., float], dict[str, Any]]] = {
    "NAdam": (nadam, {"betas": st.tuples(beta, beta), "eps": eps, "momentum_decay": st.floats(0, 1),
                      "decoupled_weight_decay": st.booleans()}),
    "RAdam": (radam, {"betas": st.tuples(beta, beta), "eps": eps, "decoupled_weight_decay": st.booleans()}),
    # centered variances must not cancel: after few steps a large alpha has seen too little for that
    "RMSprop": (rmsprop, {"alpha": st.floats(0.9, 0.98), "eps": eps, "centered": st.booleans(),
                          "momentum": st.sampled_from([0.0, 0.5, 0.9])}),
    "Adagrad": (adagrad, {"lr_decay": st.floats(0, 1), "initial_accumulator_value": st.sampled_from([0.0, 0.5]),
                          "eps": eps}),
    "Adadelta": (adadelta, {"rho": beta, "eps": eps}),
    "Lion": (lion, {"betas": st.tuples(beta, beta)}),
}  # fmt: skip
WHOLE: dict[str, tuple[Callable[..., Matrix], dict[str, Any]]] = {
    "LAMB": (lamb, {"betas": st.tuples(beta, beta), "eps": eps, "adapt": st.booleans()}),
    "LARS": (lars, {"momentum": beta, "trust_coefficient": st.floats(0, 1), "eps": st.floats(0, 1),
                    "nesterov": st.booleans(), "adapt": st.booleans()}),
    "Adafactor": (adafactor, {"beta2_decay": st.floats(-2, 0), "eps": st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)),
                              "d": st.floats(1, 2), "beta1": st.none() | beta, "relative_step": st.booleans(),
                              "scale_parameter": st.booleans()}),
    "Muon": (muon, {"momentum": beta, "nesterov": st.booleans(), "eps": st.floats(1e-3, 1),
                    "ns_steps": st.integers(0, 3), "ns_coefficients": st.tuples(*[st.floats(-2, 2)] * 3),
                    "adjust_lr_fn": st.sampled_from([None, "original", "match_rms_adamw"])}),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
@given(data=st.data())
def test_elements(name: str, data: st.DataObject) -> None:
    rule, own = RULES[name]
    options = data.draw(st.fixed_dictionaries(common | own), "options")
    values = numbers.filter(bool) if name == "Lion" else numbers
    x = data.draw(st.lists(numbers, min_size=3, max_size=3), "x")
    gradients = data.draw(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=7), "gradients")
    expected = [
        trajectory(rule, start, list(g), options) for start, g in zip(x, zip(*gradients, strict=True), strict=True)
    ]
    close(ours(name, options, np.array(x), [np.array(g) for g in gradients]), expected)


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
def test_matrices(name: str, data: st.DataObject) -> None:
    rule, own = WHOLE[name]
    options = data.draw(st.fixed_dictionaries(common | own), "options")
    tall = data.draw(st.booleans(), "tall")
    rows, columns = SHAPE[::-1] if tall else SHAPE
    matrices = st.lists(st.lists(numbers, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    x = data.draw(matrices, "x")
    gradients = data.draw(st.lists(matrices, min_size=1, max_size=5), "gradients")
    sign = -1.0 if options["maximize"] else 1.0
    expected, history, past = x, [], []  # type: ignore[var-annotated]
    for g in gradients:
        history.append(each(lambda value: sign * value, g))
        expected = rule(expected, history, past, options)
    found = ours(name, options, np.array(x), [np.array(g) for g in gradients])
    close(found, expected)


@given(st.lists(numbers, min_size=2, max_size=2), st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1))
def test_adafactor_keeps_the_second_moment_of_a_vector(x: list[float], gradients: list[list[float]]) -> None:
    expected, v = x, [0.0, 0.0]
    for t, g in enumerate(gradients, 1):
        fresh = t**-0.8
        v = [(1 - fresh) * old + fresh * value * value for old, value in zip(v, g, strict=True)]
        u = [value / max(math.sqrt(old), 1e-2) for old, value in zip(v, g, strict=True)]
        rate = min(0.1, 1 / math.sqrt(t)) * max(1e-3, norm([expected]) / math.sqrt(2))
        clip = max(1, norm([u]) / math.sqrt(2))
        expected = [a - rate * b / clip for a, b in zip(expected, u, strict=True)]
    close(ours("Adafactor", {"lr": 0.1, "eps": (1e-2, 1e-3)}, np.array(x), list(map(np.array, gradients))), expected)


def test_every_rule_has_a_twin() -> None:
    elsewhere = {"SGD", "Adam", "AdamW", "LBFGS"}  # test_optim.py, test_lbfgs.py
    kinds = {name for name in optim.__all__ if isinstance(getattr(optim, name), type)} - {"Optimizer"}
    kinds = {name for name in kinds if issubclass(getattr(optim, name), optim.Optimizer)}
    assert kinds - elsewhere == RULES.keys() | WHOLE.keys()

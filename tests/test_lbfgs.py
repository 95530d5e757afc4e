"""L-BFGS: its direction against BFGS with matrices, Wolfe's conditions, PyTorch's trajectories, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import DTypeError, GradError
from minigrad.nn import functional as F
from minigrad.optim.lbfgs import Memory
from minigrad.optim.line_search import Point, cubic_minimum, strong_wolfe

Array = np.ndarray[Any, Any]


def rosenbrock(w: Any) -> Any:
    """In any number of dimensions; its minimum is 0, at ones."""
    return ((1 - w[:-1]) ** 2 + 100 * (w[1:] - w[:-1] ** 2) ** 2).sum()


def problem(
    start: Any, f: Callable[[Any], Any] = rosenbrock, **options: Any
) -> tuple[mg.Tensor, optim.LBFGS, Callable[[], mg.Tensor]]:
    w = nn.Parameter(np.array(start, np.float64))
    optimizer = optim.LBFGS([w], **options)

    def closure() -> mg.Tensor:
        optimizer.zero_grad()
        loss = f(w)
        loss.backward()
        return loss

    return w, optimizer, closure


# --- it finds minima --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0], [-1.2, 1.0, -1.2, 1.0, 2.0]])
@pytest.mark.parametrize("history", [3, 100])
def test_rosenbrock(start: list[float], history: int) -> None:
    w, optimizer, closure = problem(
        start, line_search_fn="strong_wolfe", history_size=history, max_iter=200, tolerance_change=1e-14
    )
    first = optimizer.step(closure)
    assert first.item() == pytest.approx(rosenbrock(np.array(start)))
    assert closure().item() < 1e-10
    np.testing.assert_allclose(w.detach().numpy(), 1.0, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8), search=st.sampled_from([None, "strong_wolfe"]))
def test_quadratics(seed: int, size: int, search: str | None) -> None:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    a, b = q * rng.uniform(0.5, 2.0, size) @ q.T, rng.normal(size=size)
    matrix, offset = mg.asarray(a), mg.asarray(b)
    w, optimizer, closure = problem(
        np.zeros(size), lambda w: 0.5 * (w @ matrix @ w) - offset @ w, line_search_fn=search, tolerance_change=0.0
    )
    for _ in range(4):
        optimizer.step(closure)
    np.testing.assert_allclose(w.detach().numpy(), np.linalg.solve(a, b), atol=1e-6)


def test_logistic_regression_with_several_parameters() -> None:
    rng = np.random.default_rng(0)
    x, y = mg.asarray(rng.normal(size=(50, 3))), mg.asarray(rng.integers(0, 2, 50))
    mg.random.seed(0)
    model = nn.Dense(2, dtype=mg.float64)
    optimizer = optim.LBFGS(
        model.parameters(), line_search_fn="strong_wolfe", max_iter=100, tolerance_grad=1e-8, tolerance_change=1e-16
    )

    def closure() -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), y) + 0.01 * (model.weight**2).sum()  # type: ignore[operator]
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    assert max(abs(p.grad.numpy()).max() for p in model.parameters()) < 1e-6  # type: ignore[union-attr]


# --- its parts --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), pairs=st.integers(0, 6), size=st.integers(1, 5), history=st.integers(0, 4))
def test_the_direction_is_that_of_bfgs_with_matrices(seed: int, pairs: int, size: int, history: int) -> None:
    rng = np.random.default_rng(seed)
    memory, g = Memory(), rng.normal(size=size)
    memory.learn(g, history)
    known = []
    for _ in range(pairs):
        memory.step = rng.normal(size=size)
        change = rng.uniform(0.5, 2.0, size) * memory.step  # the second derivative is positive, but for some
        change *= rng.choice([1.0, 1.0, -1.0])
        if change @ memory.step > 0:
            known.append((memory.step, change))
        g = g + change
        memory.learn(g, history)
    known = known[len(known) - history :] if history < len(known) else known
    inverse = np.eye(size)
    if known:
        s, y = known[-1]
        inverse *= (s @ y) / (y @ y)
    for s, y in known:
        left = np.eye(size) - np.outer(s, y) / (y @ s)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (y @ s)
    np.testing.assert_allclose(memory.direction(), -inverse @ g, rtol=1e-6, atol=1e-7)
    assert len(memory.steps) == len(memory.changes) == len(memory.products) == min(history, len(known))


def along(f: Callable[[float], float], slope: Callable[[float], float]) -> Callable[[float], Point]:
    return lambda t: Point(t, f(t), np.array([slope(t)]), slope(t))


@given(
    bottoms=st.lists(st.floats(0.1, 20), min_size=1, max_size=3), weights=st.lists(st.floats(0.1, 5), min_size=3),
    first=st.floats(1e-3, 50), sharp=st.booleans(),
)  # fmt: skip
def test_wolfes_conditions(bottoms: list[float], weights: list[float], first: float, sharp: bool) -> None:
    """Sums of smooth valleys to the right of 0."""
    pairs = list(zip(bottoms, weights, strict=False))

    def f(t: float) -> float:
        return sum(w * (math.log1p((t - b) ** 2) if sharp else (t - b) ** 2) for b, w in pairs)

    def slope(t: float) -> float:
        return sum(w * 2 * (t - b) / (1 + (t - b) ** 2 if sharp else 1) for b, w in pairs)

    calls = []

    def evaluate(t: float) -> Point:
        calls.append(t)
        return along(f, slope)(t)

    start = along(f, slope)(0.0)
    found, used = strong_wolfe(evaluate, start, first, 1.0, 1e-12, 60)
    assert used == len(calls)
    assert found.t in calls
    assert found.loss <= start.loss + 1e-4 * found.t * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)


def test_a_search_that_may_not_try_often_takes_the_best() -> None:
    point = along(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1))
    start = point(0.0)
    for most in range(4):
        found, used = strong_wolfe(point, start, 40.0, 1.0, 1e-12, most)
        assert used <= most + 1
        assert found.loss <= start.loss
    found, used = strong_wolfe(point, start, 40.0, 1.0, 1e9, 20)  # the bracket is too small from the beginning
    assert (found.t, used) == (0.0, 1)


@given(st.lists(st.floats(-3, 3).filter(lambda c: abs(c) > 0.1), min_size=4, max_size=4), st.booleans())
def test_the_minimum_of_a_cubic_is_found(c: list[float], swapped: bool) -> None:
    """Exact for the cubic itself: where its derivative is 0 and rises, if that lies within the bounds."""
    poly = np.polynomial.Polynomial(c)
    first, second = poly.deriv(), poly.deriv(2)
    a, b = (Point(t, poly(t), np.zeros(1), first(t)) for t in (-1.0, 2.0))
    t = cubic_minimum(b, a, (-1.0, 2.0)) if swapped else cubic_minimum(a, b, (-1.0, 2.0))
    assert -1.0 <= t <= 2.0
    roots = [r.real for r in first.roots() if abs(r.imag) < 1e-12 and second(r.real) > 1e-3]
    if not any(abs(r.imag) < 1e-12 for r in first.roots()):
        assert t == 0.5
    for root in roots:
        assert t == pytest.approx(min(max(root, -1.0), 2.0), abs=1e-6)


def test_the_middle_where_a_cubic_says_nothing() -> None:
    line = [Point(t, t, np.ones(1), 1.0) for t in (0.0, 1.0)]
    for a, b in ((line[0], line[0]), (line[0], Point(1.0, math.inf, np.ones(1), 1.0)), tuple(line)):
        assert cubic_minimum(a, b, (2.0, 4.0)) in (2.0, 3.0)
    flat = Point(0.0, 1.0, np.zeros(1), 0.0)
    assert cubic_minimum(flat, flat._replace(t=1.0), (0.0, 1.0)) == 0.5


# --- as in PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"line_search_fn": "strong_wolfe", "max_iter": 5}, 3),  # rounding grows tenfold a step
        ({"line_search_fn": "strong_wolfe", "history_size": 2, "max_iter": 4}, 4),
        ({"line_search_fn": "strong_wolfe", "max_iter": 20, "max_eval": 9}, 2),
        ({"line_search_fn": "strong_wolfe", "lr": 30.0, "max_iter": 3}, 3),
        ({"lr": 2e-3, "max_iter": 6}, 8),
        ({"lr": 2e-3, "max_iter": 6, "max_eval": 3, "history_size": 1}, 8),
        ({"lr": 2e-3, "tolerance_grad": 200.0}, 3),
        ({"lr": 2e-3, "tolerance_change": 1e-2}, 3),
    ],
)
def test_trajectories_are_those_of_pytorch(options: dict[str, Any], steps: int) -> None:
    """Values, the loss that a step returns, and how often the closure is called."""
    torch = pytest.importorskip("torch")
    start = np.array([-1.2, 1.0, 0.5])
    w, optimizer, closure = problem(start, **options)
    v = torch.nn.Parameter(torch.tensor(start))
    other = torch.optim.LBFGS([v], **options)
    calls = [0, 0]

    def mine() -> mg.Tensor:
        calls[0] += 1
        return closure()

    def theirs() -> Any:
        calls[1] += 1
        other.zero_grad()
        loss = rosenbrock(v)
        loss.backward()
        return loss

    for _ in range(steps):
        loss, expected = optimizer.step(mine), other.step(theirs)
        assert calls[0] == calls[1]
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-9)
        np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), rtol=1e-9)


# --- what it does with what is odd ------------------------------------------------------------------------------------


def test_a_trial_that_is_not_finite_is_too_long() -> None:
    """The logarithm of what is negative: the first trial leaps over the edge."""
    for f in (lambda w: -w.sum() - mg.log(1 - w).sum() * 0.1, lambda w: (w**2 + 1e-3 / (2 - w)).sum()):
        w, optimizer, closure = problem([-30.0, -60.0], f, lr=50.0, line_search_fn="strong_wolfe", max_iter=50)
        with np.errstate(all="ignore"):
            first = optimizer.step(closure).item()
        assert closure().item() < first
        assert np.isfinite(w.detach().numpy()).all()


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_loss_that_is_nan_moves_nothing(search: str | None) -> None:
    w, optimizer, closure = problem([1.0, 2.0], lambda w: (w * math.nan).sum(), line_search_fn=search)
    assert math.isnan(optimizer.step(closure).item())
    assert w.tolist() == [1.0, 2.0]


def test_a_closure_that_fails_in_a_search_leaves_the_parameters_where_they_were() -> None:
    w, optimizer, closure = problem([-1.2, 1.0], line_search_fn="strong_wolfe")
    calls = []

    def failing() -> mg.Tensor:
        calls.append(w.tolist())
        if len(calls) == 3:
            raise ArithmeticError
        return closure()

    with pytest.raises(ArithmeticError):
        optimizer.step(failing)
    assert w.tolist() == [-1.2, 1.0] != calls[-1]


def test_the_closure_records_under_no_grad() -> None:
    w, optimizer, closure = problem([-1.2, 1.0])
    with mg.no_grad():
        optimizer.step(closure)
    assert w.tolist() != [-1.2, 1.0]


def test_a_loss_that_is_a_number() -> None:
    _, optimizer, closure = problem([-1.2, 1.0])
    assert optimizer.step(lambda: closure().item()) == pytest.approx(24.2)


def test_what_a_step_needs() -> None:
    w, optimizer, closure = problem([1.0, 2.0])
    with pytest.raises(TypeError, match=r"LBFGS.step: closure is None, needs a function that clears the gradients"):
        optimizer.step()
    with pytest.raises(GradError, match=r"LBFGS.step: every gradient is None, needs one. The closure calls backward"):
        optimizer.step(lambda: rosenbrock(w))
    for name in ("regularizer", "constraint"):
        setattr(w, name, object())
        with pytest.raises(ValueError, match=f"LBFGS: {name} of parameter 0 is set, needs None"):
            optimizer.step(closure)
        setattr(w, name, None)
    w._array.flags.writeable = False
    with pytest.raises(ValueError, match=r"LBFGS.step: parameter 0 is read-only"):
        optimizer.step(closure)
    w._array = w._array.astype(np.float16)
    with pytest.raises(DTypeError, match="LBFGS: parameter 0 is float16"):
        optimizer.step(closure)


def test_parameters_of_two_dtypes_and_rows() -> None:
    table = mg.tensor(np.ones((4, 2)), requires_grad=True)
    bias = nn.Parameter([2.0, 2.0])
    optimizer = optim.LBFGS([table, bias], line_search_fn="strong_wolfe", max_iter=30)

    def closure() -> mg.Tensor:
        optimizer.zero_grad()
        looked = F.embedding(mg.tensor([1, 3]), table, sparse=True) + bias.astype(mg.float64)
        loss = ((looked - 5.0) ** 2).sum() + 0.1 * (bias**2).sum().astype(mg.float64)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() < 1e-6
    assert (table.dtype, bias.dtype) == (mg.float64, mg.float32)
    np.testing.assert_array_equal(table.detach().numpy()[[0, 2]], 1.0)


def test_a_model_that_changes_its_dtype() -> None:
    w, optimizer, closure = problem([-1.2, 1.0], line_search_fn="strong_wolfe", max_iter=3)
    for dtype in (np.float64, np.float32, np.float64):
        w._array = w._array.astype(dtype)
        before = closure().item()
        optimizer.step(closure)
        assert closure().item() < before
        optimizer.load_state_dict(optimizer.state_dict())


def test_a_memory_that_does_not_fit() -> None:
    _, optimizer, closure = problem([-1.2, 1.0], max_iter=4, lr=2e-3)
    optimizer.step(closure)
    state = optimizer.state_dict()
    assert set(state["state"]) == {"n_iter", "func_evals", "scale", "steps", "changes", "products", "gradient", "step"}
    for change, text in [
        ({"steps": state["state"]["steps"][:-1]}, "number of changes"),
        ({"products": []}, "number of products"),
        ({"gradient": np.zeros(3)}, "shape of gradient"),
        ({"more": 1}, "keys of the memory"),
    ]:
        with pytest.raises(ValueError, match=rf"LBFGS.load_state_dict: {text}"):
            optimizer.load_state_dict({**state, "state": {**state["state"], **change}})
    assert optimizer.state_dict()["state"]["func_evals"] == 4
    other = optim.LBFGS([nn.Parameter(np.zeros(3))])
    with pytest.raises(ValueError, match="shape of"):
        other.load_state_dict(state)


def test_one_group() -> None:
    _, optimizer, _ = problem([1.0, 2.0])
    with pytest.raises(ValueError, match=r"LBFGS: group is the second one, needs one group.*all parameters"):
        optimizer.add_param_group({"params": nn.Parameter([1.0])})


@settings(max_examples=12)
@given(seed=st.integers(0, 999), search=st.sampled_from([None, "strong_wolfe"]), late=st.booleans())
def test_a_mask_leaves_the_rest_of_the_problem(seed: int, search: str | None, late: bool) -> None:
    """What is found is the minimum over the weights that are left, by linear algebra; `late`: after some steps."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(6, 6))
    a, b = a @ a.T + 6 * np.eye(6), rng.normal(size=6)
    keep = rng.random(6) < 0.6
    keep[0], keep[1] = True, False
    w, optimizer, closure = problem(
        rng.normal(size=6), lambda w: 0.5 * (w @ mg.asarray(a) @ w) - (w * mg.asarray(b)).sum(),
        line_search_fn=search, lr=1.0 if search else 0.1, max_iter=60, tolerance_grad=1e-10, tolerance_change=1e-15,
    )  # fmt: skip
    if late:
        optimizer.step(closure)
    w.mask = keep  # type: ignore[attr-defined]
    for _ in range(12):
        optimizer.step(closure)
    found = w.detach().numpy()
    assert not found[~keep].any()
    np.testing.assert_allclose(found[keep], np.linalg.solve(a[np.ix_(keep, keep)], b[keep]), atol=1e-5)

"""SAM: against the formulas, exact restoring, other optimizers, sparse tables, masks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import GradError


def data(seed=0, n=16):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 2))


def gradient(w, x, y):
    """Of the mean of squares of x w - y."""
    return 2 * x.T @ (x @ w - y) / y.size


def twin(w, x, y, steps, lr, rho, adaptive):
    """The formulas of the docstring around plain gradient descent."""
    for _ in range(steps):
        g = gradient(w, x, y)
        scaled = abs(w) * g if adaptive else g
        e = rho * (abs(w) * scaled if adaptive else g) / np.sqrt((scaled**2).sum())
        w = w - lr * gradient(w + e, x, y)
    return w


def closure_of(model, optimizer, x, y, scale=1.0):
    def closure():
        optimizer.zero_grad()
        loss = mg.mse_loss(model(x), y)
        (loss * scale).backward()
        return loss

    return closure


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0**-20])
@given(seed=st.integers(0, 1000), rho=st.floats(0.001, 1.0))
def test_a_step_is_the_formula(adaptive, scale, seed, rho):
    x, y = data(seed)
    model = nn.Dense(2, bias=False, in_features=3, dtype=mg.float64)
    w = model.weight.detach().numpy().copy()
    sam = optim.SAM(optim.SGD(model.parameters(), lr=0.1 / scale), rho, adaptive)
    closure = closure_of(model, sam, mg.asarray(x), mg.asarray(y), scale)
    first = sam.step(closure).item()
    assert first == pytest.approx(((x @ w - y) ** 2).mean())
    for _ in range(4):
        sam.step(closure)
    np.testing.assert_allclose(model.weight.detach().numpy(), twin(w, x, y, 5, 0.1, rho, adaptive), rtol=1e-7)


def test_the_norm_is_that_of_all_parameters():
    a, b = nn.Parameter([3.0]), nn.Parameter([4.0])
    unused = nn.Parameter([1.0])
    sam = optim.SAM(optim.SGD([{"params": [a]}, {"params": [b, unused]}], lr=0.0), rho=1.0)
    seen = []

    def closure():
        seen.append((a.item(), b.item(), unused.item()))
        sam.zero_grad()
        loss = (a * a + b * b).sum() / 2
        loss.backward()
        return loss

    sam.step(closure)
    np.testing.assert_allclose(seen, [(3, 4, 1), (3.6, 4.8, 1)], rtol=1e-6)


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.AdamW(p, lr=0.01)])
def test_without_a_radius_it_is_the_optimizer_bit_for_bit(make):
    x, y = (mg.asarray(part.astype(np.float32)) for part in data())
    results = []
    for wrapped in (True, False):
        mg.random.seed(0)
        model = nn.Dense(2, in_features=3)
        optimizer = make(model.parameters())
        sam = optim.SAM(optimizer, rho=0.0) if wrapped else optimizer
        closure = closure_of(model, sam, x, y)
        for _ in range(5):
            if wrapped:
                sam.step(closure)
            else:
                closure()
                optimizer.step()
        results.append([p.detach().numpy().tobytes() for p in model.parameters()])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64, mg.float16, mg.bfloat16])
def test_nothing_of_the_perturbation_stays(dtype):
    """With sizes where w + e - e is not w."""
    w = nn.Parameter(np.array([1e-3, 1.0, 3e3, -0.0]), dtype=mg.float32)
    sam = optim.SAM(optim.SGD([w], lr=0.0), rho=100.0)
    w._array = w._array.astype(dtype)
    before, seen = w.detach().numpy().tobytes(), []

    def closure():
        seen.append(w.detach().astype(mg.float64).tolist())
        w.grad = None
        loss = (w * mg.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype)).sum()
        loss.backward()
        return loss

    sam.ascend(closure)
    assert w.detach().numpy().tobytes() == before
    assert seen[0] != seen[1]


def test_the_weights_come_back_when_the_second_run_fails():
    w = nn.Parameter([1.0, 2.0])
    sam = optim.SAM(optim.SGD([w], lr=0.1), rho=0.5)
    runs = []

    def closure():
        runs.append(w.tolist())
        if len(runs) == 2:
            raise ArithmeticError
        loss = (w * w).sum()
        loss.backward()
        return loss

    with pytest.raises(ArithmeticError):
        sam.step(closure)
    assert w.tolist() == [1.0, 2.0] != runs[1]


def test_a_graph_from_before_finds_out():
    w = nn.Parameter([1.0, 2.0])
    sam = optim.SAM(optim.SGD([w], lr=0.0))
    late = (w * w).sum()

    def closure():
        w.grad = None
        loss = (w * w).sum()
        loss.backward()
        return loss

    with mg.no_grad():
        sam.step(closure)  # the closure records all the same
    with pytest.raises(GradError, match="was changed in place"):
        late.backward()


@pytest.mark.parametrize("adaptive", [False, True])
def test_rows_of_a_sparse_table_move_as_those_of_a_full_one(adaptive):
    tables = []
    for sparse in (True, False):
        mg.random.seed(1)
        layer = nn.Embedding(6, 3, sparse=sparse)
        sam = optim.SAM(optim.SGD(layer.parameters(), lr=0.1), rho=0.5, adaptive=adaptive)
        seen = []

        def closure(layer=layer, sam=sam, seen=seen):
            seen.append(layer.weight.detach().numpy().copy())
            sam.zero_grad()
            loss = (layer(mg.tensor([1, 4, 1])) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            sam.step(closure)
        assert (seen[1][[0, 2, 3, 5]] == seen[0][[0, 2, 3, 5]]).all()
        assert (seen[1][[1, 4]] != seen[0][[1, 4]]).all()
        tables.append(layer.weight.detach().numpy())
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)


def test_masked_weights_do_not_move():
    w = nn.Parameter([1.0, 0.0, 2.0])
    w.mask = np.array([True, False, True])
    sam = optim.SAM(optim.SGD([w], lr=0.0), rho=1.0)
    seen = []

    def closure():
        seen.append(w.tolist())
        w.grad = None
        loss = (w * mg.tensor([3.0, 100.0, 4.0])).sum()
        loss.backward()
        return loss

    sam.step(closure)
    np.testing.assert_allclose(seen[1], [1.6, 0.0, 2.8], rtol=1e-6)


def test_it_passes_for_the_optimizer():
    w = nn.Parameter([1.0])
    sam = optim.SAM(optim.SGD([w], lr=1.0, momentum=0.9))
    schedule = optim.schedules.ExponentialLR(sam, 0.5)
    schedule.step()
    assert sam.optimizer.param_groups[0]["lr"] == 0.5
    w.grad = mg.ones((1,))
    sam.optimizer.step()
    state = sam.state_dict()
    assert sam.state is sam.optimizer.state
    other = optim.SAM(optim.SGD([w], lr=1.0, momentum=0.9))
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.5
    assert repr(sam).startswith("SAM(SGD(1 parameters: lr=0.5")


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda o: optim.SAM(optim.SGD), TypeError, r"SAM: optimizer is .*, needs an optimizer. SAM\(optim.SGD"),
        (lambda o: optim.SAM(o, -1), ValueError, "SAM: rho is -1, needs a finite number"),
        (lambda o: optim.SAM(o, math.inf), ValueError, "SAM: rho is inf"),
        (lambda o: optim.SAM(o).step(None), TypeError, r"SAM\.step: closure is None, needs a function"),
    ],
)
def test_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make(optim.SGD([nn.Parameter([1.0])], lr=0.1))


def test_an_optimizer_whose_step_needs_a_closure_is_refused():
    with pytest.raises(TypeError, match="SAM: optimizer is an LBFGS, needs one whose step needs no closure"):
        optim.SAM(optim.LBFGS([nn.Parameter([1.0])]))


@pytest.mark.parametrize("adaptive", [False, True])
def test_numbers_in_a_mask_count_as_whether_they_are_zero(adaptive):
    found = []
    for mask in ([True, True, False], [2.0, -3.0, 0.0]):
        w = nn.Parameter([1.0, 2.0, 3.0])
        w.mask = np.array(mask)
        sam = optim.SAM(optim.SGD([w], lr=0.1), rho=0.5, adaptive=adaptive)

        def closure(w=w, sam=sam):
            sam.zero_grad()
            loss = (w**4).sum()
            loss.backward()
            return loss

        sam.step(closure)
        found.append(w.tolist())
    assert found[0] == found[1]

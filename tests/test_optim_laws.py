"""Laws that every optimizer keeps. They are found by walking `optim.__all__`, so that a new one cannot escape."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend.rows import RowSparse
from minigrad.errors import GradError, ShapeError
from minigrad.nn import functional as F
from minigrad.testing import variants

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

KINDS: list[Any] = [
    kind
    for kind in map(optim.__dict__.__getitem__, optim.__all__)
    if isinstance(kind, type) and issubclass(kind, optim.Optimizer) and kind is not optim.Optimizer
]
# Beside the defaults of each: what switches on all of its state.
SETTINGS: dict[str, list[Options]] = {
    "SGD": [{"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "Adam": [{"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}],
    "AdamW": [{"lr": 0.1, "amsgrad": True}],
    "NAdam": [{"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}],
    "RAdam": [{"lr": 0.1, "betas": (0.9, 0.9), "weight_decay": 0.1}],
    "RMSprop": [{"lr": 0.1, "centered": True, "momentum": 0.9, "weight_decay": 0.1}],
    "Adagrad": [{"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}],
    "Adadelta": [{"eps": 1e-2, "weight_decay": 0.1}],
    "Adafactor": [{"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1}, {"relative_step": False, "scale_parameter": False}],
    "Lion": [{"lr": 0.1, "weight_decay": 0.1}],
    "LAMB": [{"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.1, "adapt": False}],
    "LARS": [{"lr": 0.5, "trust_coefficient": 0.1, "nesterov": True, "weight_decay": 0.1}],
    "Muon": [{"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}, {"lr": 0.1, "nesterov": False}],
    "LBFGS": [{"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 2}, {"lr": 0.1, "max_iter": 2}],
}
CASES = [(kind, options) for kind in KINDS for options in [{}, *SETTINGS.get(kind.__name__, [])]]
FEW = settings(max_examples=settings().max_examples // 5)  # of every one of the cases


def takes_closure(kind: Any) -> bool:
    return issubclass(kind, optim.LBFGS)


def each_of(cases: list[tuple[Any, Options]]) -> Any:
    ids = [f"{kind.__name__}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for kind, options in cases]
    return pytest.mark.parametrize(("kind", "options"), cases, ids=ids)


each = each_of(CASES)
each_without_closure = each_of([(kind, options) for kind, options in CASES if not takes_closure(kind)])
each_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
seeds = st.integers(0, 2**32 - 1)
MATRICES = {"Muon"}  # take these alone
SHAPES = [(3, 4), (5, 2), (1, 1), (), (1,), (7,), (2, 3, 2, 2)]
# Rows that rest take the step of a gradient of 0 with these, so that a sparse step is the full one.
RESTING = {"SGD": {"lr": 0.1}, "Adagrad": {"lr": 0.1, "initial_accumulator_value": 0.1}, "LBFGS": {"max_iter": 3}}


class Problem:
    """A quadratic for each parameter, with noise in its gradient: another one in every step, none for closures."""

    def __init__(self, kind: Any, seed: int = 0, dtype: Any = np.float64) -> None:
        rng = np.random.default_rng(seed)
        self.shapes = SHAPES[:3] if kind.__name__ in MATRICES else SHAPES
        self.seed, self.dtype, self.noise = seed, dtype, 0.0 if takes_closure(kind) else 0.3

        def drawn(draw: Callable[[Any], Any]) -> list[Array]:  # the same numbers in both dtypes
            return [np.asarray(draw(shape), np.float32).astype(dtype) for shape in self.shapes]

        self.starts = drawn(lambda shape: rng.normal(size=shape))
        self.centres = drawn(lambda shape: rng.normal(size=shape))
        self.curvatures = drawn(lambda shape: rng.uniform(0.5, 1.5, shape))

    def params(self) -> list[mg.Tensor]:
        return [nn.Parameter(x) for x in self.starts]

    def loss(self, params: Sequence[mg.Tensor]) -> float:
        terms = zip(params, self.centres, self.curvatures, strict=True)
        return float(sum(0.5 * np.sum(a * (p.detach().numpy() - b) ** 2) for p, b, a in terms))

    def gradients(self, params: Sequence[mg.Tensor], t: int) -> list[Array]:
        rng = np.random.default_rng([self.seed, t])
        made = []
        for p, b, a in zip(params, self.centres, self.curvatures, strict=True):
            noise = rng.normal(size=b.shape).astype(np.float32).astype(self.dtype)
            made.append(np.asarray(a * (p.detach().numpy() - b) + self.dtype(self.noise) * noise, self.dtype))
        return made

    def train(
        self,
        optimizer: optim.Optimizer,
        params: Sequence[mg.Tensor],
        steps: range,
        change: Callable[[Array], Array] = lambda g: g,
        skipped: int | None = None,
    ) -> list[Array]:
        """Steps of an optimizer of these parameters; their values at the end."""
        for t in steps:

            def closure(t: int = t) -> float:
                for i, (p, g) in enumerate(zip(params, self.gradients(params, t), strict=True)):
                    p.grad = None if i == skipped else mg.asarray(change(g))
                return self.loss(params)

            if takes_closure(type(optimizer)):
                optimizer.step(closure)  # type: ignore[call-arg]
            else:
                closure()
                optimizer.step()
        return [p.detach().numpy().copy() for p in params]


def run(kind: Any, options: Options, problem: Problem, steps: int = 6, **how: Any) -> list[Array]:
    params = problem.params()
    return problem.train(kind(params, **options), params, range(steps), **how)


def assert_same(found: list[Array], expected: list[Array]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def plain(state: Any) -> Any:
    """What JSON and a file of arrays make of a state."""
    tensors: dict[str, Array] = {}

    def strip(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: strip(v, f"{path}/{key}") for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [strip(v, f"{path}/{i}") for i, v in enumerate(value)]
        if hasattr(value, "dtype"):
            tensors[path] = value.numpy().copy()
            return {"file": path}
        return value

    text = json.dumps(strip(state, ""), allow_nan=False)
    return json.loads(text, object_hook=lambda d: tensors[d["file"]] if d.keys() == {"file"} else d)


# --- state ------------------------------------------------------------------------------------------------------------


@each
@FEW
@given(seed=seeds, cut=st.integers(0, 7), named=st.booleans())
def test_a_run_that_is_resumed_is_the_uninterrupted_one(
    kind: Any, options: Options, seed: int, cut: int, named: bool
) -> None:
    """Bit for bit, through JSON, into an optimizer made with the defaults."""
    problem = Problem(kind, seed, np.float32)

    def entries(params: list[mg.Tensor]) -> list[Any]:
        return [(f"p{i}", p) for i, p in enumerate(params)] if named else params

    whole = problem.params()
    optimizer = kind(entries(whole), **options)
    problem.train(optimizer, whole, range(cut))
    saved = plain(optimizer.state_dict())
    parts = [nn.Parameter(p.detach()) for p in whole]
    expected = problem.train(optimizer, whole, range(cut, 8))  # the snapshot is on its own
    resumed = kind(entries(parts))
    resumed.load_state_dict(saved)
    assert_same(problem.train(resumed, parts, range(cut, 8)), expected)
    assert str(plain(resumed.state_dict())) == str(plain(optimizer.state_dict()))


@each
def test_hyperparameters_survive_json(kind: Any, options: Options) -> None:
    made = kind(Problem(kind).params(), **options)
    saved = plain(made.state_dict())
    other = kind(Problem(kind).params())
    other.load_state_dict(saved)
    (group,), (expected,) = other.param_groups, made.param_groups
    for key in made.defaults:
        assert group[key] == expected[key]
        assert type(group[key]) is type(expected[key])
    assert saved["optimizer"] == kind.__name__


@each
def test_a_state_that_does_not_fit_changes_nothing(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    params = problem.params()
    optimizer = kind(params, **options)
    problem.train(optimizer, params, range(2))
    saved = optimizer.state_dict()
    before = str(plain(saved))
    for change in (
        lambda s: s.update(optimizer="Other"),
        lambda s: s.update(more=1),
        lambda s: s["param_groups"][0].pop("lr"),
        lambda s: s["param_groups"][0].update(lr=-1.0),
        lambda s: s["param_groups"][0]["params"].pop(),
        lambda s: s["state"].update(unknown={}),
    ):
        broken = copy.deepcopy(saved)
        change(broken)
        with pytest.raises(ValueError, match=kind.__name__):
            optimizer.load_state_dict(broken)
        assert str(plain(optimizer.state_dict())) == before
    with pytest.raises(TypeError, match="what state_dict gives"):
        optimizer.load_state_dict(None)


@pytest.mark.parametrize(
    ("name", "switched"),
    [
        ("RMSprop", {"momentum": (0.0, 0.9), "centered": (False, True)}),
        ("RMSprop", {"momentum": (0.0, 0.9)}),
        ("Adafactor", {"beta1": (None, 0.9)}),
    ],
)
def test_what_is_switched_on_and_off_between_steps(name: str, switched: dict[str, tuple[Any, Any]]) -> None:
    """The state is always that of the group as it is, and so can be loaded."""
    kind = getattr(optim, name)
    problem = Problem(kind)
    params = problem.params()
    optimizer = kind(params)
    (group,) = optimizer.param_groups
    for t, on in enumerate((0, 1, 1, 0, 1)):
        group.update({key: values[on] for key, values in switched.items()})
        problem.train(optimizer, params, range(t, t + 1))
        assert set(optimizer.state[params[0]]) == set(optimizer.init(params[0]._array, group))
        kind(params).load_state_dict(plain(optimizer.state_dict()))


# --- steps ------------------------------------------------------------------------------------------------------------


@each
@FEW
@given(seed=seeds)
def test_the_order_of_parameters_does_not_matter(kind: Any, options: Options, seed: int) -> None:
    problem = Problem(kind, seed)
    params = problem.params()
    found = problem.train(kind(params[::-1], **options), params, range(6))
    expected = run(kind, options, problem)
    if not takes_closure(kind):
        return assert_same(found, expected)
    for a, b in zip(found, expected, strict=True):  # all are one vector, whose products are summed up in order
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@each
def test_a_parameter_without_a_gradient_stays(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    params = problem.params()
    optimizer = kind(params, **options)
    found = problem.train(optimizer, params, range(4), skipped=1)
    assert_same(found[1:2], problem.starts[1:2])
    assert params[1] not in optimizer.state
    assert not any(np.array_equal(x, start) for x, start in zip(found[::2], problem.starts[::2], strict=True))


@each
def test_steps_write_into_the_memory_of_the_parameters_and_leave_gradients_alone(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    params = problem.params()
    memory, given_arrays = [p._array for p in params], []

    def keep(g: Array) -> Array:
        given_arrays.append((g, g.copy()))
        return g

    problem.train(kind(params, **options), params, range(3), keep)
    assert all(p._array is a and p.is_leaf for p, a in zip(params, memory, strict=True))
    assert given_arrays
    for g, kept in given_arrays:
        np.testing.assert_array_equal(g, kept)


def strided(a: Array) -> Array:
    """The same values, every second element of memory."""
    return np.repeat(a[..., np.newaxis], 2, axis=-1)[..., 0]


@each
@pytest.mark.parametrize("layout", [strided, np.asfortranarray], ids=["strided", "fortran"])
def test_any_order_in_memory(kind: Any, options: Options, layout: Callable[[Array], Array]) -> None:
    problem = Problem(kind)
    expected = run(kind, options, problem)
    for of_params, of_gradients in ((layout, layout), (layout, np.ascontiguousarray), (np.array, layout)):
        params = problem.params()
        for p in params:
            p._array = np.asarray(of_params(p._array))
        found = problem.train(
            kind(params, **options), params, range(6), lambda g, of=of_gradients: np.asarray(of(g)).reshape(g.shape)
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@each
@FEW
@given(seed=seeds)
def test_float32_is_float64_to_its_digits(kind: Any, options: Options, seed: int) -> None:
    wide = run(kind, options, Problem(kind, seed))
    narrow = run(kind, options, Problem(kind, seed, np.float32))
    for a, b in zip(narrow, wide, strict=True):
        assert (a.dtype, b.dtype) == (np.float32, np.float64)
        scale = max(1.0, abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * scale)


@each_without_closure
def test_ascending_is_descending_the_negative(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    assert_same(run(kind, options | {"maximize": True}, problem, change=np.negative), run(kind, options, problem))


@each
def test_a_learning_rate_of_0_changes_nothing(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    assert_same(run(kind, options | {"lr": 0.0}, problem), problem.starts)


@each_without_closure
def test_one_update_is_a_step(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    expected = run(kind, options, problem, steps=1)
    params = problem.params()
    optimizer = kind(params, **options)
    (group,) = optimizer.param_groups
    for p, g, x in zip(params, problem.gradients(params, 0), expected, strict=True):
        optimizer.update(p._array, g, optimizer.init(p._array, group), group)
        np.testing.assert_array_equal(p._array, x)


@each
def test_groups_are_optimizers_of_their_own(kind: Any, options: Options) -> None:
    problem = Problem(kind)
    params = problem.params()
    groups = [{"params": params[:2], "lr": 0.01}, {"params": params[2:]}]
    if takes_closure(kind):
        with pytest.raises(ValueError, match="the second one, needs one group"):
            kind(groups, **options)
        return
    found = problem.train(kind(groups, **options), params, range(6))
    slow = run(kind, options | {"lr": 0.01}, problem)
    assert_same(found, slow[:2] + run(kind, options, problem)[2:])


@each_kind
def test_a_graph_that_saved_the_old_values_finds_out(kind: Any) -> None:
    problem = Problem(kind)
    params = problem.params()
    late = (params[0] * params[0]).sum()
    problem.train(kind(params), params, range(1))
    with pytest.raises(GradError, match=rf"was changed in place at {kind.__name__}\.step"):
        late.backward()


@each_kind
def test_an_optimizer_made_before_the_first_batch(kind: Any) -> None:
    mg.random.seed(0)
    layer = nn.Dense(3, bias=False)
    optimizer = kind(layer.parameters())
    step = (lambda: optimizer.step(lambda: 0.0)) if takes_closure(kind) else optimizer.step
    with pytest.raises(ShapeError, match=rf"{kind.__name__}.step: parameter 0 is uninitialized"):
        step()

    def closure() -> mg.Tensor:
        optimizer.zero_grad()
        loss = (layer(mg.ones((2, 4))) ** 2).sum()
        loss.backward()
        return loss

    first = closure()
    _ = optimizer.step(closure) if takes_closure(kind) else optimizer.step()
    assert closure().item() < first.item()


@each
def test_parameters_without_elements(kind: Any, options: Options) -> None:
    full, empty = nn.Parameter(mg.ones((2, 2))), nn.Parameter(mg.zeros((3, 0)))

    def closure() -> float:
        full.grad, empty.grad = mg.ones((2, 2)), mg.zeros((3, 0))
        return float(full.detach().numpy().sum())

    closure()
    optimizer = kind([full, empty], **options)
    _ = optimizer.step(closure) if takes_closure(kind) else optimizer.step()
    assert (full.detach().numpy() < 1).all()
    optimizer.load_state_dict(plain(optimizer.state_dict()))


# --- hyperparameters --------------------------------------------------------------------------------------------------


@each_kind
def test_numbers_out_of_range_are_refused(kind: Any) -> None:
    """No hyperparameter that is a number takes NaN, a text or a bool, none infinity; and none of `lr` is negative."""
    defaults = kind([nn.Parameter(mg.ones((1, 1)))]).defaults
    bad: list[Options] = [{"lr": -0.1}, {"lr": None}]
    for key, value in defaults.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            bad += [{key: wrong} for wrong in (math.nan, math.inf, "fast", True)]
        elif isinstance(value, tuple):
            bad += [{key: value[:-1]}, {key: 0.5}, {key: "ab"}]
            bad += [{key: (*value[:i], wrong, *value[i + 1 :])} for i in range(len(value)) for wrong in (math.nan, "x")]
    for options in bad:
        (key,) = options
        with pytest.raises(ValueError, match=f"{kind.__name__}: {key} is "):
            kind([nn.Parameter(mg.ones((1, 1)))], **options)
        optimizer = kind([nn.Parameter(mg.ones((1, 1)))])
        state = optimizer.state_dict()
        state["param_groups"][0].update(options)
        with pytest.raises(ValueError, match=f"{kind.__name__}: {key} is "):
            optimizer.load_state_dict(state)


BAD: list[tuple[str, Options]] = [
    ("NAdam", {"momentum_decay": -1.0}), ("NAdam", {"betas": (0.9, 1.0)}), ("RAdam", {"eps": -1.0}),
    ("RMSprop", {"alpha": 1.0}), ("RMSprop", {"momentum": -0.1}), ("Adagrad", {"initial_accumulator_value": -1.0}),
    ("Adagrad", {"lr_decay": -1.0}), ("Adadelta", {"rho": 1.0}), ("Adadelta", {"eps": -1.0}),
    ("Adafactor", {"d": 0.5}), ("Adafactor", {"beta2_decay": 0.1}), ("Adafactor", {"eps": (-1.0, 0.1)}),
    ("Adafactor", {"eps": (0.1, None)}), ("Adafactor", {"beta1": 1.0}), ("Lion", {"betas": (-0.1, 0.9)}),
    ("Lion", {"weight_decay": -1.0}), ("LAMB", {"betas": (1.0, 0.9)}), ("LARS", {"trust_coefficient": -1.0}),
    ("Muon", {"momentum": 1.0}), ("Muon", {"ns_steps": 100}), ("Muon", {"ns_steps": 2.0}),
    ("Muon", {"adjust_lr_fn": "none"}), ("Muon", {"ns_coefficients": (1.0, 2.0, math.inf)}),
    ("LBFGS", {"max_iter": -1}), ("LBFGS", {"max_iter": 1.5}), ("LBFGS", {"line_search_fn": "armijo"}),
    ("LBFGS", {"history_size": -1}), ("LBFGS", {"tolerance_grad": -1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), BAD, ids=[f"{name}-{options}" for name, options in BAD])
def test_refused(name: str, options: Options) -> None:
    (key,) = options
    with pytest.raises(ValueError, match=f"{name}: {key} is .*, needs "):
        getattr(optim, name)([nn.Parameter(mg.ones((1, 1)))], **options)


def test_muon_takes_matrices_alone() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Dense(1)])
    with pytest.raises(ShapeError, match=r"Muon: parameter '0.bias' is of shape \(3,\), needs a matrix.*optim.AdamW"):
        optim.Muon(model.named_parameters())
    optimizer = optim.Muon([p for p in model.parameters() if p.ndim == 2])
    with pytest.raises(ShapeError, match="parameter 0 is of shape"):
        optimizer.add_param_group({"params": nn.Parameter(mg.ones((2, 2, 2)))})
    assert len(optimizer.param_groups) == 1


def test_numbers_of_numpy_are_numbers() -> None:
    """They reach the kernels and the state as Python's."""
    for kind in KINDS:
        p = nn.Parameter(mg.ones((2, 2)))
        numbers = {k: np.float64(v) for k, v in kind([p]).defaults.items() if type(v) is float}
        optimizer = kind([p], **numbers)
        p.grad = mg.ones((2, 2))
        _ = optimizer.step(lambda: 0.0) if takes_closure(kind) else optimizer.step()
        assert p.dtype == mg.float32
        json.dumps(optimizer.state_dict()["param_groups"])


# --- rows -------------------------------------------------------------------------------------------------------------


def table(rows: Array) -> mg.Tensor:
    return mg.tensor(rows, requires_grad=True)


def look_up(weight: mg.Tensor, ids: Array, step: int, sparse: bool) -> mg.Tensor:
    """A loss of some rows of a table, backpropagated."""
    g = np.random.default_rng(step).normal(size=(len(ids), 2))
    loss = (F.embedding(ids, weight, sparse=sparse) * mg.asarray(g)).sum()
    loss.backward()
    return loss


@each
def test_a_sparse_step_is_that_of_a_table_of_the_used_rows(kind: Any, options: Options) -> None:
    start, used = np.random.default_rng(0).normal(size=(9, 2)), np.array([5, 0, 3])
    wide, narrow = table(start), table(start[used])
    mine, twin = kind([wide], **options), kind([narrow], **options)
    if not kind.by_row:
        if not takes_closure(kind):
            look_up(wide, used, 0, True)
            with pytest.raises(GradError, match=rf"{kind.__name__}: the gradient of parameter 0 is row-sparse"):
                mine.step()
            np.testing.assert_array_equal(wide.detach().numpy(), start)
        return
    for step in range(7):
        ids = np.array([0, 1, 2, 2, 1])
        for optimizer in (mine, twin):
            optimizer.zero_grad()
        look_up(wide, used[ids], step, True)
        look_up(narrow, ids, step, False)
        assert wide._grad is not None
        assert type(wide._grad._array) is RowSparse
        mine.step()
        twin.step()
    after = wide.detach().numpy()
    np.testing.assert_allclose(after[used], narrow.detach().numpy(), rtol=1e-12)
    unused = [1, 2, 4, 6, 7, 8]
    np.testing.assert_array_equal(after[unused], start[unused])
    fresh = mine.init(start, mine.param_groups[0])
    for name, value in twin.state[narrow].items():
        found = mine.state[wide][name]
        if hasattr(value, "shape"):
            np.testing.assert_allclose(found[used], value, rtol=1e-12, atol=1e-15)
            np.testing.assert_array_equal(found[unused], fresh[name][unused])
        else:
            assert found == value


@each
def test_a_rule_that_takes_rows_works_element_by_element(kind: Any, options: Options) -> None:
    """Columns of a matrix as parameters of their own take the same steps; else it must not say `by_row`."""
    if not kind.by_row:
        return
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(8, 3, 4))
    whole, parts = nn.Parameter(start), [nn.Parameter(column) for column in start.T]
    for params, optimizer in (([whole], kind([whole], **options)), (parts, kind(parts, **options))):
        for g in gradients:
            for p, part in zip(params, [g] if len(params) == 1 else g.T, strict=True):
                p.grad = mg.asarray(np.ascontiguousarray(part))
            optimizer.step()
    np.testing.assert_allclose(whole.detach().numpy().T, [p.detach().numpy() for p in parts], rtol=1e-12)


@pytest.mark.parametrize("name", RESTING)
def test_a_sparse_step_is_the_full_one_where_rows_without_a_gradient_rest(name: str) -> None:
    start = np.random.default_rng(0).normal(size=(9, 2))

    def trained(sparse: bool) -> Array:
        weight = table(start)
        optimizer = getattr(optim, name)([weight], **RESTING[name])
        for step in range(6):
            ids = np.random.default_rng(step).integers(0, 9, 4)

            def closure(ids: Array = ids, step: int = step) -> mg.Tensor:
                optimizer.zero_grad()
                return look_up(weight, ids, step, sparse)

            if takes_closure(type(optimizer)):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        return weight.detach().numpy()

    found = trained(sparse=True)
    np.testing.assert_allclose(found, trained(sparse=False), rtol=1e-12)
    assert not np.array_equal(found, start)


# --- convergence, and names -------------------------------------------------------------------------------------------

QUICK: dict[str, Options] = {
    "SGD": {"lr": 0.3}, "Adadelta": {"eps": 1e-2}, "Adafactor": {"lr": 0.3, "relative_step": False, "beta1": 0.5},
    "Adagrad": {"lr": 1.0}, "LBFGS": {}, "LARS": {"lr": 1.0, "trust_coefficient": 0.05, "momentum": 0.5},
    "Muon": {"lr": 0.05, "weight_decay": 0.0}, "Lion": {"lr": 0.02}, "LAMB": {"lr": 0.03},
}  # fmt: skip


@each_kind
def test_a_quadratic_is_solved(kind: Any) -> None:
    problem = Problem(kind)
    problem.noise = 0.0
    params = problem.params()
    first = problem.loss(params)
    options = QUICK.get(kind.__name__, {"lr": 0.1, "weight_decay": 0.0})
    problem.train(kind(params, **options), params, range(300))
    assert problem.loss(params) < 1e-2 * first


# RAdam's first steps are those of momentum, and the slope is steep; LAMB's and LARS's are short near the origin.
STEEP: dict[str, Options] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9}, "RAdam": {"lr": 4e-3}, "Adadelta": {}, "Adagrad": {"lr": 0.5},
    "Adafactor": {"lr": 0.05, "relative_step": False}, "Lion": {"lr": 0.005}, "LAMB": {"lr": 0.01},
    "LARS": {"lr": 0.05, "trust_coefficient": 0.1}, "Muon": {"lr": 0.01}, "LBFGS": {"line_search_fn": "strong_wolfe"},
}  # fmt: skip


@each_kind
def test_the_valley_of_rosenbrock_is_found(kind: Any) -> None:
    """From 24.2 to less than a tenth; test_lbfgs.py goes to the bottom."""
    p = nn.Parameter(np.array([[-1.2, 1.0]]))
    optimizer = kind([p], **STEEP.get(kind.__name__, {"lr": 0.02, "weight_decay": 0.0}))

    def closure() -> float:
        x, y = p.detach().numpy()[0]
        p.grad = mg.asarray(np.array([[2 * (x - 1) - 400 * x * (y - x * x), 200 * (y - x * x)]]))
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2)

    assert closure() == pytest.approx(24.2)
    for _ in range(5 if takes_closure(kind) else 1000):
        closure()
        _ = optimizer.step(closure) if takes_closure(kind) else optimizer.step()
    assert closure() < 2.42


@each_kind
def test_names(kind: Any) -> None:
    p = nn.Parameter(mg.ones((1, 1)))
    for name in (kind.__name__, kind.__name__.lower(), kind.__name__.upper(), kind):
        made = optim.get(name, [p], lr=0.5)
        assert type(made) is kind
        assert made.param_groups[0]["lr"] == 0.5


def test_names_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"optim.get: name is 'adm', needs one of .*adamw.*lbfgs.* Is it 'adam'\?"):
        optim.get("adm", [])
    with pytest.raises(ValueError, match=r"'nothing', needs one of sgd, adam, "):
        optim.get("nothing", [])
    for wrong in (None, 3, nn.Module, optim.SGD([nn.Parameter([1.0])])):
        with pytest.raises(TypeError, match=r"optim.get: name is .*, needs the name or the class of an optimizer"):
            optim.get(wrong, [])  # type: ignore[arg-type]


def test_the_walk_finds_them() -> None:
    assert {kind.__name__ for kind in KINDS} >= {"SGD", "Adam", "Lion", "LBFGS"}
    assert set(SETTINGS) <= {kind.__name__ for kind in KINDS}


# --- the table of docs/optimizers.md ----------------------------------------------------------------------------------

TABLE = Path(__file__).resolve().parent.parent / "docs" / "optimizers.md"


def test_the_table_of_the_documents_is_true() -> None:
    """Who is in it, the bytes of the defaults' state, who takes rows, and whose kernel there is."""
    rows = {
        name: [cell.strip() for cell in rest.split("|")]
        for name, rest in re.findall(r"^\| `(\w+)` \|(.*)\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(rows) == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        _, size, sparse, kernel, _ = rows[kind.__name__]
        assert sparse.startswith("yes") == kind.by_row
        p = nn.Parameter(mg.zeros((1000, 1000)))
        p.grad = mg.zeros((1000, 1000))
        if not takes_closure(kind):
            optimizer = kind([p])
            with variants.watched() as calls:
                for _ in range(7):  # RAdam's kernel waits for the rectified steps
                    optimizer.step()
            assert (kernel == "yes") == any(took for _, took in calls)
            held = sum(v.nbytes for v in optimizer.state[p].values() if hasattr(v, "nbytes"))
            expected = "4 a row and a column" if 0 < held < p.size else str(held // p.size)
            assert re.match(rf"{expected}\b", size), (kind, held)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_amsgrad_may_be_switched(name, sparse):
    """From then on the step is that of an optimizer that had it always, if the maximum is the same."""
    found = []
    for early in (True, False):
        w = nn.Parameter(np.ones((3, 2)))
        optimizer = getattr(optim, name)([w], lr=0.1, amsgrad=early)
        for step, size in enumerate((1.0, 2.0, 0.5)):
            if step == 1:  # the first second moment is the smaller one
                optimizer.param_groups[0]["amsgrad"] = True
            ids = mg.asarray(np.arange(3))
            loss = F.embedding(ids, w, sparse=True).sum() if sparse else w.sum()
            optimizer.zero_grad()
            (loss * size).backward()
            optimizer.step()
        found.append(w.tolist())
    assert found[0] == found[1]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["amsgrad"] = False
    optimizer.step()
    assert sorted(optimizer.state[w]) == ["exp_avg", "exp_avg_sq", "step"]
    optimizer.load_state_dict(optimizer.state_dict())


BROKEN = {
    "groups": (lambda s: s.update(param_groups=None), "param_groups is None, needs a list"),
    "group": (lambda s: s["param_groups"].__setitem__(0, 3), "group 0 is 3, needs a dict"),
    "keys": (lambda s: s["param_groups"][0].update(params=None), "parameters of group 0 is None, needs a list"),
    "state": (lambda s: s.update(state=[1]), r"state is \[1\], needs a dict"),
    "one": (lambda s: s["state"].update({"0": None}), "state of parameter '0' is None, needs a dict"),
    "text": (lambda s: s["state"]["0"].update(step="x"), "step of parameter '0' is 'x', needs what state_dict gives"),
    "none": (lambda s: s["state"]["0"].update(exp_avg=None), "exp_avg of parameter '0' is None, needs what state_dict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_state_is_refused_by_its_place(name):
    w = nn.Parameter([1.0])
    optimizer = optim.Adam([w])
    w.sum().backward()
    optimizer.step()
    before = str(optimizer.state_dict())
    state = optimizer.state_dict()
    spoil, text = BROKEN[name]
    spoil(state)
    with pytest.raises((TypeError, ValueError), match=rf"Adam\.load_state_dict: {text}"):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not takes_closure(kind)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38])
def test_gradients_of_any_value_make_no_warning(kind, value):
    w = nn.Parameter(np.ones((3, 2), np.float32))
    optimizer = kind([w], lr=0.1)
    for _ in range(2):
        w.grad = mg.asarray(np.array([[value, 1.0], [0.0, 2.0], [-1.0, 3.0]], np.float32))
        optimizer.step()


GROUPS = {
    "none": (lambda: None, "group is None, needs a dict with 'params'"),
    "bare": (
        lambda: nn.Parameter([2.0]),
        r"group is float32 \(1,\), needs a dict with .params.",
    ),
    "no list": (lambda: {"params": 5}, "'params' of a group is 5, needs an iterable of parameters"),
    "model": (lambda: {"params": nn.Dense(2)}, r"'params' of a group is a Dense.* Pass model.parameters\(\)"),
    "dict": (lambda: {"params": {"a": nn.Parameter([1.0])}}, "'params' of a group is a dict"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_no_group_is_refused(name):
    make, text = GROUPS[name]
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.1)
    with pytest.raises(TypeError, match=f"SGD: {text}"):
        optimizer.add_param_group(make())
    with pytest.raises(TypeError, match=f"SGD: {text}"):
        optim.SGD([{"params": [nn.Parameter([1.0])]}, make()], lr=0.1)
    assert len(optimizer.param_groups) == 1

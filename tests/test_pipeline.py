"""The step as one pipeline: its laws for every combination of its stages, and that breaking one is found."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend.rows import RowSparse
from minigrad.errors import ShapeError
from minigrad.nn import functional as F
from minigrad.optim.stages import Stages

try:
    from minigrad.amp import GradScaler
except ImportError:  # the same four methods, for the laws of the step

    class GradScaler:  # type: ignore[no-redef]
        def __init__(self, init_scale: float = 65536.0) -> None:
            self.value, self.found, self.finite = init_scale, False, True

        def scale(self, loss: mg.Tensor) -> mg.Tensor:
            return loss * self.value

        def unscale_(self, optimizer: optim.Optimizer) -> None:
            self.found, self.finite = True, optim.unscale_(optimizer, 1.0 / self.value)

        def step(self, optimizer: optim.Optimizer) -> bool:
            if not self.found:
                self.unscale_(optimizer)
            if self.finite:
                optimizer.step()
            return self.finite

        def update(self) -> None:
            self.value *= 1.0 if self.finite else 0.5
            self.found = False

        def get_scale(self) -> float:
            return self.value


Array = np.ndarray[Any, Any]
TOKENS, ROWS, FEATURES, UNITS = 16, 7, 4, 3
STEPS = 4
RULES: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda params: optim.SGD(params, lr=0.25),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda params: optim.Adam(params, lr=0.05, weight_decay=0.1),
    "adamw": lambda params: optim.AdamW(params, lr=0.05, weight_decay=0.2),
}
REGULARIZERS = {
    "none": None,
    "l1": nn.L1(0.03),
    "l2": nn.L2(0.05),
    "l1_l2": nn.L1L2(0.02, 0.04),
    "proximal": nn.ProximalL1(0.1),
}
CONSTRAINTS = {"none": None, "max_norm": nn.MaxNorm(1.0, axis=-1), "non_negative": nn.NonNegative()}
HALF = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is drawn: one way to put the stages together, and data."""

    rule: str = "sgd"
    regularizer: str = "none"
    constraint: str = "none"
    clip: float | None = None
    masked: bool = False
    sparse: bool = False
    dtype: str = "float32"
    seed: int = 0


def cases(**fixed: Any) -> st.SearchStrategy[Case]:
    drawn: dict[str, Any] = {
        "rule": st.sampled_from(sorted(RULES)),
        "regularizer": st.sampled_from(sorted(REGULARIZERS)),
        "constraint": st.sampled_from(sorted(CONSTRAINTS)),
        "clip": st.sampled_from([None, 0.05, 1e6]),
        "masked": st.booleans(),
        "sparse": st.booleans(),
        "dtype": st.sampled_from(["float32", "float64", *HALF]),
        "seed": st.integers(0, 10**6),
    }
    return st.builds(Case, **{name: fixed.get(name, draw) for name, draw in drawn.items()})


class Run:
    """A small model and its optimizer; `step` is one step of a pipeline on the tokens of that step."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(case.seed)
        self.case = case
        dtype = mg.dtypes.as_dtype(case.dtype)
        shapes = {"table": (ROWS, FEATURES), "weight": (FEATURES, UNITS), "bias": (UNITS,)}
        self.params = {name: nn.Parameter(rng.normal(size=shape), dtype=dtype) for name, shape in shapes.items()}
        self.masks = {name: rng.random(shape) < 0.6 for name, shape in shapes.items()}
        for p in self.params.values():
            p.regularizer, p.constraint = REGULARIZERS[case.regularizer], CONSTRAINTS[case.constraint]
        self.optimizer = RULES[case.rule](self.params.items())
        self.ids = rng.integers(0, ROWS - 1, (STEPS, TOKENS))  # the last row is never used
        self.targets = rng.normal(size=(STEPS, TOKENS, UNITS)).astype(dtype if case.dtype not in HALF else np.float32)
        # of few digits: their sums in half are exact in any order and at any scale
        self.slopes = {
            name: (rng.integers(-4, 5, (STEPS, TOKENS, *shape[name == "table" :])) / 4).astype(dtype)
            for name, shape in shapes.items()
        }

    def loss(self, step: int, tokens: slice) -> mg.Tensor:
        """The sum over some tokens of a step, divided by how many the step has."""
        table, weight, bias = self.params.values()
        ids = self.ids[step, tokens]
        x = F.embedding(ids, table, sparse=self.case.sparse)  # type: ignore[arg-type]
        if self.case.dtype not in HALF:
            errors = mg.tanh(x @ weight + bias) - mg.asarray(self.targets[step, tokens])
            return (errors * errors).sum() / TOKENS
        total = mg.zeros(())
        for name, value in (("table", x), ("weight", weight), ("bias", bias)):
            total = total + (value * mg.asarray(self.slopes[name][step, tokens])).astype(mg.float32).sum()
        return total / TOKENS

    def backward(self, step: int, scaler: Any, cuts: tuple[int, ...] = ()) -> None:
        """Gradients of a scaled loss, accumulated over micro-batches that end at `cuts`."""
        self.optimizer.zero_grad()
        for start, stop in zip((0, *cuts), (*cuts, TOKENS), strict=True):
            loss = self.loss(step, slice(start, stop))
            (scaler.scale(loss) if scaler else loss).backward()

    def values(self) -> dict[str, Array]:
        """Every parameter and every array of the optimizer's state."""
        found = {name: p.detach().numpy() for name, p in self.params.items()}
        for name, p in self.params.items():
            state = self.optimizer.state.get(p, {})
            found |= {f"{name}.{key}": np.asarray(value) for key, value in state.items()}
        return found


Pipeline = Callable[[Run, Any], None]


def right(run: Run, scaler: Any) -> None:
    """What follows `backward`, as docs/training_step.md has it."""
    if scaler:
        scaler.unscale_(run.optimizer)
    if run.case.clip is not None:
        optim.clip_grad_norm_(run.params.values(), run.case.clip)
    if scaler:
        scaler.step(run.optimizer)
        scaler.update()
    else:
        run.optimizer.step()


def train(case: Case, scale: float | None = None, cuts: tuple[int, ...] = (), pipeline: Pipeline = right) -> Run:
    """A few steps; the mask comes after the first, so that the states have seen what it leaves out."""
    run = Run(case)
    scaler = GradScaler(init_scale=scale) if scale else None
    for step in range(STEPS):
        if case.masked and step == 1:
            for name, p in run.params.items():
                p.mask = run.masks[name]
        run.backward(step, scaler, cuts)
        pipeline(run, scaler)
    return run


def check_same(found: Run, expected: Run) -> None:
    """Bit for bit, states and master weights too."""
    ours, theirs = found.values(), expected.values()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert value.tobytes() == theirs[name].tobytes(), name


def check_scale(case: Case, power: int, pipeline: Pipeline = right) -> None:
    """A step with a loss scale is the step without."""
    check_same(train(case, 2.0**power, pipeline=pipeline), train(case))


def check_mask(case: Case, pipeline: Pipeline = right) -> None:
    """Whatever the state remembers, what the mask leaves out is 0; of a table in the rows that were used."""
    run = train(dataclasses.replace(case, masked=True), 1024.0, pipeline=pipeline)
    used = np.zeros((ROWS, 1), np.bool_)
    used[run.ids[1:]] = True
    for name, p in run.params.items():
        zeros = ~run.masks[name] & (used if name == "table" and case.sparse else True)
        assert not p.detach().numpy()[zeros].any(), name
        state = run.optimizer.state[p]
        if "master" in state:
            assert not state["master"][zeros].any(), name


# --- the laws ---------------------------------------------------------------------------------------------------------


@given(case=cases(), power=st.integers(0, 14))
def test_a_scaled_step_is_the_step(case: Case, power: int) -> None:
    check_scale(case, power)


cuts = st.sets(st.integers(1, TOKENS - 1), min_size=1, max_size=4).map(sorted).map(tuple)


@given(case=cases(dtype=st.just("float64")), cuts=cuts, power=st.sampled_from([None, 10]))
def test_accumulated_micro_batches_are_the_batch(case: Case, cuts: tuple[int, ...], power: int | None) -> None:
    """Each counts by its tokens. Sums in another order differ in the last digits, which few steps blow up little."""
    found, expected = train(case, power and 2.0**power, cuts), train(case)
    for name, p in found.params.items():
        theirs = expected.params[name].detach().numpy()
        np.testing.assert_allclose(p.detach().numpy(), theirs, rtol=1e-12, atol=1e-12 * abs(theirs).max())


@given(case=cases(dtype=st.sampled_from(HALF)), cuts=cuts, power=st.sampled_from([None, 10]))
def test_accumulated_micro_batches_of_halves_are_the_batch(
    case: Case, cuts: tuple[int, ...], power: int | None
) -> None:
    """Bit for bit: the gradients are drawn so that their sums are exact."""
    check_same(train(case, power and 2.0**power, cuts), train(case))


@given(case=cases())
def test_a_masked_weight_stays_zero(case: Case) -> None:
    check_mask(case)


@given(case=cases(dtype=st.sampled_from(HALF)), power=st.sampled_from([None, 8]))
def test_a_half_parameter_is_its_master_weight_rounded(case: Case, power: int | None) -> None:
    """And the master weights take the steps of a float32 parameter, whose gradients are these."""
    run = train(case, power and 2.0**power)
    for name, p in run.params.items():
        assert p.dtype == mg.dtypes.as_dtype(case.dtype)
        master = run.optimizer.state[p]["master"]
        assert master.dtype == np.float32
        assert np.array_equal(master.astype(p.dtype), p.detach().numpy()), name
    twin = Run(dataclasses.replace(case, dtype="float32"))
    for name, p in twin.params.items():
        p._array = Run(case).params[name].detach().numpy().astype(np.float32)
    for step in range(STEPS):
        if case.masked and step == 1:
            for name, p in twin.params.items():
                p.mask = twin.masks[name]
        twin.optimizer.zero_grad()
        table, weight, bias = twin.params.values()
        x = F.embedding(twin.ids[step], table, sparse=case.sparse)  # type: ignore[arg-type]
        for name, value in (("table", x), ("weight", weight), ("bias", bias)):
            ((value * mg.asarray(twin.slopes[name][step])).sum() / TOKENS).backward()
        right(twin, None)
    for name, p in twin.params.items():
        assert np.array_equal(run.optimizer.state[run.params[name]]["master"], p.detach().numpy()), name


# --- the order, from its formulas -------------------------------------------------------------------------------------


def by_formula(case: Case) -> dict[str, Array]:
    """The pipeline of docs/training_step.md in plain NumPy, float64, on full gradients."""
    run = Run(case)
    x = {name: p.detach().numpy().copy() for name, p in run.params.items()}
    m = {name: np.zeros_like(v) for name, v in x.items()}
    v = {name: np.zeros_like(v) for name, v in x.items()}
    regularizer = REGULARIZERS[case.regularizer]
    for step in range(STEPS):
        for name, p in run.params.items():
            p._array = x[name].copy()
        run.backward(step, None)
        g = {name: p.grad.numpy().copy() for name, p in run.params.items()}  # type: ignore[union-attr]
        if case.clip is not None:
            norm = math.sqrt(sum((one**2).sum() for one in g.values()))
            g = {name: one * min(1.0, case.clip / (norm + 1e-6)) for name, one in g.items()}
        for name in x:
            keep = run.masks[name] if case.masked and step else np.ones_like(x[name])
            l1 = getattr(regularizer, "l1", 0.0)
            if case.regularizer == "proximal":
                threshold = l1 * run.optimizer.param_groups[0]["lr"]
            else:
                g[name] = g[name] + l1 * np.sign(x[name]) + 2 * getattr(regularizer, "l2", 0.0) * x[name]
                threshold = 0.0
            g[name] = g[name] * keep
            if case.rule == "sgd":
                x[name] = x[name] - 0.25 * g[name]
            elif case.rule == "momentum":
                g[name] = g[name] + 0.1 * x[name]
                m[name] = 0.9 * m[name] + g[name]
                x[name] = x[name] - 0.1 * m[name]
            else:
                assert case.rule == "adamw"
                x[name] = x[name] * (1 - 0.05 * 0.2)
                m[name] = 0.9 * m[name] + 0.1 * g[name]
                v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
                mean, square = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
                x[name] = x[name] - 0.05 * mean / (np.sqrt(square) + 1e-8)
            x[name] = np.sign(x[name]) * np.maximum(abs(x[name]) - threshold, 0)
            if case.constraint == "non_negative":
                x[name] = np.maximum(x[name], 0)
            elif case.constraint == "max_norm":
                norms = np.sqrt((x[name] ** 2).sum(axis=-1, keepdims=True))
                x[name] = np.where(norms > 1.0, x[name] / np.where(norms > 1.0, norms, 1.0), x[name])
            x[name] = x[name] * keep
    return x


@given(
    case=cases(
        rule=st.sampled_from(["sgd", "momentum", "adamw"]), dtype=st.just("float64"), sparse=st.just(False)
    )
)  # fmt: skip
def test_a_step_is_its_formula(case: Case) -> None:
    found, expected = train(case, 64.0), by_formula(case)
    for name, p in found.params.items():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-11, atol=1e-12)


# --- planted faults ---------------------------------------------------------------------------------------------------


def penalty_before_unscaling(run: Run, scaler: Any) -> None:
    """Chainer's #7335: the penalty joins gradients that are still scaled, and shrinks with the scale."""
    for p in run.params.values():
        regularizer, p.regularizer = p.regularizer, None
        if regularizer is not None and p._grad is not None:
            p._grad = mg.asarray(np.asarray(p._grad._array) + regularizer.gradient(p._array))
    right(run, scaler)
    for p in run.params.values():
        p.regularizer = REGULARIZERS[run.case.regularizer]


def clip_before_unscaling(run: Run, scaler: Any) -> None:
    if run.case.clip is not None:
        optim.clip_grad_norm_(run.params.values(), run.case.clip)
    scaler.unscale_(run.optimizer)
    scaler.step(run.optimizer)
    scaler.update()


def never_unscaled(run: Run, scaler: Any) -> None:
    if run.case.clip is not None:
        optim.clip_grad_norm_(run.params.values(), run.case.clip)
    run.optimizer.step()


@contextlib.contextmanager
def masks_set_aside(run: Run) -> Iterator[None]:
    masks = {name: p.mask for name, p in run.params.items()}
    for p in run.params.values():
        p.mask = None
    yield
    for name, p in run.params.items():
        p.mask = masks[name]


def mask_on_the_gradient_alone(run: Run, scaler: Any) -> None:
    """The weight moves on by the momentum that it has."""
    for name, p in run.params.items():
        if p.mask is not None and p._grad is not None:
            p._grad = mg.asarray(np.asarray(p._grad._array) * run.masks[name].astype(p._grad.dtype))
    with masks_set_aside(run):
        right(run, scaler)


def mask_before_the_step_alone(run: Run, scaler: Any) -> None:
    """As pruning by an op in front of the step does: the step moves what was 0."""
    for p in run.params.values():
        if p.mask is not None:
            p._array *= p.mask
    with masks_set_aside(run):
        right(run, scaler)


def is_found(check: Callable[..., None], pipeline: Pipeline, **strategies: Any) -> bool:
    """Whether a law fails for a pipeline."""

    @settings(max_examples=50, database=None, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    @given(**strategies)
    def law(**drawn: Any) -> None:
        check(**drawn, pipeline=pipeline)

    try:
        law()
    except AssertionError:
        return True
    return False


POWERS = st.integers(0, 14)


@pytest.mark.parametrize("pipeline", [penalty_before_unscaling, clip_before_unscaling, never_unscaled])
def test_a_wrong_order_is_found(pipeline: Pipeline) -> None:
    assert is_found(check_scale, pipeline, case=cases(sparse=st.just(False)), power=POWERS)
    assert not is_found(check_scale, right, case=cases(sparse=st.just(False)), power=POWERS)


@pytest.mark.parametrize("pipeline", [mask_on_the_gradient_alone, mask_before_the_step_alone])
def test_a_forgotten_mask_is_found(pipeline: Pipeline) -> None:
    assert is_found(check_mask, pipeline, case=cases())
    assert not is_found(check_mask, right, case=cases())


def test_a_stage_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by the step itself: without what follows the rule, without what comes before it."""
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "finish", lambda self: None)
        assert is_found(check_mask, right, case=cases())
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_penalize", lambda self, ascends: None)
        case = Case(rule="sgd", regularizer="l2", dtype="float64")
        found, expected = train(case), by_formula(case)
        assert abs(found.params["weight"].detach().numpy() - expected["weight"]).max() > 1e-3


# --- overflow ---------------------------------------------------------------------------------------------------------

BAD = st.sampled_from([math.inf, -math.inf, math.nan])
NAMES = st.sampled_from(["table", "weight", "bias"])


def check_overflow(case: Case, name: str, value: float, pipeline: Pipeline = right) -> None:
    """One element that is not finite, and neither a parameter nor a state moves; the next step goes on."""
    run, scaler = Run(case), GradScaler(init_scale=256.0)
    run.backward(0, scaler)
    right(run, scaler)
    before = {key: array.copy() for key, array in run.values().items()}
    run.backward(1, scaler)
    array = run.params[name]._grad._array  # type: ignore[union-attr]
    values = array.values if type(array) is RowSparse else array
    values[(0,) * values.ndim] = value
    pipeline(run, scaler)
    after = run.values()
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[key], before[key]) for key in before)
    assert scaler.get_scale() == 128.0
    run.backward(2, scaler)
    right(run, scaler)
    assert any(not np.array_equal(run.values()[key], before[key]) for key in before)


@given(case=cases(), name=NAMES, value=BAD)
def test_an_overflow_in_one_parameter_skips_all(case: Case, name: str, value: float) -> None:
    check_overflow(case, name, value)


def skip_it_alone(run: Run, scaler: Any) -> None:
    """Leave out the parameters whose gradients are not finite, and step with the others."""
    for p in run.params.values():
        if p._grad is not None and not np.isfinite(np.asarray(p._grad._array)).all():
            p._grad = None
    scaler.unscale_(run.optimizer)
    scaler.step(run.optimizer)


def step_all_the_same(run: Run, scaler: Any) -> None:
    scaler.unscale_(run.optimizer)
    run.optimizer.step()
    scaler.update()


@pytest.mark.parametrize("pipeline", [skip_it_alone, step_all_the_same])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_step_after_an_overflow_is_found(pipeline: Pipeline) -> None:
    assert is_found(check_overflow, pipeline, case=cases(), name=NAMES, value=BAD)


def test_the_scaler_says_whether_it_stepped() -> None:
    run, scaler = Run(Case()), GradScaler(init_scale=4.0)
    run.backward(0, scaler)
    assert scaler.step(run.optimizer) is True
    scaler.update()
    run.backward(1, scaler)
    run.params["bias"].grad = mg.full((UNITS,), math.inf)
    assert scaler.step(run.optimizer) is False


@pytest.mark.parametrize("sparse", [False, True])
def test_a_constraint_may_give_new_values(sparse):
    found = []
    for constraint in (lambda x: np.clip(x, -0.5, 0.5, out=x), lambda x: np.clip(x, -0.5, 0.5), lambda x: None):
        w = nn.Parameter([[1.0, 0.25], [-2.0, 0.125]])
        w.constraint = constraint
        F.embedding(mg.asarray([0, 1]), w, sparse=sparse).sum().backward()
        optim.SGD([w], lr=0.0).step()
        found.append(w.tolist())
    assert found[0] == found[1] == [[0.5, 0.25], [-0.5, 0.125]]
    assert found[2] == [[1.0, 0.25], [-2.0, 0.125]]


ATTRIBUTES = {
    "regularizer": ("l2", TypeError, r"regularizer is 'l2', needs nn\.L2\(1e-4\), for example"),
    "constraint": ("max_norm", TypeError, "constraint is 'max_norm', needs nn.MaxNorm"),
    "mask": (object(), TypeError, "mask is a object, needs bools or numbers"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_that_no_step_can_use_are_refused_before_anything_changes(name):
    value, kind, text = ATTRIBUTES[name]
    v, w = nn.Parameter([1.0]), nn.Parameter([1.0])
    setattr(w, name, value)
    v.grad, w.grad = mg.ones((1,)), mg.ones((1,))
    with pytest.raises(kind, match=rf"SGD\.step: parameter 1: {text}"):
        optim.SGD([v, w], lr=0.5).step()
    assert v.item() == w.item() == 1.0


def test_a_constraint_of_another_shape_is_refused():
    w = nn.Parameter([1.0, 2.0])
    w.constraint = np.sum
    w.grad = mg.ones((2,))
    with pytest.raises(ShapeError, match=r"step: the result of a constraint is .* of shape \(2,\)"):
        optim.SGD([w], lr=0.5).step()

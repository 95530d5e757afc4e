"""Schedules: closed forms against recursive twins and PyTorch, groups, exact resume, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import nn, optim
from minigrad.optim import schedules

STEPS = 300
RATES = (0.5, 0.02, 3.0)


def optimizer_of(rates=RATES, kind=optim.SGD, **options):
    """One group a rate."""
    return kind([{"params": [nn.Parameter([1.0])], "lr": lr} for lr in rates], lr=1.0, **options)


def trajectory(schedule, steps=STEPS):
    """The rates of all groups, at the start and after each step."""
    rows = [[group["lr"] for group in schedule.optimizer.param_groups]]
    for _ in range(steps):
        schedule.step()
        rows.append([group["lr"] for group in schedule.optimizer.param_groups])
        assert rows[-1] == schedule.get_last_lr()
    return np.array(rows)


# --- twins: PyTorch's recursive forms, each rate from the one before --------------------------------------------------


def recursive(first, following):
    """The twin whose rate is `first(base)`, and then `following(t, the rate before, base)`."""

    def run(base, steps):
        rates = [first(base)]
        for t in range(1, steps + 1):
            rates.append(following(t, rates[-1], base))
        return rates

    return run


def restarts(T_0, T_mult=1, eta_min=0.0):
    def run(base, steps):
        rates, length, u = [], T_0, 0
        for _ in range(steps + 1):
            rates.append(eta_min + (base - eta_min) * math.cos(math.pi * u / (2 * length)) ** 2)
            u += 1
            if u == length:
                u, length = 0, length * T_mult
        return rates

    return run


def warmup_cosine(warmup_steps, total_steps, eta_min=0.0):
    def run(base, steps):
        up = [base / (warmup_steps + 1) * n for n in range(1, warmup_steps + 1)]
        n = total_steps - warmup_steps
        down = [eta_min + (base - eta_min) * math.cos(math.pi * k / (2 * n)) ** 2 for k in range(n + 1)]
        return (up + down + [eta_min] * steps)[: steps + 1]

    return run


def inverse_sqrt(warmup_steps):
    """Vaswani's formula, its peak brought to the base."""

    def run(base, steps):
        return [
            base * warmup_steps**0.5 * min(n**-0.5, n * warmup_steps**-1.5) for n in range(1, steps + 2)
        ]  # fmt: skip

    return run


sizes = st.integers(1, 120)
factors = st.floats(0.05, 1.0)
gammas = st.floats(0.9, 1.01)
floors = st.floats(0.0, 0.01)

CASES = {
    "StepLR": (
        {"step_size": sizes, "gamma": st.floats(0.1, 1.1)},
        lambda step_size, gamma: recursive(lambda b: b, lambda t, r, b: r * gamma if t % step_size == 0 else r),
    ),
    "MultiStepLR": (
        {"milestones": st.lists(st.integers(1, STEPS), max_size=6), "gamma": st.floats(0.1, 1.1)},
        lambda milestones, gamma: recursive(lambda b: b, lambda t, r, b: r * gamma ** milestones.count(t)),
    ),
    "ConstantLR": (
        {"factor": factors, "total_iters": sizes},
        lambda factor, total_iters: recursive(
            lambda b: b * factor, lambda t, r, b: r / factor if t == total_iters else r
        ),
    ),
    "LinearLR": (
        {"start_factor": factors, "end_factor": factors, "total_iters": sizes},
        lambda start_factor, end_factor, total_iters: recursive(
            lambda b: b * start_factor,
            lambda t, r, b: r + b * (end_factor - start_factor) / total_iters * (t <= total_iters),
        ),
    ),
    "ExponentialLR": ({"gamma": gammas}, lambda gamma: recursive(lambda b: b, lambda t, r, b: r * gamma)),
    "PolynomialLR": (
        {"total_iters": sizes, "power": st.floats(0.5, 3.0)},
        lambda total_iters, power: recursive(
            lambda b: b,
            lambda t, r, b: r * ((total_iters - t) / (total_iters - t + 1)) ** power if t < total_iters else 0.0,
        ),
    ),
    "CosineAnnealingLR": (
        {"T_max": sizes, "eta_min": floors},
        lambda T_max, eta_min: recursive(
            lambda b: b, lambda t, r, b: eta_min + (b - eta_min) * math.cos(math.pi * t / (2 * T_max)) ** 2
        ),
    ),
    "CosineAnnealingWarmRestarts": (
        {"T_0": st.integers(1, 60), "T_mult": st.integers(1, 4), "eta_min": floors},
        restarts,
    ),
}
OWN = {  # PyTorch has none of these
    "InverseSqrtLR": ({"warmup_steps": sizes}, inverse_sqrt),
    "WarmupCosineLR": (
        {"warmup_steps": st.integers(0, 50), "total_steps": st.integers(51, 250), "eta_min": floors},
        warmup_cosine,
    ),
}


def assert_rates(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", [*CASES, *OWN])
@given(data=st.data())
def test_the_closed_form_is_the_twin(name, data):
    arguments, twin = (CASES | OWN)[name]
    options = data.draw(st.fixed_dictionaries(arguments))
    got = trajectory(getattr(schedules, name)(optimizer_of(), **options))
    assert_rates(got, np.transpose([twin(**options)(base, STEPS) for base in RATES]))


def torch_optimizer(torch, rates=RATES, kind="SGD", **options):
    params = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates]
    return getattr(torch.optim, kind)(params, lr=1.0, **options)


def torch_trajectory(torch, make, steps=STEPS, **options):
    optimizer = torch_optimizer(torch, **options)
    schedule = make(optimizer, torch.optim.lr_scheduler)
    rows = [copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])]
    for _ in range(steps):
        optimizer.step()  # it warns otherwise
        schedule.step()
        rows.append([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    return rows


def rates_of(rows):
    return np.array([[group["lr"] for group in row] for row in rows])


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")

    @given(options=st.fixed_dictionaries(CASES[name][0]))
    def compare(options):
        got = trajectory(getattr(schedules, name)(optimizer_of(), **options))
        theirs = torch_trajectory(torch, lambda o, s: getattr(s, name)(o, **options))
        # their recursion rounds in each step, and after a rate near 0 what it has rounded away is missing for good
        np.testing.assert_allclose(got, rates_of(theirs), rtol=1e-8, atol=1e-9)

    compare()


# --- one cycle --------------------------------------------------------------------------------------------------------

cycles = st.fixed_dictionaries(
    {
        "max_lr": st.lists(st.floats(0.01, 10.0), min_size=3, max_size=3) | st.floats(0.01, 10.0),
        "pct_start": st.floats(0.05, 0.45),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "base_momentum": st.floats(0.5, 0.8),
        "max_momentum": st.lists(st.floats(0.8, 0.99), min_size=3, max_size=3) | st.floats(0.8, 0.99),
        "div_factor": st.floats(2.0, 50.0),
        "final_div_factor": st.floats(2.0, 1e5),
        "three_phase": st.booleans(),
    }
)


@given(options=cycles, total=st.integers(50, 200))
def test_one_cycle_is_its_twin(options, total):
    optimizer = optimizer_of(momentum=0.9)
    schedule = schedules.OneCycleLR(optimizer, total_steps=total, **options)
    rows = [[(g["lr"], g["momentum"]) for g in optimizer.param_groups]]
    for _ in range(total - 1):
        schedule.step()
        rows.append([(g["lr"], g["momentum"]) for g in optimizer.param_groups])
    peak = options["pct_start"] * total - 1
    many = [
        options[name] if isinstance(options[name], list) else [options[name]] * 3 for name in ("max_lr", "max_momentum")
    ]
    for i, (top, high) in enumerate(zip(*many, strict=True)):
        first = top / options["div_factor"]
        last, low = first / options["final_div_factor"], options["base_momentum"]
        places = [0, peak, 2 * peak, total - 1] if options["three_phase"] else [0, peak, total - 1]
        knots = [first, top, first, last] if options["three_phase"] else [first, top, last]
        momenta = [high, low, high, high] if options["three_phase"] else [high, low, high]
        for t, row in enumerate(rows):
            k = next(k for k in range(1, len(places)) if t <= places[k])
            share = (t - places[k - 1]) / (places[k] - places[k - 1])
            if options["anneal_strategy"] == "cos":
                share = math.sin(math.pi * share / 2) ** 2
            for found, ends in zip(row[i], (knots, momenta), strict=True):
                assert found == pytest.approx((1 - share) * ends[k - 1] + share * ends[k], rel=1e-11, abs=1e-13)
    final = copy.deepcopy(optimizer.param_groups[0]["lr"])
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == final  # nothing falls below 0 after the end


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_one_cycle_is_that_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    momentum = {"momentum": 0.9} if kind == "SGD" else {}

    @given(options=cycles, epochs=st.integers(5, 20))
    def compare(options, epochs):
        optimizer = optimizer_of(kind=getattr(optim, kind), **momentum)
        schedule = schedules.OneCycleLR(optimizer, epochs=epochs, steps_per_epoch=10, **options)
        theirs = torch_trajectory(
            torch,
            lambda o, s: s.OneCycleLR(o, epochs=epochs, steps_per_epoch=10, **options),
            10 * epochs - 1,
            kind=kind,
            **momentum,
        )
        for t, row in enumerate(theirs):
            if t:
                schedule.step()
            for group, other in zip(optimizer.param_groups, row, strict=True):
                assert group["lr"] == pytest.approx(other["lr"], rel=1e-10, abs=1e-14)
                name = "momentum" if kind == "SGD" else "betas"
                assert group[name] == pytest.approx(other[name], rel=1e-10)

    compare()


# --- schedules of schedules -------------------------------------------------------------------------------------------

MULTIPLICATIVE = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR")
parts = st.lists(
    st.sampled_from(MULTIPLICATIVE).flatmap(
        lambda name: st.tuples(st.just(name), st.fixed_dictionaries(CASES[name][0]))
    ),
    min_size=1,
    max_size=4,
)
milestones = st.lists(st.integers(1, 200), min_size=3, max_size=3, unique=True).map(sorted)


def built(optimizer, chosen, module=schedules):
    return [getattr(module, name)(optimizer, **options) for name, options in chosen]


@given(chosen=parts)
def test_chained_schedules_multiply(chosen):
    optimizer = optimizer_of()
    got = trajectory(schedules.ChainedScheduler(built(optimizer, chosen)))
    product = math.prod(np.array(CASES[name][1](**options)(1.0, STEPS)) for name, options in chosen)
    assert_rates(got, product[:, None] * np.array(RATES))


@given(chosen=parts, places=milestones)
def test_sequential_schedules_begin_at_their_milestones(chosen, places):
    optimizer, places = optimizer_of(), places[: len(chosen) - 1]
    schedule = schedules.SequentialLR(optimizer, built(optimizer, chosen), places)
    got = trajectory(schedule)
    for base, column in zip(RATES, got.T, strict=True):
        pieces = []
        for (name, options), start, stop in zip(chosen, [0, *places], [*places, STEPS + 1], strict=True):
            pieces += CASES[name][1](**options)(base, stop - start - 1)
        assert_rates(column, pieces)


def test_schedules_of_schedules_are_those_of_pytorch():
    torch = pytest.importorskip("torch")

    @given(chosen=parts, places=milestones)
    def compare(chosen, places):
        places = places[: len(chosen) - 1]
        optimizer = optimizer_of()
        got = trajectory(schedules.ChainedScheduler(built(optimizer, chosen)))
        theirs = torch_trajectory(torch, lambda o, s: s.ChainedScheduler(built(o, chosen, s)))
        assert_rates(got, rates_of(theirs))
        if not places:
            return
        optimizer = optimizer_of()
        got = trajectory(schedules.SequentialLR(optimizer, built(optimizer, chosen), places))
        theirs = torch_trajectory(torch, lambda o, s: s.SequentialLR(o, built(o, chosen, s), places))
        assert_rates(got, rates_of(theirs))

    compare()


def test_a_warm_up_and_a_cosine_are_those_of_pytorch():
    torch = pytest.importorskip("torch")

    def make(o, s):
        return s.SequentialLR(o, [s.LinearLR(o, 0.01, 1.0, 20), s.CosineAnnealingLR(o, 80, 1e-3)], [20])

    np.testing.assert_allclose(
        trajectory(make(optimizer_of(), schedules), 100), rates_of(torch_trajectory(torch, make, 100)), rtol=1e-9
    )


def test_a_function_of_the_users_own():
    functions = [lambda t: 0.9**t, lambda t: 1.0, lambda t: 1 / (1 + t)]
    got = trajectory(schedules.LambdaLR(optimizer_of(), functions), 50)
    assert_rates(got, [[base * f(t) for base, f in zip(RATES, functions, strict=True)] for t in range(51)])
    one = trajectory(schedules.LambdaLR(optimizer_of(), functions[0]), 50)
    assert_rates(one[:, 2], got[:, 0] / RATES[0] * RATES[2])


def test_a_cycle_inside_another_schedule_moves_the_momentum():
    optimizer = optimizer_of(momentum=0.9)
    cycle = schedules.OneCycleLR(optimizer, 1.0, total_steps=20)
    schedule = schedules.SequentialLR(optimizer, [schedules.ConstantLR(optimizer, 0.1, 5), cycle], [5])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    for _ in range(10):
        schedule.step()
    assert optimizer.param_groups[1]["lr"] == 1.0
    assert optimizer.param_groups[1]["momentum"] == pytest.approx(0.85)


# --- plateau ----------------------------------------------------------------------------------------------------------

plateaus = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.floats(0.1, 0.9),
        "patience": st.integers(0, 5),
        "threshold": st.floats(0.0, 0.2),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 4),
        "min_lr": st.floats(0.0, 0.01) | st.lists(st.floats(0.0, 0.01), min_size=3, max_size=3),
    }
)
metrics = st.lists(st.floats(-5, 5) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=60)


def test_plateau_is_that_of_pytorch():
    torch = pytest.importorskip("torch")

    @given(options=plateaus, values=metrics)
    def compare(options, values):
        ours, theirs = optimizer_of(), torch_optimizer(torch)
        schedule = schedules.ReduceLROnPlateau(ours, **options)
        other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
        for value in values:
            schedule.step(value)
            other.step(value)
            assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
            assert (schedule.num_bad_epochs, schedule.cooldown_counter) == (
                other.num_bad_epochs,
                other.cooldown_counter,
            )

    compare()


def test_plateau_step_by_step():
    optimizer = optimizer_of((1.0,))
    schedule = schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=2, threshold=0.1, min_lr=0.3)
    rates = []
    for loss in [10.0, 9.5, 9.4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]:
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    #        10   9.5  9.4: the second that is no tenth better; two steps of rest; then two of no change
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3]


# --- state ------------------------------------------------------------------------------------------------------------

RESUMED = {
    "step": lambda o: schedules.StepLR(o, 3),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 2),
    "cycle": lambda o: schedules.OneCycleLR(o, 1.0, 20),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, total_iters=4), schedules.InverseSqrtLR(o, 3)], [4]
    ),
    "chained": lambda o: schedules.ChainedScheduler([schedules.LinearLR(o), schedules.PolynomialLR(o, 15, 2.0)]),
    "lambda": lambda o: schedules.LambdaLR(o, lambda t: math.exp(-t)),
}


def hyperparameters(optimizer):
    return [(g["lr"], g["momentum"]) for g in optimizer.param_groups]


@pytest.mark.parametrize("first", ["schedule", "optimizer"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_exactly_from_every_step(name, first):
    whole = optimizer_of(momentum=0.9)
    schedule = RESUMED[name](whole)
    rows, states = [hyperparameters(whole)], []
    for t in range(18):
        states.append(json.dumps([schedule.state_dict(), whole.state_dict()]))
        schedule.step()
        if t == 7:
            whole.param_groups[1]["lr"] *= 0.3  # by hand
        rows.append(hyperparameters(whole))
    for t, text in enumerate(states):
        saved, saved_optimizer = json.loads(text)
        optimizer = optimizer_of(momentum=0.9)
        resumed = RESUMED[name](optimizer)
        loads = [
            lambda r=resumed, s=saved: r.load_state_dict(s),
            lambda o=optimizer, s=saved_optimizer: o.load_state_dict(s),
        ]
        for load in loads if first == "schedule" else reversed(loads):
            load()
        assert hyperparameters(optimizer) == rows[t]
        for k in range(t, 18):
            resumed.step()
            if k == 7:
                optimizer.param_groups[1]["lr"] *= 0.3
            assert hyperparameters(optimizer) == rows[k + 1]


@given(options=plateaus, values=metrics, at=st.integers(0, 60))
def test_plateau_goes_on_exactly(options, values, at):
    whole, first, second = (schedules.ReduceLROnPlateau(optimizer_of(), **options) for _ in range(3))
    for value in values[:at]:
        first.step(value)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for value in values[at:]:
        second.step(value)
    for value in values:
        whole.step(value)
    assert second.state_dict() == whole.state_dict()


def test_last_epoch_goes_on_from_the_rate_at_the_start():
    optimizer = optimizer_of()
    rates = trajectory(schedules.CosineAnnealingLR(optimizer, 20), 10)
    again = schedules.CosineAnnealingLR(optimizer, 20, last_epoch=6)
    assert again.get_last_lr() == rates[7].tolist()
    with pytest.raises(ValueError, match="'initial_lr' of group 0 is missing"):
        schedules.CosineAnnealingLR(optimizer_of(), 20, last_epoch=6)


def test_a_later_schedule_starts_from_the_first_rate():
    optimizer = optimizer_of()
    trajectory(schedules.ExponentialLR(optimizer, 0.5), 5)
    assert schedules.StepLR(optimizer, 3).get_last_lr() == list(RATES)


def test_a_rate_changed_by_hand_scales_what_follows():
    optimizer = optimizer_of()
    schedule = schedules.CosineAnnealingLR(optimizer, 10)
    other = trajectory(schedules.CosineAnnealingLR(optimizer_of(), 10), 9)
    for t in range(1, 10):
        schedule.step()
        expected = other[t] * ([1.0, 1.0, 0.25] if t > 4 else 1.0)
        assert_rates([g["lr"] for g in optimizer.param_groups], expected)
        if t == 4:
            optimizer.param_groups[2]["lr"] *= 0.25


def test_plateau_goes_along_with_another_schedule():
    optimizer = optimizer_of((1.0,))
    up = schedules.LinearLR(optimizer, 0.25, 1.0, 3)
    plateau = schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    rates = []
    for loss in (3.0, 3.0, 1.0, 0.5):
        up.step()
        plateau.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.375, 0.5, 0.5]


def test_the_optimizer_moves_by_the_rate():
    w = nn.Parameter([0.0])
    optimizer = optim.SGD([w], lr=1.0)
    schedule = schedules.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()
        schedule.step()
    assert w.item() == -1.75


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}), ("cosine", {"T_max": 5}), ("CosineAnnealingLR", {"T_max": 5}),
        ("cosine_restarts", {"T_0": 5}), ("exponential", {"gamma": 0.5}), ("inverse_sqrt", {"warmup_steps": 3}),
        ("lambda", {"lr_lambda": lambda t: 1.0}), ("linear", {}), ("multi_step", {"milestones": [2]}),
        ("one_cycle", {"max_lr": 1.0, "total_steps": 9}),
        ("plateau", {}), ("polynomial", {}), ("step", {"step_size": 2}),
        ("warmup_cosine", {"warmup_steps": 2, "total_steps": 9}),
    ],
)  # fmt: skip
def test_schedules_by_name(name, options):
    optimizer = optimizer_of(momentum=0.9)
    made = schedules.get(name, optimizer, **options)
    assert type(made) is (schedules.NAMES.get(name) or getattr(schedules, name))
    assert schedules.get(made, optimizer) is made
    assert type(schedules.get(type(made), optimizer, **options)) is type(made)


def test_every_name_is_a_schedule():
    assert {kind.__name__ for kind in schedules.NAMES.values()} <= set(schedules.__all__)


# --- what is refused --------------------------------------------------------------------------------------------------

GIVEN = optimizer_of()
OTHER = optimizer_of()
PLAIN = optimizer_of(kind=optim.SGD)
REFUSED = [
    (lambda: schedules.StepLR(3, 3), TypeError, "StepLR: optimizer is 3, needs an optimizer"),
    (lambda: schedules.StepLR(GIVEN, 0), ValueError, "StepLR: step_size is 0, needs an int of at least 1"),
    (lambda: schedules.StepLR(GIVEN, 2.0), ValueError, "step_size is 2.0"),
    (lambda: schedules.StepLR(GIVEN, 2, gamma=-1), ValueError, "StepLR: gamma is -1, needs a finite number of"),
    (lambda: schedules.StepLR(GIVEN, 2, last_epoch=-2), ValueError, "last_epoch is -2"),
    (lambda: schedules.MultiStepLR(GIVEN, [1, 2.5]), ValueError, "MultiStepLR: a milestone is 2.5"),
    (lambda: schedules.ConstantLR(GIVEN, factor=1.5), ValueError, "factor is 1.5, needs a number from 0 to 1"),
    (lambda: schedules.LinearLR(GIVEN, start_factor=0), ValueError, "start_factor is 0.0, needs a number above 0"),
    (lambda: schedules.LinearLR(GIVEN, end_factor=2), ValueError, "LinearLR: end_factor is 2"),
    (lambda: schedules.ExponentialLR(GIVEN, math.nan), ValueError, "ExponentialLR: gamma is nan"),
    (lambda: schedules.PolynomialLR(GIVEN, power=True), ValueError, "PolynomialLR: power is True"),
    (lambda: schedules.CosineAnnealingLR(GIVEN, 0), ValueError, "CosineAnnealingLR: T_max is 0"),
    (lambda: schedules.CosineAnnealingWarmRestarts(GIVEN, 3, 0), ValueError, "T_mult is 0"),
    (lambda: schedules.InverseSqrtLR(GIVEN, 0), ValueError, "InverseSqrtLR: warmup_steps is 0"),
    (lambda: schedules.WarmupCosineLR(GIVEN, 5, 5), ValueError, "total_steps is 5, needs more than warmup_steps, 5"),
    (lambda: schedules.LambdaLR(GIVEN, 0.5), TypeError, "LambdaLR: lr_lambda is 0.5, needs a function"),
    (lambda: schedules.LambdaLR(GIVEN, [abs]), ValueError, "number of lr_lambda is 1, needs 3"),
    (lambda: schedules.LambdaLR(GIVEN, lambda t: "x"), ValueError, r"LambdaLR: lr_lambda\(0\) is 'x'"),
    (lambda: schedules.OneCycleLR(GIVEN, 1.0), ValueError, "total_steps is None, needs a number, or epochs"),
    (lambda: schedules.OneCycleLR(GIVEN, 1.0, 10, pct_start=2), ValueError, "OneCycleLR: pct_start is 2"),
    (lambda: schedules.OneCycleLR(GIVEN, 1.0, 10, anneal_strategy="up"), ValueError, "anneal_strategy is 'up'"),
    (lambda: schedules.OneCycleLR(GIVEN, 1.0, 10, div_factor=0), ValueError, "div_factor is 0, needs a number above 0"),
    (lambda: schedules.OneCycleLR(GIVEN, [1.0], 10), ValueError, "number of max_lr is 1, needs 3"),
    (lambda: schedules.SequentialLR(GIVEN, [], []), ValueError, "SequentialLR: schedulers is empty"),
    (lambda: schedules.SequentialLR(GIVEN, [3], []), TypeError, "SequentialLR: schedule 0 is 3"),
    (
        lambda: schedules.SequentialLR(GIVEN, [schedules.ConstantLR(GIVEN)], [3]),
        ValueError,
        "number of milestones is 1, needs 0",
    ),
    (
        lambda: schedules.SequentialLR(GIVEN, [schedules.ConstantLR(GIVEN) for _ in range(3)], [3, 3]),
        ValueError,
        r"milestones is \[3, 3\], needs steps that increase",
    ),
    (
        lambda: schedules.ChainedScheduler([schedules.ConstantLR(GIVEN), schedules.ConstantLR(OTHER)]),
        ValueError,
        "the optimizer of schedule 1 is another one",
    ),
    (lambda: schedules.ChainedScheduler([]), ValueError, "ChainedScheduler: schedulers is empty"),
    (lambda: schedules.ReduceLROnPlateau(GIVEN, mode="up"), ValueError, "mode is 'up', needs 'min' or 'max'"),
    (lambda: schedules.ReduceLROnPlateau(GIVEN, factor=1.0), ValueError, "factor is 1.0, needs a number below 1"),
    (lambda: schedules.ReduceLROnPlateau(GIVEN, min_lr=[0.1]), ValueError, "number of min_lr is 1"),
    (lambda: schedules.ReduceLROnPlateau(GIVEN).step(None), TypeError, "step: metric is None, needs a number"),
    (lambda: schedules.get("cosin", GIVEN), ValueError, "schedule is 'cosin', needs one of constant, cosine, "),
    (lambda: schedules.get(3, GIVEN), TypeError, "schedule is 3, needs a name"),
    (lambda: schedules.get(schedules.ConstantLR(GIVEN), OTHER), ValueError, "the optimizer of the schedule is another"),
    (lambda: schedules.get(schedules.ConstantLR(GIVEN), GIVEN, 2), ValueError, "arguments is given"),
    (lambda: schedules.LRScheduler(GIVEN), NotImplementedError, "LRScheduler: needs a method rate"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_a_cycle_needs_a_momentum():
    class Plain(optim.Optimizer):
        def update(self, x, g, state, group):
            x -= g

    optimizer = Plain([nn.Parameter([1.0])], {"lr": 1.0})
    with pytest.raises(ValueError, match=r"one with momentum or betas\. Pass cycle_momentum=False"):
        schedules.OneCycleLR(optimizer, 1.0, 10)
    schedules.OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False)


def test_an_older_schedule_says_so():
    optimizer = optimizer_of()
    first = schedules.StepLR(optimizer, 3)
    second = schedules.ExponentialLR(optimizer, 0.5)
    second.step()
    with pytest.raises(ValueError, match=r"StepLR\.step: the schedule is made before the ExponentialLR of the same"):
        first.step()
    optimizer.add_param_group({"params": [nn.Parameter([1.0])]})
    with pytest.raises(ValueError, match="number of groups is 4, needs 3, as when the schedule was made"):
        second.step()


@pytest.mark.parametrize("make", [lambda o: schedules.StepLR(o, 3), schedules.ReduceLROnPlateau])
def test_states_that_do_not_fit(make):
    schedule = make(optimizer_of())
    state = schedule.state_dict()
    for text, change in {
        "keys of the state": lambda s: s.pop("lrs"),
        "schedule is 'X', needs ": lambda s: s.update(schedule="X"),
        "number of lrs is 1, needs 3": lambda s: s.update(lrs=[1.0]),
        "last_epoch is -1": lambda s: s.update(last_epoch=-1),
    }.items():
        broken = copy.deepcopy(state)
        change(broken)
        with pytest.raises(ValueError, match=text):
            schedule.load_state_dict(broken)
    with pytest.raises(TypeError, match="state is None, needs what state_dict gives"):
        schedule.load_state_dict(None)
    schedule.load_state_dict(state)
    assert schedule.state_dict() == state

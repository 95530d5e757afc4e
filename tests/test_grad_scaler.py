"""GradScaler: the trajectory of the scale, steps that are skipped, what scaling leaves as it is, and what it saves."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, nn, optim
from minigrad.errors import DTypeError, GradError
from minigrad.nn import functional as F

BAD = (math.inf, -math.inf, math.nan)
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda params: optim.Adam(params, lr=0.1, weight_decay=0.01),
    "adamw": lambda params: optim.AdamW(params, lr=0.1, amsgrad=True),
}


def leaf(*values, dtype=mg.float32):
    return nn.Parameter(mg.tensor(values, dtype=dtype))


def one_step(scaler, optimizer, w, factor=1.0):
    """One step on ``sum(w * factor)``, and whether it was done."""
    optimizer.zero_grad()
    scaler.scale((w * factor).sum()).backward()
    done = scaler.step(optimizer)
    scaler.update()
    return done


# --- the trajectory ---------------------------------------------------------------------------------------------------

SEQUENCES = st.lists(st.booleans(), max_size=60)
FACTORS = {  # such that 60 steps do not leave the range of float32
    "init_scale": st.floats(2.0**-10, 2.0**20, width=32),
    "growth_factor": st.floats(1.01, 3.0),
    "backoff_factor": st.floats(0.3, 0.95),
    "growth_interval": st.integers(1, 7),
}


def trajectory(scaler, sequence):
    """The scale and whether the step was done, for each of some finite (True) and infinite steps."""
    w = leaf(1.0)
    optimizer = optim.SGD([w], lr=0.0)
    return [(one_step(scaler, optimizer, w, 1.0 if finite else math.inf), scaler.get_scale()) for finite in sequence]


def twin(sequence, init_scale, growth_factor, backoff_factor, growth_interval):
    """The same by the definition."""
    scale, since, found = np.float32(init_scale), 0, []
    for finite in sequence:
        since = since + 1 if finite else 0
        if not finite:
            scale = np.float32(float(scale) * backoff_factor)
        elif since == growth_interval:
            scale, since = np.float32(float(scale) * growth_factor), 0
        found.append((finite, float(scale)))
    return found


@given(SEQUENCES, st.fixed_dictionaries(FACTORS))
def test_trajectory_is_that_of_the_definition(sequence, factors):
    assert trajectory(amp.GradScaler(**factors), sequence) == twin(sequence, **factors)


@given(SEQUENCES, st.fixed_dictionaries(FACTORS))
def test_trajectory_is_that_of_torch(sequence, factors):
    torch = pytest.importorskip("torch")
    theirs = torch.amp.GradScaler("cpu", **factors)
    p = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.5)
    expected = []
    for finite in sequence:
        optimizer.zero_grad()
        before = p.item()
        theirs.scale((p * (1.0 if finite else math.inf)).sum()).backward()
        theirs.step(optimizer)
        theirs.update()
        expected.append((p.item() != before, theirs.get_scale()))
    assert trajectory(amp.GradScaler(**factors), sequence) == expected


def test_the_scale_keeps_to_the_range_of_float32():
    scaler = amp.GradScaler(init_scale=2.0**125, growth_interval=1)
    found = [scale for _, scale in trajectory(scaler, [True] * 5)]
    assert found == [2.0**126, 2.0**127, 2.0**127, 2.0**127, 2.0**127]
    scaler = amp.GradScaler(init_scale=2.0**-124)
    found = [scale for _, scale in trajectory(scaler, [False] * 4)]
    assert found == [2.0**-125, 2.0**-126, 2.0**-126, 2.0**-126]
    assert math.isfinite(1 / np.float32(found[-1]))


# --- a scale changes nothing else -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(
    k=st.integers(-20, 30), clip=st.booleans(), parts=st.integers(1, 3), half=st.booleans(), seed=st.integers(0, 2**31)
)
def test_a_power_of_two_changes_no_digit(name, k, clip, parts, half, seed):
    rng = np.random.default_rng(seed)
    data = [mg.asarray(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(3 * parts)]
    start = rng.normal(size=(3, 2)).astype(np.float32)

    def train(scale):
        w, b = nn.Parameter(mg.tensor(start)), nn.Parameter(mg.zeros(2))
        optimizer = OPTIMIZERS[name]([w, b])
        scaler = amp.GradScaler(init_scale=scale)
        for micro_batches in [data[i : i + parts] for i in range(0, len(data), parts)]:
            optimizer.zero_grad()
            for x in micro_batches:
                with amp.autocast(mg.bfloat16, enabled=half):
                    loss = F.cross_entropy(x @ w + b, mg.asarray([0, 1, 0, 1])) / parts
                scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                optim.clip_grad_norm_([w, b], 0.1)
            assert scaler.step(optimizer)
            scaler.update()
        return w.tolist(), b.tolist(), state_of(optimizer)

    assert train(2.0**k) == train(1.0)


def state_of(optimizer):
    """A state dict as plain lists and numbers."""
    return json.dumps(optimizer.state_dict(), default=lambda t: t.astype(mg.float64).tolist(), sort_keys=True)


# --- overflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_value_skips_exactly_one_step(name, bad, which):
    """Parameters, moments and counts are those of a run without the step, after it and to the end."""
    rng = np.random.default_rng(0)
    steps = [[rng.normal(size=3).astype(np.float32) for _ in range(3)] for _ in range(4)]
    broken = copy.deepcopy(steps[0])
    broken[which][1] = bad

    def train(with_broken):
        params = [leaf(1.0, 2.0, 3.0) for _ in range(3)]
        optimizer, scaler = OPTIMIZERS[name](params), amp.GradScaler(init_scale=4.0)
        states, done = [], []
        for gradients in [*steps[:2], broken, *steps[2:]] if with_broken else steps:
            optimizer.zero_grad()
            loss = sum((p * mg.asarray(g)).sum() for p, g in zip(params, gradients, strict=True))
            scaler.scale(loss).backward()
            done.append(scaler.step(optimizer))
            scaler.update()
            states.append(([p.tolist() for p in params], state_of(optimizer)))
        return states, done, scaler.get_scale()

    (states, done, scale), (expected, all_done, full) = train(True), train(False)
    assert done == [True, True, False, True, True]
    assert all(all_done)
    assert states[2] == states[1]
    assert states[:2] + states[3:] == expected
    assert (scale, full) == (2.0, 4.0)


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_parameters(dtype):
    """Their gradients are unscaled in float32, where they do not vanish, and their master weights take the step."""
    w = leaf(1.0, 2.0, dtype=dtype)
    optimizer, scaler = optim.SGD([w], lr=1.0), amp.GradScaler(init_scale=2.0**16)
    scaler.scale((w.astype(mg.float32) * mg.tensor([1e-9, 1e-9])).sum()).backward()
    scaler.unscale_(optimizer)
    assert w.grad.dtype == mg.float32
    np.testing.assert_allclose(w.grad.numpy(), 1e-9, rtol=2 * mg.finfo(dtype).eps)
    assert scaler.step(optimizer)
    scaler.update()
    before = state_of(optimizer)
    assert not one_step(scaler, optimizer, w, math.inf)
    assert state_of(optimizer) == before
    assert w.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("bad", BAD)
def test_row_sparse_gradients(bad):
    table = nn.Embedding(5, 2, sparse=True)
    before = table.weight.tolist()
    optimizer, scaler = optim.SGD(table.parameters(), lr=1.0), amp.GradScaler(init_scale=8.0)
    for factor, done in ((bad, False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale((table(mg.asarray([1, 3, 1])) * factor).sum()).backward()
        assert scaler.step(optimizer) == done
        scaler.update()
        moved = (np.array(before) - np.array(table.weight.tolist())).round(5)
        assert moved.tolist() == [[0, 0], [2 * done, 2 * done], [0, 0], [done, done], [0, 0]]


def test_several_optimizers_are_skipped_one_by_one():
    a, b = leaf(1.0), leaf(1.0)
    first, second = optim.SGD([a], lr=0.5), optim.SGD([b], lr=0.5)
    scaler = amp.GradScaler(init_scale=16.0, growth_interval=2)
    for factors, wanted, scale in (
        ((1.0, math.inf), [True, False], 8.0),
        ((1.0, 1.0), [True, True], 8.0),
        ((1.0, 1.0), [True, True], 16.0),
    ):
        for optimizer in (first, second):
            optimizer.zero_grad()
        for loss in scaler.scale([(a * factors[0]).sum(), (b * factors[1]).sum()]):
            loss.backward()
        scaler.unscale_(second)
        assert [scaler.step(first), scaler.step(second)] == wanted
        scaler.update()
        assert scaler.get_scale() == scale
    assert (a.item(), b.item()) == (-0.5, 0.0)


# --- what scaling saves -----------------------------------------------------------------------------------------------


def tiny_problem(scaler, dtype):
    """The gradient of a loss whose cotangents are 1e-9 under autocast to a half type, and the weights after a step."""
    mg.random.seed(0)
    x = mg.random.normal((8, 4))
    w1, w2 = nn.Parameter(mg.random.normal((4, 6))), nn.Parameter(mg.random.normal((6, 1)))
    optimizer = optim.SGD([w1, w2], lr=1e8)
    with amp.autocast(dtype or mg.float16, enabled=dtype is not None):
        loss = (mg.tanh(x @ w1) @ w2).sum() * 1e-9
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    gradients = [p.grad.numpy().copy() for p in (w1, w2)]
    start = w1.detach().numpy().copy()
    assert scaler.step(optimizer)
    return gradients, w1.detach().numpy() - start


def test_small_gradients_vanish_without_scaling_and_not_with_it():
    off, on = amp.GradScaler(enabled=False), amp.GradScaler(init_scale=2.0**24)
    truth, moved = tiny_problem(off, None)
    assert all(np.abs(g).min() > 0 for g in truth)
    lost, still = tiny_problem(off, mg.float16)
    assert all((g == 0).all() for g in lost)
    assert not still.any()
    found, moves = tiny_problem(on, mg.float16)
    for a, b in zip([*found, moves], [*truth, moved], strict=True):
        assert np.linalg.norm(a - b) < 4 * mg.finfo(mg.float16).eps * np.linalg.norm(b)
    # the range of bfloat16 is that of float32
    kept, _ = tiny_problem(off, mg.bfloat16)
    for a, b in zip(kept, truth, strict=True):
        assert np.linalg.norm(a - b) < 4 * mg.finfo(mg.bfloat16).eps * np.linalg.norm(b)


def test_a_half_loss_is_scaled_in_float32():
    loss = mg.tensor(3.0, dtype=mg.float16, requires_grad=True)
    scaled = amp.GradScaler().scale(loss)
    assert (scaled.dtype, scaled.item()) == (mg.float32, 3 * 65536.0)
    assert amp.GradScaler().scale(mg.tensor(3.0, dtype=mg.float64)).dtype == mg.float64


def test_losses_in_containers():
    scaler, w = amp.GradScaler(init_scale=2.0), leaf(3.0)
    found = scaler.scale({"a": (w, [w.astype(mg.float16)]), "b": w})
    assert type(found["a"]) is tuple
    assert [found["a"][0].item(), found["a"][1][0].item(), found["b"].item()] == [6.0] * 3
    for wrong in (3.0, mg.asarray(3), [w, None]):
        with pytest.raises(DTypeError, match=r"GradScaler\.scale: outputs is .* needs floating tensors"):
            scaler.scale(wrong)
    assert amp.GradScaler(enabled=False).scale("anything") == "anything"


# --- state ------------------------------------------------------------------------------------------------------------


@given(SEQUENCES, SEQUENCES, st.fixed_dictionaries(FACTORS))
def test_state_round_trip(first, then, factors):
    scaler = amp.GradScaler(**factors)
    trajectory(scaler, first)
    again = amp.GradScaler()
    again.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert again.state_dict() == scaler.state_dict()
    assert trajectory(again, then) == trajectory(scaler, then)


def test_a_state_that_does_not_fit_changes_nothing():
    scaler = amp.GradScaler(init_scale=8.0)
    state = scaler.state_dict()
    for wrong, text in (
        ({}, "state is empty, needs .* It is that of a scaler that was not enabled"),
        (None, "needs one with scale, growth_factor"),
        ({**state, "more": 1}, "needs one with scale, growth_factor"),
        ({**state, "scale": -1.0}, "init_scale is -1.0, needs a number above 0"),
        ({**state, "growth_tracker": -1}, "growth_tracker is -1, needs an int of at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            scaler.load_state_dict(wrong)
        assert scaler.state_dict() == state


def test_a_scaler_that_is_not_enabled():
    w = leaf(1.0)
    optimizer, scaler = optim.SGD([w], lr=1.0), amp.GradScaler(enabled=False)
    assert scaler.step(optimizer)  # nothing has a gradient
    w.grad = mg.tensor([math.inf])
    scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)
    assert scaler.step(optimizer)
    assert w.item() == -math.inf
    scaler.update()
    assert (scaler.get_scale(), scaler.state_dict()) == (1.0, {})
    scaler.load_state_dict({})
    assert repr(scaler) == "GradScaler(scale=1, enabled=False)"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_calls_in_a_wrong_order():
    w = leaf(1.0)
    optimizer, scaler = optim.SGD([w], lr=1.0), amp.GradScaler(init_scale=2.0)
    for call in (scaler.step, scaler.unscale_):
        with pytest.raises(GradError, match=r"the loss is not scaled, needs scaler\.scale\(loss\)\.backward\(\)"):
            call(optimizer)
    with pytest.raises(GradError, match=r"GradScaler\.update: gradients is none unscaled, needs step or unscale_"):
        scaler.update()
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(GradError, match=r"GradScaler\.unscale_: unscale_ is called twice"):
        scaler.unscale_(optimizer)
    assert w.grad.item() == 1.0
    assert scaler.step(optimizer)
    assert w.item() == 0.0
    for call in (scaler.step, scaler.unscale_):
        with pytest.raises(GradError, match=r"step is called already, needs scaler\.update\(\)"):
            call(optimizer)
    assert w.item() == 0.0
    scaler.update()
    with pytest.raises(GradError, match="the loss is not scaled"):
        scaler.step(optimizer)
    with pytest.raises(TypeError, match=r"GradScaler\.step: optimizer is .* needs an optimizer"):
        scaler.step(w)


def test_update_to_a_scale_of_ones_own():
    scaler = amp.GradScaler(init_scale=2.0, growth_interval=2)
    trajectory(scaler, [True])
    scaler.update(new_scale=32.0)
    assert scaler.get_scale() == 32.0
    assert trajectory(scaler, [True]) == [(True, 64.0)]
    with pytest.raises(ValueError, match="init_scale is inf, needs a number above 0"):
        scaler.update(new_scale=math.inf)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"init_scale": 0.0}, "init_scale is 0.0, needs a number above 0 and below"),
        ({"init_scale": math.inf}, "init_scale is inf"),
        ({"init_scale": "high"}, "init_scale is "),
        ({"growth_factor": 1.0}, "growth_factor is 1.0, needs a number above 1"),
        ({"backoff_factor": 1.0}, "backoff_factor is 1.0, needs a number above 0 and below 1"),
        ({"backoff_factor": math.nan}, "backoff_factor is nan"),
        ({"growth_interval": 0}, "growth_interval is 0, needs an int of at least 1"),
        ({"growth_interval": 1.5}, "growth_interval is 1.5"),
        ({"growth_interval": True}, "growth_interval is True"),
    ],
)
def test_numbers_out_of_range(arguments, text):
    with pytest.raises(ValueError, match=f"GradScaler: {text}"):
        amp.GradScaler(**arguments)


def test_a_parameter_of_two_optimizers_is_unscaled_once():
    """Each of them takes its step with the whole gradient, as without a scale."""
    for clip in (False, True):
        w = leaf(3.0)
        first, second = optim.SGD([w], lr=0.125), optim.SGD([w], lr=0.25)
        scaler = amp.GradScaler(init_scale=1024.0)
        scaler.scale(w * 2.0).backward()
        if clip:
            scaler.unscale_(first)
            scaler.unscale_(second)
            assert w.grad.item() == 2.0
        assert scaler.step(first)
        assert scaler.step(second)
        scaler.update()
        assert w.item() == 3.0 - 0.25 - 0.5
    scaler.scale(w * float("inf")).backward()
    assert not scaler.step(first)
    assert not scaler.step(second)


def test_sharpness_aware_steps_are_two_calls():
    w = leaf(3.0)
    sam, scaler = optim.SAM(optim.SGD([w], lr=0.5), rho=0.0), amp.GradScaler(init_scale=8.0)

    def closure():
        sam.zero_grad()
        loss = w * 2.0
        scaler.scale(loss).backward()
        return loss

    sam.ascend(closure)
    with pytest.raises(TypeError, match=r"GradScaler\.step: optimizer is a SAM, needs the optimizer inside"):
        scaler.step(sam)
    assert scaler.step(sam.optimizer)
    assert w.item() == 2.0

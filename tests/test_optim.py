"""Optimizers: trajectories against plain NumPy and PyTorch, kernel against generic body, state, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad._core import cpu, dispatch
from minigrad._core.cpu import Kernel
from minigrad.errors import DTypeError, GradError, ShapeError
from minigrad.testing import variants

STEPS = 12


def sgd(x, gradients, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    """The formula of the docstring, in float64."""
    b = None
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * x
        b = g if b is None else momentum * b + (1 - dampening) * g
        x = x - lr * (g if not momentum else g + momentum * b if nesterov else b)
    return x


def adam(
    x,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled=False,
):
    """The formula of the docstring, in float64."""
    m = v = top = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        g = -g if maximize else g
        if decoupled:
            x = x * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        top = np.maximum(top, v)
        x = x - lr * m / (1 - betas[0] ** t) / (np.sqrt((top if amsgrad else v) / (1 - betas[1] ** t)) + eps)
    return x


def adamw(x, gradients, weight_decay=1e-2, **options):
    return adam(x, gradients, weight_decay=weight_decay, decoupled=True, **options)


CASES = [
    ("SGD", sgd, {}),
    ("SGD", sgd, {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.5, "maximize": True}),
    ("Adam", adam, {}),
    ("Adam", adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", adam, {"lr": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", adam, {"lr": 0.1, "betas": (0.0, 0.0)}),
    ("AdamW", adamw, {"lr": 0.1}),
    ("AdamW", adamw, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
]
ids = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, _, options in CASES]


@pytest.fixture(params=[True, False], ids=["kernel", "generic"])
def kernels(request):
    before = dispatch.use_kernels(request.param)
    yield request.param
    dispatch.use_kernels(before)


def draw(shape=(3, 4), seed=0):
    """A parameter and a gradient for each step, some of them 0 or large."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(STEPS, *shape)) * 10.0 ** rng.integers(-3, 3, (STEPS, *shape))
    return rng.normal(size=shape), gradients * (rng.random(gradients.shape) > 0.1)


def run(make, x, gradients, dtype):
    """The parameter after one step for each gradient."""
    p = nn.Parameter(x.astype(dtype))
    optimizer = make([p])
    for g in gradients:
        optimizer.zero_grad()
        (p * mg.asarray(g.astype(dtype))).sum().backward()
        optimizer.step()
    return p.detach().numpy()


@pytest.mark.parametrize(("name", "formula", "options"), CASES, ids=ids)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_trajectory(name, formula, options, dtype, tolerance, kernels):
    x, gradients = draw()
    x, gradients = x.astype(dtype).astype(np.float64), gradients.astype(dtype).astype(np.float64)
    got = run(lambda params: getattr(optim, name)(params, **options), x, gradients, dtype)
    assert got.dtype == dtype
    expected = formula(x, gradients, **options)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize(("name", "formula", "options"), CASES, ids=ids)
def test_trajectory_is_that_of_pytorch(name, formula, options):
    torch = pytest.importorskip("torch")
    x, gradients = draw(seed=1)
    weight = torch.nn.Parameter(torch.tensor(x))
    optimizer = getattr(torch.optim, name)([weight], **options)
    for g in gradients:
        weight.grad = torch.tensor(g)
        optimizer.step()
    got = run(lambda params: getattr(optim, name)(params, **options), x, gradients, np.float64)
    np.testing.assert_allclose(got, weight.detach().numpy(), rtol=1e-12, atol=1e-13)


shapes = st.sampled_from([(), (0,), (1,), (7,), (3, 5), (64, 33), (12_000,)])


LAYOUTS = {
    "C": lambda a: a,
    "F": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.repeat(a[..., np.newaxis], 2, axis=-1)[..., 0],
}


def arrays(shape, count, seed, dtype):
    """Random arrays."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for _ in range(count)]


@given(
    shape=shapes, seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([np.float32, np.float64]), lr=st.floats(0, 1),
    momentum=st.sampled_from([0.0, 0.5, 0.9]), dampening=st.floats(0, 1), decay=st.floats(0, 1), nesterov=st.booleans(),
    maximize=st.booleans(), layout=st.sampled_from(sorted(LAYOUTS)),
)  # fmt: skip
def test_sgd_kernel_is_the_generic_body(shape, seed, dtype, lr, momentum, dampening, decay, nesterov, maximize, layout):
    nesterov = nesterov and momentum > 0
    options = {"lr": lr, "momentum": momentum, "dampening": 0.0 if nesterov else dampening, "weight_decay": decay}
    compare(lambda p: optim.SGD(p, nesterov=nesterov, maximize=maximize, **options), shape, seed, dtype, layout)


@given(
    shape=shapes, seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([np.float32, np.float64]), lr=st.floats(0, 1),
    # where beta2 is near 0 and decay cancels a gradient, the root of the second moment is nothing but rounding
    beta1=st.floats(0, 0.99), beta2=st.floats(0.5, 0.9999), eps=st.sampled_from([1e-8, 1e-3]), decay=st.floats(0, 1),
    amsgrad=st.booleans(), maximize=st.booleans(), kind=st.sampled_from([optim.Adam, optim.AdamW]),
    layout=st.sampled_from(sorted(LAYOUTS)),
)  # fmt: skip
def test_adam_kernel_is_the_generic_body(
    shape, seed, dtype, lr, beta1, beta2, eps, decay, amsgrad, maximize, kind, layout
):
    options = {
        "lr": lr,
        "betas": (beta1, beta2),
        "eps": eps,
        "weight_decay": decay,
        "amsgrad": amsgrad,
        "maximize": maximize,
    }
    compare(lambda p: kind(p, **options), shape, seed, dtype, layout)


def compare(make, shape, seed, dtype, layout):
    """Three steps of both; one gradient may have a layout that the kernels leave to the generic body."""
    x, *gradients = arrays(shape, 4, seed, dtype)
    gradients[1] = LAYOUTS[layout](gradients[1])
    results = []
    for on in (True, False):
        p = nn.Parameter(x)
        optimizer = make([p])
        before = dispatch.use_kernels(on)
        try:
            for g in gradients:
                p.grad = mg.asarray(g)
                kept = g.copy()
                optimizer.step()
                np.testing.assert_array_equal(g, kept)
        finally:
            dispatch.use_kernels(before)
        state = optimizer.state_dict()["state"]["0"]
        results.append([p.detach().numpy(), *(v.numpy() for v in state.values() if hasattr(v, "dtype"))])
    # the two round differently in at most a handful of operations a step
    tolerance = 64 * np.finfo(dtype).eps
    for kernel, generic in zip(*results, strict=True):
        scale = abs(generic).max(initial=1.0)
        np.testing.assert_allclose(kernel, generic, rtol=tolerance, atol=tolerance * scale)


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 1.0, -3.0]
RULES = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd decay": lambda p: optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "momentum decay": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "dampening": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=1.0),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "maximize": lambda p: optim.SGD(p, lr=0.0, momentum=0.5, dampening=0.2, maximize=True),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "adam penalty": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "adam without memory": lambda p: optim.Adam(p, lr=0.1, betas=(0.0, 0.0), maximize=True),
    "adam without eps": lambda p: optim.Adam(p, lr=0.1, eps=0.0, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adamw without decay": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.0),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_infinities_and_nan_are_those_of_the_generic_body(name):
    """Every special value of a parameter against those of two gradients; and moments that hold some."""
    x, g, h = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL, SPECIAL))

    def results():
        p = nn.Parameter(x.astype(np.float32))
        optimizer = RULES[name]([p])
        for gradient in (g, h, np.ones_like(g)):
            p.grad = mg.asarray(gradient.astype(np.float32))
            optimizer.step()
        state = {key: np.asarray(value) for key, value in optimizer.state[p].items()}
        if "max_exp_avg_sq" in state:
            optimizer.state[p]["max_exp_avg_sq"][::2] = math.nan
            optimizer.step()
        return [p.detach().numpy(), *state.values()]

    with variants.generic():
        expected = results()
    for level in cpu.levels():
        with variants.variant(level, 1):
            found = results()
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


ADAM = (0.1, 0.9, 0.999, 1e-8, 0.0, False, False)
SGD = (0.1, 0.9, 0.0, 0.0, False, False)


def moments(m, v):
    return {"step": 0, "exp_avg": m, "exp_avg_sq": v}


def test_the_kernels_take_plain_arrays_and_refuse_others():
    x, g, m, v = arrays((3, 4), 4, 0, np.float32)
    adam, sgd = Kernel("optimize", "adam"), Kernel("optimize", "sgd")
    assert adam([x], [g], [moments(m, abs(v))], *ADAM) == []
    assert adam([], [], [], *ADAM) == sgd([], [], [], *SGD) == []
    before = x.copy()
    frozen = x.copy()
    frozen.setflags(write=False)
    refused = [
        (x.T, g.T, m.T, v.T), (x, g.astype(np.float64), m, v), (x, g[:2], m, v), (x, g, m.reshape(4, 3), v),
        (frozen, g, m, v), (x.astype(np.float16), g, m, v), (x.view(np.recarray), g, m, v), (x, list(g), m, v),
        (x, g, frozen, v), (x, g, m, frozen),
    ]  # fmt: skip
    states = [moments(*given_arrays[2:]) for given_arrays in refused]
    xs, gs = [list(column) for column in list(zip(*refused, strict=True))[:2]]
    assert adam(xs, gs, states, *ADAM) == list(range(len(refused)))
    assert {state["step"] for state in states} == {0}
    states = [{"step": 0, "momentum_buffer": b} for b in (m.T, frozen, None)] + [{"step": 0}]
    assert sgd([x] * 4, [g] * 4, states, *SGD) == [0, 1, 2, 3]
    np.testing.assert_array_equal(x, before)


MIXED = [
    ((), np.float32), ((0,), np.float32), ((3, 5), np.float64), ((5000,), np.float32), ((4096,), np.float64),
    ((3, 9001), np.float32), ((1,), np.float64), ((60_000,), np.float32),
]  # fmt: skip


def train_mixed(make):
    """Parameters of all sorts after three steps; in the second only some have a gradient."""
    rng = np.random.default_rng(0)
    params = [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape, dtype in MIXED]
    optimizer = make(params)
    for chosen in (params, params[::2], params):
        for p in chosen:
            p.grad = mg.asarray(np.asarray(rng.normal(size=p.shape), p.dtype))
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().numpy() for p in params]


@pytest.mark.parametrize(
    "make",
    [
        lambda params: optim.AdamW(params, lr=0.1, amsgrad=True),
        lambda params: optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
    ],
)
def test_parameters_of_all_sorts_are_updated_together(make):
    with variants.generic():
        expected = train_mixed(make)
    for level in cpu.levels():
        found = []
        for threads in (1, 2, 3):
            with variants.variant(level, threads):
                found.append(train_mixed(make))
        for a, b, c, e in zip(*found, expected, strict=True):
            assert a.tobytes() == b.tobytes() == c.tobytes()
            tolerance = 64 * np.finfo(e.dtype).eps
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


# --- steps ------------------------------------------------------------------------------------------------------------


def model():
    mg.random.seed(0)
    return nn.Sequential(nn.Dense(3, "tanh", in_features=2), nn.Dense(1, in_features=3))


def loss(net):
    return (net(mg.tensor([[1.0, 2.0], [0.5, -1.0]])) ** 2).sum()


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_steps_lower_the_loss_in_the_same_memory(kind):
    net = model()
    memory = [p._array for p in net.parameters()]
    optimizer = kind(net.parameters(), lr=0.05)
    first = loss(net).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    assert loss(net).item() < first / 2
    assert all(p._array is a and p.is_leaf for p, a in zip(net.parameters(), memory, strict=True))


def test_a_step_is_found_out_by_a_graph_that_saved_the_old_values():
    p = nn.Parameter([1.0])
    optimizer = optim.SGD([p], lr=0.1)
    late = (p * p).sum()
    (p * 2).sum().backward()
    optimizer.step()
    with pytest.raises(GradError, match=r"multiply.*was changed in place at SGD\.step"):
        late.backward()


def test_a_step_that_is_refused_changes_nothing():
    first, second = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.1)
    late = (first * first).sum()
    first.grad = second.grad = mg.ones((1,))
    second.mask = np.ones(2)
    with pytest.raises(ShapeError, match=r"step: parameter 0: mask is \(2,\), needs \(1,\), or what"):
        optimizer.step()
    assert first.tolist() == [1.0]
    late.backward()
    assert first.grad.tolist() == [3.0]


def test_a_parameter_that_is_read_only_is_refused_before_others_change(kernels):
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    first, second = nn.Parameter([1.0]), mg.asarray(frozen)
    second.requires_grad = True
    optimizer = optim.SGD([("first", first), ("second", second)], lr=0.1)
    first.grad, second.grad = mg.ones((1,)), mg.ones((3,))
    with pytest.raises(ValueError, match=r"SGD\.step: parameter 'second' is read-only, needs memory to write to"):
        optimizer.step()
    assert first.tolist() == [1.0]
    second.grad = None
    optimizer.step()
    assert first.tolist() == pytest.approx([0.9])


class Mixin:
    """A rule that cannot update arrays of two elements."""

    def update(self, x, g, state, group):
        super().update(x, g, state, group)
        if x.size == 2:
            raise ArithmeticError


class Mixed(Mixin, optim.SGD):
    pass


class Direct(optim.SGD):
    def update(self, x, g, state, group):
        super().update(x, g, state, group)
        if x.size == 2:
            raise ArithmeticError


@pytest.mark.parametrize("kind", [Mixed, Direct])
def test_a_step_that_fails_is_found_out_too(kind):
    first, second = nn.Parameter([1.0]), nn.Parameter([1.0, 1.0])
    late = (first * first).sum()
    first.grad, second.grad = mg.ones((1,)), mg.ones((2,))
    with pytest.raises(ArithmeticError):
        kind([first, second], lr=0.5).step()
    assert first.tolist() == [0.5]  # by the rule of the subclass, not past it
    with pytest.raises(GradError, match="was changed in place"):
        late.backward()


def test_parameters_without_a_gradient_stay():
    used, unused = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.AdamW([used, unused], lr=0.1, weight_decay=0.5)
    (used * 1).sum().backward()
    optimizer.step()
    assert unused.tolist() == [1.0]
    assert used.item() < 1.0
    optimizer.zero_grad(set_to_none=False)
    assert used.grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert used.grad is None


def test_an_optimizer_made_before_the_first_batch():
    net = nn.Sequential(nn.Dense(3), nn.Dense(1))
    optimizer = optim.Adam(net.named_parameters(), lr=0.1)
    with pytest.raises(ShapeError, match=r"Adam.step: parameter '0.weight' is uninitialized, \(\?, 3\).*one batch"):
        optimizer.step()
    before = loss(net)
    before.backward()
    optimizer.step()
    assert loss(net).item() < before.item()


def test_groups():
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": [("c", nn.Parameter([1.0]))], "momentum": 0.9})
    (a + b).sum().backward()
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(0.9), 0.0)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert a.item() == pytest.approx(0.9)
    assert repr(optimizer).startswith("SGD(1 parameters: lr=0.0, momentum=0.0")


def test_a_model_that_changes_its_dtype():
    net = model()
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    loss(net).backward()
    optimizer.step()
    net.to(mg.float64)
    optimizer.step()
    assert {v.dtype for s in optimizer.state.values() for v in s.values() if hasattr(v, "dtype")} == {mg.float64}


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
@pytest.mark.parametrize("stepped", [True, False])
@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_a_model_that_becomes_a_half_one_and_a_full_one_again(kind, stepped, dtype):
    net = model()
    optimizer = kind(net.named_parameters(), lr=0.1)
    loss(net).backward()
    if stepped:
        optimizer.step()
    net.to(dtype)
    before = net[0].weight.tolist()
    optimizer.step()
    weight = net[0].weight
    assert weight.dtype == dtype
    assert weight.tolist() != before
    assert {v.dtype for s in optimizer.state.values() for v in s.values() if hasattr(v, "dtype")} == {mg.float32}
    master = optimizer.state[weight]["master"]
    np.testing.assert_array_equal(master.astype(dtype), weight.detach().numpy())
    net.to(mg.float32)
    optimizer.step()
    assert "master" not in optimizer.state_dict()["state"]["0.weight"]
    assert weight.dtype == mg.float32


# --- state ------------------------------------------------------------------------------------------------------------


def plain(state):
    """What JSON and an array file make of a state."""
    tensors = {}

    def strip(value, path):
        if isinstance(value, dict):
            return {k: strip(v, f"{path}/{k}") for k, v in value.items()}
        if hasattr(value, "dtype"):
            tensors[path] = value.numpy()
            return {"file": path}
        return value

    text = json.dumps(strip(state, ""))
    return json.loads(text, object_hook=lambda d: tensors[d["file"]] if d.keys() == {"file"} else d)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
        lambda p: optim.Adam(p, lr=0.05, amsgrad=True),
        lambda p: optim.AdamW(p, lr=0.05),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_run_goes_on_as_if_nothing_had_been(make, named):
    def steps(net, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()

    def params(net):
        return net.named_parameters() if named else net.parameters()

    whole = model()
    steps(whole, make(params(whole)), 6)
    first = model()
    optimizer = make(params(first))
    steps(first, optimizer, 3)
    saved = plain(optimizer.state_dict())
    second = model()
    second.load_state_dict(first.state_dict())
    steps(first, optimizer, 1)  # the snapshot is on its own
    resumed = make(params(second))
    resumed.load_state_dict(saved)
    steps(second, resumed, 3)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_a_state_that_does_not_fit():
    net = model()
    optimizer = optim.Adam(net.named_parameters(), lr=0.1)
    loss(net).backward()
    optimizer.step()
    state = optimizer.state_dict()
    changes = {
        "optimizer is 'SGD'": lambda s: s.update(optimizer="SGD"),
        "keys of the state is": lambda s: s.pop("param_groups"),
        "needs .*'param_groups', 'state'": lambda s: s.update(more=1),
        r"parameters with a state that it lacks is \['x'\]": lambda s: s["state"].update(x={}),
        "hyperparameters of group 0 is": lambda s: s["param_groups"][0].pop("params"),
        "number of groups is 2": lambda s: s["param_groups"].append(s["param_groups"][0]),
        r"parameters of group 0 is \['x'\]": lambda s: s["param_groups"][0].update(params=["x"]),
        "hyperparameters of group 0": lambda s: s["param_groups"][0].pop("eps"),
        "lr is -1": lambda s: s["param_groups"][0].update(lr=-1),
        "state of parameter '0.bias'": lambda s: s["state"]["0.bias"].pop("exp_avg"),
        "shape of exp_avg of parameter '0.bias'": lambda s: s["state"]["0.bias"].update(exp_avg=np.zeros(7)),
    }
    for text, change in changes.items():
        broken = copy.deepcopy(state)
        change(broken)
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(broken)
    for broken in (None, [state]):
        with pytest.raises(TypeError, match=r"Adam\.load_state_dict: state is .*, needs what state_dict gives"):
            optimizer.load_state_dict(broken)
    with pytest.raises(ValueError, match=r"Adam\.load_state_dict: keys of the state is \[\]"):
        optimizer.load_state_dict({})
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_numbers_of_numpy_become_plain_ones_in_the_state():
    optimizer = optim.Adam([LEAF], lr=np.float32(0.5), betas=(np.float32(0.5), 0.999))
    group = json.loads(json.dumps(optimizer.state_dict()["param_groups"][0]))
    assert (group["lr"], group["betas"]) == (0.5, [0.5, 0.999])


def test_names_that_would_share_a_state():
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    for names in [("a", "a"), ("1", None)]:
        with pytest.raises(ValueError, match=r"would call .*, needs a name of its own"):
            optim.SGD([entry if entry[0] else entry[1] for entry in zip(names, (a, b), strict=True)])
    optimizer = optim.SGD([a])
    with pytest.raises(ValueError, match="parameter '0' is the second that a state dict would call '0'"):
        optimizer.add_param_group({"params": [("0", b)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": b})
    assert [group["params"] for group in optimizer.state_dict()["param_groups"]] == [["0"], ["1"]]


# --- what is refused --------------------------------------------------------------------------------------------------

LEAF = nn.Parameter([1.0])
REFUSED = [
    (lambda: optim.SGD([]), ValueError, "SGD: params is empty"),
    (lambda: optim.SGD(model()), TypeError, r"Pass model.parameters\(\)"),
    (lambda: optim.SGD(LEAF), TypeError, "Put it into a list"),
    (lambda: optim.SGD(None), TypeError, r"SGD: params is None, needs an iterable of parameters"),
    (lambda: optim.SGD([(LEAF, LEAF)]), TypeError, "SGD: the name of parameter 0 is float32"),
    (lambda: optim.Adam([LEAF], betas=0.9), ValueError, r"Adam: betas is 0.9, needs two numbers"),
    (lambda: optim.Adam([LEAF], betas="ab"), ValueError, "Adam: betas is"),
    (lambda: optim.Adam([LEAF], betas=(False, 0.9)), ValueError, r"Adam: betas is \(False, 0.9\), needs two numbers"),
    (lambda: optim.AdamW([LEAF], betas=(0.9,)), ValueError, r"AdamW: betas is \(0.9,\), needs two numbers"),
    (lambda: optim.SGD([1.0]), TypeError, "parameter 0 is 1.0, needs a tensor"),
    (lambda: optim.SGD([LEAF, LEAF]), ValueError, "parameter 1 is there twice"),
    (lambda: optim.SGD([("w", LEAF * 2)]), GradError, "parameter 'w' is the result of multiply, needs a leaf"),
    (lambda: optim.SGD([mg.tensor([1])]), DTypeError, r"SGD: parameter 0 is int64 \(1,\), needs a floating dtype"),
    (lambda: optim.SGD([LEAF], lr=-0.1), ValueError, "SGD: lr is -0.1, needs a finite number of at least 0"),
    (lambda: optim.SGD([LEAF], lr=math.nan), ValueError, "lr is nan"),
    (lambda: optim.SGD([LEAF], lr=math.inf), ValueError, "lr is inf"),
    (lambda: optim.SGD([LEAF], lr="fast"), ValueError, "lr is 'fast'"),
    (lambda: optim.SGD([LEAF], nesterov=True), ValueError, "SGD: nesterov is True, needs momentum above 0"),
    (lambda: optim.SGD([{"params": [LEAF], "betas": 1}]), ValueError, "needs 'params' and any of lr, momentum"),
    (lambda: optim.SGD([{"lr": 1.0}]), ValueError, "SGD: group is a dict with 'lr'"),
    (lambda: optim.Adam([LEAF], betas=(0.9, 1.0)), ValueError, r"Adam: betas is \(0.9, 1.0\)"),
    (lambda: optim.Adam([{"params": [LEAF], "eps": -1.0}]), ValueError, "Adam: eps is -1.0"),
    (lambda: optim.AdamW([LEAF], weight_decay=-1), ValueError, "AdamW: weight_decay is -1"),
]


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_an_optimizer_of_ones_own_needs_an_update():
    optimizer = optim.Optimizer([LEAF], {"lr": 0.1})
    LEAF.grad = mg.ones((1,))
    with pytest.raises(NotImplementedError, match="Optimizer: needs a method update"):
        optimizer.step()
    LEAF.grad = None


def test_sgd_forgets_its_momentum_when_it_is_switched_off() -> None:
    p = nn.Parameter([1.0, 2.0])
    sgd = optim.SGD([p], lr=0.5, momentum=0.9)
    for momentum in (0.9, 0.0):
        sgd.param_groups[0]["momentum"] = momentum
        p.grad = mg.ones(2)
        sgd.step()
    optim.SGD([p], lr=0.5).load_state_dict(sgd.state_dict())

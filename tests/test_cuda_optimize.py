"""Optimizers on the GPU: their kernels against float64 on the CPU, skipped steps, scaling, norms, and no host reads."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, nn, optim, train
from minigrad._core import dispatch
from minigrad.backend.numbers import DeviceNumber
from minigrad.testing import variants

pytestmark = pytest.mark.usefixtures("gpu")

beta, moments = st.floats(0, 0.99), st.floats(0.9, 0.999)
eps = st.sampled_from([1e-8, 1e-3])
common = {"lr": st.floats(1e-3, 0.1), "weight_decay": st.sampled_from([0.0, 0.02]), "maximize": st.booleans()}
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": st.sampled_from([0.0, 0.9]), "dampening": st.sampled_from([0.0, 0.5])},
    "Adam": {"betas": st.tuples(beta, moments), "eps": eps, "amsgrad": st.booleans()},
    "AdamW": {"betas": st.tuples(beta, moments), "eps": eps, "amsgrad": st.booleans()},
    "NAdam": {"betas": st.tuples(beta, moments), "eps": eps, "decoupled_weight_decay": st.booleans()},
    "RAdam": {"betas": st.tuples(beta, moments), "eps": eps, "decoupled_weight_decay": st.booleans()},
    "RMSprop": {"eps": eps, "momentum": st.sampled_from([0.0, 0.9]), "centered": st.booleans()},
    "Adagrad": {"lr_decay": st.floats(0, 1), "initial_accumulator_value": st.floats(0, 1), "eps": eps},
    "Lion": {"betas": st.tuples(beta, beta)},
}  # fmt: skip
SHAPES = [(), (0,), (1,), (3,), (7, 5), (4, 4), (33,), (2, 2051), (4096,)]
PENALTIES = {
    "none": None, "l1": nn.L1(0.05), "l2": nn.L2(0.02), "both": nn.L1L2(0.05, 0.02), "threshold": nn.ProximalL1(0.3),
}  # fmt: skip


class Case:
    """Parameters with what belongs to them, and gradients of some steps, on any device and in any dtype."""

    def __init__(self, data: st.DataObject, options: dict[str, Any], name: str) -> None:
        self.name, self.options = name, data.draw(st.fixed_dictionaries(common | options), "options")
        if name == "SGD" and self.options["momentum"] and not self.options["dampening"]:
            self.options["nesterov"] = data.draw(st.booleans(), "nesterov")
        self.shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6), "shapes")
        self.offset = data.draw(st.integers(0, 1), "offset")  # whether arrays are aligned
        self.order = data.draw(st.sampled_from("CF"), "order")
        self.seed = data.draw(st.integers(0, 99), "seed")
        self.extras = [(data.draw(st.sampled_from(sorted(PENALTIES))), data.draw(st.booleans())) for _ in self.shapes]

    def run(self, device: str, dtype: Any, steps: int = 4, given: Any = None) -> tuple[list[Any], optim.Optimizer]:
        """The values after some steps, in float64, and the optimizer; `given` is what all is rounded to first."""
        rng = np.random.default_rng(self.seed)
        rounded = lambda x: x.astype(given or dtype).astype(dtype)  # noqa: E731
        params = []
        for shape, (penalty, masked) in zip(self.shapes, self.extras, strict=True):
            flat = rounded(rng.normal(size=math.prod(shape) + self.offset))
            p = nn.Parameter(mg.zeros((), dtype=dtype))
            p._array = mg.tensor(flat, device=device)._array[self.offset :].reshape(shape)
            p.regularizer = PENALTIES[penalty]
            keep = rng.uniform(size=shape) < 0.7
            p.mask = keep if masked else None
            params.append(p)
        self.keeps = [p.mask for p in params]
        optimizer = getattr(optim, self.name)(params, **self.options)
        for _ in range(steps):
            for p in params:
                g = rng.normal(size=p.shape)
                g = g + np.sign(g)  # penalties are smaller: where they cancel it, rounding decides a step of full size
                g = np.asarray(rounded(g), order=self.order)
                p.grad = mg.asarray(g).to(device)
            optimizer.step()
        return [p.detach().to("cpu").numpy().astype(np.float64) for p in params], optimizer


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=max(settings().max_examples // 2, 5))
@given(data=st.data())
def test_they_are_the_rules_in_float64(name: str, data: st.DataObject) -> None:
    case = Case(data, OPTIONS[name], name)
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-5)):
        with variants.generic():
            want, _ = case.run("cpu", np.float64, given=dtype)
        got, optimizer = case.run("cuda", dtype)
        for w, g, keep in zip(want, got, case.keeps, strict=True):
            off = abs(w - g) > tolerance * (1 + abs(w))
            assert np.count_nonzero(off) <= (w.size // 500 if name == "Lion" else 0)  # it steps by signs of differences
            assert keep is None or not g[~keep].any()
        for state in optimizer.state.values():
            assert name == "Lion" or isinstance(state["step"], DeviceNumber)  # a kernel has taken them


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
@settings(max_examples=max(settings().max_examples // 4, 5))
@given(data=st.data())
def test_half_parameters_have_master_weights(dtype: Any, name: str, data: st.DataObject) -> None:
    case = Case(data, OPTIONS[name], name)
    with variants.generic():
        want, reference = case.run("cpu", dtype)
    got, optimizer = case.run("cuda", dtype)
    states = [{k: s["master"] for k, s in o.state_dict()["state"].items()} for o in (reference, optimizer)]
    assert list(states[0]) == list(states[1])
    for w, g, other, own in zip(want, got, *(state.values() for state in states), strict=True):
        assert own.dtype == mg.float32
        off = abs(own.to("cpu").numpy() - other.numpy()) > 2e-5 * (1 + abs(other.numpy()))
        assert np.count_nonzero(off) <= (w.size // 500 if name == "Lion" else 0)
        np.testing.assert_array_equal(g, own.to("cpu").astype(dtype).astype(mg.float64).numpy())
    assert all(isinstance(s.get("step", DeviceNumber(None, 0)), DeviceNumber) for s in optimizer.state.values())


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 1.0, -3.0]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "lion"])
def test_infinities_and_nan_are_those_of_the_cpu(name: str) -> None:
    """Every special value of a parameter against those of two gradients, early and late."""
    x, g, h = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL, SPECIAL))

    def results(device: str, late: bool) -> list[np.ndarray]:
        p = nn.Parameter(mg.tensor(x, dtype=mg.float32, device=device))
        optimizer = MAKE[name]([p])
        for gradient in (*[np.zeros_like(g)] * 6 * late, g, h, np.ones_like(g)):
            p.grad = mg.tensor(gradient, dtype=mg.float32, device=device)
            optimizer.step()
        state = optimizer.state_dict()["state"]["0"].values()
        return [t.to("cpu").numpy() for t in (p.detach(), *state) if isinstance(t, mg.Tensor)]

    for late in (False, True):
        with variants.generic():
            expected = results("cpu", late)
        for ours, theirs in zip(results("cuda", late), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# --- what a skipped step leaves ------------------------------------------------------------------------------------


MAKE: dict[str, Any] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.1),
    "nadam": lambda p: optim.NAdam(p, lr=0.1),
    "radam": lambda p: optim.RAdam(p, lr=0.1, betas=(0.9, 0.99)),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "lion": lambda p: optim.Lion(p, lr=0.1, weight_decay=0.1),
}


def trained(
    device: str,
    name: str,
    sequence: list[bool],
    clip: float | None = None,
    dtype: Any = mg.float32,
    kernels: bool = True,
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Weights, and the states of optimizer and scaler, after steps of which some overflow."""
    rng = np.random.default_rng(0)
    params = [nn.Parameter(mg.tensor(rng.normal(size=s), dtype=dtype, device=device)) for s in ((3, 5), (), (0,), (9,))]
    params[0].mask = rng.uniform(size=(3, 5)) < 0.7
    params[3].regularizer = nn.L1L2(0.1, 0.1)
    optimizer, scaler = MAKE[name](params), amp.GradScaler(init_scale=256.0, growth_interval=2)
    before = dispatch.use_kernels(kernels)
    try:
        for finite in sequence:
            optimizer.zero_grad()
            factors = [mg.tensor(rng.normal(size=p.shape), dtype=dtype, device=device) for p in params]
            loss = sum((p * f).sum() for p, f in zip(params, factors, strict=True))
            loss = loss * (1.0 if finite else math.inf)
            scaler.scale(loss).backward()
            if clip is not None:
                scaler.unscale_(optimizer)
                optim.clip_grad_norm_(params, clip)
            scaler.step(optimizer)
            scaler.update()
    finally:
        dispatch.use_kernels(before)
    return [p.detach().to("cpu").numpy() for p in params], optimizer.state_dict(), scaler.state_dict()


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Weights and states of two runs; numbers are equal to the last digit."""
    for g, w in zip(got[0], want[0], strict=True):
        np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=tolerance, atol=tolerance)
    assert got[2] == want[2]
    assert list(got[1]["state"]) == list(want[1]["state"])
    for key, state in want[1]["state"].items():
        assert list(got[1]["state"][key]) == list(state)
        for field, value in state.items():
            other = got[1]["state"][key][field]
            if isinstance(value, mg.Tensor):
                assert other.dtype == value.dtype
                np.testing.assert_allclose(other.to("cpu").numpy(), value.numpy(), rtol=tolerance, atol=tolerance)
            else:
                assert type(other) is type(value)
                assert other == pytest.approx(value, rel=1e-12) if field == "mu_product" else other == value


@pytest.mark.parametrize("name", MAKE)
@settings(max_examples=max(settings().max_examples // 5, 5))
@given(sequence=st.lists(st.booleans(), min_size=1, max_size=6), clip=st.sampled_from([None, 0.5]))
def test_steps_that_overflow_are_those_of_the_cpu(name: str, sequence: list[bool], clip: float | None) -> None:
    """In whole steps, and in what a checkpoint holds: nothing of a step that was skipped, the first one included."""
    assert_same(trained("cuda", name, sequence, clip), trained("cpu", name, sequence, clip))


@pytest.mark.parametrize("name", ["adamw", "lion"])
@pytest.mark.parametrize("kernels", [True, False])
def test_half_parameters_that_overflow(name: str, kernels: bool) -> None:
    for sequence in ([False], [False, True, True, False, True]):
        want = trained("cpu", name, sequence, dtype=mg.float16)
        assert_same(trained("cuda", name, sequence, dtype=mg.float16, kernels=kernels), want, 1e-3)


def test_what_no_kernel_takes_is_skipped_too() -> None:
    """A constraint that is not idempotent, and a rule without a kernel, in a group of their own."""
    sequences = {}
    for device in ("cpu", "cuda"):
        p, q, r = (nn.Parameter(mg.tensor([1.0, 2.0], device=device)) for _ in range(3))
        q.constraint = lambda x: np.multiply(x, 0.5, out=x)
        optimizers = [optim.AdamW([{"params": [p]}, {"params": [q]}], lr=0.1), optim.Adadelta([r], lr=0.1)]
        scaler, found = amp.GradScaler(), []
        for factor in (math.inf, 1.0, math.nan, 1.0):
            for optimizer in optimizers:
                optimizer.zero_grad()
            scaler.scale(((p + q + r) * factor).sum()).backward()
            done = [bool(scaler.step(optimizer)) for optimizer in optimizers]
            scaler.update()
            found.append((done, [t.tolist() for t in (p, q, r)], scaler.get_scale()))
        sequences[device] = found
        assert found[0][1] == [[1.0, 2.0]] * 3
    for got, want in zip(sequences["cuda"], sequences["cpu"], strict=True):
        assert (got[0], got[2]) == (want[0], want[2])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


def test_one_optimizer_overflows_and_another_does_not() -> None:
    scales = []
    for device in ("cpu", "cuda"):
        p, q = (nn.Parameter(mg.ones((3,), device=device)) for _ in range(2))
        first, second, scaler = optim.SGD([p], lr=0.1), optim.SGD([q, p], lr=0.1), amp.GradScaler()
        scaler.scale((p * 1.0 + q * math.inf).sum()).backward()
        scaler.unscale_(first)  # which has p too: it is unscaled once
        done = [bool(scaler.step(first)), bool(scaler.step(second))]
        scaler.update()
        scales.append((done, p.tolist(), q.tolist(), p.grad.tolist(), scaler.get_scale()))
    assert scales[0] == scales[1]
    assert scales[1][0] == [True, False]


# --- nothing is read back --------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the CPU asks the GPU for."""
    import cupy

    if not hasattr(cupy.ndarray, "__getattr__"):
        pytest.skip("only the arrays of the stand-in can be watched")
    seen: list[str] = []

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("__bool__", "__float__", "__int__", "__iter__", "__dlpack__"):
        monkeypatch.setattr(cupy.ndarray, name, watched(name, getattr(cupy.ndarray, name)))
    lookup = cupy.ndarray.__getattr__

    def found(self: Any, name: str) -> Any:
        if name in ("item", "tolist", "get", "__index__"):
            seen.append(name)
        return lookup(self, name)

    monkeypatch.setattr(cupy.ndarray, "__getattr__", found)
    monkeypatch.setattr(cupy, "asnumpy", watched("asnumpy", cupy.asnumpy))
    return seen


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("dtype", [mg.float32, mg.float16])
def test_a_step_reads_nothing(name: str, dtype: Any, reads: list[str]) -> None:
    import cupy

    rng = np.random.default_rng(0)
    params = [nn.Parameter(mg.tensor(rng.normal(size=s), dtype=dtype, device="cuda")) for s in ((3, 5), (4,))]
    params[0].regularizer = nn.L2(0.1)
    params[1].mask = mg.tensor([True, False, True, True], device="cuda")
    optimizer, scaler = MAKE[name](params), amp.GradScaler(init_scale=256.0, growth_interval=2)
    for step in range(4):
        if (
            name == "lion" and step == 1
        ):  # whose first step with a scale is decided on the CPU: see `Optimizer._guarded`
            reads.clear()
        optimizer.zero_grad()
        losses = [(p * p).sum().astype(mg.float32) * (math.inf if step == 2 else 1.0) for p in params]
        scaler.scale(losses[0] + losses[1]).backward()
        scaler.unscale_(optimizer)
        norm = optim.clip_grad_norm_(params, 1.0)
        done = scaler.step(optimizer)
        scaler.update()
        optim.unscale_(optimizer, 0.5)
    assert reads == []
    assert type(norm._array) is type(done._array) is cupy.ndarray
    assert (bool(done), float(norm) > 0.0, scaler.get_scale()) == (True, True, 256.0)
    assert reads  # by the line above: the watch works


# --- steps that are captured -----------------------------------------------------------------------------------------


class Graph:
    """A captured step: launches with their arguments, and what is computed before each replay."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.launches: list[Any] = []
        self.computed: list[Any] = []
        self.patch = patch

    def capture(self, step: Any) -> None:
        import cupy

        from minigrad.backend.cuda import capture, modules, optimize

        def kernel(source: str, name: str) -> Any:
            return lambda *arguments: self.launches.append((modules.kernel(source, name), arguments))

        def scalars(compute: Any) -> Any:
            array = cupy.zeros(compute().shape, compute().dtype)
            self.computed.append((array, compute))
            return array

        with self.patch.context() as patch:
            patch.setattr(optimize, "kernel", kernel)
            patch.setattr(capture, "offset", lambda: cupy.zeros(1, np.uint64))
            patch.setattr(capture, "scalars", scalars)
            patch.setattr(capture, "constant", lambda values: scalars(lambda: values))
            step()

    def replay(self) -> None:
        import cupy

        for array, compute in self.computed:
            array[...] = cupy.asarray(compute())
        for kernel, arguments in self.launches:
            kernel(*arguments)


@pytest.mark.parametrize("name", MAKE)
def test_a_captured_step_counts_and_follows_the_rate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is frozen are addresses: the rate, and whether the step is done, are those of each replay."""
    rng = np.random.default_rng(4)
    start, gradients = rng.normal(size=(2, 9)), rng.normal(size=(5, 2, 9))
    finite = mg.tensor([True], device="cuda")
    found = []
    for captured in (False, True):
        params = [nn.Parameter(mg.tensor(x, device="cuda")) for x in start]
        for p in params:
            p.grad = mg.zeros((9,), dtype=mg.float64, device="cuda")
        optimizer, graph = MAKE[name](params), Graph(monkeypatch)
        for step, now in enumerate(gradients):
            for p, g in zip(params, now, strict=True):
                p.grad[...] = mg.tensor(g, device="cuda")
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            finite[0] = step != 2
            if captured and step:
                if step == 1:
                    optimizer._finite = finite._array
                    graph.capture(optimizer.step)
                graph.replay()
            elif step != 2:
                optimizer.step()
        found.append(([p.detach().to("cpu").numpy() for p in params], optimizer.state_dict(), {}))
    found[1][1]["param_groups"] = found[0][1]["param_groups"]
    for key, state in found[0][1]["state"].items():
        for field, value in state.items():
            other = found[1][1]["state"][key][field]
            assert (other.tolist() if isinstance(other, mg.Tensor) else other) == (
                value.tolist() if isinstance(value, mg.Tensor) else value
            )
    for a, b in zip(found[0][0], found[1][0], strict=True):
        assert a.tobytes() == b.tobytes()


class Products(nn.Module):
    """One parameter, times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(mg.tensor([0.5, -1.0, 2.0, 1.5], device="cuda"))
        self.weight.regularizer = nn.L2(0.01)

    def forward(self, x: Any) -> Any:
        return self.weight * x


@pytest.mark.parametrize("name", MAKE)
def test_a_graph_of_a_scaled_step(name: str) -> None:
    """Scaled, clipped, with steps that overflow while it is replayed, and a rate that falls: the same bits."""
    found = []
    for graphed in (False, True):
        model = Products()
        optimizer, scaler = MAKE[name](model.parameters()), amp.GradScaler(init_scale=16.0, growth_interval=2)

        def step(x: Any, model: Any = model, optimizer: Any = optimizer, scaler: Any = scaler) -> Any:
            optimizer.zero_grad()
            loss = model(x).sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = optim.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            return norm

        run: Any = train.GraphedStep(step, model, optimizer, scaler=scaler, warmup=2) if graphed else step
        norms = []
        for i in range(8):
            x = mg.tensor([1.0, 2.0, -3.0, math.inf if i in (3, 5) else 0.5 * i], device="cuda")
            norms.append(run(x).item())
            optimizer.param_groups[0]["lr"] *= 0.9
        assert not graphed or run.captured
        state = optimizer.state_dict()["state"]["0"]
        numbers = {k: v.tolist() if isinstance(v, mg.Tensor) else v for k, v in state.items()}
        found.append((norms, model.weight.tolist(), numbers, scaler.state_dict()))
    assert repr(found[0]) == repr(found[1])
    assert found[0][2].get("step", 6) == 6


def test_a_capture_needs_a_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    p = nn.Parameter(mg.ones((2,), device="cuda"))
    p.grad = mg.ones((2,), device="cuda")
    optimizer = optim.AdamW([p])
    with pytest.raises(mg.errors.GradError, match="the count of steps is not on the GPU yet"):
        Graph(monkeypatch).capture(optimizer.step)


# --- norms and clipping ----------------------------------------------------------------------------------------------


values = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1e-40, 3e38, math.inf, -math.inf, math.nan])


@given(
    power=st.sampled_from([0.5, 1.0, 2.0, 3.0, math.inf]),
    special=st.lists(values, max_size=5),
    sizes=st.lists(st.sampled_from([0, 1, 3, 4, 257, 4096, 9001]), min_size=1, max_size=5),
    dtypes=st.lists(st.sampled_from([mg.float32, mg.float64, mg.float16, mg.bfloat16]), min_size=5, max_size=5),
    offset=st.integers(0, 1),
    limit=st.sampled_from([0.0, 1.0, 1e9]),
)
def test_norms_and_clipping(
    power: float, special: list[float], sizes: list[int], dtypes: list[Any], offset: int, limit: float
) -> None:
    rng = np.random.default_rng(len(sizes) + len(special))
    params, own = [], []
    with np.errstate(all="ignore"):
        for n, dtype in zip(sizes, dtypes, strict=False):
            g = rng.normal(size=n + offset)
            g[: len(special)] = special[: n + offset]
            pair = [nn.Parameter(mg.zeros((n,), dtype=dtype, device=d)) for d in ("cpu", "cuda")]
            for p in pair:
                grad = mg.tensor(g.astype(dtype), device=p.device)
                p._grad = nn.Parameter(grad).detach()
                p._grad._array = grad._array[offset:]
            own.append(pair[0])
            params.append(pair[1])
        want, got = optim.grad_norm(own, power), optim.grad_norm(params, power)
        assert type(want) is float
        np.testing.assert_allclose(float(got), want, rtol=1e-12)
        want, got = (optim.clip_grad_norm_(ps, limit, power) for ps in (own, params))
        np.testing.assert_allclose(float(got), want, rtol=1e-12)
        for p, q in zip(own, params, strict=True):
            tolerance = 1e-15 if p.dtype == mg.float64 else 1e-7
            a, b = (t.grad.to("cpu").numpy().astype(np.float64) for t in (p, q))
            np.testing.assert_allclose(b, a, rtol=4 * tolerance)


def test_a_norm_below_the_limit_changes_nothing() -> None:
    p = nn.Parameter(mg.zeros((2,), device="cuda"))
    p.grad = mg.tensor([3.0, 4.0], device="cuda")
    assert optim.clip_grad_norm_([p], 10.0).item() == 5.0
    assert p.grad.tolist() == [3.0, 4.0]
    optim.clip_grad_norm_([p], 2.5)
    assert p.grad.tolist() == pytest.approx([1.5, 2.0], rel=1e-6)


def test_scales_at_the_ends_of_float32() -> None:
    """Factors among the subnormal numbers, and scales that can neither fall nor grow any more."""
    for start, factor in ((3.3e38, 1.0), (2.0**-126, math.inf), (2.0**120, 3e-7)):
        found = []
        for device in ("cpu", "cuda"):
            p = nn.Parameter(mg.tensor([0.1, 3e-7], device=device))
            optimizer, scaler = optim.SGD([p], lr=0.0), amp.GradScaler(init_scale=start, growth_interval=1)
            scaler.scale(mg.zeros((), device=device))
            p.grad = mg.tensor([1.1e30 * factor, 3.3e7], device=device)
            scaler.step(optimizer)
            scaler.update()
            found.append((p.grad.tolist(), scaler.get_scale()))
        assert found[0] == found[1]


def test_large_and_small_squares() -> None:
    for scale in (1e-200, 1e200):
        p = nn.Parameter(mg.zeros((5000,), dtype=mg.float64, device="cuda"))
        p.grad = mg.tensor(np.full(5000, scale), device="cuda")
        assert float(optim.grad_norm([p])) == pytest.approx(scale * math.sqrt(5000.0), rel=1e-13)


def test_an_error_for_a_norm_that_is_not_finite() -> None:
    p = nn.Parameter(mg.zeros((2,), device="cuda"))
    p.grad = mg.tensor([1.0, math.inf], device="cuda")
    with pytest.raises(mg.errors.GradError, match="the norm of the gradients is inf"):
        optim.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.tolist() == [1.0, math.inf]
    assert not optim.unscale_(optim.SGD([p], lr=0.1), 0.5)
    p.grad = mg.tensor([1.0, 3.0], device="cuda")
    assert optim.unscale_(optim.SGD([p], lr=0.1), 0.5)
    assert p.grad.tolist() == [0.5, 1.5]


# --- the state -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_a_state_is_saved_loaded_and_copied(name: str) -> None:
    rng = np.random.default_rng(1)
    gradients = [rng.normal(size=7).astype(np.float32) for _ in range(6)]

    def steps(p: Any, optimizer: Any, given: list[Any]) -> list[float]:
        for g in given:
            p.grad = mg.tensor(g, device="cuda")
            optimizer.step()
        return p.tolist()

    p = nn.Parameter(mg.ones((7,), device="cuda"))
    optimizer = MAKE[name]([p])
    steps(p, optimizer, gradients[:3])
    kept, state = p.clone().detach(), optimizer.state_dict()
    assert state["state"]["0"].get("step", 3) == 3
    assert type(state["state"]["0"].get("step", 3)) is int
    twin = copy.deepcopy(optimizer)
    q = twin.param_groups[0]["params"][0]
    assert type(twin.state[q].get("step", 3)) is int
    want = steps(p, optimizer, gradients[3:])
    other = nn.Parameter(kept)
    loaded = MAKE[name]([other])
    loaded.load_state_dict(state)
    assert steps(other, loaded, gradients[3:]) == steps(q, twin, gradients[3:]) == want
    assert optimizer.state_dict()["state"]["0"].get("step", 6) == 6


@pytest.mark.parametrize("name", MAKE)
def test_kernels_and_generic_bodies_take_turns(name: str) -> None:
    """Parameters without a gradient in some steps, hyperparameters that change, kernels that are switched off."""
    found = []
    for device in ("cpu", "cuda"):
        rng = np.random.default_rng(2)
        params = [nn.Parameter(mg.tensor(rng.normal(size=(5, 3)), dtype=mg.float32, device=device)) for _ in range(3)]
        optimizer = MAKE[name](params)
        group = optimizer.param_groups[0]
        for step in range(8):
            for p in params[:: 1 + step % 2]:
                p.grad = mg.tensor(rng.normal(size=(5, 3)).astype(np.float32), device=device)
            group["lr"] = 0.1 / (step + 1)
            if "momentum" in group:
                group["momentum"] = 0.9 * (step % 3 > 0)
            if "amsgrad" in group:
                group["amsgrad"] = step % 3 > 0
            before = dispatch.use_kernels(step % 4 != 2)
            try:
                optimizer.step()
            finally:
                dispatch.use_kernels(before)
            optimizer.zero_grad()
        found.append(([p.detach().to("cpu").numpy() for p in params], optimizer.state_dict(), {}))
    assert_same(found[1], found[0], 2e-5)


class Doubled(optim.AdamW):
    """A rule of its own, which the kernel must not pass by."""

    def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
        super().update(x, g, state, group)
        super().update(x, g, state, group)


class Ascent(optim.AdamW):
    """One that changes nothing of the rule."""


def test_subclasses() -> None:
    for kind, fused in ((Doubled, False), (Ascent, True)):
        p = nn.Parameter(mg.ones((2,), device="cuda"))
        optimizer = kind([p], lr=0.1)
        p.grad = mg.ones((2,), device="cuda")
        optimizer.step()
        assert isinstance(optimizer.state[p]["step"], DeviceNumber) is fused
        assert optimizer.state[p]["step"] == (1 if fused else 2)


def test_a_half_weight_that_was_written_to_is_read_anew() -> None:
    p = nn.Parameter(mg.ones((4,), dtype=mg.float16, device="cuda"))
    optimizer = optim.SGD([p], lr=2.0**-14)
    for _ in range(3):
        p.grad = mg.ones((4,), dtype=mg.float16, device="cuda")
        optimizer.step()
    with mg.no_grad():
        p[1] = 5.0
    optimizer.step()
    master = mg.asarray(optimizer.state[p]["master"]).tolist()
    assert master == [1 - 4 * 2.0**-14, 5 - 2.0**-14, 1 - 4 * 2.0**-14, 1 - 4 * 2.0**-14]


def test_gradients_are_not_kept() -> None:
    p = nn.Parameter(mg.ones((4, 3), device="cuda"))
    optimizer = optim.AdamW([p])
    for order in "CF":
        p.grad = mg.asarray(np.ones((4, 3), np.float32, order=order)).to("cuda")
        gradient = weakref.ref(p.grad._array)
        optimizer.step()
        assert gradient() is not None
        optimizer.zero_grad()
        assert gradient() is None


def test_a_device_number() -> None:
    import cupy

    n = DeviceNumber(cupy.asarray(np.array([4, 5])), 1)
    assert (int(n), float(n), bool(n), n + 1, n - 1, n * 2, repr(n), n == 5, n == n, [*"abcdef"][n]) == (
        5, 5.0, True, 6, 4, 10, "5", True, True, "f",
    )  # fmt: skip
    assert type(copy.copy(n)) is type(copy.deepcopy([n])[0]) is int


def test_averages_and_sam_with_masks() -> None:
    found = []
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = nn.Dense(3, in_features=4).to(device)
        model.weight.mask = np.arange(12).reshape(4, 3) % 3 > 0
        ema, swa, x = optim.EMA(model, decay=0.5), optim.SWA(model), mg.random.normal((5, 4)).to(device)
        sam = optim.SAM(optim.AdamW(model.parameters(), lr=0.1))

        def closure(model: Any = model, sam: Any = sam, x: Any = x) -> Any:
            sam.zero_grad()
            loss = (model(x) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            sam.step(closure)
            ema.update()
            swa.update()
        with ema.average():
            first = model.weight.tolist()
        with swa.average():
            second = model.weight.tolist()
        found.append((first, second, model.weight.tolist()))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert all(row[0] == 0.0 for weights in found[1] for row in weights)

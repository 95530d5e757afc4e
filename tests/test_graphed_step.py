"""GraphedStep: steps as CUDA graphs give the numbers of the steps themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from graph_functions import RULES, batches, everything, network, nothing_races, plain, same  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, data, nn, optim, train
from minigrad._core import tape
from minigrad.backend.devices import backend_of
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError

pytestmark = pytest.mark.usefixtures("gpu")


def run(make: Callable[[nn.Module], Any], graphed: bool, trainer: Any = None, **options: Any) -> list[Any]:
    """Steps of one network, with a schedule outside of them; the losses, and all that they have moved."""
    model = network()
    optimizer = make(model)
    step = (trainer or plain)(model, optimizer)
    if graphed:
        step = train.GraphedStep(step, model, optimizer, **options)
    losses = []
    schedule = optim.schedules.ExponentialLR(optimizer, 0.9)
    for x, y in batches():
        losses.append(step(x, y))
        schedule.step()
    if graphed:
        assert step.captured
    return [np.array([loss.item() for loss in losses]), *everything(model, optimizer)]


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_without_a_graph(name: str) -> None:
    same(run(RULES[name], True), run(RULES[name], False))


CALLS = st.sampled_from(["graph", "graph", "other graph", "step", "reset", "rate", "draw", "zero"])


@settings(max_examples=10)
@given(calls=st.lists(CALLS, min_size=4, max_size=12), warmup=st.integers(1, 2), rows=st.integers(2, 5))
def test_any_order_of_calls_is_that_of_steps(calls: list[str], warmup: int, rows: int) -> None:
    """Graphs, steps, and what a user does between them, against steps alone."""
    pairs = batches(len(calls), rows)
    found = []
    for graphed in (False, True):
        mg.random.seed(1)
        model = nn.Sequential([nn.Dense(5, "tanh", in_features=4), nn.Dropout(0.4), nn.Dense(1)]).to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = plain(model, optimizer)
        one, two = (train.GraphedStep(step, model, optimizer, warmup=warmup) for _ in range(2))
        losses = []
        for call, (x, y) in zip(calls, pairs, strict=True):
            if call == "reset":
                one.reset()
            elif call == "rate":
                optimizer.param_groups[0]["lr"] *= 0.5
            elif call == "draw":
                mg.random.draw_key()
            elif call == "zero":
                optimizer.zero_grad()
            which = {"graph": one, "other graph": two}.get(call, step) if graphed else step
            losses.append(which(x, y).item())
        found.append([np.array(losses), *everything(model, optimizer)])
    same(*found)


def scaled(model: nn.Module, optimizer: Any, scaler: amp.GradScaler) -> Callable[..., mg.Tensor]:
    """A step with half weights or autocast, loss scaling and clipping, of which nothing is read."""

    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        with amp.autocast(mg.float16):
            loss = ((model(x) - y) ** 2).mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        optim.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


@pytest.mark.parametrize("half", [False, True])
def test_loss_scaling_and_clipping(half: bool) -> None:
    """Some steps overflow, which only the GPU knows of: they are skipped, and the scale goes down and up again."""
    found = []
    for graphed in (False, True):
        model = network()
        model(batches(1)[0][0])
        if half:
            model.to(mg.float16)
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        scaler = amp.GradScaler(2.0**18, growth_interval=3)
        step: Any = scaled(model, optimizer, scaler)
        if graphed:
            step = train.GraphedStep(step, model, optimizer, scaler=scaler, warmup=2)
        losses, scales = [], []
        for x, y in batches():
            losses.append(step(x, y).item())
            scales.append(scaler.get_scale())
        found.append([np.array(losses), np.array(scales), *everything(model, optimizer)])
        assert len(set(scales[3:])) > 1
    same(*found)
    state = scaler.state_dict()
    scaler.load_state_dict(state)
    with pytest.raises(GradError, match="whose scaler is not between two steps, or has another scale"):
        step(x, y)
    step.reset()
    assert step(x, y).shape == ()


@pytest.mark.parametrize("name", ["rule", "adamw"])
def test_two_graphs_and_steps_between_them(name: str) -> None:
    """Graphs and the steps themselves may take turns: memory and counts are the same."""
    found = []
    for graphed in (False, True):
        model = network()
        optimizer = RULES[name](model)
        step = plain(model, optimizer)
        first = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        second = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        losses = [(first, second, step)[i % 3](x, y).item() for i, (x, y) in enumerate(batches(12))]
        found.append([np.array(losses), *everything(model, optimizer)])
    same(*found)


def test_a_capture_that_fails_has_counted_nothing() -> None:
    """A step that reads at its very end, while it is captured; afterwards it goes on as if that had not been."""
    found = []
    for graphed in (False, True):
        model = network()
        optimizer, scaler = RULES["adamw"](model), amp.GradScaler(1024.0)
        inner, reads = scaled(model, optimizer, scaler), [False]

        def step(x: mg.Tensor, y: mg.Tensor, inner: Any = inner, reads: list[bool] = reads) -> mg.Tensor:
            loss = inner(x, y)
            return mg.ones(1) if reads[0] and loss.item() else loss

        both = train.GraphedStep(step, model, optimizer, scaler=scaler, warmup=2) if graphed else step
        losses = []
        for i, (x, y) in enumerate(batches(6)):
            if graphed and i == 2:
                reads[0] = True
                with pytest.raises(DeviceError, match="reads values of the GPU on the host"):
                    both(x, y)
                reads[0] = False
                losses.append(step(x, y).item())
            else:
                losses.append(both(x, y).item())
        found.append([np.array(losses), *everything(model, optimizer)])
    same(*found)


def encoder() -> tuple[nn.Module, list[Any]]:
    rng = np.random.default_rng(0)
    model = nn.Sequential([nn.Embedding(17, 16), nn.TransformerEncoder(1, 2, 32, dropout=0.1), nn.Dense(17)])
    return model, [tuple(mg.tensor(rng.integers(0, 17, (2, 6)), device="cuda") for _ in "xy") for _ in range(4)]


def convolutions() -> tuple[nn.Module, list[Any]]:
    rng = np.random.default_rng(0)
    model = nn.Sequential([nn.Conv2D(4, 3, padding=1, activation="relu"), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(5)])
    images = [mg.tensor(rng.normal(size=(3, 1, 6, 6)).astype(np.float32), device="cuda") for _ in range(4)]
    return model, [(x, mg.tensor(rng.integers(0, 5, 3), device="cuda")) for x in images]


@pytest.mark.parametrize("make", [encoder, convolutions])
def test_models(make: Callable[[], tuple[nn.Module, list[Any]]]) -> None:
    found = []
    for graphed in (False, True):
        mg.random.seed(0)
        model, pairs = make()
        model.to("cuda")
        optimizer = optim.AdamW(model.parameters(), lr=0.01)

        def step(x: mg.Tensor, y: mg.Tensor, model: nn.Module = model, optimizer: Any = optimizer) -> mg.Tensor:
            optimizer.zero_grad()
            with amp.autocast(mg.bfloat16):
                out = model(x)
                loss = nn.functional.cross_entropy(out.reshape(y.size, -1), y.reshape(-1))
            loss.backward()
            optimizer.step()
            return loss

        both: Any = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        found.append([np.array([both(x, y).item() for x, y in pairs]), *everything(model, optimizer)])
    same(*found)


def test_lengths_that_change() -> None:
    rng = np.random.default_rng(0)
    given = [
        (mg.tensor(rng.normal(size=(2, 6, 16)).astype(np.float32), device="cuda"), mg.tensor([i, 6 - i], device="cuda"))
        for i in range(5)
    ]
    found = []
    for graphed in (False, True):
        mg.random.seed(0)
        model = nn.TransformerEncoder(1, 2, 32, dropout=0.1).to("cuda")
        model(given[0][0])
        optimizer = optim.AdamW(model.parameters(), lr=0.01)

        def step(x: mg.Tensor, lengths: mg.Tensor, model: nn.Module = model, optimizer: Any = optimizer) -> mg.Tensor:
            optimizer.zero_grad()
            loss = (model(x, key_lengths=lengths) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        both: Any = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        found.append([np.array([both(*pair).item() for pair in given]), *everything(model, optimizer)])
    same(*found)


def test_gradients_that_are_added_up() -> None:
    """Half a step adds to gradients that are zeroed in place; the update stays outside."""
    found = []
    for graphed in (False, True):
        model = network()
        optimizer = RULES["rule"](model)

        def add(x: mg.Tensor, y: mg.Tensor, model: nn.Module = model) -> mg.Tensor:
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            return loss

        half: Any = train.GraphedStep(add, model, copy=False) if graphed else add
        losses = []
        for i, (x, y) in enumerate(batches(12)):
            losses.append(half(x, y).item())
            if i % 2:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        found.append([np.array(losses), *everything(model, optimizer)])
        if graphed:
            optimizer.zero_grad()
            with pytest.raises(
                GradError, match=r"the gradient of '0.weight' is dropped or replaced.*set_to_none=False"
            ):
                half(x, y)
    same(*found)


def test_outputs_are_copies_unless_they_need_not_be() -> None:
    model = network()
    (x, _y), (z, _), *_ = batches()
    for copy in (True, False):
        step = train.GraphedStep(lambda x: {"out": (model(x), None)}, model, warmup=1, copy=copy)
        step(x)
        first, second = step(x)["out"], step(z)["out"]
        assert first[1] is None
        assert not first[0].requires_grad
        assert (first[0].tolist() != second[0].tolist()) is copy


def test_nests_and_constants() -> None:
    model = nn.Dense(2, in_features=2).to("cuda")
    step = train.GraphedStep(lambda pair, *, scale, name: pair["x"][0] * scale + pair["y"], model, warmup=1)
    x, y = mg.ones(2, device="cuda"), mg.zeros(2, device="cuda")
    for value in (1.0, 2.0, 3.0):
        assert step({"x": [x * value], "y": y}, scale=2, name="a").tolist() == [2 * value] * 2
    assert step.fits({"x": [x], "y": y}, scale=2, name="a")
    with pytest.raises(ValueError, match=r"GraphedStep: argument 'scale' is 3.*needs 2, as captured: it is frozen"):
        step({"x": [x], "y": y}, scale=3, name="a")
    with pytest.raises(ValueError, match="GraphedStep: the batch is argument 0"):
        step({"x": [x, x], "y": y}, scale=2, name="a")
    with pytest.raises(ShapeError, match=r"argument 0\['y'\] is float32 \(3,\), needs float32 \(2,\), as captured"):
        step({"x": [x], "y": mg.zeros(3, device="cuda")}, scale=2, name="a")
    with pytest.raises(DTypeError, match=r"argument 0\['x'\]\[0\] is int64"):
        step({"x": [x.astype(mg.int64)], "y": y}, scale=2, name="a")
    with pytest.raises(DeviceError, match=r"argument 0\['y'\] is a tensor on cpu, needs one on cuda:0"):
        step({"x": [x], "y": y.to("cpu")}, scale=2, name="a")
    with pytest.raises(TypeError, match=r"argument 0\['y'\] is 1.*needs float32 \(2,\), as captured"):
        step({"x": [x], "y": 1}, scale=2, name="a")
    assert step({"x": [x], "y": y}, scale=2, name="a").tolist() == [2.0, 2.0]


# --- Trainer ----------------------------------------------------------------------------------------------------------


def fit(graph: bool, epochs: int = 2, **options: Any) -> list[Any]:
    """A run of a few epochs; the last batch of each is smaller."""
    rows = 18
    mg.random.seed(1)
    layers = [nn.Dense(8, activation="relu", in_features=3), nn.BatchNorm1D(8), nn.Dropout(0.2), nn.Dense(4)]
    trainer = train.Trainer(nn.Sequential(layers), "mse", "sgd", lr=0.1, seed=2, device="cuda", graph=graph, **options)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(rows, n)).astype(np.float32) for n in (3, 4))
    history = trainer.fit((x, y), epochs=epochs, batch_size=4, validation=(x, y), verbose=0)
    if graph:
        assert any(step.captured for step in trainer.pipeline._graphs.steps.values())
    return [*(np.array(v) for v in history.values()), *everything(trainer.model, trainer.optimizer)]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"epochs": 5},
    "schedule, clip, average": {"schedule": "cosine", "clip_norm": 0.5, "ema": 0.9},
    "accumulate": {"accumulate": 3, "regularizer": nn.L2(1e-3)},
    "bf16": {"precision": "bf16"},
    "fp16, accumulate": {"precision": "fp16", "accumulate": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_trainer_gives_the_same_with_graphs(name: str) -> None:
    same(fit(True, **OPTIONS[name]), fit(False, **OPTIONS[name]))


def test_a_trainer_captures_anew_what_a_callback_has_changed() -> None:
    class Unfreeze(train.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any) -> None:
            self.trainer.model[0].weight.requires_grad = epoch > 1

    same(fit(True, 4, callbacks=[Unfreeze()]), fit(False, 4, callbacks=[Unfreeze()]))


def test_what_a_trainer_with_graphs_refuses() -> None:
    model = nn.Dense(2, in_features=2)
    with pytest.raises(DeviceError, match=r"Trainer: graph is True, and the model on the CPU.*device='cuda'"):
        train.Trainer(model, graph=True)
    model.to("cuda")
    with pytest.raises(ValueError, match="Trainer: graph is True beside an adversary"):
        train.Trainer(model, graph=True, adversary=train.FGSM(0.1))
    with pytest.raises(ValueError, match="Trainer: graph is True beside SAM"):
        train.Trainer(model, graph=True, optimizer=optim.SAM(optim.SGD(model.parameters())))


def test_a_loader_that_sends_its_batches() -> None:
    model = network()
    optimizer = RULES["rule"](model)
    graphed = train.GraphedStep(plain(model, optimizer), model, optimizer)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(24, n)).astype(np.float32) for n in (4, 1))
    found = [graphed(*batch).item() for batch in data.DataLoader(data.TensorDataset(x, y), 4, device="cuda")]
    model = network()
    step = plain(model, RULES["rule"](model))
    wanted = [step(*batch).item() for batch in data.DataLoader(data.TensorDataset(x, y), 4, device="cuda")]
    assert found == wanted


# --- what changes from step to step -----------------------------------------------------------------------------------


def test_the_host_before_each_replay() -> None:
    from minigrad.backend.cuda import capture

    model, seen = nn.Dense(1, in_features=1).to("cuda"), []
    numbers = iter(range(100))
    table = np.arange(2000.0)  # more than a block

    def step(x: mg.Tensor) -> tuple[mg.Tensor, ...]:
        made = [capture.scalars(lambda: np.full(700, next(numbers), np.float32)) for _ in range(3)]
        capture.before_replay(lambda: seen.append(1))
        fixed = capture.constant(table)
        return (*(tape.new_tensor(array) + x for array in made), tape.new_tensor(fixed[-1:]) + x)

    graphed = train.GraphedStep(step, model, warmup=1)
    x = mg.zeros(1, device="cuda")
    found = [[int(t[-1]) for t in graphed(x + i)] for i in range(7)]
    assert found[0] == [0, 1, 2, 1999]
    # 3 to 5 are of the capture, which runs nothing
    assert found[1:] == [[3 * i + 3 + k + i for k in range(3)] + [1999 + i] for i in range(1, 7)]
    assert len(seen) == 6


def test_values_of_another_shape() -> None:
    from minigrad.backend.cuda import capture

    model, sizes = nn.Dense(1, in_features=1).to("cuda"), iter([2, 2, 3])
    graphed = train.GraphedStep(
        lambda x: x + tape.new_tensor(capture.scalars(lambda: np.ones(next(sizes), np.float32))), model, warmup=1
    )
    graphed(mg.zeros(1, device="cuda"))
    with pytest.raises(
        GradError, match=r"capture.scalars: what it is to compute is float32 \(3,\), needs float32 \(2,\)"
    ):
        graphed(mg.zeros(1, device="cuda"))


def test_replays_on_two_streams() -> None:
    model, side = network(), mg.cuda.Stream()
    graphed = train.GraphedStep(lambda x: model(x), model, warmup=1, copy=False)
    mg.random.seed(5)
    found = []
    for i, (x, _) in enumerate(batches(6)):
        if i % 2:
            side.wait_stream(mg.cuda.current_stream())
            with side:
                out = graphed(x)
            mg.cuda.current_stream().wait_stream(side)
        else:
            out = graphed(x)
        found.append(out.tolist())
    model = network()
    mg.random.seed(5)
    assert found == [model(x).tolist() for x, _ in batches(6)]


@pytest.mark.parametrize("fails", [False, True])
def test_casts_of_autocast_do_not_cross_the_edges_of_a_capture(fails: bool) -> None:
    """One from before is made again in the graph, and one of the graph is made again behind it."""
    w, x = (mg.tensor(np.full((2, 2), value, np.float32), device="cuda", requires_grad=True) for value in (3.0, 1.0))
    backend = backend_of("cuda", "tests")[0]
    with amp.autocast(mg.bfloat16):
        h, k = x * 2.0, x * 4.0
        assert mg.linear(h, w).tolist() == [[12.0] * 2] * 2

        def step() -> Any:
            made = mg.linear(h, w)
            mg.linear(k, w)
            return made.tolist() if fails else made

        with pytest.raises(DeviceError) if fails else nullcontext():
            graph = backend.graph(step, "test", backend.stream("cuda:0"))
        assert mg.linear(k, w).tolist() == [[24.0] * 2] * 2
    if not fails:
        h._array[...] = 1.0
        graph.prepare(0)
        graph.launch()
        assert graph.outputs.tolist() == [[6.0] * 2] * 2

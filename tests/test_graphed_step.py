"""GraphedStep: steps as CUDA graphs give the numbers of the steps themselves, and say what they cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import amp, data, nn, optim, train
from minigrad._core import tape
from minigrad.backend.rows import RowSparse
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError

pytestmark = pytest.mark.usefixtures("gpu")

BATCHES = 9


def batches(count: int = BATCHES, rows: int = 6) -> list[tuple[mg.Tensor, mg.Tensor]]:
    rng = np.random.default_rng(7)
    pairs = [(rng.normal(size=(rows, 4)), rng.normal(size=(rows, 1))) for _ in range(count)]
    return [tuple(mg.tensor(a.astype(np.float32), device="cuda") for a in pair) for pair in pairs]  # type: ignore[misc]


def network() -> nn.Module:
    mg.random.seed(3)
    layers = [nn.Dense(8, "gelu", in_features=4), nn.BatchNorm1D(8), nn.Dropout(0.3), nn.LayerNorm(8), nn.Dense(1)]
    return nn.Sequential(layers).to("cuda")


class Rule(optim.Optimizer):
    """A rule of a user's: its rate is read on the GPU, and steps are counted before each replay."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def init(self, x: Any, group: Any) -> Any:
        return {"step": 0, "mean": np.zeros_like(x)}

    def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
        from minigrad.backend.cuda import capture

        def rate() -> Any:
            state["step"] += 1
            return np.array([group["lr"] / state["step"]], np.float32)

        state["mean"] *= 0.5
        state["mean"] += g
        x -= capture.scalars(rate) * state["mean"]


def everything(model: nn.Module, optimizer: Any) -> list[Any]:
    """All numbers that a step moves, on the CPU."""
    found = [t.detach().to("cpu").numpy() for _, t, _ in model._tensors()]
    found += [p.grad.detach().to("cpu").numpy() for p in model.parameters() if p.grad is not None]
    for state in optimizer.state_dict()["state"].values():
        found += [np.asarray(v.to("cpu").numpy() if isinstance(v, mg.Tensor) else v) for v in state.values()]
    return [*found, np.asarray(mg.random.get_state()["counter"])]


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


def plain(model: nn.Module, optimizer: Any) -> Callable[..., mg.Tensor]:
    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def same(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


RULES: dict[str, Callable[[nn.Module], Any]] = {
    "rule": lambda model: Rule(model.parameters(), 0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_without_a_graph(name: str) -> None:
    same(run(RULES[name], True), run(RULES[name], False))


def test_two_graphs_and_steps_between_them() -> None:
    """Graphs and the steps themselves may take turns: memory and counts are the same."""
    found = []
    for graphed in (False, True):
        model = network()
        optimizer = RULES["rule"](model)
        step = plain(model, optimizer)
        first = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        second = train.GraphedStep(step, model, optimizer, warmup=1) if graphed else step
        losses = [(first, second, step)[i % 3](x, y).item() for i, (x, y) in enumerate(batches(12))]
        found.append([np.array(losses), *everything(model, optimizer)])
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


# --- what cannot be captured ------------------------------------------------------------------------------------------


def hooked(model: nn.Module) -> None:
    model.parameters()[0].register_hook(lambda g: print(float(g.sum())))


MISUSES: dict[str, tuple[Callable[..., Any], str]] = {
    "item": (
        lambda model, x: model(x).sum().item(),
        r"reads values of the GPU on the host.*test_graphed_step.py:\d+, in",
    ),
    "tolist": (lambda model, x: model(x).tolist(), "reads values of the GPU on the host"),
    "float": (lambda model, x: float(model(x).sum()), "reads values of the GPU on the host"),
    "bool": (lambda model, x: 1 if model(x).sum() > 0 else 2, "reads values of the GPU on the host"),
    "repr": (lambda model, x: repr(model(x)), "reads values of the GPU on the host"),
    "to": (lambda model, x: model(x).to("cpu"), "reads values of the GPU on the host"),
    "shape": (lambda model, x: x[x > 0], "copies, and waits for it|reads values of the GPU"),
    "nonzero": (lambda model, x: mg.nonzero(x), "copies, and waits for it|reads values of the GPU"),
    "upload": (
        lambda model, x: model(x) * mg.tensor(np.ones((6, 1), np.float32), device="cuda"),
        "copies an array from the CPU",
    ),
    "synchronize": (lambda model, x: mg.cuda.current_stream().synchronize(), "waits for the GPU"),
    "draw": (
        lambda model, x: x * mg.random.uniform((), device="cpu").item(),
        "one on the host, while a step is captured",
    ),
    "number": (lambda model, x: 1.0, "what the step returns is 1"),
    "other device": (lambda model, x: mg.ones(2), "what the step returns is a tensor on the CPU"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_what_cannot_be_captured_says_so(name: str) -> None:
    misuse, text = MISUSES[name]
    model = network()
    x, _ = batches(1)[0]
    calls = []

    def step(x: mg.Tensor) -> Any:
        calls.append(1)
        loss = model(x).sum()
        loss.backward()
        found = misuse(model, x)
        return found if isinstance(found, (mg.Tensor, float)) else None

    graphed = train.GraphedStep(step, model, warmup=1)
    graphed(x)
    before = everything(model, optim.SGD(model.parameters()))
    for _ in range(2):
        with pytest.raises((DeviceError, GradError), match=text):
            graphed(x)
        assert not graphed.captured
    same(before, everything(model, optim.SGD(model.parameters())))  # nothing has run, and nothing was counted
    step(x)  # and the step itself goes on
    good = train.GraphedStep(lambda x: model(x), model, warmup=1)
    good(x)
    assert good(x).shape == (6, 1)
    assert good.captured


def test_a_hook_that_reads_is_named() -> None:
    model = network()
    x, _ = batches(1)[0]
    graphed = train.GraphedStep(lambda x: model(x).sum().backward(), model, warmup=1)
    graphed(x)
    hooked(model)
    with pytest.raises(
        DeviceError, match=r"reads values of the GPU on the host.*test_graphed_step.py:\d+, in <lambda>"
    ):
        graphed(x)


def test_an_error_of_the_step_itself_comes_through() -> None:
    model = network()
    x, _ = batches(1)[0]
    trouble: list[Exception] = []

    def step(x: mg.Tensor) -> mg.Tensor:
        if trouble:
            raise trouble[0]
        return model(x)

    graphed = train.GraphedStep(step, model, warmup=1)
    graphed(x)
    trouble.append(KeyError("own"))
    with pytest.raises(KeyError, match="own"):
        graphed(x)
    trouble.clear()
    assert graphed(x).shape == (6, 1)


def test_row_sparse_gradients_are_refused() -> None:
    model = nn.Dense(2, in_features=2).to("cuda")

    def step(x: mg.Tensor) -> None:  # as one that keeps the rows used alone would leave it
        rows = RowSparse((2, 2), np.array([1]), np.ones((1, 2), np.float32))
        model.weight._grad = tape.new_tensor(rows)

    graphed = train.GraphedStep(step, model)
    with pytest.raises(GradError, match=r"the gradient of 'weight' is row-sparse.*sparse=False"):
        graphed(mg.ones(2, device="cuda"))


def test_the_cpu_is_refused() -> None:
    model = nn.Dense(2, in_features=2)
    graphed = train.GraphedStep(lambda x: model(x), model)
    with pytest.raises(DeviceError, match="GraphedStep: the device of 'weight' is 'cpu', needs a GPU"):
        graphed(mg.ones((1, 2)))
    model.to("cuda")
    with pytest.raises(DeviceError, match="GraphedStep: argument 0 is a tensor on cpu, needs one on cuda:0"):
        graphed(mg.ones((1, 2)))
    with pytest.raises(GradError, match="argument 0 is a tensor that requires grad"):
        graphed(mg.ones((1, 2), device="cuda").to("cuda") * mg.tensor(1.0, device="cuda", requires_grad=True))
    with pytest.raises(TypeError, match=r"argument 0 is .*needs a tensor on cuda:0, or a constant"):
        graphed(np.ones((1, 2)))
    with pytest.raises(TypeError, match="GraphedStep: models is 3"):
        train.GraphedStep(lambda x: x, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="GraphedStep: step is 3"):
        train.GraphedStep(3, model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="warmup"):
        train.GraphedStep(lambda x: x, model, warmup=0)


# --- what must stay ---------------------------------------------------------------------------------------------------


def set_seed(model: Any, optimizer: Any) -> None:
    mg.random.seed(99)


def set_eval(model: Any, optimizer: Any) -> None:
    model.eval()


def move(model: Any, optimizer: Any) -> None:
    model[0].weight._array = model[0].weight._array.copy()


def freeze(model: Any, optimizer: Any) -> None:
    model[0].weight.requires_grad = False


def prune(model: Any, optimizer: Any) -> None:
    model[0].weight.mask = np.ones((4, 8), bool)


def load(model: Any, optimizer: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


CHANGES: dict[str, tuple[Callable[..., None], str]] = {
    "seed": (set_seed, "another seed of the default generator"),
    "eval": (set_eval, r"between train\(\) and eval\(\)"),
    "move": (move, "one whose '0.weight' lies in other memory"),
    "freeze": (freeze, "one whose '0.weight' has requires_grad=False"),
    "prune": (prune, "another mask of a parameter"),
    "load": (load, "whose optimizer has another state"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_frozen_must_stay(name: str) -> None:
    change, text = CHANGES[name]
    model = network()
    optimizer = RULES["rule"](model)
    graphed = train.GraphedStep(plain(model, optimizer), model, optimizer, warmup=1)
    pairs = batches(4)
    for x, y in pairs[:3]:
        graphed(x, y)
    change(model, optimizer)
    before = everything(model, optimizer)
    with pytest.raises(GradError, match=f"GraphedStep: the step is .*{text}.*Call reset"):
        graphed(*pairs[3])
    same(before, everything(model, optimizer))
    if name != "prune":  # the rule of this test knows no masks of NumPy's
        graphed.reset()
        graphed(*pairs[3])
        graphed(*pairs[3])
        assert graphed.captured


def test_modes_must_stay() -> None:
    model = network()
    graphed = train.GraphedStep(lambda x: model(x), model, warmup=1)
    x, _ = batches(1)[0]
    graphed(x), graphed(x)
    with mg.no_grad(), pytest.raises(GradError, match="under another autocast, no_grad or evaluation"):
        graphed(x)
    with amp.autocast(mg.bfloat16), pytest.raises(GradError, match="under another autocast, no_grad or evaluation"):
        graphed(x)
    graphed(x)


class Frozen(optim.Optimizer):
    """Reads its rate on the host; with `counts` it counts steps there too."""

    def __init__(self, params: Any, lr: float, counts: bool = False) -> None:
        super().__init__(params, {"lr": lr, "counts": counts})

    def init(self, x: Any, group: Any) -> Any:
        return {"step": 0} if group["counts"] else {}

    def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
        if group["counts"]:
            state["step"] += 1
        x -= group["lr"] * g


def test_numbers_that_a_rule_has_frozen() -> None:
    model, pairs = network(), batches(4)
    optimizer = Frozen(model.parameters(), 0.1)
    graphed = train.GraphedStep(plain(model, optimizer), model, optimizer, warmup=1)
    for x, y in pairs[:3]:
        graphed(x, y)
    optimizer.param_groups[0]["lr"] = 0.05
    with pytest.raises(GradError, match=r"'lr' of Frozen is 0.05, 0.1 when the step was captured, needs the same"):
        graphed(*pairs[3])
    counting = Frozen(model.parameters(), 0.1, counts=True)
    graphed = train.GraphedStep(plain(model, counting), model, counting, warmup=1)
    graphed(*pairs[0])
    with pytest.raises(GradError, match="the state 'step' of Frozen is counted on the host"):
        graphed(*pairs[1])
    assert {state["step"] for state in counting.state.values()} == {1}


def test_a_count_that_no_replay_moves() -> None:
    class Half(Rule):
        def update(self, x: Any, g: Any, state: Any, group: Any) -> None:
            from minigrad.backend.cuda import capture

            state["step"] += 1
            x -= capture.scalars(lambda: np.array([group["lr"] / state["step"]], np.float32)) * g

    model, (x, y) = network(), batches(1)[0]
    optimizer = Half(model.parameters(), 0.1)
    graphed = train.GraphedStep(plain(model, optimizer), model, optimizer, warmup=1)
    graphed(x, y)
    before = everything(model, optimizer)
    with pytest.raises(GradError, match="the state 'step' of an optimizer is frozen by the capture"):
        graphed(x, y)
    same(before, everything(model, optimizer))


def test_what_moves_inside_of_the_step() -> None:
    model, (x, y) = network(), batches(1)[0]
    optimizer = RULES["rule"](model)
    schedule = optim.schedules.ExponentialLR(optimizer, 0.5)
    inner = plain(model, optimizer)

    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        loss = inner(x, y)
        schedule.step()
        return loss

    graphed = train.GraphedStep(step, model, optimizer, warmup=1)
    graphed(x, y)
    with pytest.raises(GradError, match=r"a hyperparameter of Rule is changed in the step.*schedules move on outside"):
        graphed(x, y)
    late = nn.Dense(1, in_features=4).to("cuda")
    both = RULES["rule"](late)
    count: list[int] = []

    def sometimes(x: mg.Tensor, y: mg.Tensor) -> None:
        count.append(1)
        both.zero_grad()
        ((late(x) if len(count) > 1 else x.sum() * late.bias) - y).sum().backward()
        both.step()

    graphed = train.GraphedStep(sometimes, late, both, warmup=1)
    graphed(x, y)
    with pytest.raises(GradError, match=r"the state 'step' of Rule is made by the step.*raise warmup"):
        graphed(x, y)


def test_random_numbers_of_another_generator() -> None:
    model, (x, _) = network(), batches(1)[0]
    own = mg.random.Generator(5)
    graphed = train.GraphedStep(lambda x: mg.dropout(x, 0.5, key=own.draw_key()), model, warmup=1)
    graphed(x)
    with pytest.raises(GradError, match="the random numbers of the step is of another generator"):
        graphed(x)


# --- Trainer ----------------------------------------------------------------------------------------------------------


def fit(graph: bool, rows: int = 22, **options: Any) -> list[Any]:
    """A run of a few epochs; the last batch of each is smaller."""
    mg.random.seed(1)
    layers = [nn.Dense(8, activation="relu", in_features=3), nn.BatchNorm1D(8), nn.Dropout(0.2), nn.Dense(4)]
    trainer = train.Trainer(nn.Sequential(layers), "mse", "sgd", lr=0.1, seed=2, device="cuda", graph=graph, **options)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(rows, n)).astype(np.float32) for n in (3, 4))
    history = trainer.fit((x, y), epochs=4, batch_size=4, validation=(x, y), verbose=0)
    if graph:
        assert any(step.captured for step in trainer.pipeline._graphs.steps.values())
    return [*(np.array(v) for v in history.values()), *everything(trainer.model, trainer.optimizer)]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
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

    same(fit(True, callbacks=[Unfreeze()]), fit(False, callbacks=[Unfreeze()]))


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

"""GraphedStep: what cannot be captured, and what must stay as it was, is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_functions import RULES, Rule, batches, everything, network, nothing_races, plain, same  # noqa: F401

import minigrad as mg
from minigrad import amp, nn, optim, train
from minigrad._core import tape
from minigrad.backend.rows import RowSparse
from minigrad.errors import DeviceError, GradError

pytestmark = pytest.mark.usefixtures("gpu")


def hooked(model: nn.Module) -> None:
    model.parameters()[0].register_hook(lambda g: print(float(g.sum())))


MISUSES: dict[str, tuple[Callable[..., Any], str]] = {
    "item": (
        lambda model, x: model(x).sum().item(),
        r"reads values of the GPU on the host.*test_graphed_misuse.py:\d+, in",
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
        DeviceError, match=r"reads values of the GPU on the host.*test_graphed_misuse.py:\d+, in <lambda>"
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

"""Tensors on a GPU: every op of the registry, by CuPy where there is one, else by a stand-in that is as strict."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import amp, autograd, data, io, nn, optim, train
from minigrad.errors import DeviceError
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.tolerances import assert_close
from minigrad.testing.trial import Trial, trials
from minigrad.testing.variants import generic

pytestmark = pytest.mark.usefixtures("gpu")


def results(trial: Trial, device: str, order: int) -> list[Any]:
    """Outputs, gradients, and gradients of a function of the gradients, as arrays on the CPU."""
    inputs = trial.inputs()
    given = [
        new(v, requires_grad=order > 0 and i in trial.varying, device=device) if isinstance(v, np.ndarray) else v
        for i, v in enumerate(inputs)
    ]
    made: Any = trial.op(*given, **trial.case.params)
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    found = [t.detach() for t in outputs]
    rng = np.random.default_rng(trial.number)
    live = [t for t in outputs if t.requires_grad]
    leaves = [given[i] for i in trial.varying if order]
    if live:
        seeds = [new(rng.uniform(0.5, 1.5, t.shape).astype(t.dtype), device=device) for t in live]
        first = autograd.grad(live, leaves, seeds, create_graph=order > 1, allow_unused=True)
        found += [g.detach() for g in first if g is not None]
        again = [g for g in first if g is not None and g.requires_grad]
        if again:
            seeds = [new(rng.uniform(0.5, 1.5, g.shape).astype(g.dtype), device=device) for g in again]
            found += [g for g in autograd.grad(again, leaves, seeds, allow_unused=True) if g is not None]
    assert {t.device for t in found} == {device}
    return [t.to("cpu")._array for t in found]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_ops_are_those_of_the_cpu(name: str, order: int) -> None:
    for trial in trials(REGISTRY[name]):
        if name == "to_device":
            continue
        try:
            with generic():
                want = results(trial, "cpu", order)
            got = results(trial, "cuda:0", order)
            assert len(want) == len(got)
            for w, g in zip(want, got, strict=True):
                assert w.dtype == g.dtype
                assert_close(g, w, w.dtype, "on the GPU", floor=0.1)  # what cancels to 0 leaves roundings
        except Exception as error:
            error.add_note(f"{name}, sample {trial.number}: {trial.case}")
            raise


def test_moving_is_differentiable() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = (x.to("cuda") ** 3).to("cpu") * x
    assert y.device == "cpu"
    (first,) = mg.grad(y.sum(), [x], create_graph=True)
    (second,) = mg.grad(first.sum(), [x])
    assert first.tolist() == [4.0, 32.0]
    assert second.tolist() == [12.0, 48.0]


def test_names_and_numbers_of_devices() -> None:
    x = mg.ones(2, device="cuda")
    assert (x.device, x.to("cuda") is x, x.to("cpu").device) == ("cuda:0", True, "cpu")
    assert mg.zeros_like(x).device == mg.asarray(x).device == mg.tensor(x).device == "cuda:0"
    assert mg.arange(3, device="cuda:0").device == "cuda:0"
    assert mg.asarray(x, device="cpu").device == "cpu"
    assert x.tolist() == [1.0, 1.0]
    assert repr(x) == "tensor([1., 1.])"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", 0, "cuda:99"])
def test_a_device_that_is_not_there(device: Any) -> None:
    with pytest.raises(DeviceError, match="ones: device is"):
        mg.ones(2, device=device)


def test_devices_do_not_mix() -> None:
    x, y = mg.ones(2), mg.ones(2, device="cuda")
    with pytest.raises(DeviceError, match="add: its inputs are on cpu and cuda:0, needs all on one device"):
        x + y
    with pytest.raises(DeviceError, match=r"numpy: x is a tensor on cuda:0, needs one on the CPU. Call t.to"):
        y.numpy()
    with pytest.raises(DeviceError, match="numpy: x is a tensor on cuda:0"):
        np.asarray(y)
    assert (y * 2 + np.float64(1)).tolist() == [3.0, 3.0]


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, lr=1e-2, eps=1e-4, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2, eps=1e-4),
    "nadam": lambda p: optim.NAdam(p, lr=1e-2, eps=1e-4),
    "radam": lambda p: optim.RAdam(p, lr=1e-2, eps=1e-4),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2, eps=1e-4),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2, eps=1e-4),
    "adadelta": lambda p: optim.Adadelta(p, eps=1e-4),
    "adafactor": lambda p: optim.Adafactor(p, lr=1e-2),
    "lion": lambda p: optim.Lion(p, lr=1e-3),
    "lamb": lambda p: optim.LAMB(p, lr=1e-2, eps=1e-4),
    "lars": lambda p: optim.LARS(p, lr=1e-1),
    "muon": lambda p: optim.Muon(p, lr=1e-2),
}


def train_on(device: str, optimizer: str, dtype: Any = mg.float32) -> tuple[list[float], list[Any]]:
    """Steps on a small network with embedding, attention, dropout, norm."""
    mg.random.seed(3)
    model = nn.Sequential(
        [
            nn.Embedding(7, 8),
            nn.TransformerEncoder(1, 2, 16, dropout=0.2, bias=False),
            nn.Flatten(),
            nn.Dense(3, bias=False, in_features=40),
        ]
    )
    ids, targets = mg.random.integers(0, 7, (6, 5)), mg.random.integers(0, 3, (6,))
    model(ids)
    model.to(device).to(dtype)
    made = OPTIMIZERS[optimizer]([p for p in model.parameters() if p.ndim > 1 or optimizer != "muon"])
    losses = []
    for _ in range(4):
        made.zero_grad()
        loss = nn.functional.cross_entropy(model(ids.to(device)), targets.to(device))
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        made.step()
        losses.append(loss.item())
    return losses, [p.detach().to("cpu").numpy() for p in model.parameters()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_the_cpu(optimizer: str) -> None:
    """With the same seed the dropout masks are the same too."""
    (losses, weights), (want_losses, want) = train_on("cuda", optimizer), train_on("cpu", optimizer)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-4)
    for w, g in zip(want, weights, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-2, atol=1e-4)


def test_copies_stay_where_they_are() -> None:
    x = mg.tensor([1.0, 2.0], device="cuda:1", requires_grad=True)
    assert x.device == "cuda:1"
    for other in (copy.copy(x), copy.deepcopy(x), x.detach(), x.clone()):
        assert (other.device, other.tolist()) == ("cuda:1", [1.0, 2.0])
    assert pickle.loads(pickle.dumps(x)).device == "cpu"  # the reader may have no GPU


def test_changes_in_place() -> None:
    x = mg.zeros((3, 2), device="cuda")
    x[1] = 5.0
    x[mg.asarray([0, 2], device="cuda"), 0] += 1.0
    x *= 2
    assert x.tolist() == [[2.0, 0.0], [10.0, 10.0], [2.0, 0.0]]
    assert x[np.array([2, 0])].tolist() == [[2.0, 0.0], [2.0, 0.0]]
    assert x[x > 5].tolist() == [10.0, 10.0]


def test_random_numbers_are_those_of_the_cpu() -> None:
    for name, arguments in {"normal": ((5,),), "uniform": ((5,),), "integers": (0, 9, (5,))}.items():
        mg.random.seed(1)
        here = getattr(mg.random, name)(*arguments)
        mg.random.seed(1)
        there = getattr(mg.random, name)(*arguments, device="cuda")
        assert (there.device, there.tolist()) == ("cuda:0", here.tolist())


def test_halves_and_scaling() -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = nn.Dense(3, in_features=4).to(mg.float16).to(device)
        sgd, scaler = optim.SGD(model.parameters(), lr=0.1), amp.GradScaler()
        x = mg.random.normal((5, 4)).to(device)
        losses[device] = []
        for _ in range(3):
            sgd.zero_grad()
            with amp.autocast(mg.float16):
                loss = (model(x) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.step(sgd)
            scaler.update()
            losses[device].append(loss.item())
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-2)


def test_tables_with_row_sparse_gradients() -> None:
    weights = {}
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        table = nn.Embedding(6, 3, sparse=True).to(device)
        adam = optim.Adam(table.parameters(), lr=0.1)
        for _ in range(2):
            adam.zero_grad()
            (table(mg.asarray([1, 4, 1], device=device)) ** 2).sum().backward()
            adam.step()
        weights[device] = table.weight.detach().to("cpu").numpy()
    np.testing.assert_allclose(weights["cuda"], weights["cpu"], rtol=1e-5)


def test_checkpoints_move_between_devices(tmp_path: Path) -> None:
    model = nn.Dense(2, in_features=3).to("cuda")
    io.save_weights(tmp_path / "w.safetensors", model.state_dict())
    other = nn.Dense(2, in_features=3)
    other.load_state_dict(io.load_weights(tmp_path / "w.safetensors"))
    assert other.weight.device == "cpu"
    np.testing.assert_array_equal(other.weight.detach().numpy(), model.weight.detach().to("cpu").numpy())
    back = nn.Dense(2, in_features=3).to("cuda")
    back.load_state_dict(other.state_dict())
    assert back.weight.device == "cuda:0"
    assert back.weight.tolist() == model.weight.tolist()


def test_the_trainer_on_a_device() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)).astype(np.float32), rng.integers(0, 3, 32)
    losses = {}
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = nn.Sequential([nn.Dense(8, activation="relu", in_features=4), nn.Dropout(0.1), nn.Dense(3)])
        trainer = train.Trainer(model, "cross_entropy", "adam", metrics=["accuracy"], device=device, clip_norm=1.0)
        trainer.fit(data.TensorDataset(x, y), epochs=2, batch_size=8, verbose=0)
        losses[device] = trainer.history["loss"]
        assert {p.device.partition(":")[0] for p in model.parameters()} == {device}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-4)


def test_dlpack() -> None:
    import cupy

    x = mg.ones(3, device="cuda")
    assert x.__dlpack_device__()[0] == 2
    own = cupy.asarray(np.arange(3.0))
    assert mg.asarray(own).device == "cuda:0"
    assert mg.from_dlpack(own).tolist() == [0.0, 1.0, 2.0]
    assert (x.astype(mg.float64) + own).tolist() == [1.0, 2.0, 3.0]


def test_all_kernels_are_compiled_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    mg.zeros(1, device="cuda")
    from minigrad.backend.cuda import modules, sources

    made = []

    class Module:
        def __init__(self, code: str, options: tuple[str, ...]) -> None:
            self.code = code

        def compile(self) -> None:
            made.append((self.code, mg.cuda.current_device()))

    monkeypatch.setattr(modules.cupy, "RawModule", Module)
    modules.module.cache_clear()
    try:
        mg.cuda.compile_kernels("cuda:1")
    finally:
        modules.module.cache_clear()
    names = [path.stem for path in sources.FOLDER.glob("*.cu")]
    assert sorted(made) == sorted((sources.text(name), "cuda:1") for name in names)
    assert mg.cuda.current_device() == "cuda:0"
    with pytest.raises(DeviceError, match="compile_kernels"):
        mg.cuda.compile_kernels("cuda:99")


def test_what_is_said_of_gpus() -> None:
    assert mg.cuda.is_available()
    assert mg.cuda.device_count() >= 1
    assert mg.cuda.current_device() == "cuda:0"
    mg.cuda.synchronize()
    mg.cuda.empty_cache()
    mg.cuda.set_memory_limit(fraction=0.5)
    stats = mg.cuda.memory_stats()
    assert 0 < stats["limit"] <= stats["total"]
    mg.cuda.set_memory_limit(0)
    assert mg.cuda.memory_stats()["limit"] == 0
    assert mg.cuda.get_device_properties()["multiprocessors"] > 0
    if mg.cuda.device_count() > 1:
        mg.cuda.set_device(1)
        assert mg.ones(1, device="cuda").device == "cuda:1"
        mg.cuda.set_device("cuda:0")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mg.cuda.set_device("cpu"), "set_device: device is 'cpu', needs a GPU"),
        (lambda: mg.cuda.set_device(99), "set_device: device is 'cuda:99', needs a number below"),
        (lambda: mg.cuda.set_memory_limit(), "set_memory_limit: size, fraction is"),
        (lambda: mg.cuda.set_memory_limit(-1), "set_memory_limit: size is -1"),
        (lambda: mg.cuda.set_memory_limit(fraction=2.0), "set_memory_limit: fraction is 2.0"),
    ],
)
def test_what_gpus_refuse(call: Any, text: str) -> None:
    with pytest.raises((DeviceError, ValueError), match=text):
        call()


def test_what_cupy_does_not_do_to_bfloat16() -> None:
    """Elements are picked and put in order as they are, and gradients have the dtype."""
    rng = np.random.default_rng(0)
    given, other = (rng.normal(size=(4, 5)).astype(mg.bfloat16) for _ in range(2))
    places = np.array([2, 0, 2])
    calls = {
        "where": lambda x, y: mg.where(x > 0, x, y),
        "where a number": lambda x, y: mg.where(x > 0, x, 0.5),
        "tril": lambda x, y: mg.tril(x) + mg.triu(y),
        "sort": lambda x, y: mg.sort(x) + mg.sort(y, axis=0, descending=True),
        "argsort": lambda x, y: mg.argsort(x, axis=0, descending=True),
        "topk": lambda x, y: mg.topk(x, 2)[0],
        "searchsorted": lambda x, y: mg.searchsorted(mg.sort(x[0]), y[1]),
        "count_nonzero": lambda x, y: mg.count_nonzero(x, axis=1, keepdims=True),
        "diagonal": lambda x, y: mg.linalg.diagonal(x),
        "put": lambda x, y: x.at[mg.tensor(places, device=x.device)].set(y[:3]),
        "max": lambda x, y: mg.max(x, axis=1),
        "unique": lambda x, y: mg.unique_values(x),
    }
    for name, call in calls.items():
        found = []
        for device in ("cpu", "cuda"):
            x, y = (mg.tensor(a, device=device, requires_grad=True) for a in (given, other))
            out = call(x, y)
            results = [out]
            if out.requires_grad:
                out.backward(mg.tensor(rng_like(out.shape), device=device))
                results += [t.grad for t in (x, y) if t.grad is not None]
            found.append([(t.dtype, t.detach().to("cpu").numpy().tobytes()) for t in results])
        assert found[0] == found[1], name


def rng_like(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=shape).astype(mg.bfloat16)


def test_linear_algebra_says_where_it_fails() -> None:
    flat = mg.zeros((2, 2), device="cuda")
    for call in (mg.linalg.cholesky, mg.linalg.inv, lambda x: mg.linalg.solve(x, x)):
        with pytest.raises(np.linalg.LinAlgError):
            call(flat)


def test_stacks_of_equations_broadcast() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(4, 3, 2))
    found = mg.linalg.solve(mg.tensor(a, device="cuda"), mg.tensor(b, device="cuda"))
    assert_close(found.to("cpu").numpy(), np.linalg.solve(a, b), np.dtype(np.float64), "solutions")

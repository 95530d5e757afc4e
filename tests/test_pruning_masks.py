"""Masked weights stay exactly 0, whatever steps, averages, half types, ranks or files come: properties over it all."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, compress, models, nn, optim, parallel
from minigrad.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from minigrad.optim.averages import Average
from minigrad.optim.stages import Stages

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("pruning_functions")

# every optimizer that there is, those of tomorrow too
OPTIMIZERS = sorted(
    name
    for name in optim.__all__
    if isinstance(getattr(optim, name), type)
    and issubclass(getattr(optim, name), optim.Optimizer)
    and getattr(optim, name) is not optim.Optimizer
)
REGULARIZERS = {"none": None, "l2": nn.L2(0.05), "proximal": nn.ProximalL1(0.05)}
CONSTRAINTS = {"none": None, "unit": nn.UnitNorm(axis=-1), "shift": lambda x: x + 1.0}
STEPS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train what is pruned."""

    optimizer: str = "SGD"
    eager: bool = True  # momentum and decay, where there are such
    dtype: str = "float32"
    autocast: str | None = None
    regularizer: str = "none"
    constraint: str = "none"
    sparse: bool = False
    tied: bool = False
    parts: int = 1
    sam: bool = False
    average: str = "none"
    poison: float | None = None  # what the gradient of masked weights is set to
    scores: str = "magnitude"
    resumed: bool = False
    seed: int = 0


CASES = st.builds(
    Case,
    optimizer=st.sampled_from(OPTIMIZERS),
    eager=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
    autocast=st.sampled_from([None, "float16", "bfloat16"]),
    regularizer=st.sampled_from(sorted(REGULARIZERS)),
    constraint=st.sampled_from(sorted(CONSTRAINTS)),
    sparse=st.booleans(),
    tied=st.booleans(),
    parts=st.integers(1, 2),
    sam=st.booleans(),
    average=st.sampled_from(["none", "EMA", "SWA"]),
    poison=st.sampled_from([None, np.nan, np.inf, -np.inf]),
    scores=st.sampled_from(["magnitude", "movement", "taylor", "random"]),
    resumed=st.booleans(),
    seed=st.integers(0, 10**6),
)


class Tied(nn.Module):
    """A table of rows, a layer, and an output that may be the table again."""

    def __init__(self, case: Case) -> None:
        self.table = nn.Embedding(6, 4, sparse=case.sparse and not case.tied)
        self.hidden = nn.Dense(4, "tanh", in_features=4)
        self.last = nn.Dense(6, in_features=4)
        self.output = self.table.weight if case.tied else nn.Parameter(self.table.weight.detach().numpy() * 0.5)

    def forward(self, ids: Any) -> Any:
        h = self.hidden(self.table(ids))
        return self.last(h) + h @ mg.permute_dims(self.output, (1, 0))


class Run:
    """A model with all that trains it."""

    def __init__(self, case: Case) -> None:
        mg.random.seed(case.seed)
        self.case = case
        self.model = Tied(case).to(mg.dtypes.as_dtype(case.dtype))
        closed = case.optimizer == "LBFGS"
        for p in self.model.parameters():
            if not closed:
                p.regularizer, p.constraint = REGULARIZERS[case.regularizer], CONSTRAINTS[case.constraint]
        make = getattr(optim, case.optimizer)
        known = inspect.signature(make).parameters
        options = {"lr": 0.05} | ({"momentum": 0.9, "weight_decay": 0.1, "max_iter": 3} if case.eager else {})
        named = [(name, p) for name, p in self.model.named_parameters() if case.optimizer != "Muon" or p.ndim == 2]
        made = make(named, **{name: value for name, value in options.items() if name in known})
        self.optimizer: Any = optim.SAM(made) if case.sam and not closed else made
        self.average = None if case.average == "none" else getattr(optim, case.average)(self.model)
        self.scaler = amp.GradScaler(init_scale=256.0, enabled=case.autocast == "float16" and not closed)

    def closure(self, step: int) -> Any:
        """The gradients of a step, of all its parts."""
        rng = np.random.default_rng([self.case.seed, step])
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(self.case.parts):
            ids, targets = mg.asarray(rng.integers(0, 5, 4)), mg.asarray(rng.integers(0, 6, 4))
            kind = self.case.autocast
            with amp.autocast(mg.dtypes.as_dtype(kind or "float16"), enabled=kind is not None):
                loss = nn.functional.cross_entropy(self.model(ids).astype(mg.float32), targets)
            self.scaler.scale(loss / self.case.parts).backward()
            total = total + loss
        if self.case.poison is not None and not self.scaler.enabled:
            for p in self.model.parameters():
                if p.mask is not None and p._grad is not None and isinstance(p._grad._array, np.ndarray):
                    p._grad._array[~p.mask] = self.case.poison
        return total

    def step(self, step: int) -> None:
        if isinstance(self.optimizer, optim.LBFGS):
            self.optimizer.step(lambda: self.closure(step))
        elif isinstance(self.optimizer, optim.SAM):
            self.optimizer.ascend(lambda: self.closure(step))
            self._update(self.optimizer.optimizer)
        else:
            self.closure(step)
            self._update(self.optimizer)
        if self.average is not None:
            self.average.update()

    def _update(self, rule: Any) -> None:
        self.scaler.unscale_(rule)
        self.scaler.step(rule)
        self.scaler.update()

    def states(self) -> dict[str, Any]:
        average = None if self.average is None else self.average.state_dict()
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()} | {"average": average}

    def load(self, states: dict[str, Any]) -> None:
        for name in ("model", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(states[name])
        if self.average is not None:
            self.average.load_state_dict(states["average"])


def possible(case: Case) -> Case:
    """The same without what an optimizer refuses."""
    changes: dict[str, Any] = {}
    if case.optimizer == "LBFGS":
        changes = {"dtype": "float32" if case.dtype in ("float16", "bfloat16") else case.dtype, "sparse": False}
        changes |= {"autocast": None, "sam": False}
    if not getattr(optim, case.optimizer).by_row:
        changes["sparse"] = False
    if case.sam or case.dtype == "float16":
        changes["poison"] = None  # the norm over all gradients would be none, and float16 has its own overflows
    return dataclasses.replace(case, **changes)


def bits(x: Any) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


def check_zeros(model: nn.Module, masks: dict[str, Any]) -> None:
    """Every masked weight is 0, and neither -0 nor NaN."""
    found = dict(model.named_parameters())
    for name, keep in masks.items():
        assert not bits(found[name].detach().numpy())[~keep].any(), name


def check(case: Case) -> Run:
    """Train, prune after the second step, and go on, in another process's place if the case says so."""
    case = possible(case)
    run = Run(case)
    masks: dict[str, Any] = {}
    for step in range(STEPS):
        run.step(step)
        if step == 1:
            compress.prune(run.model, 0.5, scores=case.scores, exclude="hidden.*" if case.seed % 2 else ())
            masks = compress.masks(run.model)
            assert sum(int((~keep).sum()) for keep in masks.values()) > 0
            if case.average != "none":  # a mask that came after the last update
                with run.average.average():
                    check_zeros(run.model, masks)
        if step == 2 and case.resumed:
            states, random = run.states(), mg.random.get_state()
            run = Run(case)
            run.load(states)
            mg.random.set_state(random)
        check_zeros(run.model, masks)
        now = compress.masks(run.model)
        assert now.keys() == masks.keys()
        assert all(np.array_equal(now[name], keep) for name, keep in masks.items())
        if case.average != "none":
            other = Run(case).model
            run.average.copy_to(other)
            check_zeros(other, masks)
    return run


@given(case=CASES)
@settings(max_examples=50)
def test_masked_weights_stay_zero(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_optimizer(name: str) -> None:
    """Those that Hypothesis might pass by in a short run; and weights that are kept do move."""
    run = check(Case(name, average="EMA", resumed=True, seed=4))
    before = {key: p.detach().numpy().copy() for key, p in run.model.named_parameters()}
    run.step(STEPS)
    moved = [np.any(before[key] != p.detach().numpy()) for key, p in run.model.named_parameters()]
    assert any(moved)


@given(case=CASES)
@settings(max_examples=12)
def test_a_resumed_run_is_the_same_bit_for_bit(case: Case) -> None:
    whole, resumed = (check(dataclasses.replace(case, resumed=r)) for r in (False, True))
    for (name, p), (_, q) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert p.detach().numpy().tobytes() == q.detach().numpy().tobytes(), name


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property fails where the mask is left out on the weight, in an average, in LBFGS, and where -0 comes."""
    plain = Case("SGD", poison=None, seed=1)
    finish = Stages.finish

    def without(self: Stages) -> None:
        self.keep = None
        finish(self)

    def negative(self: Stages) -> None:
        finish(self)
        if self.keep is not None:
            np.copyto(self.p._array, -0.0, where=~self.keep)

    for fault in (without, negative):
        with monkeypatch.context() as patch:
            patch.setattr(Stages, "finish", fault)
            with pytest.raises(AssertionError):
                check(plain)
    with monkeypatch.context() as patch:
        patch.setattr(Average, "_leave_out", lambda self, weights: None)
        with pytest.raises(AssertionError):
            check(dataclasses.replace(plain, average="EMA"))
    with monkeypatch.context() as patch:
        patch.setattr(optim.LBFGS, "_leave_out", lambda self, group: None)
        with pytest.raises(AssertionError):
            check(Case("LBFGS", seed=1))
    check(plain)


# --- what keeps a mask ------------------------------------------------------------------------------------------------


def pruned(tied: bool = True) -> nn.Module:
    mg.random.seed(3)
    model = Tied(Case(tied=tied))
    compress.prune(model, 0.6)
    return model


def same_masks(a: nn.Module, b: nn.Module) -> None:
    first, second = compress.masks(a), compress.masks(b)
    assert first.keys() == second.keys() != set()
    assert all(np.array_equal(keep, second[name]) for name, keep in first.items())
    check_zeros(b, first)


@pytest.mark.parametrize("tied", [True, False])
def test_copies_pickles_casts_and_states_keep_masks(tied: bool) -> None:
    model = pruned(tied)
    assert len(compress.masks(model)) == (3 if tied else 4)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).to(mg.bfloat16)):
        same_masks(model, made)
    fresh = Tied(Case(tied=tied))
    assert fresh.load_state_dict(model.state_dict()) == ([], [])
    same_masks(model, fresh)
    names = [name for name in model.state_dict() if name.endswith(".mask")]
    assert names == [f"{name}.mask" for name in compress.masks(model)]  # a shared one once
    # a state without masks leaves those there are, and what they leave out is 0
    assert fresh.load_state_dict(Tied(Case(tied=tied)).state_dict()) == ([], [])
    same_masks(model, fresh)


def test_a_shared_mask_goes_by_any_of_its_names() -> None:
    model = pruned()
    state = model.state_dict()
    state["table.weight"], state["table.weight.mask"] = state.pop("output"), state.pop("output.mask")
    fresh = Tied(Case(tied=True))
    assert fresh.load_state_dict(state) == ([], [])
    same_masks(model, fresh)
    state["output"], state["output.mask"] = state["table.weight"], 255 - state["table.weight.mask"].numpy()
    with pytest.raises(ValueError, match=r"contradictory: masks of .*output.*, which are one tensor"):
        fresh.load_state_dict(state)


def test_masks_cost_a_bit_in_files(tmp_path: Path) -> None:
    """In a file of weights, and in a checkpoint: an eighth of a byte for each weight, once."""
    model = nn.Sequential([nn.Dense(256, in_features=256)])
    plain = tmp_path / "plain.safetensors"
    save_weights(plain, model.state_dict())
    compress.prune(model, 0.9)
    file, checkpoint = tmp_path / "masked.safetensors", tmp_path / "last.ckpt"
    save_weights(file, model.state_dict())
    save_checkpoint(checkpoint, {"model": model.state_dict()})
    count = 256 * 256
    assert 0 < file.stat().st_size - plain.stat().st_size < count // 8 + 200
    assert checkpoint.stat().st_size < count * 4 + count // 8 + 256 * 4 + 2000
    for state in (load_weights(file), load_checkpoint(checkpoint)["model"]):
        fresh = nn.Sequential([nn.Dense(256)])
        fresh.load_state_dict(state)
        same_masks(model, fresh)


def test_masks_that_do_not_fit_are_refused_before_anything_changes() -> None:
    model, fresh = pruned(), Tied(Case(tied=True))
    before = {name: p.detach().numpy().copy() for name, p in fresh.named_parameters()}
    for wrong in (np.zeros(2), np.zeros(1, np.uint8), np.ones((4, 5), np.bool_)):
        with pytest.raises(ValueError, match=r"masks: hidden.weight.mask is .*, needs uint8 of \(2,\)"):
            fresh.load_state_dict(model.state_dict() | {"hidden.weight.mask": wrong})
    with pytest.raises(ValueError, match=r"unexpected: nothing.mask"):
        fresh.load_state_dict(model.state_dict() | {"nothing.mask": np.zeros(2, np.uint8)})
    assert all(np.array_equal(before[name], p.detach().numpy()) for name, p in fresh.named_parameters())
    assert not compress.masks(fresh)
    plain = np.zeros((4, 4), np.bool_)
    fresh.load_state_dict(model.state_dict() | {"hidden.weight.mask": plain})
    assert not fresh.hidden.weight.detach().numpy().any()


def test_apply_and_remove() -> None:
    model = pruned()
    masks = compress.masks(model)
    with mg.no_grad():
        for p in model.parameters():
            p[...] = 1.0
    compress.apply_masks(model)
    check_zeros(model, masks)
    compress.remove_masks(model)
    check_zeros(model, masks)
    assert not compress.masks(model)
    for call in (compress.masks, compress.apply_masks, compress.remove_masks):
        with pytest.raises(TypeError, match=r"model is .*, needs a module"):
            call(3)


# --- ranks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group() -> Iterator[parallel.Group]:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        yield made


@settings(max_examples=12)
@given(
    size=st.integers(1, 2),
    plan=st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "stage": st.sampled_from([0, 1, 2]),
            "optimizer": st.sampled_from(["SGD", "AdamW", "Lion", "RMSprop"]),
            "options": st.sampled_from([{}, {"weight_decay": 0.1}]),
            "sparse": st.booleans(),
            "first": st.booleans(),
            "scores": st.sampled_from(["magnitude", "movement", "taylor", "random"]),
        }
    ),
)
def test_ranks_have_the_same_masks_and_zeros(group: parallel.Group, size: int, plan: dict[str, Any]) -> None:
    plan["sparse"] &= getattr(optim, plan["optimizer"]).by_row
    found = group.run(functions.train, size, plan)[:size]
    for steps in zip(*found, strict=True):
        weights, masks = steps[0]
        for own, own_masks in steps:
            assert own_masks.keys() == masks.keys()
            assert all(np.array_equal(keep, masks[name]) for name, keep in own_masks.items())
            assert all(own[name].tobytes() == x.tobytes() for name, x in weights.items())
            assert all(not bits(own[name])[~keep].any() for name, keep in own_masks.items())
    last = found[0][-1][1]
    gone, size_of_all = sum(int((~keep).sum()) for keep in last.values()), 8 * 6 + 6 * 10 + 10 * 3
    assert gone == round(0.6 * size_of_all)


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("scores", ["movement", "taylor"])
def test_two_ranks_score_as_one_process(group: parallel.Group, stage: int, scores: str) -> None:
    plan = {"seed": 5, "optimizer": "SGD", "options": {}, "sparse": False, "first": False, "scores": scores}
    two = group.run(functions.train, 2, plan | {"stage": stage})[0]
    one = group.run(functions.train, 1, plan | {"stage": 0})[0]
    for (weights, masks), (wanted, own) in zip(two, one, strict=True):
        assert all(np.array_equal(keep, own[name]) for name, keep in masks.items())
        assert all(np.allclose(x, wanted[name], atol=1e-5) for name, x in weights.items())


def test_wrapping_takes_the_masks_of_rank_0(group: parallel.Group) -> None:
    zero, one = group.run(functions.wrapped_masks, 2)
    wanted = zero[0][0]
    for (_, masks), _ in (zero, one):
        assert masks.keys() == wanted.keys() != set()
        assert all(np.array_equal(keep, wanted[name]) for name, keep in masks.items())
    assert one[1][0]
    assert not one[1][1]  # where rank 0 has none, the others lose theirs


def test_a_split_model_gathers_and_loads_masks(group: parallel.Group) -> None:
    for state, gathered, own, loaded in group.run(functions.split_state, 2):
        assert gathered.keys() == state.keys()
        assert all(np.array_equal(value, state[name]) for name, value in gathered.items())
        assert own.keys() == loaded.keys() != set()
        assert all(np.array_equal(keep, loaded[name]) for name, keep in own.items())


def test_other_libraries_get_no_masks(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 11, "max_length": 8, "features": 8, "num_layers": 1, "num_heads": 2}
    model = models.GPT(models.GPTConfig(**sizes))
    compress.prune(model, 0.5)
    model.save_pretrained(tmp_path)
    assert not [name for name in load_weights(tmp_path) if name.endswith(".mask")]
    again = models.GPT.from_pretrained(tmp_path)
    for (name, p), (_, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert np.array_equal(p.detach().numpy(), q.detach().numpy()), name

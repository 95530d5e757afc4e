"""Pruning: which weights go, when, and what comes back; beside a brute-force choice and PyTorch's."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import compress, nn, optim, train
from minigrad.compress.pruning.selection import lowest, pattern_gone
from minigrad.errors import GradError, ShapeError


def model_of(seed: int = 0) -> nn.Sequential:
    mg.random.seed(seed)
    return nn.Sequential([nn.Dense(16, "tanh", in_features=8), nn.Dense(8, in_features=16), nn.Dense(4, in_features=8)])


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def gone(model: nn.Module) -> dict[str, int]:
    return {name: int((~keep).sum()) for name, keep in compress.masks(model).items()}


# --- the choice -------------------------------------------------------------------------------------------------------

SCORES = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, -np.inf]), min_size=1, max_size=30)


@given(scores=SCORES, share=st.floats(0, 1))
def test_the_lowest_go_as_many_as_asked(scores: list[float], share: float) -> None:
    count = round(share * len(scores))
    found = lowest(np.array(scores), count)
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    assert sorted(np.flatnonzero(found)) == sorted(order[:count])


@given(data=st.data(), n=st.integers(1, 3), m=st.integers(2, 4), axis=st.integers(0, 1), seed=st.integers(0, 99))
def test_n_of_m_are_kept_in_each_group(data: st.DataObject, n: int, m: int, axis: int, seed: int) -> None:
    n = min(n, m - 1)
    groups, others = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    scores = np.random.default_rng(seed).integers(0, 5, (groups * m, others)).astype(float)
    scores = scores if axis == 0 else scores.T.copy()
    out = pattern_gone(scores, (n, m), axis, "w")
    rows, own = (out.T, scores.T) if axis == 0 else (out, scores)
    for flags, values in zip(rows.reshape(-1, m), own.reshape(-1, m), strict=True):
        order = sorted(range(m), key=lambda i: (values[i], i))
        assert sorted(np.flatnonzero(flags)) == sorted(order[: m - n])


@given(
    seed=st.integers(0, 99), scope=st.sampled_from(["global", "layer"]), shares=st.lists(st.floats(0, 1), min_size=1)
)
def test_amounts_count_what_is_gone_already(seed: int, scope: str, shares: list[float]) -> None:
    """Pruning in several rounds is pruning once, to the largest amount; what is kept has not changed."""
    model, once = model_of(seed), model_of(seed)
    before = weights(model)
    for share in sorted(shares):
        compress.prune(model, share, scope=scope)
    compress.prune(once, max(shares), scope=scope)
    found, own = compress.masks(model), compress.masks(once)
    assert found.keys() == own.keys()
    assert all(np.array_equal(found[name], keep) for name, keep in own.items())
    sizes = {name: w.size for name, w in before.items() if w.ndim > 1}
    if scope == "global":
        assert sum(gone(model).values()) == round(max(shares) * sum(sizes.values()))
    else:
        assert all(gone(model).get(name, 0) == round(max(shares) * size) for name, size in sizes.items())
    for name, w in weights(model).items():
        keep = found.get(name, np.ones(w.shape, np.bool_))
        assert np.array_equal(w, np.where(keep, before[name], 0))
        assert w.ndim > 1 or name not in found


def test_a_number_a_threshold_and_a_pattern() -> None:
    model = model_of()
    compress.prune(model, 7)
    assert sum(gone(model).values()) == 7
    model = model_of()
    before = weights(model)
    compress.prune(model, threshold=0.1)
    for name, keep in compress.masks(model).items():
        assert np.array_equal(keep, np.abs(before[name]) >= np.float32(0.1))
    model = model_of()
    compress.prune(model, pattern=(2, 4))
    for name, keep in compress.masks(model).items():
        assert (keep.reshape(-1, 4, keep.shape[1]).sum(axis=1) == 2).all(), name  # along the inputs
    conv = nn.Conv2D(3, 3, in_channels=4)
    compress.prune(conv, pattern=(1, 2))
    assert (compress.masks(conv)["weight"].reshape(3, 2, 2, 3, 3).sum(axis=2) == 1).all()
    with pytest.raises(ValueError, match=r"the input axis is 6 of weight, needs a multiple of 4. Leave it out"):
        compress.prune(nn.Dense(2, in_features=6), pattern=(2, 4))


def test_what_is_left_alone() -> None:
    def names(exclude: Any) -> list[str]:
        model = nn.Sequential([nn.Embedding(4, 8), *model_of()])
        compress.prune(model, 0.5, exclude=exclude(model) if callable(exclude) else exclude, scope="layer")
        return list(compress.masks(model))

    every = ["0.weight", "1.weight", "2.weight", "3.weight"]
    assert names(()) == every
    assert names("1") == names("1.weight") == names(["1.*"]) == [every[0], *every[2:]]
    assert names("[12].weight") == [every[0], every[3]]
    assert names(lambda m: [nn.Embedding, m[3]]) == every[1:3]
    assert names(lambda m: m[3].weight) == every[:3]
    with pytest.raises(ValueError, match=r"prune: exclude is 'head', needs what is in the model. Its"):
        names("head")
    with pytest.raises(ValueError, match="model is without a weight to prune, needs one of two or more axes"):
        names("*")
    with pytest.raises(TypeError, match=r"an entry of exclude is .*, needs a name, a module, a class"):
        names([3])
    tied = nn.Sequential([nn.Embedding(4, 8)])
    tied.other = tied[0].weight  # type: ignore[assignment]
    compress.prune(tied, 0.5)
    assert list(compress.masks(tied)) == [tied.named_parameters()[0][0]]


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"amount": 1.5}, ValueError, "amount is 1.5, needs a share from 0 to 1"),
        ({"amount": float("nan")}, ValueError, "amount is nan, needs a share from 0 to 1"),
        ({"amount": -1}, ValueError, "amount is -1, needs at least 0"),
        ({"amount": True}, TypeError, "amount is True, needs a share from 0 to 1, or a number of weights"),
        ({"amount": 10**6}, ValueError, "amount is 1000000, needs from 0 to the 288 weights there are"),
        ({"amount": 0.5, "threshold": 1.0}, ValueError, "amount and threshold is given, needs one of them"),
        ({"threshold": float("nan")}, ValueError, "threshold is nan, needs a number"),
        ({"threshold": "a"}, TypeError, "threshold is 'a', needs a number"),
        ({"pattern": (4, 2)}, ValueError, r"pattern is \(4, 2\), needs n of m, with 0 < n < m"),
        ({"pattern": 3}, TypeError, "pattern is 3, needs two ints"),
        ({"scope": "all"}, ValueError, "scope is 'all', needs 'global' or 'layer'"),
        ({"scores": "size"}, ValueError, "scores is 'size', needs 'magnitude', 'movement', 'random', 'taylor'"),
        ({"scores": "taylor"}, GradError, "Taylor: the gradient of 0.weight is None, needs one. Call backward first"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    model = model_of()
    before = weights(model)
    with pytest.raises(kind, match=text):
        compress.prune(model, **arguments)
    assert not compress.masks(model)
    assert all(np.array_equal(before[name], w) for name, w in weights(model).items())


def test_memory_that_is_read_only_is_refused_before_anything_is_pruned() -> None:
    model = model_of()
    *_, last = (p for p in model.parameters() if p.ndim > 1)
    before = weights(model)
    last._array.flags.writeable = False
    with pytest.raises(ValueError, match=r"prune: .*weight: a parameter is read-only, needs memory to write to"):
        compress.prune(model, 0.5)
    assert not compress.masks(model)
    assert all(np.array_equal(before[name], w) for name, w in weights(model).items())
    last.mask = np.zeros(last.shape, np.bool_)
    with pytest.raises(ValueError, match=r"apply_masks: .*weight: a parameter is read-only"):
        compress.apply_masks(model)


def test_weights_that_are_not_there_or_no_numbers() -> None:
    with pytest.raises(ShapeError, match="weight"):
        compress.prune(nn.Dense(3))
    layer = nn.Dense(2, in_features=2)
    layer.weight._array[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"scores of weight is NaN, needs numbers. Are its weights finite?"):
        compress.prune(layer)
    with pytest.raises(TypeError, match=r"prune: model is .*, needs a module"):
        compress.prune([layer])

    class Short(compress.Score):
        def of(self, target: Any) -> Any:
            return np.zeros(3)

    with pytest.raises(ShapeError, match=r"scores of weight is .*, needs \(2, 2\)"):
        compress.prune(layer, scores=Short())


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_gathered_scores_are_their_formulas(sparse: bool, decay: float) -> None:
    rng = np.random.default_rng(0)
    table = nn.Embedding(5, 3, sparse=sparse).to(mg.float64)
    model = nn.Sequential([table])
    targets = compress.Pruner(compress.OneShot(0.5, 1), model=model).targets
    scores = {"movement": compress.Movement(decay), "taylor": compress.Taylor(decay)}
    wanted = {"movement": np.zeros((5, 3)), "taylor": np.zeros((5, 3))}
    for step in range(3):
        model.zero_grad()
        ids, factors = rng.integers(0, 4, 6), mg.asarray(rng.normal(size=(6, 3)))
        (model(mg.asarray(ids)) * factors).sum().backward()
        g = np.zeros((5, 3))
        np.add.at(g, ids, factors.numpy())
        w = table.weight.detach().numpy().copy()
        for score in scores.values():
            score.update(targets)
        wanted["movement"] = decay * wanted["movement"] - w * g
        wanted["taylor"] = decay * wanted["taylor"] + (w * g) ** 2
        table.weight._array += rng.normal(size=(5, 3)) * (step + 1)
    for name, score in scores.items():
        np.testing.assert_allclose(score.of(targets[0]), wanted[name], rtol=1e-12, atol=1e-14)
        state = score.state_dict()
        again = type(score)(decay)
        again.load_state_dict(state)
        assert np.array_equal(again.of(targets[0]), score.of(targets[0]))
    table.weight.grad = mg.asarray(np.full((5, 3), np.inf))
    before = scores["taylor"].of(targets[0])
    scores["taylor"].update(targets)  # of a step that is skipped
    assert np.array_equal(scores["taylor"].of(targets[0]), before)
    with pytest.raises(ValueError, match=r"Taylor: decay is 2.0, needs a number from 0 to 1"):
        compress.Taylor(2.0)


class Given(compress.Score):
    """Scores by a function of the weights."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def of(self, target: Any) -> Any:
        return self.function(target.parameter)


@pytest.mark.parametrize(
    "function",
    [
        mg.abs,
        lambda p: mg.abs(p.detach()).tolist(),
        lambda p: (abs(p.detach().numpy()) * 1e6).astype(np.int64),
        lambda p: abs(p.detach().numpy()) > np.median(abs(p.detach().numpy())),
    ],
)
def test_scores_of_ones_own_may_be_any_real_numbers(function: Any) -> None:
    model, other = model_of(), model_of()
    for amount in (0.25, 0.5):
        compress.prune(model, amount, scope="layer")
        compress.prune(other, amount, scope="layer", scores=Given(function))
    assert compress.sparsity(other).pruned == 0.5
    if function is mg.abs:
        assert all(np.array_equal(keep, compress.masks(other)[name]) for name, keep in compress.masks(model).items())


@pytest.mark.parametrize("value", ["x", 1j])
def test_scores_that_are_no_real_numbers_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"scores of 0.weight is .*, needs real numbers"):
        compress.prune(model_of(), 0.5, scores=Given(lambda p: np.full(p.shape, value)))


def test_random_scores_follow_the_seed() -> None:
    found = []
    for seed in (1, 1, 2):
        model = model_of()
        mg.random.seed(seed)
        compress.prune(model, 0.5, scores="random")
        found.append(np.concatenate([keep.ravel() for keep in compress.masks(model).values()]))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_half_weights_are_scored_in_float32() -> None:
    model = model_of().to(mg.bfloat16)
    other = model_of().to(mg.bfloat16).to(mg.float32)
    compress.prune(model, 0.5)
    compress.prune(other, 0.5)
    assert all(np.array_equal(keep, compress.masks(other)[name]) for name, keep in compress.masks(model).items())


# --- beside PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.3, 0.77, 25])
def test_the_masks_are_those_of_torch(scope: str, amount: float) -> None:
    torch = pytest.importorskip("torch")
    prune = pytest.importorskip("torch.nn.utils.prune")
    model = model_of(4)
    theirs = [torch.nn.Linear(*layer.weight.shape) for layer in model]
    for linear, layer in zip(theirs, model, strict=True):
        linear.weight.data = torch.from_numpy(layer.weight.detach().numpy().T.copy())
    if scope == "global":
        parts = [(linear, "weight") for linear in theirs]
        prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=amount)
    else:
        for linear in theirs:
            prune.l1_unstructured(linear, "weight", amount)
    compress.prune(model, amount, scope=scope)
    for i, linear in enumerate(theirs):
        assert np.array_equal(compress.masks(model)[f"{i}.weight"], linear.weight_mask.numpy().T != 0)


# --- schedules --------------------------------------------------------------------------------------------------------


@given(
    final=st.floats(0, 1), initial=st.floats(0, 1), begin=st.integers(0, 20), length=st.integers(0, 50),
    every=st.integers(1, 20),
)  # fmt: skip
def test_the_cubic_schedule(final: float, initial: float, begin: int, length: int, every: int) -> None:
    initial, begin = min(initial, final), begin if length else max(begin, 1)  # the last step is 1 or later
    schedule = compress.CubicSchedule(final, initial=initial, begin=begin, end=begin + length, every=every)
    amounts = [schedule.amount(step) for step in range(begin, begin + length + 3)]
    assert amounts == sorted(amounts)
    assert amounts[-1] == final
    assert schedule.is_due(begin + length)
    assert not schedule.is_due(begin + length + 1)
    assert not schedule.is_due(begin - 1)
    if length:
        assert amounts[0] == pytest.approx(initial)
        third = final + (initial - final) * (1 - 1 / length) ** 3
        assert schedule.amount(begin + 1) == pytest.approx(third)


@given(final=st.floats(0, 0.999), rounds=st.integers(1, 12), every=st.integers(1, 9))
def test_the_geometric_schedule(final: float, rounds: int, every: int) -> None:
    schedule = compress.GeometricSchedule(final, rounds=rounds, every=every)
    due = [step for step in range(rounds * every + 3) if schedule.is_due(step)]
    assert due == [every * (k + 1) for k in range(rounds)]
    left = [1.0, *(1.0 - schedule.amount(step) for step in due)]
    ratios = [b / a for a, b in itertools.pairwise(left)]
    assert ratios == pytest.approx([ratios[0]] * rounds)
    assert schedule.amount(due[-1]) == final


def test_schedules_refuse() -> None:
    for make, text in (
        (lambda: compress.CubicSchedule(1.5, end=3), "CubicSchedule: final is 1.5, needs a share"),
        (lambda: compress.CubicSchedule(0.5, begin=4, end=3), "begin and end is 4 and 3, needs 0 <= begin <= end"),
        (lambda: compress.OneShot(0.5, 0), "OneShot: begin and end is 0 and 0, needs .* an end of at least 1"),
        (lambda: compress.CubicSchedule(0.5, end=3, initial=0.6), "initial is 0.6, needs at most the final 0.5"),
        (lambda: compress.CubicSchedule(0.5, end=3, every=0), "every is 0, needs at least 1"),
        (lambda: compress.GeometricSchedule(1.0, rounds=2, every=3), "final is 1, needs less"),
        (lambda: compress.GeometricSchedule(0.5, rounds=0, every=3), "rounds is 0, needs at least 1"),
        (lambda: compress.Rewind(-1), "Rewind: step is -1, needs at least 0"),
        (lambda: compress.Rewind(1, weights=False, schedule=False), "weights and schedule is False, needs one of them"),
        (lambda: compress.Rewind().back(model_of()), "the state is not kept yet"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    with pytest.raises(ValueError, match="Pruner: rewind is to step 3, needs one before step 3, the last that prunes"):
        compress.Pruner(compress.OneShot(0.5, 3), rewind=compress.Rewind(3))
    with pytest.raises(TypeError, match=r"Pruner: schedule is .*, needs a schedule of pruning"):
        compress.Pruner(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Pruner: rewind is .*, needs a compress.Rewind"):
        compress.Pruner(compress.OneShot(0.5, 1), rewind=3)  # type: ignore[arg-type]


# --- while it trains --------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = mg.asarray(RNG.normal(size=(48, 8)).astype(np.float32))
Y = mg.asarray(RNG.integers(0, 4, 48))


def made(scores: str = "magnitude", rewind: bool = False, **options: Any) -> tuple[train.Trainer, compress.Pruner]:
    model = model_of(1)
    back = compress.Rewind(2) if rewind else None
    pruner = compress.Pruner(compress.CubicSchedule(0.75, begin=3, end=9, every=2), scores=scores, rewind=back)
    trainer = train.Trainer(model, optimizer="adam", metrics=[], callbacks=[pruner], seed=7, **options)
    return trainer, pruner


def fit(trainer: train.Trainer, epochs: int, **options: Any) -> None:
    trainer.fit((X, Y), epochs=epochs, batch_size=16, verbose=0, **options)


@pytest.mark.parametrize("scores", ["magnitude", "movement", "taylor", "random"])
@pytest.mark.parametrize("options", [{}, {"precision": "fp16"}, {"accumulate": 2, "ema": 0.9}], ids=str)
def test_a_trainer_prunes_and_resumes_bit_for_bit(scores: str, options: dict[str, Any], tmp_path: Path) -> None:
    rewind = scores in ("magnitude", "taylor")
    whole, pruner = made(scores, rewind, schedule="cosine", **options)
    fit(whole, 5)
    steps = whole.step
    assert pruner.count == steps
    if steps >= 9:
        assert sum(gone(whole.model).values()) == round(0.75 * 288)
    for cut in (1, 2):
        first, _ = made(scores, rewind, schedule="cosine", **options)

        class Stop(train.Callback):
            def on_epoch_end(self, epoch: int, logs: Any, cut: int = cut) -> None:
                if epoch + 1 == cut:
                    self.trainer.save(tmp_path / f"{cut}.ckpt")

        first.callbacks.append(Stop())
        first.callbacks.set_trainer(first)
        fit(first, 5)
        second, _ = made(scores, rewind, schedule="cosine", **options)
        fit(second, 5, resume=tmp_path / f"{cut}.ckpt")
        a, b = whole.model.state_dict(), second.model.state_dict()
        assert a.keys() == b.keys()
        assert all(x.numpy().tobytes() == b[name].numpy().tobytes() for name, x in a.items())


def test_a_pruner_is_for_one_model() -> None:
    pruner = compress.Pruner(compress.CubicSchedule(0.8, end=4))
    models = [nn.Sequential([nn.Dense(3, in_features=4)]) for _ in range(2)]
    data = np.ones((6, 4), np.float32), np.zeros(6, np.int64)

    def fit(model: nn.Module) -> None:
        train.Trainer(model, callbacks=[pruner]).fit(data, batch_size=3, epochs=1, verbose=0)

    fit(models[0])
    before = compress.sparsity(models[0]).pruned
    with pytest.raises(ValueError, match="Pruner: the model is another one than before, needs the one that it prunes"):
        fit(models[1])
    assert compress.sparsity(models[0]).pruned == before < 0.75
    fit(models[0])
    assert compress.sparsity(models[0]).pruned == pytest.approx(0.8, abs=0.05)


def test_sums_of_another_shape_are_refused() -> None:
    model = nn.Sequential([nn.Dense(6, "relu", in_features=4), nn.Dense(3, in_features=6)])
    pruner = compress.Pruner(compress.OneShot(0.5, 9), scores="movement", model=model)
    for smaller in (False, True):
        if smaller:
            compress.remove_neurons(model, 0.5)
        model.zero_grad()
        model(mg.ones((2, 4))).sum().backward()
        if smaller:
            with pytest.raises(ShapeError, match=r"Movement: the sum of 0.weight is of shape \(4, 6\), needs \(4, 3\)"):
                pruner.before_update()
        else:
            pruner.before_update()


def test_a_step_that_overflows_does_not_count() -> None:
    trainer, pruner = made("taylor", precision="fp16")
    assert trainer.scaler is not None
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**60})
    fit(trainer, 1)
    assert trainer.skipped > 0
    assert pruner.count == trainer.step == 3 - trainer.skipped


def test_rewinding_brings_weights_and_rate_back() -> None:
    model = model_of(2)
    optimizer = optim.SGD(model.named_parameters(), lr=0.5, momentum=0.9)
    schedule = optim.schedules.StepLR(optimizer, 1, gamma=0.5)
    rewind = compress.Rewind(1)
    plan = compress.GeometricSchedule(0.75, rounds=2, every=3)
    pruner = compress.Pruner(plan, rewind=rewind, model=model, optimizer=optimizer, lr_schedule=schedule)
    pruner.begin()
    early: dict[str, Any] = {}
    for step in range(1, 7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        pruner.before_update()
        optimizer.step()
        schedule.step()
        pruner.step()
        if step == 1:
            early, rate, moment = weights(model), schedule.get_last_lr(), optimizer.state_dict()["state"]
        elif step in (3, 6):
            masks = compress.masks(model)
            assert sum(int((~keep).sum()) for keep in masks.values()) == round((0.5 if step == 3 else 0.75) * 288)
            for name, w in weights(model).items():
                assert np.array_equal(w, np.where(masks.get(name, True), early[name], 0))
            assert [group["lr"] for group in optimizer.param_groups] == rate == [0.25]
            for name, state in optimizer.state_dict()["state"].items():
                assert all(np.array_equal(v, moment[name][key]) for key, v in state.items())
        else:
            assert any(not np.array_equal(w, early[name]) for name, w in weights(model).items())


def test_the_rate_alone_goes_back() -> None:
    model = model_of(2)
    optimizer = optim.SGD(model.named_parameters(), lr=0.5)
    schedule = optim.schedules.StepLR(optimizer, 1, gamma=0.5)
    rewind = compress.Rewind(0, weights=False)
    pruner = compress.Pruner(
        compress.OneShot(0.5, 2), rewind=rewind, model=model, optimizer=optimizer, lr_schedule=schedule
    )
    pruner.begin()
    last: dict[str, Any] = {}
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        schedule.step()
        last = weights(model)
        pruner.step()
    masks = compress.masks(model)
    assert all(np.array_equal(w, np.where(masks.get(name, True), last[name], 0)) for name, w in weights(model).items())
    assert optimizer.param_groups[0]["lr"] == 0.5
    plain = compress.Pruner(compress.OneShot(0.5, 2), model=model)
    with pytest.raises(ValueError, match=r"rewind is in one of the two, needs both or none. Make the pruner as"):
        plain.load_state_dict(pruner.state_dict())


def test_a_pattern_while_it_trains() -> None:
    model = model_of(1)
    pruner = compress.Pruner(compress.OneShot(0.5, 2), pattern=(1, 4))
    trainer = train.Trainer(model, metrics=[], callbacks=[pruner], seed=7)
    fit(trainer, 1)
    for w in weights(model).values():
        assert w.ndim == 1 or (np.count_nonzero(w.reshape(-1, 4, w.shape[1]), axis=1) == 1).all()

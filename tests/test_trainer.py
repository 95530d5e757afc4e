"""The trainer: equal to a loop written by hand, to one large batch, and to itself after a kill."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, data, io, nn, optim, train
from minigrad.train import Callback, Metric, Trainer


class Errors(Metric):
    """The share of wrong classes."""

    name = "errors"

    def reset(self):
        self.wrong, self.count = 0.0, 0.0

    def update(self, outputs, targets, weight=None):
        weight = np.ones(targets.shape) if weight is None else weight
        self.wrong += float(((outputs.argmax(-1) != targets) * weight).sum())
        self.count += float(weight.sum())

    def result(self):
        return self.wrong / max(self.count, 1.0)


class Recorder(Callback):
    """Which methods were called, and the state of a callback over kills."""

    def __init__(self):
        self.calls = []
        self.seen = 0

    def on_train_begin(self, logs):
        self.calls.append("train begin")
        self.seen = 0  # as early stopping forgets what it has waited for

    def on_train_end(self, logs):
        self.calls.append("train end")

    def on_epoch_begin(self, epoch, logs):
        self.calls.append(f"epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs):
        self.calls.append(f"epoch {epoch} end {' '.join(sorted(logs))}")

    def on_train_batch_begin(self, batch, logs):
        self.calls.append(f"batch {batch} begin")

    def on_train_batch_end(self, batch, logs):
        self.calls.append(f"batch {batch} end")
        self.seen += 1

    def on_test_begin(self, logs):
        self.calls.append("test begin")

    def on_test_end(self, logs):
        self.calls.append("test end")

    def on_interrupt(self, logs):
        self.calls.append("interrupt")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step, function):
        self.at, self.function = step, function

    def on_train_batch_end(self, batch, logs):
        if self.trainer.step == self.at:
            self.function(self.trainer)


def mlp(rate=0.3, features=5, classes=3, dtype=mg.float32):
    layers = [nn.Dense(8, activation="relu", in_features=features), nn.Dropout(rate), nn.Dense(classes, in_features=8)]
    return nn.Sequential(layers).to(dtype)


def examples(n, seed=0, features=5, classes=3, dtype=np.float32):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, features)).astype(dtype), random.integers(0, classes, n)


def cut(x, y, sizes):
    """Batches of these sizes."""
    ends = np.cumsum([0, *sizes])
    return [(mg.asarray(x[a:b]), mg.asarray(y[a:b])) for a, b in itertools.pairwise(ends)]


def same(model, other):
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a)


def equal(a, b):
    """Whether two nests are equal bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(p, q) for p, q in zip(a, b))
    if hasattr(a, "shape"):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return a == b or (a != a and b != b)


# --- equal to what one writes by hand -----------------------------------------------------------------------------


@given(
    st.sampled_from(["sgd", "adam", "adamw"]),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_equals_a_loop_written_by_hand(name, sizes, clipped, scheduled, averaged, deferred):
    x, y = examples(sum(sizes))
    batches = cut(x, y, sizes)

    def start():
        mg.random.seed(3)
        model = nn.Sequential([nn.Dense(8, activation="relu"), nn.Dropout(0.3), nn.Dense(3)]) if deferred else mlp()
        optimizer = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[name](
            model.named_parameters(), lr=0.05
        )
        return model, optimizer, optim.schedules.StepLR(optimizer, 2, 0.5) if scheduled else None

    model, optimizer, schedule = start()
    trainer = Trainer(
        model,
        "cross_entropy",
        optimizer,
        [Errors()],
        clip_norm=0.5 if clipped else None,
        schedule=schedule,
        ema=0.9 if averaged else None,
    )
    history = trainer.fit(batches, epochs=2, verbose=0)

    other, optimizer, schedule = start()
    ema, losses, criterion = optim.EMA(other, 0.9), [], nn.CrossEntropyLoss()
    for _ in range(2):
        total = 0.0
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = criterion(other(inputs), targets)
            loss.backward()
            if clipped:
                optim.clip_grad_norm_(other.parameters(), 0.5)
            optimizer.step()
            if scheduled:
                schedule.step()
            if averaged:
                ema.update()
            total += loss.item() * len(targets)
        losses.append(total / len(y))
    assert same(model, other)
    assert history["loss"] == losses
    assert trainer.step == 2 * len(sizes)
    if averaged:
        assert equal(trainer.ema.state_dict(), ema.state_dict())


LOSSES = {
    "plain": lambda: nn.CrossEntropyLoss(),
    "ignored": lambda: nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1),
    "weighted": lambda: nn.CrossEntropyLoss(weight=np.array([0.5, 2.0, 3.0]), ignore_index=1),
    "focal": lambda: nn.SoftmaxFocalLoss(ignore_index=2),
    "sum": lambda: nn.CrossEntropyLoss(reduction="sum"),
}


@pytest.mark.parametrize("loss", LOSSES)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=5), st.integers(0, 1000))
def test_accumulation_equals_the_large_batch(loss, sizes, seed):
    x, y = examples(sum(sizes), seed, dtype=np.float64)
    y[0] = 0 if loss == "weighted" else 2 if loss == "ignored" else 1  # one counts at least

    def run(batches, parts):
        mg.random.seed(1)
        model = mlp(0.0, dtype=mg.float64)
        sgd = optim.SGD(model.named_parameters(), lr=0.5, momentum=0.9)
        trainer = Trainer(model, LOSSES[loss](), sgd, [Errors()], accumulate=parts)
        history = trainer.fit(batches, epochs=2, verbose=0)
        assert trainer.step == 2
        return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]), history

    small, history = run(cut(x, y, sizes), len(sizes))
    large, wanted = run([(mg.asarray(x), mg.asarray(y))], 1)
    np.testing.assert_allclose(small, large, rtol=1e-12, atol=1e-12)
    assert history["loss"] == pytest.approx(wanted["loss"], rel=1e-12)
    assert history["errors"] == pytest.approx(wanted["errors"], rel=1e-12)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 99))
def test_accumulate_alone_equals_the_large_batch(sizes, steps, seed):
    """Sentences of unequal length, padded: each step's gradient is that of its tokens."""
    random = np.random.default_rng(seed)
    loss, w = nn.CrossEntropyLoss(ignore_index=-1), nn.Parameter(random.standard_normal((4, 3)))
    batches = []
    for n in sizes:
        targets = random.integers(-1, 3, (n, 6))
        batches.append((random.standard_normal((n, 6, 4)), targets))
    groups = list(train.accumulate(batches, steps, loss))
    assert [len(group) for group in groups[:-1]] == [steps] * (len(groups) - 1)
    for k, group in enumerate(groups):
        w.grad = None
        for (x, y), share in group:
            (loss(mg.asarray(x) @ w, mg.asarray(y)) * share).backward()
        small, w.grad = w.grad.numpy(), None
        whole = batches[k * steps : (k + 1) * steps]
        x, y = (np.concatenate(part) for part in zip(*whole))
        loss(mg.asarray(x) @ w, mg.asarray(y)).backward()
        np.testing.assert_allclose(small, w.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "criterion",
    [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), nn.KLDivLoss(reduction="batchmean"), nn.KLDivLoss(),
     nn.BCEWithLogitsLoss(pos_weight=np.array([1.0, 2.0, 0.5])), nn.SigmoidFocalLoss(), nn.CrossEntropyLoss()],
    ids=lambda criterion: repr(criterion),
)  # fmt: skip
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99))
def test_denominators_of_losses_on_targets_of_the_outputs_shape(criterion, sizes, seed):
    random = np.random.default_rng(seed)
    outputs, targets = random.standard_normal((sum(sizes), 3)), random.uniform(0.1, 0.9, (sum(sizes), 3))
    counts = [criterion.denominator(y) for _, y in cut(outputs, targets, sizes)]
    losses = [criterion(x, y).item() for x, y in cut(outputs, targets, sizes)]
    mean = sum(n * loss for n, loss in zip(counts, losses)) / sum(counts)
    assert mean == pytest.approx(criterion(mg.asarray(outputs), mg.asarray(targets)).item(), rel=1e-12)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99))
def test_denominators_of_losses_on_other_targets(sizes, seed):
    random, n = np.random.default_rng(seed), sum(sizes)
    scores = random.standard_normal((n, 5, 4))
    logp = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    labels = random.integers(1, 4, (n, 2))
    classes = random.integers(0, 4, (n, 5))
    vectors = random.standard_normal((n, 3))
    weight = np.array([0.5, 1.0, 2.0, 3.0])
    for criterion, outputs, targets in (
        (nn.NLLLoss(weight=weight, ignore_index=2), logp, classes),
        (nn.CTCLoss(), logp, labels),
        (lambda x, y: nn.TripletMarginLoss()(x, y, -y), random.standard_normal((n, 3)), vectors),
    ):
        denominator = getattr(criterion, "denominator", nn.TripletMarginLoss().denominator)
        parts = cut(outputs, targets, sizes)
        counts = [denominator(y) for _, y in parts]
        mean = sum(k * criterion(x, y).item() for k, (x, y) in zip(counts, parts)) / (sum(counts) or 1)
        assert mean == pytest.approx(criterion(mg.asarray(outputs), mg.asarray(targets)).item(), rel=1e-12)
    criterion.denominator = lambda targets: -1
    with pytest.raises(ValueError, match="denominator is -1, needs a number of at least 0"):
        next(train.accumulate(parts, 2, criterion))


# --- never lost -----------------------------------------------------------------------------------------------------


def build(seed, precision=None, accumulate=1, schedule="cosine", callbacks=()):
    mg.random.seed(seed)
    model = nn.Sequential([nn.Dense(8, in_features=5), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Dense(3)])
    options = {"schedule": schedule, "ema": 0.9, "clip_norm": 1.0, "precision": precision, "seed": seed}
    trainer = Trainer(
        model, optimizer="adam", metrics=[Errors()], lr=0.02, accumulate=accumulate, callbacks=callbacks, **options
    )
    if precision == "fp16":
        trainer.scaler = amp.GradScaler(init_scale=2.0**17, growth_interval=3)  # some steps overflow
    return trainer


class Stop(Exception):
    pass


def stop(path):
    def function(trainer):
        trainer.save(path)
        raise Stop

    return function


@given(
    kill=st.integers(1, 14),
    seed=st.integers(0, 100),
    precision=st.sampled_from([None, "fp16", "bf16"]),
    accumulate=st.integers(1, 3),
    loader=st.sampled_from(["arrays", "loader", "list"]),
)
def test_a_run_goes_on_where_it_was_killed(kill, seed, precision, accumulate, loader, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "run.ckpt"
    x, y = examples(23)
    held_out = examples(7, seed=1)

    def batches():
        if loader == "arrays":
            return x, y
        if loader == "list":
            return cut(x, y, [4, 4, 4, 4, 4, 3])
        return data.DataLoader(data.TensorDataset(x, y), batch_size=4, shuffle=True, seed=seed)

    def fit(trainer):
        return trainer.fit(batches(), epochs=3, validation=held_out, batch_size=4, verbose=0)

    recorder = Recorder()
    whole = build(seed, precision, accumulate, callbacks=[recorder])
    fit(whole)
    again = Recorder()
    killed = build(seed, precision, accumulate, callbacks=[again, At(kill, stop(path))])
    try:
        fit(killed)
    except Stop:
        again = Recorder()
        mg.random.seed(seed + 1)  # nothing of the process counts
        killed = build(seed + 1, precision, accumulate, callbacks=[again, At(-1, stop(path))])
        killed.resume(path)
        fit(killed)
    else:
        assert whole.step < kill
    a, b = whole.state_dict(), killed.state_dict()
    assert again.state_dict() == recorder.state_dict()
    a["callbacks"] = b["callbacks"] = None
    assert equal(a, b)
    assert equal(whole.history, killed.history)


def test_a_run_that_ended_is_not_trained_again(tmp_path):
    path = tmp_path / "run.ckpt"
    x, y = examples(10)
    trainer = build(0)
    trainer.fit((x, y), epochs=2, verbose=0, resume=path)  # there is none: a new run
    trainer.save(path)
    again = build(0)
    history = again.fit((x, y), epochs=2, verbose=0, resume=path)
    assert again.step == trainer.step
    assert equal(history, trainer.history)
    history = again.fit((x, y), epochs=1, verbose=0)  # without resuming: one epoch more
    assert again.step == trainer.step // 2 * 3
    assert again.epoch == len(history["loss"]) == 3
    with pytest.raises(io.CheckpointError, match="missing"):
        again.resume(tmp_path / "missing.ckpt")


def test_saving_removes_what_a_killed_write_has_left(tmp_path):
    """Before this run began, that is; a file of another run that is at work is its own."""
    mine, other, fresh = (
        tmp_path / name for name in (f".run.ckpt.{'a1' * 8}", f".other.ckpt.{'a1' * 8}", ".run.ckpt.b")
    )
    for file in (mine, other, fresh):
        file.write_bytes(b"half")
        os.utime(file, (1.0, 1.0))
    new = tmp_path / f".run.ckpt.{'b2' * 8}"
    trainer = Trainer(mlp(), metrics=[])
    new.write_bytes(b"half")
    os.utime(new, (2.0**32, 2.0**32))
    trainer.save(tmp_path / "run.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([other.name, fresh.name, new.name, "run.ckpt"])


def test_saves_of_the_last_callbacks_hold_what_the_others_did(tmp_path):
    class Last(Callback):
        last = True

        def on_epoch_end(self, epoch, logs):
            if epoch == 0:
                self.trainer.save(tmp_path / "run.ckpt")

    class Counter(Recorder):
        def on_train_begin(self, logs):
            pass

        def on_epoch_end(self, epoch, logs):
            self.seen += 100

    x, y = examples(8)
    counter = Counter()
    whole = build(1, callbacks=[Last(), counter])
    whole.fit((x, y), epochs=3, batch_size=4, verbose=0)
    other = Counter()
    again = build(1, callbacks=[Last(), other])
    again.resume(tmp_path / "run.ckpt")
    assert (again.epoch, other.seen) == (1, 102)
    again.fit((x, y), epochs=3, batch_size=4, verbose=0)
    assert other.seen == counter.seen == 306
    assert same(whole.model, again.model)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("during", ["step", "validation", "epoch end"])
def test_a_signal_ends_the_run_between_two_steps(number, during, tmp_path):
    class Saves(Callback):
        def on_interrupt(self, logs):
            self.trainer.save(tmp_path / "run.ckpt")

    class Kill(Callback):
        def kill(self, where):
            if where == during and self.trainer.step in (3, 4) and not (tmp_path / "run.ckpt").exists():
                os.kill(os.getpid(), number)

        def on_train_batch_begin(self, batch, logs):
            self.kill("step")

        def on_test_begin(self, logs):
            self.kill("validation")

        def on_epoch_end(self, epoch, logs):
            self.kill("epoch end")

    x, y = examples(16)
    held_out = data.DataLoader(data.TensorDataset(*examples(7, seed=1)), batch_size=2, shuffle=True, seed=5)
    options = {"epochs": 2, "batch_size": 4, "verbose": 0}
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = build(2, callbacks=[Saves(), Kill(), Recorder()])
    with pytest.raises(KeyboardInterrupt, match=number.name):
        trainer.fit((x, y), validation=held_out, **options)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert trainer.callbacks.callbacks[2].calls[-1] == "interrupt"
    assert trainer.step == 4
    assert all(layer.training for layer in trainer.model.modules())
    again, whole = (build(seed, callbacks=[Saves(), Kill(), Recorder()]) for seed in (7, 2))
    again.resume(tmp_path / "run.ckpt")
    held_out = data.DataLoader(data.TensorDataset(*examples(7, seed=1)), batch_size=2, shuffle=True, seed=5)
    again.fit((x, y), validation=held_out, **options)
    held_out = data.DataLoader(data.TensorDataset(*examples(7, seed=1)), batch_size=2, shuffle=True, seed=5)
    whole = build(2, callbacks=[Saves(), Kill(), Recorder()])
    whole.fit((x, y), validation=held_out, **options)
    assert equal(again.state_dict(), whole.state_dict())


def test_a_signal_after_the_last_step_is_not_swallowed():
    class Kill(Recorder):
        def on_train_end(self, logs):
            os.kill(os.getpid(), signal.SIGTERM)
            super().on_train_end(logs)

    kill = Kill()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        Trainer(mlp(), metrics=[], callbacks=[kill]).fit(examples(4), verbose=0)
    assert kill.calls[-2:] == ["epoch 0 end loss lr", "train end"]


def test_a_state_of_another_trainer_is_refused():
    x, y = examples(8)
    trainer = build(0)
    trainer.fit((x, y), epochs=1, verbose=0)
    state = trainer.state_dict()
    plain = Trainer(build(0).model, optimizer="adam", metrics=[Errors()])
    with pytest.raises(ValueError, match=r"load_state_dict: schedule is in the state alone.*schedule= as"):
        plain.load_state_dict(state)
    with pytest.raises(ValueError, match="the metrics is those of 1, needs those of 0"):
        Trainer(build(0).model, optimizer="adam", metrics=[], schedule="cosine", ema=0.9).load_state_dict(state)
    with pytest.raises(ValueError, match="format None"):
        plain.load_state_dict({})


# --- the step -------------------------------------------------------------------------------------------------------


def test_nothing_advances_in_a_skipped_step():
    x, y = examples(8)
    trainer = build(0, precision="fp16")
    trainer.fit((x, y), epochs=1, batch_size=8, verbose=0)
    assert trainer.step + trainer.skipped == 1
    trainer.scaler = amp.GradScaler(init_scale=2.0**40)
    skipped, step = trainer.skipped, trainer.step
    before = trainer.state_dict()
    trainer.fit((x, y), epochs=1, batch_size=8, verbose=0)
    after = trainer.state_dict()
    assert (trainer.skipped, trainer.step) == (skipped + 1, step)
    assert trainer.history["skipped"][-1] == skipped + 1
    assert trainer.scaler.get_scale() == 2.0**39
    for part in ("ema", "step"):
        assert equal(before[part], after[part])
    assert equal(before["optimizer"]["state"], after["optimizer"]["state"])
    for name, p in trainer.model.named_parameters():
        assert equal(before["model"][name], p.detach())


@given(st.integers(-6, 12))
def test_the_loss_scale_changes_nothing(power):
    """A power of two, without an overflow: the same weights bit for bit as without a scaler."""
    x, y = examples(12)

    def run(scale):
        mg.random.seed(4)
        trainer = Trainer(mlp(), optimizer="adam", metrics=[], clip_norm=0.5, lr=0.1)
        if scale is not None:
            trainer.scaler = amp.GradScaler(init_scale=scale)
        trainer.fit(cut(x, y, [5, 4, 3]), epochs=2, verbose=0)
        return trainer.model

    assert same(run(2.0**power), run(None))


def test_regularizer_and_clipping_by_value():
    x, y = examples(6)

    def run(**options):
        mg.random.seed(0)
        trainer = Trainer(mlp(0.0), "cross_entropy", optim.SGD, [], lr=1.0, **options)
        start = trainer.model.state_dict()
        trainer.fit([(mg.asarray(x), mg.asarray(y))], verbose=0)
        return {name: start[name].numpy() - value.numpy() for name, value in trainer.model.state_dict().items()}, start

    plain, start = run()
    penalized, _ = run(regularizer=nn.L2(0.25))
    for name, step in plain.items():
        extra = 0.5 * start[name].numpy() if name.endswith("weight") else 0.0
        np.testing.assert_allclose(penalized[name], step + extra, rtol=1e-5, atol=1e-6)
    clipped, _ = run(clip_value=0.01)
    for name, step in plain.items():
        np.testing.assert_allclose(clipped[name], np.clip(step, -0.01, 0.01), rtol=1e-5, atol=1e-6)


def test_an_adversary_sees_the_pipeline():
    x, y = examples(6)
    seen = []

    def adversary(compute, inputs, backward, update):
        clean = compute(inputs)
        harder = compute(inputs + 0.1)
        backward(clean, 0.5)
        backward(harder, 0.5)
        seen.append((clean.item(), harder.item()))
        return harder

    def run(adversary):
        mg.random.seed(0)
        trainer = Trainer(mlp(0.0), optimizer=optim.SGD, metrics=[], lr=0.1, adversary=adversary, accumulate=2)
        return trainer, trainer.fit(cut(x, y, [4, 2]), verbose=0)

    trainer, history = run(adversary)
    assert len(seen) == 2
    assert trainer.step == 1
    assert history["loss"] == [pytest.approx((4 * seen[0][1] + 2 * seen[1][1]) / 6)]
    assert not same(trainer.model, run(None)[0].model)


@pytest.mark.parametrize("scaled", [False, True])
def test_sam_equals_a_loop_written_by_hand(scaled):
    x, y = examples(9)
    batches = cut(x, y, [4, 2, 3])

    def start():
        mg.random.seed(3)
        model = mlp(0.0)
        return model, optim.SAM(optim.SGD(model.named_parameters(), lr=0.1), rho=0.1)

    model, sam = start()
    trainer = Trainer(model, "cross_entropy", sam, [Errors()])
    if scaled:
        trainer.scaler = amp.GradScaler(init_scale=8.0)
    history = trainer.fit(batches, verbose=0)
    other, sam = start()
    criterion, total = nn.CrossEntropyLoss(), 0.0
    for inputs, targets in batches:

        def closure(inputs=inputs, targets=targets):
            sam.zero_grad()
            loss = criterion(other(inputs), targets)
            loss.backward()
            return loss

        total += sam.step(closure).item() * len(targets)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), other.state_dict()[name].numpy(), rtol=1e-6, atol=1e-7)
    assert history["loss"] == [pytest.approx(total / 9)]
    assert trainer.metrics[0].count == 9


def test_adversaries_of_the_package():
    x, y = examples(12)
    for adversary in (train.FGSM(0.1), train.PGD(0.1, 0.05, 2), train.Free(0.1, 3)):
        mg.random.seed(0)
        trainer = Trainer(mlp(0.0), metrics=[Errors()], lr=0.02, adversary=adversary, precision="bf16")
        before = trainer.evaluate((x, y))["loss"]
        trainer.fit((x, y), epochs=4, batch_size=4, verbose=0)
        assert trainer.evaluate((x, y))["loss"] < 0.9 * before
        assert trainer.step == (36 if isinstance(adversary, train.Free) else 12)
    with pytest.raises(ValueError, match="adversary is Free, needs a step of the optimizer for each batch"):
        Trainer(mlp(), metrics=[], adversary=train.Free(0.1, 2), accumulate=2)


# --- evaluation and prediction --------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.booleans())
def test_evaluation_weighs_unequal_batches(sizes, ignored):
    x, y = examples(sum(sizes), dtype=np.float64)
    model = mlp(0.5, dtype=mg.float64)
    loss = nn.CrossEntropyLoss(ignore_index=0 if ignored else None)
    trainer = Trainer(model, loss, "adam", [Errors()])
    found = trainer.evaluate(cut(x, y, sizes))
    logits = trainer.predict(x, batch_size=3).numpy()
    counted = y != 0 if ignored else np.ones(len(y), bool)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    n = max(counted.sum(), 1)
    assert found["loss"] == pytest.approx(-(logp[np.arange(len(y)), y] * counted).sum() / n, rel=1e-12)
    assert found["errors"] == pytest.approx(((logits.argmax(-1) != y) * counted).sum() / n, rel=1e-12)
    assert model.training


@given(st.integers(1, 20), st.integers(1, 7))
def test_prediction_keeps_the_order(n, batch_size):
    class Two(nn.Module):
        def forward(self, x, y):
            return {"sum": x + y, "both": (x, [y * 2])}

    x, y = np.arange(float(n))[:, None], np.ones((n, 1))
    trainer = Trainer(Two(), optimizer=optim.SGD([nn.Parameter([0.0])], lr=0.1), metrics=[])
    out = trainer.predict((x, y), batch_size=batch_size)
    np.testing.assert_array_equal(out["sum"].numpy(), x + 1)
    np.testing.assert_array_equal(out["both"][0].numpy(), x)
    np.testing.assert_array_equal(out["both"][1][0].numpy(), 2 * y)
    assert not out["sum"].requires_grad
    again = trainer.predict({"x": x, "y": y}, batch_size=batch_size)
    np.testing.assert_array_equal(again["sum"].numpy(), x + 1)
    batches = [(mg.asarray(x[i : i + 2]), mg.asarray(y[i : i + 2]), None) for i in range(0, n, 2)]
    np.testing.assert_array_equal(trainer.predict(batches)["sum"].numpy(), x + 1)


def test_evaluation_and_prediction_leave_the_random_numbers_alone():
    x, y = examples(9)
    trainer = Trainer(mlp(0.5), metrics=[Errors()])
    before = mg.random.get_state()
    for whole in ((x, y), data.TensorDataset(x, y)):
        trainer.evaluate(whole)
        trainer.predict(whole if isinstance(whole, data.Dataset) else x)
    assert mg.random.get_state() == before


def test_evaluation_uses_the_average():
    x, y = examples(12)
    mg.random.seed(0)
    trainer = Trainer(mlp(), optimizer="adam", metrics=[], ema=0.5, lr=0.1)
    trainer.fit((x, y), epochs=2, batch_size=4, verbose=0)
    before = trainer.model.state_dict()
    found = trainer.evaluate((x, y))
    assert equal(before, trainer.model.state_dict())
    trainer.model.eval()
    with trainer.ema.average():
        averaged = nn.CrossEntropyLoss()(trainer.model(mg.asarray(x)), mg.asarray(y)).item()
    raw = nn.CrossEntropyLoss()(trainer.model(mg.asarray(x)), mg.asarray(y)).item()
    assert found["loss"] == pytest.approx(averaged)
    assert abs(raw - averaged) > 1e-4


# --- what is called, and with what ----------------------------------------------------------------------------------


def test_the_order_of_the_calls():
    recorder = Recorder()
    x, y = examples(6)
    trainer = Trainer(mlp(), optimizer="adam", metrics=[Errors()], clip_norm=1.0, callbacks=[recorder], accumulate=2)
    trainer.fit(cut(x, y, [2, 2, 2]), epochs=2, validation=(x, y), verbose=0)
    logs = "errors grad_norm loss lr val_errors val_loss"
    epoch = ["batch 0 begin", "batch 0 end", "batch 1 begin", "batch 1 end", "test begin", "test end"]
    wanted = ["train begin"]
    for k in range(2):
        wanted += [f"epoch {k} begin", *epoch, f"epoch {k} end {logs}"]
    assert recorder.calls == [*wanted, "train end"]
    assert (trainer.epochs, trainer.steps_per_epoch, trainer.epoch, trainer.step) == (2, 2, 2, 4)
    assert sorted(trainer.history) == logs.split()
    assert all(len(values) == 2 for values in trainer.history.values())


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_what_is_printed(verbose, capsys):
    x, y = examples(6)
    trainer = Trainer(mlp(), optimizer="adam", metrics=[Errors()])
    trainer.fit(cut(x, y, [2, 2, 2]), epochs=2, validation=(x, y), verbose=verbose)
    out, err = capsys.readouterr()
    found = re.findall(r"epoch (\d)/2  [\d.]+ s  (.*)\n", out)
    assert [epoch for epoch, _ in found] == (["1", "2"] if verbose else [])
    for _, line in found:
        assert line.split()[::2] == ["loss", "lr", "errors", "val_loss", "val_errors"]
    assert ("0/3" in out) == (verbose == 1)
    assert err == ""
    own = train.ProgressBar("lines")
    Trainer(mlp(), metrics=[], callbacks=[own]).fit((x, y), verbose=verbose)
    out, err = capsys.readouterr()
    assert (out, err.count("epoch 1/1")) == ("", 1)
    with pytest.raises(ValueError, match="verbose is 3, needs one of 0, 1, 2, 'auto'"):
        trainer.fit((x, y), verbose=3)


def test_training_stops_when_a_callback_says_so():
    x, y = examples(12)
    trainer = Trainer(mlp(), metrics=[], callbacks=[At(4, lambda trainer: setattr(trainer, "stop_training", True))])
    trainer.fit((x, y), epochs=5, batch_size=4, verbose=0)
    assert (trainer.step, trainer.epoch) == (4, 2)
    trainer.fit((x, y), epochs=1, batch_size=4, verbose=0)
    assert trainer.step == 7


def test_steps_per_epoch_go_on_in_the_data():
    x, y = examples(20)
    firsts = []

    class First(Callback):
        def on_train_batch_begin(self, batch, logs):
            firsts.append(batch)

    def endless():
        k = 0
        while True:
            yield mg.asarray(x[k % 20][None]), mg.asarray(y[k % 20][None])
            k += 1

    trainer = Trainer(mlp(), metrics=[], callbacks=[First()])
    trainer.fit(endless(), epochs=2, steps_per_epoch=3, verbose=0)
    assert firsts == [0, 1, 2, 0, 1, 2]
    trainer = Trainer(mlp(), metrics=[])
    trainer.fit(cut(x, y, [10, 10]), epochs=2, steps_per_epoch=3, verbose=0)  # more than a pass has
    assert trainer.step == 6


def test_batches_of_several_inputs_and_of_names():
    class Two(nn.Module):
        def __init__(self):
            self.inner = nn.Dense(3, in_features=5)

        def forward(self, left, right):
            return self.inner(left + right)

    x, y = examples(8)

    def run(batches):
        mg.random.seed(0)
        trainer = Trainer(Two(), optimizer="sgd", lr=0.1, metrics=[])
        trainer.fit(batches, shuffle=False, verbose=0)
        return trainer.model

    half = mg.asarray(x / 2)
    one = run([(half, half, mg.asarray(y))])
    two = run([{"left": half, "right": half, "targets": mg.asarray(y)}])
    assert same(one, two)
    assert same(one, run((x / 2, x / 2, y)))


def test_numpys_float64_becomes_the_models_dtype():
    x, y = examples(8, dtype=np.float64)
    seen = []
    trainer = Trainer(mlp(), metrics=[])
    trainer.model.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    trainer.fit((x, y), verbose=0)
    trainer.predict(x)
    assert set(seen) == {mg.float32}


# --- errors ---------------------------------------------------------------------------------------------------------


def test_unknown_names_list_the_known():
    for options, text in (
        ({"loss": "crossentropy"}, "loss is 'crossentropy', needs one of .*cross_entropy.*mse"),
        ({"optimizer": "adamx"}, "optimizer is 'adamx', needs one of .*adam, adamw.*sgd"),
        ({"metrics": ["top"]}, "metric is 'top', needs one of"),
        ({"schedule": "cosinus"}, "schedule is 'cosinus', needs one of cosine, "),
        ({"precision": "fp8"}, "precision is 'fp8', needs one of None, 'fp32', 'fp16', 'bf16'"),
        ({"nan": "stop"}, "nan is 'stop', needs one of 'raise', 'ignore'"),
        ({"loss": nn.MSELoss(reduction="none")}, "the reduction of MSELoss is 'none'"),
        ({"metrics": [Errors(), Errors()]}, "metrics is named errors, errors"),
        ({"optimizer": optim.SGD([nn.Parameter([1.0])], lr=0.1), "lr": 0.1}, "lr is 0.1, needs None"),
    ):
        with pytest.raises(ValueError, match=text):
            Trainer(mlp(), **{"metrics": [], **options})
    with pytest.raises(TypeError, match=r"callbacks is a type, needs objects derived from train.Callback\. Make an"):
        Trainer(mlp(), metrics=[], callbacks=[Recorder])
    with pytest.raises(TypeError, match="model is a function"):
        Trainer(lambda x: x)


def test_data_that_do_not_fit():
    x, y = examples(8)
    trainer = Trainer(mlp(), metrics=[])
    with pytest.raises(ValueError, match="train is empty, needs at least one batch"):
        trainer.fit([], verbose=0)
    with pytest.raises(ValueError, match=r"data is empty"):
        trainer.evaluate([])
    with pytest.raises(ValueError, match="x is empty"):
        trainer.predict(x[:0])
    with pytest.raises(ValueError, match="arrays of as many examples each"):
        trainer.fit((x, y[:5]), verbose=0)
    with pytest.raises(ValueError, match=r"batch is float32 \(8, 5\), needs a tuple.*Arrays go in as a tuple"):
        trainer.fit([x], verbose=0)
    with pytest.raises(ValueError, match="batch is a dict with 'x', 'y', needs the key 'targets'"):
        trainer.fit([{"x": x, "y": y}], verbose=0)
    with pytest.raises(TypeError, match="train is 5, needs arrays"):
        trainer.fit(5, verbose=0)
    with pytest.raises(ValueError, match="train is an iterator that the first pass has used up"):
        trainer.fit(iter(cut(x, y, [4, 4])), epochs=2, verbose=0)
    with pytest.raises(ValueError, match="Give fit steps_per_epoch"):
        Trainer(mlp(), metrics=[], schedule="cosine").fit(iter(cut(x, y, [4, 4])), verbose=0)


def test_errors_of_the_loss_name_loss_and_layer():
    x, y = examples(8)
    trainer = Trainer(mlp(), "mse", metrics=[])
    text = r"the loss MSELoss does not fit.*Sequential, whose last layer is 2 \(Dense\): float32 \(8, 3\); and the "
    with pytest.raises(mg.ShapeError, match=text + r"targets: float32 \(8,\). mse_loss: target"):
        trainer.fit((x, y.astype(np.float32)), verbose=0)
    trainer = Trainer(mlp(), lambda outputs, targets: outputs, metrics=[])
    with pytest.raises(mg.ShapeError, match="needs a tensor without axes"):
        trainer.fit((x, y), verbose=0)


class Poison(nn.Module):
    """Divides by what may be 0."""

    def forward(self, x):
        return x / (x * 0.0)


def test_a_nan_stops_the_run_and_names_its_source():
    x, y = examples(8)
    mg.random.seed(0)
    model = nn.Sequential([nn.Dense(4, in_features=5), nn.Dropout(0.5), Poison(), nn.Dense(3, in_features=4)])
    trainer = Trainer(model, metrics=[])
    before, state = model.state_dict(), mg.random.get_state()
    text = (
        r"the loss is nan in epoch 0, batch 0: the first layer whose output is not finite is 2 \(Poison\); divide made"
    )
    with pytest.raises(FloatingPointError, match=text):
        trainer.fit((x, y), batch_size=8, verbose=0)
    assert equal(before, model.state_dict())
    assert trainer.batch[1].shape == (8,)
    mg.random.set_state(state)
    x[3, 2] = math.nan
    with pytest.raises(FloatingPointError, match="the inputs of the batch hold a NaN or inf"):
        Trainer(mlp(), metrics=[]).fit((x, y), verbose=0)
    good = Trainer(mlp(), metrics=[])
    with mg.no_grad():
        good.model[2].bias[...] = math.inf
    with pytest.raises(FloatingPointError, match=r"the parameter '2.bias' holds a NaN or inf already"):
        good.fit(examples(4), verbose=0)

    class Quiet(Recorder):
        def on_nonfinite(self, error, logs):
            self.trainer.stop_training = True

    quiet = Quiet()
    assert Trainer(mlp(), metrics=[], callbacks=[quiet]).fit((x, y), verbose=0) == {}
    assert quiet.calls == ["train begin", "epoch 0 begin", "batch 0 begin", "train end"]
    history = Trainer(mlp(), metrics=[], nan="ignore").fit((x, y), verbose=0)
    assert math.isnan(history["loss"][0])


def test_a_loss_that_is_never_finite_stops_fp16_too():
    x, y = examples(4)
    model = nn.Sequential([nn.Dense(4, in_features=5), Poison(), nn.Dense(3, in_features=4)])
    trainer = Trainer(model, metrics=[], precision="fp16")
    with pytest.raises(FloatingPointError, match="the loss is nan 25 times in a row"):
        trainer.fit((x, y), epochs=30, batch_size=4, verbose=0)
    assert trainer.step == 0
    assert trainer.skipped == 24


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "smooth_l1", lambda y, wanted: ((y - wanted) ** 2).mean()])
def test_a_loss_of_numbers_has_no_accuracy_by_default(loss):
    x, y = np.ones((6, 5), np.float32), np.linspace(-3, 3, 6, dtype=np.float32)[:, None]
    history = Trainer(mlp(classes=1), loss, seed=0).fit((x, y), validation=(x, y), verbose=0)
    assert sorted(history) == ["loss", "lr", "val_loss"]


def test_the_default_metrics_of_losses_of_classes():
    x, y = examples(40)
    assert Trainer(mlp(), mg.nn.functional.cross_entropy).fit((x, y), verbose=0)["accuracy"]
    yes = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.float32)
    trainer = Trainer(mlp(), "bce_with_logits")
    logits = trainer.predict(x).numpy()
    # each element is a question of its own, and 0 is where a logit decides, even where all are within 0..1
    assert trainer.evaluate((x, yes))["accuracy"] == pytest.approx(((logits > 0) == yes).mean(), abs=1e-12)


def test_parts_of_another_model_are_refused():
    x, y = examples(8)
    other = mlp()
    other(mg.asarray(x))
    strange = Trainer(mlp(), optimizer=optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"optimizer is SGD, which holds no parameter of the model"):
        strange.fit((x, y), verbose=0)
    with pytest.raises(ValueError, match=r"ema is EMA of another model, needs one of the model that is trained"):
        Trainer(mlp(), ema=optim.EMA(other))
    schedule = optim.schedules.StepLR(optim.SGD(other.parameters(), lr=0.1), 2)
    with pytest.raises(ValueError, match=r"schedule is StepLR of another optimizer, needs one of the trainer's own"):
        Trainer(mlp(), schedule=schedule)
    with pytest.raises(ValueError, match=r"schedule is StepLR of another optimizer"):
        Trainer(mlp(), schedule=lambda optimizer: schedule)


@pytest.mark.parametrize("of", [lambda sam: sam, lambda sam: sam.optimizer])
def test_a_schedule_of_sam_or_of_what_it_wraps(of):
    model = mlp()
    model(mg.ones((1, 5)))
    sam = optim.SAM(optim.SGD(model.parameters(), lr=0.4))
    trainer = Trainer(model, optimizer=sam, schedule=optim.schedules.StepLR(of(sam), 1, gamma=0.5))
    trainer.fit(examples(8), batch_size=4, verbose=0)
    assert sam.param_groups[0]["lr"] == 0.1


def test_a_run_resumed_with_fewer_steps_an_epoch_ends_its_epoch(tmp_path):
    batches = [examples(4, seed) for seed in range(3)]

    def fit(steps, callbacks=(), **options):
        trainer = Trainer(mlp(), metrics=[], seed=0, callbacks=callbacks)
        with suppress(Stop):
            trainer.fit(batches, epochs=3, steps_per_epoch=steps, verbose=0, **options)
        return trainer

    fit(6, [At(4, stop(tmp_path / "run.ckpt"))])

    def alarm(trainer):
        raise AssertionError("the epoch goes on without an end")

    trainer = fit(2, [At(20, alarm)], resume=tmp_path / "run.ckpt")
    assert trainer.epoch == 3
    assert trainer.step == 4 + 2 * 2


@pytest.mark.parametrize("schedule", [None, lambda optimizer: optim.schedules.ReduceLROnPlateau(optimizer)])
def test_an_epoch_that_ends_before_its_first_step(schedule):
    class Enough(Callback):
        def on_epoch_begin(self, epoch, logs):
            self.trainer.stop_training = epoch == 1

    history = Trainer(mlp(), schedule=schedule, callbacks=[Enough()]).fit(examples(8), epochs=3, verbose=0)
    assert {name: len(values) for name, values in history.items()} == {"loss": 2, "lr": 2, "accuracy": 2}
    assert math.isnan(history["loss"][1])


def test_parts_that_cannot_be_what_they_are_given_for():
    with pytest.raises(TypeError, match=r"ema is a?.*x, needs a decay, or optim\.EMA or optim\.SWA"):
        Trainer(mlp(), ema="x")
    with pytest.raises(TypeError, match=r"adversary is .*pgd, needs an adversary"):
        Trainer(mlp(), adversary="pgd")
    one = Recorder()
    Trainer(mlp(), callbacks=one).fit(examples(4), verbose=0)
    assert one.calls[0] == "train begin"


def test_data_of_lists_and_names():
    x, y = examples(8)
    trainer = Trainer(mlp())
    with pytest.raises(TypeError, match=r"train is a tuple of ndarray, list, needs a tuple of arrays.*np\.asarray"):
        trainer.fit((x, list(y)), verbose=0)
    with pytest.raises(TypeError, match=r"train is a dict with 'x', 'targets', needs arrays \(x, y\), a Dataset"):
        trainer.fit({"x": x, "targets": y}, verbose=0)


def test_a_function_as_metric_weighs_batches_of_nested_targets():
    def errors(outputs, targets):
        return float(np.mean(targets["a"]))

    metric = train.metrics.get(errors)
    assert math.isnan(metric.result())
    values = np.arange(10.0)
    for part in (values[:7], values[7:]):
        metric.update(None, {"a": part, "b": part})
    assert metric.result() == pytest.approx(4.5, abs=1e-12)

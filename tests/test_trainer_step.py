"""A step of the trainer: equal to a loop written by hand and to one large batch, whatever is switched on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_functions import Errors, build, cut, equal, examples, mlp, same

import minigrad as mg
from minigrad import amp, nn, optim, train
from minigrad.train import Trainer


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

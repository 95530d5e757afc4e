"""Callbacks: early stopping, learning rates, NaN and functions, in real runs and killed ones."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from callback_functions import X, Y, fit, make, same, scored, table, weights
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.train import Callback, Trainer


def twin(values, delta, patience, mode, baseline, start):
    """When it stops, and the best epoch, by looking at all values at once."""
    sign = 1 if mode == "min" else -1
    best, best_epoch, reached = None, 0, [start - 1]
    for epoch in range(start, len(values)):
        value = sign * values[epoch]
        if value == value and (best is None or value < best - delta):
            best, best_epoch = value, epoch
            if baseline is None or value < sign * baseline - delta:
                reached.append(epoch)
    reached.append(len(values) + patience)
    for last, following in itertools.pairwise(reached):
        stop = last + max(patience, 1)
        if stop < following and stop < len(values):
            seen = twin(values[: stop + 1], delta, patience, mode, baseline, start) if stop + 1 < len(values) else None
            return stop, seen[1] if seen else best_epoch
    return None, best_epoch


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, -3.0, math.nan, math.inf]), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.5, 0.75]),
    st.integers(0, 3),
    st.sampled_from(["min", "max"]),
    st.sampled_from([None, 1.0]),
    st.integers(0, 3),
    st.booleans(),
)
def test_early_stopping_equals_a_twin(values, delta, patience, mode, baseline, start, restored):
    stopping = train.EarlyStopping(
        "score",
        delta,
        patience,
        mode,
        baseline=baseline,
        start_from_epoch=start,
        restore_best_weights=restored,
    )
    trainer = scored(values, stopping)
    stop, best = twin(values, delta, patience, mode, baseline, start)
    assert stopping.stopped_epoch == stop
    assert trainer.epoch == (len(values) if stop is None else stop + 1)
    if stopping.best is not None:
        assert stopping.best_epoch == best
        assert stopping.best == values[best]
    looked = trainer.epoch > start
    kept = (best if stopping.best is not None else start) if restored and looked else trainer.epoch - 1
    assert trainer.model.bias.item() == kept


def test_early_stopping_restores_the_average_too():
    stopping = train.EarlyStopping(patience=2, min_delta=100.0)  # the first epoch stays the best
    first = {}

    class Note(Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 0:
                first.update(weights(self.trainer), loss=logs["val_loss"])

    trainer = make(stopping, Note(), ema=0.5)
    history = fit(trainer, 9, validation=(X, Y))
    assert len(history["loss"]) == 3
    assert trainer.evaluate((X, Y))["loss"] == pytest.approx(first.pop("loss"), rel=1e-6)
    assert same(weights(trainer), first)


def test_early_stopping_names_what_is_missing():
    with pytest.raises(ValueError, match=r"EarlyStopping: monitor is 'val_loss', needs one of loss, lr. Give fit val"):
        fit(make(train.EarlyStopping()))
    with pytest.raises(ValueError, match="mode is 'auto', needs 'min' or 'max' for 'score', whose name says neither"):
        scored([1.0], train.EarlyStopping("score"))
    with pytest.raises(TypeError, match="the log 'score' is a list, needs a number"):
        scored([list("abcde")], train.EarlyStopping("score"))
    for arguments, text in (
        ({"mode": "best"}, "mode is 'best', needs one of 'auto', 'min', 'max'"),
        ({"patience": -1}, "patience is -1, needs at least 0"),
        ({"min_delta": -0.1}, r"min_delta is -0\.1, needs at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            train.EarlyStopping(**arguments)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("val_accuracy", "max"), ("loss", "min"), ("val_top_2", "max"), ("val_perplexity", "min"), ("val_mine", "max")],
)
def test_the_direction_is_that_of_the_metric(name, mode):
    class Mine(train.metrics.Accuracy):
        name = "mine"

    stopping = train.EarlyStopping(name, patience=50)
    fit(make(stopping, metrics=["accuracy", "top_2", "perplexity", Mine()]), validation=(X, Y))
    assert stopping.monitor.mode == mode


def test_the_rate_of_each_epoch():
    assert fit(make(train.LRSchedule(lambda epoch: 0.5**epoch)))["lr"] == [1.0, 0.5, 0.25]
    assert fit(make(train.LRSchedule(lambda epoch, lr: lr / 2), lr=1.0))["lr"] == [0.5, 0.25, 0.125]
    assert fit(make(train.LRSchedule(lambda epoch, by=2: 1.0 / by)))["lr"] == [0.5] * 3
    model = nn.Dense(3, in_features=4)
    optimizer = optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 3.0}], lr=1.0)
    trainer = Trainer(model, optimizer=optimizer, metrics=[], callbacks=[train.LRSchedule(lambda epoch: 0.0)])
    fit(trainer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = train.LRSchedule(optim.schedules.StepLR(optimizer, 2, 0.1))
    trainer = Trainer(model, optimizer=optimizer, metrics=[], callbacks=[schedule])
    assert fit(trainer, 4)["lr"] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    plateau = train.LRSchedule(optim.schedules.ReduceLROnPlateau(optimizer, patience=0), monitor="score")
    called = [train.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=1.0)), plateau]
    assert fit(Trainer(model, optimizer=optimizer, metrics=[], callbacks=called), 4)["lr"] == pytest.approx(
        [1.0, 1.0, 0.1, 0.01]
    )


def test_rates_that_do_not_fit():
    with pytest.raises(ValueError, match=r"LRSchedule: what the function gives is -1\.0, needs a number of at least 0"):
        fit(make(train.LRSchedule(lambda epoch: -1)))
    with pytest.raises(TypeError, match="LRSchedule: what the function gives is None, needs a number"):
        fit(make(train.LRSchedule(lambda epoch: None)))
    with pytest.raises(ValueError, match=r"LRSchedule: the trainer's schedule is a .*, needs None beside it"):
        fit(make(train.LRSchedule(lambda epoch: 1.0), schedule="cosine"))
    other = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    with pytest.raises(ValueError, match="the optimizer of the schedule is another one, needs the trainer's"):
        fit(make(train.LRSchedule(optim.schedules.StepLR(other, 2))))
    for wrong in (0.1, optim.schedules.StepLR):
        with pytest.raises(
            TypeError, match=r"LRSchedule: schedule is .*, needs a function of the epoch, or a schedule"
        ):
            train.LRSchedule(wrong)


class Explode(nn.Module):
    """Divides by 0 from some call on."""

    def __init__(self, calls):
        self.left = calls

    def forward(self, x):
        if self.training:
            self.left -= 1
        return x / (x * 0.0) if self.left < 0 else x


def test_a_nan_ends_the_training_without_an_error(tmp_path):
    mg.random.seed(0)
    model = nn.Sequential([nn.Dense(4, in_features=4), Explode(7), nn.Dense(3, in_features=4)])
    ending, stopping = train.TerminateOnNaN(), train.EarlyStopping(patience=9)
    called = [ending, stopping, train.CSVLogger(tmp_path / "history.csv"), train.ProgressBar("lines", io.StringIO())]
    trainer = Trainer(model, metrics=[], callbacks=called, seed=0)
    with pytest.warns(RuntimeWarning, match=r"TerminateOnNaN ends the training.*epoch 2, batch 1.*is 1 \(Explode\)"):
        history = fit(trainer, 5, validation=(X, Y))
    assert "divide made" in ending.reason
    assert (trainer.step, trainer.stop_training) == (7, True)
    assert {len(values) for values in history.values()} == {2}
    assert len(table(tmp_path / "history.csv")) == 2
    assert same(weights(trainer), {name: value.numpy() for name, value in stopping.weights["model"].items()})
    assert all(np.isfinite(value).all() for value in weights(trainer).values())
    model[1].left = 100
    fit(trainer, 1, validation=(X, Y))
    assert ending.reason == ""
    with pytest.raises(ValueError, match="the trainer's nan is 'ignore', needs 'raise'"):
        fit(make(train.TerminateOnNaN(), nan="ignore"))
    model[1].left = 0
    without = Trainer(model, metrics=[], callbacks=[])
    with pytest.raises(FloatingPointError, match="Explode"):
        fit(without)


def test_functions_in_place_of_methods():
    calls = []
    known = [name for name in vars(Callback) if name.startswith("on_")]
    functions = {name: (lambda *args, name=name: calls.append((name, len(args)))) for name in known}
    fit(make(train.LambdaCallback(**functions)), 1, validation=(X, Y))
    steps = [("on_train_batch_begin", 2), ("on_before_update", 1), ("on_train_batch_end", 2)] * 3
    test = [("on_test_begin", 1), ("on_test_end", 1)]
    assert calls == [
        ("on_train_begin", 1),
        ("on_epoch_begin", 2),
        *steps,
        *test,
        ("on_epoch_end", 2),
        ("on_train_end", 1),
    ]
    assert train.LambdaCallback(last=True).last
    with pytest.raises(TypeError, match=r"argument is 'on_epoch', needs one of on_train_begin, .*on_nonfinite"):
        train.LambdaCallback(on_epoch=print)
    with pytest.raises(TypeError, match="on_epoch_end is 3, needs a function"):
        train.LambdaCallback(on_epoch_end=3)


def test_a_callback_added_later_knows_the_trainer():
    seen = []

    class Late(Callback):
        def on_train_begin(self, logs):
            seen.append(self.trainer)

    trainer = make()
    trainer.callbacks.append(Late())
    fit(trainer, epochs=1)
    assert seen == [trainer]


def test_a_method_that_nobody_calls_is_told():
    class Keras(Callback):
        def on_batch_end(self, batch, logs):
            raise AssertionError

    with pytest.warns(UserWarning, match=r"Keras: methods is on_batch_end, which nobody calls, needs on_train"):
        fit(make(Keras()), epochs=1)

"""Callbacks: each in a real run, and in one that is killed and goes on as if it had not been."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.train import Callback, Trainer, callbacks, latest

random = np.random.default_rng(0)
X, Y = random.standard_normal((12, 4)).astype(np.float32), random.integers(0, 3, 12)


def make(*callbacks, seed=0, metrics=(), **options):
    mg.random.seed(seed)
    model = nn.Sequential([nn.Dense(6, "relu", in_features=4), nn.Dropout(0.2), nn.Dense(3, in_features=6)])
    options = {"optimizer": "adam", "lr": 0.02, "seed": seed} | options
    return Trainer(model, metrics=list(metrics), callbacks=callbacks, **options)


def fit(trainer, epochs=3, **options):
    return trainer.fit((X, Y), epochs=epochs, batch_size=4, verbose=0, **options)


def weights(trainer):
    return {name: value.numpy().copy() for name, value in trainer.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends the process, so to say, after a step."""

    last = True

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        if self.trainer.step == self.step:
            raise Killed


class Score(Callback):
    """Puts given values into the logs, and moves the weights so that each epoch has its own."""

    def __init__(self, values, name="score"):
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.values[epoch]
        with mg.no_grad():
            self.trainer.model.bias[...] = float(epoch)


def scored(values, stopping, **options):
    model = nn.Dense(1, in_features=1)
    trainer = Trainer(model, "mse", "sgd", [], lr=0.0, callbacks=[Score(values), stopping], **options)
    trainer.fit((np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)), epochs=len(values), verbose=0)
    return trainer


# --- early stopping ---------------------------------------------------------------------------------------------------


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


# --- checkpoints ------------------------------------------------------------------------------------------------------


def names(folder):
    return sorted(os.listdir(folder))


@given(
    keep=st.integers(1, 3),
    every=st.integers(1, 4),
    per=st.sampled_from(["epoch", "step"]),
    best=st.booleans(),
    epochs=st.integers(1, 4),
)
def test_what_is_in_the_folder(keep, every, per, best, epochs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = make(train.Checkpoint(folder, keep=keep, every=every, per=per, save_best=best))
    fit(trainer, epochs)
    steps = 3 * epochs
    saved = range(every, steps + 1, every) if per == "step" else range(3 * every, steps + 1, 3 * every)
    wanted = [f"step-{step:08d}.ckpt" for step in sorted({*saved, steps})[-keep:]]
    assert names(folder) == (["best.ckpt"] if best else []) + wanted
    assert latest(folder).name == wanted[-1]


def test_the_best_is_the_best(tmp_path):
    values = [3.0, 1.0, math.nan, 2.0, 1.0]
    checkpoint = train.Checkpoint(tmp_path, "score", mode="min", keep=1)
    scored(values, checkpoint)
    best = mg.io.load_checkpoint(tmp_path / "best.ckpt")
    assert best["epoch"] == 2  # the next one
    assert best["model"]["bias"].item() == 1.0
    assert checkpoint.best == 1.0


@settings(max_examples=max(settings().max_examples // 2, 5))
@given(
    kill=st.integers(1, 14),
    per=st.sampled_from(["epoch", "step"]),
    every=st.integers(1, 2),
    again=st.integers(1, 5),
    schedule=st.sampled_from(["function", "plateau", "steps"]),
)
def test_a_killed_run_goes_on_with_all_its_callbacks(kill, per, every, again, schedule, tmp_path_factory):
    def run(folder, step, resume):
        mg.random.seed(17)  # nothing of the process counts
        model = nn.Sequential([nn.Dense(6, "relu", in_features=4), nn.Dropout(0.2), nn.Dense(3, in_features=6)])
        if resume is None:
            start = np.random.default_rng(5)
            with mg.no_grad():
                for p in model.parameters():
                    p[...] = mg.asarray(start.standard_normal(p.shape).astype(np.float32))
            mg.random.seed(3)
        optimizer = optim.Adam(model.named_parameters(), lr=0.05)
        rate = {
            "function": lambda epoch: 0.1 / (epoch + 1),
            "plateau": optim.schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05),
            "steps": optim.schedules.StepLR(optimizer, 2, 0.5),
        }[schedule]
        stopping = train.EarlyStopping("val_loss", 0.25, 2)  # the second epoch is no better
        called = [
            stopping,
            train.LRSchedule(rate),
            train.CSVLogger(folder / "history.csv"),
            train.Checkpoint(folder / "states", every=every, per=per),
            Kill(step),
        ]
        trainer = Trainer(
            model, "cross_entropy", optimizer, ["accuracy", "auc", "confusion_matrix"], callbacks=called, seed=0
        )
        fit(trainer, 5, validation=(X[:8], Y[:8]), resume=resume)
        return trainer, stopping

    folder, other = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    whole, wanted = run(folder, -1, None)
    for step in (kill, kill + again, -1):
        try:
            found, stopping = run(other, step, latest(other / "states"))
        except Killed:
            continue
        break
    assert same(weights(whole), weights(found))
    np.testing.assert_equal(found.history, whole.history)
    assert (other / "history.csv").read_text() == (folder / "history.csv").read_text()
    assert [stopping.best, stopping.best_epoch, stopping.wait, stopping.stopped_epoch] == [
        wanted.best,
        wanted.best_epoch,
        wanted.wait,
        wanted.stopped_epoch,
    ]
    assert found.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert names(other / "states") == names(folder / "states")
    best, wanted_best = (mg.io.load_checkpoint(place / "states" / "best.ckpt") for place in (other, folder))
    assert best["epoch"] == wanted_best["epoch"]
    assert same(best["model"], wanted_best["model"])


@pytest.mark.parametrize("kill", range(2, 6))
def test_what_was_waited_for_and_what_was_best_is_known_after_a_kill(kill, tmp_path):
    """The first epoch is the best, and the run stops after four more, wherever it was killed."""
    for step in (kill, -1):
        stopping = train.EarlyStopping("score", patience=4, mode="min")
        checkpoint = train.Checkpoint(tmp_path, "score", mode="min")
        called = [Score([1.0, 5.0, 4.0, 3.0, 2.0, 0.0]), stopping, checkpoint, Kill(step)]
        trainer = Trainer(nn.Dense(1, in_features=1), "mse", "sgd", [], lr=0.0, callbacks=called, seed=0)
        x = np.ones((1, 1), np.float32)
        try:
            trainer.fit((x, x), epochs=6, verbose=0, resume=latest(tmp_path))
        except Killed:
            assert trainer.epoch == kill - 1
    assert (trainer.epoch, stopping.stopped_epoch, stopping.best_epoch) == (5, 4, 0)
    assert trainer.model.bias.item() == 0.0
    assert mg.io.load_checkpoint(tmp_path / "best.ckpt")["epoch"] == 1


@pytest.mark.parametrize("broken", ["fsync", "replace", "write"])
def test_a_crash_while_saving_leaves_the_older(broken, tmp_path, monkeypatch):
    checkpoint = train.Checkpoint(tmp_path, keep=1, save_best=False)
    trainer = make(checkpoint)
    fit(trainer, 1)
    before = (tmp_path / "step-00000003.ckpt").read_bytes()

    def fail(*args, **kwargs):
        raise OSError("no space left")

    if broken == "write":
        monkeypatch.setattr("minigrad.io.checkpoint._chunks", lambda array: fail())
    else:
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        fit(trainer, 1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000003.ckpt"]
    assert (tmp_path / "step-00000003.ckpt").read_bytes() == before
    assert latest(tmp_path).name == "step-00000003.ckpt"


def test_old_ones_go_after_the_new_one_is_there(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append(names(tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    fit(make(train.Checkpoint(tmp_path, keep=1, save_best=False)), 3)
    assert [[name for name in files if not name.startswith(".")] for files in seen] == [
        [],
        ["step-00000003.ckpt"],
        ["step-00000006.ckpt"],
    ]


def test_latest_passes_over_what_is_damaged(tmp_path):
    assert latest(tmp_path / "missing") is None
    assert latest(tmp_path) is None
    fit(make(train.Checkpoint(tmp_path)), 3)
    for step, fallback in ((9, "step-00000006.ckpt"), (6, "step-00000003.ckpt"), (3, "best.ckpt")):
        file = tmp_path / f"step-{step:08d}.ckpt"
        damaged = bytearray(file.read_bytes())
        damaged[-5] ^= 1
        file.write_bytes(damaged if step > 3 else damaged[:50])
        assert latest(tmp_path).name == fallback
    (tmp_path / "best.ckpt").unlink()
    assert latest(tmp_path) is None


def test_a_folder_holds_one_run(tmp_path):
    checkpoint = train.Checkpoint(tmp_path, keep=9)
    trainer = make(checkpoint)
    fit(trainer, 3)
    fit(trainer, 1)  # goes on
    assert latest(tmp_path).name == "step-00000012.ckpt"
    with pytest.raises(ValueError, match=r"which has checkpoints of another run, needs an empty folder.*resume=folder"):
        fit(make(train.Checkpoint(tmp_path)), 1)
    (tmp_path / ".step-00000099.ckpt.0123456789abcdef").write_text("what a killed run was writing")
    again = make(train.Checkpoint(tmp_path, keep=9))
    fit(again, 3, resume=tmp_path / "step-00000006.ckpt")  # and what came after it is given up
    assert names(tmp_path) == ["best.ckpt", "step-00000003.ckpt", "step-00000006.ckpt", "step-00000009.ckpt"]
    (tmp_path / "notes.txt").write_text("of the user")
    fit(again, 1)
    assert "notes.txt" in names(tmp_path)
    best = tmp_path / "other"
    best.mkdir()
    shutil.copy(tmp_path / "best.ckpt", best)
    with pytest.raises(ValueError, match="which has checkpoints of another run"):
        fit(make(train.Checkpoint(best)), 1)


def test_a_run_that_is_told_to_stop_is_saved(tmp_path):
    def tell(batch, logs):
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = make(train.LambdaCallback(on_train_batch_end=tell), train.Checkpoint(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 3)
    assert latest(tmp_path).name == "step-00000004.ckpt"
    found = make(train.Checkpoint(tmp_path))
    fit(found, 3, resume=latest(tmp_path))
    whole = make()
    fit(whole, 3)
    assert same(weights(found), weights(whole))


def test_arguments_of_checkpoint(tmp_path):
    for arguments, error, text in (
        ({"per": "batch"}, ValueError, "per is 'batch', needs 'epoch' or 'step'"),
        ({"keep": 0}, ValueError, "keep is 0, needs at least 1"),
        ({"every": 1.5}, TypeError, r"every is 1\.5, needs an int"),
        ({"folder": 3}, TypeError, "folder is 3, needs a str or a path"),
    ):
        with pytest.raises(error, match=text):
            train.Checkpoint(**{"folder": tmp_path} | arguments)


# --- learning rates ---------------------------------------------------------------------------------------------------


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


# --- what people look at ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(capsys):
    trainer = make(train.ProgressBar(), metrics=["accuracy", train.metrics.ConfusionMatrix()])
    history = fit(trainer, 10, validation=(X, Y))
    out, err = capsys.readouterr()
    assert not out
    lines = err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("epoch  1/10  ")
    assert lines[9].startswith("epoch 10/10  ")
    assert f"  loss {history['loss'][9]:.4g}  " in lines[9]
    assert f"  val_accuracy {history['val_accuracy'][9]:.4g}" in lines[9]
    assert "confusion" not in err


def test_a_bar_in_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("minigrad.train.callbacks.progress_bar.PAUSE", 0.0)
    file = Terminal()
    trainer = make(train.ProgressBar(file=file))
    fit(trainer, 2)
    assert "epoch 1/2: 100%" in file.getvalue()
    assert "3/3" in file.getvalue()
    assert "loss " in file.getvalue()
    assert sum(line.startswith("epoch") and " s  loss" in line for line in file.getvalue().split("\r")) == 2
    plain = Terminal()
    fit(make(train.ProgressBar("lines", file=plain)), 2)
    assert "%" not in plain.getvalue()
    assert len(plain.getvalue().splitlines()) == 2


def test_the_bar_of_a_resumed_epoch(tmp_path):
    pytest.importorskip("tqdm")
    trainer = make(Kill(5), train.Checkpoint(tmp_path, per="step"))
    trainer.callbacks.callbacks.reverse()
    with pytest.raises(Killed):
        fit(trainer, 2)
    file = Terminal()
    bar = train.ProgressBar("bar", file=file)
    seen = []
    look = train.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append((bar._bar.n, bar._bar.total)))
    fit(make(bar, look), 2, resume=latest(tmp_path))
    assert seen == [(2, 3)]
    assert len([line for line in file.getvalue().split("\n") if " s  loss" in line]) == 1


def test_the_bar_is_closed_when_the_run_breaks():
    pytest.importorskip("tqdm")
    bar = train.ProgressBar("bar", file=io.StringIO())
    with pytest.raises(Killed):
        fit(make(bar, Kill(2)))
    first = bar._bar
    fit(make(bar))
    assert first.disable  # what tqdm sets in close
    assert bar._bar is None


def test_styles_and_durations():
    with pytest.raises(ValueError, match="style is 'dots', needs one of 'auto', 'bar', 'lines'"):
        train.ProgressBar("dots")
    duration = callbacks.progress_bar._duration
    assert [duration(s) for s in (0.04, 59.94, 61.0, 3725.0)] == ["0.0 s", "59.9 s", "0:01:01", "1:02:05"]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_reads_back_as_the_history(tmp_path):
    path = tmp_path / "new" / "history.csv"
    trainer = make(train.CSVLogger(path), metrics=["accuracy", train.metrics.ConfusionMatrix()])
    history = fit(trainer, validation=(X, Y))
    rows = table(path)
    assert list(rows[0]) == ["epoch", *history]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for name, values in history.items():
        found = [json.loads(row[name]) if "confusion" in name else float(row[name]) for row in rows]
        np.testing.assert_array_equal(found, values)
    fit(trainer, 2)  # goes on, without a validation
    rows = table(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[4]["val_loss"] == ""
    fit(make(train.CSVLogger(path)), 1)  # another run begins anew
    assert len(table(path)) == 1


def test_a_column_that_comes_later(tmp_path):
    path = tmp_path / "history.csv"

    def add(epoch, logs):
        if epoch == 2:
            logs["late"] = 7.5

    fit(make(train.LambdaCallback(on_epoch_end=add), train.CSVLogger(path, separator=";")), 4)
    lines = path.read_text().splitlines()
    assert lines[0] == "epoch;loss;lr;late"
    assert [line.split(";")[3] for line in lines[1:]] == ["", "", "7.5", ""]
    assert len(lines) == 5


def test_a_table_can_be_appended_to(tmp_path):
    path = tmp_path / "history.csv"
    fit(make(train.CSVLogger(path, append=True)), 2)
    with open(path, "a") as file:
        file.write("2,0.12")  # a row that a kill cut short
    fit(make(train.CSVLogger(path, append=True)), 1)
    assert [row["epoch"] for row in table(path)] == ["0", "1", "0"]
    path.unlink()
    logger = train.CSVLogger(path)
    logger.load_state_dict({"rows": 5, "columns": ["epoch", "loss", "lr"]})  # of a table that was taken away
    fit(make(logger), 1)
    assert len(table(path)) == 1
    with pytest.raises(ValueError, match="separator is '::', needs one character"):
        train.CSVLogger(path, separator="::")


def test_the_plot_is_an_image(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "plots" / "history.png"
    sizes = []

    class Look(Callback):
        last = True

        def on_epoch_end(self, epoch, logs):
            with image.open(path) as opened:
                opened.load()
                sizes.append(opened.size)
            assert names(path.parent) == ["history.png"]

    before = set(sys.modules)
    called = [train.EarlyStopping(patience=5), train.Plot(path, log_scale=True, dpi=50), Look()]
    fit(make(*called, metrics=["accuracy"]), 2, validation=(X, Y))
    assert sizes == [(630, 155)] * 2  # three panels: loss, accuracy, lr
    assert "matplotlib.pyplot" not in set(sys.modules) - before

    def fail(*args, **kwargs):
        raise OSError("no space left")

    old = path.read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        fit(make(train.Plot(path, dpi=50)), 1)
    assert path.read_bytes() == old


def test_what_the_plot_shows(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "history.svg"
    history = {"loss": [4.0, 2.0, 1.0], "val_loss": [3.0, 2.5], "accuracy": [0.1, math.nan, 0.3], "lr": [0.1] * 3}
    history["confusion_matrix"] = [np.eye(2)] * 3
    plot = train.Plot(path, log_scale=["loss", "accuracy"])
    assert plot._panels(history) == ["loss", "accuracy", "lr"]
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        savefig(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        plot.draw(history, best=1)
    loss, accuracy, lr = figures[0].axes
    assert [axes.get_title("left") for axes in (loss, accuracy, lr)] == ["loss", "accuracy", "lr"]
    trained, held_out, best = loss.get_lines()
    assert [line.get_label() for line in loss.get_lines()] == ["training", "validation", "best: epoch 2"]
    assert (list(trained.get_xdata()), list(trained.get_ydata())) == ([1, 2, 3], [4.0, 2.0, 1.0])
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == ([2, 3], [3.0, 2.5])
    assert set(best.get_xdata()) == {2}
    assert [axes.get_yscale() for axes in (loss, accuracy, lr)] == ["log", "log", "linear"]
    assert path.read_text().lstrip().startswith("<?xml")
    with pytest.raises(ValueError, match="logs is 'acc' among others, needs one of loss, accuracy, lr"):
        train.Plot(path, ["loss", "acc"]).draw(history)
    with pytest.raises(ValueError, match=r"path is 'history.doc', needs an ending of .*png"):
        train.Plot("history.doc")


def records(folder):
    """The events in the files of a folder, in their order."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    parts = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            parts.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return parts


def events(folder):
    """What TensorBoard would show: tag -> {step: value}, a start of session making it forget later steps."""
    found = {}
    for event in records(folder):
        if event.session_log.status == 1:
            found = {tag: {s: v for s, v in seen.items() if s < event.step} for tag, seen in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value
    return found


def test_tensorboard_shows_the_run(tmp_path):
    pytest.importorskip("tensorboardX")
    pytest.importorskip("PIL")

    def samples(trainer):
        return {"text": f"step {trainer.step}", "gray": np.eye(4), "colors": mg.zeros((2, 3, 4, 5)), "one": X[None, :3]}

    norms, losses = [], []
    note = train.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            norms.append(optim.grad_norm(trainer.trained())),
            losses.append(trainer.loss(trainer.model.eval()(trainer.batch[0]), trainer.batch[1]).item()),
            trainer.model.train(),
        )
    )
    board = train.TensorBoard(tmp_path, samples=samples, histograms=2)
    trainer = make(board, note, metrics=["accuracy"], optimizer="sgd", lr=0.0)
    trainer.model[1].rate = 0.0
    history = fit(trainer, 2, validation=(X, Y))
    found = events(tmp_path)
    for k in range(6):
        assert found["step/loss"][k + 1].simple_value == pytest.approx(losses[k], rel=1e-5)
        assert found["step/grad_norm"][k + 1].simple_value == pytest.approx(norms[k], rel=1e-5)
        assert found["step/lr"][k + 1].simple_value == 0.0
    for name, values in history.items():
        assert [found[f"epoch/{name}"][step].simple_value for step in (3, 6)] == pytest.approx(values, rel=1e-5)
    weight = found["weights/0/weight"][6].histo
    assert list(found["weights/0/weight"]) == [6]
    assert (weight.num, weight.sum) == (24, pytest.approx(float(trainer.model[0].weight.sum()), rel=1e-5))
    assert found["gradients/2/bias"][6].histo.max == pytest.approx(float(trainer.model[2].bias.grad.max()), rel=1e-5)
    assert found["samples/text/text_summary"][6].tensor.string_val == [b"step 6"]
    image = found["samples/colors"][3].image
    assert (image.height, image.width) == (4, 10)
    assert found["samples/gray"][3].image.encoded_image_string.startswith(b"\x89PNG")
    assert b"Dense" in found["model/text_summary"][1].tensor.string_val[0]


def test_the_graph_of_the_model(tmp_path):
    pytest.importorskip("tensorboardX")
    graph_pb2 = pytest.importorskip("tensorboardX.proto.graph_pb2")

    class Net(nn.Module):
        def __init__(self):
            self.first = nn.Dense(6, in_features=4)
            self.norm = nn.BatchNorm(6)
            self.inner = nn.Sequential([nn.Dense(6, "relu", in_features=6), nn.Dropout(0.5)])
            self.last = nn.Dense(3, in_features=6)

        def forward(self, x):
            y = self.norm(self.first(x))
            return self.last(self.inner(y) + y + y)

    def run(folder, graph):
        mg.random.seed(1)
        trainer = Trainer(Net(), metrics=[], seed=0, callbacks=[train.TensorBoard(folder, graph=graph)])
        fit(trainer, 2)
        return trainer, [event for event in records(folder) if event.graph_def]

    trainer, found = run(tmp_path / "with", True)
    plain, none = run(tmp_path / "without", False)
    assert same(weights(trainer), weights(plain))  # random numbers and statistics of batches are left alone
    assert (len(found), none) == (1, [])
    nodes = {node.name: node for node in graph_pb2.GraphDef.FromString(found[0].graph_def).node}
    inputs = {name: list(node.input) for name, node in nodes.items() if node.op not in ("Parameter", "Input")}
    assert inputs == {
        "Net/first/linear": ["Net/input", "Net/first/weight", "Net/first/bias"],
        "Net/norm/batch_norm": ["Net/first/linear", "Net/norm/weight", "Net/norm/bias"],
        "Net/inner/0/linear_relu": ["Net/norm/batch_norm", "Net/inner/0/weight", "Net/inner/0/bias"],
        "Net/add": ["Net/inner/0/linear_relu", "Net/norm/batch_norm"],
        "Net/add_2": ["Net/add", "Net/norm/batch_norm"],
        "Net/last/linear": ["Net/add_2", "Net/last/weight", "Net/last/bias"],
    }
    sizes = [size.size for size in nodes["Net/last/linear"].attr["_output_shapes"].list.shape[0].dim]
    assert sizes == [4, 3]


def test_tensorboard_with_clipping_and_rows(tmp_path):
    pytest.importorskip("tensorboardX")
    model = nn.Sequential([nn.Embedding(9, 4, sparse=True), nn.Dense(3, in_features=4)])
    board = train.TensorBoard(tmp_path, every=2)
    seen = []
    note = train.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["grad_norm"]))
    trainer = Trainer(model, optimizer="sgd", lr=0.1, metrics=[], callbacks=[board, note], clip_norm=1e-3)
    ids, y = np.array([1, 2, 1, 5]), np.array([0, 1, 2, 0])
    trainer.fit((ids, y), epochs=4, batch_size=4, verbose=0)
    found = events(tmp_path)
    assert list(found["step/grad_norm"]) == [2, 4]
    assert [value.simple_value for value in found["step/grad_norm"].values()] == pytest.approx(seen[1::2], rel=1e-5)
    assert found["gradients/0/weight"][4].histo.num == 3 * 4  # the rows that were used


def test_tensorboard_of_a_run_that_was_killed(tmp_path):
    pytest.importorskip("tensorboardX")

    def run(folder, step, resume):
        board, checkpoint = (
            train.TensorBoard(folder / "board"),
            train.Checkpoint(folder / "states", every=2, per="step"),
        )
        trainer = make(board, checkpoint, Kill(step), seed=1)
        fit(trainer, 4, resume=resume)

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    run(tmp_path / "whole", -1, None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", 7, None)
    run(tmp_path / "killed", -1, latest(tmp_path / "killed" / "states"))
    whole, killed = (events(tmp_path / name / "board") for name in ("whole", "killed"))
    assert len(names(tmp_path / "killed" / "board")) == 2
    for tag in ("step/loss", "step/lr", "step/grad_norm", "epoch/loss"):
        wanted = {step: value.simple_value for step, value in whole[tag].items()}
        assert {step: value.simple_value for step, value in killed[tag].items()} == wanted
        assert len(wanted) == (4 if tag == "epoch/loss" else 12)


def test_tensorboard_has_written_what_a_checkpoint_has_seen(tmp_path):
    pytest.importorskip("tensorboardX")
    seen = []
    look = train.LambdaCallback(
        last=True,
        on_train_batch_end=lambda batch, logs: seen.append(list(events(tmp_path / "board")["step/loss"])),
    )
    fit(make(train.TensorBoard(tmp_path / "board"), train.Checkpoint(tmp_path / "run", per="step"), look), 1)
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_samples_that_do_not_fit(tmp_path):
    pytest.importorskip("tensorboardX")
    with pytest.raises(ValueError, match=r"the sample 'x' is float64 \(3,\), needs a text, or an image"):
        fit(make(train.TensorBoard(tmp_path, samples=lambda trainer: {"x": np.zeros(3)})))
    with pytest.raises(TypeError, match="what samples gives is None, needs a dict"):
        fit(make(train.TensorBoard(tmp_path, samples=lambda trainer: None)))
    with pytest.raises(TypeError, match="samples is 3, needs a function"):
        train.TensorBoard(tmp_path, samples=3)


@pytest.mark.parametrize(
    ("module", "make_one", "text"),
    [
        (
            "tensorboardX",
            lambda: train.TensorBoard("runs"),
            r"TensorBoard needs tensorboardX: pip install 'minigrad\[log\]'",
        ),
        ("matplotlib", lambda: train.Plot("a.png"), r"Plot needs matplotlib: pip install 'minigrad\[plot\]'"),
        ("tqdm", lambda: train.ProgressBar("bar"), r"ProgressBar needs tqdm: pip install 'minigrad\[train\]'"),
    ],
)
def test_packages_that_are_missing(module, make_one, text, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=text):
        make_one()


# --- NaN, and functions -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", [train.Checkpoint, lambda path: train.CSVLogger(path / "history.csv")])
def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(kind, tmp_path):
    (tmp_path / "file").write_text("")
    trainer = make(kind(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file', which cannot be made .*, needs a folder to write to"):
        fit(trainer)
    assert trainer.step == 0


def test_a_folder_without_write_permission_is_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    trainer = make(train.Checkpoint(tmp_path / "run"))
    with pytest.raises(PermissionError, match=r"run', which is read-only, needs a folder to write to"):
        fit(trainer)
    assert trainer.step == 0


def test_a_folder_of_damaged_checkpoints_is_not_overwritten(tmp_path):
    (tmp_path / "step-00000003.ckpt").write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=r"whose checkpoints are all damaged, needs an empty folder.*Move them away"):
        fit(make(train.Checkpoint(tmp_path)), resume=tmp_path)
    assert names(tmp_path) == ["step-00000003.ckpt"]


def test_a_method_that_nobody_calls_is_told():
    class Keras(Callback):
        def on_batch_end(self, batch, logs):
            raise AssertionError

    with pytest.warns(UserWarning, match=r"Keras: methods is on_batch_end, which nobody calls, needs on_train"):
        fit(make(Keras()), epochs=1)


def test_the_plot_knows_what_early_stopping_found_in_this_epoch(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    best = []
    monkeypatch.setattr(train.Plot, "draw", lambda self, history, epoch: best.append(epoch))
    # in whatever order they are given, the last picture of a run that is stopped is drawn, and marks its best epoch
    losses = iter([3.0, 2.0, 2.5, 2.6])
    told = train.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(loss=next(losses)))
    stopping = train.EarlyStopping("loss", patience=2)
    fit(make(told, train.Plot(tmp_path / "history.png", every=3), stopping), epochs=9)
    assert stopping.stopped_epoch == 3
    assert best == [1, 1]

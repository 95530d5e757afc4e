"""What people look at while a model trains: lines, bars, tables and plots."""

from __future__ import annotations

import io
import json
import math
import os
import sys

import numpy as np
import pytest
from callback_functions import Kill, Killed, X, Y, fit, make, names, table

from minigrad import train
from minigrad.train import Callback, callbacks, latest


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

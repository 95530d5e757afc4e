"""The callback that saves a run: what is in its folder, after kills, crashes and damage too."""

from __future__ import annotations

import math
import os
import shutil
import signal

import numpy as np
import pytest
from callback_functions import Kill, Killed, Score, X, Y, fit, make, names, same, scored, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.train import Trainer, latest


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

"""Runs of the trainer that were killed or ended by a signal: they go on where they were."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_functions import At, Errors, Recorder, Stop, build, cut, equal, examples, mlp, same, stop

import minigrad as mg
from minigrad import data, io
from minigrad.train import Callback, Trainer


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

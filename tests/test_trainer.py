"""The trainer: evaluation, prediction, what it calls and prints, and the data that it takes."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_functions import At, Errors, Recorder, cut, equal, examples, mlp, same

import minigrad as mg
from minigrad import data, nn, optim, train
from minigrad.train import Callback, Trainer


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

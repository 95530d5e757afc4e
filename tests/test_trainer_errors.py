"""What the trainer refuses, and how it says so; numbers that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trainer_functions import Errors, Recorder, cut, equal, examples, mlp

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.train import Callback, Trainer


def test_unknown_names_list_the_known():
    for options, text in (
        ({"loss": "crossentropy"}, "loss is 'crossentropy', needs one of .*cross_entropy.*mse"),
        ({"optimizer": "adamx"}, "name is 'adamx', needs one of sgd, adam, adamw.*Is it 'adam'?"),
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


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("name", ["cosine", "linear", "one_cycle", "warmup_cosine"])
def test_every_schedule_goes_over_a_single_step(name, per):
    trainer = Trainer(mlp(), schedule=name, schedule_per=per, seed=0)
    assert len(trainer.fit(examples(4), verbose=0)["lr"]) == trainer.step == 1


def test_an_optimizer_that_needs_more_than_a_gradient_is_refused_at_once():
    for optimizer in ("lbfgs", optim.LBFGS):
        with pytest.raises(
            TypeError, match=r"optimizer is LBFGS, which searches along a line, needs an optimizer that"
        ):
            Trainer(mlp(), optimizer=optimizer)


@pytest.mark.parametrize("name", ["val_loss", "val_accuracy", "epoch", "loss"])
def test_a_metric_does_not_take_the_name_of_another_log(name):
    with pytest.raises(ValueError, match=rf"metrics is named {name}, needs a name of its own.*and val_\.\.\."):
        Trainer(mlp(), metrics=[train.metrics.Accuracy(name)])

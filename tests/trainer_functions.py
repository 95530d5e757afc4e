"""What tests of the trainer share: models, data, callbacks, and whether two nests are equal."""

from __future__ import annotations

import itertools

import numpy as np

import minigrad as mg
from minigrad import amp, nn
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

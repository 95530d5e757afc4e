"""What tests of callbacks share: data, models, runs that are killed, and what they leave in files."""

from __future__ import annotations

import csv
import os

import numpy as np

import minigrad as mg
from minigrad import nn
from minigrad.train import Callback, Trainer

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


def names(folder):
    return sorted(os.listdir(folder))


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))

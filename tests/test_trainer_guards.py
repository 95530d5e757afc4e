"""What the trainer stops at, leaves out, refuses and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, data, nn, ops, optim, train
from minigrad.optim.gradients import all_finite


class Root(nn.Module):
    """Its value is finite at any weight, and its gradient is not."""

    def __init__(self, factor):
        self.weight = nn.Parameter(np.ones((2, 1), np.float32))
        self.factor = factor

    def forward(self, x):
        return ops.sqrt(x @ self.weight * self.factor)


@pytest.mark.parametrize("clipped", [False, True])
def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(clipped):
    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    options = {"clip_norm": 1.0} if clipped else {"clip_value": 1.0}
    model = Root(0.0)
    trainer = train.Trainer(model, "mse", "sgd", lr=0.1, **options)
    with pytest.raises(FloatingPointError, match=r"the (norm of the )?gradient is (not finite|nan) in epoch 0.*sqrt"):
        trainer.fit((x, y), verbose=0)
    assert trainer.step == 0
    assert model.weight.tolist() == [[1.0], [1.0]]
    model = Root(0.0)
    train.Trainer(model, "mse", "sgd", lr=0.1, nan="ignore").fit((x, y), verbose=0)
    assert np.isnan(model.weight.tolist()).all()
    model = Root(1.0)
    train.Trainer(model, "mse", "sgd", lr=0.1, **options).fit((x, y), verbose=0)
    assert model.weight.tolist() != [[1.0], [1.0]]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.sampled_from([1.0, 1e30, np.finfo(np.float32).max]),
    st.sampled_from([None, math.nan, math.inf, -math.inf]),
    st.sampled_from(["float16", "float32", "float64"]),
    st.randoms(use_true_random=False),
)
def test_whether_all_gradients_are_finite(sizes, top, odd, dtype, chance):
    with np.errstate(over="ignore"):
        grads = [np.minimum(np.full(n, top), np.finfo(dtype).max).astype(dtype) for n in sizes]
    there = [g for g in grads if g.size]
    if odd is not None and there:
        g = chance.choice(there)
        g[chance.randrange(g.size)] = odd
    assert all_finite(grads) == (odd is None or not there)


def test_a_skipped_loss_is_not_in_the_logs():
    """With fp16 a batch that overflows is left out of the mean of the epoch, as its step is."""
    x = np.ones((12, 2), np.float32)
    x[4:8] = np.inf
    y = np.zeros((12, 1), np.float32)
    model = nn.Dense(1, in_features=2)
    trainer = train.Trainer(model, "mse", optim.SGD(model.parameters(), lr=0.0), precision="fp16")
    trainer.scaler = amp.GradScaler(init_scale=1024.0)
    history = trainer.fit((x, y), batch_size=4, shuffle=False, verbose=0)
    assert (trainer.step, history["skipped"]) == (2, [1])
    with amp.autocast(mg.float16):
        wanted = nn.functional.mse_loss(model(mg.asarray(x[:1])), mg.asarray(y[:1])).item()
    assert history["loss"][0] == pytest.approx(wanted, rel=1e-6)


def test_a_state_of_another_accumulate_is_refused(tmp_path):
    x, y = np.ones((8, 2), np.float32), np.zeros(8, np.int64)
    train.Trainer(nn.Dense(2, in_features=2), accumulate=2).save(tmp_path / "run")
    other = train.Trainer(nn.Dense(2, in_features=2), accumulate=4)
    with pytest.raises(ValueError, match="accumulate is 2 in the state, needs 4, as of this trainer"):
        other.fit((x, y), verbose=0, resume=tmp_path / "run")


@given(st.integers(1, 8), st.integers(1, 5), st.booleans())
def test_a_validation_of_some_steps_begins_anew(steps, batch_size, loads):
    rng = np.random.default_rng(steps)
    x, y = rng.normal(size=(18, 2)).astype(np.float32), rng.integers(0, 2, 18)
    held_out = data.DataLoader(data.TensorDataset(x, y), batch_size) if loads else (x, y)
    model = nn.Dense(2, in_features=2)
    trainer = train.Trainer(model, optimizer=optim.SGD(model.parameters(), lr=0.0))
    history = trainer.fit(
        (x, y), epochs=3, batch_size=batch_size, validation=held_out, validation_steps=steps, verbose=0
    )
    some = (x[: steps * batch_size], y[: steps * batch_size])
    wanted = trainer.evaluate(some, batch_size=batch_size)
    assert history["val_loss"] == [wanted["loss"]] * 3
    assert history["val_accuracy"] == [wanted["accuracy"]] * 3
    assert trainer.evaluate(held_out, batch_size=batch_size, steps=steps) == wanted


def test_steps_are_numbers_of_at_least_one():
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.int64)
    trainer = train.Trainer(nn.Dense(2, in_features=2))
    with pytest.raises(ValueError, match="validation_steps"):
        trainer.fit((x, y), validation=(x, y), validation_steps=0, verbose=0)
    with pytest.raises(ValueError, match="steps"):
        trainer.evaluate((x, y), steps=0)

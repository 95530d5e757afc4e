"""What the ranks of the tests of `Trainer` call: functions that processes import by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from rank_functions import team

import minigrad as mg
from minigrad import amp, data, nn, optim, parallel, train

CLASSES, FEATURES, TOKENS = 3, 4, 3


class Tagger(nn.Module):
    """A class for each token of a sentence; or for each sentence, with batch normalization."""

    def __init__(self, options: dict[str, Any]) -> None:
        dtype = getattr(mg, options.get("dtype", "float32"))
        self.first = nn.Dense(8, activation="tanh", in_features=FEATURES, dtype=dtype)
        self.norm = nn.BatchNorm1D(8, dtype=dtype) if options.get("norm") else nn.LayerNorm(8, dtype=dtype)
        self.dropout = nn.Dropout(options.get("dropout", 0.0))
        self.last = nn.Dense(CLASSES, in_features=8, dtype=dtype)
        self.pools = bool(options.get("norm"))

    def forward(self, x: Any) -> Any:
        h = self.first(x)
        h = self.norm(h.mean(axis=1) if self.pools else h)
        return self.last(self.dropout(h))


def sentences(options: dict[str, Any], n: int, seed: int) -> tuple[Any, Any]:
    """Inputs, and targets of which some are padding: as many as the sentence has it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, TOKENS, FEATURES)).astype(options.get("dtype", "float32"))
    y = rng.integers(0, CLASSES, (n, TOKENS))
    if options.get("norm"):
        return x, y[:, 0]
    y[np.arange(TOKENS) >= rng.integers(0, TOKENS + 1, n)[:, None]] = -1
    return x, y


class Stream(data.IterableDataset):
    """Sentences that come one after the other."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Any:
        return zip(self.x, self.y)


class Steps(train.Callback):
    """The logs of every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        self.seen.append(dict(logs))


def make(world: Any, options: dict[str, Any], callbacks: Any = ()) -> train.Trainer:
    """A trainer, with options of the test."""
    mg.random.seed(options.get("seed", 0) + (world.rank if options.get("unlike") else 0))  # the values of rank 0 count
    model: nn.Module = Tagger(options)
    if options.get("norm"):
        model = parallel.DataParallel(model, world, sync_batch_norm=options["norm"] == "sync")
    optimizer = options.get("optimizer", "sgd")
    if optimizer == "sharded gradients":
        model = parallel.DataParallel(model, world, bucket_size=100)
    loss: Any = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1, reduction=options.get("reduction", "mean"))
    lr = 0.05 if loss.reduction == "mean" else 0.005
    sgd = {"lr": lr, "momentum": 0.9}
    optimizers: dict[str, Any] = {
        "sgd": lambda named: optim.SGD(named, **sgd),
        "sam": lambda named: optim.SAM(optim.SGD(named, **sgd), rho=0.1),
        "sharded gradients": lambda named: parallel.ShardedOptimizer(optim.SGD, named, model=model, **sgd),
        "sharded": lambda named: parallel.ShardedOptimizer(optim.SGD, named, world, **sgd),
    }
    measured = ["accuracy", "f1", "perplexity", train.metrics.ConfusionMatrix()]
    trainer = train.Trainer(
        model, loss, optimizers[optimizer], measured,
        precision=options.get("precision"), accumulate=options.get("accumulate", 1),
        clip_norm=options.get("clip_norm"), ema=options.get("ema"), schedule=options.get("schedule"),
        adversary=options.get("adversary"), callbacks=callbacks, parallel=world,
    )  # fmt: skip
    if options.get("scaled"):
        trainer.scaler = amp.GradScaler(init_scale=1024.0, growth_interval=3)
    return trainer


def given(options: dict[str, Any], n: int, seed: int, shuffle: bool, world: Any) -> Any:
    """Sentences as arrays, a loader, a list of batches, or a stream."""
    x, y = sentences(options, n, seed)
    size, kind = options["batch_size"], options.get("data", "arrays")
    if kind == "loader":
        return data.DataLoader(data.TensorDataset(x, y), size, shuffle=shuffle, seed=11 + world.rank)
    if kind == "dealt":
        dataset = data.TensorDataset(x, y)
        return data.DataLoader(dataset, size, shuffle=shuffle, seed=11, rank=world.rank, world_size=world.size)
    if kind == "stream":
        return Stream(x, y)
    if kind == "batches":
        return [(x[k : k + size], y[k : k + size]) for k in range(0, n, size)]
    return x, y


def fit(size: int, options: dict[str, Any]) -> Any:
    """Train: the history, the logs of each step, an evaluation, and the weights."""
    world = team(size)
    if world is None:
        return None
    steps = Steps()
    trainer = make(world, options, [steps])
    n = options["n"]
    history = trainer.fit(
        given(options, n, 1, True, world), epochs=options.get("epochs", 2), batch_size=options["batch_size"], verbose=0,
        validation=given(options, n // 2 + 1, 2, False, world),
    )  # fmt: skip
    found = trainer.evaluate(given(options, n // 3 + 1, 3, False, world), batch_size=options["batch_size"])
    return history, steps.seen, found, weights(trainer), trainer.skipped


def weights(trainer: train.Trainer) -> dict[str, Any]:
    """All of the model's state, and its average."""
    made = {name: t.numpy().copy() for name, t in trainer.model.state_dict().items()}
    if trainer.ema is not None:
        state = trainer.ema.state_dict()
        made |= {f"ema {name}": t.numpy().copy() for name, t in (state["weights"] | state["buffers"]).items()}
    return made


# --- runs that end early ------------------------------------------------------------------------------------------


class Stops(train.Callback):
    """Stops the run, ends it, or lets its loss overflow after a step, on one rank alone."""

    def __init__(self, how: str, step: int, rank: int) -> None:
        self.how, self.step, self.rank = how, step, rank

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        t = self.trainer
        if t.step != self.step or t.ranks.rank != self.rank:
            return
        if self.how == "stop":
            t.stop_training = True
        elif self.how == "raise":
            raise RuntimeError("enough")
        else:
            os.kill(os.getpid(), signal.Signals[self.how])


def stopped(size: int, options: dict[str, Any], how: str, folder: str) -> Any:
    """A run that one rank ends early, by a signal or `stop_training`: how it ended, and what the folder holds."""
    world = team(size)
    if world is None:
        return None
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    calls = Steps()
    callbacks = [Stops(how, 3, 1), train.Checkpoint(folder), train.CSVLogger(f"{folder}/log"), calls]
    trainer = make(world, options, callbacks)
    try:
        trainer.fit(given(options, options["n"], 1, True, world), epochs=4, batch_size=options["batch_size"], verbose=0)
        end = "returned"
    except KeyboardInterrupt as error:
        end = f"interrupted by {error}"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    world.barrier()
    return end, trainer.step, len(calls.seen), sorted(os.listdir(folder))


def resumed(size: int, options: dict[str, Any], path: str, epochs: int, save: str | None = None) -> Any:
    """A run from a checkpoint, or from the start where there is none: history and weights."""
    world = team(size)
    if world is None:
        return None

    class Saves(train.Callback):
        last = True

        def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
            if save is not None and self.trainer.step == 4:
                self.trainer.save(save)
                self.trainer.stop_training = True

    trainer = make(world, options, [train.EarlyStopping("loss", patience=50), Saves()])
    history = trainer.fit(
        given(options, options["n"], 1, True, world), epochs=epochs, batch_size=options["batch_size"], verbose=0,
        resume=path,
    )  # fmt: skip
    world.barrier()
    return history, weights(trainer), trainer.step


def not_finite(size: int, options: dict[str, Any], how: str) -> Any:
    """A run in which one example of one rank is not finite: what became of it."""
    world = team(size)
    if world is None:
        return None
    x, y = sentences(options, 12, 1)
    x[7] = np.nan  # of the second batch, and of rank 1
    ends: list[train.Callback] = [train.TerminateOnNaN()] if how == "ends" else []
    trainer = make(world, options, ends)
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            trainer.fit((x, y), epochs=3, batch_size=4, shuffle=False, verbose=0)
        text = "returned " + getattr(ends[0], "reason", "") if ends else "returned"
    except FloatingPointError as error:
        text = str(error)
    scale = None if trainer.scaler is None else trainer.scaler.get_scale()
    return text, trainer.step, trainer.skipped, scale, weights(trainer), trainer.history


def files(folder: str) -> Any:
    """What is written, and by whom."""
    world = parallel.init()
    place = Path(folder)
    lines = open(place / f"lines {world.rank}", "w")  # noqa: SIM115 - it ends with the process
    callbacks = [
        train.CSVLogger(place / "log.csv"), train.Checkpoint(place / "run"), train.ProgressBar("lines", lines)
    ]  # fmt: skip
    options = {"n": 12, "batch_size": 6}
    trainer = make(world, options, callbacks)
    trainer.callbacks.append(train.CSVLogger(place / "later.csv"))
    for rank_0 in (True, False):
        told = train.LambdaCallback(rank_0=rank_0, on_train_end=lambda logs: None)
        trainer.callbacks.append(told)
    trainer.fit(given(options, 12, 1, True, world), epochs=2, batch_size=6)
    world.barrier()
    return [type(c).__name__ for c in trainer.callbacks], sorted(
        str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.stat().st_size
    )


def refusal(options: dict[str, Any]) -> str:
    """Why a run is refused."""
    try:
        fit(parallel.init().size, options)
    except ValueError as error:
        return str(error)
    return "it was not"


def merged(size: int, name: str, seed: int) -> Any:
    """A metric over parts of what one rank would see."""
    rng = np.random.default_rng(seed)
    metric = train.metrics.get(name)
    numbers = name in ("r2", "pearson", "mse", "mae", "rmse")
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.integers(1, 9))
        x = rng.normal(size=(n, 4)) + (100.0 if numbers else 0.0)
        y = x + rng.normal(size=(n, 4)) if numbers else rng.integers(0, 4, n)
        w = None if numbers else rng.integers(0, 2, n).astype(float)
        if size == 1:
            metric.update(x, y, w)
            continue
        parts = [metric.empty() for _ in range(size)]
        for rank, part in enumerate(parts):
            rows = slice(n * rank // size, n * (rank + 1) // size)
            if rows.stop > rows.start:
                part.update(x[rows], y[rows], None if w is None else w[rows])
        for part in parts:
            metric.merge(part.state_dict())
    return metric.result()


def state_of(rank: int) -> Any:
    """A state such as metrics may have."""
    rng = np.random.default_rng(rank)
    return {
        "array": rng.normal(size=(rank, 2)), "half": rng.normal(size=3).astype(np.float16), "none": None, "flag": True,
        "scalar": np.float32(rank), "0-d": np.array(rank), "big": 2**63 + rank, "odd": [float("nan"), float("-inf")],
        "text": "ä\n" * rank, "pair": (rank, {"ids": np.arange(rank)}),
    }  # fmt: skip


def gathered() -> list[str]:
    """The states of all ranks."""
    ranks = train.Trainer(nn.Dense(1, in_features=1), "mse", parallel=True).ranks
    return [repr(state) for state in ranks.gather(state_of(ranks.rank))]

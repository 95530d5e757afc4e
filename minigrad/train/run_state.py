"""The state of a run: all that a `Trainer` needs to go on bit for bit where it was killed."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minigrad import random
from minigrad.errors import message

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["FORMAT", "collect", "remove_leftovers", "restore", "take_up"]

FORMAT = 1
PARTS = ("schedule", "scaler", "ema", "adversary")  # with a state of their own, where the trainer has them
WAITING = ("loader", "validation", "callbacks", "random", "logs")  # loaded by `fit` only, the last thing before a step


def collect(trainer: Trainer) -> dict[str, Any]:
    """The state now, between two steps; in the callbacks at the end of an epoch it is that of the next one's begin."""
    t, ended, waiting = trainer, trainer.epoch_ended, trainer.resumed
    state: dict[str, Any] = {
        "format": FORMAT,
        "model": t.model.state_dict(),
        "optimizer": t.optimizer.state_dict(),
        "epoch": t.epoch + ended,
        "batch": 0 if ended else t.batch_index,
        "trained": t.epoch_trained and not ended,
        "step": t.step,
        "accumulate": t.accumulate,
        "skipped": t.skipped,
        "overflows": t.pipeline.overflows,
        "first_epoch": t.first_epoch,
        "stop_training": t.stop_training,
        "history": copy.deepcopy(t.history),
        "logs": {k: v for k, v in t.logs.items() if isinstance(v, (bool, int, float, str))},
        "sums": t.sums.state_dict(),
        "metrics": [metric.state_dict() for metric in t.metrics],
    }
    for name in PARTS:
        part = getattr(t, name)
        state[name] = part.state_dict() if hasattr(part, "state_dict") else None
    if waiting is not None:
        state["schedule"] = state["schedule"] or waiting["schedule"]
        return state | {name: waiting[name] for name in WAITING}
    state["loader"] = None if t.source is None else t.source.state_dict()
    state["validation"] = None if t.held_out is None else t.held_out.state_dict()
    state["callbacks"] = t.callbacks.state_dict()
    state["random"] = random.get_state()
    return state


def remove_leftovers(path: str | os.PathLike[str], before: float) -> None:
    """Delete what a run that was killed in the midst of a write has left beside the checkpoint, if it is that old."""
    folder, name = os.path.split(os.fspath(path))
    for file in os.scandir(folder or "."):
        if re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}", file.name) and file.stat().st_mtime < before:
            os.unlink(file.path)


def restore(trainer: Trainer, state: Any) -> None:
    """Load a state into a trainer that is made as the one it came from."""
    t, who = trainer, "Trainer.load_state_dict"
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        got = f"of format {state.get('format')}" if isinstance(state, Mapping) else state
        raise ValueError(message(who, "state", got, f"what state_dict gives, format {FORMAT}"))
    for name in PARTS:
        later = name == "schedule" and t.schedule_name is not None  # made by fit
        if state[name] is not None and getattr(t, name) is None and not later:
            hint = f"Make the trainer with {'precision' if name == 'scaler' else name}= as the one that was saved"
            raise ValueError(message(who, name, "in the state alone", "both or none", hint))
    if state.get("accumulate", t.accumulate) != t.accumulate:  # batches and steps of the schedule would be others
        saved = f"{state['accumulate']} in the state"
        raise ValueError(message(who, "accumulate", saved, f"{t.accumulate}, as of this trainer"))
    if len(state["metrics"]) != len(t.metrics):
        counts = f"those of {len(state['metrics'])}", f"those of {len(t.metrics)}"
        raise ValueError(
            message(who, "the metrics", *counts, "Make the trainer with metrics= as the one that was saved")
        )
    t.model.load_state_dict(state["model"])
    t.optimizer.load_state_dict(state["optimizer"])
    for name in PARTS:
        if state[name] is not None and getattr(t, name) is not None:
            getattr(t, name).load_state_dict(state[name])
    for metric, part in zip(t.metrics, state["metrics"], strict=True):
        metric.load_state_dict(part)
    t.sums.load_state_dict(state["sums"])
    t.epoch, t.batch_index, t.step = int(state["epoch"]), int(state["batch"]), int(state["step"])
    t.skipped, t.pipeline.overflows = int(state["skipped"]), int(state["overflows"])
    t.epoch_trained = bool(state["trained"])
    t.first_epoch, t.stop_training = int(state["first_epoch"]), bool(state["stop_training"])
    t.history = {name: list(values) for name, values in state["history"].items()}
    t.resumed = state
    _load_last(t, state)


def take_up(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put the loaders, the callbacks and the random numbers where they were: what `fit` does last before its loop."""
    for source, name in ((trainer.source, "loader"), (trainer.held_out, "validation")):
        if source is not None and state[name] is not None:
            source.load_state_dict(state[name])
    _load_last(trainer, state)
    trainer.resumed = None


def _load_last(trainer: Trainer, state: Mapping[str, Any]) -> None:
    trainer.logs.update(state["logs"])
    trainer.callbacks.load_state_dict(state["callbacks"])
    random.set_state(state["random"])

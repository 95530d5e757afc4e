"""Pruner: prunes while a model trains, by a schedule; a callback of `Trainer`, or two calls in a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.compress.pruning.prune import check_plan, prune_targets
from minigrad.compress.pruning.rewind import Rewind
from minigrad.compress.pruning.schedules import PruningSchedule
from minigrad.compress.pruning.scores import Score, find_score
from minigrad.compress.pruning.targets import Target, find_targets, ranks_of
from minigrad.errors import describe, message
from minigrad.nn.module import Module
from minigrad.train.callbacks.callback import Callback, Logs

__all__ = ["Pruner"]


class Pruner(Callback):
    """Prunes a model while it trains.

    After the steps that the schedule names, the lowest scores go until the share of it is reached. From then on the
    optimizer holds them at 0. With `rewind` what is left goes back to an early step each time.

    Parameters
    ----------
    schedule : PruningSchedule
        When and how much: `CubicSchedule`, `GeometricSchedule`, `OneShot`.
    scope : str
        ``"global"`` or ``"layer"``, as for `prune`.
    scores : str or Score
        As for `prune`; ``"movement"`` and ``"taylor"`` sum over all steps.
    exclude : optional
        As for `prune`.
    pattern : (int, int), optional
        In place of the schedule's amounts, which then only says when.
    rewind : Rewind, optional
        What goes back to which step, whenever weights have been pruned.
    model, optimizer, lr_schedule : optional
        Without a `Trainer`: the model, and what `rewind` puts back beside it.

    Attributes
    ----------
    count : int
        The steps of the optimizer so far; those that an overflow skipped do not count.

    Raises
    ------
    TypeError
        If `schedule` or `rewind` is none.
    ValueError
        As for `prune`.

    Notes
    -----
    In a loop call `before_update` between backward and the optimizer's step (only gathered scores need it), and `step`
    after it, where no overflow has skipped it. All ranks of a `DataParallel` get the masks of rank 0, from the mean of
    their scores.

    The masks are part of the model's state dict; the state of a pruner is its count, the scores and what `rewind`
    keeps, and a run that is resumed goes on bit for bit. Averages of weights (`EMA`) are 0 where the masks are, but do
    not go back with `rewind`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn, train
    >>> x = mg.random.normal((64, 8))
    >>> y = (x[:, 0] > 0).astype(mg.int64)
    >>> model = nn.Sequential([nn.Dense(16, "relu", in_features=8), nn.Dense(2, in_features=16)])
    >>> pruner = compress.Pruner(compress.CubicSchedule(0.75, begin=4, end=12, every=4))
    >>> _ = train.Trainer(model, metrics=[], callbacks=[pruner]).fit((x, y), batch_size=16, epochs=4, verbose=0)
    >>> compress.sparsity(model).pruned
    0.75
    """

    def __init__(
        self,
        schedule: PruningSchedule,
        *,
        scope: str = "global",
        scores: str | Score = "magnitude",
        exclude: Any = (),
        pattern: tuple[int, int] | None = None,
        rewind: Rewind | None = None,
        model: Module | None = None,
        optimizer: Any = None,
        lr_schedule: Any = None,
    ) -> None:
        given: Any = schedule
        if not isinstance(given, PruningSchedule):
            need = "a schedule of pruning, such as compress.CubicSchedule(0.9, end=1000)"
            raise TypeError(message("Pruner", "schedule", describe(given), need))
        if not (rewind is None or isinstance(rewind, Rewind)):
            raise TypeError(message("Pruner", "rewind", describe(rewind), "a compress.Rewind, or None"))
        if rewind is not None and rewind.step >= given.end:
            need = f"one before step {given.end}, the last that prunes, as it would never go back"
            raise ValueError(message("Pruner", "rewind", f"to step {rewind.step}", need))
        self.schedule, self.scope, self.exclude, self.rewind = given, scope, exclude, rewind
        _, _, self.pattern = check_plan("Pruner", None, None, scope, pattern)
        self.score = find_score("Pruner", scores)
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.count = 0
        self._model = model
        self._seen = 0  # the trainer's steps that have been counted
        self._targets: list[Target] | None = None
        if model is not None:
            find_targets("Pruner", model, exclude)

    @property
    def model(self) -> Module:
        """The model: the one given, or the trainer's."""
        return self.trainer.model if self._model is None else self._model

    @property
    def targets(self) -> list[Target]:
        """What is pruned, found when it is needed first: shapes may wait for a batch."""
        if self._targets is None:
            self._targets = find_targets("Pruner", self.model, self.exclude)
        return self._targets

    # --- what a loop calls ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before the first step: keep the state of the start if `rewind` goes back to it."""
        if self.rewind is not None and self.rewind.step == 0 and not self.count and self.rewind.kept is None:
            self.rewind.keep(*self._parts())

    def before_update(self) -> None:
        """After backward (unscaled, averaged over ranks), before the optimizer's step: gather scores."""
        if self.count < self.schedule.end:
            self.score.update(self.targets)

    def step(self) -> None:
        """After the optimizer's step: prune if it is time."""
        self.count += 1
        if self.rewind is not None and self.count == self.rewind.step:
            self.rewind.keep(*self._parts())
        if not self.schedule.is_due(self.count):
            return
        amount = None if self.pattern is not None else self.schedule.amount(self.count)
        ranks = ranks_of(self.model)
        prune_targets(self.targets, amount, None, self.scope, self.score, self.pattern, ranks)
        if self.rewind is not None and self.count > self.rewind.step:
            self.rewind.back(*self._parts())

    def _parts(self) -> tuple[Module, Any, Any]:
        if self._model is None:
            return self.trainer.model, self.trainer.optimizer, self.trainer.schedule
        return self._model, self.optimizer, self.lr_schedule

    # --- what a trainer calls ---------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Logs) -> None:
        own = {id(p) for p in self.model.parameters()}
        if any(id(target.parameter) not in own for target in self._targets or ()):
            hint = "Make a pruner for each model"
            raise ValueError(message("Pruner", "the model", "another one than before", "the one that it prunes", hint))
        self._seen = self.trainer.step
        if self.rewind is not None and self.rewind.step == 0 and self.trainer.resumed is None:
            self.begin()

    def on_before_update(self, logs: Logs) -> None:
        self.before_update()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        done, self._seen = self.trainer.step - self._seen, self.trainer.step
        for _ in range(done):  # none where an overflow skipped the step
            self.step()

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The count, the scores, and what `rewind` keeps; the masks are the model's."""
        rewind = None if self.rewind is None else self.rewind.state_dict()
        return {"count": self.count, "score": self.score.state_dict(), "rewind": rewind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if (state["rewind"] is None) != (self.rewind is None):
            hint = "Make the pruner as the one that was saved"
            raise ValueError(message("Pruner.load_state_dict", "rewind", "in one of the two", "both or none", hint))
        self.count = int(state["count"])
        self.score.load_state_dict(state["score"])
        if self.rewind is not None:
            self.rewind.load_state_dict(state["rewind"])
